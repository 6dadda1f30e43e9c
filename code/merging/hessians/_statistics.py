"""The sums of each statistic behind one face, under the names of the model's own files."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from torch import Tensor

from merging import models
from merging.errors import CheckpointError, MergingError
from merging.hessians._blocks import OuterProducts
from merging.hessians._factors import FactorSums
from merging.hessians._mask_nodes import MaskSquares
from merging.hessians._per_example import Batch, Cotangents, Scores, SquaredGradients
from merging.hessians.artifact import HEADS, INPUTS, NEURONS, OUTPUTS, Statistic
from merging.hessians.options import HessianOptions

if TYPE_CHECKING:
    import transformers

    from merging.files.checkpoints import Checkpoint


class Sums(ABC):
    """What an estimate adds batches to.

    Attributes:
        stored: parameters that the sums are about: shape by name in the model's files.
    """

    stored: Mapping[str, tuple[int, ...]]

    @property
    @abstractmethod
    def num_examples(self) -> int:
        """How many examples were added."""

    @abstractmethod
    def add(self, batch: Batch, cotangents: Cotangents) -> None:
        """Add the examples of a batch: any number, padded or not."""

    @abstractmethod
    def num_bytes(self) -> int:
        """Size of the tensors that will be stored."""

    @abstractmethod
    def tensors(self) -> dict[str, Tensor]:
        """The means, as ``artifact.py`` names them."""

    @abstractmethod
    def record(self) -> dict[str, Any]:
        """Fields of the record that only this statistic has."""


def open_sums(
    statistic: Statistic,
    network: transformers.PreTrainedModel,
    scores: Scores,
    options: HessianOptions,
    checkpoint: Checkpoint,
) -> Sums:
    """Prepare the sums of a statistic for a model in evaluation mode.

    Raises:
        CheckpointError: a parameter that the sums are about will not pair with a tensor of the model's files.
        MergingError: the model has nothing that this statistic is about, or is in training mode.
    """
    sums = _sums(statistic, network, scores, options)
    for name, shape in sums.stored.items():
        info = checkpoint.tensors.get(name)
        if info is None or info.shape != shape:
            there = "is missing" if info is None else f"is {info.shape}"
            raise CheckpointError(
                f"parameter {name!r} {shape} of the loaded model {there} in its files, so that "
                "a merge could not pair them. Load the model with transformers, save it with "
                "save_pretrained(folder), and use that folder."
            )
    return sums


def _sums(
    statistic: Statistic, network: transformers.PreTrainedModel, scores: Scores, options: HessianOptions
) -> Sums:
    match statistic:
        case "diagonal":
            return _Diagonal(network, scores)
        case "gram" | "kfac":
            return _Factors(network, scores, options, outputs=statistic == "kfac")
        case "block":
            return _Blocks(network, scores)
        case "mask_nodes":
            return _MaskNodes(network, scores)


class _Diagonal(Sums):
    """Squared gradients."""

    def __init__(self, network: transformers.PreTrainedModel, scores: Scores) -> None:
        self._network = network
        self._squares = SquaredGradients(network, scores)
        self.stored = {name: tuple(total.shape) for name, total in self._renamed(self._squares.sums).items()}

    @property
    def num_examples(self) -> int:
        return self._squares.num_examples

    def add(self, batch: Batch, cotangents: Cotangents) -> None:
        self._squares.add(batch, cotangents)

    def num_bytes(self) -> int:
        return sum(4 * total.numel() for total in self._squares.sums.values())

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
        self, network: transformers.PreTrainedModel, scores: Scores, options: HessianOptions, *, outputs: bool
    ) -> None:
        self._sums = FactorSums(network, scores, outputs=outputs)
        self._by = "positions" if options.kfac_scale == "reference" else "examples"
        self._names = _stored_names(network)
        shapes = {name: tuple(parameter.shape) for name, parameter in network.named_parameters()}
        self.stored = {self._names[name]: shapes[name] for name in self._sums.inputs if name in self._names}

    @property
    def num_examples(self) -> int:
        return self._sums.num_examples

    def add(self, batch: Batch, cotangents: Cotangents) -> None:
        self._sums.add(batch, cotangents)

    def num_bytes(self) -> int:
        return sum(
            4 * total.numel() for part in (self._sums.inputs, self._sums.outputs) for total in part.values()
        )

    def tensors(self) -> dict[str, Tensor]:
        tensors = {}
        for name, (inputs, outputs) in self._sums.means(outputs_by=self._by).items():
            if name in self._names:
                tensors[self._names[name] + INPUTS] = inputs
                if outputs is not None:
                    tensors[self._names[name] + OUTPUTS] = outputs
        return tensors

    def record(self) -> dict[str, Any]:
        return {
            "transposed": tuple(
                sorted(self._names[name] for name in self._sums.transposed if name in self._names)
            ),
            "num_positions": {
                self._names[name]: count
                for name, count in sorted(self._sums.num_positions.items())
                if count and name in self._names
            },
            "uncovered": tuple(
                sorted(
                    {self._names.get(name, name) for name in self._sums.uncovered}
                    | (self._sums.inputs.keys() - self._names.keys())
                )
            ),
        }


class _Blocks(Sums):
    """Full curvatures of vectors."""

    def __init__(self, network: transformers.PreTrainedModel, scores: Scores) -> None:
        self._products = OuterProducts(network, scores)
        self._names = _stored_names(network)
        shapes = self._products.shapes
        self.stored = {self._names[name]: shapes[name] for name in shapes if name in self._names}

    @property
    def num_examples(self) -> int:
        return self._products.num_examples

    def add(self, batch: Batch, cotangents: Cotangents) -> None:
        self._products.add(batch, cotangents)

    def num_bytes(self) -> int:
        return sum(4 * total.numel() for total in self._products.sums.values())

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
        self._squares = MaskSquares(network, scores, num_heads=num_heads)

    @property
    def num_examples(self) -> int:
        return self._squares.num_examples

    def add(self, batch: Batch, cotangents: Cotangents) -> None:
        self._squares.add(batch, cotangents)

    def num_bytes(self) -> int:
        return 4 * (self._squares.heads.numel() + self._squares.neurons.numel())

    def tensors(self) -> dict[str, Tensor]:
        return {
            HEADS: self._squares.heads / self.num_examples,
            NEURONS: self._squares.neurons / self.num_examples,
        }

    def record(self) -> dict[str, Any]:
        return {}


def _stored_names(network: transformers.PreTrainedModel) -> dict[str, str]:
    """Names in the loaded model -> in its files, for parameters that are stored as they are.

    Those that are split or joined when they are stored have no factors that a merge could pair.
    """
    parameters = {name: parameter.detach() for name, parameter in network.named_parameters()}
    stored = {id(tensor): name for name, tensor in models.as_stored(network, parameters).items()}
    return {name: stored[id(tensor)] for name, tensor in parameters.items() if id(tensor) in stored}
