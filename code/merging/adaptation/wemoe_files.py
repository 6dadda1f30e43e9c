"""A WEMoE on disk: a folder with the model of task arithmetic, and beside it the gates and task vectors.

Whoever does not know the latter runs the former, which is where the gates started.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file
from torch import Tensor

from merging.adaptation.networks import stored_as
from merging.adaptation.options import WemoeOptions
from merging.adaptation.wemoe import Gate, Mlp, find_mlps, upscale, width_of
from merging.errors import CheckpointError
from merging.options import parse

WEIGHTS_NAME = "wemoe.safetensors"
RECORD_NAME = "wemoe.json"


def save(
    folder: Path, gates: Mapping[str, Gate], vectors: Mapping[str, Tensor], record: Mapping[str, Any]
) -> None:
    """Write gates and task vectors into a model's folder.

    Args:
        folder: of the model.
        gates: in the order of the MLPs.
        vectors: tau of all tasks by name in the model's files, (T, *shape).
        record: ``tasks`` and ``settings``, and what else is to be remembered.
    """
    tensors = {f"vector/{name}": its.cpu().contiguous() for name, its in vectors.items()}
    for number, gate in enumerate(gates.values()):
        for key, its in gate.state_dict().items():
            tensors[f"gate/{number}/{key}"] = its.cpu().contiguous()
    save_file(tensors, folder / WEIGHTS_NAME)
    text = json.dumps({**record, "num_mlps": len(gates)}, indent=2) + "\n"
    (folder / RECORD_NAME).write_text(text, encoding="utf-8")


def restore(network: Any, folder: Path) -> None:
    """Turn a network, loaded from the folder's model, into the WEMoE that lies there, in place, if one does.

    Raises:
        CheckpointError: the network has another number of MLPs, or parameters that are stored otherwise.
    """
    if not (folder / RECORD_NAME).is_file():
        return
    record = json.loads((folder / RECORD_NAME).read_text(encoding="utf-8"))
    options = parse(WemoeOptions, record["settings"], owner="wemoe")
    tensors = load_file(folder / WEIGHTS_NAME)
    mlps = find_mlps(network)
    if len(mlps) != record["num_mlps"]:
        raise CheckpointError(
            f"{folder} has gates for {record['num_mlps']} MLPs, {type(network).__name__} has {len(mlps)}. It "
            "was made for another architecture."
        )
    gates, vectors = {}, {}
    for number, mlp in enumerate(mlps):
        gate = Gate(
            width_of(network, mlp), len(record["tasks"]), options.depth, initial=options.initial, seed=[0]
        )
        start = f"gate/{number}/"
        gate.load_state_dict(
            {key.removeprefix(start): its for key, its in tensors.items() if key.startswith(start)}
        )
        gates[mlp.entry] = gate
        for name, stored in parameter_names(network, mlp).items():
            vectors[name] = tensors[f"vector/{stored}"]
    device = next(network.parameters()).device
    for gate in gates.values():
        gate.to(device).requires_grad_(False)
    vectors = {name: its.to(device) for name, its in vectors.items()}
    upscale(network, vectors, gates, options, offset=options.initial)


def parameter_names(network: Any, mlp: Mlp) -> dict[str, str]:
    """Names of an MLP's parameters: in the network, and in the model's files.

    Raises:
        CheckpointError: one is made of several tensors of the files.
    """
    found = {}
    for linear in mlp.linears:
        for key, _ in network.get_submodule(linear).named_parameters():
            stored = stored_as(network, f"{linear}.{key}")
            if len(stored) != 1:
                raise CheckpointError(
                    f"wemoe: {linear}.{key} is made of {', '.join(stored)} of the model's files, not of one "
                    "tensor. WEMoE needs one to one."
                )
            found[f"{linear}.{key}"] = stored[0]
    return found
