"""Configs that wait for results."""

from __future__ import annotations

import asyncio
import os
import pathlib

import pytest
from sisyphus import Job, Path, block, tk
from sisyphus.graph import graph as sis_graph
from sisyphus.loader import config_manager


class Step(Job):
    def __init__(self, *name):
        self.name = name
        self.out = self.output_path("out")
        self.num = self.output_var("num")


LOG: list[object] = []


@pytest.fixture
def load(workspace, monkeypatch):
    """Load an async function of this file as a config."""
    LOG.clear()

    def load(function, name="exp"):
        (workspace / "config").mkdir(exist_ok=True)
        (workspace / "config" / f"{name}.py").write_text("def main(): ...\n")
        import importlib

        importlib.invalidate_caches()
        module = importlib.import_module(f"config.{name}")
        module.main = function
        config_manager.load_config(f"config.{name}.main")

    return load


def finish(job, value=None):
    os.makedirs(job._sis_path("output"), exist_ok=True)
    pathlib.Path(job._sis_path("finished")).touch()
    job.num.set(value)


def test_what_is_there_does_not_wait(load, workspace):
    (workspace / "there").touch()

    async def main():
        LOG.append(await tk.async_run({"k": [Path("there"), 1]}))
        LOG.append(await tk.async_run(None))

    load(main)
    assert LOG == [None, None]
    assert not config_manager.reader_running()
    assert {target.name for target in sis_graph.targets} == {"async_run"}


def test_a_config_goes_on_when_its_results_are_there(load, caplog):
    async def main():
        first = Step("first")
        await tk.async_run([first.num])
        second = Step("second", first.num.get())
        tk.register_output("second", second.out)
        LOG.append(second)

    load(main)
    assert config_manager.reader_running()
    assert Step("first") in sis_graph.jobs()  # wanted
    assert config_manager.waiting_configs() == ["config.exp.main"]
    with caplog.at_level("INFO"):
        config_manager.print_waiting()
    assert "Configs waiting for jobs to finish: config.exp.main" in caplog.text
    config_manager.continue_readers()
    assert LOG == []
    finish(Step("first"), 7)
    config_manager.continue_readers()
    assert [Step("second", 7)] == LOG
    assert not config_manager.reader_running()
    assert not [target for target in sis_graph.active_targets if target.name == "async_run"]


def test_a_chain_of_finished_results_needs_one_step_only(load):
    jobs = [Step(number) for number in range(20)]
    for job in jobs:
        finish(job, 1)

    async def nested(depth):
        if depth:
            return sum(await tk.async_gather(nested(depth - 1), one(depth)))
        return 0

    async def one(number):
        await asyncio.sleep(0)
        await tk.async_run(jobs[number].num)
        return jobs[number].num.get()

    async def main():
        LOG.append(await nested(19))

    load(main)
    assert LOG == [19]


def test_gather_returns_in_the_order_given(load):
    async def branch(name):
        await tk.async_run(Step(name).out)
        LOG.append(name)
        return name

    async def main():
        LOG.append(await tk.async_gather(branch("x"), branch("y")))

    load(main)
    for name in "yx":
        finish(Step(name))
        config_manager.continue_readers()
    assert LOG == ["y", "x", ["x", "y"]]


def test_several_configs_wait_at_the_same_time(load):
    def waiting_for(name):
        async def main():
            await tk.async_run(Step(name).out)
            LOG.append(name)

        return main

    for name in ("one", "two"):
        load(waiting_for(name), name)
    assert config_manager.waiting_configs() == ["config.one.main", "config.two.main"]
    finish(Step("two"))
    config_manager.continue_readers()
    assert LOG == ["two"]
    assert config_manager.waiting_configs() == ["config.one.main"]


def test_branches_keep_their_blocks(load):
    async def branch(name):
        with tk.block(name):
            await tk.async_run(Step(name, "before").out)
            LOG.append(Step(name, "after"))

    async def main():
        await tk.async_gather(branch("x"), branch("y"))
        with tk.async_context():
            LOG.append(set(block.active_blocks))

    load(main)
    for name in "xy":
        finish(Step(name, "before"))
    config_manager.continue_readers()
    *jobs, outside = LOG
    assert len(jobs) == 2
    for job in jobs:
        (own,) = job._sis_blocks
        assert own.name == job.name[0]
        (parent,) = own.parents
        assert parent.name == "config.exp.main"
    assert outside == set()


def test_an_exception_is_passed_on(load):
    async def main():
        await tk.async_run(Step("a").out)
        raise KeyError("inside")

    load(main)
    finish(Step("a"))
    with pytest.raises(KeyError, match="inside"):
        config_manager.continue_readers()
    assert not config_manager.reader_running()


def test_waiting_configs_can_be_cancelled(load, caplog):
    async def main():
        try:
            await tk.async_run(Step("never").out)
        finally:
            LOG.append("cleaned up")

    load(main)
    config_manager.cancel_all_reader()
    assert "Config ends before it is through" in caplog.text
    assert "config.exp.main" in caplog.text
    assert LOG == ["cleaned up"]
    assert not config_manager.reader_running()
    config_manager.continue_readers()


def test_a_config_may_load_another(load):
    async def inner():
        await tk.async_run(Step("a").out)
        LOG.append("inner")

    async def outer():
        load(inner, "inner")
        LOG.append("outer")

    load(outer, "outer")
    assert LOG == ["outer"]
    finish(Step("a"))
    config_manager.continue_readers()
    assert LOG == ["outer", "inner"]
