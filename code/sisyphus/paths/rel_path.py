"""Paths of files that lie beside recipes: their hashes depend on the package's name, not on its place."""

from __future__ import annotations

import importlib
import os
from typing import Any

from sisyphus import global_settings as gs
from sisyphus.job_path import Path


class RelPath:
    """Makes paths relative to a package.

    Args:
        directory: where the package lies.
        package: its name, with slashes; it stands for the directory in hashes.
    """

    def __init__(self, directory: str, package: str) -> None:
        self.directory = directory
        self.package = package

    def __call__(
        self,
        path: str,
        creator: Any = None,
        cached: bool = False,
        hash_overwrite: str | tuple[Any, str] | None = None,
        **kwargs: Any,
    ) -> Path:
        """Return a Path inside the package's directory; arguments are those of Path."""
        if hash_overwrite is None:
            hash_overwrite = os.path.join(self.package, path)
        return Path(os.path.join(self.directory, path), creator, cached, hash_overwrite, **kwargs)


def setup_path(package: str | None) -> RelPath:
    """Return a function for paths relative to a package; to be called with ``__package__``.

    Raises:
        AssertionError: if the module that calls lies in no package.
    """
    if not package:
        raise AssertionError(
            "setup_path(__package__) needs a package, but the name is empty: put an __init__.py beside the "
            "module and import it as part of its package"
        )
    file = importlib.import_module(package).__file__
    if file is None:
        raise AssertionError(f"setup_path: the package {package!r} has no __init__.py. Make one.")
    directory = os.path.relpath(os.path.dirname(file), gs.BASE_DIR)
    return RelPath(directory, package.replace(".", "/"))
