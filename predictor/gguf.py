"""Headers of GGUF files, versions 2 and 3: metadata and tensors, without data (ggml/docs/gguf.md of llama.cpp)."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from math import prod
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from predictor.errors import InvalidSpec

MAGIC = b"GGUF"
MOST_ENTRIES, LONGEST_TEXT = 2**20, 2**24
# Type number → name, elements of a block, bytes of a block (ggml/src/ggml-common.h and ggml.c of llama.cpp).
TYPES: Mapping[int, tuple[str, int, int]] = {
    0: ("F32", 1, 4),
    1: ("F16", 1, 2),
    2: ("Q4_0", 32, 18),
    3: ("Q4_1", 32, 20),
    6: ("Q5_0", 32, 22),
    7: ("Q5_1", 32, 24),
    8: ("Q8_0", 32, 34),
    9: ("Q8_1", 32, 36),
    10: ("Q2_K", 256, 84),
    11: ("Q3_K", 256, 110),
    12: ("Q4_K", 256, 144),
    13: ("Q5_K", 256, 176),
    14: ("Q6_K", 256, 210),
    15: ("Q8_K", 256, 292),
    16: ("IQ2_XXS", 256, 66),
    17: ("IQ2_XS", 256, 74),
    18: ("IQ3_XXS", 256, 98),
    19: ("IQ1_S", 256, 50),
    20: ("IQ4_NL", 32, 18),
    21: ("IQ3_S", 256, 110),
    22: ("IQ2_S", 256, 82),
    23: ("IQ4_XS", 256, 136),
    24: ("I8", 1, 1),
    25: ("I16", 1, 2),
    26: ("I32", 1, 4),
    27: ("I64", 1, 8),
    28: ("F64", 1, 8),
    29: ("IQ1_M", 256, 56),
    30: ("BF16", 1, 2),
    34: ("TQ1_0", 256, 54),
    35: ("TQ2_0", 256, 66),
    39: ("MXFP4", 32, 17),
}
# Kinds of a metadata value: numbers by their struct code; 8 is a text, 9 an array.
NUMBERS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
TEXT, ARRAY = 8, 9


class Tensor(NamedTuple):
    """A tensor of the file; dtype as ggml calls it."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    nbytes: int


def gguf_tensors(path: Path) -> list[Tensor]:
    """The tensors of a file. Raises InvalidSpec where the header is broken."""
    return _read(path)[1]


def gguf_metadata(path: Path) -> Mapping[str, Any]:
    """The metadata of a file; of an array its length. Raises InvalidSpec where the header is broken."""
    return _read(path)[0]


def _read(path: Path) -> tuple[dict[str, Any], list[Tensor]]:
    with path.open("rb") as opened:
        header = _Header(opened, path)
        if opened.read(4) != MAGIC:
            raise header.broken("does not start as a GGUF file")
        if (version := header.number("I")) not in (2, 3):
            raise header.broken(f"has version {version}, versions 2 and 3 are known")
        tensors, entries = header.count("Q"), header.count("Q")
        metadata = {}
        for _ in range(entries):
            key = header.text()
            metadata[key] = header.value(header.number("I"))
        return metadata, [header.tensor() for _ in range(tensors)]


class _Header:
    """Reads a header piece by piece; nothing in it is trusted."""

    def __init__(self, opened: BinaryIO, path: Path) -> None:
        self.opened, self.path, self.size = opened, path, path.stat().st_size

    def broken(self, how: str) -> InvalidSpec:
        return InvalidSpec(f"{self.path} {how}; download it again.")

    def take(self, count: int) -> bytes:
        found = self.opened.read(count)
        if len(found) < count:
            raise self.broken("ends within its header")
        return found

    def number(self, code: str) -> Any:
        return struct.unpack("<" + code, self.take(struct.calcsize("<" + code)))[0]

    def count(self, code: str) -> int:
        found: int = self.number(code)
        if found > MOST_ENTRIES:
            raise self.broken(f"says it has {found} entries, at most {MOST_ENTRIES} are read")
        return found

    def text(self) -> str:
        length = self.number("Q")
        if length > LONGEST_TEXT:
            raise self.broken(f"has a text of {length} bytes")
        return self.take(length).decode("utf-8", errors="replace")

    def value(self, kind: int) -> Any:
        if kind in NUMBERS:
            return self.number(NUMBERS[kind])
        if kind == TEXT:
            return self.text()
        if kind != ARRAY:
            raise self.broken(f"has metadata of the unknown kind {kind}")
        inner, length = self.number("I"), self.number("Q")
        if inner in NUMBERS:
            room = length * struct.calcsize(NUMBERS[inner])
            if room > self.size:
                raise self.broken(f"has an array of {length} numbers")
            self.opened.seek(room, 1)
        elif inner == TEXT and length <= MOST_ENTRIES:
            for _ in range(length):
                self.text()
        else:
            raise self.broken(f"has an array of {length} values of the kind {inner}")
        return length

    def tensor(self) -> Tensor:
        name, axes = self.text(), self.number("I")
        if axes > 4:
            raise self.broken(f"has a tensor of {axes} axes")
        shape = tuple(self.number("Q") for _ in range(axes))
        kind, _ = self.number("I"), self.number("Q")
        if kind not in TYPES:
            raise self.broken(f"has a tensor of the unknown type {kind}")
        dtype, elements, nbytes = TYPES[kind]
        count = prod(shape)
        if count >= 2**60 or count % elements:
            raise self.broken(f"has a tensor of shape {shape} in blocks of {elements}")
        return Tensor(name, dtype, shape, count // elements * nbytes)
