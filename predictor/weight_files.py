"""Sizes of a model's weights from the headers of its files: safetensors, their index, and GGUF. No data is read.

>>> stored_weights("a.gguf")
Traceback (most recent call last):
predictor.errors.InvalidSpec: a.gguf is not there; give a .safetensors file, its index, a .gguf or a folder.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

from predictor.errors import InvalidSpec
from predictor.gguf import gguf_tensors

LARGEST_HEADER_BYTES = 100 * 2**20  # safetensors' own limit
INDEX = ".safetensors.index.json"
# Bits of an element (safetensors/src/tensor.rs: Dtype).
BITS: Mapping[str, int] = {
    **dict.fromkeys(("F64", "I64", "U64", "C64"), 64),
    **dict.fromkeys(("F32", "I32", "U32"), 32),
    **dict.fromkeys(("F16", "BF16", "I16", "U16"), 16),
    **dict.fromkeys(("F8_E4M3", "F8_E5M2", "F8_E8M0", "I8", "U8", "BOOL"), 8),
    **dict.fromkeys(("F6_E2M3", "F6_E3M2"), 6),
    "F4": 4,
}


@dataclass(frozen=True, slots=True)
class StoredWeights:
    """Bytes of all tensors, and of each number format as the files name it; {} where only an index was at hand.

    tensors: how many. source: what was read.
    """

    total_bytes: float
    bytes_of: Mapping[str, float]
    tensors: int
    source: str


def stored_weights(path: str | Path) -> StoredWeights:
    """The size of the weights in a .safetensors file, its index, a .gguf (all parts of a split one), or a folder.

    Raises InvalidSpec where a header is broken, or parts of a download are missing.
    """
    file = Path(path).expanduser()
    if not file.exists():
        raise InvalidSpec(f"{path} is not there; give a .safetensors file, its index, a .gguf or a folder.")
    if file.is_dir():
        return _folder(file)
    if file.name.endswith(INDEX):
        return _index(file)
    if file.suffix == ".gguf":
        return _summed([_gguf(part) for part in _parts(file)], file.name)
    if file.suffix == ".safetensors":
        return _summed([_safetensors(file)], file.name)
    raise InvalidSpec(f"{path} has an unknown ending; give a .safetensors file, its index, a .gguf or a folder.")


def _folder(folder: Path) -> StoredWeights:
    for pattern, read in ((f"*{INDEX}", _index), ("*.gguf", stored_weights)):
        if found := sorted(folder.glob(pattern)):
            return read(found[0])
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise InvalidSpec(
            f"{folder} has no .safetensors, no index of them and no .gguf; give the folder of the weights."
        )
    return _summed([_safetensors(file) for file in files], folder.name)


def _index(file: Path) -> StoredWeights:
    """From the shards beside an index, or from its total where none of them is there."""
    content = _json(file.read_bytes(), file) if file.stat().st_size <= LARGEST_HEADER_BYTES else None
    names = content.get("weight_map") if isinstance(content, dict) else None
    if not isinstance(names, dict) or not all(isinstance(name, str) for name in names.values()):
        raise InvalidSpec(f"{file} has no weight_map of tensors to files; copy the index again.")
    shards = [file.parent / Path(name).name for name in sorted(set(names.values()))]
    there = [shard for shard in shards if shard.is_file()]
    if there and len(there) < len(shards):
        missing = next(shard.name for shard in shards if shard not in there)
        raise InvalidSpec(
            f"{file.parent} lacks {len(shards) - len(there)} shards, such as {missing}; finish the download."
        )
    if there:
        return _summed([_safetensors(shard) for shard in shards], file.name)
    metadata = content.get("metadata") if isinstance(content, dict) else None
    total = metadata.get("total_size") if isinstance(metadata, dict) else None
    if isinstance(total, bool) or not isinstance(total, int | float) or not 0 < total < 1e18:
        raise InvalidSpec(
            f"{file} has metadata.total_size {total!r}; it must be the bytes of all tensors. Copy it again."
        )
    return StoredWeights(float(total), {}, len(names), file.name)


def _safetensors(file: Path) -> dict[str, tuple[str, int]]:
    """(format, bytes) by tensor, from the header: eight bytes of length, little-endian, and JSON."""
    with file.open("rb") as opened:
        whole = file.stat().st_size
        length = int.from_bytes(opened.read(8), "little")
        if whole < 8 or length > min(whole - 8, LARGEST_HEADER_BYTES):
            raise InvalidSpec(f"{file} says its header has {length} bytes; the file has {whole}. Download it again.")
        header = _json(opened.read(length), file)
    if not isinstance(header, dict):
        raise InvalidSpec(f"{file} has a header that is no object; download it again.")
    found, room = dict[str, tuple[str, int]](), whole - 8 - length
    for name, entry in header.items():
        if name != "__metadata__":
            found[name] = _entry(file, name, entry, room)
    return found


def _entry(file: Path, name: str, entry: Any, room: int) -> tuple[str, int]:
    """Format and bytes of a tensor, of a file with `room` bytes of data; what does not agree raises."""
    known = entry if isinstance(entry, dict) else {}
    dtype: Any = known.get("dtype")
    shape: Any = known.get("shape")
    ends: Any = known.get("data_offsets")
    if not isinstance(dtype, str) or dtype not in BITS:
        raise InvalidSpec(f"{file}: tensor {name[:80]} has dtype {str(dtype)[:40]}; known: {', '.join(BITS)}.")
    if not _counts(shape) or not _counts(ends) or len(ends) != 2:
        raise InvalidSpec(f"{file}: tensor {name[:80]} has no shape and data_offsets; download the file again.")
    size = ends[1] - ends[0]
    if size < 0 or ends[1] > room or size != -(-prod(shape) * BITS[dtype] // 8):
        raise InvalidSpec(
            f"{file}: tensor {name[:80]} has offsets that its shape or the file denies; download it again."
        )
    return dtype, size


def _counts(value: Any) -> bool:
    return isinstance(value, list) and all(type(each) is int and 0 <= each < 2**60 for each in value)


def _json(content: bytes, file: Path) -> Any:
    try:
        return json.loads(content)
    except (ValueError, RecursionError):
        raise InvalidSpec(f"{file} has a header that is no JSON; download it again.") from None


def _gguf(file: Path) -> dict[str, tuple[str, int]]:
    return {tensor.name: (tensor.dtype, tensor.nbytes) for tensor in gguf_tensors(file)}


def _parts(file: Path) -> list[Path]:
    """All parts of a split GGUF: name-00001-of-00003.gguf and so on."""
    if (found := re.fullmatch(r"(.*)-\d{5}-of-(\d{5})\.gguf", file.name)) is None:
        return [file]
    count = int(found[2])
    parts = [file.with_name(f"{found[1]}-{number:05}-of-{count:05}.gguf") for number in range(1, count + 1)]
    if missing := [part.name for part in parts if not part.is_file()]:
        raise InvalidSpec(f"{file.parent} lacks {len(missing)} parts, such as {missing[0]}; finish the download.")
    return parts


def _summed(files: list[dict[str, tuple[str, int]]], source: str) -> StoredWeights:
    bytes_of: dict[str, float] = {}
    for tensors in files:
        for dtype, size in tensors.values():
            bytes_of[dtype] = bytes_of.get(dtype, 0.0) + size
    if not sum(bytes_of.values()):
        raise InvalidSpec(f"{source} holds no weights; give the file of the weights.")
    return StoredWeights(sum(bytes_of.values()), bytes_of, sum(map(len, files)), source)
