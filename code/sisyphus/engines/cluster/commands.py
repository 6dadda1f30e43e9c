"""Programs of a scheduler, run here or on a gateway, with a limit on how long they may take."""

from __future__ import annotations

import os
import shlex
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass

from sisyphus import global_settings as gs
from sisyphus.errors import EngineError, SisyphusError

_OF_AN_ALLOCATION = ("SLURM_", "SBATCH_", "SRUN_", "SALLOC_")
_KEPT = frozenset({"SLURM_CONF"})


class CommandFailed(SisyphusError):
    """A program ended with an exit code other than 0."""

    def __init__(self, command: str, exit_code: int, text: str) -> None:
        super().__init__(f"{command} failed (exit code {exit_code}): {text.strip() or 'it said nothing'}")
        self.text = text


class Unreachable(SisyphusError):
    """The scheduler does not answer; whether it did what it was asked for is not known."""


@dataclass(frozen=True)
class Commands:
    """Runs programs.

    Args:
        gateway: host on which they are run through ssh, in the folder of this project; None: this machine.
        timeout_s: after so many seconds a program counts as not answering.
    """

    gateway: str | None = None
    timeout_s: float = 30.0

    def run(self, argv: Sequence[str], stdin: str = "") -> str:
        """Run a program and return what it prints.

        Raises:
            CommandFailed: it failed.
            Unreachable: it did not end in time, or the gateway is not to be had.
            EngineError: there is no such program.
        """
        command = list(argv)
        if self.gateway is not None:
            there = f"cd {shlex.quote(gs.BASE_DIR)} && {shlex.join(argv)}"
            command = ["ssh", "-x", self.gateway, "-o", "BatchMode=yes", there]
        try:
            done = subprocess.run(
                command,
                input=stdin,
                capture_output=True,
                text=True,
                errors="replace",
                timeout=self.timeout_s,
                env=outside_of_allocations(),
                check=False,
            )
        except FileNotFoundError as error:
            raise EngineError(
                f"there is no program {command[0]!r}. Run the manager where the scheduler's commands are "
                "installed, or name such a host: gateway=... of the engine in the settings file."
            ) from error
        except subprocess.TimeoutExpired as error:
            raise Unreachable(f"{argv[0]} did not answer for {self.timeout_s:g} s") from error
        if self.gateway is not None and done.returncode == 255:  # ssh's own failures
            raise Unreachable(f"{self.gateway} is not to be had: {done.stderr.strip()}")
        if done.returncode:
            raise CommandFailed(str(argv[0]), done.returncode, f"{done.stderr}\n{done.stdout}")
        return done.stdout


def outside_of_allocations() -> dict[str, str]:
    """This process's environment without what says that it is itself part of a scheduler's job.

    A manager may run in a job; what it submits must not inherit that job's memory, nodes and task numbers.
    """
    return {
        name: value
        for name, value in os.environ.items()
        if name in _KEPT or not name.startswith(_OF_AN_ALLOCATION)
    }
