"""Merging that learns from unlabelled inputs."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from sisyphus import Job, Task, gs, tk


class AdaMergingJob(Job):
    """Learn the coefficients of a merge on unlabelled inputs, and merge with them.

    Args:
        task_type: name of a file in ``merging/tasks``.
        base: model folder that all models were fine-tuned from.
        models: model folder of each fine-tuned model, by task.
        data: inputs of each task to learn from, by task; their labels are not looked at. A test split is
            refused unless the options allow it.
        options: fields of ``merging.adaptation.options.AdaMergingOptions``.
        seed: of the batches.
        policy: fields of ``merging.policy.Policy``; each task keeps its head unless it says otherwise.
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
        from merging import tasks
        from merging.adaptation.options import AdaMergingOptions, check_unlabelled
        from merging.options import check_seed, parse
        from merging.policy import Policy

        tasks.load(task_type)
        check_unlabelled(data, models, parse(AdaMergingOptions, options, owner="AdaMergingJob"))
        check_seed(seed, owner="AdaMergingJob")
        parse(Policy, policy or {}, owner="policy")
        self.task_type, self.base, self.models = task_type, base, models
        self.data, self.options, self.seed, self.policy = data, options, seed, policy
        self.rqmt = {"cpu": 1, "mem": 8, "time": 4}  # mem in GB, time in hours
        self.out_model = self.output_path("model", directory=True)
        self.out_record = self.output_path("model/adaptation.json")

    def tasks(self) -> Iterator[Task]:
        yield Task("run", resume="run", rqmt=self.rqmt)

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

    def info(self) -> str | None:
        from merging import progress

        return progress.describe(progress.last(self._progress_file()))

    def completed_fraction(self) -> float | None:
        from merging import progress

        return progress.fraction(progress.last(self._progress_file()))

    def _progress_file(self) -> Path:
        return Path(self._sis_path(gs.JOB_WORK_DIR)) / "progress.jsonl"
