"""Headers of GGUF files, versions 2 and 3: metadata and tensors, without data (ggml/docs/gguf.md of llama.cpp)."""

from __future__ import annotations

import re
import struct
from collections import Counter
from collections.abc import Mapping
from math import prod
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from predictor.errors import InvalidSpec
from predictor.values import show

MAGIC = b"GGUF"
ALIGNMENT = 32  # of tensors, where general.alignment does not say it
LARGEST_HEADER_BYTES = 100_000_000  # as safetensors; published vocabularies have below 20 MB
MOST_ENTRIES, MOST_AXES = 2**20, 4  # GGML_MAX_DIMS
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
    40: ("NVFP4", 64, 36),
    41: ("Q1_0", 128, 18),
}
# Kinds of a metadata value: numbers by their struct code; 8 is a text, 9 an array.
NUMBERS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
TEXT, ARRAY = 8, 9


class Array(NamedTuple):
    """An array of the metadata, of which only the length is kept."""

    length: int


class Tensor(NamedTuple):
    """A tensor of the file; dtype as ggml calls it, offset in bytes from the start of the data."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    nbytes: int
    offset: int


class Gguf(NamedTuple):
    """Metadata and tensors of a model; of one in several parts the metadata of the first and the tensors of all."""

    metadata: Mapping[str, Any]
    tensors: list[Tensor]


def read_gguf(path: Path) -> Gguf:
    """The header of a .gguf file, with those of all parts where it is one of several.

    Raises InvalidSpec where a part is missing, or a header is broken or denied by the size of its file.
    """
    files = [_read(part) for part in parts(path)]
    names = Counter(tensor.name for file in files for tensor in file.tensors)
    if twice := [name for name, count in names.items() if count > 1]:
        raise InvalidSpec(f"{shown(path)} has tensor {show(twice[0])} twice; a name stands once. Download it again.")
    metadata = files[0].metadata
    if isinstance(stated := metadata.get("split.count"), int) and stated not in (0, len(files)):  # 0: not split
        raise InvalidSpec(
            f"{shown(path)} is one of {show(stated)} parts by its split.count, but its name says {len(files)}; give "
            "all parts their published names, such as model-00001-of-00003.gguf."
        )
    return Gguf(metadata, [tensor for file in files for tensor in file.tensors])


def parts(path: Path) -> list[Path]:
    """All files of a model that a name such as model-00001-of-00003.gguf says is in parts; else the file alone.

    Raises InvalidSpec where one of them is missing.
    """
    if (numbered := re.fullmatch(r"(.*)-(\d{5})-of-(\d{5})(\.gguf|\.safetensors)", path.name)) is None:
        return [path]
    count = int(numbered[3])
    if not 1 <= int(numbered[2]) <= count:
        raise InvalidSpec(
            f"{shown(path)} is part {int(numbered[2])} of {count} by its name; give it its published name."
        )
    files = [path.with_name(f"{numbered[1]}-{number:05}-of-{count:05}{numbered[4]}") for number in range(1, count + 1)]
    if missing := [shown(Path(file.name)) for file in files if not file.is_file()]:
        raise InvalidSpec(
            f"{shown(path.parent)} lacks {len(missing)} parts, such as {missing[0]}; finish the download."
        )
    return files


def shown(path: Path) -> str:
    """A path that is safe to print, its end where it is long."""
    return str(path).encode("unicode_escape").decode()[-200:]


def _read(path: Path) -> Gguf:
    try:
        if not path.is_file():  # a pipe would block
            raise InvalidSpec(f"{shown(path)} is no file; give the path of a .gguf.")
        with path.open("rb") as opened:
            return _header(_Reader(opened, path))
    except OSError as error:
        raise InvalidSpec(f"{shown(path)} cannot be read ({error.strerror}); give a .gguf that can.") from None


def _header(reader: _Reader) -> Gguf:
    if reader.take(4) != MAGIC:
        raise reader.broken('does not start with "GGUF"')
    if (version := reader.number("I")) not in (2, 3):
        raise reader.broken(f"has version {version}, not 2 or 3 in little-endian", "convert it to version 3")
    counts = reader.number("Q"), reader.number("Q")
    if max(counts) > MOST_ENTRIES:
        raise reader.broken(f"says it has {max(counts)} entries; at most {MOST_ENTRIES} are read")
    metadata: dict[str, Any] = {}
    for _ in range(counts[1]):
        key = reader.text()
        if key in metadata:
            raise reader.broken(f"has {show(key)} twice; a key stands once")
        metadata[key] = reader.value(reader.number("I"))
    tensors = [reader.tensor() for _ in range(counts[0])]
    alignment = metadata.get("general.alignment", ALIGNMENT)
    if type(alignment) is not int or not 0 < alignment <= 2**20:
        raise reader.broken(f"has general.alignment {show(alignment)}; it must be from 1 to 2**20")
    _fits(reader, tensors, alignment)
    return Gguf(metadata, tensors)


def _fits(reader: _Reader, tensors: list[Tensor], alignment: int) -> None:
    """Each tensor starts where the one before ends, aligned, and the file has them all (gguf.cpp of llama.cpp), or
    none, where a header was fetched alone."""
    start, end = -(-reader.at // alignment) * alignment, 0
    for tensor in tensors:
        if tensor.offset != -(-end // alignment) * alignment:
            raise reader.broken(
                f"has tensor {show(tensor.name)} at byte {tensor.offset} of its data; the tensor before, of its type "
                f"and shape, ends at {end}"
            )
        end = tensor.offset + tensor.nbytes
    if tensors and reader.size > start and start + end > reader.size:
        raise reader.broken(f"has {reader.size} bytes; its header says {start + end}")


class _Reader:
    """Reads a header piece by piece; nothing in it is trusted."""

    def __init__(self, opened: BinaryIO, path: Path) -> None:
        self.opened, self.path, self.size, self.at = opened, path, path.stat().st_size, 0

    def broken(self, how: str, cure: str = "download it again") -> InvalidSpec:
        return InvalidSpec(f"{shown(self.path)} {how}; {cure}.")

    def _pass(self, count: int) -> None:
        """Counts bytes of the header before they are read, so that no length makes it read more than there is."""
        self.at += count
        if self.at > self.size:
            raise self.broken(f"ends within its header: {self.at} bytes are said to be there, {self.size} are")
        if self.at > LARGEST_HEADER_BYTES:
            raise self.broken(f"has a header of more than {LARGEST_HEADER_BYTES} bytes, the most that is read")

    def take(self, count: int) -> bytes:
        self._pass(count)
        if len(content := self.opened.read(count)) < count:
            raise self.broken("ended while it was read")
        return content

    def number(self, code: str) -> Any:
        return struct.unpack("<" + code, self.take(struct.calcsize("<" + code)))[0]

    def text(self) -> str:
        return self.take(self.number("Q")).decode("utf-8", errors="replace")

    def value(self, kind: int) -> Any:
        if kind in NUMBERS:
            return self.number(NUMBERS[kind])
        if kind == TEXT:
            return self.text()
        if kind != ARRAY:
            raise self.broken(f"has metadata of kind {kind}; kinds 0 to 12 are known")
        inner, length = self.number("I"), self.number("Q")
        if inner in NUMBERS:
            room = length * struct.calcsize("<" + NUMBERS[inner])
            self._pass(room)
            self.opened.seek(room, 1)
        elif inner == TEXT:
            for _ in range(length):  # ends with the header, as each has eight bytes of length
                self.take(int.from_bytes(self.take(8), "little"))
        else:
            raise self.broken(f"has an array of kind {inner}; numbers and texts are known")
        return Array(length)

    def tensor(self) -> Tensor:
        name, axes = self.text(), self.number("I")
        if axes > MOST_AXES:
            raise self.broken(f"has tensor {show(name)} of {axes} axes; at most {MOST_AXES} are known")
        shape = tuple(self.number("Q") for _ in range(axes))
        kind, offset = self.number("I"), self.number("Q")
        if kind not in TYPES:
            known = ", ".join(map(str, TYPES))
            raise self.broken(f"has tensor {show(name)} of ggml type {kind}", f"give a file of the types {known}")
        dtype, elements, nbytes = TYPES[kind]
        row = shape[0] if shape else 1
        if (count := prod(shape)) >= 2**60 or row % elements:
            raise self.broken(
                f"has tensor {show(name)} of shape {show(shape)}; its rows must be whole blocks of {elements} "
                f"({dtype}), and its elements fewer than 2**60"
            )
        return Tensor(name, dtype, shape, count // elements * nbytes, offset)
