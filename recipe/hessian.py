"""Curvature of a trained model at its own optimum."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from sisyphus import Job, Task, gs, tk


class HessianJob(Job):
    """Estimate a statistic of a model's curvature; one estimate serves any number of merges.

    Args:
        estimator: name of a file in ``merging/hessians``: a diagonal, Gram matrices, K-FAC factors, ...
        task_type: name of a file in ``merging/tasks``.
        model: model folder.
        data: the training set of the model, or a list of them; its size is kept with the estimate.
        options: fields of ``merging.hessians.options.HessianOptions``.
        seed: of the choice of examples and of drawn labels.
    """

    def __init__(
        self,
        *,
        estimator: str,
        task_type: str,
        model: tk.Path,
        data: Any,
        options: Mapping[str, Any],
        seed: int,
    ):
        from merging import hessians, tasks
        from merging.data.splits import check_dataset
        from merging.options import check_seed

        tasks.load(task_type)
        check_dataset(data)
        hessians.check_call(estimator, options)
        check_seed(seed, owner="HessianJob")
        self.estimator, self.task_type, self.model = estimator, task_type, model
        self.data, self.options, self.seed = data, options, seed
        self.rqmt = {"cpu": 1, "mem": 4, "time": 2}  # mem in GB, time in hours
        self.out_hessian = self.output_path("hessian", directory=True)

    @classmethod
    def hash(cls, parsed_args: dict[str, Any]) -> str:
        """Without the batch size: it changes speed and memory, not the estimate."""
        options = {key: value for key, value in parsed_args["options"].items() if key != "batch_size"}
        return str(super().hash({**parsed_args, "options": options}))

    def tasks(self) -> Iterator[Task]:
        yield Task("run", resume="run", rqmt=self.rqmt)

    def run(self) -> None:
        from merging.hessians.estimate import estimate

        estimate(
            estimator=self.estimator,
            task_type=self.task_type,
            model=self.model,
            data=self.data,
            options=self.options,
            seed=self.seed,
            out=self.out_hessian,
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
