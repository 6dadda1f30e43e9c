"""The cache folder: ``$MERGING_CACHE``, else ``~/.cache/merging``. It may be deleted at any time."""

from __future__ import annotations

import os
from pathlib import Path


def cache_folder() -> Path | None:
    """Return the cache folder, made if need be; None where there is none to be written to."""
    if "MERGING_CACHE" in os.environ:
        folder = Path(os.environ["MERGING_CACHE"])
    elif os.environ.get("HOME"):
        folder = Path.home() / ".cache" / "merging"
    else:
        return None
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        return None
    return folder if os.access(folder, os.W_OK) else None
