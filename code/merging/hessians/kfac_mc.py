"""K-FAC factors of the true Fisher, with labels drawn from the model.

    A = mean over positions of a a^T
    G = mean over examples of E_{y ~ p(y | x)} sum over positions of g g^T

a is the input of a linear layer, g the gradient of log p(y | x) at its output; A (x) G stands for the Fisher
of its weight (Martens and Grosse, ICML 2015, arXiv:1503.05671). Labels are drawn as in ``fisher_mc``.
"""

from __future__ import annotations

from typing import Final

from merging.hessians.fisher_mc import cotangents

__all__ = ["NEEDS_LABELS", "SAMPLES_LABELS", "STATISTIC", "cotangents"]

STATISTIC: Final = "kfac"
NEEDS_LABELS = False
SAMPLES_LABELS = True
