"""Whole runs of ``python -m sisyphus manager`` in a project whose path has a blank."""

from __future__ import annotations

import os
import re
import signal
import time

import pytest
from sisyphus.running import usage

SLOW = """
class Slow(Job):
    '''Waits for a file `go` in the project; notes each start in the file `starts`.'''

    def __init__(self, name, resume=None):
        self.name, self.resume = name, resume
        self.out = self.output_var("value")

    def tasks(self):
        yield Task("run", resume=self.resume, rqmt={"mem": 0.1})

    def note(self, word):
        with open("../../../../starts", "a") as file:
            file.write(f"{word} {os.getpid()}\\n")

    def run(self):
        self.note("run")
        while not os.path.exists("../../../../go"):
            time.sleep(0.02)
        self.out.set("ran")

    def again(self):
        self.note("again")
        self.out.set("resumed")
"""


def test_a_chain_runs_to_its_end_and_is_cached_afterwards(project):
    project.config(
        """
        number = None
        for name in "abcde":
            number = Step(name, number).out
        tk.register_output("five", number)
        """
    )
    began = time.monotonic()
    done = project.manager()
    seconds = time.monotonic() - began
    assert done.returncode == 0
    assert project.read("output/five").strip() == "5"
    assert "5 jobs ran, 0 were cached" in done.stderr
    assert "Output output/five" in done.stderr
    assert len(re.findall(r"INFO: Finished jobs/Step\.\w+ in [\d.]+ s\n", done.stderr)) == 5
    assert seconds < 10  # the benchmark asks for 3 on an idle machine
    again = project.manager()
    assert again.returncode == 0
    assert "0 jobs ran, 5 were cached" in again.stderr


def test_a_fan_out_uses_all_cpus_and_no_more(project):
    project.config(
        """
        for number in range(6):
            tk.register_output(f"out/{number}", Timed(number).out)
        """,
        recipe="""
        class Timed(Job):
            def __init__(self, number):
                self.out = self.output_var("times")

            def run(self):
                began = time.time()
                time.sleep(0.3)
                self.out.set((began, time.time()))
        """,
    )
    assert project.manager().returncode == 0
    times = [eval(project.read(f"output/out/{number}")) for number in range(6)]
    at_once = [sum(began <= moment < ended for began, ended in times) for moment, _ in times]
    assert max(at_once) == 2


def test_each_id_of_a_task_runs_its_share(project):
    project.config(
        'tk.register_output("parts", Parts().out)',
        recipe="""
        class Parts(Job):
            def __init__(self):
                self.out = self.output_path("parts", directory=True)

            def tasks(self):
                yield Task("part", args=[[n, n * n] for n in range(5)], parallel=2)
                yield Task("check", mini_task=True)

            def part(self, number, square):
                File(self.out.get_path(), str(number)).write_text(str(square))

            def check(self):
                assert len(os.listdir(self.out.get_path())) == 5
        """,
    )
    assert project.manager().returncode == 0
    assert project.read("output/parts/4") == "16"
    folder = project.job_dir("Parts")
    assert (folder / "log.part.1").read_text().count("Starting subtask") == 3
    assert (folder / "log.part.2").read_text().count("Starting subtask") == 2
    assert (folder / "finished.check.1").exists()


def test_a_failing_job_is_shown_and_does_not_stop_the_others(project):
    project.config(
        """
        bad = Bad("x").out
        tk.register_output("bad", bad)
        tk.register_output("after", Step("after", bad).out)
        tk.register_output("good", Step("good").out)
        """,
        recipe="""
        class Bad(Job):
            def __init__(self, name):
                self.out = self.output_var("out")

            def run(self):
                if not File("../../../../mended").exists():
                    raise ValueError("the reason")
                self.out.set(1)
        """,
    )
    done = project.manager()
    assert done.returncode == 1
    assert "ValueError: the reason" in done.stderr
    assert "made at config/exp.py:7 in py" in done.stderr
    summary = done.stderr.partition("1 jobs ran, 0 were cached, 1 failed, 1 are open")[2]
    assert "error: jobs/Bad." in summary
    assert "made at config/exp.py:7 in py" in summary
    assert f"log: work/jobs/{project.job_dir('Bad').name}/log.run.1" in summary
    assert "error: repaired? sis retry JOB, or start the manager with -co" in summary
    assert "Output output/good" in summary
    assert "Not computed: output/after" in summary
    assert project.read("output/good").strip() == "1"
    project.write("mended", "")
    still = project.manager()  # the harmless answer to "clear?" is no
    assert still.returncode == 1
    assert "Clear jobs in error state?" in still.stdout
    assert project.manager("-io").returncode == 1
    assert project.manager("-co").returncode == 0
    assert project.read("output/after").strip() == "2"
    assert len(list((project.path / "work/jobs").glob("Bad.*.cleared.0001"))) == 1


def test_a_job_in_error_is_cleared_by_the_answer_y(project):
    project.config(
        'tk.register_output("bad", Bad().out)',
        recipe="""
        class Bad(Job):
            def __init__(self):
                self.out = self.output_var("out")

            def run(self):
                assert File("../../../../mended").exists()
                self.out.set(1)
        """,
    )
    assert project.manager().returncode == 1
    project.write("mended", "")
    assert project.manager(stdin="y\n").returncode == 0


def test_a_task_killed_by_force_goes_on_with_its_method_for_restarts(project, wait_for):
    project.config('tk.register_output("slow", Slow("x", resume="again").out)', recipe=SLOW)
    manager = project.start_manager()
    wait_for(lambda: (project.path / "starts").exists())
    os.kill(int(project.read("starts").split()[1]), signal.SIGKILL)
    output, _ = manager.communicate(timeout=20)
    assert manager.returncode == 0, output
    assert project.read("output/slow").strip() == "'resumed'"
    assert "RETRY OR CONTINUE TASK" in (project.job_dir("Slow") / "log.run.1").read_text()


def test_children_of_a_task_killed_by_force_do_not_run_on(project, wait_for):
    project.config(
        'tk.register_output("out", Parent().out)',
        recipe="""
        class Parent(Job):
            def __init__(self):
                self.out = self.output_var("out")

            def tasks(self):
                yield Task("run", resume="run")

            def run(self):
                if not File("../../../../pids").exists():
                    notes = "../../../../pids"
                    command = "sleep 60 & echo {pid} $! > {p}.new; mv {p}.new {p}; wait"
                    self.sh(command, pid=os.getpid(), p=notes)
                self.out.set(1)
        """,
    )
    manager = project.start_manager()
    wait_for(lambda: (project.path / "pids").exists())
    worker, child = map(int, project.read("pids").split())
    os.kill(worker, signal.SIGKILL)
    output, _ = manager.communicate(timeout=20)
    assert manager.returncode == 0, output
    assert "was interrupted, ended the processes that it left" in output
    wait_for(lambda: usage.process_start(child) is None)


def test_a_task_killed_by_force_that_cannot_resume_is_told(project, wait_for):
    project.config('tk.register_output("slow", Slow("x").out)', recipe=SLOW)
    manager = project.start_manager()
    wait_for(lambda: (project.path / "starts").exists())
    os.kill(int(project.read("starts").split()[1]), signal.SIGTERM)
    output, _ = manager.communicate(timeout=20)
    assert manager.returncode == 1
    assert "interrupted_not_resumable: jobs/Slow." in output
    assert not list(project.job_dir("Slow").glob("error.*"))
    project.write("go", "")
    assert project.manager("-cio").returncode == 0


def test_tasks_outlive_their_manager_and_are_found_again(project, wait_for):
    project.config('tk.register_output("slow", Slow("x", resume="again").out)', recipe=SLOW)
    first = project.start_manager()
    wait_for(lambda: (project.path / "starts").exists())
    first.kill()
    first.communicate()
    second = project.start_manager()
    time.sleep(1.5)
    project.write("go", "")
    output, _ = second.communicate(timeout=20)
    assert second.returncode == 0, output
    assert "Found running" in output
    assert project.read("starts").count("\n") == 1
    assert project.read("output/slow").strip() == "'ran'"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=str)
def test_ctrl_c_leaves_tasks_running(project, wait_for, number):
    project.config('tk.register_output("slow", Slow("x").out)', recipe=SLOW)
    manager = project.start_manager()
    wait_for(lambda: (project.path / "starts").exists())
    manager.send_signal(number)
    output, _ = manager.communicate(timeout=20)
    assert manager.returncode == 130
    assert "1 running jobs go on" in output
    assert "Traceback" not in output
    project.write("go", "")
    assert project.manager().returncode == 0


def test_a_request_above_the_maximum_fails_at_once(project):
    project.engine("LocalEngine(cpu=2, mem=4)")
    project.config(
        """
        tk.register_output("big", Step("big", rqmt={"mem": 64}).out)
        tk.register_output("good", Step("good").out)
        """
    )
    done = project.manager()
    assert done.returncode == 1
    assert "asks for mem=64, but this engine has 4 in total" in done.stderr
    assert project.read("output/good").strip() == "1"
    project.engine("LocalEngine(cpu=2, mem=64)")
    assert project.manager().returncode == 0  # nothing has to be cleared after the settings were mended


def test_memory_is_counted_if_it_is_configured(project):
    project.engine("LocalEngine(cpu=4, mem=1)")
    project.config(
        """
        for number in range(3):
            tk.register_output(f"out/{number}", Timed(number).out)
        """,
        recipe="""
        class Timed(Job):
            def __init__(self, number):
                self.out = self.output_var("times")

            def tasks(self):
                yield Task("run", rqmt={"mem": "600M", "cpu": 1})

            def run(self):
                began = time.time()
                time.sleep(0.2)
                self.out.set((began, time.time()))
        """,
    )
    assert project.manager().returncode == 0
    times = sorted(eval(project.read(f"output/out/{number}")) for number in range(3))
    assert times[0][1] < times[1][0]
    assert times[1][1] < times[2][0]


def test_each_job_sees_its_own_gpus_only(project):
    project.engine('LocalEngine(cpu=4, gpus=2, available_gpus="3,5")')
    project.config(
        """
        for number in range(4):
            tk.register_output(f"out/{number}", Sees(number, 1).out)
        tk.register_output("none", Sees(5, 0).out)
        tk.register_output("both", Sees(6, 2).out)
        """,
        recipe="""
        class Sees(Job):
            def __init__(self, number, gpu):
                self.gpu = gpu
                self.out = self.output_var("devices")

            def tasks(self):
                yield Task("run", rqmt={"gpu": self.gpu})

            def run(self):
                began = time.time()
                time.sleep(0.2)
                self.out.set((os.environ["CUDA_VISIBLE_DEVICES"], began, time.time()))
        """,
    )
    assert project.manager().returncode == 0
    seen = [eval(project.read(f"output/out/{number}")) for number in range(4)]
    assert {devices for devices, _, _ in seen} == {"3", "5"}
    for device in "35":
        (_, end), (begin, _) = sorted((began, ended) for devices, began, ended in seen if devices == device)
        assert end <= begin
    assert eval(project.read("output/none"))[0] == ""
    assert eval(project.read("output/both"))[0] == "3,5"


def test_out_of_memory_doubles_the_request(project):
    project.config(
        'tk.register_output("out", Hungry().out)',
        recipe="""
        class Hungry(Job):
            def __init__(self):
                self.out = self.output_var("out")

            def tasks(self):
                yield Task("run", resume="run", rqmt={"mem": 2, "time": 1})

            def run(self):
                tries = len(open("../submit_log.run").readlines())
                if tries < 3:
                    self.sh("exit 137")
                self.out.set(tries)
        """,
    )
    assert project.manager().returncode == 0
    assert project.read("output/out").strip() == "3"
    folder = project.job_dir("Hungry")
    submissions = [eval(line)[1] for line in (folder / "submit_log.run").read_text().splitlines()]
    assert [info["mem"] for info in submissions] == [2, 4, 8]
    assert [info["time"] for info in submissions] == [1, 1, 1]
    assert not list(folder.glob("error*"))


def test_a_task_that_never_gets_further_is_given_up(project):
    project.config(
        'tk.register_output("out", Dies().out)',
        recipe="""
        class Dies(Job):
            def __init__(self):
                self.out = self.output_var("out")

            def tasks(self):
                yield Task("run", resume="run")

            def run(self):
                os.kill(os.getpid(), 9)
        """,
    )
    done = project.manager()
    assert done.returncode == 1
    assert "retry_error: jobs/Dies." in done.stderr
    assert len((project.job_dir("Dies") / "submit_log.run").read_text().splitlines()) == 4


def test_a_task_in_error_is_tried_as_often_as_it_asks_for(project):
    project.config(
        'tk.register_output("out", Flaky().out)',
        recipe="""
        class Flaky(Job):
            def __init__(self):
                self.out = self.output_var("out")

            def tasks(self):
                yield Task("run", tries=3)

            def run(self):
                assert File("../log.run.1.error.02").exists()
                self.out.set(1)
        """,
    )
    assert project.manager().returncode == 0


def test_a_held_job_waits_until_its_hold_file_is_removed(project, wait_for):
    project.config(
        """
        tk.register_output("held", Step("held").out)
        tk.register_output("slow", Slow("x").out)
        """,
        recipe=SLOW,
    )
    project.sis("manager", "config/exp.py", stdin="s\nn\n")
    held = project.job_dir("Step")
    (held / "hold").touch()
    manager = project.start_manager()
    wait_for(lambda: (project.path / "starts").exists())
    time.sleep(0.5)
    assert not list(held.glob("log.*"))
    (held / "hold").unlink()
    wait_for(lambda: (held / "finished").exists())
    project.write("go", "")
    output, _ = manager.communicate(timeout=20)
    assert manager.returncode == 0, output


def test_async_configs_go_on_when_their_jobs_are_finished(project):
    project.write(
        "config/exp.py",
        """
        from sisyphus import *
        from recipe.jobs import *

        async def py():
            first, second = Step("first"), Step("second")
            await tk.async_gather(tk.async_run(first.out), tk.async_run(second.out))
            total = first.out.get() + second.out.get()
            tk.register_output("total", Step(f"after {total}", first.out).out)
        """,
    )
    done = project.manager()
    assert done.returncode == 0
    assert "Configs waiting for jobs to finish" in done.stderr
    assert project.read("output/total").strip() == "2"
    assert "3 jobs ran" in done.stderr


def test_reports_and_callbacks(project):
    project.config(
        """
        numbers = {name: Step(name).out for name in "ab"}
        tk.register_report("report.txt", numbers, template="a is {a}, b is {b}")
        tk.register_callback(called, numbers["a"])
        """,
        recipe="""
        def called(number):
            with open("called", "a") as file:
                file.write(f"called with {number.get()};")
        """,
    )
    done = project.manager()
    assert done.returncode == 0
    assert project.read("output/report.txt") == "a is 1, b is 1"
    assert project.read("called") == "called with 1;"
    assert "Output output/report.txt" in done.stderr


def test_a_failing_callback_or_report_does_not_stop_the_jobs(project):
    project.config(
        """
        first = Step("first").out
        tk.register_callback(fails, first)
        tk.register_report("bad.txt", {"x": first}, template="{y}")
        tk.register_report("early.txt", waits, required=Step("third", first).out, update_frequency=0)
        tk.register_output("last", Step("last", Step("second", first).out).out)
        """,
        recipe="""
        def fails(value):
            raise ValueError(f"in the callback, with {value.get()}")

        def waits():
            return str(File("output/last").read_text())
        """,
    )
    done = project.manager()
    assert done.returncode == 1
    assert project.read("output/last").strip() == "3"
    assert project.read("output/early.txt").strip() == "3"  # the complete report is made again at the end
    summary = done.stderr.partition("4 jobs ran")[2]
    assert re.search(r"callback_1_fails failed: ValueError: in the callback, with 1\n", summary)
    assert "bad.txt failed: KeyError: 'y'\n" in summary
    assert "early.txt failed" not in summary


def test_outputs_and_aliases_are_links(project):
    project.config(
        """
        gs.ALIAS_AND_OUTPUT_SUBDIR = "table1"
        job = Step("a")
        job.add_alias("steps/first")
        tk.register_output("numbers/a", job.out)
        """
    )
    assert project.manager().returncode == 0
    folder = project.job_dir("Step").resolve()
    link = project.path / "output/table1/numbers/a"
    assert link.readlink() == folder / "output/number"
    assert (project.path / "alias/table1/steps/first").readlink() == folder
    assert "Finished output: output/table1/numbers/a" in project.read("log/finished.log")
    link.unlink()
    assert project.sis("manager", "config/exp.py", stdin="u\n").returncode == 0
    assert link.exists()


def test_prompts_take_piped_answers(project):
    project.config('tk.register_output("a", Step("a").out)')
    nothing = project.sis("manager", "config/exp.py", stdin="")
    assert nothing.returncode == 0
    assert not (project.path / "work").exists()
    done = project.sis("manager", "config/exp.py", stdin="what\nv\ns\ny\n")
    assert done.returncode == 0
    assert "Unknown answer: 'what'" in done.stderr
    assert "runnable: Job<work/jobs/Step." in done.stderr
    assert project.read("output/a").strip() == "1"
    verbose = project.sis("manager", "config/exp.py", stdin="v\n")
    assert "finished: Job<work/jobs/Step." in verbose.stderr


def test_no_work_directory_is_made_against_a_wish(project):
    project.config('tk.register_output("a", Step("a").out)')
    assert project.manager(stdin="n\n").returncode == 1
    assert not (project.path / "work").exists()


def test_interactive_asks_before_each_submission(project):
    project.config('for name in "abc":\n    tk.register_output(name, Step(name).out)')
    done = project.manager("-i", stdin="y\ny\nnever\nn\n")
    assert done.returncode == 0
    assert sum((project.path / "output" / name).exists() for name in "abc") == 1


def test_a_failing_config_is_a_failure(project):
    project.config("raise RuntimeError('in the config')")
    done = project.manager()
    assert done.returncode == 1
    traceback = done.stderr.partition("Traceback (most recent call last):\n")[2]
    assert traceback.startswith(f'  File "{project.path}/config/exp.py", line 6, in py\n')  # not in our files
    assert traceback.endswith("RuntimeError: in the config\n")
    missing = project.manager(config="config/nothing.py")
    assert missing.returncode == 1
    contradiction = project.sis("manager", "-r", "-co", "-io", "config/exp.py")
    assert contradiction.returncode == 1
    assert "-co clears jobs in error, -io ignores them: give one of the two." in contradiction.stderr
    assert "Traceback" not in contradiction.stderr


def test_a_missing_input_is_named(project):
    project.config('tk.register_output("a", Step("a", tk.Variable("no/such/file")).out)')
    done = project.manager()
    assert done.returncode == 1
    assert f"Input is missing: {project.path / 'no/such/file'}" in done.stderr


def test_sources_may_be_gone_once_everything_is_computed(project):
    project.config('tk.register_output("a", Step("a", tk.Variable("source")).out)')
    source = project.write("source", "1")
    assert project.manager().returncode == 0
    source.unlink()
    assert project.manager().returncode == 0


def test_tasks_see_only_the_environment_that_is_meant_for_them(project):
    project.engine("LocalEngine(cpu=3)", "DEFAULT_ENVIRONMENT_KEEP.add('KEPT')")
    project.config(
        'tk.register_output("seen", Env().out)',
        recipe="""
        class Env(Job):
            def __init__(self):
                self.out = self.output_var("seen")
                self.set_env("MINE", "yes")

            def tasks(self):
                yield Task("run", rqmt={"cpu": 3})

            def run(self):
                self.out.set(dict(os.environ))
        """,
    )
    assert project.manager(env={"KEPT": "1", "LOST": "1"}).returncode == 0
    seen = eval(project.read("output/seen"))
    assert (seen["KEPT"], seen["MINE"], seen["OMP_NUM_THREADS"], seen["MKL_NUM_THREADS"]) == (
        "1",
        "yes",
        "3",
        "3",
    )
    assert "LOST" not in seen


def test_a_worker_by_hand(project):
    project.config('tk.register_output("a", Step("a").out)')
    project.sis("manager", "config/exp.py", stdin="s\nn\n")
    folder = os.path.relpath(project.job_dir("Step"), project.path)
    assert "has no task 'walk'" in project.sis("worker", folder, "walk").stderr
    done = project.sis("worker", folder, "run")
    assert done.returncode == 0
    assert "step a" in done.stdout
    assert (project.path / folder / "finished.run.1").exists()
    usage = eval((project.path / folder / "usage.run.1").read_text())
    assert usage["max"]["rss"] > 0.001
    assert usage["out_of_memory"] is False
    assert project.sis("worker", "work/no/such.job", "run").returncode == 1
