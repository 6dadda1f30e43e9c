"""Diagonal of the generalised Gauss-Newton matrix.

    GGN = mean over examples of diag(J^T L J)

J is the Jacobian of the scores, L the Hessian of the loss with respect to them: of the cross entropy of
softmax scores diag(p) - p p^T, of the squared error of real scores the identity, so that it is diag(J^T J).
For these losses L is the Fisher of the scores, and so the GGN diagonal equals ``fisher_exact``, number by
number; the two names say what is meant. It differs from the Hessian by sum_c (d l / d z_c) d2 z_c / d theta2,
and unlike it is never negative (Schraudolph, Neural Computation 14, 2002).
"""

from __future__ import annotations

from typing import Final

from merging.hessians.fisher_exact import cotangents

__all__ = ["NEEDS_LABELS", "SAMPLES_LABELS", "STATISTIC", "cotangents"]

STATISTIC: Final = "diagonal"
NEEDS_LABELS = False
SAMPLES_LABELS = False
