"""Per-example gradients of tables of relative positions, as T5 and MPNet add to their attention.

A bias for each pair of positions is looked up once, (1, heads, Q, K), and added to all examples: the gradient
that comes back to the table is a sum over them. While a forward pass is watched, the method that looks it up
gives every example a bias of its own, of which

    row v: sum of g_bhqk over the pairs (q, k) that looked up v,    g = gradient at the bias of example b
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from merging.hessians._gradients import Formed

_METHODS = ("compute_bias", "compute_position_bias")
"""What the method is called in T5 and its relatives, and in MPNet."""
_TABLE = "relative_attention_bias"

Tables = Mapping[nn.Module, tuple[nn.Module, str]]
"""Tables of relative positions, each with the module and the method that look it up."""


def tables(model: nn.Module) -> Tables:
    """Return the tables of relative positions of a model."""
    found: dict[nn.Module, tuple[nn.Module, str]] = {}
    for module in model.modules():
        table = getattr(module, _TABLE, None)
        for method in _METHODS:
            if isinstance(table, nn.Embedding) and callable(getattr(module, method, None)):
                found[table] = module, method
    return found


@contextmanager
def own_biases(
    table: nn.Module,
    owner: nn.Module,
    method: str,
    *,
    num_examples: int,
    started: Callable[[Tensor | None], None],
    arrived: Callable[[Formed], None],
    failed: Callable[[], None],
) -> Iterator[None]:
    """Give every example a bias of its own while the block runs.

    Args:
        table: of the biases, (buckets, heads).
        owner: whose method looks it up.
        method: returns the biases, (1 or B, heads, Q, K).
        num_examples: B; the model may be run on several rows of each, next to each other.
        started: is given the leaf that the graph of the biases starts at; None: somebody else began it.
        arrived: is given the gradients of the table, in each backward pass through the biases.
        failed: is told if what was looked up does not look like biases.
    """
    original, shadowed = getattr(owner, method), vars(owner).get(method)
    num_rows = num_examples

    def count(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        nonlocal num_rows
        tensors = [value for value in (*args, *kwargs.values()) if isinstance(value, Tensor)]
        num_rows = len(tensors[0]) if tensors else num_examples

    def look_up(*args: Any, **kwargs: Any) -> Any:
        ids: list[Tensor] = []
        handle = table.register_forward_hook(lambda module, inputs, output: ids.append(inputs[0]))
        try:
            biases = original(*args, **kwargs)
        finally:
            handle.remove()
        if len(ids) != 1 or num_rows % num_examples or not _are_biases(biases, ids[0], num_rows):
            failed()
            return biases
        if biases.requires_grad:  # another recording watches the same pass
            started(None)
            own = biases
        else:
            root = biases.detach().expand(num_rows, -1, -1, -1).requires_grad_()
            started(root)
            own = root.clone()

        def receive(gradient: Tensor) -> None:
            by_example = gradient.reshape(num_examples, -1, *gradient.shape[1:]).sum(1)
            arrived(_by_row(by_example, ids[0], len(table.get_parameter("weight"))))

        own.register_hook(receive)
        return own

    counting = owner.register_forward_pre_hook(count, with_kwargs=True)
    setattr(owner, method, look_up)
    try:
        yield
    finally:
        counting.remove()
        if shadowed is None:
            delattr(owner, method)
        else:
            setattr(owner, method, shadowed)


def _are_biases(biases: Any, ids: Tensor, num_rows: int) -> bool:
    return (
        isinstance(biases, Tensor)
        and biases.dim() == 4
        and biases.shape[0] in ((num_rows,) if biases.requires_grad else (1, num_rows))
        and biases.shape[2:] == ids.shape
    )


def _by_row(gradient: Tensor, ids: Tensor, num_rows: int) -> Formed:
    """(B, heads, Q, K) -> (B, num_rows, heads)."""
    looked_up = torch.nn.functional.one_hot(ids.flatten(), num_rows).to(gradient.dtype)
    return Formed((gradient.flatten(2) @ looked_up).mT)
