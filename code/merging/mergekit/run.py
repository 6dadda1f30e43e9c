"""Run a mergekit file: find its models, arrange them, merge them with our own engine."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from merging.errors import OptionError
from merging.files import hub
from merging.merge.compatibility import check_labels, check_vocabularies, read_config, vocabulary_size
from merging.merge.cost import Cost
from merging.merge.heads import is_head
from merging.merge.streaming import Call, OpenMerge, check_output, label_of, set_dtype
from merging.mergekit import chat_template, translate
from merging.mergekit.arrange import Arrangement, Opened, arrange
from merging.mergekit.config import Config, Reference, read_file
from merging.mergekit.vocabulary import join, truncate
from merging.sources.opening import open_model
from merging.vocabulary.alignment import Alignment
from merging.vocabulary.tokenizer import TOKENIZER_FILES

CONFIG_NAME = "mergekit_config.yml"
"""The copy of the file in the output, under the name that mergekit gives it."""


_MATCHING = "Write 'tokenizer_source: base' or 'tokenizer_source: union' to match them by token."


def merge_file(
    file: str | os.PathLike[str],
    *,
    out: str | os.PathLike[str],
    output: Mapping[str, Any] | None = None,
    compute: Mapping[str, Any] | None = None,
    announce: Callable[[Cost], None] | None = None,
) -> None:
    """Merge what a mergekit YAML file says into the model folder ``out``.

    Models are folders, relative to the file or to the working directory, or Hub ids; ``model+adapter`` is a
    model with a LoRA or (IA)3 adapter.

    Args:
        file: the YAML file.
        out: the folder to make.
        output: fields of ``merging.merge.output_options.OutputOptions``; its dtype wins over the file's.
        compute: fields of ``merging.merge.compute_options.ComputeOptions``.
        announce: is told what the merge will take before it starts.

    Raises:
        OptionError: something in the file is unknown, wrong or missing.
        CheckpointError: a model is incomplete or damaged, or they do not fit each other.
        HubError: a model is no folder, and cannot be fetched.
        DiskSpaceError: the output does not fit.
    """
    file = Path(file)
    config = read_file(file)
    output = {"dtype": config.dtype, **(output or {})}
    translate.check_parameters(config)  # before anything is downloaded
    chat_template.check(config.chat_template)
    folders = {its: find_model(its, near=file.parent) for its in config.merged}
    _check_spelling(folders)
    check_output(Path(out), {str(its): folder for its, (folder, _) in folders.items()})
    opened = {its: open_reference(its, folders[its]) for its in config.merged}
    tokenizer = _tokenizer_folder(config, opened, near=file.parent)
    alignment = None
    owner = config.owner
    if config.tokenizer is not None:
        assert tokenizer is not None
        alignment, opened = join(config, opened, tokenizer=tokenizer)
    else:
        check_vocabularies(
            {str(its): model.folder for its, model in opened.items()}, by_number=True, advice=_MATCHING
        )
        if not translate.uses_base(config):
            opened = truncate(opened)
    arrangement = arrange(config, opened)
    merge = _open(config, arrangement, opened, alignment, output=output, compute=compute)

    def finish(folder: Path) -> None:
        (folder / "config.json").write_text(json.dumps(arrangement.config, indent=2) + "\n")
        set_dtype(folder / "config.json", output["dtype"])
        if alignment is None and tokenizer is not None and tokenizer != opened[owner].folder:
            _copy_tokenizer(tokenizer, folder)
        chat_template.write(config.chat_template, folder, [its.folder for its in opened.values()])
        (folder / CONFIG_NAME).write_text(config.text)

    if announce is not None:
        announce(merge.cost())
    merge.write(out, finish=finish)


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
    return Opened(model, config, folder, model.digest())


def _folder(name: str, revision: str | None, near: Path) -> Path:
    for place in (near / name, Path(name)):
        if place.is_dir():
            if revision is not None:
                raise OptionError(f"revision {revision!r} is for Hub ids; {name} is a local folder.")
            return place
    if Path(name).is_absolute() or name.startswith("."):
        raise OptionError(f"there is no folder {name}, neither beside the file nor in the working directory.")
    return hub.model_folder(name, revision)[0]


def _check_spelling(folders: Mapping[Reference, tuple[Path, Path | None]]) -> None:
    """Refuse one model under two names: a base under another name would count as one of the models.

    Raises:
        OptionError: two references are the same folders.
    """
    seen: dict[tuple[Path, Path | None], Reference] = {}
    for reference, (model, lora) in folders.items():
        other = seen.setdefault((model.resolve(), lora and lora.resolve()), reference)
        if other != reference:
            raise OptionError(f"{other} and {reference} are the same model. Write it in one way.")


def _tokenizer_folder(config: Config, opened: Mapping[Reference, Opened], *, near: Path) -> Path | None:
    """Where the tokenizer lies that the output's is made from; None if the file does not say."""
    if config.tokenizer is None:
        return None
    if isinstance(config.tokenizer.source, str):
        return opened[config.owner].folder
    model = config.tokenizer.source
    return opened[model].folder if model in opened else find_model(model, near=near)[0]


def _open(
    config: Config,
    arrangement: Arrangement,
    opened: Mapping[Reference, Opened],
    alignment: Alignment | None,
    *,
    output: Mapping[str, Any],
    compute: Mapping[str, Any] | None,
) -> OpenMerge:
    call = Call.check(
        arrangement.method,
        arrangement.options,
        base=arrangement.base,
        models=arrangement.models,
        extras={},
        policy={"rows": "base" if config.tokenizer is None and arrangement.base is not None else "error"},
    )
    inputs: dict[str, Any] = {} if arrangement.base is None else {"base": arrangement.base}
    inputs |= {label_of("models", task): its for task, its in arrangement.models.items()}
    plan = call.plan(inputs, vocabulary_size=vocabulary_size({"": arrangement.config}))
    check_labels(
        {str(its): model.config for its, model in opened.items()},
        heads=[name for name in plan.merged if is_head(name)],
    )
    sources = {
        str(its): {"folder": str(model.folder), "weights_hash": model.digest} for its, model in opened.items()
    }
    return OpenMerge(
        call,
        inputs,
        plan,
        sources={**sources, "mergekit": config.text},
        files_from=opened[config.owner].folder,
        alignment=alignment,
        output=output,
        compute=compute,
    )


def _copy_tokenizer(source: Path, folder: Path) -> None:
    for name in TOKENIZER_FILES:
        (folder / name).unlink(missing_ok=True)
        if (source / name).is_file():
            shutil.copyfile(source / name, folder / name)
