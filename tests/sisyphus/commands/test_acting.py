"""``sis run``, ``hold``, ``release`` and ``retry``."""

from __future__ import annotations


def test_run_computes_only_what_a_target_needs(project):
    project.config(
        'shared = Step("shared").out\n'
        'tk.register_output("wanted", Step("wanted", shared).out)\n'
        'tk.register_output("other", Step("other", shared).out)'
    )
    done = project.sis("run", "config/exp.py:wanted")
    assert done.returncode == 0
    assert project.read("output/wanted") == "2\n"
    assert not (project.path / "output/other").exists()
    assert len(list((project.path / "work").glob("**/Step.*"))) == 2
    again = project.sis("run", "wanted", "--from", "config/exp.py")
    assert again.returncode == 0
    assert "0 jobs ran, 2 were cached" in again.stderr


def test_run_of_a_job_and_of_what_is_unknown(project):
    project.config('Step("a").add_alias("steps/a")\ntk.register_output("b", Step("b").out)')
    done = project.sis("run", "config/exp.py:nothing")
    assert done.returncode == 1
    assert "Targets: b" in done.stderr
    project.config('a = Step("a").add_alias("steps/a")\ntk.register_output("b", Step("b", a.out).out)')
    assert project.sis("run", "config/exp.py:steps/a").returncode == 0
    assert len(list((project.path / "work").glob("**/Step.*"))) == 1


def test_run_fails_with_the_job(project):
    project.config(
        'tk.register_output("a", Fail().out)',
        recipe="""
        class Fail(Job):
            def __init__(self):
                self.out = self.output_path("x")
            def run(self):
                assert (File("mended")).exists(), "broken"
            def tasks(self):
                yield Task("run")
        """,
    )
    assert project.sis("run", "config/exp.py:a").returncode == 1


def test_hold_and_release(project):
    project.config('tk.register_output("a", Step("a").out)')
    assert project.sis("hold", "config/exp.py:a").returncode == 0
    held = project.manager()
    assert not (project.path / "output/a").exists()
    assert "1 are open" in held.stderr
    assert project.sis("release", "config/exp.py:a").returncode == 0
    assert project.manager().returncode == 0
    assert (project.path / "output/a").exists()
    assert project.sis("release", "config/exp.py:a").returncode == 1


def test_hold_of_what_is_finished(computed):
    assert computed.sis("hold", "Train") == 1
    assert computed.sis("cancel", "Train") == 1
    assert not list((computed.path / "work").glob("**/hold"))


def test_cancel_stops_and_holds_until_it_is_released(project, wait_for):
    project.engine("LocalEngine(cpu=1)")
    project.config(
        'tk.register_output("a", Waits("a").out)\ntk.register_output("b", Waits("b").out)',
        recipe="""
        class Waits(Job):
            def __init__(self, name):
                self.name = name
                self.out = self.output_var("x")
            def tasks(self):
                yield Task("run", resume="run")
            def run(self):
                with open("../../../../runs", "a") as file:
                    file.write(self.name)
                while not File("../../../../go").exists():
                    time.sleep(0.02)
                self.out.set(1)
        """,
    )
    manager = project.start_manager()
    runs = project.path / "runs"
    wait_for(lambda: runs.exists() and runs.read_text())
    first = runs.read_text()
    second = "b" if first == "a" else "a"
    queued = project.sis("cancel", f"config/exp.py:{second}")
    assert queued.returncode == 0
    cancelled = project.sis("cancel", f"config/exp.py:{first}")
    assert cancelled.returncode == 0
    assert "Cancelled: task run, ids 1" in cancelled.stderr
    output, _ = manager.communicate(timeout=20)
    assert "2 are open" in output
    assert runs.read_text() == first  # the one that waited did not start
    project.write("go", "")
    for name in (first, second):
        assert project.sis("release", f"config/exp.py:{name}").returncode == 0
    assert project.manager().returncode == 0
    assert runs.read_text() in (first + first + second, first + second + first)


def test_hold_of_a_job_without_folder_leaves_nothing(place):
    config = place.config('tk.register_output("x", Data("a").out)')
    assert place.sis("hold", f"{config}:x") == 0
    assert (place.folder("Data") / "hold").exists()
    assert "hold: " in place.answers("status", config)
    assert place.sis("release", f"{config}:x") == 0
    assert not list((place.path / "work").glob("**/Data.*"))


def test_retry_runs_a_failed_task_again_and_keeps_its_log(project):
    project.config(
        'tk.register_output("a", Twice().out)',
        recipe="""
        class Twice(Job):
            def __init__(self):
                self.out = self.output_path("x")
            def tasks(self):
                yield Task("prepare")
                yield Task("run")
            def prepare(self):
                with open(self.out.get_path() + ".count", "a") as file:
                    file.write("prepared\\n")
            def run(self):
                if not File(gs.BASE_DIR, "mended").exists():
                    raise RuntimeError("not mended")
                File(self.out.get_path()).touch()
        """,
    )
    assert project.manager("-io").returncode == 1
    folder = project.job_dir("Twice")
    assert project.sis("retry", "Twice").returncode == 0
    assert (folder / "log.run.1.retried.01").exists()
    project.write("mended", "")
    assert project.manager().returncode == 0
    assert (folder / "output/x.count").read_text() == "prepared\n"
    assert project.sis("retry", "Twice").returncode == 1


def test_retry_from_start_moves_the_folder_aside(place):
    config = place.config('tk.register_output("x", Train(Data("a").out, 10.0).out)')
    place.compute(config)
    assert place.sis("retry", "--from-start", "Train") == 0
    assert [path.name.partition(".cleared.")[2] for path in (place.path / "work").glob("**/Train.*")] == [
        "0001"
    ]


def test_retry_of_what_did_not_fail(computed):
    assert computed.sis("retry", "Train") == 1


def test_retry_from_the_start_beside_a_manager_that_works(project, wait_for):
    project.config(
        'tk.register_output("a", Fails().out)\ntk.register_output("b", Waits().out)',
        recipe="""
        class Fails(Job):
            def __init__(self):
                self.out = self.output_var("x")
            def tasks(self):
                yield Task("run")
            def run(self):
                self.out.set(1 / int(File("../../../../mended").exists()))

        class Waits(Fails):
            def run(self):
                while not File("../../../../go").exists():
                    time.sleep(0.02)
                self.out.set(1)
        """,
    )
    manager = project.start_manager()
    wait_for(lambda: list(project.path.glob("work/**/Fails.*/error.run.1")))
    project.write("mended", "")
    assert project.sis("retry", "--from-start", "Fails").returncode == 0
    wait_for(lambda: (project.path / "output/a").exists())
    project.write("go", "")
    output, _ = manager.communicate(timeout=20)
    assert manager.returncode == 0, output
