"""Greedy soup (Wortsman et al., ICML 2022, arXiv:2203.05482): which models to average."""

from __future__ import annotations

from collections.abc import Callable, Sequence


def greedy_soup(names: Sequence[str], evaluate: Callable[[list[str]], float]) -> list[str]:
    """Add models to the average, the best first, as long as it does not get worse.

    Args:
        names: of the models; of equally good ones the first in this order comes first.
        evaluate: score of the average of some models; higher is better.

    Returns:
        The members of the soup, sorted. Needs at most 2 T - 1 evaluations for T models.
    """
    alone = {name: evaluate([name]) for name in names}
    first, *others = sorted(names, key=lambda name: -alone[name])  # stable
    members, best = [first], alone[first]
    for name in others:
        candidate = sorted([*members, name])
        score = evaluate(candidate)
        if score >= best:
            members, best = candidate, score
    return members
