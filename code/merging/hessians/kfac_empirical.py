"""K-FAC factors of the empirical Fisher: gradients at the labels of the data.

    A = mean over positions of a a^T,    G = mean over examples of the sum over positions of g g^T

a is the input of a linear layer, g the gradient of log p(y_data | x) at its output. MaTS takes it by default
(Tam et al., TMLR 2024, arXiv:2312.04339); what speaks against it is said in ``fisher_empirical``.
"""

from __future__ import annotations

from typing import Final

from merging.hessians.fisher_empirical import cotangents

__all__ = ["NEEDS_LABELS", "SAMPLES_LABELS", "STATISTIC", "cotangents"]

STATISTIC: Final = "kfac"
NEEDS_LABELS = True
SAMPLES_LABELS = False
