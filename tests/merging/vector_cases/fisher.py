"""Fisher averaging of mmatena/model_merging, bloomberg/dataless-model-merging and r-three/mats."""

from typing import Any

from merging.merge.streaming import merge_tensors
from torch import Tensor

PREFIXES = ("matena", "fisher_plain", "fisher_norm", "mats_diagfisher")
NORMALIZE = {
    None: "none",
    "model": "model",
    **dict.fromkeys(("param", "params", "parameter", "tensor"), "tensor"),
}


def run(case: Any) -> dict[str, dict[str, Tensor]]:
    models = case.numbered("theta")
    merged = merge_tensors(
        method="fisher",
        options=options(case.params, sorted(models, key=int)),
        base=None,
        models=models,
        extras={"hessians": case.numbered("fisher")},
        policy={"exclude": case.matching("in/theta1", case.params.get("exclude_param_regex", []))},
    )
    return {"theta": merged}


def options(params: Any, tasks: list[str]) -> dict[str, Any]:
    """Each repository's parameters in our words."""
    if "fisher_smooth" in params:  # dataless-model-merging
        floor: Any = float(params["fisher_smooth"])
        kind = "added"
        normalize = NORMALIZE[params["fisher_normalize"]]
        weights = params["model_coeffs"]
    elif "coefficients" in params:  # mmatena: the first model is the target
        floor = dict.fromkeys(tasks, 0.0 if params["favor_target_model"] else float(params["fisher_floor"]))
        floor[tasks[0]] = float(params["fisher_floor"])
        kind = "absolute"
        normalize = "model" if params["normalize_fishers"] else "none"
        weights = params["coefficients"]
    else:  # MaTS
        floor = float(params["fisher_floor"])
        kind = "absolute"
        normalize = "none"
        share = params["model_lambda"] if len(tasks) == 2 else None
        weights = None if share is None else [share, 1 - share]
    chosen = {"floor": floor, "floor_kind": kind, "normalize": normalize}
    if weights is not None:
        chosen["weights"] = dict(zip(tasks, map(float, weights), strict=True))
    return chosen
