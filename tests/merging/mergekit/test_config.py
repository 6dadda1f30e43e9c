"""What a mergekit file may say, and how it is refused."""

from pathlib import Path
from typing import Any

import pytest
from merging.errors import OptionError
from merging.mergekit.config import Reference, read, read_file
from merging.mergekit.settings import Entry, first_value, read_setting, value_at

MODELS: dict[str, Any] = {"merge_method": "linear", "models": [{"model": "a"}, {"model": "org/b@v1"}]}


def test_models() -> None:
    config = read(MODELS | {"base_model": "c+lora", "dtype": "float32", "out_dtype": "bfloat16"})
    assert config.merged == (
        Reference("c", lora="lora"),
        Reference("a"),
        Reference("org/b", "v1"),
    )
    assert config.dtype == "bfloat16"
    assert not config.is_sliced


def test_slices() -> None:
    source = {"model": {"model": {"path": "a", "revision": "r"}}, "layer_range": [1, 3]}
    config = read({"merge_method": "passthrough", "slices": [{"sources": [source]}]})
    assert config.slices[0].sources[0].layer_range == (1, 3)
    assert config.merged == (Reference("a", "r"),)
    assert config.is_sliced


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"base_modl": "a"}, "unknown key 'base_modl'. Did you mean 'base_model'?"),
        ({"models": [{"model": "a", "weight": 1}]}, r"models\[0\]: unknown key 'weight'"),
        ({"models": [{"model": "a", "layer_range": [0, 1]}]}, r"models\[0\]: unknown key 'layer_range'"),
        ({"models": []}, "models must be a list with at least one entry"),
        ({"slices": [{"sources": [{"model": "a", "layer_range": [0, 2]}]}]}, "exactly one of"),
        ({"modules": {}}, "write 'models'"),
        ({"dtype": "float31"}, "dtype: unknown dtype 'float31'. Did you mean 'float32'?"),
        ({"base_model": 3}, "base_model must be a model folder or Hub id, got 3"),
        ({"base_model": "a+"}, "cannot read the model 'a\\+'"),
        ({"parameters": {"t": "x"}}, "parameters: t must be a number, got 'x'"),
        ({"parameters": {"t": []}}, "t must be a number, a list of numbers"),
        ({"parameters": {"t": float("nan")}}, "t must be finite"),
        ({"parameters": {"t": [{"filtr": "a", "value": 1}]}}, r"t\[0\]: unknown key 'filtr'"),
        ({"parameters": {"t": [{"filter": "a"}]}}, r"t\[0\]: missing 'value'"),
        (
            {"tokenizer": {"source": "base"}, "tokenizer_source": "base"},
            "one of tokenizer_source and tokenizer",
        ),
        ({"tokenizer": {"tokens": {"<a>": {"source": {"kind": "one"}}}}}, "unknown kind 'one'"),
        ({"tokenizer": {"tokens": {"<a>": {}}}}, "missing 'source'"),
        ({"tokenizer": {"pad_to_multiple_of": 0}}, "must be a whole number > 0"),
    ],
)
def test_refusals(change: dict[str, Any], text: str) -> None:
    with pytest.raises(OptionError, match=text):
        read(MODELS | change)


@pytest.mark.parametrize("layers", [None, [3], [2, 2], [-1, 2], [0, 1.5]])
def test_layer_ranges(layers: Any) -> None:
    with pytest.raises(OptionError, match=r"layer_range must be \[first, end\]"):
        read(
            {
                "merge_method": "passthrough",
                "slices": [{"sources": [{"model": "a", "layer_range": layers}]}],
            }
        )


def test_files(tmp_path: Path) -> None:
    file = tmp_path / "merge.yml"
    with pytest.raises(OptionError, match=r"cannot read .*merge\.yml"):
        read_file(file)
    file.write_text("a: [")
    with pytest.raises(OptionError, match="is no YAML"):
        read_file(file)
    file.write_text("merge_method: a\n---\nmerge_method: b\n")
    with pytest.raises(OptionError, match="holds 2 documents"):
        read_file(file)
    file.write_text("- a\n")
    with pytest.raises(OptionError, match=r"merge\.yml must be a mapping"):
        read_file(file)
    file.write_text("merge_method: linear\nmodels:\n- model: a\n- b\nparameters: {weight: 1e-5}\n")
    config = read_file(file)
    assert config.parameters == {"weight": 1e-5}  # which YAML takes for a text
    assert config.text.startswith("merge_method")


def test_values() -> None:
    setting = read_setting(
        [{"filter": "self_attn", "value": [0, 0.5, 1]}, {"filter": "mlp", "value": 0.3}], "t"
    )
    assert isinstance(setting, tuple)
    assert setting[1] == Entry("mlp", 0.3)
    assert value_at(setting, "layers.1.self_attn.q", 0.25) == 0.25
    assert value_at(setting, "layers.1.self_attn.q", 1.0) == 1.0
    assert value_at(setting, "layers.1.mlp.up", 0.25) == 0.3
    assert value_at(setting, "norm", 0.0) is None
    assert value_at((0.7,), "norm", 1.0) == 0.7
    assert value_at((Entry("*", True),), "norm", 1.0) is True


def test_the_innermost_level_that_has_a_value_counts() -> None:
    levels = [{"weight": (Entry("mlp", 1.0),)}, {"weight": 2.0}]
    assert first_value(levels, "weight", "mlp.up", 0.0) == 1.0
    assert first_value(levels, "weight", "norm", 0.0) == 2.0
    assert first_value(levels, "density", "norm", 0.0) is None
