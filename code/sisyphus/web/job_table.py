"""The table of jobs: searched, filtered, sorted and cut into pages on the server."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from sisyphus.errors import OptionError
from sisyphus.terminal import overview
from sisyphus.view.facts import BLOCK_SEPARATOR, JobFacts, UsageFacts
from sisyphus.web.snapshots import Snapshot

MOST_ROWS = 500

_ORDER = {state: number for number, state in enumerate(reversed(overview.ORDER))}

_SORT_KEYS: Mapping[str, Callable[[JobFacts], Any]] = {
    "state": lambda job: _ORDER.get(job.state, 0),
    "name": lambda job: job.name,
    "class": lambda job: job.class_name,
    "progress": lambda job: -1.0 if job.progress is None else job.progress,
}
_USAGE_KEYS: Mapping[str, Callable[[UsageFacts | None], float]] = {
    "time": lambda used: used.wall_s if used else 0.0,
    "memory": lambda used: used.peak_memory_gb if used else 0.0,
}
SORTS = (*_SORT_KEYS, *_USAGE_KEYS)


@dataclass(frozen=True)
class Query:
    """Which rows are wanted."""

    words: tuple[str, ...] = ()
    """Lower case; all of them occur in what is known of the job."""
    state: str = ""
    class_name: str = ""
    block: str = ""
    """Also jobs of the blocks in it."""
    tag: str = ""
    sort: str = ""
    """One of ``SORTS``; empty: inputs first."""
    descending: bool = False
    first: int = 0
    number: int = 50

    @classmethod
    def parse(cls, parameters: Mapping[str, str]) -> Query:
        """Read the parameters of a request.

        Raises:
            OptionError: an unknown order, or a page that is no number.
        """
        sort = parameters.get("sort", "")
        if sort and sort not in SORTS:
            raise OptionError(f"sort: {sort!r} is not one of {', '.join(SORTS)}")
        try:
            first, number = int(parameters.get("first", 0)), int(parameters.get("number", 50))
        except ValueError as error:
            raise OptionError("first and number must be whole numbers") from error
        if first < 0 or not 0 < number <= MOST_ROWS:
            raise OptionError(f"first must be >= 0, number from 1 to {MOST_ROWS}: got {first}, {number}")
        return cls(
            words=tuple(parameters.get("search", "").lower().split()),
            state=parameters.get("state", ""),
            class_name=parameters.get("class", ""),
            block=parameters.get("block", ""),
            tag=parameters.get("tag", ""),
            sort=sort,
            descending=parameters.get("descending") == "1",
            first=first,
            number=number,
        )

    def matches(self, text: str, job: JobFacts) -> bool:
        """Whether a job is wanted.

        Args:
            text: what is searched in.
            job: the job.
        """
        return (
            (not self.state or job.state == self.state)
            and (not self.class_name or job.class_name == self.class_name)
            and (not self.block or f"{job.block}{BLOCK_SEPARATOR}".startswith(self.block + BLOCK_SEPARATOR))
            and (not self.tag or self.tag in job.tags)
            and all(word in text for word in self.words)
        )


def rows(
    snapshot: Snapshot, query: Query, usage_of: Callable[[JobFacts], UsageFacts | None]
) -> dict[str, Any]:
    """Return a page of the table as plain data: ``total`` and ``rows``.

    Args:
        snapshot: the jobs.
        query: which of them.
        usage_of: what a job used, also of a finished one; asked only for what is shown or sorted by it.
    """
    found = [job for text, job in snapshot.texts if query.matches(text, job)]
    if query.sort in _SORT_KEYS:
        found.sort(key=_SORT_KEYS[query.sort], reverse=query.descending)
    elif query.sort in _USAGE_KEYS:
        key = _USAGE_KEYS[query.sort]
        found.sort(key=lambda job: key(usage_of(job)), reverse=query.descending)
    elif query.descending:
        found.reverse()
    page = found[query.first : query.first + query.number]
    return {"total": len(found), "rows": [_row(job, usage_of(job)) for job in page]}


def _row(job: JobFacts, used: UsageFacts | None) -> dict[str, Any]:
    return {
        "id": job.id,
        "name": job.name,
        "class": job.class_name,
        "state": job.state,
        "progress": job.progress,
        "info": job.info,
        "failure": job.broken or job.failure,
        "wall_s": used.wall_s if used else None,
        "memory_gb": used.peak_memory_gb if used else None,
    }
