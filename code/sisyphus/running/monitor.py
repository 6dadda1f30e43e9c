"""Measures what a running task uses, and keeps the usage file up to date."""

from __future__ import annotations

import logging
import os
import resource
import sys
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import sisyphus.global_settings as gs
from sisyphus.records.gpu import GpuMeter, visible_devices
from sisyphus.records.series import Series
from sisyphus.records.task_record import KEY, closing_facts, times_so_far
from sisyphus.running import usage

if TYPE_CHECKING:
    import psutil

    from sisyphus.engines.base import EngineBase, Requirements

_GROWTH = 1.1
"""A resident memory so many times as large as last written is worth writing at once."""


class UsageMonitor:
    """Writes the usage file of the current process: at its start, from time to time, and at its end.

    Args:
        path: the usage file.
        engine: measures the process and its children.
        requested: requirements that the task was granted.
        goes_on: a run was interrupted, and this one counts its time, too.
    """

    def __init__(
        self, path: str, engine: EngineBase, requested: Requirements, *, goes_on: bool = False
    ) -> None:
        self._path = path
        self._engine = engine
        self._began = time.monotonic()
        self._began_cpu_s = _cpu_seconds()
        self._times_before = times_so_far(usage.read(path) if goes_on else None)
        self._gpu = GpuMeter(visible_devices(requested.get("gpu", 0)))
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="usage monitor", daemon=True)
        nothing = {"cpu": 0.0, "rss": 0.0, "vms": 0.0}
        self._closing: dict[str, Any] = {}
        self._series = Series()
        self._cpu_seen = (self._began, self._began_cpu_s)
        """When the cpu time was last looked at, and how much it was."""
        self._usage: dict[str, Any] = {
            "max": dict(nothing),
            "current": dict(nothing),
            "user": os.environ.get("USER") or str(os.getuid()),
            "used_time": 0.0,
            "current_time": "",
            "out_of_memory": False,
            "requested_resources": dict(requested),
            "cuda_visible_devices": os.environ.get("CUDA_VISIBLE_DEVICES"),
            "process_group": os.getpgrp(),
            **usage.identify(os.getpid()),
        }
        nodes = engine.get_job_node_hostnames()
        if nodes != [usage.hostname()]:
            self._usage["nodes"] = nodes

    def start(self) -> None:
        """Write the file for the first time, and begin to measure.

        Raises:
            OSError: it cannot be written. Later on that only warns: a full disk is no reason to stop a task.
        """
        self._write()
        self._thread.start()

    def stop(self, *, out_of_memory: bool = False, made_with: Mapping[str, Any] | None = None) -> None:
        """Write the final numbers.

        Args:
            out_of_memory: the task was killed because it used too much memory.
            made_with: which code made the job, see ``recipe_state.made_with``.
        """
        self._stopped.set()
        self._thread.join()
        self._usage["out_of_memory"] = out_of_memory
        seconds = max(time.monotonic() - self._began, 1e-9)
        peak = {"rss": _peak_rss_gb(), "cpu": 100 * (_cpu_seconds() - self._began_cpu_s) / seconds}
        self._note({**self._usage["current"], **peak})
        self._closing = closing_facts(made_with or {}, self._gpu.summary())
        self._try_to_write()

    def _watch(self) -> None:
        written = logged = time.monotonic()
        logged_rss = written_rss = 0.0
        while not self._stopped.wait(gs.PLOGGING_INTERVAL):
            now = self._measure()
            changed = abs(now["rss"] - logged_rss) > gs.PLOGGING_MIN_CHANGE * max(logged_rss, 1e-9)
            if changed and not gs.PLOGGING_QUIET and time.monotonic() - logged >= gs.PLOGGING_INTERVAL:
                logging.info("Uses %.2f GB rss, %.2f GB vms, %.0f %% cpu", now["rss"], now["vms"], now["cpu"])
                logged, logged_rss = time.monotonic(), now["rss"]
            # if it is killed for its memory, its last words must not be a minute old
            has_grown = now["rss"] > _GROWTH * max(written_rss, 0.1)
            if has_grown or time.monotonic() - written >= gs.PLOGGING_UPDATE_FILE_PERIOD:
                self._try_to_write()
                written, written_rss = time.monotonic(), now["rss"]

    def _measure(self) -> dict[str, float]:
        """Look once; where that fails, what was seen last: without signs of life a task would look dead."""
        import psutil  # after the first interval: short tasks never pay for the import

        try:
            process = psutil.Process()
            now = self._engine.get_job_used_resources(process)
            now["cpu"] = self._cpu_percent(process)
            if self._gpu.is_there:
                self._gpu.sample([process.pid, *(child.pid for child in process.children(recursive=True))])
        except (psutil.Error, OSError) as error:
            logging.debug("Cannot measure what the task uses: %s", error)
            now = dict(self._usage["current"])
        self._note(now)
        self._series.add(time.monotonic() - self._began, now["rss"], now["cpu"])
        return now

    def _cpu_percent(self, process: psutil.Process) -> float:
        """Since the last call, with children: psutil says it only of a process that it asked before."""
        import psutil

        total = _cpu_seconds()
        for child in process.children(recursive=True):
            with suppress(psutil.Error):  # it ended while we looked
                times = child.cpu_times()
                total += times.user + times.system
        before, self._cpu_seen = self._cpu_seen, (time.monotonic(), total)
        return max(0.0, 100 * (total - before[1]) / max(self._cpu_seen[0] - before[0], 1e-9))

    def _note(self, now: dict[str, float]) -> None:
        self._usage["current"] = now
        for key, value in now.items():
            self._usage["max"][key] = max(self._usage["max"].get(key, 0.0), value)

    def _try_to_write(self) -> None:
        try:
            self._write()
        except OSError as error:
            logging.warning("Cannot write what the task uses: %s", error)

    def _write(self) -> None:
        wall_s, cpu_s = time.monotonic() - self._began, _cpu_seconds() - self._began_cpu_s
        self._usage["used_time"] = wall_s / 3600
        earlier_wall_s, earlier_cpu_s = self._times_before
        times = {"wall_time_s": earlier_wall_s + wall_s, "cpu_time_s": earlier_cpu_s + cpu_s}
        series = self._series.points()
        self._usage[KEY] = {**times, **self._closing, **({"series": series} if series else {})}
        self._usage["current_time"] = time.strftime("%Y-%m-%d %H:%M:%S")
        usage.write(self._path, self._usage)


def _cpu_seconds() -> float:
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


def _peak_rss_gb() -> float:
    """Largest memory of this process or of one of its ended children, in GB.

    ``ru_maxrss`` of a process counts what its parent had when it was forked, so the kernel's high-water mark
    is read where there is one.
    """
    unit = 1 if sys.platform == "darwin" else 1024  # bytes there, KiB elsewhere
    children = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * unit
    own = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    status = Path("/proc/self/status")
    if status.exists():
        marks = [
            line for line in status.read_text(encoding="utf-8").splitlines() if line.startswith("VmHWM:")
        ]
        own = int(marks[0].split()[1]) * 1024 if marks else own
    return max(own, children) / usage.GB
