"""Threads that work at lists of things, and at lists that come up inside of others."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from threading import Condition, Thread, local
from typing import Any, Generic, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


class _Batch(Generic[Item, Result]):
    """One list, and how far it is."""

    def __init__(self, function: Callable[[Item], Result], items: Iterable[Item]) -> None:
        self.function = function
        self.items = enumerate(items)
        self.results: dict[int, Result] = {}
        self.num_running = 0
        self.is_taken = False
        """Nothing is left to begin."""
        self.error: tuple[int, Exception] | None = None
        """Of the first item in order that failed: what was begun before it is ended first."""


class Workers:
    """A number of threads, of which the caller's is one; used as a context.

    Items are taken in order, one by each thread that is free, and only when one is: what lazy items hold is
    held once for each thread. A function may call :meth:`map` again: its thread works at the inner list, and
    those that find nothing else to do help. Inside of the context, torch uses one thread in each of them:
    threads inside of short operations would wait for each other most of the time, and one thread gives the
    same sums on every machine.
    """

    def __init__(self, num_threads: int | None = None, *, max_bytes: int | None = None) -> None:
        """Prepare threads.

        Args:
            num_threads: how many; None: as many as torch would use.
            max_bytes: limit of what is claimed at a time (:meth:`claim`); None: no limit.
        """
        self._given_threads = num_threads
        self._max_bytes = max_bytes
        self._claimed_bytes = 0
        self._thread = local()
        self._changed = Condition()
        self._batches: list[_Batch[Any, Any]] = []
        self._threads: list[Thread] = []
        self._is_open = False

    def __enter__(self) -> Workers:
        import torch

        self._torch_threads = torch.get_num_threads()
        num_threads = self._given_threads or self._torch_threads
        torch.set_num_threads(1)
        _keep_memory()
        self._is_open = True
        self._threads = [Thread(target=self._help, daemon=True) for _ in range(num_threads - 1)]
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        import torch

        with self._changed:
            self._is_open = False
            self._changed.notify_all()
        for thread in self._threads:
            thread.join()
        torch.set_num_threads(self._torch_threads)

    def map(self, function: Callable[[Item], Result], items: Iterable[Item]) -> list[Result]:
        """``function`` of every item, in order.

        Raises:
            Exception: that of the first item in order that failed; nothing more is begun then.
        """
        batch = _Batch(function, items)
        with self._changed:
            self._batches.append(batch)
            self._changed.notify_all()
        try:
            self._work(batch)
        finally:
            with self._changed:
                batch.is_taken = True  # also where this thread was interrupted
                self._batches.remove(batch)
                self._changed.wait_for(lambda: not batch.num_running)
        if batch.error is not None:
            raise batch.error[1]
        return [batch.results[number] for number in range(len(batch.results))]

    @contextmanager
    def claim(self, num_bytes: int) -> Iterator[None]:
        """Wait until so much memory may be used; a claim inside of another is part of it.

        One claim is always granted, whatever its size.
        """
        if self._max_bytes is None or getattr(self._thread, "holds", False):
            yield
            return
        limit = self._max_bytes
        with self._changed:
            self._changed.wait_for(
                lambda: not self._claimed_bytes or self._claimed_bytes + num_bytes <= limit
            )
            self._claimed_bytes += num_bytes
        self._thread.holds = True
        try:
            yield
        finally:
            self._thread.holds = False
            with self._changed:
                self._claimed_bytes -= num_bytes
                self._changed.notify_all()

    def _help(self) -> None:
        """What the other threads do: work at the outermost list that has something left."""
        import torch

        torch.set_num_threads(1)
        while True:
            with self._changed:
                self._changed.wait_for(lambda: not self._is_open or self._next_batch() is not None)
                batch = self._next_batch()
            if batch is None:
                return
            self._work(batch)

    def _next_batch(self) -> _Batch[Any, Any] | None:
        return next((batch for batch in self._batches if not batch.is_taken), None)

    def _work(self, batch: _Batch[Any, Any]) -> None:
        """Take items of a list until none is left."""
        while True:
            with self._changed:
                if batch.is_taken:
                    return
                try:
                    number, item = next(batch.items)
                except StopIteration:
                    batch.is_taken = True
                    return
                except Exception as error:  # noqa: BLE001 - raised where the list was given
                    self._fail(batch, sys.maxsize, error)
                    return
                batch.num_running += 1
            try:
                result = batch.function(item)
            except Exception as error:  # noqa: BLE001 - raised where the list was given
                with self._changed:
                    self._fail(batch, number, error)
            else:
                batch.results[number] = result
            finally:
                self._end_item(batch)

    def _end_item(self, batch: _Batch[Any, Any]) -> None:
        with self._changed:
            batch.num_running -= 1
            if batch.is_taken and not batch.num_running:
                self._changed.notify_all()

    def _fail(self, batch: _Batch[Any, Any], number: int, error: Exception) -> None:
        batch.is_taken = True
        if batch.error is None or number < batch.error[0]:
            batch.error = (number, error)


def _keep_memory() -> None:
    """Let threads use freed memory again.

    The C library gives blocks as large as a piece back to the system, which has to clear them when they are
    asked for again: a quarter of the time of a merge. Once a larger block has come and gone it keeps them.
    """
    import torch

    torch.empty(24 * 2**20, dtype=torch.uint8)  # never touched, so it costs nothing
