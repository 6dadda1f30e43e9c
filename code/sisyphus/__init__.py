"""Sisyphus: graphs of cached jobs. ``from sisyphus import *`` is all that a recipe needs."""

from sisyphus import global_settings as gs
from sisyphus import loader as _loader
from sisyphus import toolkit as tk
from sisyphus.engines.default import local_engine as _local_engine
from sisyphus.job import Job
from sisyphus.job_path import Path
from sisyphus.task import Task
from sisyphus.toolkit import setup_path

__all__ = ["Job", "Path", "Task", "gs", "setup_path", "tk"]

gs.default_engine = _local_engine
_loader.RecipeFinder.install()
