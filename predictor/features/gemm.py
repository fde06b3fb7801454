"""Features of matrix multiplications."""

from __future__ import annotations

import numpy as np

from predictor.features.terms import Setting, Terms, cycles, memory_time, one_hot, soft_max, tiled_time
from predictor.gpu import Gpu
from predictor.ops import Gemm
from predictor.ops.base import column
from predictor.ops.dtypes import Array, act_bytes, weight_bytes
from predictor.roofline import peak_flop_per_s

ENGINES = ("vllm", "sglang", "trtllm", "torch", "aiter")
TILES = ((256, 128), (128, 256), (128, 128), (64, 128), (128, 64), (64, 64), (64, 256), (32, 64), (16, 64), (64, 32), (16, 128))
SPLITS = (1, 2, 4, 8, 16)
FLOOR_CYCLES = 12_000.0  # upper end of what is seen, so that the correction rises with size


def gemm_terms(op: Gemm, gpu: Gpu, setting: Setting) -> Terms:
    """Padded tensor time over tile shapes, memory time with and without L2, latency of the k loop."""
    calls = len(op)
    m, n, k, batch = (column(x, calls) for x in (op.m, op.n, op.k, op.batch))
    rate = peak_flop_per_s(op, gpu)
    moved = column(op.bytes_moved(), calls)
    tiled = {tile: tiled_time(m, n, k, batch, rate, gpu, tile) for tile in TILES}
    compute = np.min(list(tiled.values()), axis=0)
    split = np.min([_split_time(m, n, k, batch, rate, gpu, splits) for splits in SPLITS], axis=0)
    loop = cycles(k * column(act_bytes(op.dtype), calls) / 128 * 100, gpu)
    memory = memory_time(moved, gpu, 0.22)
    floor = cycles(np.full(calls, FLOOR_CYCLES), gpu)
    rising = {
        "flop_s": column(op.flops(), calls) / rate,
        "tiled_s": compute,
        "split_s": split,
        "tile_256x128_s": tiled[256, 128],
        "tile_128x128_s": tiled[128, 128],
        "tile_64x64_s": tiled[64, 64],
        "memory_s": memory,
        "dram_s": moved / gpu.mem_bytes_per_s,
        "loop_s": loop,
        "m": m,
        "n": n,
        "k": k,
        "batch": batch,
        "floor_s": floor,
    }
    fixed = {
        "act_bytes": column(act_bytes(op.dtype), calls),
        "weight_bytes": column(weight_bytes(op.dtype), calls),
        "host": one_hot("timing", setting.timing, ("host",), calls)["timing_host"],
        **one_hot("engine", setting.engine, ENGINES, calls),
        **one_hot("dtype", op.dtype, ("fp8", "fp8_block", "nvfp4", "int8", "fp32"), calls),
    }
    return Terms(rising, fixed, soft_max([1.2 * split, 1.2 * memory]) + floor)


def _split_time(m: Array, n: Array, k: Array, batch: Array, rate: Array, gpu: Gpu, splits: int) -> Array:
    """Best tile time when the contraction is cut in `splits` parts whose sums are added in fp32 afterwards."""
    parts = [tiled_time(m, n, np.maximum(k / splits, 64), batch * splits, rate, gpu, tile) for tile in TILES[2:]]
    partial_sums = 8.0 * (splits - 1) * batch * m * n
    return np.min(parts, axis=0) + partial_sums / (24.0 * gpu.sms * gpu.boost_clock_hz)
