"""One forward pass for any number of sums, and one backward pass for those that need the same gradients."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor, nn

from merging.hessians._per_example import Batch, Cotangents, Scores, check_scores, frozen

T = TypeVar("T")


class Watcher(Protocol):
    """Watches one forward pass while it is entered."""

    roots: list[Tensor]
    """Leaves that the graph starts at, filled by the pass; where another watcher began the graph, none."""

    def __enter__(self) -> Any: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


class Member(Protocol):
    """Sums over examples that take part in a pass: ``SquaredGradients``, ``FactorSums``, ``MaskSquares``."""

    num_examples: int
    """How many examples were added."""

    @property
    def needs_cotangents(self) -> bool:
        """Whether ``finish`` uses the cotangents, which are then kept."""

    def prepare(self, batch: Batch) -> None:
        """Learn from the first batch what has to be known of the model; later batches change nothing."""

    def watch(self, batch: Batch) -> Any:
        """Return a :class:`Watcher`."""

    def receiving(self, watcher: Any) -> AbstractContextManager[None]:
        """Return a block in which one backward pass of the watched graph adds to the sums."""

    def finish(self, batch: Batch, watcher: Any, cotangents: Sequence[Tensor]) -> None:
        """Add what could not be watched, and count the examples."""


@dataclass(frozen=True)
class Group:
    """Sums of the same gradients."""

    cotangents: Cotangents
    members: Sequence[Member]


def run(network: nn.Module, scores: Scores, batch: Batch, groups: Iterable[Group], *, backward: bool) -> None:
    """Add the examples of a batch to every member.

    Args:
        network: in evaluation mode; its parameters are frozen meanwhile.
        scores: see :class:`merging.tasks.TaskType`.
        batch: any number of examples, padded or not.
        groups: who adds what; a member is in one group.
        backward: whether any member needs gradients.

    Raises:
        MergingError: scores that are not finite, or what a member refuses.
    """
    groups = list(groups)
    members = [member for group in groups for member in group.members]
    for member in members:
        member.prepare(batch)
    with frozen(parameter for parameter in network.parameters() if parameter.requires_grad):
        watchers = {id(member): member.watch(batch) for member in members}
        with ExitStack() as watched, torch.set_grad_enabled(backward):
            for watcher in watchers.values():
                watched.enter_context(watcher)
            values = scores(network, batch)
        check_scores(values)
        roots = [root for watcher in watchers.values() for root in watcher.roots]
        kept: dict[int, list[Tensor]] = {number: [] for number in range(len(groups))}
        passes = (
            (number, cotangent)
            for number, group in enumerate(groups)
            for cotangent in group.cotangents(values.detach())
        )
        for (number, cotangent), is_last in _marked(passes):
            taking = groups[number].members
            if any(member.needs_cotangents for member in taking):
                kept[number].append(cotangent)
            if values.requires_grad:
                with ExitStack() as receiving:
                    for member in taking:
                        receiving.enter_context(member.receiving(watchers[id(member)]))
                    # the last pass frees the graph as it goes
                    torch.autograd.grad(values, roots, cotangent, retain_graph=not is_last, allow_unused=True)
        for number, group in enumerate(groups):
            for member in group.members:
                member.finish(batch, watchers[id(member)], kept[number])


def _marked(items: Iterable[T]) -> Iterator[tuple[T, bool]]:
    """Each item, and whether it is the last; holds two at a time."""
    rest = iter(items)
    for item in rest:
        for following in rest:
            yield item, False
            item = following
        yield item, True
