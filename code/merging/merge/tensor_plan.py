"""What happens to each tensor of a merge, decided from names, shapes and dtypes before any work is done."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from merging.errors import CheckpointError, OptionError
from merging.files.checkpoints import FLOAT_DTYPES, TensorInfo
from merging.merge.heads import is_head
from merging.merge.policy import Policy
from merging.patterns import matches
from merging.sources import Source

_CONSTANT = re.compile(r"(^|\.)(position_ids|token_type_ids|masked_bias|(original_)?inv_freq)$")
_CAUSAL_MASK = re.compile(
    r"(^|\.)attn\.bias$"
)  # of old GPT-2 checkpoints; the biases of layers have one dimension
_RUNNING = re.compile(r"(^|\.)running_(mean|var)$")

_COMPARED = 2**20
"""Elements that are compared at a time."""


@dataclass(frozen=True)
class Plan:
    """The class of every tensor of the output; names are sorted."""

    merged: tuple[str, ...] = ()
    """By the method."""
    heads: tuple[str, ...] = ()
    """Row by row over the models that know the label."""
    buffers: tuple[str, ...] = ()
    """Running statistics, averaged over the models."""
    copied: tuple[str, ...] = ()
    """From the base, unchanged."""
    tied: Mapping[str, str] = field(default_factory=dict)
    """Second names of one tensor, by the name under which it is merged."""

    @property
    def names(self) -> tuple[str, ...]:
        """All tensors of the output."""
        return tuple(sorted((*self.merged, *self.heads, *self.buffers, *self.copied, *self.tied)))


def make_plan(
    template: Source,
    models: Mapping[str, Source],
    hessians: Mapping[str, Source],
    policy: Policy,
    *,
    vocabulary_size: int | None = None,
) -> Plan:
    """Decide what happens to each tensor; reads no data but that of tensors that may be tied.

    Args:
        template: the base, or the model that stands in for it: its names, shapes and dtypes are the output's.
        models: by task.
        hessians: all Hessians that the method needs, by label; they have the names of the parameters.
        policy: the choices.
        vocabulary_size: rows of embeddings; tensors of that size are looked at for ties.

    Raises:
        CheckpointError: names or shapes differ and the policy does not say what to do.
        OptionError: a pattern that matches nothing.
    """
    _check_names(template, models)
    _check_patterns([template, *models.values()], policy)
    _check_hessians(template, hessians)
    tied = _tied(template, models, hessians, vocabulary_size)
    classes: dict[str, list[str]] = {"merged": [], "heads": [], "buffers": [], "copied": []}
    for name, info in sorted(template.tensors.items()):
        if name in tied:
            continue
        kind = _kind(name, info, template, policy)
        if kind == "buffers" and policy.buffers == "base":
            kind = "copied"
        if kind != "copied":
            needed = [*models.values()]
            if kind == "merged" and any(name in its.tensors for its in hessians.values()):
                needed += hessians.values()  # a frozen parameter is in none of them: it has no curvature
            if not _fits(name, info, template, needed, policy):
                kind = "copied"
        classes[kind].append(name)
    _check_surplus(template, models, tied, policy, vocabulary_size)
    return Plan(**{kind: tuple(names) for kind, names in classes.items()}, tied=tied)


def _kind(name: str, info: TensorInfo, template: Source, policy: Policy) -> str:
    """The class of a tensor by its own name, shape and dtype."""
    if matches(name, policy.exclude) or _is_constant(name, info):
        return "copied"
    if is_head(name) and policy.head in ("keep", "per_task"):
        return "copied"
    if info.dtype not in FLOAT_DTYPES:
        if info.dtype.startswith("F8"):
            raise CheckpointError(
                f"{template.label}: {name!r} is stored as {info.dtype}. Quantised checkpoints cannot be "
                "merged; use the model in bfloat16 or float32."
            )
        return "copied"
    if _RUNNING.search(name):
        return "buffers"
    return "heads" if matches(name, policy.heads) else "merged"


def _is_constant(name: str, info: TensorInfo) -> bool:
    """Tables that the architecture computes: no parameter, though some are stored as floats."""
    return bool(_CONSTANT.search(name) or (_CAUSAL_MASK.search(name) and len(info.shape) == 4))


def _fits(name: str, info: TensorInfo, template: Source, sources: list[Source], policy: Policy) -> bool:
    """Whether all sources have the tensor in a usable shape; False means that the base's is kept."""
    for source in sources:
        other = source.tensors.get(name)
        if other is None:
            if policy.on_missing == "base":
                return False
            raise CheckpointError(
                f"checkpoints differ: {name!r} is in {template.label}, but not in {source.label}. "
                f'Pass the policy {{"exclude": ["{name}"]}} or {{"on_missing": "base"}} to keep it as it is '
                f"in {template.label}."
            )
        if other.dtype not in FLOAT_DTYPES:
            raise CheckpointError(
                f"checkpoints differ: {name!r} is {info.dtype} in {template.label} and {other.dtype} in "
                f"{source.label}. Use checkpoints in float32, bfloat16 or float16."
            )
        fitted = policy.rows == "base" and _rows_differ(info, other) and not is_head(name)
        if other.shape != info.shape and not fitted:
            raise CheckpointError(_shape_text(name, info, other, template, source))
    return True


def _rows_differ(info: TensorInfo, other: TensorInfo) -> bool:
    return len(info.shape) == len(other.shape) > 0 and info.shape[1:] == other.shape[1:]


def _shape_text(name: str, info: TensorInfo, other: TensorInfo, template: Source, source: Source) -> str:
    """Say which shapes differ, and the way out that fits the tensor."""
    text = (
        f"checkpoints differ: {name!r} is {info.shape} in {template.label} and {other.shape} in "
        f"{source.label}. "
    )
    if is_head(name):
        return text + (
            f'Pass the policy {{"head": "keep"}} to keep the head of {template.label}, or '
            '{"head": "per_task"} to keep the head of every model beside the merged body.'
        )
    if len(info.shape) == 2 and _rows_differ(info, other):
        return text + (
            'If these are vocabularies, pass the policy {"vocabulary": "base"} (or "union", "intersect") to '
            f'match them by token, or {{"rows": "base"}} to make them fit {template.label} by number.'
        )
    return text + "They have different architectures; only models of one architecture can be merged."


def _check_names(template: Source, models: Mapping[str, Source]) -> None:
    """Refuse models that share no name with the base, whatever the policy: nothing would be merged."""
    for source in models.values():
        if template.tensors and source.tensors and template.tensors.keys().isdisjoint(source.tensors):
            raise CheckpointError(
                f"checkpoints differ: {source.label} holds no tensor of {template.label}. Its names are like "
                f"{min(source.tensors)!r}, those of {template.label} like {min(template.tensors)!r}. Either "
                "they have different architectures, or one was saved without its head: load it with "
                "transformers as the class of the other one, and save it again."
            )


def _check_patterns(sources: Sequence[Source], policy: Policy) -> None:
    names = {name for source in sources for name in source.tensors}
    for option, patterns in (("exclude", policy.exclude), ("heads", policy.heads)):
        for pattern in patterns:
            if not any(matches(name, (pattern,)) for name in names):
                examples = ", ".join(map(repr, sorted(names)[:3]))
                raise OptionError(
                    f"policy: {option} has the pattern {pattern!r}, which matches no tensor. Names are like "
                    f"{examples}; patterns match whole names, '*' stands for anything."
                )


def _check_surplus(
    template: Source,
    models: Mapping[str, Source],
    tied: Mapping[str, str],
    policy: Policy,
    vocabulary_size: int | None,
) -> None:
    """Refuse parameters that only models have."""
    if policy.on_missing == "base":
        return
    for source in models.values():
        for name, info in sorted(source.tensors.items()):
            known = name in template.tensors or name in tied or matches(name, policy.exclude)
            known = known or (is_head(name) and policy.head in ("keep", "per_task"))
            if known or _is_constant(name, info) or info.dtype not in FLOAT_DTYPES:
                continue
            if _twins(source, name, vocabulary_size):
                continue  # stored twice here and once there
            raise CheckpointError(
                f"checkpoints differ: {name!r} is in {source.label}, but not in {template.label}. "
                'Pass the policy {"on_missing": "base"} to leave it out.'
            )


def _check_hessians(template: Source, hessians: Mapping[str, Source]) -> None:
    """Refuse Hessians of something else."""
    for hessian in hessians.values():
        if not any(name in hessian.tensors for name in template.tensors):
            own = ", ".join(map(repr, sorted(hessian.tensors)[:3])) or "none"
            raise CheckpointError(
                f"{hessian.label} holds no tensor of {template.label}, whose names are like "
                f"{min(template.tensors)!r}, but {own}. Estimate it at the model that is merged."
            )


def _twins(source: Source, name: str, vocabulary_size: int | None) -> list[str]:
    """Other names under which a source stores the same matrix, or the same bias of an output head.

    Vectors of another length are no twins: many are equal by chance, all zeros or all ones.
    """
    info = source.tensors[name]
    if len(info.shape) != 2 and info.shape != (vocabulary_size,):
        return []
    others = [other for other, its in source.tensors.items() if other != name and its == info]
    return [other for other in others if _equal(source, name, other)]


def _equal(source: Source, name: str, other: str) -> bool:
    """Whether two tensors of one size are the same; reads no further than to where they differ."""
    import torch

    size = source.tensors[name].num_elements
    for start in range(0, size, _COMPARED):
        stop = min(start + _COMPARED, size)
        if not torch.equal(source.read_piece(name, start, stop), source.read_piece(other, start, stop)):
            return False
    return True


def _tied(
    template: Source,
    models: Mapping[str, Source],
    hessians: Mapping[str, Source],
    vocabulary_size: int | None,
) -> dict[str, str]:
    """Find second names of an embedding, or of a bias of an output head (``cls.predictions.bias`` is also
    ``cls.predictions.decoder.bias``): equal wherever they stand, in the base and in every model.

    Returns:
        Second name to the name under which the tensor is merged: one that every source has.
    """
    tied: dict[str, str] = {}
    sources = [template, *models.values(), *hessians.values()]
    rows = [
        name
        for name, info in sorted(template.tensors.items())
        if len(info.shape) in (1, 2) and info.shape[0] == vocabulary_size and info.dtype in FLOAT_DTYPES
    ]
    for name in rows:
        if name in tied:
            continue
        group = [name, *(twin for twin in _twins(template, name, vocabulary_size) if twin in rows)]
        representatives = [member for member in group if all(member in source.tensors for source in sources)]
        if len(group) == 1 or not representatives:
            continue
        first = representatives[0]
        for twin in group:
            if twin != first and all(
                twin not in model.tensors or twin in _twins(model, first, vocabulary_size)
                for model in models.values()
            ):
                tied[twin] = first
    return tied
