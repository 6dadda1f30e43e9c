"""Data sets as configs write them: plain dicts of a folder and a split expression."""

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
    """
    root = tk.Path(folder, hash_overwrite="local_data")
    return DownloadDataJob(source=source, folder=root).out_data
