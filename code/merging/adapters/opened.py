"""Several opened adapters, module by module."""

from __future__ import annotations

from collections.abc import Mapping

from merging.adapters.low_rank import Update
from merging.sources.adapter_folder import AdapterFolder, LowRank

Adapters = Mapping[str, AdapterFolder]
"""By task, sorted."""


def low_ranks(adapter: AdapterFolder) -> dict[str, LowRank]:
    """The modules of a LoRA adapter."""
    return {module: its for module, its in adapter.modules.items() if isinstance(its, LowRank)}


def all_modules(opened: Adapters) -> list[str]:
    """Modules that some adapter changes; sorted."""
    return sorted({module for adapter in opened.values() for module in adapter.modules})


def matrix_shape(opened: Adapters, module: str) -> tuple[int, int]:
    """(outputs, inputs) of a module that some adapter changes."""
    its = next(low_ranks(adapter)[module] for adapter in opened.values() if module in adapter.modules)
    return its.num_outputs, its.num_inputs


def update_of(adapter: AdapterFolder, module: str) -> Update:
    """What a LoRA adapter adds to a module that it changes."""
    a, b = adapter.factors(module)
    return Update(a, b, low_ranks(adapter)[module].scaling)


def updates_of(opened: Adapters, module: str) -> list[Update]:
    """Each adapter's update of a module; one of rank 0 where it has none."""
    import torch

    outputs, inputs = matrix_shape(opened, module)
    nothing = Update(torch.zeros(0, inputs), torch.zeros(outputs, 0))
    return [
        update_of(adapter, module) if module in adapter.modules else nothing for adapter in opened.values()
    ]
