"""The Slurm of these tests with accounting: slurmdbd before a MariaDB of its own, both on the loopback.

Jobs leave its queue after seconds, so that only ``sacct`` knows them.
"""

from __future__ import annotations

import os
import secrets
import shutil
import socket
import subprocess
from pathlib import Path

from . import slurm_cluster
from .slurm_cluster import SlurmCluster, wait_for

PROGRAMS = ("slurmdbd", "mariadbd", "mariadb-install-db", "sacct", "sacctmgr")
KEPT_S = 2
"""MinJobAge: ended jobs leave the queue when it is next looked through, every 10 s."""


def why_not() -> str | None:
    """Why no accounting can be started here; None if it can."""
    search = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"
    missing = [name for name in PROGRAMS if shutil.which(name, path=search) is None]
    if missing:
        return f"no {', '.join(missing)}: run tests/sisyphus/cluster/install-slurm as root"
    return slurm_cluster.why_not()


class AccountedCluster(SlurmCluster):
    """Two more daemons: ``mariadbd`` and ``slurmdbd``."""

    def _configure(self) -> None:
        super()._configure()
        here, host = self.folder, socket.gethostname().partition(".")[0]
        self._port, self._database_port = slurm_cluster.free_ports(2)
        file = here / "etc" / "slurm.conf"
        accounting = (
            "AccountingStorageType=accounting_storage/slurmdbd\nAccountingStorageHost=127.0.0.1\n"
            f"AccountingStoragePort={self._port}\nAccountingStoragePass={here}/run/munge.sock\n"
        )
        text = file.read_text()
        for old, new in (
            ("AccountingStorageType=accounting_storage/none\n", accounting),
            ("MinJobAge=300", f"MinJobAge={KEPT_S}"),
        ):
            assert old in text, old
            text = text.replace(old, new)
        file.write_text(text)
        password = secrets.token_hex(16)
        _write_secret(
            here / "etc" / "slurmdbd.conf",
            f"DbdHost={host}\nDbdAddr=127.0.0.1\nDbdPort={self._port}\n"
            "CommunicationParameters=NoInAddrAny\n"
            f"AuthType=auth/munge\nAuthInfo=socket={here}/run/munge.sock\nSlurmUser=root\n"
            f"PidFile={here}/run/slurmdbd.pid\nLogFile={here}/log/slurmdbd.log\n"
            f"StorageType=accounting_storage/mysql\nStorageHost=127.0.0.1\nStoragePort={self._database_port}\n"
            f"StorageUser=slurm\nStoragePass={password}\nStorageLoc=slurm_acct\n",
        )
        _write_secret(
            here / "etc" / "init.sql",
            "CREATE DATABASE IF NOT EXISTS slurm_acct;\n"
            f"CREATE USER IF NOT EXISTS 'slurm'@'127.0.0.1' IDENTIFIED BY '{password}';\n"
            "GRANT ALL ON slurm_acct.* TO 'slurm'@'127.0.0.1';\n",
        )

    def start(self) -> None:
        """Start everything, and wait until the nodes are idle."""
        self.start_daemon("munged")
        subprocess.run(
            [
                "mariadb-install-db",
                "--no-defaults",
                "--user=root",
                f"--datadir={self.folder}/mysql",
                "--skip-test-db",
                "--auth-root-authentication-method=normal",
                *_SMALL,
            ],
            check=True,
            capture_output=True,
            env=self.environment,
        )
        self.start_daemon("mariadbd")
        wait_for(lambda: _listens(self._database_port), "the database", 60)
        self.start_daemon("slurmdbd")
        wait_for(lambda: _listens(self._port), "slurmdbd", 60)
        self.run("sacctmgr", "-i", "add", "cluster", "test")  # without it the controller does not start
        for name in ("slurmctld", *self.nodes):
            self.start_daemon(name)
        self.wait_until_idle()

    def command(self, name: str) -> list[str]:
        """See base."""
        if name == "slurmdbd":
            return ["slurmdbd", "-D"]
        if name == "mariadbd":
            here = self.folder
            return [
                "mariadbd",
                "--no-defaults",
                "--user=root",
                f"--datadir={here}/mysql",
                f"--socket={here}/run/mysql.sock",
                f"--pid-file={here}/run/mariadbd.pid",
                "--bind-address=127.0.0.1",
                f"--port={self._database_port}",
                f"--init-file={here}/etc/init.sql",
                "--innodb-lock-wait-timeout=900",
                "--performance-schema=OFF",
                "--max-connections=20",
                *_SMALL,
            ]
        return super().command(name)


_SMALL = ("--innodb-log-file-size=8M", "--innodb-buffer-pool-size=64M")


def _write_secret(file: Path, text: str) -> None:
    file.touch(mode=0o600)
    file.write_text(text)


def _listens(port: int) -> bool:
    with socket.socket() as tried:
        return tried.connect_ex(("127.0.0.1", port)) == 0
