"""Methods that select elements, of arcee-ai/mergekit."""

from typing import Any

from merging.merge.streaming import merge_tensors
from torch import Tensor

PREFIXES = ("mk_sce", "mk_nearswap", "mk_arcee_fusion", "mk_ram", "mk_ramplus")

NAMES = {"ramplus_tl": "ramplus"}
PARITY = {"sce": {"parity": True}}


def run(case: Any) -> dict[str, dict[str, Tensor]]:
    options = {key: float(value) for key, value in case.params.items() if key != "method"}
    method = NAMES.get(case.params["method"], case.params["method"])
    merged = merge_tensors(
        method=method,
        options={**options, **PARITY.get(method, {})},
        base=case.groups["in/theta0"],
        models=case.numbered("theta"),
        extras={},
    )
    return {"theta": merged}
