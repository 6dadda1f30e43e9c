"""Conjugate gradients of r-three/mats."""

from collections.abc import Mapping
from typing import Any

from merging.merge.streaming import merge_tensors
from merging.methods._seam import Factors
from torch import Tensor

PREFIXES = ("mats_cg",)
OBJECTIVES = {"blockwise_kfac": "kfac", "blockwise_full_fisher_per_tensor": "block"}


def run(case: Any) -> dict[str, dict[str, Tensor]]:
    params = case.params
    models = case.numbered("theta")
    objective = OBJECTIVES.get(params["objective"], params["objective"])
    extras = statistics(case, objective)
    initialization = params["initialization"]
    if initialization not in ("zero", "average"):
        extras["initial"] = start(case, models)
        initialization = "initial"
    merged = merge_tensors(
        method="mats",
        options={
            "objective": objective,
            "num_iterations": params["num_iterations"],
            "initialization": initialization,
            "off_diagonal_scaling": float(params.get("off_diagonal_lambda", 1.0)),
            "tolerance": float(params.get("rtol_residual", 1e-5)),
            "preconditioner": "none",
            "damping": 0.0,
        },
        base=None,
        models=models,
        extras=extras,
    )
    return {"theta": merged}


def statistics(case: Any, objective: str) -> dict[str, Any]:
    """What the objective needs, from the recorded matrices."""
    if objective == "average":
        return {}
    if objective == "diagonal_fisher":
        return {"hessians": case.numbered("fisher")}
    inputs = case.numbered("gram_in")
    if objective == "block":
        return {"blocks": inputs}
    outputs = case.numbered("gram_out") if objective == "kfac" else {task: {} for task in inputs}
    key = "factors" if objective == "kfac" else "grams"
    return {key: {task: layers(inputs[task], outputs[task]) for task in inputs}}


def layers(inputs: Mapping[str, Tensor], outputs: Mapping[str, Tensor]) -> dict[str, Factors]:
    """Factors by name of the weight."""
    return {f"{module}.weight": Factors(its, outputs.get(module)) for module, its in inputs.items()}


def start(case: Any, models: Mapping[str, Mapping[str, Tensor]]) -> Mapping[str, Tensor]:
    """The model that a run starts from: the pretrained one, or one by task arithmetic."""
    base: Mapping[str, Tensor] = case.groups["in/theta0"]
    if case.params["initialization"] == "pretrained":  # the authors fill X = W^T with W_0 row by row
        linear = {f"{module}.weight" for module in case.groups.get("in/gram_in1", {})}
        return {name: its.reshape(its.T.shape).T if name in linear else its for name, its in base.items()}
    return merge_tensors(
        method="task_arithmetic",
        options={"scaling_factor": float(case.params["init_scaling"])},
        base=base,
        models=models,
        extras={},
    )
