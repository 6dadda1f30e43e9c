"""Sums over examples of squared per-example gradients, at about the price of one batched backward pass.

Squaring the gradient of a batch gives (sum_b g_b)^2, with products of different examples in it. Here every
layer keeps its input, and the gradient that arrives at its output is turned into per-example gradients on the
spot. The gradients of the weights themselves are never computed by autograd: parameters are frozen while a
batch runs.

Three ways, from fast to slow; a parameter goes by the first that is right for it:

1. the rule of its layer (``_rules``);
2. ``vmap`` of the module that owns it: bare parameters and modules without a rule;
3. a loop over examples: what the other two cannot see, e.g. weights that are used without calling their
   module, or modules whose output does not start with the batch dimension.

Which way is right is not guessed: the first examples are also done by plain autograd, one at a time, and a
parameter whose sums differ goes by the loop.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from functools import cached_property, partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from merging.errors import MergingError
from merging.hessians import _rules
from merging.hessians._gradients import PerExample
from merging.hessians._recording import Owners, Recording, Roles
from merging.hessians._relative_bias import tables

Batch = Mapping[str, Any]
"""Tensors whose first dimension is the example; other values hold for all examples."""

Scores = Callable[[Callable[..., Any], Batch], Tensor]
"""(model, batch) -> scores, (B, ...)."""

Cotangents = Callable[[Tensor], Iterable[Tensor]]
"""Detached scores -> tensors of the same shape; one backward pass for each."""

Sums = dict[str, Tensor]


class SquaredGradients:
    """Sum over examples b and cotangents c of (d <c_b, scores_b> / d theta)^2.

    Parameters keep the names of ``model.named_parameters()``: tied ones appear once, frozen ones not at all.

    Attributes:
        sums: squares for each parameter; float32, or float64 for a float64 model.
        num_examples: how many examples were added.
    """

    def __init__(self, model: nn.Module, scores: Scores) -> None:
        """Prepare the sums.

        Raises:
            MergingError: the model is in training mode, normalises over the batch, or has no trainable
                parameter.
        """
        refuse_coupled_examples(model)
        self._model = model
        self._scores = scores
        self._trainable = {name: p for name, p in model.named_parameters() if p.requires_grad}
        self._parameters = {name: p for name, p in self._trainable.items() if self._is_counted(p)}
        if not self._parameters:
            raise MergingError(
                "the model has no trainable parameter; call requires_grad_(True) on what is merged."
            )
        self._owned = _owned(model, self._parameters)
        self._vmapped = {
            name
            for module, names in self._owned.items()
            for local, name in names.items()
            if _rules.find(module) is None or "." in local
        }
        self._tables = tables(model)
        self._looped: set[str] = set()
        self._roles: Roles = {}
        self._expand = True
        self._reached: set[str] = set()
        self._is_probed = False
        self.num_examples = 0

    @cached_property
    def sums(self) -> Sums:
        """For each parameter, of its shape; made when it is first used, after what finds out the ways."""
        return self._zeros()

    @property
    def by_vmap(self) -> list[str]:
        """Parameters whose module was repeated for each example under ``vmap``."""
        return sorted(self._vmapped - self._looped)

    @property
    def by_loop(self) -> list[str]:
        """Parameters that needed a forward and a backward pass for each example."""
        return sorted(self._looped)

    @property
    def without_gradient(self) -> list[str]:
        """Parameters whose sum is exactly zero everywhere: unused ones."""
        return sorted(name for name, total in self.sums.items() if not total.any())

    def add(self, batch: Batch, cotangents: Cotangents) -> None:
        """Add the examples of a batch: any number, padded or not.

        Raises:
            MergingError: scores that are not finite, or a module that treats this batch otherwise than the
                first one.
        """
        self.prepare(batch)
        with frozen(self._trainable.values()):
            self._add(batch, cotangents, self.sums)
        self.num_examples += num_examples_of(batch)

    # The parts of ``add``, for several sums that share a forward pass (``_passes``).

    def prepare(self, batch: Batch) -> None:
        """Find out from the first batch which way each parameter goes; later ones change nothing."""
        if not self._is_probed:  # autograd sums gradients of 16 bits in 16 bits, which is no reference
            with frozen(self._trainable.values()), _widened(self._model):
                self._probe(examples_of(batch, [0, min(1, num_examples_of(batch) - 1), 0]))
            self._is_probed = True

    def watch(self, batch: Batch) -> Recording:
        """Return what watches one forward pass; it is entered while the model runs."""
        return Recording(
            self._owners(),
            self._roles,
            num_examples_of(batch),
            expand=self._expand,
            tables=self._tables,
        )

    def receiving(self, recording: Recording) -> AbstractContextManager[None]:
        """Return a block in which one backward pass of the watched graph adds to the sums."""
        return recording.receiving(partial(self._square, self.sums))

    @property
    def needs_cotangents(self) -> bool:
        """Whether ``finish`` uses the cotangents."""
        return bool(self._looped)

    def finish(self, batch: Batch, recording: Recording, cotangents: Sequence[Tensor]) -> None:
        """Add what cannot be watched, and count the examples.

        Raises:
            MergingError: a module that treats this batch otherwise than the first one.
        """
        self._check_reachable(recording)
        self._add_by_loop(self._looped, batch, cotangents, self.sums)
        self.num_examples += num_examples_of(batch)

    def _add(self, batch: Batch, cotangents: Cotangents, sums: Sums) -> None:
        scores, recording = self._record(batch)
        self._check_reachable(recording)
        self._looped |= recording.unreachable
        check_scores(scores)
        given = list(cotangents(scores.detach()))
        for left, cotangent in enumerate(given, 1 - len(given)):
            recording.backward(scores, cotangent, partial(self._square, sums), is_last=not left)
        self._add_by_loop(self._looped, batch, given, sums)

    def _check_reachable(self, recording: Recording) -> None:
        if recording.unreachable and self._is_probed:
            raise MergingError(
                f"{', '.join(sorted(recording.unreachable))}: the output of their module starts with "
                "the batch dimension for some batches only, e.g. because tokens are routed. Use "
                "batch_size=1."
            )

    def _owners(self) -> Owners:
        """Modules to watch: those whose parameters do not go by the loop."""
        owners = {
            module: {local: name for local, name in names.items() if name not in self._looped}
            for module, names in self._owned.items()
        }
        return {module: names for module, names in owners.items() if names}

    def _record(self, batch: Batch) -> tuple[Tensor, Recording]:
        """Run the model forward, watched."""
        try:
            return self._forward(batch)
        except RuntimeError:
            if self._is_probed or not self._expand:
                raise
            self._expand = False  # some (1, ...) is no row that all examples share, and the model fails
            return self._forward(batch)

    def _forward(self, batch: Batch) -> tuple[Tensor, Recording]:
        recording = self.watch(batch)
        with recording, torch.enable_grad():
            return self._scores(self._model, batch), recording

    def _square(self, sums: Sums, name: str, gradients: PerExample) -> None:
        self._reached.add(name)
        try:
            self._add_examples(sums[name], gradients)
        except RuntimeError:
            if self._is_probed or name not in self._vmapped:
                raise
            self._looped.add(name)  # vmap refuses, e.g. control flow that depends on values

    def _add_by_loop(
        self, names: Collection[str], batch: Batch, cotangents: Iterable[Tensor], sums: Sums
    ) -> set[str]:
        """Add the squared gradients of some parameters, one example at a time, by plain autograd.

        Returns:
            The parameters that the scores depend on.
        """
        reached = set()

        def add(name: str, leaf: Tensor) -> None:  # as soon as it is known: all at once are another model
            assert leaf.grad is not None
            reached.add(name)
            self._add_one(sums[name], leaf.grad.to(sums[name].dtype))
            leaf.grad = None

        leaves = {name: self._parameters[name].detach().requires_grad_() for name in sorted(names)}
        for name, leaf in leaves.items():
            leaf.register_post_accumulate_grad_hook(partial(add, name))  # type: ignore[no-untyped-call]
        for index in range(num_examples_of(batch)) if leaves else ():
            one = slice(index, index + 1)
            with torch.enable_grad():
                scores = self._scores(partial(_call, self._model, leaves), examples_of(batch, one))
            for cotangent in cotangents if scores.requires_grad else ():
                scores.backward(cotangent[one], retain_graph=True)  # type: ignore[no-untyped-call]
        return reached

    def _probe(self, batch: Batch) -> None:
        """Find out which parameters must go by the loop, from a few examples.

        The caller gives one example twice: rows that are attributed to the wrong example then meet their
        like, so that a wrong sum cannot look right (embeddings of two texts without a common word would).
        """
        with torch.no_grad():
            scores = self._scores(self._model, batch)
        weights = torch.arange(1, scores.numel() + 1, device=scores.device, dtype=torch.float32)
        # no two examples, and no two scores, weigh the same
        cotangents = [weights.cos().to(scores.dtype).view_as(scores)]
        reference = self._zeros()
        reached = self._add_by_loop(self._parameters, batch, cotangents, reference)
        ours = self._zeros()
        self._add(batch, lambda scores: cotangents, ours)
        names = self._parameters.keys() - self._looped
        self._looped |= reached - self._reached  # used, but never by calling their module
        squares = {name: self._squares(total) for name, total in reference.items()}
        largest = max(float(total.max()) for total in squares.values())
        for name in names:
            found = self._squares(ours[name])
            if not _agree(found, squares[name], largest):
                self._looped.add(name)

    def _zeros(self) -> Sums:
        return {name: self._zero(parameter) for name, parameter in self._parameters.items()}

    # What is summed; another sum of products of per-example gradients overrides these.

    def _is_counted(self, parameter: Tensor) -> bool:
        """Whether there is a sum for a parameter."""
        return True

    def _zero(self, parameter: Tensor) -> Tensor:
        """The sum of no examples."""
        return torch.zeros_like(parameter, dtype=_rules.accumulator(parameter.dtype), requires_grad=False)

    def _add_examples(self, total: Tensor, gradients: PerExample) -> None:
        gradients.add_squares(total)

    def _add_one(self, total: Tensor, gradient: Tensor) -> None:
        total.addcmul_(gradient, gradient)

    def _squares(self, total: Tensor) -> Tensor:
        """The squared gradients in a sum."""
        return total


def _agree(ours: Tensor, reference: Tensor, largest: float) -> bool:
    """Whether two sums of squares, which are overwritten, are equal up to rounding on a gradient's scale.

    A gradient far below the ``largest`` square of the whole model may be nothing but rounding (the bias of
    attention keys has none in theory), which is no evidence.
    """
    eps = torch.finfo(torch.float32).eps  # norms compute in float32 in any model
    scale = math.sqrt(float(reference.max()))
    difference = float(ours.sqrt_().sub_(reference.sqrt_()).abs_().max())
    return difference <= math.sqrt(eps) * scale + 8 * eps * math.sqrt(largest)


def refuse_coupled_examples(model: nn.Module) -> None:
    """Raise unless the gradient of an example is its own."""
    for name, module in model.named_modules():
        if module.training:
            raise MergingError(
                f"{name or type(model).__name__} is in training mode; dropout and batch statistics make no "
                "per-example gradients. Call model.eval() first."
            )
        # What all BatchNorms share has no public name; without running statistics they use the batch's.
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.running_mean is None:
            raise MergingError(
                f"{name} normalises with the statistics of the batch (track_running_stats=False), so the "
                "examples of a batch have no gradients of their own. Give it running statistics."
            )


def check_scores(scores: Tensor) -> None:
    """Raise unless all scores are finite."""
    if not scores.isfinite().all():
        raise MergingError(
            "the model's scores are not finite: its weights are too large, or the data are not what it "
            "was trained on. Train it again, with a smaller learning rate."
        )


def _owned(model: nn.Module, parameters: Mapping[str, nn.Parameter]) -> dict[nn.Module, dict[str, str]]:
    """Modules with parameters of their own: the module's name for each -> the model's name.

    Containers of parameters are never called, so what lies in one (scales of an (IA)3 adapter) belongs to the
    module that holds the container, under a name with a dot.
    """
    names = {id(parameter): name for name, parameter in parameters.items()}
    owned: dict[nn.Module, dict[str, str]] = {}
    for path, module in model.named_modules():
        prefix = ""
        owner = module
        while path and isinstance(owner, nn.ParameterDict | nn.ParameterList):
            path, _, last = path.rpartition(".")
            owner, prefix = model.get_submodule(path), f"{last}.{prefix}"
        for local, parameter in module.named_parameters(recurse=False):
            if id(parameter) in names:
                owned.setdefault(owner, {})[prefix + local] = names[id(parameter)]
    return owned


@contextmanager
def frozen(parameters: Iterable[nn.Parameter]) -> Iterator[None]:
    """Switch gradients of parameters off while the block runs."""
    parameters = list(parameters)
    for parameter in parameters:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in parameters:
            parameter.requires_grad_(True)


@contextmanager
def _widened(model: nn.Module) -> Iterator[None]:
    """Let a model of 16 bits compute in float32 while the block runs; its own numbers come back unchanged."""
    tensors = [*model.parameters(), *model.buffers()]
    own = {tensor: tensor.data for tensor in tensors if tensor.dtype in (torch.bfloat16, torch.float16)}
    for tensor, data in own.items():
        tensor.data = data.float()
    try:
        yield
    finally:
        for tensor, data in own.items():
            tensor.data = data


def _call(model: nn.Module, parameters: Mapping[str, Tensor], *args: Any, **kwargs: Any) -> Any:
    """Call the model with some parameters replaced; tied ones are replaced everywhere."""
    return functional_call(model, dict(parameters), args, kwargs)


def num_examples_of(batch: Batch) -> int:
    """Number of examples in a batch."""
    return next(len(value) for value in batch.values() if isinstance(value, Tensor) and value.dim())


def examples_of(batch: Batch, examples: slice | list[int]) -> Batch:
    """Take some examples out of a batch."""
    size = num_examples_of(batch)
    return {
        key: value[examples] if isinstance(value, Tensor) and value.shape[:1] == (size,) else value
        for key, value in batch.items()
    }
