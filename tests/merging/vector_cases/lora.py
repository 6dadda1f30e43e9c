"""Adapter combination of huggingface/peft: LoraModel.add_weighted_adapter."""

from typing import Any

from merging.adapters.low_rank import Update, concat, linear, truncate
from torch import Tensor

PREFIXES = ("lora",)


def run(case: Any) -> dict[str, dict[str, Tensor]]:
    tasks = sorted(case.params["scaling"], key=lambda task: int(task.removeprefix("t")))
    groups: dict[str, dict[str, Tensor]] = {"delta": {}, "lora_A": {}, "lora_B": {}}
    for module in case.groups[f"in/lora_A_{tasks[0]}"]:
        updates = [
            Update(
                a=case.groups[f"in/lora_A_{task}"][module],
                b=case.groups[f"in/lora_B_{task}"][module],
                scaling=case.params["scaling"][task],
            )
            for task in tasks
        ]
        merged = combine(case.params, updates)
        if case.params["method"] == "lora_svd":  # singular vectors are unique up to sign
            signs = (merged.a * case.groups["out/lora_A"][module]).sum(1).sign()
            merged = Update(merged.a * signs[:, None], merged.b * signs)
        groups["delta"][module] = merged.dense() * case.params["merged_scaling"]
        groups["lora_A"][module] = merged.a
        groups["lora_B"][module] = merged.b
    return groups


def combine(params: Any, updates: list[Update]) -> Update:
    method = params["method"].removeprefix("lora_")
    if method == "cat":
        return concat(updates, params["weights"])
    if method == "linear":
        return linear(updates, params["weights"])
    assert method == "svd", method
    whole = concat(updates, params["weights"]).dense()  # a clamp depends on the signs: those of a matrix
    return truncate(whole, params["svd_rank"], clamp=params.get("svd_clamp")).update
