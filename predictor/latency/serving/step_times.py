"""Step times of an engine: predicted once on grids, read in microseconds by the simulation of
predictor.latency.serving.load.

A step carries some tokens that are prefilled and some sequences that each decode. What depends on the number of tokens
only (linear layers, norms, experts, all-reduces) runs once over all of them; attention runs apart over the prefilled
and over the decoding sequences; the output head runs over the sequences that need a next token. Which ops those are is
seen by comparing op lists, so a model of any architecture is split alike.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import fields, replace
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from predictor.errors import PredictorError
from predictor.estimators.bundle import Bundle
from predictor.hardware.gpu import Gpu
from predictor.latency.report import OpLine
from predictor.latency.serving.step_table import (
    CACHED_OCTAVES,
    PAST_OCTAVES,
    SHORTEST_CHUNK,
    Curve,
    Rows,
    StepTable,
    StepTimes,
)
from predictor.latency.steps import Steps, op_lines_of_many, total
from predictor.ops.dtypes import Array
from predictor.workloads.architectures.decoder import Decoder
from predictor.workloads.architectures.layered import LayeredDecoder
from predictor.workloads.passes.calls import OpCall, Phase
from predictor.workloads.workload import Workload, sent_to_experts

TOKENS_PER_OCTAVE = 2  # grid of the token-only ops: tile effects are coarser than this
# Step times depend on all of a workload but these; the model is known by its identity, and what is set of the engine by
# Workload.longest, captures and two_batches.
OF_NO_STEP = frozenset(
    {"model", "settings", "batch", "input_len", "output_len", "dp", "stored_bytes", "draft", "beam_width", "images"}
)
SETTINGS = tuple(field.name for field in fields(Workload) if field.name not in OF_NO_STEP)
MOST_KEPT = 64  # step times that are remembered, some 100 KiB each


class Asked(NamedTuple):
    """Whose step times are asked for; the workload's own batch and lengths do not matter.

    max_tokens: tokens of the largest step. max_sequences: of the largest decode step. Both are those of one replica.
    """

    workload: Workload
    gpu: Gpu
    max_tokens: int
    max_sequences: int

    def key(self, bundle: Bundle) -> tuple[Any, ...]:
        """Equal for those that have the same step times; of objects their identity."""
        return (id(bundle), id(self.gpu), *self.steps_key)

    @property
    def steps_key(self) -> tuple[Any, ...]:
        """Equal for those that have the same steps, whatever the GPU."""
        settings = (getattr(self.workload, name) for name in SETTINGS)
        return (
            id(self.workload.model),
            self.max_tokens,
            self.max_sequences,
            self.workload.longest,
            self.workload.captures,
            self.workload.two_batches,
            *settings,
        )


class _Kept(NamedTuple):
    """Step times, and the objects by whose identity they are known, which must live as long."""

    times: StepTimes
    owners: tuple[object, ...]


_kept: dict[tuple[Any, ...], _Kept] = {}


def step_times(workload: Workload, gpu: Gpu, bundle: Bundle, max_tokens: int, max_sequences: int) -> StepTimes:
    """Predicts every cell in one go, once for all that differ in batch, lengths and images only; arguments as in Asked.

    Images are left out (predictor.latency.serving.seeing).
    """
    asked = Asked(_without_images(workload), gpu, max_tokens, max_sequences)
    if (kept := _kept.get(asked.key(bundle))) is not None:
        return kept.times
    (times,) = step_times_of_many([asked], bundle)
    if isinstance(times, PredictorError):
        raise times
    return times


def foresee(many: Sequence[tuple[Workload, Gpu]], bundle: Bundle) -> None:
    """Predict together what simulations of these workloads will ask `step_times` for; what cannot run is left out."""
    asked = []
    for workload, gpu in many:
        engine = workload.engine_on(gpu)
        if engine.joins and isinstance(workload.model, Decoder | LayeredDecoder):
            asked.append(Asked(_without_images(workload), gpu, engine.max_batched_tokens, engine.max_sequences))
    step_times_of_many(asked, bundle)


def _without_images(workload: Workload) -> Workload:
    return replace(workload, images=0) if workload.images else workload


def step_times_of_many(many: Sequence[Asked], bundle: Bundle) -> list[StepTimes | PredictorError]:
    """Step times of many, or why a GPU cannot run them; what is not known yet is predicted together, as columns.

    The last MOST_KEPT are remembered for step_times.
    """
    keys = [asked.key(bundle) for asked in many]
    new = {key: asked for key, asked in zip(keys, many, strict=True) if key not in _kept}
    grids = [_grid_of(asked) for asked in new.values()]
    steps = [
        Steps(grid.steps, asked.gpu, asked.workload.engine, asked.workload.links)
        for grid, asked in zip(grids, new.values(), strict=True)
    ]
    made: dict[tuple[Any, ...], StepTimes | PredictorError] = {}
    for key, grid, lines in zip(new, grids, op_lines_of_many(steps, bundle), strict=True):
        made[key] = lines if isinstance(lines, PredictorError) else grid.times(lines, new[key].gpu, bundle)
    answers = [made[key] if key in made else _kept[key].times for key in keys]
    for key, times in made.items():
        if isinstance(times, StepTimes):
            _kept[key] = _Kept(times, (bundle, new[key].workload.model, new[key].gpu))
    while len(_kept) > MOST_KEPT:
        _kept.pop(next(iter(_kept)), None)
    return answers


class _Sizes(NamedTuple):
    """Sizes of the steps that are predicted, (n,) each: tokens; sequences that need the output head; and of attention,
    sequences that decode, chunks of prompts, and of both the cells: batch, q_len and kv_len."""

    tokens: NDArray[np.int64]
    heads: NDArray[np.int64]
    batches: NDArray[np.int64]
    chunks: NDArray[np.int64]
    decode: tuple[NDArray[np.int64], ...]
    prefill: tuple[NDArray[np.int64], ...]


@lru_cache(maxsize=64)
def _sizes(max_tokens: int, max_sequences: int, max_len: int) -> _Sizes:
    """The sizes for an engine's largest steps and a model's longest sequence."""
    half_octaves = np.arange(0, math.log2(max_tokens) + 0.51, 1 / TOKENS_PER_OCTAVE)
    batches, chunks = _doublings(1, max_sequences), _doublings(SHORTEST_CHUNK, max(max_tokens, 2 * SHORTEST_CHUNK))
    each, most = chunks.tolist(), 2 ** (math.ceil(math.log2(max_len)) + 1)  # past tokens that are ever read
    prefill = [
        (n // q, q, min(max(q, round(q * 2.0**r)), q + most))
        for n in each
        for q in each
        if q <= n
        for r in PAST_OCTAVES
    ]
    return _Sizes(
        tokens=np.unique(np.rint(2.0**half_octaves)).astype(int),
        heads=np.unique(np.concatenate([batches, [max_sequences + max_tokens // SHORTEST_CHUNK]])),
        batches=batches,
        chunks=chunks,
        decode=tuple(np.array([(batch, 1, 2**kv) for batch in batches.tolist() for kv in CACHED_OCTAVES]).T),
        prefill=tuple(np.array(prefill).T),
    )


_grids: dict[tuple[Any, ...], _Grid] = {}


def _grid_of(asked: Asked) -> _Grid:
    """The grid of one of many, which is the same on all GPUs; the last MOST_KEPT are remembered."""
    key = asked.steps_key
    if key not in _grids:
        _grids[key] = _Grid(asked)
        while len(_grids) > MOST_KEPT:
            _grids.pop(next(iter(_grids)))
    return _grids[key]


class _Grid:
    """The steps at which times of one of many are predicted, and the tables made of them."""

    def __init__(self, asked: Asked) -> None:
        self.asked, ops = asked, _Split(asked.workload)
        self.sizes = sizes = _sizes(asked.max_tokens, asked.max_sequences, asked.workload.longest)
        halves = 2 if asked.workload.two_batches else 1
        self.launches = halves * sum(call.count for call in ops.calls("prefill", 1, 64, 64))
        self.kinds = [
            _Cells("prefill", ops.plain, (sizes.tokens,)),
            _Cells("decode", ops.plain, (sizes.tokens,)),
            _Cells("decode", ops.head, (sizes.heads,)),
            _Cells("decode", ops.cached, sizes.decode),
            _Cells("prefill", ops.cached, sizes.prefill),
        ]
        if asked.workload.two_batches:
            self.kinds.append(_Cells("prefill", ops.sent, (sizes.tokens,)))
        self.by_kind = [kind.steps(asked.workload.in_columns) for kind in self.kinds]

    @property
    def steps(self) -> list[Phase]:
        """All steps, one after the other."""
        return [step for steps in self.by_kind for step in steps]

    def times(self, lines: Sequence[Sequence[OpLine]], gpu: Gpu, bundle: Bundle) -> StepTimes:
        """What the lines of `steps` say."""
        each, seconds = iter(lines), []
        for kind, steps in zip(self.kinds, self.by_kind, strict=True):
            totals = np.array([np.broadcast_arrays(*total(next(each), gpu, bundle)) for _ in steps])
            of_cells = np.moveaxis(totals, 0, -1) if totals.ndim == 2 else totals[0]
            seconds.append(np.maximum(np.broadcast_to(of_cells, (3, len(kind.sizes[0]))), 1e-9))
        return StepTimes(*(self._table(ends) for ends in zip(*seconds, strict=True)))

    def _table(self, seconds: Sequence[Array]) -> StepTable:
        """The table of one end of the interval; seconds: of each kind, (n_cells,)."""
        sizes, count = self.sizes, len(self.sizes.chunks)
        cube = np.full((count, count, len(PAST_OCTAVES)), np.nan)
        steps, sequences = np.tril_indices(count)  # in the order of the cells
        cube[steps, sequences] = seconds[4].reshape(-1, len(PAST_OCTAVES))
        for q in range(1, count):  # fewer tokens than one sequence has: as that sequence
            cube[:q, q] = cube[q, q]
        rising = np.maximum.accumulate(np.maximum.accumulate(cube, axis=2), axis=0)
        return StepTable(
            plain=(Curve(sizes.tokens, seconds[0]), Curve(sizes.tokens, seconds[1])),
            head=Curve(sizes.heads, seconds[2]),
            decode=Rows(sizes.batches, seconds[3].reshape(len(sizes.batches), -1), self.asked.max_sequences),
            prefill=np.log(rising).tolist(),
            launches=self.launches,
            sent=Curve(sizes.tokens, seconds[5]) if len(seconds) > 5 else None,
        )


class _Cells(NamedTuple):
    """Steps of one kind. ops: phase and sizes → calls. sizes: what `ops` takes, each (n_cells,)."""

    phase: str
    ops: Callable[..., list[OpCall]]
    sizes: tuple[NDArray[np.int64], ...]

    def steps(self, in_columns: bool) -> list[Phase]:
        """All cells as one step of columns, or each for itself; an architecture may lack a kind of op."""
        if in_columns:
            return [(self.phase, self.ops(self.phase, *self.sizes))]
        cells = zip(*(size.tolist() for size in self.sizes), strict=True)
        return [(self.phase, self.ops(self.phase, *cell)) for cell in cells]


class _Split:
    """The op list of a model in three: what depends on tokens only, on sequences, and on cached or own length.

    Where two batches overlap, what is sent to experts is apart from other ops of tokens.
    """

    def __init__(self, workload: Workload) -> None:
        self._workload = workload
        self._long = {phase: self._changed(phase, (2, 64, 64), (2, 64, 128)) for phase in ("prefill", "decode")}
        self._head = self._changed("prefill", (1, 128, 128), (2, 64, 128))
        self._long["prefill"] |= {name for name in self._head if not _of_sequences(name)}
        self._head -= self._long["prefill"]
        calls = self.calls("prefill", 1, 1, 1) if workload.two_batches else ()
        self._sent = {call.name for call in calls if sent_to_experts(call)}

    def calls(self, phase: str, batch: Any, q_len: Any, kv_len: Any) -> tuple[OpCall, ...]:
        step = self._workload.step(phase, q_len, kv_len)._replace(batch=batch)
        return tuple(self._workload.forward_ops(step))

    def _changed(self, phase: str, one: tuple[int, int, int], two: tuple[int, int, int]) -> set[str]:
        first, second = (self.calls(phase, *shape) for shape in (one, two))
        names = {a.name for a, b in zip(first, second, strict=True) if a.op != b.op}
        return names | {call.name for call in first if call.op.family in ("attention", "mla")}

    def plain(self, phase: str, tokens: Any) -> list[OpCall]:
        left_out = self._long[phase] | self._long["prefill"] | self._head | self._sent
        calls = self.calls(phase, tokens, 1, 1)
        return [call for call in calls if call.name not in left_out]

    def sent(self, phase: str, tokens: Any) -> list[OpCall]:
        return [call for call in self.calls(phase, tokens, 1, 1) if call.name in self._sent]

    def head(self, phase: str, sequences: Any) -> list[OpCall]:
        return [call for call in self.calls(phase, sequences, 1, 1) if call.name in self._head]

    def cached(self, phase: str, batch: Any, q_len: Any, kv_len: Any) -> list[OpCall]:
        names = self._long[phase] | self._long["prefill"]
        return [call for call in self.calls(phase, batch, q_len, kv_len) if call.name in names - self._head]


def _of_sequences(name: str) -> bool:
    return name == "lm_head" or name.startswith("logits")


def _doublings(first: int, last: int) -> NDArray[np.int64]:
    """first, 2·first, … up to a size that is at least last."""
    return first * 2 ** np.arange(0, math.ceil(math.log2(last / first)) + 1)
