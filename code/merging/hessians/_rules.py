"""Per-example gradients of a layer's parameters, from its input ``a`` and the gradient ``g`` at its output.

Shapes: B examples, R positions of each, i inputs, o outputs.

    Linear, Conv1D    G_b = sum_r g_br a_br^T   (stored transposed in Conv1D, the linear layer of GPT-2)
    Conv2d            the same over unfolded patches, one block for each group
    Embedding         row v: sum of g_br over the positions that looked up v
    LayerNorm, RMSNorm   sum_r g_br xhat_br,  xhat = normalised input
    bias              sum_r g_br
    anything else     the module's own vector-Jacobian product, one example at a time under ``torch.vmap``

A rule does not form the B gradients: together they would take B times the memory of the parameter.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional

_MAX_ELEMENTS = {"cpu": 1 << 18, "cuda": 1 << 27}
"""Elements of per-example gradients that exist at one time: about the cache of a CPU; half a GB of a GPU."""


class PerExample(ABC):
    """Gradients of one parameter for each of ``num_examples`` examples, formed a few examples at a time."""

    @property
    @abstractmethod
    def num_examples(self) -> int:
        """B."""

    @abstractmethod
    def gradients(self, examples: slice) -> Tensor:
        """Return the gradients of some examples, (b, \\*parameter's shape), for the caller to overwrite."""

    def add_squares(self, total: Tensor) -> None:
        """Add the sum over examples of the squared gradient to ``total``, which has the parameter's shape."""
        size = max(1, _max_elements(total) // max(1, total.numel()))
        for start in range(0, self.num_examples, size):
            gradients = self.gradients(slice(start, start + size)).to(total.dtype)
            total.add_(gradients.square_().sum(0))

    def add_outer(self, total: Tensor) -> None:
        """Add the sum over examples of the gradient times itself to ``total``, (d, d), d = elements of it."""
        size = max(1, _max_elements(total) // len(total))
        for start in range(0, self.num_examples, size):
            gradients = self.gradients(slice(start, start + size)).flatten(1).to(total.dtype)
            total.addmm_(gradients.T, gradients)


@dataclass(frozen=True)
class Formed(PerExample):
    """Gradients that are small enough to be held: biases and norms."""

    values: Tensor
    """(B, \\*shape)"""

    @property
    def num_examples(self) -> int:
        """B."""
        return len(self.values)

    def gradients(self, examples: slice) -> Tensor:
        """See base."""
        return self.values[examples].clone()


@dataclass(frozen=True)
class Outer(PerExample):
    """G_b = sum_r left_br right_br^T, reshaped to the parameter."""

    left: Tensor
    """(B, \\*groups, R, rows)"""
    right: Tensor
    """(B, \\*groups, R, columns)"""
    shape: torch.Size

    @property
    def num_examples(self) -> int:
        """B."""
        return len(self.left)

    def gradients(self, examples: slice) -> Tensor:
        """See base."""
        product = self.left[examples].transpose(-1, -2) @ self.right[examples]
        return product.reshape(-1, *self.shape)

    def add_squares(self, total: Tensor) -> None:
        """See base; with a single position the sum of squares is one product of squares."""
        if self.left.dim() == 3 and self.left.shape[1] == 1:
            product = self.left[:, 0].square().T @ self.right[:, 0].square()
            total.add_(product.reshape(self.shape))
        elif self.left.dim() == 3 and 2 * total.numel() > _max_elements(total):
            product = total.new_empty(self.left.shape[2], self.right.shape[2])  # stays in the cache
            for left, right in zip(self.left, self.right, strict=True):
                torch.mm(left.T, right, out=product)
                total.addcmul_(product.view_as(total), product.view_as(total))
        else:
            super().add_squares(total)


@dataclass(frozen=True)
class Rows(PerExample):
    """Row ``ids[b, r]`` of G_b receives ``values[b, r]``."""

    ids: Tensor
    """(B, R)"""
    values: Tensor
    """(B, R, h)"""
    num_rows: int

    @property
    def num_examples(self) -> int:
        """B."""
        return len(self.ids)

    def gradients(self, examples: slice) -> Tensor:
        """See base."""
        ids, values = self.ids[examples], self.values[examples]
        gradients = values.new_zeros(len(ids), self.num_rows, values.shape[-1])
        return gradients.scatter_add_(1, ids.unsqueeze(-1).expand_as(values), values)

    def add_squares(self, total: Tensor) -> None:
        """See base; only the rows that an example looked up are formed."""
        example = torch.arange(len(self.ids), device=self.ids.device).unsqueeze(1)
        keys, place = torch.unique(example * self.num_rows + self.ids, return_inverse=True)
        rows = self.values.new_zeros(len(keys), self.values.shape[-1])
        rows.index_add_(0, place.flatten(), self.values.flatten(0, 1))
        total.index_add_(0, keys % self.num_rows, rows.square_())


@dataclass(frozen=True)
class Call:
    """One call of a module in a batch of B examples.

    A tensor that belongs to examples is (B n, ...): the n rows of an example, such as its windows or its
    tokens, lie next to each other.
    """

    module: nn.Module
    inputs: tuple[Any, ...]
    """Positional arguments, then named ones."""
    keys: tuple[str, ...]
    """Names of the named ones."""
    by_example: tuple[bool, ...]
    """Which inputs belong to examples; the others are the same for all."""
    num_examples: int

    def split(self, value: Tensor) -> Tensor:
        """(B n, ...) -> (B, n, ...)."""
        return value.reshape(self.num_examples, -1, *value.shape[1:])

    def repeat(self, inputs: Sequence[Any], name: str, parameter: Tensor) -> Tensor:
        """Call the module again, with other inputs and another value of one parameter."""
        num_args = len(inputs) - len(self.keys)
        kwargs = dict(zip(self.keys, inputs[num_args:], strict=True))
        output: Tensor = functional_call(self.module, {name: parameter}, tuple(inputs[:num_args]), kwargs)
        return output


@dataclass(frozen=True)
class Replayed(PerExample):
    """Gradients of a module without a rule: its call is repeated for each example under ``torch.vmap``."""

    call: Call
    name: str
    output_gradient: Tensor
    """(B n, ...)"""

    @property
    def num_examples(self) -> int:
        """B."""
        return self.call.num_examples

    def gradients(self, examples: slice) -> Tensor:
        """See base."""
        call = self.call
        parameter = call.module.get_parameter(self.name).detach()

        def gradient(output_gradient: Tensor, *inputs: Any) -> Tensor:  # of one example: (n, ...)
            pull = torch.func.vjp(lambda value: call.repeat(inputs, self.name, value), parameter)[1]
            result: Tensor = pull(output_gradient)[0]
            return result

        inputs = [
            call.split(value)[examples] if flag else value
            for value, flag in zip(call.inputs, call.by_example, strict=True)
        ]
        in_dims = (0, *(0 if flag else None for flag in call.by_example))
        gradients: Tensor = torch.vmap(gradient, in_dims)(call.split(self.output_gradient)[examples], *inputs)
        return gradients.clone()  # what is only added to the output has the output's gradient itself


@dataclass(frozen=True)
class Sum(PerExample):
    """A parameter that is used several times: gradients are summed over uses BEFORE they are squared."""

    parts: Sequence[PerExample]

    @property
    def num_examples(self) -> int:
        """B."""
        return self.parts[0].num_examples

    def gradients(self, examples: slice) -> Tensor:
        """See base."""
        total = self.parts[0].gradients(examples)
        for part in self.parts[1:]:
            total = total.add_(part.gradients(examples))
        return total


Uses = Iterator[tuple[str, PerExample]]
Rule = Callable[[Any, Tensor, Tensor, int], Uses]
"""(module, input, gradient at the output, B) -> (own parameter's name, its per-example gradients)"""


def _linear(module: nn.Linear, a: Tensor, g: Tensor, num_examples: int) -> Uses:
    a, g = _positions(a, num_examples), _positions(g, num_examples)
    yield "weight", Outer(g, a, module.weight.shape)
    yield "bias", Formed(g.sum(1))


def _conv1d(module: Any, a: Tensor, g: Tensor, num_examples: int) -> Uses:
    a, g = _positions(a, num_examples), _positions(g, num_examples)
    yield "weight", Outer(a, g, module.weight.shape)
    yield "bias", Formed(g.sum(1))


def _conv2d(module: nn.Conv2d, a: Tensor, g: Tensor, num_examples: int) -> Uses:
    left = _positions(g.flatten(2).transpose(1, 2), num_examples)  # (B, R, o)
    right = _positions(_patches(module, a), num_examples)
    yield "bias", Formed(left.sum(1))
    if module.groups > 1:
        left = left.reshape(*left.shape[:2], module.groups, -1).transpose(1, 2)
        right = right.reshape(*right.shape[:2], module.groups, -1).transpose(1, 2)
    yield "weight", Outer(left, right, module.weight.shape)


def _patches(module: nn.Conv2d, a: Tensor) -> Tensor:
    """What each output pixel is a linear function of: (B, R, i * height * width)."""
    assert not isinstance(module.padding, str)  # _supported
    patches = functional.unfold(a, module.kernel_size, module.dilation, module.padding, module.stride)
    return patches.transpose(1, 2)


def _embedding(module: nn.Embedding, a: Tensor, g: Tensor, num_examples: int) -> Uses:
    ids, values = a.reshape(num_examples, -1), _positions(g, num_examples)
    if module.padding_idx is not None:  # autograd gives that row no gradient
        values = values * (ids != module.padding_idx).unsqueeze(-1)
    yield "weight", Rows(ids, values, module.num_embeddings)


def _layer_norm(module: nn.LayerNorm, a: Tensor, g: Tensor, num_examples: int) -> Uses:
    normalised = functional.layer_norm(a, module.normalized_shape, eps=module.eps)
    shape = (num_examples, -1, *module.normalized_shape)
    yield "weight", Formed((g * normalised).reshape(shape).sum(1))
    yield "bias", Formed(g.reshape(shape).sum(1))


def _rms_norm(module: Any, a: Tensor, g: Tensor, num_examples: int) -> Uses:
    # torch calls it eps (None: the smallest step of the dtype), Llama and its relatives variance_epsilon
    eps = getattr(module, "variance_epsilon", getattr(module, "eps", None))
    shape = module.weight.shape
    normalised = functional.rms_norm(a, shape, eps=eps)
    yield "weight", Formed((g * normalised).reshape(num_examples, -1, *shape).sum(1))


_RULES: dict[str, Rule] = {
    "torch.nn.modules.linear.Linear": _linear,
    "torch.nn.modules.conv.Conv2d": _conv2d,
    "torch.nn.modules.sparse.Embedding": _embedding,
    "torch.nn.modules.normalization.LayerNorm": _layer_norm,
    "torch.nn.modules.normalization.RMSNorm": _rms_norm,
    "transformers.pytorch_utils.Conv1D": _conv1d,
}
"""By name, so that transformers is not imported for a model that is not made of it."""


def find(module: nn.Module) -> Rule | None:
    """Return the rule of a module's class, or None.

    A subclass keeps its parent's rule only while it keeps the parent's ``forward``.
    """
    if type(module).__name__.endswith("RMSNorm") and list(module._parameters) == ["weight"]:
        return _rms_norm
    for cls in type(module).__mro__:
        rule = _RULES.get(f"{cls.__module__}.{cls.__qualname__}")
        if rule is not None:
            same_forward = type(module).forward is cls.forward  # type: ignore[attr-defined]
            return rule if same_forward and _supported(module) else None
    return None


def is_linear(module: nn.Module) -> bool:
    """Whether the outputs of a module are one matrix times its inputs (or times patches), plus a bias."""
    if isinstance(module, nn.Conv2d):
        return find(module) is _conv2d and module.groups == 1  # else there is a matrix for each group
    return find(module) in (_linear, _conv1d)


def is_transposed(module: nn.Module) -> bool:
    """Whether the weight of a linear module is stored as (inputs, outputs)."""
    return find(module) is _conv1d


def linear_inputs(module: nn.Module, a: Tensor) -> Tensor:
    """What the matrix of a linear module is multiplied with: (B n, ..., i)."""
    return _patches(module, a) if isinstance(module, nn.Conv2d) else a


def linear_outputs(module: nn.Module, g: Tensor) -> Tensor:
    """The gradient at the output of a linear module, as ``linear_inputs`` lays it out: (B n, ..., o)."""
    return g.flatten(2).transpose(1, 2) if isinstance(module, nn.Conv2d) else g


def per_example(call: Call, gradient: Tensor) -> Uses:
    """Yield (own parameter's name, its per-example gradients) for a call and the gradient at its output."""
    rule = find(call.module)
    if rule is not None:
        (value,) = call.inputs
        if value.is_floating_point():
            value = value.to(accumulator(value.dtype))
        yield from rule(call.module, value, gradient.to(accumulator(gradient.dtype)), call.num_examples)
    else:
        for name, parameter in call.module._parameters.items():
            if parameter is not None:
                yield name, Replayed(call, name, gradient)


def _supported(module: nn.Module) -> bool:
    """Whether the module's settings are those that its rule is written for."""
    if isinstance(module, nn.Conv2d):
        return module.padding_mode == "zeros" and not isinstance(module.padding, str)
    if isinstance(module, nn.Embedding):
        return module.max_norm is None and not module.scale_grad_by_freq
    return True


def _max_elements(total: Tensor) -> int:
    return _MAX_ELEMENTS.get(total.device.type, 1 << 24)


def accumulator(dtype: torch.dtype) -> torch.dtype:
    """float32, or more if the model has more: squares of 16-bit gradients underflow."""
    return torch.promote_types(dtype, torch.float32)


def _positions(values: Tensor, num_examples: int) -> Tensor:
    """(B n, ..., d) -> (B, R, d)."""
    return values.reshape(num_examples, -1, values.shape[-1])
