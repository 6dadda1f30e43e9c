"""seq2seq and causal_lm: tensors, likelihoods, what models write, curvature, and a whole experiment."""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from merging import tasks
from merging.commands.cli import main
from merging.errors import CheckpointError, DataError, OptionError
from merging.evaluation.run import evaluate, predict
from merging.hessians import _categorical, check_call, fisher_empirical, fisher_exact, fisher_mc
from merging.hessians._factors import FactorSums
from merging.hessians._per_example import SquaredGradients
from merging.hessians.estimate import estimate
from merging.merge.streaming import merge_checkpoints
from merging.training.run import train
from safetensors.torch import load_file
from torch import Tensor

SEQ2SEQ, CAUSAL = "seq2seq", "causal_lm"
KINDS = {"t5": SEQ2SEQ, "bart": SEQ2SEQ, "gpt2": CAUSAL, "llama": CAUSAL}
EXAMPLES = {
    SEQ2SEQ: {"text": ["w1 w2 w3", "w4", "w5 w5 w6 w7 w8"], "target": ["w1", "w4 w4 w2", "w5 w6"]},
    CAUSAL: {"prompt": ["w1 w2 w3", "w4", "w5 w5"], "completion": ["w1", "w4 w4 w2 w3 w8", "w5 w6"]},
}
WriteModel = Callable[..., Path]
WriteData = Callable[..., Path]


def rows_of(columns: Mapping[str, Sequence[Any]]) -> list[dict[str, Any]]:
    return [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]


def encoded(kind: str, folder: Path) -> tuple[Any, Any, list[dict[str, Any]]]:
    """Task type, processor and encoded rows."""
    task = tasks.load(KINDS[kind])
    processor = task.load_processor(model=str(folder))
    return task, processor, rows_of(task.encode(EXAMPLES[KINDS[kind]], processor, max_tokens=16))


def test_texts_and_targets_become_tokens(write_language_model: WriteModel) -> None:
    task, processor, rows = encoded("t5", write_language_model("t5"))
    assert rows[0] == {
        "input_ids": [4, 5, 6, 1],
        "labels": [4, 1],
        "length": 6,
        "reference": "w1",
    }
    batch = task.collate(rows[:2], processor)
    assert batch["input_ids"].tolist() == [[4, 5, 6, 1], [7, 1, 0, 0]]
    assert batch["attention_mask"].tolist() == [[1, 1, 1, 1], [1, 1, 0, 0]]
    assert batch["labels"].tolist() == [[4, 1, -100, -100], [7, 7, 5, 1]]
    assert batch["decoder_input_ids"].tolist() == [[0, 4, 0, 0], [0, 7, 7, 5]]
    assert batch["decoder_attention_mask"].tolist() == [[1, 1, 0, 0], [1, 1, 1, 1]]


def test_decoders_start_as_their_model_says(write_language_model: WriteModel) -> None:
    task, processor, rows = encoded("bart", write_language_model("bart"))
    assert task.collate(rows[:1], processor)["decoder_input_ids"].tolist() == [[1, 4]]


def test_a_decoder_without_a_start_is_refused(write_language_model: WriteModel) -> None:
    folder = write_language_model("t5")
    for name in ("config.json", "generation_config.json"):
        settings = json.loads((folder / name).read_text())
        settings.pop("decoder_start_token_id", None)
        (folder / name).write_text(json.dumps(settings))
    with pytest.raises(CheckpointError, match="has no decoder_start_token_id"):
        tasks.load(SEQ2SEQ).load_processor(model=str(folder))


def test_only_completions_are_predicted(write_language_model: WriteModel) -> None:
    task, processor, rows = encoded("gpt2", write_language_model("gpt2"))
    assert rows[1]["input_ids"] == [7, 7, 7, 5, 6, 11, 1]
    assert rows[1]["labels"] == [-100, 7, 7, 5, 6, 11, 1]
    batch = task.collate(rows[::2], processor)
    assert batch["input_ids"].tolist() == [[4, 5, 6, 4], [8, 8, 8, 9]]
    assert batch["labels"].tolist() == [[-100, -100, 4, 1], [-100, 8, 9, 1]]


def test_of_a_text_everything_but_the_first_token_is_predicted(write_language_model: WriteModel) -> None:
    task = tasks.load(CAUSAL)
    processor = task.load_processor(model=str(write_language_model("gpt2")))
    columns = task.encode({"text": ["w1 w2 w3", "w4 w5"]}, processor, max_tokens=3)
    assert columns["input_ids"] == [[4, 5, 6], [7, 8, 1]]  # a text that was cut does not end
    batch = task.collate(rows_of(columns), processor)
    assert batch["input_ids"].tolist() == [[4, 5], [7, 8]]
    assert batch["labels"].tolist() == [[5, 6], [8, 1]]


def test_prompts_lose_their_beginning_before_completions_are_cut(write_language_model: WriteModel) -> None:
    task = tasks.load(CAUSAL)
    processor = task.load_processor(model=str(write_language_model("gpt2")))
    row = {"prompt": ["w1 w2 w3"], "completion": ["w4 w5"]}
    assert task.encode(row, processor, max_tokens=4)["input_ids"] == [[6, 7, 8, 1]]
    cut = task.encode(row, processor, max_tokens=2)
    assert (cut["input_ids"], cut["labels"]) == ([[6, 7]], [[-100, 7]])


@pytest.mark.parametrize(
    ("task_type", "columns", "labelled", "message"),
    [
        (SEQ2SEQ, {"text": ["a"]}, True, "no column 'target'"),
        (SEQ2SEQ, {"text": ["a"], "target": [1]}, True, "column 'target' must hold strings"),
        (CAUSAL, {"prompt": ["a"]}, True, "either a column 'text' or columns 'prompt' and 'completion'"),
        (CAUSAL, {"text": ["a"], "prompt": ["a"], "completion": ["b"]}, True, "either a column 'text'"),
        (CAUSAL, {"label": [0]}, False, "either a column 'text'"),
    ],
)
def test_data_of_another_kind_are_refused(
    task_type: str, columns: dict[str, list[Any]], labelled: bool, message: str
) -> None:
    import datasets

    with pytest.raises(DataError, match=message):
        tasks.load(task_type).check(datasets.Dataset.from_dict(columns), labelled=labelled)


def test_rows_of_which_nothing_can_be_read_or_predicted_are_refused(write_language_model: WriteModel) -> None:
    task = tasks.load(CAUSAL)
    processor = task.load_processor(model=str(write_language_model("gpt2")))
    with pytest.raises(DataError, match="column 'prompt': '' has no token"):
        task.encode({"prompt": [""], "completion": ["w1"]}, processor, max_tokens=8)
    with pytest.raises(DataError, match="column 'text': '' has fewer than two tokens"):
        task.encode({"text": [""]}, processor, max_tokens=8)
    with pytest.raises(OptionError, match="max_tokens must be at least 2 for a prompt and a completion"):
        task.encode({"prompt": ["w1"], "completion": ["w1"]}, processor, max_tokens=1)


@pytest.mark.parametrize("kind", KINDS)
def test_likelihoods_depend_neither_on_padding_nor_on_what_is_hidden(
    kind: str, write_language_model: WriteModel
) -> None:
    folder = write_language_model(kind)
    task, processor, rows = encoded(kind, folder)
    model = task.load_model(str(folder)).double()
    together = task.records(model, task.collate(rows, processor), processor, ())
    alone = [task.records(model, task.collate([row], processor), processor, ())[0] for row in rows]
    for ours, theirs in zip(together, alone, strict=True):
        assert ours["log_likelihood"] == pytest.approx(theirs["log_likelihood"], rel=1e-5)
        assert (ours["num_tokens"], ours["prediction"]) == (theirs["num_tokens"], theirs["prediction"])


@pytest.mark.parametrize("kind", KINDS)
def test_the_loss_is_the_model_s_own(kind: str, write_language_model: WriteModel) -> None:
    folder = write_language_model(kind)
    task, processor, rows = encoded(kind, folder)
    model = task.load_model(str(folder)).double()
    batch = task.collate(rows[:1], processor)  # models count padding otherwise
    given = dict(batch)
    if KINDS[kind] == CAUSAL:  # transformers shifts labels itself
        tokens, labels = (torch.tensor([rows[0][name]]) for name in ("input_ids", "labels"))
        given = {"input_ids": tokens, "labels": labels}
    torch.testing.assert_close(task.loss(model, batch).float(), model(**given).loss.float())


@pytest.mark.parametrize("kind", KINDS)
def test_models_write_what_they_find_likeliest(kind: str, write_language_model: WriteModel) -> None:
    folder = write_language_model(kind, scale=3.0)
    task, processor, rows = encoded(kind, folder)
    model = task.load_model(str(folder))
    written = task.generate(model, rows, processor, max_new_tokens=4)
    assert len(written) == 3
    for row, text in zip(rows, written, strict=True):
        assert task.generate(model, [row], processor, max_new_tokens=4) == [text]
        assert text == by_hand(task, processor, model, row, num_tokens=4)


def by_hand(task: Any, processor: Any, model: Any, row: Mapping[str, Any], *, num_tokens: int) -> str:
    """What a model writes, one forward pass for each token."""
    written: list[int] = []
    while len(written) < num_tokens and written[-1:] != [1]:
        again = {"input_ids": row["input_ids"], "labels": [*written, 0]}
        if task is tasks.load(CAUSAL):
            prompt = row["input_ids"][: row["labels"].count(-100)]
            again = {"input_ids": [*prompt, *written, 0], "labels": [-100] * len(prompt) + [*written, 0]}
        batch = task.collate([again], processor)
        del batch["labels"]
        written.append(int(task.scores(model, batch)[0, -1].argmax()))
    tokenizer = getattr(processor, "tokenizer", processor)
    return str(tokenizer.decode(written, skip_special_tokens=True))


def test_settings_of_sampling_beside_a_model_do_not_count(write_language_model: WriteModel) -> None:
    folder = write_language_model("gpt2")
    task, processor, rows = encoded("gpt2", folder)
    model = task.load_model(str(folder))
    before = task.generate(model, rows, processor, max_new_tokens=6)
    model.generation_config.do_sample = True
    model.generation_config.repetition_penalty = 50.0
    model.generation_config.min_new_tokens = 6
    assert task.generate(model, rows, processor, max_new_tokens=6) == before
    assert model.generation_config.do_sample


def test_writing_needs_room_and_prompts(write_language_model: WriteModel) -> None:
    folder = write_language_model("gpt2")
    task = tasks.load(CAUSAL)
    processor = task.load_processor(model=str(folder))
    model = task.load_model(str(folder))
    with pytest.raises(DataError, match="an input of 20 tokens leaves no room to write: the model has 20"):
        task.generate(model, [{"input_ids": [4] * 20}], processor, max_new_tokens=4)
    texts = rows_of(task.encode({"text": ["w1 w2"]}, processor, max_tokens=8))
    with pytest.raises(DataError, match="texts without prompts"):
        task.generate(model, texts, processor, max_new_tokens=4)


def test_targets_are_needed_for_scores(write_language_model: WriteModel) -> None:
    folder = write_language_model("t5")
    task = tasks.load(SEQ2SEQ)
    processor = task.load_processor(model=str(folder))
    rows = rows_of(task.encode({"text": ["w1"]}, processor, max_tokens=8))
    with pytest.raises(DataError, match="no column 'target'"):
        task.scores(task.load_model(str(folder)), task.collate(rows, processor))
    causal = tasks.load(CAUSAL)
    with pytest.raises(DataError, match="without a column 'completion'"):
        causal.collate([{"input_ids": [4, 5]}], processor)


def brute_force(task: Any, processor: Any, model: Any, rows: list[Any], estimator: Any) -> dict[str, Tensor]:
    """Mean squared gradients of log p of drawn or given labels, one example at a time."""
    sums = {name: torch.zeros_like(parameter) for name, parameter in model.named_parameters()}
    for place, row in enumerate(rows):
        batch = task.collate([row], processor)
        labels = batch.pop("labels")
        scores = task.scores(model, batch)
        if estimator is fisher_mc:
            labels = torch.where(
                labels == -100, -100, _categorical.draw(scores.detach(), labels != -100, [(7, place, 0)])
            )
        where = labels != -100
        log_p = scores.log_softmax(-1).gather(-1, labels.clamp(min=0).unsqueeze(-1)).squeeze(-1)
        gradients = torch.autograd.grad(
            (log_p * where).sum(), list(model.parameters()), allow_unused=True, materialize_grads=True
        )
        for total, gradient in zip(sums.values(), gradients, strict=True):
            total += gradient.detach() ** 2
    return sums


@pytest.mark.parametrize("estimator", [fisher_mc, fisher_empirical])
@pytest.mark.parametrize("kind", KINDS)
def test_fishers_are_those_of_single_examples(
    kind: str, estimator: Any, write_language_model: WriteModel
) -> None:
    folder = write_language_model(kind)
    task, processor, rows = encoded(kind, folder)
    model = task.load_model(str(folder)).double()
    expected = brute_force(task, processor, model, rows, estimator)
    for size in (1, 2, 3):
        squares = SquaredGradients(model, task.scores)
        for start in range(0, len(rows), size):
            batch = task.collate(rows[start : start + size], processor)
            labels = batch.pop("labels")
            examples = list(range(start, min(start + size, len(rows))))
            squares.add(
                batch,
                lambda scores, labels=labels, examples=examples: estimator.cotangents(
                    scores, labels, examples=examples, num_samples=1, seed=7
                ),
            )
        # norms and softmax of some models compute in float32 whatever the model is
        torch.testing.assert_close(squares.sums, expected, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("kind", ["t5", "gpt2"])
def test_drawn_tokens_give_the_exact_fisher_on_average(kind: str, write_language_model: WriteModel) -> None:
    folder = write_language_model(kind)
    task, processor, rows = encoded(kind, folder)
    model = task.load_model(str(folder))
    batch = task.collate(rows, processor)
    labels = batch.pop("labels")
    found = {}
    for estimator, num_samples in ((fisher_exact, 1), (fisher_mc, 300)):
        squares = SquaredGradients(model, task.scores)
        squares.add(
            batch,
            lambda scores, estimator=estimator, num_samples=num_samples: estimator.cotangents(
                scores, labels, examples=[0, 1, 2], num_samples=num_samples, seed=0
            ),
        )
        found[estimator] = torch.cat([total.flatten() for total in squares.sums.values()])
    exact, drawn = found[fisher_exact], found[fisher_mc]
    assert drawn.sum() == pytest.approx(float(exact.sum()), rel=0.1)
    assert (drawn - exact).norm() < 0.2 * exact.norm()


def test_losses_of_texts_are_sums_or_means(
    write_language_model: WriteModel, write_data: WriteData, tmp_path: Path
) -> None:
    model = write_language_model("gpt2")
    data = write_data("pairs", {"train": SPLITS[CAUSAL](0)})  # completions of two tokens
    found = {}
    for reduction in ("sum", "mean"):
        estimate(
            estimator="fisher_empirical",
            task_type=CAUSAL,
            model=model,
            data={"data": data, "split": "train"},
            options={"max_tokens": 8, "token_reduction": reduction},
            seed=0,
            out=tmp_path / reduction,
        )
        found[reduction] = load_file(tmp_path / reduction / "hessian.safetensors")
    for name, total in found["sum"].items():
        torch.testing.assert_close(total, 4 * found["mean"][name])
    with pytest.raises(OptionError, match="token_reduction is 'mean', but this estimator takes no gradients"):
        check_call("gram", {"token_reduction": "mean"})


def test_the_command_line_shows_perplexity_as_it_is(
    write_language_model: WriteModel,
    write_data: WriteData,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    data = write_data("texts", {"test": [{"text": "w1 w2 w3"}, {"text": "w4 w5"}]})
    words = ["evaluate", "--task-type", CAUSAL, "--model", str(write_language_model("gpt2"))]
    words += ["--data", f"own={data}:test", "--max-tokens", "8", "--out", str(tmp_path / "out")]
    assert main(words) == 0
    found = json.loads((tmp_path / "out" / "metrics.json").read_text())["own"]
    printed = capsys.readouterr().out
    assert f"perplexity {found['perplexity']['value']:.1f} [" in printed
    assert f"token_accuracy {100 * found['token_accuracy']['value']:.1f} [" in printed
    assert main([*words[:-1], str(tmp_path / "no"), "--metrics", '["exact_match"]']) == 2
    assert "texts without prompts" in capsys.readouterr().err


def test_an_exact_fisher_of_a_vocabulary_is_refused() -> None:
    scores = torch.zeros(1, 2, 32_000)
    with pytest.raises(OptionError, match=r"there are 32000 .*Use fisher_mc"):
        list(fisher_exact.cotangents(scores, torch.zeros(1, 2), examples=[0], num_samples=1, seed=0))


def test_labels_are_drawn_alike_in_pieces_of_any_size(monkeypatch: pytest.MonkeyPatch) -> None:
    scores = torch.randn(4, 6, 50, generator=torch.Generator().manual_seed(0)).mul(2)
    where = torch.arange(24).view(4, 6) % 5 > 0
    keys = [(0, example, 0) for example in range(4)]
    whole = _categorical.draw(scores, where, keys)
    monkeypatch.setattr(_categorical, "_CHUNK_ELEMENTS", 120)
    assert torch.equal(_categorical.draw(scores, where, keys), whole)
    assert (whole[~where] == 0).all() and len(whole.unique()) > 5


@pytest.mark.parametrize("num_classes", [4097, 5000, 6400])
def test_many_classes_are_drawn_like_few(num_classes: int) -> None:
    scores = torch.randn(3, 40, num_classes, generator=torch.Generator().manual_seed(0)).mul(3)
    scores[0, :, ::2] = -1e4  # classes without any probability are never drawn
    where = torch.ones(3, 40, dtype=torch.bool)
    keys = [(0, example, 0) for example in range(3)]
    drawn = _categorical.draw(scores, where, keys)
    uniforms = torch.stack([torch.from_numpy(np.random.default_rng(key).random(40)) for key in keys])
    distribution = scores.softmax(-1).double().cumsum(-1)
    assert torch.equal(drawn, (distribution <= uniforms.unsqueeze(-1)).sum(-1))
    assert (drawn[0] % 2 == 1).all() and len(drawn.unique()) > 40


SPLITS = {
    SEQ2SEQ: lambda start: [
        {"text": f"w{(start + row) % 9} w{row % 5}", "target": f"w{(start + row) % 9}"} for row in range(12)
    ],
    CAUSAL: lambda start: [
        {"prompt": f"w{(start + row) % 9} w{row % 5}", "completion": f"w{(start + row) % 9}"}
        for row in range(12)
    ],
}
MERGES: dict[str, tuple[str, str, dict[str, Any]]] = {
    "fisher_mc": ("fisher", "hessians", {}),
    "gram": ("regmean", "grams", {}),
    "kfac_mc": ("mats", "factors", {"objective": "kfac", "num_iterations": 3}),
    "block_mc": ("mats", "blocks", {"objective": "block", "num_iterations": 3}),
}


@pytest.mark.parametrize("kind", ["t5", "gpt2"])
def test_from_training_to_a_merged_model_that_is_judged(
    kind: str, write_language_model: WriteModel, write_data: WriteData, tmp_path: Path
) -> None:
    task_type = KINDS[kind]
    start = write_language_model(kind)
    rows = {name: SPLITS[task_type](offset) for offset, name in enumerate(("a", "b"))}
    data = {name: write_data(name, {"train": its, "test": its[:5]}) for name, its in rows.items()}
    models = {}
    for name, folder in data.items():
        models[name] = tmp_path / f"model_{name}"
        train(
            task_type=task_type,
            model=start,
            architecture=None,
            data={"data": folder, "split": "train"},
            validation={"data": folder, "split": "test"},
            options={
                "learning_rate": 0.01,
                "batch_size": 4,
                "num_epochs": 2,
                "max_tokens": 8,
                "best_by": "metric",
            },
            seed=0,
            out=models[name],
            work=None,
        )
        log = (models[name] / "training_log.csv").read_text()
        assert f"validation_{tasks.load(task_type).MAIN_METRIC}" in log.splitlines()[0]
    test = {name: {"data": folder, "split": "test"} for name, folder in data.items()}
    statistics = {}
    for name, folder in data.items():
        statistics[name] = tmp_path / f"statistics_{name}"
        estimate(
            statistics=list(MERGES),
            task_type=task_type,
            model=models[name],
            data={"data": folder, "split": "train"},
            options={"max_tokens": 8, "batch_size": 5},
            seed=0,
            out=statistics[name],
        )
    for method, key, options in MERGES.values():
        merged = tmp_path / f"merged_{method}_{key}"
        merge_checkpoints(
            method=method, options=options, base=None, models=models, extras={key: statistics}, out=merged
        )
        assert all(tensor.isfinite().all() for tensor in load_file(merged / "model.safetensors").values())
    out = tmp_path / "evaluation"
    names = ["exact_match", "token_f1", "rouge_l", "perplexity", "token_accuracy"]
    evaluate(
        task_type=task_type,
        model=merged,
        data=test,
        options={"max_tokens": 8, "max_new_tokens": 3, "metrics": names, "bootstrap_samples": 20},
        out=out,
    )
    results = json.loads((out / "metrics.json").read_text())
    assert set(results) == {"a", "b"}
    for values in results.values():
        assert values["num_examples"] == 5
        assert values["perplexity"]["value"] >= 1
        assert all(0 <= values[name]["value"] <= 1 for name in names if name != "perplexity")
    lines = [json.loads(line) for line in (out / "predictions" / "a.jsonl").read_text().splitlines()]
    assert [line["label"] for line in lines] and all(isinstance(line["prediction"], str) for line in lines)
    inputs = tmp_path / "inputs.jsonl"
    column = "text" if task_type == SEQ2SEQ else "prompt"
    inputs.write_text(json.dumps({column: "w1 w2"}) + "\n")
    predict(
        task_type=task_type,
        model=merged,
        data=inputs,
        options={"max_tokens": 8, "max_new_tokens": 3},
        out=tmp_path / "predictions.jsonl",
    )
    assert set(json.loads((tmp_path / "predictions.jsonl").read_text())) == {"id", "prediction"}


@pytest.mark.parametrize("kind", KINDS)
def test_factors_leave_out_the_padding_of_each_side(kind: str, write_language_model: WriteModel) -> None:
    folder = write_language_model(kind)
    task = tasks.load(KINDS[kind])
    processor = task.load_processor(model=str(folder))
    columns = {  # padded to one length on both sides, though no example has it
        "text": ["w1 w2 w3", "w4"],
        "target": ["w1 w1", "w4 w4 w2"],
        "prompt": ["w1 w2 w3", "w4"],
        "completion": ["w1 w2", "w4"],
    }
    names = ("text", "target") if KINDS[kind] == SEQ2SEQ else ("prompt", "completion")
    rows = rows_of(task.encode({name: columns[name] for name in names}, processor, max_tokens=16))
    model = task.load_model(str(folder))
    sums = {}
    for batches in ([rows], [[row] for row in rows]):
        factors = FactorSums(model, task.scores, outputs=True)
        for some in batches:
            batch = task.collate(some, processor)
            labels = batch.pop("labels")
            factors.add(
                batch,
                lambda scores, labels=labels: fisher_empirical.cotangents(
                    scores, labels, examples=[0] * len(labels), num_samples=1, seed=0
                ),
            )
        sums[len(batches)] = factors
    assert sums[1].num_positions == sums[2].num_positions
    assert len(set(sums[1].num_positions.values())) == (2 if KINDS[kind] == SEQ2SEQ else 1)
    together, alone = sums[1].means(), sums[2].means()
    for name, pair in together.items():
        torch.testing.assert_close(pair, alone[name], rtol=1e-4, atol=1e-6)
