"""Engines in this process: requirements, choice, accounting, recovery."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import sisyphus.global_settings as gs
from sisyphus import Job, Task
from sisyphus.engine import DeferSubmission, EngineBase, EngineSelector
from sisyphus.errors import EngineError, RefusedError
from sisyphus.localengine import LocalEngine
from sisyphus.running import usage


class Work(Job):
    """A job with one task that asks for ``rqmt``."""

    def __init__(self, name, rqmt=None, ids=1, resume=None):
        self.rqmt, self.ids, self.resume = rqmt or {}, ids, resume

    def tasks(self):
        yield Task("run", resume=self.resume, rqmt=self.rqmt, args=range(self.ids))

    def run(self, number):
        """Never called here."""


@pytest.fixture
def here(tmp_path, monkeypatch):
    """An empty project as the current directory."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(gs, "BASE_DIR", str(tmp_path))
    monkeypatch.setattr(gs, "check_engine_limits", lambda rqmt, task: rqmt)
    return tmp_path


def make_task(name, rqmt=None, ids=1, resume="run"):
    """The task of a new job whose directory is set up."""
    job = Work(name, rqmt=rqmt, ids=ids, resume=resume)
    job._sis_setup_directory(force=True)
    return job._sis_tasks()[0]


class Recorder(EngineBase):
    """Notes submissions, and starts nothing."""

    waits_for_file_system = False

    def __init__(self, defer=False):
        super().__init__()
        self.calls = []
        self.defer = defer
        self.started = 0

    def start_engine(self):
        self.started += 1

    def submit_call(self, call, logpath, rqmt, name, task_name, task_ids):
        if self.defer:
            raise DeferSubmission("later")
        self.calls.append((call, logpath, rqmt, name, task_name, task_ids))
        return "recorder", "info"

    def task_state(self, task, task_id):
        return gs.STATE_UNKNOWN

    def get_task_id(self, task_id):
        return task_id or 7


# --- requirements and submit log ---------------------------------------------


def test_submit_groups_ids_and_notes_each_submission(here):
    task = make_task("groups", {"cpu": 2, "mem": "500M", "time": "1:30:00"}, ids=3)
    engine = Recorder()
    assert engine.submit(task) == 3
    ((call, logpath, rqmt, name, task_name, ids),) = engine.calls
    assert call[-3:] == ["worker", task.job._sis_path(), "run"]
    assert logpath == task.job._sis_path("engine")
    assert rqmt == {"cpu": 2, "mem": 500 / 1024, "time": 1.5}
    assert name == f"{task.job._sis_id()}.run".replace("/", ".")
    assert (task_name, ids) == ("run", [1, 2, 3])
    history = engine.get_submit_history(task)
    assert set(history) == {1, 2, 3}
    assert history[2][0]["engine_name"] == "recorder"
    assert history[2][0]["completed_fraction"] is None


def test_a_deferred_submission_does_not_count(here):
    task = make_task("deferred")
    engine = Recorder(defer=True)
    assert engine.submit(task) == 0
    assert engine.get_submit_history(task) == {}


def interrupt(task, task_id=1, **used):
    """Make it look as if the task had run and died."""
    Path(task.path(gs.JOB_LOG, task_id)).write_text("it began\n")
    usage.write(task.path(gs.PLOGGING_FILE, task_id), {"used_time": 0.2, "max": {"rss": 1.0}, **used})


def test_requirements_double_for_what_ran_out(here):
    task = make_task("doubling", {"mem": 4, "time": 2}, ids=3)
    engine = Recorder()
    engine.submit(task)
    interrupt(task, 1, out_of_memory=True)
    interrupt(task, 2, used_time=1.95)
    interrupt(task, 3)
    engine.submit(task)
    submitted = {tuple(ids): (rqmt["mem"], rqmt["time"]) for _, _, rqmt, _, _, ids in engine.calls[1:]}
    assert submitted == {(1,): (8, 2), (2,): (4, 4), (3,): (4, 2)}
    assert engine.get_rqmt(task, 1, update=False)["mem"] == 8


def test_a_task_that_never_started_is_submitted_again_as_before(here):
    task = make_task("lost", {"mem": 0.1, "time": 0.01})
    engine = Recorder()
    engine.submit(task)
    engine.submit(task)
    assert [rqmt["mem"] for _, _, rqmt, *_ in engine.calls] == [0.1, 0.1]


def test_new_values_in_the_recipe_win_and_others_stay_doubled(here):
    task = make_task("changed", {"mem": 4, "time": 2, "cpu": 1})
    engine = Recorder()
    engine.submit(task)
    interrupt(task, out_of_memory=True)
    engine.submit(task)
    task.extend_rqmt({"time": 5})
    assert engine.get_rqmt(task, 1, update=False) == {"mem": 8, "time": 5, "cpu": 1}
    task.extend_rqmt({"mem": 6})
    assert engine.get_rqmt(task, 1, update=False)["mem"] == 6


def test_limits_of_the_site_are_the_last_word(here, monkeypatch):
    monkeypatch.setattr(gs, "check_engine_limits", lambda rqmt, task: {**rqmt, "mem": min(rqmt["mem"], 3)})
    assert Recorder().get_rqmt(make_task("limited", {"mem": 9}), 1)["mem"] == 3


# --- choosing an engine ------------------------------------------------------


def test_the_selector_chooses_by_name_and_tells_the_worker(here):
    short, long = Recorder(), Recorder()
    selector = EngineSelector({"short": short, "mini": short, "long": long}, default_engine="long")
    selector.start_engine()
    assert (short.started, long.started) == (1, 1)
    selector.submit(make_task("to the default"))
    selector.submit(make_task("to short", {"engine": "short"}))
    assert long.calls[0][0][-4:-2] == ["--engine", "long"]
    assert short.calls[0][0][-5:-1] == [
        "worker",
        "--engine",
        "short",
        short.calls[0][1].removesuffix("/engine"),
    ]
    assert selector.get_used_engine("mini") is short
    assert selector.get_task_id(None) == 7


def test_the_selector_names_its_engines_to_those_who_ask_for_another(here):
    selector = EngineSelector({"short": Recorder(), "long": Recorder()}, default_engine="long")
    with pytest.raises(EngineError, match=r"unknown engine 'shrt'. Known: long, short"):
        selector.submit(make_task("lost", {"engine": "shrt"}))
    with pytest.raises(EngineError, match="unknown engine 'none'"):
        EngineSelector({"short": Recorder()}, default_engine="none")


def test_the_selector_polls_as_often_as_any_engine_needs(monkeypatch):
    monkeypatch.setattr(gs, "WAIT_PERIOD_BETWEEN_CHECKS", 30)
    assert EngineSelector({"a": LocalEngine(), "b": EngineBase()}, "a").poll_interval_s == 30
    assert EngineSelector({"a": LocalEngine(), "b": EngineBase()}, "a").waits_for_file_system
    assert EngineSelector({"a": LocalEngine()}, "a").poll_interval_s is None
    assert not EngineSelector({"a": LocalEngine()}, "a").waits_for_file_system


def test_a_wrapper_must_leave_the_worker_command_visible():
    selector = EngineSelector({"a": Recorder()}, "a")
    with pytest.raises(EngineError, match="must keep the word 'worker'"):
        selector.submit_call(["bash", "-c", "sis worker x"], "log", {}, "name", "run", [1])


def test_everyone_connected_is_woken():
    woken = []
    local = LocalEngine()
    EngineSelector({"a": local}, "a").connect(lambda: woken.append(1))
    local.notify()
    assert woken == [1]


def test_an_absent_engine_can_be_made_but_not_started():
    from sisyphus.aws_batch_engine import AWSBatchEngine

    engine = AWSBatchEngine({"cpu": 1, "mem": 2, "time": 1}, "queue", "definition")
    with pytest.raises(EngineError, match=r"AWSBatchEngine is not part of this version\. Use LocalEngine"):
        engine.start_engine()
    assert engine.get_task_id(3) == 3


# --- the local engine --------------------------------------------------------


@pytest.fixture
def sleeper(monkeypatch):
    """Tasks are processes that sleep until they are killed, or exit at once for ``instant`` jobs."""

    def wrapper(job, task_name, call):
        seconds = 0 if "instant" in job._sis_kwargs["name"] else 60
        return [sys.executable, "-c", f"import time; time.sleep({seconds})", *call]

    monkeypatch.setattr(gs, "worker_wrapper", wrapper)


@pytest.fixture
def local(sleeper, here):
    """Makes local engines, and cancels what they run at the end."""
    made = []

    def make(**kwargs):
        engine = LocalEngine(**kwargs)
        engine.woken = threading.Event()
        engine.connect(engine.woken.set)
        made.append(engine)
        return engine

    yield make
    for engine in made:
        engine.stop_engine()
        for entry in list(engine._running.values()):
            os.killpg(entry.pid, signal.SIGKILL)


def test_later_tasks_overtake_one_that_does_not_fit(local):
    engine = local(cpu=2, licence=1)
    first, big, small = make_task("a"), make_task("b", {"cpu": 2}), make_task("c", {"licence": 1})
    for task in (first, big, small):
        engine.submit(task)
    assert [engine.task_state(task, 1) for task in (first, big, small)] == ["running", "queue", "running"]
    engine.cancel(first)
    engine.cancel(small)
    assert engine.task_state(big, 1) == "running"
    assert engine.task_state(first, 1) == "unknown"
    assert engine.woken.is_set()


@pytest.mark.parametrize(
    ("rqmt", "message"),
    [
        (
            {"cpu": 3},
            r"asks for cpu=3, but this engine has 2 in total. Ask for less .* LocalEngine\(cpu=...\)",
        ),
        ({"gpu": 1}, "asks for gpu=1, but this engine has 0 in total"),
        ({"mem": "64G"}, "asks for mem=64, but this engine has 8 in total"),
        ({"cpu": "many"}, "asks for cpu='many', which is no number"),
        ({"multi_node_slots": 2}, "asks for multi_node_slots=2, but the local engine is one machine"),
    ],
)
def test_requests_that_never_fit_are_refused(local, rqmt, message):
    engine = local(cpu=2, mem=8)
    task = make_task("refused", rqmt)
    with pytest.raises(RefusedError, match=message):
        engine.submit(task)
    assert engine.task_state(task, 1) == "queue_error"
    assert engine.get_submit_history(task) == {}


def test_uncounted_resources_are_no_limit(local):
    engine = local(cpu=1)
    task = make_task("memory is not counted", {"mem": 1000})
    engine.submit(task)
    assert engine.task_state(task, 1) == "running"


def test_a_command_that_does_not_exist_is_told(local, monkeypatch, caplog):
    monkeypatch.setattr(gs, "worker_wrapper", lambda job, task_name, call: ["/no/such/container", *call])
    engine = local(cpu=1)
    task = make_task("wrapped")
    engine.submit(task)
    assert engine.task_state(task, 1) == "queue_error"
    assert "cannot start '/no/such/container'" in caplog.text


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"gpus": 2, "available_gpus": "0,1,2"}, r"names 3 devices \(0,1,2\), but gpus=2"),
        ({"cpus": -1}, "cpu must be >= 0, got -1"),
    ],
)
def test_impossible_engines(kwargs, message):
    with pytest.raises(EngineError, match=message):
        LocalEngine(**kwargs)


def test_devices_without_a_list(monkeypatch):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert LocalEngine(gpus=3)._free_devices == ["0", "1", "2"]
    assert LocalEngine(available_gpus="GPU-a, GPU-b")._free_devices == ["GPU-a", "GPU-b"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,6")
    assert LocalEngine(gpus=2)._free_devices == ["4", "6"]


def test_tasks_of_an_earlier_manager_are_found_and_counted(local):
    task, other = make_task("old", {"cpu": 2, "gpu": 1}), make_task("new")
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"], start_new_session=True)
    record = {
        **usage.identify(process.pid),
        "requested_resources": {"cpu": 2, "gpu": 1},
        "cuda_visible_devices": "1",
    }
    usage.write(task.path(gs.PLOGGING_FILE, 1), record)
    engine = local(cpu=2, gpu=2, available_gpus="0,1")
    assert engine.task_state(task, 1) == "running"
    assert engine._free_devices == ["0"]
    engine.submit(other)
    assert engine.task_state(other, 1) == "queue"
    engine.woken.clear()
    process.kill()
    process.wait()
    assert engine.woken.wait(10)
    assert engine.task_state(other, 1) == "running"
    assert engine.task_state(task, 1) == "unknown"
    assert engine._free_devices == ["0", "1"]


def test_a_task_is_found_before_it_wrote_anything(local):
    task = make_task("fresh", {"cpu": 2})
    local(cpu=2).submit(task)
    assert not Path(task.path(gs.PLOGGING_FILE, 1)).exists()
    later = local(cpu=2)
    assert later.task_state(task, 1) == "running"
    later.submit(other := make_task("next"))
    assert later.task_state(other, 1) == "queue"


def test_a_recycled_pid_is_not_taken_for_the_task(here):
    task = make_task("recycled")
    record = {**usage.identify(os.getpid()), "process_start": 1.0}
    usage.write(task.path(gs.PLOGGING_FILE, 1), record)
    assert LocalEngine().task_state(task, 1) == "unknown"
    usage.write(task.path(gs.PLOGGING_FILE, 1), {**usage.identify(os.getpid()), "host": "elsewhere"})
    assert LocalEngine().task_state(task, 1) == "unknown"


def test_what_another_manager_finished_is_not_started_again(local):
    engine = local(cpu=1)
    running, queued = make_task("first"), make_task("second")
    engine.submit(running)
    engine.submit(queued)
    Path(queued.path(gs.STATE_FINISHED, 1)).touch()
    engine.cancel(running)
    assert engine.task_state(queued, 1) == "unknown"


def test_stopping_starts_nothing_more_and_kills_nothing(local):
    engine = local(cpu=1)
    running, queued = make_task("one"), make_task("two")
    engine.submit(running)
    engine.submit(queued)
    engine.stop_engine()
    assert engine.task_state(running, 1) == "running"
    assert engine.task_state(queued, 1) == "unknown"


def test_cancelling_uses_force_on_a_task_that_does_not_listen(local, monkeypatch):
    code = (
        "import signal, time; signal.signal(15, signal.SIG_IGN); print('ready', flush=True); time.sleep(60)"
    )
    monkeypatch.setattr(gs, "worker_wrapper", lambda job, name, call: [sys.executable, "-c", code, *call])
    engine = local(cpu=1)
    task = make_task("deaf")
    engine.submit(task)
    while "ready" not in Path(task.path(gs.JOB_LOG, 1)).read_text():
        pass
    engine.cancel(task, patience_s=0.2)
    assert engine.task_state(task, 1) == "unknown"


def test_threads_that_wait_for_strangers_import_nothing():
    """A thread that loads a library while the program ends crashed every eighth manager that was refused."""
    code = (
        "import subprocess, sys\n"
        "from sisyphus.engines.local import _wait_for_stranger\n"
        "child = subprocess.Popen(['true'])\n"
        "known = set(sys.modules)\n"
        "_wait_for_stranger(child.pid)\n"
        "_wait_for_stranger(child.pid)\n"  # it is a zombie, and then gone
        "child.wait()\n"
        "_wait_for_stranger(child.pid)\n"
        "print(sorted(set(sys.modules) - known))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == "[]", done.stderr


def test_changes_are_told_by_name_and_once():
    engine = Recorder()
    engine.notify("before anybody listens")
    engine.connect(lambda: None)
    engine.notify("job.run")
    engine.notify("job.run")
    engine.notify()
    assert engine.take_changes() == {"job.run", None}
    assert engine.take_changes() == set()


def test_an_engine_of_a_settings_file_needs_no_init_of_ours():
    class Own(EngineBase):
        def __init__(self):
            """Without a call of the base's."""

    engine = Own()
    engine.notify()
    assert engine.take_changes() == set()
    woken = []
    EngineSelector({"own": engine}, "own").connect(lambda: woken.append(1))
    engine.notify()
    assert woken == [1]
    assert engine.take_changes() == {None}
