"""Arguments of saved jobs as trees, see ``described``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sisyphus import global_settings as gs
from sisyphus.explaining.described import Node, leaf, place_of
from sisyphus.explaining.stand_ins import StandIn

_SCALARS = (type(None), bool, int, float, complex, str, bytes, bytearray)
_PATHS = frozenset({"sisyphus.job_path.Path", "sisyphus.job_path.Variable"})


def describe(value: Any) -> Node:
    """Return what :func:`stand_ins.load` gave as a tree."""
    kind = type(value).__name__
    if isinstance(value, _SCALARS):
        return leaf(kind, repr(value))
    if isinstance(value, type):
        name = getattr(value, "full_name", f"{value.__module__}.{value.__qualname__}")
        return leaf("global", name)
    if isinstance(value, dict):
        return Node(kind, "" if value else "{}", {f"[{describe(k)}]": describe(v) for k, v in value.items()})
    if isinstance(value, (set, frozenset)):
        elements = sorted((describe(element) for element in value), key=str)
        return Node(kind, "" if value else f"{kind}()", {f"{{{element}}}": element for element in elements})
    if isinstance(value, StandIn):
        return _describe_stand_in(value)
    parts = {f"[{index}]": describe(element) for index, element in enumerate(value)}
    return Node(kind, "" if parts else str(value), parts)


def _describe_stand_in(value: StandIn) -> Node:
    kind = type(value).__name__
    state = value.state
    if value.full_name in _PATHS and isinstance(state, dict):
        return _describe_path(kind, state)
    if value.full_name.endswith(".restore_job") or (isinstance(state, dict) and "_sis_id_cache" in state):
        job_id = value.args[1] if len(value.args) > 1 else state["_sis_id_cache"]
        return Node("Job", "", job=str(job_id))
    if isinstance(state, tuple) and len(state) == 2 and isinstance(state[1], dict):  # objects with slots
        state = {**(state[0] or {}), **state[1]}
    parts: dict[str, Node] = {}
    for index, argument in enumerate(value.args):
        parts[f"({index})"] = describe(argument)
    for name, argument in value.kwargs.items():
        parts[f".{name}"] = describe(argument)
    if isinstance(state, dict):
        parts |= {f".{name}": describe(part) for name, part in state.items()}
    elif state is not None:
        parts[".state"] = describe(state)
    for index, element in enumerate(value.elements):
        parts[f"[{index}]"] = describe(element)
    if parts and not state and not value.elements and all(not part.parts for part in parts.values()):
        return leaf(kind, f"{kind}({', '.join(str(part) for part in parts.values())})")
    return Node(kind, "" if parts else f"{kind}()", parts)


def _describe_path(kind: str, state: Mapping[str, Any]) -> Node:
    """A path: what enters ids of it, the job that makes it and its place in there, or the text."""
    overwrite = state.get("hash_overwrite")
    if isinstance(overwrite, tuple) and len(overwrite) == 2:
        creator, path = overwrite
        if isinstance(creator, str) and creator.endswith(f"/{gs.JOB_OUTPUT}"):
            return Node(kind, str(path), job=creator.removesuffix(f"/{gs.JOB_OUTPUT}"))
        if isinstance(creator, StandIn) and describe(creator).job:
            return Node(kind, str(path), job=describe(creator).job)
        return leaf(kind, str(path) if creator is None else f"{describe(creator)}: {path}")
    creator, path = state.get("creator"), str(state.get("path"))
    if isinstance(creator, StandIn):
        return Node(kind, path, job=describe(creator).job)
    place = place_of(path)
    return Node(kind, place.path, job=place.job)
