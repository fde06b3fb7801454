"""What the keys of a sweep hold: values, lists and ranges of a column, and conditions on it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from operator import ge, gt, le, lt
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from predictor.errors import InvalidRequest

MOST = 100_000  # values of one range
RANGES = ("{from = 1, to = 64, times = 2}", "{from = 0, to = 4096, step = 512}")
COMPARISONS: Mapping[str, Callable[[Any, Any], Any]] = {"above": gt, "at_least": ge, "below": lt, "at_most": le}


def values_of(name: str, given: Any) -> list[Any]:
    """The values that a key stands for, each once.

    >>> values_of("tp", {"from": 1, "to": 8, "times": 2}), values_of("dtype", "fp8")
    ([1, 2, 4, 8], ['fp8'])
    """
    if isinstance(given, dict):
        return _range(name, given)
    values = given if isinstance(given, list) else [given]
    if not values:
        raise InvalidRequest(f"{name} is an empty list; give a value.")
    if wrong := [value for value in values if not isinstance(value, str | int | float)]:
        raise InvalidRequest(f"{name} holds {wrong[0]!r}; it must be numbers or texts, or a range such as {RANGES[0]}.")
    return values


def _range(name: str, given: Mapping[str, Any]) -> list[Any]:
    rule = f"a range is {RANGES[0]} or {RANGES[1]}."
    if set(given) not in ({"from", "to", "times"}, {"from", "to", "step"}):
        raise InvalidRequest(f"{name} has keys {', '.join(given)}; {rule}")
    if wrong := [key for key, value in given.items() if isinstance(value, bool) or not isinstance(value, int | float)]:
        raise InvalidRequest(f"{name}: {wrong[0]} is {given[wrong[0]]!r}; {rule}")
    least, most, times = given["from"], given["to"], given.get("times")
    if least > most:
        raise InvalidRequest(f"{name}: from is {least}, above to, which is {most}; turn them round.")
    if (times is not None and (times <= 1 or least <= 0)) or given.get("step", 1) <= 0:
        raise InvalidRequest(f"{name}: such a range has no end; times must be above 1 (from above 0), step above 0.")
    values, value = [], least
    while value <= most * (1 + 1e-12):
        values.append(value)
        value = value * times if times is not None else least + len(values) * given["step"]
        if len(values) > MOST:
            raise InvalidRequest(f"{name} has more than {MOST:,} values; take a larger step.")
    return values


class Condition(NamedTuple):
    """What a column of a combination must be. among: one of these, or with `other` none of them; none: anything."""

    among: tuple[Any, ...] = ()
    other: bool = False
    limits: tuple[tuple[str, float], ...] = ()

    def of(self, column: NDArray[Any]) -> NDArray[np.bool_]:
        """Whether it holds for each cell."""
        holds = np.ones(len(column), dtype=bool)
        if self.among:
            holds = np.logical_or.reduce([column == value for value in self.among]).astype(bool) ^ self.other
        for name, limit in self.limits:
            holds = holds & COMPARISONS[name](column, limit).astype(bool)
        return holds


def condition_of(where: str, given: Any) -> Condition:
    """The condition that a key of a rule states."""
    if not isinstance(given, dict):
        return Condition(tuple(values_of(where, given)))
    known = (*COMPARISONS, "not")
    if not given or set(given) - set(known):
        said = ", ".join(given) or "no key"
        raise InvalidRequest(f"{where} has {said}; a condition is a value, a list, or has {', '.join(known)}.")
    limits = tuple((name, value) for name, value in given.items() if name != "not")
    if wrong := [name for name, value in limits if isinstance(value, bool) or not isinstance(value, int | float)]:
        raise InvalidRequest(f"{where}: {wrong[0]} is {given[wrong[0]]!r}; it must be a number.")
    among = tuple(values_of(where, given["not"])) if "not" in given else ()
    return Condition(among, bool(among), limits)
