"""``sis console`` and ``sis shortcut``, as a person types them."""

from __future__ import annotations

import builtins
import code
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import pytest
from sisyphus import helper


class Project(Protocol):
    path: Path
    sis: Callable[..., Any]
    config: Callable[..., None]
    write: Callable[[str, str], Path]
    manager: Callable[..., Any]
    engine: Callable[..., None]
    start_manager: Callable[..., Any]


CHAIN = """
first = Step("first")
second = Step("second", first.out)
tk.register_output("number", second.out)
"""


@pytest.fixture
def finished(project: Project) -> Project:
    """A project whose chain of two jobs was computed."""
    project.config(CHAIN)
    assert project.manager().returncode == 0
    return project


def jobs(project: Project) -> set[str]:
    """Last parts of the job folders."""
    return {path.name for path in (project.path / "work/jobs").iterdir()}


# --- console ---


def test_script_mode(finished: Project) -> None:
    show = "print('numbers', [job.out.get() for job in tk.sis_graph.jobs_sorted()], config_files)"
    done = finished.sis("console", "config/exp.py", "--script", "-c", "x = 1", show)
    assert done.returncode == 0
    assert "numbers [1, 2] ['config/exp.py']" in done.stdout


def test_a_command_that_fails_is_told_by_the_exit_code(project: Project) -> None:
    done = project.sis("c", "--skip_config", "-s", "-c", "1 / 0")
    assert done.returncode == 1 and "ZeroDivisionError" in done.stderr
    assert project.sis("c", "config/nothing.py", "-s").returncode == 1


def test_jobs_are_loaded_from_folders(finished: Project) -> None:
    folders = [
        str(path.relative_to(finished.path)) for path in sorted((finished.path / "work/jobs").iterdir())
    ]
    done = finished.sis("console", "-s", "-c", "print(sorted(job.name for job in jobs))", "--load", *folders)
    assert done.returncode == 0 and "['first', 'second']" in done.stdout
    done = finished.sis("console", "-s", "--load", "work/jobs")
    assert done.returncode == 1 and "no job is saved in work/jobs" in done.stderr


def test_without_arguments_the_default_config_is_loaded(project: Project) -> None:
    project.write(
        "config/__init__.py",
        "from recipe.jobs import *\n\ndef main():\n    " + "tk.register_output('x', Step('x').out)\n",
    )
    done = project.sis("console", "-s", "-c", "print(config_files, len(tk.sis_graph.jobs()))")
    assert "['config.main'] 1" in done.stdout


def test_ipython_reads_what_is_typed(project: Project) -> None:
    pytest.importorskip("IPython")
    done = project.sis(
        "console",
        "--skip_config",
        "-c",
        "x = 6 * 7",
        stdin="print('answer', x)\nexit\n",
        env={"HOME": str(project.path)},
    )
    assert done.returncode == 0
    assert "answer 42" in done.stdout


def test_without_ipython_the_console_of_python_is_used(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    original = builtins.__import__

    def no_ipython(name: str, *args: Any, **kwargs: Any) -> Any:
        if name == "IPython":
            raise ImportError(name)
        return original(name, *args, **kwargs)

    opened: list[dict[str, Any]] = []
    monkeypatch.setattr(builtins, "__import__", no_ipython)
    monkeypatch.setattr(code, "interact", lambda banner, local, exitmsg: opened.append(local))
    caplog.set_level("INFO")
    helper.interact(["x = 6 * 7"], {"y": 1})
    assert opened[0]["x"] == 42 and opened[0]["y"] == 1
    assert "IPython is not installed" in caplog.text


# --- shortcuts ---


def test_clean_jobs(finished: Project) -> None:
    assert finished.sis("shortcut", "clean_jobs", "config/exp.py").returncode == 0
    for folder in (finished.path / "work/jobs").iterdir():
        with tarfile.open(folder / "finished.tar.gz") as archive:
            assert {"finished", "log.run.1", "job.save"} <= set(archive.getnames())
        assert {path.name for path in folder.iterdir()} == {"finished.tar.gz", "info", "input", "output"}
    done = finished.manager()
    assert done.returncode == 0
    done = finished.sis(
        "console",
        "-s",
        "-c",
        "print(jobs[0].name)",
        "--load",
        str(next((finished.path / "work/jobs").iterdir())),
    )
    assert done.returncode == 0


def test_clean_unused(finished: Project) -> None:
    kept = jobs(finished)
    finished.config("tk.register_output('x', Step('unused').out)", name="other")
    assert finished.manager(config="config/other.py").returncode == 0
    assert len(jobs(finished)) == 3
    finished.write("work/notes/mine.txt", "do not touch")
    done = finished.sis("s", "clean_unused", "config/exp.py", "--used_path", "used", "--only_find_used_paths")
    assert done.returncode == 0 and len((finished.path / "used").read_text().splitlines()) == 2
    arguments = ("s", "clean_unused", "--load_used_path", "used", "--to_remove", "remove")
    assert finished.sis(*arguments, "--skip_remove").returncode == 0
    (unused,) = jobs(finished) - kept
    assert (finished.path / "remove").read_text() == f"work/jobs/{unused}\n"
    assert finished.sis(*arguments).returncode == 0  # the end of stdin is no consent
    assert unused in jobs(finished)
    assert (
        finished.sis(*arguments, "--mode", "move", "--move_postfix", ".old", stdin="n\nn\ny\n").returncode
        == 0
    )
    assert jobs(finished) == {*kept, f"{unused}.old"}
    assert finished.sis("s", "clean_unused", "config/exp.py", stdin="y\ny\ny\n").returncode == 0
    assert jobs(finished) == kept
    assert (finished.path / "work/notes/mine.txt").exists()
    assert list(finished.path.glob("used_paths.*.txt")) and list(finished.path.glob("to_remove.*.txt"))


def test_nothing_is_cleaned_if_nothing_is_known_to_be_used(finished: Project) -> None:
    finished.write("config/empty.py", "def py():\n    pass\n")
    done = finished.sis("s", "clean_unused", "config/empty.py", stdin="y\ny\ny\n")
    assert done.returncode == 1 and "names no job, so every job would be removed" in done.stderr
    finished.write(
        "config/waits.py",
        "from sisyphus import tk\nfrom recipe.jobs import Step\n\n"
        "async def py():\n    await tk.async_run(Step('never').out)\n",
    )
    done = finished.sis("s", "clean_unused", "config/waits.py", stdin="y\ny\ny\n")
    assert done.returncode == 1 and "config/waits.py: still waits for results" in done.stderr
    assert len(jobs(finished)) == 2


def test_clean_by_keep_value(finished: Project) -> None:
    call = ("s", "clean_by_keep_value", "config/exp.py")
    assert finished.sis(*call, "--keep_value", "51", stdin="n\ny\ny\n").returncode == 0
    (kept,) = jobs(finished)  # the one that the target wants
    assert (finished.path / "work/jobs" / kept / "output/number").read_text() == "2\n"
    assert list(finished.path.glob("used_keep_values.*.txt"))


def test_import_from_dir(finished: Project, tmp_path: Path) -> None:
    shutil.move(finished.path / "work", tmp_path / "old work")
    done = finished.sis("s", "import_from_dir", "config/exp.py", "--dir", str(tmp_path / "old work"))
    assert done.returncode == 0
    assert all(path.is_symlink() for path in (finished.path / "work/jobs").iterdir())
    assert len(jobs(finished)) == 2
    done = finished.sis("s", "import_from_dir", "config/exp.py")
    assert done.returncode == 1 and "name work directories with --dir" in done.stderr
    done = finished.sis("s", "import_from_dir", "--dir", str(tmp_path), "config/exp.py")
    assert done.returncode == 1 and "config/exp.py is no directory. If it is a config" in done.stderr


def test_remove_job_and_descendants(finished: Project) -> None:
    done = finished.sis("s", "remove_job_and_descendants", "config/exp.py", "--job", "nonsense")
    assert done.returncode == 1 and "no job contains 'nonsense'" in done.stderr
    done = finished.sis("s", "remove_job_and_descendants", "config/exp.py")
    assert done.returncode == 1 and "name paths with --path, or jobs with --job" in done.stderr
    folders = (finished.path / "work/jobs").iterdir()
    first, second = sorted(folders, key=lambda folder: (folder / "output/number").read_text())
    done = finished.sis(
        "s", "remove_job_and_descendants", "config/exp.py", "--path", f"{second.name}/output", stdin="y\n"
    )
    assert done.returncode == 0 and first.exists() and not second.exists()
    done = finished.sis("s", "remove_job_and_descendants", "config/exp.py", "--job", first.name, stdin="y\n")
    assert done.returncode == 0 and not first.exists()


def test_only_saved_jobs_are_shown_in_the_web_page(project: Project) -> None:
    pytest.importorskip("starlette", reason="needs the extra `web`")
    done = project.sis("s", "show_jobs_in_webserver", "--port", "0", "--job", "work/jobs/x")
    assert done.returncode == 1
    assert "no job is saved in work/jobs/x" in done.stderr


def test_the_manager_cleans_while_it_runs(
    project: Project, wait_for: Callable[[Callable[[], object]], None]
) -> None:
    project.engine(
        "LocalEngine(cpu=2)",
        "JOB_AUTO_CLEANUP = True\nJOB_CLEANER_INTERVAL = 0.1\nWAIT_PERIOD_JOB_CLEANUP = 0",
    )
    project.config(CHAIN.replace("second = Step(", "second = Waits("), recipe=WAITS)
    manager = project.start_manager()
    try:
        wait_for(lambda: list((project.path / "work").glob("jobs/Step.*/finished.tar.gz")))
        wait_for(lambda: not list((project.path / "work").glob("jobs/Step.*/job.save")))
        (project.path / "go").touch()
        output, _ = manager.communicate(timeout=30)
    finally:
        manager.kill()
    assert manager.returncode == 0, output
    assert (project.path / "output/number").read_text() == "2\n"


WAITS = """
class Waits(Step):
    def run(self):
        while not (File(tk.gs.BASE_DIR) / "go").exists():
            time.sleep(0.02)
        super().run()
"""
