"""The graph as last looked at, renewed while somebody watches."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from functools import cached_property

from sisyphus.view.facts import GraphFacts, JobFacts

SHORTEST_PERIOD_S = 1.0
"""Between two looks."""
_SHARE_OF_TIME = 0.1
"""At most this share of the time is spent on looking."""
_UNWATCHED_AFTER_S = 10.0


class Snapshot:
    """Facts, and ways to find one of them.

    Args:
        facts: one look at the graph.
        version: another number for other facts.
    """

    def __init__(self, facts: GraphFacts, version: int) -> None:
        self.facts = facts
        self.version = version
        self.jobs = {job.id: job for job in facts.jobs}

    @cached_property
    def users(self) -> dict[str, list[str]]:
        """Ids of the jobs that take a job as input."""
        users: dict[str, list[str]] = {}
        for job in self.facts.jobs:
            for creator in job.inputs:
                users.setdefault(creator, []).append(job.id)
        return users

    @cached_property
    def texts(self) -> list[tuple[str, JobFacts]]:
        """What is searched in of each job, lower case."""
        return [(_searched(job), job) for job in self.facts.jobs]

    @cached_property
    def choices(self) -> dict[str, list[tuple[str, int]]]:
        """What can be filtered by: values and how many jobs have them."""
        jobs = self.facts.jobs
        return {
            "class": sorted(Counter(job.class_name for job in jobs).items()),
            "block": sorted(Counter(job.block for job in jobs if job.block).items()),
            "tag": sorted(Counter(tag for job in jobs for tag in job.tags).items()),
        }


def _searched(job: JobFacts) -> str:
    words = (job.id, *job.aliases, job.vis_name or "", job.block, *job.tags, job.info, job.made_at)
    return "\n".join((*words, *job.needed_for)).lower()


class Watcher:
    """Looks at the graph from time to time, as long as somebody asked lately or waits for news.

    Args:
        look: takes a look; called in another thread, never twice at once.
    """

    def __init__(self, look: Callable[[], GraphFacts]) -> None:
        self._look = look
        self.snapshot = Snapshot(look(), 1)
        self.num_listeners = 0
        self._asked_at = time.monotonic()
        self._news = asyncio.Event()
        self._asked = asyncio.Event()
        self._hurry = asyncio.Event()

    def touch(self) -> Snapshot:
        """Return what was seen last, and go on looking for a while. Not from other threads."""
        self._asked_at = time.monotonic()
        self._asked.set()
        return self.snapshot

    def look_soon(self) -> None:
        """Look at once: something was done. Not from other threads."""
        self._hurry.set()
        self._asked_at = time.monotonic()
        self._asked.set()

    async def watch(self) -> None:
        """Look again and again, until cancelled."""
        while True:
            began = time.monotonic()
            facts = await asyncio.to_thread(self._look)
            seconds = time.monotonic() - began
            if replace(facts, time=0.0) != replace(self.snapshot.facts, time=0.0):
                self.snapshot = Snapshot(facts, self.snapshot.version + 1)
                self._news.set()
                self._news = asyncio.Event()
            else:
                self.snapshot.facts = facts
            with contextlib.suppress(TimeoutError):
                period_s = max(SHORTEST_PERIOD_S, seconds / _SHARE_OF_TIME - seconds)
                await asyncio.wait_for(self._hurry.wait(), period_s)
            self._hurry.clear()
            while not self.num_listeners and time.monotonic() - self._asked_at > _UNWATCHED_AFTER_S:
                self._asked.clear()
                await self._asked.wait()

    async def versions(self, heartbeat_s: float) -> AsyncIterator[Snapshot | None]:
        """Yield each new snapshot, and None after so many seconds without one."""
        self.num_listeners += 1
        self._asked.set()
        try:
            told = 0
            while True:
                if self.snapshot.version != told:
                    told = self.snapshot.version
                    yield self.snapshot
                    continue
                try:
                    await asyncio.wait_for(self._news.wait(), heartbeat_s)
                except TimeoutError:
                    yield None
        finally:
            self.num_listeners -= 1
