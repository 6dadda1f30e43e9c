"""What a merge does with tensors that are not plainly merged; checked while the graph is built."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from merging.errors import OptionError


@dataclass(frozen=True, kw_only=True)
class Policy:
    """Choices that hold for every method. Patterns are shell-style: ``classifier.*`` matches a whole name."""

    exclude: tuple[str, ...] = ()
    """Patterns of tensors that are kept as they are in the base, bit for bit."""
    on_missing: Literal["error", "base"] = "error"
    """A tensor that not all checkpoints have: an error, or kept as in the base (left out if the base lacks
    it)."""
    rows: Literal["error", "base"] = "error"
    """A matrix with another number of rows than the base's (another vocabulary size): an error, or made to
    fit: surplus rows are cut, missing rows count as unchanged from the base. Rows are matched by number."""
    vocabulary: Literal["error", "base", "union", "intersect"] = "error"
    """Tokenizers that differ: an error; or the rows of embeddings and output heads are matched by token, for
    the tokens of the base (or first model), those of all models, or those that all models share. The
    tokenizer that fits is saved. A token that a model lacks counts as unchanged from the base."""
    buffers: Literal["average", "base"] = "average"
    """Running means and variances: the plain average of the models, or kept as in the base."""
    head: Literal["error", "merge", "keep", "per_task"] = "error"
    """Heads of classifiers. error: merged like any other weight if all models name the same labels in the
    same order, else an error; merge: merged whatever the names, if the shapes agree; keep: as in the base;
    per_task: as in the base, and the head of every model is kept beside the merged body (``heads/<task>``)
    and used when that task is evaluated."""
    heads: tuple[str, ...] = ()
    """Patterns of classifier weights and biases whose rows are merged by label; needs ``label_rows``."""
    label_rows: Mapping[str, tuple[int, ...]] | None = None
    """By task, the labels (rows of ``heads``) that its training data hold. Each row becomes the mean over the
    models that know its label, whatever the method; a row that nobody knows becomes 0."""

    def __post_init__(self) -> None:
        if self.rows == "base" and self.vocabulary != "error":
            raise OptionError(
                f"policy: rows='base' matches rows by number, vocabulary={self.vocabulary!r} by token. Give "
                "one of them."
            )
        if bool(self.heads) != (self.label_rows is not None):
            raise OptionError(
                f"policy: heads and label_rows belong together, got heads={list(self.heads)} and "
                f"label_rows={self.label_rows}. Give both or neither."
            )
