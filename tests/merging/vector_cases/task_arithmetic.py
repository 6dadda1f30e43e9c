"""Task arithmetic of UKPLab/iclr2024-model-merging, r-three/mats and arcee-ai/mergekit."""

from typing import Any

from merging.merge.streaming import merge_tensors
from torch import Tensor

PREFIXES = ("ukp_ta", "mats_task_vectors", "mk_task_arithmetic")


def run(case: Any) -> dict[str, dict[str, Tensor]]:
    models = case.numbered("theta")
    merged = merge_tensors(
        method="task_arithmetic",
        options={"scaling_factor": scaling_factor(case.params, sorted(models, key=int))},
        base=case.groups["in/theta0"],
        models=models,
        extras={},
        policy={"rows": "base"},
    )
    return {"theta": merged}


def scaling_factor(params: Any, tasks: list[str]) -> float | dict[str, float]:
    """One factor for all tasks, or mergekit's weights by task times its lambda."""
    for key in ("scaling_factor", "scaling"):
        if key in params:
            return float(params[key])
    total = sum(params["weights"])
    scale = float(params["lambda_"])
    if params["normalize"] and abs(total) >= 1e-8:
        scale /= total
    return {task: scale * weight for task, weight in zip(tasks, params["weights"], strict=True)}
