"""The graph: everything that the targets need, and its state.

Traversals use explicit stacks: chains of jobs may be longer than Python's recursion limit.
"""

from __future__ import annotations

import heapq
import logging
import os
from collections import OrderedDict, defaultdict
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any

from sisyphus import global_settings as gs
from sisyphus.job import Job
from sisyphus.job_folders import JobFolders
from sisyphus.job_path import AbstractPath
from sisyphus.outputs.targets import OutputCall, OutputPath, OutputReport, OutputTarget, WriteOutput
from sisyphus.states import State

if TYPE_CHECKING:
    from sisyphus.engines.base import EngineBase

__all__ = ["OutputCall", "OutputPath", "OutputReport", "OutputTarget", "SISGraph", "creators_of", "graph"]


def creators_of(job: Job) -> set[Job]:
    """Return the jobs that make the inputs of ``job``."""
    inputs = tuple(job._sis_inputs)  # another thread may just let the job add some
    return {path.creator for path in inputs if isinstance(path.creator, Job)}


def dependencies_first(
    roots: Iterable[Job], inputs: Callable[[Job], Iterable[Job]] = creators_of
) -> list[Job]:
    """Return the roots and everything that they depend on, each job after its dependencies.

    Args:
        roots: where to begin.
        inputs: the jobs that a job directly depends on; called once for each job.
    """
    order: list[Job] = []
    seen: set[Job] = set()
    for root in roots:
        if root in seen:
            continue
        seen.add(root)
        stack: list[tuple[Job, Iterator[Job]]] = [(root, iter(inputs(root)))]
        while stack:
            job, waiting = stack[-1]
            for creator in waiting:
                if creator not in seen:
                    seen.add(creator)
                    stack.append((creator, iter(inputs(creator))))
                    break
            else:
                order.append(job)
                stack.pop()
    return order


class SISGraph:
    """All targets, and through them all jobs."""

    def __init__(self) -> None:
        self._targets: dict[OutputTarget, None] = {}
        self._active: OrderedDict[OutputTarget, None] = OrderedDict()
        self.targets_dict: dict[str, OutputTarget] = {}
        self.output: dict[str, AbstractPath] = {}

    # --- targets ---

    @property
    def targets(self) -> set[OutputTarget]:
        """All targets ever added."""
        return set(self._targets)

    @property
    def active_targets(self) -> list[OutputTarget]:
        """Targets that were not run yet, in the order in which they were added."""
        return [target for target in self._active if not target.was_run]

    @property
    def has_active_targets(self) -> bool:
        """Whether there is any."""
        while self._active and next(iter(self._active)).was_run:
            self._active.popitem(last=False)
        return bool(self._active)

    @property
    def num_targets(self) -> int:
        """How many targets were ever added."""
        return len(self._targets)

    def add_target(self, target: OutputTarget) -> None:
        """Add a target; an equal one is not added again."""
        if target in self._targets:
            return
        if isinstance(target, OutputPath):
            known = self.output.get(target.place)
            if known is not None:
                logging.warning(
                    f"Output name {target.place!r} is used twice, for {known.rel_path()} and for "
                    f"{target.sis_path.rel_path()}: the one that is finished last is seen there"
                )
            self.output[target.place] = target.sis_path
        self._targets[target] = None
        if not target.was_run:
            self._active[target] = None
        self.targets_dict[target.name] = target

    def keep_targets(self, targets: Iterable[OutputTarget]) -> None:
        """Want only these from now on; targets that are added later are wanted, too."""
        self._targets = dict.fromkeys(targets)
        self.targets_dict = {target.name: target for target in self._targets}
        paths = (target for target in self._targets if isinstance(target, OutputPath))
        self.output = {target.place: target.sis_path for target in paths}

    def update_active_targets(
        self, write_output: WriteOutput | None = None, among: Iterable[OutputTarget] | None = None
    ) -> list[OutputTarget]:
        """Run what became done: links, reports, callbacks; returns these targets.

        Args:
            write_output: called with name and path instead of linking outputs.
            among: look at these targets only.
        """
        done = []
        for target in self.active_targets if among is None else among:
            target.update_requirements()
            if target.is_done():
                target.run_when_done(write_output)
                self._active.pop(target, None)
                done.append(target)
        return done

    def set_job_targets(self) -> None:
        """Note at each job which targets need it, as ``_sis_needed_for_which_targets``."""
        names: dict[Job, set[str]] = {}
        for target in list(self._targets):  # a copy: another thread may add some
            for path in target.required_full_list:
                if isinstance(path.creator, Job):
                    names.setdefault(path.creator, set()).add(target.name)
        shared: set[Job] = set()  # with the user of the job: most jobs are needed for what their user is
        for job in reversed(dependencies_first(self._roots())):
            wanted = job._sis_needed_for_which_targets = names[job]
            for creator in creators_of(job):
                known = names.get(creator)
                if known is None:
                    names[creator] = wanted
                    shared.add(creator)
                elif not wanted <= known:
                    if creator in shared:
                        shared.remove(creator)
                        known = names[creator] = set(known)
                    known |= wanted

    # --- jobs ---

    def _roots(self, nodes: Iterable[Any] | None = None) -> list[Job]:
        """Jobs among ``nodes`` (jobs or paths), or those that make what the targets want."""
        if nodes is None:
            nodes = (path for target in list(self._targets) for path in target.required_full_list)
        jobs = (getattr(node, "creator", node) for node in nodes)
        return list(dict.fromkeys(job for job in jobs if isinstance(job, Job)))

    def _order(
        self, nodes: Iterable[Any] | None = None, *, update_graph: bool = False, skip_finished: bool = False
    ) -> list[Job]:
        folders = JobFolders()

        def finished(job: Job) -> bool:
            if job._sis_is_finished:
                return True
            known = gs.CACHE_FINISHED_RESULTS or not folders.lack(job._sis_path())
            return known and job._sis_finished()

        def inputs(job: Job) -> Iterable[Job]:
            if skip_finished and finished(job):
                return ()
            if update_graph and job._sis_has_updates() and not finished(job):
                job._sis_runnable()
            return creators_of(job)

        return dependencies_first(self._roots(nodes), inputs)

    def update_nodes(self) -> None:
        """Let jobs add the inputs that they know by now, until no more come."""
        before = -1
        while before != (now := sum(len(job._sis_inputs) for job in self._order(update_graph=True))):
            before = now

    def jobs(self, update_graph: bool = True) -> set[Job]:
        """Return all jobs that the targets need."""
        if update_graph:
            self.update_nodes()
        return set(self._order())

    def jobs_sorted(self) -> list[Job]:
        """Return all jobs, dependencies first, ties by id."""
        users: defaultdict[Job, list[Job]] = defaultdict(list)
        missing: dict[Job, int] = {}
        for job in self._order(update_graph=True):
            creators = creators_of(job)
            missing[job] = len(creators)
            for creator in creators:
                users[creator].append(job)
        ready = [job for job, count in missing.items() if not count]
        heapq.heapify(ready)
        ordered = []
        while ready:
            job = heapq.heappop(ready)
            ordered.append(job)
            for user in users[job]:
                missing[user] -= 1
                if not missing[user]:
                    heapq.heappush(ready, user)
        return ordered

    def __contains__(self, job: object) -> bool:
        return job in self.jobs(update_graph=False)

    def id_to_job_dict(self) -> dict[str, Job]:
        """Return all jobs by id."""
        return {job._sis_id(): job for job in self._order()}

    def job_by_id(self, job_id: str) -> Job | None:
        """Return the job of this id, if the graph has it."""
        return self.id_to_job_dict().get(job_id)

    def path_to_all_nodes(self) -> set[str]:
        """Return the folders of all jobs, relative to the project."""
        return {job._sis_path() for job in self._order()}

    def get_job_from_path(self, path: str | AbstractPath) -> Job | None:
        """Return the job in whose folder ``path`` lies."""
        folder = os.path.relpath(os.path.join(gs.BASE_DIR, os.fspath(path)), gs.BASE_DIR)
        jobs = {job._sis_path(): job for job in self._order()}
        while folder and folder not in jobs:
            folder = os.path.dirname(folder)
        return jobs.get(folder)

    def find(self, pattern: str, mode: str = "all") -> list[Any]:
        """Return jobs, paths, or both (mode ``job``, ``path``, ``all``) whose name contains ``pattern``."""
        found: list[Any] = []
        for job in self.jobs_sorted():
            names = [job._sis_path(), job.get_vis_name() or "", *(job.get_aliases() or ())]
            if mode in ("all", "job") and any(pattern in name for name in names):
                found.append(job)
            if mode in ("all", "path"):
                paths = sorted({*job._sis_inputs, *job._sis_outputs.values()})
                found.extend(path for path in paths if pattern in path.get_path())
        return list(dict.fromkeys(found))

    def for_all_nodes(
        self,
        f: Callable[[Job], Any],
        nodes: Iterable[Any] | None = None,
        bottom_up: bool = False,
        update_graph: bool = True,
        pool: Any = None,
    ) -> bool:
        """Call ``f`` for each job once.

        Args:
            f: returning a false value other than None, it stops the descent to the inputs of that job.
            nodes: jobs or paths to begin with; default: the targets.
            bottom_up: dependencies first.
            update_graph: let jobs add inputs first.
            pool: without meaning: one thread is enough.
        """
        if bottom_up:
            for job in self._order(nodes, update_graph=update_graph):
                f(job)
            return True
        seen: set[Job] = set()
        waiting = self._roots(nodes)[::-1]
        while waiting:
            job = waiting.pop()
            if job in seen:
                continue
            seen.add(job)
            if update_graph and job._sis_has_updates() and not job._sis_finished():
                job._sis_runnable()
            answer = f(job)
            if answer is None or answer:
                waiting.extend(creators_of(job))
        return True

    # --- state ---

    def get_jobs_by_status(
        self,
        nodes: Iterable[Any] | None = None,
        engine: EngineBase | None = None,
        skip_finished: bool = False,
    ) -> dict[str, set[Any]]:
        """Return all jobs by state; under ``input_path`` and ``input_missing`` the absolute paths of outside
        inputs.

        Args:
            nodes: jobs or paths to begin with; default: the targets.
            engine: asked about running tasks.
            skip_finished: do not look behind finished jobs.
        """
        nodes = None if nodes is None else list(nodes)
        states = self.job_states(nodes, engine, skip_finished=skip_finished)
        by_state: dict[str, set[Any]] = {}
        for job, state in states.items():
            by_state.setdefault(state, set()).add(job)
        for path in self._outside_inputs(nodes, states):
            place = State.INPUT_PATH if path.available() else State.INPUT_MISSING
            by_state.setdefault(str(place), set()).add(path.get_path())
        return by_state

    def job_states(
        self,
        nodes: Iterable[Any] | None = None,
        engine: EngineBase | None = None,
        *,
        skip_finished: bool = False,
    ) -> dict[Job, str]:
        """Return the state of each job, dependencies first; arguments as for :meth:`get_jobs_by_status`."""
        while True:
            order = self._order(nodes, update_graph=True, skip_finished=skip_finished)
            num_inputs = sum(len(job._sis_inputs) for job in order)
            folders = JobFolders()
            states = {job: state_in_graph(job, engine, folders) for job in order}
            if num_inputs == sum(len(job._sis_inputs) for job in order):
                return states  # else an update added inputs, and with them perhaps jobs, while we looked

    def _outside_inputs(self, nodes: Iterable[Any] | None, order: Iterable[Job]) -> set[AbstractPath]:
        """Inputs, also of targets, that no job makes."""
        inputs = {path for job in order for path in job._sis_inputs if not isinstance(path.creator, Job)}
        if nodes is None:
            inputs |= {
                path
                for target in self._targets
                for path in target.required_full_list
                if not isinstance(path.creator, Job)
            }
        return inputs


def state_in_graph(job: Job, engine: EngineBase | None, folders: JobFolders | None = None) -> str:
    """Return the state as plain text; a held job still waits for its inputs.

    Args:
        job: looked at after all jobs that it depends on.
        engine: asked about running tasks.
        folders: what is known of the folders that are there; most jobs of a new graph have none, and most
            wait for others, so that there is nothing to look up.
    """
    if job._sis_is_finished:
        return str(State.FINISHED)
    if job._sis_broken is None and not gs.CACHE_FINISHED_RESULTS and folders is not None:
        if folders.lack(job._sis_path()):
            if waits_for_a_job(job) or not job._sis_runnable():
                return str(State.WAITING if job._sis_broken is None else State.ERROR)
            return str(State.HOLD if job._sis_hold_asked else State.RUNNABLE)
        if waits_for_a_job(job):
            return str(State.FINISHED if job._sis_finished() else State.WAITING)
    state = job._sis_state(engine)
    if state == State.HOLD and not job._sis_runnable():
        state = State.WAITING
    return str(state)


def waits_for_a_job(job: Job) -> bool:
    """Whether a job that makes one of the inputs is not known to be finished, and releases nothing before."""
    for path in tuple(job._sis_inputs):
        creator = path.creator
        if (
            isinstance(creator, Job)
            and not creator._sis_is_finished
            and path._available is None
            and type(creator).path_available is Job.path_available
        ):
            return True
    return False


graph = SISGraph()
"""The graph of this process."""
