"""What a merged adapter takes over from its sources: heads, settings, the form of the factors."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal

from merging.adapters.opened import Adapters, low_ranks
from merging.adapters.writing import Layout
from merging.errors import CheckpointError, OptionError
from merging.files.checkpoints import torch_dtype
from merging.sources import for_computing
from merging.sources.adapter_folder import Scaled

if TYPE_CHECKING:
    from torch import Tensor
    from torch import dtype as TorchDtype

Saved = Literal["error", "average", "drop"]
"""What becomes of tensors that adapters store whole and that differ."""

_SAME_SETTINGS = ("task_type", "base_model_name_or_path", "revision", "fan_in_fan_out", "auto_mapping")


def saved_tensors(opened: Adapters, policy: Saved) -> dict[str, Tensor]:
    """Tensors that adapters store whole, by their names in the file; equal ones are taken over.

    Raises:
        OptionError: some differ, or not all adapters have them, and the policy is "error".
        CheckpointError: they are to be averaged, and have different shapes.
    """
    import torch

    owners: dict[str, list[Tensor]] = {}
    keys: dict[str, str] = {}
    for adapter in opened.values():
        for name, key in adapter.saved.items():
            owners.setdefault(name, []).append(adapter.read(key))
            keys.setdefault(name, key)
    found: dict[str, Tensor] = {}
    for name, tensors in sorted(owners.items()):
        if len(tensors) == len(opened) and all(torch.equal(tensors[0], its) for its in tensors[1:]):
            found[keys[name]] = tensors[0]
        elif policy == "error":
            raise OptionError(
                f"adapters: {name!r} is stored whole (modules_to_save, bias), and is not the same in all "
                "adapters. Pass saved='average' or 'drop', or result='dense' to merge it by the method."
            )
        elif policy == "average":
            if len({its.shape for its in tensors}) > 1:
                raise CheckpointError(
                    f"adapters differ: {name!r} is {', '.join(str(tuple(its.shape)) for its in tensors)}. "
                    "Pass saved='drop', and attach each task's head to the merged model."
                )
            mean = torch.stack([for_computing(its) for its in tensors]).mean(0)
            found[keys[name]] = mean.to(tensors[0].dtype)
    return found


def settings_of(opened: Adapters, whole: Mapping[str, Tensor]) -> dict[str, Any]:
    """What the merged adapter's config says beside ranks and modules: where all say the same, the same."""
    configs = [adapter.config.raw for adapter in opened.values()]
    settings = {
        key: configs[0].get(key) if all(its.get(key) == configs[0].get(key) for its in configs) else None
        for key in _SAME_SETTINGS
    }
    to_save = sorted({module for its in configs for module in its.get("modules_to_save") or ()})
    biases = {its.get("bias", "none") for its in configs}
    settings["fan_in_fan_out"] = bool(configs[0].get("fan_in_fan_out"))
    if whole:
        settings["modules_to_save"] = to_save or None
        settings["bias"] = biases.pop() if len(biases) == 1 else "all"
    elif any(adapter.saved for adapter in opened.values()):
        settings["task_type"] = None  # peft expects a head in adapters for classification
    return settings


def layouts_of(opened: Adapters) -> dict[str, Layout]:
    """How the factors of each module are stored."""
    found: dict[str, Layout] = {}
    for adapter in opened.values():
        for module, its in low_ranks(adapter).items():
            a, b = adapter.tensors[its.a].shape, adapter.tensors[its.b].shape
            found[module] = Layout(is_embedding=its.is_embedding, a_tail=a[1:], b_tail=b[2:])
    return found


def dtype_of(opened: Adapters) -> TorchDtype:
    """The dtype of the first adapter's first factor."""
    adapter = next(iter(opened.values()))
    first = next(iter(low_ranks(adapter).values()))
    return torch_dtype(adapter.tensors[first.a].dtype)


def on_inputs(opened: Adapters) -> list[str]:
    """(IA)3 modules whose inputs are scaled; sorted."""
    return sorted(
        {
            module
            for adapter in opened.values()
            for module, its in adapter.modules.items()
            if isinstance(its, Scaled) and its.on_inputs
        }
    )
