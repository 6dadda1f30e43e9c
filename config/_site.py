"""Places and sizes that differ from site to site: environment variables, or names in ``settings.py``."""

import os
from pathlib import Path

from sisyphus import gs


def setting(name: str, default: str | None = None) -> str | None:
    """Value of an environment variable, else of ``settings.py``, else the default."""
    value = os.environ.get(name) or getattr(gs, name, None) or default
    return None if value is None else str(value)


def folder(name: str, what: str) -> str:
    """Absolute path of a folder that the site names.

    Raises:
        OptionError: it is not named, or there is no such folder.
    """
    from merging.errors import OptionError

    value = setting(name)
    way_out = (
        f"Set it with `export {name}=/path/to/folder`, or write {name} = '/path/to/folder' into settings.py."
    )
    if value is None:
        raise OptionError(f"{name} is not set: {what}. {way_out}")
    if not Path(value).is_dir():
        raise OptionError(f"{name} is {value!r}, which is no folder: {what}. {way_out}")
    return str(Path(value).resolve())
