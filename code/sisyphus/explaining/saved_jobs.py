"""Reads the arguments of saved jobs without their classes: recipes may have changed, or be gone.

A ``job.save`` is a pickle. It is read here with a stand-in for every class and function that it names, so no
code of a recipe is imported or run, whoever wrote the file, our manager or upstream's.
"""

from __future__ import annotations

import collections
import gzip
import io
import os
import pickle
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from sisyphus import global_settings as gs
from sisyphus.errors import JobDirError
from sisyphus.explaining.described import TEXT, Node, leaf, place_of
from sisyphus.explaining.identity import left_out_of_id
from sisyphus.job import Job
from sisyphus.job_dir import read_saved_bytes

_PLAIN: dict[str, dict[str, Any]] = {
    "builtins": {
        kind.__name__: kind
        for kind in (
            bool,
            bytearray,
            bytes,
            complex,
            dict,
            float,
            frozenset,
            int,
            list,
            object,
            set,
            str,
            tuple,
        )
    },
    "collections": {
        "Counter": collections.Counter,
        "OrderedDict": collections.OrderedDict,
        "defaultdict": collections.defaultdict,
        "deque": collections.deque,
    },
}
"""Classes that are made as they are: they hold values and do nothing."""

_SCALARS = (type(None), bool, int, float, complex, str, bytes, bytearray)
_DAMAGED = (pickle.UnpicklingError, EOFError, zlib.error, gzip.BadGzipFile)
_PATHS = frozenset({"sisyphus.job_path.Path", "sisyphus.job_path.Variable"})


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
    arguments = {name: _describe(value) for name, value in state["_sis_kwargs"].items()}
    aliases = frozenset(map(str, state.get("_sis_aliases") or ()))
    return SavedJob(job_id, arguments, made_with.get("version", ""), aliases, _commit(made_with))


def _saved_state(folder: str) -> dict[str, Any]:
    """The attributes of the saved job, as far as they are pickled."""
    try:
        content = read_saved_bytes(folder)
        saved = _load(gzip.decompress(content) if content[:2] == b"\x1f\x8b" else content)
    except FileNotFoundError as error:
        raise JobDirError(
            f"no job is saved in {folder}: neither {gs.JOB_SAVE} nor {gs.JOB_FINISHED_ARCHIVE}"
        ) from error
    except _DAMAGED as error:
        raise JobDirError(f"the job saved in {folder} is damaged: {error}") from error
    state = getattr(saved, "_state", None)
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
            arguments[name] = _describe(_load(pickle.dumps(value)))
        except (pickle.PicklingError, AttributeError, TypeError, RecursionError):
            arguments[name] = leaf(type(value).__name__, repr(value))
    made = made_with(job)
    aliases = frozenset(job.get_aliases() or ())
    version = made.get("version", "")
    return SavedJob(job._sis_id(), arguments, version, aliases, _commit(made), left_out_of_id(job))


def _commit(made_with: Mapping[str, Any]) -> str:
    commit = made_with.get("commit", "")
    return f"{commit[:12]}+" if commit and made_with.get("dirty") else str(commit)[:12]


# --- stand-ins ---


class _StandIn:
    """An object of a class that is not imported: it keeps what the pickle says of it."""

    _name = ""

    def __new__(cls, *args: Any, **kwargs: Any) -> _StandIn:
        made = object.__new__(cls)
        made._args, made._kwargs, made._state, made._elements = args, kwargs, None, []
        return made

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._args: tuple[Any, ...]
        self._kwargs: dict[str, Any]
        self._state: Any
        self._elements: list[Any]

    def __setstate__(self, state: Any) -> None:
        self._state = state

    def __setitem__(self, key: Any, value: Any) -> None:
        self._elements.append((key, value))

    def append(self, value: Any) -> None:
        """For subclasses of lists."""
        self._elements.append(value)

    def extend(self, values: Any) -> None:
        """For subclasses of lists."""
        self._elements.extend(values)

    def __hash__(self) -> int:
        return hash(self._name)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _StandIn) and _describe(self) == _describe(other)


class _Unpickler(pickle.Unpickler):
    """Makes stand-ins instead of importing."""

    def __init__(self, file: io.BytesIO) -> None:
        super().__init__(file)
        self._made: dict[str, type[_StandIn]] = {}

    def find_class(self, module: str, name: str) -> Any:
        """Return what stands for a class or function."""
        if name in _PLAIN.get(module, {}):
            return _PLAIN[module][name]
        if module in ("copyreg", "copy_reg") and name in _CONSTRUCTORS:
            return _CONSTRUCTORS[name]
        full = f"{module}.{name}"
        if full not in self._made:
            self._made[full] = type(name.rpartition(".")[2], (_StandIn,), {"_name": full})
        return self._made[full]


def _reconstruct(cls: Any, base: type, state: Any) -> Any:
    made = cls.__new__(cls)
    if base is not object and isinstance(made, _StandIn):
        made._args = (state,)
    return made


_CONSTRUCTORS: dict[str, Callable[..., Any]] = {
    "_reconstructor": _reconstruct,
    "__newobj__": lambda cls, *args: cls.__new__(cls, *args),
    "__newobj_ex__": lambda cls, args, kwargs: cls.__new__(cls, *args, **kwargs),
}
"""How ``copyreg`` makes objects."""


def _load(content: bytes) -> Any:
    return _Unpickler(io.BytesIO(content)).load()


# --- as nodes ---


def _describe(value: Any) -> Node:
    kind = type(value).__name__
    if isinstance(value, _SCALARS):
        return leaf(kind, repr(value))
    if isinstance(value, type):
        name = getattr(value, "_name", f"{value.__module__}.{value.__qualname__}")
        return leaf("global", name)
    if isinstance(value, dict):
        return Node(
            kind, "" if value else "{}", {f"[{_describe(k)}]": _describe(v) for k, v in value.items()}
        )
    if isinstance(value, (set, frozenset)):
        elements = sorted((_describe(element) for element in value), key=str)
        return Node(kind, "" if value else f"{kind}()", {f"{{{element}}}": element for element in elements})
    if isinstance(value, _StandIn):
        return _describe_stand_in(value)
    parts = {f"[{index}]": _describe(element) for index, element in enumerate(value)}
    return Node(kind, "" if parts else str(value), parts)


def _describe_stand_in(value: _StandIn) -> Node:
    kind = type(value).__name__
    state = value._state
    if value._name in _PATHS and isinstance(state, dict):
        return _describe_path(kind, state)
    if value._name.endswith(".restore_job") or (isinstance(state, dict) and "_sis_id_cache" in state):
        job_id = value._args[1] if len(value._args) > 1 else state["_sis_id_cache"]
        return Node("Job", "", job=str(job_id))
    if isinstance(state, tuple) and len(state) == 2 and isinstance(state[1], dict):  # objects with slots
        state = {**(state[0] or {}), **state[1]}
    parts: dict[str, Node] = {}
    for index, argument in enumerate(value._args):
        parts[f"({index})"] = _describe(argument)
    for name, argument in value._kwargs.items():
        parts[f".{name}"] = _describe(argument)
    if isinstance(state, dict):
        parts |= {f".{name}": _describe(part) for name, part in state.items()}
    elif state is not None:
        parts[".state"] = _describe(state)
    for index, element in enumerate(value._elements):
        parts[f"[{index}]"] = _describe(element)
    if parts and not state and not value._elements and all(not part.parts for part in parts.values()):
        return leaf(kind, f"{kind}({', '.join(str(part) for part in parts.values())})")
    return Node(kind, "" if parts else f"{kind}()", parts)


def _describe_path(kind: str, state: Mapping[str, Any]) -> Node:
    """A path: what enters ids of it, the job that makes it and its place in there, or the text."""
    overwrite = state.get("hash_overwrite")
    if isinstance(overwrite, tuple) and len(overwrite) == 2:
        creator, path = overwrite
        if isinstance(creator, str) and creator.endswith(f"/{gs.JOB_OUTPUT}"):
            return Node(kind, str(path), job=creator.removesuffix(f"/{gs.JOB_OUTPUT}"))
        if isinstance(creator, _StandIn) and _describe(creator).job:
            return Node(kind, str(path), job=_describe(creator).job)
        return leaf(kind, str(path) if creator is None else f"{_describe(creator)}: {path}")
    creator, path = state.get("creator"), str(state.get("path"))
    if isinstance(creator, _StandIn):
        return Node(kind, path, job=_describe(creator).job)
    place = place_of(path)
    return Node(kind, place.path, job=place.job)
