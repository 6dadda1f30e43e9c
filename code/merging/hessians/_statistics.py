"""The sums of each statistic behind one face, under the names of the model's own files."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from torch import Tensor

from merging import models
from merging.errors import CheckpointError, MergingError
from merging.hessians._blocks import OuterProducts
from merging.hessians._factors import FactorSums
from merging.hessians._mask_nodes import MaskSquares
from merging.hessians._passes import Member
from merging.hessians._per_example import Scores, SquaredGradients
from merging.hessians.artifact import HEADS, INPUTS, NEURONS, OUTPUTS, Statistic
from merging.hessians.options import HessianOptions

if TYPE_CHECKING:
    import transformers

    from merging.hessians import Estimator
    from merging.sources import Source

_NOT_STORED = "the model's files do not hold it"


class Sums(ABC):
    """What an estimate adds batches to.

    Attributes:
        member: takes part in passes; several statistics may share one.
        stored: parameters that the sums are about: shape by name in the model's files.
    """

    member: Member
    stored: Mapping[str, tuple[int, ...]]

    @property
    def num_examples(self) -> int:
        """How many examples were added."""
        return self.member.num_examples

    def num_bytes(self) -> int:
        """Size of the tensors that will be stored, at most."""
        return sum(4 * total.numel() for total in self.totals().values())

    @abstractmethod
    def totals(self) -> dict[str, Tensor]:
        """The running sums themselves, not copies, by any name; with ``counts``, all that batches change."""

    def counts(self) -> list[int]:
        """How many examples, and what else was counted, in an order that depends on the model only."""
        return [self.num_examples]

    def set_counts(self, counts: Sequence[int]) -> None:
        """Put back what ``counts`` gave."""
        (self.member.num_examples,) = counts

    @abstractmethod
    def tensors(self) -> dict[str, Tensor]:
        """The means, as ``artifact.py`` names them."""

    def divisors(self) -> dict[str, int]:
        """By what each of ``tensors`` was divided, where that is not the number of examples."""
        return {}

    @abstractmethod
    def record(self) -> dict[str, Any]:
        """Fields of the record that only this statistic has."""


def open_sums(
    methods: Mapping[str, Estimator],
    network: transformers.PreTrainedModel,
    scores: Scores,
    options: HessianOptions,
    source: Source,
) -> dict[str, Sums]:
    """Prepare the sums of each estimator for a model in evaluation mode.

    Gram matrices are the input side of K-FAC factors; where both are asked for, they are summed once.

    Args:
        methods: estimators by name.
        network: the model.
        scores: see :class:`merging.tasks.TaskType`.
        options: of the estimate.
        source: the model's files.

    Raises:
        CheckpointError: a parameter that the sums are about will not pair with a tensor of the model's files.
        MergingError: the model has nothing that a statistic is about, or is in training mode.
    """
    found = {
        name: _sums(method.STATISTIC, network, scores, options)
        for name, method in methods.items()
        if method.STATISTIC != "gram"
    }
    factors = None
    if not options.kfac_bias and options.kfac_sharing == "expand":  # else inputs are no Gram matrices
        factors = next((sums for sums in found.values() if isinstance(sums, _Factors)), None)
    for name, method in methods.items():
        if method.STATISTIC == "gram":
            shared = None if factors is None else factors.inputs_only()
            found[name] = shared or _sums("gram", network, scores, options)
    for sums in found.values():
        _check_stored(sums.stored, source)
    return {name: found[name] for name in methods}


def _check_stored(stored: Mapping[str, tuple[int, ...]], source: Source) -> None:
    for name, shape in stored.items():
        info = source.tensors.get(name)
        if info is None or info.shape != shape:
            there = "is missing" if info is None else f"is {info.shape}"
            raise CheckpointError(
                f"parameter {name!r} {shape} of the loaded model {there} in its files, so that "
                "a merge could not pair them. Load the model with transformers, save it with "
                "save_pretrained(folder), and use that folder."
            )


def members_of(sums: Iterable[Sums]) -> list[Member]:
    """Whatever takes part in passes, each once."""
    return list({id(its.member): its.member for its in sums}.values())


def _sums(
    statistic: Statistic, network: transformers.PreTrainedModel, scores: Scores, options: HessianOptions
) -> Sums:
    match statistic:
        case "diagonal":
            return _Diagonal(network, scores)
        case "gram" | "kfac":
            is_kfac = statistic == "kfac"
            sums = FactorSums(
                network,
                scores,
                outputs=is_kfac,
                with_bias=is_kfac and options.kfac_bias,
                reduce=is_kfac and options.kfac_sharing == "reduce",
            )
            return _Factors(sums, network, options)
        case "block":
            return _Blocks(network, scores)
        case "mask_nodes":
            return _MaskNodes(network, scores)


class _Diagonal(Sums):
    """Squared gradients."""

    def __init__(self, network: transformers.PreTrainedModel, scores: Scores) -> None:
        self._network = network
        self.member = self._squares = SquaredGradients(network, scores)
        weights = {name: p.detach() for name, p in network.named_parameters() if p.requires_grad}
        self.stored = {name: tuple(weight.shape) for name, weight in self._renamed(weights).items()}

    def totals(self) -> dict[str, Tensor]:
        return dict(self._squares.sums)

    def tensors(self) -> dict[str, Tensor]:
        sums = self._squares.sums
        return self._renamed({name: total / self.num_examples for name, total in sums.items()})

    def record(self) -> dict[str, Any]:
        return {"by_vmap": tuple(self._squares.by_vmap), "by_loop": tuple(self._squares.by_loop)}

    def _renamed(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return models.as_stored(self._network, tensors)


class _Factors(Sums):
    """Gram matrices and K-FAC factors."""

    def __init__(
        self, sums: FactorSums, network: transformers.PreTrainedModel, options: HessianOptions
    ) -> None:
        self.member = self._sums = sums
        self._is_view = False
        self._network = network
        self._options = options
        self._by = "positions" if options.kfac_scale == "reference" else "examples"
        self._names = _stored_names(network)
        shapes = {name: tuple(parameter.shape) for name, parameter in network.named_parameters()}
        self.stored = {self._names[name]: shapes[name] for name in sums.inputs if name in self._names}

    def inputs_only(self) -> _Factors:
        """The Gram matrices among these factors, on the same sums."""
        view = _Factors(self._sums, self._network, self._options)
        view._is_view = True
        return view

    def num_bytes(self) -> int:
        parts = [self._sums.inputs] if self._is_view else [self._sums.inputs, self._sums.outputs]
        return sum(4 * total.numel() for part in parts for total in part.values())

    def totals(self) -> dict[str, Tensor]:
        if self._is_view:  # who owns the sums has them
            return {}
        inputs = {name + INPUTS: total for name, total in self._sums.inputs.items()}
        return inputs | {name + OUTPUTS: total for name, total in self._sums.outputs.items()}

    def counts(self) -> list[int]:
        positions = self._sums.num_positions
        return [] if self._is_view else [self.num_examples, *(positions[name] for name in self._sums.inputs)]

    def set_counts(self, counts: Sequence[int]) -> None:
        if not self._is_view:
            self.member.num_examples, *positions = counts
            for name, count in zip(self._sums.inputs, positions, strict=True):
                self._sums.num_positions[name] = count

    def tensors(self) -> dict[str, Tensor]:
        tensors = {}
        for name, (inputs, outputs) in self._sums.means(outputs_by=self._by).items():
            if name in self._names:
                tensors[self._names[name] + INPUTS] = inputs
                if outputs is not None and not self._is_view:
                    tensors[self._names[name] + OUTPUTS] = outputs
        return tensors

    def divisors(self) -> dict[str, int]:
        parts = [INPUTS, OUTPUTS] if self._by == "positions" else [INPUTS]
        return {
            stored + part: self._sums.num_positions[name]
            for name, stored in self._names.items()
            for part in parts
            if name in self._sums.inputs
        }

    def record(self) -> dict[str, Any]:
        return {
            "transposed": tuple(
                sorted(self._names[name] for name in self._sums.transposed if name in self._names)
            ),
            "biases": {
                self._names[weight]: self._names.get(bias, bias)
                for weight, bias in sorted(self._sums.biases.items())
                if weight in self._names
            },
            "num_positions": {
                self._names[name]: count
                for name, count in sorted(self._sums.num_positions.items())
                if count and name in self._names
            },
            "uncovered": dict(
                sorted(
                    {
                        **dict.fromkeys(self._sums.inputs.keys() - self._names.keys(), _NOT_STORED),
                        **{self._names.get(name, name): why for name, why in self._sums.uncovered.items()},
                    }.items()
                )
            ),
        }


class _Blocks(Sums):
    """Full curvatures of vectors."""

    def __init__(self, network: transformers.PreTrainedModel, scores: Scores) -> None:
        self.member = self._products = OuterProducts(network, scores)
        self._names = _stored_names(network)
        shapes = self._products.shapes
        self.stored = {self._names[name]: shapes[name] for name in shapes if name in self._names}

    def totals(self) -> dict[str, Tensor]:
        return dict(self._products.sums)

    def tensors(self) -> dict[str, Tensor]:
        return {
            self._names[name]: total / self.num_examples
            for name, total in self._products.sums.items()
            if name in self._names
        }

    def record(self) -> dict[str, Any]:
        return {"by_vmap": tuple(self._products.by_vmap), "by_loop": tuple(self._products.by_loop)}


class _MaskNodes(Sums):
    """Fishers of masks on heads and neurons."""

    stored: Mapping[str, tuple[int, ...]] = {}

    def __init__(self, network: transformers.PreTrainedModel, scores: Scores) -> None:
        num_heads = getattr(network.config, "num_attention_heads", None)
        if num_heads is None:
            raise MergingError(
                f"mask_nodes: the config of {type(network).__name__} names no num_attention_heads, and "
                "masks are of heads and neurons. Take a diagonal (fisher_mc) and merge by fisher."
            )
        self.member = self._squares = MaskSquares(network, scores, num_heads=num_heads)

    def totals(self) -> dict[str, Tensor]:
        return {HEADS: self._squares.heads, NEURONS: self._squares.neurons}

    def tensors(self) -> dict[str, Tensor]:
        return {name: total / self.num_examples for name, total in self.totals().items()}

    def record(self) -> dict[str, Any]:
        return {}


def _stored_names(network: transformers.PreTrainedModel) -> dict[str, str]:
    """Names in the loaded model -> in its files, for parameters that are stored as they are.

    Those that are split or joined when they are stored have no factors that a merge could pair.
    """
    parameters = {name: parameter.detach() for name, parameter in network.named_parameters()}
    stored = {id(tensor): name for name, tensor in models.as_stored(network, parameters).items()}
    return {name: stored[id(tensor)] for name, tensor in parameters.items() if id(tensor) in stored}
