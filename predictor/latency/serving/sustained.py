"""What an engine holds for ever: the steady state of a queue that never empties, in closed form.

With n sequences decoding, of which each leaves after `output` tokens, n · gain / output prompts begin per step. Where
prompts share steps with decoding (vLLM, TensorRT-LLM) a step carries that many prompt tokens too; where they go first
(SGLang) they are steps of their own between. n is what max_num_seqs, the KV cache and max_num_batched_tokens have room
for. Agrees with the simulation of an endless queue to a few per cent (tests/test_serving.py).
"""

from __future__ import annotations

import math
from typing import NamedTuple

from predictor.latency.serving.clients import Load
from predictor.latency.serving.step_table import Chunk, StepTime
from predictor.workloads.engines import Engine

COMPUTED_AGAIN = 0.25  # of an answer: what a full cache costs where nothing is reserved, by the simulation; judged


class Sustained(NamedTuple):
    """requests_per_s of one group, with so many sequences at once."""

    requests_per_s: float
    sequences: float


def sustained(load: Load, steps: StepTime, engine: Engine, kv_tokens: float = math.inf) -> Sustained:
    """The most that one group serves of requests such as those of the load; kv_tokens: that its cache holds."""
    prompt, cached, output = load.mean_len
    new, gain = prompt - cached, load.tokens_per_step
    following = max(output - 1, 0) / gain  # decode steps of a request
    kv_tokens -= load.shared  # which all requests have in common
    held = prompt - load.shared + load.beams * output * (1 + max(engine.reserved, COMPUTED_AGAIN)) / 2
    room, beams = min(float(engine.most_requests(load.beams)), kv_tokens / held), load.beams
    if not following:
        whole = max(min(engine.max_batched_tokens / new, room), 1.0)
        return Sustained(whole / _prompt_step_s(steps, engine, whole, new, cached, 0, 0.0, load), room)
    if engine.prefill_first:
        together = max(min(engine.max_batched_tokens / new, _together(room / following)), 1.0)
        alone = _prompt_step_s(steps, engine, together, new, cached, 0, 0.0, load) / together
        gpu_s = steps.decode_s(max(int(room), 1) * beams, prompt + output / 2, load.draft_tokens + 1)
        decode_s = engine.step_s_of(gpu_s, room * beams)
        return Sustained(1 / (alone + following * decode_s / room), room)
    # New tokens of a step, decoded and prompt, are at most max_batched_tokens.
    n = min(room, engine.max_batched_tokens / (beams * (load.draft_tokens + 1) + new / following))
    decoding = max(int(n), 1) * beams
    step_s = _prompt_step_s(steps, engine, n / following, new, cached, decoding, prompt + output / 2, load)
    return Sustained(n / following / step_s, n)


def _together(mean: float) -> float:
    """Prompts that come in one step, of the steps in which some come, where `mean` come per step at random."""
    return mean / -math.expm1(-mean)


def _prompt_step_s(
    steps: StepTime, engine: Engine, prompts: float, new: float, past: float, decoding: int, length: float, load: Load
) -> float:
    """Mean seconds of a step with `prompts` prompts, a mean that may be below one: then some steps have none.

    A prompt longer than a step runs in several.
    """
    together = _together(prompts) if decoding else prompts
    share = prompts / together
    tokens = max(min(new * together, float(engine.max_batched_tokens)), 1.0)
    passes = new * together / tokens
    chunks = max(round(together), 1)
    whole = [Chunk(max(round(tokens / chunks), 1), round(past))] * chunks
    mixed_s = steps.mixed_s(whole, decoding, length, load.draft_tokens + 1)
    mixed_s = float(engine.step_s_of(max(mixed_s, engine.launch_s * steps.launches), decoding + together))
    if not decoding:
        return passes * mixed_s
    plain_s = float(engine.step_s_of(steps.decode_s(decoding, length, load.draft_tokens + 1), decoding))
    share = min(share * passes, 1.0)
    return share * mixed_s + (1 - share) * plain_s
