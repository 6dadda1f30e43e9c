"""Job: the class that recipes derive from."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Iterator, Mapping
from functools import total_ordering
from typing import TYPE_CHECKING, Any, ClassVar, Self

from sisyphus import global_settings as gs
from sisyphus import job_setup, job_status, tools
from sisyphus.configs import origin
from sisyphus.job_dir import JobDir
from sisyphus.job_identity import JobSingleton, created_jobs, default_hash, restore_job
from sisyphus.job_path import AbstractPath, Path, Variable
from sisyphus.results_cache import finished_results_cache
from sisyphus.task import Task

if TYPE_CHECKING:
    from sisyphus.block import Block
    from sisyphus.engines.base import EngineBase
    from sisyphus.managing.failures import Failure

__all__ = ["Job", "JobSingleton", "created_jobs", "job_finished"]

_NOT_PICKLED = frozenset(
    {
        *("_sis_blocks", "_sis_worker_wrapper", "_sis_task_cache", "_sis_available_inputs", "_sis_broken"),
        "_sis_needed_for_which_targets",
    }
)


def job_finished(path: str) -> bool:
    """Whether the job folder ``path`` holds a finished job."""
    return JobDir(path).is_finished()


@total_ordering
class Job(metaclass=JobSingleton):
    """One step of an experiment: arguments in, outputs out, computed once.

    Derive from it, define ``__init__`` (store arguments, name outputs) and ``tasks`` (the methods to run).
    Calling the class with the same arguments always returns the same object.
    """

    __sis_version__: ClassVar[Any] = None
    __sis_hash_exclude__: ClassVar[Mapping[str, Any]] = {}
    __sis_hash_overwrite__: ClassVar[Iterable[tuple[str, Any, Any]]] = ()

    _sis_id_cache: str
    _sis_aliases: set[str] | None = None
    _sis_vis_name: str | None = None
    _sis_keep_value: int | None = None
    _sis_is_finished = False
    _sis_broken: str | None = None
    _sis_hold_asked = False
    _sis_setup_since_restart = False
    _sis_num_inputs_updated = -1
    _sis_task_cache: list[Task] | None = None
    _sis_origin: origin.Origin | None = None
    _sis_num_creations = 0
    _sis_made_with: Mapping[str, Any] = {}
    _sis_needed_for_which_targets: set[str] | None = None

    # --- what recipes override ------------------------------------------------------------------------------

    def tasks(self) -> Iterator[Task]:
        """Yield the tasks, in the order in which they run."""
        yield Task("run")

    def update(self) -> None:
        """Add inputs that depend on other inputs; called when all inputs so far are there.

        Must be cheap and repeatable; runs in the process that builds the graph.
        """

    def info(self) -> str | None:
        """Return a text shown while the job runs."""
        return None

    def completed_fraction(self) -> float | None:
        """Return how much is done, 0 to 1; None if that is not known."""
        return None

    def on_failure(self, failure: Failure) -> None:
        """Decide what becomes of a failed task: ``failure.retry(...)``, or leave it to a person.

        Called once for each failure, in the process that builds the graph.

        Args:
            failure: the task, its log, what it used, and how often it was run again.
        """

    @classmethod
    def hash(cls, parsed_args: dict[str, Any]) -> str:
        """Return the last part of the id.

        Args:
            parsed_args: values of all parameters of ``__init__``; a copy that may be changed.
        """
        return default_hash(cls, parsed_args)

    def path_available(self, path: AbstractPath) -> bool:
        """Whether this output may be used already; by default all are once the job is finished."""
        return self._sis_finished()

    # --- what recipes and configs call ----------------------------------------------------------------------

    def output_path(self, filename: str, directory: bool = False, cached: bool = False) -> Path:
        """Return a new output.

        Args:
            filename: relative to the output directory.
            directory: make it as a directory before the job runs.
            cached: later jobs may read a local copy.
        """
        path = Path(filename, self, cached)
        place = path.get_path()
        known = self._sis_outputs.get(place)
        if known is not None:
            logging.warning(f"{self}: the output {filename!r} is declared twice")
            return known  # type: ignore[return-value]
        if directory:
            self._sis_output_dirs.add(filename)
        self._sis_outputs[place] = path
        return path

    def output_var(self, filename: str, pickle: bool = False, backup: Any = None) -> Variable:
        """Return a new output that holds a value.

        Args:
            filename: relative to the output directory.
            pickle: store any object instead of readable text.
            backup: value as long as it is not set.
        """
        variable = Variable(filename, self, pickle, backup)
        place = variable.get_path()
        if place in self._sis_outputs:
            raise AssertionError(
                f"{self}: the output {filename!r} is declared twice. Give each variable its own name."
            )
        self._sis_outputs[place] = variable
        return variable

    def add_input(self, path: AbstractPath) -> AbstractPath:
        """Make ``path`` an input; returns it."""
        if path.creator is not self:
            self._sis_inputs.add(path)
            path.add_user(self)
        return path

    def add_alias(self, name: str) -> Self:
        """Give the job a readable name below ``alias/``; it may have several."""
        self._sis_aliases = {*(self._sis_aliases or ()), name}
        return self

    def get_aliases(self) -> set[str] | None:
        """Return all aliases, None without any."""
        return self._sis_aliases

    def get_one_alias(self) -> str | None:
        """Return one of the aliases, always the same."""
        return min(self._sis_aliases) if self._sis_aliases else None

    def set_vis_name(self, name: str) -> Self:
        """Set a name for display."""
        self._sis_vis_name = name
        return self

    def get_vis_name(self) -> str | None:
        """Return the name for display."""
        return self._sis_vis_name

    def keep_value(self, value: int | None = None) -> int | None:
        """Return how much this should be kept when cleaning, after setting it if one is given (0 to 99)."""
        if value is not None:
            if not 0 <= value < 100:
                raise AssertionError(f"{self}: keep value must be 0 to 99, got {value!r}")
            self._sis_keep_value = value
        return self._sis_keep_value

    def set_keep_value(self, value: int) -> Self:
        """Set how much this should be kept when cleaning, 0 to 99."""
        self.keep_value(value)
        return self

    def set_rqmt(self, task_name: str, rqmt: Mapping[str, Any]) -> Self:
        """Replace the requirements of a task."""
        return self._sis_overwrite_rqmt(task_name, "replace", rqmt)

    def update_rqmt(self, task_name: str, rqmt: Mapping[str, Any]) -> Self:
        """Change some requirements of a task: cpu, gpu, mem (GB), time (hours)."""
        return self._sis_overwrite_rqmt(task_name, "extend", rqmt)

    def set_env(self, key: str, value: Any, verbatim: bool = True) -> None:
        """Set an environment variable for the tasks; unless verbatim, ``$NAME`` is replaced there."""
        self._sis_environment.set(key, value, verbatim)

    def sh(self, command: str, capture_output: bool = False, *args: Any, **kwargs: Any) -> str | None:
        """Run a shell command, see ``tools.sh``; ``{name}`` stands for attributes of the job."""
        return tools.sh(command, capture_output, *args, **{"sis_replace": self.__dict__, **kwargs})

    def set_attrs(self, attrs: Mapping[str, Any]) -> None:
        """Set attributes, e.g. from ``locals()``; ``self`` is left out."""
        for name, value in attrs.items():
            if name == "self" or name == "__class__":
                continue
            if hasattr(self, name):
                logging.warning(f"{self}: attribute {name!r} exists already and is replaced")
            setattr(self, name, value)

    def set_default(self, name: str, value: Any) -> None:
        """Set an attribute that is None; deprecated: give the parameter its default."""
        logging.warning(f"{self}: set_default is deprecated, give the parameter {name!r} its default value")
        if getattr(self, name, None) is None:
            setattr(self, name, value)

    def hold(self) -> None:
        """Do not start this job."""
        self._sis_hold_asked = True

    def job_id(self) -> str:
        """Return the id."""
        return self._sis_id()

    def work_path(self) -> str:
        """Return the directory in which the tasks run, relative to the project."""
        return self._sis_path(gs.JOB_WORK_DIR)

    @property
    def tags(self) -> set[str]:
        """Labels, given at creation or inherited from inputs."""
        return self._sis_tags

    # --- creation -------------------------------------------------------------------------------------------

    def _sis_init(
        self,
        job_id: str,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        parsed_args: dict[str, Any],
        tags: set[str] | None,
    ) -> None:
        """Set up a new object; arguments belong to it alone."""
        self._sis_id_cache = job_id
        self._sis_kwargs = parsed_args
        self._sis_inputs: set[AbstractPath] = set()
        self._sis_outputs: dict[str, AbstractPath] = {}
        self._sis_output_dirs: set[str] = set()
        self._sis_alias_prefixes: set[str] = set()
        self._sis_environment = tools.EnvironmentModifier()
        self._sis_stacktrace: list[list[str]] = []
        self._sis_rqmt_overwrites: dict[str, tuple[str, dict[str, Any]]] = {}
        self._sis_init_transient()
        self._sis_origin = origin.find_origin()
        given = tools.extract_paths((args, kwargs))
        self._sis_tags: set[str] = tags if tags is not None else {tag for path in given for tag in path.tags}
        if gs.AUTO_SET_JOB_INIT_ATTRIBUTES:
            self.set_attrs(parsed_args)
        self.__init__(*args, **kwargs)  # type: ignore[misc]
        for path in given:
            self.add_input(path)
        self._sis_collect_inputs()

    def _sis_init_transient(self) -> None:
        """Set what is not pickled."""
        self._sis_blocks: set[Block] = set()
        self._sis_worker_wrapper = gs.worker_wrapper
        self._sis_available_inputs: set[int] = set()
        self._sis_task_cache = None

    def _sis_collect_inputs(self) -> None:
        for path in tools.extract_paths(self.__dict__):
            self.add_input(path)

    def _sis_note_creation(self, blocks: Iterable[Block], alias_prefix: str) -> None:
        """Note that the job was asked for, for the first time or again."""
        for block in blocks:
            block.add_job(self)
        self._sis_alias_prefixes.add(alias_prefix)
        if not gs.JOB_ADD_STACKTRACE_WITH_DEPTH:
            return
        self._sis_num_creations += 1
        if (
            gs.JOB_ADD_STACKTRACE_MAX_COUNT is None
            or len(self._sis_stacktrace) < gs.JOB_ADD_STACKTRACE_MAX_COUNT
        ):
            self._sis_stacktrace.append(origin.stack_lines(gs.JOB_ADD_STACKTRACE_WITH_DEPTH))

    @property
    def _sis_created_at(self) -> str:
        """The line of a config that made the job, e.g. ``config/quickstart.py:41 in py``."""
        return origin.show(self._sis_origin)

    # --- identity -------------------------------------------------------------------------------------------

    def _sis_id(self) -> str:
        return self._sis_id_cache

    def _sis_hash(self) -> bytes:
        return self._sis_id_cache.encode("utf-8")

    def __hash__(self) -> int:
        return hash(self._sis_id_cache)

    def __eq__(self, other: object) -> bool:
        if self is other:
            return True
        return type(self) is type(other) and self._sis_id_cache == other._sis_id_cache

    def __lt__(self, other: Job) -> bool:
        return self._sis_id_cache < other._sis_id_cache

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        return self

    def __str__(self) -> str:
        alias = self.get_one_alias()
        if alias is None:
            return f"Job<{self._sis_path()}>"
        prefix = min(self._sis_alias_prefixes, default="")
        return f"Job<{os.path.join(gs.ALIAS_DIR, prefix, alias)} {self._sis_path()}>"

    __repr__ = __str__

    def __reduce__(self) -> tuple[Any, ...]:
        return restore_job, (type(self), self._sis_id_cache), self.__getstate__()

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name not in _NOT_PICKLED}

    def __setstate__(self, state: dict[str, Any]) -> None:
        if created_jobs.get(self._sis_id_cache) is self:
            return
        self.__dict__.update(state)
        self._sis_init_transient()
        for path in self._sis_outputs.values():
            path.cached = False  # a job writes its outputs where they belong

    # --- folder ---------------------------------------------------------------------------------------------

    def _sis_path(
        self, path_type: str | None = None, task_id: int | None = None, abspath: bool = False
    ) -> str:
        """Return the path of the folder, or of something inside."""
        path = f"{gs.WORK_DIR}/{self._sis_id_cache}"
        if gs.JOB_USE_TAGS_IN_PATH and self._sis_tags:
            path += "." + ".".join(sorted(self._sis_tags))[:80]
        if path_type is not None:
            path = f"{path}/{path_type}" if task_id is None else f"{path}/{path_type}.{task_id}"
        return os.path.join(gs.BASE_DIR, path) if abspath else path

    @property
    def _sis_dir(self) -> JobDir:
        return JobDir(self._sis_path())

    def _sis_setup_directory(self, force: bool = False) -> None:
        """Make the folder ready for tasks; once in each process unless forced, or if it is gone."""
        if self._sis_setup_since_restart and not force and self._sis_setup():
            return
        job_setup.set_up(self)
        self._sis_setup_since_restart = True

    def _sis_setup(self) -> bool:
        """Whether the folder is there."""
        return self._sis_dir.exists()

    def _sis_move(self) -> None:
        """Move the folder aside, so that the job starts anew."""
        aside = self._sis_dir.move_aside()
        logging.info(f"Moved {self._sis_path()} to {aside}")
        self._sis_forget()

    def _sis_delete(self) -> None:
        """Remove the folder."""
        self._sis_dir.delete()
        self._sis_forget()

    def _sis_forget(self) -> None:
        self._sis_is_finished = False
        self._sis_broken = None
        self._sis_setup_since_restart = False
        self._sis_task_cache = None
        finished_results_cache.forget_job(self._sis_path())

    def _sis_cleanup(self) -> None:
        """Remove ``work/`` and pack the rest, apart from outputs."""
        from sisyphus.cleaning.job_archive import clean

        clean(self._sis_dir, keep_work=gs.JOB_CLEANUP_KEEP_WORK, keep_input=gs.JOB_CLEANUP_KEEP_INPUT)

    # --- state ----------------------------------------------------------------------------------------------

    def _sis_finished(self) -> bool:
        return job_status.is_finished(self)

    def _sis_runnable(self) -> bool:
        return job_status.is_runnable(self)

    def _sis_all_path_available(self) -> bool:
        return job_status.inputs_available(self)

    def _sis_state(self, engine: EngineBase | None) -> str:
        return job_status.job_state(self, engine)

    def _sis_next_task(self) -> Task | None:
        return job_status.next_task(self)

    def _sis_has_updates(self) -> bool:
        return type(self).update is not Job.update

    # --- tasks ----------------------------------------------------------------------------------------------

    def _sis_overwrite_rqmt(self, task_name: str, how: str, rqmt: Mapping[str, Any]) -> Self:
        self._sis_rqmt_overwrites[task_name] = (how, dict(rqmt))
        self._sis_task_cache = None
        return self

    def _sis_change_rqmt(self, task_name: str, rqmt: Mapping[str, Any]) -> None:
        """Change some requirements, and keep what the config changed before."""
        how, before = self._sis_rqmt_overwrites.get(task_name, ("extend", {}))
        self._sis_overwrite_rqmt(task_name, how, {**before, **rqmt})

    def _sis_tasks(self) -> list[Task]:
        """Return the tasks, with overwritten requirements; the recipe's method is called once."""
        if self._sis_task_cache is None:
            tasks = list(self.tasks())
            if not tasks:
                raise AssertionError(
                    f"{self} has no tasks: {type(self).__name__}.tasks() must yield at least one Task"
                )
            for task in tasks:
                task.set_job(self)
                how, rqmt = self._sis_rqmt_overwrites.get(task.name(), ("extend", {}))
                (task.set_rqmt if how == "replace" else task.extend_rqmt)(rqmt)
            self._sis_task_cache = tasks
        return self._sis_task_cache
