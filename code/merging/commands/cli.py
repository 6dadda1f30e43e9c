"""``merging``: the library from the command line, without a manager."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from merging import explain, hessians, methods
from merging.commands import hessian_commands, merge_commands
from merging.commands import mergekit_command as mergekit
from merging.commands.command_arguments import DATASET, OUT, SEED, TASK_TYPE, data, model
from merging.commands.command_line import (
    Argument,
    Command,
    Parser,
    as_json,
    dataset,
    dataset_or_file,
    parse,
    write,
)
from merging.errors import MergingError, OptionError
from merging.progress import shown
from merging.registry import unknown


def _download(*, source: str | None, model: str | None, out: str, **rest: Any) -> str:
    from merging.data.download import download_data, download_model

    if (source is None) == (model is None):
        raise OptionError("merging download: give exactly one of --source (data) and --model.")
    if source is not None:
        download_data(source=source, out=out, **rest)
    else:
        for name in ("folder", "content_hash"):
            if rest[name] is not None:
                raise OptionError(
                    f"merging download: --{name.replace('_', '-')} is for data, not for a model."
                )
        download_model(model=str(model), out=out, revision=rest["revision"])
    return f"wrote {out}"


def _train(*, out: str, work: str | None, **rest: Any) -> str:
    from merging.training.run import train, work_folder

    with shown(Path(work or work_folder(out)) / "progress.jsonl", sys.stderr):
        train(out=out, work=work, **rest)
    return f"wrote {out}"


def _evaluate(*, out: str, **rest: Any) -> str:
    from merging.evaluation.run import evaluate

    evaluate(out=out, **rest)
    metrics = json.loads((Path(out) / "metrics.json").read_text(encoding="utf-8"))
    return "\n".join([*(_metrics_line(task, values) for task, values in metrics.items()), f"wrote {out}"])


def _predict(*, out: str, **rest: Any) -> str:
    from merging.evaluation.run import predict

    predict(out=out, **rest)
    return f"wrote {out}"


def _report(*, rows: Sequence[Mapping[str, Any]], out: str, options: Mapping[str, Any]) -> str:
    from merging.tables.report import write_report

    write_report(rows=rows, options=options, out=out)
    return (Path(out) / "table.md").read_text(encoding="utf-8") + f"\nwrote {out}"


def _verify(*, model: str, base: str | None) -> str:
    from merging.merge.verification import check, verify

    found = verify(model, base=base)
    write(found.text())
    check(found)
    return "sound"


def _metrics_line(task: str, values: Mapping[str, Any]) -> str:
    """E.g. "yelp: accuracy 91.2 [90.1, 92.3], 800 examples"."""
    from merging.evaluation.metrics import is_share

    shown = []
    for metric, found in values.items():
        if isinstance(found, Mapping):
            scale = 100 if is_share(metric) else 1
            value, low, high = (f"{scale * found[key]:.1f}" for key in ("value", "low", "high"))
            shown.append(f"{metric} {value} [{low}, {high}]")
    return f"{task}: {', '.join(shown)}, {values['num_examples']:,} examples"


def _training_options(known: Mapping[str, Any]) -> type:
    from merging.training.options import TrainingOptions

    return TrainingOptions


def _evaluation_options(known: Mapping[str, Any]) -> type:
    from merging.evaluation.options import EvaluationOptions

    return EvaluationOptions


def _prediction_options(known: Mapping[str, Any]) -> type:
    from merging.evaluation.options import PredictionOptions

    return PredictionOptions


def _table_options(known: Mapping[str, Any]) -> type:
    from merging.tables.rows import TableOptions

    return TableOptions


COMMANDS: tuple[Command, ...] = (
    Command(
        name="download",
        help="Fetch a data set or a model, and write down exactly what it was.",
        arguments=(
            Argument(name="source", help="a known data set, or local/<path>", metavar="NAME"),
            Argument(name="folder", help="where local data sets lie", metavar="FOLDER"),
            Argument(name="content_hash", help="fail unless the data are these", metavar="HASH"),
            Argument(name="model", help="Hub id of a model", metavar="ID"),
            Argument(name="revision", help="commit, branch or tag on the Hub", metavar="COMMIT"),
            OUT,
        ),
        run=_download,
        epilog="example:\n  merging download --source digits_blur --out data/blur",
    ),
    Command(
        name="train",
        help="Fine-tune a model, or train a new one; a killed run goes on when started again.",
        arguments=(
            TASK_TYPE,
            Argument(name="model", help="model folder or Hub id to start from", metavar="FOLDER"),
            Argument(
                name="architecture",
                help='settings of a new model, e.g. {"model_type": "vit"}; instead of --model',
                metavar="JSON",
                read=as_json,
            ),
            data("training set; several joined by a comma"),
            Argument(
                name="validation",
                help="set that chooses the best epoch; without it the last epoch is taken",
                metavar=DATASET,
                read=dataset,
            ),
            SEED,
            OUT,
            Argument(
                name="work",
                help="checkpoints and progress (default: beside --out, removed at the end)",
                metavar="FOLDER",
            ),
            Argument(
                name="checkpoint_steps",
                help="optimizer steps between two checkpoints",
                metavar="INT",
                read=as_json,
                default=500,
            ),
        ),
        run=_train,
        options=_training_options,
        epilog="example:\n  merging train --task-type sequence_classification --model roberta-base \\\n"
        "    --data 'data/yelp:train[:90%]' --validation 'data/yelp:train[90%:]' --max-tokens 384 \\\n"
        "    --learning-rate 1e-5 --batch-size 16 --num-epochs 1 --out models/yelp",
    ),
    hessian_commands.HESSIAN,
    hessian_commands.INSPECT,
    merge_commands.MERGE,
    merge_commands.SEARCH,
    Command(
        name="evaluate",
        help="Evaluate one model on one or more test sets: metrics with intervals, and every prediction.",
        arguments=(
            TASK_TYPE,
            model("model folder"),
            Argument(
                name="data",
                help="test set by task",
                metavar=DATASET,
                read=dataset,
                by_task=True,
                required=True,
            ),
            OUT,
        ),
        run=_evaluate,
        options=_evaluation_options,
        epilog="example:\n  merging evaluate --task-type sequence_classification --model merged \\\n"
        "    --data yelp=data/yelp:test sst2=data/sst2:validation --max-tokens 384 --out results/merged",
    ),
    Command(
        name="predict",
        help="Predict a data set, with labels or without: one JSON line for each example.",
        arguments=(
            TASK_TYPE,
            model("model folder"),
            Argument(
                name="data",
                help="what to predict, or a Parquet, CSV, JSON-lines or Arrow file with text or images",
                metavar=DATASET,
                read=dataset_or_file,
                required=True,
            ),
            Argument(name="out", help="file to write", metavar="FILE", required=True),
        ),
        run=_predict,
        options=_prediction_options,
        epilog="example:\n  merging predict --task-type sequence_classification --model merged \\\n"
        "    --data data/yelp:test --max-tokens 384 --out predictions.jsonl",
    ),
    Command(
        name="verify",
        help="Check a merged model: finite weights, what moved, tokenizer, one forward pass.",
        arguments=(
            model("model folder"),
            Argument(
                name="base",
                help="compare with this model (default: the base that its merge.json names)",
                metavar="FOLDER",
            ),
        ),
        run=_verify,
        leading="model",
        epilog="example:\n  merging verify merged",
    ),
    merge_commands.PUSH,
    Command(
        name="report",
        help="Make a table of evaluations: Markdown, LaTeX, CSV, and a plot.",
        arguments=(
            Argument(
                name="rows",
                help='one JSON object for each evaluation: {"label": ..., "kind": '
                '"base|individual|multitask|merged", "seed": 0, "scaling_factor": 1.0, "evaluation": FOLDER}',
                metavar="JSON",
                read=as_json,
                many=True,
                required=True,
            ),
            OUT,
        ),
        run=_report,
        options=_table_options,
        epilog="example:\n  merging report --config table.json --out results/table",
    ),
)

_EXPLAINED = {
    "methods": (
        "Explain the merge methods: `merging methods` all of them, `merging methods NAME` one.",
        methods.names,
        explain.overview,
        explain.method,
    ),
    "statistics": (
        "Explain what `merging hessian` estimates, and for which inputs of a merge.",
        hessians.names,
        explain.estimators,
        explain.estimator,
    ),
}
"""What explains the members of a registry: help, names, all of them, one of them."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code: 0, 2 with one line on standard error, 130 after Ctrl-C."""
    words = list(sys.argv[1:] if argv is None else argv)
    try:
        return _main(words)
    except MergingError as error:
        sys.stderr.write(f"error: {' '.join(str(error).split())}\n")
        return 2
    except KeyboardInterrupt:
        sys.stderr.write("stopped\n")
        return 130


def _main(words: list[str]) -> int:
    if not words or words[0] in ("-h", "--help"):
        write(_help())
        return 0
    name, *rest = words
    if name in _EXPLAINED:
        return _explain(name, rest)
    commands = {command.name: command for command in COMMANDS}
    if name not in commands:
        raise OptionError(f"merging: {unknown('command', name, [*commands, *_EXPLAINED])}")
    if rest and f"{name} {rest[0]}" in commands:  # e.g. "hessian inspect"
        name, rest = f"{name} {rest[0]}", rest[1:]
    command = commands[name]
    if name == "merge":
        file, rest = mergekit.split_file(rest)
        command = command if file is None else merge_commands.from_mergekit(file)
    values = parse(command, rest)
    if "out" in values:
        _check_free(values["out"])
    write(command.run(**values))
    return 0


def _explain(command: str, words: list[str]) -> int:
    text, names, overview, one = _EXPLAINED[command]
    parser = Parser(prog=f"merging {command}", description=text)
    parser.add_argument("name", nargs="?", metavar="NAME", help=f"one of {', '.join(names())}")
    name = parser.parse_args(words).name
    write(overview() if name is None else one(name))
    return 0


def _check_free(out: str) -> None:
    path = Path(out)
    if path.is_file() or (path.is_dir() and any(path.iterdir())):
        raise OptionError(
            f"{out} exists, and finished results are not overwritten. Choose another --out, or remove it."
        )


def _help() -> str:
    entries = {command.name: command.help.split("\n")[0] for command in COMMANDS}
    entries |= {name: its[0] for name, its in _EXPLAINED.items()}
    width = max(map(len, entries))
    lines = [f"  {name:<{width}}  {text}" for name, text in entries.items()]
    return "\n".join(
        [
            "usage: merging COMMAND [--flag value ...] [--config FILE]",
            "",
            "Model merging without a manager, one step at a time.",
            "",
            *lines,
            "",
            "merging COMMAND --help explains a command.",
            "Instead of flags, everything may stand in one JSON file, under the names of the flags.",
        ]
    )
