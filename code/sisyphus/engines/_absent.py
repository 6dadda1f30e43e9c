"""Engines of upstream that are not there yet: settings files can make them, starting them says what to do."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sisyphus.engines.base import EngineBase
from sisyphus.errors import EngineError

if TYPE_CHECKING:
    from sisyphus.task import Task


class AbsentEngine(EngineBase):
    """Base of the engines whose arguments are known but whose scheduler is not spoken yet."""

    def start_engine(self) -> None:
        """Refuse.

        Raises:
            EngineError: always.
        """
        raise EngineError(
            f"{type(self).__name__} is not part of this version. Use LocalEngine in engine() of the settings "
            "file, on a machine or in an allocation of the scheduler; or run the same recipes with upstream "
            "Sisyphus, which has this engine and goes on in the same work folder."
        )

    def submit_call(self, *args: object, **kwargs: object) -> tuple[str, Any]:
        """Refuse as :meth:`start_engine` does."""
        self.start_engine()
        raise AssertionError("start_engine returned")

    def task_state(self, task: Task, task_id: int) -> str:
        """Refuse as :meth:`start_engine` does."""
        self.start_engine()
        raise AssertionError("start_engine returned")

    def get_task_id(self, task_id: int | None) -> int:
        """The id of the command line: a worker may be started by hand."""
        return 1 if task_id is None else task_id
