"""Model and Hessian folders made of a few tensors, without transformers."""

import json
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from merging.files.checkpoints import TensorInfo, dtype_name, weights_hash, whole_tensors, write_checkpoint
from merging.hessians.artifact import HessianRecord, write_hessian
from merging.models import quiet
from torch import Tensor

WriteModel = Callable[..., Path]
TOY = {"model_type": "bert", "num_hidden_layers": 0}
"""Of models whose tensors are made up; transformers has to know the architecture."""
WriteHessian = Callable[..., Path]


@pytest.fixture
def write_model(tmp_path: Path) -> WriteModel:
    """``write_model(name, tensors, config={}, max_shard_bytes=...)`` makes a model folder."""

    def write(
        name: str,
        tensors: Mapping[str, Tensor],
        *,
        config: Mapping[str, Any] | None = None,
        max_shard_bytes: int = 10**9,
    ) -> Path:
        folder = tmp_path / name
        folder.mkdir()
        (folder / "config.json").write_text(json.dumps({**TOY, **(config or {})}))
        infos = {key: TensorInfo(dtype_name(its.dtype), tuple(its.shape)) for key, its in tensors.items()}
        write_checkpoint(folder, infos, whole_tensors(tensors.__getitem__), max_shard_bytes=max_shard_bytes)
        return folder

    return write


@pytest.fixture
def write_hessian_of(tmp_path: Path) -> WriteHessian:
    """``write_hessian_of(model, tensors, num_train_examples=...)`` makes a Hessian folder."""

    def write(model: Path, tensors: Mapping[str, Tensor], *, num_train_examples: int = 10) -> Path:
        folder = tmp_path / f"hessian_of_{model.name}"
        folder.mkdir()
        record = HessianRecord(
            estimator="fisher_exact",
            task_type="sequence_classification",
            num_examples=5,
            num_train_examples=num_train_examples,
            model_hash=weights_hash(model),
            model=str(model),
            data=None,
            seed=0,
        )
        write_hessian(folder, tensors, record)
        return folder

    return write


@pytest.fixture
def random_tensors() -> Callable[..., dict[str, Tensor]]:
    """``random_tensors(seed)``: a tiny model of one embedding, one layer, one norm and a head."""

    def make(seed: int, *, dtype: torch.dtype = torch.float32, num_labels: int = 3) -> dict[str, Tensor]:
        generator = torch.Generator().manual_seed(seed)
        shapes = {
            "embedding.weight": (7, 4),
            "layer.weight": (5, 4),
            "layer.bias": (5,),
            "norm.weight": (5,),
            "scale": (),
            "classifier.weight": (num_labels, 5),
            "classifier.bias": (num_labels,),
        }
        return {name: torch.randn(shape, generator=generator).to(dtype) for name, shape in shapes.items()}

    return make


@pytest.fixture(scope="session")
def review_files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as ``folder=`` of local sources: ``reviews/{train,validation,test}.jsonl``, two classes."""
    folder = tmp_path_factory.mktemp("files") / "reviews"
    folder.mkdir()
    for split, size in {"train": 24, "validation": 8, "test": 12}.items():
        rows = [
            {
                "text": f"{'good' if row % 3 else 'bad'} film {'very' * (row % 2)} {row}",
                "label": int(row % 3 > 0),
            }
            for row in range(size)
        ]
        (folder / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder.parent


@pytest.fixture(scope="session")
def reviews(review_files: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data folder of short texts with the labels "0" and "1"."""
    from merging.data.download import download_data

    out = tmp_path_factory.mktemp("data") / "reviews"
    download_data(source="local/reviews", folder=review_files, out=out)
    return out


@pytest.fixture(scope="session")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data folder of the embedded clean digits."""
    from merging.data.download import download_data

    out = tmp_path_factory.mktemp("data") / "digits"
    download_data(source="digits", out=out)
    return out


@pytest.fixture(scope="session")
def write_encoder() -> Callable[..., None]:
    """``write_encoder(folder, words)``: a BERT without a head, and its tokenizer of these words."""
    import transformers
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    def write(
        folder: Path,
        words: Sequence[str],
        *,
        in_pieces: bool = False,
        num_hidden_layers: int = 2,
        intermediate_size: int = 32,
    ) -> None:
        words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *words]
        numbers = {word: number for number, word in enumerate(words)}
        kind = models.WordPiece if in_pieces else models.WordLevel
        tokenizer = Tokenizer(kind(numbers, unk_token="[UNK]"))
        split = pre_tokenizers.BertPreTokenizer if in_pieces else pre_tokenizers.WhitespaceSplit
        tokenizer.pre_tokenizer = split()
        tokenizer.post_processor = processors.TemplateProcessing(
            single="[CLS] $A [SEP]",
            pair="[CLS] $A [SEP] $B:1 [SEP]:1",
            special_tokens=[("[CLS]", 2), ("[SEP]", 3)],
        )
        transformers.PreTrainedTokenizerFast(
            tokenizer_object=tokenizer,
            model_max_length=16,
            pad_token="[PAD]",
            unk_token="[UNK]",
            cls_token="[CLS]",
            sep_token="[SEP]",
        ).save_pretrained(folder)
        config = transformers.BertConfig(
            vocab_size=len(words),
            hidden_size=16,
            num_hidden_layers=num_hidden_layers,
            num_attention_heads=2,
            intermediate_size=intermediate_size,
            max_position_embeddings=16,
        )
        with torch.random.fork_rng(), quiet():
            torch.manual_seed(0)
            transformers.BertModel(config).save_pretrained(folder)

    return write


@pytest.fixture(scope="session")
def tiny_language_model(tmp_path_factory: pytest.TempPathFactory, write_encoder: Callable[..., None]) -> Path:
    """A BERT of two layers with a word-level tokenizer, without a classification head of its own."""
    folder = tmp_path_factory.mktemp("models") / "language_model"
    write_encoder(folder, ["good", "bad", "film", "very", *map(str, range(24))])
    return folder


@pytest.fixture
def vit_architecture() -> dict[str, Any]:
    """Settings of a ViT for 8x8 images."""
    return {
        "model_type": "vit",
        "image_size": 8,
        "patch_size": 4,
        "num_channels": 1,
        "hidden_size": 16,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 32,
    }


@pytest.fixture
def check_fishers() -> Callable[..., None]:
    """``check_fishers(task, processor, model, rows, log_p)``: diagonals are those of examples one by one.

    ``log_p(scores, labels)`` is the log-likelihood of one example's labels, written plainly by the test; it
    may lack a constant. Every estimator is tried, on batches of several sizes, padded or not.
    """
    from merging import hessians, tasks
    from merging.hessians import _distributions
    from merging.hessians._per_example import SquaredGradients

    def check(task: Any, processor: Any, model: Any, rows: list[Any], log_p: Callable[..., Tensor]) -> None:
        distribution = _distributions.load(tasks.label_distribution(task))
        parameters = {name: value for name, value in model.named_parameters() if value.requires_grad}

        def add_squares(sums: dict[str, Tensor], scores: Tensor, labels: Tensor, weight: float = 1.0) -> None:
            gradients = torch.autograd.grad(
                log_p(scores, labels),
                list(parameters.values()),
                retain_graph=True,
                allow_unused=True,
                materialize_grads=True,
            )
            for total, gradient in zip(sums.values(), gradients, strict=True):
                total += weight * gradient.detach() ** 2

        def one_by_one(estimator: str) -> dict[str, Tensor]:
            sums = {name: torch.zeros_like(value) for name, value in parameters.items()}
            for place, row in enumerate(rows):
                batch = task.collate([row], processor)
                labels = batch.pop("labels")
                scores = task.scores(model, batch)
                where = distribution.counted(scores, labels)
                if estimator == "fisher_empirical":
                    add_squares(sums, scores, labels)
                elif estimator == "fisher_mc":
                    for draw in range(2):
                        drawn = distribution.draw(scores.detach(), where, [(7, place, draw)])
                        if scores.dim() == 3:
                            drawn = drawn.where(where, -100)
                        add_squares(sums, scores, drawn, 0.5)
                else:
                    for position in where.nonzero()[:, 1] if scores.dim() == 3 else [None]:
                        for label in range(scores.shape[-1]):
                            only = torch.full_like(labels, -100 if position is not None else label)
                            if position is not None:
                                only[0, position] = label
                            own = (scores[0] if position is None else scores[0, position]).detach()
                            if tasks.label_distribution(task) == "gaussian":  # drawn at +-1: variance 1
                                add_squares(sums, scores, scores.detach() + 1)
                            else:
                                add_squares(sums, scores, only, float(own.softmax(-1)[label]))
            return sums

        for estimator in ("fisher_mc", "fisher_empirical", "fisher_exact"):
            expected = one_by_one(estimator)
            assert any(total.any() for total in expected.values())
            for size in (1, 2, len(rows)):
                squares = SquaredGradients(model, task.scores)
                for start in range(0, len(rows), size):
                    batch = task.collate(rows[start : start + size], processor)
                    cotangents = partial(
                        hessians.load(estimator).cotangents,
                        labels=batch.pop("labels"),
                        examples=list(range(start, min(start + size, len(rows)))),
                        num_samples=2 if estimator == "fisher_mc" else 1,
                        seed=7,
                        distribution=distribution,
                    )
                    squares.add(batch, cotangents)
                # norms and softmax of some models compute in float32 whatever the model is
                torch.testing.assert_close(squares.sums, expected, rtol=1e-4, atol=1e-7)

    return check


@pytest.fixture
def check_estimators(tmp_path: Path) -> Callable[..., None]:
    """``check_estimators(task_type, model, data, refused={name: message})``: all estimators work, or refuse.

    ``data`` is a data folder with a split "train".
    """
    from merging import hessians
    from merging.errors import MergingError
    from merging.hessians.artifact import StoredHessian
    from merging.hessians.estimate import estimate

    def check(task_type: str, model: Path, data: Path, *, refused: Mapping[str, str]) -> None:
        assert refused.keys() <= set(hessians.names())
        for name in hessians.names():
            call = partial(
                estimate,
                estimator=name,
                task_type=task_type,
                model=model,
                data={"data": data, "split": "train"},
                options={"max_tokens": 12, "batch_size": 3, "max_examples": 5},
                seed=0,
                out=tmp_path / name,
            )
            if name in refused:
                with pytest.raises(MergingError, match=refused[name]):
                    call()
                continue
            call()
            hessian = StoredHessian(tmp_path / name, label=name)
            tensors = [hessian.checkpoint.read(key) for key in hessian.checkpoint.tensors]
            assert hessian.record.num_examples == 5 and any(tensor.any() for tensor in tensors)

    return check
