"""Children that a killed task left running."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import psutil
import pytest
from sisyphus.running import usage
from sisyphus.running.leftovers import end_leftovers

TASK = """
import os, subprocess, sys
children = [subprocess.Popen(["sleep", "60"], cwd=folder) for folder in sys.argv[1:]]
print(*[child.pid for child in children], flush=True)
os.kill(os.getpid(), 9)
"""


@pytest.fixture
def killed(tmp_path):
    """A task that was killed: its record, a child in the job's folder, a child elsewhere."""
    (tmp_path / "job/work").mkdir(parents=True)
    places = [str(tmp_path / "job/work"), str(tmp_path)]
    process = subprocess.Popen(
        [sys.executable, "-c", TASK, *places], stdout=subprocess.PIPE, text=True, start_new_session=True
    )
    record = {**usage.identify(process.pid), "process_group": process.pid}
    inside, outside = map(int, process.stdout.readline().split())
    process.stdout.close()
    process.wait()
    yield record, inside, outside
    for pid in (inside, outside):
        if psutil.pid_exists(pid):
            os.kill(pid, signal.SIGKILL)


def test_what_works_in_the_jobs_folder_is_ended(tmp_path, killed):
    record, inside, outside = killed
    assert end_leftovers(record, str(tmp_path / "job")) == [inside]
    assert usage.process_start(inside) is None
    assert usage.process_start(outside) is not None
    assert end_leftovers(record, str(tmp_path / "job")) == []


def test_other_machines_and_other_groups_are_left_alone(tmp_path, killed):
    record, inside, _ = killed
    assert end_leftovers({**record, "host": "elsewhere"}, str(tmp_path / "job")) == []
    assert end_leftovers({**record, "process_group": 2**22 + 1}, str(tmp_path / "job")) == []
    assert end_leftovers({}, str(tmp_path / "job")) == []
    assert usage.process_start(inside) is not None
