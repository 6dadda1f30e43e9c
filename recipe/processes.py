"""One command of ``merging`` in several processes: one for each GPU, on all nodes that a task has."""

import json
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Processes:
    """How many there shall be."""

    num_nodes: int
    per_node: int

    @property
    def total(self) -> int:
        """On all nodes together."""
        return self.num_nodes * self.per_node


def of_this_task() -> Processes:
    """One process for each visible GPU; where there is none, one for each node.

    The engine has seen to it that a task sees its own GPUs only, and Slurm's variables only if it asked for
    ``multi_node_slots``.
    """
    import torch

    num_nodes = int(os.environ.get("SLURM_JOB_NUM_NODES", "1"))
    return Processes(num_nodes=num_nodes, per_node=max(1, torch.cuda.device_count()))


def launch(command: str, arguments: Mapping[str, Any], processes: Processes) -> None:
    """Run a command of ``merging`` by torchrun, on other nodes through srun; the working folder is shared.

    Raises:
        FileNotFoundError: there is no srun.
        subprocess.CalledProcessError: one of the processes failed; the others are ended.
    """
    with Path("arguments.json").open("w", encoding="utf-8") as file:
        json.dump(arguments, file, default=os.fspath)
    torchrun = [sys.executable, "-m", "torch.distributed.run", f"--nproc-per-node={processes.per_node}"]
    program = ["-m", "merging", command, "--config", "arguments.json"]
    if processes.num_nodes == 1:
        start, meeting = [], ["--standalone"]
    else:
        start, meeting = _srun(processes.num_nodes), _meeting_point(processes.num_nodes)
    subprocess.run([*start, *torchrun, *meeting, *program], check=True)


def _srun(num_nodes: int) -> list[str]:
    """One torchrun on each node, with all cpus that the task has there."""
    if shutil.which("srun") is None:
        raise FileNotFoundError(
            f"a task on {num_nodes} nodes needs srun, which is not in its PATH, {os.environ['PATH']}. "
            "Add its folder to DEFAULT_ENVIRONMENT_SET['PATH'] in the settings file."
        )
    cpus = os.environ.get("SLURM_CPUS_PER_TASK", "1")  # srun itself does not take it from there
    share = [
        f"--nodes={num_nodes}",
        f"--ntasks={num_nodes}",
        "--ntasks-per-node=1",
        f"--cpus-per-task={cpus}",
    ]
    return ["srun", *share, "--kill-on-bad-exit=1"]


def _meeting_point(num_nodes: int) -> list[str]:
    """Where the nodes find each other: a free port of this one."""
    with socket.socket() as free:
        free.bind(("", 0))
        endpoint = f"{socket.gethostname()}:{free.getsockname()[1]}"
    job = os.environ.get("SLURM_JOB_ID", "0")
    return [f"--nnodes={num_nodes}", f"--rdzv-id={job}", "--rdzv-backend=c10d", f"--rdzv-endpoint={endpoint}"]
