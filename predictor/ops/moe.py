"""Mixture-of-experts feed-forward: the expert GEMMs of one GPU, with its share of experts."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np

from predictor.errors import InvalidOp
from predictor.ops.base import Op, meaning
from predictor.ops.dtypes import Array, Number, Text, act_bytes, out_bytes, weight_bytes


def touched_share(experts: Number, topk: Number, tokens: Number, skew: Number) -> Number:
    """Share of the experts that get at least one token; 1 when skew is 0.

    Loads are spread over experts like quantiles of a power law of exponent skew between 1 and 0.8 * tokens, the
    way aiconfigurator's collector draws its "power_law" routing; an expert counts as far as its load reaches 1.
    """
    if not np.any(skew):
        return 1.0
    keys = np.stack(np.broadcast_arrays(*(np.atleast_1d(x) for x in (experts, topk, tokens, skew))), axis=1)
    distinct, back = np.unique(keys, axis=0, return_inverse=True)
    share = np.array([_touched_share(*key) for key in distinct])[back.reshape(-1)]
    return share if np.ndim(tokens) or np.ndim(skew) or np.ndim(experts) or np.ndim(topk) else float(share[0])


def _touched_share(experts: float, topk: float, tokens: float, skew: float) -> float:
    return 1.0 if skew == 0 else float(np.minimum(_loads(experts, topk, tokens, skew), 1.0).mean())


def _loads(experts: float, topk: float, tokens: float, skew: float) -> Array:
    """Tokens of each expert, (experts,), least popular first."""
    quantile = (np.arange(experts) + 0.5) / experts
    power = 1.0 - skew if skew != 1 else 1e-9
    load = ((max(0.8 * tokens, 2.0) ** power - 1.0) * quantile + 1.0) ** (1.0 / power)
    return np.asarray(np.minimum(load / load.sum() * tokens * topk, tokens))


SHUFFLES = 8
MOST_EXPERTS = 2**16  # skewed loads are calculated one by one


def busiest_share(experts: Number, topk: Number, tokens: Number, skew: Number, ep: Number) -> Number:
    """Share of all assignments that the busiest of `ep` GPUs gets, for which the others wait; 1 / ep when skew is 0.

    Experts are dealt to the GPUs at random: the mean over SHUFFLES fixed shuffles.
    """
    if not np.any(skew):
        return 1.0 / ep
    keys = np.stack(np.broadcast_arrays(*(np.atleast_1d(x) for x in (experts, topk, tokens, skew, ep))), axis=1)
    distinct, back = np.unique(keys, axis=0, return_inverse=True)
    share = np.array([_busiest_share(*key) for key in distinct])[back.reshape(-1)]
    return share if any(np.ndim(x) for x in (experts, topk, tokens, skew, ep)) else float(share[0])


def _busiest_share(experts: float, topk: float, tokens: float, skew: float, ep: float) -> float:
    if skew == 0 or ep == 1:
        return 1.0 / ep
    load, held, gpus = _loads(experts, topk, tokens, skew), int(experts // ep), int(ep)
    dealt = np.random.default_rng(0).permuted(np.tile(load, (SHUFFLES, 1)), axis=1)[:, : held * gpus]
    busiest = dealt.reshape(SHUFFLES, gpus, held).sum(axis=2).max(axis=1)
    return float(max(busiest.mean() / load.sum(), 1.0 / ep))


@dataclass(frozen=True, slots=True, kw_only=True)
class Moe(Op):
    """`tokens` tokens, each sent to topk of `experts` gated feed-forwards hidden → inter → hidden.

    tp splits inter, ep splits the experts; the op is what one GPU runs. skew: exponent of the power law of
    expert popularity, 0 = balanced. matrices: 3 for gated experts (gate, up, down), 2 otherwise.
    FLOPs 2·matrices·hidden·inter per routed token (Jiang et al., Mixtral of Experts, arXiv:2401.04088, 2.1).

    >>> Moe(tokens=1, hidden=4096, inter=14336, experts=8, topk=2).flops() == 2 * 2 * 3 * 4096 * 14336
    True
    """

    family: ClassVar[str] = "moe"
    floor_cycles: ClassVar[float] = 30_000
    floor_exponent: ClassVar[float] = 0.6  # several kernels
    growing: ClassVar[str] = "tokens"
    at_least_zero: ClassVar[frozenset[str]] = frozenset({"skew"})
    fractional: ClassVar[frozenset[str]] = frozenset({"skew"})
    tokens: Number = field(metadata=meaning("tokens", "tokens of the whole expert-parallel group"))
    hidden: Number = field(metadata=meaning("count", "model width"))
    inter: Number = field(metadata=meaning("count", "feed-forward width before tp"))
    experts: Number = field(metadata=meaning("count", "experts of the model"))
    topk: Number = field(metadata=meaning("count", "experts per token"))
    tp: Number = field(default=1.0, metadata=meaning("count", "GPUs that share each expert"))
    ep: Number = field(default=1.0, metadata=meaning("count", "GPUs that share the experts"))
    skew: Number = field(default=0.0, metadata=meaning("exponent", "power law of expert popularity, 0 = balanced"))
    matrices: Number = field(default=3.0, metadata=meaning("count", "3 gated, 2 plain"))
    dtype: Text = "bf16"

    def __post_init__(self) -> None:
        Op.__post_init__(self)
        if np.any(np.asarray(self.topk) > self.experts):
            raise InvalidOp("topk is above experts; a token can visit each expert once.")
        if np.any(np.asarray(self.ep) > self.experts):
            raise InvalidOp("ep is above experts; every GPU must hold at least one expert.")
        if np.any(np.asarray(self.experts) > MOST_EXPERTS):
            raise InvalidOp(f"experts is above {MOST_EXPERTS:,}; give the experts of one layer.")

    def stored_of_all(self) -> Number:
        """Bytes of all experts of one GPU."""
        weights = self.experts / self.ep * self.matrices * self.hidden * self.inter / self.tp
        return weights * weight_bytes(self.dtype)

    def routed_tokens(self) -> Number:
        """Token-expert assignments that land on one GPU when experts are equally popular."""
        return self.tokens * self.topk / self.ep

    def busiest_tokens(self) -> Number:
        """Token-expert assignments of the GPU that gets the most, which all others wait for."""
        return self.tokens * self.topk * busiest_share(self.experts, self.topk, self.tokens, self.skew, self.ep)

    def experts_touched(self) -> Number:
        """Experts on one GPU whose weights must be read: no more than it holds, no more than its assignments,
        and fewer where popularity is skewed."""
        held = self.experts / self.ep * touched_share(self.experts, self.topk, self.tokens, self.skew)
        touched = np.minimum(np.maximum(held, 1.0), np.maximum(self.routed_tokens(), 1.0))
        return touched if np.ndim(touched) else float(touched)

    def flops(self) -> Number:
        return 2.0 * self.matrices * self.hidden * self.inter / self.tp * self.routed_tokens()

    def stored_bytes(self) -> Number:
        return self.experts_touched() * self.matrices * self.hidden * self.inter / self.tp * weight_bytes(self.dtype)

    def bytes_moved(self) -> Number:
        inputs = np.minimum(self.tokens, self.routed_tokens()) * self.hidden * act_bytes(self.dtype)
        outputs = np.minimum(self.tokens, self.routed_tokens()) * self.hidden * out_bytes(self.dtype)
        return self.stored_bytes() + inputs + outputs
