"""Features of matrix multiplications."""

from __future__ import annotations

import numpy as np

from predictor.estimators.features.terms import (
    Product,
    Setting,
    Terms,
    cycles,
    group_names,
    of_engines,
    one_hot,
    renamed,
    repeated_memory_time,
    soft_max,
    tiled_time,
    timing_terms,
)
from predictor.hardware.architectures import generation
from predictor.hardware.gpu import Gpu
from predictor.hardware.power import free_flop_per_s, powered_flop_per_s
from predictor.hardware.roofline import peak_flop_per_s
from predictor.ops import Gemm
from predictor.ops.base import column
from predictor.ops.dtypes import Array, Text, act_bytes, kernel_dtype, weight_bytes
from predictor.workloads.engine_tables import measured_engines

# Rows and columns of output tiles, of the shapes that CUTLASS and cuBLAS have kernels for.
TILES = (
    (256, 128),
    (128, 256),
    (128, 128),
    (64, 128),
    (128, 64),
    (64, 64),
    (64, 256),
    (32, 64),
    (16, 64),
    (64, 32),
    (16, 128),
)
PACKING = "_packing"  # behind the name of an engine that packs scales in every call
SPLITS = (1, 2, 4, 8, 16)  # parts of the contraction in split-K kernels; judged


def gemm_terms(op: Gemm, gpu: Gpu, setting: Setting) -> Terms:
    """Padded tensor time over tile shapes, memory time with and without L2, latency of the k loop."""
    calls = len(op)
    m, n, k, batch = (column(x, calls) for x in (op.m, op.n, op.k, op.batch))
    rate = free_flop_per_s(op, gpu)
    moved = column(op.bytes_moved(), calls)
    product = Product(m, n, k, batch, column(act_bytes(op.dtype), calls))
    tiled = {tile: tiled_time(product, rate, gpu, tile) for tile in TILES}
    compute = np.min(list(tiled.values()), axis=0)
    split = np.min([_split_time(product, rate, gpu, splits) for splits in SPLITS], axis=0)
    # A hundred cycles for each 128 bytes of k, however little there is to do: load, wait, multiply. Judged.
    loop = cycles(k * column(act_bytes(op.dtype), calls) / 128 * 100, gpu)
    # Benchmarks go through copies of the weights: on L40S they are found in L2 up to 0.22 of its size, where bf16 calls
    # fall from its rate to that of the memory; from 0.8 of it on all come at 0.8 of the memory's rate.
    warm = column(np.asarray(setting.timing == "warm", dtype=np.float64), calls)
    memory = repeated_memory_time(moved, gpu, np.where(warm > 0, 1.0, 0.22))
    powered = column(op.flops(), calls) / powered_flop_per_s(op, gpu)
    times = {
        "flop_s": column(op.flops(), calls) / peak_flop_per_s(op, gpu),
        "tiled_s": compute,
        "split_s": split,
        "tile_256x128_s": tiled[256, 128],
        "tile_128x128_s": tiled[128, 128],
        "tile_64x64_s": tiled[64, 64],
        "memory_s": memory,
        "dram_s": moved / gpu.mem_bytes_per_s,
        "weights_s": batch * n * k * column(weight_bytes(op.dtype), calls) / gpu.mem_bytes_per_s,
        "rows_s": batch * m * (k + n) * column(act_bytes(op.dtype), calls) / gpu.mem_bytes_per_s,
        "loop_s": loop,
        "power_s": powered,
    }
    fixed = {
        "n": n,
        "k": k,
        "batch": batch,
        "act_bytes": column(act_bytes(op.dtype), calls),
        "weight_bytes": column(weight_bytes(op.dtype), calls),
        **timing_terms(setting, calls),
        **one_hot("engine", _path(op, gpu, setting), measured_engines(op.family), calls),
        **one_hot("dtype", op.dtype, ("fp8", "fp8_block", "nvfp4", "int8", "fp32"), calls),
    }
    # Large bf16 calls take 1.1 times as long as their tiles at the free clock, those that memory limits 1.3 times as
    # long as their bytes (judged); the slope is fitted on top.
    return Terms(times, fixed, soft_max([np.maximum(1.1 * split, powered), 1.3 * memory]), gemm_group(op, gpu, setting))


def gemm_group(op: Gemm, gpu: Gpu, setting: Setting) -> Text:
    """Terms.group."""
    return group_names(len(op), setting.timing, kernel_dtype(op.dtype), _path(op, gpu, setting))


def _path(op: Gemm, gpu: Gpu, setting: Setting) -> Text:
    """Engine of each call; apart where it launches other kernels around the product.

    DeepGEMM on Blackwell wants its scales packed as powers of two, which SGLang does in every call.
    """
    if not generation(gpu.generation).packed_scales:
        return setting.engine
    packs = of_engines(setting.engine, lambda kernels: kernels.packs_scales) & (op.dtype == "fp8_block")
    return renamed(setting.engine, packs, setting.engine + PACKING)


def _split_time(product: Product, rate: Array, gpu: Gpu, splits: int) -> Array:
    """Best tile time when the contraction is cut in `splits` parts whose sums are added in fp32 afterwards."""
    # A part has at least one step of 64 of the k loop. 8 bytes: sums in fp32, written and read. 24 is CACHE_RATE.
    cut = product._replace(depth=np.maximum(product.depth / splits, 64), groups=product.groups * splits)
    parts = [tiled_time(cut, rate, gpu, tile) for tile in TILES[2:]]
    partial_sums = 8.0 * (splits - 1) * product.groups * product.rows * product.cols
    return np.asarray(np.min(parts, axis=0) + partial_sums / (24.0 * gpu.sms * gpu.boost_clock_hz))
