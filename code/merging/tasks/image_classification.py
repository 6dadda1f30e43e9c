"""One label for an image, read off a ``...ForImageClassification`` model (ViT and its relatives).

Rows are encoded to uint8 pixels of the final size, a quarter of the room of float32; they are scaled and
normalized when a batch is collated. The image processor always runs on PIL: its torchvision twin resizes
differently in the last bits, and results must not depend on whether torchvision happens to be installed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from merging import models
from merging.errors import DataError, OptionError
from merging.tasks import _classes
from merging.tasks._classes import label_names, predictions, scores

if TYPE_CHECKING:
    import datasets
    from torch import Tensor

__all__ = [
    "build_model",
    "check",
    "collate",
    "encode",
    "label_names",
    "load_model",
    "load_processor",
    "predictions",
    "scores",
]

COLUMNS: tuple[str, ...] = ("image",)
OPTIONAL_COLUMNS: tuple[str, ...] = ()
METRICS: tuple[str, ...] = ("accuracy", "f1")
MAIN_METRIC: str = "accuracy"
_AUTO_CLASS = "AutoModelForImageClassification"

build_model = partial(models.build_classifier, _AUTO_CLASS)
load_model = partial(models.load, _AUTO_CLASS)


def check(dataset: datasets.Dataset, *, labelled: bool = True) -> None:
    """Raise DataError unless the column holds images and, if ``labelled``, every label is in range."""
    import datasets

    _classes.check(dataset, columns=COLUMNS, labelled=labelled)
    feature = dataset.features["image"]
    if not isinstance(feature, datasets.Image):
        raise DataError(
            f"column 'image' is {feature!r}, not datasets.Image(). "
            "Let `merging.data.download` prepare the data set; it also reads raw uint8 arrays."
        )


def load_processor(*, model: str | None, architecture: Mapping[str, Any] | None = None) -> Any:
    """Return the image processor of ``model``, or one that makes images of the architecture's size.

    Raises:
        OptionError: the architecture has no size: it takes any.
    """
    if model is not None:
        return models.load_processor("AutoImageProcessor", model, backend="pil")
    from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil

    config = models.config_for(architecture or {})
    for key in ("image_size", "num_channels"):
        if not hasattr(config, key):
            raise OptionError(
                f"architecture: {config.model_type!r} has no {key}, so images cannot be made to fit. "
                "Give model=<folder or Hub id> with an image processor instead."
            )
    channels = config.num_channels
    return ViTImageProcessorPil(
        size={"height": config.image_size, "width": config.image_size},
        image_mean=[0.5] * channels,
        image_std=[0.5] * channels,
    )


def encode(batch: Mapping[str, list[Any]], processor: Any, *, max_tokens: int | None) -> dict[str, list[Any]]:
    """Resize and crop to ``pixels`` (uint8 bytes, channel first) and ``shape``; ``max_tokens`` is unused."""
    import numpy as np

    mode = "L" if len(processor.image_mean) == 1 else "RGB"
    images = processor(
        [image.convert(mode) for image in batch["image"]], do_rescale=False, do_normalize=False
    )["pixel_values"]
    columns: dict[str, list[Any]] = {
        "pixels": [image.astype(np.uint8).tobytes() for image in images],
        "shape": [list(image.shape) for image in images],
    }
    if _classes.LABEL in batch:
        columns["labels"] = batch[_classes.LABEL]
    return columns


def collate(rows: Sequence[Mapping[str, Any]], processor: Any) -> dict[str, Tensor]:
    """Stack to ``pixel_values``, float32 (B, channels, height, width), and ``labels``, (B,)."""
    import numpy as np
    import torch

    arrays = [np.frombuffer(row["pixels"], dtype=np.uint8).reshape(row["shape"]) for row in rows]
    pixels = torch.from_numpy(np.stack(arrays)).float()
    if processor.do_rescale:
        pixels *= processor.rescale_factor
    if processor.do_normalize:
        pixels -= torch.tensor(processor.image_mean).view(-1, 1, 1)
        pixels /= torch.tensor(processor.image_std).view(-1, 1, 1)
    batch = {"pixel_values": pixels}
    if "labels" in rows[0]:
        batch["labels"] = torch.tensor([row["labels"] for row in rows])
    return batch
