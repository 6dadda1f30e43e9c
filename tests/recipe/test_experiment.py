"""A whole experiment from recipes: what the quickstart does, smaller."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
CONFIG = """
from recipe.data import split
from recipe.experiment import Experiment, Splits

VIT = {
    "model_type": "vit", "image_size": 8, "patch_size": 4, "num_channels": 1, "hidden_size": 16,
    "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32,
}
TRAINING = {"num_epochs": 1, "batch_size": 32, "learning_rate": 1e-3}


def digits(source):
    return Splits(
        train=split(source, "train[:96]"),
        validation=split(source, "validation[:32]"),
        test=[split(source, "test[:20]"), split(source, "test[20:40]")],
    )


def py():
    experiment = Experiment(
        name="tiny",
        task_type="image_classification",
        start={"architecture": VIT},
        base=digits("digits"),
        tasks={"blur": digits("digits_blur"), "noise": digits("digits_noise")},
        base_training=TRAINING,
        training=TRAINING,
        hessian={"max_examples": 32},
        statistics=("fisher_mc", "gram"),
        evaluation={"bootstrap_samples": 100},
        resources={"train": {"mem": 1}},
    )
    rows = []
    for seed in (0, 1):
        rows += experiment.references(seed)
        rows.append(experiment.merged("average", {}, seed))
        rows.append(experiment.merged("fisher", {}, seed, estimator="fisher_exact", label="fisher (exact)"))
        for method in ("task_arithmetic", "gradient_matching"):
            rows.append(experiment.merged(method, {"scaling_factor": 1.0}, seed))
        rows.append(experiment.merged("regmean", {}, seed))
        rows.append(experiment.merged("average", {}, seed, label="in memory", keep_model=False))
        few = {"hessian": {"max_examples": 8}, "label": "few examples", "keep_model": False}
        rows.append(experiment.merged("gradient_matching", {"scaling_factor": 1.0}, seed, **few))
        factors = {"estimators": {"grams": "kfac_mc"}, "label": "of factors", "keep_model": False}
        rows.append(experiment.merged("regmean", {}, seed, **factors))
    experiment.report(rows, "tiny", {"title": "Tiny", "bootstrap_samples": 200})
"""


def test_an_experiment_from_data_to_table(tmp_path: Path) -> None:
    (tmp_path / "config").mkdir()
    (tmp_path / "config/tiny.py").write_text(CONFIG)
    (tmp_path / "recipe").symlink_to(ROOT / "recipe")
    done = subprocess.run(
        [sys.executable, str(Path(__file__).with_name("run_graph.py")), "config/tiny.py"],
        cwd=tmp_path,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    (table,) = tmp_path.glob("work/report/ReportJob.*/output/report/table.md")
    lines = table.read_text().splitlines()
    assert lines[0] == "## Tiny"
    labels = [line.split(" | ")[0].removeprefix("| ") for line in lines[4:15]]
    assert labels == [
        "base",
        "individual",
        "multitask",
        "average",
        "fisher (exact)",
        "task arithmetic",
        "gradient matching",
        "regmean",
        "in memory",
        "few examples",
        "of factors",
    ]
    average, in_memory = (
        next(line for line in lines if f"| {it} |" in line) for it in ("average", "in memory")
    )
    assert average.replace("average", "in memory") == in_memory
    assert "examples: blur 40, noise 40." in table.read_text()
    assert len(list(tmp_path.glob("work/train/TrainJob.*"))) == 2 * 4
    # shared with the base's, the same of few examples, and by themselves fisher_exact and kfac_mc
    assert len(list(tmp_path.glob("work/hessian/HessianJob.*"))) == 2 * (3 + 3 + 2 + 2)
    assert len(list(tmp_path.glob("work/hessian/HessianJob.*/output/hessian/gram/hessian.json"))) == 2 * (
        3 + 3
    )
