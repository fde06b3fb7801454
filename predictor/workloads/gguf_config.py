"""The model that a GGUF file describes: its metadata, written as a config.json."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from predictor.errors import InvalidSpec
from predictor.gguf import Tensor, gguf_metadata, gguf_tensors
from predictor.workloads.config import decoder_from_config
from predictor.workloads.decoder import Decoder
from predictor.workloads.layered import LayeredDecoder

# general.architecture of llama.cpp → model_type of transformers.
ARCHITECTURES = {"llama": "llama", "qwen2": "qwen2", "qwen3": "qwen3", "gemma2": "gemma2", "phi3": "phi3"}
# Fields of config.json by the key that follows the architecture.
FIELDS = {
    "hidden_size": "embedding_length",
    "num_hidden_layers": "block_count",
    "num_attention_heads": "attention.head_count",
    "intermediate_size": "feed_forward_length",
    "max_position_embeddings": "context_length",
}

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
    """The model of a .gguf file. Raises InvalidSpec where its architecture or a field is not known."""
    try:
        metadata, tensors = gguf_metadata(path), gguf_tensors(path)
    except OSError as error:
        raise InvalidSpec(f"{path} cannot be read ({error.strerror}); give the path of a .gguf file.") from None
    kind = metadata.get("general.architecture")
    if kind not in ARCHITECTURES:
        known = ", ".join(ARCHITECTURES)
        raise InvalidSpec(f"{path} has general.architecture {str(kind)[:40]}; known: {known}. Give a config.json.")
    found: dict[str, Any] = {"model_type": ARCHITECTURES[kind], "torch_dtype": "bfloat16"}
    for field, key in FIELDS.items():
        if (value := metadata.get(f"{kind}.{key}")) is None:
            raise InvalidSpec(f"{path} has no {kind}.{key}; give a config.json instead.")
        found[field] = value
    heads = found["num_attention_heads"]
    found["num_key_value_heads"] = metadata.get(f"{kind}.attention.head_count_kv", heads)
    if head_dim := metadata.get(f"{kind}.attention.key_length"):
        found["head_dim"] = head_dim
    found["vocab_size"] = metadata.get(f"{kind}.vocab_size") or metadata.get("tokenizer.ggml.tokens")
    if window := metadata.get(f"{kind}.attention.sliding_window"):
        found["sliding_window"] = window
    found["tie_word_embeddings"] = not _has_head(tensors)
    return replace(decoder_from_config(found, name or path.stem), linear_dtype=_format(tensors))


def _format(tensors: list[Tensor]) -> str:
    """What most of the file is in, as a dtype of requests; "" for 16 bits and formats without a known mixture."""
    sizes: dict[str, int] = {}
    for tensor in tensors:
        sizes[tensor.dtype] = sizes.get(tensor.dtype, 0) + tensor.nbytes
    return MIXTURES.get(max(sizes, key=lambda dtype: sizes[dtype]), "") if sizes else ""


def _has_head(tensors: list[Tensor]) -> bool:
    return any(tensor.name == "output.weight" for tensor in tensors)
