"""Blocks of the true Fisher, with labels drawn from the model.

    B = mean over examples of E_{y ~ p(y | x)} g g^T,    g = d log p(y | x) / d v

v is a vector of the model: a bias, the weight of a norm, an (IA)3 scale; MaTS merges those with a full (d, d)
curvature (Tam et al., TMLR 2024, arXiv:2312.04339). Labels are drawn as in ``fisher_mc``.
"""

from __future__ import annotations

from typing import Final

from merging.hessians.fisher_mc import cotangents

__all__ = ["NEEDS_LABELS", "SAMPLES_LABELS", "STATISTIC", "cotangents"]

STATISTIC: Final = "block"
NEEDS_LABELS = False
SAMPLES_LABELS = True
