"""``sis manager``: loads configs, asks what to do, runs the loop, says what came out."""

from __future__ import annotations

import logging
import os
import signal
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import sisyphus.global_settings as gs
from sisyphus.engines import cached_engine
from sisyphus.errors import OptionError
from sisyphus.graph import graph
from sisyphus.loader import config_manager
from sisyphus.manager import Manager, Summary
from sisyphus.outputs.targets import OutputPath, OutputReport, OutputTarget
from sisyphus.results_cache import finished_results_cache
from sisyphus.terminal import overview
from sisyphus.terminal.display import make_display
from sisyphus.terminal.prompts import ask, confirm

if TYPE_CHECKING:
    from sisyphus.engines.base import EngineBase
    from sisyphus.job import Job

_SLOW_S = 5.0
"""Loading that takes longer is worth a line."""

_MOST_OUTPUTS_SHOWN = 12
"""More outputs of one folder share a line."""


@dataclass(frozen=True, kw_only=True)
class Options:
    """The flags of ``sis manager``."""

    configs: Sequence[str] = ()
    run: bool = False
    clear_errors_once: bool = False
    clear_interrupts_once: bool = False
    ignore_once: bool = False
    interactive: bool = False
    ui: bool = False
    """The text user interface instead of questions; without ``run`` the manager begins paused."""
    ask: bool = True
    """False: nothing is asked, not even when all is computed."""


def run(options: Options, choose: Callable[[], None] | None = None) -> int:
    """Run the command.

    Args:
        options: the flags.
        choose: called when the configs are loaded, to leave only some of their targets.

    Returns:
        Exit code: 0 if everything wanted is there or may still come, 1 if a job failed or an input is
        missing.

    Raises:
        OptionError: flags that contradict each other.
        ConfigError: a config that cannot be loaded.
    """
    if options.clear_errors_once and options.ignore_once:
        raise OptionError("-co clears jobs in error, -io ignores them: give one of the two.")
    if options.ui and options.interactive:
        raise OptionError("-i asks questions where --ui draws: give one of the two.")
    if (options.run or options.ui) and not _work_directory():
        return 1
    finished_results_cache.read_from_file()
    _load(options.configs)
    if choose is not None:
        choose()
    engine = cached_engine()
    engine.start_engine()
    session = _Session(engine, options)
    try:
        return session.run()
    finally:
        engine.stop_engine()
        session.manager.release()  # not earlier: the engine would start queued tasks beside the next manager


def _work_directory() -> bool:
    """Make the work directory if it is missing; False if a person does not want it here."""
    if os.path.isdir(gs.WORK_DIR):
        return True
    place = os.path.abspath(gs.WORK_DIR)
    # at the end of stdin nobody can be asked, and -r asked for work
    answer = ask(f"{place} does not exist; it will hold all results. Make it here? (y/N) ", "y")
    if answer != "y":
        logging.warning("Nothing done. Make %s, e.g. as a link to a large disk, and start again.", place)
        return False
    Path(place).mkdir(parents=True)
    logging.info("Made the work directory %s", place)
    return True


def _load(configs: Sequence[str]) -> None:
    began = time.monotonic()
    config_manager.load_configs(list(configs))
    seconds = time.monotonic() - began
    if seconds >= _SLOW_S:
        logging.info("Loaded configs in %s", overview.duration(seconds))


class _Session:
    """One dialogue with a person, or with the end of stdin."""

    def __init__(self, engine: EngineBase, options: Options) -> None:
        self.engine = engine
        self.options = options
        self._began = time.monotonic()
        self.manager = Manager(graph, engine, interactive=options.interactive)

    def run(self) -> int:
        # as Ctrl-C does: otherwise a terminal would be left without its cursor
        signal.signal(signal.SIGTERM, signal.default_int_handler)
        try:
            return self._talk_and_work()
        except KeyboardInterrupt:
            self._say_goodbye()
            raise

    def _talk_and_work(self) -> int:
        graph.set_job_targets()
        self.manager.update_states()
        logging.info("Finished updating job states")
        if self.options.ui:
            return self._work_in_ui()
        if self._all_finished():
            return self._leave_finished()
        self._print_overview()
        self._clear_failed()
        if not self._start_wanted():
            return self.manager.summarize(time.monotonic() - self._began).exit_code
        self.manager.own()  # if that is refused, no live view has to be taken away
        if not self.options.interactive:  # questions and a live view would write over each other
            self.manager.display = make_display()
        self.manager.run()
        return self._finish()

    def _work_in_ui(self) -> int:
        from sisyphus.ui import opening
        from sisyphus.ui.backend import ManagerBackend

        self.manager.own()
        for state, wanted in self._wishes():
            if wanted:
                self.manager.clear(state)
        opening.show(lambda: ManagerBackend(self.manager, paused=not self.options.run), log_file=True)
        code = self._finish()
        running = len(self.manager.states.get(gs.STATE_RUNNING, ()))
        if running:
            logging.warning("%d running jobs go on; start the manager again to go on with the rest", running)
        return code

    def _all_finished(self) -> bool:
        unfinished = overview.counts(overview.unfinished(self.manager.states))
        return not unfinished and not config_manager.reader_running()

    def _leave_finished(self) -> int:
        if self.options.run:
            self.manager.update_links()
        if not self.options.ask:
            return self._finish()
        answer = ask(
            "All calculations are done: verbose overview (v), update outputs and aliases (u), cancel (c)? ",
            "c",
        )
        if answer in ("v", "y"):
            self._print_overview(verbose=True)
        elif answer == "u":
            self.manager.update_links()
        return self._finish()

    def _finish(self) -> int:
        summary = self.manager.summarize(time.monotonic() - self._began)
        _print_summary(summary, self.engine)
        return summary.exit_code

    def _clear_failed(self) -> None:
        for state, wanted in self._wishes():
            if not self.manager.states.get(state):
                continue
            if wanted or (not self.options.ignore_once and confirm(f"Clear jobs in {state} state?")):
                self.manager.clear(state)

    def _wishes(self) -> tuple[tuple[str, bool], ...]:
        """States of failed jobs, and whether those shall be cleared."""
        return (
            (gs.STATE_ERROR, self.options.clear_errors_once),
            (gs.STATE_INTERRUPTED_NOT_RESUMABLE, self.options.clear_interrupts_once),
        )

    def _start_wanted(self) -> bool:
        """Ask until the answer is to start or to leave."""
        if self.options.run:
            return True
        while True:
            answer = ask(
                "Print verbose overview (v), update aliases and outputs (u), start manager (y), "
                "set up runnable jobs (s), or exit (n)? ",
                "n",
            )
            if answer in ("y", "n"):
                return answer == "y"
            if answer == "v":
                self._print_overview(verbose=True)
            elif answer == "u":
                self.manager.update_links()
            elif answer == "s":
                self.manager.set_up_runnable()
            else:
                logging.warning("Unknown answer: %r. Give one of v, u, y, s, n.", answer)

    def _print_overview(self, *, verbose: bool = False) -> None:
        for line in overview.lines(self.manager.states, self.engine, verbose=verbose):
            logging.log(line.level, "%s", line.text)

    def _say_goodbye(self) -> None:
        self.engine.stop_engine()
        running = len(self.manager.update_states().get(gs.STATE_RUNNING, ()))
        logging.warning(
            "Stopped. %d running jobs go on; start the manager again to go on with the rest.", running
        )


def _print_summary(summary: Summary, engine: EngineBase) -> None:
    """Say what was done, what failed, and where the outputs are."""
    logging.info(
        "%d jobs ran, %d were cached%s%s, %s",
        len(summary.finished),
        summary.cached,
        f", {len(summary.failed)} failed" if summary.failed else "",
        f", {summary.num_open} are open" if summary.num_open else "",
        overview.duration(summary.seconds),
    )
    for path in summary.missing:
        logging.error("Input is missing: %s", path)
    for name, why in sorted(summary.broken.items()):
        logging.error("%s failed: %s", name, why)
    for job, state in sorted(summary.failed.items()):
        logging.error("%s: %s", state, "\n    ".join([overview.short_name(job), *_where(job, engine)]))
    for state in sorted(set(summary.failed.values())):
        if state in overview.HOW_TO_RETRY:
            logging.error("%s: %s", state, overview.HOW_TO_RETRY[state])
    outputs = sorted({link for target in graph.targets for link in _places(target)})
    there = [place for place in outputs if Path(place).exists()]
    _print_outputs("Output", there)
    _print_outputs("Not computed:", [place for place in outputs if place not in there])


def _where(job: Job, engine: EngineBase) -> Iterator[str]:
    """Where a failed job was made, and where it says why it failed."""
    if job._sis_created_at:
        yield f"made at {job._sis_created_at}"
    for log in overview.failed_logs(job, engine)[:1]:
        yield f"log: {log}"


def _print_outputs(title: str, places: Collection[str]) -> None:
    """One line for each output, and for the many in one folder a single one."""
    folders: dict[str, list[str]] = {}
    for place in places:
        folder, name = os.path.split(place)
        folders.setdefault(folder, []).append(name)
    for folder, names in folders.items():
        if len(names) <= _MOST_OUTPUTS_SHOWN:
            for name in names:
                logging.info("%s %s", title, os.path.join(folder, name))
        else:
            logging.info("%s %s/: %s, ... (%d)", title, folder, ", ".join(names[:3]), len(names))


def _places(target: OutputTarget) -> list[str]:
    """Where a target is seen below the output directory."""
    if isinstance(target, OutputPath):
        return target.links()
    return [os.path.join(gs.OUTPUT_DIR, target.name)] if isinstance(target, OutputReport) else []
