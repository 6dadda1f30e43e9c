"""Inputs for one call of ``merge``, of any method."""

from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest
import torch
from merging import methods


@pytest.fixture(params=methods.names())
def method(request: pytest.FixtureRequest) -> str:
    """Each method of the registry in turn."""
    name: str = request.param
    return name


@pytest.fixture
def make_inputs() -> Callable[..., dict[str, Any]]:
    """``make_inputs(method, tasks=..., shape=...)``: random tensors for every parameter of ``merge``."""

    def make(
        method: str,
        *,
        tasks: tuple[str, ...] = ("a", "b", "c"),
        shape: tuple[int, ...] = (6, 5),
        dtype: torch.dtype = torch.float64,
        seed: int = 0,
    ) -> dict[str, Any]:
        generator = torch.Generator().manual_seed(seed)

        def weights() -> torch.Tensor:
            return torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)

        def curvature() -> torch.Tensor:
            return torch.rand(shape, generator=generator, dtype=torch.float64).to(dtype)

        makers = {
            "base": weights,
            "models": lambda: {task: weights() for task in tasks},
            "base_hessian": curvature,
            "hessians": lambda: {task: curvature() for task in tasks},
        }
        return {key: makers[key]() for key in methods.inputs(method)}

    return make


@pytest.fixture
def run() -> Callable[..., torch.Tensor]:
    """``run(method, inputs, **options)``: one call of ``merge``; these inputs are the whole model."""

    def call(method: str, inputs: dict[str, Any], **options: Any) -> torch.Tensor:
        module: ModuleType = methods.load(method)
        parsed = module.Options(**options)
        summary = {}
        if hasattr(module, "summarize"):
            found = module.summarize(iter([inputs]), parsed)
            if "summary" in module.merge.__annotations__:
                summary = {"summary": found}
        merged: torch.Tensor = module.merge(**inputs, options=parsed, **summary)
        return merged

    return call
