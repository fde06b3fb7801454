"""What a cell of a request table holds: numbers, texts and flags as libraries write them, checked by their column."""

from __future__ import annotations

import math
from dataclasses import MISSING, Field
from decimal import Decimal
from numbers import Integral, Rational, Real
from typing import Any

from predictor.errors import InvalidRequest
from predictor.ops.dtypes import dtype_named
from predictor.values import show, whole_number

FORMATS = frozenset({"dtype", "kv_dtype"})  # columns of number formats, which engines spell in several ways
FLAG_WORDS = {"true": True, "false": False, "yes": True, "no": False, "1": True, "0": False}
MOST = 1e18  # of a rate
NUMBERS_OR_TEXTS = frozenset({"node_link"})  # columns of names that a number may stand in
MISSING_CELLS = frozenset({"NAType", "NaTType"})  # types of pandas, which is not loaded for a request


def is_empty(cell: Any) -> bool:
    """Whether a cell of a table says nothing."""
    if cell is None or type(cell) is int:
        return cell is None
    if isinstance(cell, str):
        return not cell.strip()
    plain = _plain(cell)
    return plain is None or (isinstance(plain, float) and math.isnan(plain))


def _plain(cell: Any) -> Any:
    """A number of NumPy or of a column of decimals as Python's own, what a library calls missing as None."""
    if cell is None or isinstance(cell, bool | int | float | str):
        return cell
    if isinstance(cell, Integral):
        return int(cell)
    if isinstance(cell, Decimal):
        return None if cell.is_nan() else float(cell)
    if isinstance(cell, Real) and not isinstance(cell, Rational):
        return float(cell)
    return None if type(cell).__name__ in MISSING_CELLS else cell


def checked(column: Field[Any], value: Any) -> Any:
    """A cell as its column has it; raises InvalidRequest for what it may not hold."""
    name, default, kind = column.name, column.default, column.metadata["kind"]
    if default is MISSING:
        return _name(name, value)
    if kind is bool:
        return _flag(name, value)
    if kind is str:
        if name in NUMBERS_OR_TEXTS and isinstance(number := _plain(value), int | float) and type(number) is not bool:
            value = f"{number:g}"
        text = value.strip() if isinstance(value, str) else value
        choices = column.metadata["choices"]
        if not isinstance(text, str) or (choices and text != default and text not in choices):
            rule = f"one of {', '.join(choices)}" if choices else "a name, written as text"
            raise InvalidRequest(f"{name} is {show(value)}; it must be {rule}.")
        return dtype_named(text) if name in FORMATS else text
    value = _number(name, value) if isinstance(value, str) else _plain(value)
    if kind is float:
        return _rate(name, value)
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if type(value) is int and value == 0 and column.metadata["least"] == 0:
        return 0
    if default is None and type(value) is int and value < 0:
        raise InvalidRequest(f"{name} is {show(value)}; it must be at least 0.")
    return whole_number(name, value)


def _flag(name: str, value: Any) -> bool:
    """Yes or no, as tables write it."""
    plain = _plain(value)
    word = str(int(plain)) if isinstance(plain, int | float) and plain in (0, 1) else str(plain).strip().casefold()
    if word not in FLAG_WORDS:
        raise InvalidRequest(f"{name} is {show(value)}; it must be true or false.")
    return FLAG_WORDS[word]


def _name(column: str, value: Any) -> str:
    """The name of a model or GPU, which is text."""
    if isinstance(value, str):
        return value
    raise InvalidRequest(f"{column} is {show(value)}; it must be a name, written as text{_example(column, value)}")


def _example(column: str, value: Any) -> str:
    """What a cell in place of a name may have meant, or what a name looks like."""
    from predictor.hardware.gpu import names_like

    number = _plain(value)
    if column == "gpu" and isinstance(number, int | float) and not isinstance(number, bool):
        text = f"{number:.0f}" if isinstance(number, float) and number.is_integer() else show(number)
        if close := names_like(text):
            return f". Did you mean {' or '.join(close)}?"
    return f" such as {'RTX-4090' if column == 'gpu' else 'Llama-3.1-8B'}."


def _number(name: str, text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise InvalidRequest(f"{name} is {show(text)}; it must be a number.") from None


def _rate(name: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < MOST:
        most = f" and below {MOST:g}" if isinstance(value, int | float) and MOST <= value < math.inf else ""
        raise InvalidRequest(f"{name} is {show(value)}; it must be a number of at least 0{most}.")
    return float(value)
