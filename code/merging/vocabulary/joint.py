"""Which tokens a merged model knows, and where the row of each comes from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal

from merging.errors import CheckpointError, OptionError
from merging.registry import unknown
from merging.sources import Source
from merging.sources.vocabulary import FILLED, PADDING, Rows

Kind = Literal["base", "union", "intersect"]


@dataclass(frozen=True)
class Member:
    """A model of a merge, as far as its vocabulary goes."""

    tokens: Mapping[str, int]
    num_rows: int
    """Of its embedding; tokens with higher numbers have no row, and padding rows have no token."""

    def row(self, token: str) -> int | None:
        """The row of a token, if it has one."""
        number = self.tokens.get(token)
        return number if number is not None and number < self.num_rows else None

    def has_padding(self, row: int) -> bool:
        """Whether there is a row of this number that no token has."""
        return row < self.num_rows and row not in self._numbers

    @cached_property
    def _numbers(self) -> frozenset[int]:
        return frozenset(self.tokens.values())


@dataclass(frozen=True)
class Given:
    """Where the row of one token is to come from, whatever the rule says."""

    label: str | None
    """The model that has it; None: it is zero."""
    row: int = 0
    force: bool = False
    """Also for models that know the token."""


@dataclass(frozen=True)
class Joint:
    """The vocabulary of a merged model."""

    tokens: Mapping[str, int]
    num_rows: int
    own: Mapping[str, Sequence[int]] = field(repr=False)
    """By label of a model: its row, FILLED or PADDING, for each row of the output."""
    donors: Mapping[int, Sequence[tuple[str, int]]] = field(repr=False)
    """For each row that a model may lack: labels and rows whose mean it gets; none: zero."""

    def rows(self, label: str, sources: Mapping[str, Source]) -> Rows:
        """The rows of one model; ``sources`` are the models as they are stored, by label."""
        return Rows(
            self.own[label],
            {
                row: [(sources[donor], place) for donor, place in its]
                for row, its in self.donors.items()
                if self.own[label][row] == FILLED
            },
        )

    def curvature_rows(self, label: str) -> Rows:
        """The rows of a diagonal curvature of that model: of tokens that it lacks, it knows nothing."""
        return Rows([FILLED if row == PADDING else row for row in self.own[label]], {})

    @property
    def num_filled(self) -> dict[str, int]:
        """How many tokens each model lacks."""
        return {label: sum(row == FILLED for row in own) for label, own in self.own.items()}


def make_joint(
    kind: Kind,
    members: Mapping[str, Member],
    *,
    reference: Mapping[str, int],
    num_rows: int,
    base: str | None,
    multiple: int = 1,
    given: Mapping[str, Given] | None = None,
) -> Joint:
    """Decide the vocabulary of a merge.

    Tokens are the same where their texts are. A token that a model lacks gets the base's row where the base
    has it, else the mean over the models that have it; so does the base. Rows that no token has stay as they
    are in a model that has them; a model without follows the same rule; where no model has one, it is the
    mean over the tokens' rows.

    Args:
        kind: "base": the tokens of ``reference``; "union": its tokens, then all others'; "intersect": those
            of its tokens that all models have.
        members: by label, the template first.
        reference: tokens that keep their numbers ("intersect" closes the gaps).
        num_rows: rows that the model of ``reference`` has; the output has no fewer, but for "intersect".
        base: label of the base model, where there is one.
        multiple: the number of rows becomes a multiple of this.
        given: rows that are to come from somewhere else, by token.

    Raises:
        CheckpointError: no token is left.
        OptionError: ``given`` names a token that the vocabulary lacks.
    """
    tokens = _tokens(kind, members, reference)
    if not tokens:
        raise CheckpointError("the vocabularies have no token in common. Merge models of one tokenizer.")
    rows = max(max(tokens.values()) + 1, 0 if kind == "intersect" else num_rows)
    rows = -(-rows // multiple) * multiple
    by_row = {number: token for token, number in tokens.items()}
    keeps = [  # rows without token that stay: "intersect" numbers its rows anew
        row not in by_row and kind != "intersect" and any(its.has_padding(row) for its in members.values())
        for row in range(rows)
    ]
    own = {
        label: [_own_row(its, row, by_row.get(row), keeps_padding=keeps[row]) for row in range(rows)]
        for label, its in members.items()
    }
    donors: dict[int, list[tuple[str, int]]] = {}
    for row in range(rows):
        if any(its[row] == FILLED for its in own.values()):
            donors[row] = _donors(by_row.get(row), row, members, base)
    for token, its in (given or {}).items():
        if token not in tokens:
            raise OptionError(f"tokens: {unknown('token', token, tokens)}")
        row = tokens[token]
        donors[row] = [] if its.label is None else [(its.label, its.row)]
        if its.force:
            for label in own:
                own[label][row] = FILLED
    return Joint(tokens, rows, own, donors)


def _tokens(kind: Kind, members: Mapping[str, Member], reference: Mapping[str, int]) -> dict[str, int]:
    if kind == "intersect":
        common = [
            token
            for token in sorted(reference, key=lambda token: reference[token])
            if all(member.row(token) is not None for member in members.values())
        ]
        return {token: number for number, token in enumerate(common)}
    tokens = dict(reference)
    if kind == "union":
        following = max(tokens.values(), default=-1) + 1
        for label in sorted(members):
            for token in sorted(members[label].tokens, key=lambda token: members[label].tokens[token]):
                if token not in tokens:
                    tokens[token] = following
                    following += 1
    return tokens


def _own_row(member: Member, row: int, token: str | None, *, keeps_padding: bool) -> int:
    if token is not None:
        own = member.row(token)
        return FILLED if own is None else own
    if not keeps_padding:
        return PADDING
    return row if member.has_padding(row) else FILLED


def _donors(
    token: str | None, row: int, members: Mapping[str, Member], base: str | None
) -> list[tuple[str, int]]:
    """Whose rows stand in for one that a model lacks."""
    found = {
        label: (row if member.has_padding(row) else None) if token is None else member.row(token)
        for label, member in sorted(members.items())
    }
    if base is not None and found[base] is not None:
        found = {base: found[base]}
    return [(label, place) for label, place in found.items() if place is not None]
