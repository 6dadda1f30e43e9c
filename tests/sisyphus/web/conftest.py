"""The page of a small graph, asked without a network."""

from __future__ import annotations

import pytest
from sisyphus import Job, Task
from sisyphus.block import Block
from sisyphus.engines.base import EngineBase
from sisyphus.graph import SISGraph
from sisyphus.outputs.targets import OutputPath
from sisyphus.view.facts import look


class Train(Job):
    def __init__(self, name, *inputs):
        self.name = name
        self.inputs = inputs
        self.out = self.output_path("out", directory=True)

    def tasks(self):
        yield Task("run")

    def run(self):
        pass


class Cancelling(EngineBase):
    """Everything runs until it is cancelled."""

    def __init__(self):
        super().__init__()
        self.cancelled = []

    def look(self, task, task_id):
        return "unknown" if task.job in self.cancelled else "running"

    def cancel(self, task):
        self.cancelled.append(task.job)


class Site:
    """Two trainings, the first of which is set up; and its page."""

    def __init__(self, folder):
        self.folder = folder
        self.engine = Cancelling()
        self.first = Train("first")
        self.first.add_alias("exp/<b>first</b>")
        self.second = Train("second", self.first.out)
        Block("a <i>block</i>").add_job(self.second)
        self.graph = SISGraph()
        self.graph.add_target(OutputPath("exp/second", self.second.out))
        self.graph.add_target(OutputPath("exp/first", self.first.out))
        self.first._sis_setup_directory()
        (folder / self.first._sis_path() / "log.run.1").write_text("a line of the log\n")

    def client(self, *, control=False, token=None):
        from sisyphus.web.access import Access
        from sisyphus.web.app import Page
        from starlette.testclient import TestClient

        engine = self.engine if control else None
        page = Page(self.graph, lambda: look(self.graph, None), engine=engine)
        app = page.application(Access(token=token))
        return TestClient(app, base_url="http://localhost:8675", follow_redirects=False)

    def output(self, name, content):
        """Write a file into the output of the first training."""
        path = self.folder / self.first.out.get_path() / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        return path


@pytest.fixture
def site(workplace):
    return Site(workplace)


@pytest.fixture
def client(site):
    return site.client()
