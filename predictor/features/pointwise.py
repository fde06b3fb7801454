"""Features of ops that touch every element once."""

from __future__ import annotations

import numpy as np

from predictor.features.terms import Setting, Terms, cycles, group_names, memory_time, one_hot
from predictor.gpu import Gpu
from predictor.ops import Pointwise
from predictor.ops.base import column
from predictor.ops.dtypes import act_bytes
from predictor.ops.pointwise import KINDS
from predictor.roofline import peak_flop_per_s

ENGINES = ("vllm", "sglang", "trtllm", "torch")


def pointwise_terms(op: Pointwise, gpu: Gpu, setting: Setting) -> Terms:
    """Memory time with and without the cache, arithmetic, rows per SM."""
    calls = len(op)
    rows, cols = column(op.rows, calls), column(op.cols, calls)
    moved = column(op.bytes_moved(), calls)
    times = {
        "memory_s": memory_time(moved, gpu, 0.8),
        "dram_s": moved / gpu.mem_bytes_per_s,
        "flop_s": np.maximum(column(op.flops(), calls), 1.0) / peak_flop_per_s(op, gpu),
        "row_s": cycles(np.ceil(rows / gpu.sms) * 200, gpu),
        "column_s": cycles(cols, gpu),
    }
    fixed = {
        "cols": cols,
        "act_bytes": column(act_bytes(op.dtype), calls),
        "host": one_hot("timing", setting.timing, ("host",), calls)["timing_host"],
        **one_hot("engine", setting.engine, ENGINES, calls),
        **one_hot("kind", op.kind, tuple(KINDS), calls),
    }
    group = group_names(calls, setting.timing, op.kind, setting.engine)
    return Terms(times, fixed, 1.15 * times["memory_s"], group)
