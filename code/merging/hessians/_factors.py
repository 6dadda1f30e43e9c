"""Second moments of the inputs and of the output gradients of linear layers: Gram matrices and K-FAC factors.

    A = (1 / M) sum over positions of a a^T       a = input of the layer, M positions that are no padding
    G = (1 / n) sum over positions of g g^T       g = gradient at its output, n examples

A (x) G is then the mean over examples of the Fisher block of the layer, as K-FAC approximates it (Martens and
Grosse, ICML 2015, arXiv:1503.05671, for positions as in Eschenhagen et al., NeurIPS 2023, arXiv:2311.00636).
A alone is what RegMean needs (Jin et al., ICLR 2023, arXiv:2212.09849); it takes no backward pass.

Conv2d: positions are output pixels, inputs the patches under them. A layer that is called several times, or
whose weight several layers share, sums over its calls.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from types import TracebackType
from typing import Any

import torch
from torch import Tensor, nn

from merging.errors import MergingError
from merging.hessians import _rules
from merging.hessians._per_example import (
    Batch,
    Cotangents,
    Scores,
    check_scores,
    examples_of,
    frozen,
    num_examples_of,
    refuse_coupled_examples,
)

_MASK = "attention_mask"
_NUM_PROBED = 3  # no length of anything that all examples share, or so we hope


class FactorSums:
    """Sums of a a^T and g g^T over the positions of all examples, for each weight of a linear layer.

    Weights keep the names of ``model.named_parameters()``; frozen ones are left out, and so are those that
    something else than linear layers uses, too (a head that is tied to the embedding).

    Attributes:
        inputs: sum of a a^T by weight, (i, i); float32, or float64 for a float64 model.
        outputs: sum of g g^T by weight, (o, o); empty for Gram matrices.
        num_positions: positions that were counted, by weight.
        num_examples: how many examples were added.
    """

    def __init__(self, model: nn.Module, scores: Scores, *, outputs: bool) -> None:
        """Prepare the sums.

        Args:
            model: in evaluation mode.
            scores: see :class:`merging.tasks.TaskType`.
            outputs: take G, too, which needs cotangents of the scores.

        Raises:
            MergingError: the model is in training mode, or no trainable weight belongs to a linear layer.
        """
        refuse_coupled_examples(model)
        self._model = model
        self._scores = scores
        self._layers, self._tied = _linear_layers(model)
        if not self._layers:
            raise MergingError(
                "the model has no trainable weight of a linear layer, so there are no factors to "
                "estimate. Take a diagonal (fisher_mc)."
            )
        self._per_example: set[tuple[nn.Module, int]] | None = None
        self._with_outputs = outputs
        self.inputs: dict[str, Tensor] = {}
        self.outputs: dict[str, Tensor] = {}
        for module, name in self._layers.items():
            num_outputs, num_inputs = _matrix_shape(module)
            self.inputs[name] = _zeros(module, num_inputs)
            if outputs:
                self.outputs[name] = _zeros(module, num_outputs)
        self.num_positions: Counter[str] = Counter()
        self.num_examples = 0

    @property
    def transposed(self) -> list[str]:
        """Weights that are stored as (inputs, outputs)."""
        return sorted({name for module, name in self._layers.items() if _rules.is_transposed(module)})

    @property
    def uncovered(self) -> list[str]:
        """Weights of linear layers without factors: never called with examples, or tied to something else."""
        never = {name for name in self.inputs if not self.num_positions[name]}
        return sorted(never | self._tied)

    def add(self, batch: Batch, cotangents: Cotangents) -> None:
        """Add the examples of a batch: any number, padded or not.

        Padding is where ``batch["attention_mask"]`` (B, R) is 0; it is left out wherever a layer's input is
        (B, R, ...) or (B R, ...). Without such a mask all positions count.

        Raises:
            MergingError: scores that are not finite.
        """
        self.prepare(batch)
        with frozen(parameter for parameter in self._model.parameters() if parameter.requires_grad):
            recording = self.watch(batch)
            with recording, torch.set_grad_enabled(self._with_outputs):
                scores = self._scores(self._model, batch)
            check_scores(scores)
            if self._with_outputs and scores.requires_grad:
                for cotangent in cotangents(scores.detach()):
                    with self.receiving(recording):
                        torch.autograd.grad(
                            scores, recording.roots, cotangent, retain_graph=True, allow_unused=True
                        )
        self.finish(batch, recording, ())

    # The parts of ``add``, for several sums that share a forward pass (``_passes``).

    needs_cotangents = False
    """Whether ``finish`` uses the cotangents."""

    def prepare(self, batch: Batch) -> None:
        """Find out from the first batch which calls are by example; later ones change nothing."""
        if self._per_example is None:
            with frozen(parameter for parameter in self._model.parameters() if parameter.requires_grad):
                self._per_example = self._probe(batch)

    def watch(self, batch: Batch) -> _Pass:
        """Return what watches one forward pass; it is entered while the model runs."""
        assert self._per_example is not None, "prepare comes first"
        return _Pass(self, num_examples_of(batch), _padding_mask(batch), self._per_example)

    def receiving(self, recording: _Pass) -> AbstractContextManager[None]:
        """Return a block in which one backward pass of the watched graph adds to the sums."""
        return recording.receiving()

    def finish(self, batch: Batch, recording: _Pass, cotangents: Sequence[Tensor]) -> None:
        """Count the examples."""
        self.num_examples += num_examples_of(batch)

    def means(self, *, outputs_by: str = "examples") -> dict[str, tuple[Tensor, Tensor | None]]:
        """Return (A, G) of each covered weight.

        Args:
            outputs_by: what G is divided by: "examples", or "positions" as r-three/mats does.
        """
        result: dict[str, tuple[Tensor, Tensor | None]] = {}
        for name, total in self.inputs.items():
            count = self.num_positions[name]
            if count:
                gradients = self.outputs.get(name)
                divisor = count if outputs_by == "positions" else self.num_examples
                result[name] = (
                    _symmetric(total / count),
                    None if gradients is None else _symmetric(gradients / divisor),
                )
        return result

    def _probe(self, batch: Batch) -> set[tuple[nn.Module, int]]:
        """Find the calls whose rows belong to examples; others, e.g. a table of positions, all share.

        The caller's batch may have one example, for which everything looks alike.
        """
        few = examples_of(batch, [0, *[num_examples_of(batch) - 1] * (_NUM_PROBED - 1)])
        calls: Counter[nn.Module] = Counter()
        found = set()

        def look(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Tensor) -> None:
            (a,) = (*args, *kwargs.values())
            if len(a) % _NUM_PROBED == 0:
                found.add((module, calls[module]))
            calls[module] += 1

        with self._watched(look), torch.no_grad():
            self._scores(self._model, few)
        return found

    @contextmanager
    def _watched(self, hook: Callable[..., Any]) -> Iterator[None]:
        handles = [module.register_forward_hook(hook, with_kwargs=True) for module in self._layers]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()


class _Pass:
    """One forward pass, and any number of backward passes through its graph."""

    def __init__(
        self,
        sums: FactorSums,
        num_examples: int,
        mask: Tensor | None,
        per_example: set[tuple[nn.Module, int]],
    ) -> None:
        self._sums = sums
        self._num_examples = num_examples
        self._mask = mask
        self._per_example = per_example
        self._calls: Counter[nn.Module] = Counter()
        self.roots: list[Tensor] = []
        """Leaves that the graph starts at; backward passes differentiate with respect to them."""
        self._is_receiving = False
        self._hooks = ExitStack()
        self._last: tuple[Tensor, int, Tensor] | None = None

    def __enter__(self) -> _Pass:
        self._hooks.enter_context(self._sums._watched(self._watch))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._hooks.close()

    def _watch(
        self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Tensor
    ) -> Tensor | None:
        """Forward hook: add a a^T, and see to it that g g^T is added in backward passes."""
        call = module, self._calls[module]
        self._calls[module] += 1
        if call not in self._per_example:
            return None
        (a,) = (*args, *kwargs.values())
        name = self._sums._layers[module]
        keep = self._kept(a)
        rows = _rows(_rules.linear_inputs(module, a.detach()), keep)
        self._sums.inputs[name] += self._gram(module, a, rows)
        self._sums.num_positions[name] += len(rows)
        if not self._sums._with_outputs:
            return None
        if not output.requires_grad:  # parameters are frozen, so the graph starts here
            root = output.detach().requires_grad_()
            self.roots.append(root)
            output = root.clone()  # a leaf may not be changed in place, and an activation may do that
        total = self._sums.outputs[name]

        def arrived(gradient: Tensor) -> None:
            if not self._is_receiving:  # a backward pass for somebody else's sums
                return
            g = _rows(_rules.linear_outputs(module, gradient), keep).to(total.dtype)
            total.addmm_(g.T, g)

        output.register_hook(arrived)  # type: ignore[no-untyped-call]
        return output

    @contextmanager
    def receiving(self) -> Iterator[None]:
        """Add the gradients of the one backward pass in the block."""
        self._is_receiving = True
        try:
            yield
        finally:
            self._is_receiving = False

    def _gram(self, module: nn.Module, a: Tensor, rows: Tensor) -> Tensor:
        """a^T a; queries, keys and values have one input, which is multiplied once."""
        has_patches = isinstance(module, nn.Conv2d)
        if not has_patches and self._last is not None:
            last, version, gram = self._last
            if last is a and version == a._version:
                return gram
        rows = rows.to(_rules.accumulator(rows.dtype))
        gram = rows.T @ rows
        if not has_patches:
            self._last = a, a._version, gram
        return gram

    def _kept(self, a: Tensor) -> Tensor | None:
        """Which rows of a layer's input are no padding, flat; None: all."""
        if self._mask is None or a.dim() > 3:
            return None
        flat = a.dim() == 2 and len(a) == self._mask.numel()
        by_position = a.shape[:2] == self._mask.shape and a.dim() == 3
        return self._mask.flatten() if flat or by_position else None


def _linear_layers(model: nn.Module) -> tuple[dict[nn.Module, str], set[str]]:
    """Linear modules with the model's name of their weight, and weights that are used otherwise, too."""
    names = {id(p): name for name, p in model.named_parameters() if p.requires_grad}
    layers, others = {}, set()
    for module in model.modules():
        for local, parameter in module.named_parameters(recurse=False):
            if id(parameter) in names:
                if local == "weight" and _rules.is_linear(module):
                    layers[module] = names[id(parameter)]
                else:
                    others.add(names[id(parameter)])
    tied = {name for name in layers.values() if name in others}
    grouped = {
        names[id(module.weight)]
        for module in model.modules()
        if isinstance(module, nn.Conv2d) and id(module.weight) in names and not _rules.is_linear(module)
    }
    return {module: name for module, name in layers.items() if name not in tied}, tied | grouped


def _matrix_shape(module: nn.Module) -> tuple[int, int]:
    """(o, i) of a linear module."""
    weight = module.get_parameter("weight")
    if _rules.is_transposed(module):
        return weight.shape[1], weight.shape[0]
    return weight.shape[0], weight[0].numel()


def _zeros(module: nn.Module, size: int) -> Tensor:
    weight = module.get_parameter("weight").detach()
    return weight.new_zeros(size, size, dtype=_rules.accumulator(weight.dtype))


def _padding_mask(batch: Mapping[str, Any]) -> Tensor | None:
    """(B, R), true where a position is no padding; None: there is no padding."""
    mask = batch.get(_MASK)
    if not isinstance(mask, Tensor) or mask.dim() != 2 or bool(mask.all()):
        return None
    return mask != 0


def _rows(values: Tensor, keep: Tensor | None) -> Tensor:
    """(B, ..., d) -> (rows, d)."""
    rows = values.reshape(-1, values.shape[-1])
    return rows if keep is None else rows[keep]


def _symmetric(matrix: Tensor) -> Tensor:
    """Undo what rounding does to symmetry."""
    return (matrix + matrix.T) / 2
