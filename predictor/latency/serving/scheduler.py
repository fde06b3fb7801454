"""How an engine schedules what clients send: an event simulation.

Rules of the schedulers: predictor/catalog/engines.toml. Steps between two events are jumped over at once, so a
simulation takes milliseconds.
"""

from __future__ import annotations

import heapq
import math
from collections import deque
from typing import NamedTuple

import numpy as np

from predictor.errors import InvalidRequest
from predictor.latency.serving.clients import Load
from predictor.latency.serving.step_times import Chunk, StepTime
from predictor.ops.dtypes import Array
from predictor.workloads.engines import Engine


class Served(NamedTuple):
    """Per request, in order of submission: (requests,) arrays of seconds and tokens.

    batch: sequences per decode step. host_s: seconds of a request, on average, in which the GPU waits for the host.
    peak_tokens: of the KV cache at its fullest. preempted: requests that lost their place there.
    """

    submitted_s: Array
    first_s: Array
    finished_s: Array
    output_len: Array
    batch: float
    host_s: float
    peak_tokens: float
    preempted: int


def simulate(load: Load, steps: StepTime, engine: Engine, kv_tokens: float = math.inf) -> Served:
    """What happens to every request; the same load gives the same answer."""
    check_cache(load, kv_tokens)
    run = _Run(load, steps, engine, kv_tokens)
    while run.answered < load.requests:
        run.receive()
        if chunks := run.schedule():
            run.prefill(chunks)
        elif run.running:
            run.decode()
        else:
            run.idle()
        run.answer()
    columns = [np.array(column) for column in (run.submitted, run.first, run.finished, run.outputs)]
    batch, host_s = run.busy / max(run.tick, 1), run.host_s / load.requests + engine.request_s
    return Served(columns[0], columns[1], columns[2], columns[3], batch, host_s, run.peak, run.preempted)


def check_cache(load: Load, kv_tokens: float) -> None:
    """Raises InvalidRequest where the KV cache cannot hold the longest request."""
    if load.longest > kv_tokens:
        raise InvalidRequest(
            f"the longest request has {load.longest} tokens; the KV cache holds {int(kv_tokens)} tokens. "
            "Raise tp, choose a narrower kv_dtype, or shorten one of them."
        )


class _Run:
    """State of a simulation: `now` seconds and `tick` decode steps after the start.

    Requests go from arriving (sent, not yet with the scheduler) to waiting, started (partly prefilled) and running: a
    heap of (tick of the last token, request). kv: tokens cached for running requests, held: for started ones,
    reserved: for outputs to come.
    """

    __slots__ = (
        "answered", "arriving", "began", "busy", "decode_steps", "done", "engine", "finished", "first", "front",
        "gain", "held", "host_s", "kv", "kv_tokens", "left", "load", "now", "outputs", "peak", "postponed",
        "preempted", "prompts", "reserved", "running", "seen_s", "sent", "started", "steps", "submitted", "tick",
        "waiting", "wide",
    )  # fmt: skip

    def __init__(self, load: Load, steps: StepTime, engine: Engine, kv_tokens: float) -> None:
        self.load, self.steps, self.engine, self.kv_tokens = load, steps, engine, kv_tokens
        self.prompts, self.done, self.outputs = load.lengths()
        self.wide, self.gain = load.draft_tokens + 1, load.tokens_per_step
        self.decode_steps = [math.ceil((tokens - 1) / self.gain) for tokens in self.outputs]
        self.left = [n - done for n, done in zip(self.prompts, self.done, strict=True)]
        self.submitted, self.first, self.finished = ([0.0] * load.requests for _ in range(3))
        self.began = [0] * load.requests
        self.arriving: deque[tuple[float, int]] = deque()
        self.waiting: deque[int] = deque()
        self.started: list[int] = []
        self.running: list[tuple[int, int]] = []
        self.now = self.seen_s = self.front = self.kv = self.held = self.reserved = self.host_s = self.peak = 0.0
        self.tick = self.answered = self.busy = self.postponed = self.sent = self.preempted = 0
        for time_s in load.arrivals():
            self.send(time_s)

    def send(self, time_s: float) -> None:
        """A client sends the next request; the front end takes one after the other."""
        self.front = max(self.front, time_s) + self.engine.request_s
        self.submitted[self.sent] = time_s
        self.arriving.append((self.front, self.sent))
        self.sent += 1

    def receive(self) -> None:
        """Requests that the scheduler sees: one that plans ahead misses what came during the last step."""
        while self.arriving and self.arriving[0][0] <= self.seen_s:
            self.waiting.append(self.arriving.popleft()[1])

    def schedule(self) -> list[tuple[int, Chunk]]:
        """Prompt chunks of the next step, by request; none where it only decodes."""
        decoding, engine = len(self.running), self.engine
        if not self.waiting and not self.started:
            return []
        room = engine.max_batched_tokens - (0 if engine.prefill_first else decoding * self.wide)
        chunks: list[tuple[int, Chunk]] = []
        for request in self.started:
            if room > 0:
                chunks.append((request, Chunk(min(self.left[request], room), self.done[request])))
                room -= chunks[-1][1].new
        while self.waiting and room > 0 and decoding + len(self.started) < engine.max_sequences:
            request = self.waiting[0]
            new = self.left[request]
            if new > room and chunks and not engine.chunked:
                break
            prompt, output = new + self.done[request], engine.reserved * self.outputs[request]
            taken = self.kv + self.held + self.reserved
            step = (decoding + len(self.started) + 1) * self.gain  # or one would be preempted at once, and again
            if taken + prompt + max(output, step) > self.kv_tokens and taken > 0:
                break
            self.started.append(self.waiting.popleft())
            self.held += prompt
            self.reserved += output
            chunks.append((request, Chunk(min(new, room), self.done[request])))
            room -= chunks[-1][1].new
        filled = engine.max_batched_tokens - room
        if chunks and decoding and filled < engine.batch_wait_share * engine.max_batched_tokens:
            self.postponed += 1
            if self.postponed <= engine.batch_wait_steps:
                return []
        self.postponed = 0
        return chunks

    def prefill(self, chunks: list[tuple[int, Chunk]]) -> None:
        """A step with prompts; the running requests decode in it, or wait where prompts go first."""
        active = 0 if self.engine.prefill_first else len(self.running)
        cached = self.kv / active if active else 0.0
        gpu_s = self.steps.mixed_s([chunk for _, chunk in chunks], active, cached, self.wide)
        gpu_s = max(gpu_s, self.engine.launch_s * self.steps.launches)
        self.advance(gpu_s, active + len(chunks), 1, active)
        for request, chunk in chunks:
            self.left[request] -= chunk.new
            self.done[request] += chunk.new
            if not self.left[request]:
                self.start(request)

    def start(self, request: int) -> None:
        """The whole prompt is cached: the first token is out, the rest follow."""
        self.started.remove(request)
        self.held -= self.done[request]
        self.kv += self.done[request]
        self.first[request] = self.first[request] or self.now
        self.began[request] = self.tick
        heapq.heappush(self.running, (self.tick + self.decode_steps[request], request))

    def decode(self) -> None:
        """Decode steps up to the next event: an answer, an arrival, prompts that were postponed, or a full cache."""
        decoding = len(self.running)
        grown = decoding * self.gain
        steps = self.running[0][0] - self.tick
        if self.engine.reserved < 1.0 and self.kv + self.held + grown * steps > self.kv_tokens:
            steps = int((self.kv_tokens - self.kv - self.held) / grown)
            if steps < 1 and decoding > 1:
                self.preempt()
                return
            steps = max(steps, 1)
        if self.postponed:
            steps = 1
        gpu_s = self.steps.decode_s(decoding, (self.kv + grown * 0.5 * (steps - 1)) / decoding, self.wide)
        if self.arriving and steps > 1:
            ahead = math.ceil((self.arriving[0][0] - self.now) / self.engine.step_s_of(gpu_s, decoding))
            steps = max(1, min(steps, ahead + self.engine.overlapped))
        self.advance(gpu_s, decoding, steps, decoding)

    def advance(self, gpu_s: float, sequences: int, steps: int, decoding: int) -> None:
        """`steps` equal steps pass, in which `decoding` requests gain tokens."""
        step_s = self.engine.step_s_of(gpu_s, sequences)
        self.now += steps * step_s
        self.host_s += steps * (step_s - gpu_s) * sequences
        self.seen_s = self.now - step_s * self.engine.overlapped
        if decoding:
            self.tick += steps
            self.busy += steps * decoding
            self.kv += steps * decoding * self.gain
            self.reserved -= self.engine.reserved * steps * decoding * self.gain
        self.peak = max(self.peak, self.kv + self.held)

    def preempt(self) -> None:
        """The cache is full: the request that started last gives its room up and is computed again."""
        entry = max(self.running, key=lambda each: (self.began[each[1]], each[1]))
        self.running.remove(entry)
        heapq.heapify(self.running)
        request = entry[1]
        passed = self.tick - self.began[request]
        self.kv -= self.done[request] + passed * self.gain
        self.preempted += 1
        self.decode_steps[request] -= passed
        self.left[request] = self.done[request] + round(passed * self.gain)
        self.done[request] = 0
        self.waiting.appendleft(request)

    def idle(self) -> None:
        """Nothing runs: until the next arrival."""
        self.now = self.seen_s = max(self.now, self.arriving[0][0])

    def answer(self) -> None:
        """Finished requests leave, and their clients send the next ones."""
        while self.running and self.running[0][0] <= self.tick:
            request = heapq.heappop(self.running)[1]
            gained = (self.tick - self.began[request]) * self.gain
            self.kv -= self.done[request] + gained
            self.reserved -= self.engine.reserved * (self.outputs[request] - gained)
            self.finished[request] = self.now
            self.answered += 1
            if self.sent < self.load.requests:
                self.send(self.now)
