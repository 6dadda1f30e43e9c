"""The scheduler's commands on another host, through a real ssh: here a login node on the loopback."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from .conftest import SETTINGS, Project
from .slurm_cluster import SlurmCluster, free_ports, wait_for

SSHD = shutil.which("sshd", path=f"{os.environ.get('PATH', '')}:/usr/sbin")


class LoginNode:
    """An sshd; ``environment`` is that of a machine that knows Slurm only by way of it."""

    def __init__(self, folder: Path, cluster: SlurmCluster) -> None:
        (self.port,) = free_ports(1)
        self.folder = folder
        for name in ("host", "user"):
            subprocess.run(
                ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(folder / name)], check=True
            )
        (folder / "sshd_config").write_text(
            f"ListenAddress 127.0.0.1\nPort {self.port}\nHostKey {folder}/host\nPidFile none\n"
            f"AuthorizedKeysFile {folder}/user.pub\nStrictModes no\nUsePAM no\nPermitRootLogin yes\n"
            f"PasswordAuthentication no\nSetEnv SLURM_CONF={cluster.environment['SLURM_CONF']}\n"
        )
        (folder / "ssh_config").write_text(
            f"Host login1\nHostName 127.0.0.1\nPort {self.port}\nIdentityFile {folder}/user\n"
            f"UserKnownHostsFile {folder}/known\nStrictHostKeyChecking accept-new\nLogLevel ERROR\n"
        )
        ssh = folder / "bin" / "ssh"
        ssh.parent.mkdir()
        ssh.write_text(f'#!/bin/sh\nexec {shutil.which("ssh")} -F {folder}/ssh_config "$@"\n')
        ssh.chmod(0o755)
        self.daemon: subprocess.Popen[bytes] | None = None

    @property
    def environment(self) -> dict[str, str]:
        """Without the place of Slurm's configuration."""
        known = {name: value for name, value in os.environ.items() if name != "SLURM_CONF"}
        return {**known, "PATH": f"{self.folder / 'bin'}:{os.environ.get('PATH', '')}"}

    def start(self) -> None:
        """Start it, and wait until it lets us in."""
        Path("/run/sshd").mkdir(exist_ok=True)
        assert SSHD is not None
        with (self.folder / "log").open("ab") as log:
            self.daemon = subprocess.Popen(
                [SSHD, "-D", "-e", "-f", str(self.folder / "sshd_config")], stdout=log, stderr=log
            )
        wait_for(lambda: self.run("true") == 0, "the login node", 20)

    def run(self, command: str) -> int:
        """The exit code of a command there."""
        done = subprocess.run(
            ["ssh", "-o", "BatchMode=yes", "login1", command], env=self.environment, capture_output=True
        )
        return done.returncode

    def stop(self) -> None:
        """End it."""
        if self.daemon is not None:
            self.daemon.terminate()
            self.daemon.wait()


@pytest.fixture
def login(cluster: SlurmCluster, tmp_path: Path) -> Iterator[LoginNode]:
    """A login node of the cluster."""
    if SSHD is None:
        reason = "no sshd: run tests/sisyphus/cluster/install-slurm as root"
        if os.environ.get("REQUIRE_SLURM"):
            pytest.fail(f"REQUIRE_SLURM is set, but there is {reason}")
        pytest.skip(f"no login node: {reason}")
    (tmp_path / "login").mkdir()
    made = LoginNode(tmp_path / "login", cluster)
    try:
        made.start()
        yield made
    finally:
        made.stop()


@pytest.fixture
def project(login: LoginNode, cluster: SlurmCluster, tmp_path: Path) -> Iterator[Project]:
    """A project with a blank in its path, whose manager has no Slurm."""
    (tmp_path / "my project").mkdir()
    settings = SETTINGS.replace("Slurm(default", 'Slurm(gateway="login1", default')
    settings += (
        f'    DEFAULT_ENVIRONMENT_SET |= {{"HOME": "{tmp_path}/my project/home"}}  # not that of the login\n'
    )
    made = Project(tmp_path / "my project", login, settings)
    yield made
    made.end()
    cluster.run("scancel", "--user=root")
    cluster.wait_until_idle()


def test_tasks_are_submitted_and_followed_through_a_gateway(project: Project, cluster: SlurmCluster) -> None:
    project.config(
        """
        tk.register_output("many", Work("many", num=4).out)
        tk.register_output("fails", Work("fails").out)
        """
    )
    code, printed = project.manage()
    assert code != 0
    assert "ValueError: this task fails" in printed
    assert project.output("many") == "0 0 0 0"
    nodes = [line.split()[2] for line in project.runs("end")]
    assert len(nodes) == 4
    assert set(nodes) <= set(cluster.nodes)


def test_a_gateway_that_is_away(project: Project, login: LoginNode) -> None:
    project.config('tk.register_output("away", Work("away", num=2, seconds=600).out)')
    manager = project.start()
    wait_for(lambda: len(project.runs("begin")) == 2, "running tasks", 60)
    login.stop()
    project.go()
    printed = project.finish(manager)
    assert manager.returncode == 0, printed  # they tell their ends by files
    assert project.output("away") == "0 0"
