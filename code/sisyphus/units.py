"""Amounts as people write them: ``4G``, ``1:30``."""

from __future__ import annotations

_BYTES_OF_UNIT = {"K": 1024.0, "M": 1024.0**2, "G": 1024.0**3, "T": 1024.0**4}


def str_to_GB(mem: str | float) -> float:
    """Return an amount of memory in GB: a number is in GB, text may end in K, M, G or T."""
    if isinstance(mem, (int, float)):
        return float(mem)
    text = mem.strip().upper().removesuffix("B")
    unit = text[-1:]
    try:
        if unit in _BYTES_OF_UNIT:
            return float(text[:-1]) * _BYTES_OF_UNIT[unit] / _BYTES_OF_UNIT["G"]
        return float(text)
    except ValueError:
        raise ValueError(
            f"not an amount of memory: {mem!r}. Give GB as a number, or text such as '500M', '4G', '1.5T'."
        ) from None


def str_to_hours(duration: str | float) -> float:
    """Return a duration in hours; a plain number is in hours, text may be ``H:MM`` or ``H:MM:SS``."""
    if isinstance(duration, (int, float)):
        return float(duration)
    try:
        if ":" not in duration:
            return float(duration)
        parts = [float(part) for part in duration.split(":")]
        if len(parts) > 3:
            raise ValueError
    except ValueError:
        raise ValueError(
            f"not a duration: {duration!r}. Give hours as a number, or text such as '1:30' or '1:30:00'."
        ) from None
    return sum(part / 60.0**position for position, part in enumerate(parts))
