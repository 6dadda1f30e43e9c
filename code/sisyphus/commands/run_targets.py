"""``sis run``: compute a target, and only what it needs."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from sisyphus.commands import jobs_by_name
from sisyphus.errors import SisyphusError
from sisyphus.graph import graph
from sisyphus.job import Job
from sisyphus.outputs.targets import OutputPath, OutputTarget
from sisyphus.ui import session


def run(args: argparse.Namespace) -> int:
    """Run the command.

    Returns:
        Exit code: 0 if the targets are there, 1 if a job failed or an input is missing.

    Raises:
        SisyphusError: a target is not known, or its config still waits for results.
    """
    texts = [jobs_by_name.split_config(text) for text in args.targets]
    configs = [config for config, _ in texts if config]
    if any(not config for config, _ in texts) or not configs:
        configs += [*args.config_files, *args.configs]
    options = session.Options(configs=list(dict.fromkeys(configs)), run=True, ignore_once=True, ask=False)
    return session.run(options, choose=lambda: choose([name for _, name in texts]))


def choose(names: Sequence[str]) -> None:
    """Leave only these targets in the graph of this process.

    Args:
        names: of targets, or of jobs, all outputs of which are wanted then.
    """
    chosen: list[OutputTarget] = []
    for name in names:
        targets = [target for target in graph.targets if name in _names(target)]
        if not targets:
            targets = [OutputTarget(name, sorted(job._sis_outputs.values())) for job in _jobs(name)]
        chosen += targets
    graph.keep_targets(chosen)


def _names(target: OutputTarget) -> list[str]:
    places = [*target.links(), target.place] if isinstance(target, OutputPath) else []
    return [target.name, *places]


def _jobs(name: str) -> list[Job]:
    jobs = jobs_by_name.jobs_of_graph(name)
    if len(jobs) == 1:
        return jobs
    if not jobs:
        known = sorted(target.name for target in graph.targets)
        raise SisyphusError(f"no target or job {name!r}. Targets: {', '.join(known[:20]) or 'none'}.")
    raise SisyphusError("\n".join([f"{name!r} means {len(jobs)} jobs; say which:", *map(str, jobs[:10])]))
