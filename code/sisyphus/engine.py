"""Upstream's name of :mod:`sisyphus.engines.base`, for settings files."""

from sisyphus.engines.base import EngineBase, EngineSelector
from sisyphus.errors import DeferSubmission

__all__ = ["DeferSubmission", "EngineBase", "EngineSelector"]
