"""The measurement table: one row per measured operator call, SI units, one set of columns for every source.

COLUMNS documents each column. Shape columns are the fields of the ops (see predictor.ops); those that a family
does not have are empty. `checks.py` says which rows obey physics.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import MISSING, fields
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq

from predictor.errors import InvalidTable
from predictor.files import is_regular, whole_file
from predictor.ops import FAMILIES, Op
from predictor.ops.base import TEXT_FIELDS, TEXTS, names_of
from predictor.table_files import check_csv, check_parquet, csv_head, read_csv
from predictor.workloads.cells import is_empty
from predictor.workloads.engine_tables import measured_engines

TEXT = "text"


def _shape_columns() -> dict[str, tuple[str, str]]:
    """Unit and meaning of every field that an op has: names first, then numbers, family by family."""
    named: dict[str, dict[str, list[str]]] = {name: {} for name in TEXTS}  # field → meaning → families
    units = dict.fromkeys(TEXTS, TEXT)
    for kind in sorted(FAMILIES, key=_place):
        for field in fields(kind):
            units.setdefault(field.name, field.metadata.get("unit", TEXT))
            meaning = TEXTS.get(field.name) or field.metadata["text"]
            named.setdefault(field.name, {}).setdefault(meaning, []).append(kind.family)
    return {name: (unit, "; ".join(map(_meaning, named[name].items()))) for name, unit in units.items()}


def _place(kind: type[Op]) -> int:
    """Families with a KV cache stand together, where the first of them does; all others as in FAMILIES."""
    alike = [other for other in FAMILIES if other is kind or "kv_dtype" in {*names_of(kind)} & {*names_of(other)}]
    return FAMILIES.index(alike[0])


def _meaning(told: tuple[str, list[str]]) -> str:
    """What a field is, and of which families, unless most have it."""
    text, families = told
    return text if 2 * len(families) > len(FAMILIES) else ": ".join(filter(None, (", ".join(families), text)))


COLUMNS: Mapping[str, tuple[str, str]] = {
    "family": (TEXT, "operator family: " + ", ".join(f.family for f in FAMILIES)),
    **_shape_columns(),
    "gpu": (TEXT, "catalogue name or alias"),
    "engine": (TEXT, ", ".join(measured_engines()) + " …"),
    "engine_version": (TEXT, "as the source states it"),
    "kernel_name": (TEXT, "kernel or backend as the source names it"),
    "timing": (
        TEXT,
        "device: GPU time alone; host: the launch from the host is in it; warm: the best of tuned kernels, "
        "operands in the cache",
    ),
    "source": (TEXT, "which reader made the row"),
    "latency_s": ("seconds", "median or mean time of one call, as the source reports"),
}
REQUIRED = ("family", "gpu", "latency_s")
NUMBER_COLUMNS = tuple(name for name, (unit, _) in COLUMNS.items() if unit != TEXT)
TEXT_COLUMNS = tuple(name for name, (unit, _) in COLUMNS.items() if unit == TEXT)
EMPTY_NUMBERS = ["", "nan", "NaN", "NA", "null"]  # what a CSV may write where there is no number
CSV_OF_CALLS: Mapping[str, Any] = {
    "dtype": dict.fromkeys(TEXT_COLUMNS, str),
    "keep_default_na": False,
    "na_values": {name: [""] for name in TEXT_COLUMNS} | dict.fromkeys(NUMBER_COLUMNS, EMPTY_NUMBERS),
}
DEFAULT_TEXT = {"engine": "unknown", "engine_version": "", "kernel_name": "", "timing": "device", "source": ""}

ARROW_SCHEMA = pa.schema(
    [(n, pa.dictionary(pa.int32(), pa.string()) if u == TEXT else pa.float64()) for n, (u, _) in COLUMNS.items()]
)


def conform(frame: pd.DataFrame) -> pd.DataFrame:
    """frame with exactly the schema's columns: absent ones empty, text as categories, numbers as float64."""
    missing = [name for name in REQUIRED if name not in frame]
    if missing:
        raise InvalidTable(
            f"the table has no column {', '.join(missing)}; a measurement table needs {', '.join(REQUIRED)} "
            "and the shape columns of its families (see predictor.measurements.schema)."
        )
    out: dict[str, Any] = {}
    for name, (unit, _) in COLUMNS.items():
        if unit == TEXT:
            values = frame[name] if name in frame else pd.Series(DEFAULT_TEXT.get(name, ""), index=frame.index)
            if not isinstance(values.dtype, pd.CategoricalDtype):
                values = values.astype("string").astype("category")
            default = DEFAULT_TEXT.get(name, "")
            if values.isna().any():
                if default not in values.cat.categories:
                    values = values.cat.add_categories([default])
                values = values.fillna(default)
            out[name] = values
        else:
            out[name] = numbers(frame[name], name, unit) if name in frame else np.nan
    return pd.DataFrame(out, index=frame.index)


def numbers(cells: pd.Series, name: str, unit: str) -> pd.Series:
    """A number column as float64; an empty cell is no number, and one that holds something else raises InvalidTable."""
    if cells.dtype == np.float64:
        return cells
    try:
        values = pd.to_numeric(cells, errors="coerce").astype("float64")
    except OverflowError:  # whole numbers beyond those of float64, which are no measurements
        values = pd.Series([_float(cell) for cell in cells], index=cells.index, dtype="float64")
    doubtful = cells[values.isna() & cells.notna()]
    for row, cell in doubtful[~doubtful.map(is_empty).astype(bool)].head(1).items():
        raise InvalidTable(f'row {row}, column {name} is "{cell}"; it must be a number ({unit}).')
    return values


def _float(cell: Any) -> float:
    try:
        return float(cell)
    except (TypeError, ValueError, OverflowError):
        return np.nan


def write_table(frame: pd.DataFrame, path: Path | str) -> None:
    """Write a measurement table as Parquet; the file appears whole or not at all."""
    write_rows(conform(frame), path)


def write_rows(
    frame: pd.DataFrame,
    path: Path | str,
    extra: pd.DataFrame | None = None,
    metadata: Mapping[str, str] = MappingProxyType({}),
) -> None:
    """As write_table for a conformed table, with number columns beside the schema's and texts about the whole."""
    table = pa.Table.from_pandas(frame, schema=ARROW_SCHEMA, preserve_index=False)
    extra = pd.DataFrame() if extra is None else extra
    for name in extra.columns:
        table = table.append_column(name, pa.array(extra[name].to_numpy(dtype=np.float64), from_pandas=True))
    table = table.replace_schema_metadata({**(table.schema.metadata or {}), **metadata})
    with whole_file(Path(path)) as draft:
        pq.write_table(table, draft, compression="zstd")


def unmeasured(frame: pd.DataFrame) -> pd.DataFrame:
    """As conform, for calls that may lack gpu and latency_s, which are then empty."""
    absent: dict[str, Any] = {"gpu": "", "latency_s": np.nan}
    return conform(frame.assign(**{name: empty for name, empty in absent.items() if name not in frame}))


def read_table(path: Path | str, family: str | None = None) -> pd.DataFrame:
    """Read a measurement table (Parquet or CSV), optionally one family of it."""
    return conform(read_frame(path, CSV_OF_CALLS, family))


def read_shapes(path: Path | str) -> pd.DataFrame:
    """Read a table of calls, as read_table does, but see unmeasured."""
    return unmeasured(read_frame(path, CSV_OF_CALLS))


def read_frame(path: Path | str, csv: Mapping[str, Any], family: str | None = None) -> pd.DataFrame:
    """A table as it stands in a Parquet or CSV file; csv: how pandas reads the latter."""
    path = Path(path)
    if not path.exists():
        raise InvalidTable(f"{path} does not exist; give a Parquet or CSV file of measurements.")
    if not is_regular(path) and not path.is_dir():
        raise InvalidTable(f"{path} cannot be read (no regular file); give a Parquet or CSV file of measurements.")
    try:
        if path.suffix.lower() == ".csv":
            check_csv(csv_head(path), path, InvalidTable)
            frame = read_csv(path, path, InvalidTable, **csv)
            frame = frame[frame["family"] == family] if family and "family" in frame else frame
        else:
            for file in [path] if path.is_file() else sorted(path.rglob("*.parquet")):
                check_parquet(file, file, file.stat().st_size, InvalidTable)
            data = ds.dataset(path, format="parquet")
            keep = ds.field("family") == family if family and "family" in data.schema.names else None
            frame = data.to_table(filter=keep).to_pandas()
    except (pa.ArrowException, OSError, ValueError) as error:
        raise InvalidTable(f"{path} cannot be read ({str(error).splitlines()[0]}); write it again.") from error
    return frame.reset_index(drop=True)


def parse_table(content: bytes, name: str) -> pd.DataFrame:
    """A measurement table from the bytes of a Parquet file."""
    try:
        check_parquet(pa.BufferReader(content), name, len(content), InvalidTable)
        return conform(pq.read_table(pa.BufferReader(content)).to_pandas())
    except (pa.ArrowException, OSError, ValueError) as error:
        raise InvalidTable(f"{name} cannot be read ({str(error).splitlines()[0]}); write it again.") from error


def op_type(family: str) -> type[Op]:
    """The class of a family name; an unknown one raises."""
    for candidate in FAMILIES:
        if candidate.family == family:
            return candidate
    raise InvalidTable(f'family is "{family}"; it must be one of {", ".join(f.family for f in FAMILIES)}.')


def groups(frame: pd.DataFrame) -> Iterator[tuple[tuple[str, str, str], np.ndarray[Any, Any]]]:
    """((family, phase, gpu), row positions) of a conformed table: the pieces that become one Op on one GPU."""
    keys = ["family", "phase", "gpu"]
    positions: dict[Any, Any] = dict(frame.groupby(keys, observed=True, sort=True).indices)
    for (family, phase, gpu), rows in positions.items():
        yield (str(family), str(phase), str(gpu)), np.asarray(rows)


def op_of(frame: pd.DataFrame, family: str, phase: str = "") -> Op:
    """The rows of one family (and phase) as one Op with a call per row; empty cells take the op's defaults."""
    kind = op_type(family)
    values: dict[str, Any] = {}
    for field in fields(kind):
        if field.name == "phase":
            values["phase"] = phase
            continue
        default = None if field.default is MISSING else field.default
        cells = frame[field.name]
        if field.name in TEXT_FIELDS:
            names = np.asarray(cells.astype(object))
            values[field.name] = np.where(names == "", default, names) if default is not None else names
        else:
            numbers = cells.to_numpy(dtype=np.float64)
            if default is not None:
                numbers = np.where(np.isnan(numbers), default, numbers)
            elif np.isnan(numbers).any():
                row = frame.index[np.isnan(numbers)][0]
                raise InvalidTable(f"row {row}, column {field.name} is empty; a {family} row needs it.")
            values[field.name] = numbers
    return kind(**values)
