"""Several processes that share a list of work.

For arithmetic in pieces so short that threads would wait for the interpreter's lock half of the time.
"""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import pickle
import signal
import sys
import warnings
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection
from typing import Any, TypeVar

from merging.errors import MergingError

Item = TypeVar("Item")
Result = TypeVar("Result")

_DIE_WITH_PARENT = 1  # PR_SET_PDEATHSIG of Linux


def can_fork() -> bool:
    """Whether processes can be made of this one, with everything that it has opened."""
    return sys.platform == "linux"


def map_in_processes(
    function: Callable[[Sequence[Item]], Result],
    items: Sequence[Item],
    sizes: Sequence[int],
    num_processes: int,
) -> list[Result]:
    """Give each process a share of the items; this one takes a share, too.

    A process begins as a copy of this one, so nothing has to be sent to it; what it changes in memory is lost
    but for what ``function`` returns, while what it writes into open files stays.

    Args:
        function: works at a share; its result can be pickled.
        items: the work.
        sizes: how much work each item is.
        num_processes: 1 or more; this one is among them.

    Returns:
        A result for each share.

    Raises:
        Exception: that of the first share that failed; the other processes are ended.
        MergingError: a process was killed.
    """
    shares = _shares(items, sizes, num_processes)
    context = multiprocessing.get_context("fork")
    children = []
    for share in shares[1:]:
        mine, theirs = context.Pipe(duplex=False)
        child = context.Process(target=_work, args=(function, share, theirs, os.getpid()), daemon=True)
        with warnings.catch_warnings():  # other threads of this process are not at work while it is copied
            warnings.simplefilter("ignore", DeprecationWarning)
            child.start()
        theirs.close()
        children.append((child, mine))
    try:
        results = [function(shares[0])]
        for child, connection in children:
            results.append(_receive(child, connection))
    finally:
        for child, connection in children:
            connection.close()
            child.terminate()
            child.join()
    return results


def _shares(items: Sequence[Item], sizes: Sequence[int], num_shares: int) -> list[list[Item]]:
    """About equal amounts of work: the largest items first, each to whoever has least; in the given order."""
    loads = [0] * num_shares
    owner = {}
    for number in sorted(range(len(items)), key=lambda number: -sizes[number]):
        owner[number] = loads.index(min(loads))
        loads[owner[number]] += sizes[number]
    return [
        [item for number, item in enumerate(items) if owner[number] == share] for share in range(num_shares)
    ]


def _work(function: Callable[[Any], Any], share: Any, connection: Connection, parent: int) -> None:
    """What a child does: its share, then the answer."""
    ctypes.CDLL(None).prctl(_DIE_WITH_PARENT, signal.SIGKILL)
    if os.getppid() != parent:  # it was killed before it could be watched
        os._exit(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the parent, which ends its children
    try:
        answer: tuple[bool, Any] = (True, function(share))
    except Exception as error:  # noqa: BLE001 - raised again in the parent
        answer = (False, error)
    connection.send_bytes(pickle.dumps(answer))  # by send(), tensors would end with this process
    connection.close()


def _receive(child: Any, connection: Connection) -> Any:
    try:
        is_result, value = pickle.loads(connection.recv_bytes())
    except EOFError as error:
        child.join()
        raise MergingError(
            f"a process of the merge was killed (exit code {child.exitcode}), most likely because memory ran "
            "out. Run it again with a smaller max_memory or num_threads; finished files are used again."
        ) from error
    if is_result:
        return value
    raise value
