"""CLIP: heads made from names, curvature of the image tower, and a whole experiment."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from merging import tasks
from merging.adaptation.run import adapt
from merging.errors import CheckpointError, OptionError
from merging.evaluation.run import evaluate
from merging.files.checkpoints import open_checkpoint
from merging.hessians.artifact import StoredHessian
from merging.hessians.estimate import estimate
from merging.merge.streaming import merge_checkpoints
from merging.models import quiet
from merging.training.run import train
from PIL import Image
from safetensors.torch import load_file
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from torch import Tensor

TASK = "clip_zero_shot"
ANIMALS = ("cat", "dog", "big cat")
FROZEN = ("text_model.", "text_projection.", "logit_scale")


def rows_of(columns: dict[str, list[Any]]) -> list[dict[str, Any]]:
    return [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A CLIP as it is published: without names of classes."""
    folder = tmp_path_factory.mktemp("models") / "clip"
    words = [
        "<pad>",
        "<start>",
        "<end>",
        "<unk>",
        "a",
        "photo",
        "of",
        "cat",
        "dog",
        "big",
        ".",
        "zero",
        "one",
    ]
    tokenizer = Tokenizer(models.WordLevel({word: id for id, word in enumerate(words)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<start> $A <end>", special_tokens=[("<start>", 1), ("<end>", 2)]
    )
    transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        model_max_length=12,
        pad_token="<pad>",
        unk_token="<unk>",
        bos_token="<start>",
        eos_token="<end>",
    ).save_pretrained(folder)
    small = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = transformers.CLIPConfig(
        projection_dim=8,
        text_config={
            **small,
            "vocab_size": len(words),
            "max_position_embeddings": 12,
            "bos_token_id": 1,
            "eos_token_id": 2,
            "pad_token_id": 0,
        },
        vision_config={**small, "image_size": 8, "patch_size": 4, "num_channels": 3},
    )
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

    CLIPImageProcessorPil(size={"shortest_edge": 8}, crop_size={"height": 8, "width": 8}).save_pretrained(
        folder
    )
    with torch.random.fork_rng(), quiet():
        torch.manual_seed(0)
        model = transformers.CLIPModel(config)
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.dim():
                    parameter.add_(torch.randn_like(parameter), alpha=0.2)
        model.save_pretrained(folder)
    return folder


def build(clip: Path, names: tuple[str, ...] = ANIMALS) -> Any:
    return tasks.load(TASK).build_model(
        model=str(clip), architecture=None, label_names=names, dropout=None, seed=0
    )


def images(count: int) -> list[Image.Image]:
    pixels = np.random.default_rng(0).integers(0, 256, (count, 8, 8, 3), dtype=np.uint8)
    return [Image.fromarray(image) for image in pixels]


def test_logits_are_those_of_transformers(clip: Path) -> None:
    """Against CLIP's own comparison of images with the sentences."""
    task = tasks.load(TASK)
    processor, model = task.load_processor(model=str(clip)), build(clip).eval()
    batch = task.collate(rows_of(task.encode({"image": images(4)}, processor, max_tokens=None)), processor)
    sentences = [f"a photo of a {name}." for name in ANIMALS]
    with quiet():
        reference = transformers.CLIPModel.from_pretrained(clip).eval()
    tokens = processor.tokenizer(sentences, padding=True, return_tensors="pt")
    expected = reference(
        input_ids=tokens["input_ids"], attention_mask=tokens["attention_mask"], **batch
    ).logits_per_image
    torch.testing.assert_close(task.scores(model, batch), expected)


def test_several_templates_are_averaged(clip: Path) -> None:
    model = build(clip)
    one, other = (head_of(model, (template,)) for template in ("a photo of a {}.", "a {}"))
    mean = torch.nn.functional.normalize(one + other, dim=-1)
    torch.testing.assert_close(head_of(model, ("a photo of a {}.", "a {}")), mean)
    with pytest.raises(CheckpointError, match="each must hold"):
        head_of(model, ("a photo",))


def head_of(model: Any, templates: tuple[str, ...]) -> Tensor:
    model.config.zero_shot_templates = list(templates)
    tasks.load(TASK).set_label_names(model, ANIMALS)
    return model.head.clone()


def test_heads_are_kept(clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = build(clip)
    monkeypatch.setattr(type(first), "_new_head", None)  # would fail if it were called
    assert torch.equal(build(clip).head, first.head)
    monkeypatch.undo()
    monkeypatch.setenv("MERGING_CACHE", str(tmp_path / "cache"))
    (entry,) = (tmp_path / "cache" / "text_heads").iterdir()
    other = build(clip, ("dog", "cat"))
    assert other.head.shape == (2, 8) and len(list(entry.parent.iterdir())) == 2


def test_only_the_image_tower_is_trained(clip: Path) -> None:
    model = build(clip)
    assert model.training
    for name, parameter in model.named_parameters():
        assert parameter.requires_grad != name.startswith(FROZEN), name


def test_a_model_without_classes_says_so(clip: Path) -> None:
    task = tasks.load(TASK)
    model = task.load_model(str(clip))
    with pytest.raises(CheckpointError, match="this CLIP names no classes"):
        model(pixel_values=torch.zeros(1, 3, 8, 8))


def test_what_is_no_clip_is_refused(tiny_language_model: Path) -> None:
    task = tasks.load(TASK)
    with pytest.raises(CheckpointError, match="is a model of type 'bert'"):
        task.load_model(str(tiny_language_model))
    with pytest.raises(OptionError, match="knows no words"):
        task.build_model(
            model=None, architecture={"model_type": "clip"}, label_names=ANIMALS, dropout=None, seed=0
        )
    with pytest.raises(OptionError, match="CLIP has none to set"):
        task.build_model(
            model=str(tiny_language_model), architecture=None, label_names=ANIMALS, dropout=0.1, seed=0
        )


def test_fishers_are_those_of_single_examples(clip: Path, check_fishers: Callable[..., None]) -> None:
    task = tasks.load(TASK)
    processor, model = task.load_processor(model=str(clip)), build(clip).eval().double()
    rows = rows_of(task.encode({"image": images(3), "label": [0, 2, 1]}, processor, max_tokens=None))

    def log_p(scores: Tensor, labels: Tensor) -> Tensor:
        return scores.log_softmax(-1)[0, labels[0]]

    check_fishers(task, processor, model, rows, log_p)


def test_every_estimator(
    clip: Path, write_images: Callable[..., Path], check_estimators: Callable[..., None]
) -> None:
    """Of a model that names no classes: it takes those of the data."""
    data = write_images("animals", ANIMALS, seed=0)
    check_estimators(TASK, clip, data, refused={"mask_nodes": "names no num_attention_heads"})


def test_coefficients_are_learned_under_the_head_of_each_task(
    clip: Path, write_images: Callable[..., Path], tmp_path: Path
) -> None:
    """AdaMerging of image towers, as it was published."""
    data = {
        name: {"data": write_images(name, classes, seed=seed), "split": "train"}
        for seed, (name, classes) in enumerate({"animals": ANIMALS, "numbers": ("zero", "one")}.items())
    }
    folders = {}
    for name, classes in {"animals": ANIMALS, "numbers": ("zero", "one")}.items():
        model = build(clip, classes)
        with torch.no_grad():
            model.visual_projection.weight += 0.3 * torch.randn(
                model.visual_projection.weight.shape, generator=torch.Generator().manual_seed(len(classes))
            )
        folders[name] = tmp_path / f"model_{name}"
        with quiet():
            model.save_pretrained(folders[name])
            tasks.load(TASK).load_processor(model=str(clip)).save_pretrained(folders[name])
    adapt(
        task_type=TASK,
        base=clip,
        models=folders,
        data=data,
        options={"num_steps": 3, "batch_size": 4, "learning_rate": 0.1},
        seed=0,
        out=tmp_path / "adapted",
    )
    record = json.loads((tmp_path / "adapted" / "adaptation.json").read_text())
    assert record["curve"][0]["entropies"] != record["curve"][2]["entropies"]
    evaluate(
        task_type=TASK,
        model=tmp_path / "adapted",
        data={name: {**its, "split": "test"} for name, its in data.items()},
        options={"bootstrap_samples": 5},
        out=tmp_path / "evaluation",
    )


def test_from_training_to_a_merged_model_that_is_judged(
    clip: Path, write_images: Callable[..., Path], tmp_path: Path
) -> None:
    """Two tasks with classes of their own share one merged model."""
    data = {
        "animals": write_images("animals", ANIMALS, seed=0),
        "numbers": write_images("numbers", ("zero", "one"), seed=1),
    }
    trained, fishers = {}, {}
    for name, folder in data.items():
        trained[name] = tmp_path / f"model_{name}"
        train(
            task_type=TASK,
            model=clip,
            architecture=None,
            data={"data": folder, "split": "train"},
            validation={"data": folder, "split": "test"},
            options={"learning_rate": 0.003, "batch_size": 4, "num_epochs": 4, "best_by": "metric"},
            seed=0,
            out=trained[name],
            work=None,
        )
        fishers[name] = tmp_path / f"fisher_{name}"
        estimate(
            estimator="fisher_exact",
            task_type=TASK,
            model=trained[name],
            data={"data": folder, "split": "train"},
            options={"batch_size": 5},
            seed=0,
            out=fishers[name],
        )
    hessian = StoredHessian(fishers["animals"], label="animals")
    assert hessian.record.label_names == ANIMALS
    assert not any(name.startswith(FROZEN) for name in hessian.checkpoint.tensors)
    config = json.loads((trained["animals"] / "config.json").read_text())
    assert config["architectures"] == ["CLIPModel"] and config["id2label"]["2"] == "big cat"
    before, after = (load_file(folder / "model.safetensors") for folder in (clip, trained["animals"]))
    for name, tensor in before.items():
        assert tensor.equal(after[name]) == name.startswith(FROZEN) or "position" in name, name
    merged = tmp_path / "merged"
    merge_checkpoints(
        method="fisher", options={}, base=clip, models=trained, extras={"hessians": fishers}, out=merged
    )
    assert open_checkpoint(merged, label="merged").tensors.keys() == before.keys()
    evaluate(
        task_type=TASK,
        model=merged,
        data={name: {"data": folder, "split": "test"} for name, folder in data.items()},
        options={"bootstrap_samples": 20},
        out=tmp_path / "evaluation",
    )
    results = json.loads((tmp_path / "evaluation" / "metrics.json").read_text())
    lines = (tmp_path / "evaluation" / "predictions" / "animals.jsonl").read_text().splitlines()
    assert {json.loads(line)["prediction_name"] for line in lines} <= set(ANIMALS)
    assert set(results) == {"animals", "numbers"}
    own = tmp_path / "own"
    evaluate(
        task_type=TASK,
        model=trained["animals"],
        data={"animals": {"data": data["animals"], "split": "train"}},
        options={"bootstrap_samples": 5},
        out=own,
    )
    assert json.loads((own / "metrics.json").read_text())["animals"]["accuracy"]["value"] > 0.6


@pytest.fixture
def write_images(tmp_path: Path) -> Callable[..., Path]:
    """``write_images(name, label_names, seed=...)``: images whose brightness tells the class."""
    import datasets

    def write(name: str, label_names: tuple[str, ...], *, seed: int) -> Path:
        random = np.random.default_rng(seed)
        folder = tmp_path / "images" / name
        sizes = {"train": 24, "test": 8}
        features = datasets.Features(
            {"image": datasets.Image(), "label": datasets.ClassLabel(names=list(label_names))}
        )
        for split, size in sizes.items():
            labels = [row % len(label_names) for row in range(size)]
            pixels = [(random.integers(0, 60, (8, 8, 3)) + 60 * label).astype(np.uint8) for label in labels]
            rows = {"image": [Image.fromarray(image) for image in pixels], "label": labels}
            datasets.Dataset.from_dict(rows, features=features).save_to_disk(folder / split)
        record = {
            "source": name,
            "hub": None,
            "revision": None,
            "content_hash": name,
            "splits": sizes,
            "label_names": list(label_names),
            "columns": ["image", "label"],
        }
        (folder / "source.json").write_text(json.dumps(record))
        return folder

    return write
