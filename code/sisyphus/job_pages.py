"""Jobs in a web browser: not part of this version."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NoReturn

from sisyphus.errors import SisyphusError


def show_jobs_in_webserver(port: int, jobs: Iterable[object]) -> NoReturn:
    """Refuse, and say what to do instead.

    Args:
        port: where the page would be served.
        jobs: what it would show.

    Raises:
        SisyphusError: always; there is no web page yet.
    """
    names = ", ".join(str(job) for job in jobs) or "nothing"
    raise SisyphusError(
        f"cannot show {names} on port {port}: the web page is not part of this version. "
        "Use tk.job_info(job), tk.print_graph(job), or `sis console --load JOBDIR`."
    )
