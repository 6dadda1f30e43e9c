"""Which job a person means: a folder, an id or a part of it, an alias, an output, or ``config:name``."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass

from sisyphus import global_settings as gs
from sisyphus.cleaning.folders import job_folders
from sisyphus.errors import ConfigError, SisyphusError
from sisyphus.graph import graph
from sisyphus.job import Job
from sisyphus.job_dir import JobDir, looks_like_job
from sisyphus.job_path import AbstractPath
from sisyphus.loader import config_manager, parse_config_argument

_MOST_SHOWN = 10


@dataclass(frozen=True)
class Named:
    """A job that was named."""

    job_id: str
    job: Job | None = None
    """The job itself, where a config was loaded that makes it."""

    @property
    def dir(self) -> JobDir:
        """Its folder, which need not exist."""
        if self.job is not None:
            return self.job._sis_dir
        return JobDir(os.path.join(gs.WORK_DIR, self.job_id))


def load(configs: Sequence[str]) -> None:
    """Load configs; without any, the default one."""
    config_manager.load_configs(list(configs))


def split_config(text: str) -> tuple[str, str]:
    """Take ``config:name`` apart.

    Returns:
        Config argument and name; the config is empty if there is none in the text.
    """
    config, colon, name = text.rpartition(":")
    if not (colon and name):
        return "", text
    try:
        parse_config_argument(config)
    except ConfigError:
        return "", text
    return config, name


def find(text: str, configs: Sequence[str] = ()) -> Named:
    """Return the one job that is meant.

    Args:
        text: ``config/exp.py:NAME`` loads that config and looks there for an output, alias, display name or
            id; a text without config means a job folder, a path inside or a link to one, an id, an alias, an
            output, or a part of an id that only one job has.
        configs: configs in which to look for a text without config, before looking at folders.

    Raises:
        SisyphusError: no job is meant, or several are.
    """
    config, name = split_config(text)
    if config or configs:
        load([config] if config else configs)
        jobs = jobs_of_graph(name)
        if jobs:
            return _only([Named(job._sis_id(), job) for job in jobs], text)
        if config:
            raise SisyphusError(
                f"{config} has no output, alias, display name or job {name!r}. `sis status --all {config}` "
                f"lists "
                "all jobs."
            )
    return find_folder(name)


def jobs_of_graph(name: str) -> list[Job]:
    """Return the jobs of the loaded configs that a name means: exactly, else as part of it."""
    return (
        list(dict.fromkeys(path.creator for path in outputs_of_graph(name) if path.creator))
        or [job for job in graph.jobs_sorted() if name in _names_of(job)]
        or [job for job in graph.jobs_sorted() if any(name in known for known in _names_of(job))]
    )


def outputs_of_graph(name: str) -> list[AbstractPath]:
    """Return the paths that a target of this name wants; also given as ``output/NAME``."""
    name = name.removeprefix(f"{gs.OUTPUT_DIR}/")
    return [
        path
        for target in graph.targets
        if name in (target.name, getattr(target, "place", target.name))
        for path in target.required_full_list
    ]


def _names_of(job: Job) -> list[str]:
    aliases = [
        os.path.join(*parts, alias)
        for alias in sorted(job.get_aliases() or ())
        for prefix in sorted(job._sis_alias_prefixes or {""})
        for parts in ([prefix], [gs.ALIAS_DIR, prefix])
    ]
    return [job._sis_path(), job._sis_id(), *aliases, *filter(None, [job.get_vis_name()])]


def find_folder(text: str) -> Named:
    """Return the job whose folder is meant, without loading any config.

    Raises:
        SisyphusError: no folder is meant, or several are.
    """
    for place in (text, *(os.path.join(top, text) for top in (gs.WORK_DIR, gs.ALIAS_DIR, gs.OUTPUT_DIR))):
        job_id = _job_id_at(place)
        if job_id is not None:
            return Named(job_id)
    found = [folder.job_id for folder in job_folders() if text in folder.job_id]
    if not found:
        raise SisyphusError(
            f"no job {text!r}: it is no folder in {gs.WORK_DIR}, no alias, no output and no part of an id. "
            f"A job "
            "that has no folder yet is named with its config, e.g. config/exp.py:NAME."
        )
    return _only([Named(job_id) for job_id in found], text)


def _job_id_at(place: str) -> str | None:
    """Id of the job whose folder a path leads to or into."""
    if not os.path.lexists(place):
        return None
    work = os.path.realpath(gs.WORK_DIR)
    for path in (os.path.abspath(place), os.path.realpath(place)):
        for top in (os.path.abspath(gs.WORK_DIR), work):
            job_id = os.path.relpath(path, top)
            while job_id and not job_id.startswith("..") and job_id != ".":
                if looks_like_job(os.path.join(top, job_id)):
                    return job_id
                job_id = os.path.dirname(job_id)
    return None


def _only(found: Sequence[Named], text: str) -> Named:
    if len(found) == 1:
        return found[0]
    shown = [f"  {named.job_id}" for named in found[:_MOST_SHOWN]]
    more = [f"  and {len(found) - _MOST_SHOWN} more"] if len(found) > _MOST_SHOWN else []
    raise SisyphusError("\n".join([f"{text!r} means {len(found)} jobs; say which:", *shown, *more]))


def refuse_unfinished_configs() -> None:
    """Refuse to judge by a graph that is not complete.

    Raises:
        SisyphusError: an async config still waits for results, so not all of its jobs are known.
    """
    config_manager.continue_readers()
    if config_manager.reader_running():
        raise SisyphusError(
            f"{', '.join(config_manager.waiting_configs())}: still waits for results, so its jobs are not "
            f"all known. "
            "Run the manager to the end of that config first."
        )
