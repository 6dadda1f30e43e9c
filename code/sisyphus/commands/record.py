"""``sis record``: what was kept of a job that ran, also after cleaning."""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from dataclasses import asdict

from sisyphus.commands import jobs_by_name
from sisyphus.errors import SisyphusError
from sisyphus.records.job_record import TaskRecord, read_records
from sisyphus.terminal.answers import say, say_json
from sisyphus.terminal.overview import duration


def run(args: argparse.Namespace) -> int:
    """Run the command; exit code 0.

    Raises:
        SisyphusError: nothing of the job has run.
    """
    folder = jobs_by_name.find(args.job, args.config_files).dir
    records = read_records(folder)
    if not records:
        raise SisyphusError(f"{folder.path} has no record: no task of it was started yet.")
    if args.json:
        say_json([asdict(record) for record in records])
        return 0
    for record in records:
        say(f"{record.task} {record.task_id}")
        for name, text in _lines(record):
            say(f"  {name}: {text}")
    return 0


def _lines(record: TaskRecord) -> Iterator[tuple[str, str]]:
    yield "wall time", duration(record.wall_s)
    if record.cpu_s is not None:
        yield "cpu time", duration(record.cpu_s)
    yield "peak memory", f"{record.peak_memory_gb:.2f} GB"
    for name, value in record.gpu.items():
        yield f"GPU {name.replace('_', ' ')}", ", ".join(value) if isinstance(value, list) else str(value)
    yield "host", record.host
    if record.ended is not None:
        yield "ended", time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(record.ended))
    if record.requested:
        yield "requested", ", ".join(f"{name} {value}" for name, value in record.requested.items())
    if record.recipe.get("commit"):
        changed = ", files were changed since" if record.recipe.get("dirty") else ""
        yield "recipe", f"{record.recipe['commit']} of {record.recipe.get('repository', '.')}{changed}"
    if record.python:
        yield "Python", record.python
    if record.packages:
        yield "packages", ", ".join(f"{name} {version}" for name, version in record.packages.items())
