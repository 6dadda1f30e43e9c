"""AdaMerging: coefficients of least entropy of predictions (Yang et al., ICLR 2024, arXiv:2310.02575).

    theta^l = theta_0^l + sum_t clamp(Lambda_t^l) tau_t^l      l: a tensor ("tensor"), or the model ("task")
    min over Lambda of sum_t mean_x H(p_t(. | x; theta))       each task through its own fixed head

The step is collapsed: the model is merged once into leaves, the gradients of all tasks add up there, and

    dL/dLambda_t^l = <dL/dtheta^l, tau_t^l>                    0 where the clamp cuts

needs no graph through the merge, however many tasks there are. AdaMerging++ is the same with task vectors
that TIES has processed (:mod:`merging.methods.task_arithmetic_ties`).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor, nn

from merging.adaptation.options import AdaMergingOptions
from merging.errors import DivergenceError

_CHUNK = 2**20  # elements whose products are added up in float32; their sums are added up in float64


class Coefficients:
    """Coefficients in training, and the merged parameters that they give."""

    def __init__(
        self,
        base: Mapping[str, Tensor],
        vectors: Mapping[str, Tensor],
        tasks: Sequence[str],
        options: AdaMergingOptions,
    ) -> None:
        """Start with the same coefficient everywhere.

        Args:
            base: theta_0 by name of a tensor. The leaves are made on its device, in its dtype.
            vectors: tau_t of all tasks by name of a tensor, (T, elements); may lie on another device, from
                which it is fetched tensor by tensor.
            tasks: names of the T tasks, in the order of ``vectors``.
            options: granularity, start, interval, Adam.
        """
        self.tasks = tuple(tasks)
        self.names = tuple(base)
        self._base = {name: its.reshape(-1) for name, its in base.items()}
        self._vectors = dict(vectors)
        self._options = options
        num_rows = len(self.names) if options.granularity == "tensor" else 1
        self.raw = nn.Parameter(torch.full((num_rows, len(tasks)), options.initial, dtype=torch.float64))
        """Lambda before it is cut to the interval, (tensors or 1, T), float64."""
        self.leaves = {name: nn.Parameter(its.clone()) for name, its in base.items()}
        """The merged parameters by name. Losses are computed from them; they change in place."""
        self._optimizer = torch.optim.Adam([self.raw], lr=options.learning_rate, betas=options.betas)
        self.merge()

    def effective(self) -> Tensor:
        """Lambda as it is used, of the shape of ``raw``."""
        raw = self.raw.detach()
        return raw.clamp(*self._options.clamp) if self._options.clamp is not None else raw.clone()

    def by_task(self) -> dict[str, float]:
        """Coefficients in use by task, for granularity "task"."""
        return dict(zip(self.tasks, self.effective()[0].tolist(), strict=True))

    def by_tensor(self) -> dict[str, dict[str, float]]:
        """Coefficients in use by tensor and task, whatever the granularity."""
        rows = self.effective().expand(len(self.names), -1).tolist()
        return {
            name: dict(zip(self.tasks, row, strict=True)) for name, row in zip(self.names, rows, strict=True)
        }

    def step(self, losses: Iterable[Tensor]) -> float:
        """One step of Adam on the sum of some losses.

        Args:
            losses: scalars computed from ``leaves``; each is made when it is asked for, so that the graph of
                one is gone before the next is made.

        Returns:
            The sum of the losses, before the step.

        Raises:
            DivergenceError: the sum is NaN or infinite.
        """
        for leaf in self.leaves.values():
            leaf.grad = None
        total: Tensor | float = 0.0
        for loss in losses:
            loss.backward()  # type: ignore[no-untyped-call]
            total = total + loss.detach()
        value = float(total)
        if not math.isfinite(value):
            raise DivergenceError(
                f"adamerging: the entropy is {value}. The merged model gives scores that are not finite: "
                f"lower initial ({self._options.initial}) or learning_rate ({self._options.learning_rate})."
            )
        self.raw.grad = self._gradient()
        self._optimizer.step()
        self.merge()
        return value

    @torch.no_grad()
    def merge(self) -> None:
        """Write the model of the present coefficients into the leaves."""
        rows = self.effective()
        for number, (name, leaf) in enumerate(self.leaves.items()):
            vectors = self._vectors[name].to(leaf.device)
            row = rows[number if len(rows) > 1 else 0].to(leaf)
            torch.addmv(self._base[name], vectors.T, row, out=leaf.data.view(-1))

    @torch.no_grad()
    def _gradient(self) -> Tensor:
        """Of the sum of losses with respect to ``raw``, from the gradients at the leaves."""
        rows = []
        for name, leaf in self.leaves.items():
            gradient = leaf.grad
            if gradient is None:  # no loss depends on this tensor
                rows.append(torch.zeros(len(self.tasks), dtype=torch.float64, device=leaf.device))
                continue
            vectors = self._vectors[name].to(leaf.device)
            chunks = zip(
                torch.split(vectors, _CHUNK, 1), torch.split(gradient.reshape(-1), _CHUNK), strict=True
            )
            rows.append(torch.stack([torch.mv(its, other).double() for its, other in chunks]).sum(0))
        found = torch.stack(rows).to(self.raw.device)
        if self._options.granularity == "task":
            found = found.sum(0, keepdim=True)
        if self._options.clamp is not None:
            low, high = self._options.clamp
            found *= (self.raw >= low) & (self.raw <= high)
        return found
