"""Cleaning finished jobs, and finding and removing jobs that nothing needs."""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import tarfile
import threading
from pathlib import Path

import pytest
from sisyphus import Job, cleaner, gs, tk
from sisyphus.cleaning import job_archive
from sisyphus.cleaning.removal import readable_size, size_in_bytes
from sisyphus.errors import SisyphusError
from sisyphus.job_dir import JobDir


class Step(Job):
    def __init__(self, name: str, previous: tk.Path | None = None) -> None:
        self.out = self.output_path("text")

    def run(self) -> None:
        pass


def finish(job: Step, log: str = "done\n") -> Path:
    """Leave what a worker leaves of a finished job."""
    job._sis_setup_directory(force=True)
    folder = Path(job._sis_path())
    (folder / "output/text").write_text("result")
    (folder / "work/scratch").write_text("big")
    (folder / "engine/queue.log").write_text(log)
    os.link(folder / "engine/queue.log", folder / "log.run.1")
    (folder / "usage.run.1").write_text("{}")
    for marker in ("finished.run.1", "finished"):
        (folder / marker).touch()
    return folder


def names(folder: Path) -> set[str]:
    return {entry.name for entry in folder.iterdir()}


CLEAN = {"output", "input", "info", "finished.tar.gz"}


def chain() -> tuple[Step, Step]:
    first = Step("first")
    second = Step("second", first.out)
    tk.register_output("second", second.out)
    return first, second


# --- packing ---


def test_what_is_packed_costs_one_question_each_round(
    workplace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    jobs = chain()
    for job in jobs:
        finish(job)
    assert set(cleaner.cleanup_jobs()) == set(jobs)
    assert cleaner.cleanup_jobs() == []
    listed = []
    listing = os.listdir
    monkeypatch.setattr(os, "listdir", lambda path: listed.append(path) or listing(path))
    assert cleaner.cleanup_jobs() == []
    assert listed == []
    shutil.rmtree(jobs[0]._sis_path())
    finish(jobs[0])  # it ran again
    assert cleaner.cleanup_jobs() == [jobs[0]]


def test_a_finished_job_is_packed_and_still_finished(workplace: Path) -> None:
    first, second = chain()
    folder = finish(first)
    second._sis_setup_directory()
    assert cleaner.cleanup_jobs() == [first]
    assert names(folder) == CLEAN
    assert (folder / "output/text").read_text() == "result"
    with tarfile.open(folder / "finished.tar.gz") as archive:
        packed = set(archive.getnames())
        log = archive.extractfile("log.run.1")
        assert log is not None and log.read() == b"done\n"
    assert {"finished", "finished.run.1", "job.save", "usage.run.1", "engine/queue.log"} <= packed
    assert "work" not in packed
    first._sis_is_finished = False
    assert first._sis_finished()
    assert tk.load_job(str(folder))._sis_id() == first._sis_id()
    assert names(Path(second._sis_path())) > {"work", "job.save"}  # not finished, left alone
    assert cleaner.cleanup_jobs() == []


@pytest.mark.parametrize("keep_work", [True, False])
@pytest.mark.parametrize("keep_input", [True, False])
def test_settings_say_what_is_kept(
    workplace: Path, monkeypatch: pytest.MonkeyPatch, keep_work: bool, keep_input: bool
) -> None:
    monkeypatch.setattr(gs, "JOB_CLEANUP_KEEP_WORK", keep_work)
    monkeypatch.setattr(gs, "JOB_CLEANUP_KEEP_INPUT", keep_input)
    first, second = chain()
    finish(first)
    folder = finish(second)
    cleaner.cleanup_jobs()
    kept = names(folder)
    assert ("work" in kept, "input" in kept) == (keep_work, keep_input)
    with tarfile.open(folder / "finished.tar.gz") as archive:
        assert any(name.startswith("input/") for name in archive.getnames()) != keep_input
    assert Path(first._sis_path(), "output/text").exists()  # input/ holds a link, which is not followed


def test_a_young_job_is_left_for_the_next_round(workplace: Path) -> None:
    first, _ = chain()
    folder = finish(first)
    assert cleaner.cleanup_jobs(min_age_s=3600) == []
    os.utime(folder / "finished", (0, 0))
    assert cleaner.cleanup_jobs(min_age_s=3600) == [first]


def test_no_further_job_is_begun_after_a_stop(workplace: Path) -> None:
    first, _ = chain()
    finish(first)
    stop = threading.Event()
    stop.set()
    assert cleaner.cleanup_jobs(stop=stop) == []
    assert Path(first._sis_path("finished")).exists()


def test_imported_jobs_are_left_alone(workplace: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    first, second = chain()
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    for job in (first, second):
        folder = finish(job)
        shutil.move(folder, elsewhere / folder.name)
        folder.symlink_to(elsewhere / folder.name)
    before = {job: names(Path(job._sis_path())) for job in (first, second)}
    assert cleaner.cleanup_jobs() == []
    assert {job: names(Path(job._sis_path())) for job in (first, second)} == before


def test_work_may_be_a_link_to_a_big_disk(workplace: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    disk = tmp_path_factory.mktemp("disk")
    (workplace / "work").rmdir()
    (workplace / "work").symlink_to(disk)
    first, _ = chain()
    finish(first)
    assert cleaner.cleanup_jobs() == [first]


def test_a_failure_warns_once_and_loses_nothing(
    workplace: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    first, second = chain()
    folder = finish(first)
    finish(second)
    before = names(folder)

    def refuse(archive: tarfile.TarFile, name: str, *args: object, **kwargs: object) -> None:
        if first._sis_id() in name:
            raise PermissionError(13, "Permission denied", name)
        add(archive, name, *args, **kwargs)

    add = tarfile.TarFile.add
    monkeypatch.setattr(tarfile.TarFile, "add", refuse)
    assert cleaner.cleanup_jobs() == [second]
    assert names(folder) == before
    assert cleaner.cleanup_jobs() == []
    warnings = [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert len(warnings) == 1 and first._sis_id() in warnings[0].getMessage()


# --- a kill at any moment ---


class Killed(BaseException):
    """Stands for SIGKILL."""


_STEPS = ("fsync", "link", "unlink", "rmdir", "listdir")


@pytest.mark.parametrize("at_call", range(1, 10))
@pytest.mark.parametrize("step", _STEPS)
def test_a_kill_leaves_a_finished_job_and_the_next_cleaning_completes_it(
    workplace: Path, monkeypatch: pytest.MonkeyPatch, step: str, at_call: int
) -> None:
    first, _ = chain()
    folder = finish(first)
    content = {path.relative_to(folder) for path in folder.rglob("*") if path.is_file()}
    original, calls = getattr(os, step), []

    def fail(*args: object, **kwargs: object) -> object:
        calls.append(args)
        if len(calls) == at_call:
            raise Killed
        return original(*args, **kwargs)

    monkeypatch.setattr(os, step, fail)
    with contextlib.suppress(Killed):
        job_archive.clean(JobDir(first._sis_path()), keep_work=False, keep_input=True)
    monkeypatch.setattr(os, step, original)
    assert JobDir(first._sis_path()).is_finished()
    assert tk.load_job(str(folder))._sis_id() == first._sis_id()
    job_archive.clean(JobDir(first._sis_path()), keep_work=False, keep_input=True)
    assert names(folder) == CLEAN
    with tarfile.open(folder / "finished.tar.gz") as archive:
        packed = {Path(name) for name in archive.getnames()}
    lost = (
        content - packed - {path for path in content if path.parts[0] in ("output", "work", "input", "info")}
    )
    assert not lost


def test_a_half_archive_of_a_killed_process_is_removed(workplace: Path) -> None:
    first, _ = chain()
    folder = finish(first)
    (folder / ".finished.tar.gz.4711").write_bytes(b"half")
    cleaner.cleanup_jobs()
    assert names(folder) == CLEAN
    with tarfile.open(folder / "finished.tar.gz") as archive:
        assert not [name for name in archive.getnames() if "4711" in name]


def test_of_two_cleaning_processes_the_archive_of_the_first_counts(
    workplace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, _ = chain()
    folder = finish(first)
    put_in_place = job_archive._put_in_place

    def faster(temporary: str, archive: str) -> None:
        monkeypatch.setattr(job_archive, "_put_in_place", put_in_place)
        shutil.copy(temporary, archive)  # the other one packed everything, and has removed some of it
        (folder / "finished.run.1").unlink()
        with tarfile.open(temporary, "w:gz"):
            pass  # so that ours would be worse
        put_in_place(temporary, archive)

    monkeypatch.setattr(job_archive, "_put_in_place", faster)
    cleaner.cleanup_jobs()
    with tarfile.open(folder / "finished.tar.gz") as archive:
        assert "finished.run.1" in archive.getnames()
    assert names(folder) == CLEAN


def test_what_changed_after_it_was_packed_is_kept(workplace: Path) -> None:
    first, _ = chain()
    folder = finish(first)
    cleaner.cleanup_jobs()
    (folder / "log.run.1").write_text("the task was run again by hand")
    (folder / "log.debug.1").write_text("another one")
    cleaner.cleanup_jobs()
    assert names(folder) == CLEAN | {"log.run.1", "log.debug.1"}


# --- what is used ---


def test_status_of_each_job(workplace: Path) -> None:
    needed, low, default = Step("needed"), Step("low"), Step("default")
    wanted = Step("wanted", [low.out, default.out])
    unfinished = Step("unfinished", needed.out)
    tk.register_output("a", wanted.out)
    tk.register_output("b", unfinished.out)
    low.keep_value(7)
    needed.keep_value(7)
    for job in (needed, low, default, wanted):
        finish(job)
    status = cleaner.extract_keep_values_from_graph()
    assert {job: status[job._sis_path()] for job in (needed, low, default, wanted, unfinished)} == {
        unfinished: -3,
        needed: -2,
        wanted: -2,
        default: -1,
        low: 7,
    }
    assert set(cleaner.list_all_graph_directories().values()) == {-4}
    assert cleaner.find_too_low_keep_value(status, 8) == [low._sis_path()]
    assert cleaner.find_too_low_keep_value(status, 51) == sorted([low._sis_path(), default._sis_path()])
    assert cleaner.find_too_low_keep_value(status, 51, lambda path, value: value == 50) == [
        default._sis_path()
    ]
    with pytest.raises(SisyphusError, match="0 to 100, got 101"):
        cleaner.find_too_low_keep_value(status, 101)


def test_lists_are_collected_in_one_file_and_the_best_protection_counts(workplace: Path) -> None:
    cleaner.save_used_paths("used", {"work/a b.1": 3, "work/c.1": -1, "work/d.1": 60})
    cleaner.save_used_paths("used", {"work/a b.1": 20, "work/c.1": 10, "work/d.1": -3})
    assert cleaner.load_used_paths("used") == {"work/a b.1": 20, "work/c.1": -1, "work/d.1": -3}
    Path("used").write_text("work/a.1\n")
    with pytest.raises(SisyphusError, match=r"used:1: not 'path status': 'work/a.1'"):
        cleaner.load_used_paths("used")
    cleaner.save_remove_list(["work/a b.1", "work/c.1"], "remove")
    assert cleaner.load_remove_list("remove") == ["work/a b.1", "work/c.1"]


def test_only_job_folders_count_as_unused(workplace: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    first, _ = chain()
    finish(first)
    unused = finish(Step("unused"))
    imported = tmp_path_factory.mktemp("x") / "job"
    shutil.copytree(unused, imported, symlinks=True)
    link = unused.with_name("Step.imported")
    link.symlink_to(imported)
    Path("work/notes.txt").write_text("mine")
    foreign = Path("work/my/data")
    foreign.mkdir(parents=True)
    (foreign / "output").mkdir()
    Path("work/dead").symlink_to("nowhere")
    Path("work/loop").symlink_to(".")
    found = cleaner.search_for_unused(cleaner.list_all_graph_directories())
    assert found == sorted([str(unused), str(link)])
    assert cleaner.search_for_unused([first._sis_path()], filter_unused=lambda path: "imported" in path) == [
        str(link)
    ]
    assert cleaner.search_for_unused([str(unused.absolute()), first._sis_path(), str(link)]) == []


# --- removing ---


def answers(monkeypatch: pytest.MonkeyPatch, *texts: str) -> list[str]:
    """Type these; returns the questions."""
    questions: list[str] = []
    waiting = iter(texts)

    def answer(question: str) -> str:
        questions.append(question)
        try:
            return next(waiting)
        except StopIteration:
            raise EOFError from None

    monkeypatch.setattr("builtins.input", answer)
    return questions


def test_removing_asks(
    workplace: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    chain()
    unused, other = finish(Step("unused").add_alias("old")), finish(Step("other"))
    Path("alias").mkdir()
    Path("alias/old").symlink_to(unused.absolute())
    for refusal in ((), ("", ""), ("y", "y", "")):
        answers(monkeypatch, *refusal)
        cleaner.cleanup_unused()
        assert unused.is_dir() and other.is_dir()
    capsys.readouterr()
    questions = answers(monkeypatch, "y", "y", "y")
    cleaner.cleanup_unused(filter_printed=lambda path: path == str(unused))
    assert not unused.exists() and not other.exists()
    assert [question[:12] for question in questions] == ["Calculate si", "List these f", "Start deleti"]
    listing = capsys.readouterr().out
    assert f"{unused} alias/old" in listing and str(other) not in listing


def test_removing_by_keep_value(workplace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = chain()
    first.keep_value(5)
    low, wanted = finish(first), finish(second)
    answers(monkeypatch, "n", "n", "y")
    cleaner.cleanup_keep_value(5)
    assert low.exists()
    cleaner.cleanup_keep_value(6)
    assert not low.exists() and wanted.exists()


def test_an_empty_graph_removes_nothing(workplace: Path) -> None:
    folder = finish(Step("unused"))
    with pytest.raises(SisyphusError, match="no job is used, so every job in work would be removed"):
        cleaner.cleanup_unused()
    assert folder.exists()


def test_modes_of_removing(workplace: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = finish(Step("unused"))
    link = folder.with_name("Step.link")
    link.symlink_to(folder.absolute())
    with pytest.raises(SisyphusError, match=r"unknown mode 'delete'. Known: remove, move, dryrun"):
        cleaner.remove_directories([str(folder)], mode="delete")
    assert cleaner.remove_directories([str(folder)], mode="dryrun", force=True) == []
    assert cleaner.remove_directories([str(link), "work/gone"], force=True) == [str(link)]
    assert not link.is_symlink() and folder.is_dir()
    assert cleaner.remove_directories([str(folder)], mode="move", move_postfix=".old", force=True) == [
        str(folder)
    ]
    assert Path(f"{folder}.old/output/text").exists()
    Path(f"{folder}.old/finished").unlink()
    folder.mkdir()
    (folder / "output").mkdir()
    assert cleaner.remove_directories([str(folder)], mode="move", move_postfix=".old", force=True) == []
    assert "Cannot move" in caplog.text and folder.is_dir()


def test_a_killed_removal_leaves_nothing_that_looks_finished(
    workplace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = finish(Step("unused"))

    def killed(path: str) -> None:
        (Path(path) / "output/text").unlink()
        raise Killed

    monkeypatch.setattr(shutil, "rmtree", killed)
    with pytest.raises(Killed):
        JobDir(str(folder)).delete()
    assert not folder.exists()


def test_sizes(workplace: Path) -> None:
    folder = Path("big")
    folder.mkdir()
    (folder / "a").write_bytes(b"x" * 100_000)
    alone = size_in_bytes("big")
    os.link(folder / "a", folder / "b")
    (folder / "c").symlink_to("/")
    assert 100_000 <= alone <= 200_000
    assert size_in_bytes("big") - alone < 20_000
    assert [readable_size(size) for size in (5, 2048, 20_000_000, 3 << 40)] == ["5", "2.0K", "19M", "3.0T"]
