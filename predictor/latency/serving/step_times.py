"""Step times of an engine: predicted once on grids, read in microseconds by the simulation of
predictor.latency.serving.load.

A step carries some tokens that are prefilled and some sequences that each decode. What depends on the number of tokens
only (linear layers, norms, experts, all-reduces) runs once over all of them; attention runs apart over the prefilled
and over the decoding sequences; the output head runs over the sequences that need a next token. Which ops those are is
seen by comparing op lists, so a model of any architecture is split alike.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from functools import lru_cache
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from predictor.errors import PredictorError
from predictor.estimators.bundle import Bundle
from predictor.hardware.gpu import Gpu
from predictor.latency.report import OpLine
from predictor.latency.steps import Steps, op_lines_of_many, total
from predictor.ops.dtypes import Array
from predictor.workloads.architectures.decoder import Decoder
from predictor.workloads.architectures.layered import LayeredDecoder
from predictor.workloads.passes.calls import OpCall, Phase
from predictor.workloads.workload import Workload, sent_to_experts

ENDS = ("value", "low", "high")
TOKENS_PER_OCTAVE = 2  # grid of the token-only ops: tile effects are coarser than this
CACHED_OCTAVES = tuple(range(4, 21))  # cached tokens per sequence, 16 to 2**20
LAST_CACHED = len(CACHED_OCTAVES) - 2
PAST_OCTAVES = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0, 10.0)  # log2((past + new) / new) of a chunk
SHORTEST_CHUNK = 16  # tokens; shorter chunks cost as much attention as this one
# Step times depend on all of a workload but these; the model is known by its identity, and what is set of the engine by
# Workload.longest, captures and two_batches.
OF_NO_STEP = frozenset(
    {"model", "settings", "batch", "input_len", "output_len", "dp", "stored_bytes", "draft", "beam_width"}
)
SETTINGS = tuple(field.name for field in fields(Workload) if field.name not in OF_NO_STEP)
FIRST_CHUNK = math.log2(SHORTEST_CHUNK)
MOST_KEPT = 64  # step times that are remembered, some 100 KiB each
MOST_CHUNKS = 2**14  # whose places on the grid are remembered


class Chunk(NamedTuple):
    """Prompt tokens of one sequence that a step computes: `new` ones after `past` cached ones."""

    new: int
    past: int


class StepTime(Protocol):
    """How long one step runs on the GPU."""

    @property
    def launches(self) -> float:
        """Operators that the host launches one by one in a step with prompts."""

    def decode_s(self, sequences: int, cached: float, tokens: int = 1) -> float:
        """Seconds of a step of `sequences` with `cached` tokens each on average, `tokens` new ones per sequence."""

    def mixed_s(self, chunks: Sequence[Chunk], sequences: int, cached: float, tokens: int = 1) -> float:
        """Seconds of a step that also computes prompt chunks."""


class Slower(NamedTuple):
    """A StepTime whose steps take `share` times as long."""

    steps: StepTime
    share: float

    @property
    def launches(self) -> float:
        """As of the steps."""
        return self.steps.launches

    def decode_s(self, sequences: int, cached: float, tokens: int = 1) -> float:
        """As of the steps, but longer."""
        return self.share * self.steps.decode_s(sequences, cached, tokens)

    def mixed_s(self, chunks: Sequence[Chunk], sequences: int, cached: float, tokens: int = 1) -> float:
        """As of the steps, but longer."""
        return self.share * self.steps.mixed_s(chunks, sequences, cached, tokens)


class _Curve(dict[int, float]):
    """Seconds by count, each made when it is first asked for: log-log between the points of a grid, where they rise.

    Nothing takes no time; beyond the last point time grows with the count.
    """

    __slots__ = ("at", "logs")

    def __init__(self, at: NDArray[Any], seconds: Array) -> None:
        super().__init__({0: 0.0})
        self.at: list[int] = at.tolist()
        self.logs: list[float] = np.log(np.maximum.accumulate(seconds)).tolist()

    def __missing__(self, count: int) -> float:
        if count >= self.at[-1]:
            seconds = math.exp(self.logs[-1]) * count / self.at[-1]
        else:
            place, share = _between(self.at, count)
            seconds = math.exp(_blend(self.logs[place], self.logs[place + 1], share))
        self[count] = seconds
        return seconds


class _Rows(dict[int, list[float]]):
    """Log seconds of attention, a list over CACHED_OCTAVES, by sequences that decode; made when first asked for."""

    __slots__ = ("at", "logs", "most")

    def __init__(self, at: NDArray[Any], seconds: Array, most: int) -> None:
        """seconds: (counts of `at`, octaves). most: sequences of the largest step; more take longer in proportion."""
        super().__init__()
        self.at: list[int] = at.tolist()
        rising = np.maximum.accumulate(np.maximum.accumulate(seconds, axis=1), axis=0)
        self.logs: list[list[float]] = np.log(rising).tolist()
        self.most = most

    def __missing__(self, sequences: int) -> list[float]:
        if sequences > self.most:
            row = [seconds + math.log(sequences / self.most) for seconds in self[self.most]]
        elif sequences >= self.at[-1]:
            row = self.logs[-1]
        else:
            place, share = _between(self.at, sequences)
            pairs = zip(self.logs[place], self.logs[place + 1], strict=True)
            row = [_blend(low, high, share) for low, high in pairs]
        self[sequences] = row
        return row


@dataclass(frozen=True, slots=True)
class StepTable:
    """Seconds by cell at one end of the interval; a StepTime.

    plain[phase][tokens]: seconds of the ops of all tokens. head[sequences]: of the output head.
    decode[sequences][octave of cached tokens]: log seconds of attention. prefill: the same by octave of tokens in the
    step, octave of tokens per sequence, PAST_OCTAVES.
    sent[tokens]: of sending tokens to their experts and back, where one half of a step does so while the other computes
    (two-batch overlap): neither the GPU nor its links do two things at once, so a half takes the longer of both.
    """

    plain: tuple[_Curve, _Curve]
    head: _Curve
    decode: _Rows
    prefill: list[list[list[float]]]
    launches: float
    sent: _Curve | None = None

    def decode_s(self, sequences: int, cached: float, tokens: int = 1) -> float:
        """Decode only. Beyond the last column of the grid time grows with the count."""
        new = sequences * tokens
        if self.sent is not None:
            if sequences == 1:  # cannot be halved
                return self.plain[1][new] + self.head[new] + self._decode_attention(1, cached) + self.sent[new]
            half = -(-sequences // 2)
            new = half * tokens
            computed_s = self.plain[1][new] + self.head[new] + self._decode_attention(half, cached)
            return 2 * max(computed_s, self.sent[new])
        return self.plain[1][new] + self.head[new] + self._decode_attention(sequences, cached)

    def mixed_s(self, chunks: Sequence[Chunk], sequences: int, cached: float, tokens: int = 1) -> float:
        """All tokens together through the linear layers, attention apart."""
        new = sequences * tokens
        prompt = chunks[0][0]
        for chunk in chunks[1:]:
            prompt += chunk[0]
        octave = math.log2(prompt) - FIRST_CHUNK if prompt > SHORTEST_CHUNK else 0.0
        if len(chunks) == 1:
            attention = self._prefill_attention(octave, *chunks[0])
        else:
            attention, seconds, before = 0.0, 0.0, None
            for chunk in chunks:
                if chunk is not before:  # most are the one before
                    seconds, before = chunk[0] * self._prefill_attention(octave, *chunk), chunk
                attention += seconds
            attention /= prompt
        if sequences:
            attention += self._decode_attention(sequences, cached)
        if self.sent is not None:
            half = -(-(prompt + new) // 2)
            computed_s = self.plain[0][half] + self.head[-(-(len(chunks) + new) // 2)] + attention / 2
            return 2 * max(computed_s, self.sent[half])
        return self.plain[0][prompt + new] + self.head[len(chunks) + new] + attention

    def _decode_attention(self, sequences: int, cached: float) -> float:
        row = self.decode[sequences]
        octave = math.log2(cached) - CACHED_OCTAVES[0] if cached > 1.0 else 0.0
        if octave <= 0.0:
            return math.exp(row[0])
        place = int(octave)
        if place > LAST_CACHED:
            place = LAST_CACHED
        low = row[place]
        return math.exp(low + (row[place + 1] - low) * (octave - place))

    def _prefill_attention(self, octave: float, new: int, past: int) -> float:
        """Seconds of attention if all tokens of a step, 2**octave times SHORTEST_CHUNK, were sequences of `new` tokens
        after `past`; beyond the edge of the grid those at the edge."""
        steps, last, place = self.prefill, len(self.prefill) - 1, int(octave)
        own, share, near, far, past_share = _at(new, past)
        if own >= last:
            own, share = last, 0.0
        if place >= last:
            return math.exp(_read(steps[last], own, share, near, far, past_share))
        low = _read(steps[place], own, share, near, far, past_share)
        high = _read(steps[place + 1], own, share, near, far, past_share)
        return math.exp(low + (high - low) * (octave - place))


@dataclass(frozen=True, slots=True)
class StepTimes:
    """Step times of a workload on a GPU, and the low and high ends of their interval."""

    value: StepTime
    low: StepTime
    high: StepTime


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
        settings = (getattr(self.workload, name) for name in SETTINGS)
        return (
            id(bundle),
            id(self.workload.model),
            id(self.gpu),
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
    """Predicts every cell in one go, once for all that differ in batch and lengths only; arguments as in Asked."""
    asked = Asked(workload, gpu, max_tokens, max_sequences)
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
            asked.append(Asked(workload, gpu, engine.max_batched_tokens, engine.max_sequences))
    step_times_of_many(asked, bundle)


def step_times_of_many(many: Sequence[Asked], bundle: Bundle) -> list[StepTimes | PredictorError]:
    """Step times of many, or why a GPU cannot run them; what is not known yet is predicted together, as columns.

    The last MOST_KEPT are remembered for step_times.
    """
    keys = [asked.key(bundle) for asked in many]
    new = {key: asked for key, asked in zip(keys, many, strict=True) if key not in _kept}
    grids = [_Grid(asked) for asked in new.values()]
    steps = [
        Steps(grid.steps, asked.gpu, asked.workload.engine, asked.workload.links)
        for grid, asked in zip(grids, new.values(), strict=True)
    ]
    made: dict[tuple[Any, ...], StepTimes | PredictorError] = {}
    for key, grid, lines in zip(new, grids, op_lines_of_many(steps, bundle), strict=True):
        made[key] = lines if isinstance(lines, PredictorError) else grid.times(lines, bundle)
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

    def times(self, lines: Sequence[Sequence[OpLine]], bundle: Bundle) -> StepTimes:
        """What the lines of `steps` say."""
        each, seconds = iter(lines), []
        for kind, steps in zip(self.kinds, self.by_kind, strict=True):
            totals = np.array([np.broadcast_arrays(*total(next(each), self.asked.gpu, bundle)) for _ in steps])
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
            plain=(_Curve(sizes.tokens, seconds[0]), _Curve(sizes.tokens, seconds[1])),
            head=_Curve(sizes.heads, seconds[2]),
            decode=_Rows(sizes.batches, seconds[3].reshape(len(sizes.batches), -1), self.asked.max_sequences),
            prefill=np.log(rising).tolist(),
            launches=self.launches,
            sent=_Curve(sizes.tokens, seconds[5]) if len(seconds) > 5 else None,
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


def _between(at: list[int], count: int) -> tuple[int, float]:
    """The last point that is at most `count`, and the share of the way to the next, in logarithms."""
    place = bisect_right(at, count) - 1
    return place, math.log(count / at[place]) / math.log(at[place + 1] / at[place])


def _blend(low: float, high: float, share: float) -> float:
    return low + (high - low) * share


def _read(step: list[list[float]], own: int, share: float, near: int, far: int, past_share: float) -> float:
    """Log seconds of attention between the points around `_at`."""
    one = step[own]
    seconds = one[near]
    if past_share:
        seconds += (one[far] - seconds) * past_share
    if share:
        two = step[own + 1]
        seconds += (two[near] + (two[far] - two[near]) * past_share - seconds) * share
    return seconds


@lru_cache(maxsize=MOST_CHUNKS)
def _at(new: int, past: int) -> tuple[int, float, int, int, float]:
    """Where a chunk of a prompt lies on the grid of attention: the octave of its tokens below it and the share of the
    way to the next, the PAST_OCTAVES around it and the share of the way."""
    new = max(new, SHORTEST_CHUNK)
    octave = math.log2(new) - FIRST_CHUNK
    near, far, past_share = _past((past + new) / new) if past else (0, 0, 0.0)
    return int(octave), octave - int(octave), near, far, past_share


def _past(ratio: float) -> tuple[int, int, float]:
    """The PAST_OCTAVES around a ratio of all tokens to the new ones, and the share of the way."""
    octave, last = math.log2(ratio), len(PAST_OCTAVES) - 1
    low = bisect_right(PAST_OCTAVES, octave) - 1
    if low >= last:
        return last, last, 0.0
    return low, low + 1, (octave - PAST_OCTAVES[low]) / (PAST_OCTAVES[low + 1] - PAST_OCTAVES[low])
