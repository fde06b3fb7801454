"""What a network that answers in one forward pass, such as an encoder, tells about itself where models are asked."""

from __future__ import annotations

from abc import ABC, abstractmethod

from predictor.errors import InvalidRequest
from predictor.ops import Gemm
from predictor.workloads.passes.calls import Layout, OpCall, Step, WithoutExperts


class Whole(WithoutExperts):
    """A model that runs whole on one GPU; dp runs copies of it."""

    __slots__ = ()
    name: str

    @property
    def linear_dtype(self) -> str:
        """Number format of published linear layers where it is narrower than the others: none."""
        return ""

    def check(self, layout: Layout) -> None:
        """Raises InvalidRequest where the model would have to be split."""
        for field in ("tp", "pp", "ep", "attention_dp"):
            if (value := getattr(layout, field)) > 1:
                raise InvalidRequest(f"{field} is {value}; {self.name} runs whole on each GPU. Set it to 1 and use dp.")


IMAGES, SEQUENCES = "images", "sequences"


class SinglePass(Whole, ABC):
    """A network without KV cache."""

    __slots__ = ()

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
    def inputs(self) -> str:
        """What a batch is of: "images" or "sequences"."""
        return IMAGES if getattr(self, "image", 0) else SEQUENCES

    def elements(self, layout: Layout) -> tuple[float, float, float]:
        """Elements on one GPU: linear layers, experts (none), and what stays in the format of the activations."""
        calls = self.forward_ops(Step("prefill", 1, 1, 1, "bf16", "bf16", "bf16", 1))
        linear = linear_elements(calls)
        return linear, 0.0, self.parameters() - linear

    def cached(self, length: int, layout: Layout) -> float:
        """Cache elements of one sequence: none."""
        return 0.0


def inputs_of(model: object) -> str:
    """What one pass takes a batch of; "" of a model that generates tokens."""
    return model.inputs if isinstance(model, SinglePass) else ""


def linear_elements(calls: tuple[OpCall, ...]) -> float:
    """Matrix elements of the linear layers among the calls."""
    return sum(float(c.op.n * c.op.k) * c.count for c in calls if isinstance(c.op, Gemm) and float(c.op.batch) == 1)
