"""Models stacked of layers of others, as sources: output names are renumbered, nothing is copied.

Layers are found by names alone: the first part of a name that is a number is the layer, what stands before it
is the stack (``model.layers`` . ``3`` . ``mlp.up_proj.weight``).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from merging.errors import CheckpointError, OptionError
from merging.files.checkpoints import TensorInfo
from merging.sources import Source

if TYPE_CHECKING:
    from torch import Tensor

COUNT_KEYS = ("num_hidden_layers", "n_layer", "num_layers", "n_layers")
"""Where configs say how many layers there are."""

# Outside of the layers: what a stack of layers gets its inputs from. The rest (norm, head) uses its outputs.
_BEFORE = re.compile(r"(^|\.)(\w*emb(ed|eds|eddings?)?(_\w+)?|wte|wpe|shared)(\.|$)")
_NOT_BEFORE = re.compile(r"(^|\.)(embed_out|unembed\w*|embed_output\w*)(\.|$)")


@dataclass(frozen=True)
class Stack:
    """The layers of a model."""

    prefix: str
    num_layers: int

    def layer_of(self, name: str) -> tuple[int, str] | None:
        """Number of the layer that a tensor belongs to, and its name in there; None outside of the layers."""
        found = split_name(name)
        return None if found is None or found[0] != self.prefix else found[1:]


def split_name(name: str) -> tuple[str, int, str] | None:
    """Stack, layer and the rest of a name; None if no part of it is a number."""
    parts = name.split(".")
    for index, part in enumerate(parts):
        if part.isdecimal():
            return ".".join(parts[:index]), int(part), ".".join(parts[index + 1 :])
    return None


def join_name(stack: str, layer: int, rest: str) -> str:
    """The name that :func:`split_name` splits."""
    return ".".join(part for part in (stack, str(layer), rest) if part)


def stacks(names: Iterable[str]) -> list[Stack]:
    """Everything numbered in the names of a model: encoder, decoder, towers, sequential heads."""
    sizes: dict[str, int] = {}
    for found in filter(None, map(split_name, names)):
        sizes[found[0]] = max(sizes.get(found[0], 0), found[1] + 1)
    return [Stack(prefix, size) for prefix, size in sorted(sizes.items())]


def find_stack(source: Source, config: Mapping[str, Any]) -> Stack:
    """The layers of a model: the only stack, or the only one as long as its config says.

    Raises:
        CheckpointError: there are no layers, or several stacks of them.
    """
    found = stacks(source.tensors)
    count = num_layers(config)
    fitting = [stack for stack in found if stack.num_layers == count]
    if len(found) == 1 or len(fitting) == 1:
        return (fitting or found)[0]
    shown = ", ".join(f"{stack.prefix} ({stack.num_layers})" for stack in found) or "none"
    raise CheckpointError(
        f"{source.label}: cannot tell its layers: numbered parts are {shown}, and its config has "
        f"{count} layers. Layers can be picked from models with one stack of layers only."
    )


def num_layers(config: Mapping[str, Any]) -> int | None:
    """Number of layers as a ``config.json`` says."""
    for place in (config, config.get("text_config") or {}):
        for key in COUNT_KEYS:
            if isinstance(place.get(key), int):
                return int(place[key])
    return None


@dataclass(frozen=True)
class Part:
    """Some layers of a model."""

    source: Source
    stack: Stack
    start: int
    stop: int

    def __post_init__(self) -> None:
        if not 0 <= self.start < self.stop <= self.stack.num_layers:
            raise OptionError(
                f"{self.source.label}: layer_range [{self.start}, {self.stop}] is out of range: it has "
                f"the layers 0 to {self.stack.num_layers - 1}."
            )

    @property
    def num_layers(self) -> int:
        """How many."""
        return self.stop - self.start


class LayerStack:
    """Layers of several models, one above the other, as a source."""

    def __init__(self, parts: Sequence[Part], *, label: str) -> None:
        """Stack ``parts``; what comes before the layers is the first one's, what follows the last one's.

        Raises:
            CheckpointError: parts name their layers differently, or the last lacks what follows the layers.
        """
        self.label = label
        first, last = parts[0], parts[-1]
        places: dict[str, tuple[Source, str]] = {}
        for name in first.source.tensors:
            if first.stack.layer_of(name) is None and is_before_layers(name):
                places[name] = (first.source, name)
        for name in last.source.tensors:
            if last.stack.layer_of(name) is None and not is_before_layers(name):
                places[name] = (last.source, name)
        for name in first.source.tensors:
            if first.stack.layer_of(name) is None and name not in places:
                raise CheckpointError(
                    f"{label}: {name!r} follows the layers, and is to come from {last.source.label}, "
                    "which lacks it. Take the last layers from a model that stores it."
                )
        offset = 0
        for part in parts:
            if part.stack.prefix != first.stack.prefix:
                raise CheckpointError(
                    f"{label}: layers are called {first.stack.prefix!r} in {first.source.label} and "
                    f"{part.stack.prefix!r} in {part.source.label}. Stack models of one architecture."
                )
            for name in part.source.tensors:
                found = part.stack.layer_of(name)
                if found is not None and part.start <= found[0] < part.stop:
                    number = offset + found[0] - part.start
                    places[join_name(first.stack.prefix, number, found[1])] = (part.source, name)
            offset += part.num_layers
        self._places = places
        known = {id(source): source.tensors for source, _ in places.values()}
        self._infos = {name: known[id(source)][place] for name, (source, place) in places.items()}

    @property
    def tensors(self) -> Mapping[str, TensorInfo]:
        """Shape and dtype of every tensor, by its name in the stack."""
        return self._infos

    def read(self, name: str) -> Tensor:
        """One tensor."""
        source, place = self._places[name]
        return source.read(place)

    def read_piece(self, name: str, start: int, stop: int) -> Tensor:
        """Elements of one tensor, counted row by row."""
        source, place = self._places[name]
        return source.read_piece(place, start, stop)


def is_before_layers(name: str) -> bool:
    """Whether a tensor outside of the layers makes their inputs: embeddings and their norm."""
    return bool(_BEFORE.search(name)) and not _NOT_BEFORE.search(name)


def stacked_config(
    config: Mapping[str, Any], parts: Sequence[tuple[Mapping[str, Any], int, int]]
) -> dict[str, Any]:
    """The ``config.json`` of stacked layers.

    Args:
        config: what to change.
        parts: config, first layer and end of each part, from the bottom up.

    Returns:
        ``config`` with the number of layers, and with the lists that have one entry a layer picked alike.
    """
    total = sum(stop - start for _, start, stop in parts)
    text = config.get("text_config")
    nested = isinstance(text, Mapping) and not any(key in config for key in COUNT_KEYS)
    place = dict(text) if nested and isinstance(text, Mapping) else dict(config)
    places = [(its.get("text_config") or {}) if nested else its for its, _, _ in parts]
    lengths = [num_layers(its) for its, _, _ in parts]
    for key, value in place.items():
        if key in COUNT_KEYS:
            place[key] = total
        elif isinstance(value, list) and re.search("layer|block|rope|window", key):
            lists = [its.get(key) for its in places]
            if all(
                isinstance(entries, list) and len(entries) == length
                for entries, length in zip(lists, lengths, strict=True)
            ):
                place[key] = [
                    entry
                    for entries, (_, start, stop) in zip(lists, parts, strict=True)
                    for entry in (entries or [])[start:stop]
                ]
    return {**config, "text_config": place} if nested else place
