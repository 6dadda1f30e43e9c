"""RegMean of bloomberg/dataless-model-merging and r-three/mats."""

from collections.abc import Collection, Mapping
from typing import Any

from merging.merge.streaming import merge_tensors
from merging.methods._seam import Factors
from torch import Tensor

PREFIXES = ("regmean", "mats_regmean")


def run(case: Any) -> dict[str, dict[str, Tensor]]:
    params = case.params
    models = case.numbered("theta")
    conv1d = params.get("conv1d_modules", [])
    merged = merge_tensors(
        method="regmean",
        options=options(case, sorted(models, key=int)),
        base=None,
        models=models,
        extras={
            "grams": {task: layers(grams, conv1d) for task, grams in case.numbered("gram_in").items()},
        },
        policy=head_policy(params, models)
        | {"exclude": case.matching("in/theta1", params.get("exclude_param_regex", []))},
        transposed=[f"{module}.weight" for module in conv1d],
    )
    return {"theta": merged}


def layers(grams: Mapping[str, Tensor], conv1d: Collection[str]) -> dict[str, Factors]:
    """Gram matrices by name of the weight."""
    return {f"{module}.weight": Factors(gram, transposed=module in conv1d) for module, gram in grams.items()}


def options(case: Any, tasks: list[str]) -> dict[str, Any]:
    """Each repository's parameters in our words."""
    params = case.params
    if "off_diagonal_lambda" in params:  # MaTS
        return {"off_diagonal_scaling": float(params["off_diagonal_lambda"])}
    scaling = float(params["regmean_reduce_nondiag"])
    chosen: dict[str, Any] = {
        "off_diagonal_scaling": 0.0 if params["regmean_diag"] else 1.0 if scaling < 0 else scaling,
        "exclude": case.matching("in/theta1", params["regmean_exclude_param_regex"]),
        "normalize": False,
    }
    if params["model_coeffs"] is not None:
        chosen["weights"] = dict(zip(tasks, map(float, params["model_coeffs"]), strict=True))
    return chosen


def head_policy(params: Any, models: Any) -> dict[str, Any]:
    """Rows of a multi-label head are merged over the models whose data have the label."""
    if params.get("task_type") != "multi_label" or not params["multi_label_head_special"]:
        return {}
    heads = [name for name in params["multilabel_head_params"] if name in next(iter(models.values()))]
    if not heads:
        return {}
    return {
        "heads": heads,
        "label_rows": dict(zip(sorted(models, key=int), params["valid_labels"], strict=True)),
    }
