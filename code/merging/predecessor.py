"""The predecessor's command line, carried over to this library.

::

    python3 code/train.py train_config.json
    python3 code/predict.py search_config.json
    python3 code/uncertainty_based_gradient_matching.py --pretrained_model_name_or_path ...
    python3 code/task_arithmetic.py --pretrained_model_name_or_path ...

The parameters are those that were taken there. What differs is mended: see ``NO_MEANING`` and ``ONLY``, and
the notes printed while running. New work is better served by ``merging --help``.
"""

from __future__ import annotations

import json
import re
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from merging.command_line import Parser, read_config
from merging.data import sources
from merging.errors import MergingError, OptionError
from merging.registry import unknown

TASK_TYPES = {"SEQ_CLS": "sequence_classification"}
"""Its task types, in ours."""
TRAIN_METHODS = ("sequence_classification",)
PREDICT_METHODS = ("sequence_classification", "sequence_classification_squared_gradients")

DATASETS = {
    "imdb": "imdb",
    "yelp": "yelp_polarity",
    "yelp_polarity": "yelp_polarity",
    "rotten_tomatoes": "rotten_tomatoes",
    "sst2": "sst2",
    "glue/sst2": "sst2",
    "amazon": "amazon_polarity",
    "amazon_polarity": "amazon_polarity",
}
"""Its data set scripts (``datasets/imdb.py``) and their Hub ids, as rows of ``data/sources.py``."""

OPTIONS: dict[str, tuple[str, type]] = {
    "learning_rate": ("learning_rate", float),
    "per_device_train_batch_size": ("batch_size", int),
    "num_train_epochs": ("num_epochs", int),
    "gradient_accumulation_steps": ("gradient_accumulation_steps", int),
    "warmup_steps": ("warmup_steps", int),
    "lr_scheduler": ("schedule", str),
    "weight_decay": ("weight_decay", float),
    "beta1": ("adam_beta1", float),
    "beta2": ("adam_beta2", float),
    "eps": ("adam_epsilon", float),
    "max_grad_norm": ("max_grad_norm", float),
    "max_input_length": ("max_tokens", int),
    "dropout": ("dropout", float),
}
"""Its training arguments: our option, and its type."""
DEFAULTS = {  # where its defaults are not ours
    "learning_rate": 5e-5,
    "per_device_train_batch_size": 8,
    "num_train_epochs": 3,
    "lr_scheduler": "cosine",
    "beta2": 0.95,
    "eps": 1e-6,
    "max_input_length": 1024,
}
DEFAULT_SEED = 42

NO_MEANING = {
    **dict.fromkeys(("cache_dir", "use_auth_token"), "the Hub's own variables HF_HOME and HF_TOKEN are used"),
    **dict.fromkeys(
        (
            "generation_max_len",
            "generation_beam_size",
            "generation_do_sample",
            "generation_length_penalty",
            "num_return_sequences",
            "max_output_length",
            "predict_with_generate",
        ),
        "classification generates no text",
    ),
    **dict.fromkeys(
        (
            "logging_strategy",
            "logging_steps",
            "logging_dir",
            "save_strategy",
            "save_steps",
            "save_total_limit",
            "evaluation_strategy",
            "eval_strategy",
            "load_best_model_at_end",
            "metric_for_best_model",
            "report_to",
            "disable_tqdm",
        ),
        "progress, checkpoints and the best epoch are taken care of",
    ),
    **dict.fromkeys(("task", "is_training", "track_fim", "do_train", "do_eval"), "it was read nowhere"),
    **dict.fromkeys(("grad_clip", "rho", "normalized_weightdecay", "anneal_steps"), "AdamW never used it"),
    "num_labels": "the data say how many labels there are",
    "dataset_config_name": "the row of the data set in merging/data/sources.py says it",
    "dataset_lowercase_entities": "it is for entity tagging",
    "overwrite_output_dir": "an output is replaced when the new one is complete",
    "dataloader_num_workers": "tokens are cached",
    "remove_unused_columns": "the task type knows its columns",
}
"""Harmless parameters without effect, and why."""
ONLY: dict[str, tuple[tuple[Any, ...], str]] = {
    "optimizer_name": (("AdamW",), "AdamW is the only optimizer."),
    "min_lr": ((0, 0.0), "Choose another lr_scheduler."),
    "use_peft": ((False,), "Merge the adapter into the model first."),
    "load_peft_model": ((False,), "Merge the adapter into the model first."),
    "prompt_prefix": (("",), "Put the prefix into the texts."),
    "model_revision": (
        ("main", None),
        "Run `merging download --model ID --revision COMMIT --out FOLDER` first.",
    ),
    "config_name": ((None,), "Config and weights come from model_name_or_path."),
    "tokenizer_name": ((None,), "The tokenizer comes from model_name_or_path."),
    "dataset_data_files": ((None,), "Give the folder that holds them as dataset_name."),
    "dataset_transformations": ((None, []), "Transform the data beforehand."),
    "dataset_filter_dict": ((None, {}), "Filter the data beforehand."),
}
"""Parameters that may only say what happens anyway: allowed values, and the way out."""
_COMMON = ("model_name_or_path", "method", "dataset_name", "output_dir", "per_device_eval_batch_size", "seed")
_TRAIN = (*_COMMON, "dataset_train_split", "dataset_val_split", *OPTIONS)
_PREDICT = (
    *_COMMON,
    "dataset_test_split",
    "max_input_length",
    "metric_output_file",
    "prediction_output_file",
)


def train(argv: Sequence[str]) -> int:
    """``python3 code/train.py train_config.json``; returns the exit code."""
    return _run(_train, argv)


def predict(argv: Sequence[str]) -> int:
    """``python3 code/predict.py search_config.json``; returns the exit code."""
    return _run(_predict, argv)


def gradient_matching(argv: Sequence[str]) -> int:
    """``python3 code/uncertainty_based_gradient_matching.py --...``; returns the exit code."""
    return _run(_gradient_matching, argv)


def task_arithmetic(argv: Sequence[str]) -> int:
    """``python3 code/task_arithmetic.py --...``; returns the exit code."""
    return _run(_task_arithmetic, argv)


def _run(function: Callable[[Sequence[str]], None], argv: Sequence[str]) -> int:
    try:
        function(argv)
    except MergingError as error:
        sys.stderr.write(f"error: {' '.join(str(error).split())}\n")
        return 2
    return 0


def _train(argv: Sequence[str]) -> None:
    config = _read(
        "train.py", argv, known=_TRAIN, required=("model_name_or_path", "dataset_name", "output_dir")
    )
    _choose("method", config.get("method", TRAIN_METHODS[0]), TRAIN_METHODS)
    options = training_options(config)
    from merging.training.run import train as run

    with _data(config["dataset_name"]) as (folder, splits):
        data, validation = _train_splits(config, folder, splits)
        run(
            task_type="sequence_classification",
            model=config["model_name_or_path"],
            architecture=None,
            data=data,
            validation=validation,
            options=options,
            seed=config.get("seed", DEFAULT_SEED),
            out=config["output_dir"],
            work=f"{str(config['output_dir']).rstrip('/')}.work",
        )
    _note(f"wrote {config['output_dir']}")


def _predict(argv: Sequence[str]) -> None:
    config = _read("predict.py", argv, known=_PREDICT, required=("model_name_or_path", "dataset_name"))
    method = config.get("method", PREDICT_METHODS[0])
    _choose("method", method, PREDICT_METHODS)
    with _data(config["dataset_name"]) as (folder, _):
        data = {"data": folder, "split": config.get("dataset_test_split", "test")}
        if method == "sequence_classification":
            _evaluate(config, data)
        else:
            _squared_gradients(config, data)


def _evaluate(config: Mapping[str, Any], data: Mapping[str, Any]) -> None:
    from merging.evaluation.run import evaluate

    with tempfile.TemporaryDirectory() as out:
        evaluate(
            task_type="sequence_classification",
            model=config["model_name_or_path"],
            data={"test": data},
            options=_portions(config, batch_size=8),
            out=out,
        )
        measured = json.loads((Path(out) / "metrics.json").read_text(encoding="utf-8"))["test"]
        lines = (Path(out) / "predictions" / "test.jsonl").read_text(encoding="utf-8").splitlines()
    metrics = {name: round(entry["value"], 5) for name, entry in measured.items() if isinstance(entry, dict)}
    _note(json.dumps(metrics))
    _write_json(config.get("metric_output_file"), metrics)
    _write_json(config.get("prediction_output_file"), [json.loads(line) for line in lines])


def _squared_gradients(config: Mapping[str, Any], data: Mapping[str, Any]) -> None:
    from merging.hessians.estimate import estimate

    if "output_dir" not in config:
        raise OptionError(
            "predict.py: 'output_dir' must be given for sequence_classification_squared_gradients."
        )
    out = Path(config["output_dir"]) / "hessian"
    estimate(
        estimator="fisher_mc",
        task_type="sequence_classification",
        model=config["model_name_or_path"],
        data=data,
        options=_portions(config, batch_size=8),
        seed=config.get("seed", DEFAULT_SEED),
        out=out,
    )
    _note(f"wrote {out}")


def training_options(config: Mapping[str, Any]) -> dict[str, Any]:
    """Its training arguments as fields of ``TrainingOptions``.

    Raises:
        OptionError: a value that is not of its type.
    """
    options: dict[str, Any] = {}
    for key, (name, kind) in OPTIONS.items():
        value = config.get(key, DEFAULTS.get(key))
        if value is not None:
            options[name] = _typed(key, value, kind)
    return options


def _typed(key: str, value: Any, kind: type) -> Any:
    """JSON knows no difference between 1 and 1.0, so numbers are taken as what they must be."""
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if kind is float and number:
        return float(value)
    if kind is int and number and value == int(value):
        return int(value)
    if kind is str and isinstance(value, str):
        return value
    raise OptionError(f"{key} must be {'a whole number' if kind is int else kind.__name__}, got {value!r}.")


def _portions(config: Mapping[str, Any], *, batch_size: int) -> dict[str, Any]:
    return {
        "batch_size": _typed(
            "per_device_eval_batch_size", config.get("per_device_eval_batch_size", batch_size), int
        ),
        "max_tokens": _typed(
            "max_input_length", config.get("max_input_length", DEFAULTS["max_input_length"]), int
        ),
    }


def _train_splits(config: Mapping[str, Any], folder: str, splits: Sequence[str]) -> tuple[Any, Any]:
    """Training and validation set.

    Where there is no validation split, a tenth of the training set is held out; the predecessor took a slice
    of the test set then.
    """
    train_split = config.get("dataset_train_split", "train")
    validation_split = config.get("dataset_val_split", "validation")
    if validation_split is None:
        return {"data": folder, "split": train_split}, None
    if re.split(r"[\[+]", validation_split)[0] in splits:
        return {"data": folder, "split": train_split}, {"data": folder, "split": validation_split}
    if train_split not in splits:
        raise OptionError(
            f"dataset_val_split {validation_split!r} is no split of {config['dataset_name']}, which has "
            f"{', '.join(splits)}. Name a part of the training set, e.g. 'train[90%:]', or null for none."
        )
    _note(
        f"there is no split {validation_split!r}: the best epoch is chosen on {train_split}[90%:], "
        f"and {train_split}[:90%] is trained on."
    )
    return {"data": folder, "split": f"{train_split}[:90%]"}, {
        "data": folder,
        "split": f"{train_split}[90%:]",
    }


@contextmanager
def _data(name: str) -> Iterator[tuple[str, list[str]]]:
    """A data folder for what it calls a data set, and the names of its splits."""
    from merging.data.download import download_data, read_source

    path = Path(name)
    if (path / "source.json").is_file():
        yield str(path), list(read_source(path)["splits"])
        return
    with tempfile.TemporaryDirectory(prefix="merging-") as folder:
        download_data(**_source(name), out=folder)
        yield folder, list(read_source(folder)["splits"])


def _source(name: str) -> dict[str, str]:
    """Arguments of ``download_data`` for a script, a Hub id, a folder, or a row of ours."""
    path = Path(name)
    if path.suffix == ".py":
        if path.stem not in DATASETS:
            raise OptionError(f"dataset_name {name!r}: {unknown('data set script', path.stem, DATASETS)}")
        return {"source": DATASETS[path.stem]}
    if path.exists():
        return {"source": sources.LOCAL + path.name, "folder": str(path.resolve().parent)}
    if name in DATASETS:
        return {"source": DATASETS[name]}
    if name in sources.names():
        return {"source": name}
    raise OptionError(
        f"dataset_name: {unknown('data set', name, {*DATASETS, *sources.names()})} Or give a folder."
    )


def _gradient_matching(argv: Sequence[str]) -> None:
    parser = _merge_parser("uncertainty_based_gradient_matching.py")
    parser.add_argument("--pretrained_hessian_path", required=True)
    parser.add_argument("--ft_hessian_paths", required=True, nargs="+")
    parser.add_argument("--scaling_factors_ft", required=True, nargs="+", help="sizes of the training sets")
    parser.add_argument(
        "--scaling_factor_pt", type=float, default=1.0, help="size of the base's training set"
    )
    parser.add_argument("--delta_0", type=float, default=1e-12)
    found = _parse(parser, argv)
    models = _by_task(found.ft_model_name_or_paths)
    paths, scales = _listed(found.ft_hessian_paths), _listed(found.scaling_factors_ft)
    for key, values in (("ft_hessian_paths", paths), ("scaling_factors_ft", scales)):
        if len(values) != len(models):
            raise OptionError(
                f"--{key} has {len(values)} values, but there are {len(models)} fine-tuned models."
            )
    hessians = {
        task: {"hessian": _hessian_folder(path), "scale": _number("scaling_factors_ft", scale)}
        for task, path, scale in zip(models, paths, scales, strict=True)
    }
    base_hessian = {
        "hessian": _hessian_folder(found.pretrained_hessian_path),
        "scale": found.scaling_factor_pt,
    }
    options = {"scaling_factor": found.scaling_factor, "delta_0": found.delta_0}
    _merge("gradient_matching", options, found, models, {"base_hessian": base_hessian, "hessians": hessians})


def _task_arithmetic(argv: Sequence[str]) -> None:
    found = _parse(_merge_parser("task_arithmetic.py"), argv)
    models = _by_task(found.ft_model_name_or_paths)
    _merge("task_arithmetic", {"scaling_factor": found.scaling_factor}, found, models, {})


def _merge(
    method: str, options: Mapping[str, Any], found: Any, models: Mapping[str, str], extras: Mapping[str, Any]
) -> None:
    _choose("task_type", found.task_type, (*TASK_TYPES, *TASK_TYPES.values()))
    from merging.streaming import merge_checkpoints

    merge_checkpoints(
        method=method,
        options=options,
        base=found.pretrained_model_name_or_path,
        models=models,
        extras=extras,
        out=found.out_model_path,
    )
    _note(f"wrote {found.out_model_path}")


def _merge_parser(name: str) -> Parser:
    parser = Parser(prog=name, description="Lists are separated by blanks or commas.", allow_abbrev=False)
    parser.add_argument("--pretrained_model_name_or_path", required=True)
    parser.add_argument("--ft_model_name_or_paths", required=True, nargs="+")
    parser.add_argument("--out_model_path", required=True)
    parser.add_argument("--scaling_factor", type=float, default=1.0)
    parser.add_argument("--task_type", default="SEQ_CLS")
    return parser


def _parse(parser: Parser, argv: Sequence[str]) -> Any:
    found, rest = parser.parse_known_args(list(argv))
    if rest:
        flags = [f"--{name}" for name in vars(found)]
        raise OptionError(f"{parser.prog}: {unknown('parameter', rest[0].split('=')[0], flags)}")
    return found


def _listed(values: Sequence[str]) -> list[str]:
    """Values separated by blanks, or by commas as the predecessor wanted them; a path may hold a comma."""
    if len(values) == 1 and not Path(values[0]).exists():
        return [value for value in values[0].split(",") if value]
    return list(values)


def _by_task(paths: Sequence[str]) -> dict[str, str]:
    """Fine-tuned models named by number and folder, so that equal folder names do not collide."""
    return {f"{number:03d}_{Path(path).name}": path for number, path in enumerate(_listed(paths))}


def _hessian_folder(path: str) -> str:
    """It kept Hessians in a folder ``hessian`` below the output of the estimate; both are understood."""
    below = Path(path) / "hessian"
    return str(below) if (below / "hessian.json").is_file() else path


def _number(key: str, text: str) -> float:
    try:
        return float(text)
    except ValueError as error:
        raise OptionError(f"--{key}: {text!r} is no number.") from error


def _read(
    program: str, argv: Sequence[str], *, known: Sequence[str], required: Sequence[str]
) -> dict[str, Any]:
    """Read the JSON file that is the only argument, and refuse or explain what does not count."""
    parser = Parser(prog=program, description=f"Parameters of the JSON file: {', '.join(known)}.")
    parser.add_argument("config", help="JSON file of parameters")
    config = read_config(parser.parse_args(list(argv)).config)
    for key, value in config.items():
        if key in NO_MEANING:
            _note(f"{key} has no effect: {NO_MEANING[key]}.")
        elif key in ONLY:
            allowed, way_out = ONLY[key]
            if value not in allowed:
                raise OptionError(f"{program}: {key} may only be {allowed[0]!r}, got {value!r}. {way_out}")
        elif key not in known:
            raise OptionError(f"{program}: {unknown('parameter', key, {*known, *NO_MEANING, *ONLY})}")
    missing = [key for key in required if config.get(key) is None]
    if missing:
        raise OptionError(f"{program}: {', '.join(map(repr, missing))} must be given in the JSON file.")
    return {key: value for key, value in config.items() if key in known}


def _choose(key: str, value: str, allowed: Sequence[str]) -> None:
    if value not in allowed:
        raise OptionError(unknown(key, value, allowed))


def _write_json(file: str | None, value: Any) -> None:
    if file is not None:
        Path(file).parent.mkdir(parents=True, exist_ok=True)
        Path(file).write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _note(text: str) -> None:
    sys.stderr.write(f"note: {text}\n" if not text.startswith(("wrote", "{")) else f"{text}\n")
