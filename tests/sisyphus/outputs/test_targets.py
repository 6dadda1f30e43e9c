"""Outputs, reports and callbacks."""

from __future__ import annotations

import os
import pathlib
import time

import pytest
from sisyphus import Job, Path, gs, tk
from sisyphus.graph import graph as sis_graph

pytestmark = pytest.mark.usefixtures("workspace")


class Step(Job):
    def __init__(self, name):
        self.name = name
        self.out = self.output_path("out")
        self.num = self.output_var("num")


def finish(job):
    os.makedirs(job._sis_path("output"), exist_ok=True)
    for name in ("output/out", "finished"):
        pathlib.Path(job._sis_path(name)).touch()


def names(targets):
    return [target.name for target in targets]


def test_outputs_are_linked_when_they_are_there(workspace, caplog):
    job = Step("a")
    tk.register_output("deep/name", job.out)
    (target,) = sis_graph.targets
    assert target.required_full_list == [job.out]
    assert sis_graph.update_active_targets() == []
    assert not target.is_done()
    assert sis_graph.active_targets == [target]
    finish(job)
    with caplog.at_level("INFO"):
        assert sis_graph.update_active_targets() == [target]
    assert target.is_done()
    assert sis_graph.active_targets == []
    assert os.readlink("output/deep/name") == os.path.realpath(job.out.get_path())
    assert "Finished output: output/deep/name" in caplog.text
    assert (
        pathlib.Path(gs.FINISHED_LOG)
        .read_text()
        .endswith(f": Finished output: output/deep/name (-> {job.out.rel_path()})\n")
    )


def test_all_prefixes_of_the_job_get_a_link(monkeypatch):
    Step("a")
    monkeypatch.setattr(gs, "ALIAS_AND_OUTPUT_SUBDIR", "paper")
    job = Step("a")
    tk.register_output("name", job.out)
    tk.register_output("outside", Path("file"))
    finish(job)
    pathlib.Path("file").touch()
    sis_graph.update_active_targets()
    assert os.path.islink("output/name")
    assert os.path.islink("output/paper/name")
    assert os.path.islink("output/paper/outside")


def test_somebody_else_may_write_the_outputs():
    job = Step("a")
    tk.register_output("name", job.out)
    finish(job)
    written = []
    sis_graph.update_active_targets(lambda name, path: written.append((name, path)))
    assert written == [("name", job.out)]


@pytest.mark.parametrize("value", ["text", 3, None, pathlib.Path("a"), [Path("a")]])
def test_only_paths_can_be_outputs(value):
    with pytest.raises(TypeError, match="output 'name': a Path or Variable is needed, got"):
        tk.register_output("name", value)


def test_pathlib_paths_get_a_hint():
    with pytest.raises(TypeError, match=r"Wrap it: tk.Path\(str"):
        tk.register_output("name", pathlib.Path("a"))


def test_the_same_target_counts_once(caplog):
    job = Step("a")
    tk.register_output("name", job.out)
    tk.register_output("name", job.out)
    assert len(sis_graph.targets) == 1
    assert not caplog.text


def test_a_name_used_twice_is_warned_of(caplog):
    tk.register_output("name", Step("a").out)
    tk.register_output("name", Step("b").out)
    assert "Output name 'name' is used twice" in caplog.text
    assert Step("b").out.rel_path() in caplog.text


def test_one_name_below_two_prefixes_is_no_clash(monkeypatch, caplog):
    for prefix, job in (("first", Step("a")), ("second", Step("b"))):
        monkeypatch.setattr(gs, "ALIAS_AND_OUTPUT_SUBDIR", prefix)
        tk.register_output("name", job.out)
        tk.register_output("outside", Path("file"))
    assert not caplog.text
    assert sorted(target.name for target in sis_graph.targets) == ["name", "name", "outside", "outside"]
    assert sorted(sis_graph.output) == ["first/name", "first/outside", "second/name", "second/outside"]


def test_graphs_can_be_exported(monkeypatch):
    job = Step("a")
    monkeypatch.setattr(gs, "ALIAS_AND_OUTPUT_SUBDIR", "sub")
    tk.register_output("deep/name", job.out, export_graph=True)
    assert tk.load_file("output/sub/deep/.name.sis").creator is job


def test_reports_by_template():
    a, b = Step("a"), Step("b")
    report = tk.register_report(
        "deep/report", {"a": a.num, "b": b.num}, template="{a} {b}\n", update_frequency=0
    )
    written = pathlib.Path("output/deep/report")
    assert sis_graph.update_active_targets() == []
    assert written.read_text() == "None None\n"
    finish(a)
    a.num.set(1)
    assert sis_graph.update_active_targets() == []
    assert written.read_text() == "1 None\n"
    finish(b)
    b.num.set(2)
    assert sis_graph.update_active_targets() == [report]
    assert written.read_text() == "1 2\n"
    assert os.listdir("output/deep") == ["report"]


def test_reports_are_not_written_more_often_than_asked_for(monkeypatch):
    now = 1000.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    calls = []

    def text():
        calls.append(now)
        return f"version {len(calls)}"

    report = tk.register_report("report", text, required=Step("a").out, update_frequency=10)
    for now in (1000.0, 1009.0, 1010.0, 1011.0):  # noqa: B007 - read by the function above
        sis_graph.update_active_targets()
    assert calls == [1000.0, 1010.0]
    finish(Step("a"))
    assert sis_graph.update_active_targets() == [report]
    assert pathlib.Path("output/report").read_text() == "version 3"


def test_reports_of_any_value_and_exchanged_values():
    report = tk.register_report("report", [1], required=Step("a").out)
    report.update_values({"k": ["a" * 60, "b" * 60]})
    finish(Step("a"))
    sis_graph.update_active_targets()
    assert pathlib.Path("output/report").read_text() == f"{{'k': ['{'a' * 60}', '{'b' * 60}']}}"
    assert report.required_full_list == [Step("a").out]
    waits = tk.register_report("other", [Step("a").out])
    waits.update_values([Step("b").out])
    assert waits.required == {Step("b").out}


def test_report_names_are_below_the_subdirectory(monkeypatch):
    monkeypatch.setattr(gs, "ALIAS_AND_OUTPUT_SUBDIR", "paper")
    assert tk.register_report("report", 1).name == "paper/report"


def test_a_report_that_cannot_be_written_is_a_warning(caplog):
    pathlib.Path("output").mkdir()
    pathlib.Path("output/report").mkdir()
    tk.register_report("report", 1)
    sis_graph.update_active_targets()
    assert "Cannot write the report output/report" in caplog.text


def test_callbacks_are_called_once():
    a, b = Step("a"), Step("b")
    calls = []
    tk.register_callback(lambda *args, **kwargs: calls.append((args, kwargs)), a.out, 1, k=[b.num])
    sis_graph.update_active_targets()
    finish(a)
    sis_graph.update_active_targets()
    assert calls == []
    finish(b)
    (done,) = sis_graph.update_active_targets()
    done.run_when_done()
    assert calls == [((a.out, 1), {"k": [b.num]})]
    assert done.name.startswith("callback_")


def test_callbacks_may_want_more():
    a, b = Step("a"), Step("b")
    tk.register_callback(lambda path: tk.register_output("b", b.out), a.out)
    finish(a)
    sis_graph.update_active_targets()
    assert names(sis_graph.active_targets) == ["b"]
    assert b in sis_graph.jobs()
