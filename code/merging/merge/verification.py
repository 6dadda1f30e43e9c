"""Honest checks of a merged model: are its weights sane, does its tokenizer fit, does it run.

    merging verify MODEL [--base BASE]

Weights are read piece by piece, whatever the size of the model; for the forward pass it is loaded once.
"""

from __future__ import annotations

import inspect
import json
import math
import os
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from merging.errors import CheckpointError
from merging.files.checkpoints import FLOAT_DTYPES
from merging.merge.compatibility import read_config
from merging.schedules import layer_of
from merging.sources import Source
from merging.sources.opening import open_model

if TYPE_CHECKING:
    from torch import Tensor

PathLike = str | os.PathLike[str]

PIECE = 2**20
"""Elements read at a time."""

SENTENCES = (
    "The quick brown fox jumps over the lazy dog.",
    "It cost 12.50 (or 3 for 30); who'd have thought?",
    "naïve façade, 東京, Ελλάδα",
)
"""What the tokenizer is tried on."""

MAX_NORM_RATIO = 10.0
"""A layer whose norm is that many times the base's, or a fraction of it as small, is a problem."""


@dataclass
class Layer:
    """Sums over the tensors of one layer."""

    num_elements: int = 0
    num_moved: int = 0
    """Elements that differ from the base's."""
    square: float = 0.0
    """Sum of squares of the weights."""
    base_square: float = 0.0
    """The same of the base."""
    moved_square: float = 0.0
    """Sum of squares of the differences."""

    def add(self, other: Layer) -> None:
        """Add another part of the layer."""
        for key, value in asdict(other).items():
            setattr(self, key, getattr(self, key) + value)


@dataclass
class Verification:
    """What was found; ``problems`` is empty for a model that can be used."""

    model: str
    base: str | None
    num_parameters: int = 0
    moved_share: float | None = None
    """Share of the parameters that differ from the base's, 0..1."""
    layers: dict[str, dict[str, float]] = field(default_factory=dict)
    """By layer: ``norm``, ``norm_ratio`` (to the base's), ``moved_ratio`` (norm of the difference to the
    base, by the base's norm) and ``moved_share``."""
    tokenizer: str = ""
    """What the round trip of the tokenizer gave."""
    forward: str = ""
    """What one forward pass gave."""
    problems: list[str] = field(default_factory=list)

    def text(self) -> str:
        """For people: a line for each layer and each check."""
        lines = [f"{self.num_parameters:,} parameters"]
        if self.base is not None:
            lines[0] += f", {self.moved_share:.1%} of them differ from {self.base}"
            width = max(map(len, self.layers), default=5)
            lines.append(f"{'layer':<{width}}  norm/base  moved/base  moved share")
            for name, its in self.layers.items():
                lines.append(
                    f"{name:<{width}}  {its['norm_ratio']:9.3f}  {its['moved_ratio']:10.4f}  "
                    f"{its['moved_share']:11.1%}"
                )
        lines += [f"tokenizer: {self.tokenizer}", f"forward pass: {self.forward}"]
        return "\n".join([*lines, *(f"PROBLEM: {text}" for text in self.problems)])


def verify(
    model: PathLike, *, base: PathLike | None = None, out: PathLike | None = None, load: bool = True
) -> Verification:
    """Check a model folder.

    Args:
        model: the folder.
        base: compare with this model; None: the base that the folder's ``merge.json`` names, if it is there.
        out: JSON file to write.
        load: also load tokenizer and model, for the round trip and the forward pass.

    Returns:
        What was found; nothing is raised for a model that is bad.

    Raises:
        CheckpointError: the folder is no model folder, or damaged.
    """
    folder = Path(model)
    config = read_config(folder, label="model")
    checkpoint = open_model(folder, label="model")
    base = base if base is not None else _recorded_base(folder)
    found = Verification(str(folder), None if base is None else str(base))
    _check_weights(found, checkpoint, None if base is None else open_model(base, label="base"))
    if load:
        tokens = _check_tokenizer(found, folder, config)
        if not found.problems:
            _check_forward(found, folder, tokens)
    else:
        found.tokenizer = found.forward = "not tried"
    if out is not None:
        text = json.dumps(asdict(found), indent=2) + "\n"
        temporary = Path(f"{os.fspath(out)}.{os.getpid()}")
        temporary.write_text(text, encoding="utf-8")
        temporary.replace(out)
    return found


def _recorded_base(folder: Path) -> Path | None:
    """The base that a merge has written down, if it still lies there."""
    try:
        record = json.loads((folder / "merge.json").read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    base = record.get("sources", {}).get("base", {}).get("folder")
    return Path(base) if base and Path(base).is_dir() else None


def _check_weights(found: Verification, model: Source, base: Source | None) -> None:
    """Finite values, norms by layer, and what has moved."""
    names = [name for name, info in sorted(model.tensors.items()) if info.dtype in FLOAT_DTYPES]
    layers: dict[str, Layer] = {}

    def look(name: str) -> tuple[Layer, bool]:
        layer, finite = Layer(), True
        for mine, its in _pieces(model, base, name):
            square = float(mine.square().sum())
            finite = finite and (math.isfinite(square) or bool(mine.isfinite().all()))
            layer.square += square
            layer.num_elements += mine.numel()
            if its is not None:
                moved = mine - its
                layer.num_moved += int(moved.count_nonzero())
                layer.moved_square += float(moved.square().sum())
                layer.base_square += float(its.square().sum())
        return layer, finite

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for name, (layer, finite) in zip(names, pool.map(look, names), strict=True):
            layers.setdefault(_layer_name(name), Layer()).add(layer)
            if not finite:
                found.problems.append(f"{name} has NaN or infinite values")
    found.num_parameters = sum(its.num_elements for its in layers.values())
    if base is not None:
        num_moved = sum(its.num_moved for its in layers.values())
        found.moved_share = num_moved / max(found.num_parameters, 1)
    for name, its in sorted(layers.items(), key=lambda item: _in_order(item[0])):
        numbers = {"norm": its.square**0.5}
        if base is not None:
            reference = its.base_square**0.5
            numbers["norm_ratio"] = numbers["norm"] / reference if reference else 1.0
            numbers["moved_ratio"] = its.moved_square**0.5 / reference if reference else 0.0
            numbers["moved_share"] = its.num_moved / max(its.num_elements, 1)
            if its.base_square and not 1 / MAX_NORM_RATIO < numbers["norm_ratio"] < MAX_NORM_RATIO:
                found.problems.append(
                    f"{name} has {numbers['norm_ratio']:.3g} times the norm that it has in the base"
                )
        found.layers[name] = numbers


def _pieces(model: Source, base: Source | None, name: str) -> Iterator[tuple[Tensor, Tensor | None]]:
    """A tensor, and the base's if it has one of that shape, piece by piece in float64."""
    size = model.tensors[name].num_elements
    comparable = (
        base is not None and name in base.tensors and base.tensors[name].shape == model.tensors[name].shape
    )
    for start in range(0, size, PIECE):
        stop = min(start + PIECE, size)
        mine = model.read_piece(name, start, stop).double()
        yield mine, base.read_piece(name, start, stop).double() if comparable and base is not None else None


def _layer_name(name: str) -> str:
    """Stack and number of the layer, or the first parts of a name outside of the layers."""
    layer = layer_of(name)
    if layer is not None:
        stack, number = layer
        return f"{stack}.{number}" if stack else str(number)
    return name.rsplit(".", 1)[0]


def _in_order(name: str) -> list[tuple[int, str]]:
    """Sorts layer 2 before layer 10."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in name.split(".")]


def _check_tokenizer(found: Verification, folder: Path, config: Mapping[str, Any]) -> Any:
    """Encode, decode and encode again; every number must have a row in the embedding.

    Returns:
        The tokens of a sentence as model inputs, or None without a tokenizer.
    """
    from merging.models import quiet

    files = ("tokenizer.json", "vocab.txt", "vocab.json", "tokenizer.model", "spiece.model")
    if not any((folder / name).is_file() for name in files):
        found.tokenizer = "there is none"
        return None
    from transformers import AutoTokenizer

    with quiet():
        tokenizer = AutoTokenizer.from_pretrained(folder)
    num_rows = config.get("vocab_size", config.get("text_config", {}).get("vocab_size"))
    encoded = tokenizer(list(SENTENCES))["input_ids"]
    known = [ids for ids in encoded if tokenizer.unk_token_id is None or tokenizer.unk_token_id not in ids]
    texts = [tokenizer.decode(ids, skip_special_tokens=True) for ids in known]
    for ids, text in zip(known, texts, strict=True):
        if tokenizer(text)["input_ids"] != ids:
            found.problems.append(f"the tokenizer's round trip differs from {text!r} on")
    largest = max((token for ids in encoded for token in ids), default=0)
    if num_rows is not None and max(largest, len(tokenizer) - 1) >= num_rows:
        found.problems.append(
            f"the tokenizer has {len(tokenizer)} tokens, the embedding only {num_rows} rows"
        )
    found.tokenizer = f"{len(tokenizer)} tokens, {len(known)} sentences there and back"
    return tokenizer(SENTENCES[0], return_tensors="pt")


def _check_forward(found: Verification, folder: Path, tokens: Any) -> None:
    """Load the architecture that the config names, and run it once."""
    import torch
    import transformers

    from merging.models import quiet

    config = transformers.AutoConfig.from_pretrained(folder)
    names = [name for name in config.architectures or [] if hasattr(transformers, name)]
    architecture = getattr(transformers, names[0]) if names else transformers.AutoModel
    try:
        with quiet():
            model, info = architecture.from_pretrained(folder, output_loading_info=True)
    except (OSError, RuntimeError, ValueError) as error:  # sizes or names that don't fit the config
        found.problems.append(f"{architecture.__name__} cannot be loaded: {error}")
        return
    if info["missing_keys"]:
        missing = sorted(info["missing_keys"])
        found.problems.append(
            f"{len(missing)} parameters of {type(model).__name__} are missing: {missing[0]}"
        )
        return
    inputs = _inputs(model, tokens)
    if inputs is None:
        found.forward = f"loaded; not run, its input is {model.main_input_name}"
        return
    try:
        with torch.inference_mode():
            outputs = model.eval()(**inputs)
    except (RuntimeError, ValueError, IndexError) as error:  # some want inputs that fit each other
        found.forward = f"loaded; does not run on made-up inputs: {error}"
        return
    tensors = [its for its in outputs.to_tuple() if isinstance(its, torch.Tensor)]
    if not all(bool(its.isfinite().all()) for its in tensors):
        found.problems.append("a forward pass gives NaN or infinite values")
    shapes = ", ".join(str(tuple(its.shape)) for its in tensors)
    found.forward = f"{type(model).__name__} gives {shapes}"


def _inputs(model: Any, tokens: Any) -> dict[str, Any] | None:
    """Inputs of one example: a sentence, or a grey image."""
    import torch

    names = inspect.signature(model.forward).parameters
    inputs: dict[str, Any] = {}
    if "pixel_values" in names:
        parts = (getattr(model.config, key, None) for key in ("vision_config", "encoder"))
        vision = next((part for part in parts if hasattr(part, "image_size")), model.config)
        size = getattr(vision, "image_size", 224)
        height, width = size if isinstance(size, list | tuple) else (size, size)
        shape = (1, getattr(vision, "num_channels", 3), height, width)
        inputs["pixel_values"] = torch.zeros(shape, dtype=model.dtype)
    takes_tokens = "input_ids" in names
    if takes_tokens or (inputs and "decoder_input_ids" in names):
        if tokens is None:
            rows = getattr(model.config.get_text_config(decoder=True), "vocab_size", 2)
            tokens = {"input_ids": torch.arange(min(8, rows)).unsqueeze(0)}
        if takes_tokens:
            inputs |= {key: value for key, value in tokens.items() if key in names}
        if model.config.is_encoder_decoder and "decoder_input_ids" in names:
            inputs["decoder_input_ids"] = tokens["input_ids"][:, :1]
    return inputs or None


def check(found: Verification) -> None:
    """Raise if a model cannot be used.

    Raises:
        CheckpointError: there are problems; the text names all.
    """
    if found.problems:
        raise CheckpointError(f"{found.model} is no sound model: {'; '.join(found.problems)}.")
