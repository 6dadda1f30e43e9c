"""The process that forks workers: ``sis fork_server``, started by the manager's local engine.

One request, one worker; what is said is in ``messages``.
"""

from __future__ import annotations

import atexit
import gc
import importlib
import io
import json
import os
import signal
import socket
import sys
import threading
from typing import Any, NoReturn

from sisyphus import global_settings as gs
from sisyphus.fork_server import safety
from sisyphus.fork_server.messages import GO, IMPORT_NOTHING, MAX_MESSAGE_BYTES
from sisyphus.job_dir import read_save
from sisyphus.tools import EnvironmentModifier
from sisyphus.worker import Call, set_environment

_OFTEN_USED = ("gzip", "pickle", "pprint", "tarfile", "sisyphus.localengine", "sisyphus.running.monitor")
"""What nearly every worker imports on its way."""


def serve(channel: socket.socket, cpus: int) -> Call | None:
    """Fork a worker for each request, until the manager closes its end.

    Args:
        channel: connected to the manager.
        cpus: what the workers ask for, since modules read their number of threads when they are imported;
            IMPORT_NOTHING leaves out the modules that the settings name.

    Returns:
        In a new worker what it is to run; None in the server, at its end.
    """
    refused = _import_all(cpus) or safety.danger()
    channel.send(json.dumps({"refused": refused} if refused else {}).encode())
    if refused:
        return None
    sources = safety.Sources()
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody collects the ends of workers
    gc.collect()
    gc.freeze()  # the children need not touch, and thereby copy, what is there
    while True:
        content, handles, _, _ = socket.recv_fds(channel, MAX_MESSAGE_BYTES, 1, socket.MSG_CMSG_CLOEXEC)
        if not content:
            return None
        request = json.loads(content)
        changed = sources.changed()
        refused = f"{changed} was changed" if changed else safety.danger()
        if refused:
            channel.send(json.dumps({"refused": refused}).encode())
        elif _fork(channel, handles[0]):
            channel.close()
            _prepare(request, imported=cpus != IMPORT_NOTHING)
            return _worker_call(request["arguments"])
        for handle in handles:
            os.close(handle)


def _import_all(cpus: int) -> str | None:
    """Import what workers need, in the environment that they will have; returns why that is not possible."""
    for name in _OFTEN_USED:
        importlib.import_module(name)
    if cpus == IMPORT_NOTHING:
        return None
    original = dict(os.environ)
    set_environment(EnvironmentModifier(), {"cpu": cpus})
    name = ""
    try:
        for name in gs.FORK_SERVER_PRELOAD:
            importlib.import_module(name)
    except Exception as error:  # noqa: BLE001 - any code may stand behind a module
        return f"{name!r} of FORK_SERVER_PRELOAD cannot be imported: {type(error).__name__}: {error}"
    finally:
        os.environ.clear()
        os.environ.update(original)
    return None


def _fork(channel: socket.socket, log: int) -> bool:
    """Fork, and hand the new process over to the manager; True in the new process, once it may begin."""
    go_reader, go_writer = os.pipe()
    session_reader, session_writer = os.pipe()
    refused = ""
    try:
        pid = os.fork()
    except OSError as error:  # no more processes or memory; the manager meets the same, and says so
        pid, refused = -1, str(error)
    if pid == 0:
        os.setsid()
        for end in (session_reader, session_writer, go_writer):
            os.close(end)
        _begin(go_reader, log)
        return True
    os.close(session_writer)
    if pid > 0:
        os.read(session_reader, 1)  # its end: from now on the process can be killed with its session
        refused = _hand_over(channel, pid, go_writer)
    for end in (session_reader, go_reader, go_writer):
        os.close(end)
    if refused:
        channel.send(json.dumps({"refused": refused}).encode())
    return False


def _hand_over(channel: socket.socket, pid: int, go: int) -> str:
    """Send the manager what it needs; returns why that is not possible."""
    try:
        handle = os.pidfd_open(pid)
    except OSError as error:
        return str(error)
    socket.send_fds(channel, [json.dumps({"pid": pid}).encode()], [handle, go])
    os.close(handle)
    return ""


def _begin(go: int, log: int) -> None:
    """Wait for the manager's word, then write to the log."""
    if os.read(go, len(GO)) != GO:
        os._exit(1)
    os.close(go)
    for stream in (1, 2):
        os.dup2(log, stream)
    os.close(log)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)


def _prepare(request: dict[str, Any], *, imported: bool) -> None:
    """Make this process what it would be, had it been started as a program."""
    if request["devices"] is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = request["devices"]
    sys.argv[1:] = request["arguments"]
    safety.new_random_numbers()
    if imported and _has_own_environment(request["arguments"][-3]):
        os.execv(request["call"][0], request["call"])  # the same process, anew


def _worker_call(arguments: list[str]) -> Call:
    """What ``sis worker`` makes of its arguments, without a parser that takes longer than all else here."""
    *options, job_dir, task_name, task_id = arguments[1:]
    engine_name = options[1] if options else Call.engine_name
    return Call(job_dir=job_dir, task_name=task_name, task_id=int(task_id), engine_name=engine_name)


def leave(code: int) -> NoReturn:
    """End a forked worker as Python ends, but for taking apart what was imported: that takes the longest."""
    threading._shutdown()  # type: ignore[attr-defined]  # waits for threads, as the interpreter does
    atexit._run_exitfuncs()
    for thing in gc.get_objects():
        if isinstance(thing, io.IOBase) and not thing.closed and thing.writable():
            thing.flush()
    os._exit(code)


def _has_own_environment(job_dir: str) -> bool:
    """Whether a job sets variables of its own, which modules should have found when they were imported."""
    try:
        own = read_save(job_dir)._sis_environment
    except Exception:  # noqa: BLE001 - any code of a recipe; the worker meets the same error, and reports it
        return False
    return bool(own.keep_vars or own.set_vars)
