"""Reads a Hugging Face config.json of the decoder families of 2019 to 2024 that name or build their layers differently
from Llama: layer norms, learned or biased positions, attention and feed-forward side by side.

What the file leaves out takes the default of the configuration class (classic_defaults.py) and nothing else. What the
keys mean is taken from transformers' modelling files, and from vLLM's for what those leave out (MPT, Qwen 1).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from predictor.errors import InvalidSpec
from predictor.workloads.architectures.decoder import Decoder
from predictor.workloads.configs.classic_defaults import CLASSES, MPT_ATTENTION, ConfigClass, Names
from predictor.workloads.configs.fields import ACTIVATION_OF, Fields, show
from predictor.workloads.configs.quantization import published_dtypes

Facts = dict[str, Any]  # fields of Decoder


class Config(Fields):
    """A config under the names of its class."""

    def __init__(self, config: Mapping[str, Any], of: ConfigClass) -> None:
        super().__init__(config, of.defaults)
        self.general = of.general

    def get(self, key: str) -> Any:
        """The value in the file under either name, else the default."""
        other = self.general.get(key, key)
        return super().get(other if key not in self.config and other in self.config else key)

    def activation_of(self, key: str) -> str:
        """Our name of an activation."""
        value = self.get(key)
        if not isinstance(value, str) or value not in ACTIVATION_OF:
            raise InvalidSpec(f"{key} in config.json is {show(value)}; one of {', '.join(ACTIVATION_OF)} is known.")
        return ACTIVATION_OF[value]

    def refuse(self, key: str, known: object, meaning: str) -> None:
        """Raises where a key has another value than the one whose ops are here."""
        if (value := self.get(key)) != known:
            raise InvalidSpec(f"{key} in config.json is {show(value)} ({meaning}); only {show(known)} is supported.")

    def sizes(self, names: Names) -> Facts:
        """The fields of Decoder that every class has; a class that is told no number format loads fp32."""
        hidden, heads = self.size(names.hidden), self.size(names.heads)
        if hidden % heads:
            raise InvalidSpec(f"{names.heads} in config.json is {heads}; it must divide {names.hidden}, {hidden}.")
        return {
            "hidden": hidden,
            "layers": self.size(names.layers),
            "heads": heads,
            "kv_heads": self.size(names.kv_heads, none_is=heads) if names.kv_heads else heads,
            "head_dim": hidden // heads,
            "inter": self.size(names.inter, none_is=4 * hidden) if names.inter else 4 * hidden,
            "vocab": self.size("vocab_size"),
            "max_len": self.size(names.max_len),
            "activation": self.activation_of(names.activation) if names.activation else "gelu",
            "tied_embeddings": self.flag("tie_word_embeddings"),
            "dtype": "fp32" if self.absent("torch_dtype", "dtype") else self.dtype(),
        }


def classic_from_config(config: Mapping[str, Any], model_type: str, name: str, origin: str) -> Decoder:
    """The decoder that a config of a model_type in CLASSIC describes; raises InvalidSpec naming the field."""
    of = CLASSES[model_type]
    read = Config(config, of)
    facts = {"norm": "layer_norm", "gated": False, **read.sizes(of.names)} | CLASSIC[model_type](read)
    return Decoder(name=name, source=origin, linear_dtype=published_dtypes(read, facts["layers"])[0], **facts)


def _biases(attention: bool, feed_forward: bool) -> Facts:
    return {"qkv_bias": attention, "o_bias": attention, "mlp_bias": feed_forward}


def _gpt2(config: Config) -> Facts:
    config.refuse("add_cross_attention", False, "a decoder of an encoder-decoder")
    return {"positions": "learned", **_biases(True, True)}


def _gpt_bigcode(config: Config) -> Facts:
    return _gpt2(config) | ({"kv_heads": 1} if config.flag("multi_query") else {})


def _gpt_neo(config: Config) -> Facts:
    """attention_types: pairs of a list of "global" and "local" layers and how often it repeats."""
    types, layers, counts = config.get("attention_types"), config.size("num_layers"), {"global": 0, "local": 0}
    for pair in types if isinstance(types, list) else []:
        if isinstance(pair, list) and len(pair) == 2 and isinstance(pair[0], list) and type(pair[1]) is int:
            for kind in counts:
                counts[kind] += pair[0].count(kind) * pair[1]
    if sum(counts.values()) != layers or min(counts.values()) < 0:
        raise InvalidSpec(
            f"attention_types in config.json is {show(types)}; it must list global or local for each of the {layers} "
            'layers, such as [[["global", "local"], 12]].'
        )
    local = counts["local"]
    window = {"window": config.size("window_size"), "window_layers": local} if local else {}
    return {"positions": "learned", **_biases(True, True), "qkv_bias": False, **window}


def _gptj(config: Config) -> Facts:
    turned = 0 if config.get("rotary_dim") is None else config.size("rotary_dim")
    return {"parallel_norms": 1, "mlp_bias": True, "head_bias": True, "rotary_dim": turned}


def _opt(config: Config) -> Facts:
    config.refuse("layer_norm_elementwise_affine", True, "norms without weights")
    config.refuse("_remove_final_layer_norm", False, "no norm after the last layer")
    hidden, biased = config.size("hidden_size"), config.flag("enable_bias")
    narrow = config.size("word_embed_proj_dim", none_is=hidden)
    return {
        "positions": "learned",
        "reserved_positions": 2,
        "norm_order": "pre" if config.flag("do_layer_norm_before") else "residual",
        "embedding_dim": 0 if narrow == hidden else narrow,
        **_biases(biased, biased),
    }


def _gpt_neox(config: Config) -> Facts:
    head_dim = config.size("hidden_size") // config.size("num_attention_heads")
    return {
        "parallel_norms": 2 if config.flag("use_parallel_residual") else 0,
        "rotary_dim": config.rotary_dim(head_dim, "rotary_pct"),
        **_biases(config.flag("attention_bias"), True),
    }


def _bloom(config: Config) -> Facts:
    return {"positions": "alibi", "embedding_norm": True, **_biases(True, True)}


def _mpt(config: Config) -> Facts:
    """attn_config holds what concerns attention, with the defaults of MptAttentionConfig."""
    attention = config.get("attn_config")
    if attention is not None and not isinstance(attention, Mapping):
        raise InvalidSpec(f"attn_config in config.json is {show(attention)}; it must be an object.")
    inner = Fields(dict(attention or {}), MPT_ATTENTION)
    for key, known in (("alibi", True), ("prefix_lm", False)):
        if inner.flag(key) != known:
            raise InvalidSpec(f"{key} of attn_config in config.json is {not known}; only {known} is supported.")
    heads, biased = config.size("n_heads"), not config.flag("no_bias")
    single = inner.get("attn_type") == "multiquery_attention"
    return {
        "positions": "alibi",
        "kv_heads": 1 if single else inner.size("kv_n_heads", none_is=heads),
        "inter": config.size("expansion_ratio") * config.size("d_model"),
        "qk_norm": "full" if inner.flag("qk_ln") else "",
        "norm_bias": biased,
        **_biases(biased, biased),
    }


def _falcon(config: Config) -> Facts:
    """num_kv_heads counts in the new architecture only, which has two norms unless the file says one."""
    heads, new = config.size("num_attention_heads"), config.flag("new_decoder_architecture")
    several = config.size("num_kv_heads", none_is=heads) if new else heads
    norms = config.size("num_ln_in_parallel_attn", none_is=2 if new else 1)
    side_by_side, biased = config.flag("parallel_attn"), config.flag("bias")
    return {
        "kv_heads": 1 if config.flag("multi_query") and not new else several,
        "parallel_norms": (2 if norms == 2 else 1) if side_by_side else 0,
        "joint_all_reduce": side_by_side,
        "positions": "alibi" if config.flag("alibi") else "rotary",
        **_biases(biased, biased),
    }


def _phi(config: Config) -> Facts:
    head_dim = config.size("hidden_size") // config.size("num_attention_heads")
    return {
        "parallel_norms": 1,
        "head_bias": True,
        "qk_norm": "head" if config.flag("qk_layernorm") else "",
        "rotary_dim": config.rotary_dim(head_dim),
        **_biases(True, True),
    }


def _persimmon(config: Config) -> Facts:
    return _phi(config) | {"parallel_norms": 0, "head_bias": False}


def _stablelm(config: Config) -> Facts:
    head_dim = config.size("hidden_size") // config.size("num_attention_heads")
    return {
        "gated": True,
        "parallel_norms": 1 if config.flag("use_parallel_residual") else 0,
        "qkv_bias": config.flag("use_qkv_bias"),
        "qk_norm": "heads" if config.flag("qk_layernorm") else "",
        "rotary_dim": config.rotary_dim(head_dim),
    }


def _cohere(config: Config) -> Facts:
    """model_max_length, where the file has it, is the longest context, as vLLM takes it (vllm/config)."""
    longest = "max_position_embeddings" if config.absent("model_max_length") else "model_max_length"
    return {
        "max_len": config.size(longest),
        "gated": True,
        "norm_bias": False,
        "parallel_norms": 1,
        "qk_norm": "heads" if config.flag("use_qk_norm") else "",
        **_biases(config.flag("attention_bias"), False),
    }


def _cohere2(config: Config) -> Facts:
    """Layers with a sliding window have rotary positions, the others none."""
    layers, types = config.size("num_hidden_layers"), config.config.get("layer_types")
    if types is None:
        count = layers - layers // config.size("sliding_window_pattern")
    elif isinstance(types, list) and len(types) == layers and all(isinstance(kind, str) for kind in types):
        count = types.count("sliding_attention")
    else:
        raise InvalidSpec(f"layer_types in config.json is {show(types)}; it must name each of the {layers} layers.")
    window = {"window": config.size("sliding_window"), "window_layers": count} if count else {}
    return _cohere(config) | {"positions": "rotary_in_windows" if count else "none", **window}


def _qwen(config: Config) -> Facts:
    """intermediate_size counts gate and up together."""
    both, plain = config.size("intermediate_size"), config.flag("no_bias")
    if both % 2:
        raise InvalidSpec(
            f"intermediate_size in config.json is {both}; gate and up have half each, so it must be even."
        )
    head_dim = config.size("kv_channels")
    return {
        "gated": True,
        "norm": "rms_norm",
        "activation": "silu",
        "head_dim": head_dim,
        "inter": both // 2,
        "rotary_dim": config.rotary_dim(head_dim, "rotary_pct"),
        **_biases(not plain, not plain),
        "qkv_bias": True,
    }


# How the layers of each model_type are built: fields of Decoder beside the sizes, or in their place.
CLASSIC: Mapping[str, Callable[[Config], Facts]] = {
    "gpt2": _gpt2,
    "gpt_bigcode": _gpt_bigcode,
    "gpt_neo": _gpt_neo,
    "gptj": _gptj,
    "codegen": _gptj,
    "gpt_neox": _gpt_neox,
    "opt": _opt,
    "bloom": _bloom,
    "mpt": _mpt,
    "falcon": _falcon,
    "phi": _phi,
    "persimmon": _persimmon,
    "stablelm": _stablelm,
    "cohere": _cohere,
    "cohere2": _cohere2,
    "qwen": _qwen,
}
