"""Upstream's names for the page. Published recipes import :func:`object_to_html`, web server or not."""

from __future__ import annotations

import html
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from sisyphus import global_settings as gs
from sisyphus.job import Job
from sisyphus.job_path import AbstractPath, Path

_ENDS_WITHIN_S = 10.0


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


def show_jobs_in_webserver(port: int, jobs: Iterable[object]) -> None:
    """Show jobs on a page of this machine, until Ctrl-C.

    Args:
        port: where; 0: any free one.
        jobs: jobs, shown with all that they are made from; or folders of jobs, as texts.

    Raises:
        JobDirError: a text is no folder of a job.
        SisyphusError: the packages of the extra ``web`` are missing, or the port is taken.
    """
    from sisyphus.web.installed import check_installed

    check_installed()
    from sisyphus.engines import cached_engine
    from sisyphus.graph import SISGraph
    from sisyphus.job_dir import read_save
    from sisyphus.outputs.targets import OutputTarget
    from sisyphus.view.watch import Watch
    from sisyphus.web.app import Page
    from sisyphus.web.server import Address, serve

    graph = SISGraph()
    for job in jobs:
        shown = job if isinstance(job, Job) else read_save(str(job))
        # as a whole: a job that was loaded has forgotten that its outputs are its own
        graph.add_target(OutputTarget(shown._sis_id(), Path(".", creator=shown)))
    serve(Page(graph, Watch(graph, cached_engine()).look), Address(port=port))


@contextmanager
def beside_manager(port: int | None, configs: Sequence[str]) -> Iterator[None]:
    """Serve the page of some configs as long as the manager works (``sis manager --http``).

    It is a process of its own: what only looks takes no time from the manager, and cannot disturb it. It ends
    with this one, however that ends.

    Args:
        port: where, on this machine; None: no page.
        configs: arguments of the manager.

    Raises:
        SisyphusError: the packages of the extra ``web`` are missing.
    """
    if port is None:
        yield
        return
    import shlex
    import subprocess

    from sisyphus.web.installed import check_installed

    check_installed()
    command = shlex.split(gs.SIS_COMMAND) if isinstance(gs.SIS_COMMAND, str) else list(gs.SIS_COMMAND)
    call = [*command, "web", "--beside-manager", "--port", str(port), *configs]
    with subprocess.Popen(call, stdin=subprocess.PIPE, start_new_session=True) as server:
        try:
            yield
        finally:
            assert server.stdin is not None
            server.stdin.close()  # that is what it waits for
            try:
                server.wait(_ENDS_WITHIN_S)
            except subprocess.TimeoutExpired:
                server.kill()


def _path_to_html(path: AbstractPath) -> str:
    text = html.escape(path.get_path())
    return f"{_link(path.creator)}: {text}" if isinstance(path.creator, Job) else text


def _link(job: Job) -> str:
    name = html.escape(job._sis_id())
    return f'<a href="/info/{name}">{name}</a>'
