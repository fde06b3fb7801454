"""Does a measurement obey physics? Every row is accepted, flagged or rejected, with the reason.

accepted: used. flagged: believable but not what the schema means (a repeat, a spike, host time); kept in the
table, left out of training. rejected: cannot be true (faster than the bound, no such dtype on that GPU).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from predictor.errors import PredictorError, UnsupportedDtype
from predictor.hardware.gpu import Gpu, get_gpu
from predictor.hardware.roofline import Bound, roofline
from predictor.measurements.columns import sound_parts
from predictor.measurements.schema import NUMBER_COLUMNS, TEXT_COLUMNS, groups, op_of, op_type
from predictor.ops.dtypes import Array

ACCEPTED, FLAGGED, REJECTED = "accepted", "flagged", "rejected"
BOUND_SLACK = 0.95  # clocks and data sheets agree to about 5 %
HIGHEST_LATENCY_S = 3600.0
UNIT_RATIO = 200.0  # median latency over bound and launch floor that no kernel but a wrong unit explains
FEWEST_FOR_UNIT = 20
PLATEAU_S = 50e-6  # no GPU launch floor of a single op is this high; a host that launches kernels is
REPEAT_SPREAD = 1.2
SPIKE = 2.0
SHARERS, MANY_TOKENS, FEWEST_FOR_SHARES = 8, 4096, 5
HIGHEST_SHARE = 0.65  # of the time of one GPU; 0.13 to 0.49 in tables that do what they say
SHAPE_COLUMNS = [c for c in NUMBER_COLUMNS if c != "latency_s"]
IDENTITY = [c for c in (*TEXT_COLUMNS, *SHAPE_COLUMNS) if c != "source"]


def check(frame: pd.DataFrame) -> pd.DataFrame:
    """frame (conformed) with two more columns: status and reason, the reason naming value, rule and cure."""
    status = np.full(len(frame), ACCEPTED, dtype=object)
    reason = np.full(len(frame), "", dtype=object)

    def mark(rows: Any, verdict: str, why: str) -> None:
        rows = np.asarray(rows)
        open_rows = rows[status[rows] != REJECTED] if verdict == REJECTED else rows[status[rows] == ACCEPTED]
        status[open_rows], reason[open_rows] = verdict, why

    latency = frame["latency_s"].to_numpy()
    bad = ~(np.isfinite(latency) & (latency > 0))
    mark(np.flatnonzero(bad), REJECTED, "latency_s is not a positive number; measure again or drop the row")
    too_long = latency > HIGHEST_LATENCY_S
    mark(np.flatnonzero(too_long), REJECTED, "latency_s is above an hour; is it in another unit? give seconds")
    for (family, phase, gpu_name), rows in groups(frame):
        rows = rows[~bad[rows] & ~too_long[rows]]
        if len(rows):
            _check_group(frame, family, phase, gpu_name, rows, mark)
    keys = [c for c in IDENTITY if frame[c].notna().any()]
    for rows, why in repeats("call", frame, keys, ["latency_s"], status == ACCEPTED):
        mark(rows, FLAGGED, why)
    return judged(frame, status, reason)


def judged(frame: pd.DataFrame, status: Any, reason: Any) -> pd.DataFrame:
    """frame with a verdict and its reason for each row."""
    return frame.assign(status=pd.Categorical(status, [ACCEPTED, FLAGGED, REJECTED]), reason=reason)


def usable(frame: pd.DataFrame) -> pd.DataFrame:
    """The accepted rows of a checked table, without the verdict columns."""
    return frame[frame["status"] == ACCEPTED].drop(columns=["status", "reason"])


def _check_group(frame: pd.DataFrame, family: str, phase: str, gpu_name: str, rows: Any, mark: Any) -> None:
    try:
        gpu = get_gpu(gpu_name)
    except PredictorError as error:
        mark(rows, REJECTED, str(error))
        return
    for dtype, of_dtype in _split(frame, rows, ["dtype", "kv_dtype"]):
        of_dtype = _well_formed(frame, family, phase, gpu, of_dtype, mark)
        if not len(of_dtype):
            continue
        part = frame.iloc[of_dtype]
        bound = roofline(op_of(part, family, phase), gpu)
        latency = part["latency_s"].to_numpy()
        possible = _check_bound(latency, bound, of_dtype, dtype, mark)
        least = bound.latency_s
        for _, cell in _split(frame, of_dtype[possible], ["engine", "engine_version", "kernel_name", "timing"]):
            where = np.searchsorted(of_dtype, cell)
            if str(frame["timing"].iloc[cell[0]]) != "host":
                _check_plateau(latency[where], least[where], cell, mark)
            if family == "moe":
                _check_shares(frame, cell, mark)
            if not (kind := op_type(family)).uneven:
                _check_spikes(frame, kind.growing, cell, mark)


def _well_formed(frame: pd.DataFrame, family: str, phase: str, gpu: Gpu, rows: Any, mark: Any) -> Any:
    """The rows that are an op which this GPU can run; the others are rejected with the error."""

    def run(some: Any) -> Any:
        roofline(op_of(frame.iloc[some], family, phase), gpu)
        return some

    def refuse(some: Any, error: PredictorError) -> None:
        mark(some, REJECTED, str(error))

    unparted = (UnsupportedDtype,)  # rows share their dtypes
    return np.concatenate([rows[:0], *sound_parts(rows, run, refuse, PredictorError, unparted)])


def _check_bound(latency: Array, bound: Bound, rows: Any, dtype: tuple[str, ...], mark: Any) -> Any:
    """Reject what beats the bound or is in another unit; returns which rows are possible, (n_rows,) booleans."""
    beaten = latency < BOUND_SLACK * bound.latency_s
    name = " ".join(part for part in (dtype[0], "roofline bound") if part)
    mark(rows[beaten], REJECTED, f"faster than the {name} of this GPU; check shape, dtype and unit")
    ratio = float(np.median(latency / (bound.latency_s + bound.floor_s))) if len(rows) >= FEWEST_FOR_UNIT else 1.0
    if ratio < UNIT_RATIO:
        return ~beaten
    unit = "milliseconds" if ratio < 1e3 * UNIT_RATIO else "microseconds"
    why = f"a median {ratio:.0f} times the bound and launch floor: latency_s looks like {unit}; give seconds"
    mark(rows, REJECTED, why)
    return np.zeros(len(rows), dtype=bool)


def _check_plateau(latency: Array, bound: Array, rows: Any, mark: Any) -> None:
    """Small calls that all take the same long time were timed with the host that launched them."""
    small = bound < PLATEAU_S / 10
    if small.sum() < 50:
        return
    low, middle = np.quantile(latency[small], [0.02, 0.5])
    if low > PLATEAU_S and middle < 3 * low:
        flat = (latency < 4 * middle) | (bound < middle / 10)  # the host's jitter goes far above its median
        if flat.mean() > 0.5:
            flat[:] = True  # where most calls waited for the host, the rest did in part
        mark(rows[flat], FLAGGED, f"host-bound: small calls all take about {middle * 1e6:.0f} us; time on the device")


def _check_spikes(frame: pd.DataFrame, growing: str, rows: Any, mark: Any) -> None:
    """A call much slower than the next larger one of the same shape was disturbed."""
    shape = [c for c in SHAPE_COLUMNS if c != growing and frame[c].iloc[rows].notna().any()]
    if growing == "kv_len" and (frame["phase"].iloc[rows[0]] == "prefill"):
        shape = [c for c in shape if c != "q_len"]
    part = frame.iloc[rows][[*shape, growing, "latency_s"]].fillna(-1.0)
    order = np.lexsort([part[c].to_numpy() for c in [growing, *shape]])
    ordered = part.to_numpy()[order]
    same = (ordered[1:, : len(shape)] == ordered[:-1, : len(shape)]).all(axis=1)
    spike = same & (ordered[:-1, -1] > SPIKE * ordered[1:, -1]) & (ordered[1:, -2] > ordered[:-1, -2])
    mark(
        rows[order[:-1][spike]], FLAGGED, f"slower by {SPIKE:g}x than the same call with more {growing}; measure again"
    )


def _check_shares(frame: pd.DataFrame, rows: Any, mark: Any) -> None:
    """Where eight GPUs that share the experts are hardly faster than one, each was given the work of several."""
    shape = [c for c in SHAPE_COLUMNS if c != "ep" and frame[c].iloc[rows].notna().any()]
    part = frame.iloc[rows]
    part = part[(part["tokens"] >= MANY_TOKENS) & (part["skew"] == 0) & part["ep"].isin([1, SHARERS])]
    alone, shared = (part[part["ep"] == ep].set_index(shape)["latency_s"] for ep in (1, SHARERS))
    ratios = (shared[~shared.index.duplicated()] / alone[~alone.index.duplicated()]).dropna()
    if len(ratios) >= FEWEST_FOR_SHARES and ratios.median() > HIGHEST_SHARE:
        why = (
            f"{SHARERS} GPUs that share the experts take {ratios.median():.2f} of the time of one: not one GPU's share"
        )
        mark(rows[(frame["ep"].iloc[rows] > 1).to_numpy()], FLAGGED, why)


def repeats(
    what: str, frame: pd.DataFrame, keys: list[str], figures: list[str], accepted: NDArray[np.bool_]
) -> Iterator[tuple[NDArray[Any], str]]:
    """Positions of accepted repeats, and why they are flagged: the first stands for all, and none where they disagree.

    what: a row is. keys: columns that are equal in repeats. figures: columns that were measured.
    """
    repeated = np.flatnonzero(frame.duplicated(keys, keep=False).to_numpy() & accepted)
    if not len(repeated):
        return
    part = frame.iloc[repeated]
    group = part.groupby(keys, observed=True, dropna=False)[figures]
    spread = (group.transform("max") / group.transform("min")).max(axis=1).to_numpy()
    later = part.duplicated(keys, keep="first").to_numpy()
    yield repeated[spread > REPEAT_SPREAD], f"repeats of this {what} differ by over {REPEAT_SPREAD:g}x"
    yield repeated[later & (spread <= REPEAT_SPREAD)], "a repeat of an earlier row"


def _split(frame: pd.DataFrame, rows: Any, columns: list[str]) -> list[tuple[tuple[str, ...], Any]]:
    """rows cut into runs of equal text columns: ((values), sorted row positions)."""
    part = frame[columns].iloc[rows]
    positions = part.groupby(columns, observed=True, sort=False, dropna=False).indices
    return [
        (tuple(map(str, key)) if isinstance(key, tuple) else (str(key),), np.sort(rows[np.asarray(where)]))
        for key, where in positions.items()
    ]
