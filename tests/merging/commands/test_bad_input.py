"""Bad input, seen as a person sees it.

The command line answers with one line that names the value and the way out, leaves nothing behind, and
touches nothing that was finished.
"""

import errno
import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import torch
import transformers
from merging.commands import cli
from merging.evaluation import run as evaluation
from merging.files import checkpoints
from merging.models import quiet
from safetensors.torch import load_file, save_file

TASK_TYPE = ["--task-type", "sequence_classification"]
TOKENS = ["--max-tokens", "16"]
SPOILT = "bert.pooler.dense.bias"

Words = Sequence[str]


# --- commands that would work, were it not for one value ---


def train(*, model: str = "start", data: str = "reviews:train", more: Words = ()) -> list[str]:
    options = ["--learning-rate", "1e-3", "--batch-size", "8", "--num-epochs", "1", *TOKENS]
    return ["train", *TASK_TYPE, "--model", model, "--data", data, *options, "--out", "out/model", *more]


def hessian(*, model: str = "a", data: str = "reviews:train", more: Words = ()) -> list[str]:
    return ["hessian", *TASK_TYPE, "--model", model, "--data", data, *TOKENS, "--out", "out/hessian", *more]


def average(*, b: str = "b", more: Words = ()) -> list[str]:
    return ["merge", "--method", "average", "--models", "a=a", f"b={b}", "--out", "out/merged", *more]


def match(*, b: str = "b", b_hessian: str = "hessian_b", more: Words = ()) -> list[str]:
    inputs = ["--base", "base", "--base-hessian", "hessian_base", "--models", "a=a", f"b={b}"]
    hessians = ["--hessians", "a=hessian_a", f"b={b_hessian}"]
    return ["merge", "--method", "gradient_matching", *inputs, *hessians, "--out", "out/merged", *more]


def arithmetic(*more: str, base: str = "base", models: Words = ("a=a", "b=b")) -> list[str]:
    inputs = ["--base", base, "--models", *models]
    return ["merge", "--method", "task_arithmetic", *inputs, "--out", "out/merged", *more]


def by_gram(*more: str) -> list[str]:
    return ["merge", "--method", "regmean", "--models", "a=a", "b=b", "--out", "out/merged", *more]


def search(space: str, *more: str) -> list[str]:
    inputs = ["--base", "base", "--models", "a=a", "b=b", "--data", "a=reviews:test", "b=reviews:test"]
    words = ["search", "--method", "task_arithmetic", *inputs, *TASK_TYPE, *TOKENS]
    return [*words, "--space", space, "--out", "out/found", *more]


def evaluate(*, model: str = "a", data: str = "food=reviews:test", more: Words = ()) -> list[str]:
    return ["evaluate", *TASK_TYPE, "--model", model, "--data", data, *TOKENS, "--out", "out/scores", *more]


def predict(*, model: str = "a", data: str = "reviews:test") -> list[str]:
    return ["predict", *TASK_TYPE, "--model", model, "--data", data, *TOKENS, "--out", "out/lines.jsonl"]


def download(source: str) -> list[str]:
    return ["download", "--source", source, "--folder", "files", "--out", "out/data"]


def download_model(model: str) -> list[str]:
    return ["download", "--model", model, "--out", "out/model"]


def from_file(config: Mapping[str, Any]) -> list[str]:
    """A merge by one JSON file, which is written beside the models."""
    folders = {"base": "base", "models": {"a": "a"}, "base_hessian": "hessian_base"}
    rest = {"hessians": {"a": "hessian_a"}, "out": "out/merged"}
    Path("merge.json").write_text(json.dumps({"method": "gradient_matching", **folders, **rest, **config}))
    return ["merge", "--config", "merge.json"]


# --- the table: what is wrong, the command, what the answer says ---

WRONG_PATH = [
    (
        train(model="./nowhere"),
        ["no model folder at ./nowhere", "Give a folder with config.json, or a Hub id"],
    ),
    (train(data="nowhere:train"), ["no data set at nowhere", "merging download"]),
    (train(model="reviews"), ["reviews is no model folder: it has no config.json", "save_pretrained"]),
    (hessian(model="nowhere"), ["nowhere is no folder", "merging download --model ID"]),
    (average(b="nowhere"), ["models['b']: nowhere is no folder", "merging download --model ID"]),
    (match(b_hessian="nowhere"), ["hessians['b']: nowhere is no Hessian folder", "merging hessian"]),
    (match(b_hessian="b"), ["b is no Hessian folder: it has no hessian.json", "merging hessian"]),
    (evaluate(data="food=reviews:tset"), ["unknown split 'tset'. Did you mean 'test'?"]),
    (predict(data="nowhere.csv"), ["there is no file nowhere.csv", "FOLDER:SPLIT"]),
    (download("local/revews"), ["no data at files/revews", "Did you mean 'reviews'?"]),
    (["merge", "--config", "nowhere.json"], ["cannot read nowhere.json", "Give the path of a JSON file"]),
]
MISSING_SHARD = [
    (command(model="shards"), ["shards lacks model-00002-of-00002.safetensors, 1 of the 2", "download"])
    for command in (train, hessian, evaluate, predict)
] + [
    (average(b="shards"), ["models['b']: shards lacks model-00002-of-00002.safetensors", "download"]),
    (download_model("shards"), ["shards lacks model-00002-of-00002.safetensors", "download"]),
]
TRUNCATED = [
    (command(model="cut"), ["cut/model.safetensors is truncated", "Copy or download it again"])
    for command in (train, hessian, evaluate, predict)
] + [
    (average(b="cut"), ["cut/model.safetensors is truncated", "Copy or download it again"]),
    (match(b_hessian="hessian_cut"), ["hessian_cut/hessian.safetensors is truncated"]),
    (download_model("cut"), ["cut/model.safetensors is truncated", "Copy or download it again"]),
    (download("local/broken"), ["files/broken/train.parquet is damaged or not parquet", "Copy it again"]),
]
NAN_WEIGHTS = [
    (command(model="nan"), [f"nan: {SPOILT} has NaN or infinite values", "file is damaged"])
    for command in (train, hessian, evaluate, predict)
] + [
    (average(b="nan"), [f"models['b']: '{SPOILT}' has NaN", "Train or download it again"]),
    (match(b_hessian="hessian_nan"), [f"hessians['b']: '{SPOILT}' has NaN", "Estimate it again"]),
]
DIFFERING = [
    (
        average(b="wide"),
        ["is (16,) in models['a'] and (32,) in models['b']", "only models of one architecture"],
    ),
    (match(b_hessian="hessian_wide"), ["is (16,) in base and (32,) in hessians['b']"]),
    (
        match(b_hessian="hessian_a"),
        ["hessians['b'] was estimated at other weights than models['b']", "again"],
    ),
    (
        average(b="words"),
        ["is number 4 in models['a'] and 5 in models['b']", 'policy {"vocabulary": "base"}'],
    ),
    (average(b="more_words"), ["is (32, 16) in models['a'] and (33, 16) in", '{"vocabulary": "base"}']),
    (average(b="three"), ["is (2,) in models['a'] and (3,) in", 'policy {"head": "keep"}']),
    (average(b="named"), ["label sets differ", "['bad', 'good']", 'policy {"exclude": ["classifier.*"]}']),
    (train(model="three"), ["three was trained for the labels ['0', '1', '2'], the data has ['0', '1']"]),
    (evaluate(model="named"), ["task 'food' has the labels ['0', '1'], the model named predicts ['bad', "]),
    (
        hessian(model="named", more=["--estimator", "fisher_empirical"]),
        ["the model's classes are ['bad', 'good'], the labels of the data ['0', '1']", "fisher_exact"],
    ),
]
UNKNOWN = [
    (
        ["train", "--task-type", "sequence_clasification", *train()[3:]],
        ["unknown task type 'sequence_clasification'. Did you mean 'sequence_classification'?"],
    ),
    (
        match(more=["--scaling-factor", '{"a": 1.0, "c": 1.0}']),
        ["gradient_matching: scaling_factor: unknown task 'c'. Known: a, b"],
    ),
    (match(more=["--scaling-factor", '{"a": 1.0}']), ["no value for task 'b'; name every task"]),
    (match(more=["--hessians", "a=hessian_a", "food=hessian_b"]), ["hessians: unknown task 'food'"]),
    (match(more=["--delta", "1"]), ["unknown flag '--delta'. Did you mean '--delta-0'?"]),
    (train(more=["--learning-rat", "1"]), ["unknown flag '--learning-rat'. Did you mean '--learning-rate'?"]),
    (
        average(more=["--policy", '{"exclud": []}']),
        ["policy: unknown option 'exclud'. Did you mean 'exclude'?"],
    ),
]
LABELS = [
    (download("local/sst2"), ["split 'test': label 2 of row 1 is outside 0..1", "mend the labels"]),
    (download("local/unlabelled"), ["label -1 of row 0 is outside 0..1", "leave that split out"]),
    (
        download("local/answers"),
        ["labels must be integers or strings, got ['False', 'True']", "Write classes"],
    ),
]
EMPTY = [
    (train(data="reviews:train[:0]"), ["split 'train[:0]' is empty", "Widen the slice"]),
    (hessian(data="reviews:train[60%:40%]"), ["split 'train[60%:40%]' is empty", "Widen the slice"]),
    (evaluate(data="food=reviews:test[90:]"), ["split 'test[90:]' of reviews is empty: 'test' has 12 rows"]),
    (download("local/empty"), ["files/empty/test.jsonl holds no rows", "Fill it, or remove it"]),
    (download("local/header"), ["files/header/test.csv holds no rows", "Fill it, or remove it"]),
]
NUMBERS = [
    (match(more=["--delta-0", "0"]), ["delta_0 must be > 0, got 0.0", "pass a small number such as 1e-12"]),
    (match(more=["--delta-0", "-1"]), ["delta_0 must be finite and >= 0, got -1.0"]),
    (match(more=["--delta-0", "small"]), ["--delta-0 must be float, got 'small'"]),
    (train(more=["--batch-size", "1.5"]), ["--batch-size must be int, got '1.5'"]),
    (train(more=["--seed", "-1"]), ["seed must be an int in 0..", "got -1"]),
    (evaluate(more=["--max-tokens", "99"]), ["max_tokens must be in 1..16", "got 99"]),
]

SCHEDULES = [
    (arithmetic("--scaling-factor", "a=much", "b=1"), ["--scaling-factor a must be float, got 'much'"]),
    (arithmetic("--scaling-factor", "a=1", "a=2"), ["--scaling-factor: task 'a' is given twice"]),
    (arithmetic("--scaling-factor", "a=1"), ["scaling_factor: no value for task 'b'; name every task"]),
    (arithmetic("--scaling-factor", "[0.1, 1"), ["--scaling-factor: not JSON: '[0.1, 1'"]),
    (
        arithmetic("--scaling-factor", '[{"filtre": "*", "value": 1}]'),
        ["scaling_factor: unknown key 'filtre'. Did you mean 'filter'?"],
    ),
    (match(more=["--delta-0", "[1, -1]"]), ["delta_0 must be finite and >= 0, got -1.0"]),
    (match(more=["--parity", "[true, false]"]), ["--parity must be bool, got '[true, false]'"]),
]
INPUTS = [
    (by_gram(), ["regmean: missing input 'grams'; the method needs it"]),
    (
        by_gram("--grams", "a=hessian_a", "b=hessian_b"),
        ["grams['a'] holds the statistic 'diagonal'", "grams needs 'gram' or 'kfac'", "gram or"],
    ),
    (arithmetic("--grams", "a=hessian_a", "b=hessian_b"), ["task_arithmetic: unknown input 'grams'"]),
    (arithmetic("--base-factors", "hessian_a"), ["task_arithmetic: unknown input 'base_factors'"]),
    (
        ["merge", "--method", "slerp", "--base", "base", "--models", "a=a", "b=b", "--out", "out/merged"],
        ["slerp: models must be 1 beside the base, got 2: a, b"],
    ),
    (arithmetic(models=["a=out/nothing"]), ["models['a']: out/nothing is no folder"]),
    (["merge", "--config", "nowhere.yml", "--out", "out/merged"], ["nowhere.yml"]),
]
SETTINGS = [
    (arithmetic("--dtype", "int8"), ["--dtype must be one of 'float32', 'bfloat16', 'float16'"]),
    (arithmetic("--max-shard-size", "5"), ["max_shard_size must be a size with a unit", "got '5'"]),
    (arithmetic("--max-memory", "lots"), ["max_memory must be a size with a unit", "got 'lots'"]),
    (arithmetic("--device", "tpu"), ["device must be 'cpu', 'cuda' or 'cuda:N', got 'tpu'"]),
    (arithmetic("--num-threads", "0"), ["num_threads must be >= 1, got 0"]),
    (arithmetic("--policy", "3"), ["policy must be a mapping from option to value, got 3"]),
    (arithmetic("--policy", "[]"), ["policy must be a mapping from option to value, got []"]),
    (
        arithmetic("--policy", '{"head": "per_task"}', models=("a=a", "../b=b")),
        ["head='per_task' makes a folder of each task's name, got '../b'", "without slashes"],
    ),
    (
        arithmetic("--scaling-factor", '[{"filter": "*.attentoin.*", "value": 0.5}]'),
        ["scaling_factor has the filter '*.attentoin.*', which matches no tensor"],
    ),
    (arithmetic("--policy", '{"head": "kepe"}'), ["policy: head must be one of", "got 'kepe'"]),
    (arithmetic("--policy", '{"vocabulary": "onion"}'), ["policy: vocabulary must be one of"]),
]
ADAPTERS = [
    (arithmetic("--rank", "4"), ["--rank is for adapters as a result. Say which with --result"]),
    (arithmetic("--result", "sdv"), ["unknown result 'sdv'. Did you mean 'svd'?"]),
    (arithmetic("--result", "svd"), ["models['a']: a is no adapter", "as_adapter"]),
    (arithmetic("--result", "svd", "--rank", "0"), ["rank must be", "got 0"]),
    (arithmetic("--result", "concat", "--rank", "4"), ["rank goes with result='svd', not with 'concat'"]),
    (arithmetic("--result", "svd", "--dtype", "float16"), ["--dtype is for merges of whole models"]),
    (
        by_gram("--result", "svd", "--grams", "a=hessian_a", "b=hessian_b"),
        ["--grams is for merges of whole models, not for --result svd"],
    ),
]
PUBLISHING = [
    (arithmetic("--private"), ["--private goes with --push-to-hub ID"]),
    (arithmetic("--verify", "--result", "svd"), ["--verify is for whole models, not for adapters"]),
    (arithmetic("--push-to-hub", "my model"), ["push_to_hub must be a Hub id such as 'you/model'"]),
    (["push", "nowhere", "--push-to-hub", "you/x"], ["nowhere"]),
    (["push", "a"], ["merging push: --push-to-hub must be given"]),
    (["verify", "nowhere"], ["nowhere"]),
    (["verify", "a", "b"], ["merging verify: unknown word 'b'"]),
]
SEARCH = [
    (search("3"), ["search: space must be a mapping from option to value, got 3"]),
    (search('{"scaling_factor": [0.5]}', "--fixed", "3"), ["search: fixed must be a mapping", "got 3"]),
    (
        search('{"scaling_factor": {"low": 0.0, "high": 1.0, "step": 1e-9}}'),
        ["step 1e-09 makes 1,000,000,001 values, more than 10,000. Widen it"],
    ),
    (search("{}"), ["search: space is empty", '"scaling_factor": {"low": 0.0']),
    (search('{"scaling_facto": [0.5]}'), ["unknown option 'scaling_facto'. Did you mean 'scaling_factor'?"]),
    (
        search('{"scaling_factor": {"low": 0.0, "high": 1.0}}', "--strategy", "grid"),
        ["a grid needs a step for 'scaling_factor'"],
    ),
    (search('{"scaling_factor": [0.5]}', "--strategy", "girds"), ["--strategy must be one of 'grid'"]),
    (search('{"scaling_factor": [0.5]}', "--fixed", '{"density": 0.5}'), ["unknown option 'density'"]),
    (search('{"scaling_factor": [0.5]}', "--num-trials", "0"), ["num_trials must be 1 or more, got 0"]),
]
EXPLAINED = [
    (["methods", "tie"], ["unknown merge method 'tie'. Did you mean 'ties'?"]),
    (["statistics", "gramm"], ["unknown Hessian estimator 'gramm'. Did you mean 'gram'?"]),
]


TABLE = {
    "path": WRONG_PATH,
    "shard": MISSING_SHARD,
    "truncated": TRUNCATED,
    "nan": NAN_WEIGHTS,
    "differing": DIFFERING,
    "unknown": UNKNOWN,
    "label": LABELS,
    "empty": EMPTY,
    "number": NUMBERS,
    "schedule": SCHEDULES,
    "input": INPUTS,
    "setting": SETTINGS,
    "adapter": ADAPTERS,
    "publishing": PUBLISHING,
    "search": SEARCH,
    "explained": EXPLAINED,
}


@pytest.mark.parametrize(
    ("words", "answers"),
    [
        pytest.param(words, answers, id=f"{kind}-{words[0]}-{number}")
        for kind, cases in TABLE.items()
        for number, (words, answers) in enumerate(cases)
    ],
)
def test_bad_input(there: Path, words: Words, answers: Sequence[str], refused: Callable[..., None]) -> None:
    refused(words, *answers)


@pytest.mark.parametrize(
    ("config", "answer"),
    [
        ({"options": {"delta": 1e-3}}, "gradient_matching: unknown option 'delta'. Did you mean 'delta_0'?"),
        ({"options": {"scaling_factor": 1}}, "must be float | {text: float}, got 1 of type int. Write 1.0"),
        ({"options": {"delta_0": 0.0}}, "delta_0 must be > 0, got 0.0"),
        ({"option": {}}, "merging merge: unknown key 'option'. Did you mean 'options'?"),
        ({"method": "gradient_maching"}, "Did you mean 'gradient_matching'?"),
    ],
)
def test_bad_json(there: Path, config: dict[str, Any], answer: str, refused: Callable[..., None]) -> None:
    refused(from_file(config), answer)


@pytest.mark.parametrize(
    "words",
    [
        ["download", "--source", "imdb", "--out", "out/data"],
        download_model("FacebookAI/roberta-base"),
        train(model="FacebookAI/roberta-base"),
        evaluate(model="FacebookAI/roberta-base"),
        predict(model="FacebookAI/roberta-base"),
        average(b="FacebookAI/roberta-base"),
        search('{"scaling_factor": [0.5]}', "--base", "FacebookAI/roberta-base"),
    ],
    ids=["data", "model", "train", "evaluate", "predict", "merge", "search"],
)
def test_no_network(
    there: Path, words: Words, refused: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Said at once: transformers would try again for the better part of a minute."""

    def unreachable(*args: Any, **kwargs: Any) -> Any:
        raise OSError("Name or service not known")

    monkeypatch.setattr(huggingface_hub.HfApi, "repo_info", unreachable)
    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", lambda *args: None)
    refused(words, "Name or service not known", "Check the id and the network", "give a local folder")


def test_no_token(there: Path, refused: Callable[..., None], monkeypatch: pytest.MonkeyPatch) -> None:
    """Said before anything is merged."""

    def unknown(api: Any) -> Any:
        raise huggingface_hub.errors.LocalTokenNotFoundError("Token is required, but no token found.")

    monkeypatch.setattr(huggingface_hub.HfApi, "whoami", unknown)
    for words in (arithmetic("--push-to-hub", "you/x"), ["push", "a", "--push-to-hub", "you/x"]):
        refused(words, "does not let us upload to 'you/x'", "no token found", "Set HF_TOKEN", "hf auth login")
    monkeypatch.setattr(huggingface_hub, "is_offline_mode", lambda: True)
    refused(arithmetic("--push-to-hub", "you/x"), "HF_HUB_OFFLINE is set: nothing can be uploaded", "push")


@pytest.mark.parametrize("words", [train(), hessian(), average()], ids=["train", "hessian", "merge"])
def test_too_small_a_disk(
    there: Path, words: Words, refused: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(there)._replace(free=4000)
    monkeypatch.setattr(checkpoints.shutil, "disk_usage", lambda _: usage)
    refused(words, "kB, but only 4.0 kB are free on its disk", "Free some space")


@pytest.mark.parametrize(
    ("words", "place", "name"),
    [
        (average(), checkpoints, "_write_file"),
        (evaluate(), evaluation, "_write_lines"),
        (predict(), evaluation, "_write_lines"),
        (download_model("a"), shutil, "copyfile"),
    ],
    ids=["merge", "evaluate", "predict", "download"],
)
def test_a_disk_that_fills_up(
    there: Path,
    words: Words,
    place: Any,
    name: str,
    refused: Callable[..., None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def full(*args: Any, **kwargs: Any) -> Any:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(place, name, full)
    refused(words, "disk", "ree some")


@pytest.mark.parametrize("words", [average(), evaluate(), predict(), train(), hessian()])
def test_finished_results_are_kept(there: Path, words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    out = Path(words[words.index("--out") + 1])
    out.mkdir()
    (out / "result").write_text("precious")
    assert cli.main(words) == 2
    assert "finished results are not overwritten. Choose another --out" in capsys.readouterr().err
    assert (out / "result").read_text() == "precious"


def test_a_refused_training_leaves_its_work_folder_free(there: Path, refused: Callable[..., None]) -> None:
    """Else the mended command would be refused, too: the folder would hold another training."""
    refused(train(model="three"), "was trained for the labels")
    assert cli.main(train()) == 0
    assert [path.name for path in Path("out").iterdir()] == ["model"]  # nothing is left of it at the end


@pytest.fixture
def refused(there: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., None]:
    """``refused(words, *answers)`` runs a command and checks all that holds for every mistake."""

    def check(words: Words, *answers: str) -> None:
        before = contents(there)
        code = cli.main(words)
        captured = capsys.readouterr()
        assert code == 2
        assert captured.out == ""
        said = [line for line in captured.err.splitlines() if not line.startswith("estimate: ")]
        assert len(said) == 1
        assert said[0].startswith("error: ")
        for answer in answers:
            assert answer in said[0]
        assert contents(there) == before

    return check


def contents(folder: Path) -> dict[str, int]:
    """Every file by its path and change time, every folder."""
    return {str(path): path.stat().st_mtime_ns if path.is_file() else 0 for path in folder.rglob("*")}


@pytest.fixture
def there(world: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current directory: all models and data by their names, and an empty folder ``out``."""
    monkeypatch.chdir(world)
    shutil.rmtree("out", ignore_errors=True)
    Path("out").mkdir()
    return world


@pytest.fixture(scope="module")
def world(
    tiny_language_model: Path, review_files: Path, reviews: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """Models, Hessians and data, sound ones and all kinds of broken ones."""
    world = tmp_path_factory.mktemp("world")
    shutil.copytree(tiny_language_model, world / "start")
    shutil.copytree(reviews, world / "reviews")
    shutil.copytree(review_files, world / "files")
    _write_files(world / "files")
    for seed, name in enumerate(("base", "a", "b")):
        _write_model(world, name, seed=seed)
    _write_model(world, "wide", hidden_size=32)
    _write_model(world, "three", labels=("0", "1", "2"))
    _write_model(world, "named", labels=("bad", "good"))
    _write_model(world, "words")
    _swap_words(world / "words" / "tokenizer.json")
    _write_model(world, "more_words", num_more_words=1)
    for name in ("base", "a", "b", "wide"):
        _write_hessian(world, name)
    _write_model(world, "shards", max_shard_size="8KB")
    (world / "shards" / "model-00002-of-00002.safetensors").unlink()
    for broken, sound, file in (("", "b", "model"), ("hessian_", "hessian_b", "hessian")):
        for name in ("cut", "nan"):
            shutil.copytree(world / sound, world / f"{broken}{name}")
        _cut(world / f"{broken}cut" / f"{file}.safetensors")
        _spoil(world / f"{broken}nan" / f"{file}.safetensors")
    return world


def _write_files(folder: Path) -> None:
    """Local data sets with mistakes; ``sst2`` has a row that says its labels are two."""
    texts: dict[str, dict[str, Any]] = {
        "sst2": {split: [0, 2] for split in ("train", "validation", "test")},
        "unlabelled": {"test": [-1, 1]},
        "answers": {"test": [True, False]},
        "empty": {"train": [0, 1], "test": []},
        "header": {"train": [0, 1]},
    }
    for name, splits in texts.items():
        (folder / name).mkdir()
        for split, labels in splits.items():
            lines = [json.dumps({"text": "good film", "label": label}) + "\n" for label in labels]
            (folder / name / f"{split}.jsonl").write_text("".join(lines))
    (folder / "header" / "test.csv").write_text("text,label\n")
    (folder / "broken").mkdir()
    (folder / "broken" / "train.parquet").write_bytes(b"PAR1 and no more")


def _write_model(
    world: Path,
    name: str,
    *,
    seed: int = 9,
    labels: Sequence[str] = ("0", "1"),
    hidden_size: int = 16,
    num_more_words: int = 0,
    max_shard_size: str = "1GB",
) -> None:
    """A classifier with the tokenizer of ``start``."""
    shutil.copytree(world / "start", world / name, ignore=shutil.ignore_patterns("*.safetensors"))
    config = transformers.BertConfig(
        vocab_size=32 + num_more_words,
        hidden_size=hidden_size,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=16,
        id2label=dict(enumerate(labels)),
        label2id={label: index for index, label in enumerate(labels)},
    )
    with torch.random.fork_rng(), quiet():
        torch.manual_seed(seed)
        model = transformers.BertForSequenceClassification(config)
        model.save_pretrained(world / name, max_shard_size=max_shard_size)


def _write_hessian(world: Path, name: str) -> None:
    words = ["--model", str(world / name), "--data", f"{world / 'reviews'}:train", *TOKENS]
    assert cli.main(["hessian", *TASK_TYPE, *words, "--out", str(world / f"hessian_{name}")]) == 0


def _swap_words(file: Path) -> None:
    tokenizer = json.loads(file.read_text())
    words = tokenizer["model"]["vocab"]
    words["good"], words["bad"] = words["bad"], words["good"]
    file.write_text(json.dumps(tokenizer))


def _cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def _spoil(file: Path) -> None:
    tensors = load_file(file)
    tensors[SPOILT][0] = float("nan")
    save_file(tensors, file, metadata={"format": "pt"})
