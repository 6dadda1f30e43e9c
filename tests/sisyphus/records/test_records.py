"""What is kept of a job: code, packages, times, GPU, hashes; also after cleaning."""

from __future__ import annotations

import shutil
import subprocess
import sys
import types

import pytest
from sisyphus import Job, gs
from sisyphus.job_dir import JobDir
from sisyphus.records import gpu, output_hashes, packages, recipe_state, task_record
from sisyphus.records.job_record import read_records, wall_seconds
from sisyphus.running import usage


class Make(Job):
    def __init__(self, value):
        self.out = self.output_path("out")


def git(*arguments, cwd):
    identity = ["-c", "user.name=a", "-c", "user.email=a@b"]
    subprocess.run(["git", *identity, *arguments], cwd=cwd, check=True, capture_output=True)


@pytest.fixture
def repository(workspace):
    """A project in a repository, with a recipe that is committed."""
    if shutil.which("git") is None:
        pytest.skip("git is not installed")
    recipe = workspace / "recipe"
    recipe.mkdir()
    (recipe / "__init__.py").write_text("")
    (recipe / "lone.py").write_text(
        "from sisyphus import Job\nclass Lone(Job):\n    def __init__(self, a):\n"
        "        self.out = self.output_path('o')\n"
    )
    git("init", "-q", cwd=workspace)
    git("add", ".", cwd=workspace)
    git("commit", "-q", "-m", "first", cwd=workspace)
    for cached in (recipe_state._of_module, recipe_state._repository_of, recipe_state._state_of):
        cached.cache_clear()
    yield workspace
    for cached in (recipe_state._of_module, recipe_state._repository_of, recipe_state._state_of):
        cached.cache_clear()


def lone_job():
    from recipe.lone import Lone

    return Lone(1)


def test_commit_of_the_recipe(repository):
    made = recipe_state.made_with(lone_job())
    commit = subprocess.run(
        ["git", "rev-parse", "HEAD"], cwd=repository, check=True, capture_output=True, text=True
    ).stdout.strip()
    assert made == {"repository": ".", "commit": commit, "dirty": False}


def test_changed_files_make_it_dirty(repository):
    with (repository / "recipe/lone.py").open("a") as file:
        file.write("# changed\n")
    assert recipe_state.made_with(lone_job())["dirty"]


@pytest.mark.parametrize(
    ("name", "dirty"),
    [("recipe/new.py", True), ("notes.txt", False), ("work/x", False), ("recipe/__pycache__/new.pyc", False)],
)
def test_new_files_count_where_recipes_lie(repository, name, dirty):
    (repository / name).parent.mkdir(exist_ok=True)
    (repository / name).write_text("new")
    assert recipe_state.made_with(lone_job())["dirty"] is dirty


def test_no_repository_no_commit(workplace, monkeypatch):
    monkeypatch.setattr(recipe_state, "_repository_of", lambda directory: None)
    recipe_state._of_module.cache_clear()
    assert recipe_state.made_with(Make(1)) == {}
    recipe_state._of_module.cache_clear()


def test_git_is_asked_once(repository, monkeypatch):
    calls = []
    ask = recipe_state._ask
    monkeypatch.setattr(recipe_state, "_ask", lambda call: calls.append(call) or ask(call))
    for _ in range(3):
        recipe_state.made_with(lone_job())
    assert len(calls) == 1


def test_without_git_nothing_fails(repository, monkeypatch):
    def missing(call):
        raise FileNotFoundError("git")

    monkeypatch.setattr(recipe_state, "_ask", missing)
    assert recipe_state.made_with(lone_job()) == {}


def test_versions_of_what_is_imported(monkeypatch):
    monkeypatch.setitem(sys.modules, "fancy", types.SimpleNamespace(__version__="1.2"))
    monkeypatch.setitem(sys.modules, "fancy.part", types.SimpleNamespace(__version__="9"))
    monkeypatch.setitem(sys.modules, "recipe", types.SimpleNamespace(__version__="3"))
    versions = packages.loaded_versions()
    assert versions["fancy"] == "1.2"
    assert versions["pytest"] == pytest.__version__
    assert not {"fancy.part", "recipe", "os", "sisyphus"} & versions.keys()


# --- GPU ---


class FakeNvml(types.ModuleType):
    """A driver with two devices, one of which our process uses."""

    class NVMLError(Exception):
        pass

    def __init__(self, processes=((7, 3.0),), fails=False):
        super().__init__("pynvml")
        self._processes, self._fails = processes, fails

    def nvmlInit(self):
        if self._fails:
            raise self.NVMLError("no driver")

    def nvmlDeviceGetHandleByIndex(self, index):
        return index

    def nvmlDeviceGetHandleByUUID(self, name):
        return name

    def nvmlDeviceGetName(self, handle):
        return f"Fake {handle}"

    def nvmlDeviceGetComputeRunningProcesses(self, handle):
        return [
            types.SimpleNamespace(pid=pid, usedGpuMemory=int(gb * 1024**3)) for pid, gb in self._processes
        ]

    def nvmlDeviceGetMemoryInfo(self, handle):
        return types.SimpleNamespace(used=5 * 1024**3)

    def nvmlDeviceGetUtilizationRates(self, handle):
        return types.SimpleNamespace(gpu=40)


def test_gpu_memory_of_the_own_processes(monkeypatch):
    monkeypatch.setitem(sys.modules, "pynvml", FakeNvml())
    meter = gpu.GpuMeter("0,GPU-abc")
    assert meter.is_there
    meter.sample([6, 7])
    meter.sample([6, 7])
    assert meter.summary() == {
        "devices": ["Fake 0", "Fake GPU-abc"],
        "peak_memory_gb": 6.0,
        "mean_use_percent": 40.0,
    }


def test_gpu_memory_where_the_driver_knows_other_pids(monkeypatch):
    monkeypatch.setitem(sys.modules, "pynvml", FakeNvml())
    meter = gpu.GpuMeter("0")
    meter.sample([1])
    assert meter.summary()["peak_memory_gb"] == 5.0


def test_a_slice_of_a_gpu_says_nothing_of_its_use(monkeypatch):
    driver = FakeNvml()
    driver.nvmlDeviceGetUtilizationRates = lambda handle: (_ for _ in ()).throw(driver.NVMLError())
    monkeypatch.setitem(sys.modules, "pynvml", driver)
    meter = gpu.GpuMeter("MIG-abc")
    meter.sample([7])
    assert meter.summary() == {"devices": ["Fake MIG-abc"], "peak_memory_gb": 3.0}


@pytest.mark.parametrize("devices", ["", "-1", "NoDevFiles", " "])
def test_no_gpu_no_look(monkeypatch, devices):
    monkeypatch.setitem(sys.modules, "pynvml", None)  # importing it would fail
    meter = gpu.GpuMeter(devices)
    assert not meter.is_there
    meter.sample([1])
    assert meter.summary() == {}


@pytest.mark.parametrize("driver", [None, FakeNvml(fails=True)])
def test_a_missing_driver_is_no_error(monkeypatch, driver):
    monkeypatch.setitem(sys.modules, "pynvml", driver)
    meter = gpu.GpuMeter("0")
    meter.sample([1])
    assert not meter.is_there
    assert meter.summary() == {}


def test_devices_of_a_task(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,4")
    assert gpu.visible_devices(1) == "3,4"
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    assert gpu.visible_devices(2) == "0,1"
    assert gpu.visible_devices(0) == ""


def test_what_torch_allocated(monkeypatch):
    cuda = types.SimpleNamespace(
        is_initialized=lambda: True, device_count=lambda: 2, max_memory_allocated=lambda i: (i + 1) * 1024**3
    )
    monkeypatch.setitem(sys.modules, "torch", types.SimpleNamespace(cuda=cuda))
    assert gpu.GpuMeter("").summary() == {"peak_allocated_gb": 2.0}


# --- files ---


def write_usage(folder: JobDir, task, number, **record):
    used = {
        "max": {"rss": 0.5, "vms": 1.0, "cpu": 90.0},
        "used_time": 0.001,
        "host": "here",
        "requested_resources": {"cpu": 1},
        "record": record,
    }
    usage.write(folder.entry(f"usage.{task}.{number}"), used if record else {**used, "record": {}})


def test_records_of_tasks_and_ids(workplace):
    job = Make(1)
    job._sis_setup_directory()
    write_usage(job._sis_dir, "prepare", 1, wall_time_s=2.0, cpu_time_s=1.0)
    write_usage(job._sis_dir, "run", 1, wall_time_s=10.0, cpu_time_s=9.0, packages={"torch": "2"})
    write_usage(job._sis_dir, "run", 2, wall_time_s=20.0, cpu_time_s=19.0)
    records = read_records(job._sis_dir)
    assert [(record.task, record.task_id) for record in records] == [("prepare", 1), ("run", 1), ("run", 2)]
    assert wall_seconds(records) == 22.0
    assert records[1].packages == {"torch": "2"}
    job._sis_dir.mark_finished()
    job._sis_cleanup()
    assert read_records(job._sis_dir) == records


def test_files_of_upstream_say_less(workplace):
    job = Make(1)
    job._sis_setup_directory()
    write_usage(job._sis_dir, "run", 1)
    (record,) = read_records(job._sis_dir)
    assert record.wall_s == pytest.approx(3.6)
    assert record.cpu_s is None
    (workplace / job._sis_path() / "usage.run.2").write_text("{'half")
    assert len(read_records(job._sis_dir)) == 1


def test_times_of_interrupted_runs_are_added():
    assert task_record.times_so_far(None) == (0.0, 0.0)
    assert task_record.times_so_far({"used_time": 0.5}) == (1800.0, 0.0)
    assert task_record.times_so_far({"record": {"wall_time_s": 3.0, "cpu_time_s": 2.0}}) == (3.0, 2.0)


def test_hashes_find_every_change(workplace):
    job = Make(1)
    job._sis_setup_directory()
    output = workplace / job._sis_path() / "output"
    for name in ("same", "changed", "gone"):
        (output / name).write_text(name)
    assert output_hashes.verify(job._sis_dir) is None
    output_hashes.write_hashes(job._sis_dir)
    assert output_hashes.verify(job._sis_dir) == []
    (output / "changed").write_text("CHANGED")
    (output / "gone").unlink()
    (output / "new").write_text("new")
    assert [tuple(verdict) for verdict in output_hashes.verify(job._sis_dir)] == [
        ("output/changed", "changed"),
        ("output/gone", "missing"),
        ("output/new", "new"),
    ]


def test_hashes_are_what_sha256sum_checks(workplace):
    job = Make(1)
    job._sis_setup_directory()
    (workplace / job._sis_path() / "output/a file").write_text("text")
    output_hashes.write_hashes(job._sis_dir)
    subprocess.run(
        ["sha256sum", "--check", "--quiet", output_hashes.FILE], cwd=workplace / job._sis_path(), check=True
    )


def test_hashes_outlive_cleaning(workplace):
    job = Make(1)
    job._sis_setup_directory()
    (workplace / job._sis_path() / "output/out").write_text("text")
    output_hashes.write_hashes(job._sis_dir)
    job._sis_dir.mark_finished()
    job._sis_cleanup()
    assert output_hashes.FILE not in job._sis_dir.names()
    assert output_hashes.verify(job._sis_dir) == []


def test_a_worker_leaves_a_record(project):
    project.engine("LocalEngine(cpu=2)", "RECORD_OUTPUT_HASHES = True")
    project.config(
        'tk.register_output("a", Busy().out)',
        recipe="""
        class Busy(Job):
            def __init__(self):
                self.out = self.output_path("out")

            def tasks(self):
                yield Task("prepare")
                yield Task("run", args=[1, 2, 3], parallel=2)

            def prepare(self):
                sum(range(3_000_000))

            def run(self, number):
                import yaml
                if number == 3:
                    File(self.out.get_path()).write_text("done")
        """,
    )
    assert project.manager().returncode == 0
    folder = JobDir(str(project.job_dir("Busy")))
    first, *runs = read_records(folder)
    assert first.task == "prepare"
    assert 0 < first.cpu_s < 10
    assert first.wall_s > 0
    assert first.python == sys.version.split()[0]
    assert "yaml" not in first.packages
    assert all("yaml" in record.packages for record in runs)
    assert all(record.ended is not None for record in runs)
    assert output_hashes.verify(folder) == []
    said = project.sis("record", "Busy").stdout
    assert "prepare 1\n  wall time: " in said
    assert f"Python: {sys.version.split()[0]}" in said
    assert "yaml 6" in said
    assert usage.read(folder.entry(f"{gs.PLOGGING_FILE}.prepare.1"))["used_time"] > 0
