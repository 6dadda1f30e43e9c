"""The requests that the page makes, and what they are answered: plain data from the view, as JSON."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import importlib.util
import json
import os
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from pathlib import Path
from typing import Any

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response, StreamingResponse
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from sisyphus import global_settings as gs
from sisyphus.engines.base import EngineBase
from sisyphus.errors import OptionError, SisyphusError
from sisyphus.explaining.why import Asked, explain, lines_of
from sisyphus.graph import SISGraph
from sisyphus.job import Job
from sisyphus.job_dir import JobDir
from sisyphus.managing import requests as requests_of_people
from sisyphus.records import job_record
from sisyphus.states import State
from sisyphus.terminal import overview
from sisyphus.view import job_logs, layout, outputs
from sisyphus.view.facts import GraphFacts, JobFacts, TargetFacts, UsageFacts, usage_of
from sisyphus.web import job_table
from sisyphus.web.access import Access, Guard
from sisyphus.web.rendered import render_markdown
from sisyphus.web.snapshots import Snapshot, Watcher

MOST_BOXES = 2000
"""In a drawing; of more jobs, some are drawn as one box."""
MOST_SINGLE_BOXES = 400
"""A larger graph is drawn by class at first."""
_MOST_LOG_BYTES = 256 * 1024
_MOST_LISTED = 200
"""Inputs, users, outputs of a job; targets of a page."""
_MOST_REQUEST_BYTES = 10_000
_HEARTBEAT_S = 15.0

_STATIC = Path(__file__).with_name("static")

_ACTIONS: dict[str, Callable[[JobDir, EngineBase, Job], bool]] = {
    "hold": lambda folder, engine, job: requests_of_people.hold(folder),
    "release": lambda folder, engine, job: requests_of_people.release(folder),
    "cancel": requests_of_people.cancel,
    "retry": lambda folder, engine, job: requests_of_people.retry(folder),
}

Answer = Callable[[Request], Any]


def plotly_script() -> Path:
    """Return the script of Plotly, which comes with its Python package.

    Raises:
        SisyphusError: the package is not installed, or has no script.
    """
    spec = importlib.util.find_spec("plotly")  # not imported: only the file is needed
    for folder in spec.submodule_search_locations or () if spec else ():
        path = Path(folder) / "package_data" / "plotly.min.js"
        if path.is_file():
            return path
    raise SisyphusError("plotly is not installed with its script: pip install 'model-merging[web]'")


class Page:
    """The page of one graph.

    Args:
        graph: its jobs and targets.
        look: looks at it.
        engine: that jobs run on, to stop them; with it they may also be held, released and tried again.
    """

    def __init__(
        self, graph: SISGraph, look: Callable[[], GraphFacts], *, engine: EngineBase | None = None
    ) -> None:
        self._graph = graph
        self._engine = engine
        self._job_by_id: dict[str, Job] = {}
        self._used: dict[str, UsageFacts | None] = {}
        self._lock = threading.Lock()  # looking and explaining go through the same jobs

        def locked() -> GraphFacts:
            with self._lock:
                return look()

        self._watcher = Watcher(locked)

    def application(self, access: Access) -> Guard:
        """Return the ASGI application.

        Args:
            access: who may ask.
        """
        routes = [
            Route("/", self._index),
            Route("/api/events", self._events),
            Route("/api/control", self._act, methods=["POST"]),
            Route("/static/plotly.min.js", _plotly),
            Mount("/static", StaticFiles(directory=_STATIC)),
            Route("/file", self._in_thread(self._file)),
            *(
                Route(f"/api/{name}", self._in_thread(answer))
                for name, answer in (
                    ("overview", self._overview),
                    ("jobs", self._jobs),
                    ("graph", self._drawing),
                    ("job", self._job),
                    ("why", self._why),
                    ("log", self._log),
                    ("outputs", self._outputs),
                    ("output", self._output),
                )
            ),
        ]
        app = Starlette(
            routes=routes,
            lifespan=self._lifespan,
            exception_handlers={HTTPException: _say_http_error, SisyphusError: _say_error},
        )
        return Guard(app, access)

    @contextlib.asynccontextmanager
    async def _lifespan(self, app: Starlette) -> AsyncIterator[None]:
        task = asyncio.create_task(self._watcher.watch())
        yield
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task

    def _in_thread(
        self, answer: Callable[[Request, Snapshot], Any]
    ) -> Callable[[Request], Awaitable[Response]]:
        """An answer that takes a while, or reads files."""

        async def endpoint(request: Request) -> Response:
            found = await run_in_threadpool(answer, request, self._watcher.touch())
            return found if isinstance(found, Response) else JSONResponse(found)

        return endpoint

    async def _index(self, request: Request) -> Response:
        return FileResponse(_STATIC / "index.html")

    async def _events(self, request: Request) -> Response:
        """Server-sent events: one for each new look at the graph."""

        async def lines() -> AsyncIterator[str]:
            async for snapshot in self._watcher.versions(_HEARTBEAT_S):
                yield ":\n\n" if snapshot is None else f"data: {json.dumps(_news(snapshot))}\n\n"

        return StreamingResponse(
            lines(), media_type="text/event-stream", headers={"Cache-Control": "no-store"}
        )

    def _overview(self, request: Request, snapshot: Snapshot) -> dict[str, Any]:
        facts = snapshot.facts
        return {
            **_news(snapshot),
            "project": os.path.basename(gs.BASE_DIR) or gs.BASE_DIR,
            "control": self._engine is not None,
            "choices": snapshot.choices,
            "states": [str(state) for state in overview.ORDER],
            "failed": [str(state) for state in overview.FAILED],
            "missing": facts.missing[:_MOST_LISTED],
            "waiting_configs": facts.waiting_configs,
            "group": "" if len(facts.jobs) <= MOST_SINGLE_BOXES else "class",
        }

    def _jobs(self, request: Request, snapshot: Snapshot) -> dict[str, Any]:
        return job_table.rows(snapshot, job_table.Query.parse(request.query_params), self._usage_of)

    def _usage_of(self, facts: JobFacts) -> UsageFacts | None:
        """What a job used; of finished ones it is read once."""
        if facts.state != State.FINISHED:
            return facts.usage
        if facts.id not in self._used:
            job = self._job_of(facts.id)
            self._used[facts.id] = usage_of(job, State.FINISHED) if _inside_project(facts.folder) else None
        return self._used[facts.id]

    def _job_of(self, job_id: str) -> Job:
        if job_id not in self._job_by_id:
            self._job_by_id = self._graph.id_to_job_dict()
        return self._job_by_id[job_id]

    def _drawing(self, request: Request, snapshot: Snapshot) -> dict[str, Any]:
        """Boxes with places, and lines between them."""
        opened = frozenset(request.query_params.getlist("open"))
        boxes = _boxes(snapshot.facts, request.query_params.get("group", ""), opened)
        if len(boxes) > MOST_BOXES:
            raise OptionError(
                f"{len(boxes)} boxes are too many to draw, at most {MOST_BOXES} are: draw them by class or "
                "block, and open only some of these."
            )
        arranged = layout.arrange(boxes)
        number = {box.key: index for index, box in enumerate(arranged)}
        return {
            "version": snapshot.version,
            "boxes": [
                {
                    "key": box.key,
                    "job": box.key in snapshot.jobs,
                    "label": list(box.label),
                    "states": dict(box.states),
                    "note": _note(snapshot.jobs[box.key]) if box.key in snapshot.jobs else "",
                    "x": box.position,
                    "y": box.layer,
                    "room": box.room,
                }
                for box in arranged
            ],
            "lines": [[number[creator], number[box.key]] for box in arranged for creator in box.inputs],
        }

    def _job(self, request: Request, snapshot: Snapshot) -> dict[str, Any]:
        job = _named(request, snapshot)
        users = snapshot.users.get(job.id, [])
        shown = dataclasses.asdict(job)
        for key in ("inputs", "outside_inputs", "outputs", "needed_for"):
            shown[key] = shown[key][:_MOST_LISTED]
        folder = JobDir(job.folder)
        records = job_record.read_records(folder) if _inside_project(job.folder) else []
        used = self._usage_of(job)
        return {
            **shown,
            "version": snapshot.version,
            "name": job.name,
            "usage": None if used is None else dataclasses.asdict(used),
            "inputs": _mentions(shown["inputs"], snapshot),
            "users": _mentions(users[:_MOST_LISTED], snapshot),
            "logs": job_logs.names(folder) if _inside_project(job.folder) else [],
            "series": [
                {"task": f"{record.task} {record.task_id}", "points": record.series}
                for record in records[:_MOST_LISTED]
                if record.series
            ],
        }

    def _why(self, request: Request, snapshot: Snapshot) -> dict[str, Any]:
        job_id = _named(request, snapshot).id
        with self._lock:
            job = self._job_of(job_id)
        found = explain(Asked(job_id, job._sis_dir, job), lock=self._lock)
        return {
            "arguments": [
                {"place": place, "text": text, "counts": name not in found.left_out}
                for name, node in sorted(found.job.arguments.items())
                for place, text in lines_of(name, node)
            ],
            "version": found.job.version,
            "commit": found.job.commit,
            "other": None if found.other is None else found.other.job_id,
            "num_others": found.num_others,
            "differences": found.as_json()["differences"],
        }

    def _log(self, request: Request, snapshot: Snapshot) -> dict[str, Any]:
        job = _named(request, snapshot)
        name = request.query_params.get("name", "")
        folder = JobDir(job.folder)
        if not _inside_project(job.folder) or name not in job_logs.names(folder):
            raise HTTPException(404, f"{job.id} has no log {name!r}")
        if not _inside_project(folder.entry(name)):
            raise HTTPException(404, f"{name!r} leads out of the project: not shown")
        content, size = job_logs.tail(folder, name, _MOST_LOG_BYTES)
        return {"text": content.decode(errors="replace"), "bytes": size, "cut": size > len(content)}

    def _outputs(self, request: Request, snapshot: Snapshot) -> dict[str, Any]:
        words = request.query_params.get("search", "").lower().split()
        found = [
            target for target in snapshot.facts.targets if all(word in target.name.lower() for word in words)
        ]
        return {
            "total": len(found),
            "rows": [
                {
                    "name": target.name,
                    "kind": target.kind,
                    "done": target.done,
                    "places": len(outputs.places(target)),
                }
                for target in found[:_MOST_LISTED]
            ],
        }

    def _output(self, request: Request, snapshot: Snapshot) -> dict[str, Any]:
        target, number, inside = _asked_output(request, snapshot)
        try:
            shown = outputs.show(outputs.locate(target, number, inside))
        except outputs.NotThereYetError:
            if inside:
                raise
            shown = {"kind": "absent"}
        if shown["kind"] == "markdown":
            shown["html"] = render_markdown(shown.pop("text"))
        return {**shown, "jobs": _mentions(target.jobs[:_MOST_LISTED], snapshot)}

    def _file(self, request: Request, snapshot: Snapshot) -> Response:
        """An image, as it is."""
        path = outputs.locate(*_asked_output(request, snapshot))
        media_type = outputs.IMAGES.get(os.path.splitext(path)[1].lower())
        if media_type is None or not os.path.isfile(path):
            raise HTTPException(404, "only images are sent as they are")
        # opened on its own, an SVG may hold scripts
        headers = {"Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; sandbox"}
        return FileResponse(path, media_type=media_type, headers=headers)

    async def _act(self, request: Request) -> Response:
        """Hold, release, stop, try again."""
        if self._engine is None:
            raise HTTPException(403, "this page only shows: start it with --control to act")
        if request.headers.get("content-type", "").partition(";")[0] != "application/json":
            raise HTTPException(415, "JSON is expected")
        content = b""
        async for chunk in request.stream():
            content += chunk
            if len(content) > _MOST_REQUEST_BYTES:
                raise HTTPException(413, "this is too long")
        try:
            asked = json.loads(content)
            action, job_id = asked["action"], asked["job"]
            act, job = _ACTIONS[action], self._watcher.snapshot.jobs[job_id]
        except (ValueError, KeyError, TypeError) as error:
            raise HTTPException(
                400, f"an action ({', '.join(_ACTIONS)}) and a job of the graph are expected"
            ) from error
        if not await run_in_threadpool(act, JobDir(job.folder), self._engine, self._job_of(job.id)):
            raise HTTPException(409, f"{action}: there is nothing to do for {job.name}, it is {job.state}")
        self._watcher.look_soon()
        return JSONResponse({"done": True})


def _boxes(facts: GraphFacts, group: str, opened: frozenset[str]) -> list[layout.Box]:
    """The boxes of a drawing by ``""`` (each job), ``"class"`` or ``"block"``; ``opened``: keys of boxes.

    Raises:
        OptionError: an unknown group.
    """
    if group == "":
        return layout.boxes_of_jobs(facts)
    if group == "class":
        return layout.boxes_of_groups(facts, lambda job: job.class_name, opened)
    if group == "block":
        names = frozenset(key.partition(" ")[2] for key in opened)  # without the stage of the box
        return layout.boxes_of_groups(facts, layout.closed_blocks(facts, names))
    raise OptionError(f"group: {group!r} is not one of class, block")


def _note(job: JobFacts) -> str:
    """What a job says of itself, or why it failed."""
    done = "" if job.progress is None else f"{job.progress:.0%} "
    return (done + job.info).strip() or job.broken or job.failure


def _news(snapshot: Snapshot) -> dict[str, Any]:
    facts = snapshot.facts
    return {
        "version": snapshot.version,
        "time": facts.time,
        "counts": facts.counts,
        "jobs": len(facts.jobs),
        "targets": len(facts.targets),
        "targets_done": sum(target.done for target in facts.targets),
    }


def _named(request: Request, snapshot: Snapshot) -> JobFacts:
    """The job of the graph that a request names; nothing else is ever looked at."""
    job_id = request.query_params.get("id", "")
    if job_id not in snapshot.jobs:
        raise HTTPException(404, f"the graph has no job {job_id!r}")
    return snapshot.jobs[job_id]


def _mentions(job_ids: Iterable[str], snapshot: Snapshot) -> list[dict[str, str]]:
    """What is shown of jobs where others need them or are made by them; by name."""
    jobs = sorted((snapshot.jobs[job_id] for job_id in job_ids), key=lambda job: job.name)
    return [{"id": job.id, "name": job.name, "state": job.state} for job in jobs]


def _asked_output(request: Request, snapshot: Snapshot) -> tuple[TargetFacts, int, str]:
    """The target that a request names, which of its places, and the path in it."""
    name = request.query_params.get("name", "")
    found: list[TargetFacts] = [target for target in snapshot.facts.targets if target.name == name]
    number = request.query_params.get("number", "0")
    if not found or not number.isdecimal():
        raise HTTPException(404, f"the graph has no output {name!r}")
    return found[0], int(number), request.query_params.get("inside", "")


def _inside_project(path: str) -> bool:
    return outputs.is_inside_project(os.path.realpath(path))


async def _plotly(request: Request) -> Response:
    return FileResponse(plotly_script(), media_type="text/javascript")


async def _say_http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return JSONResponse({"error": error.detail}, status_code=error.status_code)


async def _say_error(request: Request, error: Exception) -> Response:
    return JSONResponse({"error": str(error)}, status_code=400)
