"""The graph: what it holds, in which order, in which state."""

from __future__ import annotations

import os
import pathlib
from concurrent.futures import ThreadPoolExecutor

import pytest
from sisyphus import Job, Path, Task, gs, tk
from sisyphus.graph import creators_of
from sisyphus.graph import graph as sis_graph

pytestmark = pytest.mark.usefixtures("workspace")

LONGER_THAN_THE_STACK = 3000


class Step(Job):
    def __init__(self, name, *values):
        self.name = name
        self.values = values
        self.out = self.output_path("out")

    def tasks(self):
        yield Task("run")

    def run(self):
        pass


class TwoTasks(Step):
    def tasks(self):
        yield Task("run")
        yield Task("again", args=[1, 2])

    def again(self):
        pass


class Growing(Step):
    def update(self):
        self.later = Step("later", self.values[0]).out


class Withheld(Step):
    """Its outputs are never released, whatever else."""

    def path_available(self, path):
        return False


def chain(length):
    job = Step(0)
    for number in range(1, length):
        job = Step(number, job.out)
    return job


def mark(job, name="finished"):
    os.makedirs(job._sis_path(), exist_ok=True)
    pathlib.Path(job._sis_path(name)).touch()


def want(*jobs):
    for job in jobs:
        tk.register_output(f"out/{job.name}", job.out)


def states(**options):
    found = sis_graph.get_jobs_by_status(**options)
    assert all(type(state) is str for state in found)
    return {state: {getattr(job, "name", job) for job in jobs} for state, jobs in found.items()}


def test_the_graph_holds_what_targets_need():
    a = Step("a")
    b = Step("b", a.out)
    other = Step("other")
    want(b)
    assert sis_graph.jobs() == {a, b}
    assert a in sis_graph
    assert other not in sis_graph
    assert sis_graph.id_to_job_dict() == {a.job_id(): a, b.job_id(): b}
    assert sis_graph.job_by_id(a.job_id()) is a
    assert sis_graph.job_by_id("nothing") is None
    assert sis_graph.path_to_all_nodes() == {a._sis_path(), b._sis_path()}
    assert creators_of(b) == {a}


def test_jobs_sorted_are_dependencies_first_then_by_id():
    roots = sorted(Step(f"root {number}") for number in range(6))
    last = Step("last", *[root.out for root in roots])
    want(last, *reversed(roots))
    assert sis_graph.jobs_sorted() == [*roots, last]


def test_chains_may_be_longer_than_pythons_stack():
    last = chain(LONGER_THAN_THE_STACK)
    want(last)
    assert len(sis_graph.jobs()) == LONGER_THAN_THE_STACK
    assert sis_graph.jobs_sorted()[-1] is last
    assert len(states()["waiting"]) == LONGER_THAN_THE_STACK - 1
    # the folders of all are there, but none is finished: each asks for its input
    for job in sis_graph.jobs():
        os.makedirs(job._sis_path())
    assert len(states()["waiting"]) == LONGER_THAN_THE_STACK - 1
    assert not last._sis_finished()
    for job in sis_graph.jobs():
        mark(job)
    for _ in range(2):
        assert len(states()["finished"]) == LONGER_THAN_THE_STACK


def test_states():
    finished, runnable, failed = Step("finished"), Step("runnable"), Step("failed")
    waiting = Step("waiting", runnable.out, finished.out)
    mark(finished)
    mark(failed, "error.run.1")
    want(waiting, failed)
    assert states() == {
        "finished": {"finished"},
        "runnable": {"runnable"},
        "waiting": {"waiting"},
        "error": {"failed"},
    }


def test_archives_count_as_finished():
    job = Step("a")
    mark(job, "finished.tar.gz")
    want(job)
    assert states() == {"finished": {"a"}}


def test_a_linked_folder_counts(workspace):
    job = Step("a")
    elsewhere = workspace / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "finished").touch()
    os.makedirs(os.path.dirname(job._sis_path()))
    os.symlink(elsewhere, job._sis_path())
    want(job)
    assert states() == {"finished": {"a"}}


def test_a_link_that_leads_nowhere_is_replaced(workspace, caplog):
    job = Step("a")
    os.makedirs(os.path.dirname(job._sis_path()))
    os.symlink(workspace / "gone", job._sis_path())
    want(job)
    assert states() == {"runnable": {"a"}}
    job._sis_setup_directory()
    assert "Removed a link that led nowhere" in caplog.text
    assert os.path.isfile(job._sis_path("job.save"))


def test_tasks_run_one_after_the_other_then_the_job_is_finished(workspace, monkeypatch):
    seen = []
    monkeypatch.setattr(gs, "on_job_finished", seen.append)
    monkeypatch.setattr(gs, "TEAM_SHARE_DIR", str(workspace / "share"))
    job = TwoTasks("two")
    want(job)
    job._sis_setup_directory()
    assert job._sis_next_task().name() == "run"
    mark(job, "finished.run.1")
    mark(job, "finished.again.2")
    assert job._sis_next_task().name() == "again"
    assert states() == {"runnable": {"two"}}
    mark(job, "finished.again.1")
    for _ in range(2):
        assert states() == {"finished": {"two"}}
    assert os.path.isfile(job._sis_path("finished"))
    assert seen == [job]
    assert os.path.realpath(workspace / "share" / job.job_id()) == os.path.realpath(job._sis_path())


def test_finished_jobs_whose_markers_are_missing_are_seen_in_one_pass():
    last = chain(5)
    want(last)
    for job in sis_graph.jobs():
        mark(job, "finished.run.1")
    assert len(states()["finished"]) == 5


def test_a_folder_that_cannot_be_marked_is_finished_all_the_same(monkeypatch):
    job = Step("a")
    mark(job, "finished.run.1")
    want(job)

    def refuse(*args):
        raise PermissionError("read only")

    monkeypatch.setattr(os, "open", refuse)
    assert states() == {"finished": {"a"}}


def test_held_jobs_get_their_inputs_first():
    first = Step("first")
    held = Step("held", first.out)
    held.hold()
    want(held)
    assert states() == {"runnable": {"first"}, "waiting": {"held"}}
    assert held._sis_state(None) == "hold"
    mark(first)
    assert states() == {"finished": {"first"}, "hold": {"held"}}


def test_a_file_holds_a_job():
    job = Step("a")
    mark(job, "hold")
    want(job)
    assert states() == {"hold": {"a"}}
    os.unlink(job._sis_path("hold"))
    assert states() == {"runnable": {"a"}}
    mark(job, "hold")
    mark(job)
    assert states() == {"finished": {"a"}}


def test_inputs_from_outside(workspace):
    (workspace / "there").touch()
    want(Step("a", Path("there"), Path("missing")))
    tk.register_output("missing too", Path("other"))
    assert states() == {
        "waiting": {"a"},
        "input_path": {f"{workspace}/there"},
        "input_missing": {f"{workspace}/missing", f"{workspace}/other"},
    }


def test_finished_jobs_can_be_skipped():
    first, second = Step("first"), Step("second", Step("first").out)
    third = Step("third", second.out)
    want(third)
    mark(second)
    assert states(skip_finished=True) == {"finished": {"second"}, "runnable": {"third"}}
    assert states() == {"finished": {"second"}, "runnable": {"first", "third"}}
    assert states(nodes=[first.out]) == {"runnable": {"first"}}
    assert states(nodes=[second]) == {"finished": {"second"}, "runnable": {"first"}}


def test_jobs_that_updates_add_are_seen_in_the_same_pass():
    first = Step("first")
    want(Growing("growing", first.out))
    assert states() == {"runnable": {"first"}, "waiting": {"growing"}}
    mark(first)
    assert states() == {"finished": {"first"}, "runnable": {"later"}, "waiting": {"growing"}}
    assert Step("later", first.out) in sis_graph.jobs()


def test_a_job_with_withheld_outputs_keeps_others_waiting(caplog):
    withheld = Withheld("withheld")
    mark(withheld)
    want(Step("waits", withheld.out))
    assert states() == {"finished": {"withheld"}, "waiting": {"waits"}}
    assert "is finished, but does not release" in caplog.text


def test_a_state_is_never_out_of_date():
    job = Step("a")
    want(job)
    job._sis_setup_directory()
    mark(job, "error.run.1")
    assert states() == {"error": {"a"}}
    os.unlink(job._sis_path("error.run.1"))
    assert states() == {"runnable": {"a"}}
    mark(job, "finished.run.1")
    assert states() == {"finished": {"a"}}


def test_threads_that_ask_at_the_same_time_get_the_same_answer():
    jobs = [Step(number) for number in range(20)]
    for job in jobs:
        mark(job, "finished.run.1")  # each is declared finished by whoever asks first
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda job: job._sis_finished(), jobs * 8))
    assert all(answers)


def test_going_through_all_jobs():
    a = Step("a")
    b = Step("b", a.out)
    c = Step("c", b.out, a.out)
    want(c)
    seen = []
    sis_graph.for_all_nodes(seen.append)
    assert (seen[0], sorted(seen)) == (c, sorted([a, b, c]))
    seen.clear()
    sis_graph.for_all_nodes(seen.append, bottom_up=True)
    assert seen == [a, b, c]
    seen.clear()
    sis_graph.for_all_nodes(lambda job: bool(seen.append(job)), nodes=[b])
    assert seen == [b]  # a false answer stops the descent


def test_finding():
    a = Step("a").add_alias("the/alias")
    b = Step("b", a.out).set_vis_name("A nice name")
    want(b)
    assert sis_graph.find("the/alias") == [a]
    assert sis_graph.find("nice", mode="job") == [b]
    assert sis_graph.find(f"{a.job_id()}/output", mode="path") == [a.out]
    assert sis_graph.find("nothing") == []


def test_from_a_path_to_its_job(workspace):
    a = Step("a")
    want(a)
    assert sis_graph.get_job_from_path(a.out) is a
    assert sis_graph.get_job_from_path(a._sis_path("output/deep/file")) is a
    assert sis_graph.get_job_from_path(f"{workspace}/{a._sis_path()}") is a
    assert sis_graph.get_job_from_path("elsewhere/x") is None


@pytest.fixture
def questions(monkeypatch):
    """What is asked of the file system from now on."""
    asked = []

    def noting(ask):
        return lambda *args, **more: asked.append(args) or ask(*args, **more)

    for name in ("stat", "lstat", "listdir", "open", "readlink"):
        monkeypatch.setattr(os, name, noting(getattr(os, name)))
    return asked


def test_finished_jobs_cost_one_question_each_and_later_none(questions):
    jobs = [Step(f"counted {number}") for number in range(50)]
    for job in jobs:
        mark(job)
    want(*jobs)
    questions.clear()
    assert len(states()["finished"]) == 50
    assert len(questions) <= 50 + 5  # and one listing, after a few single questions
    questions.clear()
    assert len(states()["finished"]) == 50
    assert questions == []


def test_jobs_without_folder_cost_no_question_each(questions):
    want(chain(50))
    questions.clear()
    found = states()
    assert len(found["waiting"]) == 49
    assert len(found["runnable"]) == 1
    assert len(questions) <= 15


def test_jobs_know_the_targets_that_need_them():
    a = Step("a")
    b, c = Step("b", a.out), Step("c", a.out)
    want(b, c)
    sis_graph.set_job_targets()
    assert a._sis_needed_for_which_targets == {"out/b", "out/c"}
    assert b._sis_needed_for_which_targets == {"out/b"}


def test_most_jobs_share_the_names_of_their_targets():
    source = Step("source")
    middle = Step("middle", source.out)
    ends = [Step(f"end {number}", middle.out) for number in range(3)]
    want(*ends, middle)
    sis_graph.set_job_targets()
    assert middle._sis_needed_for_which_targets == {"out/end 0", "out/end 1", "out/end 2", "out/middle"}
    assert source._sis_needed_for_which_targets is middle._sis_needed_for_which_targets
    assert ends[1]._sis_needed_for_which_targets == {"out/end 1"}


def test_only_targets_among_those_that_are_named_are_run():
    jobs = [Step("one"), Step("two")]
    want(*jobs)
    for job in jobs:
        mark(job)
    first, second = sis_graph.active_targets
    assert sis_graph.update_active_targets(among=[second]) == [second]
    assert sis_graph.active_targets == [first]
    assert sis_graph.has_active_targets
    assert sis_graph.update_active_targets() == [first]
    assert not sis_graph.has_active_targets
    assert sis_graph.num_targets == 2
