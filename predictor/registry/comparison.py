"""Two bundles, cell by cell of their ledgers: whether a candidate is nowhere worse than the champion.

A cell is what was held out, operator, GPU, dtype and engine. Every cell of the champion's ledger is of a GPU that it
was trained on, so all are judged: those of rows held out say how well it knows the GPU, those of GPUs and generations
held out how well it would have foreseen it, which is what it does for GPUs that nobody measured.

Error: a cell may worsen by the margin and by what chance does to it, which is SURE standard errors of two means over
the rows of either ledger, if the candidate's errors were spread as the champion's, and, where whole GPUs are held out,
what another seed does to each. Means over the cells of an operator keep to the same margin; chance does less to them,
so that they show what no single cell can.

Coverage: intervals promise it over GPUs, not on each. Of base-4's cells with generations held out, half lie outside
70 to 95 %. So a cell is judged where its GPU is in training, and for too little only; the means of an operator are
judged under every protocol, for too little and too much. Where the champion covers no better, beyond chance, nothing
is refused; chance is that of rows and, where whole GPUs are held out, what another seed does to each ledger, which
moves all rows of a generation together.

Each ledger has rows of its own tables: where a candidate was made from others, part of a change may be theirs. Rows
that neither bundle was made from (`data`) are predicted by both and keep to the same rules, every cell's coverage
among them.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from math import isnan, sqrt
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from predictor.errors import InvalidRequest
from predictor.estimators.bundle import Bundle
from predictor.registry.cells import (
    DATA,
    KEYS,
    LEDGER_CELL,
    MEANS,
    SEEN,
    START,
    copies,
    folded,
    lines_of,
    means_of,
    moved_by_learning,
    read_rows,
    scored,
    without,
)

# Eight seeds of one small recipe (97 cells of 16 to 300 rows), each judged by the others: 5 refuses 8 of 56, all by
# cells of some 60 rows held out, 6 of them one seed that has 12 % on V100 where the others have 3 to 7; 4 refuses 9,
# 3 15. A GPU left out, a fifth of a GPU's latencies tripled, trees of depth 2 and intervals at the 60 % level are
# refused by all eight (`predictor reproduce promotions`).
SURE = 5.0  # standard errors of a mean error
SURE_OF_SHARE = 4.0  # standard errors of a coverage: a share of rows has no long tail
MARGIN = 0.02
BELOW, ABOVE = 0.1, 0.15  # the level: how far coverage may be from it


class Rules(NamedTuple):
    """margin: of mean absolute percentage error, as a fraction. low, high: least and most coverage of the intervals."""

    margin: float
    low: float
    high: float


class Cell(NamedTuple):
    """What was measured. gpu, dtype, engine: "" for the mean over the cells of an operator."""

    protocol: str
    estimator: str
    gpu: str
    dtype: str
    engine: str


class Reason(NamedTuple):
    """Why a candidate is refused. limit: what `after` had to keep to.

    rule: error, coverage, or absent, a cell that is no longer measured (its protocol names all of them).
    """

    rule: str
    cell: Cell
    before: float | None = None
    after: float | None = None
    limit: float | None = None

    def __str__(self) -> str:
        who = " ".join(filter(None, self.cell[2:])) or "mean over cells"
        where = f"{self.cell.estimator}, {who}, {self.cell.protocol}"
        if self.after is None or self.limit is None:
            return f"{where}: no longer measured"
        before = "" if self.before is None else f"from {100 * self.before:.1f} "
        return f"{where}: {self.rule} {before}to {100 * self.after:.1f} %, limit {100 * self.limit:.1f} %"

    def to_json(self) -> dict[str, Any]:
        """A flat object."""
        return {
            "rule": self.rule,
            **self.cell._asdict(),
            "before": self.before,
            "after": self.after,
            "limit": self.limit,
        }


@dataclass(frozen=True, slots=True)
class Comparison:
    """What was compared, and every reason to refuse; none: the candidate passes.

    cells: a line per cell of either bundle: KEYS, rows_, mape_ and coverage_ of before and after, change of the error
    and allowed, the most of it; not a number on the side that lacks the cell. means: the same by MEANS over the cells
    that both have, with their number (cells_after).
    """

    rules: Rules
    cells: pd.DataFrame
    means: pd.DataFrame
    reasons: tuple[Reason, ...]

    @property
    def common(self) -> pd.DataFrame:
        """The cells that both have."""
        return self.cells[self.cells["change"].notna()]

    @property
    def new(self) -> pd.DataFrame:
        """The cells that the champion lacks."""
        return self.cells[self.cells["mape_before"].isna()]


def rules_for(champion: Bundle, margin: float = MARGIN, low: float | None = None, high: float | None = None) -> Rules:
    """The rules for a champion; by default coverage may be BELOW less and ABOVE more than its level."""
    least = champion.level - BELOW if low is None else low
    most = min(champion.level + ABOVE, 1.0) if high is None else high
    if not 0 <= margin <= 1:
        raise InvalidRequest(f"margin is {100 * margin:g} points; it must be from 0 to 100.")
    if not 0 <= least < most <= 1:
        raise InvalidRequest(f"coverage is {least:g}:{most:g}; give the least and the most, such as 0.7:0.95.")
    return Rules(margin, round(least, 4), round(most, 4))


def compare(champion: Bundle, candidate: Bundle, rules: Rules, data: Path | str | None = None) -> Comparison:
    """Judge the candidate's ledger by the champion's and, where there is `data`, both on the rows of that table."""
    if champion.level != candidate.level:
        raise InvalidRequest(
            f"{candidate.id} has intervals at the {candidate.level:.0%} level, {champion.id} at {champion.level:.0%}; "
            "train the candidate with the level of the champion."
        )
    ask_for_data(champion, candidate, data)
    before, after = lines_of(champion), lines_of(candidate)
    copied = copies(before) & copies(after)
    sides = [without(lines, copied) for lines in (before, after)]
    if data is not None:
        rows = read_rows(data, champion, candidate)
        sides = [
            pd.concat([lines, scored(rows, bundle)]) for lines, bundle in zip(sides, (champion, candidate), strict=True)
        ]
    ours, theirs = sides
    joined = _joined(folded(ours, KEYS), folded(theirs, KEYS), rules)
    common = joined.index[joined["change"].notna()]
    means = _joined(folded(means_of(ours, common), MEANS), folded(means_of(theirs, common), MEANS), rules)
    worse = [*_worse(means, rules, MEANS), *_worse(joined, rules, KEYS)]
    return Comparison(rules, joined.reset_index(), means.reset_index(), (*worse, *_absent(joined)))


def ask_for_data(champion: Bundle, candidate: Bundle, data: Path | str | None) -> None:
    """Raise where a bundle was calibrated or learned on in ways that its ledger does not show, and data is None."""
    if candidate.manifest == champion.manifest or data is not None:
        return
    for bundle in (candidate, champion):
        if bundle.calibrated:
            gpus = ", ".join(bundle.calibrated)
            raise InvalidRequest(
                f"{bundle.id} is calibrated on {gpus}, of which its ledger knows nothing; "
                "give rows measured there, others than those that calibrated it, with --data."
            )
    if START in candidate.manifest and moved_by_learning(candidate).empty:
        raise InvalidRequest(
            f"{candidate.id} learned on from {candidate.manifest[START]['bundle']}, which kept nothing of its calls, "
            "so that no ledger knows what was forgotten; give measured rows with --data."
        )


def _joined(before: pd.DataFrame, after: pd.DataFrame, rules: Rules) -> pd.DataFrame:
    """Both sides, and the most change that is no reason to refuse."""
    both = before.add_suffix("_before").join(after.add_suffix("_after"), how="outer")
    chance = SURE * np.sqrt(both["variance_before"] * (1 + both["rows_before"] / both["rows_after"]))
    return both.assign(
        change=both["mape_after"] - both["mape_before"],
        allowed=rules.margin + chance + both["gap_before"] + both["gap_after"],
    )


def _absent(joined: pd.DataFrame) -> list[Reason]:
    """A reason for every cell that the candidate measured no more, with its protocols."""
    lost = joined[joined["mape_after"].isna()].reset_index()
    reasons = []
    for cell, own in lost.groupby(LEDGER_CELL):
        estimator, gpu, dtype, engine = map(str, cell)
        reasons.append(Reason("absent", Cell(", ".join(own["protocol"]), estimator, gpu, dtype, engine)))
    return reasons


def _worse(joined: pd.DataFrame, rules: Rules, by: list[str]) -> list[Reason]:
    """A reason for every line whose error or coverage breaks a rule."""
    reasons = []
    single = joined["cells_after"] < 2 if by == MEANS else joined["cells_after"].isna()
    for line in joined[~single].reset_index().to_dict("records"):
        cell = Cell(*(str(line.get(key, "")) for key in KEYS))
        if line["change"] > line["allowed"]:
            limit = line["mape_before"] + line["allowed"]
            reasons.append(Reason("error", cell, line["mape_before"], line["mape_after"], limit))
        if by == MEANS or line["protocol"] in (SEEN, DATA):
            ends = [(rules.low, 1), (rules.high, -1)][: 2 if by == MEANS else 1]
            limit = next((broken for end in ends if (broken := _outside(line, *end)) is not None), None)
            if limit is not None:
                before = None if isnan(line["coverage_before"]) else line["coverage_before"]
                reasons.append(Reason("coverage", cell, before, line["coverage_after"], limit))
    return reasons


def _outside(line: Mapping[Hashable, Any], end: float, side: int) -> float | None:
    """The limit that coverage breaks beyond chance, and the champion's does not as much; None where it keeps to it.

    end, side: the least coverage and 1, or the most and -1.
    """
    variance = end * (1 - end)
    chance = SURE_OF_SHARE * sqrt(variance / line["rows_after"])
    limit = float(end - side * chance)
    if side * (limit - line["coverage_after"]) <= 0:
        return None
    if isnan(line["coverage_before"]):
        return limit
    chance = SURE_OF_SHARE * sqrt(variance * (1 / line["rows_before"] + 1 / line["rows_after"]))
    chance += line["coverage_gap_before"] + line["coverage_gap_after"]
    return limit if side * (line["coverage_before"] - line["coverage_after"]) > chance else None
