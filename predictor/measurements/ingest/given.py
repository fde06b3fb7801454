"""What the user tells that files do not: columns for all rows, and how a CSV names its own."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

from predictor.errors import InvalidTable
from predictor.files import read_toml
from predictor.measurements import runs, schema
from predictor.units import GB, GIB, KB, KIB, MB, MIB, MS, US
from predictor.values import did_you_mean

UNITS: Mapping[str, Mapping[str, float]] = {
    "seconds": {"s": 1.0, "ms": MS, "us": US, "µs": US, "ns": 1e-9},
    "bytes": {"B": 1, "KB": KB, "MB": MB, "GB": GB, "KiB": KIB, "MiB": MIB, "GiB": GIB},
}
COLUMNS: Mapping[str, tuple[str, str]] = {**runs.COLUMNS, **schema.COLUMNS}
TABLES = ("columns", "values", "set")
NOTHING: Mapping[str, Any] = MappingProxyType({})


class Source(NamedTuple):
    """Where a column comes from: the CSV's name of it, and what its numbers are multiplied with."""

    column: str
    factor: float = 1.0


class ColumnMap(NamedTuple):
    """columns: schema column → source. values: schema column → (text of the CSV → ours). constants: for all rows."""

    columns: Mapping[str, Source] = NOTHING
    values: Mapping[str, Mapping[str, str]] = NOTHING
    constants: Mapping[str, str] = NOTHING


class Given(NamedTuple):
    """columns: values for all rows, over what the files tell. mapping: of CSV files, None where they need none."""

    columns: Mapping[str, str] = NOTHING
    mapping: ColumnMap | None = None


def known_column(name: str) -> str:
    """name, if it is a column of one of the two tables; else raises with the nearest."""
    if name in COLUMNS:
        return name
    cure = did_you_mean(name, COLUMNS, "see predictor.measurements.schema.", cutoff=0.4)
    raise InvalidTable(f"there is no column {name}; {cure}")


def pairs(texts: Iterable[str], option: str) -> dict[str, str]:
    """COLUMN=VALUE texts of an option, by column.

    >>> pairs(["gpu=H100", "dtype=bf16"], "--set")
    {'gpu': 'H100', 'dtype': 'bf16'}
    """
    values = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals or not value.strip():
            raise InvalidTable(f'{option} is "{text}"; write COLUMN=VALUE.')
        values[known_column(name.strip())] = value.strip()
    return values


def column_map(file: Path | None, short: Iterable[str] = ()) -> ColumnMap | None:
    """The mapping of a TOML file and of short forms such as "latency_s=time:us"; None where there is neither."""
    mapping = _read(file) if file else {}
    for name in mapping:
        if name not in TABLES:
            raise InvalidTable(
                f"{file} has a table [{name}]; a mapping has {', '.join(f'[{table}]' for table in TABLES)}."
            )
    columns = {known_column(name): _source(name, value) for name, value in mapping.get("columns", {}).items()}
    for name, text in pairs(short, "--column").items():
        columns[name] = _source(name, text)
    if not columns and not mapping:
        return None
    values = {known_column(n): {str(k): str(v) for k, v in v.items()} for n, v in mapping.get("values", {}).items()}
    return ColumnMap(columns, values, {known_column(n): str(v) for n, v in mapping.get("set", {}).items()})


def _read(file: Path) -> dict[str, Any]:
    mapping = read_toml(file, "give a mapping file (TOML)", InvalidTable)
    for name, table in mapping.items():
        inner = table.values() if isinstance(table, dict) and name == "values" else [table]
        if not all(isinstance(part, dict) for part in inner):
            raise InvalidTable(f"{file}: {name} must be a table; write [{name}] above its lines.")
    return mapping


def _source(name: str, value: Any) -> Source:
    """ "time", "time:us" or {column = "time", unit = "us"}."""
    if isinstance(value, str):
        column, _, unit = value.rpartition(":")
        value = {"column": column, "unit": unit} if column and any(unit in of for of in UNITS.values()) else value
    if isinstance(value, str):
        return Source(value)
    if not isinstance(value, dict) or not isinstance(value.get("column"), str) or set(value) - {"column", "unit"}:
        raise InvalidTable(f'{name} is {value!r}; write "NAME" or {{ column = "NAME", unit = "us" }}.')
    if "unit" not in value:
        return Source(value["column"])
    known = UNITS.get(COLUMNS[name][0], {})
    if value["unit"] not in known:
        allowed = f"one of {', '.join(known)}" if known else f"left out, as the column is in {COLUMNS[name][0]}"
        raise InvalidTable(f'unit of {name} is "{value["unit"]}"; it must be {allowed}.')
    return Source(value["column"], known[value["unit"]])
