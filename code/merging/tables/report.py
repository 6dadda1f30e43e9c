"""Results of many evaluations as one folder: a table in three formats and a plot."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

from merging.files.publishing import published_folder
from merging.tables.rows import check


def write_report(
    *, rows: Sequence[Mapping[str, Any]], options: Mapping[str, Any], out: str | os.PathLike[str]
) -> None:
    """Write ``table.md``, ``table.tex``, ``table.csv`` and ``scaling.png`` into the folder ``out``.

    The same rows and options give the same bytes.

    Args:
        rows: fields of :class:`merging.tables.rows.Row`, one evaluation each; lines appear in this order.
        options: fields of :class:`merging.tables.rows.TableOptions`; unset ones keep their defaults.
        out: folder, published atomically.

    Raises:
        OptionError: rows or options are wrong or do not fit each other.
        DataError: an evaluation is missing, damaged, or of other test examples than the rest.
    """
    from merging.tables.plot import draw
    from merging.tables.render import comma_separated, latex, markdown
    from merging.tables.results import read_results
    from merging.tables.summary import summarize

    parsed, table_options = check(rows, options)
    table = summarize(parsed, read_results(parsed, table_options.metric), table_options)
    with published_folder(out) as folder:
        (folder / "table.md").write_text(markdown(table), encoding="utf-8")
        (folder / "table.tex").write_text(latex(table), encoding="utf-8")
        (folder / "table.csv").write_text(comma_separated(table), encoding="utf-8")
        draw(table, folder / "scaling.png")
