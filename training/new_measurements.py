"""What new measurements are worth, and how sure a promotion is: the experiments behind docs/train-and-promote.md.

    python training/new_measurements.py learn-on [--from FOLDER] [--only ESTIMATOR ...]
    python training/new_measurements.py suggest  [--from FOLDER] [--only ESTIMATOR ...]
    python training/new_measurements.py noise    [--from FOLDER]

FOLDER holds the clones of training/release.py. learn-on: each generation held out, ROWS of its rows learned on from
what the others taught; the error of a fifth of them, before and after; what known GPUs lose, rehearsed and not.
suggest: a workload of CALLS measured calls of one engine and dtype of a GPU held out, some of which are measured: those
that `predictor suggest` would take, out of all or out of those that are not of the workload, or any; the error of its
total time. noise: seeds of one small recipe, and
candidates that are worse on purpose, each judged by the others as `predictor promote` judges.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import permutations
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
from release import SOURCES, read_source

from predictor.estimators.bundle import Bundle, load_bundle, write_manifest
from predictor.estimators.correction.kernel import NOISE, Prior, Traits, covariance
from predictor.estimators.correction.prior import MOST_ROWS, adapted, learn
from predictor.estimators.correction.process import fit_correction
from predictor.estimators.estimator import Estimator
from predictor.estimators.samples import TrainingSet
from predictor.hardware.gpu import get_gpu
from predictor.learning.continual.learn_on import learn_on
from predictor.learning.evaluate import cells
from predictor.learning.holdout import Fold, generation_folds, score
from predictor.learning.recipe import Recipe, read_recipe
from predictor.learning.rehearsal import drawn, part_of
from predictor.learning.suggest import CALLS as TIMED, SETUP_S, Open
from predictor.learning.tables import read_sets
from predictor.learning.train import train
from predictor.registry import comparison
from predictor.registry.comparison import compare, rules_for

REPO = Path(__file__).resolve().parents[1]
LEARNED = ("gemm", "attention_decode", "moe")
ROWS, KNOWN_ROWS, HELD_OUT = 5_000, 6_000, 0.2
REHEARSED = 20_000
SUGGESTED = ("gemm", "attention_decode")
CALLS, MEASURED, DRAWS = 30, (0, 5, 10, 20, 50), 3
MOST_CANDIDATES = 400  # measured calls of an engine and dtype that may be chosen
NOISE_SOURCES = ("llmservingsim", "neusight", "vidur")  # small ones
SEEDS = (*range(4), *range(10, 14))


def main() -> None:
    """Run one of them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("learn-on", "suggest", "noise"))
    parser.add_argument("--from", dest="root", type=Path, default=os.environ.get("PREDICTOR_DATA"))
    parser.add_argument("--only", nargs="+", default=[], metavar="ESTIMATOR")
    given = parser.parse_args()
    if given.root is None or not Path(given.root).is_dir():
        parser.error(f"no folder of sources at {given.root}; give --from FOLDER or set PREDICTOR_DATA")
    recipe = read_recipe(REPO / "training" / "recipe.toml")
    with tempfile.TemporaryDirectory() as scratch:
        if given.what == "noise":
            tables = [read_source(name, Path(given.root), Path(scratch)) for name in NOISE_SOURCES]
            promotions(tables, recipe, Path(scratch))
            return
        tables = [read_source(name, Path(given.root), Path(scratch)) for name in SOURCES]
        _, sets = read_sets(tables, recipe, lambda line: print(line, file=sys.stderr))
    if given.what == "learn-on":
        for name in given.only or LEARNED:
            new_rows(sets[name], recipe)
    else:
        for name in given.only or SUGGESTED:
            suggestions(sets[name], recipe)


# Learning on


def new_rows(rows: TrainingSet, recipe: Recipe) -> None:
    """Print what ROWS rows of each generation that was held out do."""
    lines = [_learned_on(rows, fold, recipe) for fold in generation_folds(rows, recipe)]
    table = pd.DataFrame([line for line in lines if line])
    print(f"\n{rows.estimator}: mean error of cells of GPU, engine and dtype, per cent")
    print(table.round(1).to_string(index=False))
    print(table.drop(columns="generation").mean().round(1).to_string(), flush=True)


def _learned_on(rows: TrainingSet, fold: Fold, recipe: Recipe) -> Mapping[str, object]:
    """Errors of one generation and of the others, before and after; nothing where it has too few rows."""
    generation = str(fold.test.who["generation"].iloc[0])
    own = (rows.who["generation"] == generation).to_numpy()
    if own.sum() < ROWS:
        return {}
    draw = np.random.default_rng(recipe.seed)
    new = rows.take(draw.permutation(np.flatnonzero(own))[:ROWS])
    others = rows.take(np.flatnonzero(~own))
    known = others.take(draw.permutation(len(others.who))[:KNOWN_ROWS])
    out = draw.permutation(ROWS) < HELD_OUT * ROWS
    calls = drawn([part_of(others)], REHEARSED, recipe.seed)
    grown = learn_on(fold.estimator, new.take(~out), calls, recipe)
    bare = learn_on(fold.estimator, new.take(~out), None, recipe)
    return {
        "generation": generation,
        "new before": _error(fold.estimator, new.take(out)),
        "after": _error(grown, new.take(out)),
        "known before": _error(fold.estimator, known),
        "after, rehearsed": _error(grown, known),
        "after, bare": _error(bare, known),
    }


def _error(estimator: Estimator, rows: TrainingSet) -> float:
    return 100 * float(cells(score(estimator, rows), ["gpu", "engine", "dtype"])["mape"].mean())


# Suggested shapes


class Cell(NamedTuple):
    """Measured calls of one engine and dtype of a GPU held out: their traits, log(truth / prediction) and time."""

    gpu: str
    traits: Traits
    error: np.ndarray
    latency_s: np.ndarray

    def take(self, rows: np.ndarray) -> Cell:
        """Some of them."""
        return self._replace(traits=self.traits.take(rows), error=self.error[rows], latency_s=self.latency_s[rows])


def suggestions(rows: TrainingSet, recipe: Recipe) -> None:
    """Print the error of a workload's time after so many measured calls, suggested and random."""
    folds = generation_folds(rows, recipe)
    found = [list(_cells_of(fold)) for fold in folds]
    draw, lines = np.random.default_rng(recipe.seed), []
    for own in found:
        samples = [_sample(cell, draw) for other in found if other is not own for cell in other]
        prior = learn(samples) if samples else None
        for cell in own if prior else ():
            for _ in range(DRAWS):
                lines += _workload(cell.take(draw.permutation(len(cell.error))[:MOST_CANDIDATES]), prior, draw, recipe)
    table = pd.DataFrame(lines).groupby(["chosen", "measured"])[["error", "gpu_s"]].mean()
    workloads = DRAWS * sum(map(len, found))
    print(
        f"\n{rows.estimator}: error of the time of {CALLS} calls, per cent, and seconds of GPU time, {workloads} draws"
    )
    print(table.round(2).to_string(), flush=True)


def _sample(cell: Cell, draw: np.random.Generator) -> tuple[Traits, np.ndarray]:
    kept = cell.take(draw.permutation(len(cell.error))[:MOST_ROWS])
    return kept.traits, kept.error


def _cells_of(fold: Fold) -> Iterator[Cell]:
    for own, gpu, op, setting in fold.test.by_gpu():
        predicted = fold.estimator.uncorrected(op, gpu, setting)
        error, latency_s = np.log(fold.test.latency_s[own]) - predicted, fold.test.latency_s[own]
        traits, who = fold.estimator.traits(op, gpu, setting, predicted), fold.test.who[own].reset_index(drop=True)
        for places in who.groupby(["engine", "dtype"], observed=True).indices.values():
            if len(places) >= 4 * CALLS:
                yield Cell(gpu.name, traits.take(places), error[places], latency_s[places])


def _workload(cell: Cell, prior: Prior, draw: np.random.Generator, recipe: Recipe) -> Iterator[Mapping[str, object]]:
    """The workload is the first CALLS; every call may be measured."""
    share = np.zeros(len(cell.error))
    predicted_s = cell.latency_s * np.exp(-cell.error)
    share[:CALLS] = predicted_s[:CALLS] / predicted_s[:CALLS].sum()
    cost_s = SETUP_S + TIMED * predicted_s
    every = np.ones(len(share))
    orders = {
        "suggested": _suggested(cell, prior, share, cost_s, every),
        "suggested, others": _suggested(cell, prior, share, cost_s, np.where(share > 0, 0.0, every)),
        "random": draw.permutation(len(cell.error)),
    }
    for chosen, order in orders.items():
        for count in MEASURED:
            told = cell.take(np.asarray(order[:count], dtype=int))
            offset = np.zeros(CALLS)
            if count:
                own = adapted(prior, told.traits, told.error)
                correction = fit_correction(get_gpu(cell.gpu), own, told.traits, told.error, recipe.level)
                offset = correction.offset(cell.traits.take(np.arange(CALLS)))
            total, truth = (predicted_s[:CALLS] * np.exp(offset)).sum(), cell.latency_s[:CALLS].sum()
            error = 100 * abs(total / truth - 1)
            yield {"chosen": chosen, "measured": count, "error": error, "gpu_s": cost_s[order[:count]].sum()}


def _suggested(cell: Cell, prior: Prior, share: np.ndarray, cost_s: np.ndarray, allowed: np.ndarray) -> Sequence[int]:
    """Which calls `predictor suggest` would measure, in its order. allowed: 1 for those that it may, else 0."""
    left = covariance(cell.traits, cell.traits, prior)
    noise, predicted_s = prior.amplitudes[NOISE] ** 2, cell.latency_s * np.exp(-cell.error)
    candidates = Open([], "", share, left, noise, predicted_s, cost_s, allowed)
    order = []
    for _ in range(max(MEASURED)):
        order.append(int((candidates.gains() / candidates.cost_s).argmax()))
        candidates.measure(order[-1])
    return order


# Promotions


def promotions(tables: list[Path], recipe: Recipe, scratch: Path) -> None:
    """Print how many promotions of equals are refused, and how many of what is worse."""
    small = replace(recipe, id="small", rows_per_cell=300, transfer_rounds=60, reference_rounds=60, reference_depth=6)

    def made(name: str, recipe: Recipe, tables: list[Path]) -> Bundle:
        return train(tables, recipe, scratch / name, lambda line: None)

    equals = [made(f"seed-{seed}", replace(small, seed=seed), tables) for seed in SEEDS]
    shallow = replace(small, seed=4, transfer_depth=2, reference_depth=2)
    worse = {
        "trees of depth 2": made("shallow", shallow, tables),
        "a GPU left out": made("fewer", small, [_without(table, "A40", scratch) for table in tables]),
        "a fifth of the A40's latencies tripled": made(
            "tripled", small, [_tripled(table, scratch) for table in tables]
        ),
        "intervals at the 60 % level": _said_to_be(recipe.level, made("narrow", replace(small, level=0.6), tables)),
    }
    for sure in (3.0, 4.0, 5.0):
        comparison.SURE = sure
        pairs = list(permutations(equals, 2))
        refused = sum(bool(compare(one, other, rules_for(one)).reasons) for one, other in pairs)
        print(f"{sure:g} standard errors: {refused} of {len(pairs)} equals refused", end="")
        for name, candidate in worse.items():
            told = sum(bool(compare(one, candidate, rules_for(one)).reasons) for one in equals)
            print(f"; {name}: by {told} of {len(equals)}", end="")
        print(flush=True)


def _said_to_be(level: float, bundle: Bundle) -> Bundle:
    write_manifest({**bundle.manifest, "level": level}, bundle.path)
    return load_bundle(bundle.path)


def _without(table: Path, gpu: str, scratch: Path) -> Path:
    rows = pd.read_parquet(table)
    out = scratch / f"without-{table.name}"
    rows[~rows["gpu"].astype(str).str.startswith(gpu)].to_parquet(out)
    return out


def _tripled(table: Path, scratch: Path) -> Path:
    rows = pd.read_parquet(table)
    struck = rows["gpu"].astype(str).str.startswith("A40") & (np.arange(len(rows)) % 5 == 0)
    out = scratch / f"tripled-{table.name}"
    rows.assign(latency_s=rows["latency_s"] * np.where(struck, 3.0, 1.0)).to_parquet(out)
    return out


if __name__ == "__main__":
    main()
