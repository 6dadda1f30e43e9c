"""Fetch a data set or a model once, bring it into our form, and write down exactly what it was.

A data folder holds one ``save_to_disk`` folder for each split, in the form of ``data/columns.py``, and
``source.json``: source, commit, content hash, rows of each split, label names, columns.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from merging import models
from merging.data import columns, sources
from merging.data.sources import Source
from merging.errors import CheckpointError, DataError, OptionError
from merging.files import hub
from merging.files.checkpoints import open_checkpoint
from merging.files.publishing import published_folder
from merging.registry import unknown

if TYPE_CHECKING:
    import datasets
    import numpy as np

_FORMATS = {".parquet": "parquet", ".csv": "csv", ".jsonl": "json", ".json": "json", ".arrow": "arrow"}


def download_data(
    *,
    source: str,
    out: str | os.PathLike[str],
    folder: str | os.PathLike[str] | None = None,
    revision: str | None = None,
    content_hash: str | None = None,
) -> None:
    """Write a data set into the folder ``out``.

    Args:
        source: a row of ``data/sources.py``, or ``local/<path>``.
        out: data folder to make.
        folder: where local data sets lie; only for ``local/`` sources.
        revision: Hub commit, branch or tag; None takes the row's.
        content_hash: what the data must hash to; see ``source.json`` of an earlier download.

    Raises:
        UnknownNameError: no such source.
        OptionError: an argument that does not suit the source.
        HubError: the Hub could not be reached, or does not know the id or revision.
        DataError: a path, column or split that does not exist, a label outside its range, or another
            content hash.
    """
    row = sources.load(source)
    _check_arguments(source, row, folder=folder, revision=revision)
    with columns.without_bars(), tempfile.TemporaryDirectory(prefix="merging-data-") as cache:
        if row.hub is not None:
            raw, resolved = _from_hub(row, revision or row.revision)
        elif row.local is not None:
            raw, resolved = _from_files(Path(os.fspath(folder or "")), row, cache), None
        else:
            raw, resolved = _from_digits(row.digits or ""), None
        splits, names = columns.normalize(raw, row, source, cache=Path(cache))
        digest = columns.content_hash(splits)
        if content_hash is not None and digest != content_hash:
            raise DataError(
                f"{source}: content hash is {digest}, expected {content_hash}. "
                "The data have changed since they were pinned; find the old ones, or pin the new hash."
            )
        with published_folder(out) as temporary:
            for name, split in splits.items():
                split.save_to_disk(temporary / name, num_proc=None)
            record = {
                "source": source,
                "hub": row.hub,
                "revision": resolved,
                "content_hash": digest,
                "splits": {name: len(split) for name, split in splits.items()},
                "label_names": names,
                "columns": next(iter(splits.values())).column_names,
            }
            (temporary / "source.json").write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")


def download_model(*, model: str, out: str | os.PathLike[str], revision: str | None = None) -> None:
    """Write a model's files into the folder ``out``, with ``source.json``.

    Args:
        model: Hub id, or a local model folder (which is copied).
        out: model folder to make.
        revision: Hub commit, branch or tag; the commit it stands for is recorded.

    Raises:
        CheckpointError: no such folder, it has no config.json or no safetensors weights, a shard is missing,
            or a file is cut off.
        HubError: the Hub could not be reached, or does not know the id or revision.
    """
    name = models.locate(model)
    if Path(name).is_dir():
        if revision is not None:
            raise OptionError(f"revision {revision!r} is for Hub ids; {name} is a local folder.")
        files, resolved = Path(name), None
    else:
        files, resolved = hub.model_folder(name, revision, pickled=False)
    if not any(files.glob("*.safetensors")):
        raise CheckpointError(
            f"{model} has no *.safetensors weights. Convert them: load the model with transformers and "
            "save_pretrained() it into a folder, then give that folder."
        )
    open_checkpoint(files, label="model")
    with published_folder(out) as temporary:
        for pattern in hub.MODEL_FILES:
            for file in sorted(files.glob(pattern)):
                shutil.copyfile(file, temporary / file.name)  # follows the links of the Hub cache
        record = {
            "source": Path(name).name if resolved is None else name,
            "revision": resolved,
            "content_hash": _files_hash(temporary),
        }
        (temporary / "source.json").write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")


def read_inputs(file: str | os.PathLike[str], wanted: Sequence[str]) -> datasets.Dataset:
    """Read a file of a known format into memory, keeping those of the wanted columns that it has.

    Raises:
        DataError: no such file, a damaged one, or none of these columns in it.
    """
    import datasets

    file = Path(os.fspath(file))
    if not file.is_file():
        raise DataError(f"no file at {file}. Give a Parquet, CSV, JSON-lines or Arrow file.")
    with columns.without_bars(), tempfile.TemporaryDirectory(prefix="merging-data-") as cache:
        rows = _read_file(file, cache)
        present = [column for column in wanted if column in rows.column_names]
        if not present:
            raise DataError(
                f"{file} has none of the columns {', '.join(wanted)}; it has {', '.join(rows.column_names)}."
            )
        return datasets.Dataset.from_dict(
            {column: rows[column][:] for column in present},
            features=datasets.Features({column: rows.features[column] for column in present}),
        )


def read_source(folder: str | os.PathLike[str]) -> dict[str, Any]:
    """Return ``source.json`` of a data folder.

    Raises:
        DataError: the folder does not exist, or was not made by :func:`download_data`.
    """
    path = Path(os.fspath(folder)) / "source.json"
    try:
        record: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise DataError(
            f"no data set at {os.fspath(folder)} (source.json is missing). "
            "Make it (`merging download`, DownloadDataJob), or name another folder."
        ) from error
    except json.JSONDecodeError as error:
        raise DataError(f"{path} is damaged: {error}. Download the data set again.") from error
    return record


def _check_arguments(
    source: str, row: Source, *, folder: str | os.PathLike[str] | None, revision: str | None
) -> None:
    if row.local is not None and folder is None:
        raise OptionError(f"{source} is a local data set: folder= must say where {row.local!r} lies.")
    if row.local is None and folder is not None:
        raise OptionError(f"folder= is for local/ sources; {source} is not one.")
    if row.hub is None and revision is not None:
        raise OptionError(f"revision= is for Hub sources; pin {source} by content_hash=.")


def _from_hub(row: Source, revision: str | None) -> tuple[dict[str, datasets.Dataset], str]:
    """Load the row's splits at a commit; return them and the commit."""
    import datasets

    name = str(row.hub)
    commit = hub.resolve(name, revision, repo_type="dataset")
    try:
        loaded = datasets.load_dataset(name, row.config, revision=commit)
    except hub.failures() as error:  # files that are not there and the offline mode are among them
        raise hub.hub_error(name, error) from error
    return _pick_splits(dict(loaded), row, name), commit


def _from_files(folder: Path, row: Source, cache: str) -> dict[str, datasets.Dataset]:
    """Read a folder with one file a split, or one file as its only split."""
    path = folder / str(row.local)
    if path.is_file():
        files = {path.stem: path}
    elif path.is_dir():
        files = {file.stem: file for file in sorted(path.iterdir()) if file.suffix in _FORMATS}
    else:
        present = sorted(entry.name for entry in folder.iterdir()) if folder.is_dir() else []
        raise DataError(
            f"no data at {path}. "
            + (
                f"{unknown('folder or file', str(row.local), present)[:400]}"
                if present
                else f"{folder} is no folder."
            )
        )
    if not files:
        raise DataError(f"{path} holds no data; expected <split>.parquet, .csv, .jsonl or .arrow.")
    return _pick_splits({name: _read_file(file, cache) for name, file in files.items()}, row, str(path))


def _read_file(file: Path, cache: str) -> datasets.Dataset:
    import datasets
    import pyarrow

    if file.suffix not in _FORMATS:
        raise DataError(f"cannot read {file}; known formats: {', '.join(_FORMATS)}.")
    try:
        if _FORMATS[file.suffix] == "arrow":
            return datasets.Dataset.from_file(str(file))
        reader = getattr(datasets.Dataset, f"from_{_FORMATS[file.suffix]}")
        dataset: datasets.Dataset = reader(str(file), cache_dir=cache)
    except (
        OSError,
        ValueError,
        StopIteration,  # a JSON file without a line
        pyarrow.ArrowException,
        datasets.exceptions.DatasetGenerationError,
    ) as error:
        if isinstance(error, StopIteration) or "corresponds to no data" in str(error):
            raise DataError(f"{file} holds no rows. Fill it, or remove it.") from error
        cause = error.__cause__ or error
        raise DataError(f"{file} is damaged or not {file.suffix[1:]}: {cause} Copy it again.") from error
    return _with_image_shape(dataset, file)


def _with_image_shape(dataset: datasets.Dataset, file: Path) -> datasets.Dataset:
    """Turn uint8 lists into images; Parquet metadata ``image_shape`` is "height,width,channels"."""
    import datasets
    import numpy as np
    import pyarrow.parquet

    if "image" not in dataset.column_names or isinstance(dataset.features["image"], datasets.Image):
        return dataset
    metadata = pyarrow.parquet.read_schema(file).metadata if file.suffix == ".parquet" else None
    shape_text = (metadata or {}).get(b"image_shape")
    if shape_text is None:
        return dataset
    shape = [int(size) for size in shape_text.decode().split(",")]
    pixels = np.stack(dataset.with_format("numpy")["image"][:]).astype(np.uint8).reshape(-1, *shape)
    return _with_images(dataset.remove_columns("image"), pixels)


def _from_digits(domain: str) -> dict[str, datasets.Dataset]:
    import datasets

    from merging.data import digits

    return {
        split: _with_images(datasets.Dataset.from_dict({"label": labels}), pixels)
        for split, (pixels, labels) in digits.make(domain).items()
    }


def _with_images(dataset: datasets.Dataset, pixels: np.ndarray) -> datasets.Dataset:
    """Add a column ``image`` from uint8 (N, height, width) or (N, height, width, 1 or 3), kept as PNG."""
    import datasets
    from PIL import Image

    if pixels.ndim == 4 and pixels.shape[-1] == 1:
        pixels = pixels[..., 0]
    encoder = datasets.Image()
    images = [encoder.encode_example(Image.fromarray(image)) for image in pixels]
    return dataset.add_column("image", images, feature=encoder)


def _pick_splits(
    loaded: Mapping[str, datasets.Dataset], row: Source, place: str
) -> dict[str, datasets.Dataset]:
    """Return the row's splits under our names."""
    wanted = row.splits or {name: name for name in loaded}
    for theirs in wanted.values():
        if theirs not in loaded:
            raise DataError(f"{place}: {unknown('split', theirs, loaded)}")
    return {ours: loaded[theirs] for ours, theirs in wanted.items()}


def _files_hash(folder: Path) -> str:
    """SHA-256 over names and contents of a folder's files."""
    digest = hashlib.sha256()
    for file in sorted(folder.iterdir()):
        with file.open("rb") as stream:
            digest.update(f"{file.name} {hashlib.file_digest(stream, 'sha256').hexdigest()}\n".encode())
    return digest.hexdigest()
