"""Ages as people write them on a command line."""

from __future__ import annotations

import argparse

_DAYS_IN = {"h": 1 / 24, "d": 1.0, "w": 7.0}


def parse_age(text: str) -> float:
    """Return seconds for an age such as ``12h``, ``30d``, ``2w``; a plain number counts days.

    Raises:
        argparse.ArgumentTypeError: it is none.
    """
    number, unit = (text[:-1], text[-1]) if text[-1:] in _DAYS_IN else (text, "d")
    try:
        seconds = float(number) * _DAYS_IN[unit] * 24 * 3600
    except ValueError:
        seconds = -1.0
    if not 0 <= seconds < float("inf"):
        raise argparse.ArgumentTypeError(f"no age: {text!r}. Give hours, days or weeks: 12h, 30d, 2w.")
    return seconds
