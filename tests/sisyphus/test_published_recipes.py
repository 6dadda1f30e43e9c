"""Habits of recipe collections written for other versions of this API, in miniature."""

from __future__ import annotations

import gzip
import pickle
import subprocess
from pathlib import Path
from typing import Any, ClassVar, Union

import pytest
from sisyphus import Job, Task, gs, setup_path, tk
from sisyphus.hash import sis_hash_helper
from sisyphus.http_server import object_to_html


class Tree:
    """A configuration that makes up whatever is asked for, unless the name begins with an underscore."""

    def __init__(self) -> None:
        self._entries: dict[str, Any] = {}

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        return self._entries.setdefault(name, Tree())

    def __setattr__(self, name: str, value: Any) -> None:
        if name.startswith("_"):
            super().__setattr__(name, value)
        else:
            self._entries[name] = value

    def __sis_state__(self) -> dict[str, Any]:
        return {"entries": self._entries}


class Layered:
    """Asks another object for what it lacks."""

    def __init__(self, base: Any = None) -> None:
        self.base = base
        if base is None:
            self.segments = None

    def __getattr__(self, name: str) -> Any:
        if super().__getattribute__("base") is not None and hasattr(self.base, name):
            return getattr(self.base, name)
        raise AttributeError(name)

    def html(self) -> str:
        return object_to_html(self.__dict__)


class ManyFiles:
    """Stands for numbered outputs of a job that is just being made."""

    def __init__(self, creator: Job, template: str, files: dict[int, tk.Path]) -> None:
        self.template = f"{creator._sis_path(gs.JOB_OUTPUT)}/{template}"
        self.files = files

    def __sis_state__(self) -> dict[str, Any]:
        return {"template": self.template, "files": self.files}


class Head(Job):
    """Changes how its output is hashed while it is made, and deletes from the arguments that are hashed."""

    __sis_hash_exclude__: ClassVar[dict[str, Any]] = {"zip_output": True}

    def __init__(self, text: Any, *, zip_output: bool = True, time: int = 1) -> None:
        super().__init__()
        self.text = text
        self.num_lines = 2
        self.out = self.output_path("out")
        if not zip_output:
            self.out.hash_overwrite = (self, "out.gz")
        self.parts = {k: self.output_path(f"part.{k}") for k in (1, 2)}
        self.out_parts = ManyFiles(self, "part.$(TASK)", self.parts)
        self.rqmt: Any = None

    def tasks(self) -> Any:
        if not self.rqmt:
            self.rqmt = {"mem": 1 + self.text.estimate_text_size() / 1024**3}
        yield Task("run", rqmt=self.rqmt, args=range(1, 3))

    def run(self, number: int) -> None:
        pass

    @classmethod
    def hash(cls, kwargs: dict[str, Any]) -> str:
        del kwargs["time"]
        return super().hash(kwargs)


class Uses(Job):
    def __init__(self, settings: Any, **more: Any) -> None:
        self.settings = settings
        self.more = more
        self.out = self.output_path("out")


def test_a_job_that_changes_its_output_while_it_is_made(workplace: Path) -> None:
    plain, packed = Head(tk.Path("text"), zip_output=False), Head(tk.Path("text"))
    assert Head(tk.Path("text"), time=7) is packed
    folder = f"work/{plain._sis_id()}/output"
    assert sis_hash_helper(plain.out) == sis_hash_helper(tk.Path("x", hash_overwrite=(plain, "out.gz")))
    assert plain.out_parts.template == f"{folder}/part.$(TASK)"
    user = Uses(plain.out)
    assert user._sis_inputs == {plain.out}
    content = pickle.dumps(user)
    assert b"num_lines" not in content  # the job that made the input is not pickled with it
    restored = pickle.loads(pickle.dumps(plain.out))
    assert restored.creator is None
    assert sis_hash_helper(restored) == sis_hash_helper(plain.out)


def test_numbered_outputs_are_dependencies(workplace: Path) -> None:
    head = Head(tk.Path("text"))
    assert set(head.parts.values()) <= Uses(head.out_parts)._sis_inputs


def test_objects_that_make_up_attributes_stay_as_they_are(workplace: Path) -> None:
    head = Head(tk.Path("text"))
    tree = Tree()
    tree.corpus.file = head.out
    settings = Layered(Layered())
    settings.config = tree
    settings.segments = head.out_parts
    user = Uses(settings, more=tree)
    assert user._sis_inputs == {head.out, *head.parts.values()}
    assert set(tree._entries) == {"corpus"} and set(tree.corpus._entries) == {"file"}
    assert user is Uses(settings, more=tree)
    assert settings.html().startswith("<table>")
    tk.register_output("x", user.out)
    user._sis_setup_directory()
    tk.export_graph("graph.txt")
    assert f"{head._sis_id()} output['x'].creator.settings.segments.files[1].creator" in (
        Path("graph.txt").read_text()
    )
    assert tk.load_job(user._sis_path()) is user


def test_measuring_files_through_paths(workplace: Path, caplog: pytest.LogCaptureFixture) -> None:
    text = "line\n" * 100
    Path("text").write_text(text)
    with gzip.open("text.gz", "wt") as file:
        file.write(text)
    plain, packed = tk.Path("text"), tk.Path("text.gz")
    assert (plain.is_zipped(), plain.size(), plain.estimate_text_size(), plain.lines()) == (
        False,
        500,
        500,
        100,
    )
    assert (packed.is_zipped(), packed.size(), packed.lines()) == (True, Path("text.gz").stat().st_size, 100)
    assert packed.estimate_text_size() > packed.size()
    assert "measuring files through paths is deprecated" in caplog.text
    (task,) = Head(plain)._sis_tasks()
    assert task.task_ids() == [1, 2]


def test_shell_commands_of_jobs(workplace: Path) -> None:
    Path("text").write_text("a\nb\nc\n")
    head = Head(tk.Path("text"))
    assert head.sh("cat {text} | head -n {num_lines}", True) == "a\nb\n"
    head.sh("cat {text} | head -n {num_lines} > copy", except_return_codes=(141,))
    assert Path("copy").read_text() == "a\nb\n"
    head.sh("exit {code}", except_return_codes=(141,), code=141)
    with pytest.raises(subprocess.CalledProcessError, match="status 3"):
        head.sh("exit 3", except_return_codes=(141,))


def test_jobs_are_run_in_temporary_work_directories(
    workplace: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    head = Head(tk.Path("text"))
    for name in ("a", "b"):  # the same job, in one process, in a new place
        work = tmp_path_factory.mktemp(name)
        monkeypatch.setattr(gs, "WORK_DIR", str(work))
        head._sis_setup_directory()
        Path(head.out).write_text(name)
        assert (work / head._sis_id() / "output/out").read_text() == name


def test_paths_beside_recipes_are_used_in_annotations_too() -> None:
    here = setup_path("sisyphus")
    path = here("files/x.txt")
    assert isinstance(path, tk.Path) and path.hash_overwrite == (None, "sisyphus/files/x.txt")
    assert Union[here, str].__args__ == (here, str)  # noqa: UP007 - as recipes write it
