"""What it calls a data set, as a data folder and splits of ours."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from merging.data import sources
from merging.errors import OptionError
from merging.predecessor.messages import note
from merging.registry import unknown

DATASETS = {
    "imdb": "imdb",
    "yelp": "yelp_polarity",
    "yelp_polarity": "yelp_polarity",
    "rotten_tomatoes": "rotten_tomatoes",
    "sst2": "sst2",
    "glue/sst2": "sst2",
    "amazon": "amazon_polarity",
    "amazon_polarity": "amazon_polarity",
}
"""Its data set scripts (``datasets/imdb.py``) and their Hub ids, as rows of ``data/sources.py``."""


@contextmanager
def open_data(name: str) -> Iterator[tuple[str, list[str]]]:
    """A data folder for what it calls a data set, and the names of its splits."""
    from merging.data.download import download_data, read_source

    path = Path(name)
    if (path / "source.json").is_file():
        yield str(path), list(read_source(path)["splits"])
        return
    with tempfile.TemporaryDirectory(prefix="merging-") as folder:
        download_data(**_source(name), out=folder)
        yield folder, list(read_source(folder)["splits"])


def train_splits(config: Mapping[str, Any], folder: str, splits: Sequence[str]) -> tuple[Any, Any]:
    """Training and validation set.

    Where there is no validation split, a tenth of the training set is held out; the predecessor took a slice
    of the test set then.
    """
    train_split = config.get("dataset_train_split", "train")
    validation_split = config.get("dataset_val_split", "validation")
    if validation_split is None:
        return {"data": folder, "split": train_split}, None
    if re.split(r"[\[+]", validation_split)[0] in splits:
        return {"data": folder, "split": train_split}, {"data": folder, "split": validation_split}
    if train_split not in splits:
        raise OptionError(
            f"dataset_val_split {validation_split!r} is no split of {config['dataset_name']}, which has "
            f"{', '.join(splits)}. Name a part of the training set, e.g. 'train[90%:]', or null for none."
        )
    note(
        f"there is no split {validation_split!r}: the best epoch is chosen on {train_split}[90%:], "
        f"and {train_split}[:90%] is trained on."
    )
    return {"data": folder, "split": f"{train_split}[:90%]"}, {
        "data": folder,
        "split": f"{train_split}[90%:]",
    }


def _source(name: str) -> dict[str, str]:
    """Arguments of ``download_data`` for a script, a Hub id, a folder, or a row of ours."""
    path = Path(name)
    if path.suffix == ".py":
        if path.stem not in DATASETS:
            raise OptionError(f"dataset_name {name!r}: {unknown('data set script', path.stem, DATASETS)}")
        return {"source": DATASETS[path.stem]}
    if path.exists():
        return {"source": sources.LOCAL + path.name, "folder": str(path.resolve().parent)}
    if name in DATASETS:
        return {"source": DATASETS[name]}
    if name in sources.names():
        return {"source": name}
    raise OptionError(
        f"dataset_name: {unknown('data set', name, {*DATASETS, *sources.names()})} Or give a folder."
    )
