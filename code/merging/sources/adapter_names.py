"""Which module of the base an adapter means: both name the same module, but may start at different places.

An adapter of ``BertModel`` says ``encoder.layer.0...`` where the folder of a classifier says
``bert.encoder.layer.0...``; newer model classes move prefixes around (``model.language_model.`` and
``language_model.model.``). The ends of the names decide, and must decide for one module only.
"""

from __future__ import annotations

import difflib
from collections.abc import Collection, Mapping

from merging.errors import CheckpointError


def match_modules(modules: Collection[str], names: Collection[str], *, owner: str) -> dict[str, str]:
    """Find the modules of an adapter in the base.

    Args:
        modules: paths of modules in the adapter: ``model.layers.0.self_attn.q_proj``.
        names: tensors of the base.
        owner: names the adapter in error messages.

    Returns:
        The base's path of each module.

    Raises:
        CheckpointError: a module is not in the base, or fits several places of it, or two fit one.
    """
    by_end = _by_last_part(names)
    found: dict[str, str] = {}
    for module in sorted(modules):
        candidates = _candidates(module, by_end)
        if not candidates:
            raise CheckpointError(_unknown_text(module, by_end, owner))
        if len(candidates) > 1:
            raise CheckpointError(
                f"{owner}: the module {module!r} fits several of the base: {', '.join(candidates[:3])}. "
                "Use the base that the adapter was trained on, saved by the same model class."
            )
        found[module] = candidates[0]
    taken: dict[str, str] = {}
    for module, path in found.items():
        if path in taken:
            raise CheckpointError(
                f"{owner}: the modules {taken[path]!r} and {module!r} both fit {path!r} of the base. Use the "
                "base that the adapter was trained on, saved by the same model class."
            )
        taken[path] = module
    return found


def match_name(name: str, names: Collection[str]) -> str | None:
    """Find a whole tensor name (of a head, of a bias) in the base; None if it has none, or several."""
    module, _, kind = name.rpartition(".")
    same_kind = [its for its in names if its.rpartition(".")[2] == kind]
    candidates = _candidates(module, _by_last_part(same_kind))
    return f"{candidates[0]}.{kind}" if len(candidates) == 1 else None


def _by_last_part(names: Collection[str]) -> Mapping[str, list[str]]:
    """Modules of the base by the last part of their paths."""
    grouped: dict[str, list[str]] = {}
    for path in sorted({name.rpartition(".")[0] for name in names}):
        grouped.setdefault(path.rpartition(".")[2], []).append(path)
    return grouped


def _candidates(module: str, by_end: Mapping[str, list[str]]) -> list[str]:
    """Modules of the base with the longest end in common, if what differs is only a prefix."""
    parts = module.split(".")
    paths = by_end.get(parts[-1], [])
    if module in paths:
        return [module]
    for cut in range(len(parts)):
        end = ".".join(parts[cut:])
        fitting = [path for path in paths if path == end or path.endswith(f".{end}")]
        if fitting:
            return [path for path in fitting if _same_place(parts[:cut], path[: -len(end)].split("."))]
    return []


def _same_place(dropped: list[str], added: list[str]) -> bool:
    """Whether prefixes are one kind of prefix: one is empty, or both have the same parts in another order.

    A number is no prefix: it says which layer.
    """
    added = [part for part in added if part]
    if any(part.isdigit() for part in (*dropped, *added)):
        return False
    return not dropped or not added or sorted(dropped) == sorted(added)


def _unknown_text(module: str, by_end: Mapping[str, list[str]], owner: str) -> str:
    known = [path for paths in by_end.values() for path in paths]
    same_end = by_end.get(module.rpartition(".")[2], [])
    near = difflib.get_close_matches(module, same_end or known, n=1, cutoff=0.0)
    hint = f"The nearest is {near[0]!r}. " if near else ""
    if module.rpartition(".")[2] == "lm_head":
        hint += (
            "A language head that is tied to the embedding cannot have an update of its own: save the base "
            "with tie_word_embeddings=False. "
        )
    return (
        f"{owner}: the module {module!r} is not in the base. {hint}Pass the base that the adapter was "
        "trained on."
    )
