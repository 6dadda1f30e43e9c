"""TIES: trim, elect signs, merge what agrees (Yadav et al., NeurIPS 2023, arXiv:2306.01708).

    tau'_t = trim(theta_t - theta_0)         keeps the share ``density`` of largest magnitude, zeroes the rest
    s      = sign(sum_t w_t tau'_t)
    theta  = theta_0 + lambda merge(w_t tau'_t over the tasks with sign(w_t tau'_t) = s)

Two conventions, by ``flavour``. "global" (the authors): one threshold for each task over the whole model; it
is the (d - int(density d))-th smallest magnitude, and what equals it is kept; where the sum is 0, the sign is
that of the sum of all elected signs of the model, and negative if that is 0. "per_tensor" (mergekit): exactly
int(density n) elements of each parameter are kept, but at least one, of equal magnitudes the earlier ones; a
sum of 0 is positive. The mean divides by the number (or the sum of the weights) of the tasks that agree.

Special cases, tested: one task with density 1 returns its model; lambda = 0 is the base.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from merging import kernels
from merging.errors import OptionError
from merging.methods._signs import Election, MergeFunction, merge_agreeing, needs_norms, vote
from merging.methods._sparsify import check_share, l1_scales, tasks_of, weighted_vectors
from merging.methods._tasks import check_finite, per_task
from merging.methods._thresholds import Cut, largest, num_elements

if TYPE_CHECKING:
    from torch import Tensor

    from merging.methods._seam import Granularity, Parameter, Piece, Pieces


@dataclass(frozen=True, kw_only=True)
class Options:
    """What ``merge`` can be told."""

    density: float | Mapping[str, float] = 0.2
    """Share of the elements of a task vector that is kept; > 0 and <= 1, one for all tasks or by task."""
    scaling_factor: float = 1.0
    """lambda, by which the merged task vector is multiplied."""
    weights: float | Mapping[str, float] = 1.0
    """w_t: one value for all tasks, or one by task."""
    flavour: Literal["global", "per_tensor"] = "global"
    """Trim over the whole model, as the authors do, or each parameter for itself, as mergekit does."""
    merge_function: MergeFunction = "mean"
    """What becomes of the values that agree: their mean (mergekit: normalize), their sum, or the one that has
    the largest magnitude."""
    election: Election = "mass"
    """Elect the sign of the sum of the values x ("mass"), of their signs ("count"), of sign(x) x^2 / |x|^2
    ("normmass"), or the sign of the task with the largest x^2 / |x|^2 ("normfrac")."""
    rescale: Literal["none", "l1"] = "none"
    """"l1" gives each trimmed task vector the L1 norm that it had before; only per_tensor."""

    def __post_init__(self) -> None:
        check_share("ties: density", self.density)
        check_finite("ties: scaling_factor", self.scaling_factor)
        check_finite("ties: weights", self.weights)
        if self.rescale != "none" and self.flavour == "global":
            raise OptionError(
                f"ties: rescale must be 'none' for flavour 'global', got {self.rescale!r}. "
                "Pass flavour='per_tensor', or raise scaling_factor."
            )


@dataclass(frozen=True)
class Summary:
    """Of the whole model, for flavour "global"."""

    thresholds: Mapping[str, float]
    """Smallest magnitude that is kept, by task."""
    majority: int
    """Sign of the sum of all elected signs: -1, 0 or 1; elected where a sum is 0."""
    norms: Mapping[str, float]
    """L2 norm of what is kept times the weight, by task; empty for elections that don't need it."""


@dataclass(frozen=True)
class Measure:
    """Of one parameter, for flavour "per_tensor"."""

    cuts: Mapping[str, Cut]
    """What is kept, by task."""
    scales: Mapping[str, float]
    """L1 norm before trimming divided by that after, by task; empty without rescaling."""
    norms: Mapping[str, float]
    """L2 norm of what is kept, rescaled, times the weight, by task; as in ``Summary``."""


def granularity(options: Options) -> Granularity:
    """Thresholds are taken before; then elements stand alone."""
    return "elements"


def summarize(parameters: Pieces, options: Options) -> Summary | None:
    """Thresholds and the majority sign of flavour "global".

    Raises:
        OptionError: the density differs between parameters, which are trimmed together.
    """
    if options.flavour != "global":
        return None
    for piece in parameters:
        if piece.options.density != options.density:
            raise OptionError(
                f"ties: density must be the same for all parameters with flavour 'global', got "
                f"{piece.options.density} for {piece.parameter.name!r} and {options.density} for others. "
                "Pass flavour='per_tensor'."
            )
    cuts = _cuts(parameters, options)
    norms = _norms(parameters, options, cuts, {})

    def balance(piece: Piece) -> int:
        base, models = piece["base"], piece["models"]
        if _can_fuse(base, models, options):
            weights = per_task("ties: weights", piece.options.weights, models)
            kept = [cuts[task].kept(piece.parameter) for task in weights]
            return kernels.balance(base, [models[task] for task in weights], kept, list(weights.values()))
        vectors = (vector for _, vector in _trimmed(piece, cuts, {}))
        lengths = [norms[task] for task in sorted(norms)] if norms else None
        return int(vote(vectors, options.election, lengths).sign_().sum())

    majority = sum(parameters.map(balance)) if len(cuts) > 1 else 0
    thresholds = {task: cut.value for task, cut in cuts.items()}
    return Summary(thresholds=thresholds, majority=(majority > 0) - (majority < 0), norms=norms)


def measure(pieces: Pieces, options: Options) -> Measure | None:
    """Thresholds and norms of one parameter, for flavour "per_tensor"."""
    if options.flavour != "per_tensor":
        return None
    cuts = _cuts(pieces, options)
    scales = {}
    if options.rescale == "l1":
        scales = l1_scales(pieces, lambda task, vector, where: cuts[task].keep_(vector, where.start))
    return Measure(cuts=cuts, scales=scales, norms=_norms(pieces, options, cuts, scales))


def merge(
    base: Tensor,
    models: Mapping[str, Tensor],
    options: Options,
    summary: Summary | None,
    measure: Measure | None,
    parameter: Parameter,
) -> Tensor:
    """Merge one parameter, or a piece of it.

    Args:
        base: theta_0.
        models: theta_t by task, of the same shape.
        options: density, weights, conventions.
        summary: of the whole model; None for flavour "per_tensor".
        measure: of this parameter; None for flavour "global".
        parameter: where the piece begins.

    Returns:
        The merged parameter. Inputs are not modified.
    """
    weights = per_task("ties: weights", options.weights, models)
    if summary is not None:
        cuts = {task: Cut(value) for task, value in summary.thresholds.items()}
        scales: Mapping[str, float] = {}
        balanced, norms = 1 if summary.majority > 0 else -1, summary.norms
    else:
        assert measure is not None, "the engine gives what this file's measure returns"
        cuts, scales, balanced, norms = dict(measure.cuts), measure.scales, 1, measure.norms
    if _can_fuse(base, models, options):
        return kernels.merge_agreeing(
            base,
            [models[task] for task in weights],
            [cuts[task].kept(parameter, scales.get(task, 1.0)) for task in weights],
            list(weights.values()),
            is_mean=options.merge_function == "mean",
            balanced=balanced,
            scaling_factor=options.scaling_factor,
        )
    vectors = dict(weighted_vectors(weights, _trim(base, models, cuts, scales, parameter)))
    merged = merge_agreeing(
        vectors, weights, options.merge_function, election=options.election, norms=norms, balanced=balanced
    )
    return merged.mul_(options.scaling_factor).add_(base)


def _can_fuse(base: Tensor, models: Mapping[str, Tensor], options: Options) -> bool:
    """Whether :mod:`merging.kernels` has what the options ask for."""
    return (
        options.election == "mass"
        and options.merge_function != "max"
        and len(models) <= kernels.MAX_TASKS
        and kernels.can_fuse(base, *models.values())
    )


def _trim(
    base: Tensor,
    models: Mapping[str, Tensor],
    cuts: Mapping[str, Cut],
    scales: Mapping[str, float],
    parameter: Parameter,
) -> Callable[[str], Tensor]:
    """What gives the trimmed and rescaled task vector (or a piece of it) of a task."""

    def trimmed(task: str) -> Tensor:
        vector = cuts[task].keep_(models[task] - base, parameter.start)
        return vector.mul_(scales[task]) if scales else vector

    return trimmed


def _trimmed(
    piece: Piece, cuts: Mapping[str, Cut], scales: Mapping[str, float]
) -> Iterator[tuple[str, Tensor]]:
    """The weighted, trimmed and rescaled task vector of each task, sorted, one after another."""
    weights = per_task("ties: weights", piece.options.weights, cuts)
    trim = _trim(piece["base"], piece["models"], cuts, scales, piece.parameter)
    return weighted_vectors(weights, trim)


def _norms(
    pieces: Pieces, options: Options, cuts: Mapping[str, Cut], scales: Mapping[str, float]
) -> dict[str, float]:
    """L2 norms of what the tasks have after trimming, if the election needs them."""
    if not needs_norms(options.election):
        return {}

    def squares(piece: Piece) -> dict[str, float]:
        trimmed = _trimmed(piece, cuts, scales)
        return {task: float(vector.double().square_().sum()) for task, vector in trimmed}

    found = pieces.map(squares)
    return {task: sum(its[task] for its in found) ** 0.5 for task in cuts}


def _cuts(pieces: Pieces, options: Options) -> dict[str, Cut]:
    """What is kept of each task vector, of a parameter or of the whole model; one element at least."""
    total = num_elements(pieces)
    counts = {}
    for task, density in per_task("ties: density", options.density, tasks_of(pieces)).items():
        more = 1 if options.flavour == "global" else 0  # the authors' threshold is one of those that are kept
        counts[task] = [total if density == 1 else max(int(density * total) + more, 1)]
    with_ties = options.flavour == "global"
    return {task: cut for task, (cut,) in largest(pieces, counts, with_ties=with_ties).items()}
