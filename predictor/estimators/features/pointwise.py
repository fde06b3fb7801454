"""Features of ops that touch every element once."""

from __future__ import annotations

import numpy as np

from predictor.estimators.features.terms import (
    Setting,
    Terms,
    cycles,
    group_names,
    one_hot,
    repeated_memory_time,
    soft_max,
    timing_terms,
)
from predictor.hardware.gpu import Gpu
from predictor.hardware.roofline import peak_flop_per_s
from predictor.ops import Pointwise
from predictor.ops.base import column, text_column
from predictor.ops.dtypes import Array, Text, act_bytes
from predictor.ops.pointwise import KINDS
from predictor.workloads.engine_tables import measured_engines, operators_of

# Bytes per SM and cycle that the kernel of a kind takes where memory is no limit, unless engines.toml has another rate:
# reductions, gathers and conversions are bound by instructions. Within a quarter the same on A100, H100 and B200
# (large calls, median).
BYTES_PER_SM_CYCLE = {
    "rms_norm": 4.4,
    "compute_scale": 5.0,
    "rope": 5.8,
    "layer_norm": 6.0,
    "silu_mul": 7.0,
    "softmax": 8.0,
    "gelu": 10.0,
}
OTHER_BYTES_PER_SM_CYCLE = 16.0


def pointwise_terms(op: Pointwise, gpu: Gpu, setting: Setting) -> Terms:
    """Memory time with and without the cache, arithmetic, rows per SM."""
    calls = len(op)
    rows, cols = column(op.rows, calls), column(op.cols, calls)
    moved = column(op.bytes_moved(), calls)
    rate = _issue_rates(setting.engine, op.kind, calls)
    times = {
        "memory_s": repeated_memory_time(moved, gpu),
        "issue_s": moved / (rate * gpu.sms * gpu.boost_clock_hz),
        "dram_s": moved / gpu.mem_bytes_per_s,
        "flop_s": np.maximum(column(op.flops(), calls), 1.0) / peak_flop_per_s(op, gpu),
        "row_s": cycles(np.ceil(rows / gpu.sms) * 200, gpu),
        "column_s": cycles(cols, gpu),
    }
    fixed = {
        "cols": cols,
        "act_bytes": column(act_bytes(op.dtype), calls),
        **timing_terms(setting, calls),
        **one_hot("engine", setting.engine, measured_engines(op.family), calls),
        **one_hot("kind", op.kind, tuple(KINDS), calls),
    }
    work = soft_max([1.15 * times["memory_s"], times["issue_s"]], power=2.0)
    return Terms(times, fixed, work, pointwise_group(op, gpu, setting))


def pointwise_group(op: Pointwise, gpu: Gpu, setting: Setting) -> Text:
    """Terms.group."""
    return group_names(len(op), setting.timing, setting.engine, op.kind)


def _issue_rates(engines: Text, kinds: Text, calls: int) -> Array | float:
    """Bytes per SM and cycle of each call: one number where all have one engine and kind."""
    if isinstance(engines, str) and isinstance(kinds, str):
        return _issue_rate(engines, kinds)
    who = list(zip(text_column(engines, calls).tolist(), text_column(kinds, calls).tolist(), strict=True))
    rates = {pair: _issue_rate(*pair) for pair in set(who)}
    return np.array([rates[pair] for pair in who])


def _issue_rate(engine: str, kind: str) -> float:
    everyone = BYTES_PER_SM_CYCLE.get(kind, OTHER_BYTES_PER_SM_CYCLE)
    return operators_of(engine).bytes_per_sm_cycle.get(kind, everyone)
