"""Recurrences over a state of fixed size that are told as a list of projections (Mamba, RG-LRU, short convolutions,
lightning attention), and mixers that run side by side in one layer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

from predictor.elementwise import added
from predictor.errors import InvalidRequest
from predictor.ops import Pointwise
from predictor.workloads.architectures.mixers import Elements, GroupedAttention, LinearAttention, linear, point
from predictor.workloads.passes.calls import OpCall, Step


class Projection(NamedTuple):
    """A matrix n × k; 0 stands for the width of the model. rows: GPUs share k, else n."""

    name: str
    n: int
    k: int
    rows: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Recurrence:
    """A recurrence over `channels` channels, each with `state` numbers in fp32 and `conv` past inputs in 16 bits.

    plain: norms, biases, convolutions and decays. Counted as its projections, a convolution and a pass over the state:
    no kernel of its own was measured.
    """

    kind: str
    channels: int
    projections: tuple[Projection, ...]
    plain: int
    state: int
    conv: int = 0

    @property
    def label(self) -> str:
        """How a list of models shows it."""
        return f"{self.kind} of {self.channels} channels"

    def _split(self, tp: int) -> int:
        if self.channels % tp:
            raise InvalidRequest(f"tp is {tp}; it must divide the {self.channels} {self.kind} channels.")
        return self.channels // tp

    def _shapes(self, hidden: int, tp: int) -> list[tuple[str, int, int]]:
        """Name, columns and rows of each projection on one of tp GPUs."""
        self._split(tp)
        whole = [(one, one.n or hidden, one.k or hidden) for one in self.projections]
        return [(one.name, n if one.rows else -(-n // tp), -(-k // tp) if one.rows else k) for one, n, k in whole]

    def elements(self, hidden: int, tp: int) -> Elements:
        """Parameters on one of tp GPUs."""
        return Elements(sum(n * k for _, n, k in self._shapes(hidden, tp)), self.plain / tp)

    def cached(self, length: int, tp: int) -> float:
        """Elements per sequence that grow with its length: none."""
        return 0.0

    def state_bytes(self, tp: int) -> float:
        """Bytes that one sequence keeps whatever its length."""
        return self._split(tp) * (4.0 * self.state + 2.0 * self.conv)

    def widest(self, tp: int) -> int:
        """Elements per token that are alive at once."""
        return 3 * self._split(tp)

    def calls(self, hidden: int, step: Step) -> list[OpCall]:
        """Projections, convolution, the pass over the state."""
        channels = self._split(step.tp)
        *first, last = [linear(name, step, n, k) for name, n, k in self._shapes(hidden, step.tp)]
        calls = [call for projection in first for call in projection]
        if self.conv:
            calls.append(point("short_conv", "silu", step.tokens, channels, step))
        if self.state:
            state = Pointwise(kind="add", rows=step.tokens * channels, cols=self.state, dtype="fp32")
            if step.phase == "decode":
                calls.append(OpCall("state_update", state, 1.0))
            else:
                calls.append(point("state_scan", "silu_mul", step.tokens, 3 * channels, step))
        return calls + last


@dataclass(frozen=True, slots=True, kw_only=True)
class Together:
    """Mixers that read the same input and whose outputs are added (Falcon-H1: Mamba-2 and attention)."""

    parts: tuple[GroupedAttention | LinearAttention, ...]

    @property
    def label(self) -> str:
        """How a list of models shows it."""
        return " with ".join(part.label for part in self.parts)

    def elements(self, hidden: int, tp: int) -> Elements:
        """Parameters on one of tp GPUs."""
        several = [part.elements(hidden, tp) for part in self.parts]
        return Elements(sum(one.linear for one in several), sum(one.plain for one in several))

    def cached(self, length: int, tp: int) -> Any:
        """Elements of one sequence on one of tp GPUs."""
        return added(part.cached(length, tp) for part in self.parts)

    def state_bytes(self, tp: int) -> float:
        """Bytes that one sequence keeps whatever its length."""
        return sum(part.state_bytes(tp) for part in self.parts)

    def widest(self, tp: int) -> int:
        """Elements per token that are alive at once."""
        return sum(part.widest(tp) for part in self.parts)

    def calls(self, hidden: int, step: Step) -> list[OpCall]:
        """Those of each part."""
        return [call for part in self.parts for call in part.calls(hidden, step)]
