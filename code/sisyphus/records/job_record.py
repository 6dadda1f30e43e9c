"""The record of a job that ran: what its usage files say, also after cleaning has packed them."""

from __future__ import annotations

import ast
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from sisyphus import global_settings as gs
from sisyphus.job_dir import JobDir
from sisyphus.records.task_record import KEY


@dataclass(frozen=True)
class TaskRecord:
    """What one id of a task used."""

    task: str
    task_id: int
    wall_s: float
    cpu_s: float | None
    """None if it is not known: upstream does not write it."""
    peak_memory_gb: float
    host: str
    ended: float | None
    python: str = ""
    packages: Mapping[str, str] = field(default_factory=dict)
    recipe: Mapping[str, Any] = field(default_factory=dict)
    gpu: Mapping[str, Any] = field(default_factory=dict)
    requested: Mapping[str, Any] = field(default_factory=dict)
    series: Sequence[Sequence[float]] = ()
    """Points of the last run: seconds since it began, memory in GB, cpu in percent of one core."""


def read_records(folder: JobDir) -> list[TaskRecord]:
    """Return the records of all tasks of a job, by task and id; none if nothing ran.

    Args:
        folder: of a job, cleaned or not.
    """
    found = {name: _parse(name, text) for name, text in _usage_files(folder)}
    records = [record for record in found.values() if record is not None]
    return sorted(records, key=lambda record: (record.task, record.task_id))


def wall_seconds(records: list[TaskRecord]) -> float:
    """Return how long a job ran: its tasks one after the other, ids of a task side by side."""
    longest: dict[str, float] = {}
    for record in records:
        longest[record.task] = max(longest.get(record.task, 0.0), record.wall_s)
    return sum(longest.values())


def _usage_files(folder: JobDir) -> Iterator[tuple[str, str]]:
    """Names and contents."""
    prefix = f"{gs.PLOGGING_FILE}."
    names = folder.names()
    for name in names:
        if name.startswith(prefix):
            with open(folder.entry(name), encoding="utf-8") as file:
                yield name, file.read()
    if gs.JOB_FINISHED_ARCHIVE not in names:
        return
    with tarfile.open(folder.entry(gs.JOB_FINISHED_ARCHIVE)) as archive:
        for member in archive:
            content = archive.extractfile(member) if member.name.startswith(prefix) else None
            if content is not None and member.name not in names:
                yield member.name, content.read().decode("utf-8")


def _parse(name: str, text: str) -> TaskRecord | None:
    _, _, task = name.partition(".")
    task, _, number = task.rpartition(".")
    try:
        usage = ast.literal_eval(text)
    except (SyntaxError, ValueError):  # half written by a process that was killed
        return None
    if not isinstance(usage, dict) or not number.isdecimal():
        return None
    record = usage.get(KEY) or {}
    return TaskRecord(
        task=task,
        task_id=int(number),
        wall_s=float(record.get("wall_time_s", 3600 * usage.get("used_time", 0.0))),
        cpu_s=record.get("cpu_time_s"),
        peak_memory_gb=float((usage.get("max") or {}).get("rss", 0.0)),
        host=str(usage.get("host", "")),
        ended=record.get("ended"),
        python=record.get("python", ""),
        packages=record.get("packages", {}),
        recipe=record.get("recipe", {}),
        gpu=record.get("gpu", {}),
        requested=usage.get("requested_resources") or {},
        series=record.get("series", ()),
    )
