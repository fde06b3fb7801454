"""What follows the mixer of a layer: a dense feed-forward, or experts of which each token visits a few."""

from __future__ import annotations

from dataclasses import dataclass

from predictor.errors import InvalidRequest
from predictor.ops import Gemm, Moe
from predictor.workloads.architectures.mixers import Elements, linear, point
from predictor.workloads.passes.calls import OpCall, Step


@dataclass(frozen=True, slots=True, kw_only=True)
class DenseFeedForward:
    """hidden → inter → hidden; gated: three matrices, else two."""

    inter: int
    gated: bool = True

    def local(self, tp: int) -> int:
        """Columns on one of tp GPUs."""
        if self.inter % tp:
            raise InvalidRequest(f"tp is {tp}; it must divide the {self.inter} feed-forward columns.")
        return self.inter // tp

    def elements(self, hidden: int, tp: int) -> Elements:
        """Parameters on one of tp GPUs."""
        return Elements((3 if self.gated else 2) * hidden * self.local(tp), 0)

    def widest(self, tp: int) -> int:
        """Elements per token that are alive at once."""
        return (3 if self.gated else 2) * self.local(tp)

    def calls(self, hidden: int, step: Step, prefix: str = "") -> list[OpCall]:
        """Up (and gate), activation, down."""
        inter = self.local(step.tp)
        up, kind = ("gate_up_proj", "silu_mul") if self.gated else ("up_proj", "silu")
        return [
            *linear(prefix + up, step, (2 if self.gated else 1) * inter, hidden),
            point(prefix + kind, kind, step.tokens, inter, step),
            *linear(prefix + "down_proj", step, hidden, inter),
        ]


@dataclass(frozen=True, slots=True, kw_only=True)
class Experts:
    """`experts` feed-forwards of width inter, topk of them per token, and shared_inter columns that every token visits.

    shared_gate: the shared output is weighted by a gate of one number per token (Qwen2-MoE). bias: of the router and of
    each expert. latent: width to which tokens are projected before the experts and back after them (Nemotron 3); 0: the
    model's.
    """

    experts: int
    topk: int
    inter: int
    shared_inter: int = 0
    shared_gate: bool = False
    gated: bool = True
    bias: bool = False
    latent: int = 0

    @property
    def matrices(self) -> int:
        """Matrices of one expert."""
        return 3 if self.gated else 2

    def shared(self) -> DenseFeedForward:
        """The feed-forward that every token visits."""
        return DenseFeedForward(inter=self.shared_inter, gated=self.gated)

    def check(self, tp: int, ep: int) -> None:
        """Raises where the experts cannot be dealt out so."""
        if self.experts % ep:
            raise InvalidRequest(f"ep is {ep}; it must divide the {self.experts} experts.")
        if self.inter % tp:
            raise InvalidRequest(f"the experts' tp is {tp}; it must divide their {self.inter} columns. Raise ep.")

    def expert_elements(self, hidden: int, tp: int, ep: int) -> float:
        """Matrix elements of the experts on one GPU, all counted, not only those that a token visits."""
        self.check(tp, ep)
        return self.experts / ep * self.matrices * (self.latent or hidden) * self.inter / tp

    def elements(self, hidden: int, tp: int) -> Elements:
        """Parameters besides those of the experts on one of tp GPUs: router and shared part."""
        linear_ = self.shared().elements(hidden, tp).linear if self.shared_inter else 0.0
        router = hidden * self.experts + (hidden if self.shared_gate else 0)
        biases = self.experts * (1 + (self.matrices - 1) * self.inter + hidden) if self.bias else 0
        return Elements(linear_ + 2 * hidden * self.latent, router + biases)

    def widest(self, tp: int) -> int:
        """Elements per token that are alive at once: rows of the visited experts."""
        return self.topk * (self.matrices * self.inter // tp)

    def calls(self, hidden: int, step: Step) -> list[OpCall]:
        """Router, the experts over the tokens of all GPUs that share them, the shared part over a GPU's own.

        A shared part that runs beside the experts takes what as many more of them would that every token visits.
        """
        calls = [OpCall("router", Gemm(m=step.tokens, n=self.experts, k=hidden, dtype=step.act_dtype), 1.0)]
        if not step.fused.routes:
            calls.append(point("routing", "softmax", step.tokens, self.experts, step))
        beside = -(-self.shared_inter // self.inter) if step.fused.shared_beside and not self.latent else 0
        experts = Moe(
            tokens=step.tokens * step.attention_dp,
            hidden=self.latent or hidden,
            inter=self.inter,
            experts=self.experts + beside,
            topk=self.topk + beside,
            tp=step.expert_tp,
            ep=step.ep,
            skew=step.skew,
            matrices=self.matrices,
            dtype=step.expert_dtype or step.dtype,
        )
        if self.latent:
            calls += linear("latent_down_proj", step, self.latent, hidden)
        calls.append(OpCall("experts", experts, 1.0))
        if self.latent:
            calls += linear("latent_up_proj", step, hidden, self.latent)
        if self.shared_inter and not beside:
            calls += self.shared().calls(hidden, step, "shared_")
            calls.append(point("shared_add", "add", step.tokens, hidden, step))
        return calls


FeedForward = DenseFeedForward | Experts
