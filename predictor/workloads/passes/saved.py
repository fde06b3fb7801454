"""Bytes that autograd keeps of each op of a forward pass until its gradient is taken.

What a layer's formulas need, counted op by op, as in Korthikanti et al., Reducing Activation Recomputation,
arXiv:2205.05198, 4; of eager kernels as transformers writes them (models/llama/modeling_llama.py 4.40 to 5.x). A tensor
that two ops keep counts once: what a product reads counts with the product.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from predictor.ops import Attention, Conv, Gemm, Mla, Moe, Pointwise
from predictor.workloads.passes.backward import OUTSIDE_LAYERS, Adapters
from predictor.workloads.passes.calls import OpCall

# Bytes per element of each kind of pass beside what a product reads: in 16 bits, in fp32, under autocast (residual
# stream and norms in fp32). A norm keeps its input; eager RMS norms a copy of it in fp32 and, where their weights
# learn, the normed values. A gate keeps both factors, eager ones the activated one too.
FUSED: Mapping[str, tuple[float, float, float]] = {
    "rms_norm": (2.0, 4.0, 4.0),
    "layer_norm": (2.0, 4.0, 4.0),
    "silu_mul": (4.0, 8.0, 4.0),
    **dict.fromkeys(("gelu", "silu", "tanh"), (2.0, 4.0, 2.0)),
}
EAGER = {**FUSED, "rms_norm": (6.0, 8.0, 8.0), "silu_mul": (6.0, 12.0, 6.0)}
NORM_WEIGHT = (2.0, 4.0, 4.0)  # the normed values, which only a learned weight needs
# Of each score of eager attention: the softmax in fp32, and in 16 bits as the next product reads it.
SCORE_BYTES = (6.0, 4.0, 6.0)
# And while the gradients of one layer are taken: those of both, and the softmax's.
SCORE_GRADIENT_BYTES = (5.5, 8.0, 5.5)
# "gelu_new" of transformers: x for its power, 0.5 x, the tanh and 1 + tanh, in 16 bits, fp32 and under autocast (where
# the power is fp32).
GELU_TANH = (8.0, 16.0, 12.0)
# Linear layers that read one tensor; under autocast each narrows it for itself.
READERS = {"qkv_proj": 3.0, "gate_up_proj": 2.0, "cross_kv_proj": 2.0}
# What they read is of the residual stream and so the same on all tp GPUs, unless those split the tokens.
REPLICATED = ("qkv_proj", "gate_up_proj", "up_proj")


class Autograd(NamedTuple):
    """How the forward pass runs. width: 0 in 16 bits, 1 in fp32, 2 under autocast. scores: attention keeps them.

    sequence_tp: GPUs that split the tokens outside attention and feed-forward.
    """

    adapters: Adapters
    width: int
    scores: bool
    sequence_tp: int = 1

    @property
    def element_bytes(self) -> float:
        """Bytes of an element between linear layers."""
        return (2.0, 4.0, 2.0)[self.width]

    @property
    def stream_bytes(self) -> float:
        """Bytes of an element of the residual stream."""
        return (2.0, 4.0, 4.0)[self.width]


def saved_bytes(served: Iterable[OpCall], how: Autograd) -> float:
    """Bytes kept of all calls inside the layers."""
    return sum(kept_bytes(call, how) * call.count for call in served if call.name not in OUTSIDE_LAYERS)


def scores_bytes(served: Iterable[OpCall], how: Autograd) -> float:
    """Bytes of them that selective checkpointing computes again: scores and output of attention."""
    attentions = [(call.op, call.count) for call in served if isinstance(call.op, Attention)]
    return sum((_scores(op, how) + _output(op) * how.element_bytes) * count for op, count in attentions)


def score_gradient_bytes(served: Iterable[OpCall], how: Autograd) -> float:
    """Bytes that the backward pass of eager attention needs for a while, in the layer that needs most."""
    pairs = [_pairs(call.op) for call in served if isinstance(call.op, Attention)]
    return SCORE_GRADIENT_BYTES[how.width] * max(pairs, default=0.0) if how.scores else 0.0


def kept_bytes(call: OpCall, how: Autograd) -> float:
    """Bytes kept of one call."""
    op, element = call.op, how.element_bytes
    share = how.sequence_tp if call.name in REPLICATED else 1
    if isinstance(op, Attention):
        rows, width = float(op.batch) * float(op.q_len), float(op.head_dim)
        keys = float(op.heads if how.scores else op.kv_heads) * float(op.batch) * float(op.kv_len)
        return element * width * (rows * float(op.heads) + 2 * keys) + element * _output(op) + _scores(op, how)
    if isinstance(op, Mla):
        widths = float(op.nope_dim + op.rope_dim) * 2 + float(op.v_dim) * 2
        return element * float(op.batch) * float(op.q_len) * float(op.heads) * widths
    if isinstance(op, Gemm):
        shared = call.name in ("o_proj", "cross_o_proj") and not (how.width == 2 and how.adapters.quantization)
        if shared or not (how.adapters.trains(call) or how.adapters.adapts(call)):
            return 0.0  # what the output projection reads, attention keeps, unless it was widened in between
        copies = READERS.get(call.name, 1.0) if how.width == 2 else 1.0
        return element * copies * float(op.m) * float(op.k) * float(op.batch) / share
    if isinstance(op, Moe):
        rows = float(op.routed_tokens())
        return element * rows * (2 * float(op.hidden) + (float(op.matrices) + 1) * float(op.inter) / float(op.tp))
    if isinstance(op, Conv):
        return element * float(op.batch * op.in_channels * op.size**2)
    if isinstance(op, Pointwise):
        if call.name == "gelu_tanh" and how.adapters.kernels == "eager":
            return GELU_TANH[how.width] * float(op.rows) * float(op.cols)
        return _pass_bytes(op, how) * float(op.rows) * float(op.cols) / share
    return 0.0


def _pass_bytes(op: Pointwise, how: Autograd) -> float:
    """Bytes per element of a pass."""
    eager = how.adapters.kernels == "eager"
    kind = str(op.kind).removeprefix("add_")
    # bitsandbytes' 4-bit layers hand on what they got: fp32 under autocast (nn/modules.py: Linear4bit.forward).
    widened = how.width == 2 and bool(how.adapters.quantization)
    if kind == "relu":  # its output, which the next product keeps as well, unless it is frozen or narrows it first
        unread = how.adapters.rank > 0 and how.adapters.targets != "all"
        return 4.0 if widened else how.element_bytes if unread else 0.0
    width = 1 if widened and "norm" not in kind else how.width
    kept = (EAGER if eager else FUSED).get(kind, (0.0, 0.0, 0.0))[width]
    frozen = how.adapters.rank > 0 and kind == "rms_norm" and eager
    return kept - NORM_WEIGHT[how.width] if frozen else kept


def _scores(op: Attention, how: Autograd) -> float:
    return SCORE_BYTES[how.width] * _pairs(op) if how.scores else 0.0


def _pairs(op: Attention) -> float:
    """Scores of all heads."""
    return float(op.batch) * float(op.heads) * float(op.q_len) * float(op.kv_len)


def _output(op: Attention) -> float:
    """Elements of an attention's output."""
    return float(op.batch) * float(op.q_len) * float(op.heads) * float(op.head_dim)
