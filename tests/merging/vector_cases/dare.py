"""DARE of yule-BUAA/MergeLM and arcee-ai/mergekit, with the masks that were drawn there."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from decimal import Decimal
from typing import Any
from unittest.mock import patch

from merging import kernels
from merging.merge.streaming import merge_tensors
from merging.methods import _dare
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
        task: {name: 1 - mask for name, mask in masks.items()}
        for task, masks in case.numbered("drop_mask").items()
    }

    def merged(scaling: float, some: Any) -> dict[str, Tensor]:
        with recorded(kept):
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
    params = case.params
    models = case.numbered("theta")
    with recorded(case.numbered("mask")):
        merged = merge_tensors(
            method=params["method"],
            options={
                "density": float(params["density"]),
                "scaling_factor": float(params["lambda_"]),
                "weights": dict(zip(sorted(models, key=int), map(float, params["weights"]), strict=True)),
                "normalize": params["normalize"],
                "rescale": "l1" if params["rescale"] else "none",
            },
            base=case.groups["in/theta0"],
            models=models,
            extras={},
        )
    return {"theta": merged}


@contextmanager
def recorded(kept: dict[str, dict[str, Tensor]]) -> Iterator[None]:
    """Give DARE recorded masks, 1 = keep, where it would draw; the kernels, which draw themselves, rest."""

    def bernoulli(keep: float, like: Tensor, *, seed: int, task: str, parameter: Any) -> Tensor:
        start = parameter.start
        mask = kept[task][parameter.name].flatten()[start : start + like.numel()]
        return mask.reshape(like.shape).to(like.dtype)

    with (
        patch.object(_dare, "bernoulli", bernoulli),
        patch.object(kernels, "can_fuse", lambda *tensors: False),
    ):
        yield


def matches(name: str, patterns: list[str]) -> bool:
    return any(re.match(pattern, name) for pattern in patterns)
