"""Inputs for one merge, of any method; facts about a method come from its own test file."""

import importlib.util
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from merging import methods
from merging.merge.streaming import merge_tensors
from merging.merge.tensor_merge import InputPieces
from merging.methods._seam import Factors, MaskFisher, Parameter

Inputs = dict[str, Any]


@pytest.fixture(params=methods.names())
def method(request: pytest.FixtureRequest) -> str:
    """Each method of the registry in turn; skips what the method's test file lists as ``EXCEPTIONS``."""
    name: str = request.param
    test: str = request.node.originalname
    reason = facts(name, "EXCEPTIONS").get(test)
    if reason is not None:
        pytest.skip(f"{name}: {reason}")
    return name


def facts(method: str, constant: str) -> dict[str, Any]:
    """A constant of the method's own test file: ``NEUTRAL`` or ``EXCEPTIONS``; empty without it."""
    path = Path(__file__).parent / f"test_{method}.py"
    if not path.is_file():
        return {}
    spec = importlib.util.spec_from_file_location(f"facts_of_{method}", path)
    assert spec is not None and spec.loader is not None
    module: ModuleType = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    found: dict[str, Any] = getattr(module, constant, {})
    return found


@pytest.fixture
def neutral(method: str) -> dict[str, Any]:
    """Options under which one task returns its model."""
    return facts(method, "NEUTRAL")


@pytest.fixture
def min_models(method: str) -> int:
    """As few models as the method takes."""
    low, _ = getattr(methods.load(method), "NUM_MODELS", (1, None))
    return int(low)


@pytest.fixture
def make_inputs() -> Callable[..., Inputs]:
    """``make_inputs(method, tasks=..., shape=...)``: random values for every required input."""

    def make(
        method: str,
        *,
        tasks: tuple[str, ...] | None = None,
        shape: tuple[int, ...] = (6, 5),
        dtype: torch.dtype = torch.float64,
        seed: int = 0,
        options: Any = None,
    ) -> Inputs:
        generator = torch.Generator().manual_seed(seed)
        low, high = getattr(methods.load(method), "NUM_MODELS", (1, None))
        if tasks is None:
            tasks = tuple("abc"[: low if high is not None and high < 3 else max(low, 3)])

        def weights(sizes: tuple[int, ...] = shape) -> torch.Tensor:
            return torch.randn(sizes, generator=generator, dtype=torch.float64).to(dtype)

        def curvature() -> torch.Tensor:
            return torch.rand(shape, generator=generator, dtype=torch.float64).to(dtype)

        def second_moment(size: int) -> torch.Tensor:
            root = weights((size, 2 * size))
            return root @ root.T / (2 * size)

        def factors() -> Factors | None:
            if len(shape) != 2 or 0 in shape:
                return None
            return Factors(second_moment(shape[1]), second_moment(shape[0]), num_positions=10)

        def block() -> torch.Tensor | None:
            return second_moment(shape[0]) if len(shape) == 1 and shape[0] else None

        def by_task(maker: Callable[[], Any]) -> dict[str, Any]:
            return {task: maker() for task in tasks}

        def mask_fisher() -> MaskFisher:
            return MaskFisher(heads=weights((2, 2)).abs(), neurons=weights((2, 6)).abs())

        makers: dict[str, Callable[[], Any]] = {
            "base": weights,
            "models": lambda: by_task(weights),
            "initial": weights,
            "base_hessian": curvature,
            "hessians": lambda: by_task(curvature),
            "grams": lambda: by_task(factors),
            "base_factors": factors,
            "factors": lambda: by_task(factors),
            "blocks": lambda: by_task(block),
            "mask_fishers": lambda: by_task(mask_fisher),
        }
        parsed = methods.load(method).Options(**(options or {}))
        return {key: makers[key]() for key in methods.required_inputs(method, parsed)}

    return make


class MemoryPiece(dict[str, Any]):
    """One parameter as ``measure`` and ``summarize`` see it."""

    def __init__(self, inputs: Inputs, name: str, options: Any) -> None:
        super().__init__(inputs)
        tensor = next(iter(inputs.get("models", {}).values()), torch.empty(0))
        self.parameter = Parameter(name, tuple(tensor.shape), size=tensor.numel())
        self.options = options


@pytest.fixture
def whole_model() -> Callable[..., InputPieces]:
    """``whole_model([inputs, ...], options)``: what ``summarize`` is given for these parameters."""

    def make(parameters: Sequence[Inputs], options: Any = None) -> InputPieces:
        pieces: Any = [MemoryPiece(its, f"w{number}", options) for number, its in enumerate(parameters)]
        return InputPieces(lambda: pieces)

    return make


@pytest.fixture
def run() -> Callable[..., torch.Tensor]:
    """``run(method, inputs, **options)``: one merge; these inputs are the whole model."""

    def call(method: str, inputs: Inputs, **options: Any) -> torch.Tensor:
        def named(key: str, value: Any) -> Any:
            if methods.is_by_task(key) and key != "mask_fishers":
                return {task: {"w": its} for task, its in value.items()}
            return value if key == "mask_fishers" else {"w": value}

        given = {key: named(key, value) for key, value in inputs.items()}
        merged = merge_tensors(
            method=method,
            options=options,
            base=given.pop("base", None),
            models=given.pop("models"),
            extras=given,
        )
        return merged["w"]

    return call
