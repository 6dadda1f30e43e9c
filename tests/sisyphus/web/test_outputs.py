"""What is shown of outputs, and what never is."""

from __future__ import annotations

import os

import pytest

pytest.importorskip("starlette", reason="needs the extra `web`")


def shown(client, name="exp/first", **parameters):
    return client.get("/api/output", params={"name": name, **parameters})


@pytest.mark.parametrize(
    "inside",
    [
        "..",
        "../..",
        "a/../../../x",
        "/etc/passwd",
        "../job.save",
        "\0",
        "sub/../../log.run.1",
    ],
)
def test_nothing_above_an_output(site, client, inside):
    site.output("sub/file.txt", b"inside")
    for path in ("/api/output", "/file"):
        answer = client.get(path, params={"name": "exp/first", "inside": inside})
        assert answer.status_code == 400
        assert "inside" not in answer.json().get("text", "")


@pytest.mark.parametrize(
    "path",
    [
        "/static/../app.py",
        "/static/%2e%2e/app.py",
        "/static/..%2fapp.py",
        "/static//etc/passwd",
        "/work",
        "/api/../work",
    ],
)
def test_nothing_beside_the_static_files(client, path):
    assert client.get(path).status_code == 404


def test_links_out_of_the_project_are_not_followed(site, client, tmp_path_factory):
    secret = tmp_path_factory.mktemp("elsewhere") / "secret.png"
    secret.write_text("secret")
    site.output("file.txt", b"")
    place = site.folder / site.first.out.get_path()
    (place / "file.png").symlink_to(secret)
    (place / "folder").symlink_to(secret.parent)
    (place / "beside").symlink_to(site.folder / site.first._sis_path() / "log.run.1")
    for inside in ("file.png", "folder", "folder/secret.png", "beside"):
        answer = shown(client, inside=inside)
        assert answer.status_code == 400
        assert "leads out of the project" in answer.json()["error"]
        assert client.get("/file", params={"name": "exp/first", "inside": inside}).status_code == 400
    log = site.folder / site.first._sis_path() / "log.run.2"
    log.symlink_to(secret)
    answer = client.get("/api/log", params={"id": site.first._sis_id(), "name": "log.run.2"})
    assert answer.status_code == 404


@pytest.mark.parametrize("name", ["../output/out", "job.save", "log.run.1/../job.save", "/etc/passwd", ""])
def test_only_logs_are_read_as_logs(site, client, name):
    assert client.get("/api/log", params={"id": site.first._sis_id(), "name": name}).status_code == 404


@pytest.mark.parametrize("job_id", ["", "..", "/etc", "../../etc/passwd", "nothing"])
def test_only_jobs_of_the_graph_are_shown(client, job_id):
    for path in ("job", "why", "log"):
        assert client.get(f"/api/{path}", params={"id": job_id}).status_code == 404


def test_what_is_no_file_is_not_opened(site, client):
    site.output("file.txt", b"")
    os.mkfifo(site.folder / site.first.out.get_path() / "pipe")
    answer = shown(client, inside="pipe")
    assert (answer.status_code, answer.json()) == (400, {"error": "pipe is no file"})


def test_markdown_becomes_a_table_and_its_html_a_text(site, client):
    text = (
        "| model | mean |\n| --- | ---: |\n| <script>alert(1)</script> | 76.0 |\n\n"
        "<img src=x onerror=alert(1)>\n\n[x](javascript:alert(1)) ![y](http://evil.example/y.png)\n"
    )
    site.output("table.md", text.encode())
    answer = shown(client, inside="table.md").json()
    assert answer["kind"] == "markdown"
    assert "<td>&lt;script&gt;alert(1)&lt;/script&gt;</td>" in answer["html"]
    assert '<td style="text-align:right">76.0</td>' in answer["html"]
    assert not any(part in answer["html"] for part in ("<script", "<img", 'href="javascript'))


def test_tables_texts_folders_and_the_rest(site, client):
    site.output("table.csv", b'model,"mean, all"\n<b>x</b>,76\n')
    assert shown(client, inside="table.csv").json()["rows"] == [["model", "mean, all"], ["<b>x</b>", "76"]]
    site.output("notes.txt", b"\xff text")
    assert shown(client, inside="notes.txt").json()["text"] == "\ufffd text"
    site.output("sub/weights", b"\0" * 10)
    assert shown(client, inside="sub/weights").json()["kind"] == "binary"
    names = shown(client).json()["names"]
    assert [(one["name"], one["folder"]) for one in names] == [
        ("notes.txt", False),
        ("sub", True),
        ("table.csv", False),
    ]
    site.output("long.txt", b"x" * (1 << 21))
    long = shown(client, inside="long.txt").json()
    assert (len(long["text"]), long["bytes"], long["cut"]) == (1 << 20, 1 << 21, True)


def test_images_are_sent_as_images_and_nothing_else_is(site, client):
    site.output("plot.svg", b"<svg><script>alert(1)</script></svg>")
    assert shown(client, inside="plot.svg").json()["kind"] == "image"
    answer = client.get("/file", params={"name": "exp/first", "inside": "plot.svg"})
    assert answer.headers["content-type"] == "image/svg+xml"
    assert answer.headers["content-security-policy"].endswith("sandbox")
    site.output("page.html", b"<script>alert(1)</script>")
    assert client.get("/file", params={"name": "exp/first", "inside": "page.html"}).status_code == 404


def test_outputs_that_are_not_there(site, client):
    assert shown(client, "nothing").status_code == 404
    assert shown(client, number="1").status_code == 400
    assert shown(client, number="x").status_code == 404
    site.output("file.txt", b"")
    missing = shown(client, inside="missing")
    assert (missing.status_code, missing.json()) == (400, {"error": "exp/first/missing is not there yet"})


def test_who_makes_an_output_is_said_also_before_it_is_there(site, client):
    absent = shown(client, "exp/second").json()
    second = site.second._sis_id()
    assert absent == {"kind": "absent", "jobs": [{"id": second, "name": second, "state": "waiting"}]}
    assert client.get("/file", params={"name": "exp/second"}).status_code == 400
    site.output("file.txt", b"")
    assert [job["name"] for job in shown(client).json()["jobs"]] == ["exp/<b>first</b>"]
