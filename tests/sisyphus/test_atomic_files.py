"""Files that are whole or not there: also when the disk is full and processes are killed."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest
from sisyphus.atomic_files import (
    append_line,
    link_atomically,
    remove_unfinished,
    sync_tree,
    write_atomically,
)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def run_with_small_files(code: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """Run code that may write no file of more than 100 bytes: as on a disk that gets full."""

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))

    header = (
        "import signal\nsignal.signal(signal.SIGXFSZ, signal.SIG_IGN)\nfrom sisyphus.atomic_files import *\n"
    )
    return subprocess.run(
        [sys.executable, "-B", "-c", header + code],
        cwd=folder,
        capture_output=True,
        text=True,
        preexec_fn=limit,
    )


def test_a_full_disk_leaves_the_old_content_and_no_litter(tmp_path):
    (tmp_path / "file").write_text("old")
    done = run_with_small_files("write_atomically('file', bytes(1000))", tmp_path)
    assert "File too large" in done.stderr
    assert (tmp_path / "file").read_text() == "old"
    assert names(tmp_path) == ["file"]


def test_a_line_that_does_not_fit_is_not_begun(tmp_path):
    (tmp_path / "log").write_text("first\n")
    done = run_with_small_files("append_line('log', 200 * 'x')", tmp_path)
    assert "OSError" in done.stderr
    assert (tmp_path / "log").read_text() == "first\n"


def test_lines_begin_on_their_own(tmp_path):
    log = tmp_path / "log"
    append_line(str(log), "one")
    append_line(str(log), "two")
    assert log.read_text() == "one\ntwo\n"
    log.write_text("one\ntw")  # cut short by a kill
    append_line(str(log), "three")
    assert log.read_text() == "one\ntw\nthree\n"


def test_links_are_made_and_replaced(tmp_path):
    link = str(tmp_path / "link")
    for target in ("a", "b", "b"):
        link_atomically(target, link)
        assert os.readlink(link) == target
    (tmp_path / f".link.{os.getpid()}.tmp").touch()  # of a killed process with our number
    link_atomically("c", link)
    assert os.readlink(link) == "c"
    assert names(tmp_path) == ["link"]


def test_what_a_killed_process_was_writing_is_removed(tmp_path):
    for name in (".a.12.tmp", ".b.13.tmp", "c.12.tmp", "d"):
        (tmp_path / name).touch()
    remove_unfinished(str(tmp_path), 12)
    remove_unfinished(str(tmp_path / "nowhere"), 12)
    assert names(tmp_path) == [".b.13.tmp", "c.12.tmp", "d"]


def test_everything_below_a_directory_is_synced(tmp_path, monkeypatch):
    for name in ("a", "sub/b"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "sub/link").symlink_to("nowhere")
    synced = []
    monkeypatch.setattr(os, "fsync", lambda file: synced.append(os.readlink(f"/proc/self/fd/{file}")))
    sync_tree(str(tmp_path))
    places = [tmp_path / "a", tmp_path, tmp_path / "sub/b", tmp_path / "sub"]
    assert sorted(synced) == sorted(str(place.resolve()) for place in places)


def test_errors_pass_through(tmp_path):
    with pytest.raises(FileNotFoundError):
        write_atomically(str(tmp_path / "no" / "file"), b"")
