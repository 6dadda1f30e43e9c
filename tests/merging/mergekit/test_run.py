"""mergekit files, run from end to end on tiny models."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from merging.commands.cli import main
from merging.errors import CheckpointError, OptionError
from merging.files.checkpoints import open_checkpoint
from merging.merge.streaming import merge_tensors
from merging.mergekit.translate import METHODS
from safetensors.torch import save_file
from tokenizers import Tokenizer
from torch import Tensor

Run = Callable[..., dict[str, Tensor]]
WriteLlama = Callable[..., Path]

WORDS = ("[UNK]", "good", "bad", "film")
QUERY = "model.layers.{}.self_attn.q_proj.weight"
HEAD, EMBEDDING, NORM = "lm_head.weight", "model.embed_tokens.weight", "model.norm.weight"


def read(folder: Path) -> dict[str, Tensor]:
    model = open_checkpoint(folder, label="model")
    return {name: model.read(name) for name in model.tensors}


def merged_by_us(method: str, options: Any, base: Path | None, *models: Path) -> dict[str, Tensor]:
    return merge_tensors(
        method=method,
        options=options,
        base=None if base is None else read(base),
        models={its.name: read(its) for its in models},
        extras={},
    )


def file_for(method: str, **parameters: Any) -> dict[str, Any]:
    """The simplest file for a method."""
    _, high = METHODS[method].num_models
    needs_base = METHODS[method].base == "needed"
    models = ["m1"] if high == 1 else ["m1", "m2"]
    values: dict[str, Any] = {"merge_method": method, "models": [{"model": name} for name in models]}
    if needs_base:
        values["base_model"] = "m0"
    required = {"weight": 0.5, "t": 0.25} | parameters
    takes = {*METHODS[method].common, *METHODS[method].by_model}
    values["parameters"] = {key: value for key, value in required.items() if key in takes}
    return values


@pytest.mark.parametrize("method", sorted(METHODS))
def test_every_method_runs(method: str, three: list[Path], run: Run) -> None:
    merged = run(file_for(method))
    assert all(bool(tensor.isfinite().all()) for tensor in merged.values())
    assert merged.keys() == read(three[0]).keys()


@pytest.mark.parametrize(
    ("method", "parameters", "ours", "options"),
    [
        ("linear", {"weight": 2.0}, "average", {}),
        ("linear", {"normalize": False}, "average", {"weights": {"m1": 0.5, "m2": 0.5}, "normalize": False}),
        ("task_arithmetic", {"lambda": 0.5}, "task_arithmetic", {"scaling_factor": 0.25}),
        ("task_arithmetic", {"normalize": True}, "task_arithmetic", {"scaling_factor": 0.5}),
        ("ties", {"density": 0.5}, "ties", {"density": 0.5, "flavour": "per_tensor"}),
        ("dare_linear", {"density": 0.5}, "dare_linear", {"density": 0.5, "rescale": "l1", "weights": 0.5}),
        ("breadcrumbs", {"density": 0.8}, "breadcrumbs", {"density": 0.8, "weights": 0.5}),
        ("della", {"density": 0.5}, "della", {"density": 0.5, "rescale": "l1"}),
        ("della", {}, "dare_ties", {"density": 1.0, "normalize": True}),
        ("model_stock", {}, "model_stock", {"clip_ratio": False}),
        ("sce", {"select_topk": 0.5}, "sce", {"select_topk": 0.5, "parity": True}),
        ("ramplus_tl", {"r": 0.5}, "ramplus", {"r": 0.5}),
        ("karcher", {}, "karcher", {}),
        ("nuslerp", {}, "nuslerp", {}),
        ("nuslerp", {"nuslerp_flatten": False}, "nuslerp", {"axis": "last"}),
        ("nuslerp", {"nuslerp_flatten": False, "nuslerp_row_wise": True}, "nuslerp", {"axis": "first"}),
        ("multislerp", {}, "multislerp", {}),
    ],
)
def test_translation(
    method: str, parameters: Any, ours: str, options: Any, three: list[Path], run: Run
) -> None:
    """mergekit's defaults and conventions, in our options."""
    values = file_for(method, **parameters)
    base = three[0] if "base_model" in values else None
    expected = merged_by_us(ours, options, base, *three[1:])
    for name, tensor in run(values).items():
        torch.testing.assert_close(tensor, expected[name], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("method", ["nuslerp", "multislerp"])
def test_an_optional_base(method: str, three: list[Path], run: Run) -> None:
    merged = run(file_for(method) | {"base_model": "m0"})
    expected = merged_by_us(method, {"relative_to_base": True}, *three)
    torch.testing.assert_close(merged[HEAD], expected[HEAD])


def test_the_base_may_be_listed(three: list[Path], run: Run) -> None:
    values = file_for("ties", density=0.5)
    listed = values | {"models": [{"model": "m0"}, *values["models"]]}
    expected = merged_by_us("ties", {"density": 0.5, "flavour": "per_tensor"}, *three)
    torch.testing.assert_close(run(listed)[HEAD], expected[HEAD])


def test_parameters_on_all_levels(three: list[Path], run: Run) -> None:
    """By model, layer and name; outside of the layers, the first value of a gradient counts."""
    merged = run(
        {
            "merge_method": "task_arithmetic",
            "base_model": "m0",
            "models": [
                {
                    "model": "m1",
                    "parameters": {"weight": [{"filter": "up_proj", "value": [0, 1]}, {"value": 0.5}]},
                },
                {"model": "m2"},
            ],
            "parameters": {"weight": [{"filter": "norm", "value": 2.0}, {"value": [1.0, 0.0, 0.0]}]},
        }
    )
    base, one, two = map(read, three)

    def weights(name: str) -> tuple[float, float]:
        alphas = [
            float((tensor[name] - base[name]).flatten() @ (merged[name] - base[name]).flatten())
            for tensor in (one, two)
        ]
        grams = torch.tensor(
            [
                [
                    float((a[name] - base[name]).flatten() @ (b[name] - base[name]).flatten())
                    for b in (one, two)
                ]
                for a in (one, two)
            ]
        )
        first, second = torch.linalg.solve(grams, torch.tensor(alphas)).tolist()
        return first, second

    assert weights(QUERY.format(1)) == pytest.approx((0.5, 0.0), abs=1e-4)
    assert weights(QUERY.format(0)) == pytest.approx((0.5, 1.0), abs=1e-4)
    assert weights(QUERY.format(1).replace("self_attn.q", "mlp.up")) == pytest.approx((0.5, 0), abs=1e-4)
    assert weights(QUERY.format(2).replace("self_attn.q", "mlp.up")) == pytest.approx((1, 0), abs=1e-4)
    assert weights(HEAD) == pytest.approx((0.5, 1.0), abs=1e-4)
    assert weights(NORM) == pytest.approx((0.5, 2.0), abs=1e-4)


def test_slices_of_several_models(three: list[Path], run: Run, tmp_path: Path) -> None:
    """Each slice has its own order of models, layers and parameters."""
    merged = run(
        {
            "merge_method": "slerp",
            "base_model": "m0",
            "slices": [
                {
                    "sources": [
                        {"model": "m0", "layer_range": [0, 2]},
                        {"model": "m1", "layer_range": [1, 3]},
                    ],
                    "parameters": {"t": [0, 1]},
                },
                {
                    "sources": [
                        {"model": "m1", "layer_range": [0, 1]},
                        {"model": "m0", "layer_range": [2, 3]},
                    ]
                },
            ],
            "parameters": {"t": 0.0},
            "dtype": "bfloat16",
        }
    )
    base, one = read(three[0]), read(three[1])
    assert len(merged) == 3 + 2 * 3
    for layer, expected in enumerate((base[QUERY.format(0)], one[QUERY.format(2)], base[QUERY.format(2)])):
        torch.testing.assert_close(merged[QUERY.format(layer)].float(), expected, rtol=1e-2, atol=1e-2)
    torch.testing.assert_close(merged[HEAD].float(), base[HEAD], rtol=1e-2, atol=1e-2)
    assert merged[HEAD].dtype == torch.bfloat16
    assert json.loads((tmp_path / "out" / "config.json").read_text())["num_hidden_layers"] == 3


def test_a_longer_model(three: list[Path], run: Run, tmp_path: Path) -> None:
    parts = [("m0", [0, 2]), ("m1", [1, 3]), ("m0", [2, 3])]
    merged = run(
        {
            "merge_method": "passthrough",
            "slices": [{"sources": [{"model": model, "layer_range": layers}]} for model, layers in parts],
            "parameters": {"scale": [{"filter": "up_proj", "value": 0.0}, {"value": 1.0}]},
        }
    )
    base, one = read(three[0]), read(three[1])
    for layer, expected in enumerate((base, base, one, one, base)):
        number = (0, 1, 1, 2, 2)[layer]
        assert torch.equal(merged[QUERY.format(layer)], expected[QUERY.format(number)])
        assert not merged[QUERY.format(layer).replace("self_attn.q", "mlp.up")].any()
    assert json.loads((tmp_path / "out" / "config.json").read_text())["num_hidden_layers"] == 5
    assert "merge_method: passthrough" in (tmp_path / "out" / "mergekit_config.yml").read_text()


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"merge_method": "tis"}, "merge_method: unknown method 'tis'. Did you mean 'ties'?"),
        ({"parameters": {"wieght": 1}}, "parameters: unknown parameter 'wieght'. Did you mean 'weight'?"),
        ({"parameters": {}}, "'weight' has no value for m1 at"),
        ({"base_model": None}, "base_model is missing"),
        ({"models": [{"model": "m0"}]}, "nothing to merge with base_model"),
        (
            {"models": [{"model": "m1", "parameters": {"normalize": True}}]},
            "parameters of m1: unknown parameter 'normalize'.*belongs to the parameters of the whole merge",
        ),
        ({"models": [{"model": "m1"}, {"model": "./m0"}]}, "m0 and ./m0 are the same model"),
        (
            {"parameters": {"weight": 1, "normalize": [{"filter": "mlp", "value": False}]}},
            "ties: what decides merge_function must be the same for all tensors, got .'mean', 'sum'",
        ),
        ({"models": [{"model": "./absent"}]}, "there is no folder ./absent"),
        ({"models": [{"model": "m1@main"}]}, "revision 'main' is for Hub ids"),
        ({"chat_template": "chatml"}, "chat_template must be 'auto'"),
        ({"parameters": {"weight": 1, "density": True}}, "ties: density must be a number, got True"),
    ],
)
def test_refusals(change: Any, text: str, three: list[Path], run: Run, tmp_path: Path) -> None:
    with pytest.raises(OptionError, match=text):
        run(file_for("ties") | change)
    assert not (tmp_path / "out").exists()


def test_number_of_models(three: list[Path], run: Run) -> None:
    models = [{"model": "m1"}, {"model": "m2"}]
    with pytest.raises(OptionError, match="slerp: takes 1 models beside base_model, got 2: m1, m2"):
        run(file_for("slerp") | {"models": models})
    with pytest.raises(OptionError, match="passthrough: takes 1 models, got 2"):
        run(file_for("passthrough") | {"models": models})


def test_slices_that_do_not_fit(three: list[Path], run: Run) -> None:
    def sliced(*slices: list[tuple[str, list[int]]]) -> dict[str, Any]:
        return {
            "merge_method": "linear",
            "slices": [
                {"sources": [{"model": model, "layer_range": layers} for model, layers in sources]}
                for sources in slices
            ],
            "parameters": {"weight": 1},
        }

    with pytest.raises(OptionError, match=r"slices merge 1 and 2 models\. Every slice must"):
        run(sliced([("m0", [0, 1])], [("m0", [1, 2]), ("m1", [1, 2])]))
    with pytest.raises(OptionError, match=r"must have the same number of layers, got .'m0': 1, 'm1': 2"):
        run(sliced([("m0", [0, 1]), ("m1", [0, 2])]))
    with pytest.raises(OptionError, match=r"m0: layer_range \[2, 4\] is out of range"):
        run(sliced([("m0", [2, 4])]))


def test_a_base_of_some_slices_only(three: list[Path], run: Run) -> None:
    sources = [{"model": model, "layer_range": [0, 1]} for model in ("m1", "m2")]
    slices: list[dict[str, Any]] = [{"sources": sources, "base_model": "m0"}, {"sources": sources}]
    with pytest.raises(OptionError, match="some slices have a base_model and some have none"):
        run({"merge_method": "nuslerp", "slices": slices, "parameters": {"weight": 1}})
    slices[1]["base_model"] = "m0"
    merged = run({"merge_method": "nuslerp", "slices": slices, "parameters": {"weight": 1}})
    expected = merged_by_us("nuslerp", {"relative_to_base": True}, *three)
    torch.testing.assert_close(merged[QUERY.format(1)], expected[QUERY.format(0)])


def test_one_model_twice(three: list[Path], run: Run) -> None:
    layers = [{"model": "m0", "layer_range": [0, 1]}, {"model": "m0", "layer_range": [1, 2]}]
    merged = run({"merge_method": "linear", "slices": [{"sources": layers}], "parameters": {"weight": 1}})
    base = read(three[0])
    torch.testing.assert_close(merged[QUERY.format(0)], (base[QUERY.format(0)] + base[QUERY.format(1)]) / 2)


def test_an_adapter(three: list[Path], run: Run, tmp_path: Path) -> None:
    """``model+adapter`` is a model."""
    folder = tmp_path / "lora"
    folder.mkdir()
    path = "base_model.model.model.layers.0.self_attn.q_proj"
    left, right = torch.randn(1, 6), torch.randn(6, 1)
    save_file(
        {f"{path}.lora_A.weight": left, f"{path}.lora_B.weight": right}, folder / "adapter_model.safetensors"
    )
    settings = {"peft_type": "LORA", "r": 1, "lora_alpha": 2, "target_modules": ["q_proj"]}
    (folder / "adapter_config.json").write_text(json.dumps(settings))
    merged = run(file_for("task_arithmetic", weight=1.0) | {"models": [{"model": "m0+lora"}]})
    base = read(three[0])
    torch.testing.assert_close(merged[QUERY.format(0)], base[QUERY.format(0)] + 2 * right @ left)
    assert torch.equal(merged[QUERY.format(1)], base[QUERY.format(1)])


def test_models_of_the_hub(three: list[Path], run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def model_folder(name: str, revision: str | None) -> tuple[Path, str]:
        asked.append((name, revision))
        return three[2], "commit"

    monkeypatch.setattr("merging.files.hub.model_folder", model_folder)
    models = [{"model": "m1"}, {"model": "org/name@main"}]
    merged = run(file_for("linear") | {"models": models})
    torch.testing.assert_close(merged[HEAD], merged_by_us("average", {}, None, *three[1:])[HEAD])
    assert asked == [("org/name", "main")]


def test_vocabularies_are_joined(write_llama: WriteLlama, run: Run, tmp_path: Path) -> None:
    base, other = write_llama("m0", 0), write_llama("m1", 1, words=("[UNK]", "film", "good", "new"))
    values = file_for("task_arithmetic", weight=1.0) | {"models": [{"model": "m1"}]}
    with pytest.raises(
        CheckpointError, match=r"the token 'film' is number 3 in m0 and 1 in m1.*Write 'tokenizer_source"
    ):
        run(values)
    merged = run(values | {"tokenizer_source": "union"})
    tokenizer = Tokenizer.from_file(str(tmp_path / "out" / "tokenizer.json"))
    assert tokenizer.get_vocab() == {word: number for number, word in enumerate((*WORDS, "new"))}
    old, new = read(base)[EMBEDDING], read(other)[EMBEDDING]
    expected = torch.stack([new[0], new[2], old[2], new[1], new[3]])
    torch.testing.assert_close(merged[EMBEDDING], expected)
    assert json.loads((tmp_path / "out" / "config.json").read_text())["vocab_size"] == 5
    record = json.loads((tmp_path / "out" / "merge.json").read_text())
    assert record["vocabulary"]["num_tokens"] == 5


def test_tokenizer_of_a_model(write_llama: WriteLlama, run: Run, tmp_path: Path) -> None:
    base, other = write_llama("m0", 0), write_llama("m1", 1, words=("[UNK]", "film", "good", "new"))
    values = file_for("task_arithmetic", weight=0.0) | {"models": [{"model": "m1"}]}
    tokens = {
        "new": {"source": {"kind": "zero"}, "force": True},
        "film": {"source": {"kind": "model_token", "model": "m0", "token": "bad"}, "force": True},
    }
    merged = run(values | {"tokenizer": {"source": "m1", "tokens": tokens, "pad_to_multiple_of": 8}})
    old = read(base)[EMBEDDING]
    assert merged[EMBEDDING].shape[0] == 8
    torch.testing.assert_close(merged[EMBEDDING][:4], torch.stack([old[0], old[2], old[1], 0 * old[0]]))
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert (config["vocab_size"], config["bos_token_id"]) == (8, 2)  # "good", wherever it is
    with pytest.raises(OptionError, match="m1 has no token 'odd'"):
        bad = {"new": {"source": {"kind": "model_token", "model": "m1", "token": "odd"}}}
        run(values | {"tokenizer": {"source": "m1", "tokens": bad}})
    assert other.is_dir()


def test_vocabularies_are_cut_without_a_tokenizer(write_llama: WriteLlama, run: Run, tmp_path: Path) -> None:
    folders = [write_llama("m1", 1, words=(*WORDS, "new")), write_llama("m2", 2)]
    merged = run(file_for("linear"))
    left, right = (read(folder)[HEAD] for folder in folders)
    torch.testing.assert_close(merged[HEAD], (left[:4] + right) / 2)
    assert json.loads((tmp_path / "out" / "config.json").read_text())["vocab_size"] == 4


def test_chat_templates(three: list[Path], run: Run, tmp_path: Path) -> None:
    for folder, text in zip(three, ("a", "b", "b"), strict=True):
        (folder / "tokenizer_config.json").write_text(json.dumps({"chat_template": text, "bos_token": "x"}))
    values = file_for("task_arithmetic")
    run(values)
    written = tmp_path / "out" / "tokenizer_config.json"
    assert json.loads(written.read_text())["chat_template"] == "a"  # the base's
    run(values | {"chat_template": "auto"})
    assert (tmp_path / "out" / "chat_template.jinja").read_text() == "b"
    assert json.loads(written.read_text()) == {"bos_token": "x"}
    run(values | {"chat_template": "{{ messages }}"})
    assert (tmp_path / "out" / "chat_template.jinja").read_text() == "{{ messages }}"


def test_from_the_command_line(three: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "linear.yaml"
    file.write_text("merge_method: linear\nmodels: [m1, m2]\nparameters: {weight: 1}\ndtype: float16\n")
    out = str(tmp_path / "out")
    assert main(["merge", "--config", str(file), "--out", out, "--max-shard-size", "300B"]) == 0
    assert len(list(Path(out).glob("*.safetensors"))) > 1
    assert read(Path(out))[HEAD].dtype == torch.float16
    assert json.loads((Path(out) / "config.json").read_text())["dtype"] == "float16"
    assert capsys.readouterr().err.startswith("estimate: ")
    file.write_text("merge_metod: linear\n")
    assert main(["merge", "--config", str(file), "--out", str(tmp_path / "other")]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: linear.yaml: unknown key 'merge_metod'. Did you mean 'merge_method'?")
