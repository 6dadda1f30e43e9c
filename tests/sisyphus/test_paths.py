"""Path, Variable and setup_path."""

from __future__ import annotations

import copy
import os
import pathlib
import pickle
import shutil
import sys

import pytest
from sisyphus import Job, Path, Task, gs, results_cache, setup_path, tk
from sisyphus.errors import VariableNotSet
from sisyphus.hash import sis_hash_helper
from sisyphus.job import created_jobs
from sisyphus.job_path import AbstractPath, NoBackup, Variable

pytestmark = pytest.mark.usefixtures("workspace")


class Source(Job):
    def __init__(self, n):
        self.out = self.output_path("dir/out.txt")
        self.cached = self.output_path("cached", cached=True)
        self.num = self.output_var("num")

    def tasks(self):
        yield Task("run")

    def run(self):
        pass


class Withholds(Source):
    def path_available(self, path):
        return False


def never(path):
    return False


def finish(job):
    job._sis_setup_directory()
    pathlib.Path(job._sis_path("finished")).touch()


def test_where_a_path_is(workspace):
    job = Source(1)
    assert job.out.rel_path() == f"work/{job.job_id()}/output/dir/out.txt"
    assert job.out.get_path() == f"{workspace}/work/{job.job_id()}/output/dir/out.txt"
    assert str(job.out) == os.fspath(job.out) == job.out.get() == job.out.get_path()
    assert repr(job.out) == f"<Path {job.out.get_path()}>"
    assert Path("in/file").rel_path() == "in/file"
    assert Path("in/file").get_path() == f"{workspace}/in/file"
    assert Path("/abs").get_path() == Path("/abs").rel_path() == "/abs"


def test_legacy_repr(monkeypatch, workspace):
    monkeypatch.setattr(gs, "LEGACY_PATH_CONVERSION", True)
    assert repr(Path("a")) == repr(f"{workspace}/a")


def test_a_local_copy_is_used_in_workers_only(monkeypatch):
    monkeypatch.setattr(gs, "file_caching", lambda path: "/local" + path)
    path = Path("/a", cached=True)
    assert str(path) == "/a"
    monkeypatch.setattr(gs, "active_engine", object())
    assert str(path) == path.get_cached_path() == os.fspath(path) == "/local/a"
    assert path.get_path() == "/a"
    assert str(Path("/a")) == "/a"


def test_own_outputs_are_never_cached(monkeypatch):
    job = Source(1)
    assert job.cached.cached
    content = pickle.dumps(job)
    created_jobs.clear()
    loaded = pickle.loads(content)
    assert not loaded.cached.cached


@pytest.mark.parametrize("wrong", [None, 3, pathlib.Path("a"), b"a"])
def test_a_path_is_made_of_a_text(wrong):
    with pytest.raises(AssertionError, match=r"a Path is made of a text, got .* Use str"):
        Path(wrong)


def test_hash_overwrite():
    assert Path("x", hash_overwrite="M").hash_overwrite == (None, "M")
    assert sis_hash_helper(Path("x", hash_overwrite="M")) == sis_hash_helper(Path("M"))
    assert sis_hash_helper(Path("x", hash_overwrite=(Source(1), "dir/out.txt"))) == sis_hash_helper(
        Source(1).out
    )
    with pytest.raises(AssertionError, match="hash_overwrite of Path 'x' must be a text or a pair"):
        Path("x", hash_overwrite=("a", "b", "c"))


def test_paths_are_equal_by_class_creator_and_path():
    job = Source(1)
    assert Path("a") == Path("a", hash_overwrite="z")
    assert Path("a") != "a"
    assert Path("num", job) != job.num
    assert Path("dir/out.txt", job) == job.out
    assert len({Path("a"), Path("a"), Path("b")}) == 2
    assert Path("a") < Path("b") < Path("a", job)
    assert sorted([job.out, Path("b"), Path("a")]) == [Path("a"), Path("b"), job.out]


def test_copies():
    job = Source(1)
    over = Path("x", hash_overwrite=("who", "M"), tags={"t"}, cached=True)
    assert over.copy_append(".gz").hash_overwrite == ("who", "M.gz")
    assert over.join_right("f").path == "x/f"
    assert over.join_right("f").hash_overwrite == ("who", "M/f")
    assert over.copy_append(".gz").tags == {"t"}
    assert over.copy() == over
    assert over.copy() is not over
    assert isinstance(job.num.copy(), Variable)
    job.out.add_user(job)
    copied = copy.deepcopy(job.out)
    assert copied == job.out
    assert copied.creator is job
    assert copied.users == set()


def test_tags_fall_back_to_the_creator():
    job = Source("tags", sis_tags={"a", "b"})
    assert job.out.tags == {"a", "b"}
    assert Path("x").tags == set()
    assert Path("x", job, tags={"c"}).tags == {"c"}


def test_available(workspace):
    assert not Path("file").available()
    (workspace / "file").touch()
    assert Path("file").available()
    assert Path("file").is_set()
    assert not Path("file", available=never).available()
    job = Source(1)
    assert not job.out.available()
    finish(job)
    assert job.out.available()


def test_a_finished_job_that_withholds_an_output_is_told(caplog):
    job = Withholds(1)
    finish(job)
    assert job._sis_finished()
    assert not job.out.available("asked by the test")
    assert "is finished, but does not release" in caplog.text
    assert "asked by the test" in caplog.text


def test_reading_values_while_the_graph_is_built_can_be_forbidden(monkeypatch):
    monkeypatch.setattr(gs, "DELAYED_CHECK_FOR_WORKER", True)
    with pytest.raises(AssertionError, match="the value of a is read while the graph is built"):
        Path("a").get()
    monkeypatch.setattr(gs, "active_engine", object())
    Path("a").get()


def test_absolute_paths_below_the_project_are_warned_of(workspace, caplog, monkeypatch):
    Path(f"{workspace}/a", hash_overwrite="a")
    Path("/elsewhere/a")
    assert not caplog.text
    Path(f"{workspace}/a")
    assert "Absolute path below the project directory" in caplog.text
    caplog.clear()
    monkeypatch.setattr(gs, "WARNING_ABSPATH", False)
    Path(f"{workspace}/a")
    assert not caplog.text


def test_keep_value(caplog):
    job = Source(1)
    job.out.keep_value(7)
    assert job.keep_value() == 7
    Path("a").keep_value(7)
    assert "has no effect" in caplog.text


def test_pickled_paths_lose_their_creator(monkeypatch):
    job = Source("p", sis_tags={"t"})
    path = pickle.loads(pickle.dumps(job.out))
    assert path.creator is None
    assert path.get_path() == job.out.get_path()
    assert path.users == set()
    assert path.tags == {"t"}
    monkeypatch.setattr(gs, "INCLUDE_CREATOR_STATE", True)
    assert pickle.loads(pickle.dumps(job.out)).creator is job


def test_a_path_is_callable_and_gives_expressions():
    assert callable(Path("a"))
    assert (Path("/a") + ".x").get() == "/a.x"
    assert Path("/a.b")[:-2].get() == "/a"


@pytest.mark.parametrize("with_pickle", [False, True])
@pytest.mark.parametrize("value", [1, 0.5, "text\n'\"", None, {"a": [1, (2, 3)]}, {1, 2}, b"\x00", True])
def test_variables_keep_their_value(value, with_pickle):
    variable = Variable("value", pickle=with_pickle)
    assert not variable.is_set()
    variable.set(value)
    assert variable.is_set()
    assert variable.get() == value
    assert str(variable) == str(value)
    assert os.listdir() == ["value"]  # no temporary file stays


def test_numbers_that_are_no_literals():
    variable = Variable("value")
    variable.set([float("inf"), -float("inf"), float("nan")])
    inf, minus_inf, nan = variable.get()
    assert inf == -minus_inf == float("inf")
    assert nan != nan
    assert pathlib.Path("value").read_text() == "[inf, -inf, nan]\n"


def test_an_unset_variable(workspace, monkeypatch):
    variable = Variable("value")
    with pytest.raises(VariableNotSet, match=f"{workspace}/value is not set: its job did not run yet"):
        variable.get()
    assert Variable("value", backup=None).get() is None
    assert Variable("value", backup=[1]).get() == [1]
    assert Source(1).num.get() is None  # outputs have None as backup
    monkeypatch.setattr(gs, "RAISE_VARIABLE_NOT_SET_EXCEPTION", False)
    assert variable.get() == f"<UNFINISHED VARIABLE: {workspace}/value>"


def test_repr_of_a_variable():
    variable = Variable("value")
    assert repr(variable) == "<Variable value>"
    variable.set(3)
    assert repr(variable) == "<Variable value 3>"
    assert variable.backup is NoBackup


def test_cached_results(monkeypatch, caplog):
    cache = results_cache.FinishedResultsCache()
    cache.remember("value", "a", 1)
    assert not cache.has("value", "a")  # off
    monkeypatch.setattr(gs, "CACHE_FINISHED_RESULTS", True)
    cache.remember("value", "a", None)
    cache.remember_small("value", "large", 1, size_bytes=gs.CACHE_FINISHED_RESULTS_MAX_SIZE + 1)
    cache.write_to_file()
    again = results_cache.FinishedResultsCache()
    assert again.has("value", "a")
    assert again.get("value", "a") is None
    assert not again.has("value", "large")
    monkeypatch.setattr(gs, "active_engine", object())
    assert not again.has("value", "a")  # not in workers
    monkeypatch.setattr(gs, "active_engine", None)
    pathlib.Path(gs.CACHE_FINISHED_RESULTS_PATH).write_bytes(b"damaged")
    assert not results_cache.FinishedResultsCache().has("value", "a")
    assert "Cache of finished results is damaged, ignored" in caplog.text


def test_what_the_cache_knows_is_not_looked_up(monkeypatch):
    monkeypatch.setattr(gs, "CACHE_FINISHED_RESULTS", True)
    monkeypatch.setattr(results_cache.finished_results_cache, "_known", {})
    job = Source("cached")
    finish(job)
    assert job.out.available()
    job.num.set(3)
    assert job.num.get() == 3
    shutil.rmtree("work")
    job._sis_is_finished = False
    assert job._sis_finished()
    assert job.out.available()
    assert job.num.get() == 3
    assert set(results_cache.finished_results_cache._known) == {
        ("job", job._sis_path()),
        ("available", job.out.rel_path()),
        ("value", job.num.rel_path()),
    }


def test_paths_beside_recipes(workspace, monkeypatch):
    package = workspace / "lab" / "deep"
    package.mkdir(parents=True)
    (workspace / "lab" / "__init__.py").touch()
    (package / "__init__.py").touch()
    monkeypatch.syspath_prepend(str(workspace))
    rel = setup_path("lab.deep")
    path = rel("files/data.txt")
    assert path.path == "lab/deep/files/data.txt"
    assert path.hash_overwrite == (None, "lab/deep/files/data.txt")
    assert rel("/abs").path == "/abs"
    assert rel("/abs").hash_overwrite == (None, "/abs")
    assert rel("a", hash_overwrite="Z").hash_overwrite == (None, "Z")
    assert rel("a", None, False, "Z").hash_overwrite == (None, "Z")
    assert isinstance(rel, tk.RelPath)


def test_paths_beside_recipes_need_a_package(workspace, monkeypatch):
    with pytest.raises(AssertionError, match="needs a package, but the name is empty"):
        setup_path("")
    (workspace / "lab").mkdir()
    monkeypatch.syspath_prepend(str(workspace))
    assert "lab" not in sys.modules
    with pytest.raises(AssertionError, match=r"'lab' has no __init__.py"):
        setup_path("lab")


def test_classes():
    assert issubclass(Path, AbstractPath)
    assert issubclass(Variable, AbstractPath)
    assert Path("a")._sis_path is True
