"""The manager's loop: hooks, several managers, engines that have to be polled, graphs that grow."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time

SCHEDULER = """
    def engine():
        import os, subprocess
        from sisyphus.engine import EngineBase
        from sisyphus.global_settings import STATE_RUNNING, STATE_UNKNOWN

        class Scheduler(EngineBase):
            '''Knows what it started, and tells nobody when it ends.'''

            def __init__(self):
                super().__init__()
                self.processes = {}

            def submit_call(self, call, logpath, rqmt, name, task_name, task_ids):
                for task_id in task_ids:
                    command = [*call, str(task_id), "--redirect_output"]
                    self.processes[name, task_id] = subprocess.Popen(command)
                return "scheduler", name

            def task_state(self, task, task_id):
                process = self.processes.get((self.queue_name(task), task_id))
                return STATE_RUNNING if process and process.poll() is None else STATE_UNKNOWN

            def get_task_id(self, task_id):
                return task_id

        return Scheduler()

    JOB_AUTO_CLEANUP = False
    WAIT_PERIOD_BETWEEN_CHECKS = 0.5
    WAIT_PERIOD_CACHE = 0.5
    WAIT_PERIOD_MTIME_OF_INPUTS = 2
"""


def test_an_engine_that_has_to_be_asked(project):
    project.write("settings.py", SCHEDULER.replace("\n    ", "\n"))
    project.config('tk.register_output("b", Step("b", Step("a").out).out)')
    began = time.monotonic()
    done = project.manager()
    assert done.returncode == 0
    assert project.read("output/b").strip() == "2"
    assert time.monotonic() - began > 2  # the second step waited until its input was old enough


def test_settings_hear_of_finished_and_failed_jobs(project):
    project.engine(
        "LocalEngine(cpu=2)",
        """
        def note(event, job):
            with open("heard", "a") as file:
                file.write(f"{event} {type(job).__name__}\\n")

        def on_job_finished(job):
            note("finished", job)

        def on_job_failure(job):
            note("failed", job)
        """,
    )
    project.config(
        'tk.register_output("good", Step("good").out)\ntk.register_output("bad", Bad().out)',
        recipe="""
        class Bad(Job):
            def __init__(self):
                self.out = self.output_var("out")

            def run(self):
                raise ValueError
        """,
    )
    assert project.manager().returncode == 1
    heard = project.read("heard").splitlines()
    assert heard.count("finished Step") == 1
    assert "failed Bad" in heard


def test_clear_error_moves_jobs_aside_by_itself(project):
    project.engine("LocalEngine(cpu=1)", "CLEAR_ERROR = True")
    project.config(
        'tk.register_output("out", Second().out)',
        recipe="""
        class Second(Job):
            def __init__(self):
                self.out = self.output_var("out")

            def run(self):
                first = not File("../../../../tried").exists()
                File("../../../../tried").touch()
                assert not first
                self.out.set(1)
        """,
    )
    assert project.manager().returncode == 0
    assert len(list((project.path / "work/jobs").glob("Second.*.cleared.0001"))) == 1


def jobs_that_note_their_start(project, num_jobs):
    """A config of jobs of which each adds a line to the file `starts`."""
    project.config(
        f"""
        for number in range({num_jobs}):
            tk.register_output(f"out/{{number}}", Notes(number).out)
        """,
        recipe="""
        class Notes(Job):
            def __init__(self, number):
                self.number = number
                self.out = self.output_var("out")

            def run(self):
                with open("../../../../starts", "a") as file:
                    file.write(f"{self.number}\\n")
                time.sleep(0.2)
                self.out.set(self.number)
        """,
    )
    (project.path / "work").mkdir()


def test_a_second_manager_is_refused(project, wait_for):
    jobs_that_note_their_start(project, 6)
    first = project.start_manager()
    wait_for(lambda: (project.path / "work/.manager.json").exists())
    second = project.manager()
    looked = project.sis("manager", "config/exp.py", stdin="v\nn\n")
    output, _ = first.communicate(timeout=30)
    assert first.returncode == 0, output
    assert second.returncode == 1
    assert f"process {first.pid} on {os.uname().nodename}" in second.stderr
    assert "another manager" not in looked.stderr  # to look is free
    assert sorted(project.read("starts").split()) == [str(number) for number in range(6)]
    assert not (project.path / "work/.manager.json").exists()


def test_a_frozen_manager_is_not_taken_for_dead(project, wait_for):
    jobs_that_note_their_start(project, 4)
    first = project.start_manager()
    wait_for(lambda: (project.path / "work/.manager.json").exists())
    first.send_signal(signal.SIGSTOP)
    second = project.manager()
    first.send_signal(signal.SIGCONT)
    output, _ = first.communicate(timeout=30)
    assert first.returncode == 0, output
    assert second.returncode == 1


def test_after_a_killed_manager_the_next_takes_over(project, wait_for):
    jobs_that_note_their_start(project, 4)
    first = project.start_manager()
    wait_for(lambda: (project.path / "starts").exists())
    first.kill()
    first.communicate()
    done = project.manager()
    assert done.returncode == 0
    assert f"The manager before, process {first.pid} on" in done.stderr
    assert sorted(project.read("starts").split()) == [str(number) for number in range(4)]


def test_two_managers_run_each_task_once_where_they_are_allowed(project):
    project.engine("LocalEngine(cpu=2)", "ONE_MANAGER = False")
    jobs_that_note_their_start(project, 6)
    managers = [project.start_manager(), project.start_manager()]
    for manager in managers:
        output, _ = manager.communicate(timeout=30)
        assert manager.returncode == 0, output
    assert sorted(project.read("starts").split()) == [str(number) for number in range(6)]


def test_killing_the_manager_again_and_again_loses_and_repeats_nothing(project):
    jobs_that_note_their_start(project, 10)
    for patience_s in (0.35, 0.55, 0.75):
        manager = project.start_manager()
        time.sleep(patience_s)
        manager.kill()
        manager.communicate()
    done = project.manager()
    assert done.returncode == 0
    assert sorted(project.read("starts").split()) == [str(number) for number in range(10)]


HANGS = """
    class Hangs(Job):
        def __init__(self, resume):
            self.resume = resume
            self.out = self.output_var("out")

        def tasks(self):
            yield Task("run", resume=self.resume)

        def run(self):
            if not File("../../../../hung").exists():
                File("../../../../hung").write_text(str(os.getpid()))
                time.sleep(0.3)  # the manager sees it running first
                os.kill(os.getpid(), 19)
            self.out.set(1)
"""
QUICK_TO_NOTICE = """
    PLOGGING_INTERVAL, PLOGGING_UPDATE_FILE_PERIOD, TASK_HEARTBEAT_TIMEOUT = 0.1, 0.2, 1.0
"""


def test_a_hanging_task_is_told_and_goes_on(project):
    project.engine("LocalEngine(cpu=2)", QUICK_TO_NOTICE)
    project.config('tk.register_output("out", Hangs("run").out)', recipe=HANGS)
    done = project.manager()
    assert done.returncode == 0
    assert re.search(r"jobs/Hangs.* run 1 hangs: no sign of life for 1.\d s. It was killed", done.stderr)
    assert "made at config/exp.py:6" in done.stderr


def test_a_hanging_task_that_cannot_resume_is_told_and_left_alone(project, wait_for):
    project.engine("LocalEngine(cpu=2)", QUICK_TO_NOTICE)
    project.config('tk.register_output("out", Hangs(None).out)', recipe=HANGS)
    manager = project.start_manager()
    line = ""
    while "hangs: no sign of life" not in line:
        line = manager.stdout.readline()
        assert line, "the manager ended"
    os.kill(int(project.read("hung")), signal.SIGCONT)
    output, _ = manager.communicate(timeout=20)
    assert manager.returncode == 0, output
    assert "It cannot resume, so it is left alone" in line


def test_a_recipe_decides_about_its_failures(project):
    project.config(
        'tk.register_output("out", Hungry().out)\ntk.register_output("other", Step("x").out)',
        recipe="""
        class Hungry(Job):
            def __init__(self):
                self.out = self.output_var("out")

            def tasks(self):
                yield Task("run", rqmt={"mem": 1})

            def run(self):
                with open("../tries", "a") as tries:  # the submission may be noted only after it began
                    tries.write("x")
                needed = len(File("../tries").read_text())
                if needed < 3:
                    raise RuntimeError(f"{needed} GB do not do")
                self.out.set(needed)

            def on_failure(self, failure):
                if "GB do not do" in failure.log():
                    failure.retry(rqmt={"mem": 2 * failure.rqmt["mem"]})
        """,
    )
    done = project.manager()
    assert done.returncode == 0
    assert int(project.read("output/out")) == 3
    assert "RuntimeError: 1 GB do not do" in done.stderr
    assert done.stderr.count("runs again, with {'mem'") == 2
    submitted = (project.job_dir("Hungry") / "submit_log.run").read_text().splitlines()
    assert [eval(line)[1]["mem"] for line in submitted] == [1, 2, 4]


def test_settings_decide_about_failures_and_give_up(project):
    project.engine(
        "LocalEngine(cpu=2)",
        """
        def on_job_failure(job):
            from sisyphus import tk
            for failure in tk.failures(job):
                failure.retry(max_retries=2)
        """,
    )
    project.config(
        'tk.register_output("out", Bad().out)',
        recipe="""
        class Bad(Job):
            def __init__(self):
                self.out = self.output_var("out")

            def run(self):
                raise ValueError("always")
        """,
    )
    done = project.manager()
    assert done.returncode == 1
    assert sorted(path.name for path in project.job_dir("Bad").glob("log.*")) == [
        "log.run.1",
        "log.run.1.error.01",
        "log.run.1.error.02",
    ]


def test_hooks_and_progress_that_raise_do_not_stop_the_others(project):
    project.engine(
        "LocalEngine(cpu=2)",
        """
        def on_job_failure(job):
            raise ValueError("in on_job_failure")

        def on_job_finished(job):
            raise ValueError("in on_job_finished")
        """,
    )
    project.config(
        'tk.register_output("b", Step("b", Step("a").out).out)\ntk.register_output("bad", Bad().out)',
        recipe="""
        class Bad(Job):
            def __init__(self):
                self.out = self.output_var("out")

            def completed_fraction(self):
                raise ValueError("in completed_fraction")

            def run(self):
                raise ValueError
        """,
    )
    done = project.manager()
    assert done.returncode == 1
    assert project.read("output/b").strip() == "2"
    assert "ValueError: in completed_fraction. Repair the recipe" in done.stderr
    assert "on_job_finished of the settings failed" in done.stderr


def test_a_job_runs_inside_its_wrapper(project):
    project.engine(
        "LocalEngine(cpu=1)",
        """
        def worker_wrapper(job, task_name, call):
            return ["env", "WRAPPED=yes", *call]

        DEFAULT_ENVIRONMENT_KEEP.add("WRAPPED")
        """,
    )
    project.config(
        'tk.register_output("out", Env().out)',
        recipe="""
        class Env(Job):
            def __init__(self):
                self.out = self.output_var("out")

            def run(self):
                self.out.set(os.environ["WRAPPED"])
        """,
    )
    assert project.manager().returncode == 0
    assert project.read("output/out").strip() == "'yes'"


def test_an_output_released_early_starts_the_next_job(project):
    project.config(
        """
        training = Training()
        tk.register_output("all", training.out)
        tk.register_output("after", Step("after", training.early).out)
        """,
        recipe="""
        class Training(Job):
            '''Releases its first output, and ends only when another job used it.'''

            def __init__(self):
                self.early = self.output_var("early")
                self.out = self.output_var("out")

            def path_available(self, path):
                return path.is_set() if path == self.early else super().path_available(path)

            def run(self):
                self.early.set(41)
                for _ in range(500):
                    if File("../../../../output/after").exists():
                        return self.out.set(1)
                    time.sleep(0.02)
                raise RuntimeError("nobody came")
        """,
    )
    assert project.manager().returncode == 0
    assert project.read("output/after").strip() == "42"


def test_updates_add_inputs_and_with_them_jobs(project):
    project.config(
        'tk.register_output("sum", Grows(Step("first").out).out)',
        recipe="""
        class Grows(Job):
            def __init__(self, first):
                self.first = first
                self.out = self.output_var("out")
                self.more = []

            def update(self):
                if self.first.is_set():
                    self.more = [Step(f"more {number}").out for number in range(self.first.get() + 1)]

            def run(self):
                self.out.set(sum(number.get() for number in self.more))
        """,
    )
    done = project.manager()
    assert done.returncode == 0
    assert project.read("output/sum").strip() == "2"
    assert "4 jobs ran" in done.stderr


def test_a_failing_sibling_does_not_hide_ids_that_still_run(project):
    project.config(
        'tk.register_output("out", Parts().out)',
        recipe="""
        class Parts(Job):
            def __init__(self):
                self.out = self.output_path("out", directory=True)

            def tasks(self):
                yield Task("part", args=[1, 2])

            def part(self, number):
                assert number == 2
                time.sleep(1)
                File(self.out.get_path(), "two").touch()
        """,
    )
    assert project.manager().returncode == 1
    assert (project.job_dir("Parts") / "output/out/two").exists()


def test_the_memory_profile(project):
    project.engine("LocalEngine(cpu=1)", "MEMORY_PROFILE_LOG = 'memory.log'")
    project.config('tk.register_output("a", Step("a").out)')
    assert project.manager().returncode == 0
    assert "MB, peak" in project.read("memory.log")


def test_broken_code_of_a_recipe_does_not_stop_the_others(project):
    project.config(
        """
        first = Step("first").out
        tk.register_output("typo", Typo(first).out)
        tk.register_output("update", Updates(first).out)
        tk.register_output("good", Step("good", Step("second", first).out).out)
        """,
        recipe="""
        class Typo(Job):
            def __init__(self, number):
                self.number = number
                self.out = self.output_var("out")

            def tasks(self):
                yield Task("rum")

        class Updates(Typo):
            def update(self):
                raise ValueError("in update")
        """,
    )
    for attempt in range(2):  # with a folder of the first attempt, too
        done = project.manager("-io")
        assert done.returncode == 1
        assert project.read("output/good").strip() == "3"
        assert done.stderr.count("Typo has no method 'rum'") >= 1
        assert done.stderr.count("Traceback") == 2, attempt  # each is told once
        assert "Typo.tasks() failed: AttributeError: Typo has no method 'rum'" in done.stderr
        assert "Updates.update() failed: ValueError: in update" in done.stderr
        assert "2 failed" in done.stderr
    assert "Cleared Job<work/jobs/Typo." in project.manager("-co").stderr


def test_a_name_that_no_file_system_takes_does_not_stop_the_others(project):
    project.config(
        'tk.register_output("long", Long().out)\ntk.register_output("good", Step("good").out)',
        recipe="""
        class Long(Job):
            def __init__(self):
                self.out = self.output_var("out")

            @classmethod
            def hash(cls, parsed_args):
                return 300 * "h"

            def run(self):
                self.out.set(1)
        """,
    )
    done = project.manager()
    assert done.returncode == 1
    assert "File name too long" in done.stderr
    assert "Traceback" not in done.stderr
    assert project.read("output/good").strip() == "1"


def test_a_job_that_cannot_be_set_up_does_not_stop_the_others(project):
    project.config('tk.register_output("a", Step("a").out)\ntk.register_output("b", Step("b").out)')
    project.sis("manager", "config/exp.py", stdin="s\nn\n")
    first, _ = sorted((project.path / "work/jobs").iterdir())
    for path in sorted(first.rglob("*"), reverse=True):
        path.unlink() if path.is_file() else path.rmdir()
    first.rmdir()
    first.write_text("a file in the way")
    done = project.manager()
    assert done.returncode == 1
    assert "is in the way" in done.stderr
    assert sum((project.path / "output" / name).exists() for name in "ab") == 1


def test_a_finished_graph_is_reported_as_finished(project):
    project.config(
        """
        for number in range(100):
            tk.register_output(f"o/{number}", Step(number, Step(-1 - number).out).out)
        """
    )
    project.write(
        "pretend.py",
        """
        from sisyphus import tk
        tk.config_manager.load_configs(["config/exp.py"])
        for job in tk.sis_graph.jobs():
            job._sis_setup_directory()
            job.out.set(0)
            open(job._sis_path("finished.run.1"), "w").close()
        manager = tk.start_manager()
        print({state: len(jobs) for state, jobs in manager.states.items()})
        """,
    )
    done = subprocess.run(
        [sys.executable, "pretend.py"],
        cwd=project.path,
        capture_output=True,
        text=True,
        env=project.environment(),
    )
    assert done.stdout.strip() == "{'finished': 200}", done.stderr


def test_what_is_known_to_be_finished_is_not_looked_at_again(project):
    project.engine("LocalEngine(cpu=1)", "CACHE_FINISHED_RESULTS = True")
    project.config('tk.register_output("b", Step("b", Step("a").out).out)')
    assert project.manager().returncode == 0
    assert (project.path / "finished_results_cache.pkl").exists()
    for marker in (project.path / "work").glob("jobs/*/finished*"):
        marker.unlink()
    again = project.manager()
    assert again.returncode == 0
    assert "0 jobs ran, 2 were cached" in again.stderr


def test_children_of_a_failed_try_do_not_work_beside_the_next(project):
    project.config(
        'tk.register_output("out", Leaves().out)',
        recipe="""
        class Leaves(Job):
            def __init__(self):
                self.out = self.output_var("out")

            def tasks(self):
                yield Task("run", tries=2)

            def run(self):
                pids = File("../../../../pids")
                if not pids.exists():
                    import subprocess
                    child = subprocess.Popen(["sleep", "60"])
                    pids.write_text(str(child.pid))
                    child.returncode = 0  # no warning that it runs on
                    raise ValueError("the child stays")
                state = File(f"/proc/{pids.read_text()}")
                self.out.set(state.exists() and ") Z " not in (state / "stat").read_text())
        """,
    )
    done = project.manager()
    assert done.returncode == 0
    assert "Ended what an earlier run left running" in done.stderr
    assert project.read("output/out").strip() == "False"
