"""IBM's Load Sharing Facility, by its own commands: bsub, bjobs, bkill.

Written from its manual and tested on output of the described form; not tested on a real cluster.
"""

from __future__ import annotations

import math
import os
import re
import shlex
from collections.abc import Collection, Sequence
from typing import Final

from sisyphus import global_settings as gs
from sisyphus.engines.base import Requirements
from sisyphus.engines.cluster.commands import CommandFailed, Unreachable
from sisyphus.engines.cluster.scheduler import (
    End,
    Ended,
    Entry,
    Phase,
    Request,
    Scheduler,
    argument_list,
    ranges,
    tagged,
    untagged,
)
from sisyphus.errors import EngineError

_FIELDS = ("jobid", "jobindex", "stat", "exit_reason", "exec_host", "name")
_BETWEEN = "^"
_NO_ANSWER: Final = re.compile(
    r"LSF is down|Cannot connect to LSF|Failed in an LSF library call|not responding"
)
_LIMITS: Final = re.compile(r"job limit|limit has been reached|pending job threshold")
_QUEUED: Final = ("PEND", "WAIT", "PSUSP", "PROV")
_NO_JOBS: Final = re.compile(r"No (unfinished )?job found")
_SUBMITTED: Final = re.compile(r"Job <(\d+)>")


class Lsf(Scheduler):
    """The Load Sharing Facility."""

    name = "lsf"
    task_id_variable = "LSB_JOBINDEX"
    environment_prefix = "LSB_"
    no_answer = _NO_ANSWER
    limits = _LIMITS

    def submit(self, request: Request) -> dict[str, list[int]]:
        """See base: ``bsub -J name[ids]``, with the command on stdin."""
        name = tagged(request.name)
        argv = [
            "bsub",
            "-J",
            f"{name}[{ranges(request.task_ids)}]",
            "-o",
            f"{request.log_dir}/{name}.%J.%I",
            "-cwd",
            gs.BASE_DIR,
            "-rn",  # the manager alone decides about another try
            *_options(request.rqmt),
        ]
        return {self._bsub(argv, f"exec {shlex.join(request.call)}\n"): list(request.task_ids)}

    def snapshot(self) -> list[Entry]:
        """See base: one ``bjobs -a``, which knows ended jobs for CLEAN_PERIOD seconds."""
        fields = " ".join(_FIELDS)
        try:
            printed = self._ask(["bjobs", "-a", "-noheader", "-o", f"{fields} delimiter='{_BETWEEN}'"])
        except CommandFailed as error:
            if _NO_JOBS.search(error.text):
                return []
            raise
        entries = []
        for line in printed.splitlines():
            words = line.split(_BETWEEN)
            if len(words) != len(_FIELDS):
                continue  # "No job found", or of a job with a name that is none of ours
            job_id, number, state, reason, node, full_name = words
            name = untagged(full_name.partition("[")[0])
            if number.isdecimal() and name is not None:
                phase, end = _meaning(state, reason)
                entries.append(Entry(job_id, int(number), name, phase, end, f"{state} ({reason})", node))
        return entries

    def history(self, job_id: str) -> dict[int, Ended]:
        """See base: ``bjobs -a`` of one job."""
        try:
            return {
                entry.task_id: Ended(entry.end, entry.said)
                for entry in self.snapshot()
                if entry.job_id == job_id and entry.end is not None
            }
        except CommandFailed:
            return {}

    def cancel(self, entries: Collection[Entry]) -> None:
        """See base."""
        self._ask(["bkill", *(f"{entry.job_id}[{entry.task_id}]" for entry in entries)])

    def is_there(self) -> bool:
        """See base."""
        try:
            self._ask(["lsid"])
        except (CommandFailed, Unreachable):
            return False
        return True

    def nodes(self) -> list[str]:
        """See base."""
        return sorted(set(os.environ.get("LSB_HOSTS", "").split()))

    def log_of(self, log_dir: str, entry_name: str, job_id: str, task_id: int) -> str:
        """See base."""
        return super().log_of(log_dir, tagged(entry_name), job_id, task_id)

    def _bsub(self, argv: Sequence[str], script: str) -> str:
        printed = self._send(argv, script)
        found = _SUBMITTED.search(printed)
        if found is None:
            raise EngineError(f"bsub printed {printed!r}, which has no job id.")
        return found[1]


def _options(rqmt: Requirements) -> list[str]:
    options = ["-n", str(math.ceil(rqmt.get("cpu", 1)))]
    if "mem" in rqmt:
        megabytes = str(math.ceil(rqmt["mem"] * 1024))
        options += ["-M", megabytes, "-v", megabytes]
    if "time" in rqmt:
        options += ["-W", str(math.ceil(rqmt["time"] * 60))]
    if rqmt.get("gpu", 0) > 0:
        options += ["-gpu", f"num={math.ceil(rqmt['gpu'])}"]
    for node in rqmt.get("exclude_nodes", ()):
        options += ["-R", f"select[hname!='{node}']"]
    return [*options, *argument_list(rqmt, "bsub_args")]


def _meaning(state: str, reason: str) -> tuple[Phase, End | None]:
    if state in _QUEUED:
        return Phase.QUEUED, None
    if state == "DONE":
        return Phase.ENDED, End.OK
    if state in ("EXIT", "ZOMBI"):
        return Phase.ENDED, next((end for word, end in _REASONS.items() if word in reason), End.FAILED)
    return Phase.RUNNING, None


_REASONS: Final = {
    "TERM_MEMLIMIT": End.OUT_OF_MEMORY,
    "TERM_RUNLIMIT": End.OUT_OF_TIME,
    "TERM_DEADLINE": End.OUT_OF_TIME,
    "TERM_PREEMPT": End.PREEMPTED,
    "TERM_OWNER": End.CANCELLED,
    "TERM_ADMIN": End.CANCELLED,
    "TERM_ZOMBIE": End.NODE_LOST,
    "host": End.NODE_LOST,
}
