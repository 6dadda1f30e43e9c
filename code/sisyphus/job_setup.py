"""Setting up the folder of a job, and what its ``info`` file says."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from sisyphus.errors import VariableNotSet
from sisyphus.records.recipe_state import made_with

if TYPE_CHECKING:
    from sisyphus.job import Job


def set_up(job: Job) -> None:
    """Make the folder ready for tasks: directories, links to the jobs of inputs, info, the saved job."""
    folder = job._sis_dir
    creators = {path.creator for path in job._sis_inputs if hasattr(path.creator, "_sis_id")}
    folder.make(sorted(job._sis_output_dirs))
    folder.link_inputs({creator._sis_id(): creator._sis_path() for creator in creators})
    folder.write_info(info_lines(job))
    job._sis_made_with = made_with(job)
    folder.write_save(job)


def info_lines(job: Job) -> Iterator[str]:
    """What the job was made from, as text."""
    yield from (f"TAG: {tag}" for tag in sorted(job._sis_tags))
    yield from (f"INPUT: {path}" for path in sorted(path.get_path() for path in job._sis_inputs))
    yield from (f"PARAMETER: {name}: {_text(value)}" for name, value in sorted(job._sis_kwargs.items()))
    yield from (f"ALIAS: {alias}" for alias in sorted(job._sis_aliases or ()))
    for stack in job._sis_stacktrace:
        yield from ("STACKTRACE:", *stack)
    suppressed = job._sis_num_creations - len(job._sis_stacktrace)
    if job._sis_stacktrace and suppressed > 0:
        yield f"STACKTRACE: ... ({suppressed} more invocations are suppressed)"


def _text(value: object) -> str:
    """``str(value)``, or its type where the value is not readable now: the info file is no reason to fail."""
    try:
        return str(value)
    except (
        ArithmeticError,
        AssertionError,
        AttributeError,
        LookupError,
        OSError,
        TypeError,
        ValueError,
        RuntimeError,
    ):
        return f"<{type(value).__name__}>"
    except VariableNotSet:
        return f"<{type(value).__name__}, not set>"
