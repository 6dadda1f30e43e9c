"""``merging hessian`` estimates, ``merging hessian inspect`` shows what was estimated."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from merging import hessians
from merging.commands.command_arguments import OUT, SEED, TASK_TYPE, data, model
from merging.commands.command_line import Argument, Command, as_json
from merging.errors import OptionError
from merging.progress import shown


def _hessian(
    *, estimator: str | None, statistics: Sequence[str] | None, out: str, work: str | None, **rest: Any
) -> str:
    from merging.hessians.estimate import PROGRESS_NAME, estimate, work_folder
    from merging.hessians.inspection import open_all, verdict

    if estimator is None and statistics is None:
        estimator = "fisher_mc"
    with shown(Path(work or work_folder(out)) / PROGRESS_NAME, sys.stderr):
        estimate(estimator=estimator, statistics=statistics, out=out, work=work, **rest)
    lines = [f"{name}: converged? {verdict(its.record)}" for name, its in open_all(out).items()]
    return "\n".join([*lines, f"wrote {out}"])


def _inspect(*, folder: str, plot: str | None) -> str:
    from rich.console import Console

    from merging.hessians.inspection import draw, open_all, tables

    found = open_all(folder)
    if plot is not None and len(found) > 1:
        raise OptionError(
            f"merging hessian inspect: {folder} holds {', '.join(found)}, and --plot draws one. Inspect "
            f"{Path(folder) / next(iter(found))}, for example."
        )
    console = Console()
    with console.capture() as capture:
        for stored in found.values():
            for table in tables(stored):
                console.print(table)
    if plot is not None:
        (stored,) = found.values()
        draw(stored.record, Path(plot))
        return capture.get() + f"wrote {plot}"
    return capture.get()


def _hessian_options(known: Mapping[str, Any]) -> type:
    from merging.hessians.options import HessianOptions

    return HessianOptions


HESSIAN = Command(
    name="hessian",
    help="Estimate a model's Hessian or other statistics; one estimate serves any number of merges.",
    arguments=(
        Argument(
            name="estimator",
            help=f"one of {', '.join(hessians.names())}; see merging statistics (default fisher_mc)",
            metavar="NAME",
        ),
        Argument(
            name="statistics",
            help="instead of it, several that share one pass over the data; --out holds a folder for each",
            metavar="NAME",
            many=True,
        ),
        TASK_TYPE,
        model("model folder"),
        data("the model's training set"),
        SEED,
        OUT,
        Argument(
            name="work",
            help="saved sums and progress (default: beside --out, removed at the end)",
            metavar="FOLDER",
        ),
        Argument(
            name="save_interval_s",
            help="seconds between two savings of the sums, from which a killed estimate goes on",
            metavar="SECONDS",
            read=as_json,
            default=300,
        ),
    ),
    run=_hessian,
    options=_hessian_options,
    epilog="example:\n  merging hessian --task-type sequence_classification --model models/yelp \\\n"
    "    --data 'data/yelp:train' --max-examples 500 --max-tokens 384 --out hessians/yelp",
)

INSPECT = Command(
    name="hessian inspect",
    help="Show what a Hessian folder holds: of what, how good the estimate is, totals of the layers.",
    arguments=(
        Argument(name="folder", help="Hessian folder, or one of several", metavar="FOLDER", required=True),
        Argument(name="plot", help="draw the layers into this file, too", metavar="PNG"),
    ),
    run=_inspect,
    leading="folder",
    epilog="example:\n  merging hessian inspect hessians/yelp --plot yelp.png",
)
