"""The models of a mergekit file, arranged as a merge of ours: which sources, which options, which config."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from merging.errors import OptionError
from merging.mergekit import translate
from merging.mergekit.config import Config, Reference, Slice
from merging.mergekit.translate import Place
from merging.sources import Source
from merging.sources.layers import (
    LayerStack,
    Part,
    find_stack,
    is_before_layers,
    split_name,
    stacked_config,
    stacks,
)


@dataclass(frozen=True)
class Opened:
    """A model of the file."""

    source: Source
    config: Mapping[str, Any]
    """``config.json``."""
    folder: Path
    """Where its small files lie."""
    digest: str
    """Names the content of its weights."""


@dataclass(frozen=True)
class Arrangement:
    """A mergekit file as a merge of ours."""

    method: str
    options: dict[str, Any]
    base: Source | None
    """None for methods without one."""
    models: dict[str, Source]
    """By task: the last part of the model's name, numbered where two have the same."""
    config: dict[str, Any]
    """``config.json`` of the output."""


def arrange(config: Config, opened: Mapping[Reference, Opened]) -> Arrangement:
    """Turn a file into sources and options; reads nothing but the names of tensors.

    Args:
        config: the file.
        opened: every model that it merges.

    Raises:
        OptionError: models that the method does not take, or parameters that are wrong or missing.
        CheckpointError: layers that cannot be found or stacked.
    """
    translate.check_parameters(config)
    method = translate.method(config.merge_method)
    bases = [_base_of(config, part, method.base) for part in config.slices]
    if None in bases and any(base is not None for base in bases):
        raise OptionError(
            f"{config.merge_method}: some slices have a base_model and some have none. Give one for the "
            "whole file, or none."
        )
    tasks = _tasks(config, bases)
    low, high = method.num_models
    if not low <= len(tasks) <= (high or len(tasks)):
        raise OptionError(
            f"{config.merge_method}: takes {low if high == low else f'at least {low}'} models"
            f"{' beside base_model' if bases[0] else ''}, got {len(tasks)}: {', '.join(tasks)}."
        )
    ranges = {
        task: [_picked(part, number) for part, number in zip(config.slices, numbers, strict=True)]
        for task, numbers in tasks.items()
    }
    models = {task: _stack(opened, picked, task) for task, picked in ranges.items()}
    first = next(iter(ranges.values()))
    if bases[0] is None:
        template_ranges, template = first, next(iter(models.values()))
    else:
        template_ranges = [
            (base or picked[0], _range_of(part, base, picked[1]))
            for part, base, picked in zip(config.slices, bases, first, strict=True)
        ]
        template = _stack(opened, template_ranges, "base_model")
    places = _places(config, template, opened, template_ranges)
    options = translate.options_of(config, places, tasks) | method.fixed_options(
        has_base=bases[0] is not None
    )
    return Arrangement(
        method.method,
        options,
        None if bases[0] is None else template,
        models,
        _config(opened[config.owner].config, opened, template_ranges),
    )


_Ranges = Sequence[tuple[Reference, tuple[int, int] | None]]
"""Model and layers of each slice."""


def _base_of(config: Config, part: Slice, need: str) -> Reference | None:
    """What the models of a slice are taken relative to."""
    if need == "unused":
        return None
    base = part.base_model or config.base_model
    if base is None and need == "needed":
        raise OptionError(
            f"{config.merge_method}: base_model is missing. Give the model that the others are compared with."
        )
    return base


def _tasks(config: Config, bases: Sequence[Reference | None]) -> dict[str, list[int]]:
    """Number of the source in each slice, by task, in the order of the file.

    Slices with the same models are matched by model, others by place.
    """
    merged = [
        [number for number, source in enumerate(part.sources) if source.model != base]
        for part, base in zip(config.slices, bases, strict=True)
    ]
    lengths = sorted({len(numbers) for numbers in merged})
    if lengths[0] == 0:
        raise OptionError(
            f"{config.merge_method}: there is nothing to merge with base_model. List other models, too."
        )
    if len(lengths) > 1:
        raise OptionError(
            f"{config.merge_method}: slices merge {lengths[0]} and {lengths[-1]} models. Every slice "
            "must merge as many; give a model that is to have no part in one the weight 0."
        )
    names = _names([config.slices[0].sources[number].model for number in merged[0]])
    found: dict[str, list[int]] = {name: [] for name in names}
    for part, numbers in zip(config.slices, merged, strict=True):
        wanted = [config.slices[0].sources[number].model for number in merged[0]]
        present = [part.sources[number].model for number in numbers]
        by_model = set(present) == set(wanted) and len(set(present)) == len(present)
        for place, (name, model) in enumerate(zip(names, wanted, strict=True)):
            found[name].append(numbers[present.index(model) if by_model else place])
    return found


def _names(references: Sequence[Reference]) -> list[str]:
    """Short names for models, no two alike."""
    short = [str(its).rstrip("/").rsplit("/", 1)[-1] for its in references]
    counts = Counter(short)
    seen: Counter[str] = Counter()
    names = []
    for name in short:
        seen[name] += 1
        names.append(f"{name}-{seen[name]}" if counts[name] > 1 else name)
    return names


def _picked(part: Slice, number: int) -> tuple[Reference, tuple[int, int] | None]:
    source = part.sources[number]
    return source.model, source.layer_range


def _range_of(part: Slice, base: Reference | None, default: tuple[int, int] | None) -> tuple[int, int] | None:
    """Layers of the base in a slice: as listed there, else those of the first model."""
    for source in part.sources:
        if source.model == base:
            return source.layer_range
    return default


def _stack(opened: Mapping[Reference, Opened], ranges: _Ranges, label: str) -> Source:
    if ranges[0][1] is None:
        return opened[ranges[0][0]].source
    return LayerStack(_parts(opened, ranges), label=label)


def _parts(opened: Mapping[Reference, Opened], ranges: _Ranges) -> list[Part]:
    parts = []
    for model, layers in ranges:
        assert layers is not None  # slices always say which
        its = opened[model]
        parts.append(Part(its.source, find_stack(its.source, its.config), *layers))
    return parts


def _places(
    config: Config, template: Source, opened: Mapping[Reference, Opened], ranges: _Ranges
) -> dict[str, Place]:
    """Where each tensor of the output lies; layers count from 0.0 to 1.0 within their slice."""
    first, last = Place(0, 0.0), Place(len(config.slices) - 1, 0.0)
    by_layer: dict[tuple[str, int], Place] = {}
    if config.is_sliced:
        prefix, offset = _parts(opened, ranges)[0].stack.prefix, 0
        for number, (_, layers) in enumerate(ranges):
            length = _length(config, config.slices[number], layers)
            for layer in range(length):
                by_layer[prefix, offset + layer] = Place(number, _position(layer, length))
            offset += length
        known = [prefix]
    else:
        found = stacks(template.tensors)
        known = [stack.prefix for stack in found]
        for stack in found:
            for layer in range(stack.num_layers):
                by_layer[stack.prefix, layer] = Place(0, _position(layer, stack.num_layers))
    places = {}
    for name in template.tensors:
        layer_of = split_name(name)
        if layer_of is not None and layer_of[0] in known:
            places[name] = by_layer[layer_of[0], layer_of[1]]
        else:
            places[name] = first if is_before_layers(name) else last
    return places


def _length(config: Config, part: Slice, layers: tuple[int, int] | None) -> int:
    """Number of layers of a slice; all its sources must have as many."""
    lengths = {
        str(source.model): source.layer_range[1] - source.layer_range[0]
        for source in part.sources
        if source.layer_range is not None
    }
    if len(set(lengths.values())) > 1:
        raise OptionError(
            f"{config.merge_method}: the sources of a slice must have the same number of layers, "
            f"got {lengths}."
        )
    assert layers is not None
    return layers[1] - layers[0]


def _position(layer: int, num_layers: int) -> float:
    """mergekit takes the end of a gradient where there is but one layer."""
    return layer / (num_layers - 1) if num_layers > 1 else 1.0


def _config(config: Mapping[str, Any], opened: Mapping[Reference, Opened], ranges: _Ranges) -> dict[str, Any]:
    if ranges[0][1] is None:
        return dict(config)
    return stacked_config(config, [(opened[model].config, *layers) for model, layers in ranges if layers])
