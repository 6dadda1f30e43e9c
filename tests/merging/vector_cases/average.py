"""Averages of arcee-ai/mergekit, mmatena/model_merging and bloomberg/dataless-model-merging."""

from typing import Any

from merging.merge.streaming import merge_tensors
from torch import Tensor

PREFIXES = ("mk_linear", "matena_isometric", "average")


def run(case: Any) -> dict[str, dict[str, Tensor]]:
    params = case.params
    models = case.numbered("theta")
    weights = next(
        (params[key] for key in ("weights", "coefficients", "model_coeffs") if params.get(key)), None
    )
    options: dict[str, Any] = {"normalize": params.get("normalize", "coefficients" in params)}
    if weights is not None:
        options["weights"] = dict(zip(sorted(models, key=int), map(float, weights), strict=True))
    merged = merge_tensors(
        method="average",
        options=options,
        base=None,
        models=models,
        extras={},
        policy=head_policy(params, models)
        | {"exclude": case.matching("in/theta1", params.get("exclude_param_regex", []))},
    )
    return {"theta": merged}


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
