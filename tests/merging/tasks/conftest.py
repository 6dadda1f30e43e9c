"""Tiny models of tokens with tokenizers of a few words, and data for them."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from merging.evaluation.run import evaluate, predict
from merging.hessians.estimate import estimate
from merging.merge.streaming import merge_checkpoints
from merging.models import quiet
from merging.training.run import train
from tokenizers import Tokenizer, models, pre_tokenizers, processors

WriteModel = Callable[..., Path]
WriteData = Callable[..., Path]

SPECIAL = ["<pad>", "</s>", "<unk>"]
WORDS = [f"w{number}" for number in range(9)]


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No test of this room writes into the user's cache."""
    monkeypatch.setenv("MERGING_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def write_language_model(tmp_path: Path) -> WriteModel:
    """``write_language_model("t5")`` makes a model folder; also "bart", "gpt2" and "llama".

    T5 and BART end texts with ``</s>`` (1); GPT-2 has no padding token, and adds nothing to a text.
    """

    def write(kind: str, *, name: str | None = None, seed: int = 0, scale: float = 1.0) -> Path:
        folder = tmp_path / (name or kind)
        words = [*SPECIAL, *WORDS]
        tokenizer = Tokenizer(
            models.WordLevel({word: id for id, word in enumerate(words)}, unk_token="<unk>")
        )
        tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
        special = {"eos_token": "</s>", "unk_token": "<unk>"}
        if kind in ("t5", "bart"):
            tokenizer.post_processor = processors.TemplateProcessing(
                single="$A </s>", special_tokens=[("</s>", 1)]
            )
            special["pad_token"] = "<pad>"
        transformers.PreTrainedTokenizerFast(
            tokenizer_object=tokenizer, model_max_length=16, **special
        ).save_pretrained(folder)
        with torch.random.fork_rng(), quiet():
            torch.manual_seed(seed)
            model = build(kind, len(words))
            with torch.no_grad():
                for parameter in model.parameters():  # far from the start, where much is zero or one
                    parameter.mul_(scale).add_(torch.randn_like(parameter), alpha=0.2)
            model.save_pretrained(folder)
        return folder

    return write


def build(kind: str, vocabulary: int) -> Any:
    common: dict[str, Any] = {"vocab_size": vocabulary, "eos_token_id": 1}
    if kind == "t5":
        config: Any = transformers.T5Config(
            **common,
            d_model=8,
            d_kv=4,
            d_ff=12,
            num_layers=1,
            num_heads=2,
            relative_attention_num_buckets=4,
            relative_attention_max_distance=8,
            feed_forward_proj="gated-gelu",
            decoder_start_token_id=0,
            dropout_rate=0.0,
        )
        return transformers.T5ForConditionalGeneration(config)
    if kind == "bart":
        config = transformers.BartConfig(
            **common,
            d_model=8,
            encoder_layers=1,
            decoder_layers=1,
            encoder_attention_heads=2,
            decoder_attention_heads=2,
            encoder_ffn_dim=12,
            decoder_ffn_dim=12,
            max_position_embeddings=20,
            pad_token_id=0,
            bos_token_id=None,
            decoder_start_token_id=1,
            forced_eos_token_id=None,
        )
        return transformers.BartForConditionalGeneration(config)
    if kind == "gpt2":
        config = transformers.GPT2Config(
            **common, bos_token_id=1, n_embd=8, n_layer=1, n_head=2, n_positions=20
        )
        return transformers.GPT2LMHeadModel(config)
    config = transformers.LlamaConfig(
        **common,
        bos_token_id=1,
        hidden_size=8,
        intermediate_size=12,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=20,
    )
    return transformers.LlamaForCausalLM(config)


@pytest.fixture
def write_data(tmp_path: Path) -> WriteData:
    """``write_data("name", {"train": rows})`` makes a data folder from rows with our columns."""

    def write(name: str, splits: Mapping[str, Sequence[Mapping[str, Any]]]) -> Path:
        from merging.data.download import download_data

        files = tmp_path / "files" / name
        files.mkdir(parents=True)
        for split, rows in splits.items():
            text = "".join(json.dumps(row) + "\n" for row in rows)
            (files / f"{split}.jsonl").write_text(text)
        out = tmp_path / "data" / name
        download_data(source=f"local/{name}", folder=tmp_path / "files", out=out)
        return out

    return write


@dataclass(frozen=True)
class Experiment:
    """Folders of a small experiment: by task, and what was merged of them."""

    task_type: str
    place: Path
    data: Mapping[str, Path]
    models: Mapping[str, Path]
    fishers: Mapping[str, Path]
    merged: Path

    def judge(self, model: Path) -> dict[str, Any]:
        """Metrics of a model on the test split of every task; predictions lie in ``place``."""
        evaluate(
            task_type=self.task_type,
            model=model,
            data={name: {"data": folder, "split": "test"} for name, folder in self.data.items()},
            options={"max_tokens": 8, "bootstrap_samples": 20},
            out=self.place / f"evaluation_{model.name}",
        )
        found: dict[str, Any] = json.loads(
            (self.place / f"evaluation_{model.name}" / "metrics.json").read_text()
        )
        return found

    def predictions(self, model: Path, task: str) -> list[dict[str, Any]]:
        """What ``judge`` wrote of one task, an example each."""
        file = self.place / f"evaluation_{model.name}" / "predictions" / f"{task}.jsonl"
        return [json.loads(line) for line in file.read_text().splitlines()]

    def predict(self, row: Mapping[str, Any]) -> dict[str, Any]:
        """What the merged model says of an example without a label."""
        (self.place / "new.jsonl").write_text(json.dumps(row) + "\n")
        out = self.place / "predictions.jsonl"
        predict(
            task_type=self.task_type,
            model=self.merged,
            data=self.place / "new.jsonl",
            options={"max_tokens": 8},
            out=out,
        )
        found: dict[str, Any] = json.loads(out.read_text())
        return found


@pytest.fixture
def experiment(tmp_path: Path, write_data: WriteData) -> Callable[..., Experiment]:
    """``experiment(task_type, start, {task: rows})``: fine-tunes, estimates Fishers, and merges by them."""

    def run(
        task_type: str,
        start: Path,
        rows: Mapping[str, Sequence[Mapping[str, Any]]],
        *,
        num_test: int,
        max_examples: int | None = None,
        **training: Any,
    ) -> Experiment:
        data, models, fishers = {}, {}, {}
        for name, its in rows.items():
            data[name] = write_data(name, {"train": its, "test": its[:num_test]})
            models[name], fishers[name] = tmp_path / f"model_{name}", tmp_path / f"fisher_{name}"
            train(
                task_type=task_type,
                model=start,
                architecture=None,
                data={"data": data[name], "split": "train"},
                validation={"data": data[name], "split": "test"},
                options={"batch_size": 4, "max_tokens": 8, "best_by": "metric", **training},
                seed=0,
                out=models[name],
                work=None,
            )
            estimate(
                estimator="fisher_mc",
                task_type=task_type,
                model=models[name],
                data={"data": data[name], "split": "train"},
                options={"max_tokens": 8, "batch_size": 5, "max_examples": max_examples},
                seed=0,
                out=fishers[name],
            )
        merged = tmp_path / "merged"
        merge_checkpoints(
            method="fisher", options={}, base=None, models=models, extras={"hessians": fishers}, out=merged
        )
        return Experiment(task_type, tmp_path, data, models, fishers, merged)

    return run
