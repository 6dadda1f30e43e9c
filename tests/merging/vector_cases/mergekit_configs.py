"""Whole merges of arcee-ai/mergekit: its configuration, run on the recorded checkpoints."""

import json
import tempfile
from pathlib import Path
from typing import Any

import yaml
from merging.files.checkpoints import open_checkpoint
from merging.mergekit.run import merge_file
from safetensors.torch import save_file
from torch import Tensor

PREFIXES = ("mk_e2e",)


def run(case: Any) -> dict[str, dict[str, Tensor]]:
    """Write the checkpoints and the file, merge, read the result."""
    with tempfile.TemporaryDirectory() as folder:
        for number, rows in enumerate(case.params["architecture"]["vocab"]):
            write_llama(
                Path(folder) / f"m{number}", case.groups[f"in/m{number}"], case.params["architecture"], rows
            )
        file = Path(folder) / "config.yml"
        file.write_text(yaml.safe_dump(case.params["mergekit_config"]))
        merge_file(file, out=Path(folder) / "out")
        merged = open_checkpoint(Path(folder) / "out", label="out")
        return {"theta": {name: merged.read(name) for name in merged.tensors}}


def write_llama(folder: Path, tensors: Any, architecture: Any, num_tokens: int) -> None:
    """A model folder without tokenizer."""
    folder.mkdir()
    save_file(dict(tensors), folder / "model.safetensors")
    config = {
        "model_type": architecture["type"],
        "vocab_size": num_tokens,
        "hidden_size": architecture["hidden"],
        "intermediate_size": architecture["intermediate"],
        "num_hidden_layers": architecture["layers"],
        "num_attention_heads": architecture["heads"],
        "num_key_value_heads": architecture["kv_heads"],
    }
    (folder / "config.json").write_text(json.dumps(config))
