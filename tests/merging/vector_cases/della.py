"""DELLA of arcee-ai/mergekit, with the masks that were drawn there."""

from collections.abc import Mapping
from typing import Any
from unittest.mock import patch

import torch
from merging.merge.streaming import merge_tensors
from merging.methods import _della
from torch import Tensor

PREFIXES = ("mk_della",)


def run(case: Any) -> dict[str, dict[str, Tensor]]:
    params = case.params
    models = case.numbered("theta")
    epsilon = float(params["epsilon"])  # with density 1 mergekit keeps everything, whatever it is
    masks, probabilities = case.numbered("mask"), case.numbered("keep_prob")

    def bernoulli(keep: Tensor, like: Tensor, *, seed: int, task: str, parameter: Any) -> Tensor:
        """The recorded mask, where ours would be drawn; the probabilities have to agree, too."""

        def piece(recorded: Mapping[str, Mapping[str, Tensor]]) -> Tensor:
            flat = recorded[task][parameter.name].flatten()
            return flat[parameter.start : parameter.start + like.numel()].reshape(like.shape).to(like.dtype)

        torch.testing.assert_close(keep, piece(probabilities))
        return piece(masks)

    with patch.object(_della, "bernoulli", bernoulli):
        merged = merge_tensors(
            method=params["method"],
            options={
                "density": float(params["density"]),
                "epsilon": epsilon if params["density"] < 1 else 0.0,
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
