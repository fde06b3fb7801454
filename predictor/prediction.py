"""The main path: a workload is a list of ops; on a GPU each op has a bound; a bundle's estimators say what share of
that bound is reached; the sum is a report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np

from predictor.bundle import Bundle, load_bundle
from predictor.cost import usd_per_hour
from predictor.engines import Engine, engines, get_engine
from predictor.features import Setting
from predictor.gpu import Gpu
from predictor.guard import dtype_outside, gpu_outside, nearest, outside, widened
from predictor.interval import ends, sum_of
from predictor.memory import memory
from predictor.ops import Collective, Op
from predictor.ops.base import stack, text_column
from predictor.ops.dtypes import Array
from predictor.report import Interval, OpLine, Report, doubted
from predictor.roofline import roofline
from predictor.topology import DOUBT, between_nodes_s, within_node
from predictor.workloads.base import OpCall
from predictor.workloads.workload import Workload

SEEN, UNSEEN, BOUND_ONLY = "seen-gpu", "unseen-gpu", "bound-only"
DECODE_POINTS = 5  # cached lengths at which a decode step is predicted; between them it is near linear
# Operator tables that do not show what the engine runs in serving; vLLM's stand in. TensorRT-LLM's fp8 and nvfp4 GEMMs
# were timed without the checkpoint's input scale, so each first searches the largest input: 7 us more than vLLM's on
# H100, H200, B200 and L40S alike. Pointwise kernels of SGLang were not measured.
STAND_IN = "vllm"
STOOD_IN = frozenset({("trtllm", "gemm", "fp8"), ("trtllm", "gemm", "nvfp4"), ("sglang", "pointwise", "")})
# fp32 products were measured by PyTorch from the host only (NeuSight): each with the launch that a stream hides.
HOST_TIMED = frozenset({("gemm", "fp32"), ("conv", "fp32")})
ALONE = Setting(engine="torch", timing="host")
HOST_DOUBT = 0.25  # share by which the host times of another server may differ
Phase = tuple[str, Sequence[OpCall]]  # its name and what one step of it runs
SLOWEST_OF_BOUND = 20.0  # upper end of "bound-only": no family's median call is further from its bound


class OpPrediction(NamedTuple):
    """A column of calls. latency_s, low_s, high_s, bound_s: (n_calls,) seconds; limiter: (n_calls,) names.

    low_s never beats the bound. basis: "seen-gpu", "unseen-gpu" or "bound-only" (no estimator for this op).
    beyond: op field → (n_calls,) nats by which it lies outside what was measured; the interval of such a call is wider.
    """

    latency_s: Array
    low_s: Array
    high_s: Array
    bound_s: Array
    limiter: np.ndarray[Any, Any]
    basis: str
    beyond: Mapping[str, Array] = MappingProxyType({})

    @property
    def outside(self) -> tuple[str, ...]:
        """Op fields of some call beyond what was measured."""
        return tuple(self.beyond)


def predict_op(op: Op, gpu: Gpu, setting: Setting | None = None, bundle: Bundle | None = None) -> OpPrediction:
    """Latency of every call of `op` on `gpu`; the only place where a bound meets an estimator.

    setting: engine, kernel and timing, by default vLLM's choice timed on the device. bundle: the default one.
    """
    bundle = bundle or load_bundle()
    bound = roofline(op, gpu)
    least = bound.latency_s
    if not bundle.has(op.estimator):
        known = least + bound.floor_s
        return OpPrediction(known, least, known * SLOWEST_OF_BOUND, least, bound.limiter, BOUND_ONLY)
    entry, kinship = bundle.entry(op.estimator), bundle.kinship(op.estimator, gpu)
    estimator = bundle.estimator(op.estimator)
    latency = np.maximum(estimator.latency_s(op, gpu, setting or Setting()), least)
    dtypes = text_column(getattr(op, "dtype", ""), len(op))
    low, high = ends(latency, least, dtypes, entry["log_offsets"][kinship])
    beyond = outside(op, entry["ranges"], least)
    if (strange := dtype_outside(op, estimator.references)).any():
        beyond["dtype"] = strange
    far = np.sum([*beyond.values(), np.zeros(len(op))], axis=0) + gpu_outside(gpu, entry["references"])
    low, high = widened(low, high, least, far, entry["worst_share"])
    basis = SEEN if kinship == "seen" else UNSEEN
    return OpPrediction(latency, np.maximum(low, least), high, least, bound.limiter, basis, beyond)


def predict_streamed(op: Op, gpu: Gpu, bundle: Bundle, alone: Setting = ALONE) -> OpPrediction:
    """Latency of calls within a stream, from that of calls timed alone, less an empty call, in which the host launches.

    No less than the bound.
    """
    found = predict_op(op, gpu, alone, bundle)
    empty = float(np.ravel(predict_op(op.smallest(), gpu, alone, bundle).latency_s)[0])
    value = np.maximum(found.latency_s - empty, found.bound_s)
    low, high = (np.maximum(value * end / found.latency_s, found.bound_s) for end in (found.low_s, found.high_s))
    return found._replace(latency_s=value, low_s=low, high_s=high)


def as_run_on(workload: Workload, gpu: Gpu) -> Workload:
    """The workload in the formats that engines choose on a GPU.

    Blackwell multiplies MXFP4 experts with MXFP8 activations, for which it has an instruction (TensorRT-LLM's default
    for gpt-oss; vLLM's in InferenceX's benchmarks); older parts widen them to 16 bits.
    """
    if workload.expert_dtype != "mxfp4_wo" or gpu.generation != "Blackwell":
        return workload
    return replace(workload, expert_dtype="mxfp4_mxfp8")


def report(
    workload: Workload, gpu: Gpu, bundle: Bundle, notes: tuple[str, ...] = (), engine: Engine | None = None
) -> Report:
    """The sum over the ops of prefill and of decode steps, with what limits them and what they need in memory.

    engine: by default that of the workload's name on the hosts of such GPUs.
    What does not generate has one pass, whose time is TTFT and E2E; its tokens are those of the input.
    """
    lines = op_lines(phases(workload), gpu, workload.engine, bundle)
    return composed(workload, gpu, bundle, lines, notes, engine)


def phases(workload: Workload) -> list[Phase]:
    """The steps that a report is made of: the prompt, and decode steps at a few lengths."""
    decodes = [("decode", workload.decode_ops(int(length))) for length in _decode_lengths(workload)]
    return [("prefill", workload.prefill_ops()), *decodes]


def composed(
    workload: Workload,
    gpu: Gpu,
    bundle: Bundle,
    lines: Sequence[list[OpLine]],
    notes: tuple[str, ...] = (),
    engine: Engine | None = None,
) -> Report:
    """The report of a workload whose `phases` have these lines."""
    points = _decode_lengths(workload)
    prefill, *decodes = lines
    ttft, tpots = _filled(step(prefill, gpu, bundle), workload.pp), [step(lines, gpu, bundle) for lines in decodes]
    tpot = Interval(*(float(_mean_over(points, [t[i] for t in tpots])) for i in range(3)))
    ttft, tpot = with_host(workload, engine or get_engine(workload.engine).beside(gpu.generation), ttft, tpot)
    if not workload.generates:
        tpot = Interval(0.0, 0.0, 0.0)
    e2e = Interval(*(ttft[i] + (workload.output_len - 1) * tpot[i] for i in range(3)))
    tokens = workload.batch * (workload.output_len if workload.generates else workload.input_len)
    middle = decodes[len(decodes) // 2] if decodes else []
    basis = basis_of([line.basis for line in prefill + middle])
    near, doubts = doubts_of(prefill + middle, gpu, bundle)
    return Report(
        workload=workload,
        gpu=gpu,
        price_usd=usd_per_hour(gpu),
        ttft_s=ttft,
        tpot_s=tpot,
        e2e_s=e2e,
        tokens_per_s=Interval(tokens / e2e.value, tokens / e2e.high, tokens / e2e.low),
        memory=memory(workload, gpu),
        limiter=limiter_of(middle if middle and workload.output_len > 1 else prefill),
        basis=basis,
        nearest_gpu=near,
        bundle=bundle.id,
        level=bundle.level,
        notes=(*notes, *doubts),
        ops=tuple(prefill + middle),
    )


def with_host(workload: Workload, engine: Engine, ttft: Interval, tpot: Interval) -> tuple[Interval, Interval]:
    """TTFT and TPOT where the host has to issue the operators."""
    calls, batch = workload.launched(), workload.local_batch
    linear_s = engine.linear_s.get(workload.dtype, 0.0) * sum(c.count for c in calls if c.op.family == "gemm")
    issued = sum(call.count for call in calls) + (linear_s / engine.launch_s if linear_s else 0.0)
    hosts = [engine.times(share) for share in (1.0, 1 - HOST_DOUBT, 1 + HOST_DOUBT)]
    longest = workload.input_len + workload.output_len
    return (
        Interval(*(h.prompt_s(end, issued, batch) + h.request_s for h, end in zip(hosts, ttft, strict=True))),
        Interval(*(h.decode_s(end, issued, batch, longest) for h, end in zip(hosts, tpot, strict=True))),
    )


def _decode_lengths(workload: Workload) -> Array:
    """Cached lengths at which a decode step is predicted."""
    if not workload.generates:
        return np.zeros(0, dtype=np.int64)
    last = workload.input_len + max(workload.output_len - 1, 1)
    return np.unique(np.linspace(workload.input_len + 1, last, DECODE_POINTS).astype(int))


def _filled(each: Interval, stages: int) -> Interval:
    """Time until the last of `stages` parts of a batch has passed as many stages, each part taking `each` alone."""
    return Interval(*(end * (2 * stages - 1) / stages for end in each))


def doubts_of(lines: Sequence[OpLine], gpu: Gpu, bundle: Bundle) -> tuple[str, list[str]]:
    """The nearest measured GPU, and what to say of a GPU or of ops that nobody measured."""
    near = nearest(gpu, tuple(bundle.manifest["gpus"]))
    unseen = [_unseen(gpu.name, near)] if basis_of([line.basis for line in lines]) == UNSEEN else []
    return near, [*unseen, *_extrapolations(lines)]


def _unseen(gpu: str, near: str) -> str:
    if near == gpu:
        return f"{gpu} was measured for some of these operators only."
    return f"{gpu} was not measured; of the measured GPUs {near} is the nearest."


def _extrapolations(lines: Sequence[OpLine]) -> list[str]:
    """One sentence for all ops that lie outside what was measured."""
    found: dict[tuple[str, ...], list[str]] = {}
    for line in lines:
        if line.outside and line.name not in (names := found.setdefault(line.outside, [])):
            names.append(line.name)
    if not found:
        return []
    listed = "; ".join(f"{', '.join(beyond)} of {_first(names)}" for beyond, names in found.items())
    return [f"outside what was measured, so with wider intervals: {listed}."]


def _first(names: Sequence[str], most: int = 3) -> str:
    """The first names, and how many more there are."""
    more = [f"{len(names) - most} more"] if len(names) > most else []
    return ", ".join([*names[:most], *more])


def op_lines(steps: Sequence[Phase], gpu: Gpu, engine: str, bundle: Bundle) -> list[list[OpLine]]:
    """The lines of each (phase, calls), in order."""
    return lines_of([Asked(steps, gpu, engine)], bundle)[0]


class Asked(NamedTuple):
    """Steps on a GPU, as an engine runs them."""

    steps: Sequence[Phase]
    gpu: Gpu
    engine: str


def lines_of(asked: Sequence[Asked], bundle: Bundle) -> list[list[list[OpLine]]]:
    """For each of many, the lines of its steps; equal ops of one GPU and engine are predicted once, and those of one
    estimator together as a column."""
    columns: dict[tuple[str, ...], dict[Op, int]] = {}
    whose: dict[tuple[str, ...], Asked] = {}
    places: list[list[list[tuple[tuple[str, ...], int]]]] = []
    for each in asked:
        within = [[_place(call.op, each, columns, whose) for call in calls] for _, calls in each.steps]
        places.append(within)
    found = {key: _column(list(ops), whose[key], bundle) for key, ops in columns.items()}
    return [
        [
            [
                _networked(_line(phase, call, found[key], row), call.op, each.gpu)
                for call, (key, row) in zip(calls, step_places, strict=True)
            ]
            for (phase, calls), step_places in zip(each.steps, within, strict=True)
        ]
        for each, within in zip(asked, places, strict=True)
    ]


def _place(
    op: Op, asked: Asked, columns: dict[tuple[str, ...], dict[Op, int]], whose: dict[tuple[str, ...], Asked]
) -> tuple[tuple[str, ...], int]:
    """Column and row in which the op is predicted; a new one where it was not asked before."""
    op = within_node(op, asked.gpu) if isinstance(op, Collective) else op
    key = (str(id(asked.gpu)), asked.engine, op.estimator, *op.texts())
    rows = columns.setdefault(key, {})
    whose.setdefault(key, asked)
    return key, rows.setdefault(op, len(rows))


class _Column(NamedTuple):
    """What was said of each op of a column: seconds and their ends, bound, bytes, limiter, fields outside."""

    ends: list[tuple[float, float, float]]
    bound_s: list[float]
    bytes_moved: list[float]
    limiter: list[str]
    outside: list[tuple[str, ...]]
    basis: str


def _column(ops: Sequence[Op], asked: Asked, bundle: Bundle) -> _Column:
    """Predictions of ops of one estimator."""
    column = stack(list(ops))
    if {(column.family, dtype) for dtype in _dtypes(column)} & HOST_TIMED:
        said = predict_streamed(column, asked.gpu, bundle)
    else:
        said = predict_op(column, asked.gpu, Setting(engine=_measured_as(asked.engine, column)), bundle)
    outside: list[tuple[str, ...]] = [()] * len(ops)
    for name, far in said.beyond.items():
        for row in np.flatnonzero(far > 0).tolist():
            outside[row] = (*outside[row], name)
    return _Column(
        list(zip(said.latency_s.tolist(), said.low_s.tolist(), said.high_s.tolist(), strict=True)),
        said.bound_s.tolist(),
        np.broadcast_to(column.bytes_moved(), (len(ops),)).tolist(),
        [str(limiter) for limiter in said.limiter],
        outside,
        said.basis,
    )


def _measured_as(engine: str, op: Op) -> str:
    """The engine whose tables show what `engine` runs."""
    if (known := engines().get(engine)) and known.tables:
        engine = known.tables
    return STAND_IN if any((engine, op.family, dtype) in STOOD_IN for dtype in ("", *_dtypes(op))) else engine


def _dtypes(op: Op) -> set[str]:
    return set(text_column(getattr(op, "dtype", ""), len(op)).tolist())


def _line(phase: str, call: OpCall, column: _Column, row: int) -> OpLine:
    """One call of a predicted column, times the number of such calls."""
    name, op, count = call
    value, low, high = column.ends[row]
    return OpLine(
        phase,
        name,
        op.estimator,
        op,
        count,
        Interval(value * count, low * count, high * count),
        column.bound_s[row] * count,
        column.bytes_moved[row] * count,
        column.limiter[row],
        column.basis,
        column.outside[row],
    )


def _networked(line: OpLine, op: Op, gpu: Gpu) -> OpLine:
    """The line with what its messages take between nodes."""
    extra = line.count * between_nodes_s(op, gpu) if isinstance(op, Collective) else 0.0
    if not extra:
        return line
    value, low, high = line.latency_s
    latency = Interval(value + extra, low + extra / (1 + DOUBT), high + extra * (1 + DOUBT))
    return line._replace(latency_s=latency, limiter="link", outside=(*line.outside, "network"))


def total(lines: Sequence[OpLine], gpu: Gpu, bundle: Bundle) -> Interval:
    """A step is the sum of its ops; their errors correlate as they did on held-out GPUs."""
    bound, names = bound_of(lines, gpu), [line.estimator for line in lines]
    within = {name: bundle.entry(name)["correlation"] if bundle.has(name) else 1.0 for name in set(names)}
    across, said = bundle.manifest["correlation_across"], [line.latency_s for line in lines]
    down = sum_of([each.value - each.low for each in said], names, within, across)
    up = sum_of([each.high - each.value for each in said], names, within, across)
    middle = sum([each.value for each in said])
    return Interval(max(middle, bound), max(middle - down, bound), max(middle + up, bound))


def bound_of(lines: Sequence[OpLine], gpu: Gpu) -> float:
    """Least seconds of a step. The cache holds what one op left for the next, but not the step: all else must come
    from memory."""
    moved = sum(line.bytes_moved for line in lines)
    return max(sum(line.bound_s for line in lines), (moved - gpu.llc_bytes) / gpu.mem_bytes_per_s)


def step(lines: Sequence[OpLine], gpu: Gpu, bundle: Bundle) -> Interval:
    """A step of an engine: the sum of its ops, with the doubt that the software around them adds."""
    found = total(lines, gpu, bundle)
    return doubted(found.value, found, bound_of(lines, gpu))


def _mean_over(points: Array, values: Sequence[float]) -> float:
    """Mean of a function known at `points`, trapezoidal between them; of none 0."""
    if len(points) < 2:
        return sum(values)
    return float(np.trapezoid(values, points) / (points[-1] - points[0]))


def limiter_of(lines: Sequence[OpLine]) -> str:
    """What the ops that fill most of the time are limited by; "launch" where they are far above their bounds."""
    shares: dict[str, float] = {}
    for line in lines:
        name = line.limiter if line.latency_s.value < 4 * line.bound_s else "launch"
        shares[name] = shares.get(name, 0.0) + line.latency_s.value
    return max(shares, key=lambda name: shares[name])


def basis_of(bases: Sequence[str]) -> str:
    """The weakest basis of an op that an estimator answered for; bound-only where none did."""
    return UNSEEN if UNSEEN in bases else SEEN if SEEN in bases else BOUND_ONLY
