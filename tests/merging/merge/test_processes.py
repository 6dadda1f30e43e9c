"""Work that is shared between processes, and merges that are."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from merging.errors import CheckpointError, MergingError
from merging.merge import tensor_merge
from merging.merge.processes import map_in_processes
from merging.merge.streaming import merge_checkpoints, merge_tensors
from safetensors.torch import load_file
from torch import Tensor

WriteModel = Callable[..., Path]
NAMES = [f"layer.{number}.weight" for number in range(6)]


def test_each_share_is_worked_at_by_a_process_of_its_own() -> None:
    found = map_in_processes(lambda share: (os.getpid(), sorted(share)), list("abcde"), [5, 1, 1, 1, 1], 2)
    pids, shares = zip(*found, strict=True)
    assert pids[0] == os.getpid() != pids[1]
    assert shares == (["a"], ["b", "c", "d", "e"])


def test_the_error_of_a_child_is_raised_here() -> None:
    def fail(share: Sequence[str]) -> None:
        if "b" in share:
            raise CheckpointError("b is broken")

    with pytest.raises(CheckpointError, match="b is broken"):
        map_in_processes(fail, ["a", "b"], [1, 1], 2)


def test_a_child_that_is_killed_is_an_error() -> None:
    def die(share: Sequence[str]) -> None:
        if "b" in share:
            os.kill(os.getpid(), signal.SIGKILL)

    with pytest.raises(MergingError, match=r"a process of the merge was killed \(exit code -9\)"):
        map_in_processes(die, ["a", "b"], [1, 1], 2)


def test_an_error_here_ends_the_children() -> None:
    started = time.monotonic()

    def work(share: Sequence[str]) -> None:
        if "a" in share:
            raise CheckpointError("a is broken")
        time.sleep(60)

    with pytest.raises(CheckpointError, match="a is broken"):
        map_in_processes(work, ["a", "b"], [1, 1], 2)
    assert time.monotonic() - started < 30


def test_children_die_with_a_parent_that_is_killed(tmp_path: Path) -> None:
    script = (
        "import os, sys, time\n"
        "from pathlib import Path\n"
        "from merging.merge.processes import map_in_processes\n"
        "def work(share):\n"
        "    Path(sys.argv[1], share[0]).write_text(str(os.getpid()))\n"
        "    time.sleep(60)\n"
        "map_in_processes(work, ['a', 'b'], [1, 1], 2)\n"
    )
    parent = subprocess.Popen([sys.executable, "-c", script, str(tmp_path)])
    deadline = time.monotonic() + 30
    while not all((tmp_path / name).is_file() and (tmp_path / name).read_text() for name in "ab"):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    child = int((tmp_path / "b").read_text())
    parent.kill()
    parent.wait()
    while Path(f"/proc/{child}/stat").is_file():
        if Path(f"/proc/{child}/stat").read_text().rpartition(")")[2].split()[0] == "Z":
            break  # dead, and not yet collected by whoever inherits it
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.fixture
def shared(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small models are shared between two processes, too."""
    monkeypatch.setattr(tensor_merge, "SHARED_ELEMENTS", 1)
    monkeypatch.setattr(tensor_merge, "num_cpus", lambda: 2)


def models(write_model: WriteModel, flavour: str = "per_tensor") -> tuple[dict[str, Any], dict[str, Any]]:
    """Arguments of a merge on disk and in memory."""
    generator = torch.Generator().manual_seed(0)
    tensors: dict[str, dict[str, Tensor]] = {
        model: {name: torch.randn(7, 5, generator=generator) for name in NAMES}
        for model in ("base", "a", "b")
    }
    folders = {name: write_model(name, its) for name, its in tensors.items()}
    common = {"method": "ties", "options": {"flavour": flavour, "density": 0.3}, "extras": {}}
    on_disk = {**common, "base": folders["base"], "models": {task: folders[task] for task in "ab"}}
    in_memory = {**common, "base": tensors["base"], "models": {task: tensors[task] for task in "ab"}}
    return on_disk, in_memory


@pytest.mark.usefixtures("shared")
@pytest.mark.parametrize(
    "flavour", ["per_tensor", "global"]
)  # measured by parameter, or over the whole model
def test_a_shared_merge_is_the_same_to_the_byte(
    write_model: WriteModel, tmp_path: Path, flavour: str
) -> None:
    on_disk, in_memory = models(write_model, flavour)
    merge_checkpoints(**on_disk, out=tmp_path / "out")
    merged = load_file(tmp_path / "out" / "model.safetensors")
    expected = merge_tensors(**in_memory)
    assert merged.keys() == expected.keys()
    assert all(torch.equal(merged[name], expected[name]) for name in merged)


@pytest.mark.usefixtures("shared")
def test_what_is_counted_comes_from_all_processes(write_model: WriteModel, tmp_path: Path) -> None:
    on_disk, _ = models(write_model)
    value = [{"filter": name, "value": float(number)} for number, name in enumerate(NAMES)]
    on_disk |= {"method": "task_arithmetic", "options": {"scaling_factor": value}}
    merge_checkpoints(**on_disk, out=tmp_path / "out")
    record = json.loads((tmp_path / "out" / "merge.json").read_text())
    assert record["combination_weights"]["a"] == {"min": 0.0, "max": 5.0}


@pytest.mark.usefixtures("shared")
def test_what_is_broken_is_named_whoever_reads_it(write_model: WriteModel, tmp_path: Path) -> None:
    for broken in (NAMES[0], NAMES[-1]):
        tensors = {name: torch.ones(3) for name in NAMES}
        base = write_model(f"base_{broken}", tensors)
        model = write_model(f"model_{broken}", {**tensors, broken: torch.full((3,), float("nan"))})
        with pytest.raises(CheckpointError, match=f"{broken}.*NaN"):
            merge_checkpoints(
                method="task_arithmetic",
                options={},
                base=base,
                models={"a": model},
                extras={},
                out=tmp_path / "out",
            )
        assert not (tmp_path / "out").exists()
