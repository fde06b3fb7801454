"""What a bundle keeps of the calls that trained it: enough to draw calls like them; no measurement, no row.

The calls of one GPU, engine, dtype and group are a cell. Their number fields form blocks of what goes together (heads
and KV heads, the dimensions of a model). A block keeps its most frequent values and roughly how often each occurs, or
quantiles where it has many; a Gaussian copula keeps how blocks rank together (Nelsen, An Introduction to Copulas,
2006). Calls that are drawn and answered by the old estimator stand in for the old data when it learns on (Robins,
Catastrophic forgetting, rehearsal and pseudorehearsal, Connection Science 1995).
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from predictor.estimators.extrapolation import number_fields
from predictor.estimators.samples import TrainingSet, training_sets
from predictor.hardware.gpu import get_gpu
from predictor.learning.sampling import balanced_weights
from predictor.measurements.schema import conform
from predictor.ops import Op
from predictor.ops.base import column
from predictor.ops.dtypes import Array

TEXTS = ("gpu", "engine", "timing", "dtype", "kv_dtype", "kind", "link")  # a cell has one of each, and one group
TOGETHER = (
    ("heads", "kv_heads"),
    ("head_dim", "window", "causal"),
    ("hidden", "inter", "experts", "topk", "matrices"),
    ("tp", "ep"),
    ("kernel", "stride", "padding", "groups"),
)
FEWEST_CELL_ROWS = 20  # rows that make a cell
MOST_VALUES = 64  # of a block that are kept
QUANTILES = 11  # of a field with more values
CORRELATED = 0.1  # rank correlations below are taken as none
SPARE = 4  # so many times more calls are drawn than asked, since some are no valid op

# What is kept of the rows that one training run gave an estimator, as JSON has it; see part_of.
Part = Mapping[str, Any]


def part_of(rows: TrainingSet) -> Part:
    """What is kept of an estimator's rows: family, phase, texts, values of each block, and a dict per cell.

    A cell has who (one of each of `texts`), rows, blocks (places in the values and how many times half as frequent as
    the most frequent each is, or quantiles and a step) and ranks (rank correlations of blocks, upper triangle; absent
    where none is of note). Cells of few rows are left out.
    """
    op, _ = rows.calls(np.arange(len(rows.who)))
    numbers = pd.DataFrame(_numbers(op))
    blocks = _blocks(tuple(map(str, numbers)))
    texts = [name for name in TEXTS if name in rows.who]
    names = rows.who[[*texts, "kernel_name"]].astype(str).assign(group=rows.table.group.astype(str))
    values: dict[str, list[list[float]]] = {}
    kept_cells = []
    for _, places in sorted(names.groupby([*texts, "group"]).indices.items()):
        if len(places) >= FEWEST_CELL_ROWS:
            own = names.iloc[places]
            who = [*own[texts].iloc[0], str(own["kernel_name"].mode()[0])]
            kept_cells.append({"who": who, "rows": len(places), **_cell(numbers.iloc[places], blocks, values)})
    first, texts = rows.who.iloc[0], [*texts, "kernel_name"]
    about = {"family": str(first["family"]), "phase": str(first["phase"]), "texts": texts}
    return {**about, "values": values, "cells": kept_cells}


def drawn(parts: Sequence[Part], count: int, seed: int) -> TrainingSet | None:
    """About `count` calls like those that were measured; latency_s is not a number. None where nothing is kept.

    Equally many of each generation, then GPU, then engine and dtype; within these as many as there were rows.
    """
    draw, frames = np.random.default_rng(seed), []
    shares = iter(_shares(parts, count))
    for part in parts:
        for cell in part["cells"]:
            calls = _drawn_cell(cell, part["values"], next(shares), draw)
            who = dict(zip(part["texts"], cell["who"], strict=True))
            frames.append(calls.assign(**who, family=part["family"], phase=part["phase"], latency_s=np.nan))
    if not any(len(calls) for calls in frames):
        return None
    (rows,) = training_sets(conform(pd.concat(frames, ignore_index=True))).values()
    return rows


def write_rehearsal(kept: Mapping[str, Sequence[Part]], path: Path) -> None:
    """Write what is kept of all estimators, by name, compactly."""
    path.write_text(json.dumps(kept, separators=(",", ":")) + "\n", encoding="utf-8")


def _shares(parts: Sequence[Part], count: int) -> list[int]:
    lines = [
        {**dict(zip(part["texts"], cell["who"], strict=True)), "rows": cell["rows"]}
        for part in parts
        for cell in part["cells"]
    ]
    if not lines:
        return []
    frame = pd.DataFrame(lines)
    frame["generation"] = [get_gpu(name).generation for name in frame["gpu"]]
    share = balanced_weights(frame, "rows")
    return list(np.ceil(count * share / frame["generation"].nunique()).astype(int))


def _numbers(op: Op) -> dict[str, Array]:
    """Number fields of a column of calls; the past of prefill instead of kv_len, which holds the new tokens too."""
    fields = {name: column(getattr(op, name), len(op)) for name in number_fields(op)}
    if "past" in op.token_counts():
        fields["past"] = fields.pop("kv_len") - fields["q_len"]
    return fields


def _blocks(names: tuple[str, ...]) -> list[tuple[str, ...]]:
    joint = [block for block in TOGETHER if set(block) <= set(names)]
    taken = {name for block in joint for name in block}
    return [*joint, *((name,) for name in names if name not in taken)]


def _cell(
    numbers: pd.DataFrame, blocks: Sequence[tuple[str, ...]], values: dict[str, list[list[float]]]
) -> dict[str, Any]:
    kept: dict[str, Any] = {}
    sizes = {}
    for block in blocks:
        key, own = ",".join(block), numbers[list(block)]
        sizes[key] = np.log1p(own).sum(axis=1)
        counts = own.value_counts()
        if len(block) == 1 and len(counts) > MOST_VALUES:
            kept[key] = _quantiles(own[block[0]].to_numpy())
        else:
            kept[key] = _frequent(counts.head(MOST_VALUES), values.setdefault(key, []))
    ranks = pd.DataFrame(sizes).corr("spearman").fillna(0.0).to_numpy()
    above = np.round(ranks[np.triu_indices(len(blocks), 1)], 2)
    return {"blocks": kept, **({"ranks": above.tolist()} if (np.abs(above) >= CORRELATED).any() else {})}


def _frequent(counts: pd.Series, values: list[list[float]]) -> dict[str, Any]:
    """Places in `values`, to which those of a block are added, and how often each occurs in powers of a half."""
    halvings = {}
    for value, count in counts.items():
        row = [_short(number) for number in np.atleast_1d(np.asarray(value, dtype=np.float64))]
        if row not in values:
            values.append(row)
        halvings[values.index(row)] = round(math.log2(counts.iloc[0] / count))
    places = sorted(halvings)
    return {"places": places, **({"halvings": [halvings[place] for place in places]} if any(halvings.values()) else {})}


def _quantiles(known: Array) -> dict[str, Any]:
    """step: the largest power of two that divides nine of ten numbers, so that drawn widths are as round; 0 where
    they are not whole."""
    quantiles = np.quantile(known, np.linspace(0, 1, QUANTILES), method="nearest")
    whole = bool((known == np.floor(known)).all())
    steps = [2**power for power in range(11) if np.mean(known % 2**power == 0) > 0.9] if whole else [0]
    return {"quantiles": [_short(number) for number in quantiles], "step": max(steps, default=1)}


def _short(number: float) -> float:
    return int(number) if number == int(number) else round(float(number), 4)


def _drawn_cell(
    cell: Mapping[str, Any], values: Mapping[str, Sequence[Sequence[float]]], count: int, draw: np.random.Generator
) -> pd.DataFrame:
    names = list(cell["blocks"])
    chances = _copula(len(names), cell.get("ranks"), SPARE * count, draw)
    fields: dict[str, Array] = {}
    for key, chance in zip(names, chances.T, strict=True):
        block = cell["blocks"][key]
        if "quantiles" in block:
            fields[key] = _between(block["quantiles"], block["step"], chance)
        else:
            table = np.array([values[key][place] for place in block["places"]], dtype=np.float64)
            halvings = np.array(block.get("halvings", [0] * len(table)), dtype=np.float64)
            fields |= dict(zip(key.split(","), _picked(table, 0.5**halvings, chance).T, strict=True))
    if "past" in fields:
        fields["kv_len"] = fields["q_len"] + fields.pop("past")
    return pd.DataFrame(fields)[_valid(fields)].head(count)


def _copula(blocks: int, ranks: Sequence[float] | None, count: int, draw: np.random.Generator) -> Array:
    """Chances in (0, 1) of each block, (count, blocks), that rank together as asked."""
    from scipy.special import ndtr

    normal = draw.standard_normal((count, blocks))
    if ranks is not None:
        matrix = np.zeros((blocks, blocks))
        matrix[np.triu_indices(blocks, 1)] = 2 * np.sin(np.pi / 6 * np.array(ranks))  # of normals with such ranks
        size, axes = np.linalg.eigh(matrix + matrix.T + np.eye(blocks))
        root = axes * np.sqrt(np.maximum(size, 0.0))
        normal = normal @ root.T / np.sqrt((root**2).sum(axis=1))
    return np.asarray(ndtr(normal))


def _picked(table: Array, shares: Array, chance: Array) -> Array:
    """The row of `table`, by size of its numbers, in whose share each chance falls."""
    order = np.argsort(np.log1p(table).sum(axis=1), kind="stable")
    ends = np.cumsum(shares[order])
    return np.asarray(table[order[np.searchsorted(ends / ends[-1], chance).clip(max=len(order) - 1)]])


def _between(quantiles: Sequence[float], step: float, chance: Array) -> Array:
    """Numbers between quantiles, on a logarithmic scale, as round as the measured ones."""
    logs = np.log1p(quantiles)
    numbers = np.expm1(np.interp(chance, np.linspace(0, 1, len(logs)), logs))
    return np.asarray((np.round(numbers / step) * step).clip(min(quantiles), max(quantiles)) if step else numbers)


def _valid(fields: Mapping[str, Array]) -> NDArray[np.bool_]:
    """Which calls are ops: fields of one block were measured together, those of two have to fit."""
    sound = np.ones(len(next(iter(fields.values()))), dtype=bool)
    for least, most in (("q_len", "kv_len"), ("ep", "experts")):
        if least in fields and most in fields:
            sound &= fields[least] <= fields[most]
    if "kernel" in fields:
        sound &= fields["kernel"] <= fields["size"] + 2 * fields["padding"]
        sound &= (fields["in_channels"] % fields["groups"] == 0) & (fields["out_channels"] % fields["groups"] == 0)
    return sound
