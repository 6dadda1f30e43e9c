import os
from pathlib import Path

import pytest
from merging.errors import DiskSpaceError
from merging.publishing import published_folder


def test_the_folder_appears_complete(tmp_path: Path) -> None:
    out = tmp_path / "deep" / "report"
    with published_folder(out) as folder:
        (folder / "a").write_text("1")
        assert not out.exists()
    assert [path.name for path in out.iterdir()] == ["a"]
    assert [path.name for path in out.parent.iterdir()] == ["report"]


def test_an_older_result_is_replaced_only_at_the_end(tmp_path: Path) -> None:
    out = tmp_path / "report"
    out.mkdir()
    (out / "old").write_text("kept until the new one is complete")
    with published_folder(out) as folder:
        (folder / "new").write_text("")
        assert (out / "old").exists()
    assert [path.name for path in out.iterdir()] == ["new"]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_a_failure_leaves_what_was_there(tmp_path: Path, error: type[BaseException]) -> None:
    out = tmp_path / "report"
    out.mkdir()
    (out / "old").write_text("")
    with pytest.raises(error), published_folder(out) as folder:
        (folder / "half").write_text("")
        raise error
    assert [path.name for path in tmp_path.iterdir()] == ["report"]
    assert [path.name for path in out.iterdir()] == ["old"]


def test_permissions_are_those_of_an_ordinary_folder(tmp_path: Path) -> None:
    with published_folder(tmp_path / "report"):
        pass
    (tmp_path / "ordinary").mkdir()
    assert (tmp_path / "report").stat().st_mode == (tmp_path / "ordinary").stat().st_mode


@pytest.mark.parametrize(
    "error", [OSError(28, "No space left on device"), RuntimeError("I/O error: No space left (os error 28)")]
)
def test_a_full_disk_has_its_own_error_and_leaves_the_old_output(tmp_path: Path, error: Exception) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "old").touch()
    with (
        pytest.raises(DiskSpaceError, match=r"no room left on the disk of .*free some space"),
        published_folder(out),
    ):
        raise error
    assert [file.name for file in tmp_path.iterdir()] == ["out"]
    assert (out / "old").exists()


def test_files_are_readable_as_the_umask_says(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        with published_folder(tmp_path / "out") as folder:
            (folder / "private").touch(mode=0o600)
    finally:
        os.umask(before)
    assert (tmp_path / "out" / "private").stat().st_mode & 0o777 == 0o640
