"""What to pick as curvature: examples, estimators, delta_0 and damping, on reviews and on digits.

Merges the models of ``config/reviews.py`` (which says what it needs) and of ``config/quickstart.py``, three
seeds of each. One function for each table: ``sis manager 'config/curvature.digits()'`` makes that of digits.
No merged model is written but those that ``config/reviews.py`` writes, too.

With the reviews finished, about an hour and a half of a core: 20 to 30 s for an evaluation of reviews, one to
two minutes for a K-FAC merge of them, up to three for a Fisher of 4000 examples. Expected:
docs/results/curvature.md. Results in ``output/curvature``.
"""

from config import quickstart, reviews

SEEDS = [0, 1, 2]  # of digits; reviews have theirs
MATCHING = {**reviews.MATCHING, "scaling_factor": 1.0}
EXAMPLES = [8, 32, 128, 500, 4000]  # of 4000
DELTAS = [*reviews.DELTAS, 100.0]
DAMPINGS = {"reviews": [0.1, 1.0], "digits": [1e-3, 1e-2, 0.1, 1.0, 10.0]}
NORM_DAMPINGS = {"reviews": [0.01], "digits": [1e-3, 0.01, 0.1, 1.0]}
MATS = [("MaTS, unit mean", "mean", 0.1), ("MaTS, unit norm", "norm", 0.01)]


def examples() -> None:
    """Gradient matching with diagonal Fishers of few examples and of many, and of three estimators."""
    experiment = reviews.experiment("curvature")
    size = reviews.size()
    rows = []
    for seed in size["seeds"]:
        rows.append(experiment.merged("average", {}, seed))
        for estimator in reviews.ESTIMATORS:
            rows += [
                experiment.merged(
                    "gradient_matching",
                    MATCHING,
                    seed,
                    estimator=estimator,
                    hessian={"max_examples": count},
                    label=estimator,
                    parameter=float(count),
                    keep_model=count == size["hessian"],
                )
                for count in (EXAMPLES if estimator == "fisher_mc" else [size["hessian"]])
            ]
    options = {"title": "MiniLM on reviews: examples of a Fisher", "label": "examples"}
    experiment.report(
        rows, "curvature/examples", {**options, "reference": "average", "parameter": "examples"}
    )


def delta_0() -> None:
    """Gradient matching over decades of the prior precision."""
    experiment = reviews.experiment("curvature")
    rows = []
    for seed in reviews.size()["seeds"]:
        rows.append(experiment.merged("average", {}, seed))
        rows.append(experiment.merged("task_arithmetic", {"scaling_factor": 1.0}, seed))
        rows += [
            experiment.merged(
                "gradient_matching",
                {**MATCHING, "delta_0": delta},
                seed,
                parameter=delta,
                keep_model=delta in reviews.DELTAS,
            )
            for delta in DELTAS
        ]
    options = {"title": "MiniLM on reviews: prior precision δ₀", "label": "prior"}
    experiment.report(rows, "curvature/delta_0", {**options, "reference": "average", "parameter": "δ₀"})


def damping() -> None:
    """Curvature of whole layers on reviews, over its damping."""
    _damping(reviews.experiment("curvature"), reviews.size()["seeds"], "reviews", keep_model=True)


def digits() -> None:
    """The same on digits."""
    _damping(quickstart.experiment("curvature/digits"), SEEDS, "digits", keep_model=False)


def py() -> None:
    for table in (examples, delta_0, damping, digits):
        table()


def _damping(experiment: reviews.Experiment, seeds: list[int], name: str, *, keep_model: bool) -> None:
    """Diagonal, Gram and K-FAC curvature; ``keep_model``: the first three merges are those of reviews."""
    points = [("RegMean", "regmean", {"off_diagonal_scaling": 0.9}, None)]
    for label, unit, sides, values in (
        ("Gram, unit mean", "mean", "inputs", [0.1]),
        ("Gram, unit norm", "norm", "inputs", [0.01]),
        ("K-FAC, unit mean", "mean", "both", DAMPINGS[name]),
        ("K-FAC, unit norm", "norm", "both", NORM_DAMPINGS[name]),
    ):
        for value in values:
            options = {"scaling_factor": 1.0, "damping": value, "damping_unit": unit, "sides": sides}
            points.append((label, "gradient_matching_kfac", options, value))
    for label, unit, value in MATS:
        points.append((label, "mats", {"objective": "kfac", "damping": value, "damping_unit": unit}, value))
    rows = []
    for seed in seeds:
        rows.append(experiment.merged("average", {}, seed, keep_model=keep_model))
        rows.append(experiment.merged("fisher", {}, seed, label="Fisher", keep_model=keep_model))
        rows.append(
            experiment.merged("gradient_matching", MATCHING, seed, label="diagonal", keep_model=keep_model)
        )
        rows += [
            experiment.merged(
                method,
                options,
                seed,
                estimators={"grams": "kfac_mc"},  # one estimate of both factors serves RegMean, too
                label=label,
                parameter=value,
                keep_model=False,
            )
            for label, method, options, value in points
        ]
    options = {"title": f"Curvature of layers, {name}", "label": f"damping-{name}"}
    experiment.report(
        rows, f"curvature/damping_{name}", {**options, "reference": "average", "parameter": "damping"}
    )
