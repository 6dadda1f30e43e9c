"""Adapters merged to adapters, loaded by peft, against the dense merge of what peft makes of the inputs."""

import copy
import json
import re
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from merging.adapters import RESULTS, as_adapter, merge_adapters
from merging.adapters.combining import LINEAR_METHODS
from merging.errors import CheckpointError, OptionError
from merging.files.checkpoints import weights_hash
from merging.merge.streaming import merge_tensors
from merging.sources.adapter import AdapterSource
from merging.sources.adapter_folder import AdapterFolder
from merging.sources.memory import MemoryCheckpoint
from safetensors.torch import load_file
from torch import Tensor

BERT = {
    "a": {"target_modules": ["query", "dense"], "r": 3, "lora_alpha": 5},
    "b": {"target_modules": ["query", "key"], "r": 2, "use_rslora": True, "alpha_pattern": {"key": 9}},
}
GPT2 = {
    "a": {"target_modules": ["c_attn", "c_proj", "wte"], "r": 3},
    "b": {"target_modules": ["c_attn", "wte"], "r": 2},
}
CONVOLUTION = {"a": {"target_modules": ["conv", "layer"], "r": 2}, "b": {"target_modules": ["conv"], "r": 3}}
LLAMA = {
    "a": {"target_modules": ["q_proj", "embed_tokens", "lm_head"], "r": 2},
    "b": {"target_modules": ["k_proj", "embed_tokens", "lm_head"], "r": 3, "lora_alpha": 3},
}
CONFIGS = {"llama": LLAMA, "bert": BERT, "gpt2": GPT2, "convolution": CONVOLUTION}
IA3 = {
    "a": {"target_modules": ["key", "output.dense"], "feedforward_modules": ["output.dense"]},
    "b": {"target_modules": ["key", "value"], "feedforward_modules": []},
}
FACTORS = {
    "task_arithmetic": {"scaling_factor": {"a": 0.7, "b": -0.4}},
    "average": {"weights": {"a": 2.0, "b": 1.0}},
}

Merge = Callable[..., Path]


@pytest.fixture
def made(make_adapter: Any) -> Callable[..., dict[str, Any]]:
    """``made(architecture, configs)``: an adapter for each task."""

    def make(architecture: str, configs: Mapping[str, Any]) -> dict[str, Any]:
        return {
            task: make_adapter(architecture, task, seed, configs[task]) for seed, task in enumerate(configs)
        }

    return make


def folders(made: Mapping[str, Any]) -> dict[str, Path]:
    return {task: its.folder for task, its in made.items()}


def dense(base: Any, made: Mapping[str, Any], method: str, options: Mapping[str, Any]) -> dict[str, Tensor]:
    """The merge of the effective weights that peft computes."""
    return merge_tensors(
        method=method,
        options=options,
        base=base.state_dict(),
        models={task: its.effective for task, its in made.items()},
        extras={},
        policy={"on_missing": "base"},
    )


def loaded_by_peft(base: Any, folder: Path) -> dict[str, Tensor]:
    import peft

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # of peft's own making; missing keys stay errors
        model = peft.PeftModel.from_pretrained(copy.deepcopy(base), folder)
    merged: dict[str, Tensor] = model.merge_and_unload().state_dict()
    return merged


def assert_same(
    merged: Mapping[str, Tensor], expected: Mapping[str, Tensor], *, tolerance: float = 1e-5
) -> None:
    assert merged.keys() == expected.keys()
    for name, its in expected.items():
        torch.testing.assert_close(merged[name], its, rtol=tolerance, atol=tolerance, msg=name)


@pytest.mark.parametrize("method", LINEAR_METHODS)
@pytest.mark.parametrize("architecture", CONFIGS)
@pytest.mark.parametrize("result", ["concat", "svd", "knots"])
def test_is_the_dense_merge(
    result: Any, architecture: str, method: str, made: Any, bases: Any, tmp_path: Path
) -> None:
    adapters, out = made(architecture, CONFIGS[architecture]), tmp_path / "out"
    losses = merge_adapters(
        method=method,
        options=FACTORS[method],
        adapters=folders(adapters),
        out=out,
        result=result,
        rank=5 if result == "svd" else None,
    )
    base = bases[architecture]
    assert_same(loaded_by_peft(base, out), dense(base, adapters, method, FACTORS[method]))
    if losses is not None:
        assert losses.all < 1e-5 and max(losses.modules.values()) < 1e-5


@pytest.mark.parametrize("architecture", ["bert", "gpt2"])
@pytest.mark.parametrize("with_base", [True, False])
def test_a_method_that_is_no_weighted_sum(
    with_base: bool, architecture: str, made: Any, bases: Any, tmp_path: Path
) -> None:
    adapters, options = made(architecture, CONFIGS[architecture]), {"density": 0.5}
    losses = merge_adapters(
        method="ties",
        options=options,
        adapters=folders(adapters),
        base=saved(bases[architecture], tmp_path / "base") if with_base else None,
        out=tmp_path / "out",
        result="svd",
        rank=32,
    )
    assert losses is not None and losses.all < 1e-5
    base = bases[architecture].state_dict()
    if not with_base:  # the method sees what adapters change, nothing else
        opened = [AdapterFolder(folder, label="a") for folder in folders(adapters).values()]
        base = {f"{module}.weight": base[f"{module}.weight"] for its in opened for module in its.modules}
    expected = merge_tensors(
        method="ties",
        options=options,
        base=base,
        models={task: {name: its.effective[name] for name in base} for task, its in adapters.items()},
        extras={},
    )
    merged = loaded_by_peft(bases[architecture], tmp_path / "out")
    assert_same({name: merged[name] for name in expected}, expected, tolerance=1e-4)


def saved(model: Any, folder: Path) -> Path:
    """A model's folder."""
    from merging.models import quiet

    with quiet():
        model.save_pretrained(folder)
    return folder


def test_an_average_that_scales_the_base(made: Any, bases: Any, tmp_path: Path) -> None:
    """Weights that do not sum to 1 change theta_0 itself: with a base, that is part of the difference."""
    adapters, options = made("bert", BERT), {"weights": {"a": 0.5, "b": 0.25}, "normalize": False}
    merge_adapters(
        method="average",
        options=options,
        adapters=folders(adapters),
        base=saved(bases["bert"], tmp_path / "base"),
        out=tmp_path / "out",
        result="svd",
        rank=12,
    )
    expected = dense(bases["bert"], adapters, "average", options)
    merged = loaded_by_peft(bases["bert"], tmp_path / "out")
    name = "bert.encoder.layer.1.attention.self.query.weight"
    torch.testing.assert_close(merged[name], expected[name], rtol=1e-4, atol=1e-5)


def test_truncation_is_reported(made: Any, bases: Any, tmp_path: Path) -> None:
    adapters = made("bert", BERT)
    losses = merge_adapters(
        method="average", options={}, adapters=folders(adapters), out=tmp_path / "out", result="svd", rank=2
    )
    assert losses is not None and 0.01 < losses.all < 1
    merged, expected = (
        loaded_by_peft(bases["bert"], tmp_path / "out"),
        dense(bases["bert"], adapters, "average", {}),
    )
    base = bases["bert"].state_dict()
    module = "bert.encoder.layer.0.attention.self.query"
    name = f"{module}.weight"
    error = (merged[name] - expected[name]).norm() / (expected[name] - base[name]).norm()
    assert losses.modules[module] == pytest.approx(float(error), rel=1e-4)
    changed = [name for name in expected if not torch.equal(expected[name], base[name])]
    lost = sum(float((merged[name] - expected[name]).norm() ** 2) for name in changed)
    total = sum(float((expected[name] - base[name]).norm() ** 2) for name in changed)
    assert losses.all == pytest.approx((lost / total) ** 0.5, rel=1e-4)
    record = json.loads((tmp_path / "out" / "merge.json").read_text())
    assert record["relative_error"]["all"] == losses.all
    assert record["rank"] == 2 and record["tasks"] == ["a", "b"]
    assert record["sources"].keys() == {"models['a']", "models['b']"}


def test_the_rank_is_by_default_the_largest(made: Any, tmp_path: Path) -> None:
    merge_adapters(
        method="average", options={}, adapters=folders(made("bert", BERT)), out=tmp_path / "out", result="svd"
    )
    assert json.loads((tmp_path / "out" / "adapter_config.json").read_text())["r"] == 3


def test_schedules_count_for_concat(made: Any, bases: Any, tmp_path: Path) -> None:
    adapters = made("bert", BERT)
    options = {"scaling_factor": [{"filter": "*.query.weight", "value": [0.0, 2.0]}, {"value": 0.5}]}
    merge_adapters(
        method="task_arithmetic",
        options=options,
        adapters=folders(adapters),
        out=tmp_path / "out",
        result="concat",
    )
    expected = dense(bases["bert"], adapters, "task_arithmetic", options)
    assert_same(loaded_by_peft(bases["bert"], tmp_path / "out"), expected)


def test_the_order_of_tasks_does_not_matter(made: Any, tmp_path: Path) -> None:
    adapters = folders(made("bert", BERT))
    for name, order in (("x", "ab"), ("y", "ba")):
        merge_adapters(
            method="average",
            options={},
            adapters={task: adapters[task] for task in order},
            out=tmp_path / name,
            result="concat",
        )
    first, second = (load_file(tmp_path / name / "adapter_model.safetensors") for name in "xy")
    assert all(first[key].equal(second[key]) for key in first)


@pytest.mark.parametrize("result", ["concat", "svd", "knots", "factors", "linear"])
def test_one_adapter_is_itself(result: Any, made: Any, bases: Any, tmp_path: Path) -> None:
    adapters = made("gpt2", {"a": GPT2["a"]})
    merge_adapters(
        method="task_arithmetic", options={}, adapters=folders(adapters), out=tmp_path / "out", result=result
    )
    assert_same(loaded_by_peft(bases["gpt2"], tmp_path / "out"), adapters["a"].effective)


@pytest.mark.parametrize("result", ["factors", "linear"])
def test_sums_of_factors(result: Any, made: Any, tmp_path: Path) -> None:
    configs = {
        task: {"target_modules": ["query"], "r": 2, "lora_alpha": alpha}
        for task, alpha in (("a", 4), ("b", 3))
    }
    adapters = made("bert", configs)
    merge_adapters(
        method="average", options={}, adapters=folders(adapters), out=tmp_path / "out", result=result
    )
    module = "bert.encoder.layer.0.attention.self.query"
    (a1, b1), (a2, b2) = (AdapterFolder(its.folder, label="a").factors(module) for its in adapters.values())
    a, b = AdapterFolder(tmp_path / "out", label="out").factors(module)
    if result == "factors":
        expected = (a1 + a2) / 2, (2.0 * b1 + 1.5 * b2) / 2
    else:
        expected = 1.0 * a1 + 0.75**0.5 * a2, 1.0 * b1 + 0.75**0.5 * b2
    torch.testing.assert_close((a, b), expected)


def test_vectors(made: Any, bases: Any, tmp_path: Path) -> None:
    adapters = made("bert", {task: {"peft_type": "IA3", **its} for task, its in IA3.items()})
    merge_adapters(
        method="task_arithmetic",
        options=FACTORS["task_arithmetic"],
        adapters=folders(adapters),
        out=tmp_path / "out",
        result="vectors",
    )
    opened = {task: AdapterFolder(its.folder, label=task) for task, its in adapters.items()}
    out = AdapterFolder(tmp_path / "out", label="out")
    key = "bert.encoder.layer.1.attention.self.key"
    expected = 1 + 0.7 * (opened["a"].vector(key) - 1) - 0.4 * (opened["b"].vector(key) - 1)
    torch.testing.assert_close(out.vector(key), expected)
    value = key.replace("key", "value")  # only b has it
    torch.testing.assert_close(out.vector(value), 1 - 0.4 * (opened["b"].vector(value) - 1))
    source = AdapterSource(
        MemoryCheckpoint(bases["bert"].state_dict(), label="base"), tmp_path / "out", label="out"
    )
    merged = loaded_by_peft(bases["bert"], tmp_path / "out")
    assert_same({name: source.read(name) for name in merged}, merged)


HEADS = {task: {"target_modules": ["query"], "r": 2, "task_type": "SEQ_CLS"} for task in "ab"}


def test_ties_in_the_frame_of_knots(made: Any, bases: Any, tmp_path: Path) -> None:
    """Against an SVD of the whole updates side by side."""
    adapters = made("convolution", {task: {"target_modules": ["layer"], "r": 2} for task in "ab"})
    merge_adapters(
        method="ties",
        options={"density": 0.5},
        adapters=folders(adapters),
        out=tmp_path / "out",
        result="knots",
    )
    base = bases["convolution"].state_dict()["layer.weight"]
    updates = {task: its.effective["layer.weight"] - base for task, its in adapters.items()}
    u, s, v = torch.linalg.svd(torch.cat(list(updates.values()), dim=1), full_matrices=False)
    blocks = dict(zip(updates, (s[:, None] * v).split(base.shape[1], dim=1), strict=True))
    merged = merge_tensors(
        method="ties",
        options={"density": 0.5},
        base={"layer.weight": torch.zeros_like(blocks["a"])},
        models={task: {"layer.weight": its} for task, its in blocks.items()},
        extras={},
    )
    expected = base + u @ merged["layer.weight"]
    torch.testing.assert_close(
        loaded_by_peft(bases["convolution"], tmp_path / "out")["layer.weight"], expected, rtol=1e-4, atol=1e-5
    )


def test_the_base_is_checked_and_recorded(made: Any, bases: Any, tmp_path: Path) -> None:
    adapters = folders(made("bert", BERT))
    call = {
        "method": "average",
        "options": {},
        "adapters": adapters,
        "result": "concat",
        "out": tmp_path / "out",
    }
    merge_adapters(**call, base=saved(bases["bert"], tmp_path / "base"))
    record = json.loads((tmp_path / "out" / "merge.json").read_text())
    assert record["sources"]["base"]["weights_hash"] == weights_hash(tmp_path / "base")
    with pytest.raises(CheckpointError, match="is not in the base"):
        merge_adapters(**call, base=saved(bases["gpt2"], tmp_path / "other"))


def test_heads_that_differ(made: Any, bases: Any, tmp_path: Path) -> None:
    adapters, out = made("bert", HEADS), tmp_path / "out"
    call = {"method": "average", "options": {}, "adapters": folders(adapters), "out": out, "result": "concat"}
    with pytest.raises(OptionError, match=r"'classifier\.bias' is stored whole .* saved='average' or 'drop'"):
        merge_adapters(**call)
    assert not out.exists()
    merge_adapters(**call, saved="average")
    assert_same(loaded_by_peft(bases["bert"], out), dense(bases["bert"], adapters, "average", {}))
    merge_adapters(**call, saved="drop")
    assert loaded_by_peft(bases["bert"], out)["classifier.weight"].equal(
        bases["bert"].state_dict()["classifier.weight"]
    )


@pytest.mark.parametrize("bias", ["all", "lora_only"])
@pytest.mark.parametrize("task_type", [None, "SEQ_CLS"])
def test_biases_that_were_trained(
    bias: str, task_type: str | None, made: Any, bases: Any, tmp_path: Path
) -> None:
    config = {"target_modules": ["query"], "r": 2, "bias": bias, "task_type": task_type}
    adapters = made("bert", {"a": config, "b": config})
    merge_adapters(
        method="average",
        options={},
        adapters=folders(adapters),
        out=tmp_path / "out",
        result="concat",
        saved="average",
    )
    expected = dense(bases["bert"], adapters, "average", {})
    assert_same(loaded_by_peft(bases["bert"], tmp_path / "out"), expected)


def test_heads_that_agree_are_kept(made: Any, bases: Any, tmp_path: Path) -> None:
    adapters = folders(made("bert", {"a": HEADS["a"]}))
    merge_adapters(
        method="average",
        options={},
        adapters={**adapters, "b": adapters["a"]},
        out=tmp_path / "out",
        result="concat",
    )
    assert AdapterFolder(tmp_path / "out", label="out").saved.keys() == {
        "classifier.weight",
        "classifier.bias",
    }


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"result": "cat"}, "unknown result 'cat'"),
        ({"result": "dense"}, "result='dense' is a whole model and needs base"),
        ({"result": "concat", "rank": 2}, "rank goes with result='svd', not with 'concat'"),
        ({"rank": 0}, "rank must be an integer >= 1, got 0"),
        ({"saved": "keep"}, "unknown value of saved 'keep'"),
        (
            {"result": "dense", "base": "base", "saved": "drop"},
            "saved='drop' goes with results that are adapters",
        ),
        ({"result": "concat", "method": "ties"}, "ties is not. Use result='svd'"),
        ({"result": "factors"}, "needs one rank in all adapters, but 'bert"),
        ({"result": "vectors"}, "result='vectors' is for IA3, but .* is LORA"),
        ({"method": "fisher"}, "missing input 'hessians'"),
        ({"options": {"weight": 1.0}}, "unknown option 'weight'"),
    ],
)
def test_what_is_refused(changes: dict[str, Any], text: str, made: Any, tmp_path: Path) -> None:
    call = {"method": "average", "options": {}, "adapters": folders(made("bert", BERT)), "result": "svd"}
    with pytest.raises(OptionError, match=text):
        merge_adapters(**{**call, **changes}, out=tmp_path / "out")  # type: ignore[arg-type]
    assert not (tmp_path / "out").exists()


def test_inputs_that_are_refused(made: Any, bases: Any, tmp_path: Path) -> None:
    bert, gpt2 = made("bert", {"a": BERT["a"]}), made("gpt2", {"b": GPT2["b"]})
    call = {"method": "average", "options": {}, "out": tmp_path / "out", "result": "svd"}
    with pytest.raises(CheckpointError, match=r"is no adapter\. Only adapters can be merged to an adapter"):
        merge_adapters(**call, adapters={"a": bert["a"].folder, "b": tmp_path})
    config = bert["a"].folder.parent / "wider"
    config.mkdir()
    merge_adapters(**{**call, "out": config}, adapters=folders(gpt2))
    tensors = load_file(config / "adapter_model.safetensors")
    wider = {key: torch.cat([its, its], 0) if "lora_B" in key else its for key, its in tensors.items()}
    from safetensors.torch import save_file

    save_file(wider, config / "adapter_model.safetensors")
    with pytest.raises(
        CheckpointError, match=r"adapters differ: .* is \(24, 8\) in models\['b'\] and \(48, 8\)"
    ):
        merge_adapters(**call, adapters={"b": gpt2["b"].folder, "c": config})


@pytest.mark.parametrize("architecture", CONFIGS)
def test_an_adapter_of_a_whole_model(architecture: str, made: Any, bases: Any, tmp_path: Path) -> None:
    its = made(architecture, {"a": CONFIGS[architecture]["a"]})["a"]
    base = bases[architecture].state_dict()
    adapter = AdapterFolder(its.folder, label="a")
    transposed = {module for module in adapter.modules if module.rpartition(".")[2] in ("c_attn", "c_proj")}
    source = MemoryCheckpoint(base, label="base")
    losses = as_adapter(
        source,
        MemoryCheckpoint(its.effective, label="tuned"),
        out=tmp_path / "out",
        rank=3,
        modules=tuple(adapter.modules),
        embeddings={module for module in adapter.modules if module.endswith(("wte", "embed_tokens"))},
        transposed=transposed,
    )
    assert losses.all < 1e-5 and losses.left_out == ()
    assert_same(loaded_by_peft(bases[architecture], tmp_path / "out"), its.effective)


def test_what_an_adapter_leaves_out_is_named(bases: Any, tmp_path: Path) -> None:
    base = {"layer.weight": torch.eye(3), "layer.bias": torch.zeros(3), "norm.weight": torch.ones(3)}
    tuned = base | {"layer.weight": torch.diag(torch.tensor([3.0, 2.0, 1.0])), "norm.weight": torch.zeros(3)}
    sources = [MemoryCheckpoint(its, label=label) for label, its in (("base", base), ("tuned", tuned))]
    losses = as_adapter(*sources, out=tmp_path / "out", rank=1)
    assert losses.left_out == ("norm.weight",)
    assert losses.modules["layer"] == pytest.approx(1 / 5**0.5)
    with pytest.raises(CheckpointError, match="there is nothing to adapt"):
        as_adapter(sources[0], sources[0], out=tmp_path / "none", rank=1)
    with pytest.raises(OptionError, match="rank must be an integer >= 1, got 0"):
        as_adapter(*sources, out=tmp_path / "none", rank=0)
    with pytest.raises(CheckpointError, match=r"base has no 'lair\.weight'"):
        as_adapter(*sources, out=tmp_path / "none", rank=1, modules=["lair"])


def test_results_are_the_documented_ones() -> None:
    from merging.adapters import merge

    assert all(f"``{result}``" in str(merge.__doc__) for result in RESULTS)


def test_the_documented_example(made: Any, bases: Any, tmp_path: Path, monkeypatch: Any, capsys: Any) -> None:
    page = (Path(__file__).parents[3] / "docs/adapters.md").read_text()
    (example,) = re.findall(r"```python\n(.*?)```", page, flags=re.S)
    adapters = made("bert", {"news": BERT["a"], "reviews": BERT["b"]})
    saved(bases["bert"], tmp_path / "base")
    (tmp_path / "adapters").mkdir()
    for task, its in adapters.items():
        its.folder.rename(tmp_path / "adapters" / task)
    monkeypatch.chdir(tmp_path)
    exec(example, {})
    assert capsys.readouterr().out == "lost by the rank: 0.0%\n"  # the matrices have 12 columns at most
    assert all(f"| `{result}` |" in page for result in RESULTS)
