"""Plain data of the page: table, drawing, jobs."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

pytest.importorskip("starlette", reason="needs the extra `web`")
from sisyphus.states import State
from sisyphus.view.facts import look
from sisyphus.web import app, snapshots
from sisyphus.web.snapshots import Watcher

GREY = (State.WAITING, State.INPUT_PATH)


def names(answer):
    return [row["name"] for row in answer.json()["rows"]]


def test_the_table_is_searched_filtered_sorted_and_cut(site, client):
    first, second = "exp/<b>first</b>", site.second._sis_id()

    def jobs(**parameters):
        return client.get("/api/jobs", params=parameters)

    assert names(jobs()) == [first, second]
    assert names(jobs(search="FIRST")) == [first]
    assert names(jobs(search="exp/second train")) == [first, second]  # both are needed for that target
    assert names(jobs(search="exp/second nothing")) == []
    assert names(jobs(state="waiting")) == [second]
    assert names(jobs(**{"class": "Train"}, descending="1")) == [second, first]
    assert names(jobs(block="a <i>block</i>")) == [second]
    assert names(jobs(sort="name")) == sorted([first, second])
    assert names(jobs(sort="time")) == [first, second]
    page = jobs(first="1", number="1")
    assert (names(page), page.json()["total"]) == ([second], 2)


@pytest.mark.parametrize(
    ("parameters", "says"),
    [
        ({"sort": "colour"}, "'colour' is not one of state, name"),
        ({"number": "0"}, "from 1 to 500: got 0, 0"),
        ({"number": "1000000"}, "from 1 to 500"),
        ({"first": "-1"}, "first must be >= 0"),
        ({"first": "x"}, "whole numbers"),
    ],
)
def test_impossible_pages_are_refused(client, parameters, says):
    answer = client.get("/api/jobs", params=parameters)
    assert answer.status_code == 400
    assert says in answer.json()["error"]


def test_the_drawing_of_jobs_classes_and_blocks(site, client):
    drawing = client.get("/api/graph").json()
    assert [box["key"] for box in drawing["boxes"]] == [site.first._sis_id(), site.second._sis_id()]
    assert [box["y"] for box in drawing["boxes"]] == [0, 1]
    assert drawing["lines"] == [[0, 1]]
    (box,) = client.get("/api/graph", params={"group": "class"}).json()["boxes"]
    assert (box["label"], box["states"], box["job"]) == (
        ["Train", "2 jobs"],
        {"running": 1, "waiting": 1},
        False,
    )
    opened = client.get("/api/graph", params={"group": "class", "open": box["key"]}).json()
    assert [box["job"] for box in opened["boxes"]] == [True, True]
    by_block = client.get("/api/graph", params={"group": "block"}).json()
    assert [box["job"] for box in by_block["boxes"]] == [True, True]  # one of them is alone in its block
    assert "'colour'" in client.get("/api/graph", params={"group": "colour"}).json()["error"]


def test_too_many_boxes_are_not_drawn(client, monkeypatch):
    monkeypatch.setattr(app, "MOST_BOXES", 1)
    answer = client.get("/api/graph")
    assert answer.status_code == 400
    assert "2 boxes are too many to draw, at most 1" in answer.json()["error"]
    assert client.get("/api/graph", params={"group": "class"}).status_code == 200


def test_all_about_a_job(site, client):
    job_id = site.first._sis_id()
    job = client.get("/api/job", params={"id": job_id}).json()
    second = site.second._sis_id()
    assert (job["state"], job["logs"], job["inputs"]) == ("running", ["log.run.1"], [])
    assert job["users"] == [{"id": second, "name": second, "state": "waiting"}]
    log = client.get("/api/log", params={"id": job_id, "name": "log.run.1"}).json()
    assert log == {"text": "a line of the log\n", "bytes": 18, "cut": False}
    why = client.get("/api/why", params={"id": job_id}).json()
    assert {"place": "name", "text": "'first'", "counts": True} in why["arguments"]
    assert why["other"] is None


def test_why_a_job_failed_stands_in_table_and_drawing(site, client):
    site.first._sis_dir.mark_task("error", "run", 1)
    (site.folder / site.first._sis_path() / "log.run.1").write_text("ValueError: <b>no</b>\n")
    answers = [site.client().get(f"/api/{name}").json() for name in ("jobs", "graph")]
    assert answers[0]["rows"][0]["failure"] == "ValueError: <b>no</b>"
    assert [box["note"] for box in answers[1]["boxes"]] == ["ValueError: <b>no</b>", ""]


def test_every_state_has_a_colour(client):
    style = client.get("/static/style.css").text
    assert [state for state in State if state not in GREY and f'[data-state="{state}"]' not in style] == []


def test_the_overview_counts(site, client):
    overview = client.get("/api/overview").json()
    assert overview["counts"] == {"running": 1, "waiting": 1}
    assert overview["choices"] == {"class": [["Train", 2]], "block": [["a <i>block</i>", 1]], "tag": []}
    assert (overview["targets"], overview["targets_done"], overview["control"]) == (2, 0, False)


def test_there_are_news_when_something_changed(site, monkeypatch):
    monkeypatch.setattr(snapshots, "SHORTEST_PERIOD_S", 0.01)
    watcher = Watcher(lambda: look(site.graph, None))

    async def watch():
        working = asyncio.create_task(watcher.watch())
        news = watcher.versions(heartbeat_s=0.2)
        first = await anext(news)
        assert await anext(news) is None  # time passed, and nothing changed
        (site.folder / site.first._sis_path() / "hold").touch()
        second = await anext(news)
        assert (first.version, second.version) == (1, 2)
        assert second.jobs[site.first._sis_id()].state == "hold"
        await news.aclose()
        working.cancel()
        assert watcher.num_listeners == 0

    asyncio.run(watch())


def test_nobody_looks_while_nobody_asks(site, monkeypatch):
    monkeypatch.setattr(snapshots, "SHORTEST_PERIOD_S", 0.001)
    monkeypatch.setattr(snapshots, "_UNWATCHED_AFTER_S", 0.02)
    facts = look(site.graph, None)
    looks = []

    def take_look():
        looks.append(None)
        return replace(facts, time=float(len(looks)))

    watcher = Watcher(take_look)

    async def watch():
        working = asyncio.create_task(watcher.watch())
        await asyncio.sleep(0.2)
        num_before = len(looks)
        await asyncio.sleep(0.1)
        assert len(looks) == num_before
        watcher.look_soon()
        await asyncio.sleep(0.1)
        assert len(looks) > num_before
        working.cancel()

    asyncio.run(watch())
