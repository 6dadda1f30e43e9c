"""TIES of prateeky2806/ties-merging, r-three/mats and arcee-ai/mergekit."""

from typing import Any

from merging.merge.streaming import merge_tensors
from torch import Tensor

PREFIXES = ("ties", "mats_ties", "mk_ties")


def run(case: Any) -> dict[str, dict[str, Tensor]]:
    models = case.numbered("theta")
    params = case.params
    if "weights" in params:
        options = mergekit_options(params, models)
    else:
        keep = params["keep"] if "keep" in params else params["density"]
        options = {
            "density": keep / 100 if keep > 1 else float(keep),
            "scaling_factor": float(params["scaling"]),
            "merge_function": params["merge_func"].removeprefix("dis-"),
            "election": params.get("sign", "mass"),
        }
    merged = merge_tensors(
        method="ties", options=options, base=case.groups["in/theta0"], models=models, extras={}
    )
    return {"theta": merged}


def mergekit_options(params: Any, models: Any) -> dict[str, Any]:
    weights = dict(zip(sorted(models, key=int), map(float, params["weights"]), strict=True))
    return {
        "flavour": "per_tensor",
        "density": float(params["density"]),
        "scaling_factor": float(params["lambda_"]),
        "weights": weights,
        "merge_function": "mean" if params["normalize"] else "sum",
        "rescale": "l1" if params["rescale"] else "none",
    }
