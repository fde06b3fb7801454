"""Features of fused attention, prefill and decode."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from predictor.features.terms import Setting, Terms, cycles, group_names, kernel_family, memory_time, one_hot, soft_max
from predictor.gpu import Gpu
from predictor.ops import Attention
from predictor.ops.base import column
from predictor.ops.dtypes import Array, act_bytes, weight_bytes
from predictor.roofline import peak_flop_per_s

ENGINES = ("vllm", "sglang", "trtllm")
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
# What an engine picks by itself, by generation (vLLM 0.24, SGLang 0.5.14, TensorRT-LLM 1.3 as measured).
DEFAULT_KERNEL: Mapping[str, Mapping[str, str]] = {
    "vllm": {"Hopper": "fa3", "Blackwell": "native", "": "fa2"},
    "sglang": {"Hopper": "fa3", "Blackwell": "native", "": "flashinfer"},
    "trtllm": {"": "native"},
}
# Tensor FLOP per SM and cycle that 16-bit mma.sync reaches where newer instructions would give more.
MMA_SYNC_CAP = {"fa2": 4096.0, "flashinfer": 4096.0, "triton": 1024.0}
# Special-function unit, compute capability 5.0 to 12.0 (CUDA programming guide); Blackwell Ultra has twice as many
# (NVIDIA, Inside NVIDIA Blackwell Ultra, 2025).
EXP_PER_SM_CYCLE = {"10.3": 32.0, "": 16.0}


def _kernel_rate(op: Attention, gpu: Gpu, kernels: np.ndarray[Any, Any]) -> Array:
    """FLOP/s the kernel family could reach: kernels on old tensor instructions are capped per SM and cycle."""
    cap = np.array([MMA_SYNC_CAP.get(kernel, np.inf) for kernel in kernels.tolist()])
    return np.minimum(peak_flop_per_s(op, gpu), cap * gpu.sms * gpu.clock_hz)


def _fixed(op: Attention, setting: Setting, kernels: np.ndarray[Any, Any]) -> dict[str, Array]:
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
        **one_hot("engine", setting.engine, ENGINES, calls),
        **one_hot("kernel", kernels, KERNELS, calls),
    }


def prefill_terms(op: Attention, gpu: Gpu, setting: Setting) -> Terms:
    """Tile-padded tensor time, exponentials, shared-memory traffic, memory, waves and the longest serial loop."""
    calls = len(op)
    batch, q_len, kv_len, heads, dim = (
        column(x, calls) for x in (op.batch, op.q_len, op.kv_len, op.heads, op.head_dim)
    )
    kernels = kernel_family(setting, gpu, KERNEL_OF, DEFAULT_KERNEL, calls)
    rate = _kernel_rate(op, gpu, kernels)
    pairs = column(op.pairs(), calls)
    tiles = np.ceil(q_len / 128)
    reach = np.minimum(kv_len, np.where(column(op.window, calls) > 0, op.window + 128.0, np.inf))
    # A causal mask skips whole 128-wide blocks only: half a block per row of tiles is computed and thrown away.
    padded = np.maximum(
        pairs + tiles * 128 * 64, np.minimum(tiles * 128, np.maximum(q_len, 64)) * np.minimum(reach, 64)
    )
    mma = 4.0 * batch * heads * dim * padded / rate
    exp_rate = EXP_PER_SM_CYCLE.get(gpu.compute_capability, EXP_PER_SM_CYCLE[""])
    exp = batch * heads * padded / (exp_rate * gpu.sms * gpu.boost_clock_hz)
    moved = column(op.bytes_moved(), calls)
    memory = memory_time(moved, gpu, 1.0)
    feed = moved / (8.0 * gpu.sms * gpu.boost_clock_hz)
    waves = cycles(np.ceil(batch * heads * tiles / gpu.sms) * 1000, gpu)
    serial = cycles(reach / 128 * 500, gpu)
    times = {
        "flop_s": column(op.flops(), calls) / rate,
        "mma_s": mma,
        "exp_s": exp,
        "memory_s": memory,
        "dram_s": moved / gpu.mem_bytes_per_s,
        "feed_s": feed,
        "waves_s": waves,
        "serial_s": serial,
    }
    work = soft_max([1.3 * mma, 1.5 * exp, 1.2 * memory, feed])
    group = group_names(calls, setting.timing, kernels, setting.engine, op.kv_dtype)
    return Terms(times, _fixed(op, setting, kernels), work, group)


def decode_terms(op: Attention, gpu: Gpu, setting: Setting) -> Terms:
    """Cache traffic with L2, element conversion, padded tensor time, thread blocks and the longest serial loop."""
    calls = len(op)
    batch, heads, kv_heads, dim = (column(x, calls) for x in (op.batch, op.heads, op.kv_heads, op.head_dim))
    kernels = kernel_family(setting, gpu, KERNEL_OF, DEFAULT_KERNEL, calls)
    rate = _kernel_rate(op, gpu, kernels)
    keys = column(op.keys_read(), calls)
    moved = column(op.bytes_moved(), calls)
    memory = memory_time(moved, gpu, 1.0)
    elements = 2.0 * batch * kv_heads * dim * keys
    feed = elements / (32.0 * gpu.sms * gpu.boost_clock_hz)
    # Queries of one KV head share a tensor tile of at least 16 rows.
    mma = 4.0 * batch * kv_heads * np.maximum(16, heads / kv_heads * column(op.q_len, calls)) * dim * keys / rate
    lone = cycles(2.0 * 2.0 * dim * np.minimum(keys, 256) / 32, gpu)  # one block alone cannot pull full bandwidth
    serial = cycles(np.minimum(keys, np.maximum(256, keys * batch * kv_heads / gpu.sms)) / 128 * 300, gpu)
    blocks = cycles(np.ceil(batch * kv_heads / gpu.sms) * 1000, gpu)
    times = {
        "memory_s": memory,
        "dram_s": moved / gpu.mem_bytes_per_s,
        "feed_s": feed,
        "mma_s": mma,
        "serial_s": np.maximum(serial, lone),
        "blocks_s": blocks,
    }
    work = soft_max([1.2 * memory, feed, serial])
    group = group_names(calls, setting.timing, kernels, setting.engine, op.kv_dtype)
    return Terms(times, _fixed(op, setting, kernels), work, group)


def attention_terms(op: Attention, gpu: Gpu, setting: Setting) -> Terms:
    """The terms of either phase."""
    return prefill_terms(op, gpu, setting) if op.phase == "prefill" else decode_terms(op, gpu, setting)
