"""Headers that cannot be trusted: each is one sentence, soon, and never a traceback."""

import json
import os
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from headers import SMALL, described, gguf, refused, safetensors, text, written
from hypothesis import given, settings, strategies as st

from predictor.errors import InvalidSpec, PredictorError
from predictor.workloads import get_model
from predictor.workloads.weights.files import StoredWeights, stored_weights

F32 = {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}
LLAMA = get_model("Llama-3.2-1B")


@pytest.mark.parametrize(
    ("header", "said"),
    [
        ({"a": F32 | {"dtype": "F9"}}, 'tensor "a" has dtype "F9"; give a file of F64'),
        ({"a": F32 | {"dtype": ["F32"]}}, "has dtype ['F32']; give a file of"),
        ({"a": F32 | {"shape": [2]}}, "has [0, 4], which its F32 [2] denies"),
        ({"a": F32 | {"data_offsets": [4, 0]}}, "has [4, 0], which its F32 [1] denies"),
        ({"a": F32 | {"data_offsets": [0, 4, 4]}}, "has no shape and data_offsets"),
        ({"a": F32 | {"data_offsets": [-4, 0]}}, "has no shape and data_offsets"),
        ({"a": F32 | {"data_offsets": [0, 4.0]}}, "has no shape and data_offsets"),
        ({"a": F32 | {"data_offsets": None}}, "has no shape and data_offsets"),
        ({"a": F32 | {"shape": [True]}}, "has no shape and data_offsets"),
        ({"a": F32 | {"shape": [-1]}}, "has no shape and data_offsets"),
        ({"a": F32 | {"shape": [2**59] * 100_000}}, "has no shape and data_offsets"),
        ({"a": F32 | {"shape": [2**50], "data_offsets": [0, 2**52]}}, "has 4 bytes of data; its header says 4503599"),
        ({"a": {"dtype": "F4", "shape": [3], "data_offsets": [0, 2]}}, "has [0, 2], which its F4 [3] denies"),
        ({"a": F32, "b": F32}, 'tensor "b" starts at byte 0, where 4 is due'),
        ({"a": F32 | {"shape": [0], "data_offsets": [0, 0]}}, "has 4 bytes of data; its header says 0"),
        ({"a": F32 | {"data_offsets": [4, 8]}}, 'tensor "a" starts at byte 4, where 0 is due'),
        ({"a\n\x1b[2J": []}, 'tensor "a\\n\\x1b[2J" has dtype None'),
        ({"\ud800": []}, 'tensor "\\ud800" has dtype None'),
        ([F32], "has a header that is no object"),
        (b"{", "has a header that is no JSON"),
        (b"\xff\xfe\xff", "has a header that is no JSON"),
        (b"[" * 100_000, "has a header that is no JSON"),
        (b'{"a":' + b"9" * 10_000 + b"}", "has a header that is no JSON"),
    ],
)
def test_what_does_not_agree_in_safetensors_is_said(header: Any, said: str, tmp_path: Path) -> None:
    content = header if isinstance(header, bytes) else json.dumps(header).encode()
    assert said in refused(written(tmp_path / "a.safetensors", content, 4))


def test_files_without_weights_are_said(tmp_path: Path) -> None:
    assert "a.safetensors holds no weights" in refused(written(tmp_path / "a.safetensors", b"{}", 0))
    assert "a.gguf holds no weights" in refused(gguf(tmp_path / "a.gguf", {}))


@pytest.mark.parametrize("length", [2**64 - 1, 2**40, 100_000_001, 5])
def test_a_header_beyond_the_file_or_the_limit_is_not_read(length: int, tmp_path: Path) -> None:
    file = tmp_path / "a.safetensors"
    with file.open("wb") as opened:
        opened.write(struct.pack("<Q", length) + b"{}")
        opened.truncate(12 if length == 5 else 200_000_000)
    assert f"says its header has {length} bytes" in refused(file)


def head(tensors: int, entries: int, version: int = 3) -> bytes:
    return b"GGUF" + struct.pack("<IQQ", version, tensors, entries)


def tensor(kind: int = 0, shape: tuple[int, ...] = (8,), offset: int = 0) -> bytes:
    return text("w") + struct.pack(f"<I{len(shape)}Q", len(shape), *shape) + struct.pack("<IQ", kind, offset)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"GGML" + head(0, 0)[4:], 'does not start with "GGUF"'),
        (head(0, 0, 1), "has version 1, not 2 or 3 in little-endian; convert"),
        (head(0, 0, 3 << 24), "has version 50331648, not 2 or 3 in little-endian"),
        (head(2**60, 0), "says it has 1152921504606846976 entries"),
        (head(0, 2**21), "says it has 2097152 entries"),
        (head(0, 1) + struct.pack("<Q", 2**63), "ends within its header"),
        (head(0, 1) + text("k") + struct.pack("<I", 13), "has metadata of kind 13"),
        (head(0, 1) + text("k") + struct.pack("<IIQ", 9, 4, 2**62), "ends within its header"),
        (head(0, 1) + text("k") + struct.pack("<IIQ", 9, 8, 2**62), "ends within its header"),
        (head(0, 1) + text("k") + struct.pack("<IIQ", 9, 9, 1), "has an array of kind 9"),
        (head(0, 2) + 2 * (text("k") + struct.pack("<II", 4, 1)), 'has "k" twice'),
        (head(0, 1) + text("general.alignment") + struct.pack("<II", 4, 0), "has general.alignment 0"),
        (head(1, 0) + tensor(99), 'has tensor "w" of ggml type 99; give a file of the types 0, 1, 2'),
        (head(1, 0) + tensor(12, (100,)), "of shape (100,); its rows must be whole blocks of 256 (Q4_K)"),
        (head(1, 0) + tensor(0, (2**40, 2**40)), "its elements fewer than 2**60"),
        (head(1, 0) + tensor(0, (1,) * 5), 'has tensor "w" of 5 axes'),
        (head(1, 0) + tensor(offset=32), 'tensor "w" at byte 32 of its data; the tensor before'),
        (head(2, 0) + 2 * tensor() + bytes(64), 'tensor "w" at byte 0 of its data; the tensor before'),
        (head(2, 0) + tensor() + tensor(offset=32) + bytes(128), 'has tensor "w" twice'),
        (head(1, 0) + tensor() + bytes(8), "has 65 bytes; its header says 96"),
    ],
)
def test_what_does_not_agree_in_gguf_is_said(content: bytes, said: str, tmp_path: Path) -> None:
    file = tmp_path / "a.gguf"
    file.write_bytes(content)
    assert said in refused(file)
    with pytest.raises(InvalidSpec):
        get_model(file)


@pytest.mark.parametrize(
    "entry",
    [
        struct.pack("<IQ", 8, 2**33),  # a text
        struct.pack("<IIQ", 9, 4, 2**31),  # an array of numbers
        struct.pack("<IIQ", 9, 8, 2**62),  # an array of texts: the zeros that follow are as many empty ones
    ],
)
def test_a_header_of_many_gigabytes_is_not_read(entry: bytes, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr("predictor.workloads.weights.gguf.LARGEST_HEADER_BYTES", 10**6)
    with (tmp_path / "a.gguf").open("wb") as opened:
        opened.write(head(0, 1) + text("k") + entry)
        opened.truncate(2**34)
    assert "has a header of more than 1000000 bytes" in refused(tmp_path / "a.gguf")


def no_such_user(folder: Path) -> str:
    return "~nobody-of-that-name/a.gguf"


def pipe(folder: Path) -> Path:
    os.mkfifo(folder / "a.gguf")
    return folder / "a.gguf"


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda folder: folder / "nowhere.gguf", "is not there"),
        (lambda folder: folder / "nowhere", "is not there"),
        (lambda folder: "a\0b.gguf", "is not there"),
        (lambda folder: "a" * 5000, "cannot be read (File name too long)"),
        (no_such_user, "names no user's home"),
        (pipe, "is no regular file"),
        (lambda folder: folder, "has no .safetensors, no index of them and no .gguf"),
        (lambda folder: written(folder / "a.bin", b"{}", 0), "has an unknown ending"),
    ],
)
def test_paths_that_lead_nowhere_are_said(make: Callable[[Path], Path | str], said: str, tmp_path: Path) -> None:
    assert said in refused(make(tmp_path))


@given(data=st.data(), kind=st.sampled_from(["a.gguf", "a.safetensors", "a.safetensors.index.json"]))
@settings(max_examples=300, deadline=None)
def test_broken_files_are_errors_and_never_tracebacks(data: st.DataObject, kind: str, tmp_path_factory: Any) -> None:
    file = tmp_path_factory.mktemp("fuzz") / kind
    if kind == "a.gguf":
        gguf(file, SMALL, described(LLAMA, "llama") | {"numbers": [1, 2]})
    elif kind == "a.safetensors":
        safetensors(file, {"w": ("BF16", [4, 4]), "model.embed_tokens.weight": ("F32", [2])})
    else:
        file.write_text(json.dumps({"metadata": {"total_size": 99}, "weight_map": {"a": "1.safetensors"}}))
    whole = stored_weights(file)
    content = bytearray(file.read_bytes())
    for _ in range(data.draw(st.integers(0, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    changed = bytes(content[: data.draw(st.integers(0, len(content)) | st.just(len(content)))])
    unchanged = changed == file.read_bytes()
    file.write_bytes(changed)
    try:
        found = stored_weights(file)
        assert isinstance(found, StoredWeights) and found.total_bytes > 0
        assert not unchanged or found == whole
        if kind == "a.gguf":
            get_model(file).parameters()
    except PredictorError as error:
        assert not unchanged and str(error).isprintable()
