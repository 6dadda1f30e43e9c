"""Methods on the sphere, and Model Stock, of arcee-ai/mergekit."""

from typing import Any

from merging.merge.streaming import merge_tensors
from torch import Tensor

PREFIXES = ("mk_slerp", "mk_nuslerp", "mk_multislerp", "mk_karcher", "mk_model_stock")

RENAMED = {"normalize_weights": "normalize"}
TAKEN = {  # what a case may say -> options of the same or another name
    "slerp": ("t", "dot_threshold"),
    "nuslerp": (),
    "multislerp": ("eps", "normalize_weights"),
    "karcher": ("max_iter", "tol"),
    "model_stock": ("filter_wise",),
}
NUMBERS = ("t", "dot_threshold", "eps", "tol")  # JSON writes 0.0 and 0 alike


def run(case: Any) -> dict[str, dict[str, Tensor]]:
    method = case.params["method"]
    models = case.numbered("theta")
    tasks = sorted(models, key=int)
    base = case.groups.get("in/theta0")
    options = {RENAMED.get(key, key): case.params[key] for key in TAKEN[method] if key in case.params}
    options |= {key: float(options[key]) for key in NUMBERS if key in options}
    if method == "slerp":
        base, models = models["1"], {"2": models["2"]}
    elif method == "nuslerp":
        options |= {"weights": weights_by_task(case.params, tasks), "axis": axis(case.params)}
    elif "weights" in case.params:
        options["weights"] = dict(zip(tasks, map(float, case.params["weights"]), strict=True))
    if method == "model_stock":
        options["clip_ratio"] = False
    elif method in ("nuslerp", "multislerp"):
        options["relative_to_base"] = base is not None
    merged = merge_tensors(method=method, options=options, base=base, models=models, extras={})
    return {"theta": merged}


def weights_by_task(params: Any, tasks: list[str]) -> dict[str, float]:
    """Given weights, or those that give t."""
    weights = params["weights"] if "weights" in params else [1.0 - params["t"], params["t"]]
    return dict(zip(tasks, map(float, weights), strict=True))


def axis(params: Any) -> str:
    """mergekit's two switches, or the axis itself."""
    if params.get("flatten", params.get("nuslerp_flatten", True)):
        return "all"
    return "first" if params.get("nuslerp_row_wise", params.get("dim", -1) == 0) else "last"
