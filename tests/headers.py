"""Headers of weight files as published tools write them, before data that is not there."""

import json
import struct
from pathlib import Path
from typing import Any

import pytest

from predictor.errors import InvalidSpec
from predictor.workloads import Decoder
from predictor.workloads.weights.files import BITS, stored_weights
from predictor.workloads.weights.gguf import ALIGNMENT, TYPES

NUMBER_OF = {name: number for number, (name, _, _) in TYPES.items()}
SMALL = {"w": ("Q4_K", [256, 10]), "v": ("Q8_0", [64]), "norm": ("F32", [7])}


def safetensors(path: Path, tensors: dict[str, tuple[str, list[int]]]) -> Path:
    header, at = {}, 0
    for name, (dtype, shape) in tensors.items():
        size = BITS[dtype]
        for axis in shape:
            size *= axis
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [at, at + size // 8]}
        at += size // 8
    return written(path, json.dumps({"__metadata__": {"format": "pt"}, **header}).encode(), at)


def written(path: Path, text: bytes, room: int) -> Path:
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        file.truncate(8 + len(text) + room)  # a sparse file: no data
    return path


def text(value: str) -> bytes:
    return struct.pack("<Q", len(value.encode())) + value.encode()


def entry(value: Any) -> bytes:
    """Kind and value of an entry of the metadata: a text, a whole number, or a list of one of them."""
    if isinstance(value, str):
        return struct.pack("<I", 8) + text(value)
    if isinstance(value, int):
        return struct.pack("<II", 4, value)
    if value and isinstance(value[0], str):
        return struct.pack("<IIQ", 9, 8, len(value)) + b"".join(map(text, value))
    return struct.pack(f"<IIQ{len(value)}I", 9, 4, len(value), *value)


def gguf(path: Path, tensors: dict[str, tuple[str, list[int]]], metadata: dict[str, Any] | None = None) -> Path:
    found = b"GGUF" + struct.pack("<IQQ", 3, len(tensors), len(metadata or {}))
    for key, value in (metadata or {}).items():
        found += text(key) + entry(value)
    at = 0
    for name, (dtype, shape) in tensors.items():
        found += text(name) + struct.pack(f"<I{len(shape)}Q", len(shape), *shape)
        found += struct.pack("<IQ", NUMBER_OF[dtype], at)
        _, elements, size = TYPES[NUMBER_OF[dtype]]
        for axis in shape:
            size *= axis
        at += -(-size // elements // ALIGNMENT) * ALIGNMENT
    with path.open("wb") as file:
        file.write(found)
        file.truncate(-(-len(found) // ALIGNMENT) * ALIGNMENT + at)
    return path


def shapes(model: Decoder) -> dict[str, list[int]]:
    """Names and shapes of a llama in Transformers, embedding and head tied."""
    hidden, heads, kv = model.hidden, model.heads * model.head_dim, model.kv_heads * model.head_dim
    layer = {
        "self_attn.q_proj": [heads, hidden],
        "self_attn.k_proj": [kv, hidden],
        "self_attn.v_proj": [kv, hidden],
        "self_attn.o_proj": [hidden, heads],
        "mlp.gate_proj": [model.inter, hidden],
        "mlp.up_proj": [model.inter, hidden],
        "mlp.down_proj": [hidden, model.inter],
        "input_layernorm": [hidden],
        "post_attention_layernorm": [hidden],
    }
    found = {f"model.layers.{n}.{name}.weight": shape for n in range(model.layers) for name, shape in layer.items()}
    return found | {"model.embed_tokens.weight": [model.vocab, hidden], "model.norm.weight": [hidden]}


def described(model: Decoder, architecture: str, **more: Any) -> dict[str, Any]:
    """Metadata of a model as llama.cpp's converter writes it."""
    sizes = {
        "block_count": model.layers,
        "embedding_length": model.hidden,
        "feed_forward_length": model.inter,
        "attention.head_count": model.heads,
        "attention.head_count_kv": model.kv_heads,
        "attention.key_length": model.head_dim,
        "context_length": model.max_len,
        "vocab_size": model.vocab,
    }
    entries = {f"{architecture}.{key}": value for key, value in (sizes | more).items() if value is not None}
    return {"general.architecture": architecture, "tokenizer.ggml.tokens": ["a", "bc"], **entries}


def refused(file: Path | str) -> str:
    with pytest.raises(InvalidSpec) as caught:
        stored_weights(file)
    said = str(caught.value)
    assert "\n" not in said and len(said) < 700
    return said
