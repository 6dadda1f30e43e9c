"""Blocks of the empirical Fisher: gradients at the labels of the data.

    B = mean over examples of g g^T,    g = d log p(y_data | x) / d v

v is a vector of the model: a bias, the weight of a norm, an (IA)3 scale; MaTS merges those with a full (d, d)
curvature (Tam et al., TMLR 2024, arXiv:2312.04339). What speaks against it is said in
``fisher_empirical``.
"""

from __future__ import annotations

from typing import Final

from merging.hessians.fisher_empirical import cotangents

__all__ = ["NEEDS_LABELS", "SAMPLES_LABELS", "STATISTIC", "cotangents"]

STATISTIC: Final = "block"
NEEDS_LABELS = True
SAMPLES_LABELS = False
