"""Fisher Mask Nodes (Thennal et al., LREC-COLING 2024, arXiv:2403.09891).

    theta = sum_t w_t theta_t / sum_t w_t          the base model takes no part

with weights from Fishers of masks, f_t[l, j] of head j and g_t[l, j] of intermediate neuron j of layer l:

    query and key, rows and biases of head j           f_t[l, j]
    the rest of attention, with its norm               mean_j f_t[l, j]
    first feedforward matrix, row and bias j           g_t[l, j]
    the rest of feedforward, with its norm             mean_j g_t[l, j]
    outside of the layers (embeddings, pooler)         mean_l (mean_j f_t[l, j] + mean_j g_t[l, j])

A key head that several query heads share has the mean of theirs. To f_t and g_t of each task ``floor`` times
their mean is added; a node about which no task knows anything is averaged. Special case, tested: equal
Fishers are the average. The Fishers are numbers of the whole model; weights are per row.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from merging.errors import CheckpointError
from merging.methods._node_roles import Place, place
from merging.methods._tasks import check_finite

if TYPE_CHECKING:
    from torch import Tensor

    from merging.methods._seam import Granularity, MaskFisher, Parameter, Pieces
    from merging.methods._weights import Watch


@dataclass(frozen=True, kw_only=True)
class Options:
    """What ``merge`` can be told."""

    floor: float = 1e-6
    """What is added to a task's Fishers, >= 0, in units of their mean, for heads and neurons apart."""
    universal: bool = True
    """Weigh what is outside of the layers; without it, that is averaged."""
    parity: bool = False
    """Compute as the authors' code does: add one model after another to the sum of those before; a node that
    is 0 in both of them becomes 1 in both; no floor. Without ``universal``, the first two models' parameters
    outside of the layers are summed, not averaged."""

    def __post_init__(self) -> None:
        check_finite("fisher_mask_nodes: floor", self.floor, low=0.0)


@dataclass(frozen=True)
class Summary:
    """Of the whole model."""

    query_rows: int = 0
    """Rows of each query matrix, which tell how large a head is; 0 where query, key and value are fused."""


def granularity(options: Options) -> Granularity:
    """Weights are by row."""
    return "rows"


def needs_layout(options: Options) -> bool:
    """Rows are columns where a parameter is stored transposed."""
    return True


def summarize(parameters: Pieces, options: Options) -> Summary:
    """Look up the size of the query matrices; reads no tensor.

    Raises:
        CheckpointError: it differs between layers.
    """
    rows = {piece.parameter.shape[0] for piece in parameters if place(piece.parameter.name).role == "query"}
    if len(rows) > 1:
        raise CheckpointError(
            f"fisher_mask_nodes: query matrices must have one number of rows in all layers, got "
            f"{sorted(rows)}; masks are kept by (layers, heads)."
        )
    return Summary(query_rows=next(iter(rows), 0))


def merge(
    models: Mapping[str, Tensor],
    mask_fishers: Mapping[str, MaskFisher],
    parameter: Parameter,
    options: Options,
    summary: Summary,
    watch: Watch | None = None,
) -> Tensor:
    """Merge rows of one parameter.

    Args:
        models: theta_t by task, of one shape; rows of a parameter, or all of it.
        mask_fishers: Fishers of heads and neurons by task, >= 0.
        parameter: its name, which tells where in the network it is, and which rows these are.
        options: floor.
        summary: size of the query matrices.
        watch: is told the weights of each task's model.

    Returns:
        The merged rows. Inputs are not modified.

    Raises:
        CheckpointError: the Fishers do not fit the parameter.
        OptionError: the parameter is in an unknown part of a layer.
    """
    import torch

    tasks = sorted(models)
    where = place(parameter.name)
    fishers = [_in_float64(mask_fishers[task]) for task in tasks]
    units = [_num_units(fisher, where, parameter, summary) for fisher in fishers]
    if len(set(units)) > 1:
        raise CheckpointError(f"mask_fishers: numbers of nodes differ between the tasks {tasks}: {units}.")

    def weigh(fisher: MaskFisher) -> Tensor:
        return _weights(fisher, where, units[0])

    merged = torch.zeros_like(models[tasks[0]])
    for task, share in zip(tasks, shares(fishers, weigh, where, options), strict=True):
        weight = _by_row(share, parameter, merged.shape).to(merged)
        merged.addcmul_(models[task], weight)
        if watch is not None:
            watch(task, weight)
    return merged


def shares(
    fishers: Sequence[MaskFisher], weigh: Callable[[MaskFisher], Tensor], where: Place, options: Options
) -> Tensor:
    """w_t / sum_t w_t, (tasks, units).

    Args:
        fishers: of the tasks in their order, float64.
        weigh: gives the weights of all units of a parameter, (units,).
        where: in which part of the network it is.
        options: floor, and how sums are taken.
    """
    import torch

    alike = where.role == "outside" and not options.universal
    if options.parity:
        return _one_after_another(fishers, weigh, summed=alike)
    weights = torch.stack([weigh(_floored(fisher, options.floor)) for fisher in fishers])
    if alike:
        weights = torch.ones_like(weights)
    total = weights.sum(0)
    return torch.where(total > 0, weights / total, 1 / len(fishers))


def _one_after_another(
    fishers: Sequence[MaskFisher], weigh: Callable[[MaskFisher], Tensor], *, summed: bool
) -> Tensor:
    """The shares when models are added in turn; with ``summed``, the first two are not divided."""
    import torch

    total, *others = fishers
    found = [torch.ones_like(weigh(total))]
    for number, fisher in enumerate(others):
        nobody = (total.heads + fisher.heads == 0, total.neurons + fisher.neurons == 0)
        total, fisher = (
            replace(its, heads=its.heads + nobody[0], neurons=its.neurons + nobody[1])
            for its in (total, fisher)
        )
        old, new = weigh(total), weigh(fisher)
        if summed and number == 0:
            found.append(found[0])
        else:
            found = [share * old / (old + new) for share in found] + [new / (old + new)]
        total = replace(total, heads=total.heads + fisher.heads, neurons=total.neurons + fisher.neurons)
    return torch.stack(found)


def _weights(fisher: MaskFisher, where: Place, num_units: int) -> Tensor:
    """w_t of the units of a parameter: groups of as many rows each; (units,)."""
    import torch

    if where.role == "outside":
        return (fisher.heads.mean() + fisher.neurons.mean()).reshape(1)
    heads, neurons = fisher.heads[where.layer], fisher.neurons[where.layer]
    if where.role == "neurons":
        return neurons
    if where.role == "feedforward":
        return neurons.mean().reshape(1)
    if where.role == "attention":
        return heads.mean().reshape(1)
    if where.role == "fused":
        return torch.cat([heads, heads, heads.mean().expand(len(heads))])
    return heads.reshape(num_units, -1).mean(1)  # a head of keys has the mean of its query heads


def _num_units(fisher: MaskFisher, where: Place, parameter: Parameter, summary: Summary) -> int:
    """Of how many groups of rows a parameter consists, each with a weight of its own.

    Raises:
        CheckpointError: the Fishers do not fit the parameter.
    """
    if where.role == "outside":
        return 1
    (num_layers, num_heads), num_neurons = fisher.heads.shape, fisher.neurons.shape[1]
    rows = _num_rows(parameter)
    fits = where.layer < min(num_layers, len(fisher.neurons))
    if where.role in ("attention", "feedforward"):
        units = 1
    elif where.role == "neurons":
        units = num_neurons
        fits &= rows == units
    elif where.role == "fused":
        units = 3 * num_heads
        fits &= rows % units == 0
    else:
        query_rows = summary.query_rows if where.role == "key" and summary.query_rows else rows
        units = rows * num_heads // query_rows
        fits &= units > 0 and rows * num_heads % query_rows == 0
        fits = fits and rows % units == 0 and num_heads % units == 0
    if not fits:
        raise CheckpointError(
            f"mask_fishers: heads {tuple(fisher.heads.shape)} and neurons {tuple(fisher.neurons.shape)} do "
            f"not fit {parameter.name!r} of shape {parameter.shape}. Estimate them for this model."
        )
    return units


def _num_rows(parameter: Parameter) -> int:
    """Outputs of the layer that a parameter belongs to."""
    return parameter.shape[-1 if parameter.transposed else 0]


def _by_row(share: Tensor, parameter: Parameter, shape: Sequence[int]) -> Tensor:
    """Weights by unit, in a shape that multiplies these rows of a parameter."""
    if len(share) == 1:
        return share.reshape(())
    by_row = share.repeat_interleave(_num_rows(parameter) // len(share))
    if parameter.transposed or len(shape) == 1:
        return by_row
    first = parameter.start // math.prod(parameter.shape[1:])
    return by_row[first : first + shape[0]].reshape(-1, *[1] * (len(shape) - 1))


def _floored(fisher: MaskFisher, floor: float) -> MaskFisher:
    """What the floor makes of the Fishers of one task."""
    heads, neurons = fisher.heads, fisher.neurons
    return replace(fisher, heads=heads + floor * heads.mean(), neurons=neurons + floor * neurons.mean())


def _in_float64(fisher: MaskFisher) -> MaskFisher:
    return replace(fisher, heads=fisher.heads.double(), neurons=fisher.neurons.double())
