"""Data files that come with the package."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, fields
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

from predictor.errors import InvalidSpec
from predictor.values import did_you_mean, show

PACKAGE = Path(__file__).parent
# What TOML gives for the annotation of a field.
KINDS: Mapping[str, tuple[type, ...]] = {
    "str": (str,),
    "bool": (bool,),
    "int": (int,),
    "float": (int, float),
    "tuple": (list,),
    "Mapping": (dict,),
}

LARGEST = 1e18  # of a whole number
T = TypeVar("T")


def read_catalogue(file: str) -> dict[str, Any]:
    """The tables of a file in predictor/catalog, by a parser of machine code: tomllib takes a third of a second."""
    import tomli

    return tomli.loads((PACKAGE / "catalog" / file).read_text(encoding="utf-8"))


@cache
def spellings() -> Mapping[str, Any]:
    """Names as people write them, of GPUs, models and number formats: the tables of names.toml, not to be changed."""
    return read_catalogue("names.toml")


def facts(kind: type[T], table: Mapping[str, Any], where: str) -> T:
    """A table as the dataclass whose fields are its keys; lists become tuples.

    where: what the table is, for InvalidSpec, which an unknown or absent key and a value of another type raise.
    """
    known = {field.name: field for field in fields(kind)}  # type: ignore[arg-type]
    values: dict[str, Any] = {}
    for key, value in table.items():
        if key not in known:
            cure = did_you_mean(key, known, f"the keys are {', '.join(known)}.")
            raise InvalidSpec(f"unknown key {key} in {where}; {cure}")
        wanted = str(known[key].type)
        kinds = KINDS[wanted.partition("[")[0]]
        if not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds):
            raise InvalidSpec(f"{key} is {value!r} in {where}; it must be {wanted}.")
        if isinstance(value, int) and abs(value) > LARGEST:
            raise InvalidSpec(f"{key} is {show(value)} in {where}; it must be within ±{LARGEST:g}.")
        values[key] = tuple(value) if isinstance(value, list) else value
        if wanted == "float" and isinstance(value, int):
            values[key] = float(value)
    if absent := [name for name, field in known.items() if name not in values and _needed(field)]:
        raise InvalidSpec(f"{where} lacks {', '.join(absent)}; add it.")
    return kind(**values)


def _needed(field: Any) -> bool:
    return field.default is MISSING and field.default_factory is MISSING
