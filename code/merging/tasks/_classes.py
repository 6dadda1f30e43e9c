"""What classification tasks share: a ``label`` column of named classes, softmax scores."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from merging.data.columns import check_labels
from merging.errors import DataError

if TYPE_CHECKING:
    import datasets
    import numpy as np
    from torch import Tensor

LABEL = "label"


def check(dataset: datasets.Dataset, *, columns: Sequence[str], labelled: bool) -> None:
    """Raise DataError for a missing column, an unnamed label column, or a label outside its range."""
    check_columns(dataset, (*columns, LABEL) if labelled else columns)
    if labelled:
        check_labels(dataset[LABEL][:], len(label_names(dataset)), "data set")


def check_columns(dataset: datasets.Dataset, columns: Sequence[str]) -> None:
    """Raise DataError for a missing column."""
    for column in columns:
        if column not in dataset.column_names:
            raise DataError(
                f"the data set has no column {column!r}; it has {', '.join(dataset.column_names)}. "
                f"Name the columns in a row of data/sources.py."
            )


def label_names(dataset: datasets.Dataset) -> tuple[str, ...]:
    """Names of the classes, from the ClassLabel feature."""
    import datasets

    feature = dataset.features.get(LABEL)
    if not isinstance(feature, datasets.ClassLabel):
        raise DataError(
            f"column {LABEL!r} is {feature!r}, not a ClassLabel with names. "
            "Let `merging.data.download` prepare the data set; it names the classes."
        )
    return tuple(feature.names)


def scores(model: Any, inputs: Mapping[str, Tensor]) -> Tensor:
    """Return logits, (B, C)."""
    logits: Tensor = model(**inputs).logits
    return logits


def predictions(scores: np.ndarray, names: Sequence[str]) -> list[dict[str, Any]]:
    """Return argmax and softmax for each row of (N, C) logits; of equal scores the first class wins."""
    import numpy as np

    shifted = np.exp(scores.astype(np.float64) - scores.max(axis=1, keepdims=True))
    probabilities = shifted / shifted.sum(axis=1, keepdims=True)
    return [
        {
            "prediction": int(best),
            "prediction_name": names[int(best)],
            "probabilities": [round(float(p), 6) for p in row],
        }
        for best, row in zip(scores.argmax(axis=1), probabilities, strict=True)
    ]


def finite(scores: Tensor) -> np.ndarray:
    """Return scores as an array.

    Raises:
        DataError: one of them is no number.
    """
    if not scores.isfinite().all():
        raise DataError(
            "the model gives NaN or infinite scores; its weights are finite but far too large. "
            "Train it again, with a smaller learning rate."
        )
    values: np.ndarray = scores.detach().float().cpu().numpy()
    return values
