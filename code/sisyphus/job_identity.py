"""One job object for each id, and how arguments become an id."""

from __future__ import annotations

import copy
import logging
import threading
from collections.abc import Callable, Iterable, Mapping
from functools import cache
from typing import TYPE_CHECKING, Any

from sisyphus import global_settings as gs
from sisyphus.block import current_blocks

if TYPE_CHECKING:
    from inspect import FullArgSpec

    from sisyphus.job import Job

created_jobs: dict[str, Job] = {}
"""All jobs made in this process, by id."""

graph_lock = threading.RLock()
"""Held while jobs are made or updated; one lock, so that no two threads can wait for each other."""

_LETTERS = frozenset("0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz")
_ID_CHARS = _LETTERS | frozenset(".-_/")
_IMMUTABLE = frozenset({type(None), bool, int, float, complex, str, bytes})
_TAG_CHARS = _LETTERS | frozenset(".-_")


class JobSingleton(type):
    """Class of job classes: calling one with arguments that lead to a known id returns the known job."""

    def __call__(cls, *args: Any, **kwargs: Any) -> Any:
        """Return the job that these arguments stand for."""
        job_class: type[Job] = cls  # type: ignore[assignment]
        tags = _checked_tags(job_class, kwargs.pop("sis_tags", None))
        parsed_args = parse_arguments(job_class, args, kwargs)
        job_id = make_job_id(job_class, parsed_args)
        with graph_lock:
            job = created_jobs.get(job_id)
            if job is None:
                job = _make(job_class, job_id, args, kwargs, parsed_args, tags)
                created_jobs[job_id] = job
            job._sis_note_creation(current_blocks(), gs.ALIAS_AND_OUTPUT_SUBDIR)
        return job


def _make(
    cls: type[Job],
    job_id: str,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    parsed_args: dict[str, Any],
    tags: set[str] | None,
) -> Job:
    _warn_of_jobs_as_arguments(cls, parsed_args)
    if not all(type(value) in _IMMUTABLE for value in (*args, *kwargs.values(), *parsed_args.values())):
        try:
            args, kwargs, parsed_args = deep_copy((args, kwargs, parsed_args), {})
        except TypeError as error:
            raise TypeError(f"{_show(cls)}: an argument cannot be copied: {error}") from error
    job: Job = cls.__new__(cls)
    job._sis_init(job_id, args, kwargs, parsed_args, tags)
    return job


def deep_copy(value: Any, memo: dict[int, Any]) -> Any:
    """Copy as ``copy.deepcopy`` does, several times faster for plain containers.

    Args:
        value: anything that can be copied.
        memo: copies by the ids of originals, which live at least as long.
    """
    cls = type(value)
    if cls in _IMMUTABLE:
        return value
    known = memo.get(id(value))
    if known is not None:
        return known
    copied: Any
    if cls is list:
        copied = memo[id(value)] = []
        copied.extend([deep_copy(item, memo) for item in value])
    elif cls is dict:
        copied = memo[id(value)] = {}
        for key, item in value.items():
            copied[deep_copy(key, memo)] = deep_copy(item, memo)
    elif cls is tuple:
        items = tuple([deep_copy(item, memo) for item in value])
        copied = memo.setdefault(id(value), items)  # it may contain itself, by way of a list
    else:
        copied = copy.deepcopy(value, memo)
    return copied


def _show(cls: type) -> str:
    return f"{cls.__module__}.{cls.__qualname__}"


# --- arguments ---


def parse_arguments(cls: type[Job], args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values of all parameters of ``__init__`` by name, with defaults, without the instance.

    Raises:
        TypeError: if the arguments do not fit.
    """
    init = cls.__init__
    spec = _argument_spec(init)
    names, known, defaults = _names_and_defaults(init)
    if len(args) > len(names) and spec.varargs is None:
        _refuse(cls, args, kwargs)
    parsed: dict[str, Any] = dict(zip(names, args, strict=False))
    if spec.varargs is not None:
        parsed[spec.varargs] = tuple(args[len(names) :])
    if kwargs.keys() <= known:
        surplus: dict[str, Any] = {}
        if not parsed.keys().isdisjoint(kwargs.keys() - frozenset(spec.kwonlyargs)):
            _refuse(cls, args, kwargs)
        parsed.update(kwargs)
    else:
        surplus = {name: value for name, value in kwargs.items() if name not in known}
        given = {name: value for name, value in kwargs.items() if name in known}
        if spec.varkw is None or any(name in given for name in names[: len(args)]):
            _refuse(cls, args, kwargs)
        parsed.update(given)
    if spec.varkw is not None:
        parsed[spec.varkw] = surplus
    for name, value in defaults.items():
        parsed.setdefault(name, value)
    if any(name not in parsed for name in names) or any(name not in parsed for name in spec.kwonlyargs):
        _refuse(cls, args, kwargs)
    return parsed


@cache
def _argument_spec(init: Callable[..., None]) -> FullArgSpec:
    import inspect

    spec = inspect.getfullargspec(init)
    if spec.args[:1] != ["self"]:
        logging.warning(
            f"The first parameter of {getattr(init, '__qualname__', init)} is called "
            f"{spec.args[0] if spec.args else None!r} instead of 'self'"
        )
    return spec


@cache
def _names_and_defaults(init: Callable[..., None]) -> tuple[list[str], frozenset[str], dict[str, Any]]:
    """Names that may be given by place, all names, and the values of those that need not be given."""
    spec = _argument_spec(init)
    names = spec.args[1:]
    defaults = spec.defaults or ()
    last = spec.args[len(spec.args) - len(defaults) :]
    known = frozenset(names).union(spec.kwonlyargs)
    return names, known, {**dict(zip(last, defaults, strict=True)), **(spec.kwonlydefaults or {})}


def _refuse(cls: type[Job], args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
    """Log and raise what Python itself would say of these arguments."""
    import inspect

    logging.error(f"Wrong arguments for {_show(cls)}: {args} {dict(kwargs)}")
    inspect.getcallargs(cls.__init__, None, *args, **kwargs)
    raise TypeError(f"{_show(cls)}.__init__() does not take these arguments: {args} {dict(kwargs)}")


def _warn_of_jobs_as_arguments(cls: type[Job], parsed_args: Mapping[str, Any]) -> None:
    for name, value in parsed_args.items():
        if isinstance(type(value), JobSingleton):
            logging.warning(
                f"{_show(cls)}: argument {name!r} is {value}. Pass one of its outputs instead of the job: "
                "a job as argument makes all of its outputs and inputs inputs of this job."
            )


def _checked_tags(cls: type[Job], tags: Iterable[str] | None) -> set[str] | None:
    if tags is None:
        return None
    if isinstance(tags, str):
        raise AssertionError(f"{_show(cls)}: sis_tags must be a collection of texts, got the text {tags!r}")
    checked = set(tags)
    for tag in checked:
        if not isinstance(tag, str) or not tag or not _TAG_CHARS.issuperset(tag):
            raise AssertionError(
                f"{_show(cls)}: tag {tag!r} is not allowed. Tags are texts of letters, digits, '.', '-' and "
                "'_'."
            )
    return checked


# --- from arguments to the id ---


def make_job_id(cls: type[Job], parsed_args: dict[str, Any]) -> str:
    """Return ``<module/path/Class>.<hash>``.

    Raises:
        AssertionError: if the class's ``hash`` returns anything but a text of allowed characters, or if an
            argument cannot be hashed.
        TypeError: if an argument cannot be hashed.
    """
    try:
        # a copy of its own: many published classes delete from the dict that they are given
        hashed = cls.hash(dict(parsed_args))
    except (AssertionError, TypeError, RecursionError) as error:
        _explain_unhashable(cls, parsed_args, error)
        raise
    if not isinstance(hashed, str) or not _ID_CHARS.issuperset(hashed):
        raise AssertionError(
            f"{_show(cls)}.hash returned {hashed!r}. Allowed is a text of letters, digits, '.', '-', '_' "
            "and '/'."
        )
    module = cls.__module__.removeprefix(gs.RECIPE_PREFIX + ".")
    return f"{module.replace('.', '/')}/{cls.__name__}.{hashed}"


def _explain_unhashable(cls: type[Job], parsed_args: Mapping[str, Any], error: Exception) -> None:
    """Raise an error of the same type that names the argument at fault, if one is."""
    for name, value in parsed_args.items():
        try:
            gs.SIS_HASH(value)
        except RecursionError as cause:
            raise RecursionError(
                f"{_show(cls)}: argument {name!r} of type {_show(type(value))} contains itself, or is "
                "nested too deep to be hashed"
            ) from cause
        except (AssertionError, TypeError) as cause:
            raise type(cause)(
                f"{_show(cls)}: argument {name!r} of type {_show(type(value))} cannot be hashed: {cause}"
            ) from error


def default_hash(cls: type[Job], parsed_args: Mapping[str, Any]) -> str:
    """Return the hash of the arguments, as the class attributes ``__sis_...`` of the class ask for.

    ``__sis_hash_exclude__``: arguments left out while they have the listed value. ``__sis_hash_overwrite__``:
    list of (name, old, new): values replaced, in order. ``__sis_version__``: enters the hash if it is not
    None.
    """
    hashed = {
        name: value
        for name, value in parsed_args.items()
        if not (name in cls.__sis_hash_exclude__ and value == cls.__sis_hash_exclude__[name])
    }
    for name, old, new in cls.__sis_hash_overwrite__:
        if name in hashed and hashed[name] == old:
            hashed[name] = new
    version = cls.__sis_version__
    return gs.SIS_HASH(hashed if version is None else (hashed, version))


def restore_job(cls: type[Job], job_id: str) -> Job:
    """Return the job of this id, or a bare object that unpickling fills."""
    job = created_jobs.get(job_id)
    if job is None:
        job = cls.__new__(cls)
        job._sis_id_cache = job_id
    return job
