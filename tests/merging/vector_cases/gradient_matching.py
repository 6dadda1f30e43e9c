"""Gradient matching of UKPLab/iclr2024-model-merging."""

from typing import Any

from merging.merge.streaming import merge_tensors
from torch import Tensor

PREFIXES = ("ukp_ugm",)


def run(case: Any) -> dict[str, dict[str, Tensor]]:
    params = case.params
    scales = {"0": params["scaling_factor_pt"]}
    scales |= {str(number): scale for number, scale in enumerate(params["scaling_factors_ft"], start=1)}
    hessians = {
        task: {name: float(scale) * tensor for name, tensor in case.groups[f"in/hess{task}"].items()}
        for task, scale in scales.items()
    }
    merged = merge_tensors(
        method="gradient_matching",
        options={
            "scaling_factor": float(params["scaling_factor"]),
            "delta_0": float(params["delta_0"]),
            "parity": True,
        },
        base=case.groups["in/theta0"],
        models=case.numbered("theta"),
        extras={"base_hessian": hessians.pop("0"), "hessians": hessians},
    )
    return {"theta": merged}
