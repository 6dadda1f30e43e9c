"""Runs of team-approx-bayes/ivon with the noise that it drew."""

import math
from typing import Any

import torch
from merging.training.ivon import HESS, MOMENTUM, Ivon, IvonOptions
from torch import Tensor, nn
from torch.nn import functional

PREFIXES = ("ivon",)
NAMES = (
    "ess",
    "hess_init",
    "beta1",
    "beta2",
    "weight_decay",
    "mc_samples",
    "debias",
    "rescale_lr",
    "hess_approx",
)


def run(case: Any) -> dict[str, dict[str, Tensor]]:
    params, data = case.params, case.groups["in/data"]
    radius = params["clip_radius"]
    options = IvonOptions(
        **{name: params[name] for name in NAMES}, clip_radius=math.inf if radius is None else float(radius)
    )
    theta = {name: nn.Parameter(value.clone()) for name, value in case.groups["in/theta0"].items()}
    parameters = [theta[name] for name in ("weight", "bias") if name in theta]
    optimizer = Ivon(parameters, lr=params["lr"], seed=0, options=options)
    (noise,) = case.groups["in/noise"].values()
    found: dict[str, list[Tensor]] = {"params": [], "hess": [], "momentum": []}
    draws = iter(noise)
    for _ in range(params["steps"]):
        for _ in range(options.mc_samples):
            with optimizer.sampled(unflatten(next(draws), parameters)):
                logits = functional.linear(data["x"], *parameters).squeeze(-1)
                functional.binary_cross_entropy_with_logits(logits, data["y"]).backward()
        optimizer.step()
        found["params"].append(flat(parameters))
        found["hess"].append(flat([optimizer.state[p][HESS] for p in parameters]))
        found["momentum"].append(flat([optimizer.state[p][MOMENTUM] for p in parameters]))
    result = {key: {"": torch.stack(values)} for key, values in found.items()}
    return result | {"posterior_precision": {"": flat([optimizer.precision(p) for p in parameters])}}


def flat(tensors: list[Any]) -> Tensor:
    return torch.cat([tensor.detach().flatten() for tensor in tensors])


def unflatten(vector: Tensor, like: list[Any]) -> list[Tensor]:
    pieces = vector.split([tensor.numel() for tensor in like])
    return [piece.view_as(tensor) for piece, tensor in zip(pieces, like, strict=True)]
