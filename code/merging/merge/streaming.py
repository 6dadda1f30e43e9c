"""Run a merge method over checkpoints, one parameter at a time.

Peak memory is a few float32 copies of a piece for each input and thread, whatever the model's size. Where a
method needs whole parameters, a piece is one (see ``ComputeOptions.max_memory``).
The same code merges tensors in memory (``merge_tensors``) and folders on disk (``merge_checkpoints``).
"""

from __future__ import annotations

import dataclasses
import json
import os
import platform
import shutil
from collections.abc import Callable, Collection, Iterable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from merging import methods
from merging.errors import CheckpointError, OptionError
from merging.files import fingerprint
from merging.files.checkpoints import Checkpoint, TensorInfo, write_checkpoint
from merging.files.journal import key_of
from merging.files.publishing import resumable_folder
from merging.hessians.artifact import StoredHessian
from merging.merge.compatibility import check_labels, check_vocabularies, read_config, vocabulary_size
from merging.merge.compute_options import ComputeOptions
from merging.merge.cost import Cost
from merging.merge.heads import check_folder_names, is_head, write_heads
from merging.merge.layout import may_be_transposed, transposed_weights
from merging.merge.model_card import described, write_card
from merging.merge.output_options import OutputOptions
from merging.merge.policy import Policy
from merging.merge.tensor_merge import Counted, Sink, TensorMerge
from merging.merge.tensor_plan import Plan, make_plan
from merging.options import parse
from merging.schedules import Schedule
from merging.sources import Source
from merging.sources.adapter import AdapterSource
from merging.sources.adapter_folder import is_adapter
from merging.sources.memory import MemoryCheckpoint
from merging.sources.opening import Model, open_model
from merging.sources.statistics import HessianSource, MemoryStatistic, Statistic, WholeModelStatistic
from merging.sources.stored_statistics import as_input, open_stored
from merging.vocabulary.alignment import Alignment, align

if TYPE_CHECKING:
    from torch import Tensor

PathLike = str | os.PathLike[str]

RECORD_NAME = "merge.json"

COPIED_FILES = (
    "config.json",
    "generation_config.json",
    # tokenizers
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.txt",
    "vocab.json",
    "merges.txt",
    "bpe.codes",
    "spiece.model",
    "sentencepiece.bpe.model",
    "tokenizer.model",
    "source.spm",
    "target.spm",
    "chat_template.jinja",
    "chat_template.json",
    # images, video, sound
    "preprocessor_config.json",
    "processor_config.json",
    "video_preprocessor_config.json",
    "feature_extractor_config.json",
)
"""What is taken over from the base: never its weights, optimizer or trainer state, whatever their names."""


def merge_tensors(
    *,
    method: str,
    options: Mapping[str, Any],
    base: Mapping[str, Tensor] | None,
    models: Mapping[str, Mapping[str, Tensor]],
    extras: Mapping[str, Any],
    policy: Mapping[str, Any] | None = None,
    transposed: Collection[str] = (),
) -> dict[str, Tensor]:
    """Merge models that are in memory; as ``merge_checkpoints``, with tensors by name in place of folders.

    Args:
        method: a file in ``merging/methods``.
        options: fields of its ``Options``; see ``merging.schedules``.
        base: tensors of the base by name; None for methods that need none.
        models: tensors of each model by task.
        extras: what else the method asks for, e.g. ``{"hessians": {task: tensors}}``. Curvatures are taken as
            they are: multiply means by the size of the training set where the method wants sums.
        policy: fields of ``merging.merge.policy.Policy``.
        transposed: parameters that are stored as (inputs, outputs); for methods to which it matters.

    Returns:
        The merged tensors by name, in the dtypes of the base (without one: of the first model by name).
    """
    placeholders = {
        key: dict.fromkeys(value, "") if methods.is_by_task(key) else "" for key, value in extras.items()
    }
    call = Call.check(method, options, base, models, placeholders, policy)
    inputs = call.in_memory(base, models, extras)
    plan = call.plan(inputs)
    merge = call.start(plan, inputs, transposed=transposed if call.needs_layout else ())
    return merge.tensors(plan.names)


def merge_checkpoints(
    *,
    method: str,
    options: Mapping[str, Any],
    base: PathLike | None,
    models: Mapping[str, PathLike],
    extras: Mapping[str, Any],
    out: PathLike,
    policy: Mapping[str, Any] | None = None,
    output: Mapping[str, Any] | None = None,
    compute: Mapping[str, Any] | None = None,
    announce: Callable[[Cost], None] | None = None,
) -> None:
    """Merge model folders into a new one.

    What can be checked is checked before the first tensor is merged. ``out`` appears complete or not at all;
    its ``merge.json`` says what was merged from what.

    Args:
        method: a file in ``merging/methods``.
        options: fields of its ``Options``; see ``merging.schedules``.
        base: folder that all models were fine-tuned from. For methods that need none, None makes the first
            model by name give config, dtypes and what is not merged.
        models: folder of each model by task: a whole model, or an adapter of the base.
        extras: what else the method asks for: ``base_hessian``, a Hessian folder, and ``hessians``, one by
            task. Stored means are multiplied by the size of the training set; ``{"hessian": folder, "scale":
            1.0}`` gives another factor.
        out: the folder to make.
        policy: fields of ``merging.merge.policy.Policy``.
        output: fields of ``merging.merge.output_options.OutputOptions``.
        compute: fields of ``merging.merge.compute_options.ComputeOptions``; no part of the result.
        announce: is told what the merge will take before it starts.

    Raises:
        OptionError: see ``merging.methods.check_call``.
        CheckpointError: a folder is incomplete or damaged, or they do not fit each other.
        DiskSpaceError: the output does not fit.
    """
    check_output(Path(out), _folders(method, options, base, models, extras, policy))
    opened = open_merge(
        method=method,
        options=options,
        base=base,
        models=models,
        extras=extras,
        policy=policy,
        output=output,
        compute=compute,
    )
    if announce is not None:
        announce(opened.cost())
    opened.write(out)


def open_merge(
    *,
    method: str,
    options: Mapping[str, Any],
    base: PathLike | None,
    models: Mapping[str, PathLike],
    extras: Mapping[str, Any],
    policy: Mapping[str, Any] | None = None,
    output: Mapping[str, Any] | None = None,
    compute: Mapping[str, Any] | None = None,
) -> OpenMerge:
    """Check and open a merge of model folders, and write nothing.

    Arguments and errors are those of ``merge_checkpoints``.

    Returns:
        Gives merged tensors one by one, or writes them.
    """
    call = Call.check(method, options, base, models, extras, policy)
    folders = {label: Path(folder) for label, folder in call.folders(base, models, extras).items()}
    checkpoints = _open_models(folders)
    with _Digests(checkpoints) as digests:
        return _arrange(call, folders, checkpoints, digests, extras, output=output, compute=compute)


def _arrange(
    call: Call,
    folders: Mapping[str, Path],
    checkpoints: Mapping[str, Model],
    digests: _Digests,
    extras: Mapping[str, Any],
    *,
    output: Mapping[str, Any] | None,
    compute: Mapping[str, Any] | None,
) -> OpenMerge:
    """Decide what happens to every tensor of open models, and whether everything belongs together."""
    homes = {  # of configs and tokenizers
        label: folders["base"] if is_adapter(folder) else folder for label, folder in folders.items()
    }
    configs = {label: read_config(folder, label=label) for label, folder in homes.items()}
    alignment = None
    if call.policy.vocabulary == "error":
        check_vocabularies(homes, by_number=call.policy.rows == "base")
    else:
        alignment = align(
            call.policy.vocabulary,
            checkpoints,
            folders=homes,
            configs=configs,
            base="base" if "base" in folders else None,
        )
    stored, scales = _open_statistics(call.statistics(extras))
    digests.add({label: its.checkpoint for label, its in stored.items()})
    curvatures: dict[str, HessianSource | Statistic] = {
        label: as_input(its, key=_key_of(label), scale=scales[label]) for label, its in stored.items()
    }
    aligned: Mapping[str, Source] = checkpoints
    if alignment is not None:
        aligned = {label: alignment.model(label) for label in checkpoints}
        curvatures = {
            label: HessianSource(
                alignment.curvature(stored[label].checkpoint, _model_of(label)), scale=its.scale
            )
            if isinstance(its, HessianSource)
            else its
            for label, its in curvatures.items()
        }
        configs = {label: alignment.config(config, label) for label, config in configs.items()}
    inputs: dict[str, Source | Statistic] = {**aligned, **curvatures}
    plan = call.plan(inputs, vocabulary_size=vocabulary_size(configs))
    call.schedule.check_filters(plan.names)
    if call.policy.head == "error":
        check_labels(configs, heads=[name for name in plan.merged if is_head(name)])
    hashes = digests.wait()
    for label, hessian in stored.items():
        _check_model(label, hessian, hashes)
    sources = {
        label: {"folder": str(path), "weights_hash": hashes[label]} | _notes(checkpoints[label])
        for label, path in folders.items()
    } | {
        label: dataclasses.asdict(hessian.record) | {"scale": scales[label], "tensors_hash": hashes[label]}
        for label, hessian in stored.items()
    }
    files_from, looked_up = next(iter(folders.values())), call.looks_up(call.template(inputs))
    return OpenMerge(
        call,
        inputs,
        plan,
        sources=sources,
        files_from=files_from,
        heads_from=call.config_folders(folders) if call.policy.head == "per_task" else None,
        alignment=alignment,
        transposed=transposed_weights(files_from, plan.merged) if looked_up else (),
        looked_up=looked_up,
        output=output,
        compute=compute,
    )


class OpenMerge:
    """A merge that was checked and opened: gives tensors in memory, or writes a model folder."""

    def __init__(
        self,
        call: Call,
        inputs: Mapping[str, Source | Statistic],
        plan: Plan,
        *,
        sources: Mapping[str, Any],
        files_from: Path | None = None,
        heads_from: Mapping[str, Path] | None = None,
        alignment: Alignment | None = None,
        transposed: Collection[str] = (),
        looked_up: bool = False,
        output: Mapping[str, Any] | None = None,
        compute: Mapping[str, Any] | None = None,
    ) -> None:
        """Merge what is already open.

        Args:
            call: what ``Call.check`` made.
            inputs: everything that is merged, by label, the template first (``Call.folders``,
                ``Call.statistics`` give the labels).
            plan: what ``call.plan(inputs)`` made.
            sources: what ``merge.json`` says of each input, by label. It names the content: a merge that goes
                on after a kill trusts it, so give hashes of weights (``digest()``).
            files_from: folder whose config and tokenizer the output gets.
            heads_from: folders with the config of each task, whose heads are kept beside the merged body.
            alignment: the joint vocabulary that the inputs were brought to; None: they share one.
            transposed: parameters that are stored as (inputs, outputs).
            looked_up: transformers was asked for them, and takes its memory.
            output: fields of ``OutputOptions``.
            compute: fields of ``ComputeOptions``.
        """
        self.call = call
        self.plan = plan
        self._inputs = inputs
        self._sources = sources
        self.files_from = files_from
        """Folder whose config and tokenizer the output gets."""
        self.heads_from = heads_from
        """Folders whose heads are kept beside the merged body, by task; None: none are."""
        self.alignment = alignment
        """The joint vocabulary that the inputs were brought to, whose tokenizer the output gets."""
        self._looked_up = looked_up
        self.transposed = transposed
        self._output = parse(OutputOptions, output or {}, owner="output")
        self._compute = parse(ComputeOptions, compute or {}, owner="compute")

    @cached_property
    def _merge(self) -> TensorMerge:
        return self.call.start(
            self.plan,
            self._inputs,
            transposed=self.transposed,
            looked_up=self._looked_up,
            dtype=self._output.stored_dtype,
            compute=self._compute,
        )

    @property
    def inputs(self) -> Mapping[str, Source | Statistic]:
        """Everything that is merged, by label."""
        return self._inputs

    @property
    def names(self) -> tuple[str, ...]:
        """All tensors of the output, sorted."""
        return self.plan.names

    @property
    def infos(self) -> Mapping[str, TensorInfo]:
        """Shape and dtype of every tensor of the output."""
        return self._merge.infos

    def cost(self) -> Cost:
        """Memory, disk and reading that it will take; an estimate from headers."""
        return self._merge.cost()

    def tensor(self, name: str) -> Tensor:
        """One merged tensor, in the dtype of the output; see ``TensorMerge.tensor``."""
        return self._merge.tensor(name)

    def run(self, names: Iterable[str], sink: Sink) -> None:
        """Compute tensors of the output piece by piece; see ``TensorMerge.run``."""
        self._merge.run(names, sink)

    def record(self) -> dict[str, Any]:
        """What ``merge.json`` says; complete once every tensor was computed."""
        return self.call.record(self.plan, self._merge) | {"sources": dict(self._sources)}

    def _key(self) -> str:
        """Names everything that the files of the output depend on."""
        call = self.call
        return key_of(
            {
                "method": call.method,
                "options": [call.schedule.record(), call.schedule.given],
                "policy": dataclasses.asdict(call.policy),
                "tasks": call.tasks,
                "plan": dataclasses.asdict(self.plan),
                "transposed": sorted(self.transposed),
                "tensors": {name: dataclasses.asdict(info) for name, info in self.infos.items()},
                "output": dataclasses.asdict(self._output),
                "device": self._compute.device,
                "sources": self._sources,
                "versions": _versions(),
            }
        )

    def write(self, out: PathLike, *, finish: Callable[[Path], None] | None = None) -> None:
        """Write the model folder, which appears complete or not at all.

        A merge that was killed goes on after its last complete file when it is started again.

        Args:
            out: the folder to make.
            finish: called with the folder before it appears; may add files and change what was copied.

        Raises:
            DiskSpaceError: the output does not fit.
        """
        merge = self._merge
        with resumable_folder(out, self._key()) as journal:
            folder = journal.folder
            if journal.state is not None:
                merge.counted.add(Counted.from_json(journal.state))
            write_checkpoint(
                folder,
                self.infos,
                merge.run_shared,
                max_shard_bytes=self._output.max_shard_bytes,
                is_complete=journal.has,
                complete=lambda file: journal.add(file, merge.counted.as_json()),
            )
            if self.files_from is not None:
                _copy_files(self.files_from, folder)
            if self.heads_from is not None:
                write_heads(folder, self.call.models(self._inputs), self.heads_from)
            record = self.record()
            if self.alignment is not None:
                record["vocabulary"] = self.alignment.write(folder)
            record["estimate"] = self.cost().as_json()
            record["output"] = dataclasses.asdict(self._output)
            record["sources"] = described(record["sources"])
            set_dtype(folder / "config.json", self._output.dtype)
            (folder / RECORD_NAME).write_text(json.dumps(record, indent=2) + "\n")
            write_card(folder)
            if finish is not None:
                finish(folder)


def _folders(
    method: str,
    options: Mapping[str, Any],
    base: Any,
    models: Mapping[str, Any],
    extras: Mapping[str, Any],
    policy: Mapping[str, Any] | None,
) -> dict[str, Path]:
    """Every model folder of a call, by label."""
    call = Call.check(method, options, base, models, extras, policy)
    return {label: Path(folder) for label, folder in call.folders(base, models, extras).items()}


@dataclass(frozen=True)
class Call:
    """A merge that was checked as far as options and names go.

    Inputs travel by label: ``base``, ``models['sst2']``, ``hessians['sst2']``; the first of them is the
    template, whose names, dtypes and config the output gets.
    """

    method: str
    module: ModuleType
    schedule: Schedule
    policy: Policy
    tasks: tuple[str, ...]
    """Sorted: the order of a sum matters in the last bits."""

    @classmethod
    def check(
        cls,
        method: str,
        options: Mapping[str, Any],
        base: object,
        models: Mapping[str, object],
        extras: Mapping[str, Any],
        policy: Mapping[str, Any] | None,
    ) -> Call:
        """Check options, names of inputs and tasks; opens nothing."""
        tasks = tuple(sorted(models))
        schedule = methods.check_call(method, options, extras, tasks=tasks, has_base=base is not None)
        rules = parse(Policy, {} if policy is None else policy, owner="policy")
        if rules.head == "per_task":
            check_folder_names(tasks)
        if rules.label_rows is not None and set(rules.label_rows) != set(tasks):
            raise OptionError(
                f"policy: label_rows names {sorted(rules.label_rows)}, but the models are {list(tasks)}."
            )
        return cls(method, methods.load(method), schedule, rules, tasks)

    def folders(self, base: Any, models: Mapping[str, Any], extras: Mapping[str, Any]) -> dict[str, Any]:
        """Every model by label, the template first."""
        found = ({"base": base} if base is not None else {}) | self._by_label("models", models)
        return found | {key: extras[key] for key in sorted(extras) if methods.is_model(key)}

    def statistics(self, extras: Mapping[str, Any]) -> dict[str, Any]:
        """Everything in ``extras`` that is no model, by label."""
        found: dict[str, Any] = {}
        for key in sorted(extras):
            if not methods.is_model(key):
                found |= self._by_label(key, extras[key])
        return found

    def in_memory(
        self, base: Any, models: Mapping[str, Any], extras: Mapping[str, Any]
    ) -> dict[str, Source | Statistic]:
        """Sources of tensors by name."""
        found: dict[str, Source | Statistic] = {
            label: MemoryCheckpoint(tensors, label=label)
            for label, tensors in self.folders(base, models, extras).items()
        }
        for label, values in self.statistics(extras).items():
            if "hessian" in label:
                found[label] = HessianSource(MemoryCheckpoint(values, label=label))
            elif isinstance(values, Mapping):
                found[label] = MemoryStatistic(values, label=label)
            else:
                found[label] = WholeModelStatistic(values, label=label)
        return found

    @property
    def needs_layout(self) -> bool:
        """Whether the method asks which tensors are stored transposed."""
        asks = getattr(self.module, "needs_layout", None)
        return asks is not None and any(map(asks, (self.schedule.common, *self.schedule.variants)))

    def looks_up(self, template: Source) -> bool:
        """Whether transformers has to say which tensors are stored transposed."""
        return self.needs_layout and may_be_transposed(template.tensors)

    def template(self, inputs: Mapping[str, Source | Statistic]) -> Source:
        """The input whose names, shapes and dtypes the output gets."""
        first = next(iter(inputs.values()))
        assert not isinstance(first, Statistic)
        return first

    def plan(self, inputs: Mapping[str, Source | Statistic], *, vocabulary_size: int | None = None) -> Plan:
        """Decide what happens to each tensor; ``vocabulary_size`` as for ``make_plan``."""
        hessians = {label: its for label, its in inputs.items() if isinstance(its, HessianSource)}
        models = self.models(inputs)
        others = {label: its for label, its in inputs.items() if label == "initial"}
        return make_plan(
            self.template(inputs),
            {**models, **others},  # type: ignore[dict-item]
            hessians,
            self.policy,
            vocabulary_size=vocabulary_size,
        )

    def start(
        self,
        plan: Plan,
        inputs: Mapping[str, Source | Statistic],
        *,
        transposed: Collection[str] = (),
        looked_up: bool = False,
        dtype: str | None = None,
        compute: ComputeOptions | None = None,
    ) -> TensorMerge:
        """Begin the merge; the last arguments are those of ``TensorMerge``."""
        template = self.template(inputs)
        by_key: dict[str, Any] = {}
        for key in methods.inputs(self.method):
            if methods.is_by_task(key):
                its = {
                    task: inputs[label_of(key, task)] for task in self.tasks if label_of(key, task) in inputs
                }
                by_key |= {key: its} if its else {}
            elif key in inputs:
                by_key[key] = inputs[key]
        return TensorMerge(
            self.module,
            self.schedule.resolver(template.tensors),
            plan,
            template=template,
            models=self.models(inputs),
            inputs=by_key,
            label_rows=self.policy.label_rows,
            transposed=transposed,
            looked_up=looked_up,
            dtype=dtype,
            compute=compute,
        )

    def record(self, plan: Plan, merge: TensorMerge) -> dict[str, Any]:
        """What ``merge.json`` says, but for the sources; for a merge that gave every tensor."""
        tensors = dataclasses.asdict(plan)
        num_elements = {name: info.num_elements for name, info in merge.infos.items()}
        num_parameters = {kind: sum(num_elements[name] for name in names) for kind, names in tensors.items()}
        record: dict[str, Any] = {
            "method": self.method,
            "options": self.schedule.record(),
            "policy": dataclasses.asdict(self.policy),
            "tasks": list(self.tasks),
            "num_parameters": num_parameters,
            "tensors": tensors,
            "versions": _versions(),
        }
        counted = merge.counted
        if any("hessian" in key for key in methods.inputs(self.method)):
            record["fraction_without_curvature"] = counted.num_without_curvature / max(
                num_parameters["merged"], 1
            )
            record["not_in_hessians"] = list(merge.not_in_hessians)
        if counted.weights.by_task:
            record["combination_weights"] = {
                task: {"min": low, "max": high}
                for task, (low, high) in sorted(counted.weights.by_task.items())
            }
        if counted.reports:
            record["parameters"] = dict(sorted(counted.reports.items()))
        if merge.summary is not None:
            record["summary"] = dataclasses.asdict(merge.summary)
        return record

    def config_folders(self, folders: Mapping[str, Path]) -> dict[str, Path]:
        """Where the config of each task's model lies: an adapter's is its base's."""
        found = {task: folders[label_of("models", task)] for task in self.tasks}
        return {task: folders["base"] if is_adapter(folder) else folder for task, folder in found.items()}

    def models(self, inputs: Mapping[str, Source | Statistic]) -> dict[str, Source]:
        """The models by task, out of all inputs by label."""
        return {task: inputs[label_of("models", task)] for task in self.tasks}  # type: ignore[misc]

    def _by_label(self, key: str, value: Any) -> dict[str, Any]:
        return (
            {label_of(key, task): value[task] for task in self.tasks}
            if methods.is_by_task(key)
            else {key: value}
        )


def label_of(key: str, task: str) -> str:
    """What error messages and ``merge.json`` call an input of one task: ``models['sst2']``."""
    return f"{key}[{task!r}]"


def check_output(out: Path, folders: Mapping[str, Path]) -> None:
    """Refuse to replace an input, or anything that no merge has made."""
    for label, folder in folders.items():
        if out.resolve() == folder.resolve():
            raise OptionError(f"out is the folder of {label}: {out}. Choose another folder.")
    if out.exists() and not (out / RECORD_NAME).is_file() and not (out.is_dir() and not any(out.iterdir())):
        raise OptionError(f"out exists and is no merged model: {out}. Choose another folder, or remove it.")


def set_dtype(path: Path, dtype: str | None) -> None:
    """Let transformers load a model in the dtype that it was stored in; None: as its ``config.json`` says."""
    if dtype is None or not path.is_file():
        return
    config = json.loads(path.read_text())
    key = "torch_dtype" if "torch_dtype" in config else "dtype"  # the name before transformers 5
    path.write_text(json.dumps({**config, key: dtype}, indent=2) + "\n")


def _copy_files(source: Path, folder: Path) -> None:
    for name in COPIED_FILES:
        if (source / name).is_file():
            shutil.copyfile(source / name, folder / name)


def _open_models(folders: Mapping[str, Path]) -> dict[str, Model]:
    """Open model folders by label; adapters become the models that they make of the base."""
    base_folder = folders.get("base")
    base = open_model(base_folder, label="base") if base_folder is not None else None
    return {
        label: base
        if base is not None and label == "base"
        else open_model(folder, label=label, base=base, base_folder=base_folder)
        for label, folder in folders.items()
    }


def _notes(model: Model) -> dict[str, Any]:
    """What an adapter has to say of its base."""
    return {"notes": list(model.notes)} if isinstance(model, AdapterSource) and model.notes else {}


def _open_statistics(
    values: Mapping[str, Any],
) -> tuple[dict[str, StoredHessian], dict[str, float]]:
    """Open Hessian folders, and say by what each curvature is multiplied."""
    stored, scales = {}, {}
    for label, value in values.items():
        given = value if isinstance(value, Mapping) else {"hessian": value}
        stored[label] = open_stored(given["hessian"], label=label, key=_key_of(label))
        default = 1.0 if _key_of(label) == "grams" else stored[label].record.default_scale
        scales[label] = given.get("scale", default)
    return stored, scales


def _key_of(label: str) -> str:
    """The input that a label belongs to: ``hessians`` of ``hessians['sst2']``."""
    return label.partition("[")[0]


def _model_of(label: str) -> str:
    """Label of the model that a statistic is of."""
    key, bracket, task = label.partition("[")
    return "base" if key.startswith("base_") else f"models{bracket}{task}"


def _check_model(label: str, hessian: StoredHessian, hashes: Mapping[str, str]) -> None:
    """Refuse the Hessian of another model."""
    model = _model_of(label)
    found, expected = hessian.record.model_hash, hashes.get(model)
    if expected is None or found == expected:
        return
    if not found.startswith(fingerprint.PREFIX):
        raise CheckpointError(
            f"{label} was estimated by an earlier version, which named models by another hash: whether it "
            f"belongs to {model} cannot be told. Estimate it again."
        )
    shown, wanted = (its.removeprefix(fingerprint.PREFIX)[:12] for its in (found, expected))
    raise CheckpointError(
        f"{label} was estimated at other weights than {model}: its model was {hessian.record.model} with "
        f"the hash {shown}, {model} has {wanted}. Estimate it again, or pass the model it belongs to."
    )


class _Digests:
    """Names of the content of inputs, taken on another thread while this one imports torch."""

    def __init__(self, sources: Mapping[str, Model | Checkpoint]) -> None:
        self._pool = ThreadPoolExecutor(max_workers=1)
        self._futures: dict[str, Future[str]] = {}
        self.add(sources)

    def __enter__(self) -> _Digests:
        return self

    def __exit__(self, *error: object) -> None:
        self._pool.shutdown(cancel_futures=True)

    def add(self, sources: Mapping[str, Model | Checkpoint]) -> None:
        """Begin with more inputs, by label."""
        self._futures |= {label: self._pool.submit(its.digest) for label, its in sources.items()}

    def wait(self) -> dict[str, str]:
        """Every digest by label."""
        return {label: future.result() for label, future in self._futures.items()}


def _versions() -> dict[str, str]:
    """Of what the numbers depend on."""
    from importlib.metadata import version

    packages = {package: version(package) for package in ("model-merging", "torch")}
    return {"python": platform.python_version(), **packages}
