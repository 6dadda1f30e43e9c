import csv
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from merging.errors import DataError, OptionError, UnknownNameError
from merging.evaluation import metrics
from merging.tables.report import write_report

WriteEvaluation = Callable[[str, Mapping[str, Sequence[int]]], Path]

RIGHT = [1] * 10
HALF = [1, 0] * 5
MOST = [1] * 8 + [0] * 2


def row(label: str, evaluation: Path, kind: str = "merged", **more: Any) -> dict[str, Any]:
    return {"label": label, "kind": kind, "seed": 0, "evaluation": evaluation, **more}


@pytest.fixture
def rows(write_evaluation: WriteEvaluation) -> list[dict[str, Any]]:
    """Two tasks, a of 10 and b of 20 examples."""
    return [
        row("base", write_evaluation("base", {"b": HALF * 2, "a": HALF}), "base"),
        row("individual", write_evaluation("on_a", {"a": RIGHT}), "individual"),
        row("individual", write_evaluation("on_b", {"b": MOST * 2}), "individual"),
        row("task arithmetic", write_evaluation("ta1", {"a": HALF, "b": MOST * 2}), scaling_factor=1.0),
        row("task arithmetic", write_evaluation("ta05", {"a": MOST, "b": MOST * 2}), scaling_factor=0.5),
        row("gradient_matching", write_evaluation("gm1", {"a": MOST, "b": MOST * 2}), scaling_factor=1.0),
        row("gradient_matching", write_evaluation("gm05", {"a": MOST, "b": MOST * 2}), scaling_factor=0.5),
    ]


def read_csv(folder: Path) -> list[dict[str, str]]:
    with (folder / "table.csv").open() as file:
        return list(csv.DictReader(file))


def test_numbers(rows: list[dict[str, Any]], tmp_path: Path) -> None:
    write_report(rows=rows, options={"title": "Toy"}, out=tmp_path / "report")
    table = {(line["label"], line["scaling_factor"]): line for line in read_csv(tmp_path / "report")}
    assert list(table) == [
        ("base", ""),
        ("individual", ""),
        ("task arithmetic", "1.0"),
        ("task arithmetic", "0.5"),
        ("gradient_matching", "1.0"),
        ("gradient_matching", "0.5"),
    ]
    individual = table["individual", ""]
    assert float(individual["a"]) == 1.0
    assert float(individual["b"]) == 0.8
    assert float(individual["macro_mean"]) == pytest.approx(0.9)
    assert float(individual["per_example_mean"]) == pytest.approx((10 + 16) / 30)
    assert float(individual["normalised"]) == 1.0
    assert float(table["base", ""]["normalised"]) == pytest.approx((0.5 / 1 + 0.5 / 0.8) / 2)
    assert float(table["base", ""]["difference"]) == pytest.approx(0.5 - 0.65)
    matching = table["gradient_matching", "1.0"]
    assert float(matching["difference"]) == pytest.approx(0.15)
    assert float(matching["difference_low"]) < 0.15 < float(matching["difference_high"])
    assert float(matching["a_low"]) < 0.8 < float(matching["a_high"])
    assert table["task arithmetic", "1.0"]["difference"] == ""


def test_a_line_with_the_same_predictions_differs_by_exactly_nothing(
    rows: list[dict[str, Any]], tmp_path: Path
) -> None:
    write_report(rows=rows, options={}, out=tmp_path / "report")
    same = read_csv(tmp_path / "report")[-1]
    assert (same["label"], same["scaling_factor"]) == ("gradient_matching", "0.5")
    assert [float(same["difference" + part]) for part in ("", "_low", "_high")] == [0.0, 0.0, 0.0]
    assert "| 0.0 [0.0, 0.0] |" in (tmp_path / "report/table.md").read_text()


def test_several_seeds_are_averaged(write_evaluation: WriteEvaluation, tmp_path: Path) -> None:
    rows = [
        row("task arithmetic", write_evaluation("ta0", {"a": HALF}), scaling_factor=1.0),
        row("task arithmetic", write_evaluation("ta1", {"a": RIGHT}), scaling_factor=1.0, seed=1),
        row("other", write_evaluation("o0", {"a": MOST}), scaling_factor=1.0),
        row("other", write_evaluation("o1", {"a": RIGHT}), scaling_factor=1.0, seed=1),
    ]
    write_report(rows=rows, options={}, out=tmp_path / "report")
    first, second = read_csv(tmp_path / "report")
    assert float(first["a"]) == 0.75
    assert float(first["a_deviation"]) == pytest.approx(0.5 / 2**0.5)
    assert float(second["difference"]) == pytest.approx(0.15)
    assert float(second["difference_deviation"]) == pytest.approx(0.3 / 2**0.5)
    text = (tmp_path / "report/table.md").read_text()
    assert "| 75.0 ± 35.4 |" in text
    assert "Means over 2 seeds (0, 1); ± is the standard deviation over seeds." in text


def test_markdown_is_for_reading(rows: list[dict[str, Any]], tmp_path: Path) -> None:
    write_report(rows=rows, options={"title": "Toy"}, out=tmp_path / "report")
    lines = (tmp_path / "report/table.md").read_text().splitlines()
    assert lines[0] == "## Toy"
    assert lines[2] == "| model | α | a | b | mean | per-example | vs. task arithmetic | normalised |"
    assert lines[4].startswith("| base | – | 50.0 | 50.0 | 50.0 [")
    assert "−15.0 [" in lines[4]
    assert lines[6].startswith("| task arithmetic | 1.0 | 50.0 | 80.0 | 65.0 [")
    assert lines[6].endswith("| – | 75.0 |")
    notes = [line for line in lines if line.startswith("- ")]
    assert notes[0] == "- Percent of test examples that are right; examples: a 10, b 20."
    assert notes[2] == "- One seed (0)."
    assert "10,000 bootstrap resamples" in notes[3]
    assert "at 1.0 for lines that have none" in notes[4]


def test_a_table_over_something_else_than_the_scaling_factor(
    write_evaluation: WriteEvaluation, tmp_path: Path
) -> None:
    """Lines differ by their parameter; the reference is the one at the same place, or the one without."""
    rows = [
        row("average", write_evaluation("average", {"t": HALF})),
        row("mc", write_evaluation("mc8", {"t": HALF}), scaling_factor=1.0, parameter=8.0),
        row("mc", write_evaluation("mc500", {"t": MOST}), scaling_factor=1.0, parameter=500.0),
        row("exact", write_evaluation("exact500", {"t": RIGHT}), scaling_factor=1.0, parameter=500.0),
    ]
    options = {"parameter": "examples", "bootstrap_samples": 100}
    for reference in ("average", "mc"):
        write_report(
            rows=rows, options={**options, "reference": reference}, out=tmp_path / "against" / reference
        )
    lines = (tmp_path / "against/average/table.md").read_text().splitlines()
    assert lines[2] == "| model | α | examples | t | mean | per-example | vs. average |"
    assert [line.split(" | ")[:3] for line in lines[4:8]] == [
        ["| average", "–", "–"],
        ["| mc", "1.0", "8"],
        ["| mc", "1.0", "500"],
        ["| exact", "1.0", "500"],
    ]
    assert lines[-1] == "- vs. average: difference of means in points, same resamples on both sides."
    against_average, against_mc = (
        read_csv(tmp_path / "against" / reference) for reference in ("average", "mc")
    )
    assert [line["parameter"] for line in against_average] == ["", "8.0", "500.0", "500.0"]
    for table, differences in ((against_average, [0.0, 0.3, 0.5]), (against_mc[-1:], [0.2])):
        found = [float(line["difference"]) for line in table if line["difference"]]
        assert found == pytest.approx(differences)
    assert against_mc[0]["difference"] == ""


def test_latex_is_escaped(rows: list[dict[str, Any]], tmp_path: Path) -> None:
    write_report(rows=rows, options={"title": "50 % & more", "label": "toy"}, out=tmp_path / "report")
    text = (tmp_path / "report/table.tex").read_text()
    assert r"\caption{50 \% \& more. Percent of" in text
    assert r"\label{tab:toy}" in text
    assert r"gradient\_matching & 1.0 & 80.0" in text
    assert r"$-$15.0" in text
    assert r"\begin{tabular}{lrrrrrrr}" in text
    assert not set(text) & set("±α–−")


def test_a_table_of_one_line_has_no_empty_columns(write_evaluation: WriteEvaluation, tmp_path: Path) -> None:
    only = row("base | x", write_evaluation("base", {"a": HALF}), "base")
    write_report(rows=[only], options={"reference": None}, out=tmp_path / "report")
    lines = (tmp_path / "report/table.md").read_text().splitlines()
    assert lines[2] == "| model | a | mean | per-example |"
    assert lines[4].startswith(r"| base \| x | 50.0 | 50.0 [")
    assert not any("vs." in line or "normalised" in line for line in lines)


def test_individual_models_that_fail_normalise_nothing(
    write_evaluation: WriteEvaluation, tmp_path: Path
) -> None:
    rows = [
        row("individual", write_evaluation("i", {"a": [0] * 10}), "individual"),
        row("average", write_evaluation("m", {"a": HALF})),
    ]
    write_report(rows=rows, options={"reference": None}, out=tmp_path / "report")
    assert [line["normalised"] for line in read_csv(tmp_path / "report")] == ["", ""]


def test_the_same_results_give_the_same_bytes(rows: list[dict[str, Any]], tmp_path: Path) -> None:
    for name in ("first", "second"):
        write_report(rows=rows, options={}, out=tmp_path / name)
    names = sorted(path.name for path in (tmp_path / "first").iterdir())
    assert names == ["scaling.png", "table.csv", "table.md", "table.tex"]
    for name in names:
        assert (tmp_path / "first" / name).read_bytes() == (tmp_path / "second" / name).read_bytes()
    assert (tmp_path / "first/scaling.png").read_bytes().startswith(b"\x89PNG")


def test_mistakes_in_the_results(
    rows: list[dict[str, Any]], write_evaluation: WriteEvaluation, tmp_path: Path
) -> None:
    def attempt(*more: dict[str, Any]) -> None:
        write_report(rows=[*rows, *more], options={}, out=tmp_path / "report")

    with pytest.raises(DataError, match="holds no predictions/<task>"):
        attempt(row("x", tmp_path / "nowhere"))
    with pytest.raises(DataError, match=r"line 'x' has tasks \['a'\] .* 'base' has \['a', 'b'\]"):
        attempt(row("x", write_evaluation("x1", {"a": HALF})))
    with pytest.raises(DataError, match="line 'base' has task 'a' twice with seed 0"):
        attempt(row("base", write_evaluation("x2", {"a": HALF}), "base"))
    with pytest.raises(DataError, match=r"labels of task 'b' are not those of 'base' \(10 and 20 examples\)"):
        attempt(row("x", write_evaluation("x3", {"a": HALF, "b": HALF})))
    broken = write_evaluation("x4", {"a": HALF, "b": HALF * 2})
    (broken / "predictions/b.jsonl").write_text(json.dumps({"label": 1}) + "\n")
    with pytest.raises(DataError, match=r"b.jsonl, line 1: expected .* 'label' and 'prediction'"):
        attempt(row("x", broken))
    (broken / "predictions/b.jsonl").write_text("")
    with pytest.raises(DataError, match=r"b.jsonl is empty"):
        attempt(row("x", broken))
    assert not (tmp_path / "report").exists()


def write_records(folder: Path, records: Mapping[str, Sequence[tuple[Any, Any]]]) -> Path:
    """An evaluation folder of (label, prediction) for each task."""
    (folder / "predictions").mkdir(parents=True)
    for task, its in records.items():
        lines = [json.dumps({"label": label, "prediction": prediction}) for label, prediction in its]
        (folder / "predictions" / f"{task}.jsonl").write_text("\n".join(lines) + "\n")
    return folder


def test_other_metrics_than_accuracy(tmp_path: Path) -> None:
    """F1 of entities, of two seeds: the mean over seeds of the metric, not a share of right sentences."""
    true = [["B-X", "O"], ["B-X", "I-X"], ["O", "B-Y"]] * 4
    found = {0: [["B-X", "O"], ["B-X", "O"], ["O", "O"]] * 4, 1: true}
    rows = []
    for seed, its in found.items():
        folder = write_records(tmp_path / f"merged{seed}", {"a": list(zip(true, its, strict=True))})
        rows.append(row("merged", folder, **{"seed": seed}))
    write_report(rows=rows, options={"metric": "entity_f1", "reference": None}, out=tmp_path / "report")
    (line,) = read_csv(tmp_path / "report")
    first = 2 * 4 / (8 + 12)  # a third of the spans, and of those that were found half
    assert float(line["a"]) == pytest.approx((first + 1) / 2)
    assert float(line["a_low"]) < float(line["a"]) < float(line["a_high"])
    assert "entity f1, in percent; examples: a 12." in (tmp_path / "report/table.md").read_text()


def test_correlations_are_resampled(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    true = random.normal(size=60)
    near, far = true + random.normal(size=60) * 0.3, true + random.normal(size=60)
    rows = [
        row(name, write_records(tmp_path / name, {"a": list(zip(true, its, strict=True))}))
        for name, its in {"near": near, "far": far}.items()
    ]
    options = {"metric": "pearson", "reference": "far", "bootstrap_samples": 2000}
    write_report(rows=rows, options=options, out=tmp_path / "report")
    first, second = read_csv(tmp_path / "report")
    assert float(first["a"]) == pytest.approx(np.corrcoef(true, near)[0, 1])
    low, high = metrics.interval("pearson", far, true, num_samples=2000, seed=0)
    assert float(second["a_low"]) == pytest.approx(low, abs=0.03)
    assert float(second["a_high"]) == pytest.approx(high, abs=0.03)
    assert float(first["difference_low"]) > 0


@pytest.mark.parametrize(
    ("metric", "error", "message"),
    [
        ("entity_f2", UnknownNameError, "Did you mean 'entity_f1'"),
        ("mean_squared_error", OptionError, "mean_squared_error is no share"),
        ("spearman", OptionError, "spearman is not made of sums over examples"),
        ("token_accuracy", DataError, "have no 'num_correct', which token_accuracy is made of"),
    ],
)
def test_metrics_that_no_table_can_show(
    metric: str, error: type[Exception], message: str, tmp_path: Path
) -> None:
    rows = [row("merged", write_records(tmp_path / "merged", {"a": [(0.5, 0.4), (1.0, 1.2)]}))]
    with pytest.raises(error, match=message):
        write_report(rows=rows, options={"metric": metric, "reference": None}, out=tmp_path / "report")
