"""Curvature of a trained model at its own optimum."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from sisyphus import Job, Task, gs, tk

from recipe import processes


class HessianJob(Job):
    """Estimate statistics of a model's curvature; one estimate serves any number of merges.

    A killed estimate goes on from what it had saved. With more than one GPU (``{"gpu": 2}`` in its
    requirements), or node (``{"multi_node_slots": 2}``), the examples are shared between them.

    Args:
        estimator: name of a file in ``merging/hessians``: a diagonal, Gram matrices, K-FAC factors, ...
        statistics: instead of it, several such names, in any order, that share one pass over the data.
        task_type: name of a file in ``merging/tasks``.
        model: model folder.
        data: the training set of the model, or a list of them; its size is kept with the estimate.
        options: fields of ``merging.hessians.options.HessianOptions``.
        seed: of the choice of examples and of drawn labels.

    Outputs: ``out_hessians`` by name of the estimator; ``out_hessian`` is the only one, or the folder that
    holds them all, of which merges take what fits.
    """

    def __init__(
        self,
        *,
        estimator: str | None = None,
        statistics: Sequence[str] | None = None,
        task_type: str,
        model: tk.Path,
        data: Any,
        options: Mapping[str, Any],
        seed: int,
    ):
        from merging import hessians, tasks
        from merging.data.splits import check_dataset
        from merging.options import check_seed

        names = hessians.chosen(estimator, statistics)
        tasks.load(task_type)
        check_dataset(data)
        hessians.check_call(names, options)
        check_seed(seed, owner="HessianJob")
        self.estimator, self.statistics = estimator, statistics
        self.task_type, self.model = task_type, model
        self.data, self.options, self.seed = data, options, seed
        self.rqmt = {"cpu": 1, "mem": 4, "time": 2}  # mem in GB, time in hours
        self.out_hessian = self.output_path("hessian", directory=True)
        self.out_hessians = {
            name: self.out_hessian
            if statistics is None
            else self.output_path(f"hessian/{name}", directory=True)
            for name in names
        }

    @classmethod
    def hash(cls, parsed_args: dict[str, Any]) -> str:
        """Without what changes speed and memory, but not the estimate; statistics in no order."""
        from merging.hessians.options import WITHOUT_INFLUENCE

        options = {key: its for key, its in parsed_args["options"].items() if key not in WITHOUT_INFLUENCE}
        arguments = {**parsed_args, "options": options}
        if arguments["statistics"] is None:
            del arguments["statistics"]
        else:
            arguments["statistics"] = sorted(arguments["statistics"])
            del arguments["estimator"]
        return str(super().hash(arguments))

    def tasks(self) -> Iterator[Task]:
        yield Task("run", resume="run", rqmt=self.rqmt)

    def run(self) -> None:
        arguments = {
            "estimator": self.estimator,
            "statistics": self.statistics,
            "task_type": self.task_type,
            "model": self.model,
            "data": self.data,
            "options": self.options,
            "seed": self.seed,
            "out": self.out_hessian,
            "work": "estimate",
        }
        if (several := processes.of_this_task()).total > 1:
            processes.launch("hessian", arguments, several)
        else:
            from merging.hessians.estimate import estimate

            estimate(**arguments)

    def info(self) -> str | None:
        from merging import progress

        return progress.describe(progress.last(self._progress_file()))

    def completed_fraction(self) -> float | None:
        from merging import progress

        return progress.fraction(progress.last(self._progress_file()))

    def _progress_file(self) -> Path:
        return Path(self._sis_path(gs.JOB_WORK_DIR)) / "estimate" / "progress.jsonl"
