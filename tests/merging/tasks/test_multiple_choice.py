"""Multiple choice: answers ranked by likelihood, with an encoder and without, and a whole experiment."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import pytest
import torch
from merging import tasks
from merging.adapters import merge_adapters
from merging.errors import DataError, OptionError
from merging.evaluation.run import evaluate
from merging.hessians._factors import FactorSums
from merging.hessians.estimate import estimate
from merging.models import quiet
from safetensors.torch import load_file
from torch import Tensor

TASK = "multiple_choice"
KINDS = ("t5", "gpt2")
EXAMPLES: dict[str, list[Any]] = {
    "text": ["w1 w2 w3", "w4", "w5 w5"],
    "choices": [["w1", "w4 w4 w2"], ["w1 w2", "w3", "w8 w7 w6"], ["w0", "w0 w0"]],
    "label": [0, 2, 1],
}
WriteModel = Callable[..., Path]
WriteData = Callable[..., Path]


def rows_of(columns: dict[str, list[Any]]) -> list[dict[str, Any]]:
    return [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]


def opened(folder: Path, task_type: str = TASK) -> tuple[Any, Any, Any, list[dict[str, Any]]]:
    """Task type, processor, model in float64, encoded rows."""
    task = tasks.load(task_type)
    processor = task.load_processor(model=str(folder))
    rows = rows_of(task.encode(EXAMPLES, processor, max_tokens=16))
    return task, processor, task.load_model(str(folder)).double(), rows


def inputs_of(batch: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: value for name, value in batch.items() if name != "labels"}


def test_a_decoder_goes_on_from_the_text(write_language_model: WriteModel) -> None:
    task, processor, _, rows = opened(write_language_model("gpt2"))
    batch = task.collate(rows[::2], processor)
    assert batch["input_ids"].tolist() == [
        [[4, 5, 6, 4, 1, 1], [4, 5, 6, 7, 7, 5]],
        [[8, 8, 3, 1, 1, 1], [8, 8, 3, 3, 1, 1]],
    ]
    assert batch["targets"].tolist()[0] == [[-100] * 3 + [4] + [-100] * 2, [-100] * 3 + [7, 7, 5]]
    assert batch["attention_mask"].sum(-1).tolist() == [[4, 6], [3, 4]]
    assert batch["labels"].tolist() == [0, 1]


def test_an_encoder_reads_the_text(write_language_model: WriteModel) -> None:
    task, processor, _, rows = opened(write_language_model("t5"))
    batch = task.collate(rows[:2], processor)
    assert batch["input_ids"].shape == (2, 3, 4) and batch["targets"].shape == (2, 3, 4)
    assert batch["input_ids"][0, 1].tolist() == [4, 5, 6, 1]
    assert batch["targets"][0].tolist() == [[4, 1, -100, -100], [7, 7, 5, 1], [-100] * 4]
    assert batch["decoder_input_ids"][0, 1].tolist() == [0, 7, 7, 5]
    assert batch["attention_mask"][0].sum(-1).tolist() == [4, 4, 0]  # the third is no choice


@pytest.mark.parametrize("kind", KINDS)
def test_scores_are_log_likelihoods(kind: str, write_language_model: WriteModel) -> None:
    """Against one call of the model for each choice, without padding."""
    folder = write_language_model(kind)
    task, processor, model, rows = opened(folder)
    means = tasks.load("multiple_choice_normalised")
    batch = inputs_of(task.collate(rows, processor))
    sums, averages = task.scores(model, batch), means.scores(model, batch)
    for row, its_sums, its_averages in zip(rows, sums, averages, strict=True):
        for place, choice in enumerate(row["choices"]):
            targets = torch.tensor(choice)
            if kind == "t5":
                started = torch.tensor([[0, *choice[:-1]]])
                logits = model(input_ids=torch.tensor([row["context"]]), decoder_input_ids=started).logits[0]
            else:
                logits = model(torch.tensor([[*row["context"], *choice]])).logits[
                    0, len(row["context"]) - 1 : -1
                ]
            log_p = logits.log_softmax(-1)[range(len(choice)), targets]
            torch.testing.assert_close(its_sums[place], log_p.sum(), check_dtype=False)
            torch.testing.assert_close(its_averages[place], log_p.mean(), check_dtype=False)
        assert (its_sums[len(row["choices"]) :] < -1e30).all() and its_sums.isfinite().all()


@pytest.mark.parametrize("kind", KINDS)
def test_fishers_are_those_of_single_examples(
    kind: str, write_language_model: WriteModel, check_fishers: Callable[..., None]
) -> None:
    task, processor, model, rows = opened(write_language_model(kind))

    def log_p(scores: Tensor, labels: Tensor) -> Tensor:
        return scores.log_softmax(-1)[0, labels[0]]

    check_fishers(task, processor, model, rows, log_p)


def test_the_loss_is_that_of_the_right_choice(write_language_model: WriteModel) -> None:
    task, processor, model, rows = opened(write_language_model("gpt2"))
    batch = task.collate(rows, processor)
    log_p = task.scores(model, inputs_of(batch)).log_softmax(-1)
    torch.testing.assert_close(task.loss(model, batch), -log_p[range(3), EXAMPLES["label"]].mean())


def test_records_leave_out_what_is_no_choice(write_language_model: WriteModel) -> None:
    task, processor, model, rows = opened(write_language_model("gpt2"))
    records = task.records(model, task.collate(rows, processor), processor, ())
    assert [len(record["probabilities"]) for record in records] == [2, 3, 2]
    assert [record["reference"] for record in records] == [0, 2, 1]
    for record in records:
        assert sum(record["probabilities"]) == pytest.approx(1, abs=1e-5)
        assert record["scores"][record["prediction"]] == max(record["scores"])


@pytest.mark.parametrize("kind", KINDS)
def test_grams_do_not_see_padding(kind: str, write_language_model: WriteModel) -> None:
    """Neither tokens nor choices that are there to fill a batch."""
    task, processor, model, rows = opened(write_language_model(kind))
    found = []
    for size in (1, 3):
        sums = FactorSums(model, task.scores, outputs=False)
        for start in range(0, 3, size):
            sums.add(inputs_of(task.collate(rows[start : start + size], processor)), lambda scores: ())
        found.append(sums)
    one, three = found
    assert one.num_positions == three.num_positions
    for name, (inputs, _) in one.means().items():
        torch.testing.assert_close(three.means()[name][0], inputs, rtol=1e-4, atol=1e-7)


def test_texts_are_cut_and_choices_are_not(write_language_model: WriteModel) -> None:
    task = tasks.load(TASK)
    decoder = task.load_processor(model=str(write_language_model("gpt2")))
    columns = task.encode({"text": ["w1 w2 w3"], "choices": [["w4 w4", "w5"]]}, decoder, max_tokens=4)
    assert columns["context"] == [[5, 6]] and columns["choices"] == [[[7, 7], [8]]]
    with pytest.raises(OptionError, match="max_tokens=2 is too small: a choice among"):
        task.encode({"text": ["w1"], "choices": [["w4 w4", "w5"]]}, decoder, max_tokens=2)
    encoder = task.load_processor(model=str(write_language_model("t5")))
    columns = task.encode({"text": ["w1 w2 w3"], "choices": [["w4", "w5"]]}, encoder, max_tokens=3)
    assert columns["context"] == [[4, 5, 1]] and columns["choices"] == [[[7, 1], [8, 1]]]


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"text": ["a"]}, "no column 'choices'"),
        ({"text": ["a"], "choices": ["b"], "label": [0]}, "not lists of strings"),
        ({"text": ["a"], "choices": [["b"]], "label": [0]}, "row 0 has 1 choices"),
        (
            {"text": ["a"], "choices": [["b", "c"]], "label": [2]},
            "row 0 has the label 2 and 2 choices",
        ),
    ],
)
def test_data_of_another_kind_are_refused(columns: dict[str, list[Any]], message: str) -> None:
    with pytest.raises(DataError, match=message):
        tasks.load(TASK).check(datasets.Dataset.from_dict(columns))


@pytest.mark.parametrize("kind", KINDS)
def test_every_estimator(
    kind: str,
    write_language_model: WriteModel,
    write_data: WriteData,
    check_estimators: Callable[..., None],
) -> None:
    data = write_data("choices", {"train": rows_of(EXAMPLES) * 2})
    refused = {"mask_nodes": "mask_nodes"} if kind == "t5" else {}
    check_estimators(TASK, write_language_model(kind), data, refused=refused)


@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")  # peft itself
def test_vectors_of_adapters_merge_by_their_blocks(
    write_language_model: WriteModel, write_data: WriteData, tmp_path: Path
) -> None:
    """(IA)3 on T5, choices ranked, full curvature of each vector: what MaTS merges."""
    peft = pytest.importorskip("peft")
    base = write_language_model("t5")
    data = write_data("choices", {"train": rows_of(EXAMPLES) * 2})
    folders, blocks = {}, {}
    for seed, name in enumerate(("a", "b")):
        folders[name], blocks[name] = tmp_path / name, tmp_path / f"blocks_{name}"
        config = peft.IA3Config(target_modules=["k", "v", "wo"], feedforward_modules=["wo"])
        with torch.random.fork_rng(), quiet():
            torch.manual_seed(seed)
            model = peft.get_peft_model(tasks.load(TASK).load_model(str(base)), config)
            with torch.no_grad():
                for parameter in model.parameters():
                    if parameter.requires_grad:
                        parameter.add_(torch.randn_like(parameter), alpha=0.3)
            model.save_pretrained(folders[name])
        estimate(
            estimator="block_mc",
            task_type=TASK,
            model=folders[name],
            data={"data": data, "split": "train"},
            options={"max_tokens": 8, "batch_size": 4},
            seed=0,
            out=blocks[name],
        )
        assert all(tensor.dim() == 2 for tensor in load_file(blocks[name] / "hessian.safetensors").values())
    merge_adapters(
        method="mats",
        options={"objective": "block", "num_iterations": 3},
        base=base,
        adapters=folders,
        statistics={"blocks": blocks},
        result="vectors",
        out=tmp_path / "merged",
    )
    evaluate(
        task_type=TASK,
        model=tmp_path / "merged",
        data={"choices": {"data": data, "split": "train"}},
        options={"max_tokens": 8, "bootstrap_samples": 5},
        out=tmp_path / "evaluation",
    )


@pytest.mark.parametrize(
    ("task_type", "kind"), [(TASK, "t5"), (TASK, "gpt2"), ("multiple_choice_normalised", "t5")]
)
def test_from_training_to_a_merged_model_that_is_judged(
    task_type: str, kind: str, write_language_model: WriteModel, experiment: Callable[..., Any]
) -> None:
    rows: dict[str, list[dict[str, Any]]] = {}
    for place, name in enumerate(("a", "b")):
        rows[name] = [
            {
                "text": f"w{row % 4} w{place}",
                "choices": [f"w{(row + shift) % 4}" for shift in range(2 + row % 2)],
                "label": 0,
            }
            for row in range(12)
        ]
        for row in rows[name][::2]:
            row["choices"].reverse()
            row["label"] = len(row["choices"]) - 1
    found = experiment(
        task_type, write_language_model(kind), rows, num_test=6, learning_rate=0.01, num_epochs=3
    )
    for values in found.judge(found.merged).values():
        assert set(values) == {"accuracy", "num_examples"} and values["num_examples"] == 6
    record = found.predict({"text": "w1", "choices": ["w1", "w2"]})
    assert set(record) == {"id", "prediction", "probabilities", "scores"}
