"""``sis clean``, ``verify``, ``import``, ``export`` and ``completion``."""

from __future__ import annotations

import json
import os
import subprocess
import time

import pytest


def age(folder, days):
    for path in (folder, *folder.iterdir()):
        when = time.time() - days * 86400
        os.utime(path, (when, when), follow_symlinks=False)


@pytest.fixture
def answer(monkeypatch):
    """What a person types; nothing unless a test says so."""

    def set_to(text):
        monkeypatch.setattr("builtins.input", lambda question: text)

    def end(question):
        raise EOFError

    monkeypatch.setattr("builtins.input", end)
    return set_to


def test_clean_needs_to_know_what(computed):
    assert computed.sis("clean", "config/exp.py") == 1


def test_clean_of_what_no_config_reaches(computed, answer):
    config = computed.config('tk.register_output("texts", Data("imdb").out)', name="less")
    train = computed.folder("Train")
    notes = computed.write("work/recipe/notes/read.me", "mine")
    said = computed.answers("clean", "--unreachable", config)
    assert computed.job_id("Train") in said
    assert "Nothing is removed." in said
    assert train.exists()
    answer("y")
    assert computed.sis("clean", "--unreachable", config) == 0
    assert not train.exists()
    assert computed.folder("Data").exists()
    assert notes.exists()
    assert "Nothing to remove." in computed.answers("clean", "--unreachable", config)


def test_clean_shows_what_depends_on_a_job(computed, answer):
    age(computed.folder("Data"), 40)
    said = computed.answers("clean", "--older-than", "30d", "--dry-run")
    row = next(line for line in said.splitlines() if computed.job_id("Data") in line)
    assert row.split()[-1] == computed.job_id("Train")
    assert "40 d" in row
    assert "1 job, " in said
    assert computed.folder("Data").exists()


def test_clean_by_age_and_yes(computed, answer):
    age(computed.folder("Train"), 40)
    assert computed.sis("clean", "--older-than", "30d", "--yes") == 0
    assert not list((computed.path / "work").glob("**/Train.*"))
    assert computed.folder("Data").exists()


def test_clean_keeps_what_an_unfinished_job_needs(computed, answer, caplog):
    (computed.folder("Train") / "finished").unlink()
    (computed.folder("Train") / "finished.run.1").unlink()
    age(computed.folder("Data"), 40)
    assert computed.sis("clean", "--older-than", "30d", "--yes") == 0
    assert computed.folder("Data").exists()
    assert "needs it and is not finished" in caplog.text


def test_clean_by_keep_value(computed, answer):
    config = computed.config(
        'data = Data("imdb")\ndata.set_keep_value(3)\ntk.register_output("model", Train(data.out, 0.5).out)',
        name="kept",
    )
    assert "Nothing to remove." in computed.answers("clean", "--keep-value", "3", "--yes", config)
    assert computed.sis("clean", "--keep-value", "4", "--yes", config) == 0
    assert not list((computed.path / "work").glob("**/Data.*"))


def test_clean_leaves_imported_jobs_alone(computed, answer):
    folder = computed.folder("Train")
    elsewhere = computed.path / "elsewhere"
    folder.rename(elsewhere)
    folder.symlink_to(elsewhere)
    config = computed.config('tk.register_output("texts", Data("imdb").out)', name="less")
    assert "Nothing to remove." in computed.answers("clean", "--unreachable", "--yes", config)
    assert folder.is_symlink()


def test_clean_leaves_running_jobs_alone(computed, answer, caplog):
    from sisyphus.running import usage

    folder = computed.folder("Train")
    for name in ("finished", "finished.run.1"):
        (folder / name).unlink()
    usage.write(folder / "usage.run.1", usage.identify(os.getpid()))
    config = computed.config('tk.register_output("texts", Data("imdb").out)', name="less")
    assert computed.sis("clean", "--unreachable", "--yes", config) == 0
    assert folder.exists()
    assert "it runs" in caplog.text


def test_clean_refuses_an_empty_graph(computed, answer):
    config = computed.config("pass", name="empty")
    assert computed.sis("clean", "--unreachable", "--yes", config) == 1
    assert computed.folder("Train").exists()


@pytest.mark.parametrize("text", ["soon", "-3d", "1y", ""])
def test_ages_that_are_none(computed, text):
    with pytest.raises(SystemExit) as end:
        computed.sis("clean", "--older-than", text)
    assert end.value.code == 2


# --- verify ---


def test_verify_finds_changed_outputs(computed):
    assert "0 jobs verified, 2 without hashes" in computed.answers("verify")
    assert computed.sis("verify", "Train") == 1
    assert computed.sis("verify", "--write") == 0
    assert "2 jobs verified, 0 without" in computed.answers("verify")
    (computed.folder("Data") / "output/data.txt").write_text("CHANGED")
    said = computed.answers("verify", code=1)
    assert f"changed: work/{computed.job_id('Data')}/output/data.txt" in said
    assert computed.sis("verify", "Train") == 0


# --- import ---


def test_import_links_finished_jobs(computed):
    (computed.path / "work").rename(computed.path / "old")
    (computed.path / "work").mkdir()
    assert "2 jobs imported" not in computed.answers("import", "old", "--dry-run", "--from", "config/exp.py")
    assert "2 jobs imported" in computed.answers("import", "old", "--from", "config/exp.py")
    assert computed.folder("Train").is_symlink()
    assert "finished(2)" in computed.answers("status", "config/exp.py")
    assert computed.sis("import", "nowhere", "--from", "config/exp.py") == 1


# --- export ---


def entities(folder):
    metadata = json.loads((folder / "ro-crate-metadata.json").read_text())
    return {entity["@id"]: entity for entity in metadata["@graph"]}


def test_export_holds_the_whole_way(computed):
    target, data = computed.job_id("Train"), computed.job_id("Data")
    assert f"{target} with 1 job that it came from" in computed.answers("export", target, "-o", "crate")
    folder = computed.path / "crate"
    found = entities(folder)
    root = found["./"]
    assert root["conformsTo"] == {"@id": "https://w3id.org/ro/wfrun/process/0.5"}
    assert found["ro-crate-metadata.json"]["conformsTo"] == {"@id": "https://w3id.org/ro/crate/1.1"}
    action = found[f"#{target}"]
    assert action["@type"] == "CreateAction"
    assert found[f"#{target}/arguments/rate"]["value"] == "0.5"
    assert {"@id": f"#{data}/data.txt"} in action["object"]
    result = found[action["result"]["@id"]]
    assert root["license"].startswith("No licence was chosen")
    file = folder / "outputs" / target / "model"
    assert file.read_text() == "('imdb', 0.5)\n"
    assert (
        result["sha256"]
        == subprocess.run(["sha256sum", file], capture_output=True, text=True, check=True).stdout.split()[0]
    )
    for part in root["hasPart"]:
        assert (folder / part["@id"]).exists()
    assert (folder / "jobs" / target / "log.run.1").exists()
    assert json.loads((folder / "jobs" / target / "arguments.json").read_text())["rate"]["text"] == "0.5"
    assert not (folder / "outputs" / data).exists()
    assert all(part["@id"] in found for entity in found.values() for part in _references(entity))


def _references(entity):
    for name, value in entity.items():
        for part in value if isinstance(value, list) else [value]:
            outside = name == "actionStatus" or "//w3id.org/ro/crate" in str(part)
            if isinstance(part, dict) and not outside:
                yield part


def test_export_with_all_outputs(computed):
    assert computed.sis("export", "config/exp.py:model", "--all-outputs", "-o", "crate") == 0
    data = computed.path / "crate/outputs" / computed.job_id("Data") / "data.txt"
    assert data.read_text() == "imdb"


def test_export_refuses_what_is_unfinished_or_in_the_way(computed):
    computed.write("crate/mine", "mine")
    assert computed.sis("export", "Train", "-o", "crate") == 1
    assert os.listdir(computed.path / "crate") == ["mine"]
    (computed.folder("Train") / "finished").unlink()
    assert computed.sis("export", "Train", "-o", "new") == 1
    assert not (computed.path / "new").exists()


# --- completion ---


@pytest.mark.parametrize("shell", ["bash", "zsh"])
def test_completion_knows_the_commands(place, shell):
    said = place.answers("completion", shell)
    for word in ("manager", "why", "--older-than", "release"):
        assert word in said


def test_completion_works_in_bash(place):
    script = place.write("completion.sh", place.answers("completion", "bash"))
    asked = "COMP_WORDS=(sis stat); COMP_CWORD=1; _shtab_sis; echo ${COMPREPLY[@]}"
    done = subprocess.run(
        ["bash", "-c", f"source {script}; {asked}"], capture_output=True, text=True, check=False
    )
    assert done.stdout.split() == ["status"], done.stderr
