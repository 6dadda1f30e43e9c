"""One label for an image, by CLIP: whichever class name, in a sentence, is nearest to the image.

The image tower is trained and merged, the head is made from the names of the data's labels (``_clip.py``): a
merged model is evaluated on each task with the task's own classes, and also on tasks that nobody trained.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from merging import models
from merging.errors import CheckpointError, OptionError
from merging.tasks import image_classification
from merging.tasks._classes import label_names, predictions, scores
from merging.tasks._texts import load_tokenizer
from merging.tasks.image_classification import COLUMNS, MAIN_METRIC, METRICS, OPTIONAL_COLUMNS, check

if TYPE_CHECKING:
    import os

    import transformers
    from torch import Tensor

__all__ = [
    "COLUMNS",
    "MAIN_METRIC",
    "METRICS",
    "OPTIONAL_COLUMNS",
    "build_model",
    "check",
    "collate",
    "encode",
    "label_names",
    "load_model",
    "load_processor",
    "predictions",
    "scores",
    "set_label_names",
]


@dataclass(frozen=True)
class ClipProcessor:
    """What turns images into pixels, and what turns names of classes into tokens."""

    image_processor: Any
    tokenizer: Any

    def save_pretrained(self, folder: str | os.PathLike[str]) -> None:
        """Write the files of both."""
        self.image_processor.save_pretrained(folder)
        self.tokenizer.save_pretrained(folder)


def build_model(
    *,
    model: str | None,
    architecture: Mapping[str, Any] | None,
    label_names: Sequence[str],
    dropout: float | None,
    seed: int,
) -> transformers.PreTrainedModel:
    """Return CLIP with a head for ``label_names``; whatever classes it had before, it takes these.

    Raises:
        OptionError: an architecture, whose text tower would know no words, or a dropout.
    """
    if model is None:
        raise OptionError(
            "clip_zero_shot: an architecture alone knows no words. Give model=<folder or Hub id of CLIP>."
        )
    if dropout is not None:
        raise OptionError(f"dropout: CLIP has none to set, leave it None; got {dropout}.")
    network = load_model(model)
    set_label_names(network, label_names)
    return network.train()


def load_model(folder: str, *, tensors: Mapping[str, Tensor] | None = None) -> transformers.PreTrainedModel:
    """Return a model in evaluation mode, with the head of the classes that its config.json names, if any.

    Weights without a tokenizer beside them get no head; they are on their way to a place where one lies.

    Raises:
        CheckpointError: it is no CLIP; see also :func:`merging.models.load`.
    """
    from merging.tasks._clip import CLIPModel

    kind = models.read_config(models.locate(folder)).model_type
    if kind != "clip":
        raise CheckpointError(
            f"{folder} is a model of type {kind!r}; clip_zero_shot is for 'clip', an image and a text tower. "
            "A classifier with a head of its own is for image_classification."
        )
    network = models.load(CLIPModel, folder, tensors=tensors)
    network.freeze()
    network.folder = folder
    names = models.label_names(network)
    is_named = any(name != f"LABEL_{index}" for index, name in enumerate(names))
    if is_named and models.has_processor("AutoTokenizer", folder):
        set_label_names(network, names)
    return network


def set_label_names(model: Any, label_names: Sequence[str]) -> None:
    """Give a model the head of other classes."""
    model.name_classes(label_names, load_tokenizer(model.folder, owner="clip_zero_shot"))


def load_processor(*, model: str | None, architecture: Mapping[str, Any] | None = None) -> ClipProcessor:
    """Return image processor and tokenizer of ``model``.

    Raises:
        OptionError: there is only an architecture; a tokenizer cannot be made from it.
    """
    tokenizer = load_tokenizer(model, owner="clip_zero_shot")
    return ClipProcessor(image_classification.load_processor(model=model), tokenizer)


def encode(
    batch: Mapping[str, list[Any]], processor: ClipProcessor, *, max_tokens: int | None
) -> dict[str, list[Any]]:
    """Resize and crop as ``image_classification`` does; ``max_tokens`` is unused."""
    return image_classification.encode(batch, processor.image_processor, max_tokens=max_tokens)


def collate(rows: Sequence[Mapping[str, Any]], processor: ClipProcessor) -> dict[str, Tensor]:
    """Stack to ``pixel_values``, float32 (B, channels, height, width), and ``labels``, (B,)."""
    return image_classification.collate(rows, processor.image_processor)
