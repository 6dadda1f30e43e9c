"""What a mergekit YAML file says, checked key by key; imports no torch.

Every key that is not known is an error with a suggestion: one that is passed over changes a merge silently.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from merging.errors import OptionError
from merging.mergekit.settings import Setting, read_setting
from merging.registry import unknown

_KEYS = (
    "merge_method", "models", "slices", "base_model", "parameters", "dtype", "out_dtype",
    "tokenizer_source", "tokenizer", "chat_template", "name",
)  # fmt: skip
_REFUSED = {
    "modules": "Models with several stacks (encoder and decoder) are merged whole: write 'models'.",
    "input_model_parameters": "Write the parameters below each model.",
    "residual_weight": "It belongs to an old version of mergekit.",
}
DTYPES = {
    **dict.fromkeys(("float32", "fp32"), "float32"),
    **dict.fromkeys(("bfloat16", "bf16"), "bfloat16"),
    **dict.fromkeys(("float16", "fp16"), "float16"),
}
"""What mergekit calls a dtype, and what we call it."""


@dataclass(frozen=True)
class Reference:
    """A model: a folder or Hub id, perhaps with a revision, perhaps with an adapter on top."""

    model: str
    revision: str | None = None
    lora: str | None = None
    lora_revision: str | None = None

    def __str__(self) -> str:
        text = self.model + (f"@{self.revision}" if self.revision else "")
        if self.lora is None:
            return text
        return f"{text}+{self.lora}" + (f"@{self.lora_revision}" if self.lora_revision else "")


@dataclass(frozen=True)
class SliceSource:
    """Layers of one model."""

    model: Reference
    layer_range: tuple[int, int] | None = None
    """First layer and the one after the last; None: all."""
    parameters: Mapping[str, Setting] = field(default_factory=dict)


@dataclass(frozen=True)
class Slice:
    """Some layers of the output, and what they are merged from."""

    sources: tuple[SliceSource, ...]
    base_model: Reference | None = None
    parameters: Mapping[str, Setting] = field(default_factory=dict)


@dataclass(frozen=True)
class TokenSource:
    """Where the embedding of one token comes from."""

    model: Reference | None
    """None: it is zero."""
    token: str | None = None
    """The token of ``model`` whose row is taken; None: the token itself."""
    token_id: int | None = None
    """Instead of ``token``, its number."""
    force: bool = False
    """Take it for every model, also for those that know the token."""


@dataclass(frozen=True)
class Tokenizer:
    """Which tokenizer the merged model gets."""

    source: Literal["union", "base"] | Reference
    """The joint vocabulary, the base's tokenizer, or that of a model."""
    tokens: Mapping[str, TokenSource] = field(default_factory=dict)
    pad_to_multiple_of: int | None = None


@dataclass(frozen=True)
class Config:
    """A whole file. ``models:`` is one slice of all layers."""

    merge_method: str
    slices: tuple[Slice, ...]
    base_model: Reference | None = None
    parameters: Mapping[str, Setting] = field(default_factory=dict)
    dtype: str | None = None
    """Of the output: ``out_dtype``, else ``dtype``; None: as the inputs are. We compute in float32."""
    tokenizer: Tokenizer | None = None
    chat_template: str | None = None
    text: str = ""
    """The file as it stands."""

    @property
    def is_sliced(self) -> bool:
        """Whether layers are picked."""
        return any(source.layer_range is not None for its in self.slices for source in its.sources)

    @property
    def merged(self) -> tuple[Reference, ...]:
        """Every model whose weights are read, the base first, then in order."""
        found: dict[Reference, None] = {}
        if self.base_model is not None:
            found[self.base_model] = None
        for its in self.slices:
            found |= dict.fromkeys(source.model for source in its.sources)
            if its.base_model is not None:
                found[its.base_model] = None
        return tuple(found)

    @property
    def owner(self) -> Reference:
        """Whose config, tokenizer and other small files the output gets, where the file does not say it."""
        return self.base_model or self.slices[0].sources[0].model


def read_file(path: str | Path) -> Config:
    """Read a mergekit YAML file.

    Raises:
        OptionError: no such file, no YAML, or anything in it that is unknown or wrong.
    """
    import yaml

    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8")
        documents = list(yaml.safe_load_all(text))
    except OSError as error:
        raise OptionError(f"cannot read {path}: {error.strerror}. Give the path of a YAML file.") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise OptionError(f"{path} is no YAML: {' '.join(str(error).split())}.") from error
    if len(documents) != 1:
        raise OptionError(
            f"{path} holds {len(documents)} documents; write each merge into a file of its own, and run "
            "them in the order in which they need each other."
        )
    return dataclasses.replace(read(documents[0], owner=path.name), text=text)


def read(values: Any, *, owner: str = "mergekit config") -> Config:
    """Check what a YAML file holds; ``owner`` starts every error message.

    Raises:
        OptionError: an unknown or missing key, or a value that is not of its type.
    """
    found = _mapping(values, owner, _KEYS)
    method = _text(found.get("merge_method"), f"{owner}: merge_method")
    if ("models" in found) == ("slices" in found):
        raise OptionError(f"{owner}: write exactly one of 'models' (whole models) and 'slices' (layers).")
    if "models" in found:
        sources = [
            _source(item, f"{owner}: models[{number}]", layers=False)
            for number, item in enumerate(_list(found["models"], f"{owner}: models"))
        ]
        slices = [Slice(tuple(sources))]
    else:
        slices = [
            _slice(item, f"{owner}: slices[{number}]")
            for number, item in enumerate(_list(found["slices"], f"{owner}: slices"))
        ]
    base = found.get("base_model")
    dtypes = {key: _dtype(found.get(key), f"{owner}: {key}") for key in ("dtype", "out_dtype")}
    return Config(
        merge_method=method,
        slices=tuple(slices),
        base_model=None if base is None else read_reference(base, f"{owner}: base_model"),
        parameters=_parameters(found.get("parameters"), f"{owner}: parameters"),
        dtype=dtypes["out_dtype"] or dtypes["dtype"],
        tokenizer=_tokenizer(found, owner),
        chat_template=_optional_text(found.get("chat_template"), f"{owner}: chat_template"),
    )


def read_reference(value: Any, owner: str) -> Reference:
    """Read ``model``, ``model@revision``, ``model+adapter``, or the mapping that mergekit writes them as.

    Raises:
        OptionError: neither.
    """
    if isinstance(value, str) and value:
        model, _, lora = value.partition("+")
        name, revision = _at(model)
        if not name or value.endswith("+"):
            raise OptionError(f"{owner}: cannot read the model {value!r}. Write model, or model+adapter.")
        lora_name, lora_revision = _at(lora) if lora else (None, None)
        return Reference(name, revision, lora_name, lora_revision)
    if isinstance(value, Mapping):
        found = _mapping(value, owner, ("model", "lora"))
        parts = {key: _path(found[key], f"{owner}: {key}") for key in found if found[key] is not None}
        if "model" not in parts:
            raise OptionError(f"{owner}: missing 'model', the path of the model.")
        return Reference(*parts["model"], *parts.get("lora", (None, None)))
    raise OptionError(f"{owner} must be a model folder or Hub id, got {value!r}.")


def _at(text: str) -> tuple[str, str | None]:
    """Split off ``@revision``."""
    name, _, revision = text.partition("@")
    return name, revision or None


def _path(value: Any, owner: str) -> tuple[str, str | None]:
    if isinstance(value, str):
        return _at(value)
    found = _mapping(value, owner, ("path", "revision"))
    return _text(found.get("path"), f"{owner}: path"), found.get("revision")


def _slice(value: Any, owner: str) -> Slice:
    found = _mapping(value, owner, ("sources", "base_model", "parameters"))
    base = found.get("base_model")
    return Slice(
        tuple(
            _source(item, f"{owner}: sources[{number}]", layers=True)
            for number, item in enumerate(_list(found.get("sources"), f"{owner}: sources"))
        ),
        None if base is None else read_reference(base, f"{owner}: base_model"),
        _parameters(found.get("parameters"), f"{owner}: parameters"),
    )


def _source(value: Any, owner: str, *, layers: bool) -> SliceSource:
    if isinstance(value, str):
        value = {"model": value}
    found = _mapping(value, owner, ("model", "parameters", *(("layer_range",) if layers else ())))
    return SliceSource(
        read_reference(found.get("model"), f"{owner}: model"),
        _layer_range(found.get("layer_range"), f"{owner}: layer_range") if layers else None,
        _parameters(found.get("parameters"), f"{owner}: parameters"),
    )


def _layer_range(value: Any, owner: str) -> tuple[int, int]:
    if (
        isinstance(value, list | tuple)
        and len(value) == 2
        and all(type(its) is int for its in value)
        and 0 <= value[0] < value[1]
    ):
        return value[0], value[1]
    raise OptionError(f"{owner} must be [first, end] with 0 <= first < end, got {value!r}.")


def _parameters(value: Any, owner: str) -> dict[str, Setting]:
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise OptionError(f"{owner} must be a mapping from parameter to value, got {value!r}.")
    return {str(key): read_setting(its, f"{owner}: {key}") for key, its in value.items()}


def _tokenizer(found: Mapping[str, Any], owner: str) -> Tokenizer | None:
    given = found.get("tokenizer")
    source = found.get("tokenizer_source")
    if given is None:
        return None if source is None else Tokenizer(_tokenizer_source(source, f"{owner}: tokenizer_source"))
    if source is not None:
        raise OptionError(f"{owner}: write one of tokenizer_source and tokenizer, not both.")
    owner = f"{owner}: tokenizer"
    values = _mapping(given, owner, ("source", "tokens", "pad_to_multiple_of"))
    multiple = values.get("pad_to_multiple_of")
    if multiple is not None and not (type(multiple) is int and multiple > 0):
        raise OptionError(f"{owner}: pad_to_multiple_of must be a whole number > 0, got {multiple!r}.")
    tokens = values.get("tokens") or {}
    if not isinstance(tokens, Mapping):
        raise OptionError(f"{owner}: tokens must be a mapping from token to its source, got {tokens!r}.")
    return Tokenizer(
        _tokenizer_source(values.get("source", "union"), f"{owner}: source"),
        {str(token): _token(its, f"{owner}: tokens[{token!r}]") for token, its in tokens.items()},
        multiple,
    )


def _tokenizer_source(value: Any, owner: str) -> Literal["union", "base"] | Reference:
    """``union``, ``base``, or a model; older files write ``model:PATH``."""
    if value == "union":
        return "union"
    if value == "base":
        return "base"
    return read_reference(value.removeprefix("model:") if isinstance(value, str) else value, owner)


def _token(value: Any, owner: str) -> TokenSource:
    found = _mapping(value, owner, ("source", "force"))
    force = found.get("force", False)
    if type(force) is not bool:
        raise OptionError(f"{owner}: force must be true or false, got {force!r}.")
    source = found.get("source")
    if source is None:
        raise OptionError(f"{owner}: missing 'source': a model, or {{kind: zero}}.")
    if not (isinstance(source, Mapping) and "kind" in source):
        return TokenSource(read_reference(source, f"{owner}: source"), force=force)
    kinds = {"zero": ("kind",), "model_token": ("kind", "model", "token", "token_id")}
    if source["kind"] not in kinds:
        raise OptionError(f"{owner}: source: {unknown('kind', str(source['kind']), kinds)}.")
    its = _mapping(source, f"{owner}: source", kinds[source["kind"]])
    if its["kind"] == "zero":
        return TokenSource(None, force=force)
    if ("token" in its) == ("token_id" in its):
        raise OptionError(f"{owner}: source: write one of token and token_id.")
    number = its.get("token_id")
    if number is not None and not (type(number) is int and number >= 0):
        raise OptionError(f"{owner}: source: token_id must be a whole number >= 0, got {number!r}.")
    return TokenSource(
        read_reference(its.get("model"), f"{owner}: source: model"), its.get("token"), number, force
    )


def _dtype(value: Any, owner: str) -> str | None:
    if value is None:
        return None
    if value not in DTYPES:
        raise OptionError(f"{owner}: {unknown('dtype', str(value), DTYPES)}.")
    return DTYPES[value]


def _mapping(value: Any, owner: str, allowed: Collection[str]) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise OptionError(f"{owner} must be a mapping with the keys {', '.join(allowed)}, got {value!r}.")
    for key in value:
        if key not in allowed:
            hint = f" {_REFUSED[key]}" if key in _REFUSED else ""
            raise OptionError(f"{owner}: {unknown('key', str(key), allowed)}{hint}")
    return value


def _list(value: Any, owner: str) -> Sequence[Any]:
    if not isinstance(value, list) or not value:
        raise OptionError(f"{owner} must be a list with at least one entry, got {value!r}.")
    return value


def _text(value: Any, owner: str) -> str:
    if not isinstance(value, str) or not value:
        raise OptionError(f"{owner} must be a text, got {value!r}.")
    return value


def _optional_text(value: Any, owner: str) -> str | None:
    return None if value is None else _text(value, owner)
