"""In which order an engine took the requests of clients, and when, if its steps take otherwise.

Clients wait for their answers, so the order of what happens hangs on how long steps take hardly at all: only by what
has arrived when the scheduler looks. A simulated order is therefore timed by other step times as columns, a tenth of
the work of a simulation: by those of the ends of an interval, and by those of another GPU, number format or layout,
where everything that was decided by time is decided the same there.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from predictor.latency.serving.clients import Load
from predictor.latency.serving.scheduler import Log, Served, check_cache, simulate
from predictor.latency.serving.step_table import Computed, StepTime
from predictor.ops.dtypes import Array
from predictor.workloads.engines import Engine

MOST_SCHEDULES = 64  # that are remembered, some 200 KiB each
MOST_OF_A_LOAD = 4  # of one load and one engine
MOST_REQUESTS = 5000  # of a load whose schedule is remembered
LEAST_S = 1e-9  # between a request's arrival and the look that does not see it; less is decided by rounding


class _Timing(NamedTuple):
    """begins: when each step begins and the last one ends, (n_steps + 1,); step_s, gpu_s: of each, (n_steps,)."""

    begins: Array
    step_s: Array
    gpu_s: Array


@dataclass(frozen=True, slots=True)
class Schedule:
    """What a simulation of clients did, without its times.

    computed: of each step. repeated: how many such steps came one after the other, and would have, had nothing arrived.
    pauses: in which nothing was there to compute, as long as the front end takes for a request, or odd_s where that is
    a number. received, sent: requests that the scheduler had seen, and that clients had sent; started: that were no
    longer waiting. All (n_steps,). submitted, first, finished: the step
    after which each request was, (requests,), 0 before the first.
    """

    load: Load
    run: Served
    log: Log
    computed: Computed
    repeated: NDArray[np.int64]
    uncut: NDArray[np.int64]
    received: NDArray[np.int64]
    sent: NDArray[np.int64]
    started: NDArray[np.int64]
    pauses: NDArray[np.bool_]
    odd_s: Array
    submitted: NDArray[np.int64]
    first: NDArray[np.int64]
    finished: NDArray[np.int64]

    @classmethod
    def of(cls, load: Load, run: Served, engine: Engine) -> Schedule:
        """That of a simulation of clients."""
        assert run.log is not None
        chunks, sequences, cached, *counts, ends = zip(*run.log.steps, strict=True)
        new, past = np.array([chunk for each in chunks for chunk in each], dtype=np.int64).reshape(-1, 2).T
        step = np.repeat(np.arange(len(chunks)), [len(each) for each in chunks])
        repeated, uncut, received, sent, waiting = map(np.array, counts)
        begins = np.concatenate([[0.0], ends])
        pauses = np.array([not (some or decoding) for some, decoding in zip(chunks, sequences, strict=True)])
        paused_s = np.where(pauses, np.diff(begins), 0.0)
        odd = np.abs(paused_s - engine.request_s) > LEAST_S
        return cls(
            load=load,
            run=run._replace(log=None),
            log=run.log._replace(steps=()),
            computed=Computed(np.array(sequences), np.array(cached), step, new, past),
            repeated=repeated,
            uncut=uncut,
            received=received,
            sent=sent,
            started=received - waiting,
            pauses=pauses,
            odd_s=np.where(pauses & odd, paused_s, np.nan),
            submitted=np.searchsorted(begins, run.submitted_s),
            first=np.searchsorted(begins, run.first_s),
            finished=np.searchsorted(begins, run.finished_s),
        )

    @property
    def shared(self) -> bool:
        """Whether it may be that of others, too: no request lost its place, and no pause ended a moment early."""
        return self.log.least < self.log.most and bool(np.isnan(self.odd_s).all())

    def timed(self, steps: StepTime, engine: Engine) -> Served:
        """When all happens in this order, with other step times."""
        return self._served(self._timing(steps, engine), engine)

    def _timing(self, steps: StepTime, engine: Engine) -> _Timing:
        chunks, sequences, cached = self.computed.chunks, self.computed.sequences, self.computed.cached
        gpu_s = steps.steps_s(self.computed, self.load.draft_tokens + 1)
        captured = (chunks == 0) & engine.captures(cached)
        step_s = engine.prompt_s(gpu_s, np.where(captured, 0.0, steps.launches), sequences + chunks)
        paused_s = np.where(np.isnan(self.odd_s), engine.request_s, self.odd_s)
        spans = np.where(self.pauses, paused_s, self.repeated * step_s)
        return _Timing(np.concatenate([[0.0], np.cumsum(spans)]), step_s, gpu_s)

    def _served(self, timing: _Timing, engine: Engine) -> Served:
        waits = np.where(self.pauses, 0.0, self.repeated * (timing.step_s - timing.gpu_s))
        waited_s = float(waits @ (self.computed.sequences / self.load.beams + self.computed.chunks))
        submitted, first, finished = (timing.begins[at] for at in (self.submitted, self.first, self.finished))
        return self.run._replace(
            submitted_s=submitted,
            first_s=first,
            finished_s=finished,
            host_s=waited_s / self.load.requests + engine.request_s,
        )

    def _holds(self, timing: _Timing, engine: Engine) -> bool:
        """Whether the scheduler, with these times, sees requests in time for the steps that they start in, no others
        where none was left waiting, and counts as many steps to the next arrival."""
        begins, step_s = timing.begins[:-1], timing.step_s
        number, front_s = np.arange(self.load.requests), engine.request_s / engine.processes
        taken = np.maximum.accumulate(timing.begins[self.submitted] - number * front_s) + number * front_s
        arrives = taken + engine.request_s
        # What was waited for has come when the wait is over; an engine that plans ahead looks before its last step.
        later = np.concatenate([[0.0], np.where(self.pauses, 2 * LEAST_S, -step_s * engine.overlapped)[:-1]])
        seen = np.maximum.accumulate(begins + later)
        fewest, most = (np.searchsorted(arrives, seen + off, side="right") for off in (-LEAST_S, LEAST_S))
        if (fewest < self.started).any() or (most > self.started)[self.received == self.started].any():
            return False
        upcoming = arrives[np.minimum(self.received, self.load.requests - 1)] - begins
        if (np.abs(upcoming - engine.request_s)[self.pauses] > LEAST_S).any():
            return False
        cut = (self.uncut > 1) & (most < self.sent)
        if (fewest != most)[self.uncut > 1].any():
            return False
        upcoming = arrives[np.minimum(most, self.load.requests - 1)] - begins
        soonest, latest = (
            np.where(cut, np.clip(np.ceil((upcoming + off) / step_s) + engine.overlapped, 1, self.uncut), self.uncut)
            for off in (-LEAST_S, LEAST_S)
        )
        return bool(((soonest == self.repeated) & (latest == self.repeated)).all())


_kept: dict[tuple[Any, ...], list[Schedule]] = {}


def scheduled(load: Load, steps: StepTime, engine: Engine, kv_tokens: float) -> tuple[Schedule, Served]:
    """The schedule of clients and its times, which are the same whichever simulation it was taken from."""
    check_cache(load, kv_tokens)
    key = (load, *rules(engine, load)) if load.trace is None else ()
    for known in _kept.get(key, ()):
        if known.log.least <= kv_tokens and (kv_tokens < known.log.most or math.isinf(known.log.most)):
            timing = known._timing(steps, engine)
            if known._holds(timing, engine):
                return known, known._served(timing, engine)
    schedule = Schedule.of(load, simulate(load, steps, engine, kv_tokens), engine)
    if key and load.requests <= MOST_REQUESTS and schedule.shared:
        _keep(key, schedule)
    return schedule, schedule.timed(steps, engine)


def rules(engine: Engine, load: Load) -> tuple[Any, ...]:
    """All by which a schedule differs between engines, but for times and what the cache holds."""
    return (
        engine.max_batched_tokens,
        engine.most_requests(load.beams),
        engine.prefill_first,
        engine.chunked,
        engine.reserved,
        engine.overlapped,
        engine.batch_wait_steps,
        engine.batch_wait_share,
    )


def _keep(key: tuple[Any, ...], schedule: Schedule) -> None:
    """Remember it for its load, newest first, and forget the oldest loads."""
    _kept[key] = [schedule, *_kept.pop(key, ())][:MOST_OF_A_LOAD]
    while sum(map(len, _kept.values())) > MOST_SCHEDULES:
        _kept.pop(next(iter(_kept)))
