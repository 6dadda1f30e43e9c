"""Empirical Fisher of masks on attention heads and intermediate neurons, which Fisher Mask Nodes needs.

    F_j = mean over examples of (d log p(y_data | x) / d m_j)^2,    m = 1

m multiplies the output of each attention head, or each intermediate neuron (Thennal et al., LREC-COLING 2024,
arXiv:2403.09891). Each example is squared by itself and seen once; the authors' code squares gradients of
whole batches, drawn with replacement.
"""

from __future__ import annotations

from typing import Final

from merging.hessians.fisher_empirical import cotangents

__all__ = ["NEEDS_LABELS", "SAMPLES_LABELS", "STATISTIC", "cotangents"]

STATISTIC: Final = "mask_nodes"
NEEDS_LABELS = True
SAMPLES_LABELS = False
