"""AdaMerging and surgery of EnnengYang, on the batches that they saw; the forward pass of WEMoE."""

import re
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from merging.adaptation.adamerging import Coefficients
from merging.adaptation.entropy import mean_entropy
from merging.adaptation.options import AdaMergingOptions, SurgeryOptions, WemoeOptions
from merging.adaptation.run import keep_task_vectors
from merging.adaptation.surgery import Surgery, SurgeryTraining
from merging.adaptation.wemoe import Gate, upscale
from merging.merge.streaming import Call
from torch import Tensor, nn
from torch.nn import functional

PREFIXES = ("adamerging", "surgery", "wemoe")


class QuickGELU(nn.Module):
    """CLIP's approximation of GELU."""

    def forward(self, x: Tensor) -> Tensor:
        return x * (1.702 * x).sigmoid()


ACTIVATIONS: dict[str, type[nn.Module]] = {
    "GELU": nn.GELU,
    "QuickGELU": QuickGELU,
    "ReLU": nn.ReLU,
    "Tanh": nn.Tanh,
    "SiLU": nn.SiLU,
}


def run(case: Any) -> dict[str, dict[str, Tensor]]:
    method = case.params["method"]
    return wemoe(case) if "wemoe" in method else surgery(case) if "surgery" in method else adamerging(case)


def surgery(case: Any) -> dict[str, dict[str, Tensor]]:
    assert case.params["optimizer"].startswith("one Adam over all tasks, one step per batch;")
    down, up = case.groups["in/down0"], case.groups["in/up0"]
    (merged,), (individual,) = (
        case.groups[f"in/features_{which}"].values() for which in ("merged", "individual")
    )
    options = SurgeryOptions(
        rank=case.params["rank"], learning_rate=case.params["lr"], num_steps=case.params["steps"]
    )
    tasks = sorted(down, key=lambda task: int(task.removeprefix("t")))
    training = SurgeryTraining({task: Surgery(down[task], up[task]) for task in tasks}, options)
    losses = [
        training.step(task, features, wanted)
        for step_merged, step_individual in zip(merged, individual, strict=True)
        for task, task_merged, task_individual in zip(tasks, step_merged, step_individual, strict=True)
        for features, wanted in zip(task_merged, task_individual, strict=True)
    ]
    return {
        "down": {task: its.down.detach() for task, its in training.modules.items()},
        "up": {task: its.up.detach() for task, its in training.modules.items()},
        "losses": {"": torch.tensor(losses)},
    }


def wemoe(case: Any) -> dict[str, dict[str, Tensor]]:
    params, theta0 = case.params, case.groups["in/theta0"]
    models = case.numbered("theta")
    order = sorted(models, key=int)
    (x,) = case.groups["in/x"].values()
    width = x.shape[-1]
    depth = params["router_hidden_layers"]
    gate = Gate(width, len(order), depth, initial=params["init_lambda"], seed=[0])
    router = case.groups["in/router"]
    gate.load_state_dict(router if depth > 0 else dict(zip(["constant"], router.values(), strict=True)))
    hidden = theta0["0.weight"].shape[0]
    activation = ACTIVATIONS[params["mlp"].split(", ")[1]]()
    network = nn.ModuleDict(
        {"mlp": nn.Sequential(nn.Linear(width, hidden), activation, nn.Linear(hidden, width))}
    )
    mlp = network["mlp"]
    mlp.load_state_dict(theta0)
    vectors = {
        f"mlp.{name}": torch.stack([models[task][name] - its for task in order])
        for name, its in theta0.items()
    }
    upscale(network, vectors, {"mlp": gate}, WemoeOptions(), batch_first=params["batch_first"])
    with torch.no_grad():
        recorded = case.groups["out/gate_per_token"][""]
        given = gate(x) if depth > 0 else gate.constant.expand_as(recorded)
        return {"y": {"": mlp(x)}, "gate_per_token": {"": given}}


def adamerging(case: Any) -> dict[str, dict[str, Tensor]]:
    params, base = case.params, case.groups["in/theta0"]
    models = case.numbered("theta")
    percent = params["ties_top_percent"]
    options = AdaMergingOptions(
        granularity="task" if "taskwise" in params["method"] else "tensor",
        plus=percent is not None,
        density=percent / 100 if percent is not None else 0.2,
        initial=float(params["init_coefficient"]),
        clamp=tuple(map(float, params["clamp"])) if params["clamp"] is not None else None,
        learning_rate=params["lr"],
        betas=tuple(map(float, re.findall(r"[\d.]+", params["optimizer"]))),
        num_steps=params["steps"],
    )
    call = Call.check(options.method, options.method_options(0.3), base, models, {}, None)
    inputs = call.in_memory(base, models, {})
    start, vectors = keep_task_vectors(call, call.plan(inputs), inputs)
    order = sorted(models, key=int)
    names = params["parameter_order"]
    places = [call.tasks.index(task) for task in order]
    coefficients = Coefficients(
        {name: start[name] for name in names},
        {name: vectors[name][places].flatten(1) for name in names},
        order,
        options,
    )
    raw, losses = [], []
    for step in case.groups["in/data"]["x"]:
        losses.append(coefficients.step(entropies(case, coefficients.leaves, step, order)))
        raw.append(coefficients.raw.detach().clone())
    return {
        "theta": {name: its.detach() for name, its in coefficients.leaves.items()},
        "lambdas_raw": {"": torch.stack(raw)},
        "losses": {"": torch.tensor(losses)},
    }


def entropies(case: Any, theta: Mapping[str, Tensor], x: Tensor, order: list[str]) -> Iterator[Tensor]:
    """Of every batch of one step, (T, batches, B, inputs)."""
    for task, batches in zip(order, x, strict=True):
        head = case.groups[f"in/head_t{task}"]
        for batch in batches:
            features = network(theta, batch)
            yield mean_entropy(functional.linear(features, head["weight"], head["bias"]))


def network(theta: Mapping[str, Tensor], x: Tensor) -> Tensor:
    """Two layers, a norm and tanh between them."""
    hidden = functional.linear(x, theta["fc1.weight"], theta["fc1.bias"])
    normed = functional.layer_norm(hidden, hidden.shape[-1:], theta["ln.weight"], theta["ln.bias"])
    return functional.linear(normed.tanh(), theta["fc2.weight"], theta["fc2.bias"])
