"""Looks at a graph again and again, for what shows it live."""

from __future__ import annotations

import os
import threading
import time
from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Sequence

from sisyphus.engines.base import EngineBase
from sisyphus.graph import SISGraph
from sisyphus.job import Job
from sisyphus.states import State
from sisyphus.view.facts import (
    GraphFacts,
    JobFacts,
    TargetFacts,
    job_facts,
    missing_inputs,
    target_facts,
)
from sisyphus.view.job_states import states_of

_AT_REST = frozenset({State.FINISHED, State.WAITING, State.RUNNABLE})
"""States in which a job shows nothing new."""
_LOOK_S = 0.1
"""How long a look may take; what it did not get to is looked at next time."""
_AT_ONCE = 50
"""Jobs between two looks at the clock."""


class Watch:
    """Looks at a graph; jobs at rest in the state of the last look are not looked at closely again.

    A look at 10,000 jobs would take a second. So each look goes on where the last one ended, in rounds
    through all jobs and targets; but what runs, or whose folder got or lost a file, is looked at every time.

    In the process of a manager it takes the states that the manager knows, and so changes nothing that the
    manager relies on; it may then be used in another thread.

    Args:
        graph: its jobs and targets; it may grow meanwhile.
        engine: asked which tasks run; None: those that wrote to their log lately.
        state_of: the state of a job as the manager in this process knows it, None for one that it does not
            know yet; default: looked up in the job folders.
        waiting_configs: says which async configs are not through.
    """

    def __init__(
        self,
        graph: SISGraph,
        engine: EngineBase | None,
        *,
        state_of: Callable[[Job], str | None] | None = None,
        waiting_configs: Callable[[], Iterable[str]] = tuple,
    ) -> None:
        self._graph = graph
        self._engine = engine
        self._state_of = state_of
        self._waiting_configs = waiting_configs
        self._known: dict[Job, tuple[Hashable, JobFacts]] = {}
        self._changed_at: dict[Job, int | None] = {}
        """When its folder was changed, in ns, as of the last look; None: there was none."""
        self._jobs: list[Job] = []
        """Dependencies first."""
        self._left: list[Job] = []
        """Not looked at yet in this round; the next one last."""
        self._targets: list[TargetFacts] = []
        self._missing: list[str] = []
        self._num_targets = -1
        self._lock = threading.Lock()

    def look(self) -> GraphFacts:
        """Return how things stand now; see :func:`sisyphus.view.facts.look`."""
        with self._lock:
            return self._look()

    def _look(self) -> GraphFacts:
        deadline = time.monotonic() + _LOOK_S
        if self._graph.num_targets != self._num_targets:
            self._num_targets = self._graph.num_targets
            self._graph.set_job_targets()
            self._known, self._left = {}, []
        if not self._left:
            self._begin_round()
        self._look_at([job for job in self._jobs if self._moves(job)])
        while self._left and time.monotonic() < deadline:
            self._look_at([self._left.pop() for _ in range(min(_AT_ONCE, len(self._left)))])
        if not self._left:
            self._end_round()
        jobs = [self._known[job][1] for job in self._jobs]
        return GraphFacts(
            time=time.time(),
            counts=dict(sorted(Counter(job.state for job in jobs).items())),
            jobs=jobs,
            targets=self._targets,
            missing=self._missing,
            waiting_configs=list(self._waiting_configs()),
        )

    def _begin_round(self) -> None:
        if self._state_of is None:
            self._jobs = self._graph.jobs_sorted()
        else:  # the manager lets jobs add their inputs, nobody else
            self._jobs = list(self._graph.id_to_job_dict().values())
        new = {job for job in self._jobs if job not in self._known}
        self._look_at([job for job in self._jobs if job in new])
        self._left = [job for job in reversed(self._jobs) if job not in new]

    def _end_round(self) -> None:
        self._targets = target_facts(self._graph)
        self._missing = missing_inputs(
            self._graph, {job: State(self._known[job][1].state) for job in self._jobs}
        )

    def _moves(self, job: Job) -> bool:
        """Whether a job runs, or seems to have got into another state."""
        seen = self._known[job][1].state
        if seen == State.RUNNING:
            return True
        if self._state_of is not None:
            return seen != self._known_state(job)
        return seen != State.FINISHED and _changed_at(job) != self._changed_at[job]

    def _known_state(self, job: Job) -> State:
        assert self._state_of is not None
        if job._sis_is_finished:
            return State.FINISHED
        return State(self._state_of(job) or State.WAITING)

    def _look_at(self, jobs: Sequence[Job]) -> None:
        """Look at some jobs, dependencies first."""
        if self._state_of is None:
            self._changed_at.update((job, _changed_at(job)) for job in jobs)
            states = states_of(jobs, self._engine)
        else:
            states = {job: self._known_state(job) for job in jobs}
        for job, state in states.items():
            key = state, len(job._sis_inputs), len(job.get_aliases() or ()), job.get_vis_name()
            known = self._known.get(job)
            if known is None or known[0] != key or state not in _AT_REST:
                self._known[job] = key, job_facts(job, state, self._engine)


def _changed_at(job: Job) -> int | None:
    try:
        return os.stat(job._sis_path()).st_mtime_ns
    except OSError:
        return None
