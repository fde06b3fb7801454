"""Files of prices of one's own: TOML or CSV with the fields of Price."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields, replace
from datetime import date
from io import StringIO
from pathlib import Path
from typing import Any

from predictor.errors import InvalidSpec, PredictorError
from predictor.files import read_content, read_toml, whole_file
from predictor.hardware.gpu import get_gpu
from predictor.hardware.price import Ownership, Price, checked
from predictor.shipped import LARGEST, facts
from predictor.table_files import repeated
from predictor.values import did_you_mean, show

TABLES = ("replace", "electricity", "ownership", "price")
NUMBERS: Mapping[str, type] = {
    "n_gpus": int,
    "up_to": int,
    "usd_per_hour": float,
    "purchase_usd": float,
    "power_w": float,
}


@dataclass(frozen=True, slots=True)
class OwnPrices:
    """What a file says. replace: drop the shipped prices. ownership: fields of Ownership that it sets."""

    prices: tuple[Price, ...]
    replace: bool
    ownership: Mapping[str, float]


def read_prices(path: Path) -> OwnPrices:
    """The prices of a file; GPUs by any of their names. Raises InvalidSpec for what cannot be a price."""
    if path.suffix == ".csv":
        return OwnPrices(_named(_csv_rows(path), path), False, {})
    if path.suffix != ".toml":
        raise InvalidSpec(f'"{path}" is no file of prices; give a .toml or a .csv.')
    tables = read_toml(path, "give a .toml or .csv of prices", InvalidSpec)
    for name in tables:
        if name not in TABLES:
            cure = did_you_mean(name, TABLES, f"its tables are {', '.join(TABLES)}.")
            raise InvalidSpec(f'"{path}" has {name}; {cure}')
    dropped, rows = tables.get("replace", False), tables.get("price", [])
    if not isinstance(dropped, bool):
        raise InvalidSpec(f'replace is {dropped!r} in "{path}"; it must be true or false.')
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise InvalidSpec(f'price is no list of tables in "{path}"; write each as [[price]].')
    return OwnPrices(_named(rows, path), dropped, _ownership(tables, path))


def write_prices(prices: Iterable[Price], out: Path) -> None:
    """Write a CSV that `read_prices` reads."""
    import csv

    names = [field.name for field in fields(Price)]
    with whole_file(out) as draft, draft.open("w", newline="", encoding="utf-8") as text:
        table = csv.writer(text)
        table.writerow(names)
        table.writerows([getattr(price, name) or "" for name in names] for price in prices)


def _named(rows: Iterable[Mapping[str, Any]], path: Path) -> tuple[Price, ...]:
    prices = []
    for number, row in enumerate(rows, 1):
        where = f"price {number} of {path.name}"
        words = {name: value.isoformat() if isinstance(value, date) else value for name, value in row.items()}
        price = facts(Price, {"source": path.name} | words, where)
        if ".toml" in str(price.gpu).casefold():
            raise InvalidSpec(f'gpu is "{price.gpu}" in {where}; it must be a name. List that file in PREDICTOR_GPUS.')
        try:
            gpu = get_gpu(price.gpu)
        except PredictorError as error:
            raise type(error)(f"{where}: {error}") from error
        prices.append(checked(replace(price, gpu=gpu.name), where))
    return tuple(prices)


def _csv_rows(path: Path) -> list[dict[str, Any]]:
    """Rows of a CSV without its empty cells, numbers as such."""
    import csv

    cure = "give a .toml or .csv of prices"
    content = read_content(path, cure, InvalidSpec)
    try:
        text = content.decode("utf-8-sig")
        rows = list(csv.DictReader(StringIO(text, newline="")))
    except (UnicodeDecodeError, csv.Error) as error:
        raise InvalidSpec(f'"{path}" is no CSV ({error}); {cure}.') from error
    if (twice := repeated(text.partition("\n")[0])) is not None:
        raise InvalidSpec(f'"{path}" has two columns {twice}; drop one.')
    return [
        {name: _number(name, cell, f"price {number} of {path.name}") for name, cell in row.items() if cell}
        for number, row in enumerate(rows, 1)
    ]


def _number(name: str | None, cell: Any, where: str) -> Any:
    if name is None:
        raise InvalidSpec(f"{where} has more cells than the header; quote those with commas.")
    if name not in NUMBERS:
        return cell
    try:
        return NUMBERS[name](cell)
    except ValueError:
        kind = "a whole number" if NUMBERS[name] is int else "a number"
        raise InvalidSpec(f'{name} is "{cell}" in {where}; it must be {kind}.') from None


def _ownership(tables: Mapping[str, Any], path: Path) -> dict[str, float]:
    """Fields of Ownership from [ownership] and [electricity]."""
    known = {"ownership": ("years", "in_use"), "electricity": ("usd_per_kwh",)}
    told = {"electricity": ("date", "source", "quote")}
    values: dict[str, float] = {}
    for table, names in known.items():
        stated = tables.get(table, {})
        if not isinstance(stated, dict):
            raise InvalidSpec(f'{table} is no table in "{path}"; write [{table}] and below it {names[0]} = a number.')
        for name, value in stated.items():
            if name in told.get(table, ()):
                continue
            if name not in names:
                raise InvalidSpec(f'[{table}] of "{path}" has {name}; its keys are {", ".join(names)}.')
            if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) <= LARGEST:
                raise InvalidSpec(f'{name} is {show(value)} in "{path}"; it must be a number within ±{LARGEST:g}.')
            values[name] = float(value)
    Ownership(**({"years": 3.0, "usd_per_kwh": 0.0} | values))
    return values
