"""Schedulers that have no adapter here (PBS, Flux, Cobalt, ...), through the library PSI/J.

PSI/J (https://exaworks.org/psij-python) knows neither arrays nor names that can be looked for. So each task
id is a job of its own, which job runs which task id is noted in the work folder for the next manager, and a
submission whose reply was lost is lost.
"""

from __future__ import annotations

import json
import logging
import math
import os
import re
import threading
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import psutil

from sisyphus import global_settings as gs
from sisyphus.atomic_files import write_atomically
from sisyphus.engines.cluster.commands import CommandFailed, Commands
from sisyphus.engines.cluster.scheduler import End, Ended, Entry, Phase, Request, Scheduler, SubmissionLost
from sisyphus.errors import DeferSubmission, EngineError, RefusedError
from sisyphus.running import usage

if TYPE_CHECKING:
    import psij

FOLDER = ".psij"
"""In the work folder: PSI/J's own files, and in ``jobs`` one file for each job that has not ended."""

_NO_ANSWER: Final = re.compile(
    r"timed out|not responding|unable to contact|connection (refused|reset)", re.IGNORECASE
)
_LIMITS: Final = re.compile(
    r"limit (has been )?(reached|exceeded)|exceeds? .*limit|too many jobs", re.IGNORECASE
)
_GAVE_UP: Final = re.compile(
    r"Failed to poll for job status|Failed to update job status|Error updating job statuses"
)
"""What PSI/J says of a job that it merely no longer watches."""
_THIS_MACHINE = "local"
_FIRST_POLL_S = 1
_FIRST_ANSWER_S = 10.0
"""Jobs of an earlier manager have no state before PSI/J has asked for it."""


@dataclass(frozen=True)
class _Known:
    """A job of PSI/J and what it runs."""

    job: psij.Job
    name: str
    task_id: int
    has_begun: bool = False
    """Before PSI/J lost sight of it."""


class _OnlyOnce(logging.Filter):
    """What PSI/J cannot read, it says again with every poll."""

    def __init__(self) -> None:
        super().__init__()
        self._said: set[str] = set()

    def filter(self, record: logging.LogRecord) -> bool:
        message = record.getMessage()
        is_new = message not in self._said
        self._said.add(message)
        return is_new


class Psij(Scheduler):
    """Whatever PSI/J speaks to.

    Args:
        executor: PSI/J's name for it: ``pbs``, ``lsf``, ``flux``, ``cobalt``, ``slurm``, ``local``, ...
        queue: of the scheduler; None: its default.
        account: that is billed; None: its default.
        attributes: further directives of the scheduler, as ``{"pbs.l": "place=scatter"}``.
        interval_s: seconds after which PSI/J looks at the queue again.
    """

    name = "psij"
    task_id_variable = "PSIJ_TASK_ID"  # not set: the task id is part of the command
    environment_prefix = ("PSIJ_", "PBS_", "LSB_", "FLUX_", "COBALT_", "SLURM_")
    no_answer = _NO_ANSWER
    limits = _LIMITS

    def __init__(
        self,
        executor: str,
        *,
        queue: str | None = None,
        account: str | None = None,
        attributes: Mapping[str, str] | None = None,
        interval_s: float = 10.0,
    ) -> None:
        super().__init__(Commands())
        self._executor_name = executor
        self._queue, self._account = queue, account
        self._attributes = dict(attributes or {})
        self._interval_s = interval_s
        self._jobs: dict[str, _Known] = {}
        """By the scheduler's id."""
        self._lock = threading.Lock()
        self._has_taken_over = False

    @cached_property
    def _executor(self) -> psij.JobExecutor:
        """PSI/J's side.

        Raises:
            EngineError: the library is missing, or does not have this executor.
        """
        logging.getLogger("psij").setLevel(logging.WARNING)
        logging.getLogger("psij.executors.batch.batch_scheduler_executor").addFilter(_OnlyOnce())
        try:
            import psij
        except ImportError as error:
            raise EngineError(
                "the engine PsijEngine needs the library psij-python: pip install 'model-merging[psij]'."
            ) from error
        from psij.executors.batch.batch_scheduler_executor import BatchSchedulerExecutorConfig

        config = BatchSchedulerExecutorConfig(
            work_directory=self._folder,
            queue_polling_interval=max(1, math.ceil(self._interval_s)),
            initial_queue_polling_delay=_FIRST_POLL_S,
        )
        try:
            return psij.JobExecutor.get_instance(self._executor_name, config=config)
        except ValueError as error:
            known = ", ".join(sorted(psij.JobExecutor.get_executor_names()))
            reason = f" ({error.__cause__})" if error.__cause__ else ""
            raise EngineError(
                f"PSI/J has no executor {self._executor_name!r}{reason}. Known: {known}. Change executor of "
                "PsijEngine in the settings file, or install what that executor needs."
            ) from error

    @property
    def _folder(self) -> Path:
        return Path(gs.BASE_DIR, gs.WORK_DIR, FOLDER)

    def submit(self, request: Request) -> dict[str, list[int]]:
        """See base: one job for each task id."""
        import psij

        executor = self._executor
        submitted: dict[str, list[int]] = {}
        for task_id in request.task_ids:
            job = psij.Job(self._spec(request, task_id))
            try:
                executor.submit(job)
            except psij.InvalidJobException as error:
                raise RefusedError(f"PSI/J refuses the task: {error.message}") from error
            except psij.SubmitException as error:
                self._explain(error.message)
                raise RefusedError(f"{self._executor_name} refuses the task: {error.message}") from error
            except FileNotFoundError as error:
                raise EngineError(
                    f"there is no program {error.filename!r}, which PSI/J's executor {self._executor_name!r} "
                    "runs. Run the manager where the scheduler's commands are installed."
                ) from error
            job_id = str(job.native_id)
            self._note(job_id, request.name, task_id)
            with self._lock:
                self._jobs[job_id] = _Known(job, request.name, task_id)
            submitted[job_id] = [task_id]
        return submitted

    def snapshot(self) -> list[Entry]:
        """See base: what PSI/J saw last, which asks by itself."""
        self._take_over()
        with self._lock:
            known = list(self._jobs.items())
        return [self._entry(job_id, each) for job_id, each in known]

    def history(self, job_id: str) -> dict[int, Ended]:
        """See base: PSI/J keeps no books."""
        return {}

    def cancel(self, entries: Collection[Entry]) -> None:
        """See base."""
        import psij

        for entry in entries:
            try:
                self._jobs[entry.job_id].job.cancel()
            except psij.SubmitException as error:
                raise CommandFailed(f"cancelling job {entry.job_id}", 1, error.message) from error

    def is_there(self) -> bool:
        """See base: nobody can ask PSI/J that."""
        return True

    def log_of(self, log_dir: str, entry_name: str, job_id: str, task_id: int) -> str:
        """See base: the errors of a worker that could not begin."""
        return f"{log_dir}/{entry_name}.psij.{task_id}"

    def _spec(self, request: Request, task_id: int) -> psij.JobSpec:
        import psij

        rqmt = request.rqmt
        num_nodes = int(rqmt.get("multi_node_slots", 1))
        attributes = {**self._attributes, **rqmt.get("psij_attributes", {})}
        executable, *arguments = _call(request.call, task_id)
        return psij.JobSpec(
            name=request.name,
            executable=executable,
            arguments=arguments,
            directory=gs.BASE_DIR,
            stderr_path=self.log_of(request.log_dir, request.name, "", task_id),
            resources=psij.ResourceSpecV1(
                node_count=num_nodes,
                processes_per_node=1,
                cpu_cores_per_process=math.ceil(rqmt.get("cpu", 1)),
                gpu_cores_per_process=math.ceil(rqmt["gpu"]) if rqmt.get("gpu", 0) > 0 else None,
                memory=math.ceil(rqmt["mem"] * 2**30) if "mem" in rqmt else None,
            ),
            attributes=psij.JobAttributes(
                duration=timedelta(hours=rqmt.get("time", 1)),
                queue_name=self._queue,
                account=self._account,
                custom_attributes=attributes or None,
            ),
            launcher="single",  # the worker runs once, and starts what else there is to start
        )

    def _explain(self, text: str) -> None:
        """Raise what a failed submission means if it may succeed later."""
        if self.no_answer.search(text):
            raise SubmissionLost(text)
        if self.limits.search(text):
            raise DeferSubmission(text)

    def _entry(self, job_id: str, known: _Known) -> Entry:
        import psij

        status = known.job.status
        message = status.message or ""
        said = f"{status.state.name} ({message})" if message else status.state.name
        phase, end = Phase.RUNNING if known.has_begun else Phase.QUEUED, None
        if status.state == psij.JobState.FAILED and _GAVE_UP.search(message):
            self._watch_again(job_id, known)
            phase = Phase.RUNNING
        elif status.state == psij.JobState.ACTIVE:
            phase = Phase.RUNNING
        elif status.state.final:
            phase = Phase.ENDED
            end = {psij.JobState.COMPLETED: End.OK, psij.JobState.CANCELED: End.CANCELLED}.get(
                status.state, End.FAILED
            )
            self._note_file(job_id).unlink(missing_ok=True)
        return Entry(job_id, known.task_id, known.name, phase, end, said)

    def _watch_again(self, job_id: str, known: _Known) -> None:
        """Follow a job that PSI/J gave up, because it could not read what the scheduler said of any job."""
        import psij

        job = psij.Job()
        self._executor.attach(job, job_id)
        with self._lock:
            self._jobs[job_id] = _Known(job, known.name, known.task_id, has_begun=True)

    def _take_over(self) -> None:
        """Follow what an earlier manager submitted."""
        import psij

        if self._has_taken_over:
            return
        executor = self._executor
        self._has_taken_over = True
        attached = []
        for job_id, note in self._notes().items():
            if note["process_start"] != self._process_start(job_id):
                self._note_file(job_id).unlink(missing_ok=True)
                continue
            job = psij.Job()
            try:
                executor.attach(job, job_id)
            except psutil.NoSuchProcess:  # it ended just now
                continue
            attached.append(job)
            with self._lock:
                self._jobs[job_id] = _Known(job, note["name"], note["task_id"])
        for job in attached:
            job.wait(timedelta(seconds=_FIRST_ANSWER_S), target_states=[psij.JobState.QUEUED])

    def _note(self, job_id: str, name: str, task_id: int) -> None:
        """Write down what a job runs, before anything else can happen to this process."""
        file = self._note_file(job_id)
        file.parent.mkdir(parents=True, exist_ok=True)
        note = {
            "executor": self._executor_name,
            "name": name,
            "task_id": task_id,
            "process_start": self._process_start(job_id),
        }
        write_atomically(os.fspath(file), json.dumps(note).encode())

    def _process_start(self, job_id: str) -> float | None:
        """On this machine job ids are those of processes, and given out again."""
        return usage.process_start(int(job_id)) if self._executor_name == _THIS_MACHINE else None

    def _notes(self) -> dict[str, dict[str, Any]]:
        """Of this executor's jobs, by job id."""
        notes = {}
        with suppress(FileNotFoundError):
            for file in sorted(self._note_file("").iterdir()):
                with suppress(FileNotFoundError):  # another process saw its end
                    note = json.loads(file.read_text(encoding="utf-8"))
                    if note["executor"] == self._executor_name:
                        notes[file.name] = note
        return notes

    def _note_file(self, job_id: str) -> Path:
        return self._folder / "jobs" / job_id


def _call(call: Sequence[str], task_id: int) -> list[str]:
    """A worker's command with the task id, which stands before the options at the end."""
    num_options = next(number for number, word in enumerate(reversed(call)) if not word.startswith("--"))
    end = len(call) - num_options
    return [*call[:end], str(task_id), *call[end:]]
