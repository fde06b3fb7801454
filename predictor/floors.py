"""Launch floors: the time of a call with next to no work, learned per group of calls in cycles of the GPU.

A floor is a habit of an engine and its kernels; in cycles it hardly differs between GPUs, so it transfers.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from predictor.features import Features
from predictor.ops.dtypes import Array

Floors = Mapping[str, float]  # group or its leading parts → cycles; "" for all

SMALL_CYCLES = 3_000.0  # nominal work below which a call is nearly all floor
INFLATION = 2.0  # the base takes twice the floor, so that the correction to it rises with work


def fit_floors(table: Features, latency_s: Array) -> Floors:
    """Cycles of the floor of each group, of each leading part of group names and of all calls.

    The median over small calls; a group without any takes its fastest tenth.
    """
    import pandas as pd

    cycles = latency_s / table.tick_s
    work = table.work_s / table.tick_s
    small = work < SMALL_CYCLES
    floors: dict[str, float] = {}
    frame = pd.DataFrame({"group": table.group, "cycles": cycles, "small": small})
    parts = max(str(name).count("|") for name in set(table.group.tolist())) + 1
    for depth in range(parts + 1):
        frame["key"] = frame["group"].map({g: "|".join(g.split("|")[:depth]) for g in frame["group"].unique()})
        for key, rows in frame.groupby("key"):
            light = rows.loc[rows["small"], "cycles"]
            floors[str(key)] = float(light.median() if len(light) >= 20 else rows["cycles"].quantile(0.1))
    return floors


def floor_s(table: Features, floors: Floors) -> Array:
    """Seconds of the floor of each call, (n_calls,); a group never seen takes that of its leading parts."""
    found = {name: _lookup(str(name), floors) for name in set(table.group.tolist())}
    return np.array([found[name] for name in table.group.tolist()]) * table.tick_s


def _lookup(name: str, floors: Floors) -> float:
    parts = name.split("|")
    for depth in range(len(parts), -1, -1):
        key = "|".join(parts[:depth])
        if key in floors:
            return floors[key]
    return floors[""]


def inputs(table: Features, floors: Floors) -> tuple[NDArray[np.float32], Array]:
    """What the trees see and what they correct: values with times in units of the floor, and the base in seconds."""
    floor = floor_s(table, floors)
    values = table.values.copy()
    values[:, : table.times] -= np.log(floor)[:, None].astype(np.float32)
    return values, INFLATION * floor + table.work_s
