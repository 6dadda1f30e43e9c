"""Token classification: words and their tags, curvature word by word, and a whole experiment."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import pytest
import torch
import transformers
from merging import tasks
from merging.data import splits
from merging.errors import DataError
from merging.evaluation.run import evaluate
from merging.hessians.artifact import StoredHessian
from merging.hessians.estimate import estimate
from merging.merge.streaming import merge_checkpoints
from merging.models import quiet
from safetensors.torch import load_file
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import Tensor

TASK = "token_classification"
TAGS = ["O", "B-PER", "I-PER"]
SENTENCES = [["anna", "runs"], ["anna", "smith", "and", "bo", "run"], ["nobody"]]
LABELS = [[1, 0], [1, 2, 0, 1, 0], [0]]
PIECES = ["anna", "run", "##s", "smith", "and", "bo", "no", "##body"]
WriteData = Callable[..., Path]


def rows_of(columns: dict[str, list[Any]]) -> list[dict[str, Any]]:
    return [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory, write_encoder: Callable[..., None]) -> Path:
    """A BERT without a head, whose tokenizer cuts words into pieces."""
    folder = tmp_path_factory.mktemp("models") / "bert"
    write_encoder(folder, PIECES, in_pieces=True, num_hidden_layers=1, intermediate_size=24)
    return folder


@pytest.fixture
def tagger(bert: Path, tmp_path: Path) -> Path:
    folder = tmp_path / "tagger"
    task = tasks.load(TASK)
    model = task.build_model(model=str(bert), architecture=None, label_names=TAGS, dropout=None, seed=0)
    with quiet():
        model.save_pretrained(folder)
        task.load_processor(model=str(bert)).save_pretrained(folder)
    return folder


def test_a_word_is_predicted_at_its_first_token(tagger: Path) -> None:
    task = tasks.load(TASK)
    tokenizer = task.load_processor(model=str(tagger))
    columns = task.encode({"words": SENTENCES, "label": LABELS}, tokenizer, max_tokens=6)
    assert columns["input_ids"][0] == [2, 4, 5, 6, 3]  # [CLS] anna run ##s [SEP]
    assert columns["labels"] == [[-100, 1, 0, -100, -100], [-100, 1, 2, 0, 1, -100], [-100, 0, -100, -100]]
    batch = task.collate(rows_of(columns)[::2], tokenizer)
    assert batch["labels"].tolist() == [[-100, 1, 0, -100, -100], [-100, 0, -100, -100, -100]]
    assert batch["attention_mask"].tolist() == [[1] * 5, [1] * 4 + [0]]
    tokenizer.padding_side = "left"
    assert task.collate(rows_of(columns)[::2], tokenizer)["labels"][1].tolist() == [-100, -100, 0, -100, -100]


def test_sentences_without_labels_say_where_words_are(tagger: Path) -> None:
    task = tasks.load(TASK)
    tokenizer = task.load_processor(model=str(tagger))
    labelled, plain = (
        task.encode(columns, tokenizer, max_tokens=16)
        for columns in ({"words": SENTENCES, "label": LABELS}, {"words": SENTENCES})
    )
    for ours, theirs in zip(plain["labels"], labelled["labels"], strict=True):
        assert [label == -100 for label in ours] == [label == -100 for label in theirs]


def test_words_without_a_token_are_unknown(tagger: Path) -> None:
    task = tasks.load(TASK)
    tokenizer = task.load_processor(model=str(tagger))
    columns = task.encode(
        {"words": [["anna", " ", "bo"], []], "label": [[1, 0, 2], []]}, tokenizer, max_tokens=9
    )
    assert columns["input_ids"] == [[2, 4, 1, 9, 3], [2, 1, 3]]
    assert columns["labels"] == [[-100, 1, 0, 2, -100], [-100] * 3]


def test_bytes_are_read_as_within_a_text(tmp_path: Path) -> None:
    """GPT-2 and RoBERTa know "b" and " b" as two tokens; after another word it is the second."""
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    tokenizer = Tokenizer(models.BPE({letter: id for id, letter in enumerate(sorted(alphabet))}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    fast = transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, model_max_length=16)
    columns = tasks.load(TASK).encode({"words": [["a", "b"]], "label": [[0, 1]]}, fast, max_tokens=8)
    assert columns["input_ids"] == [fast("a b")["input_ids"]]
    assert columns["labels"] == [[0, 1, -100]]


def test_records_name_the_tags_of_words(tagger: Path) -> None:
    task = tasks.load(TASK)
    tokenizer, model = task.load_processor(model=str(tagger)), task.load_model(str(tagger))
    rows = rows_of(task.encode({"words": SENTENCES, "label": LABELS}, tokenizer, max_tokens=16))
    batch = task.collate(rows, tokenizer)
    records = task.records(model, batch, tokenizer, TAGS)
    assert [record["reference"] for record in records] == [[TAGS[tag] for tag in row] for row in LABELS]
    chosen = task.scores(model, {k: v for k, v in batch.items() if k != "labels"}).argmax(-1)
    for record, best, label in zip(records, chosen, batch["labels"], strict=True):
        assert record["prediction"] == [TAGS[tag] for tag in best[label != -100].tolist()]
        assert len(record["confidence"]) == len(record["prediction"])
    (alone,) = task.records(model, task.collate(rows[:1], tokenizer), tokenizer, TAGS)
    assert alone["confidence"] == pytest.approx(records[0]["confidence"], abs=1e-5)


def test_fishers_are_those_of_single_examples(tagger: Path, check_fishers: Callable[..., None]) -> None:
    task = tasks.load(TASK)
    tokenizer, model = task.load_processor(model=str(tagger)), task.load_model(str(tagger)).double()
    rows = rows_of(task.encode({"words": SENTENCES, "label": LABELS}, tokenizer, max_tokens=16))

    def log_p(scores: Tensor, labels: Tensor) -> Tensor:
        return -torch.nn.functional.cross_entropy(scores[0], labels[0], ignore_index=-100, reduction="sum")

    check_fishers(task, tokenizer, model, rows, log_p)


TAGGED = datasets.List(datasets.ClassLabel(names=TAGS))


@pytest.mark.parametrize(
    ("columns", "features", "message"),
    [
        ({"text": ["a"]}, {"text": datasets.Value("string")}, "no column 'words'"),
        (
            {"words": ["a"], "label": [[0]]},
            {"words": datasets.Value("string"), "label": TAGGED},
            "lists of str",
        ),
        (
            {"words": [["a"]], "label": [[0]]},
            {
                "words": datasets.List(datasets.Value("string")),
                "label": datasets.List(datasets.Value("int64")),
            },
            "not lists of ClassLabel",
        ),
        (
            {"words": [["a", "b"]], "label": [[0]]},
            {"words": datasets.List(datasets.Value("string")), "label": TAGGED},
            "row 0 has 2 words and 1 labels",
        ),
        (
            {"words": [["a"], ["b"]], "label": [[0], [-1]]},
            {"words": datasets.List(datasets.Value("string")), "label": TAGGED},
            r"row 1: label -1 of word 0 is outside 0\.\.2",
        ),
    ],
)
def test_data_of_another_kind_are_refused(
    columns: dict[str, Any], features: dict[str, Any], message: str
) -> None:
    with pytest.raises(DataError, match=message):
        tasks.load(TASK).check(datasets.Dataset.from_dict(columns, features=datasets.Features(features)))


def test_every_estimator(tagger: Path, write_data: WriteData, check_estimators: Callable[..., None]) -> None:
    names = [[TAGS[label] for label in labels] for labels in LABELS]
    rows = [{"words": words, "label": tags} for words, tags in zip(SENTENCES, names, strict=True)]
    data = write_data("tagged", {"train": rows * 2})
    check_estimators(TASK, relabelled(tagger), data, refused={})


def relabelled(tagger: Path) -> Path:
    """Local data number their labels in the order of their names."""
    config = json.loads((tagger / "config.json").read_text())
    config["id2label"] = dict(enumerate(sorted(TAGS)))
    (tagger / "config.json").write_text(json.dumps(config))
    return tagger


def test_labels_are_not_needed_where_they_are_drawn(
    tagger: Path, write_data: WriteData, tmp_path: Path
) -> None:
    names = [[TAGS[label] for label in labels] for labels in LABELS]
    rows = [{"words": words, "label": tags} for words, tags in zip(SENTENCES, names, strict=True)]
    bare = [{"words": words} for words in SENTENCES]
    found = []
    for name, its in {"labelled": rows, "bare": bare}.items():
        data = write_data(name, {"train": its})
        estimate(
            estimator="fisher_mc",
            task_type=TASK,
            model=tagger,
            data={"data": data, "split": "train", "shuffle_seed": None},
            options={"max_tokens": 12},
            seed=0,
            out=tmp_path / f"fisher_{name}",
        )
        found.append(load_file(tmp_path / f"fisher_{name}" / "hessian.safetensors"))
    torch.testing.assert_close(found[0], found[1])


def test_each_task_keeps_its_own_tags(
    tagger: Path, bert: Path, write_data: WriteData, tmp_path: Path
) -> None:
    """Merged with ``head: per_task``: one body for names and for parts of speech."""
    task = tasks.load(TASK)
    speech = ("NOUN", "VERB")
    words = task.build_model(model=str(bert), architecture=None, label_names=speech, dropout=None, seed=1)
    with quiet():
        words.save_pretrained(tmp_path / "speech")
        task.load_processor(model=str(bert)).save_pretrained(tmp_path / "speech")
    folders = {"names": relabelled(tagger), "speech": tmp_path / "speech"}
    rows = {
        "names": [{"words": ["anna", "smith", "runs"], "label": ["B-PER", "I-PER", "O"]}] * 3,
        "speech": [{"words": ["anna", "runs"], "label": ["NOUN", "VERB"]}] * 3,
    }
    data = {name: write_data(name, {"test": its}) for name, its in rows.items()}
    merge_checkpoints(
        method="average",
        options={},
        base=None,
        models=folders,
        extras={},
        policy={"head": "per_task"},
        out=tmp_path / "merged",
    )
    evaluate(
        task_type=TASK,
        model=tmp_path / "merged",
        data={name: {"data": folder, "split": "test"} for name, folder in data.items()},
        options={"max_tokens": 8, "bootstrap_samples": 5},
        out=tmp_path / "evaluation",
    )
    for name, known in {"names": set(TAGS), "speech": set(speech)}.items():
        lines = (tmp_path / "evaluation" / "predictions" / f"{name}.jsonl").read_text().splitlines()
        assert {tag for line in lines for tag in json.loads(line)["prediction"]} <= known


def test_from_training_to_a_merged_model_that_is_judged(bert: Path, experiment: Callable[..., Any]) -> None:
    sentences = {
        "a": [(["anna", "runs"], ["B-PER", "O"]), (["bo", "smith", "run"], ["B-PER", "I-PER", "O"])],
        "b": [(["nobody", "and", "bo"], ["O", "O", "B-PER"]), (["run", "anna"], ["O", "B-PER"])],
    }
    rows = {
        name: [{"words": words, "label": tags} for words, tags in its] * 6 for name, its in sentences.items()
    }
    rows["b"].append({"words": ["anna", "smith"], "label": ["B-PER", "I-PER"]})  # all tags are in both
    found = experiment(TASK, bert, rows, num_test=5, max_examples=8, learning_rate=0.02, num_epochs=8)
    assert tasks.load(TASK).label_names(splits.load({"data": found.data["a"], "split": "train"})) == (
        "B-PER",
        "I-PER",
        "O",
    )
    assert StoredHessian(found.fishers["a"], label="a").record.num_examples == 8
    log = (found.models["a"] / "training_log.csv").read_text().splitlines()
    place = log[0].split(",").index("validation_entity_f1")
    assert max(float(line.split(",")[place] or 0) for line in log[1:]) == 1.0
    for values in found.judge(found.merged).values():
        assert set(values) == {"entity_f1", "tag_accuracy", "num_examples"}
        assert values["tag_accuracy"]["value"] > 0.5  # merged models have learned something
        assert values["entity_f1"]["low"] <= values["entity_f1"]["value"] <= values["entity_f1"]["high"]
    record = found.predict({"words": ["anna", "runs"]})
    assert set(record) == {"id", "prediction", "confidence"} and len(record["prediction"]) == 2
