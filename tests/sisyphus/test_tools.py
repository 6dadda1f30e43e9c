"""What recipes import from sisyphus.tools."""

from __future__ import annotations

import os
import subprocess
import time

import pytest
from sisyphus import gs, tools


@pytest.mark.parametrize(
    ("text", "gb"),
    [(2, 2.0), (0.5, 0.5), ("3", 3.0), ("4G", 4.0), ("512M", 0.5), ("1t", 1024.0), ("1.5 GB", 1.5)],
)
def test_memory(text, gb):
    assert tools.str_to_GB(text) == gb


@pytest.mark.parametrize(
    ("text", "hours"), [(2, 2.0), ("1.5", 1.5), ("1:30", 1.5), ("1:30:00", 1.5), ("0:00:36", 0.01)]
)
def test_durations(text, hours):
    assert tools.str_to_hours(text) == pytest.approx(hours)


def test_nonsense_is_named():
    for text in ("", "many", "4X"):
        with pytest.raises(ValueError, match=f"not an amount of memory: '{text}'. Give GB as a number"):
            tools.str_to_GB(text)
    for text in ("", "1:x", "1:2:3:4"):
        with pytest.raises(ValueError, match=f"not a duration: '{text}'. Give hours as a number"):
            tools.str_to_hours(text)


def test_shell_commands():
    assert tools.sh("echo {a} {b}", capture_output=True, sis_replace={"a": 1, "b": 2}, b=3) == "1 3\n"
    assert tools.sh("true") is None
    assert tools.sh("exit 3", except_return_codes=(0, 3)) is None
    assert tools.sh("false | true", pipefail=False) is None
    assert tools.sh("echo err >&2", capture_output=True, include_stderr=True) == "err\n"


@pytest.mark.parametrize("command", ["exit 3", "false | true", "echo $NO_SUCH_VARIABLE"])
def test_failing_shell_commands(command):
    with pytest.raises(subprocess.CalledProcessError):
        tools.sh(command)


def test_shell_commands_are_logged(caplog):
    with caplog.at_level("INFO"):
        tools.sh("true {a}", a=1)
        tools.sh("true secret", sis_quiet=True)
    assert "true 1" in caplog.text
    assert "secret" not in caplog.text


def test_execute_in_dir(tmp_path):
    before = os.getcwd()
    with pytest.raises(ValueError, match="inside"), tools.execute_in_dir(tmp_path):
        assert os.getcwd() == str(tmp_path)
        raise ValueError("inside")
    assert os.getcwd() == before


def test_cached_results():
    calls = []

    @tools.cache_result(0.05, clear_cache="forget")
    def square(x):
        calls.append(x)
        return x * x

    assert [square(2), square(2), square(3)] == [4, 4, 9]
    assert calls == [2, 3]
    time.sleep(0.06)
    square(2)
    square.forget()
    square(2)
    assert calls == [2, 3, 2, 2]


def test_hard_links(tmp_path):
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "a" / "b" / "file").write_text("x")
    tools.hardlink_or_copy(str(tmp_path / "a"), str(tmp_path / "c"))
    assert os.path.samefile(tmp_path / "a/b/file", tmp_path / "c/b/file")
    with pytest.raises(FileExistsError):
        tools.hardlink_or_copy(str(tmp_path / "a/b/file"), str(tmp_path / "c/b/file"))


@pytest.mark.parametrize("symbolic", [False, True])
def test_without_hard_links_files_are_copied_or_linked(tmp_path, monkeypatch, symbolic):
    def refuse(source, target):
        raise OSError("another disk")

    monkeypatch.setattr(os, "link", refuse)
    (tmp_path / "a").write_text("x")
    tools.hardlink_or_copy(str(tmp_path / "a"), str(tmp_path / "b"), use_symlink_instead_of_copy=symbolic)
    assert (tmp_path / "b").read_text() == "x"
    assert (tmp_path / "b").is_symlink() is symbolic


def test_environment(monkeypatch):
    environment = {"KEPT": "1", "GONE": "2", "ROOT": "/r"}
    monkeypatch.setattr(os, "environ", environment)
    modifier = tools.EnvironmentModifier()
    modifier.keep("KEPT")
    modifier.keep({"NOT_THERE"})
    modifier.set({"A": "$ROOT/$MISSING", "N": 1})
    modifier.set("B", "$ROOT", verbatim=True)
    modifier.modify_environment()
    assert environment == {"KEPT": "1", "A": "/r/$MISSING", "N": "1", "B": "$ROOT"}


def test_the_environment_may_stay(monkeypatch):
    environment = {"STAYS": "1"}
    monkeypatch.setattr(os, "environ", environment)
    monkeypatch.setattr(gs, "CLEANUP_ENVIRONMENT", False)
    tools.EnvironmentModifier().modify_environment()
    assert environment == {"STAYS": "1"}


def test_sis_hash_is_that_of_the_settings(monkeypatch):
    assert tools.sis_hash(1) == "GrNNX0NaadXt"
    monkeypatch.setattr(gs, "SIS_HASH", lambda value: "mine")
    assert tools.sis_hash(1) == "mine"


def test_try_get():
    from sisyphus.delayed_ops import Delayed

    assert tools.try_get(Delayed(1)) == tools.try_get(1) == 1
