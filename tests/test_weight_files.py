"""Sizes of weights from headers: exact, and never a traceback."""

import json
import struct
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from predictor.answering import predict
from predictor.errors import InvalidSpec, PredictorError
from predictor.gguf import gguf_metadata
from predictor.memory import weights_bytes
from predictor.weight_files import stored_weights
from predictor.workloads import Workload, get_model

LLAMA = get_model("Llama-3.2-1B")


def safetensors(path: Path, tensors: dict[str, tuple[str, list[int], int]]) -> Path:
    header, at = {}, 0
    for name, (dtype, shape, size) in tensors.items():
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [at, at + size]}
        at += size
    text = json.dumps({"__metadata__": {"format": "pt"}, **header}).encode()
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        file.truncate(8 + len(text) + at)  # a sparse file: no data
    return path


def gguf(path: Path, tensors: dict[str, tuple[int, list[int]]], **numbers: int) -> Path:
    def text(value: str) -> bytes:
        return struct.pack("<Q", len(value)) + value.encode()

    found = b"GGUF" + struct.pack("<IQQ", 3, len(tensors), 3 + len(numbers))
    found += text("general.architecture") + struct.pack("<I", 8) + text("llama")
    found += text("llama.block_count") + struct.pack("<II", 4, 16)
    found += text("tokenizer.ggml.tokens") + struct.pack("<IIQ", 9, 8, 2) + text("a") + text("bc")
    for key, number in numbers.items():
        found += text("llama." + key.replace("__", ".")) + struct.pack("<II", 4, number)
    for name, (kind, shape) in tensors.items():
        found += text(name) + struct.pack("<I", len(shape)) + struct.pack(f"<{len(shape)}Q", *shape)
        found += struct.pack("<IQ", kind, 0)
    path.write_bytes(found)
    return path


def test_a_header_with_every_shape_of_a_model_gives_what_the_closed_form_counts(tmp_path: Path) -> None:
    linear, _, plain = LLAMA.elements(Workload(model=LLAMA).layout)
    tensors = {"layers": ("BF16", [int(linear)], int(linear) * 2), "rest": ("BF16", [int(plain)], int(plain) * 2)}
    found = stored_weights(safetensors(tmp_path / "model.safetensors", tensors))
    assert found.total_bytes == weights_bytes(Workload(model=LLAMA)) and found.tensors == 2
    assert found.bytes_of == {"BF16": found.total_bytes}


def test_packed_weights_have_the_bytes_of_the_file(tmp_path: Path) -> None:
    tensors = {"q": ("I32", [8, 4], 128), "scales": ("F16", [4], 8), "f4": ("F4", [3], 2)}
    assert stored_weights(safetensors(tmp_path / "a.safetensors", tensors)).total_bytes == 138


def test_an_index_alone_with_its_shards_and_half_copied(tmp_path: Path) -> None:
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(
        json.dumps({"metadata": {"total_size": 99}, "weight_map": {"a": "1.safetensors", "b": "2.safetensors"}})
    )
    assert stored_weights(index).total_bytes == stored_weights(tmp_path).total_bytes == 99
    safetensors(tmp_path / "1.safetensors", {"a": ("F32", [2], 8)})
    with pytest.raises(InvalidSpec, match=r"lacks 1 shards, such as 2\.safetensors"):
        stored_weights(index)
    safetensors(tmp_path / "2.safetensors", {"b": ("F32", [3], 12)})
    assert stored_weights(tmp_path).total_bytes == 20


def test_blocks_of_gguf(tmp_path: Path) -> None:
    """ggml-common.h: 144 bytes for 256 weights of Q4_K, 34 for 32 of Q8_0."""
    file = gguf(tmp_path / "a.gguf", {"w": (12, [256, 10]), "v": (8, [64]), "norm": (0, [7])})
    found = stored_weights(file)
    assert found.bytes_of == {"Q4_K": 1440, "Q8_0": 68, "F32": 28} and found.total_bytes == 1536
    assert gguf_metadata(file) == {"general.architecture": "llama", "llama.block_count": 16, "tokenizer.ggml.tokens": 2}


def test_a_gguf_is_a_model_of_its_own(tmp_path: Path) -> None:
    fields = {"embedding_length": 2048, "attention__head_count": 32, "attention__head_count_kv": 8}
    fields |= {"feed_forward_length": 8192, "context_length": 131_072, "vocab_size": 128_256}
    file = gguf(tmp_path / "mine.gguf", {"w": (12, [256, 10])}, **fields)
    found = get_model(str(file))
    assert found.name == "mine" and found.parameters() == LLAMA.parameters()
    assert predict(str(file), "L4").memory.weights_bytes == 1440


def test_a_gguf_of_an_unknown_architecture_says_so(tmp_path: Path) -> None:
    file = gguf(tmp_path / "a.gguf", {"w": (0, [4])})
    with pytest.raises(InvalidSpec, match=r"has no llama\.embedding_length"):
        get_model(file)
    file.write_bytes(file.read_bytes().replace(b"llama", b"mamba"))
    with pytest.raises(InvalidSpec, match=r"general\.architecture mamba; known: llama"):
        get_model(file)


def test_all_parts_of_a_split_gguf_are_wanted(tmp_path: Path) -> None:
    first = gguf(tmp_path / "m-00001-of-00002.gguf", {"w": (0, [4])})
    with pytest.raises(InvalidSpec, match=r"lacks 1 parts, such as m-00002-of-00002\.gguf"):
        stored_weights(first)
    gguf(tmp_path / "m-00002-of-00002.gguf", {"v": (0, [6])})
    assert stored_weights(first).total_bytes == stored_weights(tmp_path).total_bytes == 40


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        ({"dtype": "F9", "shape": [1], "data_offsets": [0, 4]}, "dtype F9"),
        ({"dtype": "F32", "shape": [2], "data_offsets": [0, 4]}, "denies"),
        ({"dtype": "F32", "shape": [1], "data_offsets": [4, 0]}, "denies"),
        ({"dtype": "F32", "shape": [2**50], "data_offsets": [0, 2**52]}, "denies"),
        ({"dtype": "F32", "shape": [-1], "data_offsets": [0, 4]}, "no shape"),
        ([], "dtype None"),
    ],
)
def test_what_does_not_agree_is_said(entry: Any, said: str, tmp_path: Path) -> None:
    text = json.dumps({"a": entry}).encode()
    file = tmp_path / "a.safetensors"
    file.write_bytes(struct.pack("<Q", len(text)) + text + bytes(4))
    with pytest.raises(InvalidSpec, match=said):
        stored_weights(file)


@pytest.mark.parametrize("name", ["nowhere.gguf", "nowhere"])
def test_a_missing_file_is_said(name: str, tmp_path: Path) -> None:
    with pytest.raises(InvalidSpec, match="is not there"):
        stored_weights(tmp_path / name)


def test_a_folder_without_weights_and_an_unknown_ending(tmp_path: Path) -> None:
    with pytest.raises(InvalidSpec, match=r"no \.safetensors"):
        stored_weights(tmp_path)
    (tmp_path / "a.bin").write_bytes(b"x")
    with pytest.raises(InvalidSpec, match="unknown ending"):
        stored_weights(tmp_path / "a.bin")


@given(data=st.data(), kind=st.sampled_from(["a.gguf", "a.safetensors"]))
@settings(max_examples=200, deadline=None)
def test_broken_files_are_errors_and_never_tracebacks(data: st.DataObject, kind: str, tmp_path_factory: Any) -> None:
    file = tmp_path_factory.mktemp("fuzz") / kind
    if kind == "a.gguf":
        gguf(file, {"w": (12, [256, 10]), "norm": (0, [7])})
    else:
        safetensors(file, {"w": ("BF16", [4, 4], 32), "v": ("F32", [2], 8)})
    content = bytearray(file.read_bytes())
    for _ in range(data.draw(st.integers(0, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    file.write_bytes(bytes(content[: data.draw(st.integers(0, len(content)))]))
    try:
        assert stored_weights(file).total_bytes > 0
    except PredictorError as error:
        assert "a." in str(error)
