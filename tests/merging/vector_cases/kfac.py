"""K-FAC factors of r-three/mats: a network over tokens, whose outputs are averaged over those of the mask."""

import re
from functools import partial
from typing import Any

import torch
from merging.hessians import kfac_empirical
from merging.hessians._factors import FactorSums
from torch import Tensor, nn

PREFIXES = ("kfac_factors",)
BATCH_SIZE = 3  # the recording is of 1; ours must not care


def run(case: Any) -> dict[str, dict[str, Tensor]]:
    data = case.groups["in/data"]
    labels, inputs = data["labels"], {"x": data["x"], "attention_mask": data["mask"]}
    sums = FactorSums(Tokens(case).eval(), lambda model, batch: model(**batch), outputs=True)
    for start in range(0, len(labels), BATCH_SIZE):
        rows = slice(start, start + BATCH_SIZE)
        cotangents = partial(
            kfac_empirical.cotangents, labels=labels[rows], examples=(), num_samples=1, seed=0
        )
        sums.add({key: value[rows] for key, value in inputs.items()}, cotangents)
    by = "positions" if "number of unmasked tokens" in case.params["normalisation"] else "examples"
    means = {name.removesuffix(".weight"): pair for name, pair in sums.means(outputs_by=by).items()}
    return {
        "A": {name: inputs for name, (inputs, _) in means.items()},
        "G": {name: outputs for name, (_, outputs) in means.items() if outputs is not None},
    }


class Tokens(nn.Module):
    """``tanh(l1) -> l2, masked mean over tokens``, of any depth; read from the text of the case."""

    def __init__(self, case: Any) -> None:
        super().__init__()
        chain = case.params["model"].partition(":")[2].partition(",")[0].split("->")
        self.activations = [re.match(r"\s*(\w+)\(", step) for step in chain]
        weights = case.groups["in/theta"]
        self.names = sorted(name.removesuffix(".weight") for name in weights if name.endswith(".weight"))
        for name in self.names:
            weight, bias = weights[f"{name}.weight"], weights.get(f"{name}.bias")
            layer = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None)
            layer.load_state_dict({"weight": weight} | ({} if bias is None else {"bias": bias}))
            parent: nn.Module = self
            *parents, last = name.split(".")
            for part in parents:
                if not hasattr(parent, part):
                    parent.add_module(part, nn.Module())
                parent = parent.get_submodule(part)
            parent.add_module(last, layer)

    def forward(self, x: Tensor, attention_mask: Tensor) -> Tensor:
        for name, activation in zip(self.names, self.activations, strict=True):
            x = self.get_submodule(name)(x)
            x = x if activation is None else getattr(torch, activation[1])(x)
        mask = attention_mask.unsqueeze(-1).to(x.dtype)
        return (x * mask).sum(1) / mask.sum(1)
