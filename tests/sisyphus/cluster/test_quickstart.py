"""The experiments of this repository on a real Slurm, with the lines of settings that the README shows."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

from .slurm_cluster import SlurmCluster

REPOSITORY = Path(__file__).parents[3]
SMALL = """
    from config.quickstart import experiment
    from recipe.evaluate import EvaluateJob
    from recipe.hessian import HessianJob
    from recipe.train import TrainJob
    from sisyphus import tk

    digits = experiment("small")


    def train(num_nodes):
        job = TrainJob(
            task_type=digits.task_type,
            **digits.start,
            data=digits.base.train,
            validation=digits.base.validation,
            options={"batch_size": 32, "learning_rate": 1e-3, "max_steps": 20},
            seed=0,
        )
        job.update_rqmt("run", {"multi_node_slots": num_nodes})
        return job.out_model


    def py():
        job = EvaluateJob(
            model=train(1), task_type=digits.task_type, data={"digits": digits.base.test}, options={}
        )
        tk.register_output("small/metrics.json", job.out_metrics)


    def on_nodes(num_nodes):
        job = HessianJob(
            estimator="fisher_exact",
            task_type=digits.task_type,
            model=train(num_nodes),
            data=digits.base.train,
            options={"max_examples": 100},
            seed=0,
        )
        job.update_rqmt("run", {"multi_node_slots": num_nodes})
        tk.register_output("model", train(num_nodes))
        tk.register_output("hessian", job.out_hessian)
"""


def read_json(path: Path) -> Any:
    return json.loads(path.read_text())


def settings_of_readme() -> str:
    """The first Python block of the section on clusters."""
    section = (REPOSITORY / "README.md").read_text().partition("\n## On a cluster\n")[2]
    return section.partition("```python\n")[2].partition("```")[0]


def run(folder: Path, config: str, settings: str, environment: dict[str, str]) -> str:
    """Run a config of this repository in a new project; returns what the manager printed."""
    for name in ("config", "recipe"):
        shutil.copytree(REPOSITORY / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    text = (REPOSITORY / "settings.py").read_text()
    (folder / "settings.py").write_text(f"{text}\n\n{settings}")
    (folder / "config" / "small.py").write_text(textwrap.dedent(SMALL))
    (folder / "home").mkdir()
    own = {"HOME": str(folder / "home"), "MERGING_CACHE": str(folder / "cache")}
    own["SIS_JOB_AUTO_CLEANUP"] = "False"  # the tests look into the folders of jobs
    own["SIS_WAIT_PERIOD_MTIME_OF_INPUTS"] = "0"  # one file system: nothing is seen late
    done = subprocess.run(
        [sys.executable, "-m", "sisyphus", "--config", config, "manager", "-r"],
        cwd=folder,
        env={**environment, **own},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=900,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


@pytest.mark.parametrize(
    ("name", "result"),
    [
        ("small", "metrics.json"),
        pytest.param("quickstart", "table.csv", marks=pytest.mark.outages),
    ],
)
def test_results_from_slurm_are_those_of_this_machine(
    cluster: SlurmCluster, tmp_path: Path, name: str, result: str
) -> None:
    results = []
    for place, settings, environment in (
        ("slurm", settings_of_readme(), cluster.environment),
        ("here", "", dict(os.environ)),
    ):
        (tmp_path / place).mkdir()
        run(tmp_path / place, f"config/{name}.py", settings, environment)
        results.append((tmp_path / place / "output" / name / result).read_text())
    assert results[0] == results[1]
    used = [path.read_text() for path in (tmp_path / "slurm" / "work").glob("**/usage.run.*")]
    assert used and all(any(node in text for node in cluster.nodes) for text in used)


@pytest.mark.outages
def test_training_and_estimate_on_two_nodes(cluster: SlurmCluster, tmp_path: Path) -> None:
    models, hessians = [], []
    for number, settings, environment in (
        (2, settings_of_readme(), cluster.environment),
        (1, "", dict(os.environ)),
    ):
        folder = tmp_path / str(number)
        folder.mkdir()
        run(folder, f"config.small.on_nodes({number})", settings, environment)
        models.append(folder / "output" / "model")
        hessians.append(folder / "output" / "hessian")
    assert [read_json(model / "training.json")["num_processes"] for model in models] == [2, 1]
    assert [read_json(hessian / "hessian.json")["report"]["num_processes"] for hessian in hessians] == [2, 1]
    for folders, name in ((models, "model"), (hessians, "hessian")):
        together, alone = (load_file(folder / f"{name}.safetensors") for folder in folders)
        for key, tensor in alone.items():
            assert np.allclose(together[key], tensor, rtol=1e-3, atol=1e-5), key
