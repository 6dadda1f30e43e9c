"""Sizes of files, for recipes written when paths offered them (deprecated)."""

from __future__ import annotations

import os

_GZIP_MAGIC = b"\x1f\x8b"
_TEXT_BYTES_PER_ZIPPED_BYTE = 3.5
"""Usual for natural language; a sum of sizes decides about memory and time, so a rough estimate will do."""


def is_zipped(path: str) -> bool:
    """Whether a file is compressed with gzip, by its first bytes."""
    with open(path, "rb") as file:
        return file.read(len(_GZIP_MAGIC)) == _GZIP_MAGIC


def size_in_bytes(path: str) -> int:
    """Size of the file as it is on disk."""
    return os.path.getsize(path)


def text_size_in_bytes(path: str) -> int:
    """Size of the text in a file; estimated if it is compressed."""
    size = size_in_bytes(path)
    return int(size * _TEXT_BYTES_PER_ZIPPED_BYTE) if is_zipped(path) else size


def num_lines(path: str) -> int:
    """Number of lines of a text file, compressed or not."""
    import gzip

    with gzip.open(path, "rb") if is_zipped(path) else open(path, "rb") as file:
        return sum(1 for _ in file)
