"""Serving: TTFT, TPOT and throughput of an engine under load, from predicted step times.

`continuous` simulates the engine's scheduler, with clients that wait for their answer (concurrency), requests that
arrive at random (rate) or as a trace says. Of clients means and percentiles are those of a whole run, as benchmarks
tell them; of arrivals those of its settled part, for which the run is as long as it must be. Where more arrives than
can be served there is none, which `saturated` says.

The simulation is what agrees with measurements. On the 402 configurations of dense models in
predictor/learning/validation/serving.py that no constant was fitted on, its median (mean) error is 5 % (7 %) of TPOT
and 14 % (19 %) of TTFT. A closed form (TPOT: decode step + (clients - 1) * prefill / output tokens; TTFT: two prefills
and 1/20 of the first wave) has 5 % (15 %) and 36 % (42 %). TTFT is a mean over a whole run, so the number of requests
is part of it: 10 per client agree best; 5 give 27 % (33 %), 20 give 20 % (23 %).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from predictor.errors import InvalidRequest
from predictor.estimators.bundle import Bundle
from predictor.hardware.gpu import Gpu
from predictor.latency.own_runs import correction_of, shifted_load
from predictor.latency.report import Interval, Serving as Serving
from predictor.latency.serving.clients import MOST_REQUESTS, Load
from predictor.latency.serving.drafting import drafted
from predictor.latency.serving.schedule import scheduled
from predictor.latency.serving.scheduler import Served, check_cache, simulate
from predictor.latency.serving.seeing import with_images
from predictor.latency.serving.step_table import ENDS, Slower, StepTime, StepTimes
from predictor.latency.serving.step_times import step_times
from predictor.latency.serving.sustained import Sustained, sustained
from predictor.measurements.runs import least_step_s
from predictor.memory.sizes import kv_cache_bytes_per_token
from predictor.memory.start import cache_room, context_note, refusal
from predictor.ops.dtypes import Array
from predictor.workloads.engines import Engine, get_engine, get_server
from predictor.workloads.models import Model
from predictor.workloads.workload import Workload


class LogErrors(NamedTuple):
    """What the ops do not know of, such as versions, flags and arrivals: log errors of TTFT and of all else that, added
    to the intervals of the ops in quadrature, make them hold 80 % of measurements, as the mean over groups of model,
    GPU, engine and version; by training/host_constants.py intervals. full: at least so much of all else where more is
    asked than can be served or all requests are queued at once, and of the rate that can; judged."""

    ttft: float
    other: float
    full: float = 0.0

    def beside(self, *more: float) -> LogErrors:
        """With other log errors, which are independent of them."""
        return self._replace(ttft=math.hypot(self.ttft, *more), other=math.hypot(self.other, *more))

    def saturated(self) -> LogErrors:
        """Those of a deployment that is full."""
        return self._replace(other=max(self.other, self.full))


DENSE, EXPERTS, OLDER = LogErrors(0.25, 0.08), LogErrors(0.60, 0.24, 0.40), LogErrors(0.40, 0.20)
UNTIMED = ("not measured.", "their time does not.")  # so end what a model notes of layers that nobody timed
UNMEASURED = LogErrors(2.1, 1.5)  # of models with layers that nobody timed: half of the rows of inferencex.py there
# Log errors of ways to serve that nobody measured, beside those; judged.
BEAMS_DOUBT, TWO_BATCHES_DOUBT, PROCESSES_DOUBT = 0.3, 0.2, 0.1


def log_errors(model: Model, engine: str) -> LogErrors:
    """Those of a model in an engine: which experts run, and by which kernels, differs more between versions; engines
    that were replaced had other kernels than were measured."""
    if any(note.endswith(UNTIMED) for note in model.notes):
        return UNMEASURED
    own = EXPERTS if model.experts else OLDER if get_engine(engine).tables else DENSE
    return own.beside(math.log1p(get_engine(engine).doubt))


SIMULATED = Serving._fields[: Serving._fields.index("sustainable_rate")]


def serve(workload: Workload, gpu: Gpu, bundle: Bundle, load: Load, warmup: int | None = None) -> Serving:
    """Step times, KV capacity and simulation in one; the workload's own batch and lengths do not matter.

    Replicas (dp), attention groups and pipeline stages each hold a share of the requests and keep step.
    warmup: requests that do not count; None: as above.
    """
    engine = served_by(workload, gpu)
    room = room_for(workload, gpu, load, engine)
    times = step_times(workload, gpu, bundle, engine.max_batched_tokens, engine.max_sequences)
    times = with_images(times, workload, gpu, bundle, load.mean_len[0])
    if draft := workload.drafting:
        beside = step_times(draft, gpu, bundle, engine.max_batched_tokens, engine.max_sequences)
        times = StepTimes(*drafted(times, beside, load.draft_tokens))
    errors = log_errors(workload.model, workload.engine).beside(
        BEAMS_DOUBT * (load.beams > 1),
        TWO_BATCHES_DOUBT * workload.two_batches,
        PROCESSES_DOUBT * (engine.processes != 1.0),
    )
    correction = correction_of(workload, gpu, bundle, load=True)
    if shift := correction.pace.log:  # of all that passes in a step, on the GPU and on its host
        slower = math.exp(shift)
        times = StepTimes(*(Slower(getattr(times, end), slower) for end in ENDS))
        engine = engine.times(slower)
    served = continuous(times, load, engine, room, groups_of(workload), warmup, errors)
    least = least_of_one(workload, gpu, load) if correction.applies else (0.0, 0.0)
    return shifted_load(served, correction, least, bool(load.concurrency), max(load.mean_len[2] - 1, 0.0))


def least_of_one(workload: Workload, gpu: Gpu, load: Load) -> tuple[float, float]:
    """Bounds of the TTFT and the TPOT of the mean request of a load, as if it were alone, drafts all accepted."""
    prompt, cached, output = (round(tokens) for tokens in load.mean_len)
    alone = replace(workload, batch=workload.dp * workload.attention_dp, input_len=max(prompt, 1), output_len=1)
    prefill_s = least_step_s(alone.prefill_ops(min(cached, max(prompt, 1) - 1)), gpu)
    decode_s = least_step_s(alone.decode_ops(max(prompt, 1)), gpu)
    return prefill_s, decode_s / load.tokens_per_step if output > 1 else 0.0


def served_by(workload: Workload, gpu: Gpu) -> Engine:
    """The engine of a workload, which takes requests as they come; InvalidRequest where it does not."""
    get_server(workload.engine)
    return workload.engine_on(gpu)


def groups_of(workload: Workload) -> int:
    """Groups of GPUs that each take a share of the requests; of layers that a batch walks through there is one."""
    return workload.dp * workload.attention_dp * (1 if workload.pass_tokens else workload.pp)


def room_for(workload: Workload, gpu: Gpu, load: Load, engine: Engine) -> float:
    """As kv_capacity; raises InvalidRequest where the engine cannot start, or a request can never be served."""
    tokens = kv_capacity(workload, gpu, load, engine)
    if load.draft_tokens >= engine.max_batched_tokens:
        raise InvalidRequest(
            f"draft_tokens is {load.draft_tokens}; a step of {workload.engine} checks them all and takes at most "
            f"{engine.max_batched_tokens} tokens. Lower draft_tokens."
        )
    if tokens < (workload.kv_block or engine.block_tokens):
        raise InvalidRequest(refusal(workload, gpu, engine))
    if note := context_note(workload, gpu, engine):
        raise InvalidRequest(note)
    if engine.most_requests(load.beams) < 1:
        raise InvalidRequest(
            f"beam_width is {load.beams}; max_num_seqs is {engine.max_sequences}, and each beam takes one. Raise it."
        )
    if load.longest > workload.longest:
        raise InvalidRequest(
            f"the longest request has {load.longest} tokens, with turns and shared prefix; {workload.model.name} takes "
            f"at most {workload.longest}. Shorten it, or set max_model_len, as engines allow."
        )
    check_cache(load, tokens)
    return tokens


def kv_capacity(workload: Workload, gpu: Gpu, load: Load, engine: Engine | None = None) -> float:
    """Tokens of the KV cache of one group: what the engine's share of the memory has room for."""
    length = load.longest
    per_token = kv_cache_bytes_per_token(workload, length)
    stages = 1 if workload.pass_tokens else workload.pp
    return cache_room(workload, gpu, engine) / per_token / stages if per_token else math.inf


def continuous(
    times: StepTimes,
    load: Load,
    engine: Engine,
    kv_tokens: float = math.inf,
    groups: int = 1,
    warmup: int | None = None,
    errors: LogErrors = DENSE,
) -> Serving:
    """Simulates the load; kv_tokens: tokens that the KV cache of a group holds; groups: that share the load evenly, as
    many of them as there are clients for."""
    if warmup is not None and warmup >= load.requests:
        raise InvalidRequest(f"warmup is {warmup}; it must be below the {load.requests} requests of the run.")
    if load.concurrency:
        each = -(-load.concurrency // groups)
        share = load.concurrency / each  # of groups that have so many clients
        part = replace(load, concurrency=each, requests=max(round(load.requests / share), each))
    else:
        share = float(groups)
        part = replace(
            load,
            rate=load.rate / groups,
            requests=-(-load.requests // groups),
            trace=load.trace and load.trace.part(groups),
        )
    if part.requests > MOST_REQUESTS:
        raise InvalidRequest(
            f"the run has {part.requests} requests of a replica; it must have at most {MOST_REQUESTS}. Lower "
            "concurrency or num_prompts, or raise dp."
        )
    check_cache(part, kv_tokens)
    alone = [sustained(part, getattr(times, end), engine, kv_tokens) for end in ENDS]
    if part.rate:
        times = doubted_steps(times, alone[0].sequences, part.longest, errors.other)
    held = [sustained(part, getattr(times, end), engine, kv_tokens) for end in ENDS] if part.rate else alone
    offered = part.offered_rate
    full = [offered > one.requests_per_s or part.concurrency > one.sequences for one in held]
    schedule = None
    if load.concurrency:
        schedule, run = scheduled(part, times.value, engine, kv_tokens)
    elif load.settles:
        part, run = _settled(part, times.value, engine, kv_tokens, held[0])
    else:
        run = simulate(part, times.value, engine, kv_tokens)
    left_out = None if warmup is None else min(round(warmup / share), part.requests - 1)
    if part.rate and not full[0] and (kept := _kept_up(run)) < KEPT_UP:  # less is held than the closed form says
        alone[0] = held[0] = held[0]._replace(requests_per_s=kept * part.rate)
        full[0] = True
    saturated = full[0]
    rates = [None if part.trace else min(offered, one.requests_per_s) or None for one in held]

    def told(end: str) -> Array:
        place, steps = ENDS.index(end), getattr(times, end)
        if schedule:
            return _statistics(schedule.timed(steps, engine), left_out or 0, None, share)
        fewer = _half(part) if warmup is None else part
        own = simulate(fewer, steps, engine, kv_tokens)
        return _statistics(own, _counted(fewer, own, left_out, full[place]), rates[place], share)

    value, high = _statistics(run, _counted(part, run, left_out, full[0]), rates[0], share), told("high")
    even = (
        not schedule
        and len(set(full)) == 1
        and bool((np.abs(np.log(np.maximum(high, TINY) / np.maximum(value, TINY))) < UNEVEN).all())
    )
    low = value**2 / np.maximum(high, TINY) if even else told("low")
    statistics = [value, low, high]
    doubt = errors._replace(other=0.0) if part.rate else errors
    if saturated or part.concurrency >= part.requests:
        doubt = errors.saturated()
    intervals = {name: interval_of(name, ends, doubt) for name, *ends in zip(SIMULATED, *statistics, strict=True)}
    rate = interval_of("sustainable_rate", [groups * one.requests_per_s for one in alone], errors.saturated())
    return Serving(
        **intervals,
        sustainable_rate=rate,
        saturated=bool(saturated),
        batch=run.batch * share,
        peak_tokens=run.peak_tokens,
        mean_len=load.mean_len,
        notes=tuple(_notes(load, offered * groups, held[0].sequences * groups, rate.value, run, saturated)),
    )


def doubted_steps(times: StepTimes, sequences: float, cached: float, error: float) -> StepTimes:
    """Step times whose ends also hold a log error of all steps, in quadrature, as in a step of `sequences`.

    Near the rate that is held, steps that take a little longer make requests take much longer: what the ops do not know
    of belongs into the steps there, not beside what they lead to.
    """
    value, low, high = (max(getattr(times, end).decode_s(max(int(sequences), 1), cached), TINY) for end in ENDS)
    down, up = (math.log(max(ends, 1.0)) for ends in (value / low, high / value))
    slower = Slower(times.high, math.exp(math.hypot(up, error) - up))
    return StepTimes(times.value, Slower(times.low, math.exp(down - math.hypot(down, error))), slower)


ROOM_FOR_FLIGHTS = 12  # times as many requests as are under way at once make a run that settles; judged
MOST_CROWDED = 4.0
KEPT_UP = 0.95  # of a rate; a run that answers less falls behind
MOST_SETTLING = 20_000  # requests of a run
# Nats by which slower steps may change a figure for faster ones to change it by as much; else these are simulated too.
UNEVEN, TINY = 0.4, 1e-12
FEWEST_ARRIVALS = 200  # of runs for the ends of intervals
MSER_BATCH, FEWEST_BATCHES = 5, 10


def _settled(load: Load, steps: StepTime, engine: Engine, kv_tokens: float, held: Sustained) -> tuple[Load, Served]:
    """A load at a rate with requests enough that its run is long beside the time of one (Little: under way = rate ×
    time), and that run. Of a load that is too much for the engine, with enough to fill it."""
    most, run = held.requests_per_s, None
    if load.rate > most:
        enough = ROOM_FOR_FLIGHTS * MOST_CROWDED * held.sequences
    else:
        run = simulate(load, steps, engine, kv_tokens)
        under_way = load.rate * float((run.finished_s - run.submitted_s).mean())
        crowded = min(1 / max(1 - load.rate / most, 0.01), MOST_CROWDED)  # relaxation grows so towards saturation
        enough = ROOM_FOR_FLIGHTS * under_way * crowded
    requests = int(min(max(load.requests, enough), MOST_SETTLING))
    if run is None or requests != load.requests:
        load = replace(load, requests=requests)
        run = simulate(load, steps, engine, kv_tokens)
    return load, run


def _kept_up(run: Served) -> float:
    """Share of the later half of arrivals for which others are answered meanwhile; 1 where what waits has not grown by
    half, or by no more than chance makes it (four standard deviations of a Poisson count)."""
    half = len(run.submitted_s) // 2
    begins, ends = run.submitted_s[half], run.submitted_s[-1]
    before, after = (int((run.finished_s > at).sum() - (run.submitted_s > at).sum()) for at in (begins, ends))
    arrived = len(run.submitted_s) - half
    grown = after - before
    return 1 - grown / arrived if grown > max(before / 2, 4 * math.sqrt(arrived)) else 1.0


def _half(load: Load) -> Load:
    """A load of half as many arrivals, for the ends of intervals, where enough remain."""
    half = load.requests // 2
    return replace(load, requests=half) if half >= FEWEST_ARRIVALS and not load.trace else load


def _counted(load: Load, run: Served, warmup: int | None, full: bool) -> int:
    """The first request that counts; at least one does. full: more come than can be served, so that nothing settles."""
    if warmup is not None:
        return min(warmup, load.requests - 1)
    return 0 if load.concurrency or full else settled_from(run.finished_s - run.submitted_s)


def settled_from(values: Array) -> int:
    """Index from which a series that starts from an empty system is settled, at most half of it: where the standard
    error of the mean of what follows is least (MSER-5; White, An effective truncation heuristic, 1997)."""
    batches = len(values) // MSER_BATCH
    if batches < 2 * FEWEST_BATCHES:
        return 0
    means = values[: batches * MSER_BATCH].reshape(batches, MSER_BATCH).mean(axis=1)[::-1]
    counts = np.arange(1, batches + 1)
    squares = np.cumsum(means**2) - np.cumsum(means) ** 2 / counts
    errors = (squares / counts**2)[::-1][: batches - max(FEWEST_BATCHES, batches // 2)]
    return int(np.argmin(errors)) * MSER_BATCH


def _notes(load: Load, offered: float, sequences: float, rate: float, run: Served, saturated: bool) -> Iterator[str]:
    """What to say of a load that is more than can be served at once."""
    if saturated and load.concurrency:
        yield (
            f"of {load.concurrency} clients {max(math.floor(sequences), 1)} find room at once (KV cache, max_num_seqs, "
            "max_num_batched_tokens); the others wait, which is in TTFT."
        )
    elif saturated:
        yield (
            f"overloaded: {offered:.3g} requests/s arrive and {rate:.3g} can be served; queues grow without end, and "
            f"TTFT is that of the first {len(run.first_s)}."
        )
    if saturated and load.turns > 1:
        yield "what was said before is taken to be cached still when a session has waited for its next turn."
    if run.preempted:
        often = run.preempted / len(run.first_s)
        yield f"requests lose their place in the KV cache {often:.2g} times on average and are computed again."


def interval_of(name: str, ends: Sequence[float], errors: LogErrors) -> Interval:
    """From the value and the runs at both ends of the step times."""
    ends = [float(end) for end in ends]
    value, own = ends[0], errors.ttft if name.startswith("ttft") else errors.other
    if value <= 0.0:  # one output token: nothing comes after the first
        return Interval(0.0, 0.0, max(0.0, *ends))
    down, up = (math.hypot(math.log(end / value), own) for end in (max(min(ends), 1e-12), max(ends)))
    return Interval(value, value * math.exp(-down), value * math.exp(up))


def _statistics(run: Served, first: int, rate: float | None, groups: float) -> Array:
    """The fields SIMULATED of Serving, in order, (n_fields,). first: the request from which on they count. rate:
    requests per second of arrivals, which a long run answers; None of clients.
    """
    ttft, e2e = run.first_s - run.submitted_s, run.finished_s - run.submitted_s
    tpot = (run.finished_s - run.first_s) / np.maximum(run.output_len - 1, 1)
    longer, spans = run.output_len > 1, list[float]()
    for times, valid in ((ttft, np.ones_like(longer)), (tpot, longer)):
        counted = times[first:][valid[first:]]
        spans += [float(counted.mean()), *map(float, _percentiles(counted))] if counted.size else [0.0, 0.0, 0.0]
    seconds = float(run.finished_s.max() - run.submitted_s[first:].min())
    answered = groups * (rate or len(ttft[first:]) / max(seconds, TINY))
    tokens = float(run.output_len[first:].mean())
    return np.array([*spans, float(e2e[first:].mean()), answered * tokens, answered, run.host_s])


def _percentiles(times: Array) -> Array:
    """The 50th and the 99th, linear between two times: those of np.percentile, which takes ten times as long."""
    last = len(times) - 1
    return np.asarray(np.interp(np.array([0.50, 0.99]) * last, np.arange(last + 1), np.sort(times)))
