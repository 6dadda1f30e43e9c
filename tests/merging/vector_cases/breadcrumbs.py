"""Breadcrumbs of arcee-ai/mergekit."""

from typing import Any

from merging.merge.streaming import merge_tensors
from torch import Tensor

PREFIXES = ("mk_breadcrumbs",)


def run(case: Any) -> dict[str, dict[str, Tensor]]:
    params = case.params
    models = case.numbered("theta")
    merged = merge_tensors(
        method=params["method"],
        options={
            "density": float(params["density"]),
            "gamma": float(params["gamma"]),
            "scaling_factor": float(params["lambda_"]),
            "weights": dict(zip(sorted(models, key=int), map(float, params["weights"]), strict=True)),
            "normalize": params["normalize"],
            "rescale": "l1" if params["rescale"] else "none",
            "parity": True,
        },
        base=case.groups["in/theta0"],
        models=models,
        extras={},
    )
    return {"theta": merged}
