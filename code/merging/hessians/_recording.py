"""One forward pass, watched: what came into each layer, and in backward passes what arrives at its output."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from types import TracebackType
from typing import Any

import torch
from torch import Tensor, nn

from merging.hessians import _rules
from merging.hessians._gradients import Call, PerExample, Sum
from merging.hessians._relative_bias import Tables, own_biases

Roles = dict[tuple[nn.Module, int], tuple[bool, ...]]
"""For a module called with so many inputs: which of them belong to examples."""

Owners = Mapping[nn.Module, Mapping[str, str]]
"""Modules to watch, with their own parameters: the module's name for it -> the model's name."""


class Recording:
    """Hooks on modules while the block runs; per-example gradients afterwards.

    The parameters must be frozen: the graph then starts at the outputs of the first watched modules, and
    autograd spends nothing on weights.

    Attributes:
        unreachable: parameters whose module did not give one tensor that starts with the batch dimension.
        roots: leaves that the graph starts at; backward passes differentiate with respect to them.
    """

    def __init__(
        self, owners: Owners, roles: Roles, num_examples: int, *, expand: bool, tables: Tables
    ) -> None:
        """Watch ``owners``, in a forward pass of ``num_examples`` examples.

        Args:
            owners: what to watch.
            roles: filled by the first recording of a model and kept for the next ones.
            num_examples: B.
            expand: expand an output that starts with 1 instead of B (positions that are looked up once and
                broadcast), so that the gradient that comes back is not yet summed over examples.
            tables: those among ``owners`` that hold biases of relative positions.
        """
        self.unreachable: set[str] = set()
        self._owners = owners
        self._roles = roles
        self._num_examples = num_examples
        self._expand = expand
        self._tables = tables
        self._watching = ExitStack()
        self.roots: list[Tensor] = []
        self._uses: Counter[str] = Counter()
        self._parts: defaultdict[str, list[PerExample]] = defaultdict(list)
        self._receive: Callable[[str, PerExample], None] | None = None

    def __enter__(self) -> Recording:
        for module in self._owners:
            if module in self._tables:
                self._watching.enter_context(self._watched_table(module))
            else:
                handle = module.register_forward_hook(self._watch, with_kwargs=True)
                self._watching.callback(handle.remove)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._watching.close()

    def backward(
        self, scores: Tensor, cotangent: Tensor, receive: Callable[[str, PerExample], None], *, is_last: bool
    ) -> None:
        """Differentiate <cotangent, scores>; each parameter that is on the way is received once.

        May be called again with another cotangent, but for the last one, which frees the graph as it goes.
        """
        if not scores.requires_grad:
            return
        with self.receiving(receive):
            torch.autograd.grad(scores, self.roots, cotangent, retain_graph=not is_last, allow_unused=True)

    @contextmanager
    def receiving(self, receive: Callable[[str, PerExample], None]) -> Iterator[None]:
        """Give ``receive`` each parameter that is on the way of the one backward pass in the block, once."""
        self._receive = receive
        try:
            yield
            for name, parts in self._parts.items():
                receive(name, Sum(parts))
        finally:
            self._parts.clear()
            self._receive = None

    def _watched_table(self, table: nn.Module) -> AbstractContextManager[None]:
        (name,) = self._owners[table].values()

        def started(root: Tensor | None) -> None:
            self._uses[name] += 1
            if root is not None:
                self.roots.append(root)

        def arrived(part: PerExample) -> None:
            if self._receive is not None:
                self._take(name, part)

        return own_biases(
            table,
            *self._tables[table],
            num_examples=self._num_examples,
            started=started,
            arrived=arrived,
            failed=lambda: self.unreachable.add(name),
        )

    def _watch(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> Any:
        names = self._owners[module]
        if self._expand:
            output = self._expanded(output)
        if not isinstance(output, Tensor) or not output.dim() or len(output) % self._num_examples:
            self.unreachable.update(names.values())
            return None
        if not output.requires_grad:
            root = output.detach().requires_grad_()
            self.roots.append(root)
            output = root.clone()  # a leaf may not be changed in place, and an activation may do that
        self._uses.update(names.values())
        call = self._call(module, args, kwargs, len(output))

        def arrived(gradient: Tensor) -> None:
            if self._receive is None:  # a backward pass for somebody else's sums
                return
            for local, part in _rules.per_example(call, gradient, names):
                self._take(names[local], part)

        output.register_hook(arrived)
        return output

    def _call(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], num_rows: int) -> Call:
        """Keep the inputs of a call; those that are as long as its output belong to examples.

        A shared input may have the length of a batch by chance, so the first batch decides.
        """
        inputs = tuple(
            self._expanded(value.detach()) if isinstance(value, Tensor) else value
            for value in (*args, *kwargs.values())
        )
        by_example = tuple(isinstance(value, Tensor) and value.shape[:1] == (num_rows,) for value in inputs)
        by_example = self._roles.setdefault((module, len(inputs)), by_example)
        return Call(module, inputs, tuple(kwargs), by_example, self._num_examples)

    def _take(self, name: str, part: PerExample) -> None:
        if self._uses[name] == 1 and self._receive is not None:
            self._receive(name, part)
        else:
            self._parts[name].append(part)

    def _expanded(self, value: Any) -> Any:
        """(1, ...) -> (B, ...)."""
        if isinstance(value, Tensor) and value.dim() and value.shape[0] == 1 != self._num_examples:
            return value.expand(self._num_examples, *value.shape[1:])
        return value
