"""Sizes of a model's weights from the headers of its files: safetensors, their index, and GGUF. No data is read.

>>> stored_weights("a.gguf")
Traceback (most recent call last):
predictor.errors.InvalidSpec: a.gguf is not there; give a .safetensors file, its index, a .gguf or a folder.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any, NamedTuple

from predictor.errors import InvalidSpec
from predictor.values import show
from predictor.workloads.weights.gguf import parts, read_gguf, shown

LARGEST_HEADER_BYTES = 100_000_000  # safetensors/src/tensor.rs: MAX_HEADER_SIZE
MOST_AXES = 64  # of PyTorch and NumPy
INDEX = ".safetensors.index.json"
FIRST_INDEX = "model.safetensors.index.json"  # the one that Transformers opens
# Bits of an element (safetensors/src/tensor.rs: Dtype).
BITS: Mapping[str, int] = {
    **dict.fromkeys(("F64", "I64", "U64", "C64"), 64),
    **dict.fromkeys(("F32", "I32", "U32"), 32),
    **dict.fromkeys(("F16", "BF16", "I16", "U16"), 16),
    **dict.fromkeys(("F8_E4M3", "F8_E5M2", "F8_E8M0", "F8_E4M3FNUZ", "F8_E5M2FNUZ", "I8", "U8", "BOOL"), 8),
    **dict.fromkeys(("F6_E2M3", "F6_E3M2"), 6),
    "F4": 4,
}
PLAIN = frozenset({"F64", "F32", "F16", "BF16"})  # an element is a parameter; others come with scales, or packed
# Words in the names of the embedding and of the output head in Transformers, Mistral's own files and GGUF.
EMBEDDINGS = frozenset(("embed_tokens", "embed_in", "wte", "word_embeddings", "tok_embeddings", "token_embd"))
HEADS = frozenset(("lm_head", "embed_out"))
OUTPUTS = (["output"], ["language_model", "output"])  # a head where nothing else stands before it
ROPE = re.compile(r"rope_(freqs|factors_long|factors_short)\.weight")  # constants that a GGUF keeps as tensors


@dataclass(frozen=True, slots=True)
class StoredWeights:
    """Bytes of all tensors, and of each number format as the files name it; {} where only an index was at hand.

    tensors: how many. source: what was read. parameters: their elements; None where a safetensors file is quantised, as
    packed numbers and scales cannot be told, or only an index was at hand. tied: the embedding is the output head, as
    no tensor is one; None where no embedding is named.
    """

    total_bytes: float
    bytes_of: Mapping[str, float]
    tensors: int
    source: str
    parameters: float | None = None
    tied: bool | None = None


class _Stored(NamedTuple):
    """A tensor of a file."""

    dtype: str
    nbytes: int
    elements: int


def stored_weights(path: str | Path) -> StoredWeights:
    """The size of the weights in a .safetensors file, its index, a .gguf (all parts of a split one), or a folder.

    A folder is read by its index, else all its .safetensors, else its only .gguf; without shards beside it an index is
    taken at its word. Raises InvalidSpec where a header is broken, parts of a download are missing, or a folder leaves
    a choice.
    """
    try:
        file = Path(path).expanduser()
        if not file.exists():
            raise InvalidSpec(f"{shown(file)} is not there; give a .safetensors file, its index, a .gguf or a folder.")
        return _folder(file) if file.is_dir() else _file(file)
    except RuntimeError:  # ~ of nobody
        raise InvalidSpec(f"{shown(Path(path))} names no user's home; write the path out.") from None
    except OSError as error:
        raise InvalidSpec(f"{shown(Path(path))} cannot be read ({error.strerror}); give a path that can.") from None


def _file(file: Path) -> StoredWeights:
    if not file.is_file():  # a pipe would block
        raise InvalidSpec(
            f"{shown(file)} is no regular file; give a .safetensors file, its index, a .gguf or a folder."
        )
    if file.name.endswith(INDEX):
        return _index(file)
    if file.suffix == ".gguf":
        return _gguf(file)
    if file.suffix == ".safetensors":
        return _summed(parts(file), file.name)
    raise InvalidSpec(f"{shown(file)} has an unknown ending; give a .safetensors file, its index, a .gguf or a folder.")


def _folder(folder: Path) -> StoredWeights:
    there = sorted(file for file in folder.iterdir() if file.is_file())
    indices = [file for file in there if file.name.endswith(INDEX)]
    if indices := [file for file in indices if file.name == FIRST_INDEX] or indices:
        return _index(_only(indices, folder))
    if tensors := [file for file in there if file.suffix == ".safetensors"]:
        # Mistral's consolidated files are the same weights under other names.
        others = [file for file in tensors if not file.name.startswith("consolidated")] or tensors
        return _summed(sorted({part for file in others for part in parts(file)}), folder.name)
    if models := [file for file in there if file.suffix == ".gguf"]:
        models = [file for file in models if "mmproj" not in file.name] or models  # projector of a vision model
        return _gguf(_only(sorted({parts(file)[0] for file in models}), folder))
    raise InvalidSpec(
        f"{shown(folder)} has no .safetensors, no index of them and no .gguf; give the folder of the weights."
    )


def _only(files: list[Path], folder: Path) -> Path:
    if len(files) > 1:
        names = " and ".join(shown(Path(file.name)) for file in files[:2])
        raise InvalidSpec(f"{shown(folder)} has {len(files)} sets of weights, such as {names}; give the file of one.")
    return files[0]


def _index(file: Path) -> StoredWeights:
    """From the shards beside an index, or from its total where none of them is there."""
    if (size := file.stat().st_size) > LARGEST_HEADER_BYTES:
        raise InvalidSpec(
            f"{shown(file)} has {size} bytes; an index has at most {LARGEST_HEADER_BYTES}. Copy it again."
        )
    with file.open("rb") as opened:
        content = _object(opened.read(LARGEST_HEADER_BYTES), file)
    names = content.get("weight_map")
    if not isinstance(names, dict) or not all(isinstance(name, str) for name in names.values()):
        raise InvalidSpec(f"{shown(file)} has no weight_map of tensors to files; copy the index again.")
    shards = [file.parent / Path(name).name for name in sorted(set(names.values()))]
    missing = [shard for shard in shards if not shard.is_file()]
    if missing and len(missing) < len(shards):
        first = shown(Path(missing[0].name))
        raise InvalidSpec(f"{shown(file.parent)} lacks {len(missing)} shards, such as {first}; finish the download.")
    if shards and not missing:
        return _summed(shards, file.name)
    metadata = content.get("metadata")
    total = metadata.get("total_size") if isinstance(metadata, dict) else None
    if isinstance(total, bool) or not isinstance(total, int | float) or not 0 < total < 1e18:
        raise InvalidSpec(
            f"{shown(file)} has metadata.total_size {show(total)}; it must be the bytes of all tensors. Copy it again."
        )
    return StoredWeights(float(total), {}, len(names), file.name, tied=_tied(names))


def _summed(files: list[Path], source: str) -> StoredWeights:
    """All tensors of files of safetensors."""
    all_tensors: dict[str, _Stored] = {}
    for file in files:
        tensors = _safetensors(file)
        if both := all_tensors.keys() & tensors.keys():
            raise InvalidSpec(
                f"{shown(file)} has tensor {show(min(both))}, as another file has; keep one of them, or give one."
            )
        all_tensors |= tensors
    known = all(tensor.dtype in PLAIN for tensor in all_tensors.values())
    elements = float(sum(tensor.elements for tensor in all_tensors.values())) if known else None
    return _weights(((tensor.dtype, tensor.nbytes) for tensor in all_tensors.values()), all_tensors, source, elements)


def _gguf(file: Path) -> StoredWeights:
    tensors = read_gguf(file).tensors
    elements = sum(prod(tensor.shape) for tensor in tensors if not ROPE.fullmatch(tensor.name))
    names = [tensor.name for tensor in tensors]
    return _weights(((tensor.dtype, tensor.nbytes) for tensor in tensors), names, file.name, float(elements))


def _weights(
    sizes: Iterable[tuple[str, int]], names: Iterable[str], source: str, elements: float | None
) -> StoredWeights:
    bytes_of: dict[str, int] = {}  # whole until summed: a float is exact up to 2**53
    for dtype, size in sizes:
        bytes_of[dtype] = bytes_of.get(dtype, 0) + size
    if not (total := sum(bytes_of.values())):
        raise InvalidSpec(f"{shown(Path(source))} holds no weights; give the file of the weights.")
    named = list(names)
    return StoredWeights(
        total_bytes=float(total),
        bytes_of={dtype: float(size) for dtype, size in bytes_of.items()},
        tensors=len(named),
        source=source,
        parameters=elements,
        tied=_tied(named),
    )


def _tied(names: Iterable[str]) -> bool | None:
    """Whether the embedding is the output head; None without an embedding."""
    places = [name.split(".")[:-1] for name in names]
    if not any(EMBEDDINGS.intersection(words) for words in places):
        return None
    return not any(HEADS.intersection(words) or words in OUTPUTS for words in places)


def _safetensors(file: Path) -> dict[str, _Stored]:
    """Tensors by name, from the header: eight bytes of length, little-endian, and JSON."""
    whole = file.stat().st_size
    with file.open("rb") as opened:
        length = int.from_bytes(opened.read(8), "little")
        if whole < 8 or length > min(whole - 8, LARGEST_HEADER_BYTES):
            raise InvalidSpec(
                f"{shown(file)} says its header has {length} bytes; the file has {whole}, and a header at most "
                f"{LARGEST_HEADER_BYTES}. Download it again."
            )
        header = _object(opened.read(length), file)
    header.pop("__metadata__", None)
    tensors, ends = dict[str, _Stored](), list[tuple[int, int, str]]()
    for name, entry in header.items():
        start, tensors[name] = _entry(file, name, entry)
        ends.append((start, start + tensors[name].nbytes, name))
    _covered(file, sorted(ends), whole - 8 - length)
    return tensors


def _entry(file: Path, name: str, entry: Any) -> tuple[int, _Stored]:
    """First byte and size of a tensor; what does not agree raises."""
    known: dict[str, Any] = entry if isinstance(entry, dict) else {}
    dtype: Any = known.get("dtype")
    shape: Any = known.get("shape")
    ends: Any = known.get("data_offsets")
    tensor = f"{shown(file)}: tensor {show(name)}"
    if not isinstance(dtype, str) or dtype not in BITS:
        raise InvalidSpec(f"{tensor} has dtype {show(dtype)}; give a file of {', '.join(BITS)}.")
    if not _counts(shape, MOST_AXES) or not _counts(ends, 2) or len(ends) != 2:
        raise InvalidSpec(f"{tensor} has no shape and data_offsets of whole numbers from 0; download the file again.")
    elements = prod(shape)
    size, odd = divmod(elements * BITS[dtype], 8)
    if odd or ends[1] - ends[0] != size:
        raise InvalidSpec(f"{tensor} has {show(ends)}, which its {dtype} {show(shape)} denies; download it again.")
    return ends[0], _Stored(dtype, size, elements)


def _covered(file: Path, ends: list[tuple[int, int, str]], room: int) -> None:
    """Tensors follow one another from the first to the last byte of the data (safetensors/src/tensor.rs: validate), of
    which there is none where a header was fetched alone."""
    at = 0
    for start, end, name in ends:
        if start != at:
            raise InvalidSpec(
                f"{shown(file)}: tensor {show(name)} starts at byte {start}, where {at} is due; download it again."
            )
        at = end
    if at != room and room:
        raise InvalidSpec(f"{shown(file)} has {room} bytes of data; its header says {show(at)}. Download it again.")


def _counts(value: Any, most: int) -> bool:
    """Whether it is a list of at most so many sizes; a long one would take long to multiply."""
    return isinstance(value, list) and len(value) <= most and all(type(n) is int and 0 <= n < 2**60 for n in value)


def _object(content: bytes, file: Path) -> dict[str, Any]:
    try:
        header = json.loads(content)
    except (ValueError, RecursionError):  # JSON and Unicode errors are ValueErrors
        raise InvalidSpec(f"{shown(file)} has a header that is no JSON; download it again.") from None
    if not isinstance(header, dict):
        raise InvalidSpec(f"{shown(file)} has a header that is no object; download it again.")
    return header
