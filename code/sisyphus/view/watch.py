"""Looks at a graph again and again, for what shows it live."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Hashable, Iterable

from sisyphus.engines.base import EngineBase
from sisyphus.graph import SISGraph
from sisyphus.job import Job
from sisyphus.states import State
from sisyphus.view.facts import GraphFacts, JobFacts, job_facts, missing_inputs, target_facts
from sisyphus.view.job_states import states_of

_AT_REST = frozenset({State.FINISHED, State.WAITING, State.RUNNABLE})
"""States in which a job shows nothing new."""


class Watch:
    """Looks at a graph; jobs at rest in the state of the last look are not looked at closely again.

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
        self._known: dict[str, tuple[Hashable, JobFacts]] = {}
        self._num_targets = -1
        self._lock = threading.Lock()

    def look(self) -> GraphFacts:
        """Return how things stand now; see :func:`sisyphus.view.facts.look`."""
        with self._lock:
            return self._look()

    def _look(self) -> GraphFacts:
        if self._graph.num_targets != self._num_targets:
            self._num_targets = self._graph.num_targets
            self._graph.set_job_targets()
            self._known = {}
        states = self._states()
        jobs = [self._job(job, state) for job, state in states.items()]
        return GraphFacts(
            time=time.time(),
            counts=dict(sorted(Counter(job.state for job in jobs).items())),
            jobs=jobs,
            targets=target_facts(self._graph),
            missing=missing_inputs(self._graph, states),
            waiting_configs=list(self._waiting_configs()),
        )

    def _states(self) -> dict[Job, State]:
        """The state of each job, dependencies first."""
        if self._state_of is None:
            return states_of(self._graph.jobs_sorted(), self._engine)
        return {job: self._known_state(job) for job in self._graph.id_to_job_dict().values()}

    def _known_state(self, job: Job) -> State:
        assert self._state_of is not None
        if job._sis_is_finished:
            return State.FINISHED
        return State(self._state_of(job) or State.WAITING)

    def _job(self, job: Job, state: State) -> JobFacts:
        job_id = job._sis_id()
        key = state, len(job._sis_inputs), len(job.get_aliases() or ()), job.get_vis_name()
        known = self._known.get(job_id)
        if known is not None and known[0] == key and state in _AT_REST:
            return known[1]
        facts = job_facts(job, state, self._engine)
        self._known[job_id] = key, facts
        return facts
