"""Diagonal Fishers of UKPLab/iclr2024-model-merging, mmatena/model_merging, and of a plain autograd loop."""

import re
from functools import partial
from typing import Any

import torch
from merging import hessians
from merging.hessians._per_example import SquaredGradients
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForSequenceClassification

PREFIXES = ("fisher_mc", "fisher_empirical", "fisher_exact", "matena_exact")
BATCH_SIZE = 3  # the recordings are of any; ours must not care, nor that the last batch is smaller


def run(case: Any) -> dict[str, dict[str, Tensor]]:
    data = dict(case.groups["in/data"])
    labels = data.pop("labels", None)
    if "in/sampled_labels" in case.groups:  # the draws are recorded: then they are given labels
        (labels,) = case.groups["in/sampled_labels"].values()
    estimator = hessians.load("fisher_exact" if "exact" in case.params["kind"] else "fisher_empirical")

    model = transformer(case) if "config" in case.params else Perceptron(case)
    squares = SquaredGradients(
        model.eval(), lambda model, batch: getattr(out := model(**batch), "logits", out)
    )
    for start in range(0, len(next(iter(data.values()))), BATCH_SIZE):
        rows = slice(start, start + BATCH_SIZE)
        cotangents = partial(
            estimator.cotangents,
            labels=None if labels is None else labels[rows],
            examples=(),
            num_samples=1,
            seed=0,
        )
        squares.add({key: value[rows] for key, value in data.items()}, cotangents)
    return {"fisher": {name: total / squares.num_examples for name, total in squares.sums.items()}}


def transformer(case: Any) -> nn.Module:
    config = AutoConfig.for_model(**case.params["config"])
    model: nn.Module = AutoModelForSequenceClassification.from_config(config)
    model.load_state_dict(dict(case.groups["in/theta"]))
    return model


class Perceptron(nn.Module):
    """``logits = g(f(x w1 + b1) w2 + b2) w3 + b3``, of any depth; read from the text of the case."""

    def __init__(self, case: Any) -> None:
        super().__init__()
        formula = case.params["model"].partition(" (")[0]
        self.activations = [getattr(torch, name) for name in reversed(re.findall(r"(\w+)\(", formula))]
        for name, value in case.groups["in/theta"].items():
            self.register_parameter(name, nn.Parameter(value.clone()))

    def forward(self, x: Tensor) -> Tensor:
        parameters = dict(self.named_parameters())
        for layer, activation in enumerate([*self.activations, None], start=1):
            x = x @ parameters[f"w{layer}"]
            if f"b{layer}" in parameters:
                x = x + parameters[f"b{layer}"]
            x = x if activation is None else activation(x)
        return x
