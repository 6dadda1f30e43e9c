"""Its parameters: their names here, those without effect, and those that may say one thing only."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from merging.commands.command_line import Parser, read_config
from merging.errors import OptionError
from merging.predecessor.messages import note
from merging.registry import unknown

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


def read(
    program: str, argv: Sequence[str], *, known: Sequence[str], required: Sequence[str]
) -> dict[str, Any]:
    """Read the JSON file that is the only argument, and refuse or explain what does not count."""
    parser = Parser(prog=program, description=f"Parameters of the JSON file: {', '.join(known)}.")
    parser.add_argument("config", help="JSON file of parameters")
    config = read_config(parser.parse_args(list(argv)).config)
    for key, value in config.items():
        if key in NO_MEANING:
            note(f"{key} has no effect: {NO_MEANING[key]}.")
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


def choose(key: str, value: str, allowed: Sequence[str]) -> None:
    """Raise OptionError unless a parameter has one of the allowed values."""
    if value not in allowed:
        raise OptionError(unknown(key, value, allowed))


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


def portions(config: Mapping[str, Any], *, batch_size: int) -> dict[str, Any]:
    """Batch size and length limit of its evaluations, as fields of our options."""
    return {
        "batch_size": _typed(
            "per_device_eval_batch_size", config.get("per_device_eval_batch_size", batch_size), int
        ),
        "max_tokens": _typed(
            "max_input_length", config.get("max_input_length", DEFAULTS["max_input_length"]), int
        ),
    }


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
