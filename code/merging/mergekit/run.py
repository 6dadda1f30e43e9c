"""Run a mergekit file: find its models, arrange them, merge them with our own engine."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path

from merging import hub
from merging.checkpoints import check_disk_space, write_checkpoint
from merging.compatibility import check_labels, check_vocabularies, read_config, vocabulary_size
from merging.errors import OptionError
from merging.heads import is_head
from merging.mergekit.arrange import Arrangement, Opened, arrange
from merging.mergekit.config import Config, Reference, read_file
from merging.publishing import published_folder
from merging.sources.opening import open_model
from merging.streaming import COPIED_FILES, RECORD_NAME, Call

CONFIG_NAME = "mergekit_config.yml"
"""The copy of the file in the output, under the name that mergekit gives it."""


def merge_file(file: str | os.PathLike[str], *, out: str | os.PathLike[str]) -> None:
    """Merge what a mergekit YAML file says into the model folder ``out``.

    Models are folders, relative to the file or to the working directory, or Hub ids; ``model+adapter`` is a
    model with a LoRA or (IA)3 adapter.

    Raises:
        OptionError: something in the file is unknown, wrong or missing.
        CheckpointError: a model is incomplete or damaged, or they do not fit each other.
        HubError: a model is no folder, and cannot be fetched.
        DiskSpaceError: the output does not fit.
    """
    file, out = Path(file), Path(out)
    config = read_file(file)
    folders = {its: find_model(its, near=file.parent) for its in config.references}
    opened = {its: open_reference(its, folder) for its, folder in folders.items()}
    _merge(config, arrange(config, opened), opened, out)


def find_model(reference: Reference, *, near: Path) -> tuple[Path, Path | None]:
    """The folders of a model and of the adapter on it, downloaded where they are Hub ids.

    Args:
        reference: the model.
        near: folder of the file that names it.

    Raises:
        HubError: no folder, and no Hub id that can be fetched.
        OptionError: a revision of a local folder.
    """
    model = _folder(reference.model, reference.revision, near)
    lora = None if reference.lora is None else _folder(reference.lora, reference.lora_revision, near)
    return model, lora


def _folder(name: str, revision: str | None, near: Path) -> Path:
    for place in (near / name, Path(name)):
        if place.is_dir():
            if revision is not None:
                raise OptionError(f"revision {revision!r} is for Hub ids; {name} is a local folder.")
            return place
    if Path(name).is_absolute() or name.startswith("."):
        raise OptionError(f"there is no folder {name}, neither beside the file nor in the working directory.")
    return hub.model_folder(name, revision)[0]


def open_reference(reference: Reference, folders: tuple[Path, Path | None]) -> Opened:
    """Open a model, with its adapter if it has one.

    Raises:
        CheckpointError: a folder is incomplete or damaged, or the adapter is none of this model.
    """
    folder, lora = folders
    config = read_config(folder, label=str(reference))
    model = open_model(folder, label=str(reference))
    if lora is not None:
        model = open_model(lora, label=str(reference), base=model, base_folder=folder)
    return Opened(model, config, folder)


def _merge(config: Config, arrangement: Arrangement, opened: Mapping[Reference, Opened], out: Path) -> None:
    call = Call.check(
        arrangement.method,
        arrangement.options,
        base=arrangement.template,
        models=arrangement.models,
        extras={},
        policy={"rows": "base"},
    )
    inputs = call.folders(arrangement.template, arrangement.models, {})
    folders = {str(its): opened[its].folder for its in config.merged}
    plan = call.plan(inputs, vocabulary_size=vocabulary_size({"": arrangement.config}))
    heads = [name for name in plan.merged if is_head(name)]
    check_labels({str(its): opened[its].config for its in config.merged}, heads=heads)
    check_vocabularies(folders)
    merge = call.start(plan, inputs, dtype=config.dtype)
    check_disk_space(out, sum(info.num_bytes for info in merge.infos.values()))
    with published_folder(out) as folder:
        write_checkpoint(folder, merge.infos, merge.run)
        for name in COPIED_FILES:
            if (opened[arrangement.owner].folder / name).is_file():
                shutil.copyfile(opened[arrangement.owner].folder / name, folder / name)
        (folder / "config.json").write_text(json.dumps(arrangement.config, indent=2) + "\n")
        record = call.record(plan, merge)
        record["sources"] = {
            str(its): {"folder": str(opened[its].folder), "weights_hash": opened[its].source.digest()}
            for its in config.merged
        }
        (folder / RECORD_NAME).write_text(json.dumps(record, indent=2) + "\n")
        (folder / CONFIG_NAME).write_text(config.text)
