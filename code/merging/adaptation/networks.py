"""The networks of all tasks on one merged body, each with its own head."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from merging import models, tasks
from merging.errors import CheckpointError, OptionError
from merging.merge.heads import is_head

if TYPE_CHECKING:
    from merging.merge.streaming import OpenMerge


def task_networks(
    task_type: str, opened: OpenMerge, tensors: Mapping[str, Tensor], device: torch.device
) -> dict[str, Any]:
    """Load one network for each task, in evaluation mode, nothing of it in training.

    All of them share the parameters of one body, so that T tasks need the memory of one model and T heads.

    Args:
        task_type: a file in ``tasks/``.
        opened: gives configs, and with ``Policy.head`` "per_task" the heads.
        tensors: of the merged model, by name in its files.
        device: where they go.

    Returns:
        Networks by task; one and the same for tasks without heads of their own.

    Raises:
        OptionError: predictions of the task type have no entropy that could be minimised.
    """
    task_module = tasks.load(task_type)
    if tasks.label_distribution(task_module) != "categorical":
        raise OptionError(
            f"adaptation minimises the entropy of predicted classes, and {task_type} predicts numbers. "
            "Look for coefficients on validation data instead (merging search)."
        )
    assert opened.files_from is not None
    if opened.heads_from is None:
        network = task_module.load_model(str(opened.files_from), tensors=tensors)
        return dict.fromkeys(opened.call.tasks, network.requires_grad_(False).to(device))
    body = {name: tensor for name, tensor in tensors.items() if not is_head(name)}
    found: dict[str, Any] = {}
    shared: dict[str, nn.Parameter] = {}
    for task, source in sorted(opened.call.models(opened.inputs).items()):
        head = {name: source.read(name).float() for name in source.tensors if is_head(name)}
        network = task_module.load_model(str(opened.heads_from[task]), tensors=body | head)
        share_parameters(network.requires_grad_(False), shared)
        found[task] = network.to(device)
        shared = shared or {name: its for name, its in network.named_parameters() if not is_head(name)}
    return found


def leave_out_made_heads(task_type: str, opened: OpenMerge) -> None:
    """Write no heads beside a merged model whose heads are made from the names of classes (CLIP)."""
    if isinstance(tasks.load(task_type), tasks.OpenLabels):
        opened.heads_from = None


def stored_names(network: Any, tensors: Mapping[str, Tensor]) -> dict[str, str]:
    """The name in the model's files of each parameter of a network.

    Args:
        network: loaded from ``tensors``.
        tensors: by name in the files; parameters that are not in them are left out.

    Raises:
        CheckpointError: a parameter is made of several tensors, or of one of another shape.
    """
    found = {}
    for name, parameter in network.named_parameters():
        stored = stored_as(network, name)
        if not any(its in tensors for its in stored):
            continue
        if len(stored) != 1 or not torch.equal(tensors[stored[0]].float(), parameter.detach().cpu()):
            raise CheckpointError(
                f"adaptation: parameter {name} of {type(network).__name__} is made of {', '.join(stored)} of "
                "its files, not of one tensor as it is. Models that are stored otherwise than they are run "
                "(mixtures of experts) cannot learn coefficients."
            )
        found[name] = stored[0]
    return found


def stored_as(network: Any, name: str) -> list[str]:
    """The names in the model's files of one parameter of a network, by its name there."""
    return list(models.as_stored(network, {name: network.get_parameter(name).detach()}))


def share_parameters(network: nn.Module, shared: Mapping[str, nn.Parameter]) -> None:
    """Put parameters into a network in place of its own; tied ones everywhere where they are used.

    Args:
        network: changed in place.
        shared: by name in the network.
    """
    own = dict(network.named_parameters(remove_duplicate=False))
    by_identity = {id(own[name]): parameter for name, parameter in shared.items()}
    for name, parameter in own.items():
        if id(parameter) in by_identity:
            owner, _, attribute = name.rpartition(".")
            setattr(network.get_submodule(owner), attribute, by_identity[id(parameter)])
