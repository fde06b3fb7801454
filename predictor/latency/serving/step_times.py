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
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from predictor.estimators.bundle import Bundle
from predictor.hardware.gpu import Gpu
from predictor.latency.steps import op_lines, total
from predictor.ops.dtypes import Array
from predictor.workloads.passes.calls import OpCall
from predictor.workloads.workload import Workload

ENDS = ("value", "low", "high")
TOKENS_PER_OCTAVE = 2  # grid of the token-only ops: tile effects are coarser than this
CACHED_OCTAVES = tuple(range(4, 21))  # cached tokens per sequence, 16 to 2**20
PAST_OCTAVES = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 5.0, 6.0, 8.0, 10.0)  # log2((past + new) / new) of a chunk
SHORTEST_CHUNK = 16  # tokens; shorter chunks cost as much attention as this one


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


@dataclass(frozen=True, slots=True)
class StepTable:
    """Seconds by cell at one end of the interval; a StepTime.

    plain[phase][tokens]: ops of all tokens. head[sequences]: output head. decode[sequences][octave of cached tokens].
    prefill: (octave of tokens in the step, octave of tokens per sequence, PAST_OCTAVES) log seconds.
    """

    plain: tuple[list[float], list[float]]
    head: list[float]
    decode: list[list[float]]
    prefill: Array
    launches: float
    seen: dict[tuple[int, int, int], float]

    def decode_s(self, sequences: int, cached: float, tokens: int = 1) -> float:
        """Decode only. Beyond the last column of the grid time grows with the count."""
        new = sequences * tokens
        return _at(self.plain[1], new) + _at(self.head, new) + self._decode_attention(sequences, cached)

    def mixed_s(self, chunks: Sequence[Chunk], sequences: int, cached: float, tokens: int = 1) -> float:
        """All tokens together through the linear layers, attention apart."""
        prompt = sum(chunk.new for chunk in chunks)
        new = sequences * tokens
        attention = self._decode_attention(sequences, cached) if sequences else 0.0
        attention += sum(chunk.new * self._prefill_attention(prompt, *chunk) for chunk in chunks) / prompt
        return _at(self.plain[0], prompt + new) + _at(self.head, len(chunks) + new) + attention

    def _decode_attention(self, sequences: int, cached: float) -> float:
        row = self.decode[min(sequences, len(self.decode) - 1)]
        octave = math.log2(max(cached, 1.0)) - CACHED_OCTAVES[0]
        place = min(max(int(octave), 0), len(row) - 2)
        share = max(octave - place, 0.0)
        return float(row[place] * (row[place + 1] / row[place]) ** share) * max(1.0, sequences / (len(self.decode) - 1))

    def _prefill_attention(self, prompt: int, new: int, past: int) -> float:
        """Seconds of attention if all `prompt` tokens of the step were sequences of `new` tokens after `past`."""
        key = (prompt, new, past)
        if (per_token := self.seen.get(key)) is None:
            new = max(new, SHORTEST_CHUNK)
            places = (
                math.log2(max(prompt, new) / SHORTEST_CHUNK),
                math.log2(new / SHORTEST_CHUNK),
                float(np.interp(math.log2((past + new) / new), PAST_OCTAVES, np.arange(len(PAST_OCTAVES)))),
            )
            per_token = self.seen[key] = math.exp(_interpolate(self.prefill, places))
        return per_token


@dataclass(frozen=True, slots=True)
class StepTimes:
    """Step times of a workload on a GPU, and the low and high ends of their interval."""

    value: StepTime
    low: StepTime
    high: StepTime


def step_times(workload: Workload, gpu: Gpu, bundle: Bundle, max_tokens: int, max_sequences: int) -> StepTimes:
    """Predicts every cell in one go; the workload's own batch and lengths do not matter.

    max_tokens: tokens of the largest step. max_sequences: of the largest decode step. Both are those of one replica.
    """
    batches = _doublings(1, max_sequences)
    tokens = np.unique(np.rint(2.0 ** np.arange(0, math.log2(max_tokens) + 0.51, 1 / TOKENS_PER_OCTAVE))).astype(int)
    chunk_sizes = _doublings(SHORTEST_CHUNK, max(max_tokens, 2 * SHORTEST_CHUNK))
    prefills = [(n, q, r) for n in chunk_sizes for q in chunk_sizes if q <= n for r in PAST_OCTAVES]
    ops = _Split(workload)
    launches = sum(call.count for call in ops.calls("prefill", 1, 64, 64))
    heads = np.unique(np.concatenate([batches, [max_sequences + max_tokens // SHORTEST_CHUNK]]))
    grid = np.array([(b, 1, 2**kv) for b in batches for kv in CACHED_OCTAVES]).T
    cube_cells = np.array([(n // q, q, max(q, round(q * 2.0**r))) for n, q, r in prefills]).T
    kinds = [
        _Cells("prefill", ops.plain, (tokens,)),
        _Cells("decode", ops.plain, (tokens,)),
        _Cells("decode", ops.head, (heads,)),
        _Cells("decode", ops.cached, tuple(grid)),
        _Cells("prefill", ops.cached, tuple(cube_cells)),
    ]
    cells = _seconds(kinds, workload, gpu, bundle)
    ends = []
    for parts in zip(*cells, strict=True):
        cube = np.full((len(chunk_sizes), len(chunk_sizes), len(PAST_OCTAVES)), np.nan)
        place = {int(size): i for i, size in enumerate(chunk_sizes)}
        for (n, q, r), seconds in zip(prefills, parts[4], strict=True):
            cube[place[int(n)], place[int(q)], PAST_OCTAVES.index(r)] = seconds
        for q in range(1, len(chunk_sizes)):  # fewer tokens than one sequence has: as that sequence
            cube[:q, q] = cube[q, q]
        rows = parts[3].reshape(len(batches), len(CACHED_OCTAVES))
        every = np.arange(1, max_sequences + 1, dtype=np.int64)
        decode = np.stack([_dense(batches, rising, every) for rising in np.maximum.accumulate(rows, axis=1).T], axis=1)
        ends.append(
            StepTable(
                plain=(_counted(tokens, parts[0]), _counted(tokens, parts[1])),
                head=_counted(heads, parts[2]),
                decode=[decode[0].tolist(), *decode.tolist()],
                prefill=np.log(np.maximum.accumulate(np.maximum.accumulate(cube, axis=2), axis=0)),
                launches=launches,
                seen={},
            )
        )
    return StepTimes(*ends)


class _Cells(NamedTuple):
    """Steps of one kind. ops: phase and sizes → calls. sizes: what `ops` takes, each (n_cells,)."""

    phase: str
    ops: Callable[..., list[OpCall]]
    sizes: tuple[NDArray[np.int64], ...]


def _seconds(kinds: Sequence[_Cells], workload: Workload, gpu: Gpu, bundle: Bundle) -> list[Array]:
    """Seconds of each kind of steps and their ends, each (3, n_cells); an architecture may lack a kind of op."""
    if workload.in_columns:
        steps = [[(kind.phase, kind.ops(kind.phase, *kind.sizes))] for kind in kinds]
    else:
        rows = [zip(*(size.tolist() for size in kind.sizes), strict=True) for kind in kinds]
        steps = [
            [(kind.phase, kind.ops(kind.phase, *cell)) for cell in cells]
            for kind, cells in zip(kinds, rows, strict=True)
        ]
    lines = iter(
        op_lines([step for of_kind in steps for step in of_kind], gpu, workload.engine, bundle, workload.links)
    )
    seconds = []
    for kind, of_kind in zip(kinds, steps, strict=True):
        totals = np.array([np.broadcast_arrays(*total(next(lines), gpu, bundle)) for _ in of_kind])
        of_cells = np.moveaxis(totals, 0, -1) if totals.ndim == 2 else totals[0]
        seconds.append(np.maximum(np.broadcast_to(of_cells, (3, len(kind.sizes[0]))), 1e-9))
    return seconds


class _Split:
    """The op list of a model in three: what depends on tokens only, on sequences, and on cached or own length."""

    def __init__(self, workload: Workload) -> None:
        self._workload = workload
        self._long = {phase: self._changed(phase, (2, 64, 64), (2, 64, 128)) for phase in ("prefill", "decode")}
        self._head = self._changed("prefill", (1, 128, 128), (2, 64, 128))
        self._long["prefill"] |= {name for name in self._head if not _of_sequences(name)}
        self._head -= self._long["prefill"]

    def calls(self, phase: str, batch: Any, q_len: Any, kv_len: Any) -> tuple[OpCall, ...]:
        step = self._workload.step(phase, q_len, kv_len)._replace(batch=batch)
        return tuple(self._workload.forward_ops(step))

    def _changed(self, phase: str, one: tuple[int, int, int], two: tuple[int, int, int]) -> set[str]:
        first, second = (self.calls(phase, *shape) for shape in (one, two))
        names = {a.name for a, b in zip(first, second, strict=True) if a.op != b.op}
        return names | {call.name for call in first if call.op.family in ("attention", "mla")}

    def plain(self, phase: str, tokens: Any) -> list[OpCall]:
        left_out = self._long[phase] | self._long["prefill"] | self._head
        calls = self.calls(phase, tokens, 1, 1)
        return [call for call in calls if call.name not in left_out]

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


def _dense(at: NDArray[Any], seconds: Array, every: NDArray[np.int64]) -> Array:
    """log-log interpolation of rising seconds at whole numbers."""
    return np.exp(np.interp(np.log(every), np.log(at), np.log(np.maximum.accumulate(seconds))))


def _counted(at: NDArray[Any], seconds: Array) -> list[float]:
    """seconds by count; index 0 is 0 s."""
    return [0.0, *_dense(at, seconds, np.arange(1, int(at[-1]) + 1, dtype=np.int64)).tolist()]


def _at(column: list[float], count: int) -> float:
    last = len(column) - 1
    return column[count] if count <= last else column[last] * count / last


def _interpolate(cube: Array, places: tuple[float, float, float]) -> float:
    """Linear in each of three directions; beyond the grid as at its edge."""
    part = cube
    for place in places:
        last = part.shape[0] - 1
        low = min(max(int(place), 0), last)
        share = min(max(place - low, 0.0), 1.0)
        part = part[low] if low == last or share == 0.0 else part[low] * (1 - share) + part[low + 1] * share
    return float(part)
