"""Which part of a data set is used: split expressions, cut after a seeded, stratified shuffle.

    train    train[:20%]    train[100:200]    train[:500]    train[-10%:]    train+validation[:50%]

The shuffle depends on the seed and the labels only, and every prefix holds each class in its share to
about one example: sources that are sorted by class would make head slices worthless. Percentages are cut
exactly (floor of n * percent / 100), so ``[:90%]`` and ``[90%:]`` are disjoint and complete.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

from merging.data.columns import class_names
from merging.errors import DataError, OptionError
from merging.registry import unknown

if TYPE_CHECKING:
    import datasets
    import numpy as np

_TERM = re.compile(
    r"(?P<name>[A-Za-z_][\w.-]*)(?P<slice>\[(?P<start>-?\d+(\.\d+)?%?)?:(?P<stop>-?\d+(\.\d+)?%?)?\])?"
)
_FIELDS = ("data", "split", "shuffle_seed")
_MAX_SEED = 2**32 - 1


@dataclass(frozen=True)
class Part:
    """One term of a split expression: a split's name and the bounds of its slice, as written."""

    name: str
    start: str | None
    stop: str | None

    def rows(self, size: int) -> range:
        """Positions, after the shuffle, out of ``size``."""
        return range(size)[slice(_position(self.start, size), _position(self.stop, size))]

    def is_empty(self) -> bool:
        """Whether that is empty for any size: two rows or two percentages, the second not after the first."""
        if self.stop is None:
            return False
        start, stop = self.start or ("0%" if self.stop.endswith("%") else "0"), self.stop
        first, last = (Fraction(bound.strip("%")) for bound in (start, stop))
        alike = start.endswith("%") == stop.endswith("%") and (first < 0) == (last < 0)
        return alike and first >= last


def parse(expression: str) -> tuple[Part, ...]:
    """Parse a split expression.

    Raises:
        OptionError: it does not read ``name``, ``name[start:stop]`` or a sum of these, or a slice is empty
            whatever the size of the split.
    """
    parts = []
    for term in str(expression).split("+"):
        match = _TERM.fullmatch(term.strip())
        if not match or any(
            bound and "." in bound and not bound.endswith("%") for bound in match.group("start", "stop")
        ):
            raise OptionError(
                f"cannot read split {expression!r}. Write a name, a slice by rows or percent, or a sum: "
                "'train', 'train[:20%]', 'train[100:200]', 'train+validation'."
            )
        part = Part(match["name"], match["start"], match["stop"])
        if part.is_empty():
            raise OptionError(
                f"split {expression!r} is empty: {part.name}[{part.start or ''}:{part.stop}] ends where it "
                "starts, or before. Widen the slice."
            )
        parts.append(part)
    return tuple(parts)


def check_dataset(value: object) -> None:
    """Check a data set as it stands in a config; imports nothing heavy and reads no file.

    Args:
        value: ``{"data": <folder>, "split": <expression>, "shuffle_seed": <int or None>}``, or a list of
            these, which means their concatenation. Without ``shuffle_seed`` it is 0; None keeps the order of
            the source.

    Raises:
        OptionError: not of that form.
    """
    items: Sequence[object] = value if isinstance(value, list | tuple) else [value]
    if not items:
        raise OptionError("data set: an empty list; give at least one {'data': ..., 'split': ...}.")
    for item in items:
        if not isinstance(item, Mapping):
            raise OptionError(
                f"data set: expected {{'data': <folder>, 'split': 'train[:20%]', 'shuffle_seed': 0}} "
                f"or a list of these, got {item!r}."
            )
        for key in item:
            if key not in _FIELDS:
                raise OptionError(f"data set: {unknown('field', str(key), _FIELDS)}")
        for key in ("data", "split"):
            if item.get(key) is None:
                raise OptionError(f"data set: {key!r} is missing in {dict(item)!r}.")
        parse(item["split"])
        seed = item.get("shuffle_seed", 0)
        if seed is not None and (type(seed) is not int or not 0 <= seed <= _MAX_SEED):
            raise OptionError(f"data set: shuffle_seed must be None or in 0..{_MAX_SEED}, got {seed!r}.")


def load(dataset: Any) -> datasets.Dataset:
    """Load what a config calls a data set; see :func:`check_dataset`.

    Raises:
        DataError: no such folder or split, an empty slice, or columns or label names that differ between the
            members of a list.
    """
    import datasets

    members: list[datasets.Dataset] = []
    for item in _items(dataset):
        members.extend(whole.select(rows) for _, whole, rows in _parts(item))
        if members[-1].features != members[0].features:
            raise DataError(
                f"data sets of one list must have equal columns and label names: {item['data']} has "
                f"{_describe(members[-1].features)}, {_items(dataset)[0]['data']} has "
                f"{_describe(members[0].features)}."
            )
    return members[0] if len(members) == 1 else datasets.concatenate_datasets(members)


def ids(dataset: Any) -> list[str]:
    """Return a name for each row of :func:`load`: ``<split>/<row in the source>``.

    Where several data sets are concatenated, the source's name comes first.
    """
    items = _items(dataset)
    prefixes = [f"{_source_name(item)}/" if len(items) > 1 else "" for item in items]
    return [
        f"{prefix}{split}/{row}"
        for prefix, item in zip(prefixes, items, strict=True)
        for split, _, rows in _parts(item)
        for row in rows
    ]


def describe(dataset: Any) -> list[dict[str, Any]]:
    """Return the provenance of a data set as plain values, without its place on disk.

    One dict for each member: ``source``, ``revision``, ``content_hash``, ``split``, ``shuffle_seed``. Equal
    provenance means equal rows in equal order.
    """
    from merging.data.download import read_source

    described = []
    for item in _items(dataset):
        source = read_source(item["data"])
        described.append(
            {
                "source": source["source"],
                "revision": source["revision"],
                "content_hash": source["content_hash"],
                "split": item["split"],
                "shuffle_seed": item.get("shuffle_seed", 0),
            }
        )
    return described


def permutation(labels: Sequence[int] | np.ndarray | None, size: int, seed: int) -> np.ndarray:
    """Return a stratified random order: every prefix holds each label in its share, to about one example.

    Example j (in random order) of the n with its label is placed at (j + 1/2) / n; sorting by these points,
    equal ones in random order, interleaves the classes evenly.

    Args:
        labels: None shuffles without strata.
        size: number of rows.
        seed: 0..2**32 - 1.
    """
    import numpy as np

    random = np.random.RandomState(seed)  # its stream is frozen by NumPy's policy; default_rng's is not
    if labels is None:
        return random.permutation(size)
    values = np.asarray(labels)
    place = np.empty(size)
    for label in np.unique(values):
        rows = random.permutation(np.flatnonzero(values == label))
        place[rows] = (np.arange(len(rows)) + 0.5) / len(rows)
    return np.lexsort((random.random_sample(size), place))


def _parts(item: Mapping[str, Any]) -> Iterator[tuple[str, datasets.Dataset, np.ndarray]]:
    """Yield split name, whole split and chosen rows in order, for each term of the expression."""
    import datasets
    import numpy as np

    from merging.data.download import read_source

    folder = Path(os.fspath(item["data"]))
    available = list(read_source(folder)["splits"])
    for part in parse(item["split"]):
        if part.name not in available:
            raise DataError(f"{folder}: {unknown('split', part.name, available)}")
        whole = datasets.load_from_disk(str(folder / part.name))
        order = np.arange(len(whole))
        if (seed := item.get("shuffle_seed", 0)) is not None:
            kind = str(getattr(whole.features.get("label"), "dtype", None))
            has_classes = kind.startswith(("int", "uint"))  # numbers and lists of labels make no strata
            labels = whole.with_format("numpy")["label"][:] if has_classes else None
            order = permutation(labels, len(whole), seed)
        rows = order[part.rows(len(whole))]
        if not len(rows):
            raise DataError(
                f"split {item['split']!r} of {folder} is empty: {part.name!r} has {len(whole)} rows. "
                "Widen the slice."
            )
        yield part.name, whole, rows


def _items(dataset: Any) -> list[Mapping[str, Any]]:
    """Return the members of a data set, checked."""
    check_dataset(dataset)
    return list(dataset) if isinstance(dataset, list | tuple) else [dataset]


def _position(bound: str | None, size: int) -> int | None:
    """Row of a bound as written; percentages are exact fractions, rounded down, and -10% is 90%."""
    if bound is None:
        return None
    if not bound.endswith("%"):
        return int(bound)
    percent = Fraction(bound[:-1])
    return max(0, int((percent + 100 if percent < 0 else percent) * size / 100))


def _source_name(item: Mapping[str, Any]) -> str:
    from merging.data.download import read_source

    return str(read_source(item["data"])["source"])


def _describe(features: Mapping[str, Any]) -> str:
    return ", ".join(
        f"{name} {names}" if (names := class_names(feature)) is not None else name
        for name, feature in features.items()
    )
