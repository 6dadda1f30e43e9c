"""Data sets as configs write them: plain dicts of a folder and a split expression."""

import hashlib
from pathlib import Path
from typing import Any

from sisyphus import tk

from recipe.download import DownloadDataJob

Dataset = dict[str, Any]


def split(data: str | tk.Path, expression: str, *, shuffle_seed: int | None = 0) -> Dataset:
    """Part of a data set.

    Args:
        data: a row of ``merging/data/sources.py`` (then it is downloaded), or a data folder made by a job.
        expression: e.g. ``"train[:20%]"``, cut after a seeded shuffle that is stratified by label.
        shuffle_seed: None keeps the order of the source.
    """
    folder = DownloadDataJob(source=data).out_data if isinstance(data, str) else data
    return {"data": folder, "split": expression, "shuffle_seed": shuffle_seed}


def local(source: str, folder: str) -> tk.Path:
    """A data set that lies below a local folder; where that is, is no part of the identity.

    Args:
        source: e.g. ``"local/yelp"`` for ``<folder>/yelp/train.parquet`` and so on.
        folder: any absolute path.

    Raises:
        DataError: there is no such data set below the folder.
    """
    from merging.data.sources import load
    from merging.errors import DataError

    place = Path(folder) / str(load(source).local)
    if not place.exists():
        raise DataError(f"{source}: there is no {place}. Put the data set there, or name another folder.")
    root = tk.Path(folder, hash_overwrite="local_data")
    return DownloadDataJob(source=source, folder=root).out_data


def local_model(folder: str) -> tk.Path:
    """A model folder of this machine; its identity is what is in it, not where it lies.

    Reads the weights once to hash them, about a second for each GB.

    Args:
        folder: absolute path, with ``config.json`` and ``*.safetensors``.

    Raises:
        CheckpointError: one of them is missing.
    """
    from merging.errors import CheckpointError

    files = [Path(folder) / "config.json", *sorted(Path(folder).glob("*.safetensors"))]
    if not files[0].is_file() or len(files) == 1:
        raise CheckpointError(f"{folder} is no model folder: it needs config.json and *.safetensors.")
    digest = hashlib.sha256()
    for file in files:
        with file.open("rb") as stream:
            digest.update(file.name.encode() + hashlib.file_digest(stream, "sha256").digest())
    return tk.Path(folder, hash_overwrite=f"local_model/{digest.hexdigest()[:16]}")
