"""What the learned correction of memory sees of a run: FEATURES of predictor.memory_doubt, from its ops."""

from __future__ import annotations

from collections.abc import Iterable
from math import log2

from predictor.ops import Attention, Gemm, Moe, Pointwise
from predictor.workloads.base import OpCall


def shape_features(calls: Iterable[OpCall], hidden: int, layers: int) -> dict[str, float]:
    """Those that tell the model: widths over the hidden one, and which passes it has."""
    found = list(calls)
    kinds = [str(call.op.kind) for call in found if isinstance(call.op, Pointwise)]
    norms = sum(call.count for call in found if isinstance(call.op, Pointwise) and "norm" in str(call.op.kind))
    width = max((float(c.op.heads * c.op.head_dim) for c in found if isinstance(c.op, Attention)), default=0.0)
    keys = max((float(c.op.kv_heads * c.op.head_dim) for c in found if isinstance(c.op, Attention)), default=0.0)
    inner = max((float(c.op.k) for c in found if isinstance(c.op, Gemm) and c.name == "down_proj"), default=0.0)
    vocab = max((float(c.op.n) for c in found if isinstance(c.op, Gemm) and c.name == "lm_head"), default=0.0)
    return {
        "layers": float(layers),
        "hidden": log2(max(hidden, 1)),
        "inter_share": inner / hidden,
        "vocab_share": log2(1 + vocab / hidden),
        "attention_share": width / hidden,
        "kv_share": keys / width if width else 0.0,
        "norms_per_layer": norms / layers,
        "rms_norm": float(any("rms_norm" in kind for kind in kinds)),
        "gelu": float("gelu" in kinds),
        "relu": float("relu" in kinds),
        "gated": float("silu_mul" in kinds),
        "positions": float(any(call.name in ("position_embedding", "add_positions") for call in found)),
        "experts": float(any(isinstance(call.op, Moe) for call in found)),
    }


def share(part: float, whole: float) -> float:
    """part / whole; 0 of nothing."""
    return part / whole if whole > 0 else 0.0


def tokens_features(tokens: float, dynamic: float, resident: float) -> dict[str, float]:
    """Those that rise with the number of tokens."""
    return {"tokens": log2(max(tokens, 1.0)), "dynamic_share": share(dynamic, dynamic + resident)}
