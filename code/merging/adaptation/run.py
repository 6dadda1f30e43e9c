"""AdaMerging from end to end: model folders and unlabelled data in, coefficients and a merged model out."""

from __future__ import annotations

import dataclasses
import glob
import json
import os
import platform
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import torch
import transformers
from torch import Tensor

from merging import methods, tasks
from merging.adaptation.adamerging import Coefficients
from merging.adaptation.batches import Inputs
from merging.adaptation.entropy import CollapseMonitor, marginal, mean_entropy
from merging.adaptation.networks import leave_out_made_heads, share_parameters, stored_names, task_networks
from merging.adaptation.options import AdaMergingOptions, check_unlabelled
from merging.adaptation.progress import Progress
from merging.data import splits
from merging.errors import OptionError
from merging.merge.streaming import Call, OpenMerge, check_output, open_merge
from merging.merge.tensor_plan import Plan
from merging.options import check_seed, parse
from merging.sources import Source
from merging.sources.statistics import Statistic

RECORD_NAME = "adaptation.json"


def adapt(
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
    """Learn coefficients on unlabelled inputs, and publish the model that they give.

    Runs on the GPU if there is one. The folder also gets ``adaptation.json``: ``method`` and ``options`` of
    an ordinary merge with the coefficients, the course of the entropies, and whether it was stopped.

    Args:
        task_type: a file in ``tasks/``.
        base: model folder that all models were fine-tuned from.
        models: model folder of each task, with the head that the task is run through.
        data: inputs of each task to learn from, see :func:`merging.data.splits.check_dataset`. Labels are
            not looked at. Not the test set, see ``allow_test_split``.
        options: fields of :class:`merging.adaptation.options.AdaMergingOptions`.
        seed: of the batches; each depends on it, the step and the name of the task only.
        out: model folder to publish.
        policy: fields of ``merging.merge.policy.Policy``; ``head`` is "per_task" unless it says otherwise.
        output: fields of ``merging.merge.output_options.OutputOptions``.
        progress: file to which a JSON line is added every second.

    Raises:
        MergingError: its subclasses, before compute where that is possible.
    """
    started = time.monotonic()
    parsed = parse(AdaMergingOptions, options, owner="adamerging")
    check_seed(seed, owner="adamerging")
    check_unlabelled(data, models, parsed)
    check_output(Path(out), {"base": Path(base)} | {task: Path(its) for task, its in models.items()})
    call: dict[str, Any] = {
        "method": parsed.method,
        "base": base,
        "models": models,
        "extras": {},
        "policy": {"head": "per_task", **(policy or {})},
        "output": output,
    }
    opened = open_merge(**call, options=parsed.method_options(parsed.initial))
    if opened.alignment is not None:
        raise OptionError(
            "adamerging: policy vocabulary must be 'error'. Merge models with one tokenizer, or align them "
            "first."
        )
    inputs = _inputs(task_type, opened, data, parsed, seed)
    learner = Learner(task_type, opened, inputs, parsed)
    report = Progress(progress, num_steps=parsed.num_steps)
    for _ in range(parsed.num_steps):
        goes_on = learner.step()
        report.advance(sum(learner.curve[-1]["entropies"].values()))
        if not goes_on:
            break
    learned = parsed.method_options(learner.scaling_factor())
    record = {
        "method": parsed.method,
        "options": learned,
        "settings": dataclasses.asdict(parsed),
        "task_type": task_type,
        "seed": seed,
        "data": {task: splits.describe(its) for task, its in sorted(data.items())},
        "stopped": learner.stopped,
        "marginal_entropy": {"start": learner.monitor.start, "last": learner.monitor.last},
        "curve": learner.curve,
        "seconds": round(time.monotonic() - started, 3),
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "transformers": transformers.__version__,
        },
    }

    def finish(folder: Path) -> None:
        text = json.dumps(record, indent=2) + "\n"
        (folder / RECORD_NAME).write_text(text, encoding="utf-8")

    merge = open_merge(**call, options=learned)
    leave_out_made_heads(task_type, merge)
    merge.write(out, finish=finish)


class Learner:
    """Coefficients in training on the networks of all tasks, which share the merged body."""

    def __init__(
        self, task_type: str, opened: OpenMerge, inputs: Mapping[str, Inputs], options: AdaMergingOptions
    ) -> None:
        """Read the models and put the merged body under every head.

        Args:
            task_type: a file in ``tasks/``.
            opened: a merge by ``options.method``.
            inputs: unlabelled inputs of each task.
            options: how to learn.
        """
        self._task = tasks.load(task_type)
        self._inputs = dict(sorted(inputs.items()))
        self._options = options
        self._device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        tensors, vectors = keep_task_vectors(opened.call, opened.plan, opened.inputs)
        self._networks = task_networks(task_type, opened, tensors, self._device)
        first = next(iter(self._networks.values()))
        names = stored_names(first, {name: tensors[name] for name in vectors})
        used = sorted(set(names.values()))
        place = self._device if self._has_room(vectors) else torch.device("cpu")
        self.coefficients = Coefficients(
            {name: tensors[name].to(self._device) for name in used},
            {name: vectors[name].reshape(len(opened.call.tasks), -1).to(place) for name in used},
            opened.call.tasks,
            options,
        )
        leaves = {name: self.coefficients.leaves[stored] for name, stored in names.items()}
        for network in dict.fromkeys(self._networks.values()):
            share_parameters(network, leaves)
        self.monitor = CollapseMonitor(window=options.monitor_steps, share=options.collapse)
        self.curve: list[dict[str, Any]] = []
        """By step: the mean entropy of each task, before the step."""
        self.stopped: dict[str, Any] | None = None
        """Where and why it stopped early, or None."""
        self._healthy = self.coefficients.raw.detach().clone()

    def step(self) -> bool:
        """One step of Adam on one or more batches of every task.

        Returns:
            False where the predictions of a task have collapsed: coefficients are then those of the end of
            the last window in which they had not.
        """
        number = len(self.curve)
        marginals: dict[str, Tensor] = {}
        entropies: dict[str, Tensor] = {}

        def losses() -> Iterator[Tensor]:
            for task, inputs in self._inputs.items():
                for batch in range(self._options.batches_per_step):
                    columns, mask = inputs.batch(number, batch, self._options.batch_size, self._device)
                    scores = self._task.scores(self._networks[task], columns)
                    loss = mean_entropy(scores, mask)
                    share = 1 / self._options.batches_per_step
                    marginals[task] = marginals.get(task, 0) + share * marginal(scores, mask)
                    entropies[task] = entropies.get(task, 0) + share * loss.detach()
                    yield loss

        self.coefficients.step(losses())
        values = torch.stack(list(entropies.values())).tolist()
        self.curve.append(
            {"step": number, "entropies": dict(zip(entropies, map(float, values), strict=True))}
        )
        collapsed = self.monitor.add(marginals)
        if collapsed is not None:
            self.coefficients.raw.data.copy_(self._healthy)
            self.coefficients.merge()
            self.stopped = {"step": number, "task": collapsed, "reason": "collapse"}
        elif self.monitor.is_window_end:
            self._healthy = self.coefficients.raw.detach().clone()
        return collapsed is None

    def scaling_factor(self) -> Any:
        """The coefficients as an option of the merge method: by task, or by tensor and task."""
        if self._options.granularity == "task":
            return self.coefficients.by_task()
        entries: list[dict[str, Any]] = [
            {"filter": glob.escape(name), "value": value}
            for name, value in self.coefficients.by_tensor().items()
        ]
        unused = dict.fromkeys(self.coefficients.tasks, self._options.initial)
        return [*entries, {"value": unused}]  # tensors that no task's network reads

    def _has_room(self, vectors: Mapping[str, Tensor]) -> bool:
        """Whether all task vectors fit beside what a step needs; else they are fetched each time."""
        if self._device.type != "cuda":
            return True
        free, _ = torch.cuda.mem_get_info(self._device)
        return 2 * sum(its.numel() * its.element_size() for its in vectors.values()) < free


def keep_task_vectors(
    call: Call, plan: Plan, inputs: Mapping[str, Source | Statistic]
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Read a merge's inputs through the engine, with all that its policy says, and keep the task vectors.

    Args:
        call: by the method "task_arithmetic", or "task_arithmetic_ties", whose vectors are then processed.
        plan: of the merge.
        inputs: of the merge, by label.

    Returns:
        All tensors of the merge with coefficients 0, and tau_t of what is merged: (T, *shape), tasks sorted.
        Both float32, in memory.
    """
    shapes = {name: call.template(inputs).tensors[name].shape for name in plan.merged}
    vectors = {name: torch.empty(len(call.tasks), *shape) for name, shape in shapes.items()}
    processed = getattr(methods.load(call.method), "task_vectors", None)

    def keep(base: Tensor, models: Mapping[str, Tensor], parameter: Any, summary: Any) -> Tensor:
        if processed is not None:
            found = processed(base, models, summary, parameter)
        else:
            found = {task: model - base for task, model in models.items()}
        end = parameter.start + parameter.size
        for row, task in enumerate(call.tasks):
            vectors[parameter.name][row].view(-1)[parameter.start : end] = found[task].view(-1)
        return base

    # A merge method whose merged model is the base.
    hooks = {key: value for key, value in vars(call.module).items() if key in ("granularity", "summarize")}
    keeper = SimpleNamespace(
        merge=lambda base, models, parameter, summary, options: keep(base, models, parameter, summary),
        **hooks,
    )
    merge = dataclasses.replace(call, module=cast(Any, keeper)).start(plan, inputs, dtype="F32")
    return merge.tensors(plan.names), vectors


def _inputs(
    task_type: str, opened: OpenMerge, data: Mapping[str, Any], options: AdaMergingOptions, seed: int
) -> dict[str, Inputs]:
    """Unlabelled inputs of each task, as the merged model's processor encodes them."""
    task = tasks.load(task_type)
    assert opened.files_from is not None
    processor = task.load_processor(model=str(opened.files_from))
    return {
        name: Inputs(
            dataset,
            name=name,
            task_type=task_type,
            task=task,
            processor=processor,
            max_tokens=options.max_tokens,
            seed=seed,
        )
        for name, dataset in sorted(data.items())
    }
