"""Upstream's name of :mod:`sisyphus.engines.local`, for settings files."""

from sisyphus.engines.local import LocalEngine

__all__ = ["LocalEngine"]
