"""Five methods at 21 scaling factors each on the models of the quickstart: 105 merges, none is written.

Each point is a job of its own that merges in memory, evaluates all tasks and keeps the metrics; the models,
their Hessians and every point that was computed before are reused. At the end, one search on validation data
chooses the scaling factors of gradient matching, one for each task; only its best model is written.
"""

from sisyphus import tk

from config import quickstart
from recipe.sweep import SearchJob

SEED = quickstart.SEED
SCALING_FACTORS = [step / 20 for step in range(21)]
METHODS = {
    "task_arithmetic": {},
    "ties": {"density": 0.2},
    "dare_ties": {"density": 0.5},
    "breadcrumbs": {},
    "gradient_matching": {},
}


def py() -> None:
    experiment = quickstart.experiment("sweep")
    rows = experiment.references(SEED)
    for method, options in METHODS.items():
        for factor in SCALING_FACTORS:
            point = {**options, "scaling_factor": factor}
            rows.append(experiment.merged(method, point, SEED, keep_model=False))
    experiment.report(rows, "sweep", {"title": "Digits: five methods over the scaling factor"})

    search = SearchJob(
        merge=experiment.merge_arguments("gradient_matching", {}, SEED),
        space={"scaling_factor": {"low": 0.0, "high": 1.5, "per_task": True}},
        task_type=experiment.task_type,
        data={task: splits.validation for task, splits in experiment.tasks.items()},
        evaluation={**experiment.evaluation, "bootstrap_samples": 1},
        options={"strategy": "bayesian", "num_trials": 40, "seed": SEED},
        keep_model=True,
    )
    tk.register_output("sweep/search.json", search.out_record)
