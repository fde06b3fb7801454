"""Features of fused attention, prefill and decode."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from predictor.estimators.features.terms import (
    LEGACY_CYCLES_PER_ELEMENT,
    Setting,
    Terms,
    corrected,
    cycles,
    exp_per_sm_cycle,
    group_names,
    kernel_family,
    of_engines,
    one_hot,
    renamed,
    repeated_memory_time,
    soft_max,
)
from predictor.hardware.architectures import capability, generation
from predictor.hardware.gpu import Gpu
from predictor.hardware.power import free_flop_per_s, powered_flop_per_s
from predictor.hardware.siblings import architecture
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
# Tensor FLOP per SM and cycle that 16-bit mma.sync reaches where newer instructions would give more: 0.5 to 0.7 of the
# 8,192 of Blackwell, all of the 4,096 of Hopper; Triton reaches 7 to 12 % of them on B200.
MMA_SYNC_CAP = {"fa2": 4096.0, "flashinfer": 5700.0, "triton": 1024.0}
# Share of the rate that TensorRT-LLM's prefill reaches of its own where it has no kernels for the tensor core at hand:
# 1.55 to 1.69 of the nominal time on A100, L40S and RTX PRO 6000, 1.19 to 1.32 on H100 and B200.
OLDER_SHARE = 0.78
# … and of its 16-bit rate with an fp8 cache and a head_dim for which it has no fp8 kernel: 0.8 for 64, 0.57 for 256.
LACKING_SHARE = 0.65
# Times that the kernel before prefill moves queries, keys and values, TensorRT-LLM's (rotary embedding, cache), and
# queries alone, where others cast them for an fp8 cache.
PREPARED, CAST = 2.0, 1.0
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
# Launch of the kernel that casts queries where the cache is fp8: SGLang's (3.5 us on H100, 5 us on B200), FlashInfer's.
CAST_CYCLES = 7_500.0
PERSISTENT_BLOCK_CYCLES = 3_500.0  # … of its kernels for the tensor cores of 9.0 and 10.0, which take block after block
# FA2 of vLLM: an SM of A100 has room for two blocks, those of L40S and RTX PRO 6000 (6,500, 13,000 to 20,000) for one.
FA2_BLOCK_CYCLES = 14_000.0
# Times what a block per query head takes with an fp8 cache on Ada: 7,900 to 10,900 cycles on L40S.
SLOWED_BLOCKS = 3.2
# Cycles for each key of a thread block of Triton, more by head_dim: 9, 15, 21 and 36 per key of 64, 192, 256 and 512
# in a sequence that 8 blocks share, on H100, B200, L40S and RTX PRO 6000 alike.
TRITON_KEY_CYCLES, TRITON_KEY_CYCLES_PER_DIM = 40.0, 0.5


def _kernels(op: Attention, gpu: Gpu, setting: Setting) -> Text:
    """Canonical kernels; FlashInfer calls those of TensorRT-LLM where vLLM lets it and they exist."""
    kernels = kernel_family(setting, gpu, KERNEL_OF, op.family, len(op))
    passes = of_engines(setting.engine, lambda own: architecture(gpu) in own.flashinfer_passes_on)
    return renamed(kernels, passes & (kernels == "flashinfer"), "native")


def _kernel_rate(op: Attention, gpu: Gpu, kernels: Text) -> Array:
    """FLOP/s the kernel family could reach: in its own arithmetic, and capped on old tensor instructions."""
    cap = np.array([MMA_SYNC_CAP.get(kernel, np.inf) for kernel in np.ravel(kernels).tolist()])
    here = generation(gpu.generation)
    widens = np.isin(kernels, WIDENING) | ((kernels == "native") & here.widens_fp8_cache)
    rate = np.where(widens, _query_rate(op, gpu), free_flop_per_s(op, gpu))
    older = (kernels == "native") & (not capability(architecture(gpu)).native_decode)
    rate = rate * np.where(older, OLDER_SHARE, 1.0)
    if dims := capability(architecture(gpu)).fp8_head_dims:
        lacks = (kernels == "native") & (op.compute_dtype == "fp8") & ~np.isin(column(op.head_dim, len(op)), dims)
        plain = LACKING_SHARE * free_flop_per_s(replace(op, dtype="bf16", kv_dtype="bf16"), gpu)
        rate = np.where(lacks, np.minimum(rate, plain), rate)
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
    kernels = _kernels(op, gpu, setting)
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
    mma = 4.0 * batch * heads * _padded_dim(dim, kernels) * padded / rate
    exp = batch * heads * padded / (exp_per_sm_cycle(gpu) * gpu.sms * gpu.boost_clock_hz)
    paired = mma + EXPOSED * exp
    moved = column(op.bytes_moved(), calls)
    memory = repeated_memory_time(moved, corrected(gpu))
    # Prefill reaches 3 to 6 bytes per SM and cycle on all GPUs, whatever their memory; 8, what it could, is judged.
    feed = moved / (8.0 * gpu.sms * gpu.boost_clock_hz)
    packs = of_engines(setting.engine, lambda own: own.packs_heads)
    packed = np.isin(kernels, PACKING) | ((kernels == "fa2") & packs)
    kv_heads = column(op.kv_heads, calls)
    blocks = batch * np.where(packed, kv_heads * np.ceil(q_len * heads / kv_heads / 128), heads * tiles)
    # Of a block 0.6 does not depend on head_dim; judged, as 500 cycles for each 128 keys of one block are.
    waves, setup = _block_times(blocks, PREFILL_BLOCK_CYCLES * (0.6 + 0.4 * dim / 128), gpu)
    # Rows of queries that one SM multiplies with all keys; FA2 has no more with a paged cache.
    rows = np.where((q_len > 64) & (kernels != "fa2"), 128.0, 64.0)
    serial = reach / 128 * np.maximum(cycles(500, gpu), 4.0 * 128 * rows * dim / (rate / gpu.sms))
    powered = 4.0 * batch * heads * dim * pairs / powered_flop_per_s(op, gpu)
    prepared = _prepared_s(op, gpu, setting, kernels)
    times = {
        "flop_s": 4.0 * batch * heads * dim * pairs / rate,
        "mma_s": mma,
        "exp_s": exp,
        "pairs_s": paired,
        "memory_s": memory,
        "dram_s": moved / corrected(gpu).mem_bytes_per_s,
        "feed_s": feed,
        "waves_s": waves,
        "serial_s": serial,
        "power_s": powered,
        "prepared_s": prepared,
    }
    # 1.2 is what large GEMMs take over the time at the peak; judged, the slope is fitted on top.
    work = soft_max([np.maximum(1.2 * paired, powered), 1.2 * memory, feed, setup, serial]) + prepared
    return Terms(times, _fixed(op, setting, kernels), work, prefill_group(op, gpu, setting))


def _padded_dim(dim: Array, kernels: Text) -> Array:
    """head_dim of the tiles: Triton's are powers of two, others multiples of 32."""
    powers = 2.0 ** np.ceil(np.log2(dim))
    return np.asarray(np.where(kernels == "triton", powers, np.ceil(dim / 32) * 32))


def _prepared_s(op: Attention, gpu: Gpu, setting: Setting, kernels: Text) -> Array:
    """Seconds of kernels before prefill: they wait for memory and then for the SMs, which take 8 bytes per cycle."""
    tokens = column(op.batch, len(op)) * column(op.q_len, len(op)) * column(op.head_dim, len(op))
    queries, keys = tokens * column(op.heads, len(op)), tokens * column(op.kv_heads, len(op))
    whole = (kernels == "native") & of_engines(setting.engine, lambda own: own.groups_decode)
    casts = (op.kv_dtype == "fp8") & np.isin(kernels, ("fa3", "native"))
    moved = np.where(whole, PREPARED * (queries + 2.0 * keys), np.where(casts, CAST * queries, 0.0))
    moved = moved * column(act_bytes(op.dtype), len(op))
    return repeated_memory_time(moved, corrected(gpu)) + moved / (8.0 * gpu.sms * gpu.boost_clock_hz)


def prefill_group(op: Attention, gpu: Gpu, setting: Setting) -> Text:
    """Terms.group of prefill."""
    kernels = _kernels(op, gpu, setting)
    return group_names(len(op), setting.timing, kernels, setting.engine, op.kv_dtype)


def _head_wise(op: Attention, setting: Setting, kernels: Text) -> Any:
    """Whether every query head reads the cache by itself: TensorRT-LLM, where no grouped kernel fits."""
    grouped = (kernels == "native") & of_engines(setting.engine, lambda own: own.groups_decode)
    group_size = column(op.heads, len(op)) / column(op.kv_heads, len(op))
    return grouped & ((group_size == 1) | (group_size > WIDEST_GROUP))


def _fa2_blocks(dim: Array, gpu: Gpu) -> Array:
    """Thread blocks of FA2's decode that an SM has room for, 1 or 2: 64 queries and a tile of keys and values each.

    Width of the tile: flash_fwd_launch_template.h of FlashAttention.
    """
    keys = np.where(dim <= 64, 256, np.where(dim <= 128, 128, 64))
    return np.clip(gpu.smem_bytes_per_sm // ((64 + 2 * keys) * dim * 2.0), 1.0, 2.0)


def decode_terms(op: Attention, gpu: Gpu, setting: Setting) -> Terms:
    """Cache traffic with L2, element conversion, padded tensor time, thread blocks and the longest serial loop."""
    calls = len(op)
    batch, heads, kv_heads, dim = (column(x, calls) for x in (op.batch, op.heads, op.kv_heads, op.head_dim))
    kernels = _kernels(op, gpu, setting)
    keys = column(op.keys_read(), calls)
    moved = column(op.bytes_moved(), calls)
    memory = repeated_memory_time(moved, corrected(gpu))
    grouped = (kernels == "native") & of_engines(setting.engine, lambda own: own.groups_decode)
    group_size, window = heads / kv_heads, column(op.window, calls)
    head_wise = _head_wise(op, setting, kernels)
    packs = of_engines(setting.engine, lambda own: own.packs_heads)
    # FA2 takes the queries of a KV head together, and splits a sequence, where there are several and no window.
    apart = (kernels == "fa2") & ~np.asarray(packs) & ((group_size == 1) | (window > 0))
    readers = np.where(head_wise | apart, heads, kv_heads)
    elements = 2.0 * batch * readers * dim * keys
    # Elements that an SM widens and feeds per cycle: judged, above the 20 that the fastest kernels reach on B200.
    feed = elements / (32.0 * gpu.sms * gpu.boost_clock_hz)
    # Queries of one KV head share a tensor tile.
    fewest = np.where(np.isin(kernels, TALL), 64.0, 16.0)
    rows = np.where(apart, fewest * group_size, np.maximum(fewest, group_size * column(op.q_len, calls)))
    mma = 4.0 * batch * kv_heads * rows * dim * keys / _query_rate(op, gpu)
    # Judged: 4 FLOP for each element of up to 256 keys, 32 per cycle; 300 cycles for each 128 keys of a block that has
    # its share of all keys and at least 256.
    lone = cycles(2.0 * 2.0 * dim * np.minimum(keys, 256) / 32, gpu)  # one block alone cannot pull full bandwidth
    serial = cycles(np.minimum(keys, np.maximum(256, keys * batch * readers / gpu.sms)) / 128 * 300, gpu)
    splits = np.where(of_engines(setting.engine, lambda own: own.sixteen_splits), 16.0, 8.0)
    slow = cycles(keys / splits * (TRITON_KEY_CYCLES + TRITON_KEY_CYCLES_PER_DIM * dim), gpu)
    serial = np.where(kernels == "triton", np.maximum(serial, slow), serial)
    fp8 = op.kv_dtype == "fp8"
    whole = capability(architecture(gpu)).unsplit_fp8_cycles
    unsplit = np.where((head_wise & (group_size > 1)) | apart, LEGACY_CYCLES_PER_ELEMENT, 0.0)
    unsplit = np.where(grouped & fp8 & (group_size > 1), np.maximum(whole, unsplit), unsplit)
    serial = np.where(unsplit > 0, cycles(keys * 2 * dim * unsplit, gpu), serial)
    slowed = head_wise & fp8 & (not generation(gpu.generation).splits_fp8_cache)
    # Of a block one half does not depend on head_dim; judged.
    block = np.where(grouped, GROUPED_BLOCK_CYCLES, DECODE_BLOCK_CYCLES)
    persistent = (kernels == "native") & np.isin(op.kv_dtype, capability(architecture(gpu)).native_decode)
    block = np.where(persistent, PERSISTENT_BLOCK_CYCLES, block)
    block = np.where(head_wise, HEAD_WISE_BLOCK_CYCLES * np.where(slowed, SLOWED_BLOCKS, 1.0), block)
    block = block * (0.5 + 0.5 * dim / 128)
    block = np.where(kernels == "fa2", FA2_BLOCK_CYCLES / _fa2_blocks(dim, gpu), block)
    blocks, setup = _block_times(batch * readers, block, gpu)
    times = {
        "memory_s": memory,
        "dram_s": moved / corrected(gpu).mem_bytes_per_s,
        "feed_s": feed,
        "mma_s": mma,
        "serial_s": np.maximum(serial, lone),
        "blocks_s": blocks,
    }
    work = soft_max([1.2 * memory, feed, serial, setup, 2.0 * mma])
    casts = of_engines(setting.engine, lambda own: own.casts_queries) & np.isin(kernels, ("fa3", "native"))
    cast = np.where((casts | (kernels == "flashinfer")) & (op.kv_dtype == "fp8"), CAST_CYCLES, 0.0)
    return Terms(times, _fixed(op, setting, kernels), work, decode_group(op, gpu, setting), beside_cycles=cast)


def decode_group(op: Attention, gpu: Gpu, setting: Setting) -> Text:
    """Terms.group of decode."""
    kernels = _kernels(op, gpu, setting)
    head_wise = _head_wise(op, setting, kernels)
    named = np.where(head_wise, "head-wise", kernels) if head_wise.any() else kernels
    return group_names(len(op), setting.timing, named, setting.engine, op.kv_dtype)


def attention_terms(op: Attention, gpu: Gpu, setting: Setting) -> Terms:
    """The terms of either phase."""
    return prefill_terms(op, gpu, setting) if op.phase == "prefill" else decode_terms(op, gpu, setting)


def attention_group(op: Attention, gpu: Gpu, setting: Setting) -> Text:
    """Terms.group of either phase."""
    return prefill_group(op, gpu, setting) if op.phase == "prefill" else decode_group(op, gpu, setting)
