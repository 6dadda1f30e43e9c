"""DARE of yule-BUAA/MergeLM and arcee-ai/mergekit, with the masks that were drawn there."""

import re
from decimal import Decimal
from typing import Any
from unittest.mock import patch

import torch
from merging.methods import _dare
from merging.streaming import merge_tensors
from torch import Tensor

PREFIXES = ("dare", "mk_dare")


def run(case: Any) -> dict[str, dict[str, Tensor]]:
    return mergekit(case) if case.name.startswith("mk_") else mergelm(case)


def mergelm(case: Any) -> dict[str, dict[str, Tensor]]:
    params = case.params
    models = case.numbered("theta")
    options = {
        "density": float(Decimal(1) - Decimal(repr(float(params["mask_rate"])))),
        "rescale": "inverse_keep" if params["rescale"] else "none",
        "strategy": params["strategy"],
    }
    excluded = [name for name in case.groups["in/theta0"] if matches(name, params["exclude"])]
    kept = {
        task: {name: 1 - mask for name, mask in its.items()} for task, its in masks(case, "drop_mask").items()
    }

    def merged(scaling: float, some: Any) -> dict[str, Tensor]:
        with recorded(_dare, kept):
            return merge_tensors(
                method="dare_linear",
                options={**options, "scaling_factor": scaling},
                base=case.groups["in/theta0"],
                models=some,
                extras={},
                policy={"exclude": excluded},
            )

    results = {"theta": merged(float(params["scaling"]), models)}
    for task, model in models.items():
        results[f"theta_dare{task}"] = merged(1.0, {task: model})
    return results


def mergekit(case: Any) -> dict[str, dict[str, Tensor]]:
    with recorded(_dare, masks(case, "mask")):
        merged = merge_tensors(
            method=case.params["method"],
            options=mergekit_options(case) | {"density": float(case.params["density"])},
            base=case.groups["in/theta0"],
            models=case.numbered("theta"),
            extras={},
        )
    return {"theta": merged}


def mergekit_options(case: Any) -> dict[str, Any]:
    """What all methods of that engine have in common."""
    params = case.params
    models = case.numbered("theta")
    return {
        "scaling_factor": float(params["lambda_"]),
        "weights": dict(zip(sorted(models, key=int), map(float, params["weights"]), strict=True)),
        "normalize": params["normalize"],
        "rescale": "l1" if params["rescale"] else "none",
    }


def masks(case: Any, group: str) -> dict[str, dict[str, Tensor]]:
    """1 = kept (or dropped), by task and name."""
    prefix = f"in/{group}"
    return {
        key.removeprefix(prefix): tensors
        for key, tensors in case.groups.items()
        if re.fullmatch(rf"{prefix}\d+", key)
    }


def recorded(module: Any, kept: dict[str, dict[str, Tensor]], probabilities: Any = None) -> Any:
    """Give a module recorded masks where it would draw; checks recorded probabilities, if any."""

    def bernoulli(keep: Any, like: Tensor, *, seed: int, task: str, parameter: Any) -> Tensor:
        if probabilities is not None:
            expected = probabilities[task][parameter.name].reshape(like.shape)
            torch.testing.assert_close(keep, expected.to(like.dtype))
        return kept[task][parameter.name].reshape(like.shape).to(like)

    return patch.object(module, "bernoulli", bernoulli)


def matches(name: str, patterns: list[str]) -> bool:
    return any(re.match(pattern, name) for pattern in patterns)
