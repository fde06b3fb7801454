"""Features of multi-head latent attention."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from predictor.features.terms import (
    Setting,
    Terms,
    cycles,
    group_names,
    kernel_family,
    one_hot,
    repeated_memory_time,
    soft_max,
)
from predictor.gpu import Gpu
from predictor.ops import Mla
from predictor.ops.base import column
from predictor.ops.dtypes import weight_bytes
from predictor.roofline import peak_flop_per_s

KERNELS = ("native", "absorbed", "triton")
# Kernels written for latent attention (FlashMLA, FA3, TensorRT-LLM's) against Triton's; first match wins. SGLang's
# "flash_attention" and "triton" attend to the latent in prefill too, at 3.4 times the arithmetic.
KERNEL_OF = (
    ("vllm_triton", "triton"),
    ("triton", "absorbed"),
    ("vllm", "native"),
    ("flash_attention", "absorbed"),
    ("", "native"),
)
# What an engine picks by itself, by generation; "" for all others.
DEFAULT_KERNEL: Mapping[str, Mapping[str, str]] = {
    "vllm": {"Hopper": "native", "Blackwell": "native", "": "triton"},
    "sglang": {"Blackwell": "native", "": "absorbed"},
    "trtllm": {"": "native"},
}


def mla_terms(op: Mla, gpu: Gpu, setting: Setting) -> Terms:
    """Tile-padded tensor time, exponentials, latent traffic and the longest serial loop."""
    calls = len(op)
    batch, q_len, kv_len, heads = (column(x, calls) for x in (op.batch, op.q_len, op.kv_len, op.heads))
    rate = peak_flop_per_s(op, gpu)
    kernels = kernel_family(setting, gpu, KERNEL_OF, DEFAULT_KERNEL, calls)
    absorbed = (kernels == "absorbed").astype(np.float64)
    latent = column(2 * op.kv_lora_rank + op.rope_dim, calls)
    width = np.where(absorbed > 0, latent, column(op.key_dim + op.value_dim, calls))
    pairs = column(op.pairs(), calls)
    rows = heads if op.phase == "decode" else np.full(calls, 128.0)
    tile_rows = np.ceil(rows / 64) * 64 / rows if op.phase == "decode" else np.ones(calls)
    padded = pairs * tile_rows + (np.ceil(q_len / 128) * 128 * 64 if op.phase == "prefill" else 0.0)
    mma = 2.0 * batch * heads * width * padded / rate
    exp = batch * heads * padded / (16.0 * gpu.sms * gpu.boost_clock_hz)
    moved = column(op.bytes_moved(), calls)
    memory = repeated_memory_time(moved, gpu)
    blocks = batch * heads * np.ceil(q_len / 128) if op.phase == "prefill" else batch * np.ceil(heads / 64)
    serial = cycles(np.minimum(kv_len, np.maximum(256, kv_len * blocks / gpu.sms)) / 64 * 400, gpu)
    times = {
        "flop_s": column(op.flops(), calls) / rate,
        "mma_s": mma,
        "exp_s": exp,
        "memory_s": memory,
        "dram_s": moved / gpu.mem_bytes_per_s,
        "serial_s": serial,
        "waves_s": cycles(np.ceil(blocks / gpu.sms) * 1000, gpu),
    }
    fixed = {
        "heads": heads,
        "kv_bytes": column(weight_bytes(op.kv_dtype), calls),
        **one_hot("kernel", kernels, KERNELS, calls),
    }
    work = soft_max([1.4 * mma, exp, 1.2 * memory])
    return Terms(times, fixed, work, group_names(calls, setting.timing, kernels, op.kv_dtype))
