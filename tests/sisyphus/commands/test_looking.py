"""``sis status``, ``graph``, ``logs`` and ``du``."""

from __future__ import annotations

import json
import threading
import time
from xml.etree import ElementTree

import pytest


def snapshot_of_disk(path):
    return {str(file): file.lstat().st_mtime_ns for file in path.rglob("*")}


def test_status_counts_and_lists_what_is_open(computed):
    config = computed.config(
        'tk.register_output("model", Train(Data("imdb").out, 0.5).out)\n'
        'tk.register_output("other", Train(Data("yelp").out, 0.5).out)',
        name="more",
    )
    said = computed.answers("status", config)
    assert "runnable: recipe/lab/Data." in said or "runnable: lab/Data." in said
    assert "finished(2) runnable(1) waiting(1); 1 of 2 targets done" in said


def test_status_shows_why_a_job_failed(place):
    config = place.config('tk.register_output("model", Train(Data("imdb").out, 10.0).out)')
    place.compute(config)
    said = place.answers("status", config, code=1)
    assert "error: " in said
    assert "made at config/exp.py:5 in py" in said
    assert "ValueError: rate is too high" in said


def test_status_names_missing_inputs(place):
    config = place.config('tk.register_output("model", Train(tk.Path("data/none.txt"), 1.0).out)')
    assert "input_missing: data/none.txt" in place.answers("status", config, code=1)


def test_status_as_json_changes_nothing(computed):
    before = snapshot_of_disk(computed.path / "work")
    facts = json.loads(computed.answers("status", "--json", "--usage", "config/exp.py"))
    assert facts["counts"] == {"finished": 2}
    data, train = facts["jobs"]
    assert train["inputs"] == [data["id"]]
    assert train["needed_for"] == ["model"]
    assert data["aliases"] == ["data/imdb"]
    assert data["made_at"] == "config/exp.py:5 in py"
    assert facts["targets"][0] == {
        "name": "model",
        "kind": "output",
        "done": True,
        "jobs": [train["id"]],
        "paths": train["outputs"],
    }
    assert snapshot_of_disk(computed.path / "work") == before


def test_status_does_not_declare_jobs_finished_nor_take_tries(computed):
    folder = computed.folder("Train")
    (folder / "finished").unlink()
    before = snapshot_of_disk(computed.path / "work")
    facts = json.loads(computed.answers("status", "--json", "config/exp.py"))
    assert facts["counts"] == {"finished": 2}
    assert snapshot_of_disk(computed.path / "work") == before
    recipe = (computed.path / "recipe/lab.py").read_text()
    computed.write("recipe/tries.py", recipe.replace('resume="run"', 'resume="run", tries=3'))
    config = computed.write(
        "config/tries.py",
        "from sisyphus import *\nfrom recipe.tries import *\ndef py():\n"
        '    tk.register_output("x", Train(Data("a").out, 10.0).out)\n',
    )
    computed.compute("config/tries.py")
    before = snapshot_of_disk(computed.path / "work")
    assert computed.sis("status", str(config.relative_to(computed.path))) == 1
    assert snapshot_of_disk(computed.path / "work") == before


def test_graph_as_text(computed):
    lines = computed.answers("graph", "config/exp.py").splitlines()
    assert lines[0] == "model (done)"
    assert lines[1] == f"  {computed.job_id('Train')} (finished)"
    assert lines[2] == f"    {computed.job_id('Data')} data/imdb (finished)"
    assert lines[3] == "texts (done)"
    said = computed.answers("graph", "-t", "texts", "config/exp.py")
    assert "Train" not in said


def test_graph_as_svg_holds_its_words(computed):
    assert computed.sis("graph", "-o", "graph.svg", "config/exp.py") == 0
    text = (computed.path / "graph.svg").read_text()
    ElementTree.fromstring(text)
    for word in ("Train", "Data", "data/imdb", "finished"):
        assert word in text
    assert computed.sis("graph", "-o", "again.svg", "config/exp.py") == 0
    assert (computed.path / "again.svg").read_text() == text


def test_graph_as_png(computed):
    assert computed.sis("graph", "--by-class", "-o", "graph.png", "config/exp.py") == 0
    assert (computed.path / "graph.png").read_bytes().startswith(b"\x89PNG")


def test_graph_without_a_file_for_the_picture(computed):
    assert computed.sis("graph", "-f", "svg", "config/exp.py") == 1
    assert computed.sis("graph", "-o", "graph.gif", "config/exp.py") == 1


def test_logs_also_after_cleaning(computed):
    job_id = computed.job_id("Train")
    expected = f"log of {job_id}\n"
    assert computed.answers("logs", job_id) == expected
    assert computed.answers("logs", job_id, "--task", "run", "--id", "1") == expected
    assert computed.answers("logs", job_id, "-n", "0") == ""
    from sisyphus.cleaning.job_archive import clean
    from sisyphus.job_dir import JobDir

    clean(JobDir(f"work/{job_id}"), keep_work=False, keep_input=True)
    assert computed.answers("logs", job_id) == expected
    assert computed.answers("logs", "-f", job_id) == expected


def test_logs_of_nothing_is_code_1(computed):
    assert computed.sis("logs", computed.job_id("Train"), "--task", "walk") == 1


@pytest.mark.parametrize(("marker", "code"), [("finished.run.1", 0), ("error.run.1", 1)])
def test_logs_are_followed_to_the_end(place, marker, code):
    config = place.config('tk.register_output("x", Data("a").out)')
    place.compute(config)
    folder = place.folder("Data")
    for name in ("finished", "finished.run.1"):
        (folder / name).unlink()
    log = folder / "log.run.1"
    log.write_text("first\n")

    def go_on():
        time.sleep(0.1)
        with log.open("a") as file:
            file.write("second\n")
        (folder / marker).touch()

    writer = threading.Thread(target=go_on)
    writer.start()
    assert place.answers("logs", "-f", place.job_id("Data"), code=code) == "first\nsecond\n"
    writer.join()


def test_following_ends_when_the_process_is_gone(place):
    from sisyphus.running import usage

    place.compute(place.config('tk.register_output("x", Data("a").out)'))
    folder = place.folder("Data")
    for name in ("finished", "finished.run.1"):
        (folder / name).unlink()
    dead = {"host": usage.hostname(), "pid": 1 << 30, "process_start": 1.0}
    usage.write(folder / "usage.run.1", dead)
    assert place.answers("logs", "-f", place.job_id("Data"), code=1) == f"log of {place.job_id('Data')}\n"


def test_du_by_class_and_by_job(computed):
    rows = json.loads(computed.answers("du", "--json"))
    assert {row["name"].rpartition("/")[2]: row["jobs"] for row in rows} == {"Data": 1, "Train": 1}
    assert all(row["bytes"] > 0 for row in rows)
    said = computed.answers("du", "--jobs")
    assert computed.job_id("Train") in said
    assert said.splitlines()[-1].endswith("total")
