"""Merging that learns from unlabelled inputs."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from sisyphus import Job, Task, gs, tk


class _AdaptationJob(Job):
    """What these jobs share: one task, and a progress file."""

    rqmt: dict[str, float]

    def tasks(self) -> Iterator[Task]:
        yield Task("run", resume="run", rqmt=self.rqmt)

    def info(self) -> str | None:
        from merging import progress

        return progress.describe(progress.last(self._progress_file()))

    def completed_fraction(self) -> float | None:
        from merging import progress

        return progress.fraction(progress.last(self._progress_file()))

    def _progress_file(self) -> Path:
        return Path(self._sis_path(gs.JOB_WORK_DIR)) / "progress.jsonl"


class AdaMergingJob(_AdaptationJob):
    """Learn the coefficients of a merge on unlabelled inputs, and merge with them.

    Args:
        task_type: name of a file in ``merging/tasks``.
        base: model folder that all models were fine-tuned from.
        models: model folder of each fine-tuned model, by task.
        data: inputs of each task to learn from, by task; their labels are not looked at. A test split is
            refused unless the options allow it.
        options: fields of ``merging.adaptation.options.AdaMergingOptions``.
        seed: of the batches.
        policy: fields of ``merging.merge.policy.Policy``; each task keeps its head unless it says otherwise.
    """

    def __init__(
        self,
        *,
        task_type: str,
        base: tk.Path,
        models: Mapping[str, tk.Path],
        data: Mapping[str, Any],
        options: Mapping[str, Any],
        seed: int,
        policy: Mapping[str, Any] | None = None,
    ):
        from merging.adaptation.options import AdaMergingOptions
        from merging.merge.policy import Policy
        from merging.options import parse

        _check(task_type, models, data, parse(AdaMergingOptions, options, owner="AdaMergingJob"), seed)
        parse(Policy, policy or {}, owner="policy")
        self.task_type, self.base, self.models = task_type, base, models
        self.data, self.options, self.seed, self.policy = data, options, seed, policy
        self.rqmt = {"cpu": 1, "mem": 8, "time": 4}  # mem in GB, time in hours
        self.out_model = self.output_path("model", directory=True)
        self.out_record = self.output_path("model/adaptation.json")

    def run(self) -> None:
        from merging.adaptation.run import adapt

        adapt(
            task_type=self.task_type,
            base=self.base,
            models=self.models,
            data=self.data,
            options=self.options,
            seed=self.seed,
            out=self.out_model,
            policy=self.policy,
            progress="progress.jsonl",
        )


class SurgeryJob(_AdaptationJob):
    """Learn a correction of a merged model's features for each task, on unlabelled inputs.

    Args:
        task_type: name of a file in ``merging/tasks``.
        model: merged model folder.
        models: model folder of each fine-tuned model, by task.
        data: inputs of each task to learn from, by task, as for :class:`AdaMergingJob`.
        options: fields of ``merging.adaptation.options.SurgeryOptions``.
        seed: of the batches, and of where the corrections start.
    """

    def __init__(
        self,
        *,
        task_type: str,
        model: tk.Path,
        models: Mapping[str, tk.Path],
        data: Mapping[str, Any],
        options: Mapping[str, Any],
        seed: int,
    ):
        from merging.adaptation.options import SurgeryOptions
        from merging.options import parse

        _check(task_type, models, data, parse(SurgeryOptions, options, owner="SurgeryJob"), seed)
        self.task_type, self.model, self.models = task_type, model, models
        self.data, self.options, self.seed = data, options, seed
        self.rqmt = {"cpu": 1, "mem": 8, "time": 4}  # mem in GB, time in hours
        self.out_model = self.output_path("model", directory=True)

    def run(self) -> None:
        from merging.adaptation.run_surgery import operate

        operate(
            task_type=self.task_type,
            model=self.model,
            models=self.models,
            data=self.data,
            options=self.options,
            seed=self.seed,
            out=self.out_model,
            progress="progress.jsonl",
        )


class WemoeJob(_AdaptationJob):
    """Merge by task arithmetic, and learn gates that choose between the MLPs of all tasks.

    Args:
        task_type: name of a file in ``merging/tasks``.
        base: model folder that all models were fine-tuned from.
        models: model folder of each fine-tuned model, by task.
        data: inputs of each task to learn from, by task, as for :class:`AdaMergingJob`.
        options: fields of ``merging.adaptation.options.WemoeOptions``.
        seed: of the batches and the gates.
        policy: fields of ``merging.merge.policy.Policy``; each task keeps its head unless it says otherwise.
    """

    def __init__(
        self,
        *,
        task_type: str,
        base: tk.Path,
        models: Mapping[str, tk.Path],
        data: Mapping[str, Any],
        options: Mapping[str, Any],
        seed: int,
        policy: Mapping[str, Any] | None = None,
    ):
        from merging.adaptation.options import WemoeOptions
        from merging.merge.policy import Policy
        from merging.options import parse

        _check(task_type, models, data, parse(WemoeOptions, options, owner="WemoeJob"), seed)
        parse(Policy, policy or {}, owner="policy")
        self.task_type, self.base, self.models = task_type, base, models
        self.data, self.options, self.seed, self.policy = data, options, seed, policy
        self.rqmt = {"cpu": 1, "mem": 8, "time": 4}  # mem in GB, time in hours
        self.out_model = self.output_path("model", directory=True)

    def run(self) -> None:
        from merging.adaptation.run_wemoe import upscale_and_learn

        upscale_and_learn(
            task_type=self.task_type,
            base=self.base,
            models=self.models,
            data=self.data,
            options=self.options,
            seed=self.seed,
            out=self.out_model,
            policy=self.policy,
            progress="progress.jsonl",
        )


def _check(task_type: str, models: Mapping[str, tk.Path], data: Any, options: Any, seed: int) -> None:
    """Refuse what an adaptation would refuse, as far as no model and no data are needed."""
    from merging import tasks
    from merging.adaptation.options import check_unlabelled
    from merging.options import check_seed

    tasks.load(task_type)
    check_unlabelled(data, models, options)
    check_seed(seed, owner="adaptation")
