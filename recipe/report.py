"""Many evaluations as one table."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from sisyphus import Job, Task


class ReportJob(Job):
    """Write a table as Markdown, LaTeX and CSV, and plot score against the scaling factor.

    Args:
        rows: fields of ``merging.tables.rows.Row``, one for each evaluation; lines keep this order.
        options: fields of ``merging.tables.rows.TableOptions``.
    """

    def __init__(self, *, rows: Sequence[Mapping[str, Any]], options: Mapping[str, Any]):
        from merging.tables.rows import check

        check(rows, options)
        self.rows, self.options = rows, options
        self.rqmt = {"cpu": 1, "mem": 2, "time": 1}  # mem in GB, time in hours
        self.out_report = self.output_path("report", directory=True)
        self.out_markdown = self.output_path("report/table.md")
        self.out_latex = self.output_path("report/table.tex")
        self.out_csv = self.output_path("report/table.csv")
        self.out_plot = self.output_path("report/scaling.png")

    def tasks(self) -> Iterator[Task]:
        yield Task("run", resume="run", rqmt=self.rqmt)

    def run(self) -> None:
        from merging.tables.report import write_report

        write_report(rows=self.rows, options=self.options, out=self.out_report)
