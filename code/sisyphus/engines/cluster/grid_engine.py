"""Grid Engine and its descendants, by their own commands: qsub, qstat, qacct, qdel, qconf."""

from __future__ import annotations

import getpass
import logging
import math
import os
import re
import shlex
import xml.etree.ElementTree as ElementTree
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Final

from sisyphus.engines.base import Requirements
from sisyphus.engines.cluster.commands import CommandFailed, Commands, Unreachable
from sisyphus.engines.cluster.scheduler import (
    End,
    Ended,
    Entry,
    Phase,
    Request,
    Scheduler,
    argument_list,
    in_runs,
    ranges,
    tagged,
    untagged,
)
from sisyphus.errors import EngineError, RefusedError

_NO_ANSWER: Final = re.compile(r"unable to contact qmaster|can't get connection|commlib error|timeout")
_LIMITS: Final = re.compile(
    r"max_u_jobs|max_jobs|maximum number of (active )?jobs|job rejected: only \d+ jobs"
)
_GONE: Final = re.compile(r"does not exist")
_BETWEEN_BLOCKS: Final = re.compile(r"^=+$", re.MULTILINE)
_ERROR_REASON: Final = re.compile(
    r"^error reason\s+\S+\s+(?:\S+ \S+ \[\S+\]: )?(?:error: )?(.*)$", re.MULTILINE
)
_RUNNING: Final = frozenset("rtsST")
_ERROR: Final = "E"
_SUSPENDED: Final = frozenset("sST")
_MOST_CLEARED = 3
"""A submission whose start fails on a node is let go again so often."""
_BYTES: Final = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}

_NODE_LOST: Final = ("21", "22", "25")
_LIMIT_ENFORCED: Final = ("37", "44")


class GridEngine(Scheduler):
    """Grid Engine.

    Args:
        commands: how programs are run.
        parallel_environment: for tasks on several nodes.
        cpu_parallel_environment: for tasks with several cpus on one node; None: ``num_proc`` where the site
            counts it, else the first parallel environment whose slots are all on one node.
        clears_errors: whether a submission whose start failed on a node is let go again (``qmod -cj``).
    """

    name = "sge"
    task_id_variable = "SGE_TASK_ID"
    environment_prefix = ("SGE_", "PE_", "NHOSTS", "NSLOTS", "JOB_ID")
    no_answer = _NO_ANSWER
    limits = _LIMITS
    books_lag_s = 30.0  # they are written every 15 s, unless the site says otherwise

    def __init__(
        self,
        commands: Commands,
        *,
        parallel_environment: str = "mpi",
        cpu_parallel_environment: str | None = None,
        clears_errors: bool = True,
    ) -> None:
        super().__init__(commands)
        self._parallel_environment = parallel_environment
        self._cpu_parallel_environment = cpu_parallel_environment
        self._most_cleared = _MOST_CLEARED if clears_errors else 0
        self._num_cleared: Counter[str] = Counter()
        """By job id."""

    @cached_property
    def counts_processors(self) -> bool:
        """Whether ``num_proc`` is counted down; by default it is a fact of a node, which must be equal.

        Raises:
            Unreachable: the master does not answer.
        """
        lines = (line.split() for line in self._ask(["qconf", "-sc"]).splitlines())
        return any(words[0] == "num_proc" and words[5] != "NO" for words in lines if len(words) == 8)

    @cached_property
    def one_node_environment(self) -> str | None:
        """A parallel environment whose slots are all on one node; None if the site has none.

        Raises:
            Unreachable: the master does not answer.
        """
        try:
            names = self._ask(["qconf", "-spl"]).split()
        except CommandFailed:  # "no parallel environment defined"
            return None
        for name in names:
            if re.search(r"^allocation_rule\s+\$pe_slots", self._ask(["qconf", "-sp", name]), re.MULTILINE):
                return name
        return None

    def submit(self, request: Request) -> dict[str, list[int]]:
        """See base: one ``qsub -t`` for each run of task ids, as it takes no lists."""
        submitted: dict[str, list[int]] = {}
        options = self._options(request.rqmt)
        for first, last in in_runs(request.task_ids):
            argv = [
                "qsub",
                "-terse",
                "-cwd",
                "-N",
                tagged(request.name),
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
                *options,
                "-t",
                f"{first}-{last}:1",
            ]
            submitted[self._qsub(argv, shlex.join(request.call))] = list(range(first, last + 1))
        return submitted

    def snapshot(self) -> list[Entry]:
        """See base: one ``qstat``; it does not know ended jobs."""
        printed = self._ask(["qstat", "-xml", "-u", getpass.getuser()])
        try:
            root = ElementTree.fromstring(printed)
        except ElementTree.ParseError as error:
            raise CommandFailed("qstat -xml", 0, f"{error}: {printed}") from error
        entries = []
        for job in root.iter("job_list"):
            words = {child.tag: child.text or "" for child in job}
            name = untagged(words.get("JB_name", ""))
            if name is None:
                continue
            state = words.get("state", "")
            entries += [
                Entry(
                    job_id=words.get("JB_job_number", ""),
                    task_id=task_id,
                    name=name,
                    phase=self._phase(words.get("JB_job_number", ""), state),
                    said=state,
                    node=words.get("queue_name", "").rpartition("@")[2],
                    is_suspended=bool(_SUSPENDED & set(state)),
                )
                for task_id in _numbers(words.get("tasks", "") or "1")
            ]
        return entries

    def history(self, job_id: str) -> dict[int, Ended]:
        """See base: ``qacct``, which knows a job some seconds after its end."""
        try:
            printed = self._ask(["qacct", "-j", job_id])
        except CommandFailed:
            return {}
        ends = {}
        for block in _BETWEEN_BLOCKS.split(printed):
            pairs = (line.split(None, 1) for line in block.splitlines())
            words = {pair[0]: pair[1].strip() for pair in pairs if len(pair) == 2}
            number = words.get("taskid", "")
            if number.isdecimal():
                ends[int(number)] = _ended(words)
        return ends

    def cancel(self, entries: Collection[Entry]) -> None:
        """See base."""
        by_job: dict[str, list[int]] = {}
        for entry in entries:
            by_job.setdefault(entry.job_id, []).append(entry.task_id)
        for job_id, task_ids in by_job.items():
            for numbers in ranges(task_ids).split(","):
                try:
                    self._ask(["qdel", job_id, "-t", numbers])
                except CommandFailed as error:
                    if not _GONE.search(error.text):  # it ended meanwhile
                        raise

    def is_there(self) -> bool:
        """See base."""
        try:
            self._ask(["qstat", "-u", getpass.getuser()])
        except (CommandFailed, Unreachable):
            return False
        return True

    def tend(self, entries: Collection[Entry]) -> None:
        """See base: let submissions go again that could not be started, and say why they could not."""
        for job_id in sorted({entry.job_id for entry in entries if _ERROR in entry.said}):
            self._num_cleared[job_id] += 1
            if self._num_cleared[job_id] <= self._most_cleared:
                logging.warning("Job %s could not be started, tried again: %s", job_id, self._reason(job_id))
                try:
                    self._ask(["qmod", "-cj", job_id])
                except CommandFailed as error:  # qmod's exit code is 1 also when it did it
                    logging.debug("%s", error)
            elif self._num_cleared[job_id] == self._most_cleared + 1:
                reason = self._reason(job_id)
                logging.error(
                    "Job %s cannot be started: %s. Mend that, then qmod -cj %s", job_id, reason, job_id
                )

    def nodes(self) -> list[str]:
        """See base."""
        file = os.environ.get("PE_HOSTFILE")
        lines = Path(file).read_text(encoding="utf-8").splitlines() if file else []
        return [line.split()[0] for line in lines if line.strip()]

    def log_of(self, log_dir: str, entry_name: str, job_id: str, task_id: int) -> str:
        """See base: Grid Engine chooses the name in a given folder."""
        return f"{log_dir}/{tagged(entry_name)}.o{job_id}.{task_id}"

    def _options(self, rqmt: Requirements) -> list[str]:
        slots, options = self._slots(rqmt)
        if "mem" in rqmt:  # limits are multiplied by the slots on a node
            resident = rqmt["rss"] if "rss" in rqmt else rqmt["mem"]
            options += [f"h_vmem={_megabytes(rqmt['mem'], slots)}", f"h_rss={_megabytes(resident, slots)}"]
        options.append(f"h_fsize={math.ceil(rqmt.get('file_size', 50))}G")
        if rqmt.get("gpu", 0) > 0:
            options.append(f"gpu={math.ceil(rqmt['gpu'])}")
        if "time" in rqmt:
            options.append(f"h_rt={math.ceil(rqmt['time'] * 3600)}")
        argv = [part for option in options for part in ("-l", option)]
        if rqmt.get("multi_node_slots", 1) > 1:
            argv += ["-pe", self._parallel_environment, str(int(rqmt["multi_node_slots"]))]
        elif slots > 1:
            argv += ["-pe", self._environment_for(slots), str(slots)]
        if rqmt.get("exclude_nodes"):
            argv += ["-l", f"h=!({'|'.join(rqmt['exclude_nodes'])})"]
        return [*argv, *argument_list(rqmt, "qsub_args")]

    def _slots(self, rqmt: Requirements) -> tuple[int, list[str]]:
        """How many slots of a parallel environment the cpus of a task are, and what says it otherwise."""
        num_cpus = math.ceil(rqmt.get("cpu", 1))
        if self._cpu_parallel_environment is None and self.counts_processors:
            return 1, [f"num_proc={num_cpus}"]
        return (1 if rqmt.get("multi_node_slots", 1) > 1 else num_cpus), []

    def _environment_for(self, slots: int) -> str:
        name = self._cpu_parallel_environment or self.one_node_environment
        if name is None:
            raise RefusedError(
                f"a task asks for {slots} cpus, but this Grid Engine neither counts num_proc nor has a "
                "parallel environment with allocation_rule $pe_slots (qconf -spl, -sp). Ask the site for one "
                "and name it as cpu_pe_name of SonOfGridEngine in the settings file, or ask for 1 cpu."
            )
        return name

    def _qsub(self, argv: Sequence[str], script: str) -> str:
        printed = self._send(argv, f"exec {script}\n")
        job_id = printed.strip().partition(".")[0]
        if not job_id.isdecimal():
            raise EngineError(f"qsub printed {printed!r}, which is no job id.")
        return job_id

    def _phase(self, job_id: str, state: str) -> Phase:
        if _ERROR in state:  # faulty once it was said why
            return Phase.FAULTY if self._num_cleared[job_id] > self._most_cleared else Phase.QUEUED
        return Phase.RUNNING if _RUNNING & set(state) else Phase.QUEUED

    def _reason(self, job_id: str) -> str:
        """Why a job could not be started."""
        try:
            found = _ERROR_REASON.search(self._ask(["qstat", "-j", job_id]))
        except CommandFailed:  # it is gone meanwhile
            found = None
        return found[1] if found else "Grid Engine gives no reason"


def _numbers(text: str) -> list[int]:
    """Task numbers as qstat lists them: ``1,3-7:2``."""
    numbers: list[int] = []
    for part in text.split(","):
        match = re.fullmatch(r"\s*(\d+)(?:-(\d+)(?::(\d+))?)?\s*", part)
        if match:
            first, last, step = int(match[1]), int(match[2] or match[1]), int(match[3] or 1)
            numbers += range(first, last + 1, step)
    return numbers


def _megabytes(gigabytes: float, slots: int) -> str:
    """The share of one slot."""
    return f"{math.ceil(gigabytes * 1024 / slots)}M"


def _ended(words: Mapping[str, str]) -> Ended:
    """One block of qacct."""
    failed, _, meaning = words.get("failed", "0").partition(":")
    exit_code = int(words.get("exit_status", "0").split()[0])
    elapsed_s = _number(words.get("ru_wallclock", ""))
    max_rss = _number(words.get("ru_maxrss", ""))
    failed = failed.strip()
    if failed == "0":
        end, said = (End.OK if exit_code == 0 else End.FAILED), "ended"
    else:
        end, said = (
            _end_of_failure(failed, elapsed_s, words.get("category", "")),
            f"failed: {meaning.strip()}",
        )
    # the kilobytes that the kernel counts are taken for bytes by qacct
    return Ended(end, said, exit_code, None if max_rss is None else max_rss * 2**10 / 2**30, elapsed_s)


def _end_of_failure(failed: str, elapsed_s: float | None, category: str) -> End:
    if failed in _LIMIT_ENFORCED:  # of time or of memory: the books do not say which
        limit = re.search(r"h_rt=(\d+)", category)
        is_late = limit is not None and elapsed_s is not None and elapsed_s >= int(limit[1])
        return End.OUT_OF_TIME if is_late else End.OUT_OF_MEMORY
    return End.NODE_LOST if failed in _NODE_LOST else End.FAILED


def _number(text: str) -> float | None:
    """Of ``12s``, ``4.5KB``, ``4608``."""
    match = re.match(r"([\d.]+)([KMGT]?)", text)
    return float(match[1]) * _BYTES[match[2]] if match else None
