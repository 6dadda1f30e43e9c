"""What the interface asks of a graph, and does to it."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

from sisyphus import global_settings as gs
from sisyphus.engines.base import EngineBase
from sisyphus.errors import SisyphusError
from sisyphus.explaining.lines import lines
from sisyphus.explaining.why import Asked, explain
from sisyphus.graph import SISGraph
from sisyphus.job import Job
from sisyphus.job_dir import JobDir
from sisyphus.loader import config_manager
from sisyphus.manager import Manager
from sisyphus.managing import requests
from sisyphus.records import job_record
from sisyphus.states import State
from sisyphus.terminal import overview
from sisyphus.ui import texts
from sisyphus.view import job_logs
from sisyphus.view.facts import GraphFacts, JobFacts, usage_of
from sisyphus.view.watch import Watch

_LOG_LINES = 1000


class Backend:
    """A graph whose manager, if there is one, is another process.

    Args:
        graph: its jobs and targets.
        engine: asked which tasks run.
    """

    manages = False
    """Whether a manager in this process can be paused and so on."""

    def __init__(self, graph: SISGraph, engine: EngineBase) -> None:
        self.graph = graph
        self.engine = engine
        self._watch = Watch(graph, engine, waiting_configs=self._waiting_configs)

    def look(self) -> GraphFacts:
        """How things stand now."""
        return self._watch.look()

    def status(self) -> str:
        """What works, in a few words."""
        return "looking only"

    # of one job

    def details(self, job: JobFacts) -> list[str]:
        """What there is to know of a job."""
        known = self.graph.job_by_id(job.id)
        used = None if known is None else usage_of(known, State(job.state))
        return texts.details(job, used, job_record.read_records(JobDir(job.folder)))

    def log(self, job: JobFacts) -> list[str]:
        """The name of the log that was written last, and its end; empty without any."""
        folder = JobDir(job.folder)
        names = job_logs.names(folder)
        if not names:
            return []
        content, size = job_logs.tail(folder, names[-1], overview.TAIL_BYTES)
        lines = overview.showable_lines(content, _LOG_LINES)
        above = [f"... {size - len(content):,} bytes before"] if size > len(content) else []
        return [folder.entry(names[-1]), *above, *lines]

    def why(self, job: JobFacts) -> list[str]:
        """The arguments of a job, and how they differ from those of the closest job of its class."""
        try:
            asked = Asked(job.id, JobDir(job.folder), self.graph.job_by_id(job.id))
            return list(lines(explain(asked)))
        except SisyphusError as error:
            return [str(error)]

    # what a person wants

    def hold_or_release(self, job: JobFacts) -> None:
        """Keep a job from being started, or let it start again."""
        folder = JobDir(job.folder)
        if folder.is_on_hold():
            requests.release(folder)
        else:
            requests.hold(folder)

    def cancel(self, job: JobFacts) -> None:
        """Stop what runs or is queued of a job, and hold it; takes seconds until it has ended.

        Raises:
            EngineError: it does not end.
        """
        requests.cancel(JobDir(job.folder), self.engine, self.graph.job_by_id(job.id))

    def retry(self, job: JobFacts, *, from_start: bool) -> bool:
        """Let a failed or interrupted job run again; False if there is nothing to try again."""
        return requests.retry(JobDir(job.folder), from_start=from_start)

    def close(self) -> None:
        """Nothing more will be asked."""

    def _waiting_configs(self) -> list[str]:
        config_manager.continue_readers()
        return config_manager.waiting_configs()


class ManagerBackend(Backend):
    """A graph with its manager in a thread of this process.

    Args:
        manager: owns its work folder; not started.
        paused: submit nothing until a person says so.
    """

    manages = True

    def __init__(self, manager: Manager, *, paused: bool) -> None:
        super().__init__(manager.graph, manager.engine)
        self.manager = manager
        manager.paused = paused
        self.error: Exception | None = None
        """What ended the manager, if that was an error."""
        self._watch = Watch(
            manager.graph,
            manager.engine,
            state_of=manager.live.state_of,
            waiting_configs=config_manager.waiting_configs,
        )
        self._lock = threading.Lock()
        self._wished = False
        self._closing = False
        self.works = False
        """Whether the loop of the manager runs."""
        self._thread: threading.Thread | None = None
        self._wish(lambda: None)

    def _run(self) -> None:
        while True:
            self._wished = False
            try:
                self.manager.run()
            except Exception as error:  # noqa: BLE001 - told at once, and raised when the interface is closed
                self.error = error
                logging.error("The manager stopped: %s: %s", type(error).__name__, error)
            with self._lock:  # a wish comes either before this look, or sees that nobody works
                if self.error is not None or self._closing or not self._wished:
                    self.works = False
                    return

    def status(self) -> str:
        """What works, in a few words."""
        if not self.works:
            return "stopped by an error" if self.error else "nothing left to do"
        return "paused" if self.manager.paused else "working"

    def pause_or_go_on(self) -> None:
        """Submit nothing more, or go on with it. What was submitted runs."""
        paused = not self.manager.paused
        self._wish(lambda: setattr(self.manager, "paused", paused))
        logging.info("Paused: what was submitted runs, nothing new is submitted" if paused else "Going on")

    def clear_errors(self) -> None:
        """Move the folders of all jobs in error aside, so that they begin anew."""
        self._wish(lambda: self.manager.clear(gs.STATE_ERROR))

    def update_links(self) -> None:
        """Bring aliases and outputs up to date."""
        self._wish(self.manager.update_links)

    def hold_or_release(self, job: JobFacts) -> None:
        """Keep a job from being started, or let it start again."""
        super().hold_or_release(job)
        self._wish(lambda: None)

    def cancel(self, job: JobFacts) -> None:
        """Stop what runs or is queued of a job, and hold it; takes seconds until it has ended.

        Raises:
            EngineError: it does not end.
        """
        super().cancel(job)
        self._wish(lambda: None)

    def retry(self, job: JobFacts, *, from_start: bool) -> bool:
        """Let a failed, interrupted or refused job run again; False if there is nothing to try again."""
        known = self.graph.job_by_id(job.id)
        done = self._is_refused(known) or super().retry(job, from_start=from_start)
        if done and known is not None:
            self._wish(lambda: self.manager.try_again(known))
        return done

    def _is_refused(self, job: Job | None) -> bool:
        return job is not None and self.manager.live.imposed.get(job) == gs.STATE_QUEUE_ERROR

    def close(self) -> None:
        """End the loop; running tasks go on.

        Raises:
            Exception: what ended the manager, if that was an error.
        """
        self._closing = True
        self.manager.stop()
        if self._thread is not None:
            self._thread.join()
        if self.error is not None:
            raise self.error

    def _wish(self, wish: Callable[[], object]) -> None:
        """Have the manager do something; one that had nothing left to do looks again."""

        def careful() -> None:
            try:
                wish()
            except OSError as error:
                logging.error("That did not work: %s", error)

        self.manager.do_soon(careful)
        with self._lock:
            self._wished = True
            if self.works or self.error is not None:
                return
            self.works = True
            self._thread = threading.Thread(target=self._run, name="manager", daemon=True)
            self._thread.start()
