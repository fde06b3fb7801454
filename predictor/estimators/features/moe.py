"""Features of mixture-of-experts layers."""

from __future__ import annotations

import numpy as np

from predictor.estimators.features.terms import (
    Product,
    Setting,
    Terms,
    corrected,
    cycles,
    group_names,
    kernel_family,
    memory_time,
    of_engines,
    one_hot,
    renamed,
    scaling_time,
    soft_max,
    tiled_time,
)
from predictor.hardware.architectures import generation
from predictor.hardware.gpu import Gpu
from predictor.hardware.power import free_flop_per_s, powered_flop_per_s
from predictor.hardware.siblings import architecture
from predictor.ops import Moe
from predictor.ops.base import column
from predictor.ops.dtypes import Array, Text, act_bytes, kernel_dtype, weight_bytes
from predictor.workloads.engine_tables import measured_engines

KERNELS = ("marlin", "deepgemm", "native", "untuned", "triton", "ogs")
# The same kernel has many names; first match wins, and what matches none is Triton's fused_moe.
KERNEL_OF = (
    ("marlin", "marlin"),
    ("modeloptfp8moe_flashinfer_cutlass", "flashinfer"),
    ("sglang_flashinfer_cutlass", "flashinfer"),
    ("cutlass", "native"),
    ("trtllm", "native"),
    ("deepgemm", "deepgemm"),
    ("deep_gemm", "deepgemm"),
    ("deepep", "deepgemm"),
    ("torch_flow", "native"),
    ("oaitriton", "ogs"),
    ("", "triton"),
)
# Tensor FLOP of an SM per cycle with the instructions of Ampere, all that Marlin uses: its large calls reach 840 to 980
# on A100, H100 and B200 alike.
AMPERE_FLOP_PER_SM_CYCLE = 2048.0
# Of the rates that other kernels reach, of arithmetic and of memory, what grouped GEMMs reach that nobody tuned.
UNTUNED_SHARE = 0.28
# Launches that sort tokens by expert, activate and sum, where they are kernels of their own: calls of next to no work
# take 15 to 20 us on B200 without, 25 to 40 us with them, there and on H100.
SORTING_CYCLES = 20_000.0
# Kernels that write and sum the rows of all experts, zeros for those of other GPUs: 85 bytes per row and hidden of 12k
# on an H100 that holds one of 256 experts.
WRITES_ALL_ROWS = ("triton", "marlin")
# Rows and columns of output tiles: BLOCK_SIZE_M of Triton's fused_moe is 16 to 128 (configurations of vLLM).
TILES = ((16, 128), (32, 128), (64, 128), (128, 128), (128, 256))


def _kernels(op: Moe, gpu: Gpu, setting: Setting) -> Text:
    """Canonical kernels; FlashInfer's of CUTLASS are TensorRT-LLM's, but for Hopper nobody tuned them.

    Where none is named, experts in MXFP4 may have other kernels than others.
    """
    kernels = kernel_family(setting, gpu, KERNEL_OF, op.estimator, len(op))
    here = generation(gpu.generation).kernels_as or gpu.generation
    openai = of_engines(setting.engine, lambda own: here in own.ogs_experts)
    if np.any(openai):
        unnamed = np.asarray(setting.kernel) == ""
        kernels = renamed(kernels, openai & unnamed & (np.asarray(op.dtype) == "mxfp4_wo"), "ogs")
    untuned = generation(gpu.generation).untuned_experts
    return renamed(kernels, kernels == "flashinfer", "untuned" if untuned else "native")


def _stored_bytes(op: Moe, setting: Setting, kernels: Text) -> Array:
    """Bytes per weight that a call reads; SGLang's Triton kernel has MXFP4 widened to 16 bits when it loads a model."""
    calls = len(op)
    widens = of_engines(setting.engine, lambda own: own.widens_mxfp4)
    widened = (kernels == "triton") & widens & (op.dtype == "mxfp4_wo")
    return np.where(widened, 2.0, column(weight_bytes(op.dtype), calls))


def moe_terms(op: Moe, gpu: Gpu, setting: Setting) -> Terms:
    """Grouped-GEMM tile time at the tokens each expert gets, weights touched, token shuffling."""
    calls = len(op)
    tokens, hidden, experts, topk, ep = (column(x, calls) for x in (op.tokens, op.hidden, op.experts, op.topk, op.ep))
    inter = column(op.inter, calls) / column(op.tp, calls)
    matrices = column(op.matrices, calls)
    kernels = _kernels(op, gpu, setting)
    cap = np.where(kernels == "marlin", AMPERE_FLOP_PER_SM_CYCLE * gpu.sms * gpu.boost_clock_hz, np.inf)
    tuned = np.where(kernels == "untuned", UNTUNED_SHARE, 1.0)
    rate = np.minimum(free_flop_per_s(op, gpu), cap) * tuned
    routed = column(op.busiest_tokens(), calls)
    touched = column(op.experts_touched(), calls)
    per_expert = np.maximum(routed / touched, 1.0)
    element = column(act_bytes(op.dtype), calls)
    up = Product(per_expert, (matrices - 1) * inter, hidden, touched, element)
    down = Product(per_expert, hidden, inter, touched, element)
    scaled = scaling_time(up, op.dtype, gpu) + scaling_time(down, op.dtype, gpu)
    tiled = [tiled_time(up, rate, gpu, tile) + tiled_time(down, rate, gpu, tile) + scaled for tile in TILES]
    stored = _stored_bytes(op, setting, kernels)
    weights = touched * matrices * hidden * inter * stored
    # Bytes of a row, 16 bits each: both GEMMs write and the next kernel reads.
    passes = 2 * hidden * 2.0 + 2 * matrices * inter * 2.0
    local = routed * (passes + hidden * element)
    every = np.where(
        np.isin(kernels, WRITES_ALL_ROWS), tokens * topk * passes, local + tokens * hidden * (2.0 + element)
    )
    # Rows between the expert GEMMs are found in up to half of the cache, weights in up to 0.3 of it: judged on L40S.
    shuffled = memory_time(np.maximum(local, every), corrected(gpu), 0.5)
    memory = memory_time(weights, corrected(gpu), 0.3) / tuned + shuffled
    # As of GEMM: a hundred cycles for each 128 bytes of the contraction; judged, as one cycle per token and expert is.
    loop = cycles((hidden + inter) * element / 128 * 100, gpu)
    powered = column(op.flops(), calls) / powered_flop_per_s(op, gpu)
    times = {
        "flop_s": column(op.flops(), calls) / rate,
        "tiled_s": np.min(tiled, axis=0),
        "tile_128_s": tiled[3],
        "weights_s": weights / corrected(gpu).mem_bytes_per_s,
        "memory_s": memory,
        "shuffle_s": shuffled,
        "route_s": cycles(tokens * experts / gpu.sms, gpu),
        "loop_s": loop,
        "power_s": powered,
    }
    fixed = {
        "hidden": hidden,
        "inter": inter,
        "experts": experts,
        "topk": topk,
        "skew": column(op.skew, calls),
        "ep": ep,
        "act_bytes": element,
        "weight_bytes": stored,
        **one_hot("kernel", kernels, KERNELS, calls),
        **one_hot("engine", setting.engine, measured_engines(op.family), calls),
        **one_hot("dtype", kernel_dtype(op.dtype), ("fp8_block", "int4_wo", "mxfp4_wo", "nvfp4"), calls),
    }
    # What large calls take over the ideal time of each; judged, the slope is fitted on top.
    work = soft_max([np.maximum(1.3 * times["tiled_s"], powered), 1.2 * memory])
    fused = of_engines(setting.engine, lambda own: architecture(gpu) in own.fused_experts) & (kernels == "native")
    beside = np.where(fused, 0.0, SORTING_CYCLES)
    return Terms(times, fixed, work, moe_group(op, gpu, setting), beside_cycles=beside)


def moe_group(op: Moe, gpu: Gpu, setting: Setting) -> Text:
    """Terms.group."""
    kernels = _kernels(op, gpu, setting)
    return group_names(len(op), setting.timing, kernels, setting.engine, kernel_dtype(op.dtype))
