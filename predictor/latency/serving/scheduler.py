"""How an engine schedules requests: its settings, what clients send, and an event simulation of both.

Rules of the schedulers: predictor/catalog/engines.toml. Steps between two events are jumped over at once, so a
simulation takes milliseconds.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from heapq import heapify, heappop, heappush
from typing import NamedTuple

import numpy as np

from predictor.errors import InvalidRequest
from predictor.latency.serving.step_times import Chunk, StepTime
from predictor.ops.dtypes import Array
from predictor.values import whole_number
from predictor.workloads.engines import Engine

ROUNDS = 10  # requests per client: what InferenceX and most published runs send, the first wave counted
OPEN_REQUESTS = 500  # requests of a run at a rate


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """What clients send; checked on creation (InvalidRequest).

    input_len, output_len: tokens of the longest request. shortest: length of the shortest as a share of it; lengths lie
    evenly between (random-range-ratio of vLLM's benchmark). concurrency: clients, each sending its next request when
    the last is answered, all starting together; or rate: requests per second that arrive at random (Poisson).
    requests: in all, 10 per client or 500. prefix_cache_hit_rate: share of each prompt that is cached already.
    draft_tokens: tokens proposed per step and sequence, each right with probability `acceptance`, at no cost but that
    of checking them. seed: of arrivals and lengths.
    """

    input_len: int
    output_len: int
    concurrency: int = 0
    rate: float = 0.0
    requests: int = 0
    shortest: float = 1.0
    prefix_cache_hit_rate: float = 0.0
    draft_tokens: int = 0
    acceptance: float = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        """Checks every field and sets the number of requests."""
        for name in ("input_len", "output_len"):
            whole_number(name, getattr(self, name))
        for name in ("concurrency", "requests", "draft_tokens"):
            if getattr(self, name):
                whole_number(name, getattr(self, name))
        for name in ("shortest", "prefix_cache_hit_rate", "acceptance"):
            if not 0.0 <= (value := getattr(self, name)) <= 1.0:
                raise InvalidRequest(f"{name} is {value:g}; it must lie between 0 and 1.")
        if (self.concurrency > 0) == (self.rate > 0) or not 0.0 <= self.rate < math.inf:
            raise InvalidRequest(
                f"concurrency is {self.concurrency} and rate {self.rate:g}; give exactly one of them, above 0."
            )
        if not self.requests:
            object.__setattr__(self, "requests", ROUNDS * self.concurrency or OPEN_REQUESTS)

    @property
    def tokens_per_step(self) -> float:
        """Tokens that a sequence gains per step: 1 + a + a² + … (Leviathan et al., arXiv:2211.17192, eq. 1)."""
        return sum(self.acceptance**i for i in range(self.draft_tokens + 1))

    def lengths(self) -> tuple[list[int], list[int]]:
        """Prompt and output tokens of every request."""
        random = np.random.default_rng(self.seed)
        ranges = [(max(1, int(most * self.shortest)), most + 1) for most in (self.input_len, self.output_len)]
        prompts, outputs = (random.integers(*ends, self.requests).tolist() for ends in ranges)
        return prompts, outputs


class Served(NamedTuple):
    """Per request, in order of submission: (requests,) arrays of seconds and tokens. batch: sequences per decode."""

    submitted_s: Array
    first_s: Array
    finished_s: Array
    output_len: Array
    batch: float


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
    return Served(columns[0], columns[1], columns[2], columns[3], run.busy / max(run.tick, 1))


def check_cache(load: Load, kv_tokens: float) -> None:
    """Raises InvalidRequest where the KV cache cannot hold the longest request."""
    longest = load.input_len + load.output_len
    if longest > kv_tokens:
        raise InvalidRequest(
            f"input_len + output_len is {longest}; the KV cache holds {int(kv_tokens)} tokens. "
            "Raise tp, choose a narrower kv_dtype, or shorten one of them."
        )


class _Run:
    """State of a simulation: `now` seconds and `tick` decode steps after the start.

    Requests go from arriving (sent, not yet with the scheduler) to waiting, started (partly prefilled) and running: a
    heap of (tick of the last token, request). kv: tokens cached for running requests, held: for started ones,
    reserved: for outputs to come.
    """

    __slots__ = (
        "answered", "arriving", "began", "busy", "chunk", "decode_steps", "done", "engine", "finished", "first",
        "front", "gain", "held", "host_s", "kv", "kv_tokens", "launched_s", "left", "load", "now", "outputs",
        "overlapped", "postponed", "prompts", "reserved", "running", "seen_s", "sent", "sequence_s", "started",
        "steps", "submitted", "tick", "waiting", "wide",
    )  # fmt: skip

    def __init__(self, load: Load, steps: StepTime, engine: Engine, kv_tokens: float) -> None:
        self.load, self.steps, self.engine, self.kv_tokens = load, steps, engine, kv_tokens
        self.prompts, self.outputs = load.lengths()
        self.wide, self.gain = load.draft_tokens + 1, load.tokens_per_step
        prompts, outputs = np.array(self.prompts), np.array(self.outputs)
        self.decode_steps: list[int] = np.ceil((outputs - 1) / self.gain).astype(int).tolist()
        done = np.minimum(np.rint(load.prefix_cache_hit_rate * prompts).astype(int), prompts - 1)
        self.done: list[int] = done.tolist()
        self.left: list[int] = (prompts - done).tolist()
        self.submitted, self.first, self.finished = ([0.0] * load.requests for _ in range(3))
        self.began = [0] * load.requests
        self.host_s, self.sequence_s, self.overlapped = engine.step_s, engine.sequence_s, engine.overlapped
        self.launched_s = engine.launch_s * steps.launches
        self.chunk = Chunk(0, 0)
        self.arriving: deque[tuple[float, int]] = deque()
        self.waiting: deque[int] = deque()
        self.started: list[int] = []
        self.running: list[tuple[int, int]] = []
        self.now = self.seen_s = self.front = self.kv = self.held = self.reserved = 0.0
        self.tick = self.answered = self.busy = self.postponed = self.sent = 0
        times = [0.0] * min(load.concurrency, load.requests)
        if load.rate:
            gaps = np.random.default_rng(load.seed).exponential(1.0 / load.rate, load.requests)
            times = np.cumsum(gaps).tolist()
        self.send(times)

    def send(self, times: Sequence[float]) -> None:
        """Clients send the next requests; the front end takes one after the other."""
        front, sent, request_s = self.front, self.sent, self.engine.request_s
        for time_s in times:
            front = (front if front > time_s else time_s) + request_s
            self.submitted[sent] = time_s
            self.arriving.append((front, sent))
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
        room = engine.max_batched_tokens - (0 if engine.prefill_first else decoding * self.wide)
        chunks: list[tuple[int, Chunk]] = []
        for request in started:
            if room > 0:
                chunks.append((request, Chunk(min(left[request], room), done[request])))
                room -= chunks[-1][1].new
        slots, chunk, outputs = engine.max_sequences - decoding - len(started), self.chunk, self.outputs
        held, reserved, tokens = self.held, self.reserved, self.kv_tokens
        step = (decoding + len(started)) * self.gain
        while waiting and room > 0 and slots > 0:
            request = waiting[0]
            new, past = left[request], done[request]
            if new > room and chunks and not engine.chunked:
                break
            prompt, output = new + past, engine.reserved * outputs[request]
            taken, step = self.kv + held + reserved, step + self.gain  # or one would be preempted at once, and again
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
        cached = self.kv / active if active else 0.0
        gpu_s = self.steps.mixed_s([chunk for _, chunk in chunks], active, cached, self.wide)
        step_s = self.step_s_of(max(gpu_s, self.launched_s), active + len(chunks))
        self.advance(step_s, 1, active)
        left, done = self.left, self.done
        for request, (new, _) in chunks:
            left[request] -= new
            done[request] += new
        self.start([request for request, _ in chunks if not left[request]])

    def start(self, requests: list[int]) -> None:
        """The whole prompt of each is cached: the first token is out, the rest follow."""
        now, tick, done, first, cached = self.now, self.tick, self.done, self.first, 0
        running, began, decode_steps = self.running, self.began, self.decode_steps
        for request in requests:
            cached += done[request]
            if not first[request]:
                first[request] = now
            began[request] = tick
            heappush(running, (tick + decode_steps[request], request))
        self.held -= cached
        self.kv += cached
        self.started = [request for request in self.started if self.left[request]]

    def decode(self) -> None:
        """Decode steps up to the next event: an answer, an arrival, prompts that were postponed, or a full cache."""
        running, engine = self.running, self.engine
        decoding = len(running)
        grown = decoding * self.gain
        steps = running[0][0] - self.tick
        if engine.reserved < 1.0 and self.kv + self.held + grown * steps > self.kv_tokens:
            steps = int((self.kv_tokens - self.kv - self.held) / grown)
            if steps < 1 and decoding > 1:
                self.preempt()
                return
            steps = max(steps, 1)
        if self.postponed:
            steps = 1
        gpu_s = self.steps.decode_s(decoding, (self.kv + grown * 0.5 * (steps - 1)) / decoding, self.wide)
        step_s = self.step_s_of(gpu_s, decoding)
        if self.arriving and steps > 1:
            ahead = math.ceil((self.arriving[0][0] - self.now) / step_s)
            steps = max(1, min(steps, ahead + engine.overlapped))
        self.advance(step_s, steps, decoding)

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
            self.busy += decoded
            self.kv += decoded * self.gain
            self.reserved -= self.engine.reserved * decoded * self.gain

    def preempt(self) -> None:
        """The cache is full: the request that started last gives its room up and is computed again."""
        entry = max(self.running, key=lambda each: (self.began[each[1]], each[1]))
        self.running.remove(entry)
        heapify(self.running)
        request = entry[1]
        passed = self.tick - self.began[request]
        self.kv -= self.done[request] + passed * self.gain
        self.decode_steps[request] -= passed
        self.left[request] = self.done[request] + round(passed * self.gain)
        self.done[request] = 0
        self.waiting.appendleft(request)

    def idle(self) -> None:
        """Nothing runs: until the next arrival."""
        self.now = self.seen_s = max(self.now, self.arriving[0][0])

    def answer(self) -> None:
        """Finished requests leave, and their clients send the next ones."""
        running, tick, now, gain, answered = self.running, self.tick, self.now, self.gain, 0
        kv, reserved, share = self.kv, self.reserved, self.engine.reserved
        while running and running[0][0] <= tick:
            request = heappop(running)[1]
            gained = (tick - self.began[request]) * gain
            kv -= self.done[request] + gained
            reserved -= share * (self.outputs[request] - gained)
            self.finished[request] = now
            answered += 1
        self.kv, self.reserved = kv, reserved
        self.answered += answered
        self.send([now] * min(answered, self.load.requests - self.sent))
