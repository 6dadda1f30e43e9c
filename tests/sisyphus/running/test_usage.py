"""The usage file, and the question whether its process still lives."""

from __future__ import annotations

import os
import subprocess
import sys
import time

import sisyphus.global_settings as gs
from sisyphus.engines.local import LocalEngine
from sisyphus.running import usage
from sisyphus.running.monitor import UsageMonitor


def test_what_is_written_is_read(tmp_path):
    usage.write(tmp_path / "usage", {"pid": 1, "max": {"rss": 0.5}})
    assert usage.read(tmp_path / "usage") == {"pid": 1, "max": {"rss": 0.5}}
    assert [path.name for path in tmp_path.iterdir()] == ["usage"]


def test_damaged_files_count_as_none(tmp_path):
    assert usage.read(tmp_path / "none") is None
    for content in ("{'pid': 1, 'max'", "", "[1]"):
        (tmp_path / "usage").write_text(content)
        assert usage.read(tmp_path / "usage") is None


def alive(record):
    return usage.is_alive(record, job_dir="work/some/Job.abc", task_name="run")


def test_a_living_process_is_known_by_its_start():
    record = usage.identify(os.getpid())
    assert alive(record)
    assert not alive({**record, "process_start": record["process_start"] + 1})
    assert not alive({**record, "host": "another"})
    assert not alive({})


def test_dead_processes_and_zombies_do_not_live():
    process = subprocess.Popen([sys.executable, "-c", "pass"])
    record = usage.identify(process.pid)
    while usage.process_start(process.pid) is not None:
        time.sleep(0.01)
    assert not alive(record)  # a zombie: nobody waited for it
    process.wait()
    assert not alive(record)


def test_files_of_upstream_are_judged_by_the_command_line():
    call = [sys.executable, "-c", "import time; time.sleep(60)", "worker", "work/some/Job.abc", "run"]
    process = subprocess.Popen(call)
    try:
        record = {"host": usage.hostname(), "pid": process.pid}
        deadline = time.monotonic() + 10  # a command line can be read a moment after the process is there
        while not alive(record):
            assert time.monotonic() < deadline
            time.sleep(0.01)
        assert not usage.is_alive(record, job_dir="work/other/Job.xyz", task_name="run")
        assert not alive({"host": usage.hostname(), "pid": os.getpid()})
    finally:
        process.kill()
        process.wait()


def test_the_start_of_this_process_on_the_clock():
    import psutil

    assert abs(usage.started_at() - psutil.Process().create_time()) < 2


def test_psutil_agrees_where_there_is_no_proc():
    assert usage._process_start_psutil(os.getpid()) > 0
    assert usage._process_start_psutil(2**22 + 1) is None


def test_the_monitor_writes_what_a_task_used(tmp_path, monkeypatch):
    monkeypatch.setattr("sisyphus.global_settings.PLOGGING_INTERVAL", 0.02)
    monkeypatch.setattr("sisyphus.global_settings.PLOGGING_UPDATE_FILE_PERIOD", 0)
    path = tmp_path / "usage"
    monitor = UsageMonitor(str(path), LocalEngine(), {"cpu": 1, "mem": 2})
    monitor.start()
    first = usage.read(path)
    assert first["pid"] == os.getpid()
    assert first["requested_resources"] == {"cpu": 1, "mem": 2}
    while usage.read(path)["current"]["rss"] == 0:
        time.sleep(0.01)
    monitor.stop(out_of_memory=True)
    last = usage.read(path)
    assert 0.005 < last["max"]["rss"] < 50
    assert last["max"]["vms"] > last["max"]["rss"] * 0.5
    assert last["used_time"] > 0
    assert last["out_of_memory"] is True
    assert set(last) >= {
        "max",
        "current",
        "pid",
        "user",
        "used_time",
        "host",
        "current_time",
        "out_of_memory",
    }


def test_a_usage_file_that_cannot_be_written_stops_no_task(tmp_path, caplog):
    folder = tmp_path / "job"
    folder.mkdir()
    monitor = UsageMonitor(str(folder / "usage.run.1"), LocalEngine(), {})
    monitor.start()
    (folder / "usage.run.1").unlink()
    folder.rmdir()
    monitor.stop()
    assert "Cannot write what the task uses" in caplog.text


def test_signs_of_life_go_on_where_nothing_can_be_measured(tmp_path, monkeypatch):
    class Blind(LocalEngine):
        def get_job_used_resources(self, current_process):
            raise PermissionError("/proc is hidden")

    monkeypatch.setattr(gs, "PLOGGING_INTERVAL", 0.01)
    monkeypatch.setattr(gs, "PLOGGING_UPDATE_FILE_PERIOD", 0.02)
    path = tmp_path / "usage.run.1"
    monitor = UsageMonitor(str(path), Blind(), {})
    monitor.start()
    os.utime(path, (0, 0))
    deadline = time.monotonic() + 20
    while not path.stat().st_mtime:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    monitor.stop()


def test_how_long_a_process_has_been_running():
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    try:
        written = usage.identify(process.pid)
        time.sleep(0.2)
        age_s = usage.running_for_s(written)
        assert age_s is not None
        assert 0.15 < age_s < 20
        assert usage.running_for_s({**written, "host": "elsewhere"}) is None
        assert usage.running_for_s({**written, "process_start": 1.0}) is None  # another process of this pid
        assert usage.running_for_s({"pid": process.pid, "host": usage.hostname()}) is None
    finally:
        process.communicate()
    assert usage.running_for_s(written) is None
