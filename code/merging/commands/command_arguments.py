"""Arguments that several commands have."""

from __future__ import annotations

from merging import tasks
from merging.commands.command_line import Argument, as_json, dataset

DATASET = "FOLDER:SPLIT"
"""How a data set is written on the command line."""

OUT = Argument(name="out", help="folder to make", metavar="FOLDER", required=True)
TASK_TYPE = Argument(
    name="task_type", help=f"kind of task: {', '.join(tasks.names())}", metavar="NAME", required=True
)
SEED = Argument(name="seed", help="seed of everything random", metavar="INT", read=as_json, default=0)


def model(text: str) -> Argument:
    """The model that a command works with."""
    return Argument(name="model", help=text, metavar="FOLDER", required=True)


def data(text: str) -> Argument:
    """The data set that a command works with."""
    return Argument(name="data", help=text, metavar=DATASET, read=dataset, required=True)
