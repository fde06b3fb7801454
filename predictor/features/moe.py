"""Features of mixture-of-experts layers."""

from __future__ import annotations

import numpy as np

from predictor.features.terms import Setting, Terms, cycles, memory_time, one_hot, soft_max, tiled_time
from predictor.gpu import Gpu
from predictor.ops import Moe
from predictor.ops.base import column
from predictor.ops.dtypes import Array, act_bytes, weight_bytes
from predictor.roofline import peak_flop_per_s

ENGINES = ("vllm", "sglang", "trtllm", "aiter")
TILES = ((16, 128), (32, 128), (64, 128), (128, 128), (128, 256))


def touched_share(experts: Array, topk: Array, tokens: Array, skew: Array) -> Array:
    """Expected share of experts that `tokens` tokens touch when popularity falls as rank^-skew, (n_calls,).

    1 - (1 - p)^tokens per expert with p = min(1, topk * popularity); even popularity when skew is 0.
    """
    share = np.ones(len(tokens))
    keys = np.stack([experts, topk, skew], axis=1)
    for key in np.unique(keys, axis=0):
        rows = np.flatnonzero((keys == key).all(axis=1))
        count, chosen, exponent = int(key[0]), key[1], key[2]
        popularity = np.arange(1, count + 1, dtype=np.float64) ** -exponent
        visit = np.minimum(1.0, chosen * popularity / popularity.sum())
        several, back = np.unique(tokens[rows], return_inverse=True)
        missed = np.exp(np.outer(several, np.log1p(-np.minimum(visit, 1 - 1e-12))))
        share[rows] = (1 - missed.mean(axis=1))[back]
    return share


def moe_terms(op: Moe, gpu: Gpu, setting: Setting) -> Terms:
    """Grouped-GEMM tile time at the tokens each expert gets, weights touched, token shuffling."""
    calls = len(op)
    tokens, hidden, experts, topk, ep = (column(x, calls) for x in (op.tokens, op.hidden, op.experts, op.topk, op.ep))
    inter = column(op.inter, calls) / column(op.tp, calls)
    matrices = column(op.matrices, calls)
    rate = peak_flop_per_s(op, gpu)
    local = experts / ep
    routed = column(op.routed_tokens(), calls)
    touched = np.maximum(local * touched_share(experts, topk, tokens, column(op.skew, calls)), np.minimum(1.0, routed))
    per_expert = np.maximum(routed / touched, 1.0)
    up = [tiled_time(per_expert, (matrices - 1) * inter, hidden, touched, rate, gpu, tile) for tile in TILES]
    down = [tiled_time(per_expert, hidden, inter, touched, rate, gpu, tile) for tile in TILES]
    tiled = np.min(np.array(up) + np.array(down), axis=0)
    weights = touched * matrices * hidden * inter * column(weight_bytes(op.dtype), calls)
    shuffled = routed * (2 * hidden * 2.0 + hidden * column(act_bytes(op.dtype), calls) + 2 * matrices * inter * 2.0)
    memory = memory_time(weights + shuffled, gpu, 0.3)
    floor = cycles(np.full(calls, 80_000.0), gpu)
    loop = cycles((hidden + inter) * column(act_bytes(op.dtype), calls) / 128 * 100, gpu)
    rising = {
        "flop_s": column(op.flops(), calls) / rate,
        "tiled_s": tiled,
        "tile_128_s": np.asarray(up[3] + down[3]),
        "weights_s": weights / gpu.mem_bytes_per_s,
        "memory_s": memory,
        "shuffle_s": memory_time(shuffled, gpu, 0.5),
        "route_s": cycles(tokens * experts / gpu.sms, gpu),
        "loop_s": loop,
        "tokens": tokens,
        "per_expert": per_expert,
        "touched": touched,
        "hidden": hidden,
        "inter": inter,
        "floor_s": floor,
    }
    fixed = {
        "experts": experts,
        "topk": topk,
        "skew": column(op.skew, calls),
        "ep": ep,
        "act_bytes": column(act_bytes(op.dtype), calls),
        "weight_bytes": column(weight_bytes(op.dtype), calls),
        **one_hot("engine", setting.engine, ENGINES, calls),
        **one_hot("dtype", op.dtype, ("fp8_block", "int4_wo", "mxfp4_wo", "nvfp4"), calls),
    }
    return Terms(rising, fixed, soft_max([1.3 * tiled, 1.2 * memory]) + floor)
