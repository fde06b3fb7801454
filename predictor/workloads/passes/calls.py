"""What op lists are made of: a call, a step of one GPU, and how GPUs share a model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from predictor.ops import Op

WIDE_DTYPES = ("fp32", "tf32", "fp16")  # these are also what the layers pass on; all others pass on bf16


class OpCall(NamedTuple):
    """An op of one forward pass on one GPU.

    name: place in the network, such as "qkv_proj". op: scalar fields. count: calls per step.
    """

    name: str
    op: Op
    count: float  # type: ignore[assignment]  # hides tuple.count


class Layout(NamedTuple):
    """How GPUs share a model. tp: GPUs of each layer's attention. pp: stages of layers. dp: whole replicas.

    attention_dp: groups of tp GPUs that each attend to sequences of their own and share the experts. ep: shares of
    the experts among those tp * attention_dp GPUs; within a share the experts' columns are split.
    """

    tp: int = 1
    pp: int = 1
    dp: int = 1
    ep: int = 1
    attention_dp: int = 1

    @property
    def expert_tp(self) -> int:
        """GPUs that split the columns of an expert."""
        return self.tp * self.attention_dp // self.ep

    @property
    def n_gpus(self) -> int:
        """GPUs of all replicas."""
        return self.tp * self.attention_dp * self.pp * self.dp


# Exponent of the power law of expert popularity: what aiconfigurator's collectors take for trained routers.
TYPICAL_SKEW = 1.01


class Fused(NamedTuple):
    """Ops of a step for which an engine has no call of its own; fields as in predictor.workloads.engine_tables.

    Those of a second stream and of all-reduces are only of steps that are captured in a CUDA graph.
    """

    rotates: bool = False
    routes: bool = False
    normed_sums: tuple[str, ...] = ()
    shared_beside: bool = False
    norms_beside: bool = False


class Step(NamedTuple):
    """One forward pass: `batch` sequences of q_len new tokens over kv_len cached ones (the new included), on one GPU.

    dtype: of the linear layers; act_dtype: of what passes between them; kv_dtype: of the cache; expert_dtype: of the
    experts, "" for dtype. The rest as in Layout; skew: of expert popularity. prompt_len: tokens of kv_len that were
    the prompt, which an encoder-decoder keeps apart; 0: not known. fused: what the engine fuses.
    """

    phase: str
    batch: int
    q_len: int
    kv_len: int
    dtype: str
    act_dtype: str
    kv_dtype: str
    tp: int
    attention_dp: int = 1
    ep: int = 1
    expert_dtype: str = ""
    skew: float = TYPICAL_SKEW
    prompt_len: int = 0
    fused: Fused = Fused()

    @property
    def expert_tp(self) -> int:
        """GPUs that split the columns of an expert."""
        return self.tp * self.attention_dp // self.ep

    @property
    def tokens(self) -> int:
        """New tokens over all sequences."""
        return self.batch * self.q_len

    def sums_are_normed(self, models: str) -> bool:
        """Whether the all-reduces of such models also add the residual and normalise."""
        return self.tp > 1 and self.attention_dp == 1 and models in self.fused.normed_sums


class WithoutExperts:
    """What a model without experts and without a state of fixed size says of them."""

    __slots__ = ()

    @property
    def experts(self) -> str:
        """There are no experts."""
        return ""

    @property
    def expert_dtype(self) -> str:
        """There are no experts."""
        return ""

    @property
    def notes(self) -> tuple[str, ...]:
        """What to say with every prediction: nothing."""
        return ()

    def state_bytes(self, layout: Layout) -> float:
        """Bytes per sequence that do not grow with its length: none."""
        return 0.0


Phase = tuple[str, Sequence[OpCall]]  # its name and what one step of it runs
