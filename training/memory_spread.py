"""How the learned spread of memory compares with published peaks; the spread of training, by programs held out.

    .venv/bin/python training/memory_spread.py [--truth ../shared/truth] [--fit] [--release]

Without options, on the half that chose nothing (`fitted` of the replays): how often what is exceeded with a chance of
10, 50 and 90 % is exceeded, peaks of inference more than 15 % under, and errors of training by program: as its
settings are stated ("training_stated") and as a user writes who names no program ("training").
--fit: the `fixed` of training/memory_residual.py whose interval of 80 % holds 80 % of inference; and what intervals of
training hold of programs that chose nothing of them. --release writes the spreads of training into the released bundle.

A spread of training is that of log(measured / predicted) over programs: simulated steps of one program know nothing of
how another takes its loss or holds its gradients.
"""

from __future__ import annotations

import argparse
import json
import math
import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd

from predictor.estimators.bundle import load_bundle
from predictor.learning.validation import memory, training_peaks
from predictor.memory.uncertainty import BUNDLE, LEVEL, MANIFEST, Spread, memory_model

ROOT = Path(__file__).resolve().parents[1]
CHANCES = (0.1, 0.5, 0.9)
FIXED = [step / 200 for step in range(2, 40)]  # values of `fixed` that are tried
# Of training: weights and moments are counted to the byte, so that most of the doubt grows with what is not these.
PROGRAM_FIXED = [fixed for fixed in FIXED if fixed <= 0.08]
DYNAMIC = [step / 100 for step in range(2, 60)]
FAR_UNDER = 0.85  # predicted over measured
QUANTILES = np.arange(1, 100) / 100


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


def program_spread(rows: pd.DataFrame) -> Spread:
    """The likeliest widths under a Laplace distribution, then quantiles of the scores. A program weighs as the root of
    how many of its runs there are: between one vote a program and one a run."""
    error, share = np.log(rows["measured"] / rows["predicted"]).to_numpy(), rows["share"].to_numpy()
    weight = (1 / np.sqrt(rows.groupby("engine")["share"].transform("size"))).to_numpy()

    def surprise(dynamic: float, fixed: float) -> float:
        scale = np.hypot(dynamic * share, fixed)
        return float((weight * (np.log(scale) + np.abs(error) / scale)).sum())

    _, dynamic, fixed = min(
        (surprise(dynamic, fixed), dynamic, fixed) for dynamic in DYNAMIC for fixed in PROGRAM_FIXED
    )
    score = error / np.hypot(dynamic * share, fixed)
    order = np.argsort(score)
    below = (np.cumsum(weight[order]) - weight[order] / 2) / weight.sum()
    quantiles = np.round(np.interp(QUANTILES, below, score[order]), 3)
    return Spread(dynamic, fixed, tuple(quantiles.tolist()))


def held(rows: pd.DataFrame, spread: Spread) -> float:
    """Share of peaks in the interval, as predictor.memory.uncertainty draws it around the prediction."""
    error, scale = np.log(rows["measured"] / rows["predicted"]), spread.scale(rows["share"].to_numpy())
    low, high = (scale * spread.quantile((1 + sign * LEVEL) / 2) for sign in (-1, 1))
    return float(((error >= np.minimum(low, 0)) & (error <= np.maximum(high, 0))).mean())


def held_out(rows: pd.DataFrame) -> pd.Series:
    """By program, what the spread of the others holds of it: fitted on their half, told of the other half."""
    names = sorted(rows["engine"].unique())
    shares = {}
    for name in names:
        others = rows[(rows["engine"] != name) & rows["fitted"]]
        shares[name] = held(rows[(rows["engine"] == name) & ~rows["fitted"]], program_spread(others))
    return pd.Series(shares)


def scores(frame: pd.DataFrame) -> pd.DataFrame:
    """By program, as shares: mean of the absolute error, peaks more than 15 % above what was predicted, and in the
    interval; of runs that failed, and of those that ran, how many a chance of one half tells."""
    rows = []
    for name, part in [*frame.groupby("engine"), ("all", frame)]:
        ran, failed = part[part["metric"] == "memory_bytes"], part[part["metric"] == "p_oom"]
        ratio = ran["predicted"] / ran["measured"]
        inside = (ran["low"] <= ran["measured"]) & (ran["measured"] <= ran["high"])
        rows.append(
            {
                "program": name,
                "runs": len(ran),
                "mean": (ratio - 1).abs().mean(),
                "signed": (ratio - 1).median(),
                "under": (ratio < 1 / 1.15).mean(),
                "coverage": inside.mean(),
                "failed": len(failed),
                "failed_told": (failed["p_oom"] > 0.5).mean(),
                "ran_told": (ran["p_oom"] < 0.5).mean(),
            }
        )
    return pd.DataFrame(rows)


def compare(peaks: pd.DataFrame, training: Mapping[str, pd.DataFrame]) -> None:
    """Prints how often chances come true where nothing was chosen, inference far under, and errors by program."""
    ran = [frame[frame["metric"] == "memory_bytes"] for frame in training.values()]
    for kind, rows in pd.concat([peaks, *ran]).query("not fitted").groupby("kind"):
        shares = " / ".join(f"{share:.0%}" for share in exceeded(rows, memory_model().spreads))
        print(f"{kind}: above what is exceeded with a chance of 10 / 50 / 90 %: {shares} of {len(rows)}")
    ratio = peaks["predicted"] / peaks["measured"]
    under = peaks.assign(error=(ratio - 1).round(3))[ratio < FAR_UNDER]
    print("more than 15 % under", under[["table", "model", "engine", "case", "error"]].to_string(), sep="\n")
    for kind, frame in training.items():
        print(kind, scores(frame).round(3).to_string(index=False), sep="\n")


def release(training: Mapping[str, pd.DataFrame]) -> None:
    """Writes the spreads of training, of the half that is to choose constants."""
    path = ROOT / "models" / BUNDLE / MANIFEST
    manifest = json.loads(path.read_text(encoding="utf-8"))
    for kind, rows in training.items():
        chosen = rows[rows["fitted"] & (rows["metric"] == "memory_bytes")]
        manifest["spreads"][kind] = program_spread(chosen)._asdict()
    path.write_text(json.dumps(manifest, indent=1) + "\n", encoding="utf-8")


def main() -> None:
    """Compares the released spreads with published peaks, fits them, or releases those of training."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--truth", type=Path, default=Path(os.environ.get("PREDICTOR_TRUTH", "../shared/truth")))
    parser.add_argument("--fit", action="store_true", help="print the widths, and what they hold of programs held out")
    parser.add_argument("--release", action="store_true", help="write the spreads of training into the bundle")
    options = parser.parse_args()
    bundle = load_bundle()
    training = {
        kind: training_peaks.replay(options.truth, bundle, stated=kind == "training_stated").frame()
        for kind in ("training", "training_stated")
    }
    if options.release:
        release(training)
        return
    peaks = memory.replay(options.truth, bundle).frame()
    if not options.fit:
        compare(peaks, training)
        return
    fit(peaks[peaks["fitted"]])
    for kind, frame in training.items():
        shares = held_out(frame[frame["metric"] == "memory_bytes"])
        print(kind, shares.round(2).to_dict(), f"mean {shares.mean():.0%}")


if __name__ == "__main__":
    main()
