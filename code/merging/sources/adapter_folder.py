"""Adapter folders of peft: LoRA (arXiv:2106.09685) and (IA)3 (arXiv:2205.05638); read without peft.

A folder is ``adapter_config.json`` and ``adapter_model.safetensors`` (or ``.bin``). Tensors are named
``base_model.model.<module>.lora_A.weight``; what is not known here to leave the update s B A as it is (DoRA,
PiSSA's changed base, ...) is refused, because merging it as if it were LoRA would be silently wrong.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any, Protocol

from merging.errors import CheckpointError
from merging.files.checkpoints import Checkpoint, TensorInfo
from merging.sources import Source, for_computing
from merging.sources.pickled import PickledCheckpoint

if TYPE_CHECKING:
    from torch import Tensor

CONFIG_NAME = "adapter_config.json"
WEIGHTS_NAME = "adapter_model.safetensors"
PICKLED_NAME = "adapter_model.bin"
PREFIX = "base_model.model."

_LORA = re.compile(
    r"(?P<module>.+)\.lora_(?:embedding_)?(?P<side>[AB])(?:\.default)?(?:\.(?P<kind>weight|bias))?"
)
_IA3 = re.compile(r"(?P<module>.+)\.ia3_l(?:\.default)?")
_TOKENS = re.compile(r"(?P<module>.+)\.token_adapter\.trainable_tokens_delta(?:\.default)?")
_WRAPPERS = re.compile(r"\.(base_layer|modules_to_save(\.default)?)(?=\.)")

_UNSUPPORTED = {
    "use_dora": "DoRA scales whole columns of the weight beside the update",
    "use_qalora": "QA-LoRA pools the inputs",
    "use_bdlora": "block-diagonal LoRA has other factors",
    "arrow_config": "an Arrow router chooses among adapters at run time",
    "kasa_config": "KaSA changes the base",
    "monteclora_config": "MonteCLoRA samples its factors",
    "alora_invocation_tokens": "an activated LoRA only acts after its invocation tokens",
    "layer_replication": "it repeats layers of the base",
    "target_parameters": "it changes parameters that belong to no linear layer",
}
"""Settings of a LoRA whose effect is more than adding s B A to a weight, and why."""
_CHANGING_INITS = ("pissa", "olora", "corda", "loftq", "lora_ga")
"""Values of ``init_lora_weights`` that change the base: W + s B A is not the trained model."""

_NUM_CACHED = 4


class _Stored(Source, Protocol):
    """What an adapter's tensors are read from."""

    def digest(self) -> str:
        """Hex SHA-256 of all of them."""


@dataclass(frozen=True)
class LowRank:
    """Where the factors of one module's update s B A lie."""

    a: str
    """Tensor of A, (rank, inputs, ...)."""
    b: str
    """Tensor of B, (outputs, rank, ...)."""
    rank: int
    scaling: float
    """s = alpha / r, or alpha / sqrt(r) for rsLoRA."""
    num_inputs: int
    """Columns of A, all dimensions but the first counted together."""
    num_outputs: int
    """Rows of B."""
    is_embedding: bool = False
    """The update is (s B A)^T: A is (rank, rows of the table)."""
    bias: str | None = None
    """Tensor of lora_B's bias, which is added times s."""


@dataclass(frozen=True)
class Scaled:
    """Where the vector of one module of (IA)3 lies."""

    vector: str
    length: int
    on_inputs: bool
    """It scales the inputs (feed-forward modules), else the outputs and the bias with them."""


@dataclass(frozen=True)
class Tokens:
    """Where single trained rows of an embedding lie; they replace the base's (peft calls them a delta)."""

    rows: str
    """Tensor of the rows, (tokens, width)."""
    numbers: tuple[int, ...]
    """Which rows of the table they are."""


@dataclass(frozen=True)
class AdapterConfig:
    """What ``adapter_config.json`` says, as far as it matters for the weights."""

    kind: str
    """``"LORA"`` or ``"IA3"``."""
    raw: Mapping[str, Any] = field(repr=False)
    """All of it."""

    @property
    def fan_in_fan_out(self) -> bool:
        """Weights are stored (inputs, outputs), as GPT-2's Conv1D does."""
        return bool(self.raw.get("fan_in_fan_out"))

    @property
    def base_model(self) -> str | None:
        """What the adapter was trained on: a folder or a Hub id."""
        return self.raw.get("base_model_name_or_path") or None

    def scaling(self, module: str, rank: int) -> float:
        """s of a LoRA module of that rank."""
        alpha = float(_by_pattern(self.raw.get("alpha_pattern"), module, self.raw.get("lora_alpha", 8)))
        return alpha / (math.sqrt(rank) if self.raw.get("use_rslora") else rank)

    def tokens(self, module: str) -> tuple[int, ...]:
        """Numbers of the trained rows of an embedding."""
        given = self.raw.get("trainable_token_indices") or ()
        return tuple(_by_pattern(given, module, ()) if isinstance(given, dict) else given)

    def rank(self, module: str) -> int:
        """The rank that the config promises for a module."""
        return int(_by_pattern(self.raw.get("rank_pattern"), module, self.raw.get("r", 8)))


def is_adapter(folder: str | os.PathLike[str]) -> bool:
    """Whether a folder holds a peft adapter (and no whole model of its own)."""
    return (Path(folder) / CONFIG_NAME).is_file()


class AdapterFolder:
    """One adapter, opened: its modules are known, its tensors are read when asked for."""

    def __init__(self, folder: str | os.PathLike[str], *, label: str) -> None:
        """Read the config and the headers.

        Args:
            folder: what peft's ``save_pretrained`` wrote.
            label: names the adapter in error messages.

        Raises:
            CheckpointError: damaged or incomplete, or of a kind that cannot be merged; the text says why.
        """
        self.folder = Path(folder)
        self.label = label
        self.config = read_adapter_config(self.folder, label=label)
        self._stored = _open_weights(self.folder, label)
        self.modules: dict[str, LowRank] | dict[str, Scaled]
        """By path of the module, as the adapter names it."""
        self.saved: dict[str, str] = {}
        """Tensors that replace the base's (modules_to_save, biases), by the name of what they replace."""
        self.tokens: dict[str, Tokens] = {}
        """Single trained rows, by path of the embedding."""
        lora: dict[str, dict[str, str]] = {}
        vectors: dict[str, str] = {}
        for key in sorted(self._stored.tensors):
            name = key.removeprefix(PREFIX)
            if match := _LORA.fullmatch(name):
                part = match["side"] if match["kind"] != "bias" else f"{match['side']}.bias"
                lora.setdefault(match["module"], {})[part] = key
            elif match := _IA3.fullmatch(name):
                vectors[match["module"]] = key
            elif match := _TOKENS.fullmatch(name):
                self.tokens[match["module"]] = self._tokens(match["module"], key)
            elif ".original_module." in name:
                continue  # the head as it was before the training, which nothing uses
            elif "lora_" in name or "ia3_" in name:
                raise CheckpointError(
                    f"{label}: {self.folder} holds the tensor {key!r}, which plain LoRA and (IA)3 do not "
                    "have. Merge it into its base with peft (merge_and_unload) and pass the whole model."
                )
            else:
                plain = _WRAPPERS.sub("", name)
                if plain not in self.saved or plain == name:  # peft may store a trained bias twice
                    self.saved[plain] = key
        if self.config.kind == "LORA":
            self.modules = {module: self._low_rank(module, parts) for module, parts in lora.items()}
        else:
            self.modules = {module: self._scaled(module, key) for module, key in vectors.items()}
        if not self.modules or (lora if self.config.kind == "IA3" else vectors):
            raise CheckpointError(
                f"{label}: {self.folder} says peft_type {self.config.kind}, but its tensors are like "
                f"{min(self._stored.tensors, default='none')!r}. Copy or save the adapter again."
            )
        self._cache: OrderedDict[str, tuple[Tensor, Tensor]] = OrderedDict()
        self._lock = Lock()

    @property
    def tensors(self) -> Mapping[str, TensorInfo]:
        """Shape and dtype of every stored tensor, by its name in the file."""
        return self._stored.tensors

    def read(self, key: str) -> Tensor:
        """One stored tensor, by its name in the file."""
        return self._stored.read(key)

    def read_piece(self, key: str, start: int, stop: int) -> Tensor:
        """Elements of one stored tensor, counted row by row."""
        return self._stored.read_piece(key, start, stop)

    def factors(self, module: str) -> tuple[Tensor, Tensor]:
        """A as (rank, inputs) and B as (outputs, rank) of a LoRA module, in float32 (float64 if stored so).

        For an embedding, "inputs" are the rows of the table. The last few modules are kept, because pieces
        of one parameter ask one after another. The caller does not write into them.
        """
        with self._lock:
            if module in self._cache:
                self._cache.move_to_end(module)
                return self._cache[module]
        its = self.modules[module]
        assert isinstance(its, LowRank)
        a = _finite(for_computing(self.read(its.a)), its.a, self.label).reshape(its.rank, its.num_inputs)
        b = _finite(for_computing(self.read(its.b)), its.b, self.label).reshape(its.num_outputs, its.rank)
        with self._lock:
            self._cache[module] = (a, b)
            while len(self._cache) > _NUM_CACHED:
                self._cache.popitem(last=False)
        return a, b

    def vector(self, module: str) -> Tensor:
        """The vector of an (IA)3 module, (length,), in float32 (float64 if stored so)."""
        its = self.modules[module]
        assert isinstance(its, Scaled)
        return _finite(for_computing(self.read(its.vector)), its.vector, self.label).reshape(-1)

    def digest(self) -> str:
        """Hex SHA-256 of what the adapter does: its tensors, and the settings that scale them."""
        keys = (
            "peft_type",
            "r",
            "lora_alpha",
            "use_rslora",
            "alpha_pattern",
            "rank_pattern",
            "fan_in_fan_out",
            "trainable_token_indices",
        )
        settings = {key: self.config.raw.get(key) for key in keys}
        text = f"{self._stored.digest()} {json.dumps(settings, sort_keys=True)}"
        return hashlib.sha256(text.encode()).hexdigest()

    def _low_rank(self, module: str, parts: Mapping[str, str]) -> LowRank:
        for side in ("A", "B"):
            if side not in parts:
                raise CheckpointError(
                    f"{self.label}: {self.folder} has no lora_{side} of the module {module!r}, only "
                    f"{', '.join(parts.values())}. Copy or save the adapter again."
                )
        a, b = (self.tensors[parts[side]].shape for side in ("A", "B"))
        if len(a) < 2 or len(b) < 2 or a[0] != b[1] or math.prod(b[2:]) != 1:
            raise CheckpointError(
                f"{self.label}: the factors of {module!r} do not fit each other: A is {a} and B is {b}, but "
                "A must be (rank, inputs) and B (outputs, rank). Copy or save the adapter again."
            )
        if a[0] != self.config.rank(module):
            raise CheckpointError(
                f"{self.label}: {module!r} has rank {a[0]}, but {CONFIG_NAME} says "
                f"{self.config.rank(module)} (r, rank_pattern), on which the "
                "scaling depends. Use the config that belongs to the weights."
            )
        return LowRank(
            a=parts["A"],
            b=parts["B"],
            rank=a[0],
            scaling=self.config.scaling(module, a[0]),
            num_inputs=math.prod(a[1:]),
            num_outputs=b[0],
            is_embedding="lora_embedding_" in parts["A"],
            bias=parts.get("B.bias"),
        )

    def _tokens(self, module: str, key: str) -> Tokens:
        numbers, shape = self.config.tokens(module), self.tensors[key].shape
        if len(numbers) != shape[0]:
            raise CheckpointError(
                f"{self.label}: {key!r} is {shape}, but {CONFIG_NAME} names {len(numbers)} trained tokens of "
                f"{module!r} (trainable_token_indices). Use the config that belongs to the weights."
            )
        return Tokens(key, numbers)

    def _scaled(self, module: str, key: str) -> Scaled:
        shape = self.tensors[key].shape
        if len(shape) != 2 or 1 not in shape:
            raise CheckpointError(
                f"{self.label}: the (IA)3 vector of {module!r} is {shape}, but only linear layers are "
                "supported: (1, inputs) or (outputs, 1). Merge it into its base with peft (merge_and_unload)."
            )
        return Scaled(vector=key, length=math.prod(shape), on_inputs=shape[0] == 1)


def read_adapter_config(folder: Path, *, label: str) -> AdapterConfig:
    """Read and check ``adapter_config.json``.

    Raises:
        CheckpointError: missing, damaged, or of a kind whose effect is not W + s B A or a scaled weight.
    """
    path = folder / CONFIG_NAME
    try:
        raw = json.loads(path.read_text())
    except FileNotFoundError as error:
        raise CheckpointError(
            f"{label}: {folder} is no adapter: it has no {CONFIG_NAME}. Pass the folder that peft's "
            "save_pretrained wrote."
        ) from error
    except ValueError as error:
        raise CheckpointError(f"{label}: {path} is damaged: {error}. Copy it again.") from error
    kind = raw.get("peft_type") if isinstance(raw, dict) else None
    if kind not in ("LORA", "IA3"):
        raise CheckpointError(
            f"{label}: {path} has the peft_type {kind!r}; LORA and IA3 can be merged. Merge it into its base "
            "with peft (merge_and_unload), where that is possible, and pass the whole model."
        )
    for key, reason in _UNSUPPORTED.items():
        if raw.get(key):
            raise CheckpointError(
                f"{label}: {path} has {key}={raw[key]!r}, which is not supported: {reason}. Merge the "
                "adapter into its base with peft (merge_and_unload) and pass the whole model."
            )
    init = raw.get("init_lora_weights")
    if isinstance(init, str) and init.startswith(_CHANGING_INITS):
        raise CheckpointError(
            f"{label}: {path} has init_lora_weights={init!r}, which changes the base at the start of the "
            "training, so base + update is not the trained model. Convert the adapter with peft "
            "(save_pretrained(..., path_initial_model_for_weight_conversion=...)), or merge it with peft."
        )
    return AdapterConfig(kind, raw)


def _open_weights(folder: Path, label: str) -> _Stored:
    if (folder / WEIGHTS_NAME).is_file():
        return Checkpoint([folder / WEIGHTS_NAME], label=label)
    if (folder / PICKLED_NAME).is_file():
        return PickledCheckpoint([folder / PICKLED_NAME], label=label)
    raise CheckpointError(
        f"{label}: {folder} has an {CONFIG_NAME}, but neither {WEIGHTS_NAME} nor {PICKLED_NAME}. Copy the "
        "adapter again."
    )


def _by_pattern(patterns: Mapping[str, Any] | None, module: str, default: Any) -> Any:
    """The value of the first pattern that is the module's path or an end of it, as peft finds it."""
    for pattern, value in (patterns or {}).items():
        if re.fullmatch(rf"(.*\.)?({pattern})", module):
            return value
    return default


def _finite(tensor: Tensor, key: str, label: str) -> Tensor:
    if not tensor.isfinite().all():
        raise CheckpointError(f"{label}: {key!r} has NaN or infinite values. Train the adapter again.")
    return tensor
