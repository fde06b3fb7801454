"""Step times for tests of schedulers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from predictor.latency.serving.step_table import Chunk, Computed
from predictor.ops.dtypes import Array


@dataclass(frozen=True)
class Straight:
    """Step times that are straight lines: seconds per step, per token, per decoding sequence and per cached token."""

    step: float = 0.01
    token: float = 5e-5
    cached: float = 1e-8
    launches: float = 100.0

    def decode_s(self, sequences: int, cached: float, tokens: int = 1) -> float:
        return self.step + sequences * (self.token * tokens + self.cached * cached)

    def mixed_s(self, chunks: Sequence[Chunk], sequences: int, cached: float, tokens: int = 1) -> float:
        new = sum(chunk.new for chunk in chunks)
        return self.decode_s(sequences, cached, tokens) + self.token * new

    def steps_s(self, computed: Computed, tokens: int = 1) -> Array:
        decoding = computed.sequences * (self.token * tokens + self.cached * computed.cached)
        return self.step + decoding + self.token * computed.prompt
