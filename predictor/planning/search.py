"""How many replicas of each candidate keep a promise, by simulation.

More replicas shorten queues and batches, so that a promise is kept ever more surely: the fewest that keep it surely
enough are found by halving, from what the closed form of an endless queue says.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from predictor.errors import PredictorError
from predictor.estimators.bundle import Bundle
from predictor.latency.own_runs import correction_of
from predictor.latency.serving.load import Serving, groups_of, kv_capacity, serve, served_by
from predictor.latency.serving.step_table import Chunk, StepTime
from predictor.latency.serving.step_times import foresee, step_times
from predictor.latency.serving.sustained import sustained
from predictor.latency.steps import Steps, op_lines_of_many, total
from predictor.memory.closed_form import Memory, memory
from predictor.ops.dtypes import Array
from predictor.planning.candidates import Candidate, Lost
from predictor.planning.service import SUREST, ServiceLevel, p_above, within
from predictor.values import one_line, time_text
from predictor.workloads.engines import Engine
from predictor.workloads.passes.calls import Phase
from predictor.workloads.workload import Workload, prompt_and_middle_phases

BETWEEN = 33  # sizes of decode steps, times of which lie between those that are predicted
TOGETHER = 16  # candidates whose step times are predicted together
CAREFUL = 1.25  # times as long as predicted steps take, where the search begins
MORE = 2  # times as many more replicas are tried; what then is not kept surely is too little known
MOST_REPLICAS = 4096
TRIES = 5  # simulations of a candidate at most
PAYS = 0.25  # where none is sure enough, ten times the cost is worth 10**PAYS = 1.8 times the probability
WAITED = frozenset({"ttft_p99_s", "e2e_s"})  # promises that a wait breaks


class Deployment(NamedTuple):
    """Replicas of a candidate under the whole load. p_slo: probability that it starts, keeps up, and keeps what is
    promised. prompt_share: of the GPUs' time that prompts take, the rest being of the tokens after the first."""

    candidate: Candidate
    replicas: int
    workload: Workload
    served: Serving
    memory: Memory
    p_slo: float
    prompt_share: float

    @property
    def n_gpus(self) -> int:
        """GPUs in all."""
        return self.candidate.n_gpus * self.replicas

    @property
    def text(self) -> str:
        """ "5 × (2 × H200-SXM-141GB, fp8, vllm)"; of one replica what is in brackets."""
        return f"{self.replicas} × ({self.candidate.text})" if self.replicas > 1 else self.candidate.text


def deployments(many: Sequence[Candidate], level: ServiceLevel, sure: float, bundle: Bundle) -> list[Deployment | Lost]:
    """The fewest replicas of each that keep the level with a probability of `sure`; where none do, those that come
    nearest, or why there is no answer."""
    answers: list[Deployment | Lost] = []
    for first in range(0, len(many), TOGETHER):
        part = many[first : first + TOGETHER]
        foresee([(one.workload, one.gpu) for one in part], bundle)
        answers += [_fewest(one, level, sure, bundle) for one in part]
    return answers


class Expected(NamedTuple):
    """Replicas that a candidate needs at least for what is promised to be kept so surely. hopeless: none are enough."""

    replicas: int
    hopeless: bool


def expected(many: Sequence[Candidate], level: ServiceLevel, sure: float, bundle: Bundle) -> list[Expected | Lost]:
    """What each needs, or why it has no answer: from predictions of a prompt alone and of decode steps of a few sizes,
    without a simulation.

    Steps take as long as they do with a probability of `sure`. What else delays requests or makes times less sure is
    left out, so that a simulation asks for no fewer.
    """
    sizes = [
        np.unique(np.array([1, *(int(one.least.sequences) // 2**halving or 1 for halving in range(4))])) for one in many
    ]
    steps = [
        Steps(
            [phase for sized in _sized(one, counts) for phase in sized],
            one.gpu,
            one.workload.engine,
            one.workload.links,
        )
        for one, counts in zip(many, sizes, strict=True)
    ]
    told: list[Expected | Lost] = []
    for one, counts, lines in zip(many, sizes, op_lines_of_many(steps, bundle), strict=True):
        lost = Lost(one.gpu.name, one.n_gpus, one.workload.dtype, one.workload.engine, "")
        if isinstance(lines, PredictorError):
            told.append(lost._replace(why=one_line(lines)))
            continue
        prompt, *decodes = (total(step, one.gpu, bundle) for step in lines)
        alone = float(prompt.low) * (1 - one.load.mean_len[1] / one.load.mean_len[0])
        if alone > level.ttft_p99_s:
            promised = time_text(level.ttft_p99_s)
            why = f"a prompt alone takes {time_text(alone)} at least; {promised} are promised."
            told.append(lost._replace(why=why))
            continue
        pace = math.exp(correction_of(one.workload, one.gpu, bundle, load=True).pace.log)
        prompt_s, *decode_s = (pace * within(step, bundle.level, sure) for step in (prompt, *decodes))
        between = np.unique(np.geomspace(1, counts[-1], BETWEEN).round())
        told.append(_needed(one, prompt_s, between, np.interp(between, counts, decode_s), level))
    return told


def _sized(one: Candidate, counts: Array) -> Iterator[list[Phase]]:
    """The steps of a prompt alone, and of decode steps of so many sequences."""
    prompt, _, output = one.load.mean_len
    alone = replace(one.workload, batch=1, input_len=max(round(prompt), 1), output_len=max(round(output), 1))
    yield prompt_and_middle_phases(alone)[:1]
    for count in counts:
        yield prompt_and_middle_phases(replace(alone, batch=int(count)))[1:]


def _needed(one: Candidate, prompt_s: float, counts: Array, decode_s: Array, level: ServiceLevel) -> Expected:
    """Replicas, where a prompt and decode steps of `counts` sequences take so long: prompts interrupt decoding."""
    prompt, cached, output = one.load.mean_len
    following, gain = max(output - 1, 0.0), one.load.tokens_per_step
    groups = groups_of(one.workload)
    each_s = prompt_s * (1 - cached / prompt) / groups + following * decode_s / gain / counts
    token_s = counts * each_s / following if following else np.zeros_like(counts)
    kept = token_s <= level.tpot_s
    best = int(np.argmin(np.where(kept, each_s, np.inf))) if kept.any() else 0
    asked = one.load.concurrency / float(counts[best]) if one.load.concurrency else one.load.offered_rate * each_s[best]
    return Expected(max(math.ceil(asked), 1), hopeless=float(decode_s[0]) / gain > level.tpot_s)


def _fewest(one: Candidate, level: ServiceLevel, sure: float, bundle: Bundle) -> Deployment | Lost:
    most = min(one.most_gpus // one.n_gpus if one.most_gpus else MOST_REPLICAS, one.load.concurrency or MOST_REPLICAS)
    try:
        return _halved(one, level, sure, bundle, max(most, 1))
    except PredictorError as error:
        return Lost(one.gpu.name, one.n_gpus, one.workload.dtype, one.workload.engine, one_line(error))


def _halved(one: Candidate, level: ServiceLevel, sure: float, bundle: Bundle, most: int) -> Deployment:
    """The fewest replicas up to `most` that are sure enough, within a tenth of them; else those that are worth
    most."""
    here = min(guess(one, level, bundle), most)
    most = min(most, MORE * here + MORE)
    failing, passing = 0, 0
    tried: list[Deployment] = []
    for _ in range(TRIES):
        tried.append(deployed(one, here, level, bundle))
        if tried[-1].p_slo >= sure:
            passing = here
        else:
            failing = here
        failing = max(failing, min(too_few(tried[-1], sure, bundle.level), most - 1))
        if (passing and passing - failing <= max(1, passing // 10)) or failing >= most or _alone(tried[-1], failing):
            break
        here = (failing + passing) // 2 if passing else min(max(failing + 1, 3 * failing // 2), most)
    if kept := [one for one in tried if one.p_slo >= sure]:
        return min(kept, key=lambda one: one.replicas)
    return max(tried, key=lambda one: worth(one.p_slo, one.replicas))


def too_few(tried: Deployment, sure: float, of_intervals: float) -> int:
    """Up to how many replicas cannot keep up with arrivals so surely, as what each can serve is known from one run."""
    load, held = tried.candidate.load, tried.served.sustainable_rate
    if load.concurrency:
        return 0

    def keep_up(replicas: int) -> bool:
        return p_above(held, load.offered_rate * tried.replicas / replicas, of_intervals) >= sure

    return bisect_left(range(1, MOST_REPLICAS + 1), True, key=keep_up)


def worth(p_slo: float, cost: float) -> float:
    """By which what is not sure enough is ranked: a little surer is not worth many times the cost.

    >>> worth(0.78, 5) > worth(0.79, 245), worth(0.78, 2) > worth(0.5, 1)
    (True, True)
    """
    return float(p_slo / cost**PAYS)


def lessened(many: Sequence[Deployment], level: ServiceLevel, bundle: Bundle) -> list[Deployment]:
    """Each with fewer replicas, by halving them, as long as it is worth more: where a time hardly falls with more of
    them, the closed form asks for one request on each."""
    return [_lessened(one, level, bundle) for one in many]


def _lessened(one: Deployment, level: ServiceLevel, bundle: Bundle) -> Deployment:
    while one.replicas > 1 and not one.served.saturated:
        fewer = deployed(one.candidate, one.replicas // 2, level, bundle)
        if fewer.served.saturated or worth(fewer.p_slo, fewer.replicas) <= worth(one.p_slo, one.replicas):
            break
        one = fewer
    return one


def _alone(tried: Deployment, failing: int) -> bool:
    """Whether fewer requests for each replica would not help: already they seldom meet."""
    return tried.replicas == failing and tried.served.batch <= 1.2 * tried.replicas


def guess(one: Candidate, level: ServiceLevel, bundle: Bundle) -> int:
    """Replicas that keep up with the load and with the time of a token, in closed form."""
    workload, load = one.workload, one.load
    engine, times = _engine_and_steps(one, bundle)
    room, groups = kv_capacity(workload, one.gpu, load, engine), groups_of(workload)
    output = load.mean_len[2]

    def held(sequences: int) -> tuple[float, float]:
        """Requests per second and seconds of a token of a group with so many sequences at most."""
        rate, at_once = sustained(load, times, replace(engine, max_sequences=sequences), room)
        return rate, CAREFUL * at_once / rate / max(output, 1.0)

    most = engine.max_sequences
    if held(most)[1] > level.tpot_s:
        low, high = 1, most
        while high - low > max(low // 8, 1):
            middle = (low + high) // 2
            low, high = (middle, high) if held(middle)[1] <= level.tpot_s else (low, middle)
        most = low
    if load.concurrency:
        return max(math.ceil(load.concurrency / (most * groups)), 1)
    return max(math.ceil(CAREFUL * load.offered_rate / (held(most)[0] * groups)), 1)


def deployed(one: Candidate, replicas: int, level: ServiceLevel, bundle: Bundle) -> Deployment:
    """So many replicas under the whole load."""
    workload = replace(one.workload, dp=replicas)
    served = serve(workload, one.gpu, bundle, one.load, warmup=one.resolved.request.warmup)
    at_once = replace(workload, batch=max(round(served.batch), 1))
    need = memory(at_once, one.gpu, served.peak_tokens, one.load.held)
    kept = level.kept(served, bundle.level) * (1 - float(need.p_oom))
    share = _prompt_share(one, served.batch / (replicas * groups_of(one.workload)), bundle)
    return Deployment(one, replicas, workload, served, need, kept * keeps_up(one, served, level, bundle.level), share)


def _engine_and_steps(one: Candidate, bundle: Bundle) -> tuple[Engine, StepTime]:
    """The engine of a candidate, and how long its steps are predicted to take."""
    engine = served_by(one.workload, one.gpu)
    return engine, step_times(one.workload, one.gpu, bundle, engine.max_batched_tokens, engine.max_sequences).value


def _prompt_share(one: Candidate, sequences: float, bundle: Bundle) -> float:
    """Share of the time of steps that prompts take, with so many sequences of a group at once."""
    (engine, steps), (prompt, cached, output) = _engine_and_steps(one, bundle), one.load.mean_len
    at_once = max(round(sequences), 1)
    new = max(min(round(prompt - cached), engine.max_batched_tokens), 1)
    prompt_s = (prompt - cached) / new * steps.mixed_s([Chunk(new, round(cached))], 0, 0.0)
    token_s = steps.decode_s(at_once, prompt + output / 2, one.load.draft_tokens + 1) / at_once
    return prompt_s / (prompt_s + max(output - 1, 0.0) / one.load.tokens_per_step * token_s)


def met(one: Deployment, level: ServiceLevel, sure: float, of_intervals: float) -> dict[str, float] | None:
    """Seconds of each promise that a deployment keeps, all of them with a probability of `sure`; None where no time
    would do, as it does not start or keep up so surely. of_intervals: their level."""
    starts = (1 - float(one.memory.p_oom)) * keeps_up(one.candidate, one.served, level, of_intervals)
    each = (sure / starts) ** (1 / max(len(level.promised), 1)) if starts >= sure else 1.0
    if each > (SUREST if level.promised else 1 - 1e-12):
        return None
    return {name: within(getattr(one.served, name), of_intervals, each) for name in level.promised}


def keeps_up(one: Candidate, served: Serving, level: ServiceLevel, interval: float) -> float:
    """Probability that no queue grows for ever: of arrivals, that more can be served than come.

    Clients wait at most for each other; where nothing is promised of first tokens or answers, that none has to.
    """
    if one.load.concurrency:
        return 1 - SUREST if served.saturated and not level.promised.keys() & WAITED else 1.0
    return p_above(served.sustainable_rate, one.load.offered_rate, interval)
