"""One worker of a disaggregated server: how many requests a second it takes, and how long each of them takes.

A prefill worker is simulated (predictor.latency.serving.scheduler): prompts arrive at random (Poisson), each worker
getting an even share, and run in the engine's steps. With one prompt a step that is the queue M/D/1, whose mean wait is
load / (2 (1 - load)) steps (Pollaczek–Khinchine).

A decode worker has a closed form. In the steady state its sequences are evenly spread over their answers, so a step
sees input_len + output_len / 2 tokens of each. Their number is Poisson distributed about its mean n (M/G/∞, Palm), and
the slots that the KV cache leaves must hold n + 2 √n, so that 98 of 100 requests find one.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np

from predictor.latency.serving.clients import Load
from predictor.latency.serving.scheduler import Served, simulate
from predictor.latency.serving.step_table import ENDS, Slower, StepTimes
from predictor.ops.dtypes import Array
from predictor.workloads.engines import Engine

REQUESTS = 4000  # of a simulation


@dataclass(frozen=True, kw_only=True)
class PrefillWorker:
    """Computes prompts and first tokens.

    groups: of GPUs that each take a share of the prompts (attention groups, pipeline stages). kv_tokens: of one group.
    link_s: seconds for which a request keeps the worker's links busy. n_gpus: of the worker. alone: share of its time
    that a step takes where no other group has a prompt, whose tokens visit the experts of all groups.
    """

    times: StepTimes
    engine: Engine
    input_len: int
    groups: int = 1
    kv_tokens: float = math.inf
    link_s: float = 0.0
    n_gpus: int = 1
    alone: float = 1.0

    @cached_property
    def computed(self) -> Mapping[str, float]:
        """Requests per second that one group finishes when it never waits for one, by end of the step times."""
        load = Load(input_len=self.input_len, output_len=1, concurrency=REQUESTS, requests=REQUESTS)
        return {end: REQUESTS / float(self._run(load, end).finished_s.max()) for end in ENDS}

    def requests_per_s(self, end: str = "value") -> float:
        """What its GPUs compute and its links carry; end: of the interval of the step times."""
        return min(self.groups * self.computed[end], _carried(self.link_s))

    def ttft_s(self, requests_per_s: float, end: str = "value") -> float:
        """Mean time from the arrival of a request to its first token, at a rate below requests_per_s(end).

        A simulation has only so many arrivals, so the error that they give the queue M/D/1 is taken off (a control
        variate): at 90 % load 4000 of them leave 25 % of noise, and then 2 %.

        Steps are as long as other groups are busy: of a share b of the time, step = full · (alone + b (1 - alone)), and
        b = rate · step.
        """
        rate, full_s = requests_per_s / self.groups, 1 / self.computed[end]
        share = self.alone / (1 - rate * full_s * (1 - self.alone))
        step_s = share * full_s
        load = Load(input_len=self.input_len, output_len=1, rate=rate, requests=REQUESTS)
        served = self._run(load, end, share)
        early = step_s - np.diff(served.submitted_s)
        ahead = np.concatenate([[0.0], np.cumsum(early)])
        waits = ahead - np.minimum.accumulate(ahead)  # Lindley's recursion
        busy = rate * step_s
        error = waits.mean() - step_s * busy / (2 * (1 - busy))
        return float((served.first_s - served.submitted_s).mean() - error)

    def _run(self, load: Load, end: str, share: float = 1.0) -> Served:
        steps = getattr(self.times, end)
        return simulate(load, steps if share == 1.0 else Slower(steps, share), self.engine, self.kv_tokens)


class DecodeLoads(NamedTuple):
    """Loads of a decode worker, (loads,) each: mean sequences, seconds of a step, and requests per second."""

    sequences: Array
    tpot_s: Array
    requests_per_s: Array

    @property
    def most(self) -> float:
        """Requests per second at the load that answers most."""
        return float(self.requests_per_s.max())

    def first(self, count: int) -> DecodeLoads:
        """The lightest `count` loads."""
        return DecodeLoads(*(column[:count] for column in self))

    def least(self, requests_per_s: float) -> int:
        """Index of the fewest sequences that answer so many requests, or as many as any."""
        return int(np.argmax(self.requests_per_s >= min(requests_per_s, self.most)))


@dataclass(frozen=True, slots=True, kw_only=True)
class DecodeWorker:
    """Computes all tokens after the first; fields as in PrefillWorker. slots: sequences that one group has room for."""

    times: StepTimes
    engine: Engine
    input_len: int
    output_len: int
    slots: int
    groups: int = 1
    link_s: float = 0.0
    n_gpus: int = 1

    @property
    def sequences(self) -> float:
        """The most that one group decodes on average: n + 2 √n are the slots of all groups."""
        return (math.sqrt(self.slots * self.groups + 1) - 1) ** 2 / self.groups

    def loads(self, end: str = "value") -> DecodeLoads:
        """Every load from one sequence per group to the most; end: of the interval of the step times."""
        most, table = self.sequences, getattr(self.times, end)
        mean = np.array([*range(1, math.ceil(most)), most])
        length = self.input_len + self.output_len / 2
        whole = np.ceil(mean).astype(int).tolist()
        steps = np.array([self.engine.step_s_of(table.decode_s(n, length), n) for n in whole])
        steps = np.maximum.accumulate(steps)
        answered = self.groups * mean / ((self.output_len - 1) * steps)
        return DecodeLoads(mean * self.groups, steps, np.minimum(answered, _carried(self.link_s)))


def _carried(link_s: float) -> float:
    """Requests per second over links that each keeps busy for link_s."""
    return 1 / link_s if link_s else math.inf
