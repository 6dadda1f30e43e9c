"""Sizes as people write them: "5GB", "2GiB"."""

from __future__ import annotations

import re

from merging.errors import OptionError

_UNITS = {
    "B": 1,
    "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12,
    "KIB": 2**10, "MIB": 2**20, "GIB": 2**30, "TIB": 2**40,
}  # fmt: skip


def parse_size(text: str, *, owner: str) -> int:
    """Bytes that a text such as "500MB" or "1.5 GiB" says; ``owner`` starts the error message.

    Raises:
        OptionError: the text is no number with a unit, or less than one byte.
    """
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([a-zA-Z]+)\s*", text)
    factor = _UNITS.get(found[2].upper()) if found else None
    if found is None or factor is None or float(found[1]) * factor < 1:
        raise OptionError(
            f"{owner} must be a size with a unit such as '500MB', '5GB' or '2GiB', got {text!r}."
        )
    return int(float(found[1]) * factor)


def size_text(num_bytes: float) -> str:
    """E.g. "1.53 GB"."""
    for unit, length in (("TB", 10**12), ("GB", 10**9), ("MB", 10**6)):
        if num_bytes >= length:
            return f"{num_bytes / length:.2f} {unit}"
    return f"{num_bytes / 1000:.1f} kB"
