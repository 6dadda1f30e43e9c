"""Model inputs of a data set, made once and kept.

They lie in the cache folder (``files/cache.py``), which may be deleted at any time. An entry is named by the
content of the data, the processor, the options and the code that encodes, not by any path, so checkouts and
experiments share it, and none gets what older code made. It is written beside its place and renamed:
processes that make the same entry at once do no harm. Data folders are only read. Where the cache cannot be
written, the encoded rows live in memory.
"""

from __future__ import annotations

import functools
import hashlib
import json
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from merging import tasks
from merging.data import splits
from merging.data.columns import without_bars
from merging.files.cache import cache_folder

if TYPE_CHECKING:
    import datasets

_BATCH_ROWS = 500


def load(
    dataset: Any, *, task_type: str, processor: Any, max_tokens: int | None, labelled: bool = True
) -> datasets.Dataset:
    """Return the encoded rows of a data set in order, checked first; see ``TaskType.encode`` for the columns.

    Args:
        dataset: a dict or a list of dicts; see :func:`merging.data.splits.check_dataset`.
        task_type: a file in ``tasks/``.
        processor: what the task type's ``load_processor`` returned.
        max_tokens: longer texts are cut; None for images.
        labelled: whether labels must be there and in range.

    Raises:
        DataError: the data do not suit the task type; see ``TaskType.check``.
    """
    import datasets

    rows = splits.load(dataset)
    tasks.load(task_type).check(rows, labelled=labelled)
    root = cache_folder()
    if root is None:
        return encode(rows, task_type=task_type, processor=processor, max_tokens=max_tokens)
    key = [_code(), task_type, splits.describe(dataset), _fingerprint(processor), max_tokens]
    entry = root / "encoded" / hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:32]
    if not entry.exists():
        made = encode(rows, task_type=task_type, processor=processor, max_tokens=max_tokens)
        if not _store(made, entry):
            return made
    return datasets.load_from_disk(str(entry))


def encode(
    rows: datasets.Dataset, *, task_type: str, processor: Any, max_tokens: int | None
) -> datasets.Dataset:
    """Encode rows in memory, without a cache."""
    task = tasks.load(task_type)
    with without_bars():
        return rows.map(
            lambda batch: task.encode(batch, processor, max_tokens=max_tokens),
            batched=True,
            batch_size=_BATCH_ROWS,
            remove_columns=rows.column_names,
            keep_in_memory=True,
            load_from_cache_file=False,
            new_fingerprint="encoded",
        )


@functools.cache
def _code() -> str:
    """SHA-256 of the files that decide what rows become."""
    digest = hashlib.sha256()
    for package in ("data", "tasks"):
        for file in sorted((Path(__file__).parents[1] / package).glob("*.py")):
            digest.update(f"{file.name}\n".encode() + file.read_bytes())
    return digest.hexdigest()


def _fingerprint(processor: Any) -> str:
    """SHA-256 of the files that the processor saves."""
    digest = hashlib.sha256()
    with tempfile.TemporaryDirectory(prefix="merging-processor-") as folder:
        processor.save_pretrained(folder)
        for file in sorted(Path(folder).rglob("*")):
            if file.is_file():
                digest.update(f"{file.name}\n".encode() + file.read_bytes())
    return digest.hexdigest()


def _store(encoded: datasets.Dataset, entry: Path) -> bool:
    """Save beside ``entry`` and rename; whoever comes second drops its own. False: no room or not allowed."""
    entry.parent.mkdir(exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{entry.name}.", dir=entry.parent))
    try:
        with without_bars():
            encoded.save_to_disk(temporary)
        temporary.rename(entry)
    except OSError:
        return entry.exists()
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return True
