"""Forked workers are workers like any other, and nothing is lost when their server is."""

from __future__ import annotations

import json
import os
import select
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import sisyphus.global_settings as gs
from sisyphus.fork_server import safety
from sisyphus.fork_server.client import ForkServers, worker_arguments

pytestmark = pytest.mark.skipif(
    not (sys.platform == "linux" and hasattr(os, "pidfd_open")), reason="there are no fork servers here"
)

REPORTING = """
LEFT_OPEN = []


class Report(Job):
    '''Writes what it sees of its process.'''

    def __init__(self, name, previous=None, rqmt=None, seconds=0):
        self.previous, self.rqmt, self.seconds = previous, rqmt or {}, seconds
        self.out = self.output_var("out")

    def tasks(self):
        yield Task("run", rqmt=self.rqmt)

    def run(self):
        import random
        import atexit
        import resource
        import signal

        time.sleep(self.seconds)
        atexit.register(File("at exit").absolute().touch)
        LEFT_OPEN.append(open("left open", "w"))
        LEFT_OPEN[0].write("kept")
        with open(f"/proc/{os.getppid()}/cmdline") as file:
            parent = file.read().split(chr(0))
        self.out.set({
            "parent": parent,
            "argv": sys.argv[1:],
            "session": os.getsid(0) == os.getpid(),
            "cpu_s": resource.getrusage(resource.RUSAGE_SELF).ru_utime,
            "random": random.random(),
            "preloaded": "wave" in sys.modules,
            "devices": os.environ.get("CUDA_VISIBLE_DEVICES"),
            "own": os.environ.get("OWN"),
            "sigchld": signal.getsignal(signal.SIGCHLD) == signal.SIG_DFL,
            "files": sorted(os.readlink(f"/proc/self/fd/{fd}") for fd in (0, 1, 2)),
            "num_open": len(os.listdir("/proc/self/fd")),
        })
"""

REPORTS = """
out = Report("first", seconds=1).out  # meanwhile the fork server becomes ready
tk.register_output("first", out)
for number in range(3):
    out = Report(number, out).out
    tk.register_output(f"out{number}", out)
"""


def reports(project):
    return [eval(project.read(f"output/out{number}")) for number in range(3)]


def is_forked(report):
    return "fork_server" in report["parent"]


def test_later_workers_are_forked_and_are_processes_of_their_own(project):
    project.config(REPORTS, recipe=REPORTING)
    assert project.manager().returncode == 0
    first = eval(project.read("output/first"))
    assert not is_forked(first)
    assert [is_forked(report) for report in reports(project)] == [True] * 3
    for report in reports(project):
        assert report["session"]
        assert report["sigchld"]
        assert report["cpu_s"] < 1
        assert report["argv"][0] == "worker"
        assert report["num_open"] == first["num_open"]
        assert [Path(file).name for file in report["files"]] == ["null", "log.run.1", "log.run.1"]
    assert len({report["random"] for report in reports(project)}) == 3
    for folder in (project.path / "work/jobs").iterdir():
        assert "Job finished successfully" in (folder / "log.run.1").read_text()
        assert (folder / "usage.run.1").exists()
        assert (folder / "work/left open").read_text() == "kept"
        assert (folder / "work/at exit").exists()


def test_modules_are_imported_beforehand_in_the_environment_of_their_jobs(project):
    project.write("here/seen.py", "import os\nENVIRONMENT = dict(os.environ)\n")
    project.config(
        """
        out = Report("first", seconds=1).out
        for name, rqmt in (("2", {"cpu": 2}), ("first of 1", {"cpu": 1})):
            out = Report(name, out, rqmt, seconds=1).out
        for number, cpus in enumerate((1, 2, 2)):
            job = Report(number, out, {"cpu": cpus})
            if number == 2:
                job.set_env("OWN", "x")
            out = job.out
            tk.register_output(f"out{number}", out)
        """,
        recipe=REPORTING.replace(
            '"preloaded": "wave" in sys.modules',
            """"preloaded": "wave" in sys.modules,
            "threads_at_import": seen_threads(),
            "threads": os.environ["OMP_NUM_THREADS"]""",
        )
        + """
def seen_threads():
    import seen
    return seen.ENVIRONMENT["OMP_NUM_THREADS"]
""",
    )
    project.engine(
        "LocalEngine(cpu=2)",
        """
        IMPORT_PATHS = [*IMPORT_PATHS, "here/"]
        FORK_SERVER_PRELOAD = ["wave", "seen"]
        """,
    )
    assert project.manager().returncode == 0
    one, two, own = reports(project)
    assert [one["threads"], two["threads"], own["threads"]] == ["1", "2", "2"]
    assert [one["threads_at_import"], two["threads_at_import"], own["threads_at_import"]] == ["1", "2", "2"]
    assert [one["preloaded"], two["preloaded"], own["preloaded"]] == [True, True, False]
    assert own["own"] == "x"


def test_modules_that_must_not_be_imported_beforehand(project):
    project.write("here/risky.py", "raise RuntimeError('no such luck')")
    project.config(REPORTS.replace("seconds=1", "seconds=0.5"), recipe=REPORTING)
    project.engine(
        "LocalEngine(cpu=2)",
        """
        IMPORT_PATHS = [*IMPORT_PATHS, "here/"]
        FORK_SERVER_PRELOAD = ["risky"]
        """,
    )
    done = project.manager()
    assert done.returncode == 0
    assert "FORK_SERVER_PRELOAD has no effect: 'risky'" in done.stderr
    assert "RuntimeError: no such luck" in done.stderr


# --- one server, from this process ---


def call(*more):
    return [*gs._sis_command(), *more]


@pytest.fixture
def servers(project, monkeypatch):
    """Fork servers of a project with one job, which waits for a file."""
    project.config(
        'tk.register_output("waits", Waits().out)',
        recipe="""
        class Waits(Job):
            def __init__(self):
                self.out = self.output_var("out")

            def run(self):
                for _ in range(6000):
                    if File("../../../../go").exists():
                        break
                    time.sleep(0.01)
                self.out.set(os.getpid())
        """,
    )
    (project.path / "work").mkdir()
    project.sis("manager", "config/exp.py", stdin="s\nn\n")  # sets up its folder
    monkeypatch.chdir(project.path)
    monkeypatch.setattr(gs, "FORK_SERVER_PRELOAD", [])
    made = ForkServers()
    yield made
    made.close()
    project.write("go", "")


def start(servers, project, wait_for, environment=None):
    """A worker of the job, forked as soon as a server is ready."""
    job = str(project.job_dir("Waits").relative_to(project.path))
    environment = environment or project.environment()
    forked = []

    def try_it():
        with (project.path / "log").open("ab") as log:
            forked.append(servers.fork(call("worker", job, "run", "1"), environment, 1, log.fileno()))
        return forked[-1]

    wait_for(try_it)
    return forked[-1]


def server_pid(servers):
    (server,) = servers._servers.values()
    return server._process.pid


@pytest.mark.parametrize("end", ["close", "kill"])
def test_a_worker_outlives_its_server(project, servers, wait_for, end):
    worker = start(servers, project, wait_for)
    wait_for(lambda: (project.job_dir("Waits") / "usage.run.1").exists())
    if end == "kill":
        os.kill(server_pid(servers), signal.SIGKILL)
    else:
        servers.close()
    project.write("go", "")
    worker.wait()
    assert (project.job_dir("Waits") / "output/out").read_text().strip() == str(worker.pid)
    assert (project.job_dir("Waits") / "finished.run.1").exists()


def test_a_worker_can_be_killed_alone(project, servers, wait_for):
    worker = start(servers, project, wait_for)
    pid = server_pid(servers)
    os.killpg(worker.pid, signal.SIGKILL)
    worker.wait()
    assert not (project.job_dir("Waits") / "finished.run.1").exists()
    project.write("go", "")
    start(servers, project, wait_for).wait()
    assert server_pid(servers) == pid
    assert (project.job_dir("Waits") / "finished.run.1").exists()


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
def test_a_server_that_is_gone_or_frozen_is_replaced(project, servers, wait_for, caplog, number):
    project.write("go", "")
    start(servers, project, wait_for).wait()
    pid = server_pid(servers)
    servers._servers[0]._channel.settimeout(0.2)
    os.kill(pid, number)
    worker = start(servers, project, wait_for)
    worker.wait()
    assert server_pid(servers) != pid
    assert "is gone" in caplog.text


def test_after_several_ends_no_more_are_started(project, servers, wait_for):
    project.write("go", "")
    for _ in range(3):
        start(servers, project, wait_for).wait()
        os.kill(server_pid(servers), signal.SIGKILL)
        time.sleep(0.05)
        job = str(project.job_dir("Waits").relative_to(project.path))
        assert servers.fork(call("worker", job, "run", "1"), project.environment(), 1, 1) is None
    assert servers._servers == {}
    assert servers.fork(call("worker", job, "run", "1"), project.environment(), 1, 1) is None
    assert servers._servers == {}


@pytest.mark.parametrize("change", ["settings", "environment"])
def test_a_server_that_is_out_of_date_is_replaced(project, servers, wait_for, change):
    project.write("go", "")
    start(servers, project, wait_for).wait()
    pid = server_pid(servers)
    environment = project.environment()
    if change == "settings":
        project.write("settings.py", project.read("settings.py") + "\nPRINT_ERROR = True\n")
    else:
        environment["SIS_PRINT_ERROR"] = "True"
    start(servers, project, wait_for, environment).wait()
    assert server_pid(servers) != pid


def test_a_server_ends_with_its_manager(project, servers, wait_for):
    start(servers, project, wait_for)
    (server,) = servers._servers.values()
    server._channel.close()  # as the kernel does for a manager that was killed
    server._process.wait(10)
    assert server._process.returncode == 0
    project.write("go", "")


def test_nothing_is_forked_if_that_is_switched_off(project, servers, monkeypatch):
    monkeypatch.setattr(gs, "FORK_SERVER", False)
    job = str(project.job_dir("Waits").relative_to(project.path))
    for _ in range(2):
        assert servers.fork(call("worker", job, "run", "1"), project.environment(), 1, 1) is None
    assert servers._servers == {}


def test_which_calls_are_ours(monkeypatch):
    assert worker_arguments(call("worker", "work/a", "run", "1")) == ["worker", "work/a", "run", "1"]
    chosen = ["worker", "--engine", "short", "work/a", "run", "1"]
    assert worker_arguments(call(*chosen)) == chosen
    assert worker_arguments(["nice", *call("worker", "work/a", "run", "1")]) is None
    assert worker_arguments(call("worker", "work/a", "run", "1", "--more")) is None
    assert worker_arguments(call("manager")) is None
    plain = call("worker", "work/a", "run", "1")
    monkeypatch.setattr(gs, "SIS_COMMAND", ["other", "sis"])
    assert worker_arguments(plain) is None
    assert worker_arguments(["other", "sis", "worker", "work/a", "run", "1"]) is None


def test_threads_and_devices_are_dangerous():
    code = """
import threading
from sisyphus.fork_server import safety
assert safety.danger() is None
event = threading.Event()
thread = threading.Thread(target=event.wait)
thread.start()
assert "1 run" in safety.danger(), safety.danger()
event.set()
thread.join()
assert safety.danger() is None
"""
    subprocess.run(
        [sys.executable, "-W", "error", "-c", code], check=True, env={**os.environ, "OMP_NUM_THREADS": "1"}
    )


def test_random_numbers_differ_in_each_process():
    numpy = pytest.importorskip("numpy")
    state = numpy.random.get_state()
    safety.new_random_numbers()
    one = numpy.random.random()
    safety.new_random_numbers()
    assert one != numpy.random.random()
    numpy.random.set_state(state)


def test_a_worker_that_nobody_waits_for_never_begins(project, servers, wait_for):
    """The manager dies after the fork: the pipe on which it would have given its word is closed."""
    start(servers, project, wait_for)
    (server,) = servers._servers.values()
    job = str(project.job_dir("Waits").relative_to(project.path))
    with (project.path / "other log").open("wb") as log:
        arguments = ["worker", job, "run", "1"]
        request = {"call": call(*arguments), "arguments": arguments, "devices": None}
        socket.send_fds(server._channel, [json.dumps(request).encode()], [log.fileno()])
        _, (handle, go), _, _ = socket.recv_fds(server._channel, 1 << 16, 2, socket.MSG_CMSG_CLOEXEC)
    os.close(go)
    poll = select.poll()
    poll.register(handle, select.POLLIN)
    assert poll.poll(5000)
    os.close(handle)
    assert (project.path / "other log").read_text() == ""
    project.write("go", "")
