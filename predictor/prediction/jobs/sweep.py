"""Sweeps: a TOML file that names values of request columns becomes the table of all their combinations, as a stream.

[request] gives columns: a value, a list of values, or a range. [[together]] gives lists of columns that vary as one.
[[skip]] is a rule: combinations for which all its conditions hold are left out. Nothing in a file is executed.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from math import prod
from operator import ge, gt, le, lt
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from predictor.errors import InvalidRequest, PredictorError
from predictor.files import parse_toml, read_content
from predictor.hardware.gpu import resolve_gpu
from predictor.prediction.jobs.storage import pieces
from predictor.values import did_you_mean, show
from predictor.workloads.models import get_model
from predictor.workloads.request import check_cell, check_names, columns

SWITCHES = ("skip_unfit", "skip_invalid")
KEYS = (*SWITCHES, "request", "together", "skip")
N_GPUS = ("tp", "pp", "dp", "attention_dp")  # their product is n_gpus where a spec does not set it
TEXTS = frozenset(column.name for column in columns() if column.metadata["kind"] is str)
BLOCK = 65_536  # combinations that are looked at together


@dataclass(frozen=True, slots=True)
class Axis:
    """Columns that vary as one. values: column → what it is at each step, all of one length."""

    values: Mapping[str, Sequence[Any]]

    def __len__(self) -> int:
        return len(next(iter(self.values.values())))


@dataclass(frozen=True, slots=True)
class Grid:
    """All combinations of axes, the last one fastest, less those that a rule skips.

    drop: which answers are left out of the table: "unfit" that do not fit in memory, "invalid" that are errors.
    identity: of the file, by which a change is noticed. files: its path; filesystem: that of this machine.
    """

    axes: tuple[Axis, ...]
    rules: tuple[Mapping[str, Condition], ...]
    drop: tuple[str, ...]
    identity: tuple[tuple[str, int, str], ...]
    files: tuple[str, ...] = ()
    filesystem: None = None

    @property
    def schema(self) -> pa.Schema:
        """Columns and their types."""
        return self._table([np.zeros(0, dtype=np.int64)] * len(self.axes)).schema

    @property
    def combinations(self) -> int:
        """How many there are, those that are skipped included."""
        return prod(len(axis) for axis in self.axes)

    @property
    def rows(self) -> int:
        """How many are left."""
        return self.combinations - sum(self.skipped())

    def skipped(self) -> list[int]:
        """How many combinations each rule skips that none before it does; only axes that rules name are looked at."""
        named = {column for rule in self.rules for column in rule}
        named |= set(N_GPUS) if "n_gpus" in named else set()
        used = tuple(axis for axis in self.axes if named & set(axis.values))
        within = Grid(used, self.rules, (), ())
        counts = np.zeros(len(self.rules) + 1, dtype=np.int64)
        for start in range(0, within.combinations, BLOCK):
            first = within._first_rule(within._places(start, min(start + BLOCK, within.combinations)))
            counts += np.bincount(first, minlength=len(counts))
        return [int(count) * (self.combinations // within.combinations) for count in counts[:-1]]

    def chunks(self, rows: int) -> Iterator[pa.Table]:
        """The table in pieces of `rows` rows, the last one smaller."""
        return pieces(self._blocks(), rows)

    def _blocks(self) -> Iterator[pa.Table]:
        for start in range(0, self.combinations, BLOCK):
            places = self._places(start, min(start + BLOCK, self.combinations))
            kept = self._first_rule(places) == len(self.rules)
            yield self._table([place[kept] for place in places])

    def _places(self, start: int, stop: int) -> list[NDArray[np.int64]]:
        """Position on each axis of so many combinations."""
        left, places = np.arange(start, stop), []
        for axis in reversed(self.axes):
            left, place = np.divmod(left, len(axis))
            places.append(place)
        return places[::-1]

    def _table(self, places: Sequence[NDArray[np.int64]]) -> pa.Table:
        return pa.table(
            {
                name: pa.array(values).take(pa.array(place))
                for axis, place in zip(self.axes, places, strict=True)
                for name, values in axis.values.items()
            }
        )

    def _first_rule(self, places: Sequence[NDArray[np.int64]]) -> NDArray[np.int64]:
        """Number of the first rule that skips each combination, or of rules where none does."""
        count = len(places[0]) if places else 1
        first = np.full(count, len(self.rules))
        for number, rule in reversed(list(enumerate(self.rules))):
            holds = np.ones(count, dtype=bool)
            for column, condition in rule.items():
                holds &= condition.of(self._column(column, places, count))
            first[holds] = number
        return first

    def _column(self, name: str, places: Sequence[NDArray[np.int64]], count: int) -> NDArray[Any]:
        for axis, place in zip(self.axes, places, strict=True):
            if name in axis.values:
                return np.array(axis.values[name], dtype=object)[place]
        factors = [self._column(factor, places, count) for factor in N_GPUS if factor in self._names()]
        return np.asarray(prod(factors, start=np.ones(count, dtype=object)))

    def _names(self) -> set[str]:
        return {name for axis in self.axes for name in axis.values}


def read_spec(path: str | Path) -> Grid:
    """The grid of a TOML file; raises InvalidRequest that names the key, the rule and the cure."""
    file = Path(path).expanduser()
    content = read_content(file, "give a TOML file of a sweep", InvalidRequest)
    spec = parse_toml(content, file, InvalidRequest)
    try:
        grid = _grid(spec, ((file.name, len(content), hashlib.sha256(content).hexdigest()),))
        return replace(grid, files=(str(file),))
    except PredictorError as error:
        raise InvalidRequest(f"{file.name}: {error}") from None


def _grid(spec: Mapping[str, Any], identity: tuple[tuple[str, int, str], ...]) -> Grid:
    for key in spec:
        if key not in KEYS:
            cure = did_you_mean(key, KEYS, f"it must be one of {', '.join(KEYS)}.")
            raise InvalidRequest(f"there is no key {key}; {cure}")
    for switch in SWITCHES:
        if not isinstance(spec.get(switch, False), bool):
            raise InvalidRequest(f"{switch} is {spec[switch]!r}; it must be true or false, above all tables.")
    axes = [Axis({name: values_of(name, given)}) for name, given in _section(spec, "request").items()]
    axes += [_together(number, table) for number, table in enumerate(_sections(spec, "together"), 1)]
    _check(axes)
    names = {name for axis in axes for name in axis.values}
    rules = tuple(_rule(number, table, names) for number, table in enumerate(_sections(spec, "skip"), 1))
    drop = tuple(switch.removeprefix("skip_") for switch in SWITCHES if spec.get(switch))
    return Grid(tuple(axes), rules, drop, identity)


def _section(spec: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    section = spec.get(name, {})
    if not isinstance(section, dict):
        raise InvalidRequest(f"{name} is {type(section).__name__}; write it as a table [{name}].")
    return section


def _sections(spec: Mapping[str, Any], name: str) -> list[Mapping[str, Any]]:
    sections = spec.get(name, [])
    if not isinstance(sections, list) or not all(isinstance(section, dict) and section for section in sections):
        raise InvalidRequest(f"{name} must be tables [[{name}]] with a key each; write two brackets.")
    return sections


def _together(number: int, table: Mapping[str, Any]) -> Axis:
    values = {name: values_of(name, given) for name, given in table.items()}
    lengths = {name: len(column) for name, column in values.items()}
    if len(set(lengths.values())) > 1:
        counts = ", ".join(f"{name} has {length}" for name, length in lengths.items())
        raise InvalidRequest(f"[[together]] {number}: {counts} values; give each as many.")
    return Axis(values)


def _rule(number: int, table: Mapping[str, Any], names: set[str]) -> Mapping[str, Condition]:
    for column in table:
        if column not in names and column != "n_gpus":
            raise InvalidRequest(
                f"[[skip]] {number}: the sweep does not set {column}; give it in [request], or drop the condition."
            )
    rule = {column: condition_of(f"[[skip]] {number}: {column}", given) for column, given in table.items()}
    if text := next((name for name, condition in rule.items() if condition.limits and name in TEXTS), ""):
        raise InvalidRequest(f"[[skip]] {number}: {text} is text, which has no order; name its values.")
    return rule


def _check(axes: Sequence[Axis]) -> None:
    """Every column exists, is given once, and holds what a request may hold; models and GPUs are known."""
    names = [name for axis in axes for name in axis.values]
    check_names(dict.fromkeys(names))
    if twice := next((name for name in names if names.count(name) > 1), ""):
        raise InvalidRequest(f"{twice} is given twice; give it in [request] or in one [[together]].")
    if missing := [name for name in ("model", "gpu") if name not in names]:
        raise InvalidRequest(f"there is no {missing[0]}; give one or a list of them in [request].")
    for axis in axes:
        for name, values in axis.values.items():
            kind = str if name in TEXTS else int | float
            if wrong := [value for value in values if not isinstance(value, kind)]:
                wanted = "text in quotes" if name in TEXTS else "a number without quotes"
                raise InvalidRequest(f"{name} is {wrong[0]!r}; it must be {wanted}.")
            for value in values:
                check_cell(name, value)
                if name == "gpu":
                    resolve_gpu(value)
                elif name == "model":
                    get_model(value)


MOST, LARGEST = 100_000, 1e18  # values of one range, and what they may be
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
    if wrong := [key for key, value in given.items() if not abs(value) <= LARGEST]:
        raise InvalidRequest(f"{name}: {wrong[0]} is {show(given[wrong[0]])}; it must be a number within ±{LARGEST:g}.")
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
        keys = ", ".join(given) or "no key"
        raise InvalidRequest(f"{where} has {keys}; a condition is a value, a list, or has {', '.join(known)}.")
    limits = tuple((name, value) for name, value in given.items() if name != "not")
    if wrong := [name for name, value in limits if isinstance(value, bool) or not isinstance(value, int | float)]:
        raise InvalidRequest(f"{where}: {wrong[0]} is {given[wrong[0]]!r}; it must be a number.")
    among = tuple(values_of(where, given["not"])) if "not" in given else ()
    return Condition(among, bool(among), limits)
