"""Squared gradients of masks on attention heads and on intermediate neurons.

The output of every attention head (before the output projection) and every intermediate neuron (before the
second feed-forward matrix) is thought to be multiplied by a mask of ones. The gradient of an example with
respect to a mask is the sum over positions of g .*. activation, for heads over the head's dimensions, too.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from types import TracebackType
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from merging.errors import MergingError
from merging.hessians import _rules
from merging.hessians._per_example import (
    Batch,
    Cotangents,
    Scores,
    check_scores,
    frozen,
    num_examples_of,
    refuse_coupled_examples,
)

# What follows the number of a layer in the name of a module, by family.
_AFTER_HEADS = (
    r"attention\.output\.dense",  # BERT, RoBERTa, ELECTRA, DeBERTa
    r"attention\.attn\.o",  # MPNet
    r"attention\.out_lin",  # DistilBERT
    r"attention\.o_proj",  # ViT
    r"attention\.dense",  # GPT-NeoX
    r"attn\.c_proj",  # GPT-2
    r"self_attn\.(o_proj|out_proj|dense)",  # Llama, Mistral, Qwen, Gemma; OPT, CLIP; Phi
)
_AFTER_NEURONS = (
    r"output\.dense",  # BERT, RoBERTa, ELECTRA, DeBERTa, MPNet
    r"ffn\.lin2",  # DistilBERT
    r"mlp\.(c_proj|down_proj|fc2|dense_4h_to_h)",  # GPT-2; Llama, Mistral, Qwen, Gemma; ViT, CLIP, Phi; NeoX
    r"fc2",  # OPT
)


class MaskSquares:
    """Sum over examples and cotangents of the squared gradient with respect to each mask.

    Attributes:
        heads: (layers, heads).
        neurons: (layers, intermediate size).
        num_examples: how many examples were added.
    """

    def __init__(self, model: nn.Module, scores: Scores, *, num_heads: int) -> None:
        """Prepare the sums.

        Raises:
            MergingError: the model is in training mode, or its layers are not known here.
        """
        refuse_coupled_examples(model)
        self._model = model
        self._scores = scores
        self._num_heads = num_heads
        after_heads, after_neurons = _layers(model, _AFTER_HEADS), _layers(model, _AFTER_NEURONS)
        numbers = [number for number, _ in after_heads]
        if not numbers or numbers != [number for number, _ in after_neurons]:
            raise MergingError(
                "mask_nodes knows the layers of encoders and decoders such as BERT, DistilBERT, GPT-2, Llama "
                f"and ViT, but found {len(after_heads)} attention and {len(after_neurons)} feed-forward "
                f"layers in {type(model).__name__}. Take a diagonal (fisher_mc) and merge by fisher."
            )
        if len(set(numbers)) < len(numbers):
            raise MergingError(
                f"mask_nodes: {type(model).__name__} has several stacks of layers, and masks are of one. "
                "Take a diagonal (fisher_mc) and merge by fisher."
            )
        self._roles = {module: ("heads", layer) for layer, (_, module) in enumerate(after_heads)}
        self._roles |= {module: ("neurons", layer) for layer, (_, module) in enumerate(after_neurons)}
        last = after_neurons[0][1]
        weight = last.get_parameter("weight")
        zeros = partial(weight.new_zeros, dtype=_rules.accumulator(weight.dtype), requires_grad=False)
        self.heads = zeros(len(after_heads), num_heads)
        self.neurons = zeros(len(after_neurons), _num_inputs(last))
        self.num_examples = 0

    def add(self, batch: Batch, cotangents: Cotangents) -> None:
        """Add the examples of a batch: any number, padded or not.

        Raises:
            MergingError: scores that are not finite, or a layer that the model does not call.
        """
        with frozen(p for p in self._model.parameters() if p.requires_grad):
            recording = self.watch(batch)
            with recording, torch.enable_grad():
                scores = self._scores(self._model, batch)
            check_scores(scores)
            for cotangent in cotangents(scores.detach()) if recording.roots else ():
                with self.receiving(recording):
                    torch.autograd.grad(
                        scores, recording.roots, cotangent, retain_graph=True, allow_unused=True
                    )
        self.finish(batch, recording, ())

    # The parts of ``add``, for several sums that share a forward pass (``_passes``).

    needs_cotangents = False
    """Whether ``finish`` uses the cotangents."""

    def prepare(self, batch: Batch) -> None:
        """Nothing has to be known of a batch before the first pass."""

    def watch(self, batch: Batch) -> _Recording:
        """Return what watches one forward pass; it is entered while the model runs."""
        return _Recording(self._roles, num_examples_of(batch), self._add)

    def receiving(self, recording: _Recording) -> AbstractContextManager[None]:
        """Return a block in which one backward pass of the watched graph adds to the sums."""
        return recording.receiving()

    def finish(self, batch: Batch, recording: _Recording, cotangents: Sequence[Tensor]) -> None:
        """Count the examples.

        Raises:
            MergingError: the model did not call one of its layers.
        """
        if recording.called != self._roles.keys():
            raise MergingError(
                "mask_nodes: the model does not call all of its layers, so their masks have no gradient. "
                "Take a diagonal (fisher_mc)."
            )
        self.num_examples += num_examples_of(batch)

    def _add(self, module: nn.Module, products: Tensor) -> None:
        """Add the squares of g .*. activation, (B, R, d), summed over what one mask multiplies."""
        kind, layer = self._roles[module]
        by_example = products.sum(1)
        if kind == "heads":
            by_example = by_example.reshape(len(by_example), self._num_heads, -1).sum(2)
        total = self.heads if kind == "heads" else self.neurons
        total[layer] += by_example.square().sum(0)


class _Recording:
    """One forward pass, watched: the activations that masks would multiply.

    Attributes:
        roots: leaves that the graph starts at; backward passes differentiate with respect to them.
        called: modules that the model called.
    """

    def __init__(
        self, modules: Iterable[nn.Module], num_examples: int, add: Callable[[nn.Module, Tensor], None]
    ) -> None:
        self.roots: list[Tensor] = []
        self.called: set[nn.Module] = set()
        self._modules = modules
        self._num_examples = num_examples
        self._add = add
        self._is_receiving = False
        self._handles: list[RemovableHandle] = []

    def __enter__(self) -> _Recording:
        self._handles = [module.register_forward_pre_hook(self._watch) for module in self._modules]
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for handle in self._handles:
            handle.remove()

    @contextmanager
    def receiving(self) -> Iterator[None]:
        """Add the gradients of the one backward pass in the block."""
        self._is_receiving = True
        try:
            yield
        finally:
            self._is_receiving = False

    def _watch(self, module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
        activation, *rest = args
        if not activation.requires_grad:  # parameters are frozen, so the graph starts here
            activation = activation.detach().requires_grad_()
            self.roots.append(activation)
        activation = activation.view_as(activation)
        values = activation.detach()  # the hook of a tensor that held the tensor would keep it alive
        self.called.add(module)

        def arrived(gradient: Tensor) -> None:
            if self._is_receiving:
                products = values * gradient
                self._add(module, products.reshape(self._num_examples, -1, products.shape[-1]))

        activation.register_hook(arrived)
        return (activation, *rest)


def _num_inputs(module: nn.Module) -> int:
    """How many features a linear module takes."""
    return module.get_parameter("weight").shape[0 if _rules.is_transposed(module) else 1]


def _layers(model: nn.Module, endings: tuple[str, ...]) -> list[tuple[int, nn.Module]]:
    """Modules whose name ends with the number of a layer and one of ``endings``, by that number."""
    pattern = re.compile(rf"(?:.*\.)?(\d+)\.(?:{'|'.join(endings)})")
    found = [
        (int(match[1]), module)
        for name, module in model.named_modules()
        if (match := pattern.fullmatch(name))
    ]
    return sorted(found, key=lambda pair: pair[0])
