"""YAML of plain data, as PyYAML writes it, and comments before it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any


def yaml_text(value: Mapping[str, Any], *others: Mapping[str, Any]) -> str:
    """One document, or several in one text, in the order given; text of several lines is written as such.

    >>> print(yaml_text({"b": [1, "x: y"], "a": "one\\ntwo\\n"}), end="")
    b:
    - 1
    - 'x: y'
    a: |
      one
      two
    """
    import yaml  # few commands write any

    class Dumper(yaml.SafeDumper):
        """Of plain data only."""

        def ignore_aliases(self, data: Any) -> bool:
            return True

    def text(dumper: yaml.SafeDumper, data: str) -> yaml.Node:
        return dumper.represent_scalar("tag:yaml.org,2002:str", data, style="|" if _is_lines(data) else None)

    Dumper.add_representer(str, text)
    return yaml.dump_all([value, *others], Dumper=Dumper, sort_keys=False, width=1000)


def comments(lines: Iterable[str]) -> str:
    """Lines that YAML and shells do not read, whatever blanks are in them.

    >>> comments(["a", "b\\nc"])
    '# a\\n# b c\\n'
    """
    return "".join(f"# {' '.join(line.split())}\n" for line in lines)


def _is_lines(text: str) -> bool:
    """Whether text has several lines that YAML reads back as they are."""
    return "\n" in text and all(
        line.isascii() and line.isprintable() and line == line.strip(" ") for line in text.split("\n")
    )
