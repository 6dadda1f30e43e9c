"""Per-example gradients, formed a few at a time: B of them take B times the memory of the parameter.

Shapes: B examples, R positions of each, o rows and i columns of a matrix.
"""

from __future__ import annotations

import warnings
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from merging.hessians._products import add_squared_products, max_elements


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
        size = max(1, max_elements(total) // max(1, total.numel()))
        for start in range(0, self.num_examples, size):
            gradients = self.gradients(slice(start, start + size)).to(total.dtype)
            total.add_(gradients.square_().sum(0))

    def add_outer(self, total: Tensor) -> None:
        """Add the sum over examples of the gradient times itself to ``total``, (d, d), d = elements of it."""
        size = max(1, max_elements(total) // len(total))
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

    @property
    def is_matrix(self) -> bool:
        """Whether there is one group."""
        return self.left.dim() == 3

    def gradients(self, examples: slice) -> Tensor:
        """See base."""
        product = self.left[examples].transpose(-1, -2) @ self.right[examples]
        return product.reshape(-1, *self.shape)

    def add_squares(self, total: Tensor) -> None:
        """See base."""
        if self.is_matrix:
            add_squared_products(total.view(self.left.shape[2], -1), [(self.left, self.right)])
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
    """Of the parameter in the module; with dots if it lies in a container there."""
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
        with warnings.catch_warnings():  # the record says what has no rule; torch would say it at every call
            warnings.filterwarnings("ignore", message="There is a performance drop because we have not yet")
            gradients: Tensor = torch.vmap(gradient, in_dims)(
                call.split(self.output_gradient)[examples], *inputs
            )
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

    def add_squares(self, total: Tensor) -> None:
        """See base; matrices, also one that is an embedding and a layer, are formed a few rows at a time."""
        matrices = [part for part in self.parts if isinstance(part, Outer) and part.is_matrix]
        lookups = [part for part in self.parts if isinstance(part, Rows)]
        if len(matrices) + len(lookups) < len(self.parts):
            super().add_squares(total)
        elif matrices:
            add_squared_products(
                total.view(matrices[0].left.shape[2], -1),
                [(part.left, part.right) for part in matrices],
                [(part.ids, part.values) for part in lookups],
            )
        else:
            ids = torch.cat([part.ids for part in lookups], 1)
            values = torch.cat([part.values for part in lookups], 1)
            Rows(ids, values, lookups[0].num_rows).add_squares(total)
