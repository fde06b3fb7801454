"""Features of fused attention, prefill and decode."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from predictor.estimators.features.terms import (
    LEGACY_CYCLES_PER_ELEMENT,
    Setting,
    Terms,
    cycles,
    exp_per_sm_cycle,
    group_names,
    kernel_family,
    of_engines,
    one_hot,
    repeated_memory_time,
    soft_max,
)
from predictor.hardware.architectures import generation
from predictor.hardware.gpu import Gpu
from predictor.hardware.power import free_flop_per_s, powered_flop_per_s
from predictor.ops import Attention
from predictor.ops.base import column
from predictor.ops.dtypes import Array, Text, act_bytes, weight_bytes
from predictor.workloads.engine_tables import measured_engines

KERNELS = ("fa2", "fa3", "fa4", "flashinfer", "triton", "native")
# The same kernel has many names; first match wins.
KERNEL_OF = (
    ("fa4", "fa4"),
    ("attention_v4", "fa4"),
    ("fa3", "fa3"),
    ("attention_v3", "fa3"),
    ("fa2", "fa2"),
    ("triton", "triton"),
    ("flow_flashinfer", "flashinfer"),
    ("trtllm", "native"),
    ("flashinfer", "flashinfer"),
    ("flash", "fa2"),
    ("torch_flow", "native"),
)
# Tensor FLOP per SM and cycle that 16-bit mma.sync reaches where newer instructions would give more: half of the 8,192
# of Blackwell, which is all that Hopper has; Triton reaches 7 to 12 % of them on B200.
MMA_SYNC_CAP = {"fa2": 4096.0, "flashinfer": 4096.0, "triton": 1024.0}
# Kernels that widen an fp8 cache and calculate in the dtype of the query; on some generations "native" ones do too.
WIDENING = ("fa2", "flashinfer", "triton")
# Share of the exponentials that the tensor products do not hide (Shah et al., FlashAttention-3, arXiv:2407.08608, 3.1).
EXPOSED = 0.5
# Prefill kernels that put the queries of all heads of a KV head into one thread block.
PACKING = ("fa3", "flashinfer")
# Decode kernels whose tensor tile has at least 64 rows of queries (FlashAttention's kBlockM); the others have 16
# (mma.sync m16n8k16, PTX ISA).
TALL = ("fa2", "fa3", "fa4")
# Cycles an SM spends on a thread block of head_dim 128 that has next to nothing to do: the same on A100, H100, B200 and
# L40S within a factor of two (median over kernels, batch x heads of 4,096 and more, at most 64 keys).
PREFILL_BLOCK_CYCLES = 7_000.0
DECODE_BLOCK_CYCLES = 5_000.0
GROUPED_BLOCK_CYCLES = 9_300.0  # TensorRT-LLM, one block per KV head
HEAD_WISE_BLOCK_CYCLES = 2_800.0  # … and one per query head, where the group is 1 or above WIDEST_GROUP
WIDEST_GROUP = 32


def _kernel_rate(op: Attention, gpu: Gpu, kernels: Text) -> Array:
    """FLOP/s the kernel family could reach: in its own arithmetic, and capped on old tensor instructions."""
    cap = np.array([MMA_SYNC_CAP.get(kernel, np.inf) for kernel in np.ravel(kernels).tolist()])
    here = generation(gpu.generation)
    widens = np.isin(kernels, WIDENING) | ((kernels == "native") & here.widens_fp8_cache)
    rate = np.where(widens, _query_rate(op, gpu), free_flop_per_s(op, gpu))
    if here.fp8_head_dims:
        lacks = (kernels == "native") & ~np.isin(column(op.head_dim, len(op)), here.fp8_head_dims)
        rate = np.where(lacks, np.minimum(rate, free_flop_per_s(replace(op, dtype="bf16", kv_dtype="bf16"), gpu)), rate)
    return np.minimum(rate, cap * gpu.sms * gpu.clock_hz)


def _query_rate(op: Attention, gpu: Gpu) -> Array:
    """Dense arithmetic peak in the dtype of the query, whatever the cache holds."""
    return free_flop_per_s(replace(op, kv_dtype=op.dtype), gpu)


def _block_times(blocks: Array, block: Array, gpu: Gpu) -> tuple[Array, Array]:
    """Seconds of whole waves of thread blocks of `block` cycles, and of all blocks beyond the first of each SM."""
    return cycles(np.ceil(blocks / gpu.sms) * block, gpu), cycles(np.maximum(blocks / gpu.sms - 1, 0) * block, gpu)


def _fixed(op: Attention, setting: Setting, kernels: Text) -> dict[str, Array]:
    calls = len(op)
    return {
        "head_dim": column(op.head_dim, calls),
        "heads": column(op.heads, calls),
        "kv_heads": column(op.kv_heads, calls),
        "group": column(op.heads, calls) / column(op.kv_heads, calls),
        "window": np.log1p(column(op.window, calls)),
        "causal": column(op.causal, calls),
        "act_bytes": column(act_bytes(op.dtype), calls),
        "kv_bytes": column(weight_bytes(op.kv_dtype), calls),
        **one_hot("engine", setting.engine, measured_engines(op.family), calls),
        **one_hot("kernel", kernels, KERNELS, calls),
    }


def prefill_terms(op: Attention, gpu: Gpu, setting: Setting) -> Terms:
    """Tile-padded tensor time, exponentials, shared-memory traffic, memory, waves and the longest serial loop."""
    calls = len(op)
    batch, q_len, kv_len, heads, dim = (
        column(x, calls) for x in (op.batch, op.q_len, op.kv_len, op.heads, op.head_dim)
    )
    kernels = kernel_family(setting, gpu, KERNEL_OF, op.family, calls)
    rate = _kernel_rate(op, gpu, kernels)
    # SGLang's Triton kernel masks a sliding window but walks over every key: a window of 128 in more than 8k keys saves
    # it 0.1 to 0.2 of the time, and its siblings 0.7 to 0.9.
    walks = of_engines(setting.engine, lambda own: own.walks_windows)
    window = np.where(walks & (kernels == "triton"), 0, column(op.window, calls))
    pairs = column(replace(op, window=window.astype(np.int64)).pairs(), calls)
    tiles = np.ceil(q_len / 128)
    reach = np.minimum(kv_len, np.where(window > 0, window + 128.0, np.inf))
    # A causal mask skips whole 128-wide blocks only: half a block per row of tiles is computed and thrown away.
    padded = np.maximum(
        pairs + tiles * 128 * 64, np.minimum(tiles * 128, np.maximum(q_len, 64)) * np.minimum(reach, 64)
    )
    mma = 4.0 * batch * heads * dim * padded / rate
    exp = batch * heads * padded / (exp_per_sm_cycle(gpu) * gpu.sms * gpu.boost_clock_hz)
    paired = mma + EXPOSED * exp
    moved = column(op.bytes_moved(), calls)
    memory = repeated_memory_time(moved, gpu)
    # Prefill reaches 3 to 6 bytes per SM and cycle on all GPUs, whatever their memory; 8, what it could, is judged.
    feed = moved / (8.0 * gpu.sms * gpu.boost_clock_hz)
    packs = of_engines(setting.engine, lambda own: own.packs_heads)
    packed = np.isin(kernels, PACKING) | ((kernels == "fa2") & packs)
    kv_heads = column(op.kv_heads, calls)
    blocks = batch * np.where(packed, kv_heads * np.ceil(q_len * heads / kv_heads / 128), heads * tiles)
    # Of a block 0.6 does not depend on head_dim; judged, as 500 cycles for each 128 keys of one block are.
    waves, setup = _block_times(blocks, PREFILL_BLOCK_CYCLES * (0.6 + 0.4 * dim / 128), gpu)
    serial = cycles(reach / 128 * 500, gpu)
    powered = 4.0 * batch * heads * dim * pairs / powered_flop_per_s(op, gpu)
    times = {
        "flop_s": 4.0 * batch * heads * dim * pairs / rate,
        "mma_s": mma,
        "exp_s": exp,
        "pairs_s": paired,
        "memory_s": memory,
        "dram_s": moved / gpu.mem_bytes_per_s,
        "feed_s": feed,
        "waves_s": waves,
        "serial_s": serial,
        "power_s": powered,
    }
    # 1.2 is what large GEMMs take over the time at the peak; judged, the slope is fitted on top.
    work = soft_max([np.maximum(1.2 * paired, powered), 1.2 * memory, feed, setup])
    return Terms(times, _fixed(op, setting, kernels), work, prefill_group(op, gpu, setting))


def prefill_group(op: Attention, gpu: Gpu, setting: Setting) -> Text:
    """Terms.group of prefill."""
    kernels = kernel_family(setting, gpu, KERNEL_OF, op.family, len(op))
    return group_names(len(op), setting.timing, kernels, setting.engine, op.kv_dtype)


def _head_wise(op: Attention, setting: Setting, kernels: Text) -> Any:
    """Whether every query head reads the cache by itself: TensorRT-LLM, where no grouped kernel fits."""
    grouped = (kernels == "native") & of_engines(setting.engine, lambda own: own.groups_decode)
    group_size = column(op.heads, len(op)) / column(op.kv_heads, len(op))
    return grouped & ((group_size == 1) | (group_size > WIDEST_GROUP))


def decode_terms(op: Attention, gpu: Gpu, setting: Setting) -> Terms:
    """Cache traffic with L2, element conversion, padded tensor time, thread blocks and the longest serial loop."""
    calls = len(op)
    batch, heads, kv_heads, dim = (column(x, calls) for x in (op.batch, op.heads, op.kv_heads, op.head_dim))
    kernels = kernel_family(setting, gpu, KERNEL_OF, op.family, calls)
    keys = column(op.keys_read(), calls)
    moved = column(op.bytes_moved(), calls)
    memory = repeated_memory_time(moved, gpu)
    grouped = (kernels == "native") & of_engines(setting.engine, lambda own: own.groups_decode)
    group_size = heads / kv_heads
    head_wise = _head_wise(op, setting, kernels)
    readers = np.where(head_wise, heads, kv_heads)
    elements = 2.0 * batch * readers * dim * keys
    # Elements that an SM widens and feeds per cycle: judged, above the 20 that the fastest kernels reach on B200.
    feed = elements / (32.0 * gpu.sms * gpu.boost_clock_hz)
    # Queries of one KV head share a tensor tile.
    fewest = np.where(np.isin(kernels, TALL), 64.0, 16.0)
    rows = np.maximum(fewest, group_size * column(op.q_len, calls))
    mma = 4.0 * batch * kv_heads * rows * dim * keys / _query_rate(op, gpu)
    # Judged: 4 FLOP for each element of up to 256 keys, 32 per cycle; 300 cycles for each 128 keys of a block that has
    # its share of all keys and at least 256.
    lone = cycles(2.0 * 2.0 * dim * np.minimum(keys, 256) / 32, gpu)  # one block alone cannot pull full bandwidth
    serial = cycles(np.minimum(keys, np.maximum(256, keys * batch * readers / gpu.sms)) / 128 * 300, gpu)
    whole = not generation(gpu.generation).splits_fp8_cache
    unsplit = grouped & whole & (op.kv_dtype == "fp8")
    serial = np.where(unsplit, cycles(keys * 2 * dim * LEGACY_CYCLES_PER_ELEMENT, gpu), serial)
    # Of a block one half does not depend on head_dim; judged.
    block = np.where(grouped, GROUPED_BLOCK_CYCLES, DECODE_BLOCK_CYCLES)
    block = np.where(head_wise, HEAD_WISE_BLOCK_CYCLES, block) * (0.5 + 0.5 * dim / 128)
    blocks, setup = _block_times(batch * readers, block, gpu)
    times = {
        "memory_s": memory,
        "dram_s": moved / gpu.mem_bytes_per_s,
        "feed_s": feed,
        "mma_s": mma,
        "serial_s": np.maximum(serial, lone),
        "blocks_s": blocks,
    }
    work = soft_max([1.2 * memory, feed, serial, setup, 2.0 * mma])
    return Terms(times, _fixed(op, setting, kernels), work, decode_group(op, gpu, setting))


def decode_group(op: Attention, gpu: Gpu, setting: Setting) -> Text:
    """Terms.group of decode."""
    kernels = kernel_family(setting, gpu, KERNEL_OF, op.family, len(op))
    head_wise = _head_wise(op, setting, kernels)
    named = np.where(head_wise, "head-wise", kernels) if head_wise.any() else kernels
    return group_names(len(op), setting.timing, named, setting.engine, op.kv_dtype)


def attention_terms(op: Attention, gpu: Gpu, setting: Setting) -> Terms:
    """The terms of either phase."""
    return prefill_terms(op, gpu, setting) if op.phase == "prefill" else decode_terms(op, gpu, setting)


def attention_group(op: Attention, gpu: Gpu, setting: Setting) -> Text:
    """Terms.group of either phase."""
    return prefill_group(op, gpu, setting) if op.phase == "prefill" else decode_group(op, gpu, setting)
