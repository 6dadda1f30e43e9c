"""Grid Engine and its descendants, by their own commands: qsub, qstat, qacct, qdel.

Written from their manuals and tested on output of the described form; not tested on a real cluster.
"""

from __future__ import annotations

import getpass
import math
import re
import shlex
import xml.etree.ElementTree as ElementTree
from collections.abc import Collection, Sequence
from typing import Final

from sisyphus.engines.base import Requirements
from sisyphus.engines.cluster.commands import CommandFailed, Commands, Unreachable
from sisyphus.engines.cluster.scheduler import (
    End,
    Entry,
    Phase,
    Request,
    Scheduler,
    argument_list,
    in_runs,
)
from sisyphus.errors import EngineError

_NO_ANSWER: Final = re.compile(r"unable to contact qmaster|can't get connection|commlib error|timeout")
_LIMITS: Final = re.compile(
    r"max_u_jobs|max_jobs|maximum number of (active )?jobs|job rejected: only \d+ jobs"
)
_KILLED: Final = ("137", "SIGKILL")


class GridEngine(Scheduler):
    """Grid Engine.

    Args:
        commands: how programs are run.
        parallel_environment: for tasks on several nodes.
        clears_errors: whether a submission whose start failed on a node is let go again (``qmod -cj``).
    """

    name = "sge"
    task_id_variable = "SGE_TASK_ID"
    environment_prefix = "SGE_"
    no_answer = _NO_ANSWER
    limits = _LIMITS

    def __init__(
        self, commands: Commands, *, parallel_environment: str = "mpi", clears_errors: bool = True
    ) -> None:
        super().__init__(commands)
        self._parallel_environment = parallel_environment
        self._clears_errors = clears_errors

    def submit(self, request: Request) -> dict[str, list[int]]:
        """See base: one ``qsub -t`` for each run of task ids, as it takes no lists."""
        submitted: dict[str, list[int]] = {}
        for first, last in in_runs(request.task_ids):
            argv = [
                "qsub",
                "-terse",
                "-cwd",
                "-N",
                request.name,
                "-j",
                "y",
                "-o",
                request.log_dir,
                "-S",
                "/bin/bash",
                "-m",
                "n",
                "-r",
                "n",  # the manager alone decides about another try
                *self._options(request.rqmt),
                "-t",
                f"{first}-{last}:1",
            ]
            submitted[self._qsub(argv, shlex.join(request.call))] = list(range(first, last + 1))
        return submitted

    def snapshot(self) -> list[Entry]:
        """See base: one ``qstat``; it does not know ended jobs."""
        root = ElementTree.fromstring(self._ask(["qstat", "-xml", "-u", getpass.getuser()]))
        entries = []
        for job in root.iter("job_list"):
            words = {child.tag: child.text or "" for child in job}
            entries += [
                Entry(
                    job_id=words.get("JB_job_number", ""),
                    task_id=task_id,
                    name=words.get("JB_name", ""),
                    phase=Phase.RUNNING if set(words.get("state", "")) & set("rt") else Phase.QUEUED,
                    said=words.get("state", ""),
                    node=words.get("queue_name", "").rpartition("@")[2],
                )
                for task_id in _numbers(words.get("tasks", "") or "1")
            ]
        if self._clears_errors:
            self._clear({entry.job_id for entry in entries if "E" in entry.said})
        return entries

    def history(self, job_id: str) -> dict[int, End]:
        """See base: ``qacct``, which knows a job some seconds after its end."""
        try:
            printed = self._ask(["qacct", "-j", job_id])
        except CommandFailed:
            return {}
        ends = {}
        for block in printed.split("=" * 20):
            words = dict(line.split(None, 1) for line in block.splitlines() if len(line.split(None, 1)) == 2)
            number = words.get("taskid", "").strip()
            if number.isdecimal():
                ends[int(number)] = _end(words)
        return ends

    def cancel(self, entries: Collection[Entry]) -> None:
        """See base."""
        for entry in entries:
            self._ask(["qdel", entry.job_id, "-t", str(entry.task_id)])

    def is_there(self) -> bool:
        """See base."""
        try:
            self._ask(["qstat", "-u", getpass.getuser()])
        except (CommandFailed, Unreachable):
            return False
        return True

    def log_of(self, log_dir: str, entry_name: str, job_id: str, task_id: int) -> str:
        """See base: Grid Engine chooses the name in a given folder."""
        return f"{log_dir}/{entry_name}.o{job_id}.{task_id}"

    def _options(self, rqmt: Requirements) -> list[str]:
        options = [f"num_proc={math.ceil(rqmt.get('cpu', 1))}"]
        if "mem" in rqmt:
            resident = rqmt["rss"] if "rss" in rqmt else rqmt["mem"]
            options += [f"h_vmem={math.ceil(rqmt['mem'])}G", f"h_rss={math.ceil(resident)}G"]
        options.append(f"h_fsize={math.ceil(rqmt.get('file_size', 50))}G")
        if rqmt.get("gpu", 0) > 0:
            options.append(f"gpu={math.ceil(rqmt['gpu'])}")
        if "time" in rqmt:
            options.append(f"h_rt={math.ceil(rqmt['time'] * 3600)}")
        argv = [part for option in options for part in ("-l", option)]
        if rqmt.get("multi_node_slots", 1) > 1:
            argv += ["-pe", self._parallel_environment, str(int(rqmt["multi_node_slots"]))]
        if rqmt.get("exclude_nodes"):
            argv += ["-l", f"h=!({'|'.join(rqmt['exclude_nodes'])})"]
        return [*argv, *argument_list(rqmt, "qsub_args")]

    def _qsub(self, argv: Sequence[str], script: str) -> str:
        printed = self._send(argv, f"exec {script}\n")
        job_id = printed.strip().partition(".")[0]
        if not job_id.isdecimal():
            raise EngineError(f"qsub printed {printed!r}, which is no job id.")
        return job_id

    def _clear(self, job_ids: Collection[str]) -> None:
        for job_id in sorted(job_ids):
            self._ask(["qmod", "-cj", job_id])


def _numbers(text: str) -> list[int]:
    """Task numbers as qstat lists them: ``1,3-7:2``."""
    numbers: list[int] = []
    for part in text.split(","):
        match = re.fullmatch(r"\s*(\d+)(?:-(\d+)(?::(\d+))?)?\s*", part)
        if match:
            first, last, step = int(match[1]), int(match[2] or match[1]), int(match[3] or 1)
            numbers += range(first, last + 1, step)
    return numbers


def _end(words: dict[str, str]) -> End:
    failed, exit_status = words.get("failed", "0").split()[0], words.get("exit_status", "0").split()[0]
    if failed == "0":
        return End.OK if exit_status == "0" else End.FAILED
    if failed == "100" and exit_status in _KILLED:  # killed by a limit or by qdel: which one is not said
        return End.FAILED
    return End.NODE_LOST if failed in ("21", "22", "25") else End.FAILED
