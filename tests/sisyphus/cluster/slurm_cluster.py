"""A real, small Slurm on the loopback: a controller, and nodes that pretend to have more than there is.

Needs root and the packages that ``install-slurm`` beside this file installs. Everything lies in one folder;
only processes that were started here are ended.
"""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import psutil

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "squeue", "scontrol")
NUM_NODES, CPUS, MEMORY_MB, GPUS = 2, 8, 16000, 2
PREEMPT_MODES = ("REQUEUE", "CANCEL")
_CGROUP_V1 = Path("/sys/fs/cgroup/memory/memory.limit_in_bytes")


def why_not() -> str | None:
    """Why no Slurm can be started here; None if it can."""
    search = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"
    missing = [name for name in PROGRAMS if shutil.which(name, path=search) is None]
    if missing:
        return f"no {', '.join(missing)}: run tests/sisyphus/cluster/install-slurm as root"
    if os.geteuid() != 0:
        return "a Slurm for tests is started by root only"
    return None


def free_ports(number: int) -> list[int]:
    """Ports of the loopback that nothing listens on."""
    sockets = [socket.socket() for _ in range(number)]
    for each in sockets:
        each.bind(("127.0.0.1", 0))
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


def wait_for(condition: Callable[[], object], what: str, seconds: float) -> None:
    """Return once a condition holds."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"{what}: not within {seconds:g} s"
        time.sleep(0.1)


class SlurmCluster:
    """Daemons by name: ``munged``, ``slurmctld``, and the names of the nodes."""

    def __init__(self, folder: Path) -> None:
        """Write the configuration into a folder; its path must be short, without blanks."""
        self.folder = folder
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        self.has_memory_limits = _CGROUP_V1.exists() and os.access(_CGROUP_V1.parent, os.W_OK)
        for name in ("run", "log", "state", "spool", "etc", "dev"):
            (folder / name).mkdir(parents=True)
        key = folder / "etc" / "munge.key"
        key.write_bytes(secrets.token_bytes(1024))
        key.chmod(0o400)
        self._configure()

    @property
    def environment(self) -> dict[str, str]:
        """What a manager needs to find this cluster."""
        path = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"
        return {**os.environ, "PATH": path, "SLURM_CONF": str(self.folder / "etc" / "slurm.conf")}

    def _configure(self) -> None:
        host = socket.gethostname().partition(".")[0]
        controller, *ports = free_ports(1 + NUM_NODES)
        devices = [self.folder / "dev" / f"gpu{number}" for number in range(GPUS)]
        for number, device in enumerate(devices):  # a major number for local use: nothing can open them
            os.mknod(device, 0o600 | 0o020000, os.makedev(240, number))
        here = self.folder
        lines = {
            "ClusterName": "test",
            "SlurmctldHost": f"{host}(127.0.0.1)",
            "SlurmctldPort": controller,
            "SlurmUser": "root",
            "SlurmdUser": "root",
            "AuthType": "auth/munge",
            "AuthInfo": f"socket={here}/run/munge.sock",
            "CredType": "cred/munge",
            "CommunicationParameters": "NoCtldInAddrAny,NoInAddrAny",  # loopback only
            "StateSaveLocation": here / "state",
            "SlurmdSpoolDir": f"{here}/spool/%n",
            "SlurmctldPidFile": here / "run" / "slurmctld.pid",
            "SlurmdPidFile": f"{here}/run/slurmd-%n.pid",
            "SlurmctldLogFile": here / "log" / "slurmctld.log",
            "SlurmdLogFile": f"{here}/log/slurmd-%n.log",
            "MailProg": "/bin/true",
            "SwitchType": "switch/none",
            "MpiDefault": "none",
            "SlurmdParameters": "config_overrides",
            "ReturnToService": 2,
            "SelectType": "select/cons_tres",
            "SelectTypeParameters": "CR_CPU_Memory",
            "DefMemPerCPU": 500,
            "GresTypes": "gpu",
            "SchedulerType": "sched/backfill",
            "SchedulerParameters": "bf_interval=1,bf_continue,sched_interval=2,batch_sched_delay=1",
            "PreemptType": "preempt/partition_prio",
            "PreemptMode": "REQUEUE",
            "SlurmdTimeout": 15,
            "SlurmctldTimeout": 30,
            "KillWait": 5,
            "MessageTimeout": 10,
            "InactiveLimit": 0,
            "MinJobAge": 300,
            "MaxArraySize": 1001,
            "JobAcctGatherType": "jobacct_gather/linux",
            "JobAcctGatherFrequency": "task=2",
            "ProctrackType": "proctrack/cgroup" if self.has_memory_limits else "proctrack/linuxproc",
            "TaskPlugin": "task/cgroup" if self.has_memory_limits else "task/none",
            "AccountingStorageType": "accounting_storage/none",
        }
        if not self.has_memory_limits:
            lines["JobAcctGatherParams"] = "OverMemoryKill"
        text = "".join(f"{key}={value}\n" for key, value in lines.items())
        for node, port in zip(self.nodes, ports, strict=True):
            text += (
                f"NodeName={node} NodeHostname={host} NodeAddr=127.0.0.1 Port={port} CPUs={CPUS} "
                f"RealMemory={MEMORY_MB} Gres=gpu:fake:{GPUS} State=UNKNOWN\n"
            )
        partitions = {"main": "Default=YES PriorityTier=10 PreemptMode=OFF"}
        for mode in PREEMPT_MODES:  # what main pushes out of these is handled so
            partitions[mode.lower()] = f"PriorityTier=1 PreemptMode={mode}"
        for name, options in partitions.items():
            text += f"PartitionName={name} Nodes=ALL MaxTime=INFINITE State=UP {options}\n"
        (here / "etc" / "slurm.conf").write_text(text)
        (here / "etc" / "gres.conf").write_text(
            f"NodeName={','.join(self.nodes)} Name=gpu Type=fake File={here}/dev/gpu[0-{GPUS - 1}]\n"
        )
        (here / "etc" / "cgroup.conf").write_text(
            "CgroupPlugin=cgroup/v1\nCgroupMountpoint=/sys/fs/cgroup\nCgroupAutomount=no\n"
            "ConstrainRAMSpace=yes\nConstrainSwapSpace=no\nConstrainCores=no\nConstrainDevices=no\n"
            "MinRAMSpace=10\n"
            if self.has_memory_limits
            else ""
        )

    def start(self) -> None:
        """Start everything, and wait until the nodes are idle."""
        for name in ("munged", "slurmctld", *self.nodes):
            self.start_daemon(name)
        self.wait_until_idle()

    def wait_until_idle(self) -> None:
        """Return once both nodes would take jobs."""
        idle = ["idle"] * NUM_NODES
        wait_for(
            lambda: self.run("sinfo", "-h", "-N", "-p", "main", "-o", "%T").split() == idle, "idle nodes", 120
        )

    @property
    def nodes(self) -> list[str]:
        """Names of the nodes; no others on this machine, as the kernel's control groups are named by them."""
        return [f"node{number}x{os.getpid()}" for number in range(1, NUM_NODES + 1)]

    def start_daemon(self, name: str) -> None:
        """Start one daemon, in a session of its own."""
        here = self.folder
        with (here / "log" / f"{name}.out").open("ab") as log:
            self.processes[name] = subprocess.Popen(
                self.command(name),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=self.environment,
                start_new_session=True,
            )
        if name == "munged":
            wait_for((here / "run" / "munge.sock").exists, "munge's socket", 20)
        if name == "slurmctld":
            wait_for(lambda: "is UP" in self.run("scontrol", "ping"), "the controller", 30)

    def command(self, name: str) -> list[str]:
        """How a daemon is started."""
        here = self.folder
        if name == "munged":
            return [
                "munged",
                "--foreground",
                "--force",
                f"--socket={here}/run/munge.sock",
                f"--key-file={here}/etc/munge.key",
                f"--log-file={here}/log/munged.log",
                f"--pid-file={here}/run/munged.pid",
                f"--seed-file={here}/run/munged.seed",
            ]
        return ["slurmctld", "-D"] if name == "slurmctld" else ["slurmd", "-D", "-N", name]

    def signal(self, name: str, number: int) -> None:
        """Send a signal to one daemon; jobs go on."""
        self.processes[name].send_signal(number)

    def stop_daemon(self, name: str) -> None:
        """End one daemon in an orderly way, so that a controller knows later what it knew; jobs go on."""
        self.signal(name, signal.SIGTERM)
        self.processes[name].wait(timeout=30)

    def crash(self, node: str) -> None:
        """A node dies, with all that runs on it, at once."""
        self.signal(node, signal.SIGSTOP)  # it must not report the ends of what dies with it
        steps = [process for process in psutil.process_iter() if self._is_step_of(node, process)]
        victims = [*steps, *(child for step in steps for child in step.children(recursive=True))]
        for victim in victims:  # the steps first: they would report, too
            victim.kill()
        self.signal(node, signal.SIGKILL)
        self.processes[node].wait()

    def _is_step_of(self, node: str, process: psutil.Process) -> bool:
        """Whether a process is Slurm's own, beside a task on a node: it writes to the node's log."""
        try:
            return process.name() == "slurmstepd" and any(
                link.readlink() == self.folder / "log" / f"slurmd-{node}.log"
                for link in Path(f"/proc/{process.pid}/fd").iterdir()
            )
        except (psutil.NoSuchProcess, FileNotFoundError):
            return False

    def run(self, *argv: str) -> str:
        """Run one of Slurm's programs; its output, also if it fails."""
        done = subprocess.run(argv, env=self.environment, capture_output=True, text=True, timeout=60)
        return done.stdout

    def stop(self) -> None:
        """Cancel all jobs, and end what was started here."""
        if "slurmctld" in self.processes and "is UP" in self.run("scontrol", "ping"):
            self.run("scancel", "--user=root")
            wait_for(lambda: not self.run("squeue", "-h"), "the end of all jobs", 60)
        for name in reversed(list(self.processes)):
            process = self.processes[name]
            process.send_signal(signal.SIGCONT)
            process.terminate()
            try:
                process.wait(timeout=10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        for node in self.nodes if self.has_memory_limits else ():
            _remove_cgroups(node)
        for device in (self.folder / "dev").iterdir():
            device.unlink()


def _remove_cgroups(node: str) -> None:
    """Folders that a node leaves in the kernel's tree; those in use are not removed."""
    for controller in ("memory", "freezer", "cpuset", "cpuacct"):
        root = Path("/sys/fs/cgroup") / controller / f"slurm_{node}"
        if root.is_dir():
            for folder in (*sorted(root.rglob("*"), reverse=True), root):
                if folder.is_dir():
                    with suppress(OSError):
                        folder.rmdir()
