"""How the learned spread of memory compares with published peaks, and what versions of software add to it.

    .venv/bin/python training/memory_spread.py [--truth ../shared/truth] [--fit]

Without --fit: how often what is exceeded with a chance of 10, 50 and 90 % is exceeded, on the half that chose nothing,
and the peaks more than 15 % under. --fit: the `fixed` of training/memory_residual.py whose interval of 80 % holds 80 %
of the half that predictor/learning/validation/memory.py names (`fitted`).
"""

from __future__ import annotations

import argparse
import math
import os
from collections.abc import Mapping
from pathlib import Path

import pandas as pd

from predictor.estimators.bundle import load_bundle
from predictor.learning.validation.memory import replay
from predictor.memory.uncertainty import Spread, memory_model

CHANCES = (0.1, 0.5, 0.9)
FIXED = [step / 200 for step in range(2, 40)]  # values of `fixed` that are tried
LEVEL = 0.8
FAR_UNDER = 0.85  # predicted over measured


def exceeded(rows: pd.DataFrame, spreads: Mapping[str, Spread]) -> list[float]:
    """Shares of peaks above what is exceeded with each chance."""
    shares = []
    for chance in CHANCES:
        above = 0
        for row in rows.to_dict("records"):
            spread = spreads[row["kind"]]
            above += row["measured"] > row["predicted"] * math.exp(
                spread.scale(row["share"]) * spread.quantile(1 - chance)
            )
        shares.append(above / max(len(rows), 1))
    return shares


def fit(rows: pd.DataFrame) -> None:
    """Prints what `fixed` makes the interval of 80 % hold 80 %, by kind."""
    for kind, part in rows.groupby("kind"):
        tries = []
        for fixed in FIXED:
            often, _, seldom = exceeded(part, {kind: memory_model().spreads[kind]._replace(fixed=fixed)})
            tries.append((abs(seldom - often - LEVEL), fixed, seldom - often))
        _, fixed, held = min(tries)
        print(f"{kind}: fixed {fixed} holds {held:.0%} of {len(part)}")


def compare(peaks: pd.DataFrame) -> None:
    """Prints how often chances come true where nothing was chosen, and all peaks far under."""
    for kind, rows in peaks[~peaks["fitted"]].groupby("kind"):
        shares = " / ".join(f"{share:.0%}" for share in exceeded(rows, memory_model().spreads))
        print(f"{kind}: above what is exceeded with a chance of 10 / 50 / 90 %: {shares} of {len(rows)}")
    ratio = peaks["predicted"] / peaks["measured"]
    under = peaks.assign(error=(ratio - 1).round(3))[ratio < FAR_UNDER]
    print("more than 15 % under", under[["table", "model", "engine", "case", "error"]].to_string(), sep="\n")


def main() -> None:
    """Compares the released spread with published peaks, or fits its `fixed`."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--truth", type=Path, default=Path(os.environ.get("PREDICTOR_TRUTH", "../shared/truth")))
    parser.add_argument("--fit", action="store_true", help="print the width that versions of software add")
    options = parser.parse_args()
    peaks = replay(options.truth, load_bundle()).frame()
    if options.fit:
        fit(peaks[peaks["fitted"]])
    else:
        compare(peaks)


if __name__ == "__main__":
    main()
