"""What a person asks of single jobs: hold, release, stop, try again. A manager sees it by itself."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from typing import TYPE_CHECKING

from sisyphus import global_settings as gs
from sisyphus.atomic_files import remove_if_there
from sisyphus.job_dir import HOLD, JobDir, read_save, task_entry
from sisyphus.job_status import tasks_of
from sisyphus.running import usage
from sisyphus.running.leftovers import end_leftovers

if TYPE_CHECKING:
    from sisyphus.engines.base import EngineBase
    from sisyphus.job import Job

_ALIVE = (gs.STATE_QUEUE, gs.STATE_RUNNING)
_MOST_LOGS = 1000


def hold(folder: JobDir) -> bool:
    """Keep a job from being started; tasks that run go on. False if it is finished already."""
    if folder.is_finished():
        logging.error("%s is finished already: there is nothing to hold", folder.path)
        return False
    os.makedirs(folder.path, exist_ok=True)
    with open(folder.entry(HOLD), "ab"):
        pass
    logging.info("On hold: %s", folder.path)
    return True


def release(folder: JobDir) -> bool:
    """Let a job be started again; False if it was not on hold by a file."""
    try:
        os.unlink(folder.entry(HOLD))
    except FileNotFoundError:
        logging.error(
            "%s is not on hold by a file. If the recipe or config calls job.hold(), remove that.",
            folder.path,
        )
        return False
    if not folder.names():  # it was made only to hold the job
        os.rmdir(folder.path)
    logging.info("Released: %s", folder.path)
    return True


def cancel(folder: JobDir, engine: EngineBase, job: Job | None = None) -> bool:
    """Stop what is queued or running of a job, and hold it; where it can resume it goes on when released.

    Args:
        folder: of the job.
        engine: that it runs on.
        job: if it is known already; default: as saved in the folder.

    Returns:
        False if it is finished.

    Raises:
        EngineError: it does not end.
    """
    if not hold(folder):  # first, or a manager would start it again at once
        return False
    if not os.path.exists(folder.entry(gs.JOB_SAVE)):
        logging.info("Nothing of it was started yet")
        return True
    for task in tasks_of(job or read_save(folder.path)):
        alive = [task_id for task_id in task.task_ids() if engine.look(task, task_id) in _ALIVE]
        if alive:
            engine.cancel(task)
            logging.info("Cancelled: task %s, ids %s", task.name(), ", ".join(map(str, alive)))
    return True


def retry(folder: JobDir, *, from_start: bool = False) -> bool:
    """Let failed and interrupted tasks run again, without what they left of their tries.

    Args:
        folder: of the job.
        from_start: move the folder aside and begin anew.

    Returns:
        False if there is nothing to try again.
    """
    if not folder.exists():
        logging.error("%s does not exist: the job was not started yet", folder.path)
        return False
    if folder.is_finished():
        logging.error("%s is finished: there is nothing to try again", folder.path)
        return False
    running = [task for task in _tasks(folder) if _is_running(folder, task)]
    if running:
        logging.error(
            "%s: %s is running", folder.path, ", ".join(f"{task} {number}" for task, number in running)
        )
        return False
    if from_start:
        logging.info("Moved %s to %s: the job begins anew", folder.path, folder.move_aside())
        return True
    ended = [task for task in _tasks(folder) if not _is_finished(folder, task)]
    stillborn = _never_began(folder)
    if not ended and not stillborn:
        logging.error("%s has no task that failed or was interrupted", folder.path)
        return False
    for task in stillborn:
        remove_if_there(folder.entry(task_entry(gs.ENGINE_SUBMIT, task)))
        logging.info("%s: task %s is submitted again, unless it waits in a queue", folder.path, task)
    for task, number in ended:
        end_leftovers(usage.read(folder.entry(task_entry(gs.PLOGGING_FILE, task, number))) or {}, folder.path)
        _put_aside(folder, task, number)
        logging.info("%s: task %s %d runs again", folder.path, task, number)
    return True


def _tasks(folder: JobDir) -> Iterator[tuple[str, int]]:
    """Names and ids of the tasks that were started."""
    names = folder.names()
    started = {
        name.split(".", 1)[1]
        for name in names
        if name.split(".", 1)[0] in (gs.JOB_LOG, gs.STATE_ERROR) and name.count(".") == 2
    }
    for entry in sorted(started):
        task, _, number = entry.rpartition(".")
        if number.isdecimal():
            yield task, int(number)


def _never_began(folder: JobDir) -> list[str]:
    """Names of tasks that were submitted, and of which nothing was ever started."""
    logs = [name.split(".") for name in folder.names() if name.startswith(f"{gs.ENGINE_SUBMIT}.")]
    submitted = {parts[1] for parts in logs if len(parts) == 2}  # more parts: put aside
    return sorted(submitted - {task for task, _ in _tasks(folder)})


def _is_finished(folder: JobDir, task: tuple[str, int]) -> bool:
    return task_entry(gs.JOB_FINISHED_MARKER, *task) in folder.names()


def _is_running(folder: JobDir, task: tuple[str, int]) -> bool:
    used = usage.read(folder.entry(task_entry(gs.PLOGGING_FILE, *task)))
    return used is not None and usage.is_alive(used, job_dir=folder.path, task_name=task[0])


def _put_aside(folder: JobDir, task: str, number: int) -> None:
    """Remove what makes a task count as failed; its log is kept under another name.

    The requirements that were submitted go too: a doubled request was an answer to what was mended now.
    """
    log = folder.entry(task_entry(gs.JOB_LOG, task, number))
    if os.path.lexists(log):
        for try_number in range(1, _MOST_LOGS):
            aside = f"{log}.retried.{try_number:02d}"
            if not os.path.lexists(aside):
                os.rename(log, aside)
                break
    for path in (
        folder.entry(task_entry(gs.ENGINE_SUBMIT, task)),
        folder.entry(task_entry(gs.STATE_ERROR, task, number)),  # last: until then it counts as failed
    ):
        if os.path.lexists(path):
            os.unlink(path)
