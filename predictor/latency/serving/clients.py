"""What clients send: how many requests, how long, and when."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from itertools import cycle, islice
from operator import add

import numpy as np
from numpy.typing import NDArray

from predictor.errors import InvalidRequest
from predictor.latency.serving.traces import Trace
from predictor.values import whole_number

ROUNDS = 10  # requests per client: what InferenceX and most published runs send, the first wave counted
OPEN_REQUESTS = 500  # requests of a run at a rate
MOST_SHARED = 10_000_000  # of a run that replicas share
MOST_REQUESTS = 100_000  # of a simulation; a second for some ten thousand of them
SLOWEST_MET = 1e-6  # requests per second, below which no two meet; a clock that ran on would lose their milliseconds
FEWEST_ROUNDS, MANY_REQUESTS = 2, 50_000  # of so many clients that ten requests of each would be more


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """What clients send; checked on creation (InvalidRequest).

    input_len, output_len: tokens of the longest request. spread: lengths lie evenly between this share below them and
    them (1 - random-range-ratio of vLLM's benchmark). concurrency: clients, each sending its next request when the last
    is answered, all starting together; or rate: requests per second that arrive at random (Poisson). requests: in all,
    10 per client or 500. trace: lengths of requests in place of those, and maybe when they arrive, in place of both.
    turns: requests of a session, each prompt being all that came before and input_len new tokens. shared: tokens that
    all prompts begin with besides. Both are cached, as is prefix_cache_hit_rate, a share of each prompt.
    draft_tokens: tokens proposed per step and sequence, each right with probability `acceptance`, at no cost but that
    of checking them. beams: of each request, which share its prompt. seed: of arrivals and lengths.
    """

    input_len: int
    output_len: int
    concurrency: int = 0
    rate: float = 0.0
    requests: int = 0
    spread: float = 0.0
    turns: int = 1
    shared: int = 0
    prefix_cache_hit_rate: float = 0.0
    draft_tokens: int = 0
    acceptance: float = 0.0
    beams: int = 1
    seed: int = 0
    trace: Trace | None = None
    stated: bool = field(default=False, init=False)  # whether the number of requests was

    def __post_init__(self) -> None:
        """Checks every field and sets the number of requests."""
        for name in ("input_len", "output_len", "turns", "beams"):
            whole_number(name, getattr(self, name))
        for name in ("concurrency", "requests", "draft_tokens", "shared"):
            if getattr(self, name):
                whole_number(name, getattr(self, name))
        for name in ("spread", "prefix_cache_hit_rate", "acceptance"):
            if not 0.0 <= (value := getattr(self, name)) <= 1.0:
                raise InvalidRequest(f"{name} is {value:g}; it must lie between 0 and 1.")
        timed = self.trace is not None and self.trace.arrivals_s is not None
        if (self.concurrency > 0) + (self.rate > 0) + timed != 1 or not 0.0 <= self.rate < math.inf:
            if self.trace and not timed:
                raise InvalidRequest("the trace says no arrivals; give concurrency or request_rate beside it.")
            raise InvalidRequest(
                f"concurrency is {self.concurrency} and rate {self.rate:g}; give exactly one of them, above 0"
                f"{', or neither with a trace of arrivals' if self.trace else ''}."
            )
        object.__setattr__(self, "stated", bool(self.requests))
        if not self.requests:
            rounds = max(min(ROUNDS, MANY_REQUESTS // max(self.concurrency, 1)), FEWEST_ROUNDS)
            usual = rounds * self.concurrency or OPEN_REQUESTS
            object.__setattr__(self, "requests", len(self.trace.input_len) if self.trace else usual)
        if self.requests > MOST_SHARED:
            raise InvalidRequest(
                f"the run has {self.requests} requests; it must have at most {MOST_SHARED}. Lower concurrency or "
                "num_prompts."
            )

    @property
    def tokens_per_step(self) -> float:
        """Tokens that a sequence gains per step: 1 + a + a² + … (Leviathan et al., arXiv:2211.17192, eq. 1)."""
        return sum(self.acceptance**i for i in range(self.draft_tokens + 1))

    @property
    def settles(self) -> bool:
        """Whether the run may be as long as it takes to settle: arrivals at a rate, as many as are needed."""
        return self.rate > 0 and self.trace is None and not self.stated

    @property
    def offered_rate(self) -> float:
        """Requests per second that arrive whatever was answered; 0 of clients, who wait."""
        if self.concurrency or self.rate:
            return self.rate
        assert self.trace and self.trace.arrivals_s
        span_s = self.trace.arrivals_s[-1]
        return len(self.trace.arrivals_s) / span_s if span_s > 0 else 0.0

    @property
    def longest(self) -> int:
        """Tokens of the longest request, its answer included."""
        if self.trace:
            return int(max(map(add, self.trace.input_len, self.trace.output_len)))
        return self.shared + self.turns * (self.input_len + self.output_len)

    @property
    def held(self) -> int:
        """Tokens that the longest request has in the cache at its end: its prompt, and the answer of each beam."""
        if self.trace:
            return int(max(map(add, self.trace.input_len, [self.beams * own for own in self.trace.output_len])))
        return self.longest + (self.beams - 1) * self.output_len

    @property
    def mean_len(self) -> tuple[float, float, float]:
        """Tokens of the mean prompt, of those that are cached already, and of the mean answer."""
        if self.trace:
            totals = [sum(column) for column in self._of_trace()]
            prompt, cached, output = (total / self.requests for total in totals)
        else:
            new, output = (most * (1 - self.spread / 2) for most in (self.input_len, self.output_len))
            cached = self.shared + (self.turns - 1) / 2 * (new + output)
            prompt = new + cached
        cached = max(cached, self.prefix_cache_hit_rate * prompt)
        return prompt, min(cached, prompt - 1), output

    def lengths(self) -> tuple[list[int], list[int], list[int]]:
        """Prompt tokens, those of them that are cached already, and output tokens of every request."""
        if self.trace:
            prompts, cached, outputs = map(np.array, self._of_trace())
        else:
            random = np.random.default_rng(self.seed)
            ranges = [(max(1, int(most * (1 - self.spread))), most + 1) for most in (self.input_len, self.output_len)]
            new, outputs = (random.integers(*ends, self.requests) for ends in ranges)
            each = (self.input_len + self.output_len) * (1 - self.spread / 2)
            cached = self.shared + np.rint(self._turns() * each).astype(int)
            prompts = new + cached
        known = np.rint(self.prefix_cache_hit_rate * prompts).astype(int)
        cached = np.minimum(np.maximum(cached, known), prompts - 1)
        return prompts.tolist(), cached.tolist(), outputs.tolist()

    def _turns(self) -> NDArray[np.int64]:
        """Which turn of its session each request is. Sessions of clients begin evenly spread over their turns."""
        request, clients = np.arange(self.requests), self.concurrency or self.turns
        return (request // clients + request) % self.turns

    def _of_trace(self) -> tuple[list[int], list[int], list[int]]:
        """The columns of the trace, as often as there are requests."""
        assert self.trace
        columns = (self.trace.input_len, self.trace.cached, self.trace.output_len)
        prompts, cached, outputs = (list(islice(cycle(column), self.requests)) for column in columns)
        return prompts, cached, outputs

    def arrivals(self) -> list[float]:
        """Seconds at which requests arrive whatever was answered; of clients those of the first of each."""
        if self.concurrency:
            return [0.0] * min(self.concurrency, self.requests)
        if self.rate:
            gaps = np.random.default_rng(self.seed).exponential(1.0, self.requests)
            clock = max(self.rate, SLOWEST_MET)
            return list((np.cumsum(gaps) * self.requests / gaps.sum() / clock).tolist())  # at that rate exactly
        assert self.trace and self.trace.arrivals_s
        return list(self.trace.arrivals_s[: self.requests])
