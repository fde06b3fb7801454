"""The model that a GGUF file describes: its metadata, written as a config.json."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from predictor.errors import InvalidSpec
from predictor.values import show
from predictor.workloads.architectures.decoder import Decoder
from predictor.workloads.architectures.layered import LayeredDecoder
from predictor.workloads.configs.dense import decoder_from_config
from predictor.workloads.weights.gguf import Array, Tensor, read_gguf, shown

# general.architecture of llama.cpp → model_type of transformers.
ARCHITECTURES = {
    "llama": "llama",
    "qwen2": "qwen2",
    "qwen3": "qwen3",
    "gemma2": "gemma2",
    "gemma3": "gemma3_text",
    "phi3": "phi3",
}
# Fields of config.json by the key that follows the architecture.
FIELDS = {
    "hidden_size": "embedding_length",
    "num_hidden_layers": "block_count",
    "num_attention_heads": "attention.head_count",
    "intermediate_size": "feed_forward_length",
    "max_position_embeddings": "context_length",
}
# Those that may be absent, or 0 for none.
OPTIONAL = {
    "num_key_value_heads": "attention.head_count_kv",
    "head_dim": "attention.key_length",
    "sliding_window": "attention.sliding_window",
    "vocab_size": "vocab_size",
    "rope_dimension_count": "rope.dimension_count",
    "num_local_experts": "expert_count",
    "num_experts_per_tok": "expert_used_count",
}
# Type of most tensors, where they are not quantised → torch_dtype of config.json.
PLAIN = {"F32": "float32", "F16": "float16", "BF16": "bfloat16"}
# Type of most tensors → the mixture that llama.cpp's quantize makes by default.
MIXTURES = {
    "Q2_K": "q2_k",
    "Q3_K": "q3_k_m",
    "Q4_0": "q4_0",
    "Q4_K": "q4_k_m",
    "Q5_0": "q5_0",
    "Q5_K": "q5_k_m",
    "Q6_K": "q6_k",
    "Q8_0": "q8_0",
    "IQ4_XS": "iq4_xs",
}


def decoder_from_gguf(path: Path, name: str = "") -> Decoder | LayeredDecoder:
    """The model of a .gguf file, of all parts where it is split; name: for reports, else that of the file.

    Raises InvalidSpec where its header is broken, or its architecture or a field is not known.
    """
    metadata, tensors = read_gguf(path)
    kind = metadata.get("general.architecture")
    if not isinstance(kind, str) or kind not in ARCHITECTURES:
        known = ", ".join(ARCHITECTURES)
        raise InvalidSpec(f"{shown(path)} has general.architecture {show(kind)}; known: {known}. Give a config.json.")
    names = {tensor.name for tensor in tensors}
    config = _sizes(metadata, kind, path) | {
        "model_type": ARCHITECTURES[kind],
        "tie_word_embeddings": "output.weight" not in names,
        "attention_bias": "blk.0.attn_output.bias" in names,
        "mlp_bias": "blk.0.ffn_down.bias" in names,
    }
    if "num_local_experts" in config:  # llama.cpp calls Mixtral a llama
        if kind != "llama":
            raise InvalidSpec(f"{shown(path)} is a {kind} of experts; of those llama is known. Give a config.json.")
        config["model_type"] = "mixtral"
    plain, mixture = _formats(tensors)
    config["torch_dtype"] = plain
    model = decoder_from_config(config, name or re.sub(r"-\d{5}-of-\d{5}$", "", path.stem))
    source = f"header of {shown(Path(path.name))}"
    if isinstance(model, LayeredDecoder):
        return replace(model, linear_dtype=mixture, expert_dtype=mixture, source=source)
    return replace(model, linear_dtype=mixture, source=source)


def _sizes(metadata: Mapping[str, Any], kind: str, path: Path) -> dict[str, Any]:
    """Fields of config.json that are sizes."""
    sizes: dict[str, Any] = {field: _size(metadata, f"{kind}.{key}", path) for field, key in FIELDS.items()}
    sizes |= {field: size for field, key in OPTIONAL.items() if (size := _size(metadata, f"{kind}.{key}", path, 0))}
    hidden, heads = sizes["hidden_size"], sizes["num_attention_heads"]
    sizes.setdefault("num_key_value_heads", heads)
    sizes.setdefault("head_dim", hidden // heads if hidden % heads == 0 else None)
    tokens = metadata.get("tokenizer.ggml.tokens")
    if isinstance(tokens, Array):
        sizes.setdefault("vocab_size", tokens.length)
    if "vocab_size" not in sizes:
        raise InvalidSpec(f"{shown(path)} has neither {kind}.vocab_size nor a vocabulary; give a config.json instead.")
    turned, head_dim = sizes.pop("rope_dimension_count", 0), sizes["head_dim"]
    if head_dim and 0 < turned < head_dim:
        sizes["partial_rotary_factor"] = turned / head_dim
    return sizes


def _size(metadata: Mapping[str, Any], key: str, path: Path, absent: int | None = None) -> int:
    """A whole number of at least 1; absent, where that is given, for what is 0 or not there."""
    value = metadata.get(key)
    if absent is not None and (value is None or value == 0):
        return absent
    if value is None:
        raise InvalidSpec(f"{shown(path)} has no {key}; give a config.json instead.")
    if isinstance(value, Array):  # a number per layer
        raise InvalidSpec(f"{shown(path)} has {value.length} values of {key}; one is known. Give a config.json.")
    if type(value) is not int or not 1 <= value <= 2**31:
        raise InvalidSpec(f"{shown(path)} has {key} {show(value)}; it must be 1 to 2**31. Give a config.json instead.")
    return value


def _formats(tensors: list[Tensor]) -> tuple[str, str]:
    """(torch_dtype, dtype of requests): what most of the file is in; "" for a dtype without a known mixture."""
    sizes: dict[str, int] = {}
    for tensor in tensors:
        sizes[tensor.dtype] = sizes.get(tensor.dtype, 0) + tensor.nbytes
    most = max(sizes, key=lambda dtype: sizes[dtype], default="")
    return PLAIN.get(most, "bfloat16"), MIXTURES.get(most, "")
