"""Names and defaults of the configuration classes of classic decoders: transformers 5.23,
src/transformers/models/*/configuration_*.py; of Qwen 1 configuration_qwen.py beside the published weights."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NamedTuple


class Names(NamedTuple):
    """What a configuration class calls its sizes; "" where it has none.

    Without kv_heads there are as many as heads, without inter (or with null) 4 · hidden, without activation GELU.
    """

    hidden: str = "hidden_size"
    layers: str = "num_hidden_layers"
    heads: str = "num_attention_heads"
    kv_heads: str = ""
    inter: str = "intermediate_size"
    max_len: str = "max_position_embeddings"
    activation: str = "hidden_act"


class ConfigClass(NamedTuple):
    """What a model_type's configuration class fills in, by its names. general: further names that it takes as well."""

    names: Names
    defaults: Mapping[str, Any]
    general: Mapping[str, str] = MappingProxyType({})


def _of(vocab: int, hidden: int, layers: int, heads: int, max_len: int, names: Names, **others: Any) -> dict[str, Any]:
    """Defaults of a configuration class under its names."""
    sizes = (hidden, layers, heads, max_len)
    keys = (names.hidden, names.layers, names.heads, names.max_len)
    return {"vocab_size": vocab, **dict(zip(keys, sizes, strict=True)), **others}


GPT = Names("n_embd", "n_layer", "n_head", "", "n_inner", "n_positions", "activation_function")
OPT = Names(inter="ffn_dim", activation="activation_function")
NEO = Names(layers="num_layers", heads="num_heads", activation="activation_function")
BLOOM = Names(layers="n_layer", heads="n_head", inter="", max_len="seq_length", activation="")
MPT = Names("d_model", "n_layers", "n_heads", inter="", max_len="max_seq_len", activation="")
FALCON = Names(inter="ffn_hidden_size", activation="activation")
GQA = Names(kv_heads="num_key_value_heads")
QWEN = Names(activation="")
GENERAL: Mapping[str, str] = {
    "n_embd": "hidden_size",
    "n_layer": "num_hidden_layers",
    "n_head": "num_attention_heads",
    "n_positions": "max_position_embeddings",
}
BLOOM_GENERAL: Mapping[str, str] = {**GENERAL, "hidden_size": "n_embed"}
MPT_GENERAL: Mapping[str, str] = {
    "d_model": "hidden_size",
    "n_layers": "num_hidden_layers",
    "n_heads": "num_attention_heads",
}
NEO_GENERAL: Mapping[str, str] = {"num_layers": "num_hidden_layers", "num_heads": "num_attention_heads"}

TIED: Mapping[str, Any] = {"tie_word_embeddings": True}
UNTIED: Mapping[str, Any] = {"tie_word_embeddings": False}
GPT_2: Mapping[str, Any] = {"n_inner": None, "activation_function": "gelu_new", "add_cross_attention": False, **TIED}
GPT_J: Mapping[str, Any] = {"n_inner": None, "activation_function": "gelu_new", "rotary_dim": 64, **UNTIED}
OPT_FLAGS: Mapping[str, Any] = {
    "do_layer_norm_before": True,
    "_remove_final_layer_norm": False,
    "word_embed_proj_dim": None,
    "enable_bias": True,
    "layer_norm_elementwise_affine": True,
}
MPT_ATTENTION: Mapping[str, Any] = {
    "attn_type": "multihead_attention",
    "prefix_lm": False,
    "qk_ln": False,
    "alibi": True,
    "kv_n_heads": None,  # of llm-foundry's class
}
FALCON_FLAGS: Mapping[str, Any] = {
    "num_ln_in_parallel_attn": None,
    "num_kv_heads": None,
    "alibi": False,
    "new_decoder_architecture": False,
    "multi_query": True,
    "parallel_attn": True,
    "bias": False,
}
STABLELM_FLAGS: Mapping[str, Any] = {"use_qkv_bias": False, "qk_layernorm": False, "use_parallel_residual": False}
COHERE: Mapping[str, Any] = {
    "num_key_value_heads": None,
    "intermediate_size": 22528,
    "hidden_act": "silu",
    "attention_bias": False,
    "use_qk_norm": False,
    **TIED,
}
QWEN_FLAGS: Mapping[str, Any] = {"kv_channels": 128, "rotary_pct": 1.0, "no_bias": True, **UNTIED}
HALF: Mapping[str, Any] = {"partial_rotary_factor": 0.5, **UNTIED}

CLASSES: Mapping[str, ConfigClass] = {
    "gpt2": ConfigClass(GPT, _of(50257, 768, 12, 12, 1024, GPT, **GPT_2), GENERAL),
    "gpt_bigcode": ConfigClass(
        GPT,
        _of(50257, 768, 12, 12, 1024, GPT, **GPT_2) | {"activation_function": "gelu_pytorch_tanh", "multi_query": True},
        GENERAL,
    ),
    "gpt_neo": ConfigClass(
        NEO,
        _of(50257, 2048, 24, 16, 2048, NEO, intermediate_size=None, activation_function="gelu_new", **TIED)
        | {"attention_types": [[["global", "local"], 12]], "window_size": 256},
        NEO_GENERAL,
    ),
    "gptj": ConfigClass(GPT, _of(50400, 4096, 28, 16, 2048, GPT, **GPT_J), GENERAL),
    "codegen": ConfigClass(GPT, _of(50400, 4096, 28, 16, 2048, GPT, **GPT_J), GENERAL),
    "gpt_neox": ConfigClass(
        Names(),
        _of(50432, 6144, 44, 64, 2048, Names(), intermediate_size=24576, hidden_act="gelu", rotary_pct=0.25, **UNTIED)
        | {"use_parallel_residual": True, "attention_bias": True},
    ),
    "opt": ConfigClass(
        OPT,
        _of(50272, 768, 12, 12, 2048, OPT, ffn_dim=3072, activation_function="relu", **TIED, **OPT_FLAGS),
    ),
    # The class has the sizes of a test model, which the file must state, and no longest sequence: trained on 2048.
    "bloom": ConfigClass(BLOOM, {"vocab_size": 250880, "seq_length": 2048, **TIED}, BLOOM_GENERAL),
    "mpt": ConfigClass(
        MPT,
        _of(50368, 2048, 24, 16, 2048, MPT, expansion_ratio=4, attn_config=None, no_bias=True, **TIED),
        MPT_GENERAL,
    ),
    "falcon": ConfigClass(
        FALCON,
        _of(65024, 4544, 32, 71, 2048, FALCON, ffn_hidden_size=None, activation="gelu", **TIED, **FALCON_FLAGS),
        {"hidden_size": "n_embed"},
    ),
    "phi": ConfigClass(
        GQA,
        _of(51200, 2048, 24, 32, 2048, GQA, intermediate_size=8192, hidden_act="gelu_new", **HALF)
        | {"num_key_value_heads": None, "qk_layernorm": False},
    ),
    "persimmon": ConfigClass(
        Names(),
        _of(262144, 4096, 36, 64, 16384, Names(), intermediate_size=16384, hidden_act="relu2", **HALF)
        | {"qk_layernorm": True},
    ),
    "stablelm": ConfigClass(
        GQA,
        _of(50304, 2560, 32, 32, 4096, GQA, intermediate_size=6912, hidden_act="silu", **STABLELM_FLAGS, **UNTIED)
        | {"num_key_value_heads": 32, "partial_rotary_factor": 0.25},
    ),
    "cohere": ConfigClass(GQA, _of(256000, 8192, 40, 64, 8192, GQA, **COHERE)),
    "cohere2": ConfigClass(
        GQA,
        _of(256000, 8192, 40, 64, 8192, GQA, **COHERE) | {"sliding_window": 4096, "sliding_window_pattern": 4},
    ),
    "qwen": ConfigClass(QWEN, _of(151936, 4096, 32, 32, 8192, QWEN, intermediate_size=22016, **QWEN_FLAGS)),
}
