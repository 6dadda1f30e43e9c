"""Which nodes of a transformer a parameter belongs to: attention heads, or intermediate neurons.

By its name; of BERT and its relatives (RoBERTa, ELECTRA, ViT, DeBERTa, MPNet), DistilBERT, GPT-2, Llama and
its relatives (Mistral, Qwen, Phi), OPT and CLIP.
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
    "query": (
        *("attention.self.query", "attention.attention.query"),  # BERT, ViT
        *("attention.self.query_proj", "attention.self.pos_query_proj"),  # DeBERTa
        *("attention.attn.q", "attention.q_lin", "self_attn.q_proj"),  # MPNet, DistilBERT, Llama
    ),
    "key": (
        *("attention.self.key", "attention.attention.key"),
        *("attention.self.key_proj", "attention.self.pos_key_proj"),
        *("attention.attn.k", "attention.k_lin", "self_attn.k_proj"),
    ),
    "fused": ("attn.c_attn",),
    "attention": (
        *("attention.self.value", "attention.output.dense", "attention.output.LayerNorm"),  # BERT
        *("attention.attention.value", "layernorm_before"),  # ViT
        "attention.self.value_proj",  # DeBERTa
        *("attention.attn.v", "attention.attn.o", "attention.LayerNorm"),  # MPNet
        *("attention.v_lin", "attention.out_lin", "sa_layer_norm"),  # DistilBERT
        *("attn.c_proj", "ln_1"),  # GPT-2
        *("self_attn.v_proj", "self_attn.o_proj", "input_layernorm"),  # Llama
        *("self_attn.q_norm", "self_attn.k_norm"),  # Qwen 3
        *("self_attn.q_layernorm", "self_attn.k_layernorm", "self_attn.dense"),  # Phi
        *("self_attn.out_proj", "self_attn_layer_norm"),  # OPT
        "layer_norm1",  # CLIP
    ),
    "neurons": (
        *("intermediate.dense", "ffn.lin1", "mlp.c_fc", "mlp.gate_proj", "mlp.up_proj"),
        *("mlp.fc1", "fc1"),  # CLIP and Phi, OPT
    ),
    "feedforward": (
        *("output.dense", "output.LayerNorm"),  # BERT
        "layernorm_after",  # ViT
        *("ffn.lin2", "output_layer_norm"),  # DistilBERT
        *("mlp.c_proj", "ln_2"),  # GPT-2
        *("mlp.down_proj", "post_attention_layernorm"),  # Llama
        *("fc2", "final_layer_norm"),  # OPT
        *("mlp.fc2", "layer_norm2"),  # CLIP
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
            "Known are the names of BERT, RoBERTa, DeBERTa, MPNet, ViT, DistilBERT, GPT-2, Llama, Phi, OPT "
            "and CLIP. Exclude it "
            f'(policy={{"exclude": [...]}}), or add the module to merging/methods/_node_roles.py.'
        )
    return Place(role, int(match["layer"]))
