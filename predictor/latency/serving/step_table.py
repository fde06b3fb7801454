"""How long steps take, read from a table in microseconds, or as columns of many steps."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from predictor.ops.dtypes import Array

ENDS = ("value", "low", "high")
CACHED_OCTAVES = tuple(range(4, 21))  # cached tokens per sequence, 16 to 2**20
LAST_CACHED = len(CACHED_OCTAVES) - 2
PAST_OCTAVES = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0, 10.0)  # log2((past + new) / new) of a chunk
SHORTEST_CHUNK = 16  # tokens; shorter chunks cost as much attention as this one
FIRST_CHUNK = math.log2(SHORTEST_CHUNK)
MOST_CHUNKS = 2**14  # whose places on the grid are remembered


class Chunk(NamedTuple):
    """Prompt tokens of one sequence that a step computes: `new` ones after `past` cached ones."""

    new: int
    past: int


@dataclass(frozen=True)
class Computed:
    """What each of some steps computes, as columns.

    sequences, cached: (n_steps,) that decode, and the tokens that each of them has cached on average. step, new, past:
    (n_chunks,) of prompts: the step of each, rising, and its tokens as in Chunk.
    """

    sequences: NDArray[np.int64]
    cached: Array
    step: NDArray[np.int64]
    new: NDArray[np.int64]
    past: NDArray[np.int64]

    @cached_property
    def chunks(self) -> NDArray[np.int64]:
        """Prompt chunks of each step, (n_steps,)."""
        return np.bincount(self.step, minlength=len(self.sequences))

    @cached_property
    def prompt(self) -> Array:
        """Prompt tokens of each step, (n_steps,)."""
        return np.bincount(self.step, self.new, minlength=len(self.sequences)).astype(np.float64)

    @cached_property
    def held(self) -> tuple[NDArray[np.int64], Array]:
        """The place of `cached` among CACHED_OCTAVES, and the share of the way to the next, (n_steps,)."""
        octave = np.log2(np.maximum(self.cached, 2.0 ** CACHED_OCTAVES[0])) - CACHED_OCTAVES[0]
        place = np.minimum(octave.astype(np.int64), LAST_CACHED)
        return place, octave - place

    @cached_property
    def prompts(self) -> tuple[Array, Array, NDArray[np.int64], Array]:
        """Of each chunk the octaves of its step's prompt tokens and of its own above SHORTEST_CHUNK, the last of
        PAST_OCTAVES before it and the share of the way to the next, (n_chunks,)."""
        lengths = np.maximum(self.new, SHORTEST_CHUNK)
        ratio = np.where(self.past > 0, np.log2((self.past + lengths) / lengths), 0.0)
        past = np.minimum(np.searchsorted(PAST_OCTAVES, ratio, side="right") - 1, len(PAST_OCTAVES) - 2)
        low, high = np.array(PAST_OCTAVES)[[past, past + 1]]
        octave = (np.log2(np.maximum(self.prompt, SHORTEST_CHUNK)) - FIRST_CHUNK)[self.step]
        return octave, np.log2(lengths) - FIRST_CHUNK, past, np.minimum((ratio - low) / (high - low), 1.0)


class StepTime(Protocol):
    """How long one step runs on the GPU."""

    @property
    def launches(self) -> float:
        """Operators that the host launches one by one in a step with prompts."""

    def decode_s(self, sequences: int, cached: float, tokens: int = 1) -> float:
        """Seconds of a step of `sequences` with `cached` tokens each on average, `tokens` new ones per sequence."""

    def mixed_s(self, chunks: Sequence[Chunk], sequences: int, cached: float, tokens: int = 1) -> float:
        """Seconds of a step that also computes prompt chunks."""

    def steps_s(self, computed: Computed, tokens: int = 1) -> Array:
        """Seconds of many steps at once, (n_steps,): of each with prompts as mixed_s, of others as decode_s."""


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

    def steps_s(self, computed: Computed, tokens: int = 1) -> Array:
        """As of the steps, but longer."""
        return self.share * self.steps.steps_s(computed, tokens)


class Curve(dict[int, float]):
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

    def of(self, counts: NDArray[Any]) -> Array:
        """Those of many counts, as columns."""
        beyond = np.maximum(counts / self.at[-1], 1.0)
        seconds = np.exp(np.interp(np.log(np.maximum(counts, 1)), np.log(self.at), self.logs)) * beyond
        return np.where(counts > 0, seconds, 0.0)


class Rows(dict[int, list[float]]):
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

    def of(self, sequences: NDArray[np.int64], column: NDArray[np.int64], beyond: Array) -> Array:
        """Seconds of attention of many counts of sequences, as columns; column, beyond: as Computed.held."""
        at, logs = np.array(self.at), np.array(self.logs)
        held = np.clip(sequences, 1, min(self.most, self.at[-1]))
        row = np.searchsorted(at, held, side="right") - 1
        after = np.minimum(row + 1, len(at) - 1)
        share = np.log(held / at[row]) / np.log(np.maximum(at[after] / at[row], 2.0))
        low, high = (_blend(logs[row, place], logs[after, place], share) for place in (column, column + 1))
        return np.asarray(np.exp(_blend(low, high, beyond)) * np.maximum(sequences / self.most, 1.0))


@dataclass(frozen=True, slots=True)
class StepTable:
    """Seconds by cell at one end of the interval; a StepTime.

    plain[phase][tokens]: seconds of the ops of all tokens. head[sequences]: of the output head.
    decode[sequences][octave of cached tokens]: log seconds of attention. prefill: the same by octave of tokens in the
    step, octave of tokens per sequence, PAST_OCTAVES.
    sent[tokens]: of sending tokens to their experts and back, where one half of a step does so while the other computes
    (two-batch overlap): neither the GPU nor its links do two things at once, so a half takes the longer of both.
    """

    plain: tuple[Curve, Curve]
    head: Curve
    decode: Rows
    prefill: list[list[list[float]]]
    launches: float
    sent: Curve | None = None

    def steps_s(self, computed: Computed, tokens: int = 1) -> Array:
        """As decode_s and mixed_s."""
        chunks, prompt, sequences = computed.chunks, computed.prompt, computed.sequences
        mixed, new, heads = chunks > 0, prompt + sequences * tokens, chunks + sequences * tokens
        if self.sent is not None:  # of each half
            halved = np.where(mixed, sequences, -(-sequences // 2))
            new = np.where(mixed, -(-new // 2), halved * tokens)
            heads = np.where(mixed, -(-heads // 2), halved * tokens)
        else:
            halved = sequences
        decoding = np.where(sequences > 0, self.decode.of(halved, *computed.held), 0.0)
        attention = self._prompts_s(computed, prompt) + decoding
        if self.sent is not None:
            attention = np.where(mixed, attention / 2, attention)
        seconds = np.where(mixed, self.plain[0].of(new), self.plain[1].of(new)) + self.head.of(heads) + attention
        if self.sent is None:
            return seconds
        sent = self.sent.of(new)
        return np.where(~mixed & (sequences == 1), seconds + sent, 2 * np.maximum(seconds, sent))

    def _prompts_s(self, computed: Computed, prompt: Array) -> Array:
        """Seconds of attention of the prompts of each step, (n_steps,), as _prefill_attention has them."""
        if not computed.step.size:
            return np.zeros(len(prompt))
        logs, last = np.array(self.prefill), len(self.prefill) - 1
        *octaves, past, past_share = computed.prompts
        (step, share), (own, own_share) = (_places(at, last) for at in octaves)

        def of_step(step: NDArray[np.int64]) -> Array:
            one, two = (
                _blend(logs[step, length, past], logs[step, length, past + 1], past_share)
                for length in (own, np.minimum(own + 1, last))
            )
            return np.asarray(_blend(one, two, own_share))

        seconds = np.exp(_blend(of_step(step), of_step(np.minimum(step + 1, last)), share))
        weighed = np.bincount(computed.step, computed.new * seconds, minlength=len(prompt))
        return np.asarray(weighed / np.maximum(prompt, 1))

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
        if len(chunks) == 1:
            prompt, past = chunks[0]
            octave = math.log2(prompt) - FIRST_CHUNK if prompt > SHORTEST_CHUNK else 0.0
            attention = self._prefill_attention(octave, prompt, past)
        else:
            prompt = 0
            for chunk in chunks:
                prompt += chunk[0]
            octave = math.log2(prompt) - FIRST_CHUNK if prompt > SHORTEST_CHUNK else 0.0
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


def _between(at: list[int], count: int) -> tuple[int, float]:
    """The last point that is at most `count`, and the share of the way to the next, in logarithms."""
    place = bisect_right(at, count) - 1
    return place, math.log(count / at[place]) / math.log(at[place + 1] / at[place])


def _blend(low: Any, high: Any, share: Any) -> Any:
    return low + (high - low) * share


def _places(octaves: Array, last: int) -> tuple[NDArray[np.int64], Array]:
    """The last point that is at most each of these, and the share of the way to the next; at the edge the edge."""
    place = np.minimum(octaves.astype(np.int64), last)
    return place, np.where(place < last, octaves - place, 0.0)


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
