"""A project in a temporary directory, driven through the command line as a person would."""

from __future__ import annotations

import importlib
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

RECIPE = """
import os, sys, time
from pathlib import Path as File
from sisyphus import *


class Step(Job):
    '''Adds 1 to a number; `name` tells instances apart.'''

    def __init__(self, name, previous=None, rqmt=None):
        self.name, self.previous, self.rqmt = name, previous, rqmt or {}
        self.out = self.output_var("number")

    def tasks(self):
        yield Task("run", rqmt={"mem": 0.1, "time": 1, **self.rqmt})

    def run(self):
        print("step", self.name)
        self.out.set(1 + (self.previous.get() if self.previous is not None else 0))
"""


def _heed_ctrl_c() -> None:
    """A test run in the background (``nohup``, ``&``) ignores SIGINT, and its children would inherit that."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


class Project:
    """A directory with settings, a recipe and configs, and ways to run ``python -m sisyphus`` in it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.write("recipe/__init__.py", "")
        self.write("recipe/jobs.py", RECIPE)
        self.write("config/__init__.py", "")
        self.engine("LocalEngine(cpu=2)")

    def write(self, name: str, text: str) -> Path:
        """Write a file below the project."""
        file = self.path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(textwrap.dedent(text))
        return file

    def read(self, name: str) -> str:
        return (self.path / name).read_text()

    def engine(self, expression: str, more: str = "") -> None:
        """Write settings with this engine."""
        self.write(
            "settings.py",
            f"def engine():\n    from sisyphus.localengine import LocalEngine\n    return {expression}\n\n"
            f"JOB_AUTO_CLEANUP = False\n{textwrap.dedent(more)}",
        )

    def config(self, body: str, name: str = "exp", recipe: str = "") -> None:
        """Write a config whose ``py`` has this body, and append jobs to the recipe."""
        if recipe:
            self.write("recipe/jobs.py", RECIPE + textwrap.dedent(recipe))
        self.write(
            f"config/{name}.py",
            "from sisyphus import *\nfrom recipe.jobs import *\n\n\ndef py():\n"
            + textwrap.indent(textwrap.dedent(body), "    "),
        )

    def environment(self) -> dict[str, str]:
        kept = {name: value for name, value in os.environ.items() if not name.startswith("SIS_")}
        kept.pop("CUDA_VISIBLE_DEVICES", None)
        return {**kept, "PYTHONWARNINGS": "error"}

    def sis(
        self, *args: str, stdin: str = "", timeout: float = 60, env: dict[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Run a command to its end; ``stdin`` is what a person would type."""
        done = subprocess.run(
            [sys.executable, "-m", "sisyphus", *args],
            cwd=self.path,
            input=stdin,
            capture_output=True,
            text=True,
            timeout=timeout,
            env={**self.environment(), **(env or {})},
        )
        print(done.stdout, done.stderr, sep="\n")
        return done

    def manager(
        self, *args: str, config: str = "config/exp.py", **kwargs: object
    ) -> subprocess.CompletedProcess[str]:
        """``sis manager -r`` to its end."""
        return self.sis("manager", "-r", *args, config, **kwargs)  # type: ignore[arg-type]

    def start_manager(self, config: str = "config/exp.py") -> subprocess.Popen[str]:
        """``sis manager -r`` in the background."""
        return subprocess.Popen(
            [sys.executable, "-m", "sisyphus", "manager", "-r", config],
            cwd=self.path,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=self.environment(),
            preexec_fn=_heed_ctrl_c,
        )

    def job_dir(self, name: str) -> Path:
        """The directory of the only job whose id begins with ``name``."""
        (found,) = [path for path in (self.path / "work").glob(f"**/{name}.*") if "cleared" not in path.name]
        return found


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return Project(tmp_path / "a project")  # with a blank, as home directories have


@pytest.fixture
def wait_for() -> Callable[[Callable[[], object]], None]:
    """Wait until something becomes true, up to 20 s."""

    def wait(condition: Callable[[], object]) -> None:
        deadline = time.monotonic() + 20
        while not condition():
            assert time.monotonic() < deadline, "waited in vain"
            time.sleep(0.02)

    return wait


@pytest.fixture
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty project that is the current one of this process, with an empty graph."""
    from sisyphus import cleaner, job_identity
    from sisyphus import global_settings as gs
    from sisyphus.graph import SISGraph, graph

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(gs, "BASE_DIR", str(tmp_path))
    before = dict(job_identity.created_jobs)
    job_identity.created_jobs.clear()
    for name, value in vars(SISGraph()).items():
        monkeypatch.setattr(graph, name, value)
    monkeypatch.setattr(cleaner, "_given_up", set())
    monkeypatch.setattr(cleaner, "_nothing_to_do", {})
    (tmp_path / "work").mkdir()
    yield tmp_path
    job_identity.created_jobs.clear()
    job_identity.created_jobs.update(before)


@pytest.fixture
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A project directory for this process, with no jobs, no targets, no blocks, and imports of its own."""
    from sisyphus import block, gs, job_identity
    from sisyphus.configs import origin
    from sisyphus.graph import graph
    from sisyphus.loader import config_manager

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(gs, "BASE_DIR", str(tmp_path))
    monkeypatch.setattr(gs, "ALIAS_AND_OUTPUT_SUBDIR", "")
    monkeypatch.setattr(graph, "_targets", {})
    monkeypatch.setattr(graph, "_active", OrderedDict())
    monkeypatch.setattr(graph, "output", {})
    monkeypatch.setattr(graph, "targets_dict", {})
    monkeypatch.setattr(origin, "config_modules", set())
    monkeypatch.setattr(block, "all_root_blocks", [])
    # the configs and recipes of this repository must not be found instead
    repository = str(Path(__file__).resolve().parents[2])
    monkeypatch.setattr(sys, "path", [path for path in sys.path if path not in ("", repository)])
    for name in [name for name in sys.modules if name.partition(".")[0] in ("config", "recipe", "lab")]:
        monkeypatch.delitem(sys.modules, name)
    known = dict(job_identity.created_jobs)
    job_identity.created_jobs.clear()
    modules = set(sys.modules)
    importlib.invalidate_caches()
    with block.blocks_set_to(frozenset()):
        yield tmp_path
        config_manager.cancel_all_reader()
    for name in set(sys.modules) - modules:
        if name.partition(".")[0] in ("config", "recipe", "lab"):
            del sys.modules[name]
    job_identity.created_jobs.clear()
    job_identity.created_jobs.update(known)
