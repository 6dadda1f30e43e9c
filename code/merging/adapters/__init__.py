"""Merging LoRA and (IA)3 adapters: dense, or to an adapter again.

Adapters are accepted wherever a model is (:mod:`merging.sources.adapter`); this package gives what such a
merge may end in, and the mathematics of low rank behind it. Merging A and B apart is not merging the updates:
mean(B) mean(A) is not mean(BA). So everything here works on s B A, unless ``factors`` or ``linear`` is asked
for.
"""

from merging.adapters.extraction import Losses, as_adapter
from merging.adapters.merge import RESULTS, merge_adapters

__all__ = ["RESULTS", "Losses", "as_adapter", "merge_adapters"]
