"""Features of convolutions, seen as implicit matrix products."""

from __future__ import annotations

import numpy as np

from predictor.estimators.features.gemm import TILES
from predictor.estimators.features.terms import (
    Product,
    Setting,
    Terms,
    group_names,
    memory_time,
    one_hot,
    soft_max,
    tiled_time,
    timing_terms,
)
from predictor.hardware.gpu import Gpu
from predictor.hardware.power import free_flop_per_s, powered_flop_per_s
from predictor.ops import Conv
from predictor.ops.base import column
from predictor.ops.dtypes import Text, act_bytes


def conv_terms(op: Conv, gpu: Gpu, setting: Setting) -> Terms:
    """Padded time of the implicit product (pixels x taps) by (taps x out_channels), and memory."""
    calls = len(op)
    pixels = column(op.batch * op.out_size() ** 2, calls)
    groups = column(op.groups, calls)
    taps = column(op.kernel, calls) ** 2 * column(op.in_channels, calls) / groups
    outs = column(op.out_channels, calls) / groups
    rate = free_flop_per_s(op, gpu)
    moved = column(op.bytes_moved(), calls)
    element = column(act_bytes(op.dtype), calls)
    product = Product(pixels, outs, taps, groups, element)
    tiled = np.min([tiled_time(product, rate, gpu, tile) for tile in TILES], axis=0)
    memory = memory_time(moved, gpu, 0.5)
    unrolled = memory_time(pixels * taps * element, gpu, 0.5)
    powered = column(op.least_flops(), calls) / powered_flop_per_s(op, gpu)
    times = {
        "flop_s": column(op.least_flops(), calls) / rate,
        "tiled_s": tiled,
        "memory_s": memory,
        "power_s": powered,
        "unrolled_s": unrolled,
    }
    fixed = {
        "taps": taps,
        "outs": outs,
        "kernel": column(op.kernel, calls),
        "stride": column(op.stride, calls),
        **timing_terms(setting, calls),
        **one_hot("dtype", op.dtype, ("fp16", "bf16", "int8", "tf32"), calls),
        "winograd": column(np.char.find(np.asarray(setting.kernel).astype(str), "winograd") >= 0, calls),
    }
    return Terms(times, fixed, soft_max([np.maximum(tiled, powered), memory]), conv_group(op, gpu, setting))


def conv_group(op: Conv, gpu: Gpu, setting: Setting) -> Text:
    """Terms.group."""
    return group_names(len(op), setting.timing, op.dtype, setting.engine)
