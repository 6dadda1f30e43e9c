"""The Slurm engine against a real Slurm: what a user's day looks like, in seconds."""

from __future__ import annotations

import json
import re
import signal
import time
from collections import Counter
from itertools import pairwise

from .conftest import Project
from .slurm_cluster import wait_for


def test_an_array_of_50_on_two_nodes(project: Project) -> None:
    project.config('tk.register_output("many", Work("many", num=50, rqmt={"mem": 0.1}).out)')
    code, printed = project.manage()
    assert code == 0, printed
    assert project.output("many") == " ".join(["0"] * 50)
    ends = [line.split() for line in project.runs("end")]
    assert Counter(index for _, index, _ in ends) == Counter({str(index): 1 for index in range(50)})
    assert {node for *_, node in ends} == set(project.cluster.nodes)


def test_more_task_ids_than_an_array_may_have(project: Project) -> None:
    project.note_calls("sbatch")
    project.config('tk.register_output("many", Work("many", num=2004, rqmt={"mem": 0.1}).out)')
    (project.folder / "work").mkdir()
    project.sis("manager", "config/main.py", stdin="s\nn\n")  # sets up, and starts nothing
    (folder,) = (project.folder / "work" / "work").glob("Work.*")
    left = [5, 1000, 1001, 2000, 2001, 2004]
    for task_id in sorted({*range(1, 2005)} - {*left}):
        (folder / "work" / f"part.{task_id - 1}").write_text("0")
        (folder / f"finished.run.{task_id}").touch()
    code, printed = project.manage()
    assert code == 0, printed
    arrays = [re.search("--array=([0-9,-]+)", arguments) for _, arguments in project.calls("sbatch")]
    assert [array and array[1] for array in arrays] == ["5,1000", "1,1000", "1,4"]  # MaxArraySize is 1001
    assert sorted(int(line.split()[1]) + 1 for line in project.runs("end")) == left


def test_a_task_that_fails_shows_why(project: Project) -> None:
    project.config('tk.register_output("fails", Work("fails").out)')
    code, printed = project.manage()
    assert code != 0
    assert "ValueError: this task fails" in printed


def test_what_slurm_refuses_is_said_at_once(project: Project) -> None:
    project.config('tk.register_output("huge", Work("huge", rqmt={"sbatch_args": ["--partition=none"]}).out)')
    code, printed = project.manage()
    assert code != 0
    assert "invalid partition" in printed


def test_more_memory_after_a_kill(project: Project) -> None:
    project.config('tk.register_output("large", Work("large", mib=400, rqmt={"mem": 0.2}, resume=True).out)')
    code, printed = project.manage()
    assert code == 0, printed
    assert project.output("large") == str(400 * 2**20)
    assert len(project.runs("begin")) > 1


def test_a_manager_that_is_killed_finds_its_tasks_again(project: Project) -> None:
    project.config('tk.register_output("long", Work("long", num=4, seconds=60).out)')
    first = project.start()
    wait_for(lambda: len(project.runs("begin")) == 4, "running tasks", 60)
    first.send_signal(signal.SIGKILL)
    first.communicate()
    second = project.start()
    record = project.folder / "work" / ".manager.json"
    wait_for(lambda: json.loads(record.read_text())["pid"] == second.pid, "a second manager", 30)
    time.sleep(3)  # it looks at the queue, and could submit
    project.go()
    printed = project.finish(second)
    assert second.returncode == 0, printed
    assert len(project.runs("begin")) == 4


def test_a_task_that_is_killed_without_a_word_is_not_waited_for(project: Project) -> None:
    project.settings("PLOGGING_UPDATE_FILE_PERIOD = 600")
    project.config('tk.register_output("one", Work("one", seconds=60, resume=True).out)')
    manager = project.start()
    wait_for(lambda: len(project.runs("begin")) == 1, "a running task", 60)
    job = project.cluster.run("squeue", "-h", "-o", "%F").strip()
    project.cluster.run("scancel", "--signal=KILL", "--batch", job)
    wait_for(lambda: len(project.runs("begin")) == 2, "another run", 60)
    project.go()
    printed = project.finish(manager)
    assert manager.returncode == 0, printed


def test_cancel_and_release_beside_a_manager(project: Project) -> None:
    project.config(
        """
        tk.register_output("one", Work("one", seconds=60, num=2, resume=True).out)
        tk.register_output("two", Work("two", seconds=60).out)
        """
    )
    manager = project.start()
    wait_for(lambda: len(project.runs("begin")) == 3, "running tasks", 60)
    assert "Cancelled: task run, ids 1, 2" in project.sis("cancel", "config/main.py:one")
    wait_for(lambda: len(project.runs("leave")) == 2, "the end of the cancelled ones", 60)
    project.sis("release", "config/main.py:one")
    wait_for(lambda: len(project.runs("begin")) == 5, "another run of the cancelled ones", 60)
    project.go()
    printed = project.finish(manager)
    assert manager.returncode == 0, printed
    assert "cancelled by somebody else" not in printed


def test_a_task_that_will_not_start_by_itself_is_told(project: Project) -> None:
    project.config('tk.register_output("three", Work("three", num=3, seconds=60, rqmt={"cpu": 8}).out)')
    manager = project.start()
    wait_for(lambda: len(project.runs("begin")) == 2, "two running tasks", 60)
    (job,) = set(project.cluster.run("squeue", "-h", "-t", "pending", "-o", "%F").split())
    project.cluster.run("scontrol", "hold", job)
    time.sleep(3)  # the manager looks
    project.cluster.run("scontrol", "release", job)
    project.go()
    printed = project.finish(manager)
    assert manager.returncode == 0, printed
    assert printed.count("will not start by itself") == 1
    assert "JobHeld" in printed


def test_one_array_for_a_group_and_one_look_for_all(project: Project) -> None:
    project.note_calls("sbatch", "squeue", "sacct")
    project.config(
        """
        for number in range(2):
            many = Work(f"many{number}", num=10, seconds=0.5, rqmt={"mem": 0.1})
            tk.register_output(f"many{number}", many.out)
        """
    )
    code, printed = project.manage()
    assert code == 0, printed
    submissions = [arguments for _, arguments in project.calls("sbatch")]
    assert len(submissions) == 2
    assert all("--array=1-10 " in arguments for arguments in submissions)
    looks = project.calls("squeue")
    assert len({arguments for _, arguments in looks}) == 1  # nobody is asked for by name
    waits = [after[0] - before[0] for before, after in pairwise(looks)]
    assert min(waits, default=1.0) > 0.9, "once in poll_interval"
    assert project.calls("sacct") == []


def test_gpus_are_given_to_one_task_each(project: Project) -> None:
    rqmt = {"gpu": 1, "gpu_name": "fake", "sbatch_args": [f"--nodelist={project.cluster.nodes[0]}"]}
    project.config(f'tk.register_output("gpus", Show("gpus", ["CUDA_VISIBLE_DEVICES"], 2, {rqmt}).out)')
    code, printed = project.manage()
    assert code == 0, printed
    assert sorted(seen["CUDA_VISIBLE_DEVICES"] for seen in project.seen("gpus")) == ["0", "1"]


def test_environment_of_a_job_and_modules(project: Project) -> None:
    project.settings(
        """
        def worker_wrapper(job, task_name, call):
            load = 'module() { export LOADED_MODULES="$2"; }; module load cuda/12; exec "$@"'
            return ["bash", "-c", load, "with-modules", *call]

        DEFAULT_ENVIRONMENT_KEEP |= {"LOADED_MODULES"}
        """
    )
    names = ["LOADED_MODULES", "OWN", "OMP_NUM_THREADS", "SLURM_JOB_ID"]
    project.config(
        f'tk.register_output("env", Show("env", {names}, 1, {{"cpu": 3}}, env={{"OWN": "x"}}).out)'
    )
    code, printed = project.manage()
    assert code == 0, printed
    (seen,) = project.seen("env")
    assert seen == {"LOADED_MODULES": "cuda/12", "OWN": "x", "OMP_NUM_THREADS": "3", "SLURM_JOB_ID": None}


def failed(project: Project) -> int:
    """How many elements of arrays of this project failed."""
    lines = project.cluster.run("squeue", "-h", "-r", "-t", "failed", "-o", "%Z").splitlines()
    return lines.count(str(project.folder))


def test_a_container_that_is_not_there_at_first(project: Project) -> None:
    container = project.folder / "home" / "container"
    project.settings(
        f"""
        def worker_wrapper(job, task_name, call):
            return [{str(container)!r}, *call] if job.name == "contained" else call
        """
    )
    project.config(
        """
        tk.register_output("contained", Work("contained").out)
        tk.register_output("other", Work("other", seconds=120).out)
        """
    )
    manager = project.start()
    wait_for(lambda: failed(project) == 2, "two attempts", 60)
    time.sleep(3)  # the engine sees it, and does not try for a third time
    assert failed(project) == 2
    container.write_text('#!/bin/sh\nexec "$@"\n')
    container.chmod(0o755)
    assert "is submitted again" in project.sis("retry", "config/main.py:contained")
    wait_for((project.folder / "output" / "contained").exists, "its output", 60)
    project.go()
    printed = project.finish(manager)
    assert manager.returncode == 0, printed
    assert "ended before it began, 2 times" in printed
    assert "No such file or directory" in printed


def test_a_node_that_a_failure_excludes(project: Project) -> None:
    project.config('tk.register_output("node", Show("node", [], fail_first=True).out)')
    code, printed = project.manage()
    assert code == 0, printed
    first, second = (line.split()[2] for line in project.runs("begin"))
    assert {first, second} == set(project.cluster.nodes)
