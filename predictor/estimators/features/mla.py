"""Features of multi-head latent attention."""

from __future__ import annotations

from dataclasses import replace

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
    renamed,
    repeated_memory_time,
    soft_max,
)
from predictor.hardware.architectures import generation
from predictor.hardware.gpu import Gpu
from predictor.hardware.power import free_flop_per_s
from predictor.ops import Mla
from predictor.ops.base import column
from predictor.ops.dtypes import Array, Text, weight_bytes

KERNELS = ("native", "absorbed", "absorbed_triton", "triton", "legacy", "widened")
# Names of kernels, first match wins; any other name is the engine's choice. "native": written for latent attention
# (FlashMLA, FA3, TensorRT-LLM's on Hopper and Blackwell). "absorbed": prefill that attends to the latent, at 3.4 times
# the arithmetic. "legacy": TensorRT-LLM before Hopper, which does not split the keys of a sequence.
KERNEL_OF = {
    "prefill": (
        ("vllm_triton", "triton"),
        ("triton", "absorbed_triton"),
        ("vllm", "native"),
        ("flash_attention", "absorbed"),
        ("trtllm_mla", "native"),
    ),
    "decode": (
        ("triton", "triton"),
        ("vllm", "native"),
        ("flash_attention", "native"),
        ("trtllm_mla", "native"),
    ),
}
# Times the tensor time of a Hopper or Blackwell kernel: rows of 576 do not fit the registers and shared memory of older
# instructions. Decode on A100 and L40S and Triton's absorbed prefill reach a fifth of the peak, the others 0.55.
SPILLING = ("legacy", "absorbed_triton")
SPILL = 2.8
TRITON_CYCLES_PER_HEAD = 4_000.0  # per 128 of the latent: sums of its parts, fp32


def _kernels(op: Mla, gpu: Gpu, setting: Setting) -> Text:
    kernels = kernel_family(setting, gpu, KERNEL_OF[op.phase], op.estimator, len(op))
    if op.phase == "prefill":
        return kernels
    here = generation(gpu.generation).kernels_as or gpu.generation
    widens = of_engines(setting.engine, lambda own: here in own.widens_latent)
    return renamed(kernels, widens & (op.kv_dtype == "fp8") & (kernels == "native"), "widened")


def _rate(op: Mla, gpu: Gpu) -> Array:
    """FLOP/s of the arithmetic: few generations calculate in fp8 where the cache is fp8, and in decode only."""
    in_fp8 = op.phase == "decode" and generation(gpu.generation).fp8_latent
    return free_flop_per_s(op if in_fp8 else replace(op, kv_dtype=op.dtype), gpu)


def mla_terms(op: Mla, gpu: Gpu, setting: Setting) -> Terms:
    """Tile-padded tensor time, exponentials, latent traffic and the longest serial loop."""
    calls = len(op)
    batch, q_len, kv_len, heads = (column(x, calls) for x in (op.batch, op.q_len, op.kv_len, op.heads))
    decode, kernels = op.phase == "decode", _kernels(op, gpu, setting)
    latent = column(2 * op.kv_lora_rank + op.rope_dim, calls)
    to_latent = np.isin(kernels, ("absorbed", "absorbed_triton")) | decode
    width = np.where(to_latent, latent, column(op.key_dim + op.value_dim, calls))
    pairs = column(op.pairs(), calls)
    if decode:
        tile = np.where(kernels == "triton", 16.0, 64.0)
        padded = pairs * np.ceil(heads / tile) * tile / heads
        blocks = batch * np.ceil(heads / 64)
    else:
        padded = pairs + np.ceil(q_len / 128) * 128 * 64
        blocks = batch * heads * np.ceil(q_len / 128)
    spills = np.isin(kernels, SPILLING) | ((kernels == "triton") & decode)
    mma = 2.0 * batch * heads * width * padded / _rate(op, gpu) * np.where(spills, SPILL, 1.0)
    exp = batch * heads * padded / (exp_per_sm_cycle(gpu) * gpu.sms * gpu.boost_clock_hz)
    moved = column(op.bytes_moved(), calls)
    memory = repeated_memory_time(moved, gpu)
    serial = cycles(np.minimum(kv_len, np.maximum(256, kv_len * blocks / gpu.sms)) / 64 * 400, gpu)
    waves = cycles(np.ceil(blocks / gpu.sms) * 1000, gpu)
    work = [1.4 * mma, exp, 1.2 * memory]
    if decode:
        unsplit = kernels == "legacy"
        serial = np.where(unsplit, cycles(kv_len * latent * LEGACY_CYCLES_PER_ELEMENT, gpu), serial)
        per_head = TRITON_CYCLES_PER_HEAD * column(op.kv_lora_rank, calls) / 128
        heads_s = cycles(batch * heads / gpu.sms * per_head, gpu)
        waves = np.where(kernels == "triton", np.maximum(heads_s, waves), waves)
        work += [np.where(unsplit, serial, 0.0), waves]
    times = {
        "flop_s": column(op.flops(), calls) / _rate(op, gpu),
        "mma_s": mma,
        "exp_s": exp,
        "memory_s": memory,
        "dram_s": moved / gpu.mem_bytes_per_s,
        "serial_s": serial,
        "waves_s": waves,
    }
    fixed = {
        "heads": heads,
        "kv_bytes": column(weight_bytes(op.kv_dtype), calls),
        **one_hot("kernel", kernels, KERNELS, calls),
    }
    return Terms(times, fixed, soft_max(work), mla_group(op, gpu, setting))


def mla_group(op: Mla, gpu: Gpu, setting: Setting) -> Text:
    """Terms.group."""
    return group_names(len(op), setting.timing, _kernels(op, gpu, setting), op.kv_dtype)
