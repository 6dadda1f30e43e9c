"""What is said of a job."""

from __future__ import annotations

from collections.abc import Sequence

from sisyphus.records.job_record import TaskRecord
from sisyphus.terminal.overview import HOW_TO_RETRY, duration, showable
from sisyphus.view.facts import JobFacts, TaskFacts, UsageFacts

_LABEL = 12
"""Width of what stands before a value."""
_HEIGHTS = "▁▂▃▄▅▆▇█"
_WIDEST_CURVE = 30
_MOST = 20
"""Inputs, outputs and targets that are listed; of more, how many."""


def details(job: JobFacts, usage: UsageFacts | None, records: Sequence[TaskRecord] = ()) -> list[str]:
    """Return what there is to know of a job, as lines.

    Args:
        job: the job.
        usage: what it used so far.
        records: what its tasks used over time.
    """
    told = "" if job.progress is None else f"{job.progress:.0%} "
    rows: list[tuple[str, str]] = [
        ("job", job.id),
        ("state", f"{job.state} {told}{job.info}".rstrip()),
        *([("to do", HOW_TO_RETRY[job.state])] if job.state in HOW_TO_RETRY else []),
        *([("broken", job.broken)] if job.broken else []),
        *([("failed", job.failure)] if job.failure else []),
        *_list("alias", job.aliases),
        *([("shown as", job.vis_name)] if job.vis_name else []),
        *([("made at", job.made_at)] if job.made_at else []),
        *([("block", job.block)] if job.block else []),
        *_list("tag", job.tags),
        *([("keep value", str(job.keep_value))] if job.keep_value is not None else []),
        ("folder", job.folder),
    ]
    for task in job.tasks:
        rows.append(("task", _task(task)))
    if usage is not None:
        rows.append(("used", _usage(usage)))
    for record in [record for record in records if len(record.series) > 1][:_MOST]:
        seconds, memory, cpu = zip(*record.series, strict=True)
        until = f"over {duration(seconds[-1])} of {record.task} {record.task_id}"
        rows.append(("memory", f"{curve(memory)} up to {max(memory):.2f} GB {until}"))
        rows.append(("cpu", f"{curve(cpu)} up to {max(cpu):.0f} %"))
    rows += [
        *_list("needed for", job.needed_for),
        *_list("input", [*job.inputs, *job.outside_inputs]),
        *_list("output", job.outputs),
    ]
    return [f"{label:<{_LABEL}}{showable(value)}" for label, value in rows]


def curve(values: Sequence[float]) -> str:
    """Return numbers >= 0 over time as blocks, the highest of which stands for the largest."""
    step = max(1, -(-len(values) // _WIDEST_CURVE))
    highest = max(values) or 1.0
    tops = [max(values[begin : begin + step]) for begin in range(0, len(values), step)]
    return "".join(_HEIGHTS[min(len(_HEIGHTS) - 1, int(top / highest * len(_HEIGHTS)))] for top in tops)


def _task(task: TaskFacts) -> str:
    asked = ", ".join(f"{name} {value}" for name, value in task.rqmt.items())
    ids = f" ({task.num_ids} ids)" if task.num_ids > 1 else ""
    return f"{task.name}{ids}: {task.state}; asks for {asked or 'nothing'}"


def _usage(used: UsageFacts) -> str:
    parts = [duration(used.wall_s)]
    if used.cpu_s is not None:
        parts.append(f"cpu {duration(used.cpu_s)}")
    parts += [f"{used.peak_memory_gb:.2f} GB", f"on {', '.join(used.hosts)}"]
    parts += [" ".join(f"{name} {value}" for name, value in gpu.items()) for gpu in used.gpu]
    return ", ".join(parts)


def _list(label: str, values: list[str]) -> list[tuple[str, str]]:
    more = [f"and {len(values) - _MOST} more"] if len(values) > _MOST else []
    return [("" if number else label, value) for number, value in enumerate([*values[:_MOST], *more])]
