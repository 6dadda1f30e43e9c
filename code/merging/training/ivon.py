"""IVON: training that leaves a posterior precision, which merges take as a Hessian (Shen et al., ICML 2024,
arXiv:2402.17641).

The optimizer keeps the mean m of a Gaussian over the weights (the parameters themselves), and h, an estimate
of the diagonal Hessian of the MEAN loss. With N = ``ess``, w = ``weight_decay``, step k:

    n ~ Normal(0, 1 / (N (h + w)))       g = gradient of the mean loss at m + n      (averaged over samples)
    f = N (h + w) n g  ("price")         or  N g^2  ("gradsq")                       (averaged over samples)
    v <- beta1 v + (1 - beta1) g
    h <- beta2 h + (1 - beta2) f + (1 - beta2)^2 (h - f)^2 / (2 (h + w))             (h + w stays above 0)
    m <- m - lr' clip((v / (1 - beta1^k) + w m) / (h + w)),      lr' = lr (hess_init + w)

N (h + w) is the precision of the posterior. "gradsq" squares the gradient of a whole batch, so that its h is
about batch size / N of a Fisher; take "price" where h is to weigh models in a merge.
"""

from __future__ import annotations

import dataclasses
import math
import os
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal, overload

import numpy as np
import torch
import transformers
from torch import Tensor
from torch.optim import Optimizer

from merging import models
from merging.data import splits
from merging.errors import MergingError, OptionError
from merging.files.checkpoints import weights_hash
from merging.files.publishing import published_folder
from merging.hessians.artifact import HessianRecord, write_hessian

MOMENTUM, HESS = "momentum", "hess"


@dataclass(frozen=True, kw_only=True)
class IvonOptions:
    """Settings of the optimizer; the names are those of the paper's own package."""

    ess: float
    """N, the effective sample size: how many examples the mean loss stands for; usually all of them."""
    hess_init: float = 1.0
    """h before the first step; its memory is 1 / (1 - beta2) steps."""
    beta1: float = 0.9
    """Of the momentum v."""
    beta2: float = 0.99999
    """Of h."""
    weight_decay: float = 1e-4
    """w; N w is the precision of the prior."""
    mc_samples: int = 1
    """Draws of the weights in one step with a closure."""
    clip_radius: float = math.inf
    """Bound on each element of the update, before the learning rate."""
    debias: bool = True
    """Whether v is divided by 1 - beta1^k."""
    rescale_lr: bool = True
    """Whether lr is multiplied by hess_init + weight_decay, which makes the first steps as long as those of
    SGD with momentum."""
    hess_approx: Literal["price", "gradsq"] = "price"
    """What h is estimated from."""

    def __post_init__(self) -> None:
        for name in ("ess", "hess_init", "clip_radius"):
            if not getattr(self, name) > 0:
                raise OptionError(f"ivon: {name} must be greater than 0, got {getattr(self, name)}.")
        for name in ("beta1", "beta2"):
            if not 0 <= getattr(self, name) < 1:
                raise OptionError(f"ivon: {name} must be in [0, 1), got {getattr(self, name)}.")
        if not 0 <= self.weight_decay < math.inf:
            raise OptionError(f"ivon: weight_decay must be 0 or more, got {self.weight_decay}.")
        if self.mc_samples < 1:
            raise OptionError(f"ivon: mc_samples must be at least 1, got {self.mc_samples}.")
        if self.hess_approx not in ("price", "gradsq"):
            raise OptionError(f"ivon: hess_approx must be 'price' or 'gradsq', got {self.hess_approx!r}.")


class Ivon(Optimizer):
    """The optimizer. Gradients are taken inside ``with optimizer.sampled():``, then ``step()``.

    ``state[parameter]["hess"]`` is h, ``["momentum"]`` is v. Draws depend on nothing but the seed, the
    step, the sample and the place of the parameter: a training that goes on from ``state_dict()`` draws what
    it would have drawn, and so do all processes of a parallel one.
    """

    def __init__(self, params: Iterable[Tensor], *, lr: float, seed: int, options: IvonOptions) -> None:
        """Start at the values that ``params`` have.

        Args:
            params: m, float32 or float64.
            lr: learning rate, > 0; a schedule may change ``param_groups[0]["lr"]``.
            seed: of the draws.
            options: see there.

        Raises:
            OptionError: ``lr`` is not greater than 0.
        """
        if not 0 < lr < math.inf:
            raise OptionError(f"ivon: the learning rate must be greater than 0, got {lr}.")
        super().__init__(params, {"lr": lr, "num_steps": 0})
        self.options = options
        self._seed = seed
        self._samples = 0
        self._gradients: dict[Tensor, Tensor] = {}
        self._curvatures: dict[Tensor, Tensor] = {}
        for parameter in self._parameters():
            self.state[parameter] = {
                MOMENTUM: torch.zeros_like(parameter, requires_grad=False),
                HESS: torch.full_like(parameter, options.hess_init, requires_grad=False),
            }

    @property
    def num_steps(self) -> int:
        """k: steps that were made."""
        return int(self.param_groups[0]["num_steps"])

    def precision(self, parameter: Tensor) -> Tensor:
        """N (h + w): the posterior precision of a parameter, of its shape."""
        hess: Tensor = self.state[parameter][HESS]
        return self.options.ess * (hess + self.options.weight_decay)

    @contextmanager
    def sampled(self, noise: Sequence[Tensor] | None = None) -> Iterator[None]:
        """Move the parameters to m + n while the block runs, and take the gradients that it leaves.

        The block calls ``backward`` on the mean loss; several calls add up. Older gradients are dropped.

        Args:
            noise: n for each parameter instead of a draw.
        """
        parameters = list(self._parameters())
        if noise is None:
            noise = [self._draw(parameter, place) for place, parameter in enumerate(parameters)]
        means = [parameter.detach().clone() for parameter in parameters]
        self.zero_grad()
        with torch.no_grad():
            for parameter, n in zip(parameters, noise, strict=True):
                parameter += n
        try:
            yield
            self._collect(parameters, noise)
        finally:
            with torch.no_grad():
                for parameter, mean in zip(parameters, means, strict=True):
                    parameter.copy_(mean)
            self.zero_grad()

    @overload
    def step(self, closure: None = None) -> None: ...

    @overload
    def step(self, closure: Callable[[], float]) -> float: ...

    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """Make a step with the gradients of all ``sampled`` blocks since the last one.

        Args:
            closure: computes the mean loss, calls ``backward`` on it and returns it; it is run in
                ``mc_samples`` blocks first.

        Returns:
            The mean loss of the closure's runs, or None.

        Raises:
            MergingError: there was no ``sampled`` block.
        """
        losses = []
        if closure is not None:
            for _ in range(self.options.mc_samples):
                with self.sampled(), torch.enable_grad():
                    losses.append(float(closure()))
        if not self._samples:
            raise MergingError(
                "ivon: step() found no gradients. Compute the loss and call backward() inside "
                "`with optimizer.sampled():`, or pass step() a closure."
            )
        with torch.no_grad():
            for group in self.param_groups:
                group["num_steps"] += 1
                for parameter in group["params"]:
                    if parameter in self._gradients:
                        self._update(parameter, group["lr"], group["num_steps"])
        self._samples = 0
        self._gradients.clear()
        self._curvatures.clear()
        return sum(losses) / len(losses) if losses else None

    def _collect(self, parameters: Sequence[Tensor], noise: Sequence[Tensor]) -> None:
        """Add the gradients of one block."""
        self._samples += 1
        for parameter, n in zip(parameters, noise, strict=True):
            g = parameter.grad
            if g is None:
                continue
            curvature = n * g if self.options.hess_approx == "price" else g.square()
            if parameter in self._gradients:
                self._gradients[parameter] += g
                self._curvatures[parameter] += curvature
            else:
                self._gradients[parameter] = g.clone()
                self._curvatures[parameter] = curvature

    def _update(self, parameter: Tensor, lr: float, num_steps: int) -> None:
        options, state = self.options, self.state[parameter]
        v, h, w = state[MOMENTUM], state[HESS], options.weight_decay
        g = self._gradients[parameter] / self._samples
        f = self._curvatures[parameter] * (options.ess / self._samples)
        if options.hess_approx == "price":
            f = f * (h + w)
        v.mul_(options.beta1).add_(g, alpha=1 - options.beta1)
        share = 1 - options.beta2
        h.copy_(options.beta2 * h + share * f + 0.5 * share**2 * (h - f).square() / (h + w))
        direction = v / (1 - options.beta1**num_steps) if options.debias else v
        change = (direction + w * parameter) / (h + w)
        if options.clip_radius < math.inf:
            change = change.clamp(-options.clip_radius, options.clip_radius)
        parameter.sub_(change, alpha=lr * (options.hess_init + w if options.rescale_lr else 1))

    def _draw(self, parameter: Tensor, place: int) -> Tensor:
        """Draw n, on the CPU: the same on every device."""
        key = np.random.SeedSequence([self._seed, self.num_steps, self._samples, place])
        generator = torch.Generator().manual_seed(int(key.generate_state(1, np.uint64)[0] >> np.uint64(1)))
        eps = torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype)
        return eps.to(parameter.device) * self.precision(parameter).rsqrt()

    def _parameters(self) -> Iterator[Tensor]:
        for group in self.param_groups:
            yield from group["params"]


def write_posterior(
    optimizer: Ivon,
    network: transformers.PreTrainedModel,
    *,
    task_type: str,
    model: str | os.PathLike[str],
    data: Any,
    seed: int,
    out: str | os.PathLike[str],
) -> None:
    """Publish what IVON learned of the curvature as a Hessian folder, so that merges need no extra pass.

    Stored is (N / number of training examples) h, a mean, floored at 0: a merge that multiplies by the size
    of the training set gets N h. For gradient matching N w of the pretrained model is then ``delta_0``.

    Args:
        optimizer: after training.
        network: the trained model, whose parameters ``optimizer`` has; frozen ones are left out.
        task_type: of the training.
        model: folder of the trained model.
        data: its training set; see :func:`merging.data.splits.check_dataset`.
        seed: of the training.
        out: folder to publish; one that is there is replaced at the end.

    Warns:
        UserWarning: after so few steps h is still mostly ``hess_init``.
    """
    options, num_steps = optimizer.options, optimizer.num_steps
    if num_steps * (1 - options.beta2) < 1:
        warnings.warn(
            f"ivon: after {num_steps} steps with beta2 = {options.beta2} the Hessian is still mostly its "
            f"initial value {options.hess_init}: its memory is {1 / (1 - options.beta2):.0f} steps. Train "
            "longer, lower beta2, or estimate a Fisher instead.",
            stacklevel=2,
        )
    num_train_examples = len(splits.load(data))
    tensors, num_floored = {}, 0
    for name, parameter in network.named_parameters():
        if parameter in optimizer.state:
            hess = optimizer.state[parameter][HESS]
            num_floored += int((hess < 0).sum())
            tensors[name] = hess.clamp(min=0) * (options.ess / num_train_examples)
    record = HessianRecord(
        estimator="ivon",
        task_type=task_type,
        num_examples=num_train_examples,
        num_train_examples=num_train_examples,
        model_hash=weights_hash(model),
        model=os.fspath(model),
        data=splits.describe(data),
        seed=seed,
        options={
            **dataclasses.asdict(options),
            "clip_radius": None if math.isinf(options.clip_radius) else options.clip_radius,
            "num_steps": num_steps,
            "num_floored": num_floored,
        },
        versions={"torch": torch.__version__},
    )
    with published_folder(out) as folder:
        write_hessian(folder, models.as_stored(network, tensors), record)
