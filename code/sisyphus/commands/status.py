"""``sis status``: how far the jobs of some configs are, without starting anything."""

from __future__ import annotations

import argparse
import os

from sisyphus import global_settings as gs
from sisyphus.commands import jobs_by_name
from sisyphus.engines import cached_engine
from sisyphus.graph import graph
from sisyphus.loader import config_manager
from sisyphus.terminal import overview
from sisyphus.terminal.answers import count, say, say_json
from sisyphus.view.facts import GraphFacts, JobFacts, look

_QUIET = (gs.STATE_FINISHED, gs.STATE_WAITING)
"""States that are only counted, unless all jobs are asked for."""


def run(args: argparse.Namespace) -> int:
    """Run the command.

    Returns:
        Exit code: 0, or 1 if a job failed or an input is missing.
    """
    jobs_by_name.load([*args.config_files, *args.configs])
    config_manager.continue_readers()
    facts = look(
        graph, cached_engine(), usage_of_finished=args.usage, waiting_configs=config_manager.waiting_configs()
    )
    config_manager.cancel_all_reader()
    if args.json:
        say_json(facts.as_json())
    else:
        _say(facts, show_all=args.all, show_usage=args.usage)
    failed = any(facts.counts.get(state) for state in overview.FAILED)
    return 1 if failed or facts.missing else 0


def _say(facts: GraphFacts, *, show_all: bool, show_usage: bool) -> None:
    by_state: dict[str, list[JobFacts]] = {}
    for job in facts.jobs:
        by_state.setdefault(job.state, []).append(job)
    for state in overview.ORDER:
        if state in _QUIET and not (show_all or show_usage):
            continue
        for job in by_state.get(state, ()):
            say(f"{state}: {' '.join(filter(None, [job.name, *_details(job)]))}")
            if state in overview.FAILED:
                _say_why(job)
    for path in facts.missing:
        say(f"{gs.STATE_INPUT_MISSING}: {path}")
    done = sum(target.done for target in facts.targets)
    counts = " ".join(f"{state}({number})" for state, number in facts.counts.items())
    jobs, targets = count(len(facts.jobs), "job"), count(len(facts.targets), "target")
    say(f"{jobs}: {counts or 'none'}; {done} of {targets} done")
    if facts.waiting_configs:
        say(f"configs that wait for results, so that more jobs may come: {' '.join(facts.waiting_configs)}")


def _details(job: JobFacts) -> list[str]:
    details = []
    if job.aliases:
        details.append(job.id)
    if job.progress is not None or job.info:
        fraction = "" if job.progress is None else f"{job.progress:.0%} "
        details.append(f"{{{fraction}{job.info}}}".replace(" }", "}"))
    if job.usage is not None:
        used = job.usage
        cpu = "" if used.cpu_s is None else f", cpu {overview.duration(used.cpu_s)}"
        details.append(f"({overview.duration(used.wall_s)}{cpu}, {used.peak_memory_gb:.2f} GB)")
    return details


def _say_why(job: JobFacts) -> None:
    if job.made_at:
        say(f"    made at {job.made_at}")
    if job.broken:
        say(f"    {job.broken}")
    for task in job.tasks:
        for log in task.logs if task.state in overview.FAILED else ():
            lines = overview.last_lines(log, gs.PRINT_ERROR_LINES)
            if lines:
                say(f"    end of {os.path.relpath(log)}:")
                for line in lines:
                    say(f"    | {line}")
