"""How good a model is."""

from collections.abc import Iterator, Mapping
from typing import Any

from sisyphus import Job, Task, tk


class EvaluateJob(Job):
    """Evaluate one model on many tasks; keeps every prediction.

    Args:
        task_type: name of a file in ``merging/tasks``.
        model: model folder.
        data: test set of each task, by task.
        options: fields of ``merging.evaluation.options.EvaluationOptions``.
    """

    def __init__(
        self, *, task_type: str, model: tk.Path, data: Mapping[str, Any], options: Mapping[str, Any]
    ):
        check_evaluation(task_type, data, options)
        self.task_type, self.model, self.data, self.options = task_type, model, data, options
        self.rqmt = {"cpu": 1, "mem": 4, "time": 2}  # mem in GB, time in hours
        self.out_evaluation = self.output_path("evaluation", directory=True)
        self.out_metrics = self.output_path("evaluation/metrics.json")

    @classmethod
    def hash(cls, parsed_args: dict[str, Any]) -> str:
        """Without the batch size: it changes speed and memory, not the predictions."""
        options = {key: value for key, value in parsed_args["options"].items() if key != "batch_size"}
        return str(super().hash({**parsed_args, "options": options}))

    def tasks(self) -> Iterator[Task]:
        yield Task("run", resume="run", rqmt=self.rqmt)

    def run(self) -> None:
        from merging.evaluation.run import evaluate

        evaluate(
            task_type=self.task_type,
            model=self.model,
            data=self.data,
            options=self.options,
            out=self.out_evaluation,
        )


def check_evaluation(task_type: str, data: Mapping[str, Any], options: Mapping[str, Any]) -> None:
    """Refuse what an evaluation would refuse, as far as no data are needed."""
    from merging import tasks
    from merging.data.splits import check_dataset
    from merging.errors import OptionError
    from merging.evaluation.options import EvaluationOptions
    from merging.options import parse

    tasks.load(task_type)
    if not data:
        raise OptionError("evaluation: data names no task. Give at least one test set.")
    for dataset in data.values():
        check_dataset(dataset)
    parse(EvaluationOptions, options, owner="evaluation")
