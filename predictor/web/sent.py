"""Ids of files that were sent, where a question names them, and the paths that stand in their place."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from predictor.web.uploads import ID

SENT = ("trace", "prices", "scores")  # parameters that name a file that was sent, each of a kind of its own


def named(given: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """(id, kind of file) of all that a question names; a model stands alone, in a list, in work, or as what scores are.

    >>> list(named({"model": ["Qwen3-8B", "dropped-0123456789ab"], "batch": 8}))
    [('dropped-0123456789ab', 'model')]
    """
    for name, value in given.items():
        for one in value if isinstance(value, list) else [value]:
            text = one.get("model") if isinstance(one, dict) else one
            if name == "as":
                text = stated(one)[1]
            if name in (*SENT, "model", "as", "work") and isinstance(text, str) and ID.fullmatch(text):
                yield text, name if name in SENT else "model"


def stated(text: str) -> tuple[str, str, str]:
    """(id of scores, model, ":" and number format) of ID=MODEL:DTYPE; parts that are missing are "".

    >>> stated("dropped-0123456789ab=Qwen3-8B:fp8")
    ('dropped-0123456789ab', 'Qwen3-8B', ':fp8')
    """
    file, _, whole = text.partition("=")
    model, colon, dtype = whole.rpartition(":")
    return (file, model, colon + dtype) if colon else (file, whole, "")


def laid(given: Mapping[str, Any], paths: Mapping[str, str]) -> dict[str, Any]:
    """What is given, with the paths of files in place of their ids. paths: by id."""
    return {name: _laid(name, value, paths) for name, value in given.items()}


def _laid(name: str, value: Any, paths: Mapping[str, str]) -> Any:
    if isinstance(value, list):
        return [_laid(name, one, paths) for one in value]
    if isinstance(value, dict):
        return {key: _laid(key, one, paths) for key, one in value.items()}
    if not isinstance(value, str):
        return value
    if name == "as":
        file, model, dtype = stated(value)
        return f"{paths.get(file, file)}={paths.get(model, model)}{dtype}"
    return paths.get(value, value) if name in (*SENT, "model") else value
