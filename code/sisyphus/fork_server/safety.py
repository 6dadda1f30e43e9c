"""When a process may be forked, and whether it is still what a new one would be."""

from __future__ import annotations

import os
import sys
import warnings

from sisyphus import global_settings as gs

_ENDED = "ended"
_SAFE_THREADS = frozenset({"jemalloc_bg_thd", _ENDED})
"""jemalloc (of pyarrow, which transformers.trainer imports) stops its thread around a fork, and goes on
without it in the child."""


def danger() -> str | None:
    """Say why workers forked from this process might not work; None if nothing speaks against it.

    A thread that does not exist in the child may hold a lock that the child waits for, and a GPU does not
    survive a fork.
    """
    if _num_threads() > 1:
        _stop_threads_of_libraries()
    if _num_threads() > 1:
        return f"what it imported started threads ({_num_threads() - 1} run)"
    for name in os.listdir("/proc/self/fd"):
        try:
            place = os.readlink(f"/proc/self/fd/{name}")
        except FileNotFoundError:  # that of the listing itself
            continue
        if place.startswith("/dev/nvidia"):
            return f"what it imported opened {place}"
    return None


def _num_threads() -> int:
    """Threads of this process, without those whose libraries see to it that a fork is safe."""
    names = [_thread_name(task) for task in os.listdir("/proc/self/task")]
    return sum(name not in _SAFE_THREADS for name in names)


def _thread_name(task: str) -> str:
    try:
        with open(f"/proc/self/task/{task}/comm", encoding="utf-8", errors="replace") as file:
            return file.read().strip()
    except (FileNotFoundError, ProcessLookupError):  # it has just ended
        return _ENDED


def _stop_threads_of_libraries() -> None:
    """Fork once: libraries that are made for it (OpenBLAS) end their threads then, until they are used."""
    with warnings.catch_warnings():
        warnings.simplefilter(
            "ignore", DeprecationWarning
        )  # Python's own, of the danger that is checked here
        pid = os.fork()
    if pid == 0:
        os._exit(0)
    os.waitpid(pid, 0)


def new_random_numbers() -> None:
    """Seed the generators of this process anew: forked workers must not all draw the same numbers.

    Python's own does so by itself. Those named here are seeded by the system when they are imported; one that
    always starts with the same seed is no business of ours.
    """
    numpy_random = sys.modules.get("numpy.random")
    if numpy_random is not None:
        numpy_random.seed()
    torch = sys.modules.get("torch")
    if torch is not None:
        torch.default_generator.seed()


class Sources:
    """The files that this process was made from and that a person may edit: settings and own modules.

    Python's library and installed packages are not among them.
    """

    def __init__(self) -> None:
        self._stamps = {file: _stamp(file) for file in (*_settings_files(), *_own_modules())}

    def changed(self) -> str | None:
        """Name a file that is no longer what it was when this object was made; None if there is none."""
        return next((file for file, stamp in self._stamps.items() if _stamp(file) != stamp), None)


def _settings_files() -> list[str]:
    names = os.environ.get(
        f"{gs.ENVIRONMENT_SETTINGS_PREFIX}GLOBAL_SETTINGS_FILE", gs.GLOBAL_SETTINGS_FILE_DEFAULT
    )
    return [os.path.join(gs.BASE_DIR, name) for name in names.split(":") if name]


def _own_modules() -> list[str]:
    import sysconfig

    places = sysconfig.get_paths()
    installed = tuple(places[key] + os.sep for key in ("stdlib", "platstdlib", "purelib", "platlib"))
    files = {getattr(module, "__file__", None) for module in list(sys.modules.values())}
    return sorted(file for file in files if file and not file.startswith(installed))


def _stamp(file: str) -> tuple[int, int] | None:
    try:
        stat = os.stat(file)
    except OSError:
        return None
    return stat.st_mtime_ns, stat.st_size
