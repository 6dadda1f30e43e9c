"""A graph made again with some of its objects exchanged."""

from __future__ import annotations

import copy
import enum
import inspect
import types
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from sisyphus.graph import dependencies_first
from sisyphus.job import Job
from sisyphus.job_path import AbstractPath
from sisyphus.paths.extract import extract_paths

_LEAVES = (str, bytes, int, float, complex, type(None), type, enum.Enum, types.FunctionType, types.ModuleType)


def replace_graph_objects(
    current: Any,
    mapping: Mapping[Any, Any] | Iterable[tuple[Any, Any]] | None = None,
    replace_function: Callable[[Any], Any] | None = None,
) -> Any:
    """Return ``current`` as it would be if some objects in its ancestry were others.

    Jobs whose arguments change are made again, with new ids; everything else stays the same object. What was
    done to a job after it was made (aliases, requirements) is not done to its successor.

    Args:
        current: a job, path, container, or anything that holds some.
        mapping: pairs of old and new objects, or a dict of them.
        replace_function: gets each object and returns what stands for it; the object itself if nothing else.

    Returns:
        ``current`` itself if nothing changes.
    """
    pairs = list(mapping.items() if isinstance(mapping, Mapping) else mapping or ())
    return _Replacer(pairs, replace_function).replaced_graph(current)


class _Replacer:
    """One walk through a graph."""

    def __init__(self, pairs: list[tuple[Any, Any]], function: Callable[[Any], Any] | None) -> None:
        self._pairs = pairs
        self._function = function
        self._done: dict[int, tuple[Any, Any]] = {}  # the old object is kept, so that its id stays its own

    def replaced_graph(self, current: Any) -> Any:
        """What stands for an object, whatever the number of jobs in a row behind it."""
        for job in dependencies_first(_jobs_inside(current), self._jobs_before):
            self.replaced(job)
        return self.replaced(current)

    def _jobs_before(self, job: Job) -> Iterable[Job]:
        return _jobs_inside(job._sis_kwargs) if self._substitute(job) is job else ()

    def replaced(self, obj: Any) -> Any:
        """What stands for an object; inside a cycle the object itself."""
        if id(obj) not in self._done:
            self._done[id(obj)] = obj, obj
            new = self._substitute(obj)
            self._done[id(obj)] = obj, self._rebuilt(obj) if new is obj else new
        return self._done[id(obj)][1]

    def _substitute(self, obj: Any) -> Any:
        """What the caller wants instead of an object, else the object."""
        for old, new in self._pairs:
            if old is obj or (type(old) is type(obj) and bool(old == obj)):
                return new
        return obj if self._function is None else self._function(obj)

    def _rebuilt(self, obj: Any) -> Any:
        """The object with its parts replaced."""
        if isinstance(obj, _LEAVES):
            return obj
        if isinstance(obj, Job):
            kwargs = self._values(obj._sis_kwargs)
            return obj if kwargs is obj._sis_kwargs else make_again(obj, kwargs)
        if isinstance(obj, AbstractPath):
            return self._path(obj)
        if isinstance(obj, dict):
            return self._values(obj)
        if type(obj) in (list, tuple, set, frozenset):
            parts = [self.replaced(part) for part in obj]
            return obj if _same(parts, list(obj)) else type(obj)(parts)
        return self._object(obj) if isinstance(getattr(obj, "__dict__", None), dict) else obj

    def _values(self, mapping: dict[Any, Any]) -> dict[Any, Any]:
        new = {key: self.replaced(value) for key, value in mapping.items()}
        if _same(list(new.values()), list(mapping.values())):
            return mapping
        result = copy.copy(mapping)
        result.update(new)
        return result

    def _path(self, path: AbstractPath) -> Any:
        creator = self.replaced(path.creator)
        if creator is path.creator:
            return path
        result = path.copy()
        result.creator = creator
        # the new job may have a variable of its own by this name, with its own way to be read
        outputs = getattr(creator, "_sis_outputs", {})
        return outputs.get(result.get_path(), result)

    def _object(self, obj: Any) -> Any:
        state = {key: value for key, value in vars(obj).items() if not key.startswith("_sis_")}
        new = self._values(state)
        if new is state:
            return obj
        result = copy.copy(obj)
        result.__dict__.update(new)
        return result


def _jobs_inside(value: Any) -> list[Job]:
    creators = (path.creator for path in sorted(extract_paths(value)))
    return [creator for creator in dict.fromkeys(creators) if isinstance(creator, Job)]


def _same(new: list[Any], old: list[Any]) -> bool:
    return all(x is y for x, y in zip(new, old, strict=True))


def make_again(job: Job, parsed_args: Mapping[str, Any]) -> Job:
    """Return a job of the same class for values of all parameters, as ``_sis_kwargs`` holds them.

    Args:
        job: tells the class.
        parsed_args: value by parameter; ``*name`` as a tuple and ``**name`` as a dict under that name.
    """
    spec = inspect.getfullargspec(type(job).__init__)
    args = [parsed_args[name] for name in spec.args[1:]]
    args += parsed_args[spec.varargs] if spec.varargs is not None else ()
    kwargs = {name: parsed_args[name] for name in spec.kwonlyargs}
    kwargs |= parsed_args[spec.varkw] if spec.varkw is not None else {}
    made: Job = type(job)(*args, **kwargs)
    return made
