"""Places of paths, and saved jobs that are read without their classes."""

from __future__ import annotations

import enum
import pickle
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import NamedTuple

import pytest
from sisyphus import Job, Path, gs
from sisyphus.errors import JobDirError
from sisyphus.explaining.described import LONGEST_TEXT, Place, from_json, leaf, place_of
from sisyphus.explaining.differences import differences
from sisyphus.explaining.saved_jobs import SavedJob, class_of, read_saved_job, save_in_memory
from sisyphus.explaining.siblings import Folders


class Colour(enum.Enum):
    RED = 1
    BLUE = 2


@dataclass
class Options:
    alpha: float
    names: list


class Point(NamedTuple):
    x: int
    y: int


class Make(Job):
    def __init__(self, value, previous=None):
        self.value = value
        self.out = self.output_path("out")


def described(value):
    return save_in_memory(Make(value)).arguments["value"]


@pytest.mark.parametrize(
    ("path", "place"),
    [
        ("/a/work/recipe/train/Train.abcdef/output/model", ("recipe/train/Train.abcdef", "model")),
        ("/home/work/me/work/Train.abc/output", ("Train.abc", "")),
        ("/p/work/Train.abc/output/x/work/y", ("Train.abc", "x/work/y")),
        ("/data/imdb/train.txt", ("", "/data/imdb/train.txt")),
        ("/data/output/train.txt", ("", "/data/output/train.txt")),
        ("relative/file", ("", "relative/file")),
    ],
)
def test_which_job_a_path_belongs_to(path, place):
    assert place_of(path) == Place(*place)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (1, "1"),
        (1.0, "1.0"),
        (None, "None"),
        ("it's", '"it\'s"'),
        ([1, "a"], "[1, 'a']"),
        ({"b": (1,), 2: []}, "{'b': (1), 2: []}"),
        ({3, 1, 2}, "{1, 2, 3}"),
        (PurePosixPath("a/b"), "PurePosixPath('a', 'b')"),
        (Colour.BLUE, "Colour(2)"),
        (Point(1, 2), "Point(1, 2)"),
        (OrderedDict(a=1), "OrderedDict(['a']=1)"),
        (len, "builtins.len"),
        (Options, f"{__name__}.Options"),
    ],
)
def test_values_as_text(workplace, value, text):
    assert str(described(value)) == text


def test_objects_have_parts(workplace):
    node = described(Options(0.5, ["a"]))
    assert node.kind == "Options"
    assert str(node.parts[".alpha"]) == "0.5"
    assert str(node.parts[".names"].parts["[0]"]) == "'a'"


def test_int_and_float_and_bool_differ(workplace):
    assert len({repr(described(value)) for value in (1, 1.0, True)}) == 3


def test_the_output_of_a_job_names_it(workplace):
    first = Make("a")
    node = save_in_memory(Make("b", first.out)).arguments["previous"]
    assert (node.job, node.text) == (first._sis_id(), "out")
    node = save_in_memory(Make("c", Path("out", first, hash_overwrite="data.txt"))).arguments["previous"]
    assert (node.job, node.text) == ("", "data.txt")


def test_an_output_with_another_creator_for_hashes(workplace):
    first = Make("a")
    path = Path("x", None, hash_overwrite=(first, "model"))
    node = save_in_memory(Make("d", path)).arguments["previous"]
    assert node.job == first._sis_id()


def test_json_and_back(workplace):
    node = described({"a": [1, Options(0.5, ["x"])]})
    assert from_json(node.as_json()) == node


def test_very_long_texts_are_told_apart():
    one, other = leaf("str", "a" * 10_000 + "b"), leaf("str", "a" * 10_000 + "c")
    assert one != other
    assert len(one.text) < LONGEST_TEXT + 200


def test_a_folder_says_the_same_as_the_job(workplace):
    job = Make({"alpha": [1, Options(0.5, ["x"])], "kind": Colour.RED}, Make("a").out)
    job._sis_setup_directory()
    assert read_saved_job(job._sis_path(), job._sis_id()) == save_in_memory(job)


def test_a_folder_is_read_without_the_recipe(workplace, monkeypatch):
    job = Make(Options(0.5, ["x"]))
    job._sis_setup_directory()
    monkeypatch.setattr(pickle, "loads", lambda *_: pytest.fail("code of a recipe would run"))
    monkeypatch.delitem(globals(), "Options")
    assert str(read_saved_job(job._sis_path(), "x").arguments["value"]) == "Options(alpha=0.5, names=['x'])"


def test_a_cleaned_folder_can_be_read(workplace):
    job = Make("a")
    job._sis_setup_directory()
    job._sis_dir.mark_finished()
    before = read_saved_job(job._sis_path(), job._sis_id())
    job._sis_cleanup()
    assert not job._sis_dir.names() & {gs.JOB_SAVE}
    assert read_saved_job(job._sis_path(), job._sis_id()) == before


def test_the_info_file_is_enough(workplace):
    job = Make("two\nlines", Make(7).out)
    job._sis_setup_directory()
    (workplace / job._sis_path() / "job.save").write_bytes(b"written by something else")
    read, known = read_saved_job(job._sis_path(), job._sis_id()), save_in_memory(job)
    assert read.arguments.keys() == known.arguments.keys()
    assert all(read.arguments[name].is_like(known.arguments[name]) for name in read.arguments)
    assert differences(save_in_memory(Make("one", Make(7).out)), read, Folders().find)[0].where == "value"


@pytest.mark.parametrize("content", [b"", b"no pickle", b"\x1f\x8bbroken", pickle.dumps({"a": 1})])
def test_damaged_folders_are_named(workplace, content):
    folder = workplace / "work/X.abc"
    folder.mkdir()
    (folder / "job.save").write_bytes(content)
    with pytest.raises(JobDirError, match=r"work/X\.abc"):
        read_saved_job("work/X.abc", "X.abc")


def test_a_folder_without_job_is_named(workplace):
    with pytest.raises(JobDirError, match="no job is saved in work/Y"):
        read_saved_job("work/Y", "Y")


def test_the_version_of_a_class_is_kept(workplace):
    class Versioned(Job):
        __sis_version__ = 3

        def __init__(self, a):
            self.out = self.output_path("out")

    assert save_in_memory(Versioned(1)).version == "3"


@pytest.mark.parametrize(
    ("job_id", "name"), [("a/b/Train.abc", "a/b/Train"), ("Train.a.b", "Train"), ("a.b/Train.x", "a.b/Train")]
)
def test_class_of_an_id(job_id, name):
    assert class_of(job_id) == name
    assert SavedJob(job_id).class_name == name
