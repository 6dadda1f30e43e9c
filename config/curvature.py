"""What to pick as curvature: estimators, numbers of examples, delta_0 and damping, on reviews and on digits.

Merges the models of ``config/reviews.py`` (which says what it needs) and of ``config/quickstart.py``, three
seeds of each. One function for each table: ``sis manager 'config/curvature.digits()'`` makes that of digits.
No merged model is written but those that ``config/reviews.py`` writes, too.
"""

from config import quickstart, reviews

SEEDS = [0, 1, 2]  # of digits; reviews have theirs
MATCHING = {**reviews.MATCHING, "scaling_factor": 1.0}
EXAMPLES = [8, 32, 128, 500, None]  # None: all
FEWER_EXAMPLES = [32, 500]
DELTAS = [*reviews.DELTAS, 0.1, 10.0, 100.0]
DAMPINGS = [1e-3, 1e-2, 0.1, 1.0, 10.0]
LAYERS = {"scaling_factor": 1.0, "damping": 0.1}
FACTORS = {"grams": "kfac_mc"}  # one estimate of both factors serves RegMean, too


def methods() -> None:
    """Every method that uses curvature, beside those that use none."""
    experiment = reviews.experiment("curvature")
    rows = []
    for seed in reviews.size()["seeds"]:
        rows += experiment.references(seed)
        rows += [experiment.merged(method, {}, seed) for method in ("average", "fisher")]
        for method, options in (("task_arithmetic", {}), ("gradient_matching", reviews.MATCHING)):
            for alpha in (0.5, 1.0):
                rows.append(experiment.merged(method, {**options, "scaling_factor": alpha}, seed))
        for method, options, label in (
            ("regmean", {}, "RegMean"),
            ("regmean", {"off_diagonal_scaling": 1.0}, "RegMean, off-diagonal 1"),
            ("mats", {"objective": "kfac"}, "MaTS, K-FAC"),
            ("gradient_matching_kfac", {**LAYERS, "sides": "inputs"}, "gradient matching, Gram"),
            ("gradient_matching_kfac", {**LAYERS, "scaling_factor": 0.5}, "gradient matching, K-FAC"),
            ("gradient_matching_kfac", LAYERS, "gradient matching, K-FAC"),
        ):
            rows.append(
                experiment.merged(method, options, seed, estimators=FACTORS, label=label, keep_model=False)
            )
    options = {"title": "MiniLM on reviews: methods with curvature", "label": "curvature"}
    experiment.report(rows, "curvature/methods", {**options, "reference": "average"})


def examples() -> None:
    """Gradient matching with diagonal Fishers of few examples and of many."""
    experiment = reviews.experiment("curvature")
    size = reviews.size()
    rows = []
    for seed in size["seeds"]:
        rows.append(experiment.merged("average", {}, seed))
        for estimator, counts, factors in (
            ("fisher_mc", EXAMPLES, (1.0, 0.5)),
            ("fisher_empirical", FEWER_EXAMPLES, (1.0,)),
            ("fisher_exact", FEWER_EXAMPLES, (1.0,)),
        ):
            rows += [
                experiment.merged(
                    "gradient_matching",
                    {**MATCHING, "scaling_factor": alpha},
                    seed,
                    estimator=estimator,
                    hessian={"max_examples": count},
                    label=estimator,
                    parameter=float(count or size["train"]),
                    keep_model=count == size["hessian"],
                )
                for alpha in factors
                for count in counts
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
            for delta in sorted(DELTAS)
        ]
    options = {"title": "MiniLM on reviews: prior precision δ₀", "label": "prior"}
    experiment.report(rows, "curvature/delta_0", {**options, "reference": "average", "parameter": "δ₀"})


def damping() -> None:
    """K-FAC gradient matching over decades of its damping."""
    _damping(reviews.experiment("curvature"), reviews.size()["seeds"], "reviews", keep_model=True)


def digits() -> None:
    """The same on digits, where it decides whether K-FAC works at all."""
    _damping(quickstart.experiment("curvature/of_digits"), SEEDS, "digits", keep_model=False)


def py() -> None:
    for table in (methods, damping, examples, delta_0, digits):
        table()


def _damping(experiment: reviews.Experiment, seeds: list[int], name: str, *, keep_model: bool) -> None:
    rows = []
    for seed in seeds:
        rows.append(experiment.merged("average", {}, seed, keep_model=keep_model))
        rows.append(experiment.merged("gradient_matching", MATCHING, seed, keep_model=keep_model))
        rows += [
            experiment.merged(
                "gradient_matching_kfac",
                {**LAYERS, "damping": value},
                seed,
                label="gradient matching, K-FAC",
                parameter=value,
                keep_model=False,
            )
            for value in DAMPINGS
        ]
    options = {"title": f"Damping of K-FAC, {name}", "label": f"damping-{name}"}
    experiment.report(
        rows, f"curvature/damping_{name}", {**options, "reference": "average", "parameter": "damping"}
    )
