"""Task types: one file each, chosen by name.

The folder is the registry. A module in it *is* the task type: it has the constants and functions of
:class:`TaskType`, and nothing outside the module knows which columns it reads, which model class it loads or
what its outputs mean. Training, Hessians and evaluation go through these functions only, so that a task type
is added by adding a file.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol, cast, runtime_checkable

from merging.registry import Registry

if TYPE_CHECKING:  # names and loading are needed while graphs are built, where neither may be imported
    import datasets
    import numpy as np
    import transformers
    from torch import Tensor


class TaskType(Protocol):
    """What a module in this folder offers. Shapes: B examples, C classes, N examples of a data set.

    A processor is whatever turns rows into tensors (a tokenizer, an image processor); only the task type
    looks inside. Label names are the identity of a head: two models share a head exactly when their label
    names are equal.

    What a module may offer beside this: the constant ``LABEL_DISTRIBUTION`` (:func:`label_distribution`), and
    the functions of :class:`WithLoss`, :class:`WithRecords`, :class:`WithTexts` and :class:`OpenLabels`.
    """

    COLUMNS: tuple[str, ...]
    """Input columns that a data set must have."""
    OPTIONAL_COLUMNS: tuple[str, ...]
    """Input columns that are read when present."""
    METRICS: tuple[str, ...]
    """Folders in ``evaluation/metrics`` that judge this task type."""
    MAIN_METRIC: str
    """The one that chooses the best epoch and stands in tables; greater is better."""

    def check(self, dataset: datasets.Dataset, *, labelled: bool = True) -> None:
        """Raise DataError unless all columns are there and, if ``labelled``, every label is in range."""

    def label_names(self, dataset: datasets.Dataset) -> tuple[str, ...]:
        """Names of the classes in index order; empty for a task type without classes."""

    def build_model(
        self,
        *,
        model: str | None,
        architecture: Mapping[str, Any] | None,
        label_names: Sequence[str],
        dropout: float | None,
        seed: int,
    ) -> transformers.PreTrainedModel:
        """Return a model to be trained, its head fitted to ``label_names``.

        Args:
            model: folder or Hub id to start from; a head without names of its own is replaced by a new one.
            architecture: settings for ``AutoConfig.for_model`` with ``model_type``; all weights are new.
                Exactly one of ``model`` and ``architecture`` is given.
            label_names: the data's; a model whose head has other names is a CheckpointError.
            dropout: probability set in every dropout field of the config before the model is built;
                None keeps the model's own.
            seed: of new weights. The caller's generator is untouched.
        """

    def load_model(
        self, folder: str, *, tensors: Mapping[str, Tensor] | None = None
    ) -> transformers.PreTrainedModel:
        """Return a finished model in evaluation mode, complete and finite, else CheckpointError.

        ``tensors`` are weights in place of the folder's, under the names that they have in model files.
        """

    def load_processor(self, *, model: str | None, architecture: Mapping[str, Any] | None = None) -> Any:
        """Return the processor that lies beside ``model``, or the one that fits ``architecture``."""

    def encode(
        self, batch: Mapping[str, list[Any]], processor: Any, *, max_tokens: int | None
    ) -> dict[str, list[Any]]:
        """Turn columns of raw rows into columns of model inputs, unpadded, in order.

        ``merging.data.encoded`` maps this over a data set and keeps the result. ``labels`` is made when the
        batch has labels. An int column ``length`` may say how much work a row is: batches of similar rows are
        cheaper.
        """

    def collate(self, rows: Sequence[Mapping[str, Any]], processor: Any) -> dict[str, Tensor]:
        """Return padded tensors, first dimension B, for rows of :meth:`encode`.

        ``labels`` is int64, (B,) or (B, R) for R positions, with -100 where nothing is predicted; of real
        scores it is float. A task type of several positions makes it for rows without labels, too, with any
        label where something is predicted. Everything else is an argument of the model, or of the functions
        here.
        """

    def scores(self, model: Any, inputs: Mapping[str, Tensor]) -> Tensor:
        """Return logits, (B, C) or (B, R, C), for a collated batch without ``labels``.

        Curvature is of these, so they depend on the model only through calls of it: ``model`` is any
        callable with the model's signature, so that it may be a functional one.
        """

    def predictions(self, scores: np.ndarray, label_names: Sequence[str]) -> list[dict[str, Any]]:
        """Return one record for each example from its scores, (N, C).

        ``prediction`` is what the metrics take; the rest is for people and for ensembles.
        """


@runtime_checkable
class WithLoss(Protocol):
    """A task type that is trained with another loss than the one that its models compute from ``labels``."""

    def loss(self, model: Any, batch: Mapping[str, Tensor]) -> Tensor:
        """Return the mean loss over a collated batch with ``labels``, a scalar; ``model`` is to be called."""


@runtime_checkable
class WithRecords(Protocol):
    """A task type whose predictions are more than one row of scores: several positions, choices, texts."""

    def records(
        self, model: Any, batch: Mapping[str, Tensor], processor: Any, label_names: Sequence[str]
    ) -> list[dict[str, Any]]:
        """Return one record for each example of a collated batch, with or without ``labels``.

        It takes the place of :meth:`TaskType.predictions` in evaluations. ``prediction`` is what metrics
        compare with ``reference``, which is there if the batch has labels; the rest is for people.

        Raises:
            DataError: scores that are not finite.
        """


@runtime_checkable
class WithTexts(Protocol):
    """A task type whose models write texts, and which also makes records of how likely the right ones are."""

    def generate(
        self, model: Any, rows: Sequence[Mapping[str, Any]], processor: Any, *, max_new_tokens: int
    ) -> list[str]:
        """Return the text that a model writes for each row of :meth:`TaskType.encode`.

        It becomes the ``prediction`` of records, wherever a metric reads it. A column ``reference`` of
        encoded rows is the text that it is compared with.
        """


@runtime_checkable
class OpenLabels(Protocol):
    """A task type whose models take any classes: heads are made from the names, not trained."""

    def set_label_names(self, model: Any, label_names: Sequence[str]) -> None:
        """Give a loaded model a head for these classes, in place of the one that it has."""


_REGISTRY = Registry(__name__, __path__, "task type")


def names() -> tuple[str, ...]:
    """Names of all task types, sorted."""
    return _REGISTRY.names()


def load(name: str) -> TaskType:
    """Import a task type.

    Raises:
        UnknownNameError: there is no such file in the folder.
    """
    return cast(TaskType, _REGISTRY.load(name))


def label_distribution(task: TaskType) -> str:
    """Return what the scores of a task type are: "categorical" (logits), unless it says otherwise.

    "gaussian": each score is the mean of a label with unit variance.
    """
    return str(getattr(task, "LABEL_DISTRIBUTION", "categorical"))
