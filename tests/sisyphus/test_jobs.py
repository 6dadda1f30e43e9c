"""Jobs: creation, inputs, outputs, what recipes call, what is pickled, where they were made."""

from __future__ import annotations

import gzip
import logging
import os
import pathlib
import pickle
import sys
import textwrap

import pytest
from sisyphus import Job, Path, Task, gs, tk
from sisyphus.errors import JobDirError
from sisyphus.job import created_jobs, job_finished
from sisyphus.job_dir import read_save

pytestmark = pytest.mark.usefixtures("workspace")


class Step(Job):
    def __init__(self, name, value=None):
        self.name = name
        self.value = value
        self.out = self.output_path("out.txt")
        self.folder = self.output_path("a/folder", directory=True)
        self.num = self.output_var("num")

    def tasks(self):
        yield Task("run")

    def run(self):
        pass


class Growing(Step):
    """Its second input is known when the first is there."""

    def update(self):
        self.updates = getattr(self, "updates", 0) + 1
        self.later = Step("later", self.value).num


class Releases(Step):
    def path_available(self, path):
        return os.path.exists(path.get_path()) or super().path_available(path)


def finish(job):
    job._sis_setup_directory()
    pathlib.Path(job._sis_path("finished")).touch()


# --- inputs and outputs ---


class Holder:
    def __init__(self, *held):
        self.held = held


def test_inputs_are_found_in_arguments_and_attributes():
    a, b, c, d, e = (Step(letter) for letter in "abcde")
    job = Step(
        "x", {"k": [a.out, (b.num + 1).rformat("{}")], c.out: 1, "o": Holder({d.out}), "p": tk.Delayed(e.out)}
    )
    assert job._sis_inputs == {a.out, b.num, d.out, e.out}  # a key of a dict is no input
    assert all(job in path.users for path in job._sis_inputs)


def test_own_outputs_are_no_inputs():
    assert Step("x")._sis_inputs == set()


def test_cycles_end():
    endless = [Step("a").out]
    endless.append(endless)
    holder = Holder(endless)
    holder.me = holder
    assert tk.extract_paths(holder) == {Step("a").out}


def test_entries_of_our_own_are_not_entered():
    assert tk.extract_paths({"_sis_x": Path("a"), "x": Path("b")}) == {Path("b")}
    with tk.block("b") as block:
        Step("inside")
    assert tk.extract_paths([block, logging, int, test_cycles_end, object(), iter([Path("a")])]) == set()


def test_containers_of_other_classes_are_entered():
    class Config(dict):
        pass

    class Names(list):
        pass

    config = Config(a=Path("a"))
    config.extra = Path("b")
    assert tk.extract_paths([config, Names([Path("c")])]) == {Path("a"), Path("b"), Path("c")}


def test_a_job_as_argument_is_warned_of_and_gives_all_its_paths(caplog):
    inner = Step("a", Path("in"))
    job = Step("x", inner)
    assert job._sis_inputs == {inner.out, inner.folder, inner.num, Path("in")}
    assert "argument 'value' is Job<work/" in caplog.text
    assert inner.job_id() in caplog.text


def test_an_output_declared_twice(caplog):
    job = Step("x")
    assert job.output_path("out.txt") is job.out
    assert "the output 'out.txt' is declared twice" in caplog.text
    with pytest.raises(AssertionError, match="the output 'num' is declared twice"):
        job.output_var("num")


def test_outputs_by_absolute_path(workspace):
    job = Step("x")
    assert job._sis_outputs[f"{workspace}/work/{job.job_id()}/output/num"] is job.num


def test_add_input():
    job = Step("x")
    path = Path("late")
    assert job.add_input(path) is path
    assert job._sis_inputs == {path}


# --- tags, names, values ---


def test_tags_are_inherited_and_decided_by_the_first_creation():
    tagged = Step("a", sis_tags={"t1", "t2"})
    assert Step("b", [tagged.out, Path("x", tags={"p"})]).tags == {"t1", "t2", "p"}
    assert Step("a", sis_tags={"other"}).tags == {"t1", "t2"}
    assert Step("c", tagged.out, sis_tags=[]).tags == set()


def test_tags_in_the_directory(monkeypatch):
    monkeypatch.setattr(gs, "JOB_USE_TAGS_IN_PATH", True)
    job = Step("a", sis_tags={"b", "a"})
    assert job._sis_path() == f"work/{job.job_id()}.a.b"
    assert len(Step("b", sis_tags={"x" * 100})._sis_path().rpartition(".")[2]) == 80


def test_names_and_aliases():
    job = Step("x")
    assert job.get_aliases() is None
    assert job.get_one_alias() is None
    assert str(job) == repr(job) == f"Job<work/{job.job_id()}>"
    assert job.add_alias("z/b").add_alias("a") is job
    assert job.get_aliases() == {"a", "z/b"}
    assert job.get_one_alias() == "a"
    assert str(job) == f"Job<alias/a work/{job.job_id()}>"
    assert job.set_vis_name("Training").get_vis_name() == "Training"


def test_all_prefixes_are_remembered(monkeypatch):
    Step("x")
    monkeypatch.setattr(gs, "ALIAS_AND_OUTPUT_SUBDIR", "paper")
    assert Step("x").add_alias("a")._sis_alias_prefixes == {"", "paper"}
    assert str(Step("y").add_alias("b")).startswith("Job<alias/paper/b work/")


def test_keep_values():
    job = Step("x")
    assert job.keep_value() is None
    assert job.set_keep_value(30) is job
    assert job.keep_value() == 30
    for wrong in (-1, 100):
        with pytest.raises(AssertionError, match="keep value must be 0 to 99, got"):
            job.keep_value(wrong)


def test_jobs_are_compared_by_type_and_id():
    a, b = sorted([Step("a"), Step("b")])
    assert a < b
    assert a.job_id() < b.job_id()
    assert a == Step(a.name)
    assert a != a.job_id()
    assert {a: 1}[Step(a.name)] == 1


def test_requirements_from_configs():
    job = Step("x").update_rqmt("run", {"mem": 5})
    assert job._sis_tasks()[0].rqmt() == {"mem": 5}
    assert job.set_rqmt("run", {"gpu": 1}) is job
    assert job._sis_tasks()[0].rqmt() == {"gpu": 1}


def test_environment_of_a_job(monkeypatch):
    monkeypatch.setenv("ROOT", "/r")
    for name in list(os.environ):  # restored by monkeypatch at the end
        monkeypatch.setenv(name, os.environ[name])
    job = Step("x")
    job.set_env("AS_IS", "$ROOT/$x")
    job.set_env("FILLED", "$ROOT/a", verbatim=False)
    monkeypatch.setattr(gs, "CLEANUP_ENVIRONMENT", False)
    job._sis_environment.modify_environment()
    assert os.environ["AS_IS"] == "$ROOT/$x"
    assert os.environ["FILLED"] == "/r/a"
    monkeypatch.delenv("AS_IS")
    monkeypatch.delenv("FILLED")


def test_set_attrs_and_set_default(caplog):
    job = Step("x")
    job.set_attrs({"self": 1, "fresh": 2})
    assert job.fresh == 2
    assert "self" not in vars(job)
    assert not caplog.text
    job.set_attrs({"fresh": 3})
    assert "attribute 'fresh' exists already" in caplog.text
    job.set_default("value", 4)
    job.set_default("name", 4)
    assert (job.value, job.name) == (4, "x")
    assert "set_default is deprecated" in caplog.text


def test_arguments_as_attributes(monkeypatch):
    monkeypatch.setattr(gs, "AUTO_SET_JOB_INIT_ATTRIBUTES", True)

    class Lazy(Job):
        def __init__(self, a, b=2):
            pass

    assert (Lazy(1).a, Lazy(1).b) == (1, 2)


def test_shell_commands_see_attributes():
    assert Step("world").sh("echo hello {name}", capture_output=True) == "hello world\n"


def test_work_path():
    assert Step("x").work_path() == Step("x")._sis_path("work")
    assert Step("x")._sis_path("log.run", 1) == f"work/{Step('x').job_id()}/log.run.1"
    assert os.path.isabs(Step("x")._sis_path(abspath=True))


# --- the folder ---


def test_set_up(workspace, monkeypatch):
    before = Step("before")
    before.value = "changed"
    job = Step("x", [before.out, Path("in/file")], sis_tags={"t"}).add_alias("name")
    job._sis_setup_directory()
    folder = workspace / job._sis_path()
    assert sorted(os.listdir(folder)) == ["engine", "info", "input", "job.save", "output", "work"]
    assert (folder / "output" / "a" / "folder").is_dir()
    (link,) = (folder / "input").iterdir()
    assert link.name == before.job_id().replace("/", "_")
    assert os.readlink(link) == f"{workspace}/{before._sis_path()}"
    assert (folder / "info").read_text().splitlines() == [
        "TAG: t",
        f"INPUT: {workspace}/in/file",
        f"INPUT: {before.out.get_path()}",
        "PARAMETER: name: x",
        f"PARAMETER: value: [{before.out!r}, {Path('in/file')!r}]",
        "ALIAS: name",
    ]
    assert gzip.decompress((folder / "job.save").read_bytes())
    assert job._sis_setup()


def test_set_up_happens_once_in_a_process_unless_forced(workspace):
    job = Step("x")
    job._sis_setup_directory()
    save = workspace / job._sis_path("job.save")
    save.unlink()
    job._sis_setup_directory()
    assert not save.exists()
    job._sis_setup_directory(force=True)
    assert save.exists()


def test_parameters_that_are_not_readable_now_do_not_disturb(workspace, monkeypatch):
    job = Step("x", tk.Variable("unset") + 1)
    job._sis_setup_directory()
    assert "PARAMETER: value: <DelayedAdd, not set>" in (workspace / job._sis_path("info")).read_text()


def test_a_job_that_cannot_be_pickled_is_named():
    job = Step("x")
    job.attribute = lambda: 0
    with pytest.raises(
        JobDirError, match=r"cannot be saved .* because of its attribute 'attribute' of type function"
    ):
        job._sis_setup_directory()


def test_a_saved_job_can_be_loaded(workspace):
    before = Step("before")
    job = Step("x", {"k": before.out})
    job._sis_setup_directory()
    assert tk.load_job(job._sis_path()) is job  # the one that this process has
    created_jobs.clear()
    for place in (job._sis_path(), job._sis_path("job.save")):
        loaded = tk.load_job(place)
        assert loaded is not job
        assert loaded == job
        assert loaded.value["k"].creator is None
        assert loaded.value["k"].get_path() == before.out.get_path()
        assert {path.get_path() for path in loaded._sis_inputs} == {before.out.get_path()}
        assert loaded._sis_worker_wrapper is gs.worker_wrapper
        assert loaded._sis_created_at == job._sis_created_at
    assert not created_jobs


def test_job_save_does_not_grow_with_the_ancestry():
    job = Step(0)
    for number in range(50):
        job = Step(number, job.out)
    assert len(pickle.dumps(job)) < 3000


@pytest.mark.parametrize("content", [b"", b"\x1f\x8b\x08damaged", b"nonsense"])
def test_a_damaged_save_is_an_error_with_its_place(workspace, content):
    (workspace / "job.save").write_bytes(content)
    with pytest.raises(JobDirError, match=r"the job saved in .* is damaged"):
        read_save(str(workspace))


def test_a_save_of_other_code_is_an_error_with_its_place(workspace):
    gone = type("Gone", (), {"__module__": "no_such_recipe", "__qualname__": "Gone"})
    sys.modules["no_such_recipe"] = type(sys)("no_such_recipe")
    sys.modules["no_such_recipe"].Gone = gone
    (workspace / "job.save").write_bytes(pickle.dumps(gone()))
    del sys.modules["no_such_recipe"]
    with pytest.raises(JobDirError, match=r"does not fit the code that is there now: ModuleNotFoundError"):
        read_save(str(workspace))


def test_a_job_in_an_archive_can_be_loaded(workspace):
    job = Step("x")
    job._sis_setup_directory()
    pathlib.Path(job._sis_path("finished")).touch()
    job._sis_cleanup()
    assert sorted(os.listdir(job._sis_path())) == ["finished.tar.gz", "info", "input", "output"]
    created_jobs.clear()
    assert tk.load_job(job._sis_path()) == job
    assert tk.load_job(job._sis_path("finished.tar.gz")) == job
    job._sis_is_finished = False
    assert job._sis_finished()
    (workspace / "finished.tar.gz").write_bytes(b"nonsense")
    with pytest.raises(JobDirError, match="is damaged"):
        read_save(str(workspace))


def test_a_missing_save_is_an_error_with_its_place(workspace):
    with pytest.raises(JobDirError, match=r"no job is saved in .*: neither job.save nor finished.tar.gz"):
        read_save(str(workspace))


def test_moving_and_deleting(workspace):
    job = Step("x")
    for number in (1, 2):
        finish(job)
        assert job._sis_finished()
        assert job_finished(job._sis_path())
        job._sis_move()
        assert not job._sis_setup()
        assert not job._sis_finished()
        assert (workspace / f"{job._sis_path()}.cleared.000{number}").is_dir()
    job._sis_setup_directory()
    job._sis_delete()
    assert not job._sis_setup()


# --- inputs that come later ---


def test_update_is_called_when_inputs_are_there_until_they_stop_changing():
    first = Step("first")
    job = Growing("x", first.out)
    assert not job._sis_runnable()
    assert not hasattr(job, "updates")
    finish(first)
    assert not job._sis_runnable()
    assert job.updates == 1
    later = Step("later", first.out)
    assert later.num in job._sis_inputs
    finish(later)
    assert job._sis_runnable()
    assert job._sis_runnable()
    assert job.updates == 2  # the second time nothing was new


def test_jobs_made_by_update_belong_to_the_blocks_of_the_job():
    first = Step("first")
    with tk.block("outer") as outer:
        job = Growing("x", first.out)
    finish(first)
    job._sis_runnable()
    assert Step("later", first.out) in outer.children


def test_outputs_may_be_released_early(workspace):
    job = Releases("x")
    assert not job.out.available()
    job._sis_setup_directory()
    (workspace / job.out.rel_path()).touch()
    assert job.out.available()
    assert not job.num.available()


# --- where it was made ---


def test_the_config_line_that_made_a_job_is_remembered(workspace, monkeypatch):
    (workspace / "config").mkdir()
    (workspace / "config" / "made.py").write_text(
        textwrap.dedent(
            """
            def py(make):
                def inner():
                    return make("made in a config")
                return inner()
            """
        )
    )
    monkeypatch.syspath_prepend(str(workspace))
    import config.made

    def make(name):  # plays a helper of the recipes
        return Step(name)

    assert config.made.py(make)._sis_created_at == "config/made.py:4 in inner"


def test_without_a_config_the_line_outside_of_the_package_is_remembered():
    line = sys._getframe().f_lineno + 1
    job = Step("made here")
    assert job._sis_created_at == f"{__file__}:{line} in {sys._getframe().f_code.co_name}"


def test_stack_traces(workspace, monkeypatch):
    monkeypatch.setattr(gs, "JOB_ADD_STACKTRACE_WITH_DEPTH", 2)
    monkeypatch.setattr(gs, "JOB_ADD_STACKTRACE_MAX_COUNT", 2)
    for _ in range(5):
        job = Step("traced")
    assert len(job._sis_stacktrace) == 2
    job._sis_setup_directory()
    info = (workspace / job._sis_path("info")).read_text()
    assert info.count("STACKTRACE:\n") == 2
    assert 'job = Step("traced")' in info
    assert info.endswith("STACKTRACE: ... (3 more invocations are suppressed)\n")
    monkeypatch.setattr(gs, "JOB_ADD_STACKTRACE_WITH_DEPTH", float("inf"))
    assert len(Step("all of it")._sis_stacktrace[0]) > 10


def test_the_methods_that_recipes_override_have_defaults():
    class Plain(Job):
        pass

    job = Plain()
    assert [task.name() for task in job.tasks()] == ["run"]
    assert job.info() is None
    assert job.completed_fraction() is None
    job.update()
    assert not job._sis_has_updates()
