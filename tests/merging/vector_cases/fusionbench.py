"""Methods of tanganke/fusion_bench, as recorded: differences to the base in, one difference out."""

from collections.abc import Mapping
from typing import Any

import torch
from merging.merge.streaming import merge_tensors
from merging.methods import _tall, emr
from torch import Tensor

PREFIXES = ("fb_emr", "fb_magmax", "fb_iso_c", "fb_iso_cts", "fb_tall", "fb_tsvm", "fb_wudi")

METHODS = {
    "magmax": "magmax",
    "iso_c": "iso_c",
    "iso_cts": "iso_cts",
    "tsv_m": "tsv_m",
    "wudi": "wudi",
}
"""Their name of a method -> ours, where the output is the merged difference and nothing else."""


def run(case: Any) -> dict[str, dict[str, Tensor]]:
    vectors = case.numbered("tau")
    if case.params["method"] == "emr":
        return run_emr(vectors)
    if case.params["method"] == "tall_mask/consensus":
        return run_tall(case, vectors)
    method = METHODS[case.params["method"]]
    return {"tau": merge(method, options(method, case.params), vectors)}


def options(method: str, params: Any) -> dict[str, Any]:
    """Recorded parameters in our words; what was recorded is not yet scaled unless it says so."""
    chosen: dict[str, Any] = {"scaling_factor": float(params.get("scaling_factor", 1.0))}
    if method != "magmax":
        chosen["parity"] = True
    if method == "iso_cts":
        chosen["common_space_fraction"] = float(params["common_space_fraction"])
    if method == "wudi":
        chosen |= {"iterations": params["iter_num"], "learning_rate": float(params["lr"])}
    return chosen


def merge(method: str, options: Mapping[str, Any], vectors: Mapping[str, Any]) -> dict[str, Tensor]:
    """A merge onto a base of zeros, so that models are task vectors and so is the result."""
    base = {name: torch.zeros_like(tensor) for name, tensor in next(iter(vectors.values())).items()}
    return merge_tensors(method=method, options=options, base=base, models=vectors, extras={}, policy={})


def run_emr(vectors: Mapping[str, Mapping[str, Tensor]]) -> dict[str, dict[str, Tensor]]:
    """The unified vector, each task's mask, and its rescaler: its own model over the unified one."""
    unified = merge("emr", {}, vectors)
    groups = {"tau": unified}
    rescalers = []
    for task, tensors in vectors.items():
        own = merge("emr", {"task": task}, vectors)
        masks = {name: emr.agreement(tensors[name], unified[name]) for name in unified}
        groups[f"mask{task}"] = masks
        kept = {name: unified[name][mask] for name, mask in masks.items()}
        ratios = torch.cat([own[name][mask] / kept[name] for name, mask in masks.items()])
        assert all((own[name][~mask] == 0).all() for name, mask in masks.items())
        rescalers.append(ratios.median())
    return {**groups, "rescalers": {"": torch.stack(rescalers)}}


def run_tall(case: Any, vectors: Mapping[str, Mapping[str, Tensor]]) -> dict[str, dict[str, Tensor]]:
    """All masks, and the vector that is left where enough of them are set; flat, names sorted."""
    scaling_factor = float(case.params["multi_task_scaling"])
    given = case.params["tall_lambda"]  # one number, or one for each task
    by_task = given if isinstance(given, list) else [given] * len(vectors)
    threshold = {task: float(value) for task, value in zip(vectors, by_task, strict=True)}
    flat = {task: flatten(tensors) for task, tensors in vectors.items()}
    multi_task = _tall.multi_task_vector(flat, scaling_factor)
    masks = [_tall.task_mask(its, multi_task, threshold[task]) for task, its in flat.items()]
    chosen = {"scaling_factor": scaling_factor, "threshold": threshold}
    for task, mask in zip(
        flat, masks, strict=True
    ):  # a task's model has what its mask says, and nothing else
        own = flatten(merge("tall_masks", {**chosen, "task": task}, vectors))
        assert torch.equal(own, mask * multi_task)
    min_tasks = case.params["consensus_k"]
    consensus = flatten(merge("consensus", {**chosen, "min_tasks": min_tasks}, vectors))
    return {"mask": {"": torch.stack(masks)}, f"consensus{min_tasks}_tau_flat": {"": consensus}}


def flatten(tensors: Mapping[str, Tensor]) -> Tensor:
    return torch.cat([tensors[name].reshape(-1) for name in sorted(tensors)])
