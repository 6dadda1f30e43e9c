"""Adapters of schedulers: what they ask for, and how they read answers, without any scheduler."""

from __future__ import annotations

import getpass
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field

import pytest
from sisyphus import global_settings as gs
from sisyphus.engines.cluster.commands import CommandFailed, Commands, Unreachable
from sisyphus.engines.cluster.grid_engine import GridEngine
from sisyphus.engines.cluster.lsf import Lsf
from sisyphus.engines.cluster.scheduler import (
    End,
    Phase,
    Request,
    SubmissionLost,
    in_arrays,
    in_runs,
    offset_name,
    offset_of,
    ranges,
    tagged,
    without_offset,
)
from sisyphus.engines.cluster.slurm import Slurm
from sisyphus.errors import DeferSubmission, EngineError, RefusedError


@dataclass(frozen=True)
class Recorded(Commands):
    """Answers by program, in place of running it."""

    answers: dict[str, str | Exception] = field(default_factory=dict)
    asked: list[list[str]] = field(default_factory=list)
    stdin: list[str] = field(default_factory=list)

    def run(self, argv: Sequence[str], stdin: str = "") -> str:
        self.asked.append(list(argv))
        self.stdin.append(stdin)
        answer = self.answers.get(argv[0], "")
        if isinstance(answer, Exception):
            raise answer
        return answer


def request(task_ids: Sequence[int] = (1, 2, 3), **rqmt: object) -> Request:
    return Request(["sis", "worker", "work/a b", "run"], "exp.Job.abc.run", task_ids, dict(rqmt), "/p/engine")


def failed(text: str) -> CommandFailed:
    return CommandFailed("sbatch", 1, text)


def test_task_ids_as_ranges() -> None:
    assert ranges([7, 1, 2, 3]) == "1-3,7"
    assert in_runs([7, 1, 2, 3]) == [(1, 3), (7, 7)]


def test_ids_above_the_largest_array_get_an_offset() -> None:
    arrays = in_arrays([1, 1000, 1001, 2500], 1000)
    assert arrays == {0: [1, 1000], 1000: [1001], 2000: [2500]}
    name = offset_name("job.run", 2000)
    assert (offset_of(name), without_offset(name)) == (2000, "job.run")
    assert (offset_of("c++.run"), without_offset("c++.run")) == (0, "c++.run")


def test_what_sbatch_is_asked_for() -> None:
    commands = Recorded(answers={"sbatch": "17;cluster\n"})
    rqmt = {"cpu": 2.5, "mem": 1.5, "time": 0.51, "gpu": 2, "gpu_name": "a100", "exclude_nodes": ["n1", "n2"]}
    submitted = Slurm(commands).submit(request(**rqmt, sbatch_args="-p long --qos=low"))
    assert submitted == {"17": [1, 2, 3]}
    asked = commands.asked[-1]
    assert {
        "--array=1-3",
        "--job-name=exp.Job.abc.run",
        "--cpus-per-task=3",
        "--mem=1536M",
        "--time=31",
        "--gres=gpu:a100:2",
        "--exclude=n1,n2",
        "--no-requeue",
        "-p",
        "long",
        "--qos=low",
    } <= set(asked)
    assert commands.stdin[-1] == "#!/bin/bash\nexec sis worker 'work/a b' run\n"


def test_memory_for_each_cpu_and_several_nodes() -> None:
    commands = Recorded(answers={"sbatch": "17"})
    Slurm(commands, memory="per_cpu").submit(request(mem=2, multi_node_slots=4))
    assert {"--mem-per-cpu=2048M", "--nodes=4", "--ntasks=4", "--ntasks-per-node=1"} <= set(
        commands.asked[-1]
    )
    Slurm(commands, has_memory_resource=False).submit(request(mem=2))
    assert not any(option.startswith("--mem") for option in commands.asked[-1])


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (failed("sbatch: error: AssocMaxSubmitJobLimit"), DeferSubmission),
        (failed("Slurm temporarily unable to accept job, sleeping and retrying"), DeferSubmission),
        (failed("sbatch: error: Batch job submission failed: Socket timed out on send/recv"), SubmissionLost),
        (Unreachable("no answer"), SubmissionLost),
        (failed("sbatch: error: invalid partition specified: none"), RefusedError),
        ("nonsense", EngineError),
    ],
)
def test_what_sbatch_answers(answer: str | Exception, error: type[Exception]) -> None:
    with pytest.raises(error):
        Slurm(Recorded(answers={"sbatch": answer})).submit(request())


def test_the_queue_of_slurm() -> None:
    lines = [
        ("17", "2", "RUNNING", "None", "node1", "exp.Job.abc.run", gs.BASE_DIR),
        ("18", "1", "OUT_OF_MEMORY", "OutOfMemory", "node2", "exp.Job.abc.run+1000", gs.BASE_DIR),
        ("19", "1", "BRAND_NEW", "None", "", "other", gs.BASE_DIR),
        ("20", "1", "PENDING", "Priority", "", "exp.Job.abc.run", "/another/project"),
        ("23", "1", "PENDING", "Resources", "", "soon", gs.BASE_DIR),
        ("24", "1", "PENDING", "PartitionTimeLimit", "", "never", gs.BASE_DIR),
        ("25", "1", "PENDING", "QOSMaxCpuPerJobLimit", "", "never", gs.BASE_DIR),
        ("21", "N/A", "RUNNING", "None", "node1", "no array", gs.BASE_DIR),
        ("22", "1", "SUSPENDED", "None", "node1", "stopped for others", gs.BASE_DIR),
    ]
    printed = "\n".join("\x1f".join(line) for line in lines)
    entries = Slurm(Recorded(answers={"squeue": printed})).snapshot()
    assert [(entry.job_id, entry.task_id, entry.phase, entry.end) for entry in entries] == [
        ("17", 2, Phase.RUNNING, None),
        ("18", 1001, Phase.ENDED, End.OUT_OF_MEMORY),
        ("19", 1, Phase.RUNNING, None),
        *((job, 1, Phase.QUEUED, None) for job in ("23", "24", "25")),
        ("22", 1, Phase.RUNNING, None),
    ]
    assert [entry.job_id for entry in entries if entry.is_stuck] == ["24", "25"]
    assert [entry.job_id for entry in entries if entry.is_suspended] == ["22"]


def test_a_controller_that_is_away() -> None:
    away = failed("slurm_load_jobs error: Unable to contact slurm controller (connect failure)")
    slurm = Slurm(Recorded(answers={"squeue": away, "scontrol": away}))
    with pytest.raises(Unreachable):
        slurm.snapshot()
    assert not slurm.is_there()


def test_steps_tell_more_than_jobs() -> None:
    printed = (
        "17_1|FAILED|1:0|0:0||8|exp.run\n17_1.batch|OUT_OF_MEMORY|0:125||204800K|8|batch\n"
        "17_2|COMPLETED|0:0|0:125||3|exp.run\n17_3|CANCELLED by 0|0:15|0:0||2|exp.run\n"
        "17_4|RUNNING|0:0|0:0||2|exp.run\n17_[5-9]|CANCELLED by 0|0:0|0:0||0|exp.run\n"
    )
    history = Slurm(Recorded(answers={"sacct": printed})).history("17")
    assert {task_id: ended.end for task_id, ended in history.items()} == {
        1: End.OUT_OF_MEMORY,
        2: End.OUT_OF_MEMORY,
        3: End.CANCELLED,
    }
    assert str(history[1]) == "OUT_OF_MEMORY, exit code 1, at most 0.20 GB, after 8 s"
    assert (history[3].exit_code, history[3].max_rss_gb) == (128 + 15, None)
    assert Slurm(Recorded(answers={"sacct": failed("accounting is off")})).history("17") == {}


def test_steps_of_arrays_with_an_offset_belong_to_their_element() -> None:
    printed = "18_3|FAILED|0:9|0:0||8|exp.run+1000\n18_3.batch|OUT_OF_MEMORY|0:125||1024K|8|batch\n"
    history = Slurm(Recorded(answers={"sacct": printed})).history("18")
    assert {task_id: ended.end for task_id, ended in history.items()} == {1003: End.OUT_OF_MEMORY}


COMPLEXES = "num_proc            p          INT       ==    YES         {}         0        0\n"


def of_project(name: str = "exp.Job.abc.run") -> str:
    return tagged(name)


def test_grid_engine() -> None:
    queue = f"""<?xml version='1.0'?><job_info><queue_info><job_list state="running">
      <JB_job_number>5</JB_job_number><JB_name>{of_project()}</JB_name><JB_owner>{getpass.getuser()}</JB_owner>
      <state>r</state><queue_name>all.q@node7</queue_name><tasks>2</tasks></job_list></queue_info>
      <job_info><job_list state="pending"><JB_job_number>5</JB_job_number><JB_name>{of_project()}</JB_name>
      <state>qw</state><queue_name></queue_name><tasks>3,5-9:2</tasks></job_list>
      <job_list state="running"><JB_job_number>6</JB_job_number><JB_name>exp.Job.abc.run.deadbeef</JB_name>
      <state>r</state><tasks>1</tasks></job_list></job_info></job_info>"""
    commands = Recorded(answers={"qsub": "5.1-3:1\n", "qstat": queue, "qconf": COMPLEXES.format("YES")})
    engine = GridEngine(commands)
    assert engine.submit(request((1, 2, 3, 9), mem=2, time=1.5)) == {
        "5": [9]
    }  # the same answer to both calls
    submissions = [asked for asked in commands.asked if asked[0] == "qsub"]
    assert [asked[asked.index("-t") + 1] for asked in submissions] == ["1-3:1", "9-9:1"]
    assert {"h_vmem=2048M", "h_rss=2048M", "h_rt=5400", "num_proc=1"} <= set(submissions[0])
    entries = engine.snapshot()
    assert [(entry.task_id, entry.phase, entry.node) for entry in entries] == [
        (2, Phase.RUNNING, "node7"),
        (3, Phase.QUEUED, ""),
        (5, Phase.QUEUED, ""),
        (7, Phase.QUEUED, ""),
        (9, Phase.QUEUED, ""),
    ]


def test_a_queue_of_grid_engine_that_is_no_xml() -> None:
    with pytest.raises(CommandFailed, match="qstat -xml failed"):
        GridEngine(Recorded(answers={"qstat": "motd: maintenance on Monday"})).snapshot()


def test_cpus_are_slots_where_grid_engine_does_not_count_processors() -> None:
    commands = Recorded(answers={"qsub": "5", "qconf": COMPLEXES.format("NO")})
    named = GridEngine(commands, cpu_parallel_environment="smp")
    named.submit(request(cpu=4, mem=2))
    assert {"-pe", "smp", "4", "h_vmem=512M"} <= set(commands.asked[-1])  # limits count for each slot
    with pytest.raises(RefusedError, match=r"asks for 4 cpus, but .* Ask the site"):
        GridEngine(commands).submit(request(cpu=4))


def test_books_of_grid_engine() -> None:
    line = "=" * 62
    limited = "failed 37 : qmaster enforced h_rt, h_cpu, or h_vmem limit\nexit_status 137 (Killed)\n"
    printed = (
        f"{line}\nqname all.q\ntaskid 1\nfailed 0\nexit_status 0\nru_wallclock 17s\nru_maxrss 307.965KB\n"
        f"{line}\ntaskid 2\nfailed 21 : in recognizing job\nexit_status 0\n"
        f"{line}\ntaskid 3\nfailed 0\nexit_status 1\n"
        f"{line}\ntaskid 4\n{limited}ru_wallclock 4s\ncategory -l h_rt=3,h_vmem=400M\n"
        f"{line}\ntaskid 5\n{limited}ru_wallclock 4s\ncategory -l h_rt=3600,h_vmem=400M\n"
    )
    ends = GridEngine(Recorded(answers={"qacct": printed})).history("5")
    assert {task_id: ended.end for task_id, ended in ends.items()} == {
        1: End.OK,
        2: End.NODE_LOST,
        3: End.FAILED,
        4: End.OUT_OF_TIME,
        5: End.OUT_OF_MEMORY,
    }
    assert str(ends[1]) == "ended, exit code 0, at most 0.30 GB, after 17 s"


def test_lsf() -> None:
    name = of_project()
    printed = (
        f"7^1^RUN^-^host1^{name}[1]\n"
        f"7^2^PEND^-^-^{name}[2]\n"
        f"7^3^EXIT^TERM_MEMLIMIT: job killed at its limit^host1^{name}[3]\n"
        "8^1^PEND^-^-^exp.Job.abc.run.deadbeef[1]\n"
        "No job found\n"
    )
    commands = Recorded(answers={"bsub": "Job <7> is submitted to queue <normal>.\n", "bjobs": printed})
    lsf = Lsf(commands)
    assert lsf.submit(request((1, 2, 3), mem=2, time=1, gpu=1)) == {"7": [1, 2, 3]}
    assert {f"{name}[1-3]", "-M", "2048", "-W", "60", "num=1"} <= set(commands.asked[-1])
    assert [(entry.name, entry.task_id, entry.phase, entry.end) for entry in lsf.snapshot()] == [
        ("exp.Job.abc.run", 1, Phase.RUNNING, None),
        ("exp.Job.abc.run", 2, Phase.QUEUED, None),
        ("exp.Job.abc.run", 3, Phase.ENDED, End.OUT_OF_MEMORY),
    ]


def test_programs_are_run_without_what_an_allocation_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURM_MEM_PER_NODE", "100")
    monkeypatch.setenv("SLURM_CONF", "/etc/slurm.conf")
    script = "import os; print(sorted(name for name in os.environ if name.startswith('SLURM_')))"
    assert Commands().run([sys.executable, "-c", script]) == "['SLURM_CONF']\n"


def test_programs_that_are_missing_hang_or_fail() -> None:
    with pytest.raises(EngineError, match="there is no program 'no-such-program'"):
        Commands().run(["no-such-program"])
    with pytest.raises(Unreachable, match=r"did not answer for 0\.2 s"):
        Commands(timeout_s=0.2).run([sys.executable, "-c", "import time; time.sleep(60)"])
    with pytest.raises(CommandFailed, match=r"exit code 3\): it said this"):
        Commands().run([sys.executable, "-c", "import sys; print('it said this'); sys.exit(3)"])
