"""Operators of an engine whose kernels nobody timed one by one: from what they move and calculate, and the rates that
whole runs show (`Rates` of predictor.workloads.engine_tables).

A product of few tokens streams its weights, as fast as memory delivers or the SMs unpack them; one of many tokens runs
at a share of the fp16 rate, after quantised weights were widened where the backend does that. Attention is not fused:
its scores pass through memory in fp32.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from predictor.estimators.bundle import Bundle
from predictor.estimators.features import Setting
from predictor.estimators.operators import OpPrediction, predict_op
from predictor.hardware.gpu import Gpu
from predictor.hardware.power import limiter
from predictor.hardware.roofline import link_bytes_per_s, roofline, unit_rate
from predictor.ops import Attention, Collective, Gemm, Moe, Op
from predictor.ops.base import column, text_column
from predictor.ops.dtypes import GGUF, MLX, Array, kernel_dtype, weight_bytes
from predictor.workloads.engine_tables import OTHERS, SERVES, Rates

BY_RATES = "engine-rates"  # basis of such a prediction
FEW_TOKENS = 8  # MMVQ_MAX_BATCH_SIZE (ggml-cuda/mmvq.cuh): up to so many a product streams vectors
FP32_BYTES, HALF_BYTES = 4.0, 2.0
FP8 = ["fp8", "fp8_block"]


def predict_by_rates(op: Op, gpu: Gpu, rates: Rates, bundle: Bundle) -> OpPrediction:
    """Latency of every call of `op` on `gpu`; no less than its bound."""
    by_rates = _by_rates(op, gpu, rates)
    return _hop_or_message(by_rates, op, gpu, bundle) if isinstance(op, Collective) else by_rates


def _hop_or_message(hop: OpPrediction, op: Collective, gpu: Gpu, bundle: Bundle) -> OpPrediction:
    """What rates say of a batch that goes on to the next GPU.

    Messages among GPUs that share layers, which nobody timed, lie between those of other engines and such a hop, with
    an interval over both.
    """
    known = predict_op(op, gpu, Setting(engine=SERVES), bundle)
    hops = text_column(op.kind, len(op)) == "send_recv"
    between = np.sqrt(known.latency_s * np.maximum(hop.latency_s, known.latency_s))
    return hop._replace(
        latency_s=np.where(hops, hop.latency_s, between),
        low_s=np.where(hops, hop.low_s, known.low_s),
        high_s=np.where(hops, hop.high_s, np.maximum(hop.high_s, known.high_s)),
    )


def _by_rates(op: Op, gpu: Gpu, rates: Rates) -> OpPrediction:
    bound = roofline(op, gpu)
    least, calls = bound.latency_s, len(op)
    work, launch = column(seconds(op, gpu, rates), calls), _call_s(op, rates)
    latency = np.maximum(work + launch, least)
    doubts, prompt = rates.doubts_on(gpu.name), np.broadcast_to(_is_prompt(op), (calls,))
    few = np.where(_is_unpacked(op, gpu, rates), doubts["unpacked"], doubts["streamed"])
    doubt = np.where(prompt, doubts["prompt"], few)
    low = np.maximum(latency / (1 + doubt), least)
    # Weights that the cache might hold between two calls come from memory: a step passes all others in between.
    limits = np.where(prompt | (bound.link_s > 0), limiter(op, gpu, bound), "memory")
    limits = np.where(launch > work, "launch", limits)
    return OpPrediction(latency, low, latency * (1 + doubt), least, limits, BY_RATES)


class Product(NamedTuple):
    """`count` products of rows × columns each, of so many bytes of weights in all; each (n_calls,) or a number."""

    rows: Any
    columns: Any
    count: Any
    weights: Any
    flops: Any
    dtypes: Any


def seconds(op: Op, gpu: Gpu, rates: Rates) -> Any:
    """What the calls take beside their launches."""
    if isinstance(op, Collective):
        return op.link_bytes() / link_bytes_per_s(op, gpu)
    if isinstance(op, Attention):
        return _attention_s(op, gpu, rates)
    if isinstance(op, Gemm):
        product = Product(op.m, op.n, op.batch, op.stored_bytes(), op.flops(), text_column(op.dtype, len(op)))
        return _product_s(product, gpu, rates)
    if isinstance(op, Moe):
        weights = op.experts_touched() * op.matrices * op.hidden * op.inter / op.tp * weight_bytes(op.dtype)
        experts = op.experts_touched()
        dtypes = text_column(op.dtype, len(op))
        product = Product(op.routed_tokens() / experts, op.inter / op.tp, experts, weights, op.flops(), dtypes)
        return _product_s(product, gpu, rates)
    return op.bytes_moved() * FP32_BYTES / HALF_BYTES / _stream_bytes_per_s(gpu, rates)


def _call_s(op: Op, rates: Rates) -> Any:
    return rates.hop_s if isinstance(op, Collective) else rates.call_s


def _is_prompt(op: Op) -> Any:
    """Whether each call is of many tokens."""
    if isinstance(op, Attention):
        return op.phase == "prefill"
    tokens = {"gemm": "m", "moe": "tokens", "pointwise": "rows"}.get(op.family)
    return np.asarray(getattr(op, tokens) if tokens else 1.0) > FEW_TOKENS


def _stream_bytes_per_s(gpu: Gpu, rates: Rates) -> float:
    return rates.bandwidth * gpu.mem_bytes_per_s


def _sm_cycles_per_s(gpu: Gpu) -> float:
    return gpu.sms * gpu.boost_clock_hz


def _unpacked_bytes_per_s(dtypes: Any, gpu: Gpu, rates: Rates) -> Array:
    """Bytes of weights that all SMs take in products of few tokens."""
    known = {
        name: rates.bytes_per_sm_cycle.get(str(kernel_dtype(name)), rates.bytes_per_sm_cycle[OTHERS])
        for name in set(dtypes)
    }
    return np.array([known[name] for name in dtypes]) * _sm_cycles_per_s(gpu)


def _is_unpacked(op: Op, gpu: Gpu, rates: Rates) -> Any:
    """Whether the SMs, and not memory, limit each product of few tokens."""
    if not isinstance(op, Gemm | Moe):
        return False
    return _unpacked_bytes_per_s(text_column(op.dtype, len(op)), gpu, rates) < _stream_bytes_per_s(gpu, rates)


def _product_s(product: Product, gpu: Gpu, rates: Rates) -> Array:
    """Of products of few tokens or of many."""
    rows, _, _, weights, flops, dtypes = product
    quantised = np.isin(dtypes, list(GGUF | MLX))
    streamed = weights / np.minimum(_stream_bytes_per_s(gpu, rates), _unpacked_bytes_per_s(dtypes, gpu, rates))
    share = np.where(quantised, rates.quantised_product, rates.product)
    whole = flops / (share * _product_flop_per_s(dtypes, gpu) * _filled_share(product, gpu, rates))
    many = np.maximum(whole, weights / _stream_bytes_per_s(gpu, rates))
    if rates.widens:
        elements = weights / np.asarray(weight_bytes(dtypes))
        many = many + np.where(quantised, weights + elements * HALF_BYTES, 0.0) / _stream_bytes_per_s(gpu, rates)
    return np.asarray(np.where(np.asarray(rows) <= FEW_TOKENS, streamed, many))


def _filled_share(product: Product, gpu: Gpu, rates: Rates) -> Any:
    """Share of the tiles of whole waves that a product fills: SMs take a tile each, and the last wave is part-empty.

    Tiles of few rows are half as long.
    """
    side = np.where(np.asarray(product.rows) <= rates.tile / 2, rates.tile / 2, rates.tile)
    tiles = product.count * np.ceil(product.rows / side) * np.ceil(product.columns / side)
    waves = np.ceil(tiles / gpu.sms)
    return product.count * product.rows * product.columns / (waves * gpu.sms * side**2)


def _product_flop_per_s(dtypes: Any, gpu: Gpu) -> Any:
    """That of the units that multiply each format: those of 16 bits, or of fp8 where the GPU has them."""
    half = _fp16_flop_per_s(gpu)
    if "fp8" not in gpu.peak_flop_per_s:
        return half
    return np.where(np.isin(dtypes, FP8), unit_rate(gpu, "fp8"), half)


def _fp16_flop_per_s(gpu: Gpu) -> float:
    """The rate of fp16 accumulated in fp16, which cuBLAS is asked for (ggml-cuda.cu: CUBLAS_COMPUTE_16F), or of bf16
    where that is higher."""
    halves = [unit_rate(gpu, half) for half in ("fp16", "bf16") if gpu.runs(half)] or [gpu.peak("fp32")]
    return max(gpu.fp16_accumulate_flop_per_s, *halves)


def _attention_s(op: Attention, gpu: Gpu, rates: Rates) -> Any:
    """Decode reads the cache; a prompt's scores pass through memory, the masked ones too."""
    if op.phase == "decode":
        cached = 2.0 * op.batch * op.keys_read() * op.kv_heads * op.head_dim * weight_bytes(op.kv_dtype)
        taken = rates.cache_bytes_per_sm_cycle * _sm_cycles_per_s(gpu)
        return cached / min(_stream_bytes_per_s(gpu, rates), taken)
    pairs = op.batch * op.heads * op.q_len * op.keys_read()
    products = 4.0 * pairs * op.head_dim / (rates.product * _fp16_flop_per_s(gpu))
    return products + rates.score_passes * pairs * FP32_BYTES / _stream_bytes_per_s(gpu, rates)
