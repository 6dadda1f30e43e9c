"""The folder of a job: the only file that knows what lies inside.

::

    work/<job id>/
        input/                links to the folders of the jobs that made the inputs
        output/               what this job makes
        work/                 where its tasks run
        engine/               log files of the queueing system
        job.save              the job, a compressed pickle
        info                  what it was made from, as text
        log.TASK.ID           what the task printed
        usage.TASK.ID         what it used
        submit_log.TASK       one line for each submission
        finished.TASK.ID      markers of one task
        error.TASK.ID
        finished              marker of the whole job
        finished.tar.gz       the same, after cleaning
        hold                  made by a person: do not start

Names and formats are upstream's, so that either engine goes on in the other's folders. Files with content are
written into a temporary sibling and renamed.
"""

from __future__ import annotations

import errno
import logging
import os
from collections.abc import Iterable, Mapping
from contextlib import suppress
from typing import Any

from sisyphus import global_settings as gs
from sisyphus.atomic_files import append_line, link_atomically, remove_if_there, write_atomically
from sisyphus.errors import JobDirError

HOLD = "hold"
SHARED_ENTRIES = frozenset(
    {gs.JOB_WORK_DIR, gs.JOB_OUTPUT, gs.JOB_INPUT, gs.JOB_LOG_ENGINE, gs.JOB_SAVE, gs.JOB_INFO}
)
"""What all tasks of a job share; everything else carries the name of a task."""
_MAX_NAME = 255
"""Longest file name, in characters, of usual file systems."""


_SIGNS_OF_A_JOB = frozenset({gs.JOB_INFO, gs.JOB_SAVE, gs.JOB_FINISHED_MARKER, gs.JOB_FINISHED_ARCHIVE})
_ASIDE = (".cleared.", ".deleted.", ".import.", ".cleanup")
"""Parts of the names of folders that were jobs, and are none any more, or not yet."""


def looks_like_job(path: str) -> bool:
    """Whether a directory has what every job folder has."""
    names = JobDir(path).names()
    return gs.JOB_OUTPUT in names and not _SIGNS_OF_A_JOB.isdisjoint(names)


def is_aside(path: str) -> bool:
    """Whether a folder was moved aside, or is just being imported or deleted."""
    return any(part in os.path.basename(path) for part in _ASIDE)


def task_entry(kind: str, task_name: str, task_id: int | None = None) -> str:
    """Return the name of a task's file: ``KIND.TASK`` or ``KIND.TASK.ID``."""
    return f"{kind}.{task_name}" if task_id is None else f"{kind}.{task_name}.{task_id}"


def input_link_name(job_id: str) -> str:
    """Return the name of the link to the job that made an input."""
    name = job_id.replace("/", "_")
    return name if len(name) <= _MAX_NAME else job_id.rsplit("/", 1)[-1]


class JobDir:
    """One job folder; ``path`` is relative to the project."""

    __slots__ = ("path",)

    def __init__(self, path: str) -> None:
        self.path = path

    def entry(self, name: str) -> str:
        """Return the path of something inside."""
        return f"{self.path}/{name}"

    def exists(self) -> bool:
        """Whether the folder is there."""
        return os.path.isdir(self.path)

    def names(self) -> frozenset[str]:
        """Return the names of everything inside, with one look; empty if the folder is not there."""
        try:
            return frozenset(os.listdir(self.path))
        except (FileNotFoundError, NotADirectoryError):
            return frozenset()
        except OSError as error:
            if error.errno != errno.ENAMETOOLONG:  # it cannot be there; making it will say why
                raise
            return frozenset()

    # --- markers ---

    def is_finished(self) -> bool:
        """Whether the job is finished, cleaned or not."""
        return os.path.isfile(self.entry(gs.JOB_FINISHED_MARKER)) or os.path.isfile(
            self.entry(gs.JOB_FINISHED_ARCHIVE)
        )

    def is_on_hold(self) -> bool:
        """Whether a person asked not to start the job."""
        return os.path.exists(self.entry(HOLD))

    def mark_finished(self) -> bool:
        """Make the marker; returns whether this process was the first to do so."""
        try:
            os.close(os.open(self.entry(gs.JOB_FINISHED_MARKER), os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
        except FileExistsError:
            return False
        except OSError as error:
            logging.info(f"Cannot write the finished marker of {self.path}: {error}")
        return True

    def mark_task(self, kind: str, task_name: str, task_id: int) -> None:
        """Make the marker ``finished`` or ``error`` of one id of a task."""
        with open(self.entry(task_entry(kind, task_name, task_id)), "ab"):
            pass

    def reset_error(self, task_name: str, task_id: int, max_resets: int) -> bool:
        """Put a failed try aside, so that the task runs again; False if it had its tries.

        The log becomes ``log.TASK.ID.error.01`` (02, ...), the usage file likewise, and the error marker goes
        last: of a process killed between two of these steps the next one goes on, under the same number. Two
        processes may do it at once.
        """
        log, used, error = (
            self.entry(task_entry(kind, task_name, task_id))
            for kind in (gs.JOB_LOG, gs.PLOGGING_FILE, gs.STATE_ERROR)
        )
        number = self.num_resets(task_name, task_id) + 1
        if not os.path.lexists(log) and number > 1 and _is_newer(f"{log}.error.{number - 1:02d}", error):
            number -= 1  # the log was put aside, then the process was killed
        elif number > max_resets:
            return False
        try:
            os.replace(log, f"{log}.error.{number:02d}")
        except FileNotFoundError:
            if not os.path.lexists(f"{log}.error.{number:02d}"):  # the worker could not even open its log
                write_atomically(f"{log}.error.{number:02d}", b"")
        with suppress(FileNotFoundError):
            os.replace(used, f"{used}.error.{number:02d}")
        remove_if_there(error)
        return True

    def num_resets(self, task_name: str, task_id: int) -> int:
        """Return how many failed tries were put aside."""
        log = self.entry(task_entry(gs.JOB_LOG, task_name, task_id))
        number = 0
        while os.path.lexists(f"{log}.error.{number + 1:02d}"):
            number += 1
        return number

    def put_submissions_aside(self, task_name: str, max_times: int) -> bool:
        """Forget how often a task was submitted: ``submit_log.TASK.given_up.01`` (02, ...).

        Returns:
            False if that was done ``max_times`` before.
        """
        path = self.entry(task_entry(gs.ENGINE_SUBMIT, task_name))
        for number in range(1, max_times + 1):
            aside = f"{path}.given_up.{number:02d}"
            if not os.path.lexists(aside):
                with suppress(FileNotFoundError):
                    os.rename(path, aside)
                return True
        return False

    def silence_s(self, task_name: str, task_id: int, now: float) -> float:
        """Return the seconds since the task wrote its log or usage file; infinity if there is neither."""
        newest = float("-inf")
        for kind in (gs.JOB_LOG, gs.PLOGGING_FILE):
            try:
                newest = max(newest, os.stat(self.entry(task_entry(kind, task_name, task_id))).st_mtime)
            except (FileNotFoundError, NotADirectoryError):
                continue
        return now - newest

    # --- submissions ---

    def submissions(self, task_name: str) -> list[tuple[list[int], dict[str, Any]]]:
        """Return what was submitted: ids and requirements, oldest first; damaged lines are left out."""
        import ast

        try:
            with open(self.entry(task_entry(gs.ENGINE_SUBMIT, task_name)), encoding="utf-8") as file:
                lines = file.read().splitlines()
        except (FileNotFoundError, NotADirectoryError):
            return []
        history = []
        for line in filter(None, lines):
            try:
                ids, rqmt = ast.literal_eval(line)
            except (ValueError, SyntaxError, TypeError):
                logging.warning(f"Damaged line in the submit log of {self.path}, left out: {line!r}")
                continue
            history.append((list(ids), dict(rqmt)))
        return history

    def append_submission(self, task_name: str, task_ids: Iterable[int], rqmt: Mapping[str, Any]) -> None:
        """Note a submission."""
        append_line(self.entry(task_entry(gs.ENGINE_SUBMIT, task_name)), repr((list(task_ids), dict(rqmt))))

    # --- setting up ---

    def make(self, output_dirs: Iterable[str]) -> None:
        """Make the folder with all its sub-folders; what is there is kept.

        Args:
            output_dirs: outputs that are directories, relative to ``output/``.
        """
        if os.path.islink(self.path) and not os.path.exists(self.path):
            logging.warning(f"Removed a link that led nowhere: {self.path} -> {os.readlink(self.path)}")
            os.unlink(self.path)
        try:
            for folder in (
                self.path,
                *map(self.entry, (gs.JOB_INPUT, gs.JOB_OUTPUT, gs.JOB_WORK_DIR, gs.JOB_LOG_ENGINE)),
            ):
                _make_directory(folder)
            for name in output_dirs:
                os.makedirs(os.path.join(self.entry(gs.JOB_OUTPUT), name), exist_ok=True)
        except (FileExistsError, NotADirectoryError) as error:
            raise JobDirError(
                f"cannot make the job folder {self.path}: {error.filename} is in the way and is no "
                "directory. Move it aside."
            ) from error

    def link_inputs(self, creators: Mapping[str, str]) -> None:
        """Link the folders of the jobs that made the inputs.

        Args:
            creators: job id to job folder.
        """
        for job_id, folder in creators.items():
            link = self.entry(f"{gs.JOB_INPUT}/{input_link_name(job_id)}")
            link_atomically(os.path.join(gs.BASE_DIR, folder), link)

    def write_info(self, lines: Iterable[str]) -> None:
        """Write the text that says what the job was made from."""
        write_atomically(self.entry(gs.JOB_INFO), "".join(f"{line}\n" for line in lines).encode("utf-8"))

    def write_save(self, job: object) -> None:
        """Pickle the job.

        Raises:
            JobDirError: if it, or one of its attributes, cannot be pickled.
        """
        import gzip
        import pickle

        try:
            content = pickle.dumps(job)
        except (pickle.PicklingError, AttributeError, TypeError, RecursionError) as error:
            raise JobDirError(
                f"{job} cannot be saved for its workers{_unpicklable_part(job)}: {error}"
            ) from error
        write_atomically(self.entry(gs.JOB_SAVE), gzip.compress(content, compresslevel=1))

    # --- removing ---

    def move_aside(self) -> str:
        """Rename the folder to ``<folder>.cleared.0001`` (0002, ...); returns the new path."""
        number = 1
        while os.path.lexists(f"{self.path}.cleared.{number:04d}"):
            number += 1
        aside = f"{self.path}.cleared.{number:04d}"
        os.rename(self.path, aside)
        return aside

    def delete(self) -> None:
        """Remove the folder; of a linked one only the link. A kill leaves nothing that looks like the job."""
        import shutil

        if os.path.islink(self.path):
            os.unlink(self.path)
            return
        aside = f"{self.path}.deleted.{os.getpid()}"
        os.rename(self.path, aside)
        shutil.rmtree(aside)


def _make_directory(path: str) -> None:
    """As ``os.makedirs`` with ``exist_ok``, in one call where the directory above is there."""
    try:
        os.mkdir(path)
    except FileExistsError:
        if not os.path.isdir(path):
            raise
    except FileNotFoundError:
        os.makedirs(path, exist_ok=True)


def _is_newer(path: str, other: str) -> bool:
    """Whether a file got its name later than another one was made, as far as the clock of the disk tells."""
    try:
        return os.stat(path).st_ctime_ns > os.stat(other).st_ctime_ns
    except FileNotFoundError:
        return False


def _unpicklable_part(job: object) -> str:
    """Which attribute is to blame; empty if it is none of them."""
    import pickle

    for name, value in vars(job).items():
        if name.startswith("_sis_"):
            continue
        try:
            pickle.dumps(value)
        except (pickle.PicklingError, AttributeError, TypeError, RecursionError):
            return f", because of its attribute {name!r} of type {type(value).__name__}"
    return ""


def read_save(path: str) -> Any:
    """Load a job from its folder, from a ``job.save`` file, or from the archive that cleaning leaves.

    Raises:
        JobDirError: if there is none, or if it is damaged.
    """
    import gzip
    import pickle
    import zlib

    try:
        content = read_saved_bytes(path)
        return pickle.loads(gzip.decompress(content) if content[:2] == b"\x1f\x8b" else content)
    except FileNotFoundError as error:
        raise JobDirError(
            f"no job is saved in {path}: neither {gs.JOB_SAVE} nor {gs.JOB_FINISHED_ARCHIVE}"
        ) from error
    except (pickle.UnpicklingError, EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise JobDirError(f"the job saved in {path} is damaged: {error}") from error
    except (ImportError, AttributeError, TypeError, ValueError, LookupError) as error:
        raise JobDirError(
            f"the job saved in {path} does not fit the code that is there now: {error!r}. Its recipe "
            "changed, or another version of Sisyphus saved it; it is saved anew when the manager sets it up."
        ) from error


def read_saved_bytes(path: str) -> bytes:
    """Return the content of ``job.save``, from a job folder, a file, or the archive that cleaning leaves.

    Raises:
        FileNotFoundError: if there is none.
        JobDirError: if the archive is damaged.
    """
    if os.path.isdir(path):
        save = os.path.join(path, gs.JOB_SAVE)
        path = save if os.path.isfile(save) else os.path.join(path, gs.JOB_FINISHED_ARCHIVE)
    if os.path.basename(path) != gs.JOB_FINISHED_ARCHIVE:
        with open(path, "rb") as file:
            return file.read()
    import tarfile  # takes longer than all else that a worker imports; few workers read archives

    try:
        with tarfile.open(path) as archive:
            for member in archive:
                if os.path.normpath(member.name) == gs.JOB_SAVE:
                    content = archive.extractfile(member)
                    if content is not None:
                        return content.read()
    except tarfile.TarError as error:
        raise JobDirError(f"the job saved in {path} is damaged: {error}") from error
    raise FileNotFoundError(path)
