"""Features of communication between GPUs."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from predictor.estimators.features.terms import (
    REFERENCE_CLOCK_HZ,
    Setting,
    Terms,
    group_names,
    one_hot,
    renamed,
)
from predictor.hardware.architectures import capability, generation
from predictor.hardware.gpu import Gpu
from predictor.hardware.interconnect import BUS_SHARE
from predictor.hardware.roofline import link_bytes_per_s
from predictor.ops import Collective
from predictor.ops.base import column, text_column
from predictor.ops.collective import LEAST_TRAFFIC, LINKS
from predictor.ops.dtypes import Array, Text
from predictor.workloads.engine_tables import measured_engines

LIBRARY = "nccl"
PCIE = ("pcie", "host")
SLOWER_LINKS = LINKS[1:]  # one that nobody measured is taken for the GPU's own: its rate and steps are in the times
# Seconds of a step of a ring beyond the first, by small messages: of NCCL over NVLink (6.5, 9.6, 16 us for 2, 4 and 8
# H100), of anything over PCIe (7, 13 and 25 us for RTX PRO 6000), of one-shot kernels over NVLink (2.5, 2.8 and 3.5 us
# for H200): aiconfigurator.
RING_STEP_S, PCIE_STEP_S, ONE_SHOT_STEP_S = 0.8e-6, 1.5e-6, 0.1e-6
RINGS = {
    "all_reduce": 2.0,
    "all_gather": 1.0,
    "reduce_scatter": 1.0,
}  # kind → times around; others send to each at once
# Of the rate of the link, what an all-reduce's whole message reaches where the switch adds: 0.46 of B200, 0.60 of H100
# and 0.70 of H20, eight each (aiconfigurator, PipeWeave). Four GPUs may be wired without a switch.
ADDING_SHARE, UNSWITCHED_GPUS = 0.55, 4


def collective_terms(op: Collective, gpu: Gpu, setting: Setting) -> Terms:
    """How long the message is on its way, and how long the GPUs wait for each other.

    Nothing else that is a time, and no number of GPUs: a dozen machines are told apart by them, and trees learn each
    one's quirks instead of what a link does. The nominal work is what a ring takes at the share of its link that rings
    reach (BUS_SHARE) or a switch that adds, and the waits.
    """
    calls = len(op)
    message, gpus = column(op.message_bytes, calls), column(op.n_gpus, calls)
    rate = link_bytes_per_s(op, gpu)
    links, kinds = text_column(op.link, calls), text_column(op.kind, calls)
    share = np.array([BUS_SHARE[link] for link in links.tolist()])
    own = np.asarray(links == "gpu", dtype=bool)
    reduces, sends = (np.asarray(kinds == kind, dtype=bool) for kind in ("all_reduce", "send_recv"))
    sent = np.where(sends, 1.0, np.where(reduces, 2.0, 1.0) * (gpus - 1) / gpus) * message
    path = sent / rate / share
    if capability(gpu.compute_capability).switch_adds:
        added = message / rate / ADDING_SHARE
        path = np.where(reduces & own & (gpus > UNSWITCHED_GPUS), np.minimum(path, added), path)
    device = capability(gpu.compute_capability).sync_share / gpu.boost_clock_hz
    steady = 1.0 / REFERENCE_CLOCK_HZ
    waits = _waits_s(op, setting, calls) * np.where(own, device / steady, 1.0)
    host = np.asarray(text_column(setting.timing, calls) == "host", dtype=bool)
    tick = np.where(host, steady * generation(gpu.generation).host_share, np.where(own, device, steady))
    kernels = renamed(setting.engine, ~reduces, LIBRARY)
    fixed = {
        "eager": column(_eager(setting.kernel).astype(np.float64), calls),
        **one_hot("engine", kernels, measured_engines(op.family), calls),
        "engine_exchange": (~reduces & ~_is_library(setting, calls)).astype(np.float64),
        **one_hot("kind", op.kind, tuple(LEAST_TRAFFIC), calls),
        **one_hot("link", op.link, SLOWER_LINKS, calls),
    }
    times = {"path_s": path, "waits_s": waits}
    return Terms(times, fixed, path + waits, collective_group(op, gpu, setting), tick_s=tick)


def _waits_s(op: Collective, setting: Setting, calls: int) -> Array:
    """Seconds in which GPUs of a group of more than two wait for each other, whatever the message."""
    around = np.array([RINGS.get(kind, 0.0) for kind in text_column(op.kind, calls).tolist()])
    fabric = np.asarray(text_column(op.link, calls) == "gpu", dtype=bool)
    step = np.where(fabric, np.where(_is_library(setting, calls), RING_STEP_S, ONE_SHOT_STEP_S), PCIE_STEP_S)
    return np.asarray(around * (column(op.n_gpus, calls) - 2) * step)


def _is_library(setting: Setting, calls: int) -> NDArray[np.bool_]:
    return np.asarray(text_column(setting.engine, calls) == LIBRARY, dtype=bool)


def collective_group(op: Collective, gpu: Gpu, setting: Setting) -> Text:
    """Terms.group."""
    eager = renamed("graph", _eager(setting.kernel), "eager")
    return group_names(len(op), setting.timing, _program(op, setting), eager, op.kind, _way(op))


def _program(op: Collective, setting: Setting) -> Text:
    """Whose kernels run: engines have none of their own but all-reduces, over PCIe of two GPUs, and call the library.

    TensorRT-LLM's exchange of experts' tokens is its own, and takes as long to launch as the library's.
    """
    if isinstance(op.kind, str) and isinstance(op.link, str) and np.ndim(op.n_gpus) == 0:
        own = op.kind == "all_reduce" and (op.link not in PCIE or op.n_gpus == 2)
        return setting.engine if own else LIBRARY
    crossing = np.isin(text_column(op.link, len(op)).astype(str), PCIE) & (column(op.n_gpus, len(op)) > 2)
    return renamed(setting.engine, crossing | (text_column(op.kind, len(op)) != "all_reduce"), LIBRARY)


def _way(op: Collective) -> Text:
    """The link of each call; over PCIe two GPUs tell nothing of more, whose messages leave the switch of a pair."""
    if not isinstance(op.link, str):
        table = {link: _way(replace(op, link=link)) for link in set(op.link.tolist())}
        columns = {link: text_column(way, len(op)) for link, way in table.items()}
        return np.array([columns[link][row] for row, link in enumerate(op.link.tolist())], dtype=object)
    if op.link not in PCIE:
        return op.link
    return renamed(op.link, np.asarray(op.n_gpus) == 2, op.link + "_pair")


def _eager(kernels: Text) -> np.ndarray[Any, Any]:
    """Whether a kernel is launched by itself, not from a graph."""
    return np.char.endswith(np.asarray(kernels).astype(str), "eager")
