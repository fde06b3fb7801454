"""The figures that README.md and docs/ print, the command behind each, and whether it says the same now."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from predictor.errors import InvalidRequest
from predictor.estimators.bundle import Bundle
from predictor.learning.validation.replay import ratio_errors
from predictor.learning.validation.tables import chosen
from predictor.shipped import read_catalogue

POINTS, SHARE = 0.15, 0.02  # a figure that moved by less than either is the same on another machine
WITHIN_POINTS = 1.0


class Errors(NamedTuple):
    """Of one group of measurements: how many, median and mean of the absolute error, how many lie in the interval.

    The last three in per cent.
    """

    rows: int
    median: float
    mean: float
    within: float

    def same_as(self, other: Errors) -> bool:
        """Whether the other says the same, but for the last digit.

        >>> Errors(9, 7.3, 9.2, 88).same_as(Errors(9, 7.34, 9.16, 88.4))
        True
        >>> Errors(9, 7.3, 9.2, 88).same_as(Errors(9, 8.3, 9.2, 88))
        False
        """
        near = [abs(was - now) <= max(POINTS, SHARE * was) for was, now in zip(self[1:3], other[1:3], strict=True)]
        return self.rows == other.rows and all(near) and abs(self.within - other.within) <= WITHIN_POINTS


class Line(NamedTuple):
    """A line of a table in docs/accuracy.md.

    label: its first cell. tables, metrics, where: which replayed rows it is about; `where` holds alternatives, each
    with the values that a column may have. errors: as printed. remark, within_remark: what stands behind the numbers.
    held_out, held_out_within: as printed of an older bundle, without the GPUs of the row.
    """

    label: str
    tables: Sequence[str]
    metrics: Sequence[str]
    errors: Errors
    where: Sequence[Mapping[str, Sequence[Any]]] = ()
    remark: str = ""
    within_remark: str = ""
    held_out: str = "–"
    held_out_within: str = "–"

    def now(self, rows: pd.DataFrame) -> Errors:
        """The same of replayed rows; raises InvalidRequest where none is of this line."""
        rows = rows[rows["table"].isin(self.tables) & rows["metric"].isin(self.metrics) & ~rows["fitted"].astype(bool)]
        if self.where:
            rows = rows[pd.concat([_all_of(rows, each) for each in self.where], axis=1).any(axis=1)]
        if rows.empty:
            raise InvalidRequest(f'no replayed row is of "{self.label}"; update claims.toml of the catalogue.')
        errors = ratio_errors(rows.assign(group=0), ["group"]).iloc[0]
        return Errors(len(rows), *(100 * float(errors[name]) for name in ("median", "mean", "coverage")))


class Claim(NamedTuple):
    """What one command shows.

    name: of `predictor reproduce`. says: what it is about. where: page and heading. run: the commands, in their order.
    needs: "truth" the published tables, "sources" those of operators, "clone" this project's repository, more than one
    with a comma; "" nothing. minutes: on two cores. lines: those that are compared with what is printed.
    """

    name: str
    says: str
    where: str
    run: Sequence[str]
    needs: str = ""
    minutes: float = 1.0
    lines: Sequence[Line] = ()

    def replayed(self, truth: Path, sources: Path, bundle: Bundle) -> pd.DataFrame:
        """The rows of the published table that `predictor validate --only` names in its command.

        Raises FileNotFoundError where the table is not there.
        """
        names = [line.partition("--only ")[2] for line in self.run]
        tables = [table for name in names for table in chosen(name)]
        roots = {"truth": truth, "sources": sources}
        return pd.concat([table.replay(roots[table.root], bundle).frame() for table in tables], ignore_index=True)


@lru_cache(maxsize=1)
def claims() -> Mapping[str, Claim]:
    """All of them, by name.

    >>> claims()["serving"].run
    ['predictor validate --only serving']
    """
    found = {}
    for name, told in read_catalogue("claims.toml").items():
        lines = [_line(line) for line in told.pop("lines", [])]
        found[name] = Claim(name=name, lines=lines, **told)
    return found


def get_claim(name: str) -> Claim:
    """One of them; raises InvalidRequest for a name that none has."""
    if name not in claims():
        raise InvalidRequest(f'no figures are called "{name}"; `predictor reproduce` lists those there are.')
    return claims()[name]


def _line(line: Mapping[str, Any]) -> Line:
    own = dict(line)
    errors = Errors(*(own.pop(name) for name in Errors._fields))
    return Line(errors=errors, **own)


def _all_of(rows: pd.DataFrame, values: Mapping[str, Sequence[Any]]) -> pd.Series[bool]:
    """Which rows have one of the values in every column."""
    return pd.concat([rows[column].isin(allowed) for column, allowed in values.items()], axis=1).all(axis=1)
