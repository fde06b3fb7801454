"""Reads texts and plain numbers of a command line itself, and asks typer for all else.

Since 0.29 typer reads each value, defaults too, with a validator of pydantic, whose import and making take longer than
most answers. What is read here is the same to the letter.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import partial
from typing import Any

INTEGER = re.compile(r"0|[1-9][0-9]{0,17}")
NUMBER = re.compile(r"(0|[1-9][0-9]{0,17})(\.[0-9]{1,18})?")


def read_plainly(command: Any) -> Any:
    """The command of typer, whose parameters, --help too, now read what is plain without a validator."""
    all_of = command.get_params
    command.get_params = lambda ctx: [_plain_reader(parameter) for parameter in all_of(ctx)]
    return command


def _plain_reader(parameter: Any) -> Any:
    full = getattr(parameter, "get_runtime_param", None)  # typer before 0.29 has none, and needs no help
    if full is not None and not isinstance(full, partial):
        parameter.get_runtime_param = partial(_Reader, parameter.type_descriptor, full)
    return parameter


class _Reader:
    """Stands for the reader of typer, `full`, which is made when a value is not plain."""

    def __init__(self, kind: Any, full: Callable[[], Any]) -> None:
        self.annotation, self.full = kind.annotation, full
        self.limited = any(getattr(kind.parameter_info, name, None) is not None for name in ("min", "max", "parser"))

    def coerce(self, value: Any, param: Any, ctx: Any) -> Any:
        """The value as the annotation of its parameter has it."""
        several = param.multiple or param.nargs == -1
        if value is None:
            return () if several else None
        if not self.limited:
            if not several and (known := _plain(value, self.annotation)) is not None:
                return known
            if several and self.annotation == list[str] and all(isinstance(text, str) for text in value):
                return list(value)
        return self.full().coerce(value, param=param, ctx=ctx)


def _plain(value: Any, kind: Any) -> Any:
    """The value where it is of a plain type, or the digits of one; else None."""
    if kind in (str, int, float) and type(value) is kind:
        return value
    if kind is int and type(value) is str and INTEGER.fullmatch(value):
        return int(value)
    if kind is float and type(value) is str and NUMBER.fullmatch(value):
        return float(value)
    return None
