"""Reads the arguments of saved jobs without their classes: recipes may have changed, or be gone.

A ``job.save`` is a pickle. It is read here with a stand-in for every class and function that it names, so no
code of a recipe is imported or run, whoever wrote the file, our manager or upstream's.
"""

from __future__ import annotations

import gzip
import os
import pickle
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from sisyphus import global_settings as gs
from sisyphus.errors import JobDirError
from sisyphus.explaining.described import TEXT, Node, leaf, place_of
from sisyphus.explaining.description import describe
from sisyphus.explaining.identity import left_out_of_id
from sisyphus.explaining.stand_ins import load
from sisyphus.job import Job
from sisyphus.job_dir import read_saved_bytes

_DAMAGED = (
    pickle.UnpicklingError,
    EOFError,
    zlib.error,
    gzip.BadGzipFile,
    AttributeError,
    TypeError,
    ValueError,
    LookupError,
)
"""What ``pickle`` and ``gzip`` raise of a file that was cut off, or that is something else."""


@dataclass(frozen=True)
class SavedJob:
    """What a job was made from."""

    job_id: str
    arguments: Mapping[str, Node] = field(default_factory=dict)
    """All parameters of its class, with defaults."""
    version: str = ""
    """``__sis_version__`` as text; empty if it was None, or if it was not recorded."""
    aliases: frozenset[str] = frozenset()
    commit: str = ""
    """Commit of the recipe's repository, with ``+`` if files were changed; empty if not recorded."""

    left_out: frozenset[str] = field(default=frozenset(), compare=False)
    """Names of the arguments that do not enter the id, as far as that is known: a folder does not say it."""

    @property
    def counting(self) -> dict[str, Node]:
        """The arguments that enter the id."""
        return {name: node for name, node in self.arguments.items() if name not in self.left_out}

    @property
    def class_name(self) -> str:
        """Module path and class, e.g. ``recipe/train/TrainJob``."""
        return class_of(self.job_id)


def class_of(job_id: str) -> str:
    """Return an id without its hash."""
    directory, _, name = job_id.rpartition("/")
    name = name.partition(".")[0]
    return f"{directory}/{name}" if directory else name


def read_saved_job(folder: str, job_id: str) -> SavedJob:
    """Read a job folder, cleaned or not.

    Where the saved job is missing or cannot be read, the ``info`` file says the arguments as texts.

    Args:
        folder: the job folder.
        job_id: id of the job.

    Raises:
        JobDirError: there is no saved job, or it is damaged, and no ``info`` either.
    """
    try:
        state = _saved_state(folder)
    except JobDirError:
        arguments = _arguments_in_info(os.path.join(folder, gs.JOB_INFO))
        if arguments is None:
            raise
        return SavedJob(job_id, arguments)
    made_with = state.get("_sis_made_with") or {}
    arguments = {name: describe(value) for name, value in state["_sis_kwargs"].items()}
    aliases = frozenset(map(str, state.get("_sis_aliases") or ()))
    return SavedJob(job_id, arguments, made_with.get("version", ""), aliases, _commit(made_with))


def _saved_state(folder: str) -> dict[str, Any]:
    """The attributes of the saved job, as far as they are pickled."""
    try:
        content = read_saved_bytes(folder)
        saved = load(gzip.decompress(content) if content[:2] == b"\x1f\x8b" else content)
    except FileNotFoundError as error:
        raise JobDirError(
            f"no job is saved in {folder}: neither {gs.JOB_SAVE} nor {gs.JOB_FINISHED_ARCHIVE}"
        ) from error
    except _DAMAGED as error:
        raise JobDirError(f"the job saved in {folder} is damaged: {error}") from error
    state = getattr(saved, "state", None)
    if not isinstance(state, dict) or not isinstance(state.get("_sis_kwargs"), dict):
        raise JobDirError(f"what is saved in {folder} is no job of a Sisyphus")
    return state


def _arguments_in_info(path: str) -> dict[str, Node] | None:
    """The lines ``PARAMETER: name: text`` of an info file; a text may go on in the lines below."""
    try:
        with open(path, encoding="utf-8") as file:
            lines = file.read().splitlines()
    except OSError:
        return None
    texts: dict[str, str] = {}
    name = ""
    for line in lines:
        kind, _, rest = line.partition(": ")
        if kind == "PARAMETER":
            name, _, texts[name] = rest.partition(": ")
        elif kind in ("TAG", "INPUT", "ALIAS") or line.startswith("STACKTRACE:"):
            name = ""
        elif name:
            texts[name] += f"\n{line}"
    return {name: _of_text(text) for name, text in texts.items()}


def _of_text(text: str) -> Node:
    place = place_of(text)
    return Node(TEXT, place.path, job=place.job) if place.job else leaf(TEXT, text)


def save_in_memory(job: Job) -> SavedJob:
    """Return what the folder of a job would say, also of one that has none yet."""
    from sisyphus.records.recipe_state import made_with

    arguments: dict[str, Node] = {}
    for name, value in job._sis_kwargs.items():
        try:
            arguments[name] = describe(load(pickle.dumps(value)))
        except (pickle.PicklingError, AttributeError, TypeError, RecursionError):
            arguments[name] = leaf(type(value).__name__, repr(value))
    made = made_with(job)
    aliases = frozenset(job.get_aliases() or ())
    version = made.get("version", "")
    return SavedJob(job._sis_id(), arguments, version, aliases, _commit(made), left_out_of_id(job))


def _commit(made_with: Mapping[str, Any]) -> str:
    commit = made_with.get("commit", "")
    return f"{commit[:12]}+" if commit and made_with.get("dirty") else str(commit)[:12]
