"""Who may run jobs in a work folder."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time

import pytest
import sisyphus.global_settings as gs
from sisyphus.errors import AnotherManagerError, SisyphusError
from sisyphus.managing.ownership import Ownership
from sisyphus.running import usage

OWNER = """
import sys, time
from sisyphus.managing.ownership import Ownership
Ownership(sys.argv[1]).acquire()
print("acquired", flush=True)
time.sleep(60)
"""


@pytest.fixture
def work(tmp_path):
    return tmp_path / "work"


@pytest.fixture
def owner(work):
    """Another process that owns the folder."""
    process = subprocess.Popen([sys.executable, "-c", OWNER, str(work)], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "acquired\n"
    yield process
    process.kill()
    process.communicate()


def record(work) -> dict:
    return json.loads((work / ".manager.json").read_text())


def write_record(work, **changes) -> None:
    work.mkdir()
    record = {
        **usage.identify(os.getpid()),
        "user": "me",
        "since": "noon",
        "command": "sis manager",
        **changes,
    }
    (work / ".manager.json").write_text(json.dumps(record))


def test_the_second_is_refused_and_told_who_was_first(work, owner):
    with pytest.raises(AnotherManagerError) as refused:
        Ownership(str(work)).acquire()
    assert f"process {owner.pid} on {usage.hostname()}" in str(refused.value)
    assert f"kill {owner.pid}. Its running tasks go on" in str(refused.value)
    assert record(work)["pid"] == owner.pid


def test_after_a_kill_the_next_takes_over(work, owner, caplog):
    owner.kill()
    owner.wait()
    mine = Ownership(str(work))
    mine.acquire()
    assert f"process {owner.pid} on {usage.hostname()}, ended without a word" in caplog.text
    assert record(work)["pid"] == os.getpid()
    mine.release()
    assert not (work / ".manager.json").exists()


def test_a_number_given_out_again_is_no_manager(work):
    write_record(work, pid=1, process_start=-1.0)
    Ownership(str(work)).acquire()
    assert record(work)["pid"] == os.getpid()


def test_without_locks_the_record_has_to_do(work, owner, monkeypatch):
    def no_locks(*args):
        raise OSError(37, "No locks available")

    monkeypatch.setattr("fcntl.lockf", no_locks)
    with pytest.raises(AnotherManagerError, match=f"process {owner.pid} on"):
        Ownership(str(work)).acquire()


def test_a_damaged_record_is_none(work):
    work.mkdir()
    (work / ".manager.json").write_text('{"pid": 1')
    Ownership(str(work)).acquire()
    assert record(work)["pid"] == os.getpid()


def test_managers_on_other_machines_are_judged_by_their_age(work):
    write_record(work, host="elsewhere", pid=17)
    with pytest.raises(AnotherManagerError, match="process 17 on elsewhere"):
        Ownership(str(work)).acquire()
    old = time.time() - gs.MANAGER_DEAD_AFTER / 2
    os.utime(work / ".manager.json", (old, old))
    with pytest.raises(AnotherManagerError, match=r"sign of life is 1\d\d s old.*\n.*dead after 300 s"):
        Ownership(str(work)).acquire()
    old -= gs.MANAGER_DEAD_AFTER
    os.utime(work / ".manager.json", (old, old))
    Ownership(str(work)).acquire()
    assert record(work)["pid"] == os.getpid()


def test_owners_give_signs_of_life(work, monkeypatch):
    monkeypatch.setattr(gs, "MANAGER_HEARTBEAT", 0.01)
    mine = Ownership(str(work))
    mine.acquire()
    os.utime(work / ".manager.json", (0, 0))
    while not (work / ".manager.json").stat().st_mtime:
        time.sleep(0.01)
    mine.release()
    heartbeats = [thread for thread in threading.enumerate() if thread.name == "heartbeat"]
    for thread in heartbeats[-1:]:
        thread.join(5)


def test_an_owner_notices_that_it_was_replaced(work):
    mine = Ownership(str(work))
    mine.acquire()
    assert not mine.is_lost()
    (work / ".manager.json").unlink()
    assert not mine.is_lost()  # removed by a person: written again
    changed = {**record(work), "host": "elsewhere"}
    (work / ".manager.json").write_text(json.dumps(changed))
    assert mine.is_lost()
    mine.release()
    assert record(work) == changed  # it belongs to the other one


def test_a_folder_that_cannot_be_written_to(tmp_path):
    (tmp_path / "work").write_text("a file in the way")
    with pytest.raises(SisyphusError, match=r"cannot note in .*work that a manager works there: .*Make room"):
        Ownership(str(tmp_path / "work")).acquire()


def test_it_can_be_switched_off(work, owner, monkeypatch):
    monkeypatch.setattr(gs, "ONE_MANAGER", False)
    Ownership(str(work)).acquire()
