"""Fine-tuning, or training from scratch."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from sisyphus import Job, Task, gs, tk

from recipe import processes


class TrainJob(Job):
    """Train a model; a killed run goes on from its last checkpoint and ends with the same weights.

    With more than one GPU (``{"gpu": 2}`` in its requirements), or node (``{"multi_node_slots": 2}``), each
    batch is shared between them.

    Args:
        task_type: name of a file in ``merging/tasks``.
        model: folder of the model to start from, or None.
        architecture: settings of a new model, e.g. ``{"model_type": "vit", "hidden_size": 64}``, or None.
            Exactly one of ``model`` and ``architecture`` is given.
        data: training set, or a list of them: their concatenation.
        validation: set that chooses the best epoch, never a test set; None: the last epoch is taken.
        options: fields of ``merging.training.options.TrainingOptions``.
        seed: of initialization, order and dropout.
    """

    def __init__(
        self,
        *,
        task_type: str,
        model: tk.Path | None = None,
        architecture: Mapping[str, Any] | None = None,
        data: Any,
        validation: Any,
        options: Mapping[str, Any],
        seed: int,
    ):
        from merging import tasks
        from merging.data.splits import check_dataset
        from merging.errors import OptionError
        from merging.options import check_seed, parse
        from merging.training.options import TrainingOptions

        tasks.load(task_type)
        if (model is None) == (architecture is None):
            raise OptionError(
                "TrainJob: give exactly one of model (start from it) and architecture (a new one)."
            )
        check_dataset(data)
        if validation is not None:
            check_dataset(validation)
        parse(TrainingOptions, options, owner="TrainJob")
        check_seed(seed, owner="TrainJob")
        self.task_type, self.model, self.architecture = task_type, model, architecture
        self.data, self.validation, self.options, self.seed = data, validation, options, seed
        self.rqmt = {"cpu": 1, "mem": 4, "time": 4}  # mem in GB, time in hours
        self.out_model = self.output_path("model", directory=True)

    def tasks(self) -> Iterator[Task]:
        yield Task("run", resume="run", rqmt=self.rqmt)

    def run(self) -> None:
        arguments = {
            "task_type": self.task_type,
            "model": self.model,
            "architecture": self.architecture,
            "data": self.data,
            "validation": self.validation,
            "options": self.options,
            "seed": self.seed,
            "out": self.out_model,
            "work": "training",
        }
        if (several := processes.of_this_task()).total > 1:
            processes.launch("train", arguments, several)
        else:
            from merging.training.run import train

            train(**arguments)

    def info(self) -> str | None:
        from merging import progress

        return progress.describe(progress.last(self._progress_file()))

    def completed_fraction(self) -> float | None:
        from merging import progress

        return progress.fraction(progress.last(self._progress_file()))

    def _progress_file(self) -> Path:
        return Path(self._sis_path(gs.JOB_WORK_DIR)) / "training" / "progress.jsonl"
