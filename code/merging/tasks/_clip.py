"""CLIP as a classifier: the features of an image against a frozen head of the features of class names.

The names are written into templates ("a photo of a cat."), the text tower turns each sentence into a vector
of length 1, and the head of a class is the mean over templates, again of length 1 (Radford et al., ICML 2021,
arXiv:2103.00020). Only the image tower and its projection are trained, merged and have curvature, as when
image classifiers are merged (Ilharco et al., ICLR 2023, arXiv:2212.04089); everything else stays the
pretrained model's, so that heads for any classes can be made again.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from torch import Tensor
from torch.nn import functional
from transformers.modeling_outputs import ImageClassifierOutput

from merging.errors import CheckpointError
from merging.files.cache import cache_folder

TEMPLATES = ("a photo of a {}.",)
"""Unless ``config.json`` has others in ``zero_shot_templates``."""

_TRAINED = ("vision_model.", "visual_projection.")
_BATCH_SENTENCES = 256
_VERSION = 1


class CLIPModel(transformers.CLIPModel):  # type: ignore[misc]
    """CLIP whose ``forward`` classifies images; named as its parent, for config.json names the class.

    Attributes:
        head: (C, d) features of the classes, each of length 1; None before ``name_classes``.
        folder: where it was loaded from, with the tokenizer that its text tower needs.
    """

    folder: str

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        self.register_buffer("head", None, persistent=False)

    def freeze(self) -> None:
        """Leave gradients to the image tower and its projection; loading makes parameters anew."""
        for name, parameter in self.named_parameters():
            parameter.requires_grad_(name.startswith(_TRAINED))

    def forward(self, pixel_values: Tensor, labels: Tensor | None = None) -> ImageClassifierOutput:
        """Return logits (B, C): exp(logit_scale) times the cosine of image and class.

        Args:
            pixel_values: (B, channels, height, width).
            labels: (B,), for the loss, which is the mean cross-entropy.

        Raises:
            CheckpointError: the model has no classes yet.
        """
        if self.head is None:
            raise CheckpointError(
                "this CLIP names no classes. Evaluate it on data with named labels, or train it on them."
            )
        features = self.get_image_features(pixel_values=pixel_values).pooler_output
        logits = self.logit_scale.exp() * functional.normalize(features, dim=-1) @ self.head.T
        loss = None if labels is None else functional.cross_entropy(logits, labels)
        return ImageClassifierOutput(loss=loss, logits=logits)

    def name_classes(self, names: Sequence[str], tokenizer: Any) -> None:
        """Make the head of these classes, from the text tower or from the cache, and write them down."""
        templates = tuple(getattr(self.config, "zero_shot_templates", None) or TEMPLATES)
        if any("{}" not in template for template in templates):
            raise CheckpointError(
                f"config.json: zero_shot_templates are {list(templates)}; each must hold {{}} for the name."
            )
        self.config.id2label = dict(enumerate(names))
        self.config.label2id = {name: index for index, name in enumerate(names)}
        sentences = [[template.replace("{}", name) for template in templates] for name in names]
        self.head = self._cached_head(sentences, tokenizer).to(self.visual_projection.weight)

    def _cached_head(self, sentences: Sequence[Sequence[str]], tokenizer: Any) -> Tensor:
        root = cache_folder()
        if root is None:
            return self._new_head(sentences, tokenizer)
        entry = root / "text_heads" / f"{self._fingerprint(sentences, tokenizer)}.npy"
        if entry.exists():
            return torch.from_numpy(np.load(entry))
        head = self._new_head(sentences, tokenizer)
        _store(head.numpy(), entry)
        return head

    @torch.no_grad()
    def _new_head(self, sentences: Sequence[Sequence[str]], tokenizer: Any) -> Tensor:
        """Return (C, d) float32, for the sentences of each class."""
        flat = [sentence for its in sentences for sentence in its]
        was_training = self.training
        self.eval()  # no dropout
        pieces = []
        for start in range(0, len(flat), _BATCH_SENTENCES):
            tokens = tokenizer(
                flat[start : start + _BATCH_SENTENCES],
                padding=True,
                truncation=True,
                max_length=self.config.text_config.max_position_embeddings,
                return_tensors="pt",
            ).to(self.device)
            features = self.get_text_features(
                input_ids=tokens["input_ids"], attention_mask=tokens["attention_mask"]
            ).pooler_output
            pieces.append(functional.normalize(features.float(), dim=-1).cpu())
        self.train(was_training)
        means = torch.cat(pieces).view(len(sentences), -1, pieces[0].shape[-1]).mean(1)
        return functional.normalize(means, dim=-1)

    def _fingerprint(self, sentences: Sequence[Sequence[str]], tokenizer: Any) -> str:
        """SHA-256 over the sentences, their tokens, and the weights that read them."""
        digest = hashlib.sha256(json.dumps([_VERSION, sentences]).encode())
        flat = [sentence for its in sentences for sentence in its]
        digest.update(json.dumps(tokenizer(flat)["input_ids"]).encode())
        for name, tensor in sorted(self.state_dict().items()):
            if name.startswith(("text_model.", "text_projection.")):
                digest.update(name.encode())
                digest.update(tensor.detach().float().contiguous().cpu().numpy().tobytes())
        return digest.hexdigest()[:32]


def _store(head: np.ndarray, entry: Path) -> None:
    """Save beside ``entry`` and rename; a cache that cannot be written is none."""
    temporary = entry.with_name(f".{os.getpid()}.{entry.name}")
    try:
        entry.parent.mkdir(exist_ok=True)
        np.save(temporary, head)
        temporary.replace(entry)
    except OSError:
        temporary.unlink(missing_ok=True)
