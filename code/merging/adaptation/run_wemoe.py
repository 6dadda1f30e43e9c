"""WEMoE from end to end: model folders and unlabelled data in, a merged model with gated MLPs out."""

from __future__ import annotations

import dataclasses
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from merging import tasks
from merging.adaptation import wemoe_files
from merging.adaptation.batches import Inputs
from merging.adaptation.entropy import mean_entropy
from merging.adaptation.networks import leave_out_made_heads, task_networks
from merging.adaptation.options import WemoeOptions, check_unlabelled
from merging.adaptation.progress import Progress
from merging.adaptation.run import keep_task_vectors
from merging.adaptation.wemoe import Gate, find_mlps, upscale, width_of
from merging.data import splits
from merging.errors import CheckpointError, DivergenceError
from merging.merge.streaming import check_output, open_merge
from merging.options import check_seed, parse


def upscale_and_learn(
    *,
    task_type: str,
    base: str | os.PathLike[str],
    models: Mapping[str, str | os.PathLike[str]],
    data: Mapping[str, Any],
    options: Mapping[str, Any],
    seed: int,
    out: str | os.PathLike[str],
    policy: Mapping[str, Any] | None = None,
    output: Mapping[str, Any] | None = None,
    progress: str | os.PathLike[str] | None = None,
) -> None:
    """Train gates on unlabelled inputs, and publish task arithmetic's model with gates and task vectors.

    Runs on the GPU if there is one. ``merging.evaluation`` runs the gates; whatever does not know them runs
    the model of task arithmetic.

    Args:
        task_type: a file in ``tasks/``.
        base: model folder that all models were fine-tuned from.
        models: model folder of each task, with the head that the task is run through.
        data: inputs of each task to learn from, see :func:`merging.data.splits.check_dataset`. Labels are
            not looked at. Not the test set, see ``allow_test_split``.
        options: fields of :class:`merging.adaptation.options.WemoeOptions`.
        seed: of the batches and of the gates' first weights.
        out: model folder to publish, with ``wemoe.safetensors`` and ``wemoe.json``.
        policy: fields of ``merging.merge.policy.Policy``; ``head`` is "per_task" unless it says otherwise.
        output: fields of ``merging.merge.output_options.OutputOptions``.
        progress: file to which a JSON line is added every second.

    Raises:
        MergingError: its subclasses, before compute where that is possible.
    """
    parsed = parse(WemoeOptions, options, owner="wemoe")
    check_seed(seed, owner="wemoe")
    check_unlabelled(data, models, parsed)
    check_output(Path(out), {"base": Path(base)} | {task: Path(its) for task, its in models.items()})
    opened = open_merge(
        method="task_arithmetic",
        options={"scaling_factor": parsed.initial},
        base=base,
        models=models,
        extras={},
        policy={"head": "per_task", **(policy or {})},
        output=output,
    )
    tensors, vectors = keep_task_vectors(opened.call, opened.plan, opened.inputs)
    merged = {
        name: its + parsed.initial * vectors[name].sum(0) if name in vectors else its
        for name, its in tensors.items()
    }
    merged |= {name: merged[kept] for name, kept in opened.plan.tied.items()}
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    networks = task_networks(task_type, opened, merged, device)
    gates, used = _put_gates(networks, vectors, parsed, seed, device)
    task = tasks.load(task_type)
    assert opened.files_from is not None
    processor = task.load_processor(model=str(opened.files_from))
    inputs = {
        name: Inputs(
            dataset,
            name=name,
            task_type=task_type,
            task=task,
            processor=processor,
            max_tokens=parsed.max_tokens,
            seed=seed,
        )
        for name, dataset in sorted(data.items())
    }
    report = Progress(progress, num_steps=parsed.num_steps)
    curve = _learn(networks, gates, inputs, task, parsed, device, report)
    record = {
        "tasks": list(opened.call.tasks),
        "settings": dataclasses.asdict(parsed),
        "task_type": task_type,
        "seed": seed,
        "data": {name: splits.describe(its) for name, its in sorted(data.items())},
        "curve": curve,
    }
    leave_out_made_heads(task_type, opened)
    opened.write(out, finish=lambda folder: wemoe_files.save(folder, gates, used, record))


def _put_gates(
    networks: Mapping[str, Any],
    vectors: Mapping[str, Tensor],
    options: WemoeOptions,
    seed: int,
    device: torch.device,
) -> tuple[dict[str, Gate], dict[str, Tensor]]:
    """Give all networks one set of gates and one set of task vectors.

    Returns:
        Gates in the order of the MLPs, and task vectors by name in the model's files.
    """
    first = next(iter(networks.values()))
    num_tasks = len(networks)
    gates, experts, used = {}, {}, {}
    for number, mlp in enumerate(find_mlps(first)):
        gates[mlp.entry] = Gate(
            width_of(first, mlp), num_tasks, options.depth, initial=options.initial, seed=[seed, number]
        ).to(device)
        for name, stored in wemoe_files.parameter_names(first, mlp).items():
            if stored not in vectors:
                raise CheckpointError(
                    f"wemoe: {stored} is not merged by the policy, but belongs to the MLP {mlp.entry}. "
                    "Don't exclude parts of MLPs."
                )
            used[stored] = vectors[stored]
            experts[name] = vectors[stored].to(device)
    for network in dict.fromkeys(networks.values()):
        upscale(network, experts, gates, options, offset=options.initial)
    return gates, used


def _learn(
    networks: Mapping[str, Any],
    gates: Mapping[str, Gate],
    inputs: Mapping[str, Inputs],
    task: Any,
    options: WemoeOptions,
    device: torch.device,
    report: Progress,
) -> list[dict[str, float]]:
    """Minimise the entropy of predictions; returns that of each task, step by step."""
    parameters = [its for gate in gates.values() for its in gate.parameters()]
    optimizer = torch.optim.Adam(parameters, lr=options.learning_rate, betas=options.betas)
    curve = []
    for step in range(options.num_steps):
        if options.schedule == "cosine":
            share = (1 + math.cos(math.pi * step / options.num_steps)) / 2
            optimizer.param_groups[0]["lr"] = options.learning_rate * share
        optimizer.zero_grad()
        entropies = {}
        for name, its in inputs.items():
            columns, mask = its.batch(step, 0, options.batch_size, device)
            loss = mean_entropy(task.scores(networks[name], columns), mask)
            loss.backward()  # type: ignore[no-untyped-call]
            entropies[name] = float(loss.detach())
        if not math.isfinite(sum(entropies.values())):
            raise DivergenceError(
                f"wemoe: entropies are {entropies} at step {step}. Lower learning_rate "
                f"({options.learning_rate}) or initial ({options.initial})."
            )
        optimizer.step()
        curve.append(entropies)
        report.advance(sum(entropies.values()))
    return curve
