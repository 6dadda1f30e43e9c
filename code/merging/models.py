"""Hugging Face models and processors: found, built, loaded, with errors that say what to do.

Shared by the task types. A model is named by a folder or by a Hub id; what exists on disk is a folder.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from merging.errors import CheckpointError, OptionError
from merging.files import hub
from merging.files.checkpoints import INDEX_NAME, WEIGHTS_NAME, current_name, open_checkpoint
from merging.registry import unknown
from merging.sources.adapter_folder import PREFIX, is_adapter, read_adapter_config

if TYPE_CHECKING:
    import transformers
    from torch import Tensor

_DROPOUT_FIELDS = (
    "hidden_dropout_prob",
    "attention_probs_dropout_prob",
    "classifier_dropout",
    "hidden_dropout",
    "attention_dropout",
    "activation_dropout",
    "seq_classif_dropout",
    "dropout",
    "dropout_rate",
    "embd_pdrop",
    "attn_pdrop",
    "resid_pdrop",
    "summary_first_dropout",
)

_ADAPTER_NAME = re.compile(r"\.default(?=\.|$)")
"""What peft calls an adapter in a model's parameters, and leaves out in files."""

_PROCESSOR_FILES = {
    "AutoTokenizer": (
        "tokenizer.json",
        "vocab.txt",
        "vocab.json",
        "tokenizer.model",
        "spiece.model",
        "sentencepiece.bpe.model",
    ),
    "AutoImageProcessor": ("preprocessor_config.json", "processor_config.json"),
}


def locate(model: str | os.PathLike[str]) -> str:
    """Return the folder of the model, or of the adapter, or its Hub id unchanged.

    Raises:
        CheckpointError: a path that does not exist, or a folder without ``config.json``.
    """
    name = os.fspath(model)
    folder = Path(name)
    if folder.is_dir():
        if not (folder / "config.json").is_file() and not is_adapter(folder):
            raise CheckpointError(
                f"{name} is no model folder: it has no config.json, but "
                f"{', '.join(sorted(entry.name for entry in folder.iterdir())[:10]) or 'nothing'}. "
                "Give the folder that save_pretrained wrote."
            )
        return name
    if folder.is_absolute() or name.count("/") > 1 or name.startswith(".") or folder.exists():
        raise CheckpointError(f"no model folder at {name}. Give a folder with config.json, or a Hub id.")
    return name


def read_config(name: str) -> transformers.PretrainedConfig:
    """Return the configuration of a model folder or Hub id; of an adapter, that of its base.

    Raises:
        CheckpointError: ``config.json`` cannot be read.
        HubError: a Hub id that could not be fetched.
    """
    from transformers import AutoConfig

    name = _base_of(name)
    hub.check_model(name)
    try:
        return AutoConfig.from_pretrained(name)
    except (OSError, ValueError, KeyError) as error:
        if not Path(name).is_dir():
            raise hub.hub_error(name, error) from error
        raise CheckpointError(f"{name}/config.json cannot be read: {error}. Copy it again.") from error


def config_for(architecture: Mapping[str, Any]) -> transformers.PretrainedConfig:
    """Return the configuration of a model with random weights.

    Raises:
        OptionError: ``model_type`` is missing or unknown, or a field does not exist in its configuration.
    """
    from transformers import AutoConfig
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    if "model_type" not in architecture:
        raise OptionError(
            'architecture: missing "model_type", e.g. {"model_type": "vit", "hidden_size": 64}.'
        )
    model_type = architecture["model_type"]
    if model_type not in CONFIG_MAPPING:
        raise OptionError(f"architecture: {unknown('model_type', model_type, CONFIG_MAPPING.keys())[:600]}")
    known = set(CONFIG_MAPPING[model_type]().to_dict())
    for key in architecture:
        if key not in known:
            raise OptionError(f"architecture: {unknown(f'{model_type} field', key, known)}")
    return AutoConfig.for_model(**architecture)


def build_classifier(
    auto_class: str,
    *,
    model: str | None,
    architecture: Mapping[str, Any] | None,
    label_names: Sequence[str],
    dropout: float | None,
    seed: int,
    problem_type: str = "single_label_classification",
) -> transformers.PreTrainedModel:
    """Return a classifier to be trained; see :meth:`merging.tasks.TaskType.build_model`.

    ``problem_type`` is what transformers calls the loss: "regression" is the squared error of one score for
    each of ``label_names``.

    Raises:
        OptionError: both or none of ``model`` and ``architecture``; dropout for a model without such a field.
        CheckpointError: the model's head has other label names, or its weights are damaged.
    """
    loaded, missing = _build(
        auto_class,
        model=model,
        architecture=architecture,
        dropout=dropout,
        seed=seed,
        prepare=lambda config: _name_labels(config, label_names, problem_type, model or "architecture"),
    )
    trunk = [name for name in missing if name.startswith(f"{loaded.base_model_prefix}.")]
    if any(not _is_pooler(name) for name in trunk):
        raise CheckpointError(
            f"{model} lacks the weights of {trunk[0]} ({len(trunk)} parameters). A shard is missing or it is "
            "another architecture; only a head may be new."
        )
    return loaded


def build_language_model(
    auto_class: str,
    *,
    model: str | None,
    architecture: Mapping[str, Any] | None,
    label_names: Sequence[str],
    dropout: float | None,
    seed: int,
) -> transformers.PreTrainedModel:
    """Return a model of tokens to be trained; see :meth:`merging.tasks.TaskType.build_model`.

    Its classes are the vocabulary, so there are no ``label_names``, and no part of it may be new.

    Raises:
        OptionError: both or none of ``model`` and ``architecture``; dropout for a model without such a field.
        CheckpointError: the model lacks weights, or they are damaged.
    """
    loaded, missing = _build(auto_class, model=model, architecture=architecture, dropout=dropout, seed=seed)
    if missing:
        raise _incomplete(str(model), loaded, missing)
    return loaded


def load(
    auto_class: str | type, folder: str | os.PathLike[str], *, tensors: Mapping[str, Tensor] | None = None
) -> transformers.PreTrainedModel:
    """Return a finished model in float32 and evaluation mode.

    Args:
        auto_class: of transformers, e.g. "AutoModelForSequenceClassification", or a class of models.
        folder: model folder or Hub id, or the folder of a LoRA or (IA)3 adapter: then its base with the
            adapter in it, whose parameters are the only ones that are not frozen.
        tensors: weights in place of the folder's, under the names that they have in model files.

    Raises:
        CheckpointError: weights are missing, damaged, of other shapes, or not finite.
    """
    name = locate(folder)
    if is_adapter(name):
        if tensors is not None:
            raise CheckpointError(
                f"{name} is an adapter, and other weights were to be put in its place. Write them as a model "
                "and load that."
            )
        return _with_adapter(load(auto_class, _base_of(name)), name)
    with quiet():
        model, info = _from_pretrained(auto_class, name, read_config(name), tensors)
    if info["missing_keys"]:
        raise _incomplete(name, model, sorted(info["missing_keys"]))
    return model.eval()


def as_stored(model: transformers.PreTrainedModel, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename (and split or join) tensors from the names in the loaded model to those in its files.

    transformers renames the parameters of some architectures (ViT) when it loads them, and back when it
    saves. What was renamed for good (``current_name``) keeps its new name. Parameters of an adapter have
    the names of its files.
    """
    from transformers.core_model_loading import revert_weight_conversion

    if hasattr(model, "peft_config"):
        return {PREFIX + _ADAPTER_NAME.sub("", name): tensor for name, tensor in tensors.items()}
    stored = revert_weight_conversion(model, dict(tensors))
    return {current_name(name): tensor for name, tensor in stored.items()}


def label_names(model: transformers.PreTrainedModel) -> tuple[str, ...]:
    """Return the names of a classifier's classes, in index order."""
    return tuple(model.config.id2label[index] for index in range(model.config.num_labels))


def stored_label_names(folder: str | os.PathLike[str]) -> tuple[str, ...]:
    """Return the names of the classes of a model folder or Hub id, in index order; loads no weights."""
    config = read_config(locate(folder))
    return tuple(config.id2label[index] for index in range(config.num_labels))


def has_processor(auto_class: str, model: str | os.PathLike[str]) -> bool:
    """Whether a model folder holds a tokenizer or image processor; a Hub id may always."""
    folder = Path(locate(model))
    return not folder.is_dir() or any((folder / file).is_file() for file in _PROCESSOR_FILES[auto_class])


def load_processor(auto_class: str, model: str | os.PathLike[str], **options: Any) -> Any:
    """Return the tokenizer or image processor that lies beside a model, or beside an adapter or its base.

    Raises:
        CheckpointError: the folder has none, or it is damaged.
        HubError: a Hub id that could not be fetched.
    """
    import transformers

    name = locate(model)
    if not has_processor(auto_class, name):
        name = _base_of(name)
    kind = auto_class.removeprefix("Auto")
    if not has_processor(auto_class, name):
        raise CheckpointError(  # transformers would make a tokenizer without words
            f"{name} has no {kind}; expected one of {', '.join(_PROCESSOR_FILES[auto_class])}. "
            "A model folder must hold the tokenizer or image processor that it was trained with."
        )
    hub.check_model(name)
    try:
        with quiet():
            return getattr(transformers, auto_class).from_pretrained(name, **options)
    except (OSError, ValueError, KeyError, TypeError) as error:
        if not Path(name).is_dir():
            raise hub.hub_error(name, error) from error
        raise CheckpointError(
            f"{name}: cannot load its {kind}: {error}. Copy its files again from where the model was made."
        ) from error


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Silence transformers' load reports and progress bars; what matters in them is checked here."""
    from transformers.utils import logging

    verbosity = logging.get_verbosity()
    bars = logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()


def _build(
    auto_class: str,
    *,
    model: str | None,
    architecture: Mapping[str, Any] | None,
    dropout: float | None,
    seed: int,
    prepare: Callable[[transformers.PretrainedConfig], None] | None = None,
) -> tuple[transformers.PreTrainedModel, list[str]]:
    """Return a model to be trained, and the parameters that ``model`` lacked, which are new, sorted.

    ``prepare`` may change the configuration before the model is made.
    """
    import torch
    import transformers

    if (model is None) == (architecture is None):
        raise OptionError("give exactly one of model (a folder or Hub id) and architecture (random weights).")
    if model is not None and is_adapter(model):
        raise CheckpointError(
            f"{model} is an adapter, and trainings start from whole models. Merge it into its base first "
            "(merging merge --method average --base BASE --models own=ADAPTER), or train it with peft."
        )
    config = config_for(architecture) if architecture is not None else read_config(locate(str(model)))
    if prepare is not None:
        prepare(config)
    if dropout is not None:
        _set_dropout(config, dropout)
    with torch.random.fork_rng(devices=[]), quiet():
        torch.manual_seed(seed)
        if model is None:
            return getattr(transformers, auto_class).from_config(config).float(), []
        loaded, info = _from_pretrained(auto_class, locate(model), config)
    return loaded, sorted(info["missing_keys"])


def _base_of(name: str) -> str:
    """What an adapter was trained on; any other model is its own base.

    Raises:
        CheckpointError: the adapter does not say it, or it is not there.
    """
    if not is_adapter(name):
        return name
    base = read_adapter_config(Path(name), label="adapter").base_model
    if base is None:
        raise CheckpointError(
            f"{name}: adapter_config.json names no base model. Write its folder or Hub id there, as "
            "base_model_name_or_path."
        )
    return locate(base)


def _with_adapter(model: transformers.PreTrainedModel, folder: str) -> transformers.PreTrainedModel:
    """Put an adapter into its base; only its parameters require gradients afterwards."""
    import torch

    try:
        import peft
    except ImportError as error:
        raise CheckpointError(
            f"{folder} is an adapter, and running one needs peft, which is not installed: pip install peft. "
            "Merging adapters does not need it."
        ) from error
    with quiet(), warnings.catch_warnings():  # peft asks for what transformers calls otherwise today
        warnings.filterwarnings("ignore", message=".*is_gradient_checkpointing", category=FutureWarning)
        adapted = peft.PeftModel.from_pretrained(model, folder, is_trainable=True).get_base_model()
    for name, parameter in adapted.named_parameters():
        if parameter.requires_grad and not torch.isfinite(parameter).all():
            raise CheckpointError(f"{folder}: {name} has NaN or infinite values. Train the adapter again.")
    return adapted.eval()


def _incomplete(name: str, model: transformers.PreTrainedModel, missing: Sequence[str]) -> CheckpointError:
    return CheckpointError(
        f"{name} lacks {len(missing)} parameters of {type(model).__name__}, e.g. {missing[0]}. "
        "Train the model first (a bare language model has no head), or fetch its missing files."
    )


def _from_pretrained(
    auto_class: str | type,
    name: str,
    config: transformers.PretrainedConfig,
    tensors: Mapping[str, Tensor] | None = None,
) -> tuple[transformers.PreTrainedModel, dict[str, Any]]:
    """Load in float32 with the report of what was missing; translate what goes wrong."""
    import safetensors
    import torch
    import transformers

    if tensors is None and any((Path(name) / file).is_file() for file in (WEIGHTS_NAME, INDEX_NAME)):
        open_checkpoint(name, label="model")  # says which shard is missing, which file is cut off
    try:
        loader: Any = getattr(transformers, auto_class) if isinstance(auto_class, str) else auto_class
        options: dict[str, Any] = {"config": config, "dtype": torch.float32, "output_loading_info": True}
        if tensors is None:
            model, info = loader.from_pretrained(name, **options)
        else:
            if isinstance(auto_class, str):
                with torch.device("meta"):  # an auto class takes no weights, the architecture's own does
                    architecture = type(loader.from_config(config))
            else:
                architecture = auto_class
            model, info = architecture.from_pretrained(None, state_dict=dict(tensors), **options)
    except (safetensors.SafetensorError, json.JSONDecodeError) as error:
        raise CheckpointError(
            f"{name}: a weight file is damaged or cut off: {error}. Fetch it again."
        ) from error
    except RuntimeError as error:
        raise CheckpointError(f"{name}: weights do not fit config.json: {error}. Copy both again.") from error
    except (OSError, ValueError) as error:
        if not Path(name).is_dir():
            raise hub.hub_error(name, error) from error
        if str(error).startswith("Unrecognized configuration class"):  # a list of all that would do follows
            raise CheckpointError(
                f"{name}: a model of type {config.model_type!r} cannot be loaded as {auto_class}, which the "
                "task type needs. Pass a model of that kind, or another task type."
            ) from error
        raise CheckpointError(f"{name}: cannot load the weights: {error}. Copy the folder again.") from error
    for parameter, tensor in model.named_parameters():
        if not torch.isfinite(tensor).all():
            raise CheckpointError(
                f"{name}: {parameter} has NaN or infinite values. "
                "Its training diverged, or its file is damaged."
            )
    return model, info


def _name_labels(
    config: transformers.PretrainedConfig, label_names: Sequence[str], problem_type: str, owner: str
) -> None:
    """Give an unnamed head the data's names; a head with other names is an error."""
    present = [config.id2label[index] for index in sorted(config.id2label)]
    unnamed = all(name == f"LABEL_{index}" for index, name in enumerate(present))
    if not unnamed and present != list(label_names):
        raise CheckpointError(
            f"{owner} was trained for the labels {present}, the data has {list(label_names)}. "
            "Label names and their order must agree; name the data's labels alike in data/sources.py, "
            "or start from a model without a head."
        )
    config.id2label = dict(enumerate(label_names))
    config.label2id = {name: index for index, name in enumerate(label_names)}
    config.problem_type = problem_type


def _set_dropout(config: transformers.PretrainedConfig, dropout: float) -> None:
    fields = [field for field in _DROPOUT_FIELDS if hasattr(config, field)]
    if not fields:
        raise OptionError(f"dropout: a {config.model_type} model has no dropout to set; leave it None.")
    for field in fields:
        setattr(config, field, dropout)


def _is_pooler(name: str) -> bool:
    """Language models are often published without the pooler that a classifier reads."""
    return ".pooler." in name
