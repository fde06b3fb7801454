"""Features of multi-head latent attention."""

from __future__ import annotations

from dataclasses import replace

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
from predictor.hardware.architectures import generation
from predictor.hardware.gpu import Gpu
from predictor.hardware.power import free_flop_per_s
from predictor.hardware.siblings import architecture
from predictor.ops import Mla
from predictor.ops.base import column
from predictor.ops.dtypes import Array, Text, weight_bytes

KERNELS = ("native", "absorbed", "absorbed_triton", "triton", "legacy", "widened", "xqa")
# Names of kernels, first match wins; any other name is the engine's choice. "native": written for latent attention
# (FlashMLA, FA3, TensorRT-LLM's on Hopper and Blackwell). "absorbed": prefill that attends to the latent, at 3.4 times
# the arithmetic. "legacy": TensorRT-LLM where it has nothing better, which does not split the keys of a sequence.
# "xqa": its kernel for GeForce and RTX PRO of Blackwell, which does not either.
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
# An fp8 cache that PyTorch widens whole in every step: SM cycles per element (H100 and H200 alike), and of launches.
WIDENED_CYCLES_PER_ELEMENT = 0.95
WIDENED_CYCLES = 10_000.0
CAST_BYTES = 3.0  # that are moved for each element: 16 bits become 8
XQA_HEADS = 128
XQA_SMS = 4.0  # that work on a sequence: RTX PRO 6000 takes equally long for 1 to 32 sequences, twice that for 64


def _kernels(op: Mla, gpu: Gpu, setting: Setting) -> Text:
    kernels = kernel_family(setting, gpu, KERNEL_OF[op.phase], op.estimator, len(op))
    if op.phase == "prefill":
        return kernels
    here, fp8 = generation(gpu.generation).kernels_as or gpu.generation, op.kv_dtype == "fp8"
    widens = of_engines(setting.engine, lambda own: here in own.widens_latent)
    has_xqa = of_engines(setting.engine, lambda own: architecture(gpu) in own.latent_fp8)
    named = renamed(kernels, has_xqa & fp8 & (kernels == "legacy") & (op.heads == XQA_HEADS), "xqa")
    return renamed(named, widens & fp8 & (kernels == "native"), "widened")


def _rate(op: Mla, gpu: Gpu, kernels: Text) -> Array:
    """FLOP/s of the arithmetic: few generations calculate in fp8 where the cache is fp8, and in prefill few kernels."""
    plain = free_flop_per_s(replace(op, kv_dtype=op.dtype), gpu)
    if op.phase == "decode":
        return free_flop_per_s(op, gpu) if generation(gpu.generation).fp8_latent else plain
    if not generation(gpu.generation).fp8_latent_prefill:
        return plain
    return np.where(kernels == "native", free_flop_per_s(op, gpu), plain)


def _prepared_s(op: Mla, gpu: Gpu, kernels: Text) -> Array:
    """Seconds in which native prefill waits for memory before it multiplies: its operands, and before them the kernel
    that casts queries, keys and values to fp8."""
    tokens, queries, keys = (column(x, len(op)) for x in (op.batch * op.heads, op.q_len, op.kv_len))
    elements = tokens * (queries * op.key_dim + keys * (op.key_dim + op.value_dim))
    casts = (op.kv_dtype == "fp8") & generation(gpu.generation).fp8_latent_prefill
    moved = column(op.bytes_moved(), len(op)) + np.where(casts, CAST_BYTES * elements, 0.0)
    return np.where(kernels == "native", repeated_memory_time(moved, corrected(gpu)), 0.0)


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
    rate = _rate(op, gpu, kernels)
    spills = np.isin(kernels, SPILLING) | ((kernels == "triton") & decode)
    mma = 2.0 * batch * heads * width * padded / rate * np.where(spills, SPILL, 1.0)
    exp = batch * heads * padded / (exp_per_sm_cycle(gpu) * gpu.sms * gpu.boost_clock_hz)
    widens = kernels == "widened"
    moved = column(op.bytes_moved(), calls)
    memory = repeated_memory_time(moved, corrected(gpu))
    serial = cycles(np.minimum(kv_len, np.maximum(256, kv_len * blocks / gpu.sms)) / 64 * 400, gpu)
    waves = cycles(np.ceil(blocks / gpu.sms) * 1000, gpu)
    work = [1.4 * mma, exp, 1.2 * memory]
    if decode:
        unsplit = kernels == "legacy"
        serial = np.where(unsplit, cycles(kv_len * latent * LEGACY_CYCLES_PER_ELEMENT, gpu), serial)
        serial = np.where(kernels == "xqa", mma / batch * gpu.sms / XQA_SMS, serial)
        elements = batch * kv_len * column(op.kv_lora_rank + op.rope_dim, calls)
        serial = np.where(widens, cycles(elements / gpu.sms * WIDENED_CYCLES_PER_ELEMENT, gpu), serial)
        per_head = TRITON_CYCLES_PER_HEAD * column(op.kv_lora_rank, calls) / 128
        heads_s = cycles(batch * heads / gpu.sms * per_head, gpu)
        waves = np.where(kernels == "triton", np.maximum(heads_s, waves), waves)
        work += [np.where(unsplit | widens | (kernels == "xqa"), serial, 0.0), waves]
    times = {
        "flop_s": column(op.flops(), calls) / rate,
        "mma_s": mma,
        "exp_s": exp,
        "memory_s": memory,
        "dram_s": moved / corrected(gpu).mem_bytes_per_s,
        "serial_s": serial,
        "waves_s": waves,
    }
    fixed = {
        "heads": heads,
        "kv_bytes": column(weight_bytes(op.kv_dtype), calls),
        **one_hot("kernel", kernels, KERNELS, calls),
    }
    whole = soft_max(work)
    if not decode:
        times["prepared_s"] = _prepared_s(op, gpu, kernels)
        whole = whole + times["prepared_s"]
    beside = np.where(widens, WIDENED_CYCLES, 0.0)
    return Terms(times, fixed, whole, mla_group(op, gpu, setting), beside_cycles=beside)


def mla_group(op: Mla, gpu: Gpu, setting: Setting) -> Text:
    """Terms.group."""
    return group_names(len(op), setting.timing, _kernels(op, gpu, setting), op.kv_dtype)
