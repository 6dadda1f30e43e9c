"""Fisher Mask Nodes of thennal10/fisher-nodes-merging."""

from typing import Any

from merging.merge.streaming import merge_tensors
from merging.methods._seam import MaskFisher
from torch import Tensor

PREFIXES = ("fisher_mask_nodes",)


def run(case: Any) -> dict[str, dict[str, Tensor]]:
    models = case.numbered("theta")
    fishers = {
        task: MaskFisher(
            heads=case.groups[f"in/head_fisher{task}"][""], neurons=case.groups[f"in/neuron_fisher{task}"][""]
        )
        for task in models
    }
    assert all(its.heads.shape[1] == case.params["num_heads"] for its in fishers.values())
    merged = merge_tensors(
        method="fisher_mask_nodes",
        options={"parity": True, "universal": case.params["use_universal"]},
        base=None,
        models=models,
        extras={"mask_fishers": fishers},
        policy={},
    )
    return {"theta": merged}
