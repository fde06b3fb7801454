"""Features of communication between GPUs."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from predictor.estimators.features.terms import Setting, Terms, group_names, one_hot, renamed
from predictor.hardware.gpu import Gpu
from predictor.hardware.interconnect import BUS_SHARE
from predictor.hardware.roofline import link_bytes_per_s
from predictor.ops import Collective
from predictor.ops.base import column, text_column
from predictor.ops.collective import LEAST_TRAFFIC, LINKS
from predictor.ops.dtypes import Array, Text
from predictor.workloads.engine_tables import measured_engines

LIBRARY = "nccl"
# Seconds of a step of a ring beyond the first, by small messages: of NCCL over NVLink (6.5, 9.6, 16 us for 2, 4 and 8
# H100), of anything over PCIe (7, 13 and 25 us for RTX PRO 6000), of one-shot kernels over NVLink (2.5, 2.8 and 3.5 us
# for H200): aiconfigurator.
RING_STEP_S, PCIE_STEP_S, ONE_SHOT_STEP_S = 0.8e-6, 1.5e-6, 0.1e-6
RINGS = {
    "all_reduce": 2.0,
    "all_gather": 1.0,
    "reduce_scatter": 1.0,
}  # kind → times around; others send to each at once


def collective_terms(op: Collective, gpu: Gpu, setting: Setting) -> Terms:
    """Ring and one-shot traffic over the link, the number of synchronised steps, local memory traffic.

    The nominal work is what a ring takes at the share of its link that rings reach (BUS_SHARE), and its waits.
    """
    calls = len(op)
    message, gpus = column(op.message_bytes, calls), column(op.n_gpus, calls)
    rate = link_bytes_per_s(op, gpu)
    twice = np.where(op.kind == "all_reduce", 2.0, 1.0)
    ring = twice * (gpus - 1) / gpus * message / rate
    path = ring / np.array([BUS_SHARE[link] for link in text_column(op.link, calls).tolist()])
    waits = _waits_s(op, setting, calls)
    times = {
        "least_s": column(op.link_bytes(), calls) / rate,
        "ring_s": ring,
        "path_s": path,
        "waits_s": waits,
        "one_shot_s": (gpus - 1) * message / rate,
        "ring_steps_s": twice * (gpus - 1) * 1e-6,
        "local_s": message / gpu.mem_bytes_per_s,
    }
    fixed = {
        "n_gpus": gpus,
        "eager": column(_eager(setting.kernel).astype(np.float64), calls),
        **one_hot("engine", setting.engine, measured_engines(op.family), calls),
        **one_hot("kind", op.kind, tuple(LEAST_TRAFFIC), calls),
        **one_hot("link", op.link, LINKS, calls),
    }
    return Terms(times, fixed, path + waits, collective_group(op, gpu, setting))


def _waits_s(op: Collective, setting: Setting, calls: int) -> Array:
    """Seconds in which GPUs of a group of more than two wait for each other, whatever the message."""
    around = np.array([RINGS.get(kind, 0.0) for kind in text_column(op.kind, calls).tolist()])
    fabric = np.asarray(text_column(op.link, calls) == "gpu", dtype=bool)
    library = np.asarray(text_column(setting.engine, calls) == LIBRARY, dtype=bool)
    step = np.where(fabric, np.where(library, RING_STEP_S, ONE_SHOT_STEP_S), PCIE_STEP_S)
    return np.asarray(around * (column(op.n_gpus, calls) - 2) * step)


def collective_group(op: Collective, gpu: Gpu, setting: Setting) -> Text:
    """Terms.group."""
    eager = renamed("graph", _eager(setting.kernel), "eager")
    return group_names(len(op), setting.timing, setting.engine, eager, op.kind, _way(op))


def _way(op: Collective) -> Text:
    """The link of each call; over PCIe two GPUs tell nothing of more, whose messages leave the switch of a pair."""
    if not isinstance(op.link, str):
        table = {link: _way(replace(op, link=link)) for link in set(op.link.tolist())}
        columns = {link: text_column(way, len(op)) for link, way in table.items()}
        return np.array([columns[link][row] for row, link in enumerate(op.link.tolist())], dtype=object)
    if op.link not in ("pcie", "host"):
        return op.link
    return renamed(op.link, np.asarray(op.n_gpus) == 2, op.link + "_pair")


def _eager(kernels: Text) -> np.ndarray[Any, Any]:
    """Whether a kernel is launched by itself, not from a graph."""
    return np.char.endswith(np.asarray(kernels).astype(str), "eager")
