"""Targets: what the graph is computed for, and what happens when it is there."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

from sisyphus import global_settings as gs
from sisyphus.atomic_files import write_atomically
from sisyphus.outputs import links
from sisyphus.paths.extract import extract_paths

if TYPE_CHECKING:
    from sisyphus.job_path import AbstractPath

WriteOutput = Callable[[str, "AbstractPath"], Any]
"""Publishes a finished output under a name."""


class OutputTarget:
    """Paths that are wanted.

    Args:
        name: for people.
        inputs: value in which the wanted paths stand.
    """

    def __init__(self, name: str, inputs: Any) -> None:
        self.name = name
        self.was_run = False
        self.failure: str | None = None
        """Why a report could not be made, or a callback failed."""
        self.required_full_list: list[AbstractPath] = []
        self.required: set[AbstractPath] = set()
        self._require(inputs)

    def _require(self, inputs: Any) -> None:
        self.required_full_list = sorted(extract_paths(inputs))
        self.required = set(self.required_full_list)

    def update_requirements(self) -> None:
        """Strike out what is there by now."""
        self.required = {path for path in self.required if not path.available()}

    def is_done(self) -> bool:
        """Whether everything wanted was there when last looked at."""
        return not self.required

    def run_when_done(self, write_output: WriteOutput | None = None) -> None:
        """Do what is to be done once; ``write_output`` replaces the usual links below ``output/``."""
        self.was_run = True

    def note_failure(self, error: Exception) -> None:
        """Tell of an error in the code of a config; the jobs go on."""
        self.failure = f"{type(error).__name__}: {error}"
        logging.error(f"{self.name} failed", exc_info=error)

    def __fspath__(self) -> str:
        return self.name

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.name}>"


class OutputPath(OutputTarget):
    """A path that is linked below ``output/`` when it is there."""

    def __init__(self, output_path: str, sis_path: AbstractPath) -> None:
        super().__init__(output_path, sis_path)
        self.sis_path = sis_path
        self.place = os.path.join(gs.ALIAS_AND_OUTPUT_SUBDIR, output_path)
        """Where it is seen below ``output/``, by the settings at its registration."""
        # a job remembers all prefixes that it was made under; a path without a job has but this one
        self._linked_name = self.place if sis_path.creator is None else output_path

    def run_when_done(self, write_output: WriteOutput | None = None) -> None:
        """Make the links, or renew them."""
        super().run_when_done()
        (write_output or links.update_output)(self._linked_name, self.sis_path)

    def links(self) -> list[str]:
        """Return where it is linked: once for each prefix that its job was made under."""
        return links.output_links(self._linked_name, self.sis_path)

    def _key(self) -> tuple[str, AbstractPath]:
        return self._linked_name, self.sis_path

    def __eq__(self, other: object) -> bool:
        return isinstance(other, OutputPath) and self._key() == other._key()

    def __hash__(self) -> int:
        return hash(self._key())


class OutputReport(OutputTarget):
    """A text file below ``output/`` that is rewritten while its values come in.

    Args:
        output_path: name below ``output/``.
        report_values: what is reported: a value, or a function without arguments that returns the text.
        report_template: format text, filled with the values (then a dict).
        required: paths that the report waits for; default: all in the values.
        update_frequency: seconds between two versions before it is complete.
    """

    def __init__(
        self,
        output_path: str,
        report_values: Any,
        report_template: str | None = None,
        required: Any = None,
        update_frequency: float = 300,
    ) -> None:
        name = os.path.join(gs.ALIAS_AND_OUTPUT_SUBDIR, output_path)
        super().__init__(name, report_values if required is None else required)
        self._waits_for_values = required is None
        self._values = report_values
        self._template = report_template
        self._update_frequency = update_frequency
        self._written_at = float("-inf")

    def update_values(self, report_values: Any) -> None:
        """Report something else from now on."""
        self._values = report_values
        if self._waits_for_values:
            self._require(report_values)
        self._written_at = float("-inf")

    def text(self) -> str:
        """Return the text as it is now."""
        if self._template is not None:
            return self._template.format(**self._values)
        if callable(self._values) and not hasattr(self._values, "get"):
            return str(self._values())
        import pprint

        return pprint.pformat(self._values, width=140)

    def update_requirements(self) -> None:
        """Strike out what is there by now; write a preliminary version if the last one is old enough."""
        super().update_requirements()
        if self.required and time.monotonic() - self._written_at >= self._update_frequency:
            self._write()

    def run_when_done(self, write_output: WriteOutput | None = None) -> None:
        """Write the complete report."""
        super().run_when_done()
        self._write()

    def _write(self) -> None:
        self._written_at = time.monotonic()
        path = os.path.join(gs.OUTPUT_DIR, self.name)
        try:
            text = self.text()
        except Exception as error:  # noqa: BLE001 - values and functions of a config
            if self.required:
                logging.debug(f"The report {path} cannot be made yet: {error!r}")
            else:
                self.note_failure(error)
            return
        self.failure = None
        try:
            links.make_directories(os.path.dirname(path))
            write_atomically(path, text.encode("utf-8"))
        except OSError as error:
            logging.warning(f"Cannot write the report {path}: {error}")


class OutputCall(OutputTarget):
    """A function that is called once, when all paths in its arguments are there."""

    _num_made = 0

    def __init__(
        self, f: Callable[..., Any], args: Iterable[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> None:
        OutputCall._num_made += 1
        name = getattr(f, "__qualname__", repr(f))
        self._function = f
        self._args = tuple(args)
        self._kwargs = dict(kwargs or {})
        super().__init__(f"callback_{OutputCall._num_made}_{name}", (self._args, self._kwargs))

    def run_when_done(self, write_output: WriteOutput | None = None) -> None:
        """Call the function, unless it was called before."""
        if self.was_run:
            return
        super().run_when_done()
        logging.debug(f"All inputs are there, calling {self.name}")
        try:
            self._function(*self._args, **self._kwargs)
        except Exception as error:  # noqa: BLE001 - any code of a config
            self.note_failure(error)
