"""Second moments of the inputs and of the output gradients of linear layers: Gram matrices and K-FAC factors.

    A = (1 / M) sum over positions of a a^T       a = input of the layer, M positions that are no padding
    G = (1 / n) sum over positions of g g^T       g = gradient at its output, n examples

A (x) G is then the mean over examples of the Fisher block of the layer, as K-FAC approximates it (Martens and
Grosse, ICML 2015, arXiv:1503.05671). A alone is what RegMean needs (Jin et al., ICLR 2023,
arXiv:2212.09849); it takes no backward pass. This is K-FAC "expand" of Eschenhagen et al. (NeurIPS 2023,
arXiv:2311.00636), where positions count as if they were examples. Their "reduce" takes one pair of vectors of
each example,

    a = mean over its positions that are no padding,    g = sum over them,    M = n

In homogeneous coordinates a is followed by a 1: A is then of the weight and the bias together.

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
from merging.hessians._second_moments import add_second_moments, mirrored, without_zero_rows

_CallId = tuple[nn.Module, int]
"""A layer, and how many times it was called before in the same forward pass."""
_MASKS = ("attention_mask", "decoder_attention_mask")
"""Of the inputs and of the targets: (B, R), or (B, K, R) where an example is K texts."""
NEVER = "no example reaches it"
TIED = "something else uses it, too"
GROUPED = "a convolution with groups has a matrix for each of them"
PADDED = "a convolution with such padding has no rule"
_NUM_PROBED = 3  # no length of anything that all examples share, or so we hope


class FactorSums:
    """Sums of a a^T and g g^T over the positions of all examples, for each weight of a linear layer.

    Weights keep the names of ``model.named_parameters()``; frozen ones are left out, and so are those that
    something else than linear layers uses, too (a head that is tied to the embedding).

    Attributes:
        inputs: sum of a a^T by weight, (i, i), with the bias (i + 1, i + 1); only the upper triangle counts.
            float32, or float64 for a float64 model.
        outputs: sum of g g^T by weight, (o, o), likewise; empty for Gram matrices.
        biases: the bias that stands last in ``inputs``, by weight; empty without homogeneous coordinates.
        num_positions: vectors a that were counted, by weight.
        num_examples: how many examples were added.
    """

    def __init__(
        self,
        model: nn.Module,
        scores: Scores,
        *,
        outputs: bool,
        with_bias: bool = False,
        reduce: bool = False,
    ) -> None:
        """Prepare the sums.

        Args:
            model: in evaluation mode.
            scores: see :class:`merging.tasks.TaskType`.
            outputs: take G, too, which needs cotangents of the scores.
            with_bias: homogeneous coordinates, for layers whose bias is trainable and theirs alone.
            reduce: one pair of vectors of each example instead of one of each position.

        Raises:
            MergingError: the model is in training mode, or no trainable weight belongs to a linear layer.
        """
        refuse_coupled_examples(model)
        self._model = model
        self._scores = scores
        self._layers, self._without = _linear_layers(model)
        if not self._layers:
            raise MergingError(
                "the model has no trainable weight of a linear layer, so there are no factors to "
                "estimate. Take a diagonal (fisher_mc)."
            )
        self._per_example: set[_CallId] | None = None
        self._roles: dict[_CallId, str] = {}
        self._shared: set[_CallId] = set()
        self._with_outputs = outputs
        self._reduce = reduce
        self.biases = _own_biases(model, self._layers) if with_bias else {}
        self.inputs: dict[str, Tensor] = {}
        self.outputs: dict[str, Tensor] = {}
        for module, name in self._layers.items():
            num_outputs, num_inputs = _matrix_shape(module)
            self.inputs[name] = _zeros(module, num_inputs + (name in self.biases))
            if outputs:
                self.outputs[name] = _zeros(module, num_outputs)
        self.num_positions: Counter[str] = Counter()
        self.num_examples = 0

    @property
    def transposed(self) -> list[str]:
        """Weights that are stored as (inputs, outputs)."""
        return sorted({name for module, name in self._layers.items() if _rules.is_transposed(module)})

    @property
    def uncovered(self) -> dict[str, str]:
        """Weights of linear layers and convolutions without factors, and why they have none."""
        never = {name: NEVER for name in self.inputs if not self.num_positions[name]}
        return dict(sorted({**self._without, **never}.items()))

    def add(self, batch: Batch, cotangents: Cotangents) -> None:
        """Add the examples of a batch: any number, padded or not.

        Padding is where ``batch["attention_mask"]`` (B, R) is 0, in layers that see targets where
        ``batch["decoder_attention_mask"]`` is; it is left out wherever a layer's input is (B, R, ...) or
        (B R, ...). Without such masks all positions count.

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
        """Learn from the first batch how the model calls its layers; later ones change nothing."""
        if self._per_example is None:
            with frozen(parameter for parameter in self._model.parameters() if parameter.requires_grad):
                self._per_example = self._probe(batch)

    def watch(self, batch: Batch) -> _Pass:
        """Return what watches one forward pass; it is entered while the model runs."""
        assert self._per_example is not None, "prepare comes first"
        masks = {name: mask for name, mask in _masks(batch).items() if not bool(mask.all())}
        return _Pass(self, num_examples_of(batch), masks, self._per_example)

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
                    mirrored(total / count),
                    None if gradients is None else mirrored(gradients / divisor),
                )
        return result

    def _probe(self, batch: Batch) -> set[_CallId]:
        """Find the calls whose rows belong to examples; others, e.g. a table of positions, all share.

        The caller's batch may have one example, for which everything looks alike. On the way, notes which
        mask is that of a call, and which calls in a row have one input: queries, keys and values.
        """
        few = _of_two_lengths(examples_of(batch, [0, *[num_examples_of(batch) - 1] * (_NUM_PROBED - 1)]))
        masks = _masks(few)
        calls: Counter[nn.Module] = Counter()
        found: set[_CallId] = set()
        last: list[tuple[Tensor, _CallId]] = []

        def look(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Tensor) -> None:
            (a,) = (*args, *kwargs.values())
            call = module, calls[module]
            calls[module] += 1
            if len(a) % _NUM_PROBED == 0:
                found.add(call)
            for name, mask in masks.items():
                if _fits(a, mask):
                    self._roles[call] = name
            if isinstance(module, nn.Conv2d):  # the patches may be others
                last.clear()
                return
            self._shared.update(its for before, other in last if before is a for its in (other, call))
            last[:] = [(a, call)]

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
        masks: Mapping[str, Tensor],
        per_example: set[_CallId],
    ) -> None:
        self._sums = sums
        self._num_examples = num_examples
        self._masks = masks
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
        self._last = None  # hooks of the graph hold this object, which must not hold the graph

    def _watch(
        self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Tensor
    ) -> Tensor | None:
        """Forward hook: add a a^T, and see to it that g g^T is added in backward passes."""
        call = module, self._calls[module]
        self._calls[module] += 1
        if call not in self._per_example:
            return None
        (a,) = (*args, *kwargs.values())
        keep = self._kept(call, a)
        self._add_inputs(call, a, keep)
        if not self._sums._with_outputs:
            return None
        if not output.requires_grad:  # parameters are frozen, so the graph starts here
            root = output.detach().requires_grad_()
            self.roots.append(root)
            output = root.clone()  # a leaf may not be changed in place, and an activation may do that
        total = self._sums.outputs[self._sums._layers[module]]

        def arrived(gradient: Tensor) -> None:
            if not self._is_receiving:  # a backward pass for somebody else's sums
                return
            g = _rules.linear_outputs(module, gradient)
            vectors = self._summed(g, keep)[0] if self._sums._reduce else _rows(g, keep)
            add_second_moments(total, without_zero_rows(vectors).to(total.dtype))

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

    def _add_inputs(self, call: _CallId, a: Tensor, keep: Tensor | None) -> None:
        """Add a a^T; queries, keys and values have one input, which is multiplied once."""
        sums, name = self._sums, self._sums._layers[call[0]]
        total = sums.inputs[name]
        vectors = _rules.linear_inputs(call[0], a.detach())
        if sums._reduce:
            added, counts = self._summed(vectors, keep)
            vectors = added / counts
        else:
            vectors = _rows(vectors, keep)
        vectors, size = vectors.to(total.dtype), vectors.shape[-1]
        if call not in sums._shared:
            add_second_moments(total[:size, :size], vectors)
        else:
            if self._last is None or self._last[0] is not a or self._last[1] != a._version:
                moments = torch.zeros_like(total[:size, :size])
                add_second_moments(moments, vectors)
                self._last = a, a._version, moments
            total[:size, :size] += self._last[2]
        if name in sums.biases:
            total[:size, size] += vectors.sum(0)
            total[size, size] += len(vectors)
        sums.num_positions[name] += len(vectors)

    def _summed(self, values: Tensor, keep: Tensor | None) -> tuple[Tensor, Tensor]:
        """(B n, ..., d) -> (B, d) sums over positions of each example that are no padding, (B, 1) counts."""
        values = values.reshape(self._num_examples, -1, values.shape[-1])
        wide = _rules.accumulator(values.dtype)
        if keep is None:
            count = torch.full((len(values), 1), values.shape[1], dtype=wide, device=values.device)
            return values.sum(1, dtype=wide), count
        weights = keep.reshape(len(values), 1, -1).to(wide)
        return (weights @ values.to(wide)).squeeze(1), weights.sum(2).clamp(min=1)

    def _kept(self, call: _CallId, a: Tensor) -> Tensor | None:
        """Which rows of a layer's input are no padding, flat; None: all."""
        mask = self._masks.get(self._sums._roles.get(call, ""))
        return mask.flatten() if mask is not None and _fits(a, mask) else None


def _linear_layers(model: nn.Module) -> tuple[dict[nn.Module, str], dict[str, str]]:
    """Linear modules by the name of their weight; and weights that have no factors, with reasons."""
    names = {id(p): name for name, p in model.named_parameters() if p.requires_grad}
    layers, others = {}, set()
    for module in model.modules():
        for local, parameter in module.named_parameters(recurse=False):
            if id(parameter) in names:
                if local == "weight" and _rules.is_linear(module):
                    layers[module] = names[id(parameter)]
                else:
                    others.add(names[id(parameter)])
    tied = {name: TIED for name in layers.values() if name in others}
    convolutions = {
        names[id(module.weight)]: GROUPED if module.groups > 1 else PADDED
        for module in model.modules()
        if isinstance(module, nn.Conv2d) and id(module.weight) in names and not _rules.is_linear(module)
    }
    return {module: name for module, name in layers.items() if name not in tied}, tied | convolutions


def _own_biases(model: nn.Module, layers: Mapping[nn.Module, str]) -> dict[str, str]:
    """The bias of each weight, where the layer is the only one that either belongs to."""
    names = {id(p): name for name, p in model.named_parameters() if p.requires_grad}
    uses = Counter(
        id(parameter)
        for module in model.modules()
        for parameter in module._parameters.values()
        if parameter is not None
    )
    return {
        weight: names[id(module.bias)]
        for module, weight in layers.items()
        if id(module.bias) in names and uses[id(module.bias)] == uses[id(module.weight)] == 1
    }


def _matrix_shape(module: nn.Module) -> tuple[int, int]:
    """(o, i) of a linear module."""
    weight = module.get_parameter("weight")
    if _rules.is_transposed(module):
        return weight.shape[1], weight.shape[0]
    return weight.shape[0], weight[0].numel()


def _zeros(module: nn.Module, size: int) -> Tensor:
    weight = module.get_parameter("weight").detach()
    return weight.new_zeros(size, size, dtype=_rules.accumulator(weight.dtype))


def _masks(batch: Mapping[str, Any]) -> dict[str, Tensor]:
    """Masks in a batch, (rows, R), true where a position is no padding."""
    given = {name: batch[name] for name in _MASKS if isinstance(batch.get(name), Tensor)}
    return {name: mask.reshape(-1, mask.shape[-1]) != 0 for name, mask in given.items() if mask.dim() > 1}


def _fits(a: Tensor, mask: Tensor) -> bool:
    """Whether a layer's input has a row for each position of a mask."""
    return (a.dim() == 2 and len(a) == mask.numel()) or (a.dim() == 3 and a.shape[:2] == mask.shape)


def _of_two_lengths(batch: Mapping[str, Any]) -> dict[str, Any]:
    """Cut inputs or targets by a position if both are equally long, so that lengths tell them apart."""
    lengths = [mask.shape[1] for mask in _masks(batch).values()]
    if len(lengths) < len(_MASKS) or lengths[0] != lengths[1] or lengths[0] == 1:
        return dict(batch)
    return {
        name: value[..., :-1] if name.startswith(("decoder_", "targets")) else value
        for name, value in batch.items()
    }


def _rows(values: Tensor, keep: Tensor | None) -> Tensor:
    """(B, ..., d) -> (rows, d)."""
    rows = values.reshape(-1, values.shape[-1])
    return rows if keep is None else rows[keep]
