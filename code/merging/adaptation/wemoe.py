"""WEMoE: MLPs merged anew for each input (Tang et al., ICML 2024, arXiv:2402.00433).

    theta(x) = theta_0 + sum_t g_t(x) tau_t              for the weights and biases of one transformer MLP
    g(x)     = mean over the tokens h of x of gate(h)

The gate is a constant (depth 0), a linear layer (1), or linear, ReLU, linear (2); no softmax. Its weights
start small, its last bias at ``initial``: WEMoE starts as task arithmetic, by which all but the MLPs is
merged. The mean is over real tokens; padding does not change a prediction, unless ``pooling`` says "all", as
in the reference.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from merging.adaptation.options import WemoeOptions
from merging.errors import CheckpointError

_BLOCK = re.compile(r"(^|\.)(mlp|DenseReluDense|ffn|feed_forward)$")


class Gate(nn.Module):
    """What gives the coefficients of each token."""

    def __init__(
        self, width: int, num_tasks: int, depth: int, *, initial: float, seed: Sequence[int]
    ) -> None:
        """Start with weights from N(0, 0.01^2), the last bias at ``initial``, other biases 0.

        Args:
            width: of a token, and of the hidden layer.
            num_tasks: T.
            depth: 0, 1 or 2.
            initial: every coefficient at the start, nearly.
            seed: of the weights.
        """
        super().__init__()
        rng = np.random.default_rng(list(seed))

        def linear(outputs: int, bias: float) -> nn.Linear:
            made = nn.Linear(width, outputs, device="meta").to_empty(device="cpu")
            made.weight.data = torch.from_numpy(rng.normal(0.0, 0.01, (outputs, width))).float()
            made.bias.data.fill_(bias)
            return made

        self.fc1 = linear(width, 0.0) if depth == 2 else None
        self.fc2 = linear(num_tasks, initial) if depth > 0 else None
        self.constant = nn.Parameter(torch.full((num_tasks,), initial)) if depth == 0 else None

    def forward(self, tokens: Tensor) -> Tensor:
        """Coefficients of each token, (..., width) to (..., T)."""
        if self.fc1 is not None:
            tokens = self.fc1(tokens).relu()
        if self.fc2 is not None:
            tokens = self.fc2(tokens)
            return tokens
        assert self.constant is not None
        return self.constant.expand(*tokens.shape[:-1], -1)


@dataclass
class _Pass:
    """What the parts of an upscaled network tell each other in one forward pass."""

    mask: Tensor | None = None
    """bool, (B, R): the real tokens; None: all."""
    coefficients: dict[str, Tensor] = field(default_factory=dict)
    """(B, T) by name of the MLP."""


@dataclass(frozen=True)
class Mlp:
    """One MLP of a network."""

    entry: str
    """The module whose input the gate reads."""
    linears: tuple[str, ...]
    """Modules whose weights are merged anew."""


def find_mlps(network: nn.Module) -> tuple[Mlp, ...]:
    """The MLPs of a transformer, in order: modules named ``mlp``, ``ffn``, ``feed_forward`` or
    ``DenseReluDense``, pairs ``intermediate.dense`` and ``output.dense``, and pairs ``fc1`` and ``fc2``.

    Raises:
        CheckpointError: there are none.
    """
    modules = dict(network.named_modules())
    found = []
    for name, module in modules.items():
        start = f"{name}." if name else ""
        children = dict(module.named_children())
        if _BLOCK.search(name):
            linears = [start + its for its, part in module.named_modules() if _is_linear(part)]
            found.append(Mlp(name, tuple(linears)))
        elif f"{start}intermediate.dense" in modules and f"{start}output.dense" in modules:
            found.append(Mlp(f"{start}intermediate", (f"{start}intermediate.dense", f"{start}output.dense")))
        elif "fc1" in children and "fc2" in children:
            found.append(Mlp(f"{start}fc1", (f"{start}fc1", f"{start}fc2")))
    # fc1 and fc2 inside of a module that was found are the same MLP
    entries = {its.entry for its in found}
    found = [its for its in found if not any(its.entry.startswith(f"{other}.") for other in entries)]
    if not any(its.linears for its in found):
        raise CheckpointError(
            f"{type(network).__name__} has no MLP that is known by its name: none of mlp, ffn, feed_forward, "
            "DenseReluDense, intermediate.dense with output.dense, fc1 with fc2. WEMoE is for transformers."
        )
    return tuple(its for its in found if its.linears)


def width_of(network: nn.Module, mlp: Mlp) -> int:
    """Numbers of a token that an MLP gets."""
    first: Any = network.get_submodule(mlp.linears[0])
    return int(first.in_features if isinstance(first, nn.Linear) else first.weight.shape[0])


class ExpertLinear(nn.Module):
    """A linear layer whose weight is merged anew for each example, x (W_0 + sum_t g_t tau_t)^T."""

    def __init__(
        self, linear: nn.Module, weight: Tensor, bias: Tensor | None, *, name: str, shared: _Pass
    ) -> None:
        """Stand for ``linear``, whose own weights are theta_0 (see ``upscale``: offset).

        Args:
            linear: nn.Linear, or GPT-2's Conv1D.
            weight: tau of all tasks, (T, *shape of the weight as it is stored).
            bias: tau of its bias, (T, outputs), or None.
            name: of the MLP, under which its coefficients are found.
            shared: where they are found.
        """
        super().__init__()
        self.linear = linear
        self.weight: Tensor
        self.bias: Tensor | None
        self.register_buffer("weight", weight, persistent=False)  # never trained
        self.register_buffer("bias", bias, persistent=False)
        self._name, self._shared = name, shared
        self._transposed = not isinstance(linear, nn.Linear)

    def forward(self, x: Tensor) -> Tensor:
        """(B, R, inputs) to (B, R, outputs)."""
        own: Any = self.linear
        gates = self._shared.coefficients[self._name]
        weights = self.weight.to(x)
        if x.shape[1] < len(weights):  # few tokens: cheaper than to merge the weights
            each = torch.einsum("bri,tio->btro" if self._transposed else "bri,toi->btro", x, weights)
            found: Tensor = self.linear(x) + torch.einsum("bt,btro->bro", gates, each)
            if self.bias is not None:
                found = found + (gates @ self.bias.to(x))[:, None]
            return found
        merged = own.weight + torch.tensordot(gates, weights, 1)
        found = torch.bmm(x, merged if self._transposed else merged.transpose(1, 2))
        if self.bias is not None:
            found = found + (own.bias + gates @ self.bias.to(x))[:, None]
        elif own.bias is not None:
            found = found + own.bias
        return found


def upscale(
    network: nn.Module,
    vectors: Mapping[str, Tensor],
    gates: Mapping[str, Gate],
    options: WemoeOptions,
    *,
    offset: float = 0.0,
    batch_first: bool = True,
) -> None:
    """Put gates before the MLPs of a network, and experts into them, in place.

    Args:
        network: its MLPs hold theta_0 + offset sum_t tau_t.
        vectors: tau of all tasks, (T, *shape), by name of a parameter of the MLPs.
        gates: by :attr:`Mlp.entry`; which MLPs become experts.
        options: pooling.
        offset: what is taken off every coefficient, as the network's weights hold it already.
        batch_first: whether MLPs get (B, R, width), not (R, B, width).
    """
    shared = _Pass()
    mlps = find_mlps(network)
    network.add_module("wemoe_gates", nn.ModuleList(gates.values()))  # so that they move with the network
    for mlp in mlps:
        if mlp.entry not in gates:
            continue
        for name in mlp.linears:
            linear = network.get_submodule(name)
            expert = ExpertLinear(
                linear,
                vectors[f"{name}.weight"],
                vectors.get(f"{name}.bias"),
                name=mlp.entry,
                shared=shared,
            )
            owner, _, attribute = name.rpartition(".")
            setattr(network.get_submodule(owner), attribute, expert if batch_first else _TokensFirst(expert))
        hook = _gate_hook(mlp.entry, gates[mlp.entry], shared, options, offset, batch_first)
        network.get_submodule(mlp.entry).register_forward_pre_hook(hook)
    network.register_forward_pre_hook(_mask_hook(shared, options), with_kwargs=True, prepend=True)


def pooled(tokens: Tensor, mask: Tensor | None) -> Tensor:
    """The mean over tokens, (B, R, T) to (B, T); over those of ``mask``, (B, R), where it is given."""
    if mask is None or mask.shape != tokens.shape[:2]:
        return tokens.mean(1)
    weights = mask.to(tokens)[..., None]
    return (tokens * weights).sum(1) / weights.sum(1).clamp_min(1)


class _TokensFirst(nn.Module):
    """Turns (R, B, width) for a module that takes (B, R, width), and back."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.inner(x.transpose(0, 1)).transpose(0, 1)
        return found


def _gate_hook(
    entry: str, gate: Gate, shared: _Pass, options: WemoeOptions, offset: float, batch_first: bool
) -> Any:
    def hook(_: nn.Module, arguments: tuple[Any, ...]) -> None:
        tokens = arguments[0]
        if tokens.ndim != 3:
            raise CheckpointError(
                f"wemoe: {entry} gets a tensor of shape {tuple(tokens.shape)}, not (examples, tokens, "
                "width): which tokens belong to one example cannot be told."
            )
        coefficients = pooled(gate(tokens if batch_first else tokens.transpose(0, 1)), shared.mask)
        if options.batch_reduce:
            coefficients = coefficients.mean(0, keepdim=True).expand(len(coefficients), -1)
        shared.coefficients[entry] = coefficients - offset

    return hook


def _mask_hook(shared: _Pass, options: WemoeOptions) -> Any:
    def hook(_: nn.Module, __: tuple[Any, ...], named: Mapping[str, Any]) -> None:
        mask = named.get("attention_mask") if options.pooling == "real" else None
        shared.mask = mask.bool() if mask is not None and mask.ndim == 2 else None

    return hook


def _is_linear(module: nn.Module) -> bool:
    """nn.Linear, or GPT-2's Conv1D, which stores (inputs, outputs)."""
    return isinstance(module, nn.Linear) or type(module).__name__ == "Conv1D"
