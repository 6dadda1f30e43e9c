"""An estimate that is killed goes on, and several processes share one."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from merging.errors import DiskSpaceError, OptionError
from merging.hessians import _adding
from merging.hessians.artifact import StoredHessian
from merging.hessians.estimate import estimate
from safetensors.torch import load_file

STATISTICS = ["fisher_mc", "gram", "kfac_mc"]
PROGRAM = """
import json, os, signal, sys
from merging.hessians import _adding
from merging.hessians.estimate import estimate

arguments, killed_after = json.loads(sys.argv[1]), int(sys.argv[2])
add, calls = _adding.Adder.add, []

def counted(adder, examples):
    if len(calls) == killed_after and os.environ.get("RANK", "1") == "1":
        os.kill(os.getpid(), signal.SIGKILL)
    calls.append(examples)
    add(adder, examples)

_adding.Adder.add = counted
_adding._MAX_SHARE_OF_SAVING = 1e9  # as often as it may
estimate(**arguments)
with open(f"calls_{os.environ.get('RANK', '0')}.json", "w") as file:
    json.dump(calls, file)
"""
NEVER = -1


@pytest.fixture
def arguments(
    tmp_path: Path, write_bert: Callable[..., Path], write_texts: Callable[..., Path]
) -> dict[str, Any]:
    """Of an estimate of 20 examples, 3 in a batch: 4 batches in each half."""
    return {
        "statistics": STATISTICS,
        "task_type": "sequence_classification",
        "model": str(write_bert()),
        "data": {"data": str(write_texts([row % 2 for row in range(20)])), "split": "train"},
        "options": {"max_tokens": 8, "batch_size": 3},
        "seed": 0,
        "save_interval_s": 0,
    }


def run(
    folder: Path, arguments: dict[str, Any], killed_after: int = NEVER, *, num_processes: int = 1
) -> subprocess.CompletedProcess[str]:
    program = folder / "program.py"
    program.write_text(PROGRAM)
    launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={num_processes}"]
    return subprocess.run(
        [
            sys.executable,
            *(launcher if num_processes > 1 else []),
            str(program),
            json.dumps(arguments),
            str(killed_after),
        ],
        cwd=folder,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )


class Stop(Exception):
    """What ends an estimate early."""


def counted(run: Callable[[], None], stop_after: int = NEVER) -> list[Any]:
    """Run an estimate that saves its sums as often as it may; and return the batches that it added."""
    add, calls = _adding.Adder.add, []

    def count(adder: Any, examples: Any) -> None:
        if len(calls) == stop_after:
            raise Stop
        calls.append(examples)
        add(adder, examples)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_adding.Adder, "add", count)
        patch.setattr(_adding, "_MAX_SHARE_OF_SAVING", 1e9)
        run()
    return calls


def stopped(arguments: dict[str, Any], after: int) -> None:
    with pytest.raises(Stop):
        counted(lambda: estimate(**arguments), after)


def assert_same(first: Path, second: Path) -> None:
    for name in STATISTICS:
        files = [(folder / name / "hessian.safetensors").read_bytes() for folder in (first, second)]
        assert files[0] == files[1], name
        reports = [StoredHessian(folder / name, label=name).record.report for folder in (first, second)]
        assert reports[0].half_change == reports[1].half_change is not None
        assert reports[0].layers == reports[1].layers


def test_a_killed_estimate_ends_with_the_same_bits(tmp_path: Path, arguments: dict[str, Any]) -> None:
    """Killed in the second half, with half of a file left behind."""
    estimate(**arguments, out=tmp_path / "whole")
    killed = {**arguments, "out": str(tmp_path / "killed")}
    assert run(tmp_path, killed, 6).returncode == -signal.SIGKILL
    assert not (tmp_path / "killed").exists()
    (tmp_path / "killed.work" / "sums-0.new").write_bytes(b"cut off")
    assert len(counted(lambda: estimate(**killed))) == 8 - 6
    assert_same(tmp_path / "whole", tmp_path / "killed")
    assert not (tmp_path / "killed.work").exists()


@pytest.mark.parametrize("after", [1, 4, 7])
def test_it_may_stop_anywhere(tmp_path: Path, arguments: dict[str, Any], after: int) -> None:
    """In the first half, between the halves, and before the last batch."""
    estimate(**arguments, out=tmp_path / "whole")
    stopped({**arguments, "out": tmp_path / "stopped"}, after)
    assert len(counted(lambda: estimate(**arguments, out=tmp_path / "stopped"))) == 8 - after
    assert_same(tmp_path / "whole", tmp_path / "stopped")


def test_processes_share_an_estimate_and_go_on(tmp_path: Path, arguments: dict[str, Any]) -> None:
    """The second of two processes is killed, and both go on: the result is that of one process."""
    estimate(**arguments, out=tmp_path / "alone")
    shared = {**arguments, "out": str(tmp_path / "shared"), "work": str(tmp_path / "work")}
    assert run(tmp_path, shared, 3, num_processes=2).returncode != 0
    assert not (tmp_path / "shared").exists()
    done = run(tmp_path, shared, num_processes=2)
    assert done.returncode == 0, done.stderr
    seen = [json.loads((tmp_path / f"calls_{rank}.json").read_text()) for rank in (0, 1)]
    assert len(seen[1]) == 1  # of 2 + 2 batches
    for name in STATISTICS:
        found, expected = (
            load_file(tmp_path / its / name / "hessian.safetensors") for its in ("shared", "alone")
        )
        assert found.keys() == expected.keys()
        largest = max(float(tensor.abs().max()) for tensor in expected.values())
        for key, tensor in expected.items():
            torch.testing.assert_close(found[key], tensor, rtol=1e-5, atol=1e-7 * largest)
        records = [StoredHessian(tmp_path / its / name, label=name).record for its in ("shared", "alone")]
        assert records[0].num_examples == records[1].num_examples == 20
        assert records[0].num_positions == records[1].num_positions
        assert records[0].report.num_processes == 2
        assert records[0].report.half_change == pytest.approx(records[1].report.half_change, rel=1e-4)
    assert [path.name for path in (tmp_path / "work").iterdir()] == ["progress.jsonl"]


def test_another_batch_size_may_go_on(tmp_path: Path, arguments: dict[str, Any]) -> None:
    """Say, because there was not enough memory for the first one."""
    arguments |= {"out": tmp_path / "out", "statistics": ["fisher_mc"]}
    stopped(arguments, 1)
    estimate(**{**arguments, "options": {**arguments["options"], "batch_size": 2}})
    estimate(**{**arguments, "out": tmp_path / "whole"})
    found, expected = (
        load_file(tmp_path / its / "fisher_mc/hessian.safetensors") for its in ("out", "whole")
    )
    largest = max(float(tensor.max()) for tensor in expected.values())
    for key, tensor in expected.items():
        torch.testing.assert_close(found[key], tensor, rtol=1e-4, atol=1e-8 * largest)


def test_the_work_folder_of_another_estimate_is_refused(tmp_path: Path, arguments: dict[str, Any]) -> None:
    arguments |= {"out": tmp_path / "out"}
    stopped(arguments, 2)
    options = {**arguments["options"], "max_examples": 8}
    with pytest.raises(OptionError, match=r"unfinished estimate with another options, seed\. Give"):
        estimate(**{**arguments, "options": options, "seed": 1})
    (tmp_path / "out.work" / "sums-0.pt").write_bytes(b"cut off")
    with pytest.raises(OptionError, match=r"sums-0\.pt is damaged.*Remove it"):
        estimate(**arguments)


def test_nothing_is_left_of_what_cannot_go_on(tmp_path: Path, arguments: dict[str, Any]) -> None:
    arguments |= {"out": tmp_path / "out", "save_interval_s": 1000}
    stopped(arguments, 2)
    assert not (tmp_path / "out.work").exists()


def test_no_room_for_the_sums(
    tmp_path: Path, arguments: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments |= {"out": tmp_path / "out", "work": tmp_path / "elsewhere"}
    usage = type("Usage", (), {"free": 20_000})  # enough for the result
    monkeypatch.setattr("shutil.disk_usage", lambda folder: usage)
    with pytest.raises(DiskSpaceError, match="elsewhere needs"):
        estimate(**arguments)
