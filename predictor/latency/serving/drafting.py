"""Speculative decoding: the steps of a model with those of a draft, which proposes tokens one after the other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from predictor.latency.serving.step_times import Chunk, StepTime, StepTimes


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


def drafted(model: StepTimes, draft: StepTimes, proposed: int) -> tuple[Drafted, Drafted, Drafted]:
    """Value, low and high of a model with its draft."""
    pairs = ((model.value, draft.value), (model.low, draft.low), (model.high, draft.high))
    value, low, high = (Drafted(*pair, proposed) for pair in pairs)
    return value, low, high
