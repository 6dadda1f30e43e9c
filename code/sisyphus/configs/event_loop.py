"""An event loop that can be driven in steps: until nothing more happens by itself."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextvars import Context
from typing import TypeVarTuple

Ts = TypeVarTuple("Ts")


class SteppedLoop(asyncio.SelectorEventLoop):
    """Counts what is scheduled: a round that schedules nothing means that everything waits."""

    num_scheduled = 0

    def call_soon(
        self, callback: Callable[[*Ts], object], *args: *Ts, context: Context | None = None
    ) -> asyncio.Handle:
        """Schedule a callback, and count it."""
        self.num_scheduled += 1
        return super().call_soon(callback, *args, context=context)

    def run_until_all_wait(self) -> None:
        """Run rounds until one schedules nothing more."""
        before = -1
        while before != self.num_scheduled:
            super().call_soon(self.stop)
            before = self.num_scheduled
            self.run_forever()
