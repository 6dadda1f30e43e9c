"""Why a job has the id it has, as lines of text: for ``sis why`` and the text user interface."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from sisyphus.explaining.saved_jobs import SavedJob, class_of
from sisyphus.explaining.siblings import MOST_COMPARED
from sisyphus.explaining.why import Explanation, lines_of
from sisyphus.terminal.answers import count

_LONGEST = 300
"""Letters of a value that are shown; ``sis why --json`` has all of them."""


def lines(found: Explanation) -> Iterator[str]:
    """Yield what makes the id, then what differs from the job that it was compared with."""
    yield from _arguments(found.job, found.left_out)
    if found.other is None:
        yield ""
        yield f"No other folder of {class_of(found.job.job_id)} to compare with."
    else:
        yield from _differences(found, found.other)


def _arguments(job: SavedJob, left_out: frozenset[str]) -> Iterator[str]:
    if job.commit:
        yield f"recipe at commit {job.commit}"
    yield "arguments that make the id:"
    for name, node in sorted(job.arguments.items()):
        if name not in left_out:
            for place, text in lines_of(name, node):
                yield f"  {place}: {_shortened(text)}"
    if job.version:
        yield f"  __sis_version__: {job.version}"
    if left_out:
        yield "arguments that do not count:"
        for name in sorted(left_out):
            yield f"  {name}: {_shortened(str(job.arguments[name]))}"


def _differences(found: Explanation, other: SavedJob) -> Iterator[str]:
    job, num_others = found.job, found.num_others
    closest_of = f", the closest of {count(num_others, 'other folder')} of this class" if num_others else ""
    if num_others > MOST_COMPARED:
        closest_of += f" ({MOST_COMPARED:,} newest)"
    yield ""
    yield f"compared with {other.job_id}{closest_of} (there -> here):"
    chain: tuple[tuple[str, str], ...] = ()
    nearest_first = sorted(found.differences, key=lambda difference: len(difference.chain))
    for difference in nearest_first:
        yield from _chain(chain, difference.chain)
        chain = difference.chain
        last = difference.where.rpartition(" -> ")[2]
        yield f"{'  ' * len(chain)}{last}: {_shortened(difference.old)} -> {_shortened(difference.new)}"
    if job.commit and other.commit and job.commit != other.commit:
        yield f"recipe at commit {other.commit} -> {job.commit}"


def _chain(before: Sequence[tuple[str, str]], chain: Sequence[tuple[str, str]]) -> Iterator[str]:
    """The jobs behind the compared ones that lead to a difference, but those that were named just before."""
    for depth, (old, new) in enumerate(chain[1:], start=1):
        if tuple(before[: depth + 1]) != tuple(chain[: depth + 1]):
            yield f"{'  ' * depth}through {old} -> {new}:"


def _shortened(text: str) -> str:
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}... ({len(text)} letters)"
