"""Configs that wait for results: ``await tk.async_run(...)`` inside ``async def`` functions.

Each waiting place has a future; the config loader resolves it once the paths are there, and lets the event
loop run until every config waits again. Blocks need no bookkeeping here, since they belong to the context of
a coroutine.
"""

from __future__ import annotations

from collections.abc import Awaitable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from sisyphus.block import blocks_set_to
from sisyphus.graph import graph
from sisyphus.outputs.targets import OutputTarget

if TYPE_CHECKING:
    import asyncio

_waiting: dict[asyncio.Future[None], OutputTarget] = {}


async def async_run(obj: Any) -> None:
    """Have everything inside ``obj`` computed, and go on when it is there."""
    import asyncio

    target = OutputTarget("async_run", obj)
    graph.add_target(target)
    target.update_requirements()
    if target.is_done():
        target.run_when_done()
        return
    future = asyncio.get_running_loop().create_future()
    _waiting[future] = target
    try:
        await future
    finally:
        _waiting.pop(future, None)


async def async_gather(*awaitables: Awaitable[Any]) -> list[Any]:
    """Run several coroutines at the same time; returns their results in the order given."""
    import asyncio

    return await asyncio.gather(*awaitables)


@contextmanager
def async_context() -> Iterator[None]:
    """Leave the active blocks while waiting inside."""
    with blocks_set_to(frozenset()):
        yield


def resolve_waiting() -> bool:
    """Let those go on whose paths are there; returns whether there were any."""
    resolved = False
    for future, target in list(_waiting.items()):
        target.update_requirements()
        if target.is_done() and not future.done():
            target.run_when_done()
            future.set_result(None)
            resolved = True
    return resolved
