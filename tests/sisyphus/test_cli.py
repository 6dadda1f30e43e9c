"""The command line as a whole: help, arguments, exit codes, the three ways to start."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from sisyphus import cli
from sisyphus.terminal import logs, prompts


def test_help_with_the_banner(project):
    done = project.sis()
    assert done.returncode == 0
    assert "|_____/" in done.stdout
    assert "manager" in done.stdout


def test_wrong_arguments_are_code_2(project):
    assert project.sis("manger").returncode == 2
    assert project.sis("worker").returncode == 2
    assert project.sis("--log_level", "loud", "manager").returncode == 2


def test_what_is_not_there_is_refused_before_anything_happens(project):
    done = project.sis("manager", "--fs", "mount", "config/nothing.py")
    assert done.returncode == 2
    assert "--fs is not part of this version" in done.stderr


def test_configs_may_be_given_before_the_command(project):
    project.config('tk.register_output("one", Step("a").out)', name="one")
    project.config('tk.register_output("two", Step("b").out)', name="two")
    done = project.sis("--config", "config/one.py", "--config", "config/two.py", "manager", "-r")
    assert done.returncode == 0
    assert project.read("output/one") == project.read("output/two")


@pytest.mark.parametrize("name", ["sis", "sisyphus"])
def test_the_installed_commands(project, name):
    script = Path(sys.executable).with_name(name)
    if not script.exists():
        pytest.skip(f"{name} is not installed beside this Python")
    project.config('tk.register_output("a", Step("a").out)')
    done = subprocess.run(
        [script, "manager", "-r", "config/exp.py"],
        cwd=project.path,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        env=project.environment(),
    )
    assert done.returncode == 0, done.stderr
    assert project.read("output/a").strip() == "1"


def test_log_level(project):
    project.config('tk.register_output("a", Step("a").out)')
    assert project.sis("--log_level", "40", "manager", "config/exp.py").stderr == ""


def test_every_command_and_flag_of_upstream_is_known():
    parse = cli.make_parser().parse_args
    manager = parse(["m", "-r", "-co", "-cio", "-i", "--filesystem", "d", "a.py", "b.main(3)"])
    assert (manager.run, manager.clear_errors_once, manager.clear_interrupts_once) == (True, True, True)
    assert (manager.ignore_once, manager.interactive, manager.configs) == (False, True, ["a.py", "b.main(3)"])
    assert parse(["m", "-io"]).ignore_once
    console = parse(["c", "--load", "work/a", "work/b", "--skip_config", "-c", "x", "-s", "--", "conf.py"])
    assert (console.load, console.commands, console.script) == (["work/a", "work/b"], ["x"], True)
    worker = parse(["worker", "work/a", "run", "3", "--fr", "--engine", "long", "--redirect_output"])
    assert (worker.jobdir, worker.task_name, worker.task_id) == ("work/a", "run", 3)
    assert (worker.force_resume, worker.engine, worker.redirect_output) == (True, "long", True)
    unused = parse(["s", "clean_unused", "--used_path", "u", "--skip_remove", "--mode", "move", "a.py"])
    assert (unused.shortcut, unused.used_path, unused.mode, unused.configs) == (
        "clean_unused",
        "u",
        "move",
        ["a.py"],
    )
    assert parse(["s", "clean_by_keep_value", "--keep_value", "30"]).keep_value == 30
    assert parse(["s", "import_from_dir", "--dir", "a", "--dir", "b", "--use_alias"]).dirs == ["a", "b"]
    assert parse(["s", "remove_job_and_descendants", "--job", "x", "--path", "y"]).jobs == ["x"]
    assert parse(["s", "show_jobs_in_webserver", "--port", "80", "--job", "d"]).port == 80


def test_the_end_of_stdin_is_the_harmless_answer(monkeypatch, capsys):
    def at_the_end(question):
        raise EOFError

    monkeypatch.setattr("builtins.input", at_the_end)
    assert prompts.ask("Start? ", "n") == "n"
    assert not prompts.confirm("Delete everything?")
    monkeypatch.setattr("builtins.input", lambda question: " Yes ")
    assert prompts.confirm("Delete everything?")


@pytest.mark.parametrize(
    ("level", "line"), [(40, "\033[31mtext\033[0m"), (30, "\033[33m"), (20, "\033[32m"), (10, "\033[35m")]
)
def test_levels_have_colours_on_terminals_only(level, line):
    import logging

    record = logging.LogRecord("x", level, "file", 1, "text", None, None)
    assert line in logs.LevelFormatter(coloured=True).format(record)
    assert logs.LevelFormatter(coloured=False).format(record).endswith(f"{logging.getLevelName(level)}: text")


def test_objects_as_html():
    from sisyphus import Job, tk
    from sisyphus.http_server import object_to_html

    class Own:
        def html(self):
            return "<b>own</b>"

    class Some(Job):
        def __init__(self):
            self.out = self.output_path("out")

    assert object_to_html("a < b") == "a &lt; b"
    assert object_to_html([1, {"x": Own()}]) == (
        "<ol><li>1</li><li><table><tr><td>x</td><td><b>own</b></td></tr></table></li></ol>"
    )
    assert object_to_html({2, 1}) == "<ol><li>1</li><li>2</li></ol>"
    assert object_to_html(tk.Path("/in")) == "/in"
    job = Some()
    assert object_to_html(job) == f'<a href="/info/{job._sis_id()}">{job._sis_id()}</a>'
    assert object_to_html(job.out) == f"{object_to_html(job)}: {job.out.get_path()}"
