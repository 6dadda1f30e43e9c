"""K-FAC factors with biases and reduced over positions, and models in bfloat16, from folder to folder."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from merging import hessians
from merging.errors import OptionError
from merging.hessians.artifact import StoredHessian
from merging.hessians.estimate import estimate
from merging.sources.stored_statistics import StoredFactors, as_input
from safetensors.torch import load_file
from torch import Tensor

DENSE = "bert.encoder.layer.0.intermediate.dense.weight"
NUM_EXAMPLES = 12

Run = Callable[..., Path]


@pytest.fixture
def run(tmp_path: Path, write_bert: Callable[..., Path], write_texts: Callable[..., Path]) -> Run:
    """``run(name, estimator=..., options={...})`` returns the Hessian folder."""
    model, data = write_bert(), write_texts([row % 2 for row in range(NUM_EXAMPLES)])

    def estimated(name: str, *, options: dict[str, Any] | None = None, **what: Any) -> Path:
        estimate(
            task_type="sequence_classification",
            model=model,
            data={"data": str(data), "split": "train"},
            options={"max_tokens": 8, "batch_size": 5, **(options or {})},
            seed=0,
            out=tmp_path / name,
            **what,
        )
        return tmp_path / name

    return estimated


def tensors(folder: Path) -> dict[str, Tensor]:
    return load_file(folder / "hessian.safetensors")


def test_the_bias_is_the_last_input(run: Run) -> None:
    plain = run("plain", estimator="kfac_mc")
    with_bias = run("with_bias", estimator="kfac_mc", options={"kfac_bias": True})
    found, expected = tensors(with_bias), tensors(plain)
    assert found.keys() == expected.keys()
    whole = found[f"{DENSE}/inputs"]
    assert whole.shape == (9, 9) and whole[8, 8] == 1
    torch.testing.assert_close(whole[:8, :8], expected[f"{DENSE}/inputs"])
    torch.testing.assert_close(found[f"{DENSE}/outputs"], expected[f"{DENSE}/outputs"])
    stored = StoredHessian(with_bias, label="test")
    assert stored.record.biases[DENSE] == DENSE.replace("weight", "bias")

    read, without = (
        as_input(StoredHessian(folder, label="test"), key="factors") for folder in (with_bias, plain)
    )
    assert isinstance(read, StoredFactors) and isinstance(without, StoredFactors)
    for name in without.names:  # what merges see is the factor of the weight
        ours, its = read.of(name), without.of(name)
        assert ours is not None and its is not None
        torch.testing.assert_close(ours.inputs, its.inputs)


def test_reduced_factors_count_examples(run: Run) -> None:
    stored = StoredHessian(
        run("reduced", estimator="kfac_mc", options={"kfac_sharing": "reduce"}), label="test"
    )
    assert set(stored.record.num_positions.values()) == {NUM_EXAMPLES}


@pytest.mark.parametrize("options", [{"kfac_bias": True}, {"kfac_sharing": "reduce"}])
def test_gram_matrices_beside_them_stay_what_they_are(run: Run, options: dict[str, Any]) -> None:
    together = run("together", statistics=["gram", "kfac_mc"], options=options)
    alone = tensors(run("alone", estimator="gram"))
    found = tensors(together / "gram")
    assert found.keys() == alone.keys()
    for name, tensor in alone.items():
        torch.testing.assert_close(found[name], tensor)


def test_bfloat16_comes_close(run: Run) -> None:
    for estimator in ("ggn", "gram"):
        found = tensors(run(f"half_{estimator}", estimator=estimator, options={"dtype": "bfloat16"}))
        expected = tensors(run(f"full_{estimator}", estimator=estimator))
        for name, tensor in expected.items():
            assert found[name].dtype == torch.float32
            if "key.bias" not in name:  # zero in theory
                assert (found[name] - tensor).norm() <= 0.1 * tensor.norm(), name


def test_ggn_is_the_exact_fisher(run: Run) -> None:
    found, expected = tensors(run("ggn", estimator="ggn")), tensors(run("exact", estimator="fisher_exact"))
    assert all(found[name].equal(tensor) for name, tensor in expected.items())


@pytest.mark.parametrize(
    ("estimator", "options", "message"),
    [
        ("fisher_mc", {"kfac_bias": True}, "kfac_bias is True, but this estimator makes no K-FAC factors"),
        ("gram", {"kfac_sharing": "reduce"}, "kfac_sharing is 'reduce', but this estimator makes no K-FAC"),
        ("kfac_mc", {"kfac_sharing": "reduced"}, "kfac_sharing must be one of"),
        ("fisher_mc", {"dtype": "float16"}, "dtype must be one of"),
    ],
)
def test_options_without_effect(estimator: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(OptionError, match=re.escape(message)):
        hessians.check_call(estimator, options)
