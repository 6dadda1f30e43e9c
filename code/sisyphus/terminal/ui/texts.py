"""What is said of a job."""

from __future__ import annotations

from collections.abc import Iterator

from sisyphus.explaining.saved_jobs import class_of
from sisyphus.explaining.why import Explanation, lines_of
from sisyphus.terminal.answers import count
from sisyphus.terminal.overview import HOW_TO_RETRY, duration, showable
from sisyphus.view.facts import JobFacts, TaskFacts, UsageFacts

_LABEL = 12
"""Width of what stands before a value."""
_MOST = 20
"""Inputs, outputs and targets that are listed; of more, how many."""


def details(job: JobFacts, usage: UsageFacts | None) -> list[str]:
    """Return what there is to know of a job, as lines.

    Args:
        job: the job.
        usage: what it used so far.
    """
    told = "" if job.progress is None else f"{job.progress:.0%} "
    rows: list[tuple[str, str]] = [
        ("job", job.id),
        ("state", f"{job.state} {told}{job.info}".rstrip()),
        *([("to do", HOW_TO_RETRY[job.state])] if job.state in HOW_TO_RETRY else []),
        *([("broken", job.broken)] if job.broken else []),
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
    rows += [
        *_list("needed for", job.needed_for),
        *_list("input", [*job.inputs, *job.outside_inputs]),
        *_list("output", job.outputs),
    ]
    return [f"{label:<{_LABEL}}{showable(value)}" for label, value in rows]


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


def explained(found: Explanation) -> list[str]:
    """Return why a job has the id it has, as lines."""
    return list(_explained(found))


def _explained(found: Explanation) -> Iterator[str]:
    if found.job.commit:
        yield f"recipe at commit {found.job.commit}"
    yield "Arguments that make the id"
    for name, node in sorted(found.job.arguments.items()):
        if name not in found.left_out:
            yield from (f"  {place}: {text}" for place, text in lines_of(name, node))
    if found.job.version:
        yield f"  __sis_version__: {found.job.version}"
    if found.left_out:
        yield "Arguments that do not count"
        yield from (f"  {name}: {found.job.arguments[name]}" for name in sorted(found.left_out))
    if found.other is None:
        yield f"No other folder of {class_of(found.job.job_id)} to compare with"
        return
    yield f"Compared with {found.other.job_id}, the closest of {count(found.num_others, 'other folder')}"
    chain: tuple[tuple[str, str], ...] = ()
    for difference in sorted(found.differences, key=lambda difference: len(difference.chain)):
        if difference.chain != chain:
            chain = difference.chain
            for depth, (old, new) in enumerate(chain[1:], start=1):
                yield f"{'  ' * depth}through {old} -> {new}"
        last = difference.where.rpartition(" -> ")[2]
        yield f"{'  ' * len(chain)}{last}: {difference.old} -> {difference.new}"
