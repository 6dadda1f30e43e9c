"""What is disturbed: a small project whose jobs note when they begin and end, and notice what must not be."""

from __future__ import annotations

import textwrap
from dataclasses import dataclass
from pathlib import Path

SETTINGS = '''
import os, random, signal, sys

JOURNAL = {journal!r}

def engine():
    from sisyphus.localengine import LocalEngine
    return LocalEngine(cpu=3)

JOB_CLEANER_INTERVAL, WAIT_PERIOD_JOB_CLEANUP = 0.7, 0.5
MANAGER_HEARTBEAT = 0.5
MAX_SUBMIT_RETRIES = 10_000  # a task that is killed so often would be given up, as it should
PLOGGING_INTERVAL, PLOGGING_UPDATE_FILE_PERIOD, PLOGGING_QUIET = 0.1, 0.3, True
TASK_HEARTBEAT_TIMEOUT = 1.5


def note(*words):
    """One line of the journal, in one system call."""
    file = os.open(JOURNAL, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(file, (" ".join(map(str, words)) + "\\n").encode())
    os.close(file)


class Doom:
    """Kills this process right before one of its next accesses to the project's files."""

    events = {{
        "open", "os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.symlink", "os.link", "os.utime",
        "os.truncate", "os.listdir", "os.scandir", "os.chdir", "subprocess.Popen", "fcntl.lockf",
    }}

    def __init__(self, role):
        self.role, self.rest = role, 0
        chance, latest = map(float, os.environ.get(f"CHAOS_{{role.upper()}}", "0 1").split())
        random_numbers = random.Random(f"{{os.environ.get('CHAOS_SEED')}} {{os.getpid()}}")
        if random_numbers.random() < chance:
            self.rest = random_numbers.randrange(1, int(latest))

    def look(self, event, arguments):
        if not self.rest or event not in self.events or event == "open" and not self.is_ours(arguments[0]):
            return
        self.rest -= 1
        if not self.rest:
            note("doomed", self.role, os.getpid(), event)
            os.kill(os.getpid(), signal.SIGKILL)

    def is_ours(self, path):
        return isinstance(path, (str, bytes)) and JOURNAL not in str(path) and "work/" in str(path)


def arm(role):
    global doom
    doom = Doom(role)


arm("worker" if "worker" in sys.argv else "server" if "fork_server" in sys.argv else "manager")
if "fork_server" in sys.argv:
    os.register_at_fork(after_in_child=lambda: arm("worker"))
sys.addaudithook(lambda event, arguments: doom.look(event, arguments))
'''

RECIPE = '''
import contextlib, fcntl, hashlib, os, subprocess, sys, time
from pathlib import Path as File

from sisyphus import *


@contextlib.contextmanager
def noted(job, task, task_id=1):
    """Note begin and end of a task, and complain if it is at work elsewhere, or was finished before."""
    key = f"{job._sis_id()}.{task}.{task_id}"
    lock = os.open(f"{gs.JOURNAL}.{hashlib.md5(key.encode()).hexdigest()}", os.O_RDWR | os.O_CREAT)
    for attempt in range(20):
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            break
        except BlockingIOError:
            time.sleep(0.02)
    else:
        gs.note("OVERLAP", key, os.getpid())
    if os.path.exists(f"../finished.{task}.{task_id}") or os.path.exists("../finished"):
        gs.note("REPEAT", key, os.getpid())
    start = File("/proc/self/stat").read_text().rpartition(")")[2].split()[19]
    gs.note("begin", key, os.getpid(), start)
    yield lock
    gs.note("end", key, os.getpid())


def digest(*values):
    return hashlib.sha256(repr(values).encode()).hexdigest()


class Chained(Job):
    """Makes a text of its name and what came before."""

    def __init__(self, name, previous, seconds):
        self.name, self.previous, self.seconds = name, previous, seconds
        self.out = self.output_var("text")

    def tasks(self):
        yield Task("run", resume="run", rqmt={"mem": 0.1})

    def before(self):
        return [each.get() for each in self.previous]

    def run(self):
        with noted(self, "run"):
            time.sleep(self.seconds)
            self.out.set(digest(self.name, self.before()))


class Large(Chained):
    """Writes a file that takes a while, then says what is in it."""

    def __init__(self, name, previous, seconds):
        super().__init__(name, previous, seconds)
        self.file = self.output_path("folder/large")

    def run(self):
        with noted(self, "run"):
            File(self.file.get_path()).parent.mkdir(exist_ok=True)
            with open(self.file.get_path(), "w") as file:
                for number in range(20):
                    print(200 * digest(self.name, number), file=file, flush=True)
                    time.sleep(self.seconds / 20)
            self.out.set(digest(self.before(), File(self.file.get_path()).read_text()))


class Parts(Chained):
    """Several ids, then a task that puts together what they made."""

    def tasks(self):
        yield Task("part", resume="part", args=[[number] for number in range(1, 4)], rqmt={"mem": 0.1})
        yield Task("join", resume="join", mini_task=True)

    def part(self, number):
        with noted(self, "part", number):
            time.sleep(self.seconds / 2)
            File(f"part{number}.new").write_text(digest(self.name, number))
            File(f"part{number}.new").rename(f"part{number}")

    def join(self):
        with noted(self, "join"):
            self.out.set(digest(self.before(), [File(f"part{n}").read_text() for n in range(1, 4)]))


class Steps(Chained):
    """Goes on where it was killed."""

    def tasks(self):
        yield Task("run", resume="go_on", rqmt={"mem": 0.1})

    def completed_fraction(self):
        counter = File(self._sis_path("work")) / "counter"
        return int(counter.read_text()) / 5 if counter.exists() else 0.0

    def run(self):
        with noted(self, "run"):
            self.count()

    def go_on(self):
        with noted(self, "run"):
            self.count()

    def count(self):
        counter = File("counter")
        for number in range(int(counter.read_text()) if counter.exists() else 0, 5):
            time.sleep(self.seconds / 5)
            File("counter.new").write_text(str(number + 1))
            File("counter.new").rename("counter")
        self.out.set(digest(self.name, self.before(), counter.read_text()))


class Shell(Chained):
    """Leaves the work to a child, which appends, and for ever if this process is killed."""

    def run(self):
        with noted(self, "run") as lock:
            File("lines").unlink(missing_ok=True)
            orphaned = f"! kill -0 {os.getpid()} 2> /dev/null"
            step = f"echo $n >> lines; sleep {self.seconds / 5}"
            command = f"for n in 1 2 3 4 5; do {step}; while {orphaned}; do {step}; done; done"
            subprocess.run(["sh", "-c", command], check=True, pass_fds=[lock])
            self.out.set(digest(self.name, self.before(), File("lines").read_text()))


class Once(Chained):
    """Cannot resume."""

    def tasks(self):
        yield Task("run", rqmt={"mem": 0.1})

    def run(self):
        with noted(self, "run"):
            assert not File("was_here").exists(), "not a new folder"
            File("was_here").touch()
            time.sleep(self.seconds)
            self.out.set(digest(self.name, self.before()))


class Flaky(Chained):
    """Fails at its first try."""

    def tasks(self):
        yield Task("run", resume="run", tries=2, rqmt={"mem": 0.1})

    def run(self):
        with noted(self, "run"):
            time.sleep(self.seconds / 2)
            if not os.path.exists("../log.run.1.error.01"):
                raise ValueError("as planned")
            self.out.set(digest(self.name, self.before()))


KINDS = [Shell, Large, Parts, Steps, Shell, Once, Flaky]
'''

CONFIG = """
from recipe.jobs import KINDS, Chained
from sisyphus import tk


def py():
    ends = []
    for chain in range({chains}):
        out = None
        for place in range({length}):
            kind = KINDS[(3 * chain + place) % len(KINDS)]
            seconds = {seconds} * (1 + (chain + place) % 3)
            out = kind(f"{{chain}}.{{place}}", [out] if out else [], seconds).out
        tk.register_output(f"chain/{{chain}}", out)
        ends.append(out)
    tk.register_output("all", Chained("all", ends, 0.0).out)
"""


@dataclass(frozen=True)
class Size:
    """How much there is to do, and to suffer."""

    chains: int
    length: int
    seconds: float
    """The jobs take one to three times as long."""
    most_faults: int
    """In one run: a run that is disturbed for ever shows nothing more."""
    longest_pause_s: float
    """Between two faults."""


def write(project: Path, journal: Path, size: Size, *, fork_server: bool) -> None:
    """Write settings, recipe and config into an empty folder."""
    files = {
        "settings.py": SETTINGS.format(journal=str(journal), fork_server=fork_server),
        "recipe/__init__.py": "",
        "recipe/jobs.py": RECIPE,
        "config/__init__.py": "",
        "config/exp.py": CONFIG.format(chains=size.chains, length=size.length, seconds=size.seconds),
        "work/.keep": "",
    }
    for name, text in files.items():
        file = project / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(textwrap.dedent(text).lstrip())
