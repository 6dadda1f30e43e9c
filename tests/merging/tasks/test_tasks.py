"""The seam of task types: what each says it offers, and what it does with good and bad input."""

import json
import shutil
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
import torch
from merging import models, tasks
from merging.errors import CheckpointError, DataError, OptionError, UnknownNameError
from PIL import Image
from safetensors.torch import load_file, save_file

TEXT, IMAGE = "sequence_classification", "image_classification"
LABELS = ["no", "yes"]


def rows_of(columns: dict[str, list[Any]]) -> list[dict[str, Any]]:
    return [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]


def build(task_type: str, **arguments: Any) -> Any:
    defaults = {"model": None, "architecture": None, "label_names": LABELS, "dropout": None, "seed": 0}
    return tasks.load(task_type).build_model(**{**defaults, **arguments})


@pytest.fixture
def classifier(tiny_language_model: Path, tmp_path: Path) -> Path:
    """A finished text classifier."""
    folder = tmp_path / "classifier"
    model = build(TEXT, model=str(tiny_language_model))
    with models.quiet():
        model.save_pretrained(folder)
        tasks.load(TEXT).load_processor(model=str(tiny_language_model)).save_pretrained(folder)
    return folder


def test_the_registry_knows_all_and_suggests() -> None:
    assert tasks.names() == (
        "causal_lm",
        "clip_zero_shot",
        "image_classification",
        "multiple_choice",
        "multiple_choice_normalised",
        "regression",
        "seq2seq",
        "sequence_classification",
        "token_classification",
    )
    with pytest.raises(UnknownNameError, match=r"unknown task type 'image_clasification'\. Did you mean"):
        tasks.load("image_clasification")


@pytest.mark.parametrize("name", tasks.names())
def test_every_task_type_offers_all_of_the_seam(name: str) -> None:
    task = tasks.load(name)
    for member in (*tasks.TaskType.__annotations__, *vars(tasks.TaskType)):
        if not member.startswith("_"):
            assert hasattr(task, member), member
    assert task.MAIN_METRIC in task.METRICS


def test_texts_are_encoded_cut_and_padded(tiny_language_model: Path) -> None:
    task = tasks.load(TEXT)
    tokenizer = task.load_processor(model=str(tiny_language_model))
    columns = task.encode(
        {"text": ["good film", "bad"], "text_pair": ["very good good", "1"], "label": [1, 0]},
        tokenizer,
        max_tokens=6,
    )
    assert columns["length"] == [6, 5]
    assert columns["labels"] == [1, 0]
    batch = task.collate(rows_of(columns), tokenizer)
    assert batch["input_ids"].tolist() == [[2, 4, 3, 7, 4, 3], [2, 5, 3, 9, 3, 0]]
    assert batch["attention_mask"].tolist() == [[1] * 6, [1] * 5 + [0]]
    assert batch["labels"].tolist() == [1, 0]
    assert set(batch) == {"input_ids", "attention_mask", "labels"}


def test_padding_does_not_change_the_scores(classifier: Path) -> None:
    task = tasks.load(TEXT)
    model, tokenizer = task.load_model(str(classifier)), task.load_processor(model=str(classifier))
    columns = task.encode({"text": ["good", "bad very very film 3 4 5"]}, tokenizer, max_tokens=16)
    together = task.scores(model, task.collate(rows_of(columns), tokenizer))
    alone = [task.scores(model, task.collate([row], tokenizer)) for row in rows_of(columns)]
    assert together.shape == (2, 2)
    torch.testing.assert_close(together, torch.cat(alone))


def test_a_tokenizer_keeps_no_trace_of_a_call(tiny_language_model: Path, tmp_path: Path) -> None:
    task = tasks.load(TEXT)
    tokenizer = task.load_processor(model=str(tiny_language_model))
    tokenizer.save_pretrained(tmp_path / "before")
    task.encode({"text": ["good"]}, tokenizer, max_tokens=3)
    tokenizer.save_pretrained(tmp_path / "after")
    texts = [(tmp_path / when / "tokenizer.json").read_text() for when in ("before", "after")]
    assert texts[0] == texts[1]


def test_images_agree_with_their_processor(vit_architecture: dict[str, Any]) -> None:
    task = tasks.load(IMAGE)
    processor = task.load_processor(model=None, architecture=vit_architecture)
    pixels = np.random.default_rng(0).integers(0, 256, (3, 8, 8), dtype=np.uint8)
    images = [Image.fromarray(image) for image in pixels]
    batch = task.collate(
        rows_of(task.encode({"image": images, "label": [0, 1, 1]}, processor, max_tokens=None)), processor
    )
    assert batch["pixel_values"].shape == (3, 1, 8, 8)
    torch.testing.assert_close(batch["pixel_values"], processor(images, return_tensors="pt")["pixel_values"])
    assert batch["labels"].tolist() == [0, 1, 1]


def test_an_architecture_for_images_of_any_size_is_refused() -> None:
    with pytest.raises(OptionError, match="'resnet' has no image_size"):
        tasks.load(IMAGE).load_processor(model=None, architecture={"model_type": "resnet"})


def test_colour_images_are_resized_to_the_architecture(vit_architecture: dict[str, Any]) -> None:
    task = tasks.load(IMAGE)
    processor = task.load_processor(model=None, architecture={**vit_architecture, "num_channels": 3})
    image = Image.fromarray(np.full((20, 10), 255, dtype=np.uint8))
    columns = task.encode({"image": [image]}, processor, max_tokens=None)
    assert columns["shape"] == [[3, 8, 8]]
    assert task.collate(rows_of(columns), processor)["pixel_values"].eq(1.0).all()


def test_predictions_are_argmax_and_softmax() -> None:
    scores = np.array([[0.0, np.log(3.0)], [1000.0, 0.0], [2.0, 2.0]], dtype=np.float32)
    assert tasks.load(TEXT).predictions(scores, LABELS) == [
        {"prediction": 1, "prediction_name": "yes", "probabilities": [0.25, 0.75]},
        {"prediction": 0, "prediction_name": "no", "probabilities": [1.0, 0.0]},
        {"prediction": 0, "prediction_name": "no", "probabilities": [0.5, 0.5]},
    ]


def test_new_weights_come_from_the_seed_alone(vit_architecture: dict[str, Any]) -> None:
    torch.manual_seed(1)
    expected = torch.random.get_rng_state()
    first, second, third = (
        build(IMAGE, architecture=vit_architecture, seed=seed).classifier.weight for seed in (5, 5, 6)
    )
    assert torch.equal(first, second)
    assert not torch.equal(first, third)
    assert torch.equal(torch.random.get_rng_state(), expected)


def test_a_new_head_takes_the_data_s_labels(tiny_language_model: Path) -> None:
    model = build(TEXT, model=str(tiny_language_model), label_names=["a", "b", "c"])
    assert models.label_names(model) == ("a", "b", "c")
    assert model.classifier.weight.shape == (3, 16)
    assert model.config.problem_type == "single_label_classification"


def test_a_named_head_is_kept(classifier: Path) -> None:
    kept = build(TEXT, model=str(classifier), seed=9)
    assert torch.equal(kept.classifier.weight, tasks.load(TEXT).load_model(str(classifier)).classifier.weight)


@pytest.mark.parametrize("names", [["yes", "no"], ["no", "yes", "maybe"]])
def test_other_labels_than_the_model_s_are_refused(classifier: Path, names: list[str]) -> None:
    with pytest.raises(CheckpointError, match=r"was trained for the labels \['no', 'yes'\], the data has"):
        build(TEXT, model=str(classifier), label_names=names)


def test_dropout_is_set_before_the_model_is_built(
    tiny_language_model: Path, vit_architecture: dict[str, Any]
) -> None:
    for model in (
        build(TEXT, model=str(tiny_language_model), dropout=0.25),
        build(IMAGE, architecture=vit_architecture, dropout=0.25),
    ):
        found = {module.p for module in model.modules() if isinstance(module, torch.nn.Dropout)}
        assert found == {0.25}


def test_where_a_model_comes_from_must_be_clear(
    tiny_language_model: Path, vit_architecture: dict[str, Any]
) -> None:
    with pytest.raises(OptionError, match=r"exactly one of model .* and architecture"):
        build(IMAGE)
    with pytest.raises(OptionError, match=r"exactly one of model .* and architecture"):
        build(IMAGE, model=str(tiny_language_model), architecture=vit_architecture)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model_type": "vitt"}, r"unknown model_type 'vitt'\. Did you mean 'vit'"),
        ({"hiden_size": 3}, r"unknown vit field 'hiden_size'\. Did you mean 'hidden_size'"),
    ],
)
def test_a_misspelt_architecture_is_refused(
    vit_architecture: dict[str, Any], change: dict[str, Any], message: str
) -> None:
    with pytest.raises(OptionError, match=message):
        build(IMAGE, architecture={**vit_architecture, **change})


def test_an_architecture_needs_a_type() -> None:
    with pytest.raises(OptionError, match='missing "model_type"'):
        build(IMAGE, architecture={"hidden_size": 8})


def test_an_architecture_brings_no_tokenizer() -> None:
    with pytest.raises(OptionError, match="an architecture alone brings no tokenizer"):
        tasks.load(TEXT).load_processor(model=None, architecture={"model_type": "bert"})


def test_a_bare_language_model_is_no_finished_classifier(tiny_language_model: Path) -> None:
    with pytest.raises(CheckpointError, match=r"lacks 2 parameters of Bert.*, e\.g\. classifier"):
        tasks.load(TEXT).load_model(str(tiny_language_model))


def damage(folder: Path, name: str, change: Any) -> None:
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def test_a_trunk_with_a_hole_is_refused_even_for_training(classifier: Path) -> None:
    name = "bert.encoder.layer.1.output.dense.weight"
    damage(classifier, name, lambda tensors: tensors.pop(name))
    with pytest.raises(CheckpointError, match=f"lacks the weights of {name}"):
        build(TEXT, model=str(classifier))


def test_weights_that_are_not_numbers_are_refused(classifier: Path) -> None:
    name = "bert.encoder.layer.1.output.dense.weight"

    def poison(tensors: dict[str, torch.Tensor]) -> None:
        tensors[name][0, 0] = float("nan")

    damage(classifier, name, poison)
    for load in (tasks.load(TEXT).load_model, lambda folder: build(TEXT, model=folder)):
        with pytest.raises(CheckpointError, match=f"{name} has NaN or infinite values"):
            load(str(classifier))


def test_a_cut_off_weight_file_is_refused(classifier: Path) -> None:
    file = classifier / "model.safetensors"
    file.write_bytes(file.read_bytes()[:1000])
    with pytest.raises(CheckpointError, match=r"model\.safetensors is truncated"):
        tasks.load(TEXT).load_model(str(classifier))


def test_weights_of_another_shape_are_refused(classifier: Path) -> None:
    config = json.loads((classifier / "config.json").read_text())
    (classifier / "config.json").write_text(json.dumps({**config, "intermediate_size": 33}))
    with pytest.raises(CheckpointError, match=r"do not fit config\.json"):
        tasks.load(TEXT).load_model(str(classifier))


def test_models_of_another_kind_are_refused(classifier: Path) -> None:
    with pytest.raises(CheckpointError, match="a model of type 'bert' cannot be loaded as AutoModelForImage"):
        tasks.load(IMAGE).load_model(str(classifier))


def test_a_damaged_config_is_refused(classifier: Path) -> None:
    (classifier / "config.json").write_text("{")
    with pytest.raises(CheckpointError, match=r"config\.json cannot be read"):
        tasks.load(TEXT).load_model(str(classifier))


def test_a_model_without_its_processor_is_refused(classifier: Path) -> None:
    (classifier / "tokenizer.json").write_text("{")
    with pytest.raises(CheckpointError, match="cannot load its Tokenizer"):
        tasks.load(TEXT).load_processor(model=str(classifier))
    (classifier / "tokenizer.json").unlink()
    with pytest.raises(CheckpointError, match=r"has no Tokenizer; expected one of tokenizer\.json"):
        tasks.load(TEXT).load_processor(model=str(classifier))
    with pytest.raises(CheckpointError, match="has no ImageProcessor"):
        tasks.load(IMAGE).load_processor(model=str(classifier))


@pytest.mark.parametrize("path", ["/no/such/model", "./nor/this", "a/b/c"])
def test_a_wrong_path_is_no_hub_id(path: str) -> None:
    with pytest.raises(CheckpointError, match="no model folder at"):
        models.locate(path)
    assert models.locate("roberta-base") == "roberta-base"


def test_a_folder_without_config_says_what_it_holds(tmp_path: Path, classifier: Path) -> None:
    shutil.copy(classifier / "model.safetensors", tmp_path)
    with pytest.raises(CheckpointError, match=r"has no config\.json, but .*model\.safetensors"):
        models.locate(tmp_path)


def data(**columns: Any) -> datasets.Dataset:
    return datasets.Dataset.from_dict(columns)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (data(sentence=["a"], label=[0]), "no column 'text'; it has sentence, label"),
        (data(text=["a"]), "no column 'label'"),
        (data(text=["a"], label=[0]), "not a ClassLabel with names"),
        (
            data(text=[1], label=[0]).cast_column("label", datasets.ClassLabel(names=LABELS)),
            "must hold strings",
        ),
        (
            data(text=["a", "b"], label=[0, -1]).cast_column("label", datasets.ClassLabel(names=LABELS)),
            r"label -1 of row 1 is outside 0\.\.1",
        ),
    ],
)
def test_data_that_do_not_suit_texts(rows: datasets.Dataset, message: str) -> None:
    with pytest.raises(DataError, match=message):
        tasks.load(TEXT).check(rows)


def test_unlabelled_data_can_be_checked_too() -> None:
    tasks.load(TEXT).check(data(text=["a"]), labelled=False)


def test_arrays_are_no_images() -> None:
    rows = data(image=[[1, 2]], label=[0]).cast_column("label", datasets.ClassLabel(names=LABELS))
    with pytest.raises(DataError, match=r"column 'image' is .*, not datasets\.Image"):
        tasks.load(IMAGE).check(rows)
