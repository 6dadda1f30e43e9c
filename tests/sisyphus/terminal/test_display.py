"""What a person sees: on a terminal, and in a log."""

from __future__ import annotations

import logging
import os
import pty
import subprocess
import sys

import pytest
from sisyphus.terminal import display, overview
from sisyphus.ui import session

PROGRESS = """
class Works(Job):
    '''Tells how far it is, and ends when the file `go` is there.'''

    def __init__(self):
        self.out = self.output_var("out")

    def completed_fraction(self):
        return 0.42

    def info(self):
        return "loss 0.31"

    def run(self):
        while not os.path.exists("../../../../go"):
            time.sleep(0.02)
        self.out.set(1)
"""


def run_on_terminal(project, wait_for) -> str:
    """Run the manager on a terminal; the file `go` is made when progress is seen."""
    controller, terminal = pty.openpty()
    manager = subprocess.Popen(
        [sys.executable, "-m", "sisyphus", "manager", "-r", "config/exp.py"],
        cwd=project.path,
        stdin=terminal,
        stdout=terminal,
        stderr=terminal,
        env={**project.environment(), "TERM": "xterm-256color", "COLUMNS": "160"},
    )
    os.close(terminal)
    seen = b""
    while True:
        try:
            piece = os.read(controller, 65536)
        except OSError:  # the terminal is closed at the end
            break
        if not piece:
            break
        seen += piece
        if b"loss 0.31" in seen:
            project.write("go", "")
    os.close(controller)
    assert manager.wait(timeout=20) == 0
    return seen.decode()


def test_a_terminal_shows_what_runs_with_its_progress(project, wait_for):
    (project.path / "work").mkdir()
    project.config('tk.register_output("a", Works().out)', recipe=PROGRESS)
    seen = run_on_terminal(project, wait_for)
    assert "jobs/Works" in seen
    assert "finished(0) running(1)" in seen
    assert "42%" in seen
    assert "━" in seen  # the bar
    assert "\x1b[32m" in seen or "\x1b[0;32m" in seen  # green: information
    assert "1 jobs ran, 0 were cached" in seen


class FakeJob:
    _sis_needed_for_which_targets = frozenset({"b", "a", "c"})
    _sis_created_at = ""

    def __str__(self):
        return "Job<x>"

    def get_vis_name(self):
        return "shown"

    def get_one_alias(self):
        return "exp/alias"

    def _sis_next_task(self):
        return None

    def info(self):
        raise RuntimeError("not ready")

    def completed_fraction(self):
        return 1.5


def test_describe_names_targets_and_progress(monkeypatch):
    job = FakeJob()
    assert overview.describe(job) == "Job<x> <target: a> <and 2 more> [shown]"
    assert overview.describe(job, state="running").endswith("[shown] {100%}")
    monkeypatch.setattr("sisyphus.global_settings.SHOW_JOB_TARGETS", 2)
    monkeypatch.setattr("sisyphus.global_settings.SHOW_VIS_NAME_IN_MANAGER", False)
    assert overview.describe(job) == "Job<x> <target: a> <target: b> <and 1 more>"
    assert overview.describe(job, verbose=True) == "Job<x> <target: a> <target: b> <target: c>"
    assert overview.describe("/a/path") == "/a/path"


def test_a_silent_log_tells_now_and_then_what_runs(monkeypatch, caplog):
    caplog.set_level(logging.INFO)
    clock = [100.0]
    monkeypatch.setattr(display.time, "monotonic", lambda: clock[0])
    plain = display.PlainDisplay()
    states = {"running": {FakeJob()}, "waiting": {1, 2}}
    spoken = []
    for _ in range(100):
        caplog.clear()
        plain.show(states, 7)
        if caplog.messages:
            spoken.append((clock[0], caplog.messages))
        clock[0] += 1
    assert [moment for moment, _ in spoken] == [115.0, 145.0]
    assert spoken[0][1][0] == "finished(7) running(1) waiting(2)"
    assert spoken[0][1][1] == "running: exp/alias [shown] {100%} for 15 s"


def test_lines_of_the_log_are_short(caplog):
    caplog.set_level(logging.INFO)
    plain = display.PlainDisplay()
    plain.started(FakeJob())
    plain.finished(FakeJob(), 121.0)
    plain.failed(FakeJob(), "error", ["    why"])
    assert caplog.messages == [
        "Started  exp/alias [shown]",
        "Finished exp/alias [shown] in 2:01 min",
        "error: exp/alias [shown]\n    why",
    ]


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.04, "0.0 s"), (9.94, "9.9 s"), (12.4, "12 s"), (185, "3:05 min"), (7800, "2:10 h")],
)
def test_duration(seconds, text):
    assert overview.duration(seconds) == text


def test_last_lines_of_a_large_log(tmp_path):
    log = tmp_path / "log"
    log.write_bytes(b"\xff first\n" + b"x" * 100_000 + b"\nlast but one\nlast \n")
    assert overview.last_lines(str(log), 2) == ["last but one", "last"]
    assert overview.last_lines(str(log), 0) == []
    log.write_bytes(b"no newline at the end")
    assert overview.last_lines(str(log), 5) == ["no newline at the end"]
    log.write_bytes(b"")
    assert overview.last_lines(str(log), 5) == []
    assert overview.last_lines(str(tmp_path / "none"), 5) == []


@pytest.mark.parametrize(
    ("written", "shown"),
    [
        (b"\x1b[31mred\x1b[0m\tand \x00 nul", " red \tand   nul"),
        (b" 10%|#\r 50%|##\r100%|###", "100%|###"),
        (b"caf\xe9", "caf\ufffd"),
        (b"y" * 600, "y" * 500 + " ..."),
    ],
)
def test_excerpts_of_logs_leave_the_terminal_as_it_is(tmp_path, written, shown):
    log = tmp_path / "log"
    log.write_bytes(written + b"\n")
    assert overview.last_lines(str(log), 1) == [shown]


def test_counts_are_alphabetical_and_without_inputs():
    states = {"waiting": {1, 2, 3}, "error": {4}, "input_path": {"/x"}, "running": set()}
    assert overview.counts_text(states) == "error(1) waiting(3)"


def test_many_outputs_of_one_folder_share_a_line(caplog):
    caplog.set_level(logging.INFO)
    session._print_outputs("Output", ["output/a", *(f"output/table/{n:02d}" for n in range(13))])
    assert caplog.messages == ["Output output/a", "Output output/table/: 00, 01, 02, ... (13)"]
