"""The short form of ``make chaos``."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="the harness reads /proc")
def test_nothing_is_lost_or_done_twice():
    command = [sys.executable, str(Path(__file__).parent), "--short", "--faults", "20", "--seed", "1"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stdout + done.stderr
    injected, runs = re.search(r"(\d+) faults injected, (\d+) runs, 0 losses", done.stdout).groups()
    assert int(injected) >= 20
    assert int(runs) >= 1
