"""A real, small Grid Engine: a master and one node, in a network of their own that reaches nothing else.

Needs root and the packages that ``install-gridengine`` beside this file installs. Everything lies in one
folder; only processes that were started here are ended. Grid Engine listens on all addresses and trusts names
of hosts: hence the network namespace, in which there is only the loopback.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
from pathlib import Path

from .slurm_cluster import wait_for

LIBRARIES = Path("/usr/lib/gridengine")
SHARED = Path("/usr/share/gridengine")
CLIENTS = ("qsub", "qstat", "qdel", "qacct", "qconf", "qmod", "qalter", "qhost")
DAEMONS = ("sge_qmaster", "sge_execd")
SLOTS = 4
MASTER_PORT, NODE_PORT = 16444, 16445  # free in a network that was made just now

_NODE = "hostname {}\nload_scaling NONE\ncomplex_values NONE\nuser_lists NONE\nxuser_lists NONE\n"
_NODE += "projects NONE\nxprojects NONE\nusage_scaling NONE\nreport_variables NONE\n"


def why_not() -> str | None:
    """Why no Grid Engine can be started here; None if it can."""
    missing = [name for name in DAEMONS if not (LIBRARIES / name).exists()]
    if missing:
        return f"no {', '.join(missing)}: run tests/sisyphus/cluster/install-gridengine as root"
    if os.geteuid() != 0:
        return "a Grid Engine for tests is started by root only"
    tried = subprocess.run(["unshare", "--net", "true"], capture_output=True, text=True)
    if tried.returncode:
        return f"no network of its own for it: {tried.stderr.strip()}"
    return None


class GridCluster:
    """Daemons by name: ``sge_qmaster`` and ``sge_execd``."""

    def __init__(self, folder: Path) -> None:
        """Make a cell in a folder."""
        self.folder = folder
        self.host = socket.gethostname().partition(".")[0]
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        for name in ("root/default/common", "master/job_scripts", "node", "bin", "log"):
            (folder / name).mkdir(parents=True)
        self._network = subprocess.Popen(
            ["unshare", "--net", "sh", "-c", "ip link set lo up && echo && exec sleep 86400"],
            stdout=subprocess.PIPE,
        )
        assert self._network.stdout is not None
        assert self._network.stdout.readline(), "the network has no loopback"
        self._make_cell()
        for name in CLIENTS:
            program = shutil.which(name)
            wrapper = folder / "bin" / name
            wrapper.write_text(f'#!/bin/sh\nexec {" ".join(self._inside)} {program} "$@"\n')
            wrapper.chmod(0o755)

    @property
    def _inside(self) -> list[str]:
        return ["nsenter", "--target", str(self._network.pid), "--net"]

    @property
    def environment(self) -> dict[str, str]:
        """What a manager needs to find this cluster."""
        return {
            **os.environ,
            "PATH": f"{self.folder / 'bin'}:{os.environ.get('PATH', '')}",
            "SGE_ROOT": str(self.folder / "root"),
            "SGE_CELL": "default",
            "SGE_QMASTER_PORT": str(MASTER_PORT),
            "SGE_EXECD_PORT": str(NODE_PORT),
        }

    def _make_cell(self) -> None:
        """What Grid Engine's installer asks a person for."""
        root, common, master = (
            self.folder / "root",
            self.folder / "root/default/common",
            self.folder / "master",
        )
        (root / "util").symlink_to(SHARED / "util")
        bootstrap = {
            "admin_user": "none",
            "default_domain": "none",
            "ignore_fqdn": "true",
            "spooling_method": "classic",
            "spooling_lib": "libspoolc",
            "spooling_params": f"{common};{master}",
            "binary_path": LIBRARIES,
            "qmaster_spool_dir": master,
            "security_mode": "none",
            "listener_threads": 2,
            "worker_threads": 2,
            "scheduler_threads": 1,
        }
        (common / "bootstrap").write_text("".join(f"{key} {value}\n" for key, value in bootstrap.items()))
        (common / "act_qmaster").write_text(f"{self.host}\n")
        (common / "host_aliases").write_text(f"{self.host} localhost\n")
        self._spool("spoolinit", "classic", "libspoolc", f"{common};{master}", "init")
        self._spool("spooldefaults.bin", "configuration", str(SHARED / "default-configuration"))
        self._spool("spooldefaults.bin", "complexes", str(SHARED / "util/resources/centry"))
        self._spool("spooldefaults.bin", "usersets", str(SHARED / "util/resources/usersets"))
        self._spool("spooldefaults.bin", "managers", "root")
        self._spool("spooldefaults.bin", "adminhosts", self.host)
        settings = {"execd_spool_dir": str(self.folder / "node"), "min_uid": "0", "min_gid": "0"}
        settings["reporting_params"] = "accounting=true reporting=false flush_time=00:00:01 joblog=false"
        settings["load_report_time"], settings["administrator_mail"] = "00:00:01", "none"
        settings["login_shells"] = "sh"  # a profile of this machine is none of the tests' business
        # processes of a job are known by a group of their own, also to another cluster on this machine
        first = 100_000 + os.getpid() % 10_000 * 16
        settings["gid_range"] = f"{first}-{first + 15}"
        _change(common / "configuration", settings)

    def _spool(self, program: str, *arguments: str) -> None:
        environment = {**self.environment, "LD_LIBRARY_PATH": str(LIBRARIES)}
        done = subprocess.run(
            [LIBRARIES / program, *arguments], env=environment, capture_output=True, text=True
        )
        assert done.returncode == 0, f"{program} {arguments}: {done.stdout} {done.stderr}"

    def start(self) -> None:
        """Start everything, and wait until the node takes jobs."""
        self.start_daemon("sge_qmaster")
        self.run("qconf", "-as", self.host)
        (self.folder / "node.conf").write_text(_NODE.format(self.host))
        self.run("qconf", "-Ae", str(self.folder / "node.conf"))
        for name in ("mpi", "smp"):
            self.run("qconf", "-Ap", str(SHARED / "util/resources/pe" / name))
        queue = {"qname": "main.q", "hostlist": self.host, "slots": str(SLOTS), "pe_list": "mpi smp"}
        self._add("-Aq", "queue", {**queue, "load_thresholds": "NONE"}, "-sq")
        scheduler = {"schedule_interval": "0:0:1", "flush_submit_sec": "1", "flush_finish_sec": "1"}
        self._add("-Msconf", "scheduler", {**scheduler, "job_load_adjustments": "NONE"}, "-ssconf")
        self.start_daemon("sge_execd")
        wait_for(lambda: "lx-" in self.run("qhost", "-h", self.host).splitlines()[-1], "a node", 30)

    def _add(self, option: str, what: str, changes: dict[str, str], *template: str) -> None:
        """Have the master take a changed form of what it shows."""
        file = self.folder / what
        file.write_text(self.run("qconf", *template))
        _change(file, changes)
        self.run("qconf", option, str(file))

    def limit_jobs(self, number: int) -> None:
        """How many jobs a user may have; 0: as many as wanted."""
        self._add("-Mconf", "global", {"max_u_jobs": str(number)}, "-sconf")

    def start_daemon(self, name: str) -> None:
        """Start one daemon."""
        environment = {**self.environment, "SGE_ND": "1", "LD_LIBRARY_PATH": str(LIBRARIES)}
        with (self.folder / "log" / name).open("ab") as log:
            self.processes[name] = subprocess.Popen(
                [*self._inside, LIBRARIES / name],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=environment,
                start_new_session=True,
            )
        if name == "sge_qmaster":
            wait_for(lambda: self.host in self.run("qconf", "-sh"), "the master", 30)

    def run(self, *argv: str) -> str:
        """Run one of its programs; its output, also if it fails."""
        program = str(self.folder / "bin" / argv[0])
        done = subprocess.run(
            [program, *argv[1:]], env=self.environment, capture_output=True, text=True, timeout=60
        )
        return done.stdout

    def wait_until_idle(self) -> None:
        """Return once nothing is in the queue."""
        wait_for(lambda: not self.run("qstat", "-u", "*"), "the end of all jobs", 60)

    def clear(self) -> None:
        """End all jobs."""
        if self.run("qstat", "-u", "*"):
            self.run("qdel", "-f", "-u", "*")
        self.wait_until_idle()

    def stop(self) -> None:
        """End all jobs and what was started here; what it knew is not kept."""
        if len(self.processes) == len(DAEMONS):
            self.clear()
        for process in self.processes.values():
            process.kill()
            process.wait()
        self._network.kill()
        self._network.communicate()


def _change(file: Path, changes: dict[str, str]) -> None:
    """Change lines of the form ``key value``."""
    lines = file.read_text().splitlines()
    keys = [line.split(" ", 1)[0].strip() for line in lines]
    missing = set(changes) - set(keys)
    assert not missing, f"{file} has no {missing}"
    changed = [
        f"{key} {changes[key]}" if key in changes else line for key, line in zip(keys, lines, strict=True)
    ]
    file.write_text("\n".join(changed) + "\n")
