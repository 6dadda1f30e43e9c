"""``sis cancel``: stop what is queued or running of jobs, and hold them."""

from __future__ import annotations

import argparse
import logging
import os

from sisyphus import global_settings as gs
from sisyphus.commands import jobs_by_name
from sisyphus.engines import cached_engine
from sisyphus.engines.base import EngineBase
from sisyphus.job_dir import read_save
from sisyphus.job_status import tasks_of
from sisyphus.managing import requests

_ALIVE = (gs.STATE_QUEUE, gs.STATE_RUNNING)


def run(args: argparse.Namespace) -> int:
    """Run the command; ``sis release`` lets the jobs go on where they can resume.

    Returns:
        Exit code: 0, or 1 if one of the jobs is finished.
    """
    engine = cached_engine()
    jobs = [jobs_by_name.find(name, args.config_files) for name in args.jobs]
    done = [_cancel(job, engine) for job in jobs]
    return 0 if all(done) else 1


def _cancel(named: jobs_by_name.Named, engine: EngineBase) -> bool:
    if not requests.hold(named.dir):  # first, or a manager would start it again at once
        return False
    if not os.path.exists(named.dir.entry(gs.JOB_SAVE)):
        logging.info("Nothing of it was started yet")
        return True
    for task in tasks_of(named.job or read_save(named.dir.path)):
        alive = [task_id for task_id in task.task_ids() if engine.look(task, task_id) in _ALIVE]
        if alive:
            engine.cancel(task)
            logging.info("Cancelled: task %s, ids %s", task.name(), ", ".join(map(str, alive)))
    return True
