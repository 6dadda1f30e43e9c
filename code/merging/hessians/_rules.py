"""Per-example gradients of a layer's parameters, from its input ``a`` and the gradient ``g`` at its output.

Shapes: B examples, R positions of each, i inputs, o outputs.

    Linear, Conv1D    G_b = sum_r g_br a_br^T   (stored transposed in Conv1D, the linear layer of GPT-2)
    Conv2d            the same over unfolded patches, one block for each group
    Embedding         row v: sum of g_br over the positions that looked up v
    LayerNorm, RMSNorm   sum_r g_br xhat_br,  xhat = normalised input
    bias              sum_r g_br
    biases of relative positions   see ``_relative_bias``
    anything else     the module's own vector-Jacobian product, one example at a time under ``torch.vmap``

A rule does not form the B gradients: what they are made of is kept (``_gradients``).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from merging.hessians._gradients import Call, Formed, Outer, PerExample, Replayed, Rows

Uses = Iterator[tuple[str, PerExample]]
Rule = Callable[[Any, Tensor, Tensor, int], Uses]
"""(module, input, gradient at the output, B) -> (own parameter's name, its per-example gradients)"""


def _linear(module: nn.Linear, a: Tensor, g: Tensor, num_examples: int) -> Uses:
    a, g = _positions(a, num_examples), _positions(g, num_examples)
    yield "weight", Outer(g, a, module.weight.shape)
    yield "bias", _bias(g)


def _conv1d(module: Any, a: Tensor, g: Tensor, num_examples: int) -> Uses:
    a, g = _positions(a, num_examples), _positions(g, num_examples)
    yield "weight", Outer(a, g, module.weight.shape)
    yield "bias", _bias(g)


def _conv2d(module: nn.Conv2d, a: Tensor, g: Tensor, num_examples: int) -> Uses:
    left = _positions(g.flatten(2).transpose(1, 2), num_examples)  # (B, R, o)
    right = _positions(_patches(module, a), num_examples)
    yield "bias", _bias(left)
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
    values = values.to(accumulator(values.dtype))  # sums over positions would be rounded at every step
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
    if list(module._parameters) == ["weight"] and (
        type(module).__name__.endswith("RMSNorm") or hasattr(module, "variance_epsilon")
    ):
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


def per_example(call: Call, gradient: Tensor, names: Collection[str]) -> Uses:
    """Yield (name, per-example gradients) of parameters for a call and the gradient at its output.

    Args:
        call: of the module that the parameters belong to.
        gradient: at its output, (B n, ...).
        names: which parameters; with dots if they lie in a container of the module.
    """
    rule, ruled = find(call.module), set()
    if rule is not None:
        (value,) = call.inputs
        if gradient.dtype == torch.float16:  # products of such gradients would underflow
            gradient = gradient.to(accumulator(gradient.dtype))
        if value.is_floating_point():  # autocast computed with 16 bits, whatever came in
            value = value.to(gradient.dtype)
        for name, part in rule(call.module, value, gradient, call.num_examples):
            ruled.add(name)
            if name in names:
                yield name, part
    for name in names:
        if name not in ruled:
            yield name, Replayed(call, name, gradient)


def _supported(module: nn.Module) -> bool:
    """Whether the module's settings are those that its rule is written for."""
    if isinstance(module, nn.Conv2d):
        return module.padding_mode == "zeros" and not isinstance(module.padding, str)
    if isinstance(module, nn.Embedding):
        return module.max_norm is None and not module.scale_grad_by_freq
    return True


def accumulator(dtype: torch.dtype) -> torch.dtype:
    """float32, or more if the model has more: squares of 16-bit gradients underflow."""
    return torch.promote_types(dtype, torch.float32)


def _bias(g: Tensor) -> Formed:
    """sum_r g_br of (B, R, o); torch sums 16 bits in 32 and rounds at the end, as products are rounded."""
    return Formed(g.sum(1))


def _positions(values: Tensor, num_examples: int) -> Tensor:
    """(B n, ..., d) -> (B, R, d)."""
    return values.reshape(num_examples, -1, values.shape[-1])
