"""Speculative decoding: the steps of a model with those of a draft, which proposes tokens one after the other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from predictor.latency.serving.step_table import Chunk, Computed, StepTime, StepTimes
from predictor.ops.dtypes import Array


@dataclass(frozen=True, slots=True)
class Drafted:
    """A StepTime. proposed: tokens that the draft proposes before each step of the model, which checks them all."""

    model: StepTime
    draft: StepTime
    proposed: int

    @property
    def launches(self) -> float:
        """Of both, the prompt being computed by each."""
        return self.model.launches + self.draft.launches

    def decode_s(self, sequences: int, cached: float, tokens: int = 1) -> float:
        """The draft's steps, one token each, and one of the model."""
        return self.model.decode_s(sequences, cached, tokens) + self.proposed * self.draft.decode_s(sequences, cached)

    def mixed_s(self, chunks: Sequence[Chunk], sequences: int, cached: float, tokens: int = 1) -> float:
        """As decode_s, with prompts in the step of the model and in the draft's first one."""
        rest = (self.proposed - 1) * self.draft.decode_s(sequences, cached) if sequences else 0.0
        return (
            self.model.mixed_s(chunks, sequences, cached, tokens) + self.draft.mixed_s(chunks, sequences, cached) + rest
        )

    def steps_s(self, computed: Computed, tokens: int = 1) -> Array:
        """As decode_s and mixed_s."""
        nothing = np.zeros(0, dtype=np.int64)
        alone = self.draft.steps_s(replace(computed, step=nothing, new=nothing, past=nothing))
        rest = np.where(computed.sequences > 0, (self.proposed - 1) * alone, 0.0)
        return self.model.steps_s(computed, tokens) + self.draft.steps_s(computed) + rest


def drafted(model: StepTimes, draft: StepTimes, proposed: int) -> tuple[Drafted, Drafted, Drafted]:
    """Value, low and high of a model with its draft."""
    pairs = ((model.value, draft.value), (model.low, draft.low), (model.high, draft.high))
    value, low, high = (Drafted(*pair, proposed) for pair in pairs)
    return value, low, high
