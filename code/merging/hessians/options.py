"""Options of an estimate; checked while the graph is built."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from merging.errors import OptionError

WITHOUT_INFLUENCE = frozenset({"batch_size", "compare_halves"})
"""Options that change how long an estimate takes and what is said of it, but not what is estimated."""


@dataclass(frozen=True, kw_only=True)
class HessianOptions:
    """How many examples an estimate sees, and in which portions. ``batch_size`` never changes the result."""

    batch_size: int = 32
    """Examples in one backward pass; only speed and memory depend on it."""
    max_examples: int | None = None
    """At most so many examples, drawn without replacement and stratified by label; None: all."""
    num_samples: int = 1
    """Label draws for each example (``fisher_mc``, ``kfac_mc``, ``block_mc``)."""
    max_tokens: int | None = None
    """Texts are cut to so many tokens; images need none."""
    token_reduction: Literal["sum", "mean"] = "sum"
    """Of an example with several predictions, such as a text: whether its loss is the sum over them, so that
    its Fisher is in expectation the sum of theirs, or the mean, which divides that by their number twice."""
    kfac_scale: Literal["consistent", "reference"] = "consistent"
    """What G of K-FAC is (``kfac_mc``, ``kfac_empirical``). "consistent": the mean over examples of the sum
    over positions, for the loss summed over an example's predictions, so that tasks with long texts weigh as
    much as their Fishers do. "reference": both divided by the number of positions and the loss averaged over
    predictions, as in r-three/mats, which makes tasks with many predictions an example weigh less."""
    kfac_bias: bool = False
    """Whether the bias is one more input of its layer, always 1, so that A of K-FAC is (i + 1, i + 1)
    (homogeneous coordinates). ``gradient_matching_kfac`` and ``mats`` then merge both as one matrix;
    RegMean reads the part of the weight, which is the same as without."""
    kfac_sharing: Literal["expand", "reduce"] = "expand"
    """Of what K-FAC factors are taken where all positions of an example share a weight (Eschenhagen et al.,
    NeurIPS 2023): "expand": of every position by itself; "reduce": of the mean of an example's inputs and the
    sum of its gradients, which fits models that average over positions, and costs least."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """In which the model runs. bfloat16 is about twice as fast where the processor has it, and its numbers
    have 2 to 3 digits; sums are float32 in any case."""
    compare_halves: bool = True
    """Whether the report says how much two random halves of the examples differ; no influence on the result.
    It costs the room of another copy of the sums on the disk, and no memory while examples are added up."""

    def __post_init__(self) -> None:
        for name in ("batch_size", "max_examples", "num_samples", "max_tokens"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise OptionError(f"{name} must be at least 1, got {value}.")
