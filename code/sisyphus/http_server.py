"""Objects as HTML. Published recipes import :func:`object_to_html` from here, web server or not."""

from __future__ import annotations

import html
from typing import Any

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


def _path_to_html(path: AbstractPath) -> str:
    text = html.escape(path.get_path())
    return f"{_link(path.creator)}: {text}" if isinstance(path.creator, Job) else text


def _link(job: Job) -> str:
    name = html.escape(job._sis_id())
    return f'<a href="/info/{name}">{name}</a>'
