"""Who may ask the page, and for what."""

from __future__ import annotations

import pytest

pytest.importorskip("starlette", reason="needs the extra `web`")
from sisyphus.web.access import HEADERS, Access, is_loopback, make_token, names_of_machine


@pytest.mark.parametrize("host", ["localhost:8675", "LOCALHOST", "127.0.0.1:8675", "[::1]:8675", "10.0.0.7"])
def test_names_of_this_machine_are_known(client, host):
    assert client.get("/api/overview", headers={"Host": host}).status_code == 200


@pytest.mark.parametrize(
    "host", ["evil.example", "localhost.evil.example:8675", "127.0.0.1.evil.example", "[::1"]
)
def test_foreign_names_are_refused(client, host):
    answer = client.get("/api/overview", headers={"Host": host})
    assert answer.status_code == 421
    assert f"not called {host!r}" in answer.json()["error"]


def test_names_of_a_machine_that_is_seen_from_outside():
    assert Access(names_of_machine("0.0.0.0") | {"gpu7"}).knows_host("gpu7:80")
    assert not Access(names_of_machine("127.0.0.1")).knows_host("gpu7")
    assert [is_loopback(host) for host in ("127.0.0.1", "::1", "localhost", "0.0.0.0", "gpu7")] == [
        True,
        True,
        True,
        False,
        False,
    ]


def test_without_the_token_nothing_is_answered(site):
    client = site.client(token=make_token())
    for path in (
        "/",
        "/static/main.js",
        "/api/overview",
        "/api/events",
        "/file",
        "/?token=wrong",
        "/?token=ä",
    ):
        answer = client.get(path)
        assert answer.status_code == 401, path
        assert "sis web" in answer.json()["error"]


def test_the_token_becomes_a_cookie_that_scripts_and_other_sites_do_not_see(site):
    token = make_token()
    client = site.client(token=token)
    answer = client.get(f"/?token={token}")
    assert (answer.status_code, answer.headers["location"]) == (303, "/")
    assert "httponly" in answer.headers["set-cookie"].lower()
    assert "samesite=strict" in answer.headers["set-cookie"].lower()
    assert client.get("/api/overview").status_code == 200
    client.cookies.clear()
    assert client.get("/api/overview").status_code == 401
    answer = client.get("/api/overview", headers={"Authorization": f"Bearer {token}"})
    assert answer.status_code == 200


def test_tokens_are_long_and_differ():
    assert len({make_token() for _ in range(100)}) == 100
    assert len(make_token()) >= 43


@pytest.mark.parametrize("path", ["/", "/static/main.js", "/api/overview", "/nothing", "/api/job?id=nothing"])
def test_every_answer_says_what_the_browser_may_do(client, path):
    headers = client.get(path).headers
    assert {name: headers[name] for name in HEADERS} == HEADERS
    assert "'unsafe-eval'" not in HEADERS["Content-Security-Policy"]
    assert "script-src 'self';" in HEADERS["Content-Security-Policy"]


def act(client, action, job_id, **headers):
    headers = {"Origin": "http://localhost:8675", **headers}
    return client.post("/api/control", json={"action": action, "job": job_id}, headers=headers)


def test_a_page_that_only_shows_does_not_act(site):
    answer = act(site.client(), "hold", site.first._sis_id())
    assert answer.status_code == 403
    assert "--control" in answer.json()["error"]
    assert not site.first._sis_dir.is_on_hold()


@pytest.mark.parametrize("origin", ["http://evil.example", "http://localhost:1", "null", ""])
def test_other_pages_cannot_act(site, origin):
    answer = act(site.client(control=True), "hold", site.first._sis_id(), Origin=origin)
    assert answer.status_code == 403
    assert not site.first._sis_dir.is_on_hold()


def test_hold_release_retry(site):
    client = site.client(control=True)
    job_id = site.first._sis_id()
    assert act(client, "hold", job_id).json() == {"done": True}
    assert site.first._sis_dir.is_on_hold()
    assert act(client, "release", job_id).status_code == 200
    assert not site.first._sis_dir.is_on_hold()
    answer = act(client, "release", job_id)
    assert answer.status_code == 409
    assert "release: there is nothing to do for exp/<b>first</b>" in answer.json()["error"]
    site.first._sis_dir.mark_task("error", "run", 1)
    assert act(client, "retry", job_id).status_code == 200
    assert "error.run.1" not in site.first._sis_dir.names()


def test_a_job_is_stopped_and_held(site):
    client = site.client(control=True)
    assert act(client, "cancel", site.first._sis_id()).json() == {"done": True}
    assert site.engine.cancelled == [site.first]
    assert site.first._sis_dir.is_on_hold()
    assert act(client, "cancel", site.second._sis_id()).json() == {"done": True}  # was not started yet
    assert site.engine.cancelled == [site.first]
    site.first._sis_dir.mark_finished()
    answer = act(client, "cancel", site.first._sis_id())
    assert (answer.status_code, site.engine.cancelled) == (409, [site.first])


@pytest.mark.parametrize(
    ("action", "job_id"), [("delete", None), ("hold", "../../etc"), ("hold", ["a"]), (["hold"], None)]
)
def test_what_is_no_action_on_a_job_is_refused(site, action, job_id):
    answer = act(site.client(control=True), action, job_id or site.first._sis_id())
    assert answer.status_code == 400
    assert "hold, release, cancel, retry" in answer.json()["error"]


def test_only_short_json_is_read(site):
    client = site.client(control=True)
    headers = {"Origin": "http://localhost:8675"}
    assert client.post("/api/control", content=b"{}", headers=headers).status_code == 415
    headers["Content-Type"] = "application/json"
    assert client.post("/api/control", content=b" " * 20_000, headers=headers).status_code == 413
    assert client.post("/api/control", content=b"{", headers=headers).status_code == 400
