"""The Hessian folder: ``hessian.safetensors``, ``hessian.json`` and a plot of it; light to import.

The tensors are float32 and means, under the names that the parameters have in the model's own safetensors
files; tied ones appear once, frozen ones not at all. By ``statistic`` of the record:

    diagonal     <parameter>            its shape     mean over examples
    gram         <parameter>/inputs     (i, i)        mean over positions of a a^T, a = input of the layer
    kfac         <parameter>/inputs     (i, i)        the same
                 <parameter>/outputs    (o, o)        of g g^T, g = gradient at the output; see ``kfac_scale``
                 With ``kfac_bias`` inputs are (i + 1, i + 1) for the weights in ``biases``: a 1 follows a.
    block        <parameter>            (d, d)        mean over examples, of a vector of d elements
    mask_nodes   heads                  (layers, heads)               mean over examples
                 neurons                (layers, intermediate size)   the same
"""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

from merging.errors import CheckpointError
from merging.files.checkpoints import Checkpoint
from merging.hessians.report import Report

if TYPE_CHECKING:
    from torch import Tensor

TENSORS_NAME = "hessian.safetensors"
RECORD_NAME = "hessian.json"
PLOT_NAME = "hessian.png"

Statistic = Literal["diagonal", "gram", "kfac", "block", "mask_nodes"]
"""What the tensors of a folder are."""
INPUTS, OUTPUTS = "/inputs", "/outputs"
"""What follows the name of a parameter in the name of a factor."""
HEADS, NEURONS = "heads", "neurons"
"""The two tensors of mask nodes."""


@dataclass(frozen=True, kw_only=True)
class HessianRecord:
    """What ``hessian.json`` says: what the tensors are, and of what."""

    estimator: str
    task_type: str
    num_examples: int
    """Examples that the mean is over."""
    num_train_examples: int
    """Examples in the training set; merges multiply the mean by it."""
    model_hash: str
    """``merging.files.checkpoints.weights_hash`` of the model."""
    model: str
    """Folder of the model, for people."""
    data: Any
    """Provenance of the training set; see ``merging.data.splits.describe``."""
    seed: int
    """Of the choice of examples and of drawn labels."""
    options: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    """Options of the estimate, defaults included."""
    label_names: tuple[str, ...] = ()
    """Classes of the model's head, in order."""
    without_gradient: tuple[str, ...] = ()
    """Parameters that no example used; they are 0."""
    by_vmap: tuple[str, ...] = ()
    """Parameters (named as in the loaded model) whose layer has no rule."""
    by_loop: tuple[str, ...] = ()
    """Parameters (named as in the loaded model) that were done one example at a time."""
    seconds: float = 0.0
    """Time of the estimate, loading included."""
    versions: Mapping[str, str] = dataclasses.field(default_factory=dict)
    """Of the packages that the numbers depend on."""
    reduction: str = "mean"
    statistic: Statistic = "diagonal"
    """What the tensors are; see the top of this file."""
    transposed: tuple[str, ...] = ()
    """Of ``gram`` and ``kfac``: weights that are stored as (inputs, outputs), as GPT-2's Conv1D does."""
    biases: Mapping[str, str] = dataclasses.field(default_factory=dict)
    """Of ``kfac`` with ``kfac_bias``: the bias that is the last input, by weight."""
    num_positions: Mapping[str, int] = dataclasses.field(default_factory=dict)
    """Of ``gram`` and ``kfac``: positions that the mean of each weight is over."""
    uncovered: Mapping[str, str] = dataclasses.field(default_factory=dict)
    """Weights of linear layers and convolutions that have no factors, and why."""
    report: Report = dataclasses.field(default_factory=Report)
    """How good the estimate is; empty where it was not made by examples, or by an earlier version."""

    def __post_init__(self) -> None:
        if self.statistic not in get_args(Statistic):
            raise ValueError(
                f"statistic is {self.statistic!r}, but must be one of {', '.join(get_args(Statistic))}"
            )

    @property
    def default_scale(self) -> float:
        """By what merges multiply the curvature, unless they are told otherwise.

        The size of the training set for means over examples. 1 for Gram matrices and mask nodes, which only
        weigh models against each other, and for factors that are normalised by tokens twice.
        """
        weighs_only = self.statistic in ("gram", "mask_nodes")
        by_tokens = self.statistic == "kfac" and self.options.get("kfac_scale") == "reference"
        return 1.0 if weighs_only or by_tokens else float(self.num_train_examples)


class StoredHessian:
    """A Hessian folder, read tensor by tensor."""

    def __init__(self, folder: str | os.PathLike[str], *, label: str) -> None:
        """Read the record and the header; ``label`` names the folder in error messages.

        Raises:
            CheckpointError: this is no Hessian folder, or it is damaged.
        """
        folder = Path(folder)
        for name in (RECORD_NAME, TENSORS_NAME):
            if not (folder / name).is_file():
                missing = f"it has no {name}" if folder.is_dir() else "there is no such folder"
                raise CheckpointError(
                    f"{label}: {folder} is no Hessian folder: {missing}. "
                    "Estimate one (`merging hessian`, HessianJob)."
                )
        try:
            self.record = _parse(json.loads((folder / RECORD_NAME).read_text()))
        except (ValueError, TypeError, AttributeError) as error:
            raise CheckpointError(
                f"{label}: {folder / RECORD_NAME} is damaged: {error}. Estimate it again."
            ) from error
        self.checkpoint = Checkpoint([folder / TENSORS_NAME], label=label)


def _parse(record: Mapping[str, Any]) -> HessianRecord:
    """Read what ``hessian.json`` holds; JSON knows no tuples, fields of strings are."""
    lists = {field.name for field in dataclasses.fields(HessianRecord) if field.default == ()}
    values: dict[str, Any] = {key: tuple(value) if key in lists else value for key, value in record.items()}
    if isinstance(uncovered := values.get("uncovered"), list):  # earlier versions gave no reasons
        values["uncovered"] = dict.fromkeys(uncovered, "")
    return HessianRecord(**{**values, "report": Report.parse(record.get("report", {}))})


def folders_of(folder: str | os.PathLike[str]) -> dict[str, Path]:
    """Hessian folders in a folder that is none itself, by name: what an estimate of several statistics is."""
    folder = Path(folder)
    if (folder / RECORD_NAME).is_file() or not folder.is_dir():
        return {}
    return {path.parent.name: path.parent for path in sorted(folder.glob(f"*/{RECORD_NAME}"))}


def write_hessian(folder: Path, tensors: Mapping[str, Tensor], record: HessianRecord) -> None:
    """Write the two files into an existing folder; who calls it publishes the folder."""
    write_tensors(folder, tensors)
    write_record(folder, record)


def write_tensors(folder: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write ``hessian.safetensors`` into an existing folder."""
    from safetensors.torch import save_file

    save_file(
        {name: tensor.float().cpu().contiguous() for name, tensor in tensors.items()},
        folder / TENSORS_NAME,
        metadata={"format": "pt"},
    )


def write_record(folder: Path, record: HessianRecord) -> None:
    """Write ``hessian.json`` into an existing folder."""
    (folder / RECORD_NAME).write_text(json.dumps(dataclasses.asdict(record), indent=2) + "\n")
