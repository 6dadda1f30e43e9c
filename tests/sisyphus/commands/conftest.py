"""A project in this process, and ways to call commands in it without starting one."""

from __future__ import annotations

import textwrap
from pathlib import Path

import pytest
from sisyphus import cli, gs, job_identity
from sisyphus.engines import cached_engine
from sisyphus.graph import graph
from sisyphus.terminal import logs

RECIPE = """
from sisyphus import *

class Data(Job):
    def __init__(self, name, split="train"):
        self.name = name
        self.out = self.output_path("data.txt")
    def run(self):
        with open(self.out.get_path(), "w") as file:
            file.write(self.name)

class Train(Job):
    __sis_hash_exclude__ = {"verbose": False}
    def __init__(self, data, rate, verbose=False):
        self.data = data
        self.rate = rate
        self.out = self.output_var("model")
    def tasks(self):
        yield Task("run", resume="run")
    def run(self):
        print("training with", self.rate)
        if self.rate > 9:
            raise ValueError("rate is too high")
        with open(self.data.get_path()) as file:
            self.out.set((file.read(), self.rate))
"""


class Place:
    """A project directory that is the current one."""

    def __init__(self, path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.path = path
        self._capsys = capsys

    def write(self, name: str, text: str) -> Path:
        file = self.path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(textwrap.dedent(text))
        return file

    def config(self, body: str, name: str = "exp") -> str:
        """Write a config whose ``py`` has this body; returns its name on the command line."""
        text = "from sisyphus import *\nfrom recipe.lab import *\n\ndef py():\n"
        self.write(f"config/{name}.py", text + textwrap.indent(textwrap.dedent(body), "    "))
        return f"config/{name}.py"

    def sis(self, *arguments: str) -> int:
        """Run a command in this process, with an empty graph; returns its exit code."""
        graph.keep_targets([])
        job_identity.created_jobs.clear()
        return cli.main(list(arguments))

    def said(self) -> str:
        """What was printed on stdout since this was last asked."""
        return self._capsys.readouterr().out

    def answers(self, *arguments: str, code: int = 0) -> str:
        """What a command prints."""
        self.said()
        assert self.sis(*arguments) == code
        return self.said()

    def compute(self, config: str) -> None:
        """Run all jobs of a config in this process, without an engine."""
        from sisyphus.loader import config_manager

        graph.keep_targets([])
        job_identity.created_jobs.clear()
        config_manager.load_configs([config])
        for job in graph.jobs_sorted():
            if not job._sis_finished() and job._sis_runnable():
                self.run_job(job)

    @staticmethod
    def run_job(job) -> None:
        job._sis_setup_directory(force=True)
        for task in job._sis_tasks():
            with open(task.path(gs.JOB_LOG, 1), "a") as log:
                log.write(f"log of {job._sis_id()}\n")
            try:
                getattr(job, task.name())()
            except ValueError as error:
                with open(task.path(gs.JOB_LOG, 1), "a") as log:
                    log.write(f"ValueError: {error}\n")
                job._sis_dir.mark_task("error", task.name(), 1)
                return
            job._sis_dir.mark_task("finished", task.name(), 1)
        job._sis_dir.mark_finished()

    def folder(self, name: str) -> Path:
        """The folder of the only job of a class."""
        (found,) = [path for path in (self.path / "work").glob(f"**/{name}.*") if "cleared" not in path.name]
        return found

    def job_id(self, name: str) -> str:
        return str(self.folder(name).relative_to(self.path / "work"))


@pytest.fixture
def place(workspace, monkeypatch, capsys):
    monkeypatch.setattr(logs, "set_up", lambda level: None)  # pytest has its own handlers
    cached_engine.cache_clear()
    place = Place(workspace, capsys)
    place.write("recipe/__init__.py", "")
    place.write("recipe/lab.py", RECIPE)
    place.write("config/__init__.py", "")
    (workspace / "work").mkdir()
    yield place
    cached_engine.cache_clear()


@pytest.fixture
def computed(place):
    """Data and a training, both finished."""
    config = place.config(
        'data = Data("imdb").add_alias("data/imdb")\n'
        "train = Train(data.out, 0.5)\n"
        'tk.register_output("model", train.out)\n'
        'tk.register_output("texts", data.out)'
    )
    place.compute(config)
    return place
