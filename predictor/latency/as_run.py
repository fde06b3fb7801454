"""A column of operator calls as an engine runs it: whose tables show its kernels, and what it leaves out or fuses."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from predictor.estimators.bundle import Bundle
from predictor.estimators.features import Setting
from predictor.estimators.operators import ALONE, BOUND_ONLY, OpPrediction, bounds, predict_op, predict_streamed
from predictor.estimators.rates import predict_by_rates
from predictor.hardware.architectures import generation
from predictor.hardware.gpu import Gpu
from predictor.hardware.power import free_flop_per_s, powered_flop_per_s
from predictor.hardware.siblings import architecture
from predictor.ops import Attention, Moe, Op
from predictor.ops.base import column, text_column
from predictor.workloads.engine_tables import COLLECTIVES, SERVES, operators_of, rates_of
from predictor.workloads.engines import engines

# fp32 products were measured by PyTorch from the host only (NeuSight): each with the launch that a stream hides.
HOST_TIMED = frozenset({("gemm", "fp32"), ("conv", "fp32")})
# Of graphs on other GPUs and networks than those that chose their share (predictor/learning/validation/graphs.py).
GRAPH_ENDS = (1.0, 0.55, 1.8)
WHOLE_SHARE = 0.72  # of the bandwidth, of experts that a step reads whole; see whole_experts in engines.toml


def predict_as_run(op: Op, gpu: Gpu, engine: str, bundle: Bundle) -> OpPrediction:
    """The calls of `op` as an engine runs them on a GPU; see predictor.estimators.operators.predict_op."""
    if isinstance(op, Attention):
        op = _less_idle_window(op, gpu, engine)
    if rates := rates_of(engine, gpu.vendor):
        return predict_by_rates(op, gpu, rates, bundle)
    if share := operators_of(engine).graph_share:
        return _in_graph(op, gpu, share, bundle)
    if {(op.family, dtype) for dtype in _dtypes(op)} & HOST_TIMED:
        return predict_streamed(op, gpu, bundle)
    setting = Setting(engine=measured_as(engine, op, gpu))
    predicted = _after_gap(predict_op(op, gpu, setting, bundle), generation(gpu.generation).gap_s)
    if isinstance(op, Attention) and op.phase == "decode" and (rate := operators_of(engine).headwise_elements):
        return _headwise(predicted, op, gpu, rate, operators_of(engine).grouped_decode)
    if isinstance(op, Moe) and _dtypes(op) & set(operators_of(engine).whole_experts.get(gpu.generation, ())):
        return _at_least(predicted, op.stored_of_all() / (WHOLE_SHARE * gpu.mem_bytes_per_s))
    return _less_quantising(predicted, op, gpu, setting, bundle) if _quantises_before(op, engine) else predicted


def _after_gap(predicted: OpPrediction, gap_s: float) -> OpPrediction:
    """With the time that passes before a kernel of a generation starts, which is as doubtful as the kernel."""
    value = predicted.latency_s + gap_s
    low, high = (value * end / predicted.latency_s for end in (predicted.low_s, predicted.high_s))
    return predicted._replace(latency_s=value, low_s=low, high_s=high) if gap_s else predicted


def _headwise(predicted: OpPrediction, op: Attention, gpu: Gpu, rate: float, grouped: Sequence[int]) -> OpPrediction:
    """Decode in which each query head reads the cache by itself, `rate` elements per cycle and SM, where no grouped
    kernel fits."""
    elements = 2.0 * column(op.batch, len(op)) * op.heads * op.head_dim * op.keys_read()
    alone_s = elements / (rate * gpu.sms * gpu.boost_clock_hz)
    return _at_least(predicted, np.where(np.isin(np.asarray(op.heads) / op.kv_heads, grouped), 0.0, alone_s))


def _at_least(predicted: OpPrediction, least_s: Any) -> OpPrediction:
    """As doubtful as before, and no shorter than these seconds."""
    value = np.maximum(predicted.latency_s, least_s)
    low, high = (value * end / predicted.latency_s for end in (predicted.low_s, predicted.high_s))
    return predicted._replace(latency_s=value, low_s=low, high_s=high)


def _less_idle_window(op: Attention, gpu: Gpu, engine: str) -> Attention:
    """Without a sliding window that holds all keys, which kernels leave out: FlashAttention where it holds the longest
    sequence, which in a captured step is that of the graph."""
    known = engines().get(engine)
    captured = known.graph_len if known and gpu.vendor == "NVIDIA" and op.phase == "decode" else 0
    return replace(op, window=np.where(np.asarray(op.window) >= np.maximum(op.kv_len, captured), 0.0, op.window))


def _in_graph(op: Op, gpu: Gpu, share: float, bundle: Bundle) -> OpPrediction:
    """An operator of a whole graph: at a share of the rate of its units, or what power leaves of it; what lies between
    two operators stays in the cache, to which a graph's batches can be cut, and weights come from memory."""
    bound, flops = bounds(op, gpu, bundle), column(op.flops(), len(op))
    computed_s = flops / np.minimum(share * free_flop_per_s(op, gpu), powered_flop_per_s(op, gpu))
    streamed_s = column(op.stored_bytes(), len(op)) / gpu.mem_bytes_per_s
    alone_s = np.maximum(computed_s, streamed_s)
    latency, low, high = (alone_s * end for end in GRAPH_ENDS)
    return bound._replace(
        latency_s=latency, low_s=low, high_s=high, bound_s=np.minimum(bound.bound_s, low), basis=BOUND_ONLY, beyond={}
    )


def _quantises_before(op: Op, engine: str) -> bool:
    """Whether the kernels before a product write its input quantised."""
    return op.family == "gemm" and not _dtypes(op).isdisjoint(operators_of(_tables_of(engine)).fuses_quantising)


def _less_quantising(predicted: OpPrediction, op: Op, gpu: Gpu, setting: Setting, bundle: Bundle) -> OpPrediction:
    """Without the kernel that quantises the input: what the smallest product takes longer than one in 16 bits."""
    half = "bf16" if "bf16" in gpu.peak_flop_per_s else "fp16"
    smallest = [op.smallest(), replace(op.smallest(), dtype=half)]  # type: ignore[call-arg]  # products have one
    narrow, wide = (float(np.ravel(predict_op(one, gpu, setting, bundle).latency_s)[0]) for one in smallest)
    value = np.maximum(predicted.latency_s - max(narrow - wide, 0.0), predicted.bound_s)
    low, high = (
        np.maximum(value * end / predicted.latency_s, predicted.bound_s) for end in (predicted.low_s, predicted.high_s)
    )
    return predicted._replace(latency_s=value, low_s=low, high_s=high)


def measured_as(engine: str, op: Op, gpu: Gpu) -> str:
    """The engine or library whose tables show what `engine` runs on a GPU; those of another stand in where its own do
    not."""
    if gpu.vendor in operators_of(engine).library.get(op.family, ()):
        return COLLECTIVES
    engine = _tables_of(engine)
    own, formats = operators_of(engine), _dtypes(op)
    for here in (architecture(gpu), gpu.generation):
        for dtype, other in own.stood_in_on.get(here, {}).get(op.family, {}).items():
            if dtype in formats:
                return other
    dtypes = own.stood_in.get(op.family)
    if dtypes is None or (dtypes and formats.isdisjoint(dtypes)):
        return engine
    return SERVES


def _tables_of(engine: str) -> str:
    """The engine whose tables show the operators of this one: its own, or those that it names."""
    known = engines().get(engine)
    return known.tables or engine if known else engine


def asked_engine(family: str, dtype: str) -> str:
    """The engine whose calls a request asks for that names none."""
    return str(ALONE.engine) if (family, dtype) in HOST_TIMED else SERVES


def _dtypes(op: Op) -> set[str]:
    return set(text_column(getattr(op, "dtype", ""), len(op)).tolist())
