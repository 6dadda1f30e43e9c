"""A graph, its jobs and their states as plain data, in one look: ``sis status --json``, and all that draws.

::

    GraphFacts
        counts      number of jobs by state
        jobs        JobFacts, dependencies first
        targets     TargetFacts, by name
        missing     inputs that no job makes and that are not there

Times are seconds, or seconds since the epoch; memory is in GB; paths are relative to the project.
"""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from sisyphus import global_settings as gs
from sisyphus.block import Block
from sisyphus.engines.base import EngineBase
from sisyphus.graph import SISGraph, creators_of
from sisyphus.job import Job
from sisyphus.job_dir import task_entry
from sisyphus.job_status import tasks_of
from sisyphus.outputs.targets import OutputPath, OutputTarget
from sisyphus.records import job_record
from sisyphus.running import usage
from sisyphus.states import State
from sisyphus.terminal import overview
from sisyphus.view.job_states import states_of, task_state

_HAVE_TASKS = frozenset(State) - {State.FINISHED, State.WAITING, State.INPUT_PATH, State.INPUT_MISSING}
"""States in which it is worth a look which task it is."""


_LINES_OF_FAILURE = 20
"""Of the end of a log; the last one that is not empty counts."""

BLOCK_SEPARATOR = " / "
"""Between the names of blocks that lie in each other."""


@dataclass(frozen=True)
class TaskFacts:
    """One task of an unfinished job."""

    name: str
    state: str
    num_ids: int
    rqmt: dict[str, Any]
    logs: list[str]
    """Of ids that were started."""


@dataclass(frozen=True)
class UsageFacts:
    """What a job used so far."""

    wall_s: float
    cpu_s: float | None
    peak_memory_gb: float
    hosts: list[str]
    gpu: list[dict[str, Any]] = field(default_factory=list)


@dataclass(frozen=True)
class JobFacts:
    """One job."""

    id: str
    class_name: str
    state: str
    folder: str
    aliases: list[str]
    vis_name: str | None
    made_at: str
    """Config line."""
    blocks: list[str]
    block: str
    """One of them with those around it, outermost first: ``exp / data``; empty if it is in none."""
    tags: list[str]
    keep_value: int | None
    needed_for: list[str]
    """Names of targets."""
    inputs: list[str]
    """Ids of the jobs that make its inputs."""
    outside_inputs: list[str]
    outputs: list[str]
    progress: float | None = None
    """0..1, while it runs and if it tells."""
    info: str = ""
    """What it says of itself while it runs."""
    broken: str = ""
    """Why its code failed in this process."""
    failure: str = ""
    """The last line that a failed task of it printed: mostly what was raised."""
    tasks: list[TaskFacts] = field(default_factory=list)
    usage: UsageFacts | None = None

    @property
    def name(self) -> str:
        """Alias or id, and display name."""
        name = self.aliases[0] if self.aliases else self.id
        return f"{name} [{self.vis_name}]" if self.vis_name else name


@dataclass(frozen=True)
class TargetFacts:
    """One target."""

    name: str
    kind: str
    """``output``, ``report`` or ``callback``."""
    done: bool
    jobs: list[str]
    """Ids of the jobs that make what it wants."""
    paths: list[str]


@dataclass(frozen=True)
class GraphFacts:
    """Everything, at one moment."""

    time: float
    counts: dict[str, int]
    jobs: list[JobFacts]
    targets: list[TargetFacts]
    missing: list[str]
    waiting_configs: list[str]
    """Async configs that are not through: more jobs may come."""

    def as_json(self) -> dict[str, Any]:
        """Return it as dicts, lists, texts and numbers."""
        return asdict(self)


def look(
    graph: SISGraph,
    engine: EngineBase | None,
    *,
    usage_of_finished: bool = False,
    waiting_configs: Iterable[str] = (),
) -> GraphFacts:
    """Look at a graph.

    Args:
        graph: its jobs and targets.
        engine: asked which tasks run; None: those that wrote to their log lately.
        usage_of_finished: also read the records of finished jobs: one file and more for each.
        waiting_configs: async configs that are not through.
    """
    graph.set_job_targets()
    jobs = graph.jobs_sorted()
    states = states_of(jobs, engine)
    return GraphFacts(
        time=time.time(),
        counts=dict(sorted(Counter(str(state) for state in states.values()).items())),
        jobs=[job_facts(job, states[job], engine, usage_of_finished) for job in jobs],
        targets=target_facts(graph),
        missing=missing_inputs(graph, states),
        waiting_configs=list(waiting_configs),
    )


def job_facts(job: Job, state: State, engine: EngineBase | None, usage_of_finished: bool = False) -> JobFacts:
    """Look at one job that is known to be in a state; other arguments as for :func:`look`."""
    running = state is State.RUNNING
    tasks = _tasks(job, engine) if state in _HAVE_TASKS else []
    aliases = {
        os.path.join(prefix, alias)
        for alias in tuple(job.get_aliases() or ())
        for prefix in tuple(job._sis_alias_prefixes or {""})
    }
    return JobFacts(
        id=job._sis_id(),
        class_name=type(job).__name__,
        state=str(state),
        folder=job._sis_path(),
        aliases=sorted(aliases),
        vis_name=job.get_vis_name(),
        made_at=job._sis_created_at,
        blocks=sorted(str(block.name) for block in job._sis_blocks),
        block=min(map(_full_name, tuple(job._sis_blocks)), default=""),
        tags=sorted(job._sis_tags),
        keep_value=job.keep_value(),
        needed_for=sorted(job._sis_needed_for_which_targets or ()),
        inputs=sorted(creator._sis_id() for creator in creators_of(job)),
        outside_inputs=sorted(path.rel_path() for path in tuple(job._sis_inputs) if path.creator is None),
        outputs=sorted(path.rel_path() for path in tuple(job._sis_outputs.values())),
        progress=overview.fraction_done(job) if running else None,
        info=overview.info_text(job) if running else "",
        broken=job._sis_broken or "",
        failure=_last_words(job, tasks) if state in overview.FAILED else "",
        tasks=tasks,
        usage=usage_of(job, state) if usage_of_finished or state is not State.FINISHED else None,
    )


def _full_name(block: Block) -> str:
    names = [str(block.name)]
    while block.parents:
        block = min(block.parents, key=lambda parent: str(parent.name))
        names.append(str(block.name))
    return BLOCK_SEPARATOR.join(reversed(names))


def _tasks(job: Job, engine: EngineBase | None) -> list[TaskFacts]:
    folder = job._sis_dir
    names = folder.names()
    facts = []
    for task in tasks_of(job):
        logs = [task_entry(gs.JOB_LOG, task.name(), task_id) for task_id in task.task_ids()]
        started = [folder.entry(log) for log in logs if log in names]
        state = task_state(task, names, engine) if names else State.RUNNABLE
        facts.append(TaskFacts(task.name(), str(state), len(logs), task.rqmt(), started))
    return facts


def _last_words(job: Job, tasks: Iterable[TaskFacts]) -> str:
    names = job._sis_dir.names()
    failed = [log for task in tasks if task.state in overview.FAILED for log in task.logs]
    with_marker = (log for log in failed if _error_marker(log) in names)
    log = next(with_marker, failed[0] if failed else "")  # without any it was interrupted
    lines = overview.last_lines(log, _LINES_OF_FAILURE) if log else []
    return next((line.strip() for line in reversed(lines) if line.strip()), "")


def _error_marker(log: str) -> str:
    """Name of the marker beside a log that says that the same task id failed."""
    return os.path.basename(log).replace(gs.JOB_LOG, gs.STATE_ERROR, 1)


def usage_of(job: Job, state: State) -> UsageFacts | None:
    """Return what a job used so far, also of one that is finished; None if it was not started."""
    records = job_record.read_records(job._sis_dir)
    if not records:
        return None
    cpu_s = [record.cpu_s for record in records if record.cpu_s is not None]
    wall_s = job_record.wall_seconds(records)
    if state is State.RUNNING:
        wall_s = max(wall_s, _running_s(job))
    return UsageFacts(
        wall_s=wall_s,
        cpu_s=sum(cpu_s) if cpu_s else None,
        peak_memory_gb=max(record.peak_memory_gb for record in records),
        hosts=sorted({record.host for record in records}),
        gpu=[dict(record.gpu) for record in records if record.gpu],
    )


def _running_s(job: Job) -> float:
    """For how long the task that runs has been running: its usage file is up to a minute old."""
    files = (
        usage.read(task.path(gs.PLOGGING_FILE, task_id))
        for task in tasks_of(job)
        for task_id in task.task_ids()
    )
    return max((usage.running_for_s(used) or 0.0 for used in files if used), default=0.0)


def target_facts(graph: SISGraph) -> list[TargetFacts]:
    """Look at the targets; by name."""
    return [_target(target) for target in sorted(graph.targets, key=lambda target: target.name)]


def _target(target: OutputTarget) -> TargetFacts:
    paths = target.required_full_list
    kind = (
        "output" if isinstance(target, OutputPath) else type(target).__name__.removeprefix("Output").lower()
    )
    return TargetFacts(
        name=target.place if isinstance(target, OutputPath) else target.name,
        kind="callback" if kind == "call" else kind,
        done=all(path.available() for path in paths),
        jobs=sorted({path.creator._sis_id() for path in paths if isinstance(path.creator, Job)}),
        paths=sorted(path.rel_path() for path in paths),
    )


def missing_inputs(graph: SISGraph, states: Mapping[Job, State]) -> list[str]:
    """Return inputs that no job makes, of jobs that are not finished and of targets."""
    paths = {path for target in graph.targets for path in target.required_full_list}
    for job, state in states.items():
        if state is not State.FINISHED:
            paths |= job._sis_inputs
    return sorted(path.rel_path() for path in paths if path.creator is None and not path.available())
