"""How good an estimate is, and what it is made of: a part of ``hessian.json``; light to import.

By layer, and over everything:

    total         trace of the curvature: the sum of a diagonal, tr(A) tr(G) of K-FAC factors, tr(A) of Gram
                  matrices
    half_change   |m_1 - m_2| / |m|, m_1 and m_2 the means over two random halves of the examples, m over all.
                  m_1 - m_2 varies twice as much as m does, so that half of it is about the relative error
                  that m has because there are not more examples.
    zeros         share of the elements that are exactly 0
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, kw_only=True)
class LayerReport:
    """What is known of one layer; see the top of this file."""

    total: float
    half_change: float | None
    zeros: float


@dataclass(frozen=True, kw_only=True)
class Report:
    """What is known of an estimate; see the top of this file."""

    half_change: float | None = None
    """None: there were not two examples, or it was switched off."""
    zeros: float | None = None
    layers: Mapping[str, LayerReport] = field(default_factory=dict)
    """By name of the layer, in the order of the model."""
    num_processes: int = 1
    """That shared the examples."""
    peak_memory_bytes: int | None = None
    """Most memory that the first process has had until then, whatever for."""
    peak_gpu_bytes: int | None = None
    """Most memory of its GPU that tensors had meanwhile; None: there was no GPU."""

    @classmethod
    def parse(cls, values: Mapping[str, Any]) -> Report:
        """Read what JSON holds."""
        layers = {name: LayerReport(**its) for name, its in values.get("layers", {}).items()}
        return cls(**{**values, "layers": layers})
