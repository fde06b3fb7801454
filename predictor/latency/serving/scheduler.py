"""How an engine schedules what clients send: an event simulation.

Rules of the schedulers: predictor/catalog/engines.toml. Steps between two events are jumped over at once, so a
simulation takes milliseconds.
"""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right, insort
from collections import deque
from collections.abc import Sequence
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
    arriving, waiting, running = run.arriving, run.waiting, run.running
    while run.answered < load.requests:
        if arriving and arriving[0][0] <= run.seen_s:
            run.receive()
        if (waiting or run.started) and (chunks := run.schedule()):
            run.prefill(chunks)
        elif running:
            run.decode()
        else:
            run.idle()
        if running and running[0][0] <= run.tick:
            run.answer()
    columns = [np.array(column) for column in (run.submitted, run.first, run.finished, run.outputs)]
    batch, host_s = run.busy / max(run.tick, 1), run.waited_s / load.requests + engine.request_s
    return Served(columns[0], columns[1], columns[2], columns[3], batch, host_s, run.peak + load.shared, run.preempted)


def check_cache(load: Load, kv_tokens: float) -> None:
    """Raises InvalidRequest where the KV cache cannot hold the longest request."""
    if load.held > kv_tokens:
        beams = ", those of all beams," if load.beams > 1 else ""
        raise InvalidRequest(
            f"the longest request has {load.held} tokens{beams}; the KV cache holds {int(kv_tokens)} tokens. "
            "Raise tp, choose a narrower kv_dtype, or shorten one of them."
        )


class _Run:
    """State of a simulation: `now` seconds and `tick` decode steps after the start.

    Requests go from arriving (sent, not yet with the scheduler) to waiting, started (partly prefilled) and running:
    (tick of the last token, request) in order, and latest: (tick of the first, request) in order. kv: tokens cached for
    running requests, held: for started ones, reserved: for outputs to come. generated: by one
    beam of each running request; beams share its prompt, and what is computed again.
    """

    __slots__ = (
        "answered", "arriving", "beams", "began", "busy", "chunk", "decode_steps", "done", "engine", "finished",
        "first", "front", "gain", "generated", "graph_len", "grown",
        "held", "host_s", "kv", "kv_tokens", "latest", "launched_s", "left", "load", "now", "outputs",
        "overlapped", "peak", "postponed", "preempted", "prompts", "reserved", "running", "seen_s", "sent",
        "sequence_s", "shared", "slots", "started", "steps", "submitted", "tick", "waited_s", "waiting", "wide",
    )  # fmt: skip

    def __init__(self, load: Load, steps: StepTime, engine: Engine, kv_tokens: float) -> None:
        self.load, self.steps, self.engine, self.shared = load, steps, engine, load.shared
        self.kv_tokens = kv_tokens - load.shared  # in the cache once, for all requests
        self.prompts, self.done, self.outputs = load.lengths()
        self.wide, self.gain, self.beams = load.draft_tokens + 1, load.tokens_per_step, load.beams
        self.grown, self.slots = self.gain * load.beams, engine.most_requests(load.beams)
        outputs = np.array(self.outputs)
        self.decode_steps: list[int] = np.ceil((outputs - 1) / self.gain).astype(int).tolist()
        self.left: list[int] = (np.array(self.prompts) - np.array(self.done)).tolist()
        self.submitted, self.first, self.finished = ([0.0] * load.requests for _ in range(3))
        self.began = [0] * load.requests
        self.host_s, self.sequence_s, self.overlapped = engine.step_s, engine.sequence_s, engine.overlapped
        self.launched_s = engine.launch_s * steps.launches
        self.graph_len = (engine.graph_len or math.inf) if engine.graphs else 0.0
        self.chunk = Chunk(0, 0)
        self.arriving: deque[tuple[float, int]] = deque()
        self.waiting: deque[int] = deque()
        self.started: list[int] = []
        self.running: list[tuple[int, int]] = []
        self.latest: list[tuple[int, int]] = []
        self.now = self.seen_s = self.front = self.kv = self.held = self.reserved = self.waited_s = self.peak = 0.0
        self.generated = 0.0
        self.tick = self.answered = self.busy = self.postponed = self.sent = self.preempted = 0
        self.send(load.arrivals())

    def send(self, times: Sequence[float]) -> None:
        """Clients send the next requests; each process of the front end takes one after the other."""
        front, sent, request_s = self.front, self.sent, self.engine.request_s
        busy_s = request_s / self.engine.processes
        for time_s in times:
            if time_s > front:
                front = time_s
            self.submitted[sent] = time_s
            self.arriving.append((front + request_s, sent))
            front += busy_s
            sent += 1
        self.front, self.sent = front, sent

    def receive(self) -> None:
        """Requests that the scheduler sees: one that plans ahead misses what came during the last step."""
        arriving, seen_s = self.arriving, self.seen_s
        while arriving and arriving[0][0] <= seen_s:
            self.waiting.append(arriving.popleft()[1])

    def schedule(self) -> list[tuple[int, Chunk]]:
        """Prompt chunks of the next step, by request; none where it only decodes."""
        waiting, started, engine = self.waiting, self.started, self.engine
        decoding, left, done = len(self.running), self.left, self.done
        room = engine.max_batched_tokens - (0 if engine.prefill_first else decoding * self.beams * self.wide)
        chunks: list[tuple[int, Chunk]] = []
        for request in started:
            if room > 0:
                chunks.append((request, Chunk(min(left[request], room), done[request])))
                room -= chunks[-1][1].new
        slots, chunk, outputs = self.slots - decoding - len(started), self.chunk, self.outputs
        held, reserved, tokens, grown = self.held, self.reserved, self.kv_tokens, self.grown
        step, kept = (decoding + len(started)) * grown, engine.reserved * self.beams
        while waiting and room > 0 and slots > 0:
            request = waiting[0]
            new, past = left[request], done[request]
            if new > room and chunks and not engine.chunked:
                break
            prompt, output = new + past - self.shared, kept * outputs[request]
            taken, step = self.kv + held + reserved, step + grown  # or one would be preempted at once, and again
            if taken + prompt + (output if output > step else step) > tokens and taken > 0:
                break
            started.append(waiting.popleft())
            held += prompt
            reserved += output
            if new > room:
                new = room
            if new != chunk[0] or past != chunk[1]:  # most are as the one before
                chunk = Chunk(new, past)
            chunks.append((request, chunk))
            room -= new
            slots -= 1
        self.held, self.reserved, self.chunk = held, reserved, chunk
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
        cached = self.length / active + self.shared if active else 0.0
        sequences = active * self.beams
        gpu_s = self.steps.mixed_s([chunk for _, chunk in chunks], sequences, cached, self.wide)
        step_s = self.step_s_of(max(gpu_s, self.launched_s), sequences + len(chunks))
        self.waited_s += (step_s - gpu_s) * (active + len(chunks))
        self.advance(step_s, 1, active)
        left, done = self.left, self.done
        for request, (new, _) in chunks:
            left[request] -= new
            done[request] += new
        self.start([request for request, _ in chunks if not left[request]])

    def start(self, requests: list[int]) -> None:
        """The whole prompt of each is cached: the first token is out, the rest follow."""
        now, tick, done, first, cached = self.now, self.tick, self.done, self.first, 0
        running, latest, began, decode_steps = self.running, self.latest, self.began, self.decode_steps
        for request in requests:
            cached += done[request] - self.shared
            if not first[request]:
                first[request] = now
            began[request] = tick
            insort(running, (tick + decode_steps[request], request))
            insort(latest, (tick, request))
        self.held -= cached
        self.kv += cached
        self.started = [request for request in self.started if self.left[request]]

    def decode(self) -> None:
        """Decode steps up to the next event: an answer, an arrival, prompts that were postponed, or a full cache."""
        running, engine = self.running, self.engine
        decoding = len(running)
        sequences, grown = decoding * self.beams, decoding * self.grown
        steps = running[0][0] - self.tick
        if engine.reserved < 1.0 and self.kv + self.held + grown * steps > self.kv_tokens:
            steps = int((self.kv_tokens - self.kv - self.held) / grown)
            if steps < 1 and decoding > 1:
                self.preempt()
                return
            steps = max(steps, 1)
        if self.postponed:
            steps = 1
        cached = (self.length + decoding * self.gain * 0.5 * (steps - 1)) / decoding + self.shared
        gpu_s = self.steps.decode_s(sequences, cached, self.wide)
        step_s = self.step_s_of(gpu_s if cached <= self.graph_len else max(gpu_s, self.launched_s), sequences)
        if self.arriving and steps > 1:
            ahead = math.ceil((self.arriving[0][0] - self.now) / step_s)
            steps = max(1, min(steps, ahead + engine.overlapped))
        self.waited_s += steps * (step_s - gpu_s) * decoding
        self.advance(step_s, steps, decoding)

    @property
    def length(self) -> float:
        """Tokens of the running requests, of each the prompt and one beam."""
        return self.kv - (self.beams - 1) * self.generated

    def step_s_of(self, gpu_s: float, sequences: int) -> float:
        """As of the engine, for plain numbers."""
        host_s = self.host_s + self.sequence_s * sequences
        if not self.overlapped:
            return gpu_s + host_s
        return gpu_s if gpu_s > host_s else host_s

    def advance(self, step_s: float, steps: int, decoding: int) -> None:
        """`steps` equal steps pass, in which `decoding` requests gain tokens."""
        self.now = now = self.now + steps * step_s
        self.seen_s = now - step_s * self.engine.overlapped
        if decoding:
            self.tick += steps
            decoded = steps * decoding
            self.busy += decoded * self.beams
            self.kv += decoded * self.grown
            self.generated += decoded * self.gain
            self.reserved -= self.engine.reserved * decoded * self.grown
        if self.kv + self.held > self.peak:
            self.peak = self.kv + self.held

    def preempt(self) -> None:
        """The cache is full: the request that started last gives its room up and is computed again."""
        began, request = self.latest.pop()
        del self.running[bisect_left(self.running, (began + self.decode_steps[request], request))]
        passed = self.tick - began
        self.kv -= self.done[request] - self.shared + passed * self.grown
        self.generated -= passed * self.gain
        self.preempted += 1
        self.decode_steps[request] -= passed
        self.left[request] = self.done[request] - self.shared + round(passed * self.grown)
        self.done[request] = self.shared
        self.waiting.appendleft(request)

    def idle(self) -> None:
        """Nothing runs: until the next arrival."""
        self.now = self.seen_s = max(self.now, self.arriving[0][0])

    def answer(self) -> None:
        """Finished requests leave, and their clients send the next ones."""
        running, latest, tick, now, gain = self.running, self.latest, self.tick, self.now, self.gain
        kv, generated, reserved, beams, share = self.kv, self.generated, self.reserved, self.beams, self.engine.reserved
        answered = bisect_right(running, (tick, self.load.requests))
        for _, request in running[:answered]:
            began = self.began[request]
            del latest[bisect_left(latest, (began, request))]
            gained = (tick - began) * gain
            kv -= self.done[request] - self.shared + beams * gained
            generated -= gained
            reserved -= share * (self.outputs[request] - gained) * beams
            self.finished[request] = now
        del running[:answered]
        self.kv, self.generated, self.reserved = kv, generated, reserved
        self.answered += answered
        self.send([now] * min(answered, self.load.requests - self.sent))
