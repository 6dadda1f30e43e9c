"""The toolkit functions that compare, move and show whole graphs."""

from __future__ import annotations

import io
import shutil
from pathlib import Path
from typing import Any

import pytest
from sisyphus import Job, tk
from sisyphus.delayed_ops import DelayedFormat
from sisyphus.errors import SisyphusError
from sisyphus.graph_tools.compare import MISSING


class Load(Job):
    def __init__(self, name: str) -> None:
        self.out = self.output_path("data")


class Train(Job):
    def __init__(self, data: Any, *, rate: float = 0.1, options: dict[str, Any] | None = None) -> None:
        self.data = data
        self.options = options
        self.out = self.output_path("model")
        self.out_score = self.output_var("score")


class Report(Job):
    def __init__(self, *models: Any, title: Any = "", **more: Any) -> None:
        self.models = models
        self.out = self.output_path("table")


class Unhashed:
    def __init__(self, text: str) -> None:
        self.text = text

    def _sis_hash(self) -> bytes:
        raise RuntimeError("must not be hashed")


class Plain:
    def __init__(self, path: Any) -> None:
        self.path = path


def graph(rate: float = 0.1, name: str = "a") -> tuple[Load, Train, Report]:
    load = Load(name)
    train = Train([load.out], rate=rate, options={"x": {"y": load.out}})
    report = Report(train.out, title=train.out_score.rformat("{:.1f}"))
    return load, train, report


def finish(job: Job) -> Path:
    """Leave a finished folder."""
    job._sis_setup_directory(force=True)
    folder = Path(job._sis_path())
    (folder / "output/data").write_text(job._sis_id())
    (folder / "finished").touch()
    job._sis_is_finished = False
    return folder


# --- compare ---


def test_equal_things_do_not_differ(workplace: Path) -> None:
    _, train, _ = graph()
    assert list(tk.compare_graph(train, train)) == []
    assert list(tk.compare_graph([train.out, {1, 2}], [train.out, {2, 1}])) == []


def test_differences_lead_from_the_top_to_the_values(workplace: Path) -> None:
    (_, train, report), (_, other_train, other) = graph(), graph(0.2)
    trails = list(tk.compare_graph(report, other))
    assert trails[0][0] == (report, other)
    assert trails[0][-1] == (0.1, 0.2)
    assert (train, other_train) in trails[0]
    assert len(trails) == 1  # the title depends on the same training, which is shown once


def test_ways_to_differ(workplace: Path) -> None:
    (load, train, _), (other, _, _) = graph(), graph(name="b")

    def ends(a: Any, b: Any) -> list[Any]:
        return [trail[-1] for trail in tk.compare_graph(a, b)]

    assert ends({"a": 1, "b": 2}, {"a": 1, "c": 2}) == [(2, MISSING), (MISSING, 2)]
    assert ends([1, 2], [1, 2, 3]) == [([1, 2], [1, 2, 3])]
    assert ends([1, "x"], [1.0, "y"]) == [(1, 1.0), ("x", "y")]
    assert ends({1, 2}, {1, 3}) == [({1, 2}, {1, 3})]
    assert ends(load.out, other.out) == [("a", "b")]
    assert ends(tk.Path("x", hash_overwrite="p"), tk.Path("x", hash_overwrite="q")) == [("p", "q")]
    assert ends(Plain(load.out), Plain(other.out)) == [("a", "b")]
    assert ends(load, train) == [(load, train)]
    assert ends(lambda: 1, print)[0][1] is print
    refusing = Unhashed("x")
    assert ends([refusing, 1], [refusing, 2]) == [(1, 2)]
    assert ends([refusing], [other_refusing := Unhashed("y")]) == [("x", "y")]
    assert other_refusing != refusing
    assert repr(MISSING) == "<missing>"


# --- replace ---


def test_replacing_makes_again_what_depends_on_it(workplace: Path) -> None:
    load, train, report = graph()
    new = tk.replace_graph_objects(report, [(load.out, tk.Path("elsewhere"))])
    assert type(new) is Report and new is not report
    (model,) = new.models
    assert model.creator.data == [tk.Path("elsewhere")]
    assert model.creator.options == {"x": {"y": tk.Path("elsewhere")}}
    expected_train = Train([tk.Path("elsewhere")], options={"x": {"y": tk.Path("elsewhere")}})
    assert model.creator is expected_train
    assert new is Report(expected_train.out, title=expected_train.out_score.rformat("{:.1f}"))
    assert report.models == (train.out,)


def test_nothing_to_replace_gives_the_same_object(workplace: Path) -> None:
    _, _, report = graph()
    around = Plain(report.out)
    around.around = around  # type: ignore[attr-defined]
    for value in (
        around,
        report,
        [report.out],
        {"a": (report.out, {1})},
        Plain(report.out),
        tk.sis_graph.find,
        tk,
    ):
        assert tk.replace_graph_objects(value, {"not there": 1}) is value
    assert tk.replace_graph_objects(report) is report


def test_replace_function_and_any_object(workplace: Path) -> None:
    _, train, _ = graph()

    def double(obj: Any) -> Any:
        return obj * 2 if isinstance(obj, float) else obj

    assert tk.replace_graph_objects(train, replace_function=double) is graph(0.2)[1]
    plain = Plain([train.out])
    new = tk.replace_graph_objects(plain, replace_function=double)
    assert type(new) is Plain and new.path == [graph(0.2)[1].out]
    assert plain.path == [train.out]
    delayed = tk.replace_graph_objects(train.out_score.rformat("{}"), replace_function=double)
    assert isinstance(delayed, DelayedFormat) and delayed.args[0] is graph(0.2)[1].out_score
    job = Report(train.out, extra={"score": 0.5})
    assert tk.replace_graph_objects(job, {0.5: 0.75}) is Report(train.out, extra={"score": 0.75})


# --- export and migrate ---


def test_finished_work_is_found_again_by_its_place(workplace: Path) -> None:
    load, train, report = graph()
    tk.register_output("table.md", report.out)
    old = {job._sis_id(): finish(job) for job in (load, train)}
    tk.export_graph("graph.txt")
    lines = Path("graph.txt").read_text().splitlines()
    assert {line.split(" ")[0] for line in lines} == {load._sis_id(), train._sis_id(), report._sis_id()}
    assert f"{report._sis_id()} output['table.md'].creator" in lines

    tk.sis_graph.__init__()  # type: ignore[misc]
    new_load, new_train, new_report = graph(0.2)
    tk.register_output("table.md", new_report.out)
    tk.migrate_graph("graph.txt")
    assert not Path(new_train._sis_path()).exists()
    tk.migrate_graph("graph.txt", mode="copy")
    assert Path(new_train._sis_path("output"), "data").read_text() == train._sis_id()
    assert new_train._sis_finished()
    assert not Path(new_report._sis_path()).exists()  # was not finished
    assert new_load is load and old[train._sis_id()].is_dir()


@pytest.mark.parametrize(
    "mode", ["link", "copy", "move", "move_and_link", "hardlink_or_copy", "hardlink_or_link"]
)
def test_modes_of_taking_over(workplace: Path, mode: str) -> None:
    load, train, _ = graph()
    tk.register_output("model", train.out)
    tk.sis_graph.update_nodes()
    finish(load)
    folder = finish(train)
    exported = io.StringIO()
    tk.export_graph(exported)
    shutil.move("work", "old")
    Path("work").mkdir()
    source = Path("old") / train._sis_id()
    inode = (source / "output/data").stat().st_ino
    tk.migrate_graph(io.StringIO(exported.getvalue()), "old", mode)
    assert (folder / "output/data").read_text() == train._sis_id()
    assert folder.is_symlink() == (mode == "link")
    assert source.is_symlink() == (mode == "move_and_link")
    assert source.exists() == (mode != "move")
    assert ((folder / "output/data").stat().st_ino == inode) == (mode != "copy")
    assert all(link.is_symlink() for link in (folder / "input").iterdir())
    before = sorted(Path("work").rglob("*"))
    tk.migrate_graph(io.StringIO(exported.getvalue()), "old", mode)
    assert sorted(Path("work").rglob("*")) == before  # set up already: nothing happens twice


def test_migrating_says_what_it_cannot_do(workplace: Path, caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(SisyphusError, match=r"unknown mode 'steal'. Known: dryrun, copy, hardlink"):
        tk.migrate_graph(io.StringIO(""), mode="steal")
    with pytest.raises(SisyphusError, match="line 1 of the exported graph is not 'id path': 'nothing'"):
        tk.migrate_graph(io.StringIO("nothing\n"))
    with pytest.raises(SisyphusError, match=r"not a path through the graph: .*__import__"):
        tk.migrate_graph(io.StringIO("a.b __import__('os').system\n"))
    with pytest.raises(SisyphusError, match="not a path through the graph: 'a b c'"):
        tk.migrate_graph(io.StringIO("a.b a b c\n"))
    tk.migrate_graph(io.StringIO("a.b output['gone'].creator\n"))
    assert "The graph has no job any more at output['gone'].creator" in caplog.text


def test_long_chains(workplace: Path) -> None:
    """Longer than Python's recursion limit."""
    first = Load("a")
    last: Any = first
    for number in range(1200):
        last = Report(last.out, title=number)
    tk.register_output("end", last.out)
    tk.export_graph("graph.txt")
    lines = Path("graph.txt").read_text().splitlines()
    assert len(lines) == 1201 and lines[-1].startswith(first._sis_id())
    finish(first)
    shutil.move("work", "old")
    tk.migrate_graph("graph.txt", "old", mode="link")
    assert Path(first._sis_path()).is_symlink()
    new = tk.replace_graph_objects(last, {first.out: Load("b").out})
    assert new is not last and type(new) is Report
    assert len(next(tk.compare_graph(last, new))) > 1200
    tk.print_graph()


def test_keys_on_the_way(workplace: Path) -> None:
    keys: list[Any] = ["it's", '"]', 3, -1, True, None, b"x", "a\n\\"]
    options = {key: Load(repr(key)).out for key in keys}
    tk.register_output("x", Train([], options=options).out)
    tk.export_graph("graph.txt")
    for key in keys:
        finish(Load(repr(key)))
    shutil.move("work", "old")
    tk.migrate_graph("graph.txt", "old", mode="link")
    assert all(Path(path.creator._sis_path()).is_symlink() for path in options.values())


def test_export_to_stdout(workplace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    load = Load("a")
    tk.register_output("data", load.out)
    tk.export_graph()
    assert capsys.readouterr().out == f"{load._sis_id()} output['data'].creator\n"


def test_a_transfer_that_fails_leaves_nothing_half(
    workplace: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    load = Load("a")
    tk.register_output("data", load.out)
    finish(load)
    shutil.move("work", "old")

    def fail(source: str, target: str, *args: object, **kwargs: object) -> None:
        Path(target).mkdir()
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(shutil, "copytree", fail)
    assert tk.import_work_directory("old", mode="copy") == []
    assert "Cannot copy" in caplog.text and "No space left" in caplog.text
    assert list(Path(load._sis_path()).parent.iterdir()) == []


# --- import ---


@pytest.mark.parametrize("mode", ["copy", "symlink", "hardlink"])
def test_import_of_finished_jobs(workplace: Path, mode: str) -> None:
    load, train, report = graph()
    tk.register_output("table", report.out)
    finish(load)
    finish(train)
    (Path(train._sis_path()) / "finished").unlink()
    shutil.move("work", "elsewhere")
    Path("linked").symlink_to("elsewhere")
    load._sis_is_finished = train._sis_is_finished = False
    assert tk.import_work_directory(["nowhere", "linked"]) == []
    assert not Path(load._sis_path()).exists()
    assert tk.import_work_directory(["nowhere", "linked"], mode=mode) == [load]
    assert load._sis_finished() and not Path(train._sis_path()).exists()
    if mode == "symlink":
        assert Path(load._sis_path()).readlink() == workplace / "elsewhere" / load._sis_id()


def test_import_by_alias(workplace: Path) -> None:
    old, new = Load("old"), Load("new").add_alias("nice/name")
    folder = finish(old)
    for place in ("other/work", "other/alias/nice"):
        Path(place).mkdir(parents=True)
    Path("other/alias/nice/name").symlink_to(folder.absolute())
    tk.register_output("data", new.out)
    assert tk.import_work_directory("other/work", mode="symlink") == []
    assert tk.import_work_directory("other/work", mode="symlink", use_alias=True) == [new]
    assert Path(new._sis_path()).readlink() == folder.absolute()


class Growing(Job):
    def __init__(self, first: Any) -> None:
        self.first = first
        self.out = self.output_path("x")

    def update(self) -> None:
        self.add_input(Load("found later").out)


def test_import_goes_on_while_the_graph_grows(workplace: Path) -> None:
    load = Load("a")
    growing = Growing(load.out)
    finish(load)
    finish(Load("found later"))
    shutil.move("work", "elsewhere")
    load._sis_is_finished = False
    tk.register_output("x", growing.out)
    assert tk.import_work_directory("elsewhere", mode="symlink") == [load, Load("found later")]


# --- remove ---


@pytest.mark.parametrize("by", ["job", "path", "outside path", "text"])
def test_a_job_goes_with_its_descendants(workplace: Path, monkeypatch: pytest.MonkeyPatch, by: str) -> None:
    outside = tk.Path("outside")
    untouched = Load("untouched")
    train = Train([outside, untouched.out])
    report = Report(train.out)
    tk.register_output("table", report.out)
    folders = {job: finish(job) for job in (untouched, train, report)}
    start: Any = {"job": train, "path": train.out, "outside path": [outside], "text": train._sis_id()}[by]
    for answer in ("", "n"):
        monkeypatch.setattr("builtins.input", lambda question, answer=answer: answer)
        assert not tk.remove_job_and_descendants(start)
    assert not tk.remove_job_and_descendants(start, mode="dryrun")
    assert all(folder.is_dir() for folder in folders.values())
    questions: list[str] = []

    def yes(question: str) -> str:
        questions.append(question)
        return "y"

    monkeypatch.setattr("builtins.input", yes)
    assert tk.remove_job_and_descendants(start)
    assert questions == ["Start deleting? (y/N) "]
    assert [job for job, folder in folders.items() if folder.exists()] == [untouched]
    assert not report._sis_finished()
    assert not tk.remove_job_and_descendants(start)


def test_descendants_can_be_moved_aside(workplace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    load = Load("a")
    tk.register_output("data", load.out)
    folder = finish(load)
    monkeypatch.setattr("builtins.input", lambda question: "y")
    assert tk.remove_job_and_descendants(load, mode="move")
    assert not folder.exists() and Path(f"{folder}.cleared.0001").is_dir()


def test_removing_something_unknown(workplace: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert not tk.remove_job_and_descendants("nonsense")
    assert "Nothing in the graph matches 'nonsense'" in caplog.text
    with pytest.raises(SisyphusError, match=r"unknown mode 'link'. Known: remove, move, dryrun"):
        tk.remove_job_and_descendants("nonsense", mode="link")


# --- text ---


def test_finding(workplace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    load, train, report = graph()
    train.add_alias("my/training")
    report.set_vis_name("big table")
    tk.register_output("table", report.out)
    assert tk.find_job("my/training") == [train]
    assert tk.find_job("big tab") == [report]
    assert tk.find_job("nothing") == []
    assert tk.find_path("output/data") == [load.out]
    printed = capsys.readouterr().out.splitlines()
    assert printed == [f"0: {train}", f"0: {report}", f"0: {load.out!r}"]


def test_job_info(workplace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _, train, _ = graph()
    train.add_alias("mine")
    tk.job_info(train)
    shown = capsys.readouterr().out
    for part in (
        f"Job id: {train._sis_id()} (not set up)",
        "Made at: ",
        "  mine",
        "  rate: 0.1",
        repr(train.out),
        f"Job dir: {workplace}/work/{train._sis_id()}",
    ):
        assert part in shown
    finish(train)
    tk.job_info(train)
    assert "(finished)" in capsys.readouterr().out


def test_print_graph(workplace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    load, train, report = graph()
    other = Report(Load("b").out, load.out)
    tk.register_output("a", report.out)
    tk.register_output("b", other.out)
    tk.print_graph()
    assert capsys.readouterr().out.splitlines() == [
        f"{report}",
        f"  {train}",
        f"    {load}",
        f"{other}",
        *(f"  {job}" for job in sorted([Load("b"), load])),
    ]
    tk.print_graph([report, train.out])
    assert capsys.readouterr().out.splitlines() == [f"{report}", f"  {train}", f"    {load}", f"{train} ..."]
    tk.print_graph(required_inputs=Load("b"))
    assert capsys.readouterr().out.splitlines() == [f"{other}", f"  {Load('b')}"]
    tk.print_graph(train, required_inputs=tk.Path("nothing reads this"))
    assert capsys.readouterr().out == ""


def test_the_toolkit_lists_what_it_imports_late() -> None:
    assert {"cleaner", "compare_graph", "print_graph", "run"} <= set(dir(tk))
    for name in ("export_graph", "job_info", "replace_graph_objects", "import_work_directory"):
        assert callable(getattr(tk, name))
    with pytest.raises(AttributeError, match="no attribute 'register_job'"):
        tk.register_job  # noqa: B018
