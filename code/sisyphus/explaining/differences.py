"""How two jobs differ: argument by argument, down to the first job in the chain that changed."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from sisyphus.explaining.described import MISSING, Node
from sisyphus.explaining.saved_jobs import SavedJob, class_of

Find = Callable[[str], SavedJob | None]
"""Returns the job of an id, None if nothing is known of it."""


@dataclass(frozen=True)
class Difference:
    """One thing that differs."""

    chain: tuple[tuple[str, str], ...]
    """Ids of the two jobs, then of those whose outputs they take, down to the first ones that changed."""
    where: str
    """Argument and place in it, e.g. ``options['alpha']``, behind those of the jobs that lead there."""
    old: str
    new: str

    @property
    def root(self) -> tuple[str, str]:
        """The first two jobs in the chain that changed."""
        return self.chain[-1]

    def text(self) -> str:
        """One line."""
        return f"{self.where}: {self.old} -> {self.new}"


def differences(
    old: SavedJob, new: SavedJob, find_old: Find, find_new: Find | None = None
) -> list[Difference]:
    """Return all differences between two jobs.

    Where both take an output of the same kind of job, but not of the same one, the comparison goes on with
    those two jobs. Each pair of jobs is compared once, however many ways lead to it.

    Args:
        old: the one.
        new: the other, of the same class.
        find_old: jobs that ``old`` depends on.
        find_new: jobs that ``new`` depends on; default: the same.
    """
    comparison = _Comparison(find_old, find_new or find_old)
    return list(comparison.jobs(old, new, (), ""))


def own_differences(old: SavedJob, new: SavedJob, partners: Mapping[str, str]) -> list[Difference]:
    """Return the differences between two jobs without those of their inputs' jobs.

    Args:
        old: the one.
        new: the other, of the same class.
        partners: id of the old job by id of the new one: an output of the one in place of the same output of
            the other is no difference here.
    """
    return list(_OwnComparison(partners).jobs(old, new, (), ""))


class _Comparison:
    def __init__(self, find_old: Find, find_new: Find) -> None:
        self._find_old, self._find_new = find_old, find_new
        self._seen: set[tuple[str, str]] = set()

    def jobs(
        self, old: SavedJob, new: SavedJob, chain: tuple[tuple[str, str], ...], place: str
    ) -> Iterator[Difference]:
        pair = (old.job_id, new.job_id)
        if pair in self._seen:
            return
        self._seen.add(pair)
        chain = (*chain, pair)
        found = False
        for label, x, y in _pairs(old.arguments, new.arguments):
            if (x is MISSING and label in new.left_out) or (y is MISSING and label in old.left_out):
                continue  # the class has got an argument with a default that changes no id
            for difference in self._nodes(x, y, chain, f"{place}{label}"):
                found = True
                yield difference
        if old.version != new.version:
            found = True
            yield Difference(chain, f"{place}__sis_version__", old.version or "None", new.version or "None")
        if not found and not self._goes_on(old, new):
            yield Difference(
                chain,
                f"{place}(no argument)",
                _commit_text(old),
                f"{_commit_text(new)}: the arguments are the same, so what the class makes of them changed: "
                "its hash method, __sis_hash_exclude__ or __sis_hash_overwrite__",
            )

    def _goes_on(self, old: SavedJob, new: SavedJob) -> bool:
        """Whether two jobs differ by jobs that were compared before."""
        return any(_other_jobs(x, y) for _, x, y in _pairs(old.arguments, new.arguments))

    def _nodes(
        self, old: Node, new: Node, chain: tuple[tuple[str, str], ...], place: str
    ) -> Iterator[Difference]:
        if old.is_like(new):
            return
        if old.job and new.job and old.job != new.job and class_of(old.job) == class_of(new.job):
            before, after = self._find_old(old.job), self._find_new(new.job)
            if old.text != new.text or before is None or after is None:
                unknown = "" if before and after else " (its folder is gone: what differs there is not known)"
                yield Difference(chain, place, str(old), f"{new}{unknown}")
            if before is not None and after is not None:
                yield from self.jobs(before, after, chain, f"{place} -> ")
        elif old.kind == new.kind and old.parts and new.parts:
            for label, x, y in _pairs(old.parts, new.parts):
                yield from self._nodes(x, y, chain, f"{place}{label}")
        else:
            yield Difference(chain, place, _show(old, new), _show(new, old))


class _OwnComparison(_Comparison):
    """Does not go on with the jobs that make inputs."""

    def __init__(self, partners: Mapping[str, str]) -> None:
        super().__init__(lambda job_id: None, lambda job_id: None)
        self._partners = partners

    def _nodes(
        self, old: Node, new: Node, chain: tuple[tuple[str, str], ...], place: str
    ) -> Iterator[Difference]:
        if old.job and new.job and old.job != new.job:
            if old.text != new.text or self._partners.get(new.job) != old.job:
                yield Difference(chain, place, str(old), str(new))
            return
        yield from super()._nodes(old, new, chain, place)


def _pairs(old: Mapping[str, Node], new: Mapping[str, Node]) -> Iterator[tuple[str, Node, Node]]:
    for label in {**old, **new}:
        yield label, old.get(label, MISSING), new.get(label, MISSING)


def _other_jobs(old: Node, new: Node) -> bool:
    if old.job != new.job:
        return True
    return any(_other_jobs(x, y) for _, x, y in _pairs(old.parts, new.parts))


def _show(node: Node, other: Node) -> str:
    """A value; with its type where the text does not tell it from the other one, or would mislead."""
    text = str(node)
    if node.kind != other.kind and MISSING not in (node, other):
        return f"{text} ({node.kind})"
    return text


def _commit_text(job: SavedJob) -> str:
    return f"recipe at {job.commit}" if job.commit else "recipe at an unknown commit"
