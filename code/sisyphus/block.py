"""Blocks: names for groups of jobs, for display only; they never influence ids.

The active blocks belong to the current context (``contextvars``), so that concurrent async configs do not mix
theirs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar, Token
from functools import wraps
from typing import TYPE_CHECKING, Any

from sisyphus import global_settings as gs

if TYPE_CHECKING:
    from sisyphus.job import Job

all_root_blocks: list[Block] = []
"""Blocks without parents, in the order in which they were made."""

_active: ContextVar[frozenset[Block]] = ContextVar("active_blocks", default=frozenset())


def __getattr__(name: str) -> Any:
    """Offer ``active_blocks`` as a set, the blocks that new jobs are put into now."""
    if name == "active_blocks":
        return set(_active.get())
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


class Block:
    """A named group of jobs and further blocks; entering it with ``with`` makes it the active one."""

    _sis_no_paths_inside = True

    def __init__(self, name: str, parents: set[Block] | frozenset[Block] = frozenset()) -> None:
        self.name = name
        self.parents = set(parents)
        self.children: list[Block | Job] = []
        self._members: set[Block | Job] = set()
        self._tokens: list[Token[frozenset[Block]]] = []
        for parent in self.parents:
            parent._add(self)
        if not self.parents:
            all_root_blocks.append(self)

    def _add(self, child: Block | Job) -> None:
        if child not in self._members:
            self._members.add(child)
            self.children.append(child)

    def add_job(self, job: Job) -> None:
        """Put a job into this block."""
        self._add(job)
        job._sis_blocks.add(self)

    def sub_block(self, name: str) -> Block:
        """Return a new block inside this one."""
        return Block(name, {self})

    def filtered_children(self) -> list[Block | Job]:
        """Return the children without jobs that stand in a block further down, too."""
        deeper: set[Block | Job] = set()
        waiting = [child for child in self.children if isinstance(child, Block)]
        while waiting:
            block = waiting.pop()
            deeper |= block._members
            waiting.extend(child for child in block.children if isinstance(child, Block))
        return [child for child in self.children if child not in deeper]

    def __enter__(self) -> Block:
        self._tokens.append(_active.set(frozenset({self})))
        return self

    def __exit__(self, *exc_info: object) -> None:
        _active.reset(self._tokens.pop())

    def __deepcopy__(self, memo: dict[int, Any]) -> Block:
        return self

    def __repr__(self) -> str:
        return f"<Block {self.name}>"


def current_blocks() -> frozenset[Block]:
    """Return the active blocks."""
    return _active.get()


@contextmanager
def blocks_set_to(blocks: frozenset[Block] | set[Block]) -> Iterator[None]:
    """Make exactly these blocks active for a while."""
    token = _active.set(frozenset(blocks))
    try:
        yield
    finally:
        _active.reset(token)


def sub_block(name: str) -> Block:
    """Return a new block below the active ones; it may be entered several times."""
    return Block(name, current_blocks())


def set_root_block(name: str) -> Block:
    """Start a top-level block, or return to it, and make it the active one."""
    block = next((block for block in all_root_blocks if block.name == name), None) or Block(name)
    _active.set(frozenset({block}))
    return block


class block:
    """Run code inside a new block, as context manager or as decorator.

    Args:
        name: name of the block; default for functions: their name.
        cache: for functions, keep the result for each combination of arguments.
    """

    def __init__(self, name: str | None = None, cache: bool = False) -> None:
        self.name = name
        self.cache = cache
        self._entered: list[Block] = []

    def __enter__(self) -> Block:
        entered = sub_block(self.name or "")
        self._entered.append(entered)
        return entered.__enter__()

    def __exit__(self, *exc_info: object) -> None:
        self._entered.pop().__exit__(*exc_info)

    def __call__(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """Decorate a function."""
        name = self.name or function.__name__
        results: dict[str, Any] = {}

        @wraps(function)
        def in_block(*args: Any, **kwargs: Any) -> Any:
            if not self.cache:
                with sub_block(name):
                    return function(*args, **kwargs)
            key = gs.SIS_HASH((args, kwargs))
            if key not in results:
                with sub_block(name):
                    results[key] = function(*args, **kwargs)
            return results[key]

        return in_block
