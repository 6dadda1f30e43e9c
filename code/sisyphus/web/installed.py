"""Whether the packages of the extra ``web`` are there: they are optional, so nobody imports them unasked."""

from __future__ import annotations

import importlib.util

from sisyphus.errors import SisyphusError

_NEEDED = ("starlette", "uvicorn", "markdown_it", "plotly")


def check_installed() -> None:
    """See that what the page needs is there.

    Raises:
        SisyphusError: it is not.
    """
    missing = [name for name in _NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        raise SisyphusError(
            f"the page needs {', '.join(missing)}: pip install -c constraints.txt -e '.[web]'"
        )
