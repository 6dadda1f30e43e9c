"""The text user interface: without a terminal by textual's pilot, and the real command on one."""

from __future__ import annotations

import asyncio
import fcntl
import importlib.util
import io
import logging
import os
import pty
import re
import struct
import subprocess
import sys
import termios
import threading
import time
from dataclasses import replace

import pytest
from rich.console import Console
from sisyphus import Job, Task
from sisyphus.block import Block
from sisyphus.engines.base import EngineBase
from sisyphus.graph import graph
from sisyphus.manager import Manager
from sisyphus.outputs.targets import OutputPath
from sisyphus.records.job_record import TaskRecord
from sisyphus.states import State
from sisyphus.ui import filtering, opening, texts
from sisyphus.ui.backend import Backend, ManagerBackend
from sisyphus.ui.filtering import Filter
from sisyphus.ui.interface import Interface
from sisyphus.ui.job_table import JobTable
from sisyphus.ui.messages import Messages, kept_off_the_terminal
from sisyphus.ui.outputs_screen import OutputsScreen
from sisyphus.ui.rendering import rendered
from sisyphus.view import outputs
from sisyphus.view.facts import JobFacts, TaskFacts, UsageFacts
from textual.geometry import Region


class Step(Job):
    def __init__(self, name, previous=None):
        self.name, self.previous = name, previous
        self.out = self.output_path("out")

    def tasks(self):
        yield Task("run")

    def run(self):
        pass


class Instant(EngineBase):
    """Every task is over at once: failed if its job is called so, else finished."""

    waits_for_file_system = False
    poll_interval_s = None

    def submit_call(self, call, logpath, rqmt, name, task_name, task_ids):
        folder = os.path.dirname(logpath)
        with open(f"{folder}/info") as info:
            failed = "fails" in info.read() and not os.path.exists("mended")
        with open(f"{folder}/log.{task_name}.1", "w") as log:
            log.write("first line\n\x1b[31mlast line\x1b[0m\n")
        open(f"{folder}/{'error' if failed else 'finished'}.{task_name}.1", "w").close()
        self.notify(name)
        return "instant", None

    def task_state(self, task, task_id):
        return State.UNKNOWN.value

    def cancel(self, task):
        pass


def add(name, previous=None):
    job = Step(name, previous)
    job.add_alias(name)
    graph.add_target(OutputPath(name, job.out))
    return job


def drive(backend, steps, messages=None):
    """Run the interface without a terminal; ``steps`` gets its screen, and functions to type and wait."""
    interface = Interface(backend, Messages() if messages is None else messages)
    screen = interface.jobs

    async def run():
        async with interface.run_test(size=(120, 40)) as pilot:

            async def until(condition):
                deadline = time.monotonic() + 20
                while not condition():
                    assert time.monotonic() < deadline, "waited in vain"
                    await pilot.pause(0.02)

            async def press(*keys):
                await pilot.press(*keys)
                await pilot.pause()

            await until(lambda: screen.facts is not None)
            await steps(screen, press, until)

    asyncio.run(run())


def listed(screen):
    return [job.aliases[0] for job in screen.query_one("#table").jobs]


def text(screen, name):
    return str(screen.query_one(f"#{name}").render())


def log_text(screen, name):
    return "\n".join(strip.text.rstrip() for strip in screen.query_one(f"#{name}").lines)


def test_table_search_and_groups_of_states(workplace):
    first = add("data/first")
    add("train/second", first.out)
    add("train/third")

    async def steps(screen, press, until):
        assert listed(screen) == [
            "data/first",
            "train/third",
            "train/second",
        ]
        assert screen.query_one("#all").label.plain == "all 3"
        await press("slash", *"TRAIN")
        assert listed(screen) == ["train/third", "train/second"]
        await press("space", *"state:wait", "enter")
        assert listed(screen) == ["train/second"]
        assert screen.chosen.aliases == ["train/second"]
        await press("escape")
        assert len(listed(screen)) == 3
        await press("s", "s")
        assert listed(screen) == []
        await press("s")
        assert len(listed(screen)) == 3
        await press("home")
        await until(lambda: "data/first" in text(screen, "details_text"))
        await press("down", "down", "down", "down")
        await until(lambda: "train/second" in text(screen, "details_text"))
        await press("pageup")
        assert screen.chosen.aliases == ["data/first"]
        await press("end")
        assert screen.chosen.aliases == ["train/second"]

    drive(Backend(graph, Instant()), steps)


def test_details_log_and_why(workplace):
    with Block("exp"):
        job = add("a")
    job._sis_setup_directory()
    (workplace / job._sis_path() / "log.run.1").write_text("a line\n[red]no markup\x1b[2J\n")

    async def steps(screen, press, until):
        await until(
            lambda: "to do" in text(screen, "details_text") or "block" in text(screen, "details_text")
        )
        assert "block       exp" in text(screen, "details_text")
        await press("l")
        await until(lambda: "no markup" in log_text(screen, "log_text"))
        assert log_text(screen, "log_text").splitlines()[1:] == ["a line", "[red]no markup"]
        with (workplace / job._sis_path() / "log.run.1").open("a") as log:
            log.write("one more\n")
        await until(lambda: "one more" in log_text(screen, "log_text"))
        await press("w")
        await until(lambda: "name: 'a'" in text(screen, "why_text"))
        assert "No other folder" in text(screen, "why_text")
        await press("enter")
        assert screen.focused is screen.query_one("#why VerticalScroll")
        await press("escape")
        assert screen.focused is screen.query_one("#table")

    drive(Backend(graph, Instant()), steps)


def test_tree_by_block(workplace):
    with Block("exp") as block, block.sub_block("inner"):
        first = add("first")
    add("second", first.out)

    async def steps(screen, press, until):
        await press("b")
        tree = screen.query_one("#blocks")
        labels = [node.label.plain for node in tree.root.children]
        assert [label.split()[0] for label in labels] == ["Step", "exp"]
        assert labels[1].endswith("0/1  runnable 1")
        await press("down", "down", "enter", "down", "enter", "down")
        assert screen.chosen.aliases == ["first"]
        await until(lambda: "exp / inner" in text(screen, "details_text"))
        first._sis_setup_directory()
        first._sis_dir.mark_task("finished", "run", 1)
        await until(lambda: tree.root.children[1].label.plain.endswith("1/1"))
        await until(lambda: tree.cursor_node.label.plain == "first  finished")
        await press("b")
        assert screen.focused is screen.query_one("#table")

    drive(Backend(graph, Instant()), steps)


def test_hold_and_retry_beside_a_manager(workplace, caplog):
    caplog.set_level(logging.INFO)
    job = add("a")

    async def steps(screen, press, until):
        await press("o")
        await until(lambda: screen.chosen.state == "hold")
        assert (workplace / job._sis_path() / "hold").exists()
        await press("o")
        await until(lambda: screen.chosen.state == "runnable")
        job._sis_setup_directory()
        job._sis_dir.mark_task("error", "run", 1)
        await until(lambda: screen.chosen.state == "error")
        assert screen.query_one("#failed").label.plain == "failed 1"
        await press("R", "n")
        assert screen.chosen.state == "error"
        await press("r")
        await until(lambda: screen.chosen.state == "runnable")
        await press("p", "c", "a")  # keys of a manager: nothing happens
        await press("h")
        assert "clear errors" not in str(screen.app.screen.query_one("#question").render())
        await press("x", "q")
        assert screen.app._exit

    drive(Backend(graph, Instant()), steps)


def managed(paused):
    manager = Manager(graph, Instant())
    manager.own()
    return ManagerBackend(manager, paused=paused)


def test_a_manager_that_begins_paused_goes_on_and_ends(workplace):
    first = add("first")
    second = add("second", first.out)
    backend = managed(paused=True)

    async def steps(screen, press, until):
        await until(lambda: "paused" in text(screen, "status"))
        await until(lambda: screen.facts.counts == {"runnable": 1, "waiting": 1})
        await press("p")
        await until(lambda: screen.facts.counts == {"finished": 2})
        await until(lambda: "nothing left to do" in text(screen, "status"))
        assert "2/2 targets" in text(screen, "status")
        await press("q")

    drive(backend, steps)
    backend.close()
    assert {first, second} == set(backend.manager.summary.finished)
    assert (workplace / second._sis_path() / "finished").exists()
    assert os.path.islink("output/second")


def test_a_failed_job_is_tried_again_though_the_manager_was_through(workplace):
    add("fails")
    backend = managed(paused=False)

    async def steps(screen, press, until):
        await until(lambda: screen.facts.counts == {"error": 1} and not backend.works)
        (workplace / "mended").touch()
        await press("r")
        await until(lambda: screen.facts.counts == {"finished": 1})

    drive(backend, steps)
    backend.close()


def test_clearing_errors_begins_anew_after_a_question(workplace):
    job = add("fails")
    backend = managed(paused=False)

    async def steps(screen, press, until):
        await until(lambda: screen.facts.counts == {"error": 1})
        (workplace / "mended").touch()
        await press("c", "n")
        assert screen.facts.counts == {"error": 1}
        await press("c", "y")
        await until(lambda: screen.facts.counts == {"finished": 1})

    drive(backend, steps)
    backend.close()
    assert os.path.exists(f"{job._sis_path()}.cleared.0001")


def test_leaving_a_manager_that_works_takes_a_question(workplace):
    add("a")
    backend = managed(paused=True)

    async def steps(screen, press, until):
        await until(lambda: "paused" in text(screen, "status"))
        await press("q", "n")
        assert not screen.app._exit
        await press("q", "y")
        assert screen.app._exit

    drive(backend, steps)
    backend.close()
    assert not backend.works


def test_what_ends_the_manager_is_raised_at_the_end(workplace, monkeypatch):
    add("a")

    def break_down(self):
        raise RuntimeError("broken down")

    monkeypatch.setattr(Manager, "update_states", break_down)
    backend = managed(paused=False)

    async def steps(screen, press, until):
        await until(lambda: "stopped by an error" in text(screen, "status"))

    drive(backend, steps)
    with pytest.raises(RuntimeError, match="broken down"):
        backend.close()


def test_messages_of_any_thread_are_shown(workplace):
    add("a")
    with kept_off_the_terminal(file=True) as messages:

        async def steps(screen, press, until):
            threading.Thread(target=logging.warning, args=("from %s", "another thread")).start()
            await press("m")
            await until(lambda: "WARNING: from another thread" in log_text(screen, "messages_text"))

        drive(Backend(graph, Instant()), steps, messages)
    (file,) = (workplace / "log").iterdir()
    assert file.name.startswith("manager.log.")
    assert "another thread" in file.read_text()


def test_ten_thousand_jobs(workplace):
    add("only")
    backend = Backend(graph, Instant())
    seen = backend.look()
    (job,) = seen.jobs
    many = [replace(job, id=f"Step.{number}", aliases=[f"job{number}"]) for number in range(10_000)]
    backend.look = lambda: replace(seen, jobs=many, counts={"runnable": 10_000})

    async def steps(screen, press, until):
        await press("end")
        assert screen.chosen.aliases == ["job9999"]
        table = screen.query_one("#table")
        visible = [table.render_line(y).text for y in range(table.size.height)]
        assert "job9999" in visible[-1] and len(visible) < 40
        await press("slash", *"b777", "enter")
        assert len(listed(screen)) == 11

    drive(backend, steps)


def test_filters_and_order():
    jobs = [
        fact("waiting", aliases=["exp/A"], tags=["small"]),
        fact("running", class_name="Train", block="outer / inner"),
        fact("error", needed_for=["table.md"]),
    ]
    assert [job.state for job in Filter().jobs(jobs)] == ["error", "running", "waiting"]
    assert [job.state for job in Filter(group="failed").jobs(jobs)] == ["error"]
    for words, state in (
        ("EXP/a", "waiting"),
        ("tag:small exp", "waiting"),
        ("class:train", "running"),
        ("block:inner", "running"),
        ("target:table", "error"),
        ("state:err", "error"),
    ):
        assert [job.state for job in Filter(text=words).jobs(jobs)] == [state], words
    assert Filter(text="exp class:train").jobs(jobs) == []
    assert filtering.count_groups({"error": 1, "running": 2, "hold": 3}) == {
        "all": 6,
        "failed": 1,
        "running": 2,
        "waiting": 3,
        "finished": 0,
    }


def fact(state, **values):
    """A job of which little is known."""
    lists = {
        name: []
        for name in ("aliases", "blocks", "tags", "needed_for", "inputs", "outside_inputs", "outputs")
    }
    known = {"id": "Step.abc", "class_name": "Step", "folder": "work/Step.abc", "made_at": "", "block": ""}
    return JobFacts(**{**lists, **known, "vis_name": None, "keep_value": None, "state": state, **values})


def test_details_in_words():
    task = TaskFacts("run", "error", 3, {"cpu": 2, "mem": 4}, [])
    used = UsageFacts(wall_s=125, cpu_s=30, peak_memory_gb=1.5, hosts=["n1", "n2"])
    many = [f"t{number}" for number in range(30)]
    lines = texts.details(fact("error", info="\x1b[2Jbad", tasks=[task], needed_for=many), used)
    assert lines[0] == "job         Step.abc"
    assert lines[1] == "state       error  bad"
    assert lines[2].startswith("to do       repaired? sis retry JOB")
    assert "task        run (3 ids): error; asks for cpu 2, mem 4" in lines
    assert "used        2:05 min, cpu 30 s, 1.50 GB, on n1, n2" in lines
    assert "            and 10 more" in lines


def test_it_is_refused_without_the_library(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert "pip install textual" in opening.why_not()


def test_it_is_refused_without_a_terminal(project):
    for command in (["manager", "--ui"], ["ui"]):
        done = project.sis(*command, "config/nothing.py")
        assert done.returncode == 2
        assert "needs a terminal" in done.stderr


class Terminal:
    """A command on a terminal of its own."""

    def __init__(self, project, *args):
        self._controller, terminal = pty.openpty()
        fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 120, 0, 0))
        self.process = subprocess.Popen(
            [sys.executable, "-m", "sisyphus", *args],
            cwd=project.path,
            stdin=terminal,
            stdout=terminal,
            stderr=terminal,
            env={**project.environment(), "TERM": "xterm-256color"},
            start_new_session=True,
        )
        os.close(terminal)
        self.seen = b""
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self):
        while True:
            try:
                self.seen += os.read(self._controller, 65536)
            except OSError:  # the terminal is closed at the end
                return

    def type(self, keys):
        os.write(self._controller, keys.encode())


def test_the_command_on_a_terminal(project, wait_for):
    (project.path / "work").mkdir()
    project.config('tk.register_output("b", Step("b", Step("a").out).out)')
    terminal = Terminal(project, "manager", "--ui", "config/exp.py")
    wait_for(lambda: b"paused" in terminal.seen)
    assert not (project.path / "output/b").exists()
    terminal.type("p")
    wait_for(lambda: (project.path / "output/b").exists())
    wait_for(lambda: b"nothing left to do" in terminal.seen)
    terminal.type("q")
    assert terminal.process.wait(timeout=20) == 0
    wait_for(lambda: b"2 jobs ran, 0 were cached" in terminal.seen)
    assert terminal.seen.index(b"\x1b[?1049l") < terminal.seen.index(b"2 jobs ran")
    (log,) = (project.path / "log").glob("manager.log.*")
    assert "Finished jobs/Step" in log.read_text()


def test_a_signal_ends_it_and_gives_the_terminal_back(project, wait_for):
    (project.path / "work").mkdir()
    project.config('tk.register_output("a", Step("a").out)')
    terminal = Terminal(project, "ui", "config/exp.py")
    wait_for(lambda: b"runnable" in terminal.seen)
    terminal.process.terminate()
    assert terminal.process.wait(timeout=20) == 0
    assert b"\x1b[?1049l" in terminal.seen
    assert not (project.path / "log").exists()


def test_registered_outputs(workplace):
    first, second = add("exp/table.csv"), add("exp/second.md")
    first._sis_setup_directory()
    path = workplace / first.out.get_path()
    path.parent.mkdir(parents=True, exist_ok=True)
    graph.add_target(OutputPath("exp/plain", first.out))

    async def steps(screen, press, until):
        await press("t")
        shown = screen.app.screen
        assert isinstance(shown, OutputsScreen)
        options = shown.query_one("#outputs")

        def content():
            return "\n".join(strip.text.rstrip() for strip in shown.query_one("#content").render_lines(CROP))

        assert [str(option.prompt) for option in options.options] == [
            "○ exp/plain",
            "○ exp/second.md",
            "○ exp/table.csv",
        ]
        await until(lambda: f"exp/plain is not there yet; made by {first._sis_id()}" in content())
        await press("down")
        await until(lambda: f"made by {second._sis_id()}" in content())
        path.write_text("plain \x1b[31mred\x1b[0m text\n")
        first._sis_dir.mark_task("finished", "run", 1)
        await until(lambda: str(options.options[0].prompt) == "● exp/plain")
        await press("up")
        await until(lambda: "plain  red  text" in content())
        await press("slash", *"SECOND", "enter")
        assert [str(option.prompt) for option in options.options] == ["○ exp/second.md"]
        await press("q")
        assert screen.app.screen is screen

    drive(Backend(graph, Instant()), steps)


def test_after_a_search_the_chosen_job_is_in_sight(workplace):
    for number in range(100):
        add(f"job/{number:03}")

    async def steps(screen, press, until):
        table = screen.query_one("#table")
        last = listed(screen)[-1]
        await press("slash", *last.removeprefix("job/"), "enter")
        assert listed(screen) == [last]
        await press("escape")
        assert screen.chosen.aliases == [last]
        await until(lambda: any(last in table.render_line(y).text for y in range(1, table.size.height)))

    drive(Backend(graph, Instant()), steps)


def test_a_job_is_stopped_after_a_question(workplace):
    job = add("runs")
    job._sis_setup_directory()
    engine = Cancelling()

    async def steps(screen, press, until):
        await until(lambda: screen.chosen is not None and screen.chosen.state == "running")
        await press("x", "n")
        assert engine.cancelled == []
        await press("x", "y")
        await until(lambda: screen.chosen.state == "hold")
        assert engine.cancelled == [job]

    drive(Backend(graph, engine), steps)


class Cancelling(Instant):
    """Everything runs until it is cancelled."""

    def __init__(self):
        super().__init__()
        self.cancelled = []

    def look(self, task, task_id):
        return "unknown" if task.job in self.cancelled else "running"

    def cancel(self, task):
        self.cancelled.append(task.job)


CROP = Region(0, 0, 100, 20)


@pytest.mark.parametrize(
    ("name", "content", "lines", "num_columns"),
    [
        (
            "table.csv",
            b"model,mean\n[b]x[/b],76.0\n\x1b[2J,7\n",
            ["model   mean", "[b]x[/b]   76.0", "7"],
            19,
        ),
        (
            "table.md",
            b"| model | mean |\n| --- | ---: |\n| \x1b[31mx | 76.0 |\n",
            ["model   mean", "x   76.0"],
            22,
        ),
        ("plot.png", b"x", ["image of 1 bytes: plot.png; sis web shows it"], 0),
        ("weights", b"\0", ["binary of 1 bytes: weights"], 0),
        ("log.txt", b"a\x1b[2Jb\r\n\tc", ["a b", "c"], 0),
    ],
)
def test_how_outputs_look(workplace, name, content, lines, num_columns):
    (workplace / name).write_bytes(content)
    path = str(workplace / name)
    drawn, width = rendered(outputs.show(path), path)
    console = Console(width=60, file=io.StringIO(), force_terminal=True, color_system=None)
    console.print(drawn)
    printed = console.file.getvalue()
    for line in lines:
        assert re.sub(r"\s+", " ", line) in re.sub(r"\s+", " ", printed)
    assert "\x1b[2J" not in printed and "\x1b[31m" not in printed
    assert width == num_columns


def test_a_curve_of_what_was_used():
    assert texts.curve([0.0, 1.0, 2.0, 4.0]) == "▁▃▅█"
    assert texts.curve([0.0, 0.0]) == "▁▁"
    assert len(texts.curve(range(1, 121))) == 30
    records = [TaskRecord("run", 1, 9.0, 1.0, 0.5, "n1", None, series=[(5, 0.25, 100.0), (10, 0.5, 50.0)])]
    lines = texts.details(fact("running"), None, records)
    assert "memory      ▅█ up to 0.50 GB over 10 s of run 1" in lines
    assert "cpu         █▅ up to 100 %" in lines


def test_on_a_narrow_terminal_the_name_has_room():
    table = JobTable("table")
    table.jobs = [fact("error", aliases=["exp/a"], failure="ValueError: no", class_name="Train")]
    table._class_width = 5
    (line,) = ["".join(segment.text for segment in table._segments(table.jobs[0], 79, False))]
    assert line.startswith("error       Train exp/a ValueError: no")
