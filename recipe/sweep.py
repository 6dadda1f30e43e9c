"""Many merges, little disk: merged in memory and evaluated on all tasks; no model is written."""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from sisyphus import Job, Task, tk

from recipe.evaluate import check_evaluation
from recipe.merge import check_merge, with_version


class EvaluateMergeJob(Job):
    """One point of a sweep: merge in memory and evaluate; no model is written.

    Args:
        merge: arguments of :class:`recipe.merge.MergeJob`, by name.
        task_type: name of a file in ``merging/tasks``.
        data: test set of each task, by task.
        options: fields of ``merging.evaluation.options.EvaluationOptions``.
    """

    def __init__(
        self,
        *,
        merge: Mapping[str, Any],
        task_type: str,
        data: Mapping[str, Any],
        options: Mapping[str, Any],
    ):
        check_merge(**merge)
        check_evaluation(task_type, data, options)
        self.merge, self.task_type, self.data, self.options = merge, task_type, data, options
        self.rqmt = {"cpu": 1, "mem": 4, "time": 1}  # mem in GB, time in hours
        self.out_evaluation = self.output_path("evaluation", directory=True)
        self.out_metrics = self.output_path("evaluation/metrics.json")

    @classmethod
    def hash(cls, parsed_args: dict[str, Any]) -> str:
        """Without the batch size: it changes speed and memory, not the predictions."""
        options = {key: value for key, value in parsed_args["options"].items() if key != "batch_size"}
        merge = with_version(parsed_args["merge"])
        return str(super().hash({**parsed_args, "merge": merge, "options": options}))

    def tasks(self) -> Iterator[Task]:
        yield Task("run", resume="run", rqmt=self.rqmt)

    def run(self) -> None:
        from merging.search.points import evaluate_merge

        evaluate_merge(
            merge=self.merge,
            task_type=self.task_type,
            data=self.data,
            options=self.options,
            out=self.out_evaluation,
        )


class BestMergeJob(Job):
    """Write the model of the best point of a sweep, and only that.

    Args:
        points: arguments of :class:`EvaluateMergeJob` ``merge``, and its ``evaluation``, for each point.
        metric: what is compared, by its mean over the tasks. Choose on validation data.
    """

    def __init__(self, *, points: Sequence[Mapping[str, Any]], metric: str):
        from merging.errors import OptionError

        if not points:
            raise OptionError("BestMergeJob: points is empty. Give at least one.")
        self.points, self.metric = points, metric
        self.rqmt = {"cpu": 1, "mem": 4, "time": 1}  # mem in GB, time in hours
        self.out_model = self.output_path("model", directory=True)
        self.out_best = self.output_path("best.json")

    @classmethod
    def hash(cls, parsed_args: dict[str, Any]) -> str:
        """With the versions of the methods, where one is not the first."""
        from merging import methods

        versions = [methods.version(point["merge"]["method"]) for point in parsed_args["points"]]
        is_first = all(version == 1 for version in versions)
        return str(super().hash(parsed_args if is_first else {**parsed_args, "versions": versions}))

    def tasks(self) -> Iterator[Task]:
        yield Task("run", resume="run", rqmt=self.rqmt)

    def run(self) -> None:
        from merging.evaluation.metrics import check_maximised
        from merging.merge.streaming import merge_checkpoints

        check_maximised(self.metric)
        scores = [self._score(point["evaluation"]) for point in self.points]
        best = max(range(len(scores)), key=scores.__getitem__)  # the first of equal ones
        merge_checkpoints(**self.points[best]["merge"], out=self.out_model)
        found = {"number": best, "score": scores[best], "metric": self.metric, "scores": scores}
        Path(self.out_best).write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")

    def _score(self, evaluation: tk.Path) -> float:
        results = json.loads((Path(evaluation) / "metrics.json").read_text(encoding="utf-8"))
        return sum(float(its[self.metric]["value"]) for its in results.values()) / len(results)


class SearchJob(Job):
    """Find the coefficients of a merge on validation data, in one process; reports how many were tried.

    Args:
        merge: arguments of :class:`recipe.merge.MergeJob`, by name; its options stay the same.
        space: options that are searched for, e.g. ``{"scaling_factor": {"low": 0.0, "high": 1.0}}``; see
            ``merging.search.options.check_search``.
        task_type: name of a file in ``merging/tasks``.
        data: validation set of each task, by task.
        evaluation: fields of ``merging.evaluation.options.EvaluationOptions``.
        options: fields of ``merging.search.options.SearchOptions``.
        keep_model: also write the best merge.
    """

    def __init__(
        self,
        *,
        merge: Mapping[str, Any],
        space: Mapping[str, Any],
        task_type: str,
        data: Mapping[str, Any],
        evaluation: Mapping[str, Any],
        options: Mapping[str, Any],
        keep_model: bool = False,
    ):
        from merging.search.options import check_search

        check_search(
            method=merge["method"],
            fixed=merge["options"],
            space=space,
            options=options,
            extras=merge["extras"],
            tasks=merge["models"].keys(),
            has_base=merge["base"] is not None,
        )
        check_evaluation(task_type, data, evaluation)
        self.merge, self.space, self.task_type, self.data = merge, space, task_type, data
        self.evaluation, self.options, self.keep_model = evaluation, options, keep_model
        self.rqmt = {"cpu": 1, "mem": 4, "time": 4}  # mem in GB, time in hours
        self.out_search = self.output_path("search", directory=True)
        self.out_record = self.output_path("search/search.json")
        self.out_model = self.output_path("search/model") if keep_model else None

    @classmethod
    def hash(cls, parsed_args: dict[str, Any]) -> str:
        """With the version of the method, if it has one."""
        return str(super().hash({**parsed_args, "merge": with_version(parsed_args["merge"])}))

    def tasks(self) -> Iterator[Task]:
        yield Task("run", resume="run", rqmt=self.rqmt)

    def run(self) -> None:
        from merging.search.run import search

        search(
            merge=self.merge,
            space=self.space,
            task_type=self.task_type,
            data=self.data,
            evaluation=self.evaluation,
            options=self.options,
            keep_model=self.keep_model,
            out=self.out_search,
            work="search",  # the job's own work folder
        )
