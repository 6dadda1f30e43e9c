"""What there is to see: states beside a manager that works, layers of a drawing."""

from __future__ import annotations

import json

import pytest
from sisyphus import Job, Task
from sisyphus.engines.base import EngineBase, EngineSelector
from sisyphus.engines.local import LocalEngine
from sisyphus.graph import SISGraph
from sisyphus.outputs.targets import OutputCall, OutputPath, OutputReport
from sisyphus.states import State
from sisyphus.view import layout, tree
from sisyphus.view import watch as watch_module
from sisyphus.view.facts import look
from sisyphus.view.job_states import states_of
from sisyphus.view.watch import Watch


class Step(Job):
    def __init__(self, name, *inputs):
        self.inputs = inputs
        self.out = self.output_path("out")

    def tasks(self):
        yield Task("run", args=[1, 2])

    def run(self, number):
        pass


class Broken(Job):
    def __init__(self):
        self.out = self.output_path("out")

    def tasks(self):
        raise RuntimeError("no tasks today")


class Asked(EngineBase):
    """An engine in which everything runs; counting a task as its own would fail."""

    waits_for_file_system = False

    def look(self, task, task_id):
        return State.RUNNING.value

    def task_state(self, task, task_id):
        raise AssertionError("only looking was allowed")


def graph_of(**outputs):
    graph = SISGraph()
    for name, path in outputs.items():
        graph.add_target(OutputPath(name, path))
    return graph


def test_states_in_all_stages(workplace):
    first = Step("first")
    second = Step("second", first.out)
    assert states_of([first, second], None) == {first: State.RUNNABLE, second: State.WAITING}
    first._sis_setup_directory()
    assert states_of([first], Asked())[first] is State.RUNNING
    assert states_of([first], EngineSelector({"a": Asked()}, "a"))[first] is State.RUNNING
    assert states_of([first], LocalEngine())[first] is State.RUNNABLE
    (workplace / first._sis_path() / "hold").touch()
    assert states_of([first], Asked())[first] is State.HOLD
    (workplace / first._sis_path() / "hold").unlink()
    first._sis_dir.mark_task("error", "run", 2)
    assert states_of([first], None)[first] is State.ERROR
    (workplace / first._sis_path() / "error.run.2").unlink()
    for task_id in (1, 2):
        first._sis_dir.mark_task("finished", "run", task_id)
    assert states_of([first, second], None) == {first: State.FINISHED, second: State.RUNNABLE}
    assert "finished" not in first._sis_dir.names()


def test_broken_code_is_an_error(workplace):
    job = Broken()
    job._sis_setup_directory()
    assert states_of([job], None)[job] is State.ERROR
    (facts,) = look(graph_of(x=job.out), None).jobs
    assert "no tasks today" in facts.broken


def test_all_kinds_of_targets(workplace):
    graph = graph_of(x=Step("a").out)
    graph.add_target(OutputReport("report", {"x": Step("b").out}))
    graph.add_target(OutputCall(print, (Step("c").out,)))
    facts = look(graph, None)
    assert sorted(target.kind for target in facts.targets) == ["callback", "output", "report"]
    assert len(facts.jobs) == 3
    json.dumps(facts.as_json())


def test_running_jobs_are_seen_from_another_process(project, wait_for):
    project.config(
        'tk.register_output("a", Slow().out)',
        recipe="""
        class Slow(Job):
            def __init__(self):
                self.out = self.output_path("out")
            def info(self):
                return "half way"
            def completed_fraction(self):
                return 0.5
            def tasks(self):
                yield Task("run", rqmt={"mem": 0.1})
            def run(self):
                while not File(gs.BASE_DIR, "end").exists():
                    time.sleep(0.02)
                File(self.out.get_path()).touch()
        """,
    )
    manager = project.start_manager()
    wait_for(lambda: list(project.path.glob("work/**/usage.run.1")))
    facts = json.loads(project.sis("status", "--json", "config/exp.py").stdout)
    (job,) = facts["jobs"]
    assert (job["state"], job["progress"], job["info"]) == ("running", 0.5, "half way")
    assert job["tasks"][0]["logs"]
    assert job["usage"]["wall_s"] > 0
    project.write("end", "")
    manager.communicate(timeout=30)
    assert manager.returncode == 0


# --- drawing ---


def diamond():
    top = Step("top")
    left, right = Step("left", top.out), Step("right", top.out)
    return look(graph_of(x=Step("bottom", left.out, right.out).out, y=top.out), None)


def test_layers_and_positions(workplace):
    boxes = layout.arrange(layout.boxes_of_jobs(diamond()))
    assert sorted(box.layer for box in boxes) == [0, 1, 1, 2]
    places = {(box.layer, box.position) for box in boxes}
    assert len(places) == 4
    by_layer = {layer: [box.position for box in boxes if box.layer == layer] for layer in range(3)}
    assert by_layer[0] == by_layer[2] == [sum(by_layer[1]) / 2]


def test_few_boxes_of_a_layer_stand_apart():
    def box(key, *inputs):
        return layout.Box(key, (key,), {"waiting": 1}, inputs)

    few, many = [f"a {number}" for number in range(3)], [f"b {number}" for number in range(12)]
    boxes = [
        *map(box, few),
        *(box(key, few[number // 4]) for number, key in enumerate(many)),
        box("c", *many),
    ]
    places = {box.key: (box.layer, box.position, box.room) for box in layout.arrange(boxes)}
    assert [places[key] for key in few] == [(0, 2.5, 3.0), (0, 5.5, 3.0), (0, 8.5, 3.0)]
    assert [places[key] for key in many] == [(1, float(number), 1.0) for number in range(12)]
    assert places["c"] == (2, 5.5, 3.0)


def test_lines_do_not_cross_if_they_need_not(workplace):
    ends = [Step(f"end{i}", Step(f"begin{i}").out) for i in range(6)]
    facts = look(graph_of(**{f"t{5 - i}": end.out for i, end in enumerate(ends)}), None)
    boxes = {box.key: box for box in layout.arrange(layout.boxes_of_jobs(facts))}
    assert all(boxes[creator].position == box.position for box in boxes.values() for creator in box.inputs)


def test_boxes_by_class(workplace):
    ends = [Step(f"end{i}", Step(f"begin{i}").out) for i in range(6)]
    facts = look(graph_of(**{f"t{i}": end.out for i, end in enumerate(ends)}), None)
    boxes = layout.arrange(layout.boxes_of_classes(facts))
    assert [(box.layer, sum(box.states.values())) for box in boxes] == [(0, 6), (1, 6)]
    assert boxes[1].inputs == (boxes[0].key,)


def test_an_empty_graph(workplace):
    facts = look(SISGraph(), None)
    assert layout.arrange(layout.boxes_of_jobs(facts)) == []
    assert list(tree.lines(facts)) == []


@pytest.mark.parametrize("depth", [3000])
def test_long_chains(workplace, depth):
    path = Step("0").out
    for number in range(1, depth):
        path = Step(str(number), path).out
    facts = look(graph_of(x=path), None)
    assert len(list(tree.lines(facts))) == depth + 1
    assert max(box.layer for box in layout.arrange(layout.boxes_of_jobs(facts))) == depth - 1


def test_a_watch_sees_what_changes(workplace):
    first = Step("first")
    second = Step("second", first.out)
    graph = graph_of(second=second.out)
    watch = Watch(graph, None)
    assert [job.state for job in watch.look().jobs] == ["runnable", "waiting"]
    first._sis_setup_directory()
    for task_id in (1, 2):
        first._sis_dir.mark_task("finished", "run", task_id)
    seen = watch.look()
    assert [(job.class_name, job.state) for job in seen.jobs] == [("Step", "finished"), ("Step", "runnable")]
    assert seen.as_json() == {**look(graph, None).as_json(), "time": seen.time}
    graph.add_target(OutputPath("third", Step("third").out))
    assert len(watch.look().jobs) == 3
    assert {name for job in watch.look().jobs for name in job.needed_for} == {"second", "third"}


def test_a_watch_without_time_sees_what_runs_and_whose_folder_changed(workplace, monkeypatch):
    jobs = [Step(str(number)) for number in range(5)]
    for job in jobs:
        job._sis_setup_directory()
    runs = {jobs[3]}
    engine = Asked()
    monkeypatch.setattr(engine, "look", lambda task, task_id: "running" if task.job in runs else "unknown")
    watch = Watch(graph_of(**{str(number): job.out for number, job in enumerate(jobs)}), engine)
    assert watch.look().counts == {"runnable": 4, "running": 1}
    monkeypatch.setattr(watch_module, "_LOOK_S", 0.0)
    runs.clear()
    assert watch.look().counts == {"runnable": 5}
    runs.update(jobs[:2])
    assert watch.look().counts == {"runnable": 5}  # nothing tells
    jobs[0]._sis_dir.mark_task("log", "run", 1)
    assert watch.look().counts == {"runnable": 4, "running": 1}
    monkeypatch.setattr(watch_module, "_LOOK_S", 60.0)
    assert watch.look().counts == {"runnable": 3, "running": 2}


def test_a_watch_without_time_goes_on_where_it_ended(workplace, monkeypatch):
    runs = []
    engine = Asked()
    monkeypatch.setattr(engine, "look", lambda task, task_id: "running" if runs else "unknown")
    jobs = [Step(str(number)) for number in range(4)]
    for job in jobs:
        job._sis_setup_directory()
    watch = Watch(graph_of(**{str(number): job.out for number, job in enumerate(jobs)}), engine)
    watch.look()
    runs.append(True)
    now = [0.0]
    monkeypatch.setattr(watch_module.time, "monotonic", lambda: now.__setitem__(0, now[0] + 1) or now[0])
    monkeypatch.setattr(watch_module, "_LOOK_S", 1.5)  # time for one look at the clock
    monkeypatch.setattr(watch_module, "_AT_ONCE", 3)
    assert watch.look().counts == {"runnable": 1, "running": 3}
    assert watch.look().counts == {"running": 4}


def test_what_a_failed_task_said_last(workplace):
    job = Step("fails")
    job._sis_setup_directory()
    job._sis_dir.mark_task("error", "run", 2)
    folder = workplace / job._sis_path()
    (folder / "log.run.1").write_text("all well\n")
    (folder / "log.run.2").write_text("Traceback\n\x1b[31mValueError: no\x1b[0m\n\n")
    (seen,) = look(graph_of(x=job.out), None).jobs
    assert (seen.state, seen.failure) == ("error", "ValueError: no")
    (folder / "error.run.2").unlink()
    (seen,) = look(graph_of(x=job.out), None).jobs
    assert seen.failure == ""


def test_a_watch_beside_a_manager_believes_it_and_declares_nothing(workplace):
    first = Step("first")
    second = Step("second", first.out)
    first._sis_setup_directory()
    for task_id in (1, 2):
        first._sis_dir.mark_task("finished", "run", task_id)
    known = {first: "running"}
    watch = Watch(graph_of(second=second.out), None, state_of=known.get, waiting_configs=lambda: ["exp"])
    seen = watch.look()
    assert [job.state for job in seen.jobs] == ["running", "waiting"]
    assert seen.waiting_configs == ["exp"]
    assert not first._sis_is_finished  # the manager has not marked it yet
    known[first] = "finished"
    assert watch.look().counts == {"finished": 1, "waiting": 1}
