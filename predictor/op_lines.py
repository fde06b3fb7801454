"""The operators of steps as lines: each is predicted with all others of its GPU, engine and estimator as one column."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from predictor.bundle import Bundle
from predictor.engines import engines
from predictor.errors import PredictorError
from predictor.features import Setting
from predictor.gpu import Gpu
from predictor.ops import Collective, Op
from predictor.ops.base import concatenated, stack, text_column
from predictor.prediction import OpPrediction, predict_op, predict_streamed
from predictor.report import Interval, OpLine
from predictor.topology import DOUBT, between_nodes_s, within_node
from predictor.workloads.base import OpCall

# Operator tables that do not show what the engine runs in serving; vLLM's stand in. TensorRT-LLM's fp8 and nvfp4 GEMMs
# were timed without the checkpoint's input scale, so each first searches the largest input: 7 us more than vLLM's on
# H100, H200, B200 and L40S alike. Pointwise kernels of SGLang were not measured.
STAND_IN = "vllm"
STOOD_IN = frozenset({("trtllm", "gemm", "fp8"), ("trtllm", "gemm", "nvfp4"), ("sglang", "pointwise", "")})
# fp32 products were measured by PyTorch from the host only (NeuSight): each with the launch that a stream hides.
HOST_TIMED = frozenset({("gemm", "fp32"), ("conv", "fp32")})
Phase = tuple[str, Sequence[OpCall]]  # its name and what one step of it runs


def op_lines(steps: Sequence[Phase], gpu: Gpu, engine: str, bundle: Bundle) -> list[list[OpLine]]:
    """The lines of each (phase, calls), in order."""
    (found,) = lines_of([Asked(steps, gpu, engine)], bundle)
    if isinstance(found, PredictorError):
        raise found
    return found


class Asked(NamedTuple):
    """Steps on a GPU, as an engine runs them; their ops are single calls, or columns of one length."""

    steps: Sequence[Phase]
    gpu: Gpu
    engine: str


class _Gathered:
    """Ops of one GPU, engine and estimator with equal texts: single ones once each, then columns one after another."""

    def __init__(self, asked: Asked) -> None:
        self.asked = asked
        self.single: dict[Op, int] = {}
        self.columns: list[Op] = []
        self.length = 0

    def place(self, op: Op) -> int | slice:
        """Where its answer will be: a row of the single ones, or rows of the columns."""
        if not op.is_column():
            return self.single.setdefault(op, len(self.single))
        self.columns.append(op)
        start, self.length = self.length, self.length + len(op)
        return slice(start, self.length)


Place = tuple[tuple[str, ...], int | slice]


def lines_of(asked: Sequence[Asked], bundle: Bundle) -> list[list[list[OpLine]] | PredictorError]:
    """For each of many, the lines of its steps, or why its GPU cannot run one of them.

    Equal ops of one GPU and engine are predicted once, and those of one estimator together as a column.
    """
    gathered: dict[tuple[str, ...], _Gathered] = {}
    places = [[[_place(call.op, each, gathered) for call in calls] for _, calls in each.steps] for each in asked]
    single = {key: _said(list(ops.single), ops.asked, bundle) for key, ops in gathered.items() if ops.single}
    columns = {key: _said(ops.columns, ops.asked, bundle) for key, ops in gathered.items() if ops.columns}
    return [_lines(each, within, single, columns) for each, within in zip(asked, places, strict=True)]


def _place(op: Op, asked: Asked, gathered: dict[tuple[str, ...], _Gathered]) -> Place:
    """The column of an op and its rows there."""
    op = within_node(op, asked.gpu) if isinstance(op, Collective) else op
    key = (str(id(asked.gpu)), asked.engine, op.estimator, *op.texts())
    if key not in gathered:
        gathered[key] = _Gathered(asked)
    return key, gathered[key].place(op)


class _Said(NamedTuple):
    """What was said of a column: lists of numbers of single ops, whole columns of columns."""

    value: Any
    low: Any
    high: Any
    bound_s: Any
    bytes_moved: Any
    limiter: Any
    outside: list[tuple[str, ...]] | None
    basis: str


def _said(ops: Sequence[Op], asked: Asked, bundle: Bundle) -> _Said | PredictorError:
    """Predictions of ops of one estimator."""
    whole = ops[0].is_column()
    column = concatenated(ops) if whole else stack(ops)
    try:
        if {(column.family, dtype) for dtype in _dtypes(column)} & HOST_TIMED:
            said = predict_streamed(column, asked.gpu, bundle)
        else:
            said = predict_op(column, asked.gpu, Setting(engine=measured_as(asked.engine, column)), bundle)
    except PredictorError as error:
        return error
    numbers = (said.latency_s, said.low_s, said.high_s, said.bound_s)
    moved = np.broadcast_to(column.bytes_moved(), (len(column),))
    if whole:
        return _Said(*numbers, moved, said.limiter, None, said.basis)
    listed = [each.tolist() for each in (*numbers, moved)]
    value, low, high, bound, bytes_moved = listed
    limiter = [str(name) for name in said.limiter]
    return _Said(value, low, high, bound, bytes_moved, limiter, _outside(said), said.basis)


def _outside(said: OpPrediction) -> list[tuple[str, ...]]:
    """Names of the fields beyond what was measured, of each call."""
    found: list[tuple[str, ...]] = [()] * len(said.latency_s)
    for name, far in said.beyond.items():
        for row in np.flatnonzero(far > 0).tolist():
            found[row] = (*found[row], name)
    return found


Columns = Mapping[tuple[str, ...], _Said | PredictorError]


def _lines(
    asked: Asked, places: list[list[Place]], single: Columns, columns: Columns
) -> list[list[OpLine]] | PredictorError:
    """The lines of all steps of one of many, or the error of its GPU."""
    found: list[list[OpLine]] = []
    for (phase, calls), step_places in zip(asked.steps, places, strict=True):
        of_step = []
        for call, (key, rows) in zip(calls, step_places, strict=True):
            said = (single if isinstance(rows, int) else columns)[key]
            if isinstance(said, PredictorError):
                return said
            of_step.append(_networked(_line(phase, call, said, rows), call.op, asked.gpu))
        found.append(of_step)
    return found


def measured_as(engine: str, op: Op) -> str:
    """The engine whose tables show what `engine` runs."""
    if (known := engines().get(engine)) and known.tables:
        engine = known.tables
    return STAND_IN if any((engine, op.family, dtype) in STOOD_IN for dtype in ("", *_dtypes(op))) else engine


def _dtypes(op: Op) -> set[str]:
    return set(text_column(getattr(op, "dtype", ""), len(op)).tolist())


def _line(phase: str, call: OpCall, said: _Said, rows: Any) -> OpLine:
    """A call, or a column of them, times the number of such calls."""
    name, op, count = call
    return OpLine(
        phase,
        name,
        op.estimator,
        op,
        count,
        Interval(said.value[rows] * count, said.low[rows] * count, said.high[rows] * count),
        said.bound_s[rows] * count,
        said.bytes_moved[rows] * count,
        said.limiter[rows],
        said.basis,
        said.outside[rows] if said.outside else (),
    )


def _networked(line: OpLine, op: Op, gpu: Gpu) -> OpLine:
    """The line with what its messages take between nodes."""
    extra: Any = line.count * between_nodes_s(op, gpu) if isinstance(op, Collective) else 0.0
    if not np.any(extra):
        return line
    value, low, high = line.latency_s
    latency = Interval(value + extra, low + extra / (1 + DOUBT), high + extra * (1 + DOUBT))
    return line._replace(latency_s=latency, limiter="link", outside=(*line.outside, "network"))
