"""What an estimate says of itself: halves, zeros, totals of layers; and how people see it."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from merging.commands import cli
from merging.hessians import _examples
from merging.hessians._examples import halves
from merging.hessians._measuring import Half, layer_of, measure
from merging.hessians.artifact import HessianRecord, StoredHessian, write_hessian
from merging.hessians.estimate import estimate
from safetensors.torch import load_file

OPTIONS = {"max_tokens": 8, "batch_size": 4}


def run(tmp_path: Path, model: Path, data: Path, name: str = "out", **arguments: Any) -> StoredHessian:
    estimate(
        task_type="sequence_classification",
        model=model,
        data={"data": str(data), "split": "train"},
        seed=0,
        out=tmp_path / name,
        **{"estimator": "fisher_mc", "options": OPTIONS, **arguments},
    )
    return StoredHessian(tmp_path / name, label="test")


def test_halves_are_halves_of_the_data() -> None:
    ordered = [7, 3, 9, 1, 5, 2, 0]
    first, second = halves(ordered, seed=0)
    assert first[0] == 7 and len(first) in (3, 4)
    assert sorted(first + second) == sorted(ordered)
    assert [place for place in ordered if place in first] == first
    assert halves(ordered, seed=0) == [first, second]
    assert any(halves(ordered, seed=seed) != [first, second] for seed in range(1, 5))
    assert halves([4], seed=0) == [[4]]


@pytest.mark.parametrize("estimator", ["fisher_mc", "gram"])
def test_the_difference_is_that_of_two_estimates(
    estimator: str,
    tmp_path: Path,
    write_bert: Callable[..., Path],
    write_texts: Callable[..., Path],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Against an estimate of each half alone; Gram matrices are means over positions, not examples."""
    model, data = write_bert(), write_texts([row % 2 for row in range(11)])
    parts: list[list[int]] = []
    split = _examples.halves
    monkeypatch.setattr(_examples, "halves", lambda *given: [parts.extend(split(*given)), split(*given)][1])
    whole = run(tmp_path, model, data, estimator=estimator)
    found = []
    for number, part in enumerate(parts):
        monkeypatch.setattr(_examples, "choose", lambda *given, part=part: part)
        options = {**OPTIONS, "compare_halves": False}
        run(tmp_path, model, data, f"half{number}", estimator=estimator, options=options)
        found.append(load_file(tmp_path / f"half{number}" / "hessian.safetensors"))
    difference = sum(float((found[0][name] - found[1][name]).square().sum()) for name in found[0])
    norm = sum(float(whole.checkpoint.read(name).square().sum()) for name in found[0])
    assert whole.record.report.half_change == pytest.approx((difference / norm) ** 0.5, rel=1e-4)


def test_the_numbers_of_a_report() -> None:
    """One layer of two tensors and a head, against sums by hand."""
    whole = {
        "layer.0.weight": torch.tensor([[1.0, 2.0], [0.0, 4.0]]),
        "layer.0.bias": torch.tensor([2.0, 0.0]),
        "head.weight": torch.tensor([3.0]),
    }
    first = {name: tensor * 1.5 for name, tensor in whole.items()}  # so the second half is 0.5 of it
    half = Half(first, dict.fromkeys(whole, 0.5))
    layers, change, zeros = measure("diagonal", whole, whole.__getitem__, half)
    assert list(layers) == ["layer.0", "head"]
    assert (layers["layer.0"].total, layers["head"].total) == (9, 3)
    assert (layers["layer.0"].zeros, layers["head"].zeros, zeros) == (2 / 6, 0, 2 / 7)
    for found in (layers["layer.0"].half_change, layers["head"].half_change, change):
        assert found == pytest.approx(1.0)  # |1.5 - 0.5|
    unequal = Half(first, dict.fromkeys(whole, 0.25))  # the other three quarters are 5/6 of it
    assert measure("diagonal", whole, whole.__getitem__, unequal)[1] == pytest.approx(1.5 - 5 / 6)
    assert measure("diagonal", whole, whole.__getitem__, None)[1] is None


def test_factors_count_as_products() -> None:
    a, g = torch.diag(torch.tensor([1.0, 2.0])), torch.diag(torch.tensor([3.0, 4.0, 5.0]))
    tensors = {"layer.0.weight/inputs": a, "layer.0.weight/outputs": g}
    half = Half(
        {"layer.0.weight/inputs": a * 1.3, "layer.0.weight/outputs": g * 1.4}, dict.fromkeys(tensors, 0.5)
    )
    layers, change, _ = measure("kfac", tensors, tensors.__getitem__, half)
    assert layers["layer.0"].total == 3 * 12
    assert change == pytest.approx((0.6**2 + 0.8**2) ** 0.5)


def test_mask_nodes_count_by_layer() -> None:
    tensors = {"heads": torch.tensor([[1.0, 2.0], [3.0, 0.0]])}
    layers, _, zeros = measure("mask_nodes", tensors, tensors.__getitem__, None)
    assert {name: layer.total for name, layer in layers.items()} == {"heads.0": 3, "heads.1": 3}
    assert zeros == 0.25


@pytest.mark.parametrize(
    ("name", "layer"),
    [
        ("bert.encoder.layer.3.output.dense.weight", "bert.encoder.layer.3"),
        ("bert.encoder.layer.3.output.dense.weight/inputs", "bert.encoder.layer.3"),
        ("bert.pooler.dense.bias", "bert.pooler.dense"),
        ("classifier.weight", "classifier"),
        ("scale", "scale"),
    ],
)
def test_layers_of_names(name: str, layer: str) -> None:
    assert layer_of(name) == layer


def test_more_examples_bring_halves_together(
    tmp_path: Path, write_bert: Callable[..., Path], write_texts: Callable[..., Path]
) -> None:
    model, data = write_bert(), write_texts([row % 2 for row in range(200)])
    few, many = (
        run(tmp_path, model, data, f"{count}", options={**OPTIONS, "max_examples": count, "batch_size": 50})
        for count in (8, 200)
    )
    changes = [its.record.report.half_change or 0 for its in (few, many)]
    assert 0 < changes[1] < changes[0]


def test_the_report_of_an_estimate(
    tmp_path: Path, write_bert: Callable[..., Path], write_texts: Callable[..., Path]
) -> None:
    model, data = write_bert(), write_texts([row % 2 for row in range(20)])
    record = run(tmp_path, model, data).record
    tensors = load_file(tmp_path / "out" / "hessian.safetensors")
    report = record.report
    assert set(report.layers) == {layer_of(name) for name in tensors}
    total = sum(layer.total for layer in report.layers.values())
    assert total == pytest.approx(sum(float(tensor.double().sum()) for tensor in tensors.values()))
    zeros = sum(int((tensor == 0).sum()) for tensor in tensors.values())
    assert report.zeros == zeros / sum(tensor.numel() for tensor in tensors.values()) > 0
    assert report.num_processes == 1 and (report.peak_memory_bytes or 0) > 10**7
    assert (tmp_path / "out" / "hessian.png").read_bytes().startswith(b"\x89PNG")


def test_halves_are_compared_unless_it_is_switched_off(
    tmp_path: Path, write_bert: Callable[..., Path], write_texts: Callable[..., Path]
) -> None:
    model, data = write_bert(), write_texts([row % 2 for row in range(20)])
    on, off = (
        run(tmp_path, model, data, f"{switch}", options={**OPTIONS, "compare_halves": switch})
        for switch in (True, False)
    )
    assert on.record.report.half_change is not None and off.record.report.half_change is None
    for name in on.checkpoint.tensors:
        torch.testing.assert_close(on.checkpoint.read(name), off.checkpoint.read(name), rtol=1e-4, atol=1e-9)


def inspect(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    code = cli.main(["hessian", "inspect", *words])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_inspect_shows_and_draws(
    tmp_path: Path,
    write_bert: Callable[..., Path],
    write_texts: Callable[..., Path],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    model, data = write_bert(), write_texts([row % 2 for row in range(20)])
    estimate(
        statistics=["fisher_mc", "gram"],
        task_type="sequence_classification",
        model=model,
        data={"data": str(data), "split": "train"},
        options=OPTIONS,
        seed=0,
        out=tmp_path / "out",
    )
    code, out, _ = inspect(capsys, str(tmp_path / "out"))
    assert code == 0
    for text in (
        "fisher_mc (diagonal)",
        "gram (gram)",
        "20 seen of 20 in the training set",
        "two halves of the examples differ by",
        "bert.encoder.layer.0",
        "times 20, unless",
    ):
        assert text in out
    monkeypatch.setenv("COLUMNS", "80")
    code, out, _ = inspect(capsys, str(tmp_path / "out" / "gram"))
    table = [line for line in out.splitlines() if "bert.encoder.layer.0" in line]
    assert len(table) == 1 and len(table[0]) <= 80 and table[0].endswith("│")  # names are not cut
    code, out, _ = inspect(capsys, str(tmp_path / "out" / "gram"), "--plot", str(tmp_path / "gram.png"))
    assert code == 0 and "gram (gram)" in out and "fisher_mc" not in out
    assert (tmp_path / "gram.png").read_bytes() == (tmp_path / "out/gram/hessian.png").read_bytes()


def test_inspect_refuses_in_words(
    tmp_path: Path,
    write_bert: Callable[..., Path],
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "empty").mkdir()
    code, _, err = inspect(capsys, str(tmp_path / "empty"))
    assert code == 2 and "is no Hessian folder: it has no hessian.json" in err
    code, _, err = inspect(capsys, str(tmp_path / "nowhere"))
    assert code == 2 and "there is no such folder" in err
    code, _, err = inspect(capsys)
    assert code == 2 and "--folder must be given" in err
    old = tmp_path / "old"
    old.mkdir()
    record = HessianRecord(
        estimator="ivon",
        task_type="sequence_classification",
        num_examples=5,
        num_train_examples=5,
        model_hash="samples:0",
        model="m",
        data=None,
        seed=0,
    )
    write_hessian(old, {"weight": torch.ones(2)}, record)
    code, out, _ = inspect(capsys, str(old))
    assert code == 0 and "unknown: halves of the examples were not compared" in out
    told = dataclasses.replace(record, statistic="kfac", uncovered={"conv.weight": "it has groups", "b": ""})
    write_hessian(old, {"weight": torch.ones(2)}, told)
    code, out, _ = inspect(capsys, str(old))
    assert code == 0 and "conv.weight (it has groups), b" in out
    write_hessian(old, {"weight": torch.ones(2)}, record)
    code, _, err = inspect(capsys, str(old), "--plot", str(tmp_path / "plot.png"))
    assert code == 2 and "has no report" in err
