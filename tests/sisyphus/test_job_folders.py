"""Which job folders are there: few questions one by one, many by a listing."""

from __future__ import annotations

import os

from sisyphus.job_folders import JobFolders


def test_the_answers_are_those_of_the_disk(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for number in range(0, 20, 2):
        (tmp_path / f"work/steps/Step.{number}").mkdir(parents=True)
    os.symlink("nowhere", tmp_path / "work/steps/Step.1")
    listed = []
    listing = os.listdir
    monkeypatch.setattr(os, "listdir", lambda path: listed.append(path) or listing(path))
    folders = JobFolders()
    answers = {number: folders.lack(f"work/steps/Step.{number}") for number in range(20)}
    assert [number for number, lacks in answers.items() if not lacks] == [0, 1, *range(2, 20, 2)]
    assert listed == ["work/steps"]
    assert all(folders.lack(f"work/others/Step.{number}") for number in range(20))
    assert not folders.lack("work")
