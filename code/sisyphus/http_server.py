"""Objects as HTML. Published recipes import :func:`object_to_html` from here, web server or not."""

from __future__ import annotations

import html
from collections.abc import Iterable
from typing import Any, NoReturn

from sisyphus.errors import SisyphusError
from sisyphus.job import Job
from sisyphus.job_path import AbstractPath


def object_to_html(obj: Any) -> str:
    """Render an argument of a job.

    Args:
        obj: anything. An ``html()`` method of its own is used if there is one; lists, dicts, paths and jobs
            are shown with their structure; anything else as its text, escaped.

    Returns:
        A fragment of HTML.
    """
    own = getattr(obj, "html", None)
    if callable(own) and not isinstance(obj, type | AbstractPath):  # any attribute of a path is callable
        return str(own())
    if isinstance(obj, AbstractPath):
        return _path_to_html(obj)
    if isinstance(obj, Job):
        return _link(obj)
    if isinstance(obj, dict):
        rows = (
            f"<tr><td>{object_to_html(key)}</td><td>{object_to_html(value)}</td></tr>"
            for key, value in obj.items()
        )
        return f"<table>{''.join(rows)}</table>"
    if isinstance(obj, list | tuple | set | frozenset):
        items = sorted(obj, key=str) if isinstance(obj, set | frozenset) else obj
        return f"<ol>{''.join(f'<li>{object_to_html(item)}</li>' for item in items)}</ol>"
    return html.escape(str(obj))


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


def _path_to_html(path: AbstractPath) -> str:
    text = html.escape(path.get_path())
    return f"{_link(path.creator)}: {text}" if isinstance(path.creator, Job) else text


def _link(job: Job) -> str:
    name = html.escape(job._sis_id())
    return f'<a href="/info/{name}">{name}</a>'
