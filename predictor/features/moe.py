"""Features of mixture-of-experts layers."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from predictor.features.terms import (
    Product,
    Setting,
    Terms,
    cycles,
    group_names,
    kernel_family,
    memory_time,
    one_hot,
    soft_max,
    tiled_time,
)
from predictor.gpu import Gpu
from predictor.ops import Moe
from predictor.ops.base import column
from predictor.ops.dtypes import act_bytes, weight_bytes
from predictor.roofline import peak_flop_per_s

ENGINES = ("vllm", "sglang", "trtllm", "aiter")
KERNELS = ("marlin", "deepgemm", "native", "untuned", "triton")
# The same kernel has many names; first match wins, and what matches none is Triton's fused_moe.
KERNEL_OF = (
    ("marlin", "marlin"),
    # Reaches a fifth of what other kernels reach on Hopper: grouped GEMMs that were never autotuned.
    ("modeloptfp8moe_flashinfer_cutlass", "untuned"),
    ("sglang_flashinfer_cutlass", "untuned"),
    ("cutlass", "native"),
    ("trtllm", "native"),
    ("deepgemm", "deepgemm"),
    ("deep_gemm", "deepgemm"),
    ("deepep", "deepgemm"),
    ("torch_flow", "native"),
    ("", "triton"),
)
# What an engine picks by itself on each generation; "" for all others.
DEFAULT_KERNEL: Mapping[str, Mapping[str, str]] = {
    "vllm": {"Blackwell": "native", "": "triton"},
    "sglang": {"Blackwell": "native", "": "triton"},
    "trtllm": {"": "native"},
    "aiter": {"": "triton"},
}
TILES = ((16, 128), (32, 128), (64, 128), (128, 128), (128, 256))


def moe_terms(op: Moe, gpu: Gpu, setting: Setting) -> Terms:
    """Grouped-GEMM tile time at the tokens each expert gets, weights touched, token shuffling."""
    calls = len(op)
    tokens, hidden, experts, topk, ep = (column(x, calls) for x in (op.tokens, op.hidden, op.experts, op.topk, op.ep))
    inter = column(op.inter, calls) / column(op.tp, calls)
    matrices = column(op.matrices, calls)
    rate = peak_flop_per_s(op, gpu)
    routed = column(op.routed_tokens(), calls)
    touched = column(op.experts_touched(), calls)
    per_expert = np.maximum(routed / touched, 1.0)
    element = column(act_bytes(op.dtype), calls)
    up = Product(per_expert, (matrices - 1) * inter, hidden, touched, element)
    down = Product(per_expert, hidden, inter, touched, element)
    tiled = [tiled_time(up, rate, gpu, tile) + tiled_time(down, rate, gpu, tile) for tile in TILES]
    weights = touched * matrices * hidden * inter * column(weight_bytes(op.dtype), calls)
    shuffled = routed * (2 * hidden * 2.0 + hidden * element + 2 * matrices * inter * 2.0)
    memory = memory_time(weights + shuffled, gpu, 0.3)
    loop = cycles((hidden + inter) * element / 128 * 100, gpu)
    times = {
        "flop_s": column(op.flops(), calls) / rate,
        "tiled_s": np.min(tiled, axis=0),
        "tile_128_s": tiled[3],
        "weights_s": weights / gpu.mem_bytes_per_s,
        "memory_s": memory,
        "shuffle_s": memory_time(shuffled, gpu, 0.5),
        "route_s": cycles(tokens * experts / gpu.sms, gpu),
        "loop_s": loop,
    }
    kernels = kernel_family(setting, gpu, KERNEL_OF, DEFAULT_KERNEL, calls)
    fixed = {
        "hidden": hidden,
        "inter": inter,
        "experts": experts,
        "topk": topk,
        "skew": column(op.skew, calls),
        "ep": ep,
        "act_bytes": element,
        "weight_bytes": column(weight_bytes(op.dtype), calls),
        **one_hot("kernel", kernels, KERNELS, calls),
        **one_hot("engine", setting.engine, ENGINES, calls),
        **one_hot("dtype", op.dtype, ("fp8_block", "int4_wo", "mxfp4_wo", "nvfp4"), calls),
    }
    work = soft_max([1.3 * times["tiled_s"], 1.2 * memory])
    return Terms(times, fixed, work, group_names(calls, setting.timing, setting.engine, kernels, op.dtype))
