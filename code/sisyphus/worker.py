"""Runs one task of one job: the process behind ``sis worker``.

What a task leaves behind are its log, its usage file, and a marker: ``finished`` or ``error``. No marker
means that it was interrupted: killed, out of memory, or stopped by SIGTERM.
"""

from __future__ import annotations

import errno
import fcntl
import io
import logging
import os
import signal
import subprocess
import sys
import time
import traceback
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

import sisyphus.global_settings as gs
from sisyphus.atomic_files import remove_unfinished, sync_tree
from sisyphus.engines.base import EngineBase, Requirements
from sisyphus.errors import SisyphusError
from sisyphus.job_dir import read_save, task_entry
from sisyphus.records.output_hashes import note_if_last
from sisyphus.running import usage
from sisyphus.running.leftovers import end_leftovers
from sisyphus.running.monitor import UsageMonitor
from sisyphus.running.task_log import open_log
from sisyphus.terminal import logs
from sisyphus.tools import EnvironmentModifier

if TYPE_CHECKING:
    from sisyphus.job import Job
    from sisyphus.task import Task

EXIT_FINISHED, EXIT_ERROR, EXIT_ALREADY_RUNNING = 0, 1, 3
_KILLED_FOR_MEMORY = (128 + signal.SIGKILL, -signal.SIGKILL)
"""Return codes of a command that the kernel killed: as a shell reports it, and as ``subprocess`` does."""

_THREAD_VARIABLES = ("MKL_NUM_THREADS", "OMP_NUM_THREADS")
_DEFAULT_THREADS = 1
"""Value in the default settings."""


class Interrupted(BaseException):
    """The process was asked to end (SIGTERM, Ctrl-C).

    It is no ``Exception``, so that tasks which catch those let it pass.
    """

    def __init__(self, signal_number: int) -> None:
        super().__init__(signal.Signals(signal_number).name)
        self.exit_code = 128 + signal_number


@dataclass(frozen=True, kw_only=True)
class Call:
    """The arguments of ``sis worker``."""

    job_dir: str
    task_name: str
    task_id: int | None = None
    force_resume: bool = False
    engine_name: str = "short"
    redirect_output: bool = False


def run(call: Call) -> int:
    """Run the task.

    Returns:
        Exit code: 0 if it finished, 1 if it failed, 3 if another process runs it, 128 + signal if it was
        interrupted.
    """
    engine = gs.engine().get_used_engine(call.engine_name)
    gs.active_engine = engine
    gs.CACHE_FINISHED_RESULTS = False  # a task sees its inputs as they are now
    task_id = engine.get_task_id(call.task_id)
    files = _Files(Path(call.job_dir), call.task_name, task_id)
    restart = files.was_interrupted()
    if call.redirect_output:
        _redirect(files.log)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(line_buffering=True)  # in order with the log lines, and there if it is killed
    logs.set_up(logging.getLogger().level, sys.stderr)
    if not _claim(call, files):
        return EXIT_ALREADY_RUNNING
    if files.was_finished_meanwhile():
        logging.warning("Another process finished this task just now")
        return EXIT_FINISHED
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _interrupt)
    try:
        job, task = _load(call)
        return _run_task(job, task, task_id, engine, resume=restart or call.force_resume)
    except Interrupted as interruption:
        logging.warning("Interrupted by %s", interruption)
        return interruption.exit_code
    except Exception as error:  # noqa: BLE001 - whatever a recipe raises is reported and marked
        _report_failure(error)
    except SystemExit as end:  # no way to end a task: nobody would see that the rest of it did not run
        _report_failure(end)
        logging.error("The task called sys.exit(%s). To end it early, return; to fail, raise.", end.code)
    _mark_error(files.error)
    return EXIT_ERROR


def _mark_error(marker: Path) -> None:
    if not marker.parent.is_dir():  # there is no job at all
        return
    try:
        marker.touch()
    except OSError as error:  # often what the task failed of: a full disk, a folder that became read-only
        logging.error("The error marker cannot be made, so the task counts as interrupted: %s", error)


def _load(call: Call) -> tuple[Job, Task]:
    """Read the job from its folder, and find the task.

    Raises:
        JobDirError: there is no job.
        SisyphusError: the job has no such task.
    """
    job: Job = read_save(call.job_dir)
    tasks = {task.name(): task for task in job._sis_tasks()}
    if call.task_name not in tasks:
        raise SisyphusError(f"{job} has no task {call.task_name!r}. Its tasks: {', '.join(tasks)}.")
    return job, tasks[call.task_name]


def _run_task(job: Job, task: Task, task_id: int, engine: EngineBase, *, resume: bool) -> int:
    requested = engine.get_rqmt(task, task_id, update=False)
    path = str(Path(task.path(gs.PLOGGING_FILE, task_id)).absolute())
    monitor = UsageMonitor(path, engine, requested, goes_on=resume)
    monitor.start()
    out_of_memory = False
    try:
        engine.init_worker(task)
        set_environment(job._sis_environment, requested)
        _wait_for_inputs(job, engine)
        _log_system(job, task, task_id, requested)
        os.chdir(task.path(gs.JOB_WORK_DIR))
        _call_method(job, task, task_id, resume=resume)
    except MemoryError as error:
        if not task.resumeable():
            raise
        out_of_memory = True
        logging.error("Out of memory, the next run gets more: %s", error)
        return _KILLED_FOR_MEMORY[0]
    except subprocess.CalledProcessError as error:
        if error.returncode not in _KILLED_FOR_MEMORY:
            raise
        out_of_memory = True
        logging.error("Killed, probably because it used too much memory: %s", error)
        return _KILLED_FOR_MEMORY[0]
    finally:
        os.chdir(gs.BASE_DIR)
        monitor.stop(out_of_memory=out_of_memory, made_with=job._sis_made_with)
    if gs.SYNC_OUTPUTS:
        sync_tree(task.path(gs.JOB_OUTPUT))
    if not task.continuable:
        if gs.RECORD_OUTPUT_HASHES:
            note_if_last(job, task, task_id, finished=False)
        job._sis_dir.mark_task(gs.STATE_FINISHED, task.name(), task_id)
        if gs.RECORD_OUTPUT_HASHES:
            note_if_last(job, task, task_id, finished=True)
    logging.info("Job finished successfully")
    return EXIT_FINISHED


def set_environment(own: EnvironmentModifier, requested: Requirements) -> None:
    """Leave only the variables that the settings and ``own``, what the job asks for, name.

    The thread counts of the defaults stand for "as many as the task has cpus": the number that the task asks
    for is put in their place. A value from a settings file, or from the job, is used as it is.
    """
    cpus = max(1, int(requested.get("cpu", 1)))
    # the default is the number 1; a settings file that means one thread says "1"
    threads = {
        name: cpus for name in _THREAD_VARIABLES if gs.DEFAULT_ENVIRONMENT_SET.get(name) == _DEFAULT_THREADS
    }
    environment = EnvironmentModifier()
    environment.keep(gs.DEFAULT_ENVIRONMENT_KEEP)
    environment.set({**gs.DEFAULT_ENVIRONMENT_SET, **threads})
    environment.keep(own.keep_vars)
    environment.set_vars.update(own.set_vars)
    environment.modify_environment()


def _wait_for_inputs(job: Job, engine: EngineBase) -> None:
    """Wait until all inputs are there, and old enough where several hosts share a file system.

    Raises:
        AssertionError: inputs are missing, and the settings say that they must be there.
    """
    inputs = sorted(path.get_path() for path in job._sis_inputs)
    patience_s = gs.WAIT_PERIOD_FOR_INPUTS_AVAILABLE if engine.waits_for_file_system else 0
    deadline = time.monotonic() + patience_s
    missing = [path for path in inputs if not Path(path).exists()]
    while missing and time.monotonic() < deadline:
        time.sleep(min(1.0, patience_s))
        missing = [path for path in missing if not Path(path).exists()]
    for path in inputs:
        logging.info("Input%s: %s", " (missing)" if path in missing else "", path)
    if missing:
        text = "inputs are missing: " + ", ".join(missing)
        if gs.TASK_INPUTS_MUST_BE_AVAILABLE:
            raise AssertionError(f"{text}. Was a directory in work removed?")
        logging.warning("%s", text)
    if engine.waits_for_file_system:
        _wait_for_age([path for path in inputs if path not in missing])


def _wait_for_age(paths: list[str]) -> None:
    """Sleep until no file was changed for WAIT_PERIOD_MTIME_OF_INPUTS seconds: it is complete then."""
    newest = max((Path(path).stat().st_mtime for path in paths), default=0.0)
    rest_s = newest + gs.WAIT_PERIOD_MTIME_OF_INPUTS - time.time()
    if rest_s > 0:
        logging.info("Waiting %.0f s until the newest input is old enough", rest_s)
        time.sleep(rest_s)


def _log_system(job: Job, task: Task, task_id: int, requested: Requirements) -> None:
    machine = os.uname()
    logging.info("Task %s %d of %s", task.name(), task_id, job)
    logging.info(
        "Host %s, %s %s, Python %s",
        machine.nodename,
        machine.sysname,
        machine.release,
        sys.version.split()[0],
    )
    logging.info("Process %d, requirements %s", os.getpid(), requested)


def _call_method(job: Job, task: Task, task_id: int, *, resume: bool) -> None:
    method = getattr(job, task.method_name(resume))
    for number, arguments in enumerate(task.arguments(task_id), start=1):
        logging.info("Starting subtask for arg id: %d args: %s", number, arguments)
        method(*arguments)


class _Files:
    """The files of one task id, absolute, and known before the job is loaded."""

    def __init__(self, job_dir: Path, task_name: str, task_id: int) -> None:
        def entry(kind: str) -> Path:
            return job_dir.absolute() / task_entry(kind, task_name, task_id)

        self.log, self.usage = entry(gs.JOB_LOG), entry(gs.PLOGGING_FILE)
        self.error, self.finished = entry(gs.STATE_ERROR), entry(gs.STATE_FINISHED)
        self.lock = job_dir.absolute() / gs.JOB_LOG_ENGINE / task_entry("lock", task_name, task_id)

    def was_interrupted(self) -> bool:
        """Whether an earlier run of the task left a log, but neither result nor error."""
        ended = self.have_marker()
        return not ended and self.usage.exists() and self.log.exists() and self.log.stat().st_size > 0

    def have_marker(self) -> bool:
        """Whether an earlier run of the task ended by itself."""
        return self.error.exists() or self.finished.exists()

    def was_finished_meanwhile(self) -> bool:
        """Whether the finished marker was made since this process started."""
        return self.finished.exists() and self.finished.stat().st_mtime > usage.started_at()


def _claim(call: Call, files: _Files) -> bool:
    """Make sure that no other process runs this task now: two managers may have started it at once."""
    previous = usage.read(files.usage)
    if previous and usage.is_alive(previous, job_dir=call.job_dir, task_name=call.task_name):
        logging.error("%s %s: already running as process %s", call.job_dir, call.task_name, previous["pid"])
        return False
    claimed = _lock(call, files)
    if claimed and previous and not files.have_marker():
        end_leftovers(previous, call.job_dir)
        for directory in (call.job_dir, os.path.join(call.job_dir, gs.JOB_OUTPUT)):
            remove_unfinished(directory, previous.get("pid", 0))
    return claimed


def _lock(call: Call, files: _Files) -> bool:
    if not files.lock.parent.is_dir():
        return True  # no job: the error comes when it is loaded
    lock = os.open(files.lock, os.O_CREAT | os.O_RDWR, 0o666)
    try:
        # held until this process ends, and not by processes that it forks
        fcntl.lockf(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno not in (errno.EACCES, errno.EAGAIN):
            logging.debug("No locks on this file system: %s", error)
            return True
        logging.error("%s %s: another process has just started it", call.job_dir, call.task_name)
        return False
    return True


def _redirect(log: Path) -> None:
    """Send stdout and stderr of this process and its children to the end of the log."""
    directory = str(Path(sys.executable).parent)
    path = os.environ.get("PATH", "")
    if directory not in path.split(os.pathsep):
        os.environ["PATH"] = f"{directory}{os.pathsep}{path}"
    with open_log(log) as target:
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
            os.dup2(target.fileno(), stream.fileno())


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise Interrupted(number)


def _report_failure(error: BaseException) -> None:
    """Log the traceback, from the first line of the recipe on."""
    logging.error("Job failed, traceback:")
    recipe = error.__traceback__
    while recipe is not None and recipe.tb_frame.f_code.co_filename == __file__:
        recipe = recipe.tb_next
    traceback.print_exception(type(error), error, recipe or error.__traceback__)
