"""Jobs refuse mistakes while the graph is built, and their ids hold only what changes the result."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from merging import methods
from merging.commands import cli
from merging.commands.command_line import parse
from merging.errors import CheckpointError, DataError, OptionError, UnknownNameError
from merging.merge.cost import from_headers
from sisyphus import Job, tk

from recipe.data import local, local_model, split
from recipe.download import DownloadDataJob, DownloadModelJob
from recipe.evaluate import EvaluateJob
from recipe.experiment import Experiment, Splits
from recipe.hessian import HessianJob
from recipe.merge import MergeJob, check_merge, merge
from recipe.report import ReportJob
from recipe.sweep import BestMergeJob, EvaluateMergeJob, SearchJob
from recipe.train import TrainJob

DATA = {"data": tk.Path("data"), "split": "train", "shuffle_seed": 0}
MODEL = tk.Path("model")
MODELS = {"a": tk.Path("a"), "b": tk.Path("b")}
TRAIN: dict[str, Any] = {
    "task_type": "sequence_classification",
    "model": MODEL,
    "data": DATA,
    "validation": None,
    "options": {"learning_rate": 1e-5, "batch_size": 16, "num_epochs": 1},
    "seed": 0,
}
HESSIAN: dict[str, Any] = {
    "estimator": "fisher_mc",
    "task_type": "sequence_classification",
    "model": MODEL,
    "data": DATA,
    "options": {},
    "seed": 0,
}
SEVERAL: dict[str, Any] = {**HESSIAN, "estimator": None, "statistics": ["gram", "fisher_mc"]}
MERGE: dict[str, Any] = {
    "method": "task_arithmetic",
    "options": {"scaling_factor": 1.0},
    "base": MODEL,
    "models": MODELS,
    "extras": {},
}
EVALUATE: dict[str, Any] = {
    "task_type": "sequence_classification",
    "model": MODEL,
    "data": {"a": DATA},
    "options": {},
}
POINT: dict[str, Any] = {
    "merge": MERGE,
    "task_type": "sequence_classification",
    "data": {"a": DATA},
    "options": {},
}
BEST: dict[str, Any] = {
    "points": [{"merge": MERGE, "evaluation": tk.Path("evaluation")}],
    "metric": "accuracy",
}
SEARCH: dict[str, Any] = {
    **POINT,
    "merge": {**MERGE, "options": {}},
    "space": {"scaling_factor": {"low": 0.0, "high": 1.0}},
    "evaluation": {},
}
ROW = {"label": "average", "kind": "merged", "seed": 0, "evaluation": tk.Path("evaluation")}


@pytest.mark.parametrize(
    ("make", "good", "wrong", "message"),
    [
        (
            TrainJob,
            TRAIN,
            {"task_type": "classification"},
            "unknown task type 'classification'. Did you mean",
        ),
        (TrainJob, TRAIN, {"architecture": {"model_type": "vit"}}, "exactly one of model"),
        (TrainJob, TRAIN, {"model": None}, "exactly one of model"),
        (TrainJob, TRAIN, {"data": {"data": MODEL}}, "data set: 'split' is missing"),
        (TrainJob, TRAIN, {"validation": {**DATA, "split": "train["}}, r"cannot read split 'train\['"),
        (
            TrainJob,
            TRAIN,
            {"options": {**TRAIN["options"], "learning_rat": 1.0}},
            "unknown option 'learning_rat'",
        ),
        (
            TrainJob,
            TRAIN,
            {"options": {**TRAIN["options"], "batch_size": 0}},
            "batch_size must be at least 1",
        ),
        (TrainJob, TRAIN, {"options": {**TRAIN["options"], "learning_rate": 1}}, "Write 1.0"),
        (TrainJob, TRAIN, {"seed": -1}, "TrainJob: seed must be an int in"),
        (TrainJob, TRAIN, {"seed": "1"}, "TrainJob: seed must be an int in"),
        (HessianJob, HESSIAN, {"estimator": "fisher_mcc"}, "unknown Hessian estimator 'fisher_mcc'"),
        (HessianJob, HESSIAN, {"task_type": "x"}, "unknown task type 'x'"),
        (HessianJob, HESSIAN, {"statistics": ["gram"]}, "exactly one of estimator .* and statistics"),
        (HessianJob, SEVERAL, {"statistics": ["gram", "kfac"]}, "unknown Hessian estimator 'kfac'"),
        (HessianJob, HESSIAN, {"options": {"max_examples": 0}}, "max_examples must be at least 1"),
        (HessianJob, HESSIAN, {"data": []}, "data set: an empty list"),
        (HessianJob, HESSIAN, {"seed": 1.0}, "HessianJob: seed must be an int in"),
        (
            MergeJob,
            MERGE,
            {"method": "task_arithmatic"},
            "unknown merge method 'task_arithmatic'. Did you mean",
        ),
        (MergeJob, MERGE, {"options": {"scaling_factor": 1}}, "Write 1.0"),
        (MergeJob, MERGE, {"options": {"scaling_factor": {"a": 1.0}}}, "no value for task 'b'"),
        (MergeJob, MERGE, {"extras": {"hessians": {}}}, "unknown input 'hessians'"),
        (MergeJob, MERGE, {"method": "fisher", "options": {}}, "missing input 'hessians'"),
        (MergeJob, MERGE, {"policy": {"exclud": []}}, "unknown option 'exclud'. Did you mean 'exclude'"),
        (EvaluateJob, EVALUATE, {"data": {}}, "data names no task"),
        (EvaluateJob, EVALUATE, {"data": {"a": MODEL}}, "data set: expected"),
        (EvaluateJob, EVALUATE, {"options": {"metrics": ["accurracy"]}}, "accurracy"),
        (ReportJob, {"rows": [ROW], "options": {"reference": None}}, {"options": {}}, "is no row"),
        (
            DownloadDataJob,
            {"source": "imdb"},
            {"source": "imbd"},
            "unknown data source 'imbd'. Did you mean 'imdb'",
        ),
        (
            DownloadDataJob,
            {"source": "imdb"},
            {"source": "local/x"},
            "folder is for local/ sources, which need it",
        ),
        (DownloadDataJob, {"source": "imdb"}, {"folder": MODEL}, "folder is for local/ sources"),
    ],
)
def test_mistakes_fail_while_the_graph_is_built(
    make: Callable[..., Job], good: dict[str, Any], wrong: dict[str, Any], message: str
) -> None:
    make(**good)
    with pytest.raises(OptionError, match=message):
        make(**{**good, **wrong})


@pytest.mark.parametrize(
    ("job", "id"),
    [
        (lambda: TrainJob(**TRAIN), "train/TrainJob.tp4Hg8piRdlC"),
        (lambda: HessianJob(**HESSIAN), "hessian/HessianJob.uhqQS9PEBys5"),
        (lambda: HessianJob(**SEVERAL), "hessian/HessianJob.KSgvMoNtOM5t"),
        (lambda: MergeJob(**MERGE), "merge/MergeJob.HgquynkjR84F"),
        (lambda: EvaluateMergeJob(**POINT), "sweep/EvaluateMergeJob.g9PzC3NdPG5f"),
        (lambda: BestMergeJob(**BEST), "sweep/BestMergeJob.PKUyDAILKQB5"),
        (lambda: SearchJob(**SEARCH), "sweep/SearchJob.55bASvEWq4GJ"),
        (lambda: EvaluateJob(**EVALUATE), "evaluate/EvaluateJob.Jvw3FmHrgtGj"),
        (lambda: ReportJob(rows=[ROW], options={"reference": None}), "report/ReportJob.iwEV8wLLI7Iu"),
        (lambda: DownloadDataJob(source="imdb"), "download/DownloadDataJob.gh7vxnTxADim"),
        (
            lambda: DownloadModelJob(model="FacebookAI/roberta-base", revision="main"),
            "download/DownloadModelJob.XssITR2FdQbK",
        ),
    ],
)
def test_ids_are_frozen(job: Callable[[], Job], id: str) -> None:
    """Another id repeats everything that anybody has done: change one on purpose only, and say so."""
    assert job().job_id() == id


@pytest.mark.parametrize(
    ("make", "arguments"),
    [(MergeJob, MERGE), (EvaluateMergeJob, POINT), (BestMergeJob, BEST), (SearchJob, SEARCH)],
)
def test_another_version_of_a_method_gives_other_merges(
    make: Callable[..., Job], arguments: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """So results of an old default are not taken for those of a new one; without a version, ids stay."""
    ids = [make(**arguments).job_id()]
    for version in (1, 2, 3):
        monkeypatch.setattr(methods.load("task_arithmetic"), "VERSION", version, raising=False)
        ids.append(make(**arguments).job_id())
    assert ids[0] == ids[1] and len(set(ids)) == 3


def test_statistics_are_a_set() -> None:
    """Several in one job, in any order; each is an output, and merges of all may be given the whole."""
    job = HessianJob(**SEVERAL)
    assert HessianJob(**{**SEVERAL, "statistics": ["fisher_mc", "gram"]}) is job
    assert job.job_id() != HessianJob(**{**SEVERAL, "statistics": ["gram"]}).job_id()
    assert {name: path.path for name, path in job.out_hessians.items()} == {
        name: f"{job.out_hessian.path}/{name}" for name in ("fisher_mc", "gram")
    }
    single = HessianJob(**HESSIAN)
    assert single.out_hessians == {"fisher_mc": single.out_hessian}


def test_an_experiment_shares_passes() -> None:
    """Whatever is named in ``statistics`` comes from one job of each model, everything else from its own."""
    parts = Splits(train=DATA, validation=None, test=DATA)
    settings: dict[str, Any] = {
        "name": "shared",
        "task_type": "sequence_classification",
        "start": {"model": MODEL},
        "base": parts,
        "tasks": {"a": parts},
        "base_training": TRAIN["options"],
        "training": TRAIN["options"],
        "hessian": {},
        "evaluation": {},
    }
    shared = Experiment(**settings, statistics=("gram", "fisher_mc"))
    plain = Experiment(**settings)
    grams, hessians, factors = (
        shared.merge_arguments(method, options, 0)["extras"][key]["a"]
        for method, options, key in (
            ("regmean", {}, "grams"),
            ("fisher", {}, "hessians"),
            ("mats", {"objective": "kfac"}, "factors"),
        )
    )
    assert grams.creator is hessians.creator and grams.path != hessians.path
    assert factors.creator is not grams.creator
    assert plain.hessian_of("a", 0, "gram").creator is not grams.creator
    with pytest.raises(UnknownNameError, match="Did you mean 'gram'"):
        Experiment(**settings, statistics=("gramm",))


@pytest.mark.parametrize(("make", "arguments"), [(HessianJob, HESSIAN), (EvaluateJob, EVALUATE)])
def test_the_batch_size_is_no_identity(make: Callable[..., Job], arguments: dict[str, Any]) -> None:
    plain = make(**arguments).job_id()
    assert make(**{**arguments, "options": {"batch_size": 7}}).job_id() == plain
    assert make(**{**arguments, "options": {"max_tokens": 7}}).job_id() != plain


def test_resources_are_no_identity() -> None:
    job = TrainJob(**TRAIN)
    id = job.job_id()
    job.update_rqmt("run", {"gpu": 1, "mem": 24})
    assert job.job_id() == id
    assert TrainJob(**TRAIN) is job


def test_the_place_of_local_data_is_no_identity(tmp_path: Path) -> None:
    for place in ("here", "there"):
        (tmp_path / place / "yelp").mkdir(parents=True)
    here, there = (local("local/yelp", str(tmp_path / place)) for place in ("here", "there"))
    assert here.creator.job_id() == there.creator.job_id()
    with pytest.raises(DataError, match=r"local/sst2: there is no .*sst2\. Put the data set there"):
        local("local/sst2", str(tmp_path / "here"))


def test_a_local_model_is_what_is_in_it(tmp_path: Path) -> None:
    for name, weights in (("a", b"1"), ("b", b"1"), ("c", b"2")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text("{}")
        (tmp_path / name / "model.safetensors").write_bytes(weights)
    a, b, c = (local_model(str(tmp_path / name))._sis_hash() for name in "abc")
    assert a == b != c
    with pytest.raises(CheckpointError, match="is no model folder"):
        local_model(str(tmp_path))


def test_split_names_a_source_or_a_folder() -> None:
    by_name = split("imdb", "train[:10%]")
    assert by_name == {
        "data": DownloadDataJob(source="imdb").out_data,
        "split": "train[:10%]",
        "shuffle_seed": 0,
    }
    assert split(MODEL, "test", shuffle_seed=None) == {"data": MODEL, "split": "test", "shuffle_seed": None}


def test_merge_passes_on_what_the_method_asks_for() -> None:
    available = {"base_hessian": tk.Path("h0"), "hessians": {"a": tk.Path("ha"), "b": tk.Path("hb")}}
    inputs: dict[str, Any] = {"base": MODEL, "models": MODELS, **available}
    assert merge("average", {}, **inputs).base is None
    assert merge("average", {}, **inputs).extras == {}
    assert merge("task_arithmetic", {}, **inputs).extras == {}
    assert merge("task_arithmetic", {}, **inputs).base == MODEL
    assert merge("fisher", {}, **inputs).extras == {"hessians": available["hessians"]}
    assert merge("gradient_matching", {}, **inputs).extras == available


@pytest.mark.parametrize(
    ("make", "arguments", "file"),
    [(TrainJob, TRAIN, "training/progress.jsonl"), (HessianJob, HESSIAN, "estimate/progress.jsonl")],
)
def test_progress_is_read_from_the_work_folder(
    make: Callable[..., Any],
    arguments: dict[str, Any],
    file: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    job = make(**arguments)
    assert job.info() is None
    assert job.completed_fraction() is None
    path = tmp_path / "work" / job.job_id() / "work" / file
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps({"step": 1, "total_steps": 4, "seconds_left": 30}) + "\n")
    assert job.info() == "step 1/4, 30 s left"
    assert job.completed_fraction() == 0.25


def test_several_gpus_get_a_process_each(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    commands = []
    monkeypatch.setattr("subprocess.run", lambda command, check: commands.append((command, check)))
    job = TrainJob(**TRAIN)
    job.run()
    ((command, check),) = commands
    assert check
    assert command[1:5] == ["-m", "torch.distributed.run", "--nproc-per-node=2", "--standalone"]
    assert command[-5:] == ["-m", "merging", "train", "--config", "arguments.json"]
    train = next(command for command in cli.COMMANDS if command.name == "train")
    arguments = parse(train, ["--config", "arguments.json"])
    assert arguments["model"] == os.fspath(MODEL)
    assert arguments["data"] == {**DATA, "data": os.fspath(DATA["data"])}
    assert arguments["out"] == job.out_model.get_path()
    assert arguments["options"] == TRAIN["options"]


def test_several_nodes_get_a_launcher_each(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name, value in (("JOB_NUM_NODES", "3"), ("JOB_ID", "17"), ("CPUS_PER_TASK", "5")):
        monkeypatch.setenv(f"SLURM_{name}", value)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    job = TrainJob(**TRAIN)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(FileNotFoundError, match="needs srun"):
        job.run()
    (tmp_path / "srun").touch(0o755)
    commands = []
    monkeypatch.setattr("subprocess.run", lambda command, check: commands.append(command))
    job.run()
    command = commands[0]
    assert command[:2] == ["srun", "--nodes=3"]
    assert {"--cpus-per-task=5", "--nnodes=3", "--nproc-per-node=2", "--rdzv-id=17"} <= set(command)


def test_several_gpus_share_an_estimate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 4)
    commands = []
    monkeypatch.setattr("subprocess.run", lambda command, check: commands.append(command))
    HessianJob(**SEVERAL).run()
    assert "--nproc-per-node=4" in commands[0]
    assert commands[0][-5:] == ["-m", "merging", "hessian", "--config", "arguments.json"]
    hessian = next(command for command in cli.COMMANDS if command.name == "hessian")
    arguments = parse(hessian, ["--config", "arguments.json"])
    assert arguments["estimator"] is None and arguments["statistics"] == SEVERAL["statistics"]
    assert arguments["work"] == "estimate"


@pytest.mark.parametrize(
    "make",
    [
        lambda: TrainJob(**TRAIN),
        lambda: HessianJob(**HESSIAN),
        lambda: MergeJob(**MERGE),
        lambda: EvaluateJob(**EVALUATE),
        lambda: ReportJob(rows=[ROW], options={"reference": None}),
        lambda: DownloadDataJob(source="imdb"),
        lambda: DownloadModelJob(model="m", revision="main"),
    ],
)
def test_every_job_can_be_resumed_and_asks_for_resources(make: Callable[[], Job]) -> None:
    (task,) = make().tasks()
    assert task.name() == "run"
    assert task.resumeable()
    assert {"cpu", "mem", "time"} <= set(task.rqmt())


def test_id_of_a_merge_says_what_it_gives_and_not_how_it_is_computed() -> None:
    plain = MergeJob(**MERGE)
    assert MergeJob(**MERGE, compute={"max_memory": "2GiB"})._sis_id() == plain._sis_id()
    assert MergeJob(**MERGE, output={"dtype": "bfloat16"})._sis_id() != plain._sis_id()
    with pytest.raises(OptionError, match="max_memory"):
        check_merge(**MERGE, compute={"max_memory": "much"})


def test_a_merge_asks_for_what_its_inputs_call_for(tmp_path: Path) -> None:
    """From headers, once they are there; broken inputs are left to the merge itself."""
    from safetensors.torch import save_file
    from torch import zeros

    folders = {}
    for name in ("base", "a"):
        folders[name] = tmp_path / name
        folders[name].mkdir()
        (folders[name] / "config.json").write_text("{}")
        save_file({"w": zeros(2**22)}, folders[name] / "model.safetensors")
    inputs = {"base": folders["base"], "models": {"a": folders["a"]}, "options": {}, "extras": {}}
    in_pieces, whole = (from_headers(method=method, **inputs) for method in ("task_arithmetic", "iso_c"))
    assert whole.memory_bytes > in_pieces.memory_bytes + 4 * 2**22
    assert in_pieces.read_bytes > 2 * 4 * 2**22 and in_pieces.written_bytes == 4 * 2**22
    job = MergeJob(
        method="iso_c",
        options={},
        base=tk.Path(str(folders["base"])),
        models={"a": tk.Path(str(folders["a"]))},
        extras={},
    )
    job.update()
    assert job.rqmt == {"cpu": 1, "mem": 2, "time": 1}  # what loads the model for its check, and the model
    (folders["a"] / "model.safetensors").write_bytes(b"broken")
    broken = MergeJob(
        method="average", options={}, base=None, models={"a": tk.Path(str(folders["a"]))}, extras={}
    )
    before = dict(broken.rqmt)
    broken.update()
    assert broken.rqmt == before
