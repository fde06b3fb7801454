"""Rate matching: how many prefill and decode workers (predictor.latency.serving.workers) go together, and what they do.

A pool sustains what its workers do together, and the server what the slower pool does.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from predictor.errors import InvalidRequest
from predictor.latency.report import Interval
from predictor.latency.serving.clients import Load
from predictor.latency.serving.load import DENSE, LogErrors, interval_of
from predictor.latency.serving.step_table import ENDS
from predictor.latency.serving.workers import DecodeLoads, DecodeWorker, PrefillWorker
from predictor.values import whole_number

MAX_PREFILL_LOAD = 0.9  # at 1 the queue has no end; aiconfigurator degrades its prefill pools to 0.9 too
LOAD_STEPS = 100  # of the search for the load that keeps a limit of TTFT
MOST_WORKERS, MOST_RATE = 1_000_000, 1e9
FULL = 0.97  # of what the slower pool can do, above which the wait of clients is what their number leaves; judged
HALVINGS = 10  # of the rate of clients
SAME = 1e-9  # rates that differ by no more than rounding


@dataclass(frozen=True, slots=True, kw_only=True)
class Goal:
    """What the pools have or must do; 0 is not given.

    prefill_workers and decode_workers, or n_gpus to split, or request_rate (requests per second) to size them for.
    concurrency: clients, each sending its next request when the last is answered; with n_gpus the split that answers
    them fastest, alone the fewest workers that have room for all and whose prefill pool is not the slower one.
    max_ttft_s, max_tpot_s: means over requests. max_prefill_load: share of what prefill workers can take.
    """

    prefill_workers: int = 0
    decode_workers: int = 0
    n_gpus: int = 0
    request_rate: float = 0.0
    concurrency: int = 0
    max_ttft_s: float = 0.0
    max_tpot_s: float = 0.0
    max_prefill_load: float = MAX_PREFILL_LOAD

    def __post_init__(self) -> None:
        """Checks every number."""
        for name in ("prefill_workers", "decode_workers", "n_gpus", "concurrency"):
            if getattr(self, name) != 0:
                whole_number(name, getattr(self, name))
            if (value := getattr(self, name)) > MOST_WORKERS:
                raise InvalidRequest(f"{name} is {value}; it must be at most {MOST_WORKERS}.")
        if self.request_rate > MOST_RATE:
            raise InvalidRequest(f"request_rate is {self.request_rate:g}; it must be at most {MOST_RATE:g}.")
        for name in ("request_rate", "max_ttft_s", "max_tpot_s"):
            if not 0 <= (value := getattr(self, name)) < math.inf:
                raise InvalidRequest(f"{name} is {value:g}; it must be at least 0.")
        if not 0 < self.max_prefill_load < 1:
            raise InvalidRequest(f"max_prefill_load is {self.max_prefill_load:g}; it must lie between 0 and 1.")
        if self.concurrency and (self.request_rate or self.max_ttft_s or self.max_tpot_s):
            raise InvalidRequest(
                f"concurrency is {self.concurrency}; clients that wait set the rate and the times themselves. Drop "
                "request_rate, max_ttft_s and max_tpot_s."
            )
        if not (self.n_gpus or self.request_rate or self.concurrency or (self.prefill_workers and self.decode_workers)):
            raise InvalidRequest(
                "the size of the pools is not given; give prefill_workers and decode_workers, n_gpus, or request_rate."
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class Matched:
    """Two pools at the same rate. Latencies are means over requests, seconds; tokens are those put out.

    prefill_load: share of what the prefill pool can take. decode_batch: mean sequences of a decode worker.
    prefill_requests_per_s, decode_requests_per_s: what each pool sustains under the limits.
    limiter: "prefill", "decode", "transfer", or "arrivals" where neither pool is full.
    """

    prefill_workers: int
    decode_workers: int
    ttft_s: Interval
    tpot_s: Interval
    e2e_s: Interval
    requests_per_s: Interval
    tokens_per_s: Interval
    transfer_s: float
    prefill_load: float
    decode_batch: float
    prefill_requests_per_s: float
    decode_requests_per_s: float
    limiter: str


def match(
    prefill: PrefillWorker, decode: DecodeWorker, transfer_s: float, goal: Goal, errors: LogErrors = DENSE
) -> Matched:
    """The pools that meet the goal, and what they do. errors: of the intervals.

    Of a budget of GPUs the split with the most tokens per second is taken; of those the one with the fewest GPUs. For a
    request_rate or clients alone, the fewest workers. The ends of intervals are the same pools with step times at their
    ends.
    """
    takes = prefill.requests_per_s()
    load = _prefill_load(prefill, takes, transfer_s, goal)
    loads = decode.loads()
    allowed = int(bisect_right(loads.tpot_s.tolist(), goal.max_tpot_s or math.inf))
    if not allowed:
        raise InvalidRequest(
            f"max_tpot_s is {goal.max_tpot_s:g}; a decode step takes {loads.tpot_s[0]:.3g} s at least. "
            "Raise max_tpot_s or the tp of decode workers."
        )
    per_worker = load * takes, loads.first(allowed).most
    gpus, clients = (prefill.n_gpus, decode.n_gpus), _Clients(goal.concurrency, takes, loads, decode.output_len - 1)
    if not goal.concurrency or (goal.prefill_workers and goal.decode_workers):
        workers = _split(goal, per_worker, gpus)
    else:
        workers = _shared_by(clients, goal, gpus) if goal.n_gpus else _enough_for(clients, goal)
    pools = workers[0] * per_worker[0], workers[1] * per_worker[1]
    if goal.request_rate > min(pools) * (1 + SAME):
        raise InvalidRequest(
            f"request_rate is {goal.request_rate:g}; {workers[0]} prefill and {workers[1]} decode workers sustain "
            f"{min(pools):.3g} requests/s. Add {'decode' if pools[1] < pools[0] else 'prefill'} workers, lower "
            "request_rate or loosen a limit."
        )
    wanted = float(goal.request_rate or math.inf)

    def told(end: str) -> tuple[float, float, float]:
        """Requests per second, TTFT and TPOT."""
        if goal.concurrency:
            return _closed(prefill, decode, workers, transfer_s, goal.concurrency, end)
        batches, most = decode.loads(end).first(allowed), load * prefill.requests_per_s(end)
        holds = min(workers[0] * most, workers[1] * batches.most)
        rate = min(wanted, holds)
        ttft_s = prefill.ttft_s(rate / workers[0], end) + transfer_s
        return holds, ttft_s, float(batches.tpot_s[batches.least(rate / workers[1])])

    sustained, ttfts, tpots = zip(*map(told, ENDS), strict=True)
    e2es = [ttft + (decode.output_len - 1) * tpot for ttft, tpot in zip(ttfts, tpots, strict=True)]
    rates = Interval(*(min(end, wanted) for end in interval_of("requests_per_s", sustained, errors)))
    return Matched(
        prefill_workers=workers[0],
        decode_workers=workers[1],
        ttft_s=interval_of("ttft_s", ttfts, errors),
        tpot_s=interval_of("tpot_s", tpots, errors),
        e2e_s=interval_of("e2e_s", e2es, errors),
        requests_per_s=rates,
        tokens_per_s=Interval(*(decode.output_len * end for end in rates)),
        transfer_s=transfer_s,
        prefill_load=rates.value / workers[0] / takes,
        decode_batch=rates.value / workers[1] * (decode.output_len - 1) * tpots[0],
        prefill_requests_per_s=pools[0],
        decode_requests_per_s=pools[1],
        limiter=_limiter(rates.value, pools, workers, (prefill, decode), load),
    )


class _Clients(NamedTuple):
    """Clients that wait for their answers. takes: requests per second of a prefill worker. loads: of a decode worker.
    following: tokens after the first."""

    clients: int
    takes: float
    loads: DecodeLoads
    following: int

    def requests_per_s(self, decodes: int) -> float:
        """What so many decode workers answer if first tokens take no time."""
        tpot_s = float(np.interp(self.clients / decodes, self.loads.sequences, self.loads.tpot_s))
        return min(self.clients / (self.following * tpot_s), decodes * self.loads.most)


def _enough_for(clients: _Clients, goal: Goal) -> tuple[int, int]:
    """The fewest prefill and decode workers for clients."""
    decodes = goal.decode_workers or math.ceil(clients.clients / float(clients.loads.sequences[-1]))
    needed = clients.requests_per_s(decodes) / clients.takes
    return goal.prefill_workers or max(math.ceil(needed * (1 - SAME)), 1), decodes


def _shared_by(clients: _Clients, goal: Goal, gpus: tuple[int, int]) -> tuple[int, int]:
    """The split of n_gpus that answers clients fastest: decode workers beside no more prefill workers than keep up, as
    fewer sequences of each make its steps shorter; gpus: of one worker of either pool."""
    prefills = [goal.prefill_workers] if goal.prefill_workers else range(1, goal.n_gpus // gpus[0] + 1)
    rooms = [(count, (goal.n_gpus - count * gpus[0]) // gpus[1]) for count in prefills]
    splits = [(count, goal.decode_workers or room) for count, room in rooms if room >= max(goal.decode_workers, 1)]
    if not splits:
        raise InvalidRequest(_too_few(goal, gpus))

    def merit(split: tuple[int, int]) -> tuple[float, int]:
        rate = min(split[0] * clients.takes, clients.requests_per_s(split[1]))
        return float(f"{rate:.9g}"), -split[0]

    return max(splits, key=merit)


def _closed(
    prefill: PrefillWorker, decode: DecodeWorker, workers: tuple[int, int], transfer_s: float, clients: int, end: str
) -> tuple[float, float, float]:
    """Requests per second, TTFT and TPOT where `clients` wait for their answers: as many as are under way at that rate
    (Little). One that arrives waits for the others, not for itself (arrival theorem). TTFT is the mean of a run, its
    first wave counted, as benchmarks tell it."""
    loads, following = decode.loads(end), decode.output_len - 1
    most = min(workers[0] * prefill.requests_per_s(end), workers[1] * loads.most)
    others = (clients - 1) / clients
    alone_s = prefill.ttft_s(1e-6 * most / workers[0], end)

    # In a run all clients start together, so that half of them wait for the others' first prompts.
    rounds = Load(input_len=prefill.input_len, output_len=decode.output_len, concurrency=clients).requests / clients
    first_s = (clients - 1) / 2 / (workers[0] * prefill.requests_per_s(end))

    def of_run(ttft_s: float) -> float:
        return max(ttft_s, ((rounds - 1) * ttft_s + alone_s + first_s + transfer_s) / rounds)

    def times(rate: float) -> tuple[float, float]:
        wait_s = others * max(prefill.ttft_s(rate / workers[0], end) - alone_s, 0.0)
        tpot_s = float(np.interp(rate / workers[1], loads.requests_per_s, loads.tpot_s))
        return alone_s + wait_s + transfer_s, tpot_s

    low, high = 0.0, FULL * most
    ttft_s, tpot_s = times(high)
    if high * (ttft_s + following * tpot_s) <= clients:
        return most, of_run(max(ttft_s, clients / most - following * tpot_s)), tpot_s
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        ttft_s, tpot_s = times(middle)
        low, high = (low, middle) if middle * (ttft_s + following * tpot_s) > clients else (middle, high)
    ttft_s, tpot_s = times((low + high) / 2)
    return clients / (ttft_s + following * tpot_s), of_run(ttft_s), tpot_s


def _prefill_load(prefill: PrefillWorker, takes: float, transfer_s: float, goal: Goal) -> float:
    """The highest share of `takes`, in steps of 1/LOAD_STEPS, at which TTFT keeps its limit."""
    if not goal.max_ttft_s:
        return goal.max_prefill_load
    shares = [goal.max_prefill_load * step / LOAD_STEPS for step in range(1, LOAD_STEPS + 1)]
    kept = bisect_right(shares, goal.max_ttft_s, key=lambda share: prefill.ttft_s(share * takes) + transfer_s)
    if not kept:
        least = prefill.ttft_s(shares[0] * takes) + transfer_s
        raise InvalidRequest(
            f"max_ttft_s is {goal.max_ttft_s:g}; a prompt takes {least:.3g} s even where none waits. "
            "Raise max_ttft_s or the tp of prefill workers."
        )
    return shares[kept - 1]


def _split(goal: Goal, per_worker: tuple[float, float], gpus: tuple[int, int]) -> tuple[int, int]:
    """Prefill and decode workers; per_worker, gpus: requests per second and GPUs of one worker of either pool."""
    fixed = goal.prefill_workers, goal.decode_workers
    if all(fixed) and goal.n_gpus and (needed := fixed[0] * gpus[0] + fixed[1] * gpus[1]) > goal.n_gpus:
        raise InvalidRequest(
            f"n_gpus is {goal.n_gpus}; {fixed[0]} prefill and {fixed[1]} decode workers are {needed} GPUs. "
            "Raise n_gpus or drop it."
        )
    if all(fixed):
        return fixed
    if not goal.n_gpus:
        fewest = [math.ceil(goal.request_rate / rate * (1 - SAME)) for rate in per_worker]
        return fixed[0] or fewest[0], fixed[1] or fewest[1]

    def merit(split: tuple[int, int]) -> tuple[float, int]:
        rate = min(split[0] * per_worker[0], split[1] * per_worker[1], goal.request_rate or math.inf)
        return float(f"{rate:.9g}"), -(split[0] * gpus[0] + split[1] * gpus[1])

    splits = list(_within(goal, per_worker, gpus))
    if not splits:
        raise InvalidRequest(_too_few(goal, gpus))
    return max(splits, key=merit)


def _too_few(goal: Goal, gpus: tuple[int, int]) -> str:
    fixed = goal.prefill_workers or 1, goal.decode_workers or 1
    pair = fixed[0] * gpus[0] + fixed[1] * gpus[1]
    return (
        f"n_gpus is {goal.n_gpus}; {fixed[0]} prefill and {fixed[1]} decode workers of {gpus[0]} and {gpus[1]} GPUs "
        f"need {pair}. Raise n_gpus, or predict one pool: `predictor predict`."
    )


def _within(goal: Goal, per_worker: tuple[float, float], gpus: tuple[int, int]) -> Iterator[tuple[int, int]]:
    """Splits of n_gpus: for every number of prefill workers, the decode workers just below and above its match."""
    for prefills in range(1, (goal.n_gpus - gpus[1]) // gpus[0] + 1):
        room = (goal.n_gpus - prefills * gpus[0]) // gpus[1]
        if goal.prefill_workers not in (0, prefills) or goal.decode_workers > room:
            continue
        rate = min(prefills * per_worker[0], goal.request_rate or math.inf)
        enough = math.ceil(rate / per_worker[1] * (1 - SAME))
        for decodes in (goal.decode_workers,) if goal.decode_workers else (enough - 1, enough):
            yield prefills, min(max(1, decodes), room)


def _limiter(
    rate: float,
    pools: tuple[float, float],
    workers: tuple[int, int],
    kinds: tuple[PrefillWorker, DecodeWorker],
    load: float,
) -> str:
    """What holds the rate where it is."""
    if rate < min(pools) * (1 - SAME):
        return "arrivals"
    slow = int(pools[1] < pools[0])
    link_s = kinds[slow].link_s
    carried = workers[slow] * (1.0 if slow else load) / link_s if link_s else math.inf
    return "transfer" if carried <= rate * (1 + SAME) else ("prefill", "decode")[slow]
