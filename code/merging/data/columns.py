"""The form that every data set is brought into, and the hash of its content.

Columns are called ``text``, ``text_pair``, ``image`` and ``label``, and as in ``OTHERS``, whatever the source
calls them. Labels are a ``ClassLabel`` with names, or lists of them (one for each word), checked to be in
range, or finite numbers; images are ``datasets.Image``. The content hash is taken over the rows themselves,
so it does not depend on where the data lay, in which format, or how they were compressed.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from merging.data.sources import Source
from merging.errors import DataError
from merging.registry import unknown

if TYPE_CHECKING:
    import datasets

OTHERS: Mapping[str, bool] = {
    "words": True,  # of a sentence, each of which has a label
    "choices": True,  # answers to a text, of which the label is the number of the right one
    "target": False,  # what a text is to be turned into
    "prompt": False,  # what a completion goes on from
    "completion": False,
}
"""Input columns beside texts and images; true for those that are lists of strings, the others are strings."""

_BATCH_ROWS = 1000
_STRINGS = ("string", "large_string")


def normalize(
    raw: Mapping[str, datasets.Dataset], row: Source, source: str, *, cache: Path
) -> tuple[dict[str, datasets.Dataset], list[str] | None]:
    """Return the splits in our form, and the label names (None without labels).

    Args:
        raw: the source's splits under our names.
        row: what its columns and labels are called.
        source: its name, for error messages.
        cache: a folder for intermediate files, to be kept as long as the result.

    Raises:
        DataError: no known column, a value that is not a string, or a label outside its range.
    """
    names = _label_names(raw, row, source)
    splits = {}
    for split, rows in sorted(raw.items()):
        place = f"{source}, split {split!r}"
        splits[split] = _inputs(rows, row, place, cache / f"{split}.arrow")
        if row.label in rows.column_names:
            splits[split] = _add_labels(splits[split], rows, row, names, place)
    return splits, names


def check_labels(labels: Sequence[int | None], num_labels: int, place: str) -> None:
    """Raise DataError unless all labels are in 0..num_labels-1."""
    import numpy as np

    values = np.array([-1 if label is None else label for label in labels], dtype=np.int64)
    wrong = np.flatnonzero((values < 0) | (values >= num_labels))
    if len(wrong):
        row = int(wrong[0])
        raise DataError(
            f"{place}: label {labels[row]!r} of row {row} is outside 0..{num_labels - 1} "
            f"({len(wrong)} such rows). Unlabelled rows (often -1 in test splits of shared tasks) can be "
            "predicted, not trained or evaluated on: leave that split out, or mend the labels."
        )


def class_names(feature: Any) -> list[str] | None:
    """Return the names of a column of class labels, or of lists of them; None for any other column."""
    names = getattr(getattr(feature, "feature", feature), "names", None)
    return None if names is None else list(names)


def content_hash(splits: Mapping[str, datasets.Dataset]) -> str:
    """SHA-256 over names of splits, columns and labels and all values in order; images by their pixels."""
    import datasets
    import numpy as np

    digest = hashlib.sha256()
    for name, split in sorted(splits.items()):
        for column in sorted(split.column_names):
            feature = split.features[column]
            digest.update(json.dumps([name, column, len(split), class_names(feature)]).encode())
            for batch in split.select_columns([column]).iter(batch_size=_BATCH_ROWS):
                if isinstance(feature, datasets.Image):
                    for image in batch[column]:
                        digest.update(json.dumps([image.mode, *image.size]).encode())
                        digest.update(np.asarray(image).tobytes())
                else:
                    digest.update(json.dumps(batch[column]).encode())
    return digest.hexdigest()


@contextmanager
def without_bars() -> Iterator[None]:
    """Silence the progress bars of datasets: steps that take a second, one bar for each."""
    import datasets

    enabled = datasets.is_progress_bar_enabled()
    datasets.disable_progress_bars()
    try:
        yield
    finally:
        if enabled:
            datasets.enable_progress_bars()


def _inputs(rows: datasets.Dataset, row: Source, place: str, cache_file: Path) -> datasets.Dataset:
    """Return text and image columns under our names."""
    import datasets

    if len(row.text) > 1 and set(row.text) <= set(rows.column_names):
        rows = rows.map(
            lambda *parts: {"text": " ".join(parts)},
            input_columns=list(row.text),
            cache_file_name=str(cache_file),
        )
    others = row.inputs or {name: name for name in OTHERS}
    ours = {
        row.text[0] if len(row.text) == 1 else "text": "text",
        row.text_pair: "text_pair",
        row.image: "image",
        **{theirs: name for name, theirs in others.items()},
    }
    ours = {theirs: name for theirs, name in ours.items() if theirs in rows.column_names}
    wanted = (*row.text, row.image, *row.inputs.values())
    if not ours or not set(row.inputs) <= set(ours.values()):
        raise DataError(
            f"{place}: no column {' or '.join(map(repr, wanted))}; it has "
            f"{', '.join(rows.column_names)}. Name its columns in a row of data/sources.py."
        )
    rows = rows.select_columns(list(ours)).rename_columns({k: v for k, v in ours.items() if k != v})
    for name in rows.column_names:
        if OTHERS.get(name, False):
            _check_lists(rows, name, place)
            rows = rows.cast_column(name, datasets.List(datasets.Value("string")))
        elif name != "image":
            _check_strings(rows, name, place)
            rows = rows.cast_column(name, datasets.Value("string"))
    return rows


def _check_lists(rows: datasets.Dataset, column: str, place: str) -> None:
    feature = rows.features[column]
    if getattr(getattr(feature, "feature", None), "dtype", None) not in _STRINGS:
        raise DataError(f"{place}: column {column!r} holds {feature}, not lists of strings.")
    for index, values in enumerate(rows[column]):
        if values is None or any(value is None for value in values):
            raise DataError(f"{place}: {column} of row {index} is missing, or one of it. Remove the row.")


def _check_strings(rows: datasets.Dataset, column: str, place: str) -> None:
    dtype = rows.features[column].dtype
    if dtype not in _STRINGS:
        raise DataError(f"{place}: column {column!r} holds {dtype}, not strings.")
    if rows.data.column(column).null_count:
        missing = next(index for index, value in enumerate(rows[column]) if value is None)
        raise DataError(
            f"{place}: {column} of row {missing} is missing. Remove the row, or write an empty string."
        )


def _label_names(raw: Mapping[str, datasets.Dataset], row: Source, source: str) -> list[str] | None:
    """Return the names of all classes: the row's, else the source's, else the values themselves.

    None without labels, and for labels that are numbers.
    """
    import datasets

    labelled = [rows for rows in raw.values() if row.label in rows.column_names]
    if not labelled:
        return None
    if len(labelled) < len(raw):
        raise DataError(f"{source}: some splits have a column {row.label!r} and some do not.")
    if row.label_names is not None:
        return list(row.label_names)
    feature = labelled[0].features[row.label]
    if isinstance(feature, datasets.Value) and feature.dtype.startswith("float"):
        return None
    names = class_names(feature)
    if names is not None:
        return names
    if hasattr(feature, "feature"):
        values = {value for rows in labelled for labels in rows[row.label] for value in labels or ()}
    else:
        values = {value for rows in labelled for value in rows.unique(row.label)}
    if all(type(value) is int for value in values):
        return [str(label) for label in range(max(values) + 1)]
    if all(isinstance(value, str) for value in values):
        return sorted(values)
    raise DataError(
        f"{source}: labels must be integers or strings, got {sorted(map(repr, values))[:5]}. "
        "Write classes as 0, 1, ... or by name."
    )


def _add_labels(
    inputs: datasets.Dataset, rows: datasets.Dataset, row: Source, names: list[str] | None, place: str
) -> datasets.Dataset:
    """Return ``inputs`` with a column ``label`` of class indices, of lists of them, or of numbers."""
    import datasets

    values: list[Any] = rows[row.label][:]
    if names is None:
        _check_numbers(values, place)
        return inputs.add_column("label", values, feature=datasets.Value("float64"))
    feature = datasets.ClassLabel(names=names)
    if any(isinstance(value, list) for value in values):
        lengths = [len(value or ()) for value in values]
        flat = _indices([label for value in values for label in value or ()], names, rows, row, place)
        nested, start = [], 0
        for length in lengths:
            nested.append(flat[start : start + length])
            start += length
        return inputs.add_column("label", nested, feature=datasets.List(feature))
    return inputs.add_column("label", _indices(values, names, rows, row, place), feature=feature)


def _indices(
    values: list[Any], names: list[str], rows: datasets.Dataset, row: Source, place: str
) -> list[Any]:
    """Return class indices for indices or names, checked."""
    if any(isinstance(value, str) for value in values):
        index = {name: position for position, name in enumerate(names)}
        for value in values:
            if value not in index:
                raise DataError(f"{place}: {unknown('label', str(value), names)}")
        values = [index[value] for value in values]
    if any(type(value) is not int for value in values if value is not None):
        raise DataError(f"{place}: labels must be integers or strings, not {rows.features[row.label]!r}.")
    check_labels(values, len(names), place)
    return values


def _check_numbers(values: Sequence[float | None], place: str) -> None:
    for index, value in enumerate(values):
        if value is None or not math.isfinite(value):
            raise DataError(f"{place}: label {value!r} of row {index} is no finite number. Remove the row.")
