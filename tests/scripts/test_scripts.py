"""The scripts as they are shipped: the shell says what would be run, and this process runs it."""

import json
import os
import runpy
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from merging import predecessor
from merging.commands import cli

ROOT = Path(__file__).parents[2]
PREDECESSORS = {
    "code/train.py": predecessor.train,
    "code/predict.py": predecessor.predict,
    "code/task_arithmetic.py": predecessor.task_arithmetic,
    "code/uncertainty_based_gradient_matching.py": predecessor.gradient_matching,
}
RECORDER = """#!/usr/bin/env bash
{ printf '%s\\037' "$(basename "$0")" "$@"; printf '\\n'; } >> recorded
"""


def commands(script: str) -> list[list[str]]:
    """What a script calls, with ``python3`` and ``merging`` replaced by programs that only take notes."""
    for name in ("python3", "merging"):
        recorder = Path("bin") / name
        recorder.parent.mkdir(exist_ok=True)
        recorder.write_text(RECORDER)
        recorder.chmod(recorder.stat().st_mode | stat.S_IEXEC)
    path = f"{Path('bin').resolve()}:{os.environ['PATH']}"
    subprocess.run(["bash", script], env={**os.environ, "PATH": path}, check=True)
    return [line.split("\037")[:-1] for line in Path("recorded").read_text().splitlines()]


def execute(command: list[str], monkeypatch: pytest.MonkeyPatch) -> int:
    program, *words = command
    if program == "merging":
        return cli.main(words)
    file, *words = words
    if file in PREDECESSORS:
        return PREDECESSORS[file](words)
    monkeypatch.setattr(sys, "argv", [file, *words])
    runpy.run_path(file, run_name="__main__")
    return 0


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("code", "scripts"):
        (tmp_path / name).symlink_to(ROOT / name)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_predecessors_workflow(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    called = commands("scripts/predecessor.sh")
    assert {command[1] for command in called} == {*PREDECESSORS, "scripts/make_example.py"}
    for command in called:
        assert execute(command, monkeypatch) == 0, command
    metrics = json.loads((checkout / "example/results/food.metrics.json").read_text())
    assert metrics["accuracy"] > 0.9
    predictions = json.loads((checkout / "example/results/food.predictions.json").read_text())
    assert len(predictions) == 80
    merge = json.loads((checkout / "example/models/merged/merge.json").read_text())
    assert merge["method"] == "gradient_matching"


def test_our_workflow(
    checkout: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for command in commands("scripts/merging.sh"):
        assert execute(command, monkeypatch) == 0, capsys.readouterr().err
    assert "food: accuracy " in capsys.readouterr().out
    metrics = json.loads((checkout / "example/own/evaluation/metrics.json").read_text())
    assert {task: entry["num_examples"] for task, entry in metrics.items()} == {"food": 80, "hotels": 80}
    assert metrics["hotels"]["accuracy"]["value"] > 0.8
    assert len((checkout / "example/own/predictions.jsonl").read_text().splitlines()) == 80


@pytest.mark.parametrize("file", sorted(PREDECESSORS))
def test_entry_points_run_as_files(file: str) -> None:
    done = subprocess.run([sys.executable, file], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith("error: ")
    assert "required" in done.stderr


def test_every_configuration_file_is_used() -> None:
    text = "".join(path.read_text() for path in (ROOT / "scripts").glob("*.sh"))
    for path in (ROOT / "scripts").glob("*.json"):
        assert f"scripts/{path.name}" in text
