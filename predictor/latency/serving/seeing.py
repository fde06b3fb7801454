"""Steps whose prompts hold images: with the pass of the vision tower in them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

from predictor.estimators.bundle import Bundle
from predictor.hardware.gpu import Gpu
from predictor.latency.serving.step_table import Chunk, Computed, StepTime, StepTimes
from predictor.latency.static_batch import TOWER_DOUBT
from predictor.latency.steps import op_lines, step
from predictor.ops.dtypes import Array
from predictor.workloads.images import image_launches, image_ops
from predictor.workloads.workload import Workload


class Seeing(NamedTuple):
    """A StepTime whose prompt tokens each take token_s more: their part of the tower's pass over a request's images.

    issued: operators of that pass, which the host launches in each step with prompts.
    """

    steps: StepTime
    token_s: float
    issued: float

    @property
    def launches(self) -> float:
        """Those of the steps and of the tower."""
        return self.steps.launches + self.issued

    def decode_s(self, sequences: int, cached: float, tokens: int = 1) -> float:
        """As of the steps."""
        return self.steps.decode_s(sequences, cached, tokens)

    def mixed_s(self, chunks: Sequence[Chunk], sequences: int, cached: float, tokens: int = 1) -> float:
        """As of the steps, and what the tower takes."""
        prompt = sum(chunk[0] for chunk in chunks)
        return self.steps.mixed_s(chunks, sequences, cached, tokens) + self.token_s * prompt

    def steps_s(self, computed: Computed, tokens: int = 1) -> Array:
        """As decode_s and mixed_s."""
        return self.steps.steps_s(computed, tokens) + self.token_s * computed.prompt


def with_images(times: StepTimes, workload: Workload, gpu: Gpu, bundle: Bundle, prompt: float) -> StepTimes:
    """The step times of a workload with the images of each request, of `prompt` tokens in the mean, passed by
    themselves."""
    if not workload.images:
        return times
    one = replace(workload, batch=workload.dp * workload.attention_dp)
    (lines,) = op_lines([("prefill", image_ops(one))], gpu, workload.engine, bundle, workload.links)
    took, issued = step(lines, gpu, bundle, TOWER_DOUBT), image_launches(one)
    value, low, high = (
        Seeing(steps, seconds / prompt, issued)
        for steps, seconds in zip((times.value, times.low, times.high), took, strict=True)
    )
    return StepTimes(value, low, high)
