"""The steps of a table, connected: what its rows share is written once."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from sisyphus import Job, tk

from recipe.data import Dataset
from recipe.evaluate import EvaluateJob
from recipe.hessian import HessianJob
from recipe.merge import MergeJob, merge_arguments
from recipe.report import ReportJob
from recipe.sweep import EvaluateMergeJob
from recipe.train import TrainJob

ESTIMATORS = {
    "grams": "gram",
    "factors": "kfac_mc",
    "base_factors": "kfac_mc",
    "blocks": "block_mc",
    "mask_fishers": "mask_nodes",
}
"""What estimates the statistics of an input; diagonal Hessians have several estimators to choose from."""

Row = dict[str, Any]
AnyJob = TypeVar("AnyJob", bound=Job)


@dataclass(frozen=True, kw_only=True)
class Splits:
    """The three parts of one task's data; each a data set, or a list of them."""

    train: Any
    validation: Any
    test: Any


@dataclass(frozen=True, kw_only=True)
class Experiment:
    """One base model, fine-tuned on several tasks, whose models are merged.

    Asking for the same thing twice gives the same job, so rows may be built in any order. Every method with a
    ``seed`` belongs to one repetition of the whole experiment: base, fine-tuning and Hessians.
    """

    name: str
    """Start of all aliases and outputs."""
    task_type: str
    """Name of a file in ``merging/tasks``."""
    start: Mapping[str, Any]
    """Where the base model starts: ``{"model": folder}`` or ``{"architecture": {...}}``."""
    base: Splits
    """Data of theta_0."""
    base_task: str | None = None
    """Name of theta_0's own task: its test set is a column of the table, too. None: it is not looked at."""
    tasks: Mapping[str, Splits]
    """Data of each task."""
    base_training: Mapping[str, Any]
    """Training options of theta_0."""
    training: Mapping[str, Any]
    """Training options of the tasks and of the multitask model."""
    hessian: Mapping[str, Any]
    """Options of the Hessian estimates."""
    statistics: Sequence[str] = ()
    """Names of files in ``merging/hessians`` that share one pass over the data of each model; what a merge
    asks for beside them is estimated by itself."""
    evaluation: Mapping[str, Any]
    """Options of the evaluations."""
    resources: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """Requirements by kind of step (train, hessian, merge, evaluate); no part of any job's identity."""

    def __post_init__(self) -> None:
        from merging import hessians

        if self.statistics:
            hessians.chosen(None, self.statistics)

    def base_model(self, seed: int) -> tk.Path:
        """theta_0."""
        job = TrainJob(
            task_type=self.task_type,
            **self.start,
            data=self.base.train,
            validation=self.base.validation,
            options=self.base_training,
            seed=seed,
        )
        return self._finish(job, "train", f"train/base_seed{seed}").out_model

    def task_model(self, task: str, seed: int) -> tk.Path:
        """theta_t: theta_0 fine-tuned on one task."""
        splits = self.tasks[task]
        return self._finetune(splits.train, splits.validation, seed, task)

    def multitask_model(self, seed: int) -> tk.Path:
        """theta_0 fine-tuned on all tasks together."""
        splits = [self.tasks[task] for task in sorted(self.tasks)]
        train = _concatenate([part.train for part in splits])
        validation = _concatenate([part.validation for part in splits])
        return self._finetune(train, validation, seed, "multitask")

    def hessian_of(
        self, task: str | None, seed: int, estimator: str, options: Mapping[str, Any] | None = None
    ) -> tk.Path:
        """H_t, or H_0 for task None, at the model's own optimum and on its own training set.

        ``options`` are those that differ from the experiment's.
        """
        is_shared = estimator in self.statistics
        what = {"statistics": sorted(self.statistics)} if is_shared else {"estimator": estimator}
        job = HessianJob(
            **what,
            task_type=self.task_type,
            model=self.base_model(seed) if task is None else self.task_model(task, seed),
            data=(self.base if task is None else self.tasks[task]).train,
            options={**self.hessian, **(options or {})},
            seed=seed,
        )
        own = {key: its for key, its in (options or {}).items() if self.hessian.get(key) != its}
        first = "statistics" if is_shared else estimator
        kind = "_".join([first, *(f"{key}_{own[key]}" for key in sorted(own))])
        alias = f"hessian/{kind}/{task or 'base'}_seed{seed}"
        return self._finish(job, "hessian", alias).out_hessians[estimator]

    def merge_arguments(
        self,
        method: str,
        options: Mapping[str, Any],
        seed: int,
        *,
        estimator: str = "fisher_mc",
        estimators: Mapping[str, str] | None = None,
        hessian: Mapping[str, Any] | None = None,
    ) -> dict[str, Any]:
        """Arguments of a merge of all task models; statistics are estimated where the method needs them.

        Args:
            method: name of a file in ``merging/methods``.
            options: its options.
            seed: repetition.
            estimator: of diagonal Hessians.
            estimators: of other statistics, by input, where it is not the one in ``ESTIMATORS``.
            hessian: options of the estimates that differ from the experiment's.
        """
        from merging import methods

        schedule = methods.read_options(method, options)
        statistics: dict[str, Any] = {}
        for key in methods.required_inputs(method, schedule.common):
            if methods.is_model(key):
                continue
            name = {**ESTIMATORS, **(estimators or {})}.get(key, estimator)
            statistics[key] = (
                {task: self.hessian_of(task, seed, name, hessian) for task in self.tasks}
                if methods.is_by_task(key)
                else self.hessian_of(None, seed, name, hessian)
            )
        return merge_arguments(
            method,
            options,
            base=self.base_model(seed),
            models={task: self.task_model(task, seed) for task in self.tasks},
            **statistics,
        )

    def references(self, seed: int) -> list[Row]:
        """Rows of what merging is compared with: the base, each task's own model, and the multitask model."""
        rows = [self._row("base", "base", self.base_model(seed), seed)]
        if self.base_task is not None:
            rows.append(self._row("individual", "individual", self.base_model(seed), seed, self.base_task))
        for task in sorted(self.tasks):
            rows.append(self._row("individual", "individual", self.task_model(task, seed), seed, task))
        rows.append(self._row("multitask", "multitask", self.multitask_model(seed), seed))
        return rows

    def merged(
        self,
        method: str,
        options: Mapping[str, Any],
        seed: int,
        *,
        estimator: str = "fisher_mc",
        estimators: Mapping[str, str] | None = None,
        hessian: Mapping[str, Any] | None = None,
        label: str | None = None,
        parameter: float | None = None,
        keep_model: bool = True,
    ) -> Row:
        """Row of one merged model.

        Args:
            method: name of a file in ``merging/methods``.
            options: its options; a ``scaling_factor`` among them is shown in the table.
            seed: repetition.
            estimator: name of a file in ``merging/hessians``, for methods that use Hessians.
            estimators: of other statistics, by input; see :meth:`merge_arguments`.
            hessian: options of the estimates that differ from the experiment's.
            label: first column of the table; None: the method's name.
            parameter: what the table varies beside the scaling factor; see ``TableOptions.parameter``.
            keep_model: write the merged model; without it, only its metrics are kept.
        """
        label = label or method.replace("_", " ")
        factor = options.get("scaling_factor")
        places = {"scaling_factor": factor} | ({} if parameter is None else {"parameter": parameter})
        arguments = self.merge_arguments(
            method, options, seed, estimator=estimator, estimators=estimators, hessian=hessian
        )
        if keep_model:
            numbers = [str(number) for number in places.values() if number is not None]
            alias = re.sub(r"[^\w.-]+", "_", "_".join([label, *numbers]), flags=re.ASCII)
            merge = self._finish(MergeJob(**arguments), "merge", f"merge/{alias}_seed{seed}")
            return {**self._row(label, "merged", merge.out_model, seed), **places}
        job = EvaluateMergeJob(
            merge=arguments, task_type=self.task_type, data=self._tests(), options=self.evaluation
        )
        self._request(job, "evaluate")
        return {"label": label, "kind": "merged", "seed": seed, "evaluation": job.out_evaluation, **places}

    def report(self, rows: Sequence[Row], output: str, options: Mapping[str, Any]) -> None:
        """Make a table of rows; its files appear as ``output/<output>/``.

        ``options`` are those of ``merging.tables.rows.TableOptions``; the metric is the task type's main one.
        """
        from merging import tasks

        main = tasks.load(self.task_type).MAIN_METRIC
        if main != "accuracy":
            options = {"metric": main, **options}
        job = ReportJob(rows=rows, options=options)
        job.add_alias(f"{output}/report")
        for path in (job.out_markdown, job.out_latex, job.out_csv, job.out_plot):
            tk.register_output(f"{output}/{path.path.rsplit('/', 1)[-1]}", path)

    def _finetune(self, train: Any, validation: Any, seed: int, alias: str) -> tk.Path:
        job = TrainJob(
            task_type=self.task_type,
            model=self.base_model(seed),
            data=train,
            validation=validation,
            options=self.training,
            seed=seed,
        )
        return self._finish(job, "train", f"train/{alias}_seed{seed}").out_model

    def _row(self, label: str, kind: str, model: tk.Path, seed: int, task: str | None = None) -> Row:
        """One evaluation, on all test sets or on that of one task."""
        tests = self._tests()
        job = EvaluateJob(
            task_type=self.task_type,
            model=model,
            data=tests if task is None else {task: tests[task]},
            options=self.evaluation,
        )
        self._request(job, "evaluate")
        return {"label": label, "kind": kind, "seed": seed, "evaluation": job.out_evaluation}

    def _tests(self) -> dict[str, Any]:
        """Test sets by task."""
        tests = {name: splits.test for name, splits in self.tasks.items()}
        return tests if self.base_task is None else {**tests, self.base_task: self.base.test}

    def _finish(self, job: AnyJob, step: str, alias: str) -> AnyJob:
        """Give a job its resources and its alias."""
        self._request(job, step)
        job.add_alias(f"{self.name}/{alias}")
        return job

    def _request(self, job: Job, step: str) -> None:
        if step in self.resources:
            job.update_rqmt("run", self.resources[step])


def _concatenate(datasets: Sequence[Any]) -> list[Dataset] | None:
    """One list of data sets, of data sets and lists of them; None if one of them is None."""
    if None in datasets:
        return None
    return [item for dataset in datasets for item in (dataset if isinstance(dataset, list) else [dataset])]
