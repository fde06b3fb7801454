"""Steps: their operators as lines, each predicted with all others of its GPU, engine and estimator as one column, and
the sums of such lines.

Sums are never below their bound, and the errors of their parts correlate as on held-out GPUs. Times are seconds, each a
number or a column of (n_requests,).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np

from predictor.elementwise import added, chosen, greater, lesser, root
from predictor.errors import PredictorError
from predictor.estimators.bundle import Bundle
from predictor.estimators.extrapolation import nearest
from predictor.estimators.intervals import sum_of
from predictor.estimators.operators import (
    BOUND_ONLY,
    CALIBRATED,
    SEEN,
    UNSEEN,
    OpPrediction,
    bounds,
)
from predictor.estimators.rates import BY_RATES
from predictor.hardware.gpu import Gpu
from predictor.hardware.interconnect import (
    UNSTATED,
    Links,
    between_nodes_ends,
    between_nodes_s,
    either_note,
    paths,
    up_to,
    within_node,
)
from predictor.hardware.roofline import rate_notes
from predictor.hardware.siblings import card_class, tiers
from predictor.latency.as_run import predict_as_run
from predictor.latency.report import SOFTWARE_DOUBT, Interval, OpLine, doubted
from predictor.ops import Collective, Op
from predictor.ops.base import concatenated, stack
from predictor.workloads.engine_tables import rates_of
from predictor.workloads.passes.calls import OpCall, Phase

LAUNCH_S = 1e-5  # of a collective: the shortest take 4 to 12 us on all measured GPUs


class Steps(NamedTuple):
    """Steps on a GPU, as an engine runs them; their ops are single calls, or columns of one length.

    links: what a user says of what joins the GPUs.
    """

    phases: Sequence[Phase]
    gpu: Gpu
    engine: str
    links: Links = UNSTATED


def op_lines(
    phases: Sequence[Phase], gpu: Gpu, engine: str, bundle: Bundle, links: Links = UNSTATED
) -> list[list[OpLine]]:
    """The lines of each (phase, calls), in order."""
    return _only(op_lines_of_many([Steps(phases, gpu, engine, links)], bundle))


def bound_lines(
    phases: Sequence[Phase], gpu: Gpu, engine: str, bundle: Bundle, links: Links = UNSTATED
) -> list[list[OpLine]]:
    """The lines of each (phase, calls) with bounds for latencies; no estimator is loaded for them."""
    return _only(op_lines_of_many([Steps(phases, gpu, engine, links)], bundle, _bounds))


def _only(lines: Sequence[list[list[OpLine]] | PredictorError]) -> list[list[OpLine]]:
    (of_one,) = lines
    if isinstance(of_one, PredictorError):
        raise of_one
    return of_one


Estimate = Callable[[Op, Steps, Bundle], OpPrediction]


def _estimate(op: Op, steps: Steps, bundle: Bundle) -> OpPrediction:
    return predict_as_run(op, steps.gpu, steps.engine, bundle)


def _bounds(op: Op, steps: Steps, bundle: Bundle) -> OpPrediction:
    known = bounds(op, steps.gpu, bundle)
    return known._replace(basis=BY_RATES) if rates_of(steps.engine, steps.gpu.vendor) else known


def op_lines_of_many(
    many: Sequence[Steps], bundle: Bundle, estimate: Estimate = _estimate
) -> list[list[list[OpLine]] | PredictorError]:
    """For each of many, the lines of its phases, or why its GPU cannot run one of them.

    Equal ops of one GPU and engine are predicted once, and those of one estimator together as a column. estimate: what
    is said of such a column.
    """
    groups: dict[tuple[str, ...], _Group] = {}
    places = [[[_places(call.op, steps, groups) for call in calls] for _, calls in steps.phases] for steps in many]
    single, columns = {}, {}
    for key, group in groups.items():
        if group.single:
            single[key] = _predicted(list(group.single), group.steps, bundle, estimate)
        if group.columns:
            columns[key] = _predicted(group.columns, group.steps, bundle, estimate)
    return [_lines(steps, within, single, columns) for steps, within in zip(many, places, strict=True)]


class _Group:
    """Ops of one GPU, engine and estimator with equal texts: single ones once each, then columns one after another."""

    def __init__(self, steps: Steps) -> None:
        self.steps = steps
        self.single: dict[Op, int] = {}
        self.columns: list[Op] = []
        self.length = 0

    def place(self, op: Op) -> int | slice:
        """Where its prediction will be: a row of the single ones, or rows of the columns."""
        if not op.is_column():
            return self.single.setdefault(op, len(self.single))
        self.columns.append(op)
        start, self.length = self.length, self.length + len(op)
        return slice(start, self.length)


Place = tuple[tuple[str, ...], int | slice]


class _Places(NamedTuple):
    """Where the prediction of an op will be: of a message over each link, fastest first, of which it may take the
    last `ways`."""

    over: list[Place]
    ways: int = 1


def _places(op: Op, steps: Steps, groups: dict[tuple[str, ...], _Group]) -> _Places:
    """Where the prediction of an op will be, of a message also over links that are faster than its own."""
    if not isinstance(op, Collective):
        return _Places([_place(op, steps, groups)])
    local = within_node(op, steps.gpu)
    ways = paths(local, steps.gpu, steps.links)
    over = up_to(ways[-1], steps.gpu) if op.link == "gpu" else ways
    return _Places([_place(replace(local, link=link), steps, groups) for link in over], len(ways))


def _place(op: Op, steps: Steps, groups: dict[tuple[str, ...], _Group]) -> Place:
    """The group of an op and its rows there."""
    key = (str(id(steps.gpu)), steps.engine, op.estimator, *op.texts())
    if key not in groups:
        groups[key] = _Group(steps)
    return key, groups[key].place(op)


class _Predicted(NamedTuple):
    """What was predicted of a column: lists of numbers of single ops, whole columns of columns.

    outside: of single ops the fields beyond what was measured, of columns the rows by field.
    """

    value: Any
    low: Any
    high: Any
    bound_s: Any
    bytes_moved: Any
    limiter: Any
    outside: list[tuple[str, ...]] | Mapping[str, Any]
    basis: str


def _predicted(ops: Sequence[Op], steps: Steps, bundle: Bundle, estimate: Estimate) -> _Predicted | PredictorError:
    """Predictions of ops of one estimator."""
    whole = ops[0].is_column()
    column = concatenated(ops) if whole else stack(ops)
    try:
        prediction = estimate(column, steps, bundle)
    except PredictorError as error:
        return error
    numbers = (prediction.latency_s, prediction.low_s, prediction.high_s, prediction.bound_s)
    moved = np.broadcast_to(column.bytes_moved(), (len(column),))
    if whole:
        outside = {name: far > 0 for name, far in prediction.beyond.items()}
        return _Predicted(*numbers, moved, prediction.limiter, outside, prediction.basis)
    value, low, high, bound, bytes_moved = (column.tolist() for column in (*numbers, moved))
    limiter = [str(name) for name in prediction.limiter]
    return _Predicted(value, low, high, bound, bytes_moved, limiter, _outside(prediction), prediction.basis)


def _outside(prediction: OpPrediction) -> list[tuple[str, ...]]:
    """Names of the fields beyond what was measured, of each call."""
    names: list[tuple[str, ...]] = [()] * len(prediction.latency_s)
    for name, far in prediction.beyond.items():
        for row in np.flatnonzero(far > 0).tolist():
            names[row] = (*names[row], name)
    return names


Columns = Mapping[tuple[str, ...], _Predicted | PredictorError]


def _lines(
    steps: Steps, places: list[list[_Places]], single: Columns, columns: Columns
) -> list[list[OpLine]] | PredictorError:
    """The lines of all phases of one of many, or the error of its GPU."""
    lines: list[list[OpLine]] = []
    for (phase, calls), phase_places in zip(steps.phases, places, strict=True):
        of_phase = []
        for call, call_places in zip(calls, phase_places, strict=True):
            over = []
            for key, rows in call_places.over:
                predicted = (single if isinstance(rows, int) else columns)[key]
                if isinstance(predicted, PredictorError):
                    return predicted
                over.append(_line(phase, call, predicted, rows))
            of_phase.append(_networked(_of_either(_slower(over)[-call_places.ways :]), call.op, steps))
        lines.append(of_phase)
    return lines


def _line(phase: str, call: OpCall, predicted: _Predicted, rows: Any) -> OpLine:
    """A call, or a column of them, times the number of such calls."""
    name, op, count = call
    return OpLine(
        phase,
        name,
        predicted.basis if predicted.basis == BY_RATES else op.estimator,
        op,
        count,
        Interval(predicted.value[rows] * count, predicted.low[rows] * count, predicted.high[rows] * count),
        predicted.bound_s[rows] * count,
        predicted.bytes_moved[rows] * count,
        predicted.limiter[rows],
        predicted.basis,
        *_outside_of(predicted.outside, rows),
    )


def _outside_of(outside: list[tuple[str, ...]] | Mapping[str, Any], rows: Any) -> tuple[Any, Mapping[str, Any]]:
    if isinstance(outside, Mapping):
        return (), {name: far[rows] for name, far in outside.items()}
    return outside[rows], {}


def _slower(over: Sequence[OpLine]) -> list[OpLine]:
    """The same message over links, fastest first: over none does it take less time than over one before it."""
    lines = [over[0]]
    for line in over[1:]:
        latency = Interval(*(greater(*ends) for ends in zip(lines[-1].latency_s, line.latency_s, strict=True)))
        lines.append(line._replace(latency_s=latency))
    return lines


def _of_either(ways: Sequence[OpLine]) -> OpLine:
    """A message that takes one of two links: between both, with an interval over both."""
    if len(ways) == 1:
        return ways[0]
    one, two = (way.latency_s for way in ways)
    latency = Interval(root(one.value * two.value), lesser(one.low, two.low), greater(one.high, two.high))
    return ways[0]._replace(latency_s=latency, links_open=("link",))


def _networked(line: OpLine, op: Op, steps: Steps) -> OpLine:
    """The line with what its messages take between nodes."""
    if not isinstance(op, Collective):
        return line
    network = steps.links.network
    extra: Any = line.count * between_nodes_s(op, steps.gpu, network)
    if not np.any(extra):
        return line
    ends: tuple[Any, Any] = between_nodes_ends(op, steps.gpu, network)
    value, low, high = line.latency_s
    latency = Interval(value + extra, low + line.count * ends[0], high + line.count * ends[1])
    either = line.links_open if network else (*line.links_open, "node_link")
    line = line._replace(latency_s=latency, limiter="link", links_open=either)
    if op.is_column():
        return line._replace(outside_rows={**line.outside_rows, "network": extra > 0})
    return line._replace(outside=(*line.outside, "network"))


def total(lines: Sequence[OpLine], gpu: Gpu, bundle: Bundle) -> Interval:
    """A step is the sum of its ops; their errors correlate as they did on held-out GPUs, those of a link that nobody
    stated wholly."""
    bound = bound_of(lines, gpu)
    names = [f"{line.estimator} over either link" if line.links_open else line.estimator for line in lines]
    within = {name: bundle.entry(name)["correlation"] if bundle.has(name) else 1.0 for name in set(names)}
    across, latencies = bundle.manifest["correlation_across"], [line.latency_s for line in lines]
    down = sum_of([latency.value - latency.low for latency in latencies], names, within, across)
    up = sum_of([latency.high - latency.value for latency in latencies], names, within, across)
    middle = added(latency.value for latency in latencies)
    return Interval(greater(middle, bound), greater(middle - down, bound), greater(middle + up, bound))


def bound_of(lines: Sequence[OpLine], gpu: Gpu) -> Any:
    """Least seconds of a step. The cache holds what one op left for the next, but not the step: all else must come
    from memory."""
    moved = added(line.bytes_moved for line in lines)
    return greater(added(line.bound_s for line in lines), (moved - gpu.llc_bytes) / gpu.mem_bytes_per_s)


def step(lines: Sequence[OpLine], gpu: Gpu, bundle: Bundle, doubt: float = SOFTWARE_DOUBT) -> Interval:
    """A step of an engine: the sum of its ops, with the doubt that software around them adds where ops were timed."""
    ops = total(lines, gpu, bundle)
    if all(line.basis == BY_RATES for line in lines):  # of whole runs, the software among them
        return ops
    return doubted(ops.value, ops, bound_of(lines, gpu), doubt)


def mean_over(points: Sequence[Any], values: Sequence[Any]) -> Any:
    """Mean of a function known at `points`, trapezoidal between them; of none 0.

    points: rising; where all are equal the first value is the mean.
    """
    if not points:
        return 0.0
    pairs = zip(points[1:], points[:-1], values[1:], values[:-1], strict=True)
    area = added((far - near) * (one + two) / 2 for far, near, one, two in pairs)
    width = points[-1] - points[0]
    return chosen(width > 0, area / greater(width, 1), values[0])


def limiter_of(lines: Sequence[OpLine], gpu: Gpu) -> Any:
    """What the ops of a step that fill most of the time are limited by; "launch" where they are far above what they
    need.

    The bound of a single call lets the cache hold its weights. A step reads all of them, so that they come from memory.
    """
    # Beyond four times what it needs a call is taken to wait for its launch more than for memory or arithmetic; judged.
    # A message that needs longer than launches take waits for its link, of which the host's way leaves a tenth or less.
    shares: dict[str, Any] = {}
    for line in lines:
        needed = greater(line.bound_s, line.bytes_moved / gpu.mem_bytes_per_s)
        value, far = line.latency_s.value, line.latency_s.value >= 4 * needed
        if line.basis == BY_RATES:  # says so itself
            far = far & False
        if line.estimator == Collective.family:
            far = far & (line.bound_s < line.count * LAUNCH_S)
        for name in {line.limiter: 0} if isinstance(line.limiter, str) else dict.fromkeys(line.limiter.tolist()):
            here = chosen(far, 0.0, chosen(line.limiter == name, value, 0.0))
            shares[name] = shares.get(name, 0.0) + here
        shares["launch"] = shares.get("launch", 0.0) + chosen(far, value, 0.0)
    names, sums = list(shares), np.broadcast_arrays(*shares.values())
    most = np.argmax(np.stack(sums), axis=0)
    return names[int(most)] if most.ndim == 0 else np.array(names, dtype=object)[most]


def basis_of(bases: Sequence[str]) -> str:
    """Of ops on one GPU: calibrated where a user measured any there (doubts_of says which not), else the weakest."""
    return CALIBRATED if CALIBRATED in bases else weakest(bases)


def weakest(bases: Sequence[str]) -> str:
    """The weakest basis of what an estimator answered for; bound-only where none did."""
    return next((basis for basis in (UNSEEN, CALIBRATED, SEEN, BY_RATES) if basis in bases), BOUND_ONLY)


def doubts_of(lines: Sequence[OpLine], gpu: Gpu, bundle: Bundle) -> tuple[str, list[str]]:
    """The nearest measured GPU, and what to say of a GPU or of ops that nobody measured."""
    near = nearest(gpu, tuple(bundle.manifest["gpus"]))
    told = sorted({line.estimator for line in lines if line.basis == CALIBRATED})
    left = sorted({line.estimator for line in lines if line.basis == UNSEEN})
    unseen = [_unseen(gpu.name, near, told, left)] if left else []
    if left and not told and (siblings := tiers(gpu, bundle.calibrated)[1]):
        unseen.append(f"what the calibration knows of {', '.join(siblings)}, its siblings, is applied in part.")
    if far := [name for name in left if bundle.kinship(name, gpu) == "far"]:
        unseen.append(_far(card_class(gpu), far))
    rates = rate_notes((line.op for line in lines), gpu)
    either = [either_note(gpu)] if any("link" in line.links_open for line in lines) else []
    return near, [*unseen, *rates, *either, *_extrapolations([(line.name, line.outside) for line in lines])]


def extrapolations_by_row(lines: Sequence[OpLine], rows: int) -> list[list[str]]:
    """What doubts_of says of each row of a column, alone, for lying outside what was measured."""
    marks = [(line, name, far) for line in lines for name, far in line.outside_rows.items() if np.any(far)]
    if not marks:
        return [[]] * rows
    table = np.stack([np.broadcast_to(far, (rows,)) for *_, far in marks])
    patterns, pattern_of_row = np.unique(table, axis=1, return_inverse=True)
    texts = []
    for pattern in patterns.T:
        outside: dict[int, tuple[str, tuple[str, ...]]] = {}
        for (line, name, _), far in zip(marks, pattern.tolist(), strict=True):
            if far:
                outside[id(line)] = (line.name, (*outside.get(id(line), ("", ()))[1], name))
        texts.append(_extrapolations(list(outside.values())))
    return [texts[place] for place in np.ravel(pattern_of_row).tolist()]


def _unseen(gpu: str, near: str, told: Sequence[str], left: Sequence[str]) -> str:
    """What to say of the estimators `left` that know nothing of a GPU; told: those that a user calibrated there."""
    if told:
        return (
            f"the calibration of {gpu} knows {', '.join(told)}; {', '.join(left)} are those of a GPU that was not "
            "measured. Measure them too."
        )
    if near == gpu:
        return f"{gpu} was measured for some of these operators only."
    return f"{gpu} was not measured; of the measured GPUs {near} is the nearest."


def _far(kind: str, names: Sequence[str]) -> str:
    """What to say of the estimators `names` that know no GPU of a class of cards."""
    return f"no card of class {kind} was measured for {', '.join(names)}; intervals are those of other classes."


def _extrapolations(outside: Sequence[tuple[str, tuple[str, ...]]]) -> list[str]:
    """One sentence for all ops that lie outside what was measured; outside: name of each op and its fields there."""
    ops: dict[tuple[str, ...], list[str]] = {}  # by the fields that lie outside
    for name, fields in outside:
        if fields and name not in (names := ops.setdefault(fields, [])):
            names.append(name)
    if not ops:
        return []
    listed = "; ".join(f"{', '.join(fields)} of {_first(names)}" for fields, names in ops.items())
    return [f"outside what was measured, so with wider intervals: {listed}."]


def _first(names: Sequence[str], most: int = 3) -> str:
    """The first names, and how many more there are."""
    more = [f"{len(names) - most} more"] if len(names) > most else []
    return ", ".join([*names[:most], *more])
