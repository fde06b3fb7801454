"""How much runs of one's own say of others: the constants of predictor.estimators.own_runs, and errors before → after.

    predictor validate --out rows.csv          # replays the published tables
    python training/own_runs.py fit rows.csv   # SHARES, on the half of the rows that constants may be fitted on
    python training/own_runs.py test rows.csv  # on the other half: k runs of one model correct all others

A family is a table, GPU, engine and scheduling; its rows are taken as one user's runs. `test` draws k runs of one model
of a family, several times, and compares errors on the other runs of the same setup (other loads), of the same model in
other layouts, formats and versions, and of other models there.
"""

from __future__ import annotations

import json
import sys
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from math import lgamma, log1p
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy.optimize import minimize

from predictor.cli.common.display import show
from predictor.estimators.bundle import load_bundle
from predictor.estimators.own_runs import CONTINUOUS, FREEDOM, PARTS, STATIC, OwnRun, OwnRuns
from predictor.learning.own_runs import run_of
from predictor.prediction.rows import answer_rows
from predictor.workloads.results import ENDS

FIGURES = ("ttft_s", "tpot_s", "e2e_s", "tokens_per_s")
PREDICTED = ("predicted", "low", "high")
LEFT_OUT = "disaggregated|inferencex"  # pools, which have no correction; models of whose layers nobody timed one
MOST = 80  # runs of a family that are fitted on
DRAWS, COUNTS, END = 12, (1, 3, 8), 1.2816
RELATIONS = ("other loads", "other setups", "other models")


class Row(NamedTuple):
    """A published run. family: table, GPU, engine and scheduling."""

    family: tuple[str, ...]
    run: OwnRun


def runs_of(file: Path, fitted: bool) -> list[Row]:
    """The runs of what `predictor validate` replayed, of one half, with the errors of answers to them."""
    rows = pd.read_csv(file, low_memory=False)
    kept = (rows["fitted"].astype(bool) == fitted) & rows["request"].notna() & rows["private_setting"].isna()
    rows = rows[kept & rows["metric"].isin(FIGURES) & ~rows["table"].str.contains(LEFT_OUT)]
    told: dict[tuple[str, str], dict[str, float]] = defaultdict(dict)
    said: dict[tuple[str, str], dict[str, float]] = defaultdict(dict)
    for row in rows.to_dict("records"):
        if json.loads(row["request"]).get("phase") != "train":
            key = row["table"], row["request"]
            told[key][row["metric"]] = row["measured"]
            said[key] |= {f"{row['metric']}{end}": row[name] for end, name in zip(ENDS, PREDICTED, strict=True)}
    asked, bundle = [json.loads(request) for _, request in told], load_bundle()
    made = []
    for key, request, answer in zip(told, asked, answer_rows(asked, bundle), strict=True):
        if not answer["error"] and (run := run_of(request, told[key], answer | said[key], bundle.level)):
            made.append(Row((key[0], *run.setup[:3]), run))
    return made


def families(rows: Sequence[Row]) -> Mapping[tuple[str, ...], list[OwnRun]]:
    """The runs by family."""
    by_family = defaultdict(list)
    for row in rows:
        by_family[row.family].append(row.run)
    return by_family


def fit(rows: Sequence[Row]) -> None:
    """Print the shares that make the errors of the rows likeliest."""
    ones = ((1.0, 0.0), (0.0, 1.0))
    for scheduling in (STATIC, CONTINUOUS):
        for part in PARTS:
            parts = []
            for runs in families(rows).values():
                told = [run for run in runs if getattr(run, part) and run.setup.scheduling == scheduling]
                some = np.random.default_rng(0).permutation(len(told))[:MOST]
                told = [told[place] for place in some]
                if len(told) > 1:
                    same = [np.array([[a.setup.shared(b.setup, one) for b in told] for a in told]) for one in ones]
                    errors = [getattr(run, part) for run in told]
                    parts.append((same, np.array([error.log / error.spread for error in errors])))
            if not parts:
                continue

            def unlikely(logs: np.ndarray, parts: list = parts) -> float:
                weights, total = np.exp(logs), 0.0
                for same, ratios in parts:
                    n = len(ratios)
                    known = sum(w * k for w, k in zip(weights, same, strict=False)) + weights[2] * np.eye(n)
                    surprise = ratios @ np.linalg.solve(known, ratios) / FREEDOM
                    total += np.linalg.slogdet(known)[1] / 2 + (FREEDOM + n) / 2 * log1p(surprise)
                    total += lgamma(FREEDOM / 2) - lgamma((FREEDOM + n) / 2) + n / 2 * np.log(FREEDOM)
                return total

            found = np.exp(minimize(unlikely, np.full(3, np.log(0.3)), method="L-BFGS-B", bounds=[(-6, 2)] * 3).x)
            count = sum(len(ratios) for _, ratios in parts)
            shares = ", ".join(f"{share:.2f}" for share in found[:2] / found.sum())
            print(f"({scheduling}, {part}): ({shares})  # {count} runs of {len(parts)} families")


def errors_of(run: OwnRun, own: OwnRuns) -> Iterator[dict[str, object]]:
    """Log errors and half widths of each figure of a run, before and after others correct it."""
    correction = own.correction(run.setup)
    load = run.setup.scheduling == CONTINUOUS
    for figure, error, shift in (
        ("TPOT, E2E", run.pace, correction.pace),
        ("TTFT", run.prompt, correction.prompt),
    ):
        if error:
            beside = figure == "TTFT" and load  # a prompt's error is beside that of the pace
            before = error.log + (run.pace.log if beside and run.pace else 0.0)
            after = before - shift.log - (correction.pace.log if beside else 0.0)
            half = END * error.spread
            yield {"figure": figure, "before": before, "after": after, "was": half, "half": half * shift.width}


def drawn(rows: Sequence[Row]) -> Iterator[dict[str, object]]:
    """The errors of all runs of a family that a draw of some of one model leaves."""
    random, draw = np.random.default_rng(0), 0
    for runs in families(rows).values():
        models = sorted({run.setup.model for run in runs})
        for count in COUNTS:
            for _ in range(DRAWS):
                model, draw = models[random.integers(len(models))], draw + 1
                own = [run for run in runs if run.setup.model == model]
                if len(own) < count:
                    continue
                chosen = [own[place] for place in random.permutation(len(own))[:count]]
                learnt, setups = OwnRuns(tuple(chosen)), {run.setup for run in chosen}
                for run in runs:
                    relation = 0 if run.setup in setups else 1 if run.setup.model == model else 2
                    about = {"scheduling": run.setup.scheduling, "relation": relation, "k": count, "draw": draw}
                    if run not in chosen:
                        yield from (about | error for error in errors_of(run, learnt))


def test(rows: Sequence[Row]) -> None:
    """Print errors before → after by scheduling, figure, relation and number of runs: of draws the median of medians,
    else the mean of means."""
    errors = pd.DataFrame(drawn(rows))
    for when, half in (("before", "was"), ("after", "half")):
        errors[f"{when}_in"] = errors[when].abs() <= errors[half]
        errors[when] = np.expm1(-errors[when]).abs()  # predicted / measured - 1
    by = ["scheduling", "figure", "relation", "k"]
    draws = errors.drop(columns="draw").groupby([*(errors[name] for name in by), errors["draw"]])
    middle, means = draws.median(numeric_only=False), draws.mean(numeric_only=False)
    lines = []
    for key, own in means.groupby(level=by):
        medians = middle.loc[own.index].median()
        told = own.mean()
        names = [("before", "after"), ("before_in", "after_in"), ("was", "half")]
        arrows = [f"{told[one]:.1%} → {told[two]:.1%}" for one, two in names]
        scheduling, figure, relation, count = key
        median = f"{medians['before']:.1%} → {medians['after']:.1%}"
        lines.append([f"{scheduling} {figure}", RELATIONS[relation], str(count), str(len(own)), median, *arrows])
    show(["", "of", ">k", ">draws", ">median error", ">mean error", ">coverage", ">half width"], lines)


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["fit", file]:
            fit(runs_of(Path(file), fitted=True))
        case ["test", file]:
            test(runs_of(Path(file), fitted=False))
        case _:
            sys.exit(__doc__)
