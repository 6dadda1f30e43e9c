"""Settings (``gs``): defaults, each with unit and reason; then settings files; then the environment.

Read once, when the package is imported:

1. the defaults below;
2. every file of the colon-separated list in ``SIS_GLOBAL_SETTINGS_FILE`` (default: ``settings.py`` in the
   current directory; empty: none), executed in the namespace of this module, so that a file can use and
   change the defaults and add names of its own;
3. every environment variable ``SIS_<NAME>``. Workers inherit them.

Functions below may be replaced by a settings file, too.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from sisyphus.hash import short_hash
from sisyphus.states import State
from sisyphus.units import str_to_GB, str_to_hours

if TYPE_CHECKING:
    from sisyphus.engines.base import EngineBase
    from sisyphus.job import Job
    from sisyphus.task import Task


# --- functions ---


def engine() -> EngineBase:
    """Make the engine that runs the tasks; called once in each process, also in workers."""
    assert default_engine is not None, "the package sets it when it is imported"
    return default_engine()


def worker_wrapper(job: Job, task_name: str, call: list[str]) -> list[str]:
    """Return the command that runs a task; put a container command in front here."""
    return call


def on_job_failure(job: Job) -> None:
    """Do something about a job in error; called once for each such job in each pass of the manager."""


def on_job_finished(job: Job) -> None:
    """Do something when a job is seen finished for the first time."""


def update_engine_rqmt(last_rqmt: dict[str, Any], last_usage: dict[str, Any]) -> dict[str, Any]:
    """Return the requirements for the next run after an interruption: what ran out is doubled.

    Args:
        last_rqmt: requirements of the interrupted run; mem in GB, time in hours.
        last_usage: its usage file: ``max`` (rss in GB), ``used_time`` (hours), ``out_of_memory``; may also
            hold ``out_of_time``, what the engine reported.
    """
    updated = dict(last_rqmt)
    requested_hours = str_to_hours(last_rqmt.get("time", 1))
    requested_gb = str_to_GB(last_rqmt.get("mem", 1))
    used_hours = last_usage.get("used_time", 0)
    used_gb = last_usage.get("max", {}).get("rss", 0)
    if last_usage.get("out_of_time") or requested_hours - used_hours < 0.1:
        updated["time"] = requested_hours * 2
    if last_usage.get("out_of_memory") or requested_gb - used_gb < 0.25:
        updated["mem"] = requested_gb * 2
    return updated


def check_engine_limits(current_rqmt: dict[str, Any], task: Task) -> dict[str, Any]:
    """Return the requirements, capped to what the site allows."""
    return current_rqmt


def file_caching(path: str) -> str:
    """Return where a local copy of ``path`` lies; asked in workers for paths marked as cached."""
    logging.info(f"No file caching is set up, used as it is: {path}")
    return path


# --- jobs ---

JOB_USE_TAGS_IN_PATH = False
"""Experimental: append the tags of a job to the name of its directory."""
TEAM_SHARE_DIR: str | None = None
"""Directory in which finished jobs are linked."""
JOB_AUTO_CLEANUP = True
"""Clean finished jobs while the manager runs."""
JOB_CLEANER_INTERVAL = 60
"""Seconds between rounds of cleaning."""
JOB_CLEANER_WORKER = 5
"""Threads that clean."""
JOB_CLEANUP_KEEP_WORK = False
"""Keep ``work/`` when cleaning."""
JOB_CLEANUP_KEEP_INPUT = True
"""Keep ``input/`` when cleaning: the links say what a job was made from."""
JOB_DEFAULT_KEEP_VALUE = 50
"""Keep value of jobs without one, 0 to 99."""
CLEANER_PRINT_ALIAS = True
"""Show aliases in listings of what would be deleted."""
GRAPH_WORKER = 16
"""Without effect, known for settings files of upstream: one thread is fast enough for 10,000 jobs."""
MANAGER_SUBMIT_WORKER = 10
"""Threads that set up and submit jobs."""
JOB_MAX_NUMBER_OF_LOCKS = 100
"""Without effect, known for settings files of upstream."""
MAX_SUBMIT_RETRIES = 3
"""A task submitted more often than this without progress is in retry_error."""
TASK_HEARTBEAT_TIMEOUT: float | None = 600
"""A running task hangs if its log, its usage file and its cpu time stood still for so many seconds, but at
least for three PLOGGING_UPDATE_FILE_PERIODs. It is told; one that can resume is killed and goes on.
None: never."""
SIS_HASH: Callable[[Any], str] = short_hash
"""From arguments to the last part of a job id."""
INCLUDE_CREATOR_STATE = False
"""Pickle the creators of paths, too: job.save then holds all ancestors."""
AUTO_SET_JOB_INIT_ATTRIBUTES = False
"""Deprecated: copy all arguments of a job to attributes."""
JOB_ADD_STACKTRACE_WITH_DEPTH: float = 0
"""Frames recorded for each creation of a job; ``float("inf")`` for all."""
JOB_ADD_STACKTRACE_MAX_COUNT: int | None = 5
"""Creations recorded for each job; None: all."""
SKIP_IS_FINISHED_TIMEOUT = False
"""Without effect, known for settings files of upstream: finished markers count at once."""

# --- places ---

IMPORT_PATHS: list[str] = ["config", "recipe", "recipe/"]
"""Packages, or with a slash at the end directories, that configs and recipes are imported from."""
WORK_DIR = "work"
ALIAS_DIR = "alias"
OUTPUT_DIR = "output"
CONFIG_FILE_DEFAULT = "config.py"
CONFIG_FUNCTION_DEFAULT = "config.main"
ALIAS_AND_OUTPUT_SUBDIR = ""
"""Put in front of the names of aliases and outputs; configs may change it while they build their graph."""
FINISHED_LOG: str | None = "log/finished.log"
"""Journal of finished outputs; falsy: none."""
TMP_PREFIX = os.path.join(os.environ.get("TMPDIR") or "/tmp", "sis_")
"""How the paths of ``tk.mktemp`` begin."""

# --- waiting, in seconds: one disk needs none of it; a network file system shows files late ---

WAIT_PERIOD_JOB_FS_SYNC = 30
"""How late a file may appear on another machine."""
WAIT_PERIOD_BETWEEN_CHECKS = 30
"""Longest time between two passes of the manager; events on this machine wake it earlier."""
WAIT_PERIOD_CACHE = 20
"""Before the manager leaves because nothing can run: the time until its last look."""
WAIT_PERIOD_SSH_TIMEOUT = 15
"""Between attempts to reach a gateway."""
WAIT_PERIOD_QSTAT_PARSING = 15
"""Between attempts to read the state of a queue."""
WAIT_PERIOD_HTTP_RETRY_BIND = 10
"""Between attempts to get the port of the web server."""
WAIT_PERIOD_JOB_CLEANUP = 10
"""How long a worker may need to end after its task."""
WAIT_PERIOD_MTIME_OF_INPUTS = 60
"""Least age of an input when a task starts, on network file systems."""
WAIT_PERIOD_FOR_INPUTS_AVAILABLE = 60
"""How long a task waits for its inputs to appear."""
TASK_INPUTS_MUST_BE_AVAILABLE = True
"""A task fails if an input does not appear; otherwise it warns."""
FILESYSTEM_CACHE_TIME = 30
"""How long listings and id lookups may be remembered."""

# --- what the manager shows and does ---

ONE_MANAGER = True
"""Refuse to start a manager while another one works in the same work folder."""
MANAGER_HEARTBEAT = 20
"""Seconds between two signs of life, for managers on other machines."""
MANAGER_DEAD_AFTER = 300
"""A manager on another machine without signs of life for so many seconds is taken for dead."""
CLEAR_ERROR = False
"""Move every job in error aside and run it again, in each pass."""
PRINT_ERROR = True
PRINT_ERROR_TASKS = 1
PRINT_ERROR_LINES = 40
PRINT_HOLD = True
PRINT_STALE_STATE_OVERVIEW_PERIOD: float | None = None
"""Repeat the overview after so many seconds without a change."""
PRINT_OLD_LOG_FILE_RUNNING: float | None = None
"""Show the age of a running job's log when it is older than so many seconds."""
SHOW_JOB_TARGETS: bool | int = True
"""Name the targets that need a job; an integer limits how many."""
SHOW_VIS_NAME_IN_MANAGER = True
WARNING_NO_FUNCTION_CALLED = True
WARNING_ABSPATH = True
ENGINE_NOT_SETUP_WARNING = True
VIS_RELATIVE_MERGE_THRESHOLD = 0.25
VIS_ABSOLUTE_MERGE_THRESHOLD = 5
VIS_TIMEOUT = 5
VIS_MAX_NODES_PER_VIEW = 500
USE_UI = True
USE_VERBOSE_TRACEBACK = True
"""On a terminal, show errors in configs with the values of variables."""
VERBOSE_TRACEBACK_TYPE = "ipython"
"""Upstream's choice of a library for that; without meaning here."""
USE_SIGNAL_HANDLERS = False
"""Write the stacks of all threads on SIGUSR1 and SIGUSR2."""
MEMORY_PROFILE_LOG: str | None = None
"""Log of the manager's memory, by tracemalloc."""

# --- workers ---

PLOGGING_INTERVAL = 5
"""Seconds between two measurements of a task's processes."""
PLOGGING_QUIET = False
PLOGGING_MIN_CHANGE = 0.1
"""Relative change of the resident memory that is worth a line in the log."""
PLOGGING_UPDATE_FILE_PERIOD = 60
"""Seconds between two writes of the usage file."""
RECORD_OUTPUT_HASHES = False
"""Note the SHA-256 of all outputs when a job finishes, for ``sis verify``; reads each output once."""
SYNC_OUTPUTS = False
"""Force outputs to the disk before a task counts as finished: also a power cut loses nothing then."""
CLEANUP_ENVIRONMENT = True
"""Tasks see only the variables named below, so that results do not depend on a shell's."""
DEFAULT_ENVIRONMENT_KEEP: set[str] = {
    "CUDA_VISIBLE_DEVICES",
    "HOME",
    "PWD",
    "SGE_STDERR_PATH",
    "SGE_TASK_ID",
    "TMP",
    "TMPDIR",
    "USER",
}
DEFAULT_ENVIRONMENT_SET: dict[str, Any] = {
    "LANG": "en_US.UTF-8",
    "MKL_NUM_THREADS": 1,
    "OMP_NUM_THREADS": 1,
    "PATH": ":".join(
        (
            "/usr/local/sbin",
            "/usr/local/bin",
            "/usr/sbin",
            "/usr/bin",
            "/sbin",
            "/bin",
            "/usr/games",
            "/usr/local/games",
            "/snap/bin",
        )
    ),
    "SHELL": "/bin/bash",
}
"""Texts may name variables of the original environment: ``$HOME/bin``."""

FORK_SERVER = True
"""On this machine, start tasks by forking a process that has imported what they need, where that is safe."""
FORK_SERVER_PRELOAD: list[str] = []
"""Modules that this process imports beforehand, such as ``torch``: tasks that use them start the earlier.

They must not start threads or touch a GPU when they are imported (then this has no effect, and a warning says
so), and must not read variables there that jobs set for themselves (such jobs are started as programs)."""

# --- reading values ---

CACHE_FINISHED_RESULTS = False
"""Remember finished jobs, available paths and small values between runs of the manager."""
CACHE_FINISHED_RESULTS_PATH = "finished_results_cache.pkl"
CACHE_FINISHED_RESULTS_MAX_SIZE = 1024
"""Largest value remembered, in bytes of its file."""
DELAYED_CHECK_FOR_WORKER = False
"""Forbid reading values while the graph is built."""
LEGACY_PATH_CONVERSION = False
LEGACY_VARIABLE_CONVERSION = False
RAISE_VARIABLE_NOT_SET_EXCEPTION = True

# --- names that are part of the format: not meant to be changed ---

JOB_OUTPUT = "output"
JOB_INPUT = "input"
JOB_LOG = "log"
JOB_LOG_ENGINE = "engine"
JOB_SAVE = "job.save"
JOB_WORK_DIR = "work"
JOB_FINISHED_MARKER = "finished"
JOB_FINISHED_ARCHIVE = "finished.tar.gz"
JOB_INFO = "info"
ENGINE_LOG = "log"
ENGINE_SUBMIT = "submit_log"
PLOGGING_FILE = "usage"
CONFIG_PREFIX = "config"
RECIPE_PREFIX = "recipe"
GLOBAL_SETTINGS_FILE_DEFAULT = "settings.py"
CMD_WORKER = "worker"
CMD_FORK_SERVER = "fork_server"
TEST_DIR = "tests"
ENVIRONMENT_SETTINGS_PREFIX = "SIS_"

STATE_WAITING = State.WAITING.value
STATE_RUNNABLE = State.RUNNABLE.value
STATE_HOLD = State.HOLD.value
STATE_QUEUE = State.QUEUE.value
STATE_RUNNING = State.RUNNING.value
STATE_QUEUE_ERROR = State.QUEUE_ERROR.value
STATE_UNKNOWN = State.UNKNOWN.value
STATE_INTERRUPTED_RESUMABLE = State.INTERRUPTED_RESUMABLE.value
STATE_INTERRUPTED_NOT_RESUMABLE = State.INTERRUPTED_NOT_RESUMABLE.value
STATE_RETRY_ERROR = State.RETRY_ERROR.value
STATE_ERROR = State.ERROR.value
STATE_FINISHED = State.FINISHED.value
STATE_INPUT_PATH = State.INPUT_PATH.value
STATE_INPUT_MISSING = State.INPUT_MISSING.value

SISYPHUS_LOGO = r"""
        _        _____  _____ _______     _______  _    _ _    _  _____
   ____/ |      / ____||_   _/ ____\ \   / /  __ \| |  | | |  | |/ ____|
  /  ()  |     | (___    | || (___  \ \_/ /| |__) | |__| | |  | | (___
 |       |      \___ \   | | \___ \  \   / |  ___/|  __  | |  | |\___ \
  \_____/       ____) | _| |_____) |  | |  | |    | |  | | |__| |____) |
   /  |        |_____/ |_____|____/   |_|  |_|    |_|  |_|\____/|_____/
"""
"""Shown above the help."""

# --- this process ---

BASE_DIR = os.getcwd()
"""Directory the process was started in; relative paths are relative to it."""
default_engine: Callable[[], EngineBase] | None = None
"""Makes the engine where the settings name none. The package puts it here (``engines/default.py``): engines
stand on the settings, which therefore import none."""
active_engine: EngineBase | None = None
"""In a worker the engine that it runs under."""
ENVIRONMENT_SETTINGS: dict[str, Any] = {}
"""What came from the environment."""
GLOBAL_SETTINGS_FILE_CONTENT = ""
"""Everything that was read beside the defaults, for the record."""


def _sis_command() -> list[str]:
    """How to start this program again, for workers."""
    script = sys.argv[0] if sys.argv else ""
    if os.path.basename(script) in ("sis", "sisyphus"):
        return [sys.executable, script]
    # started as a module, or from a script, a test or a console, which cannot play the worker
    return [sys.executable, "-m", "sisyphus"]


SIS_COMMAND: list[str] | str = _sis_command()
"""How to start ourselves: a list, or a text that is split as a shell would."""


def _read_settings_files(namespace: dict[str, Any]) -> str:
    """Execute the settings files; returns what they held."""
    content = ""
    files = os.environ.get(ENVIRONMENT_SETTINGS_PREFIX + "GLOBAL_SETTINGS_FILE", GLOBAL_SETTINGS_FILE_DEFAULT)
    for name in filter(None, files.split(":")):
        try:
            with open(name, encoding="utf-8") as file:
                source = file.read()
        except FileNotFoundError:
            # a logger of its own: the functions of the module would set up logging, in the importing program
            logger = logging.getLogger(__name__)
            logger.warning(f"Settings file does not exist, defaults are used: {os.path.abspath(name)}")
            continue
        content += f"##### Settings file: {name} #####\n{source}\n"
        exec(compile(source, os.path.abspath(name), "exec"), namespace)
    return content


def _read_environment(namespace: dict[str, Any]) -> str:
    """Take over ``SIS_<NAME>`` variables; returns what they held."""
    import ast

    content = "##### Settings from environment #####\n"
    for variable, text in sorted(os.environ.items()):
        if not variable.startswith(ENVIRONMENT_SETTINGS_PREFIX):
            continue
        name = variable.removeprefix(ENVIRONMENT_SETTINGS_PREFIX)
        value: Any
        try:
            value = ast.literal_eval(text)
        except (ValueError, SyntaxError):
            value = text.split(":") if name == "IMPORT_PATHS" else text
        ENVIRONMENT_SETTINGS[name] = namespace[name] = value
        content += f"{name} = {value!r}\n"
    return content


GLOBAL_SETTINGS_FILE_CONTENT = _read_settings_files(globals()) + _read_environment(globals())
