"""Objects on disk, and small things of the toolkit."""

from __future__ import annotations

import os
import pathlib
import pickle

import pytest
from sisyphus import Job, Path, gs, tk
from sisyphus.job import created_jobs

pytestmark = pytest.mark.usefixtures("workspace")


class Step(Job):
    def __init__(self, value):
        self.value = value
        self.out = self.output_path("out")


def test_dumped_graphs_keep_their_jobs():
    last = Step(Step(1).out)
    tk.dump([last.out], "file")
    assert tk.zipped("file")
    created_jobs.clear()
    (path,) = tk.load_file("file")
    assert path.creator == last
    assert path.creator is not last
    assert path.creator.value.creator.value == 1
    assert gs.INCLUDE_CREATOR_STATE is False


def test_files_that_are_not_compressed_are_read_too():
    pathlib.Path("file").write_bytes(pickle.dumps(1))
    assert not tk.zipped("file")
    assert tk.load_file("file") == 1


def test_temporary_paths_are_removed(monkeypatch, tmp_path):
    monkeypatch.setattr(gs, "TMP_PREFIX", f"{tmp_path}/sis_")
    with tk.mktemp() as file, tk.mktemp() as folder, tk.mktemp() as unused:
        assert file.startswith(f"{tmp_path}/sis_")
        assert not os.path.exists(file)
        pathlib.Path(file).touch()
        os.makedirs(f"{folder}/deep")
        assert unused != folder != file
    assert os.listdir(tmp_path) == []


def test_small_things():
    assert tk.input_path("a") == Path("a")
    path = Path("/a")
    assert tk.input_path(path) is path
    assert tk.is_path(path)
    assert not tk.is_path("a")
    assert tk.uncached_path(path) == tk.uncached_path("/a") == "/a"
    assert tk.bundle_to_str(["b", path]) == "b /a"
    assert tk.bundle_to_str({"b", "a"}) == "a b"
    thing = tk.Object()
    thing.anything = 1
    assert vars(thing) == {"anything": 1}


def test_which_process_this_is(monkeypatch):
    assert tk.running_in_manager()
    assert not tk.running_in_worker()
    monkeypatch.setattr(gs, "active_engine", object())
    assert tk.running_in_worker()
    assert not tk.running_in_manager()
