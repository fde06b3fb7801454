"""Models as hubs and Ollama write them: "llama3.1:8b-instruct-q4_K_M", "TheBloke/Llama-2-7B-AWQ", "QwQ-32B".

The names are data: models, defaults, formats and mirrors of predictor/catalog/names.toml. A name may say the number
format of the weights; what it says, and what was taken for it, is said in a note.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cache, lru_cache
from typing import Any, NamedTuple

from predictor.shipped import spellings

# A fine-tune of a model has its shapes; these words of a name say which fine-tune, or which file format.
VARIANTS = frozenset({"instruct", "chat", "it", "hf", "base", "pt", "text"})
HUBS = re.compile(r"^(?:https?://)?(?:huggingface\.co|hf\.co|ollama\.com)/")
IN_OLLAMA = "q4_k_m"  # of tags that say no format (ollama.com/library)


class Said(NamedTuple):
    """What a name says. plain: the names that the catalogue may have for it, best first. words: the ending that says a
    format, as it is written; dtype: the number format of the weights by it, "" where none is said. default: the name
    that one of Ollama without a tag stands for, "" for others."""

    plain: tuple[str, ...]
    words: str = ""
    dtype: str = ""
    default: str = ""


def normalise(name: str) -> str:
    """A name without case, variant words and separators; the organisation stays.

    >>> normalise("meta-llama/Llama-3.1-8B_Instruct")
    'meta-llama/llama-3.1-8b'
    """
    organisation, slash, rest = name.casefold().rpartition("/")
    words = [word for word in re.split(r"[-_\s]+", rest) if word and word not in VARIANTS]
    return organisation + slash + "-".join(words)


@lru_cache(maxsize=4096)
def said(name: str) -> Said:
    """What a name says of its model and the format of the weights.

    >>> said("llama3.1:8b-instruct-q4_K_M")[1:3]
    ('q4_K_M', 'q4_k_m')
    >>> said("TheBloke/Llama-2-7B-AWQ").plain[-1]
    'Llama-2-7b-hf'
    """
    table = _table()
    organisation, slash, rest = HUBS.sub("", name.strip()).removesuffix(":latest").rpartition("/")
    own = table["formats_of"].get(organisation, {})
    words, dtype = "", ""
    while match := _ending(rest, table["formats"] | own):
        rest, word, meant = match
        words = f"{word}-{words}" if words else word
        dtype = dtype or meant
    default = table["defaults"].get(normalise(rest), "") if not slash or organisation == "library" else ""
    names = [f"{organisation}{slash}{default or rest}"]
    if slash and organisation.casefold() in table["mirrors"]:
        names.append(rest)
    renamed = [table["models"][key] for key in map(normalise, names) if key in table["models"]]
    return Said(tuple(dict.fromkeys([*names, *renamed])), words, dtype, default)


def _ending(rest: str, formats: Mapping[str, str]) -> tuple[str, str, str] | None:
    """What is before the longest ending of a name that says a format, the ending, and the format."""
    lower = rest.casefold().replace("_", "-")
    found = [ending for ending in formats if lower.endswith(ending) and lower[: -len(ending)][-1:] in ("-", ".", ":")]
    if not found:
        return None
    longest = max(found, key=len)
    cut = len(rest) - len(longest)
    return rest[: cut - 1], rest[cut:], formats[longest]


def name_note(name: str, dtype: str, *, narrow: bool = False) -> str:
    """What to say of a name that is not the catalogue's own. dtype: the format that was asked for, "" none. narrow:
    the model is published in 4 bits, so that Ollama's tags are alike."""
    meant = said(name)
    parts = []
    if meant.default:
        parts.append(f'"{name}" is {meant.default}, the tag that Ollama takes.')
    if meant.dtype and dtype and dtype != meant.dtype:
        parts.append(f'"{name}" says weights in {meant.dtype} ({meant.words}); dtype {dtype} is taken.')
    elif meant.dtype and not dtype:
        parts.append(f'"{name}" says {meant.words}: weights are taken in {meant.dtype}.')
    elif meant.words and not dtype:
        parts.append(f'"{name}" does not say the number format; weights are taken as published. Set dtype.')
    elif (":" in meant.plain[0] or meant.default) and not dtype and not narrow:
        parts.append(
            f"Ollama has most of its tags in {IN_OLLAMA}; weights are taken as published. Set dtype for those."
        )
    return " ".join(parts)


@cache
def _table() -> dict[str, Any]:
    table = spellings()
    return {
        **table,
        "models": {normalise(name): model for name, model in table["models"].items()},
        "mirrors": {name.casefold() for name in table["mirrors"]},
    }
