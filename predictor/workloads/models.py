"""Finds a model by name: the catalogue of published models, or a config.json of one's own.

A new architecture is one module with its class, an entry in Model and in FILES, and one in FROM_CONFIG.

>>> get_model("llama-3.1-8b").name
'Llama-3.1-8B'
>>> get_model("meta-llama/Llama-3.1-8B-Instruct").parameters()
8030261248
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

from predictor.errors import PredictorError, UnknownModel
from predictor.shipped import read_catalogue
from predictor.values import nearest_names
from predictor.workloads.architectures.convnet import ConvNet, convnet_from_entry
from predictor.workloads.architectures.decoder import Decoder
from predictor.workloads.architectures.encoder import Encoder, VisionEncoder
from predictor.workloads.architectures.layered import LayeredDecoder
from predictor.workloads.architectures.seq2seq import Seq2Seq
from predictor.workloads.names import VARIANTS, name_note, normalise as normalise, said

Model = Decoder | LayeredDecoder | Encoder | VisionEncoder | Seq2Seq | ConvNet

PLAIN = ("fp32", "fp16", "bf16")  # formats of weights that nobody quantised
NOT_SHAPE = ("parameters", "aliases", "base")


class _Part(NamedTuple):
    """A table of a file of the catalogue. entries: hub id → shapes. names: normalised name → hub id."""

    entries: Mapping[str, Mapping[str, Any]]
    names: Mapping[str, str]


@cache
def models() -> Mapping[str, Model]:
    """Every model of the catalogue by name, in file order."""
    return MappingProxyType({_short(hub_id): _made(number, hub_id) for number, hub_id in _hub_ids()})


@cache
def published_parameters() -> Mapping[str, int]:
    """Parameter count that the publisher states, by model name; a model's parameters() counts from the shapes."""
    counts = {_short(hub_id): _part(number).entries[hub_id]["parameters"] for number, hub_id in _hub_ids()}
    return MappingProxyType(counts)


def get_model(name: str | Path) -> Model:
    """The model of that name, hub id or alias, or the one that a config.json (or the directory with it) describes.

    Upper and lower case, the organisation before the slash and the words of VARIANTS make no difference: an instruct
    model has the shapes of its base model. It may state a shorter context (Qwen2.5-Instruct: 32,768 of 131,072). Names
    of hubs and Ollama are those of predictor.workloads.names; an ending such as "-AWQ" says the format of the weights.
    A file or directory is read where the name has a leading ".",
    "/" or "~", ends in .json or .gguf, or is not in the catalogue. Other hub ids are looked up on the hub where the
    extra `hub` is installed.
    Raises UnknownModel, with what was perhaps meant.
    """
    if isinstance(name, Path):
        return model_from_config(name)
    if not isinstance(name, str) or not name.strip():
        raise UnknownModel(f'model is {name!r}; give a name such as "Llama-3.1-8B" or the path of a config.json.')
    name = name.strip()
    if not _is_file(name):
        if (known := _known(name)) is not None:
            return known
        if (spelt := _spelt(name)) is not None:
            return spelt
        if not _is_directory(name):
            return _from_hub(name)
    return model_from_config(_path(name))


def hub_id(name: str) -> str:
    """The hub id of a name: itself where it is one, that of a model of the catalogue, and "" of a file or a folder, and
    of what nobody knows.

    >>> hub_id("qwen3-8b"), hub_id("Llama-3.1-8B-Instruct"), hub_id("./config.json")
    ('Qwen/Qwen3-8B', 'meta-llama/Llama-3.1-8B-Instruct', '')
    """
    if _is_file(name):
        return ""
    if re.fullmatch(r"[\w.-]+/[\w.-]+", name):
        return name if _known(name) or _spelt(name) or not _is_directory(name) else ""
    for plain in dict.fromkeys((name, *said(name).plain)):
        wanted = normalise(plain)
        for number in range(len(FILES)):
            if (known := _part(number).names.get(wanted)) is not None:
                words = {word for word in re.split(r"[-_\s]+", plain.casefold()) if word in VARIANTS}
                named = words <= set(re.split(r"[-_\s]+", known.casefold()))
                return known if named else f"{known.rpartition('/')[0]}/{plain}"
    return ""


def _spelt(name: str) -> Model | None:
    """The model that a name of hubs or of Ollama means, in the number format that it says."""
    meant = said(name)
    model = next((known for plain in meant.plain if (known := _known(plain)) is not None), None)
    if model is None or not meant.dtype:
        return model
    if meant.dtype in PLAIN:
        if isinstance(model, LayeredDecoder):
            return replace(model, dtype=meant.dtype, linear_dtype="", expert_dtype="")
        return replace(model, dtype=meant.dtype)
    changes: dict[str, Any] = {"name": f"{model.name}-{meant.words}", "linear_dtype": meant.dtype}
    if isinstance(model, LayeredDecoder):
        return replace(model, **changes, expert_dtype=meant.dtype)
    return replace(model, **changes) if isinstance(model, Decoder) else None


def model_note(name: str, dtype: str) -> str:
    """What to say of a name that is not the catalogue's own; dtype: the format that was asked for, "" none.

    >>> model_note("TheBloke/Llama-2-7B-AWQ", "")
    '"TheBloke/Llama-2-7B-AWQ" says AWQ: weights are taken in int4_wo.'
    """
    if _is_file(name) or _known(name) is not None or (model := _spelt(name)) is None:
        return ""
    return name_note(name, dtype, narrow=getattr(model, "expert_dtype", "").startswith("mxfp4"))


def names_file(name: str) -> bool:
    """Whether a name from elsewhere may mean a file or a folder of this machine, without a look at the disk.

    >>> names_file("../x"), names_file("meta-llama/Llama-3.1-8B")
    (True, False)
    """
    return _is_file(name) or name.startswith("\\") or ".." in name


def _is_file(name: str) -> bool:
    """Whether a name is a path without a look at the disk."""
    return name.startswith((".", "/", "~")) or name.endswith((".json", ".gguf"))


def _known(name: str) -> Model | None:
    """The model of the catalogue with that name; files after the one that has it are not read."""
    wanted = normalise(name)
    for number in range(len(FILES)):
        if (hub_id := _part(number).names.get(wanted)) is not None:
            return _made(number, hub_id)
    return None


def _hub_ids() -> Iterator[tuple[int, str]]:
    """Number in FILES and hub id of every model."""
    return ((number, hub_id) for number in range(len(FILES)) for hub_id in _part(number).entries)


def _short(hub_id: str) -> str:
    return hub_id.rpartition("/")[2]


@cache
def _made(number: int, hub_id: str) -> Model:
    """The one model of an entry."""
    shapes = _part(number).entries[hub_id]
    return FILES[number][2](_short(hub_id), {key: shapes[key] for key in shapes if key not in NOT_SHAPE})


@cache
def _part(number: int) -> _Part:
    file, table, _ = FILES[number]
    entries = _tables(file)[table] if table else _tables(file)
    names = {
        normalise(name): hub_id
        for hub_id, entry in entries.items()
        for name in (hub_id, _short(hub_id), *entry.get("aliases", ()))
    }
    whole = {hub_id: entries[entry["base"]] | entry if "base" in entry else entry for hub_id, entry in entries.items()}
    return _Part(whole, names)


_tables = cache(read_catalogue)


def _layered(name: str, entry: Mapping[str, Any]) -> Model:
    from predictor.workloads.configs.layered import layered_from_config

    model = layered_from_config(entry, name, entry["source"])
    return replace(model, **{key: entry[key] for key in ("linear_dtype", "expert_dtype") if key in entry})


def _fields_of(kind: type[Model]) -> Callable[[str, Mapping[str, Any]], Model]:
    """Makes a model whose entry holds the fields of its class."""
    return lambda name, entry: kind(name=name, **entry)


# Files of the catalogue, the table of each that holds the entries ("": the whole), and what makes a model of an entry.
FILES: tuple[tuple[str, str, Callable[[str, Mapping[str, Any]], Model]], ...] = (
    ("models.toml", "", _fields_of(Decoder)),
    ("classic.toml", "", _fields_of(Decoder)),
    ("sparse_models.toml", "", _layered),
    ("encoders.toml", "text", _fields_of(Encoder)),
    ("encoders.toml", "vision", _fields_of(VisionEncoder)),
    ("encoders.toml", "seq2seq", _fields_of(Seq2Seq)),
    ("convnets.toml", "", convnet_from_entry),
)


def model_from_config(source: Mapping[str, Any] | str | Path, name: str = "") -> Model:
    """The model that a config.json describes; raises InvalidSpec naming the field that is missing or not understood.

    source: the parsed file, its path, a directory that has one, or a .gguf. name: for reports; else that of the
    directory.
    """
    from predictor.workloads.configs.dense import decoder_from_config
    from predictor.workloads.configs.encoder import CONVNETS, SEQ2SEQ, TEXT, VISION, WHOLE, encoder_from_config
    from predictor.workloads.configs.fields import read
    from predictor.workloads.configs.gguf import decoder_from_gguf

    if isinstance(source, str | Path) and Path(source).suffix == ".gguf":
        return decoder_from_gguf(Path(source), name)
    config = read(Path(source))[0] if isinstance(source, str | Path) else source
    kind = config.get("model_type") if isinstance(config, Mapping) else None
    single = isinstance(kind, str) and kind in (*TEXT, *VISION, *WHOLE, *SEQ2SEQ, *CONVNETS)
    return encoder_from_config(source, name) if single else decoder_from_config(source, name)


def _from_hub(name: str) -> Model:
    """The model of a hub id that the catalogue does not have, by its config.json on the Hugging Face hub or in its
    local cache; needs the extra `hub`."""
    if re.fullmatch(r"[\w.-]+/[\w.-]+", name) is None:
        raise UnknownModel(_did_you_mean(name))
    try:
        import huggingface_hub
    except ImportError:
        raise UnknownModel(f"{_did_you_mean(name)} To ask the hub: pip install 'gpu-predictor[hub]'.") from None
    try:
        return model_from_config(huggingface_hub.hf_hub_download(name, "config.json"), name=name.rpartition("/")[2])
    except PredictorError:
        raise
    except Exception as error:  # the hub's client raises errors of several libraries
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
        raise UnknownModel(f"{_did_you_mean(name)} The hub was asked: {reason}") from error


def _is_directory(name: str) -> bool:
    try:
        return Path(name).is_dir()
    except OSError:  # a name too long for the file system
        return False


def _path(name: str) -> Path:
    try:
        return Path(name).expanduser()
    except RuntimeError:  # no such user, no home
        return Path(name)


def _did_you_mean(name: str) -> str:
    shown = name[:80].encode("unicode_escape").decode()
    known = {name: _short(hub_id) for number in range(len(FILES)) for name, hub_id in _part(number).names.items()}
    wanted = normalise(name[:80])
    close = nearest_names(wanted, known, most=3) or nearest_names(wanted.rpartition("/")[2], known, most=3)
    meant = list(dict.fromkeys(known[near] for near in close))
    cure = f"did you mean {' or '.join(meant)}?" if meant else f"the catalogue has {len(models())} models."
    return f'unknown model "{shown}"; {cure} The path of a config.json works too.'
