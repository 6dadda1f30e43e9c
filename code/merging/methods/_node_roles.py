"""Which nodes of a transformer a parameter belongs to: attention heads, or intermediate neurons.

By its name; of BERT and its relatives (RoBERTa, ELECTRA, ViT), DistilBERT, GPT-2, and Llama and its relatives
(Mistral, Qwen).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from merging.errors import OptionError

Role = Literal["query", "key", "fused", "attention", "neurons", "feedforward", "outside"]
"""Query, and key: rows by head. Fused: rows of query, key and value. Neurons: rows by neuron. Attention, and
feedforward: the rest of these parts of a layer. Outside: in no layer (embeddings, pooler)."""

_MODULES: dict[Role, tuple[str, ...]] = {
    "query": ("attention.self.query", "attention.attention.query", "attention.q_lin", "self_attn.q_proj"),
    "key": ("attention.self.key", "attention.attention.key", "attention.k_lin", "self_attn.k_proj"),
    "fused": ("attn.c_attn",),
    "attention": (
        *("attention.self.value", "attention.output.dense", "attention.output.LayerNorm"),  # BERT
        *("attention.attention.value", "layernorm_before"),  # ViT
        *("attention.v_lin", "attention.out_lin", "sa_layer_norm"),  # DistilBERT
        *("attn.c_proj", "ln_1"),  # GPT-2
        *("self_attn.v_proj", "self_attn.o_proj", "input_layernorm"),  # Llama
        *("self_attn.q_norm", "self_attn.k_norm"),  # Qwen 3
    ),
    "neurons": ("intermediate.dense", "ffn.lin1", "mlp.c_fc", "mlp.gate_proj", "mlp.up_proj"),
    "feedforward": (
        *("output.dense", "output.LayerNorm"),  # BERT
        "layernorm_after",  # ViT
        *("ffn.lin2", "output_layer_norm"),  # DistilBERT
        *("mlp.c_proj", "ln_2"),  # GPT-2
        *("mlp.down_proj", "post_attention_layernorm"),  # Llama
    ),
}
_ROLES = {module: role for role, modules in _MODULES.items() for module in modules}
_IN_A_LAYER = re.compile(r"(?:.*?\.)?(?P<layer>\d+)\.(?P<module>.+)\.(?:weight|bias)")


@dataclass(frozen=True)
class Place:
    """Where in the network a parameter is."""

    role: Role
    layer: int = 0
    """Which layer, from 0; without meaning outside of the layers."""


def place(name: str) -> Place:
    """Where a parameter is.

    Raises:
        OptionError: it is in a layer, but in an unknown part of it.
    """
    match = _IN_A_LAYER.fullmatch(name)
    if match is None:
        return Place("outside")
    role = _ROLES.get(match["module"])
    if role is None:
        raise OptionError(
            f"fisher_mask_nodes: {name!r} is in a layer, but {match['module']!r} is no known part of one. "
            "Known are the names of BERT, RoBERTa, ViT, DistilBERT, GPT-2 and Llama. Exclude it "
            f'(policy={{"exclude": [...]}}), or add the module to merging/methods/_node_roles.py.'
        )
    return Place(role, int(match["layer"]))
