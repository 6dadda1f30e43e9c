import os
from pathlib import Path

import pytest
from merging.errors import DiskSpaceError, OptionError
from merging.files.publishing import published_folder, resumable_folder


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


def test_interrupted_work_goes_on(tmp_path: Path) -> None:
    """Complete files are kept, others are not; what was told with the last one is known again."""
    out = tmp_path / "out"
    with pytest.raises(KeyboardInterrupt), resumable_folder(out, "key") as journal:
        (journal.folder / "first").write_text("1")
        journal.add("first", {"counted": 1})
        (journal.folder / "second").write_text("half")
        (journal.folder / "folder").mkdir()
        raise KeyboardInterrupt
    assert not out.exists()
    with resumable_folder(out, "key") as journal:
        assert journal.has("first") and not journal.has("second")
        assert journal.state == {"counted": 1}
        assert sorted(path.name for path in journal.folder.iterdir()) == ["first", "journal.json"]
    assert [path.name for path in out.iterdir()] == ["first"]
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def interrupt(out: Path, key: str, error: BaseException, *, complete: bool = True) -> None:
    with pytest.raises(Exception if isinstance(error, Exception) else type(error)):  # noqa: SIM117
        with resumable_folder(out, key) as journal:
            (journal.folder / "first").write_text("1")
            if complete:
                journal.add("first", None)
            raise error


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), DiskSpaceError(""), SystemExit()])
def test_a_full_disk_or_a_stop_keeps_complete_files(tmp_path: Path, error: BaseException) -> None:
    interrupt(tmp_path / "out", "key", error)
    with resumable_folder(tmp_path / "out", "key") as journal:
        assert journal.has("first")


@pytest.mark.parametrize(("error", "complete"), [(ValueError(), True), (SystemExit(), False)])
def test_nothing_is_left_of_what_would_not_help(tmp_path: Path, error: BaseException, complete: bool) -> None:
    interrupt(tmp_path / "out", "key", error, complete=complete)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("damage", ["other key", "shorter file", "cut journal"])
def test_leftovers_that_do_not_fit_are_discarded(tmp_path: Path, damage: str) -> None:
    interrupt(tmp_path / "out", "key", KeyboardInterrupt())
    partial = tmp_path / ".out.partial"
    if damage == "shorter file":
        (partial / "first").write_text("")
    if damage == "cut journal":
        (partial / "journal.json").write_text('{"key": "ke')
    with resumable_folder(tmp_path / "out", "key 2" if damage == "other key" else "key") as journal:
        assert journal.is_empty and not list(journal.folder.iterdir())


def test_two_processes_do_not_write_the_same_folder(tmp_path: Path) -> None:
    out = tmp_path / "out"
    with resumable_folder(out, "key") as journal:
        (journal.folder / "first").write_text("1")
        journal.add("first", None)
        with (
            pytest.raises(OptionError, match=r"another process is writing .*out\. Wait until"),
            resumable_folder(out, "key"),
        ):
            pass
        assert (journal.folder / "first").exists()
    assert (out / "first").exists()
