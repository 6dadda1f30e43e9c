"""Recipes used as programs, and what the console offers."""

from __future__ import annotations

import subprocess
import sys


def script(project, body, timeout=60):
    """Run Python in the project."""
    project.write("script.py", "from sisyphus import *\nfrom recipe.jobs import *\n" + body)
    done = subprocess.run(
        [sys.executable, "script.py"],
        cwd=project.path,
        capture_output=True,
        text=True,
        timeout=timeout,
        env=project.environment(),
    )
    print(done.stdout, done.stderr, sep="\n")
    return done


def test_run_computes_what_is_needed(project):
    done = script(
        project,
        """
tk.setup_script_mode()
last = Step("b", Step("a").out).out
tk.run([last])
print("value", last.get())
tk.run(last)
""",
    )
    assert done.returncode == 0
    assert "step a\nstep b\nvalue 2\n" in done.stdout.replace("\r", "")
    assert done.stdout.count("step") == 2


def test_quiet_runs_write_to_the_logs_only(project):
    done = script(project, 'tk.run(Step("a").out, quiet=True)')
    assert done.returncode == 0
    assert done.stdout == ""
    assert "step a" in (project.job_dir("Step") / "log.run.1").read_text()


def test_run_says_why_nothing_more_can_run(project):
    project.config(
        "pass",
        recipe="""
        class Bad(Job):
            def __init__(self):
                self.out = self.output_var("out")

            def run(self):
                raise ValueError("the reason")
        """,
    )
    done = script(project, "tk.run([Bad().out, Step('x', tk.Path('no/such')).out], quiet=True)")
    assert done.returncode == 1
    assert "BlockedWorkflow: nothing more can run, but 2 of the paths asked for are missing" in done.stderr
    assert "ValueError: the reason" in done.stderr
    assert f"missing: {project.path}/no/such" in done.stderr


def test_run_does_not_repeat_a_task_that_dies(project):
    project.config(
        "pass",
        recipe="""
        class Dies(Job):
            def __init__(self):
                self.out = self.output_var("out")

            def run(self):
                os.kill(os.getpid(), 9)
        """,
    )
    done = script(project, "tk.run(Dies().out)")
    assert done.returncode == 1
    assert "BlockedWorkflow" in done.stderr


def test_run_job_runs_one_task_in_the_foreground(project):
    done = script(
        project, "job = Step('a')\nprint('code', tk.run_job(job))\nprint(job._sis_finished(), job.out.get())"
    )
    assert "code 0\nTrue 1" in done.stdout


def test_submit_next_task_goes_through_the_engine(project):
    done = script(
        project,
        """
job = Step("a")
tk.submit_next_task(job)
while not job._sis_finished():
    time.sleep(0.02)
print("finished", job.out.get())
tk.submit_next_task(job)
""",
    )
    assert "finished 1" in done.stdout
    assert "has no task that can run" in done.stderr


def test_start_manager_runs_beside_the_console(project):
    done = script(
        project,
        """
tk.register_output("b", Step("b", Step("a").out).out)
manager = tk.start_manager()
print(sorted((state, len(jobs)) for state, jobs in manager.states.items()))
manager = tk.start_manager(start_computations=True)
manager.join()
print(open("output/b").read().strip(), tk.cached_engine() is manager.engine)
states = tk.sis_graph.get_jobs_by_status(engine=tk.cached_engine())
print({state: len(jobs) for state, jobs in states.items()})
print(tk.running_in_manager(), tk.running_in_worker())
""",
    )
    assert done.returncode == 0
    assert "[('runnable', 1), ('waiting', 1)]" in done.stdout
    assert "2 True" in done.stdout
    assert "{'finished': 2}" in done.stdout
    assert "True False" in done.stdout


def test_setting_up_says_what_is_missing(project):
    done = script(
        project,
        "tk.setup_job_directory(Step('b', tk.Path('no/such')))\n"
        "job = Step('a')\ntk.setup_job_directory(job.out)\nprint(job._sis_setup())",
    )
    assert f"input is missing: {project.path}/no/such" in done.stderr
    assert "True" in done.stdout
