"""Slurm, by its own commands: sbatch, squeue, sacct, scancel, scontrol."""

from __future__ import annotations

import logging
import math
import os
import re
import shlex
from collections.abc import Collection, Sequence
from dataclasses import replace
from functools import cached_property
from typing import Final, Literal

from sisyphus import global_settings as gs
from sisyphus.engines.base import Requirements
from sisyphus.engines.cluster.commands import CommandFailed, Commands, Unreachable
from sisyphus.engines.cluster.scheduler import (
    OFFSET_VARIABLE,
    End,
    Ended,
    Entry,
    Phase,
    Request,
    Scheduler,
    argument_list,
    in_arrays,
    offset_name,
    offset_of,
    ranges,
)
from sisyphus.errors import EngineError

MemoryAllocation = Literal["per_node", "per_cpu"]

_QUEUED: Final = (
    "PENDING",
    "CONFIGURING",
    "REQUEUED",
    "REQUEUE_HOLD",
    "REQUEUE_FED",
    "SPECIAL_EXIT",
    "RESV_DEL_HOLD",
)
_RUNNING: Final = ("RUNNING", "SUSPENDED", "COMPLETING", "STAGE_OUT", "SIGNALING", "STOPPED", "RESIZING")
_SUSPENDED: Final = ("SUSPENDED", "STOPPED")
_ENDS: Final = {
    "COMPLETED": End.OK,
    "FAILED": End.FAILED,
    "OUT_OF_MEMORY": End.OUT_OF_MEMORY,
    "TIMEOUT": End.OUT_OF_TIME,
    "DEADLINE": End.OUT_OF_TIME,
    "NODE_FAIL": End.NODE_LOST,
    "BOOT_FAIL": End.NODE_LOST,
    "PREEMPTED": End.PREEMPTED,
    "CANCELLED": End.CANCELLED,
    "REVOKED": End.CANCELLED,
}
_STUCK: Final = re.compile(
    r"JobHeld|requeued held|Partition(Time|Node)Limit|BadConstraints|NeverSatisfied|"
    r"Invalid(Account|QOS)|AccountNotAllowed|Max\w*PerJob"
)
"""Reasons for waiting that are about the request itself, or a person's doing."""
_LIMITS: Final = re.compile(
    r"MaxSubmitJob|MaxJobCount|temporarily unable to accept|QOSMax|AssocMax|AssocGrp|QOSGrp|Slurm .*standby"
)
_NO_ANSWER: Final = re.compile(
    r"Unable to contact slurm controller|Socket timed out|Connection refused|Connection timed out|"
    r"Communication connection failure|Zero Bytes were transmitted|Unexpected message received|"
    r"Unable to establish controller machine|Connection reset"
)
_LARGEST_ARRAY = 1000
_BETWEEN = "\x1f"
_SQUEUE_FORMAT = _BETWEEN.join(("%F", "%K", "%T", "%r", "%N", "%j", "%Z"))
_BYTES: Final = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}
_SACCT_FIELDS: Final = ("JobID", "State", "ExitCode", "DerivedExitCode", "MaxRSS", "ElapsedRaw", "JobName")
_KILLED_FOR_MEMORY: Final = "0:125"


class Slurm(Scheduler):
    """Slurm.

    Args:
        commands: how programs are run.
        has_memory_resource: whether the cluster counts memory; otherwise none is asked for.
        memory: what ``mem`` of a task means: GB on each node, or for each cpu.
    """

    name = "slurm"
    task_id_variable = "SLURM_ARRAY_TASK_ID"
    environment_prefix = "SLURM_"
    no_answer = _NO_ANSWER
    limits = _LIMITS

    def __init__(
        self,
        commands: Commands,
        *,
        has_memory_resource: bool = True,
        memory: MemoryAllocation = "per_node",
    ) -> None:
        super().__init__(commands)
        self._has_memory_resource = has_memory_resource
        self._memory = memory
        self._unknown_states: set[str] = set()

    @cached_property
    def settings(self) -> dict[str, str]:
        """What ``scontrol show config`` says.

        Raises:
            Unreachable: the controller does not answer.
        """
        pairs = (line.partition("=") for line in self._ask(["scontrol", "show", "config"]).splitlines())
        return {key.strip(): value.strip() for key, _, value in pairs}

    def submit(self, request: Request) -> dict[str, list[int]]:
        """See base: ``sbatch --array``, with the command as a script on stdin."""
        submitted: dict[str, list[int]] = {}
        for offset, task_ids in in_arrays(request.task_ids, self._largest_array()).items():
            array = ranges([task_id - offset for task_id in task_ids])
            name = offset_name(request.name, offset)
            argv = [
                "sbatch",
                "--parsable",
                "--no-requeue",  # the manager alone decides about another try
                f"--job-name={name}",
                f"--array={array}",
                f"--output={request.log_dir.replace('%', '%%')}/{name.replace('%', '%%')}.%A.%a",
                "--open-mode=append",
                f"--chdir={gs.BASE_DIR}",
                "--export=ALL",
                "--mail-type=NONE",
                *self._options(request.rqmt),
            ]
            submitted[self._sbatch(argv, _script(request.call, offset))] = task_ids
        return submitted

    def snapshot(self) -> list[Entry]:
        """See base: one ``squeue``, which knows ended jobs for MinJobAge seconds."""
        printed = self._ask(["squeue", "--me", "-h", "-r", "-t", "all", "-o", _SQUEUE_FORMAT])
        entries = []
        for line in printed.splitlines():
            fields = line.split(_BETWEEN)
            if len(fields) != 7:
                continue  # of a job whose name or folder has a line break: none of ours
            job_id, number, state, reason, node, name, folder = fields
            if number.isdecimal() and folder == gs.BASE_DIR:
                phase, end = self._meaning(state)
                task_id = int(number) + offset_of(name)
                said, is_suspended = f"{state} ({reason})", state in _SUSPENDED
                is_stuck = phase == Phase.QUEUED and _STUCK.search(reason) is not None
                entries.append(Entry(job_id, task_id, name, phase, end, said, node, is_suspended, is_stuck))
        return entries

    def history(self, job_id: str) -> dict[int, Ended]:
        """See base: ``sacct``, of which the steps tell more than the job."""
        fields = ",".join(_SACCT_FIELDS)
        try:
            printed = self._ask(["sacct", "-n", "-P", "--noconvert", "-j", job_id, f"--format={fields}"])
        except CommandFailed as error:
            logging.debug("No accounting: %s", error)
            return {}
        ends: dict[int, Ended] = {}
        offset = 0
        for line in printed.splitlines():
            element, state, code, steps_code, max_rss, elapsed, name = line.split("|", 6)
            number = re.match(r"\d+_(\d+)(\.)?", element)
            if number is None:  # of the part of an array that never began
                continue
            is_step = number[2] is not None
            offset = offset if is_step else offset_of(name)  # steps come after their element
            task_id = int(number[1]) + offset
            phase, end = self._meaning(state)
            if phase != Phase.ENDED or end is None:
                continue
            if steps_code == _KILLED_FOR_MEMORY:
                end = End.OUT_OF_MEMORY
            known = ends.get(task_id)
            if known is None:
                ended = Ended(end, state, _exit_code(code), elapsed_s=_number(elapsed))
            else:
                most = max(
                    (rss for rss in (known.max_rss_gb, _gigabytes(max_rss)) if rss is not None), default=None
                )
                ended = replace(known, max_rss_gb=most)
                if end == End.OUT_OF_MEMORY:
                    ended = replace(ended, end=end, said=state)
            ends[task_id] = ended
        return ends

    def cancel(self, entries: Collection[Entry]) -> None:
        """See base."""
        elements = [f"{entry.job_id}_{entry.task_id - offset_of(entry.name)}" for entry in entries]
        for first in range(0, len(elements), _LARGEST_ARRAY):
            self._ask(["scancel", *elements[first : first + _LARGEST_ARRAY]])

    def is_there(self) -> bool:
        """See base: ``scontrol ping`` answers in milliseconds where other commands try for seconds."""
        try:
            return bool(re.search(r"\bis UP\b", self._ask(["scontrol", "ping"])))
        except (CommandFailed, Unreachable):
            return False

    def nodes(self) -> list[str]:
        """See base."""
        nodes = os.environ.get("SLURM_JOB_NODELIST", "")
        if not set("[,") & set(nodes):  # one name, which needs no help
            return [nodes] if nodes else []
        return self._ask(["scontrol", "show", "hostnames", nodes]).split()

    def _options(self, rqmt: Requirements) -> list[str]:
        """Requirements of a task as options of sbatch."""
        options = [f"--cpus-per-task={math.ceil(rqmt.get('cpu', 1))}"]
        if self._has_memory_resource and "mem" in rqmt:
            option = "--mem-per-cpu" if self._memory == "per_cpu" else "--mem"
            options.append(f"{option}={math.ceil(rqmt['mem'] * 1024)}M")
        if "time" in rqmt:
            options.append(f"--time={math.ceil(rqmt['time'] * 60)}")
        if rqmt.get("gpu", 0) > 0:
            kind = f"{rqmt['gpu_name']}:" if rqmt.get("gpu_name") else ""
            options.append(f"--gres=gpu:{kind}{math.ceil(rqmt['gpu'])}")
        if rqmt.get("multi_node_slots", 1) > 1:
            nodes = int(rqmt["multi_node_slots"])
            options += [f"--nodes={nodes}", f"--ntasks={nodes}"]
        options.append("--ntasks-per-node=1")
        if rqmt.get("exclude_nodes"):
            options.append(f"--exclude={','.join(rqmt['exclude_nodes'])}")
        return [*options, *argument_list(rqmt, "sbatch_args")]

    def _sbatch(self, argv: Sequence[str], script: str) -> str:
        """Submit one array; returns its job id."""
        printed = self._send(argv, script)
        job_id = printed.strip().partition(";")[0]
        if not job_id.isdecimal():
            raise EngineError(f"sbatch printed {printed!r}, which is no job id.")
        return job_id

    def _meaning(self, state: str) -> tuple[Phase, End | None]:
        """A state of Slurm in our words; an unknown word is said once, and taken as running."""
        word = state.split()[0].rstrip("+") if state.strip() else state
        if word in _ENDS:
            return Phase.ENDED, _ENDS[word]
        if word in _QUEUED:
            return Phase.QUEUED, None
        if word not in _RUNNING and word not in self._unknown_states:
            self._unknown_states.add(word)
            logging.warning(
                "Slurm says %r of a task, which this engine does not know: taken as running", word
            )
        return Phase.RUNNING, None

    def _largest_array(self) -> int:
        """How large the numbers of an array may be."""
        size = self.settings.get("MaxArraySize", "")
        return min(int(size) - 1, _LARGEST_ARRAY) if size.isdecimal() and int(size) > 1 else _LARGEST_ARRAY


def _script(call: Sequence[str], offset: int) -> str:
    """A batch script that becomes the worker, so that Slurm's signals and memory limit reach it."""
    lines = ["#!/bin/bash"]
    if offset:
        lines.append(f"export {OFFSET_VARIABLE}={offset}")
    return "\n".join([*lines, f"exec {shlex.join(call)}", ""])


def _exit_code(code: str) -> int | None:
    """Of ``CODE:SIGNAL``, as a shell would say it."""
    number, _, signal = code.partition(":")
    if not number.isdecimal():
        return None
    return 128 + int(signal) if signal.isdecimal() and int(signal) else int(number)


def _number(text: str) -> float | None:
    return float(text) if text.isdecimal() else None


def _gigabytes(text: str) -> float | None:
    """Of sizes as sacct writes them: ``204800K``; empty where nothing was measured."""
    match = re.fullmatch(r"([\d.]+)([KMGT]?)", text)
    return float(match[1]) * _BYTES[match[2]] / 2**30 if match else None
