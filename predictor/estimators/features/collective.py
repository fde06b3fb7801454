"""Features of communication between GPUs."""

from __future__ import annotations

import numpy as np

from predictor.estimators.features.terms import Setting, Terms, group_names, one_hot
from predictor.hardware.gpu import Gpu
from predictor.hardware.roofline import link_bytes_per_s
from predictor.ops import Collective
from predictor.ops.base import column, text_column
from predictor.ops.collective import LEAST_TRAFFIC
from predictor.workloads.engine_tables import measured_engines


def collective_terms(op: Collective, gpu: Gpu, setting: Setting) -> Terms:
    """Ring and one-shot traffic over the link, the number of synchronised steps, local memory traffic."""
    calls = len(op)
    message, gpus = column(op.message_bytes, calls), column(op.n_gpus, calls)
    rate = link_bytes_per_s(op, gpu)
    twice = np.where(text_column(op.kind, calls) == "all_reduce", 2.0, 1.0)
    ring = twice * (gpus - 1) / gpus * message / rate
    kernels = text_column(setting.kernel, calls).astype(str)
    times = {
        "least_s": column(op.link_bytes(), calls) / rate,
        "ring_s": ring,
        "one_shot_s": (gpus - 1) * message / rate,
        "ring_steps_s": twice * (gpus - 1) * 1e-6,
        "local_s": message / gpu.mem_bytes_per_s,
    }
    fixed = {
        "n_gpus": gpus,
        "eager": np.char.endswith(kernels, "eager").astype(np.float64),
        **one_hot("engine", setting.engine, measured_engines(op.family), calls),
        **one_hot("kind", op.kind, tuple(LEAST_TRAFFIC), calls),
    }
    eager = np.where(fixed["eager"] > 0, "eager", "graph").astype(object)
    return Terms(times, fixed, ring, group_names(calls, setting.timing, setting.engine, eager, op.kind))
