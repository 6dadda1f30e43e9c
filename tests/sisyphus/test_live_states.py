"""States that are kept up to date by what changed: the same as those of a look at everything."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from sisyphus import Job, tk
from sisyphus import graph as graph_module
from sisyphus.graph import graph
from sisyphus.live_states import LiveStates

pytestmark = pytest.mark.usefixtures("workplace")


class Node(Job):
    """Any number of inputs, one output."""

    def __init__(self, name, inputs=()):
        self.inputs = list(inputs)
        self.out = self.output_path("out")


class Asks(Node):
    """Asks for one more input once the first ones are there."""

    def update(self):
        self.add_input(Node("asked for", [self.inputs[0]]).out)


class Engine:
    """Knows nothing."""

    def task_state(self, task, task_id):
        return "unknown"

    waits_for_file_system = False

    def last_run(self, task, task_id):
        return ""


def mark(job, name="finished"):
    """Put a marker into the folder of a job."""
    Path(job._sis_path()).mkdir(parents=True, exist_ok=True)
    Path(job._sis_path(name)).touch()


def live_states():
    live = LiveStates(graph, Engine())
    live.look_at_all()
    return live


def named(by_state):
    return {state: {str(job) for job in jobs} for state, jobs in by_state.items() if jobs}


def test_a_job_that_finishes_lets_those_run_that_wait_for_nothing_else():
    a, b = Node("a"), Node("b")
    both, one = Node("both", [a.out, b.out]), Node("one", [a.out])
    last = Node("last", [both.out, one.out])
    tk.register_output("last", last.out)
    live = live_states()
    assert live.by_state["waiting"] == {both, one, last}
    mark(a)
    changes, targets = live.look_at([a])
    assert changes == {a: "runnable", one: "waiting"}
    assert live.state_of(one) == "runnable"
    assert live.state_of(both) == "waiting"
    assert targets == []
    for job in (b, both, one, last):
        mark(job)
        changes, targets = live.look_at([job])
        assert changes[job] == "runnable"
    assert [target.name for target in targets] == ["last"]
    assert live.by_state["finished"] == {a, b, both, one, last}


def test_what_was_finished_before_is_seen_in_one_look():
    jobs = [Node("0")]
    for number in range(1, 5):
        jobs.append(Node(str(number), [jobs[-1].out]))
    tk.register_output("last", jobs[-1].out)
    live = live_states()
    for job in jobs[:3]:
        mark(job)
    changes, _ = live.look_at(jobs[:1])
    assert set(changes) == set(jobs[:4])
    assert live.state_of(jobs[3]) == "runnable"
    assert live.state_of(jobs[4]) == "waiting"


def test_inputs_that_a_job_asks_for_are_taken_in():
    first = Node("first")
    asks = Asks("asks", [first.out])
    tk.register_output("asks", asks.out)
    live = live_states()
    mark(first)
    live.look_at([first])
    asked = next(iter(asks._sis_inputs - {first.out})).creator
    assert live.state_of(asked) == "runnable"
    assert live.state_of(asks) == "waiting"
    mark(asked)
    live.look_at([asked])
    assert live.state_of(asks) == "runnable"


def test_a_state_of_the_managers_own_lasts_until_the_job_is_finished():
    job = Node("refused")
    tk.register_output("out", job.out)
    live = live_states()
    live.imposed[job] = "queue_error"
    assert live.look_at([job])[0] == {job: "runnable"}
    assert live.look_at_all() == {}
    assert live.by_state["queue_error"] == {job}
    mark(job)
    live.look_at_all()
    assert live.state_of(job) == "finished"


def test_new_targets_are_noticed():
    tk.register_output("a", Node("a").out)
    live = live_states()
    assert not live.has_new_targets
    tk.register_output("b", Node("b").out)
    assert live.has_new_targets
    assert len(live.look_at_all()) == 1
    assert not live.has_new_targets


@pytest.mark.parametrize("seed", range(10))
def test_it_agrees_with_looking_at_everything(seed):
    draw = random.Random(seed)
    jobs = []
    for number in range(60):
        inputs = [job.out for job in draw.sample(jobs, min(len(jobs), draw.randrange(4)))]
        jobs.append((Asks if inputs and draw.random() < 0.2 else Node)(f"{seed} {number}", inputs))
    for job in jobs[-10:]:
        tk.register_output(job._sis_id(), job.out)
    live = live_states()
    while runnable := sorted(live.by_state.get("runnable", ())):
        some = draw.sample(runnable, draw.randint(1, len(runnable)))
        for job in some:
            mark(job, draw.choice(["finished", "finished", "finished.run.1", "hold"]))
        live.look_at(some)
        if draw.random() < 0.3:
            live.look_at_all()
        known = named(live.by_state)
        assert known == named(graph.get_jobs_by_status(engine=Engine()))


def test_the_work_for_one_job_does_not_grow_with_the_number_of_others(monkeypatch):
    looked_at = []
    state = graph_module.state_in_graph

    def counted(job, *args):
        looked_at.append(job)
        return state(job, *args)

    monkeypatch.setattr("sisyphus.live_states.state_in_graph", counted)
    first = [Node(f"first {number}") for number in range(100)]
    for number, job in enumerate(first):
        tk.register_output(f"out{number}", Node(f"second {number}", [job.out]).out)
    collected = Node("all", [job.out for job in first])
    tk.register_output("all", collected.out)
    live = live_states()
    for job in first:
        mark(job)
        live.look_at([job])
    # each of the first and the second ones, and the one behind them all
    assert len(looked_at) == 201
    assert live.state_of(collected) == "runnable"
