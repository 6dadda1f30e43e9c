"""Search for the coefficients of a merge on validation data; every merge stays in memory."""

from __future__ import annotations

import itertools
import json
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from merging import tasks
from merging.errors import DataError
from merging.evaluation import metrics
from merging.files.publishing import published_folder
from merging.merge.streaming import open_merge
from merging.search.greedy import greedy_soup
from merging.search.options import Range, SearchOptions, check_search, options_at
from merging.search.points import evaluator_for, merged_tensors

if TYPE_CHECKING:
    import optuna

Objective = Callable[[Mapping[str, Any]], float]

TRIALS_NAME = "trials.jsonl"


def search(
    *,
    merge: Mapping[str, Any],
    space: Mapping[str, Any],
    task_type: str,
    data: Mapping[str, Any],
    evaluation: Mapping[str, Any],
    options: Mapping[str, Any],
    out: str | os.PathLike[str],
    work: str | os.PathLike[str],
    keep_model: bool = False,
) -> None:
    """Find the options of a method that give the best mean metric, and publish ``search.json``.

    Finished trials are kept in ``work``: a killed search goes on with them. The same seed gives the same
    trials, however often it was interrupted.

    Args:
        merge: arguments of :func:`merging.merge.streaming.open_merge`; its options are those that stay the
            same.
        space: what is searched for; see :func:`merging.search.options.check_search`.
        task_type: a file in ``tasks/``.
        data: validation set of each task; never the test sets that results are reported on.
        evaluation: fields of :class:`merging.evaluation.options.EvaluationOptions`.
        options: fields of :class:`merging.search.options.SearchOptions`.
        out: folder to publish: ``search.json`` with ``best`` (options, score), ``num_evaluations`` and all
            ``trials``; with ``keep_model`` also ``model``, the best merge.
        work: folder of unfinished work.
        keep_model: also write the best merged model.
    """
    parsed, ranges = check_search(
        method=merge["method"],
        fixed=merge["options"],
        space=space,
        options=options,
        extras=merge["extras"],
        tasks=merge["models"].keys(),
        has_base=merge.get("base") is not None,
    )
    trials = _Trials(Path(work) / TRIALS_NAME)
    metric = parsed.metric or tasks.load(task_type).MAIN_METRIC
    metrics.check_maximised(metric)
    evaluator = None

    def objective(chosen: Mapping[str, Any]) -> float:
        nonlocal evaluator
        known = trials.next(chosen)
        if known is not None:
            return known
        opened = open_merge(**{**merge, "options": chosen})
        if evaluator is None:
            evaluator = evaluator_for(opened, task_type=task_type, data=data, options=evaluation)
        results = evaluator.run(merged_tensors(opened))
        if any(metric not in result for result in results.values()):
            raise DataError(f"search: the evaluation has no metric {metric!r}; add it to its metrics.")
        values = {task: result[metric]["value"] for task, result in results.items()}
        score = float(sum(values.values()) / len(values))
        trials.add({"options": chosen, "score": score, "values": values})
        return score

    if parsed.strategy == "greedy_soup":
        members = greedy_soup(
            sorted(merge["models"]), lambda members: objective({**merge["options"], "members": members})
        )
        best = next(its for its in trials.all if its["options"].get("members") == members)
    else:
        _optimise(parsed, ranges, merge["options"], objective)
        best = max(trials.all, key=lambda trial: float(trial["score"]))  # the earliest of equal ones
    with published_folder(out) as folder:
        record = {
            "method": merge["method"],
            "metric": metric,
            "strategy": parsed.strategy,
            "seed": parsed.seed,
            "num_evaluations": len(trials.all),
            "best": best,
            "trials": trials.all,
        }
        (folder / "search.json").write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
        if keep_model:
            open_merge(**{**merge, "options": best["options"]}).write(folder / "model")


class _Trials:
    """Trials in the order in which they were asked for; those of an interrupted search come first."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._left = list(_complete_lines(file))
        self.all: list[dict[str, Any]] = []

    def next(self, chosen: Mapping[str, Any]) -> float | None:
        """The score of a trial that is already known, or None."""
        for known in self.all:
            if known["options"] == chosen:
                return float(known["score"])
        if self._left and self._left[0]["options"] == chosen:
            self.all.append(self._left.pop(0))
            return float(self.all[-1]["score"])
        self._left = []
        return None

    def add(self, trial: Mapping[str, Any]) -> None:
        """Keep a trial."""
        self.all.append(dict(trial))
        self._file.parent.mkdir(parents=True, exist_ok=True)
        temporary = self._file.with_suffix(".tmp")
        temporary.write_text("".join(json.dumps(its) + "\n" for its in self.all), encoding="utf-8")
        temporary.replace(self._file)


def _complete_lines(file: Path) -> Iterator[dict[str, Any]]:
    if file.is_file():
        yield from map(json.loads, file.read_text(encoding="utf-8").splitlines())


def _optimise(
    options: SearchOptions, ranges: tuple[Range, ...], fixed: Mapping[str, Any], objective: Objective
) -> None:
    """Evaluate all points of a grid, or those that optuna's sampler proposes."""
    if options.strategy == "grid":
        for values in itertools.product(*(its.choices or () for its in ranges)):
            objective(options_at(fixed, dict(zip(ranges, values, strict=True))))
        return
    import numpy as np
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(direction="maximize")
    for number in range(options.num_trials):
        # A sampler for each trial: draws don't depend on whether earlier trials were run or known already.
        seed = int(np.random.SeedSequence([options.seed, number]).generate_state(1)[0])
        samplers = optuna.samplers
        study.sampler = (
            samplers.RandomSampler(seed) if options.strategy == "random" else samplers.TPESampler(seed=seed)
        )
        trial = study.ask()
        point = {its: _suggest(trial, its) for its in ranges}
        study.tell(trial, objective(options_at(fixed, point)))


def _suggest(trial: optuna.Trial, its: Range) -> float:
    """One value, out of the choices where there are some."""
    if its.choices is None:
        return trial.suggest_float(its.name, its.low, its.high, log=its.log)
    return its.choices[trial.suggest_int(its.name, 0, len(its.choices) - 1)]
