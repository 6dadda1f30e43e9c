"""Tiny data and model folders of both task types, in the form that downloads and trainings leave."""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import datasets
import pytest
import torch
import transformers
from merging import tasks
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit

LABELS = ("negative", "positive")
WORDS = [f"w{number}" for number in range(12)]
VIT = {
    "model_type": "vit",
    "hidden_size": 8,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 12,
    "image_size": 8,
    "patch_size": 4,
    "num_channels": 1,
}

WriteTexts = Callable[..., Path]
WriteModel = Callable[..., Path]


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MERGING_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def write_texts(tmp_path: Path) -> WriteTexts:
    """``write_texts(labels)`` makes a data folder with one split, texts of 1 to 9 words."""

    def write(labels: Sequence[int], *, label_names: Sequence[str] = LABELS) -> Path:
        texts = [
            " ".join(WORDS[(7 * row + word) % 12] for word in range(1 + 5 * row % 9))
            for row in range(len(labels))
        ]
        features = datasets.Features(
            {"text": datasets.Value("string"), "label": datasets.ClassLabel(names=list(label_names))}
        )
        folder = tmp_path / "texts"
        datasets.Dataset.from_dict({"text": texts, "label": list(labels)}, features=features).save_to_disk(
            folder / "train"
        )
        record = {
            "source": "texts",
            "hub": None,
            "revision": None,
            "content_hash": f"{list(labels)}",
            "splits": {"train": len(labels)},
            "label_names": list(label_names),
            "columns": ["text", "label"],
        }
        (folder / "source.json").write_text(json.dumps(record))
        return folder

    return write


@pytest.fixture
def write_images(tmp_path: Path) -> Callable[[], Path]:
    """``write_images()`` makes a data folder of 20 digits of 8 x 8 pixels."""

    def write() -> Path:
        import numpy as np
        from PIL import Image

        pixels = np.random.RandomState(0).randint(0, 256, (20, 8, 8)).astype(np.uint8)
        features = datasets.Features(
            {"image": datasets.Image(), "label": datasets.ClassLabel(names=list(LABELS))}
        )
        rows = {
            "image": [Image.fromarray(image) for image in pixels],
            "label": [row % 2 for row in range(20)],
        }
        folder = tmp_path / "images"
        datasets.Dataset.from_dict(rows, features=features).save_to_disk(folder / "train")
        record = {
            "source": "images",
            "hub": None,
            "revision": None,
            "content_hash": "0",
            "splits": {"train": 20},
            "label_names": list(LABELS),
            "columns": ["image", "label"],
        }
        (folder / "source.json").write_text(json.dumps(record))
        return folder

    return write


@pytest.fixture
def write_bert(tmp_path: Path) -> WriteModel:
    """``write_bert(weights={})`` makes a model folder with a tokenizer of 12 words; some weights are set."""

    def write(*, num_labels: int = 2, weights: Mapping[str, float] | None = None) -> Path:
        words = ["[PAD]", "[UNK]", *WORDS]
        tokenizer = Tokenizer(WordLevel({word: place for place, word in enumerate(words)}, unk_token="[UNK]"))
        tokenizer.pre_tokenizer = WhitespaceSplit()
        names = list(LABELS) if num_labels == 2 else [f"class {number}" for number in range(num_labels)]
        config = transformers.BertConfig(
            vocab_size=len(words),
            hidden_size=8,
            num_hidden_layers=1,
            num_attention_heads=2,
            intermediate_size=12,
            max_position_embeddings=16,
            pad_token_id=0,
            id2label=dict(enumerate(names)),
            label2id={name: number for number, name in enumerate(names)},
        )
        with torch.random.fork_rng():
            torch.manual_seed(0)
            model = transformers.BertForSequenceClassification(config)
            with torch.no_grad():
                for parameter in model.parameters():
                    parameter.add_(torch.randn_like(parameter), alpha=0.3)
                for name, value in (weights or {}).items():
                    model.get_parameter(name).fill_(value)
        folder = tmp_path / "bert"
        model.save_pretrained(folder)
        transformers.PreTrainedTokenizerFast(
            tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]", model_max_length=16
        ).save_pretrained(folder)
        return folder

    return write


@pytest.fixture
def write_vit(tmp_path: Path) -> Callable[[], Path]:
    """``write_vit()`` makes a model folder with an image processor."""

    def write() -> Path:
        task = tasks.load("image_classification")
        model = task.build_model(model=None, architecture=VIT, label_names=LABELS, dropout=None, seed=0)
        model.save_pretrained(tmp_path / "vit")
        task.load_processor(model=None, architecture=VIT).save_pretrained(tmp_path / "vit")
        return tmp_path / "vit"

    return write
