"""`sis web` from start to end, as a person sees it: in headless Chromium, beside a project that works."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

pytest.importorskip("starlette", reason="needs the extra `web`")

RECIPE = """
class Slow(Job):
    '''Ends when somebody makes a file; says meanwhile how far it is.'''
    def __init__(self, name, previous=None):
        self.name, self.previous = name, previous
        self.out = self.output_path("table.md")

    def tasks(self):
        yield Task("run", rqmt={"mem": 0.1})

    def completed_fraction(self):
        return 0.25

    def info(self):
        return "<img src=x onerror=document.title='hacked'>"

    def run(self):
        print("<script>document.title = 'hacked'</script>", flush=True)
        while not os.path.exists(os.path.join(gs.BASE_DIR, "go on")):
            time.sleep(0.02)
        with open(self.out.get_path(), "w") as file:
            file.write("| model | score |\\n| --- | --- |\\n| <b>merged</b> | 76.0 |\\n")
"""

WATCHED = """
class Watched(Job):
    '''Says and does what files tell it.'''
    def __init__(self):
        self.out = self.output_path("<i>plot.png")
        self.table = self.output_path("table.csv")

    def tasks(self):
        yield Task("run", rqmt={"mem": 0.1})

    def completed_fraction(self):
        return float(read("fraction") or 0.25)

    def run(self):
        import shutil
        said = ""
        while not os.path.exists(os.path.join(gs.BASE_DIR, "go on")):
            if read("say") != said:
                said = read("say")
                print(said, flush=True)
            time.sleep(0.02)
        shutil.copy(os.path.join(gs.BASE_DIR, "plot.png"), self.out.get_path())
        with open(self.table.get_path(), "w") as file:
            file.write("model,mean\\n<b>merged</b>,76.0\\n")


class Failing(Job):
    def __init__(self):
        self.out = self.output_path("out")

    def tasks(self):
        yield Task("run", rqmt={"mem": 0.1})

    def run(self):
        raise ValueError("<u>no</u> such thing")


def read(name):
    path = os.path.join(gs.BASE_DIR, name)
    return open(path).read() if os.path.exists(path) else ""
"""
DOT = bytes.fromhex(
    "89504e470d0a1a0a0000000d49484452000000010000000108000000003a7e9b55"
    "0000000a49444154789c636000000002000148afa4710000000049454e44ae426082"
)
"""An image of one pixel."""

RANGE = "drawing.layout.xaxis.range[1] - drawing.layout.xaxis.range[0]"
"""What of the graph is seen, in widths of a box."""

CONFIG = """
slow = Slow("slow").add_alias("<b>slow</b>")
last = Slow("last", slow.out)
tk.register_output("slow.md", slow.out)
tk.register_output("last.md", last.out)
"""


@contextmanager
def running(project, *args: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A command that serves the page, and the address that it printed."""
    process = subprocess.Popen(
        [sys.executable, "-m", "sisyphus", *args],
        cwd=project.path,
        env=project.environment(),
        stdin=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        for line in process.stderr:
            print(line, end="")
            if found := re.search(r"The page: (\S+)", line):
                yield process, found[1]
                break
        else:
            pytest.fail("no page was served")
    finally:
        process.terminate()
        process.communicate(timeout=30)


@pytest.fixture
def browser():
    """Debian's Chromium; skips where there is none, unless that is not allowed."""
    found = shutil.which("chromium")
    if found is None and os.environ.get("REQUIRE_CHROMIUM"):
        pytest.fail("REQUIRE_CHROMIUM is set, but there is no chromium")
    if found is None:
        pytest.skip("needs Chromium: apt-get install chromium")
    api = pytest.importorskip("playwright.sync_api", reason="needs playwright, of the extra `dev`")
    with api.sync_playwright() as playwright:
        # no sandbox: tests may run as root, and the page is ours
        browser = playwright.chromium.launch(executable_path=found, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def page(browser):
    """A page of which every error in the console counts."""
    page = browser.new_page(viewport={"width": 1400, "height": 900})
    page.set_default_timeout(20_000)
    errors = []
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
    yield page
    assert errors == []


def test_a_graph_is_watched_while_it_is_computed(project, page, wait_for):
    project.config(CONFIG, recipe=RECIPE)
    manager = project.start_manager()
    try:
        with running(project, "web", "--port", "0", "config/exp.py") as (_, address):
            page.goto(address)
            page.wait_for_selector("#counts .state:has-text('running 1')")
            page.wait_for_selector("#drawing[data-boxes='2'] .plot-container")
            assert page.locator("#drawing .scatterlayer .point").count() == 2
            before = page.evaluate(RANGE)
            page.locator("#drawing").hover()
            page.mouse.wheel(0, -400)
            wait_for(lambda: page.evaluate(RANGE) < 0.95 * before)
            page.select_option("#group", "class")
            page.wait_for_selector("#drawing[data-boxes='1']")
            box = page.locator("#drawing .scatterlayer .point").bounding_box()
            page.mouse.move(box["x"], box["y"])
            page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
            page.wait_for_selector("#drawing .hoverlayer text:has-text('2 jobs')")
            page.mouse.down()
            page.mouse.up()
            page.wait_for_selector("#drawing[data-boxes='2']")

            page.click("nav a[data-tab='jobs']")
            page.wait_for_selector("#total:has-text('2 jobs')")
            page.fill("#search", "slow</b>")
            page.wait_for_selector("#total:has-text('1 job')")
            row = page.locator("#job-table tbody tr")
            assert "<b>slow</b>" in row.inner_text()
            assert "25 % <img src=x" in row.inner_text()
            row.click()
            page.wait_for_selector("#job-log pre:has-text('<script>')")
            page.wait_for_selector("#job-why dd:has-text(\"'slow'\")")
            assert page.locator("#job-head button[data-action]").count() == 0

            page.evaluate("window.notReloaded = true")
            (project.path / "go on").touch()
            page.wait_for_selector("#all:has-text('2 of 2 targets done')")
            page.wait_for_selector("#job-head .state:has-text('finished')")
            assert page.evaluate("window.notReloaded")

            page.click("nav a[data-tab='outputs']")
            page.click("#output-list button:has-text('last.md')")
            page.wait_for_selector("#output-view td:has-text('<b>merged</b>')")
            assert "hacked" not in page.title()
    finally:
        (project.path / "go on").touch()
        manager.communicate(timeout=60)


def fills(page):
    """Colours of the dots of the graph, and those that the style sheet has for their states."""
    return page.evaluate(
        """() => {
            const dots = [...document.querySelectorAll("#drawing .scatterlayer .point")];
            const marks = [...document.querySelectorAll("#counts .state")];
            const probe = document.body.appendChild(document.createElement("i"));
            const found = { dots: dots.map((dot) => getComputedStyle(dot).fill), states: {} };
            for (const mark of marks) {
                probe.style.color = getComputedStyle(mark).getPropertyValue("--state");
                found.states[mark.dataset.state] = getComputedStyle(probe).color;
            }
            probe.remove();
            return found;
        }"""
    )


def test_a_job_is_watched_while_it_runs(project, page, wait_for):
    project.engine("LocalEngine(cpu=2)", "PLOGGING_INTERVAL = 0.05\nPLOGGING_UPDATE_FILE_PERIOD = 0.1")
    project.config(
        """
        with tk.block("outer"):
            with tk.sub_block("inner"):
                watched, step = Watched(), Step("a")
            failing = Failing()
        tk.register_output("plot", watched.out)
        tk.register_output("table.csv", watched.table)
        tk.register_output("number", step.out)
        tk.register_output("failing", failing.out)
        """,
        recipe=WATCHED,
    )
    (project.path / "plot.png").write_bytes(DOT)
    manager = project.start_manager()
    try:
        with running(project, "web", "--port", "0", "config/exp.py") as (_, address):
            page.goto(address)
            states = ("running", "error", "finished")
            for state in states:
                page.wait_for_selector(f"#counts .state[data-state='{state}']")
            page.wait_for_selector("#drawing[data-boxes='3'] .plot-container")
            seen = fills(page)
            assert sorted(seen["dots"]) == sorted(seen["states"][state] for state in states)
            assert page.locator("#shares span[data-state='error']").count() == 1
            before = page.evaluate("drawing.layout.xaxis.range[0]")
            box = page.locator("#drawing").bounding_box()
            page.mouse.move(box["x"] + 300, box["y"] + 30)
            page.mouse.down()
            page.mouse.move(box["x"] + 500, box["y"] + 60, steps=5)
            page.mouse.up()
            wait_for(lambda: page.evaluate("drawing.layout.xaxis.range[0]") < before)
            page.select_option("#group", "block")
            page.wait_for_selector("#drawing .textpoint:has-text('inner')")  # the outer one is around all
            page.emulate_media(color_scheme="dark")
            wait_for(lambda: page.evaluate("drawing.data[2].textfont.color") == "#e4e8ef")
            assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(20, 23, 29)"

            page.click("#counts .state[data-state='error']")
            page.wait_for_selector("#job-table td:has-text('ValueError: <u>no</u> such thing')")
            page.click("#job-table tbody tr")
            page.wait_for_selector("#job-head .failure-box:has-text('ValueError: <u>no</u> such thing')")

            page.click("#counts .state[data-state='running']")
            page.click("#job-table tbody tr:has-text('Watched')")
            page.wait_for_selector("#job-head:has-text('25 %')")
            page.wait_for_selector("#job-table tr.chosen:has-text('25 %')")
            (project.path / "fraction").write_text("0.5")
            page.wait_for_selector("#job-head:has-text('50 %')")
            page.wait_for_selector("#job-table tr.chosen:has-text('50 %')")
            (project.path / "say").write_text("<b>a word</b>")
            page.wait_for_selector("#job-log pre:has-text('<b>a word</b>')")
            page.wait_for_selector("#job-resources .plot .scatterlayer .trace")
            assert page.evaluate("document.querySelector('.plot').data.map((line) => line.name)") == [
                "memory run 1",
                "cpu run 1",
            ]
            (project.path / "go on").touch()
            page.wait_for_selector("#job-head .state[data-state='finished']")
            page.click("nav a[data-tab='outputs']")
            page.click("#output-list li[data-state='finished'] button:has-text('plot')")
            wait_for(lambda: page.evaluate("document.querySelector('#output-view img')?.naturalWidth") == 1)
            page.click("#output-list button:has-text('table.csv')")
            page.wait_for_selector("#output-view td:has-text('<b>merged</b>')")
            page.click("#output-list li[data-state='waiting'] button:has-text('failing')")
            page.wait_for_selector("#output-view:has-text('not there yet; made by jobs/Failing.')")
    finally:
        (project.path / "go on").touch()
        manager.communicate(timeout=60)


def test_a_drawing_that_is_refused_leaves_the_one_before(project, browser):
    project.config('tk.register_output("one", Step("b", Step("a").out).out)')
    with running(project, "web", "--port", "0", "config/exp.py") as (_, address):
        page = browser.new_page()
        page.goto(address)
        page.wait_for_selector("#drawing[data-boxes='2']")
        refusal = {"error": "<b>too many</b>"}
        page.route("**/api/graph?group=class*", lambda route: route.fulfill(status=400, json=refusal))
        page.select_option("#group", "class")
        page.wait_for_selector("#drawing-error:has-text('<b>too many</b>')")
        assert page.input_value("#group") == ""
        assert page.get_attribute("#drawing", "data-boxes") == "2"
        page.select_option("#group", "block")
        page.wait_for_selector("#drawing[data-boxes='1']")
        page.wait_for_selector("#drawing-error", state="hidden")


def test_jobs_are_held_and_released_by_hand(project, page):
    project.config('tk.register_output("one", Step("a").out)')
    with running(project, "web", "--port", "0", "--control", "config/exp.py") as (_, address):
        assert "?token=" in address
        page.goto(address)
        assert "token" not in page.url
        page.click("nav a[data-tab='jobs']")
        page.click("#job-table tbody tr")
        page.click("button[data-action='hold']")
        page.wait_for_selector("#job-head .state:has-text('hold')")
        assert (project.job_dir("Step") / "hold").exists()
        page.click("button[data-action='release']")
        page.wait_for_selector("#job-head .state:has-text('runnable')")
        page.on("dialog", lambda dialog: dialog.accept())
        page.click("button[data-action='cancel']")
        page.wait_for_selector("#job-head .state:has-text('hold')")


def test_the_manager_serves_the_page_while_it_works(project):
    project.config(CONFIG, recipe=RECIPE)
    with running(project, "manager", "-r", "--http", "0", "config/exp.py") as (manager, address):
        with urllib.request.urlopen(f"{address}api/overview") as answer:
            assert b'"jobs":2' in answer.read()
        (project.path / "go on").touch()
        manager.communicate(timeout=60)
        assert manager.returncode == 0
        with pytest.raises(OSError):
            urllib.request.urlopen(f"{address}api/overview").close()


def test_the_page_ends_with_a_manager_that_was_killed(project, wait_for):
    project.config(CONFIG, recipe=RECIPE)

    def is_there() -> bool:
        try:
            urllib.request.urlopen(f"{address}api/overview").close()
        except OSError:
            return False
        return True

    with running(project, "manager", "-r", "--http", "0", "config/exp.py") as (manager, address):
        assert is_there()
        manager.kill()
        wait_for(lambda: not is_there())
        (project.path / "go on").touch()


def test_a_port_that_is_taken_is_told(project):
    project.config('tk.register_output("one", Step("a").out)')
    with running(project, "web", "--port", "0", "config/exp.py") as (_, address):
        port = address.rstrip("/").rpartition(":")[2]
        done = project.sis("web", "--port", port, "config/exp.py")
        assert done.returncode == 1
        assert f"cannot listen on 127.0.0.1, port {port}: Address already in use" in done.stderr
        assert "--port N, or 0 for any free one" in done.stderr


def test_saved_jobs_are_shown_without_their_config(project):
    project.config('tk.register_output("one", Step("a").out)')
    assert project.manager().returncode == 0
    folder = os.path.relpath(project.job_dir("Step"), project.path)
    call = ("s", "show_jobs_in_webserver", "--port", "0", "--job", folder)
    with (
        running(project, *call) as (_, address),
        urllib.request.urlopen(f"{address}api/jobs") as answer,
    ):
        assert b'"state":"finished"' in answer.read()
