"""The manager's side of fork servers: which one a worker may come from, and what came of it."""

from __future__ import annotations

import json
import logging
import os
import select
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass

from sisyphus import global_settings as gs
from sisyphus.fork_server.messages import GO, IMPORT_NOTHING, MAX_MESSAGE_BYTES

PATIENCE_S = 10.0
"""A server that does not answer for so long is killed, and does without."""

MOST_SERVERS = 4
"""Modules that were imported for so many numbers of threads; others are started as programs."""

MOST_FAILURES = 3
"""After so many servers that ended by themselves, no more are started."""

_DEVICES = "CUDA_VISIBLE_DEVICES"


@dataclass(frozen=True)
class Forked:
    """A worker that a server forked."""

    pid: int
    handle: int
    """File descriptor of the process (pidfd), which also tells the end of one that is no child of ours."""

    def wait(self) -> None:
        """Return when the process has ended. To be called once."""
        poll = select.poll()
        poll.register(self.handle, select.POLLIN)
        poll.poll()
        os.close(self.handle)


class ServerRefusedError(Exception):
    """The server will not fork, now or ever; says why."""


class ServerGoneError(Exception):
    """The server ended, or does not answer; says what was seen."""


class ForkServers:
    """The fork servers of one engine: started when first needed, replaced when they no longer fit."""

    def __init__(self) -> None:
        self._servers: dict[int, _Server] = {}
        self._environment: dict[str, str] = {}
        self._num_failures = 0
        self._preload = True
        self._off = not (sys.platform == "linux" and hasattr(os, "pidfd_open"))

    def fork(
        self, call: Sequence[str], environment: Mapping[str, str], cpus: float, log: int
    ) -> Forked | None:
        """Start a worker.

        Args:
            call: the command of the worker.
            environment: its environment, before the worker itself cleans it up.
            cpus: what the task asks for.
            log: file descriptor for what it prints.

        Returns:
            None if it has to be started as a program: nothing was started, and nothing will.
        """
        arguments = worker_arguments(call)
        if arguments is None or self._off or not gs.FORK_SERVER:
            return None
        server = self._fitting(environment, cpus)
        if server is None:
            return None
        request = {"call": list(call), "arguments": arguments, "devices": environment.get(_DEVICES)}
        try:
            return server.fork(request, log)
        except ServerRefusedError as refusal:
            logging.debug("A worker is not forked: %s", refusal)
            self._drop(server)
            if not server.was_ready:  # else something was edited, or ran short: the next one may do
                self._do_with_less(str(refusal))
        except ServerGoneError as error:
            self._drop(server)
            self._num_failures += 1
            self._off = self._num_failures >= MOST_FAILURES
            logging.warning("The process that forks workers is gone, they are started as programs: %s", error)
        return None

    def _do_with_less(self, reason: str) -> None:
        if gs.FORK_SERVER_PRELOAD and self._preload:
            self._preload = False
            self.close()
            logging.warning("FORK_SERVER_PRELOAD has no effect: %s", reason)
        else:
            self._off = True
            logging.warning("Workers are not forked: %s", reason)

    def close(self) -> None:
        """End all servers. Workers go on."""
        for server in list(self._servers.values()):
            self._drop(server)

    def _fitting(self, environment: Mapping[str, str], cpus: float) -> _Server | None:
        """The server for such a worker, if it is ready; it is started if there is none."""
        fixed = {name: value for name, value in environment.items() if name != _DEVICES}
        if fixed != self._environment:
            self.close()
            self._environment = fixed
        # modules read their number of threads when they are imported
        num_threads = max(1, int(cpus)) if gs.FORK_SERVER_PRELOAD and self._preload else IMPORT_NOTHING
        if num_threads not in self._servers and len(self._servers) < MOST_SERVERS:
            try:
                self._servers[num_threads] = _Server(environment, num_threads)
            except OSError as error:  # then the worker cannot be started either, and that is told
                logging.debug("Cannot start a process that forks workers: %s", error)
            return None
        return self._servers.get(num_threads)

    def _drop(self, server: _Server) -> None:
        self._servers = {key: other for key, other in self._servers.items() if other is not server}
        server.close()


class _Server:
    """One server process.

    Args:
        environment: what it is started with.
        cpus: what its workers ask for, or IMPORT_NOTHING.
    """

    def __init__(self, environment: Mapping[str, str], cpus: int) -> None:
        self._channel, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._channel.settimeout(PATIENCE_S)
        self.was_ready = False
        handle = theirs.fileno()
        try:
            self._process = subprocess.Popen(
                [*_command(), gs.CMD_FORK_SERVER, str(handle), str(cpus)],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                start_new_session=True,  # Ctrl-C is meant for the manager
                env=dict(environment),
                pass_fds=[handle],
            )
        except OSError:
            self._channel.close()
            raise
        finally:
            theirs.close()
        threading.Thread(target=self._process.wait, name="wait for fork server", daemon=True).start()

    def fork(self, request: Mapping[str, object], log: int) -> Forked | None:
        """Have it fork; None as long as it is not ready.

        Raises:
            ServerRefusedError: it says no.
            ServerGoneError: it says nothing.
        """
        if not self._is_ready():
            return None
        try:
            socket.send_fds(self._channel, [json.dumps(request).encode()], [log])
        except OSError as error:
            raise ServerGoneError(str(error)) from error
        answer, handles = self._receive()
        process, go = handles
        with suppress(BrokenPipeError):  # it was killed meanwhile, which its handle tells
            os.write(go, GO)
        os.close(go)
        return Forked(answer["pid"], process)

    def close(self) -> None:
        """End the process; what it forked goes on."""
        self._channel.close()
        self._process.send_signal(signal.SIGKILL)  # also if it is frozen: it has nothing to lose

    def _is_ready(self) -> bool:
        if not self.was_ready and select.select([self._channel], [], [], 0)[0]:
            self._receive()
            self.was_ready = True
        return self.was_ready

    def _receive(self) -> tuple[dict[str, int], list[int]]:
        try:
            content, handles, _, _ = socket.recv_fds(
                self._channel, MAX_MESSAGE_BYTES, 2, socket.MSG_CMSG_CLOEXEC
            )
        except OSError as error:
            raise ServerGoneError(str(error)) from error
        if not content:
            raise ServerGoneError("it closed the connection")
        answer = json.loads(content)
        if "refused" in answer:
            raise ServerRefusedError(answer["refused"])
        return answer, handles


def _command() -> list[str]:
    """How this program is started."""
    return list(gs._sis_command())


def worker_arguments(call: Sequence[str]) -> list[str] | None:
    """The arguments of a worker, from the word ``worker`` on.

    Returns:
        None if the call is any other than ours, such as one that a wrapper changed: it must be run as it is.
    """
    command = _command()
    if command != gs.SIS_COMMAND or list(call[: len(command)]) != command:
        return None
    arguments = list(call[len(command) :])
    plain = [gs.CMD_WORKER, *(arguments[3:] if arguments[1:2] == ["--engine"] else arguments[1:])]
    if arguments[:1] != [gs.CMD_WORKER] or len(plain) != len(("worker", "job", "task", "id")):
        return None
    return arguments
