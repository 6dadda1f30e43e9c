"""``sis why`` and ``sis diff``."""

from __future__ import annotations

import json
import shutil
import subprocess

import pytest


def test_why_of_a_folder_names_the_arguments(computed):
    said = computed.answers("why", computed.job_id("Train"))
    assert f"{computed.job_id('Train')} (finished)" in said
    assert "  rate: 0.5\n" in said
    assert f"  data: {computed.job_id('Data')}/output/data.txt\n" in said
    assert "No other folder" in said


def test_why_of_a_config_compares_with_the_folder_that_is_there(computed):
    old = computed.job_id("Train")
    changed = computed.config(
        'tk.register_output("model", Train(Data("imdb", split="train[:10]").out, 0.25).out)', name="changed"
    )
    said = computed.answers("why", f"{changed}:model")
    assert "(no folder yet)" in said
    assert "made at config/changed.py:5 in py" in said
    assert "arguments that do not count:\n  verbose: False" in said
    assert f"compared with {old}, the closest of 1 other folder of this class (there -> here):" in said
    assert "  rate: 0.5 -> 0.25\n" in said
    assert f"through {computed.job_id('Data')} -> " in said
    assert "split: 'train' -> 'train[:10]'" in said


def test_why_as_json(computed):
    changed = computed.config('tk.register_output("model", Train(Data("imdb").out, 2.0).out)', name="changed")
    answer = json.loads(computed.answers("why", "--json", f"{changed}:model"))
    assert answer["left_out"] == ["verbose"]
    assert [(d["where"], d["old"], d["new"]) for d in answer["differences"]] == [("rate", "0.5", "2.0")]


def test_why_with_a_given_job(computed):
    said = computed.answers("why", computed.job_id("Train"), "--with", computed.job_id("Train"))
    assert "compared with" in said
    assert computed.sis("why", computed.job_id("Train"), "--with", computed.job_id("Data")) == 1


@pytest.mark.parametrize("form", ["{id}", "work/{id}", "work/{id}/output/data.txt", "Data", "output/texts"])
def test_ways_to_name_a_job(computed, form):
    (computed.path / "output").mkdir()
    (computed.path / "output/texts").symlink_to(computed.folder("Data") / "output/data.txt")
    said = computed.answers("why", form.format(id=computed.job_id("Data")))
    assert said.startswith(computed.job_id("Data"))


@pytest.mark.parametrize(
    "name", ["model", "output/model", "data/imdb", "alias/data/imdb", "Train", "work/lab"]
)
def test_ways_to_name_a_job_of_a_config(computed, name, caplog):
    code = computed.sis("why", f"config/exp.py:{name}")
    assert code == (1 if name == "work/lab" else 0)
    if code:
        assert "means 2 jobs; say which" in caplog.text


@pytest.mark.parametrize("name", ["nothing", "config/exp.py:nothing", "config/none.py:model", "Train.x"])
def test_what_is_not_there_is_code_1(computed, name):
    assert computed.sis("why", name) == 1


# --- diff ---


def test_diff_of_two_configs(computed):
    changed = computed.config(
        'tk.register_output("model", Train(Data("imdb").out, 0.25).out)', name="changed"
    )
    said = computed.answers("diff", "config/exp.py", changed)
    assert "new       1 job\n" in said
    assert "reused    1 job, 1 of them finished: saves " in said
    assert "orphaned  1 job, 1 of them finished" in said
    assert f"in place of {computed.job_id('Train')}, because\n    rate: 0.5 -> 0.25" in said


def test_diff_as_json_and_exit_code(computed):
    assert computed.sis("diff", "--exit-code", "config/exp.py", "config/exp.py") == 0
    changed = computed.config(
        'tk.register_output("model", Train(Data("imdb").out, 0.25).out)', name="changed"
    )
    answer = json.loads(computed.answers("diff", "--exit-code", "--json", "config/exp.py", changed, code=1))
    assert len(answer["new"]) == len(answer["orphaned"]) == len(answer["causes"]) == 1


needs_git = pytest.mark.skipif(shutil.which("git") is None, reason="git is not installed")


@needs_git
def test_diff_against_a_commit_cleans_up(computed):
    def git(*arguments):
        identity = ["-c", "user.name=a", "-c", "user.email=a@b"]
        subprocess.run(["git", *identity, *arguments], cwd=computed.path, check=True, capture_output=True)

    git("init", "-q")
    git("add", "config", "recipe")
    git("commit", "-q", "-m", "first")
    config = computed.config('tk.register_output("model", Train(Data("imdb").out, 0.25).out)')
    computed.write(
        "recipe/lab.py", (computed.path / "recipe/lab.py").read_text().replace('split="train"', 'split="x"')
    )
    said = computed.answers("diff", "--against", "HEAD", config)
    assert "split: 'train' -> 'x'" in said
    assert "rate: 0.5 -> 0.25" in said
    listed = subprocess.run(
        ["git", "worktree", "list"], cwd=computed.path, check=True, capture_output=True, text=True
    )
    assert len(listed.stdout.splitlines()) == 1
    assert computed.sis("diff", "--against", "nonsense", config) == 1
    computed.write("config/exp.py", "broken(")
    assert computed.sis("diff", "--against", "HEAD", config) == 1
    listed = subprocess.run(
        ["git", "worktree", "list"], cwd=computed.path, check=True, capture_output=True, text=True
    )
    assert len(listed.stdout.splitlines()) == 1


@pytest.mark.parametrize(
    "arguments", [[], ["config/exp.py"], ["--against", "HEAD", "config/a.py", "config/b.py"]]
)
def test_diff_needs_two_graphs(computed, arguments):
    assert computed.sis("diff", *arguments) == 1
