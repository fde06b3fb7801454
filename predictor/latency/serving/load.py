"""Serving: TTFT, TPOT and throughput of an engine under load, from predicted step times.

`static` runs one batch that starts together; `continuous` simulates the engine's scheduler, with clients that wait for
their answer (concurrency) or requests that arrive at random (rate).

The simulation is what agrees with measurements. On the 402 configurations of dense models in
predictor/learning/validation/serving.py that no constant was fitted on, its median (mean) error is 5 % (7 %) of TPOT
and 14 % (19 %) of TTFT. A closed form (TPOT: decode step + (clients - 1) * prefill / output tokens; TTFT: two prefills
and 1/20 of the first wave) has 5 % (15 %) and 36 % (42 %). TTFT is a mean over a whole run, so the number of requests
is part of it: 10 per client agree best; 5 give 27 % (33 %), 20 give 20 % (23 %).
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from predictor.estimators.bundle import Bundle
from predictor.hardware.gpu import Gpu
from predictor.latency.report import Interval
from predictor.latency.serving.scheduler import Load, Served, simulate
from predictor.latency.serving.step_times import StepTimes, step_times
from predictor.memory.closed_form import cache_room
from predictor.ops.dtypes import Array, weight_bytes
from predictor.workloads.engines import Engine, get_server
from predictor.workloads.workload import Workload

# What the ops do not know of: arrivals, versions, flags. Standard log errors that, added to the intervals of the ops in
# quadrature, make them hold 80 % of the measurements in the fitted half of predictor/learning/validation/serving.py.
TTFT_LOG_ERROR, TPOT_LOG_ERROR = 0.28, 0.10


class Serving(NamedTuple):
    """Latency over all requests, seconds, and throughput of all replicas. batch: mean sequences per decode step."""

    ttft_s: Interval
    ttft_p50_s: Interval
    ttft_p99_s: Interval
    tpot_s: Interval
    tpot_p50_s: Interval
    tpot_p99_s: Interval
    e2e_s: Interval
    tokens_per_s: Interval
    requests_per_s: Interval
    batch: float


def serve(workload: Workload, gpu: Gpu, bundle: Bundle, load: Load, engine: Engine | None = None) -> Serving:
    """Step times, KV capacity and simulation in one; the workload's own batch and lengths do not matter.

    Replicas (dp), attention groups and pipeline stages each hold a share of the requests and keep step.
    """
    engine = engine or get_server(workload.engine).beside(gpu.generation)
    times = step_times(workload, gpu, bundle, engine.max_batched_tokens, engine.max_sequences)
    groups = workload.dp * workload.attention_dp * workload.pp
    return continuous(times, load, engine, kv_capacity(workload, gpu, load, engine), groups)


def kv_capacity(workload: Workload, gpu: Gpu, load: Load, engine: Engine | None = None) -> float:
    """Tokens of the KV cache of one group: what the engine's share of the memory has room for."""
    length = load.input_len + load.output_len
    per_token = workload.model.cached(length, workload.layout) * float(weight_bytes(workload.cache_dtype)) / length
    return cache_room(workload, gpu, engine) / per_token / workload.pp if per_token else math.inf


def static(times: StepTimes, batch: int, input_len: int, output_len: int, engine: Engine) -> Serving:
    """One batch that starts together: all prompts, in steps of max_batched_tokens, then all outputs."""
    load = Load(input_len=input_len, output_len=output_len, concurrency=batch, requests=batch)
    return continuous(times, load, at_once(engine, batch))


def at_once(engine: Engine, batch: int) -> Engine:
    """The engine as it runs a static batch: no front end, prompts before outputs, room for all."""
    return replace(engine, prefill_first=True, request_s=0.0, reserved=0.0, max_sequences=batch)


def continuous(times: StepTimes, load: Load, engine: Engine, kv_tokens: float = math.inf, groups: int = 1) -> Serving:
    """Simulates the load; kv_tokens: tokens that the KV cache of a group holds; groups: that share the load evenly."""
    part = replace(
        load,
        concurrency=-(-load.concurrency // groups),
        rate=load.rate / groups,
        requests=-(-load.requests // groups),
    )
    runs = [simulate(part, table, engine, kv_tokens) for table in (times.value, times.low, times.high)]
    statistics = [_statistics(run, groups) for run in runs]
    names = Serving._fields[:-1]
    intervals = {name: interval_of(name, ends) for name, *ends in zip(names, *statistics, strict=True)}
    return Serving(**intervals, batch=runs[0].batch * groups)


def interval_of(name: str, ends: list[float]) -> Interval:
    """From the value and the runs at both ends of the step times."""
    value, own = ends[0], TTFT_LOG_ERROR if name.startswith("ttft") else TPOT_LOG_ERROR
    if value <= 0.0:  # one output token: nothing comes after the first
        return Interval(0.0, 0.0, 0.0)
    down, up = (math.hypot(math.log(end / value), own) for end in (max(min(ends), 1e-12), max(ends)))
    return Interval(value, value * math.exp(-down), value * math.exp(up))


def _statistics(run: Served, groups: int) -> list[float]:
    """The fields of Serving but `batch`, in order."""
    ttft, e2e = run.first_s - run.submitted_s, run.finished_s - run.submitted_s
    longer = run.output_len > 1
    tpot = (run.finished_s - run.first_s)[longer] / (run.output_len[longer] - 1) if longer.any() else np.zeros(1)
    spans = [figure for times in (ttft, tpot) for figure in (times.mean(), *_percentiles(times))]
    seconds = max(float(run.finished_s.max() - run.submitted_s.min()), 1e-12)
    return [
        *map(float, spans),
        float(e2e.mean()),
        groups * run.output_len.sum() / seconds,
        groups * len(ttft) / seconds,
    ]


def _percentiles(times: Array) -> Array:
    """The 50th and the 99th, linear between two times as np.percentile has them, which takes ten times as long."""
    places = np.array([0.50, 0.99]) * (len(times) - 1)
    return np.asarray(np.interp(places, np.arange(len(times)), np.sort(times)))
