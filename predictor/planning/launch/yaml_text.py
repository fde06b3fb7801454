"""YAML of plain data: blocks as people write them, text in double quotes where it might be read as else.

PyYAML, which the tests read this back with, would be a dependency of every installation for these few lines.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

PLAIN = re.compile(r"(?:--|/|\./)?[A-Za-z][\w./-]*")  # text that needs no quotes, unless it is one of NOT_PLAIN
NOT_PLAIN = frozenset({"true", "false", "null", "yes", "no", "on", "off", "y", "n"})


def yaml_text(value: Mapping[str, Any], *others: Mapping[str, Any]) -> str:
    """One document, or several in one text.

    >>> print(yaml_text({"a": {"b": [1, "x y"], "c": [{"d": True}]}}), end="")
    a:
      b: [1, "x y"]
      c:
        - d: true
    """
    documents = ("\n".join(_lines(document)) for document in (value, *others))
    return "\n---\n".join(documents) + "\n"


def comments(lines: Iterable[str]) -> str:
    """Lines that YAML and shells do not read, whatever blanks are in them.

    >>> comments(["a", "b\\nc"])
    '# a\\n# b c\\n'
    """
    return "".join(f"# {' '.join(line.split())}\n" for line in lines)


def _lines(value: Mapping[str, Any]) -> Iterator[str]:
    for name, inner in value.items():
        key = _scalar(name)
        if isinstance(inner, Mapping) and inner:
            yield f"{key}:"
            yield from (f"  {line}" for line in _lines(inner))
        elif isinstance(inner, list | tuple) and any(isinstance(item, Mapping) for item in inner):
            yield f"{key}:"
            for item in inner:
                first, *rest = _lines(item)
                yield f"  - {first}"
                yield from (f"    {line}" for line in rest)
        elif isinstance(inner, str) and _is_text(inner):
            yield f"{key}: |"
            yield from (f"  {line}" for line in inner.splitlines())
        else:
            yield f"{key}: {_flow(inner)}"


def _flow(value: Any) -> str:
    if isinstance(value, Mapping):
        return "{}"
    if isinstance(value, Sequence) and not isinstance(value, str):
        return f"[{', '.join(map(_scalar, value))}]"
    return _scalar(value)


def _is_text(value: str) -> bool:
    """Whether lines are readable as they are."""
    lines = value.split("\n")
    return (
        lines[-1] == ""
        and len(lines) > 1
        and all(line and line.isprintable() for line in lines[:-1])
        and not lines[0].startswith(" ")
    )


def _scalar(value: Any) -> str:
    if not isinstance(value, str):
        return json.dumps(value)
    if PLAIN.fullmatch(value) and value.casefold() not in NOT_PLAIN:
        return value
    return f'"{"".join(map(_escaped, value))}"'


def _escaped(sign: str) -> str:
    if sign in '"\\':
        return f"\\{sign}"
    return sign if sign.isprintable() else f"\\U{ord(sign):08x}"
