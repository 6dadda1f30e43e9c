"""Versions of what a process uses: of the packages that it has imported, nothing else is looked up."""

from __future__ import annotations

import sys

_OWN = frozenset({"sisyphus", "config", "recipe", "settings", "__main__", "__mp_main__"})


def loaded_versions() -> dict[str, str]:
    """Return the version of each package that is imported and not part of Python, sorted by name.

    A package says its version by ``__version__``, or by the metadata of the distribution of the same name;
    one that says it nowhere, as a recipe, is left out. Costs nothing for a task that imports no packages.
    """
    versions = {}
    for name, module in sorted(sys.modules.copy().items()):  # other threads may just import something
        if "." in name or name.startswith("_") or name in _OWN or name in sys.stdlib_module_names:
            continue
        # not getattr: some packages warn, or import things, when they are asked for it
        version = getattr(module, "__dict__", {}).get("__version__") or _installed_version(name, module)
        if version:
            versions[name] = str(version)
    return versions


def _installed_version(name: str, module: object) -> str | None:
    file = getattr(module, "__file__", None) or ""
    if "site-packages" not in file and "dist-packages" not in file:  # a recipe: no distribution has it
        return None
    import importlib.metadata

    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None
