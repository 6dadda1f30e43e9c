"""Which jobs are listed, and in which order."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from sisyphus.states import State
from sisyphus.terminal.overview import FAILED
from sisyphus.view.facts import JobFacts

GROUPS: Mapping[str, frozenset[str]] = {
    "all": frozenset(State),
    "failed": frozenset(FAILED),
    "running": frozenset({State.RUNNING, State.QUEUE, State.UNKNOWN, State.INTERRUPTED_RESUMABLE}),
    "waiting": frozenset({State.WAITING, State.RUNNABLE, State.HOLD}),
    "finished": frozenset({State.FINISHED}),
}
"""Groups of states, by name, in the order in which they are shown."""

_URGENCY = {
    State.ERROR.value: 0,
    State.RETRY_ERROR.value: 0,
    State.QUEUE_ERROR.value: 0,
    State.INTERRUPTED_NOT_RESUMABLE.value: 0,
    State.RUNNING.value: 1,
    State.UNKNOWN.value: 2,
    State.INTERRUPTED_RESUMABLE.value: 2,
    State.QUEUE.value: 2,
    State.HOLD.value: 3,
    State.RUNNABLE.value: 4,
    State.WAITING.value: 5,
    State.FINISHED.value: 6,
}
"""What needs a person first, then what runs, what may come, what is over."""


@dataclass(frozen=True)
class Filter:
    """What a person wants to see."""

    group: str = "all"
    """One of ``GROUPS``."""
    text: str = ""
    """Words that all have to be found in what a job is called; ``state:``, ``class:``, ``block:``, ``tag:``
    and ``target:`` before a word look only there. Letters count the same in upper and lower case."""

    def jobs(self, jobs: Iterable[JobFacts]) -> list[JobFacts]:
        """Return those that it lets through, the most urgent first, otherwise in the order given."""
        states = GROUPS[self.group]
        words = self.text.lower().split()
        found = [job for job in jobs if job.state in states and all(_has(job, word) for word in words)]
        return sorted(found, key=lambda job: _URGENCY.get(job.state, 0))


def count_groups(counts: Mapping[str, int]) -> dict[str, int]:
    """Return the number of jobs in each group.

    Args:
        counts: number of jobs by state.
    """
    return {name: sum(counts.get(state, 0) for state in states) for name, states in GROUPS.items()}


def _has(job: JobFacts, word: str) -> bool:
    field, _, rest = word.partition(":")
    places = {
        "state": (job.state,),
        "class": (job.class_name,),
        "block": (job.block, *job.blocks),
        "tag": job.tags,
        "target": job.needed_for,
    }.get(field)
    if places is None:
        places, rest = (job.id, job.vis_name or "", *job.aliases), word
    return any(rest in place.lower() for place in places)
