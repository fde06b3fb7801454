"""What a network that answers in one forward pass, such as an encoder, tells about itself where models are asked."""

from __future__ import annotations

from abc import ABC, abstractmethod

from predictor.errors import InvalidRequest
from predictor.ops import Gemm
from predictor.workloads.base import Layout, OpCall, Step


class SinglePass(ABC):
    """A network without KV cache that runs whole on one GPU; dp runs copies of it."""

    __slots__ = ()
    name: str

    @abstractmethod
    def parameters(self) -> int:
        """Parameters of the whole network."""

    @abstractmethod
    def forward_ops(self, step: Step) -> tuple[OpCall, ...]:
        """The ops of one forward pass on one GPU."""

    @property
    def fixed_len(self) -> int:
        """Tokens of every input; 0: as many as one likes."""
        return 0

    @property
    def experts(self) -> str:
        """There are no experts."""
        return ""

    @property
    def expert_dtype(self) -> str:
        """There are no experts."""
        return ""

    @property
    def linear_dtype(self) -> str:
        """Number format of published linear layers where it is narrower than the others: none."""
        return ""

    @property
    def notes(self) -> tuple[str, ...]:
        """What to say with every prediction: nothing."""
        return ()

    def check(self, layout: Layout) -> None:
        """Raises InvalidRequest where the network would have to be split."""
        check_whole(self.name, layout)

    def elements(self, layout: Layout) -> tuple[float, float, float]:
        """Elements on one GPU: linear layers, experts (none), and what stays in the format of the activations."""
        calls = self.forward_ops(Step("prefill", 1, 1, 1, "bf16", "bf16", "bf16", 1))
        linear = linear_elements(calls)
        return linear, 0.0, self.parameters() - linear

    def cached(self, length: int, layout: Layout) -> float:
        """Cache elements of one sequence: none."""
        return 0.0

    def state_bytes(self, layout: Layout) -> float:
        """Bytes per sequence that do not grow with its length: none."""
        return 0.0


def check_whole(name: str, layout: Layout) -> None:
    """Raises InvalidRequest where a model that runs whole on one GPU would have to be split."""
    for field in ("tp", "pp", "ep", "attention_dp"):
        if (value := getattr(layout, field)) > 1:
            raise InvalidRequest(f"{field} is {value}; {name} runs whole on each GPU. Set it to 1 and use dp.")


def linear_elements(calls: tuple[OpCall, ...]) -> float:
    """Matrix elements of the linear layers among the calls."""
    return sum(float(c.op.n * c.op.k) * c.count for c in calls if isinstance(c.op, Gemm) and float(c.op.batch) == 1)
