"""The states of all jobs while they change: what changed is looked at, and what waited for it; nothing else.

A look at everything costs time for each job that is not finished, and a graph of n jobs changes n times. Here
a job that finishes counts down the jobs and targets that wait for it, and those that wait for nothing more
are looked at. So the time for a job does not depend on how many others there are.

What makes no sound (a hold file that was removed, an output released early) is only seen when all is looked
at, which the manager does from time to time.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from sisyphus.graph import creators_of, state_in_graph
from sisyphus.job import Job
from sisyphus.states import State

if TYPE_CHECKING:
    from sisyphus.engines.base import EngineBase
    from sisyphus.graph import OutputTarget, SISGraph

_FINISHED = State.FINISHED.value
_PATHS = (State.INPUT_PATH.value, State.INPUT_MISSING.value)
_NOT_BEGUN = (State.RUNNABLE.value, State.INTERRUPTED_RESUMABLE.value, State.HOLD.value)


class LiveStates:
    """States of the jobs of a graph.

    Args:
        sis_graph: its targets say which jobs there are.
        engine: asked about running tasks.
    """

    def __init__(self, sis_graph: SISGraph, engine: EngineBase) -> None:
        self._graph = sis_graph
        self._engine = engine
        self._state: dict[Job, str] = {}
        self._users: dict[Job, list[Job | OutputTarget]] = {}
        """What waits for a job that is not finished."""
        self._num_missing: dict[Job | OutputTarget, int] = {}
        """How many unfinished jobs something waits for."""
        self._num_targets = -1
        self.by_state: dict[str, set[Any]] = {}
        """Jobs by state; absolute paths under ``input_path`` and ``input_missing``."""
        self.imposed: dict[Job, str] = {}
        """States that the manager knows better: of jobs that were refused, or must not start."""

    def state_of(self, job: Job) -> str | None:
        """The state when the job was last looked at."""
        return self._state.get(job)

    @property
    def has_new_targets(self) -> bool:
        """Whether targets were added since everything was looked at."""
        return self._graph.num_targets != self._num_targets

    def look_at_all(self) -> dict[Job, str | None]:
        """Look at all jobs that are not known to be finished.

        Returns:
            The jobs whose state is new, with the one before; None for jobs that are new themselves.
        """
        first = not self._state
        self._num_targets = self._graph.num_targets
        by_state = self._graph.get_jobs_by_status(engine=self._engine, skip_finished=not first)
        self._impose_on(by_state)
        # nothing looks behind finished jobs again
        finished = {job for job in self.by_state.get(_FINISHED, ()) if job._sis_is_finished}
        if finished:
            by_state[_FINISHED] = finished | by_state.get(_FINISHED, set())
        self.by_state = by_state
        changes: dict[Job, str | None] = {}
        states: dict[Job, str] = {}
        for state, jobs in self.by_state.items():
            for job in jobs if state not in _PATHS else ():
                states[job] = state
                before = self._state.pop(job, None)
                if state != before:
                    changes[job] = before
        for job, before in self._state.items():  # no longer looked at, because what needs them is finished
            if job._sis_is_finished:
                changes[job] = before
                states[job] = _FINISHED
                self.by_state.setdefault(_FINISHED, set()).add(job)
        self._state = states
        self._users, self._num_missing = {}, {}
        for state, jobs in self.by_state.items():
            for job in jobs if state not in (*_PATHS, _FINISHED) else ():
                self._wait(job, creators_of(job))
        for target in self._graph.active_targets:
            self._wait(target, {path.creator for path in target.required if isinstance(path.creator, Job)})
        return changes

    def look_at(self, jobs: Iterable[Job]) -> tuple[dict[Job, str | None], list[OutputTarget]]:
        """Look at some jobs, at those that waited for nothing but them, and so on.

        Returns:
            The jobs whose state is new, with the one before; and targets for which all jobs are finished now.
        """
        changes: dict[Job, str | None] = {}
        targets: list[OutputTarget] = []
        waiting = list(jobs)
        while waiting:
            job = waiting.pop()
            num_inputs = len(job._sis_inputs)
            state = state_in_graph(job, self._engine)
            if state in _NOT_BEGUN:
                state = self.imposed.get(job, state)
            if len(job._sis_inputs) != num_inputs:
                waiting += self._add_inputs_of(job)
            before = self._state.get(job)
            if state == before:
                continue
            changes.setdefault(job, before)
            self._set(job, state)
            if state == _FINISHED:
                for user in self._users.pop(job, ()):
                    self._num_missing[user] -= 1
                    if self._num_missing[user]:
                        continue
                    if isinstance(user, Job):
                        waiting.append(user)
                    else:
                        targets.append(user)
        return changes, targets

    def _impose_on(self, by_state: dict[str, set[Any]]) -> None:
        for job, state in self.imposed.items():
            for other in _NOT_BEGUN:
                if job in by_state.get(other, ()):
                    by_state[other].remove(job)
                    by_state.setdefault(state, set()).add(job)
                    break

    def _set(self, job: Job, state: str) -> None:
        before = self._state.get(job)
        if before is not None:
            self.by_state[before].discard(job)
        self._state[job] = state
        self.by_state.setdefault(state, set()).add(job)

    def _wait(self, user: Job | OutputTarget, creators: Iterable[Job]) -> None:
        missing = [creator for creator in creators if self._state.get(creator) != _FINISHED]
        self._num_missing[user] = len(missing)
        for creator in missing:
            self._users.setdefault(creator, []).append(user)

    def _add_inputs_of(self, job: Job) -> list[Job]:
        """Take in what a job asked for just now; returns the jobs that are new."""
        order = list(self._graph.job_states([job], self._engine, skip_finished=True))
        new = [other for other in order if other not in self._state]
        for other in new:
            self._set(other, State.WAITING.value)
            self._wait(other, creators_of(other))
        self._wait(job, creators_of(job))
        return new
