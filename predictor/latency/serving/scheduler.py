"""How an engine schedules what clients send: an event simulation.

Rules of the schedulers: predictor/catalog/engines.toml. Steps between two events are jumped over at once, so a
simulation takes milliseconds. Most of the time of a simulated row goes here, so the loop holds all in plain local
variables.
"""

from __future__ import annotations

import math
from bisect import bisect_right, insort
from collections import deque
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from predictor.errors import InvalidRequest
from predictor.latency.serving.clients import Load
from predictor.latency.serving.step_table import Chunk, StepTime
from predictor.ops.dtypes import Array
from predictor.workloads.engines import Engine

Step = tuple[Sequence[Chunk], int, float, int, int, int, int, int, float]


class Log(NamedTuple):
    """What happened, in order.

    steps: prompt chunks, sequences that decode, and tokens that each has cached; how many such steps came one after the
    other, and would have, had nothing arrived; requests that the scheduler had seen, that were sent, and that waited;
    and the second in which the last step ended. Without chunks and sequences: until something arrived.
    least, most: tokens of the KV cache with which all happens so: at least the first, and fewer than the second.
    """

    steps: Sequence[Step]
    least: float
    most: float


class Served(NamedTuple):
    """Per request, in order of submission: (requests,) arrays of seconds and tokens.

    batch: sequences per decode step. host_s: seconds of a request, on average, in which the GPU waits for the host.
    peak_tokens: of the KV cache at its fullest. preempted: requests that lost their place there. log: of clients.
    """

    submitted_s: Array
    first_s: Array
    finished_s: Array
    output_len: Array
    batch: float
    host_s: float
    peak_tokens: float
    preempted: int
    log: Log | None = None


def simulate(load: Load, steps: StepTime, engine: Engine, kv_tokens: float = math.inf) -> Served:
    """What happens to every request; the same load gives the same answer."""
    check_cache(load, kv_tokens)
    requests, shared, wide, gain = load.requests, load.shared, load.draft_tokens + 1, load.tokens_per_step
    beams, grown = load.beams, load.beams * gain  # tokens that a request adds in a step
    apart, ceil = beams > 1, math.ceil
    kv_tokens -= shared  # in the cache once, for all requests
    prompts, done, outputs = load.lengths()
    decode_steps: list[int] = np.ceil((np.array(outputs) - 1) / gain).astype(int).tolist()
    left: list[int] = (np.array(prompts) - np.array(done)).tolist()  # tokens of prompts that are not cached yet
    mixed_s, decode_s, launched_s = steps.mixed_s, steps.decode_s, engine.launch_s * steps.launches
    most_tokens, most_requests, prefill_first = (
        engine.max_batched_tokens,
        engine.most_requests(beams),
        engine.prefill_first,
    )
    chunked, share, overlapped = engine.chunked, engine.reserved, engine.overlapped
    request_s, own_s, sequence_s = engine.request_s, engine.step_s, engine.sequence_s
    front_s = request_s / engine.processes
    wait_steps, wait_below = engine.batch_wait_steps, engine.batch_wait_share * most_tokens
    graph_len = (engine.graph_len or math.inf) if engine.graphs else 0.0

    # Requests go from sent (with the scheduler from `arrives` on) to waiting, started (partly prefilled) and running:
    # (tick of the last token, request), in order.
    submitted, arrives, first, finished = ([0.0] * requests for _ in range(4))
    sent = received = answered = 0
    waiting: deque[int] = deque()
    started: list[int] = []
    running: list[tuple[int, int]] = []
    sending = load.arrivals()
    # Seconds and decode steps after the start, the last time the scheduler looked, and when the front end is free.
    now = seen_s = front = 0.0
    tick = postponed = 0
    # Tokens cached for running and for started requests, and room kept for outputs to come; of kv those that one beam
    # of each request has generated, as beams share its prompt and what is computed again.
    kv = held = reserved = peak = generated = 0.0
    waited_s, busy, preempted = 0.0, 0, 0
    chunk = Chunk(0, 0)
    logged, ran = load.concurrency > 0, list[Step]()
    least, most = 0.0, math.inf  # tokens of the cache with which all would have happened so

    while answered < requests:
        # Clients send the next requests; each process of the front end takes one after the other.
        if sending:
            for time_s in sending:
                if time_s > front:
                    front = time_s
                submitted[sent], arrives[sent] = time_s, front + request_s
                front += front_s
                sent += 1
            sending = []

        # An engine that plans ahead does not see what came during the last step.
        while received < sent and arrives[received] <= seen_s:
            waiting.append(received)
            received += 1

        # Prompt chunks of the next step; none where it only decodes.
        decoding = len(running)
        chunks: Sequence[Chunk] = ()
        if waiting or started:
            own: list[Chunk] = []
            room = most_tokens if prefill_first else most_tokens - decoding * beams * wide
            for request in started:
                if room > 0:
                    chunk = Chunk(min(left[request], room), done[request])
                    own.append(chunk)
                    room -= chunk[0]
            slots = most_requests - decoding - len(started)
            step = (decoding + len(started)) * grown
            while waiting and room > 0 and slots > 0:
                request = waiting[0]
                new, past = left[request], done[request]
                if new > room and own and not chunked:
                    break
                prompt, output = new + past - shared, share * beams * outputs[request]
                taken, step = kv + held + reserved, step + grown  # or one would be preempted at once, and again
                if taken > 0:
                    need = taken + prompt + (output if output > step else step)
                    if need > kv_tokens:
                        most = min(most, need)
                        break
                    if need > least:
                        least = need
                started.append(waiting.popleft())
                held += prompt
                reserved += output
                if new > room:
                    new = room
                if new != chunk[0] or past != chunk[1]:  # most are as the one before
                    chunk = Chunk(new, past)
                own.append(chunk)
                room -= new
                slots -= 1
            if own and decoding and most_tokens - room < wait_below and postponed < wait_steps:
                postponed += 1
            else:
                chunks, postponed = own, 0

        if chunks:  # a step with prompts; the running requests decode in it, or wait where prompts go first
            active, passed = 0 if prefill_first else decoding, 1
            cached = (kv - (beams - 1) * generated if apart else kv) / active + shared if active else 0.0
            gpu_s = mixed_s(chunks, active * beams, cached, wide)
            step_s = gpu_s if gpu_s > launched_s else launched_s
        elif running:  # decode steps up to the next event: an answer, an arrival, postponed prompts, or a full cache
            active, passed, step = decoding, running[0][0] - tick, decoding * grown
            need = kv + held + step * passed if share < 1.0 else 0.0
            if need > kv_tokens:
                most = 0.0
                passed = int((kv_tokens - kv - held) / step)
                if passed < 1 and decoding > 1:  # who started last gives its room up, to be computed again
                    began, request = max((last - decode_steps[request], request) for last, request in running)
                    running.remove((began + decode_steps[request], request))
                    kv -= done[request] - shared + (tick - began) * grown
                    if apart:
                        generated -= (tick - began) * gain
                    preempted += 1
                    decode_steps[request] -= tick - began
                    left[request] = done[request] - shared + round((tick - began) * grown)
                    done[request] = shared
                    waiting.appendleft(request)
                    continue
                passed = max(passed, 1)
            elif need > least:
                least = need
            if postponed:
                passed = 1
            alone = kv - (beams - 1) * generated if apart else kv
            cached = (alone + decoding * gain * 0.5 * (passed - 1)) / decoding + shared
            gpu_s = decode_s(decoding * beams, cached, wide)
            step_s = gpu_s if cached <= graph_len or gpu_s > launched_s else launched_s
        else:  # until the next arrival
            now = seen_s = max(now, arrives[received])
            if logged:
                ran.append(((), 0, 0.0, 1, 1, received, sent, 0, now))
            continue

        # The host prepares the next step meanwhile, or before it.
        host_s = own_s + sequence_s * (active * beams + len(chunks))
        step_s = step_s + host_s if not overlapped else step_s if step_s > host_s else host_s
        uncut = passed
        if passed > 1 and received < sent:
            soonest = ceil((arrives[received] - now) / step_s) + overlapped
            if soonest < passed:
                passed = soonest if soonest > 1 else 1
        if step_s > gpu_s:
            waited_s += passed * (step_s - gpu_s) * (active + len(chunks))
        now += passed * step_s
        if logged:
            ran.append((chunks, active * beams, cached, passed, uncut, received, sent, len(waiting), now))
        seen_s = now - step_s if overlapped else now
        if active:
            tick += passed
            decoded = passed * active
            busy += decoded * beams
            kv += decoded * grown
            if apart:
                generated += decoded * gain
            if share:
                reserved -= share * decoded * grown
        if kv + held > peak:
            peak = kv + held

        # The whole prompt of some is cached: the first token is out, the rest follow.
        if chunks:
            cached_now, partly = 0, []
            for request, (new, _) in zip(started, chunks, strict=False):
                left[request] -= new
                done[request] += new
                if left[request]:
                    partly.append(request)
                    continue
                cached_now += done[request] - shared
                if not first[request]:
                    first[request] = now
                insort(running, (tick + decode_steps[request], request))
            started = partly + started[len(chunks) :]
            held -= cached_now
            kv += cached_now

        # Finished requests leave, and their clients send the next ones.
        if running and running[0][0] <= tick:
            leaving = bisect_right(running, (tick, requests))
            for _, request in running[:leaving]:
                gained = decode_steps[request] * gain
                kv -= done[request] - shared + beams * gained
                if apart:
                    generated -= gained
                reserved -= share * beams * (outputs[request] - gained)
                finished[request] = now
            del running[:leaving]
            answered += leaving
            sending = [now] * min(leaving, requests - sent)

    columns = [np.array(column) for column in (submitted, first, finished, outputs)]
    host_s = waited_s / requests + request_s
    log = Log(ran, least + shared, most + shared) if logged else None
    return Served(
        columns[0], columns[1], columns[2], columns[3], busy / max(tick, 1), host_s, peak + shared, preempted, log
    )


def check_cache(load: Load, kv_tokens: float) -> None:
    """Raises InvalidRequest where the KV cache cannot hold the longest request."""
    if load.held > kv_tokens:
        beams = ", those of all beams," if load.beams > 1 else ""
        raise InvalidRequest(
            f"the longest request has {load.held} tokens{beams}; the KV cache holds {int(kv_tokens)} tokens. "
            "Raise tp, choose a narrower kv_dtype, or shorten one of them."
        )
