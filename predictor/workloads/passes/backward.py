"""From the ops of an inference pass to those of a training pass: losses, adapters, gradients, recomputation.

A backward op is a forward op of other shape, or the same op counted more often in proportion to its FLOPs or bytes;
such counts are fractions. Left out: dropout of the base model, gradients of biases.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from predictor.ops import Attention, Collective, Conv, Gemm, Mla, Moe, Pointwise
from predictor.ops.dtypes import Text, out_bytes
from predictor.workloads.passes.calls import OpCall

# Five matrix products instead of two (Dao, FlashAttention-2, arXiv:2307.08691, 2.3 and 4.1).
ATTENTION_BACKWARD_FLOPS = 2.5
# Time over that of FlashAttention-2: 1.3 to 2.5 for FlashAttention in Triton (arXiv:2307.08691, 4.1), here between; 3
# to 10 for attention with the scores in memory (the same), here as at 2k tokens with a head_dim of 128. Scores move
# whatever head_dim is, while FLOPs are in proportion to it; without a mask there are no more of them, but twice the
# FLOPs (fitted on one half of BERT's steps in fp16 on single GPUs of Lambda's).
FLASH_SLOWDOWN: Mapping[str, float] = {"flash2": 1.0, "sdpa": 1.0, "cudnn": 1.0, "triton": 1.8, "eager": 4.5}

UNMASKED, SCORES_AS_WIDE_AS = 0.78, 128

# Tensors that the backward kernels of an op read and write, over those of the forward. A norm reads its input and the
# gradient twice, for the input's gradient and for the weights', and writes one; activations read input and gradient.
BACKWARD_TRAFFIC: Mapping[str, float] = {
    "layer_norm": 5 / 2,
    "rms_norm": 5 / 2,
    "add_rms_norm": 8 / 4,  # the norm's five, and three that add the two branches of the residual
    "softmax": 3 / 2,
    "relu": 3 / 2,
    "gelu": 3 / 2,
    "tanh": 3 / 2,
    "silu": 3 / 2,
    "silu_mul": 5 / 3,
}
# Bytes of the op as separate PyTorch kernels over bytes of the fused kernel; norms are computed in fp32 in both.
# RMS norm: widen, square, mean, scale, narrow, weigh = 36 B an element over 4; the addition before it 6 B more over 8.
# SiLU and product: 10 over 6. Rotation: negate, concatenate, two products, sum = 22 over 4. A library (FlashAttention's
# layers, Apex) has one kernel for a norm and one for a rotation, none for the others.
SEPARATE_TRAFFIC: Mapping[str, Mapping[str, float]] = {
    "fused": {},
    "library": {"add_rms_norm": 10 / 8, "silu_mul": 10 / 6},
    "eager": {"rms_norm": 9.0, "add_rms_norm": 42 / 8, "silu_mul": 10 / 6, "rope": 22 / 4},
}

# Bytes that move for each 4-bit weight that is widened to 16 bits. One kernel: 0.5 read, 2 written, scales. AutoGPTQ's
# PyTorch path: shift to int32 (0.5 + 4), narrow to int16 (4 + 2), mask, subtract zero, times scale (2 + 2 each). 8
# bits: 1 read, 2 written, scales.
DEQUANTISE_BYTES: Mapping[str, float] = {"nf4": 2.6, "gptq": 22.5, "int8": 3.1}
# bitsandbytes' kernel does not reach the bandwidth: 6 to 7 ps for each weight on A100 (fitted on one half of litgpt's).
BITSANDBYTES_BYTES = 7.5
# PEFT's dropout: a mask beside input and output. Adapters of 16-bit weights first widen the input to fp32, then narrow.
DROPOUT_BYTES, WIDENED_DROPOUT_BYTES = 5.0, 21.0

# Calls whose linear layers get adapters, by the names of their targets; "all" but for the head.
ATTENTION_INPUTS = ("qkv", "query", "key", "value")
TARGETS: Mapping[str, tuple[str, ...]] = {
    "all": ("",),
    "qkv": ATTENTION_INPUTS,
    "qv": ATTENTION_INPUTS,
    "qkvo": (*ATTENTION_INPUTS, "o_proj"),
    "mlp": ("gate", "up_proj", "down_proj"),
    "all_and_head": ("",),
}

TABLES = ("embedding", "position_embedding", "add_positions", "embedding_norm", "embedding_in_proj")
OUTSIDE_LAYERS = frozenset({*TABLES, "embedding_out_proj", "lm_head", "loss", "loss_widen", "loss_softmax"})


class Adapters(NamedTuple):
    """Which weights learn. rank: of the low-rank pair at each adapted layer, 0: none, all weights learn.

    targets: one of TARGETS; "qv" query and value only. embeddings: embedding and head learn beside the adapters.
    quantization: format of frozen weights, "" for the compute format. kernels: "fused", else as PEFT runs them.
    dropout: each adapter keeps what its dropout made; wide: adapters in fp32 beside narrower weights; dora: magnitudes;
    keeps_inputs: quantised layers keep what they read.
    """

    rank: int = 0
    targets: str = "all"
    embeddings: bool = False
    quantization: str = ""
    kernels: str = "fused"
    dropout: bool = False
    wide: bool = False
    dora: bool = False
    keeps_inputs: bool = False

    def trains(self, call: OpCall) -> bool:
        """Whether the op's own weights get a gradient."""
        return not self.rank or (self.embeddings and call.name in OUTSIDE_LAYERS)

    def adapts(self, call: OpCall) -> bool:
        """Whether a low-rank pair sits beside this call."""
        inside = call.name not in OUTSIDE_LAYERS or (self.targets == "all_and_head" and call.name == "lm_head")
        return bool(self.rank) and isinstance(call.op, Gemm) and inside and call.name.startswith(TARGETS[self.targets])


def weights(call: OpCall) -> float:
    """Matrix elements of one call that an optimizer may own, on this GPU."""
    op = call.op
    if isinstance(op, Gemm):
        return float(op.n * op.k * op.batch)
    if isinstance(op, Conv):
        return float(op.kernel**2 * op.in_channels / op.groups * op.out_channels)
    if isinstance(op, Moe):
        return float(op.matrices * op.hidden * op.inter / op.tp * op.experts / op.ep)
    return 0.0


def training_forward(served: Iterable[OpCall], tokens: int, adapters: Adapters, flash: str) -> list[OpCall]:
    """The forward of a training pass: the head on all tokens, the loss in fp32, adapters, kernels as they run.

    served: the ops of a serving engine's prefill, whose head saw one token of each sequence.
    """
    calls: list[OpCall] = []
    for call in served:
        if call.name == "logits_all_gather":  # the loss is summed over shards of the vocabulary instead
            continue
        op, count = call.op, call.count
        if call.name == "lm_head" and isinstance(op, Gemm):
            op = Gemm(m=tokens, n=op.n, k=op.k, dtype=op.dtype)
        elif isinstance(op, Attention | Mla):
            count *= _slowdown(op, flash)
        elif isinstance(op, Pointwise):
            count *= SEPARATE_TRAFFIC[adapters.kernels].get(str(op.kind), 1.0)
        call = OpCall(call.name, op, count)
        calls += [call, *_beside(call, adapters)]
        if call.name == "lm_head" and isinstance(op, Gemm):
            calls += loss(tokens, float(op.n), op.dtype, fused=adapters.kernels == "fused")
    return calls


def _slowdown(op: Attention | Mla, flash: str) -> float:
    """Time of an attention over that of FlashAttention-2."""
    if flash != "eager" or not isinstance(op, Attention):
        return FLASH_SLOWDOWN[flash]
    return FLASH_SLOWDOWN[flash] * SCORES_AS_WIDE_AS / float(op.head_dim) * (1.0 if op.causal else UNMASKED)


def loss(tokens: int, vocab: float, dtype: Text, fused: bool) -> list[OpCall]:
    """Cross-entropy in fp32: one kernel that reads the logits, or kernels that widen them and take the log-softmax.

    Backward, the one kernel reads and writes them in place; the two read and write four times.
    """
    if fused:
        return [OpCall("loss", Pointwise(kind="softmax", rows=tokens, cols=vocab, dtype=dtype), 0.5)]
    widen = Pointwise(kind="copy", rows=tokens, cols=vocab, dtype="fp32")
    softmax = Pointwise(kind="softmax", rows=tokens, cols=vocab, dtype="fp32")
    return [OpCall("loss_widen", widen, 0.75), OpCall("loss_softmax", softmax, 1.0)]


def _beside(call: OpCall, adapters: Adapters) -> list[OpCall]:
    """What QLoRA and LoRA run beside a GEMM: widening of its weights; (m, r, k), (m, n, r), and the sum."""
    op, calls = call.op, list[OpCall]()
    if not isinstance(op, Gemm) or not adapters.rank:
        return calls
    if adapters.quantization and call.name not in OUTSIDE_LAYERS:
        copy = Pointwise(kind="copy", rows=op.n * op.batch, cols=op.k, dtype="bf16")
        own = adapters.quantization == "nf4" and adapters.kernels != "fused"
        widened = BITSANDBYTES_BYTES if own else DEQUANTISE_BYTES[adapters.quantization]
        calls.append(OpCall("dequantise", copy, call.count * widened / 4))
    if not adapters.adapts(call):
        return calls
    dtype = op.dtype if out_bytes(op.dtype) == 4 or op.dtype == "fp16" else "bf16"
    pair = Gemm(m=op.m, n=adapters.rank, k=op.k, dtype=dtype), Gemm(m=op.m, n=op.n, k=adapters.rank, dtype=dtype)
    calls += [OpCall("lora_a", pair[0], call.count), OpCall("lora_b", pair[1], call.count)]
    calls.append(OpCall("lora_add", Pointwise(kind="add", rows=op.m, cols=op.n, dtype=dtype), call.count))
    if adapters.dropout:
        moved = DROPOUT_BYTES if adapters.quantization else WIDENED_DROPOUT_BYTES
        wide = Pointwise(kind="copy", rows=op.m, cols=op.k, dtype="fp32")
        calls.append(OpCall("lora_dropout", wide, call.count * moved / 8))
    if adapters.kernels != "fused":
        scale = Pointwise(kind="copy", rows=op.m, cols=op.n, dtype=dtype)
        calls.append(OpCall("lora_scale", scale, call.count))
    return calls


def recomputed(forward: Iterable[OpCall], checkpointing: str, early_stop: bool) -> list[OpCall]:
    """What the backward pass runs of the forward again: "full" and "offloaded" the layers, "selective" their attention,
    "modules" norms and activations as well, "selective_ops" all but attention and half of the products, "none" nothing.

    early_stop: a layer is left once its last saved input is there, so the projection that ends it is not run again
    (torch.utils.checkpoint.set_checkpoint_early_stop, PyTorch 2.1).
    Korthikanti et al., Reducing Activation Recomputation in Large Transformer Models, arXiv:2205.05198.
    """
    if checkpointing == "none":
        return []
    inner = [call for call in forward if call.name not in OUTSIDE_LAYERS]
    if checkpointing == "selective":
        return [call for call in inner if isinstance(call.op, Attention | Mla)]
    if checkpointing == "modules":
        return [call for call in inner if isinstance(call.op, Attention | Mla | Pointwise)]
    if checkpointing == "selective_ops":
        products = [OpCall(call.name, call.op, call.count / 2) for call in inner if isinstance(call.op, Gemm | Moe)]
        return [*products, *(call for call in inner if isinstance(call.op, Pointwise))]
    adapted = any(call.name.startswith("lora_") for call in inner)
    return inner if adapted or not early_stop else [call for call in inner if call.name != "down_proj"]


def backward(forward: Iterable[OpCall], adapters: Adapters) -> list[OpCall]:
    """Gradients of every op of a training forward, in the order of the forward."""
    return [gradient for call in forward for gradient in _gradients(call, adapters)]


def _gradients(call: OpCall, adapters: Adapters) -> list[OpCall]:
    """The ops that turn the gradient of one call's output into those of its inputs and weights."""
    name, op, count = call
    if isinstance(op, Gemm):
        by_input = OpCall(f"{name}_grad_input", Gemm(m=op.m, n=op.k, k=op.n, batch=op.batch, dtype=op.dtype), count)
        by_weight = OpCall(f"{name}_grad_weight", Gemm(m=op.k, n=op.n, k=op.m, batch=op.batch, dtype=op.dtype), count)
        return [by_input, by_weight] if name.startswith("lora_") or adapters.trains(call) else [by_input]
    if isinstance(op, Moe):
        return [OpCall(f"{name}_grad", op, count * (2.0 if adapters.trains(call) else 1.0))]
    if isinstance(op, Attention | Mla):
        return [OpCall(f"{name}_grad", op, count * ATTENTION_BACKWARD_FLOPS)]
    if name == "loss":
        return [OpCall("loss_grad", op, 2.0 * count)]
    if name in ("embedding", "position_embedding"):  # a scatter: the gradient is read, rows are read and written
        return [OpCall(f"{name}_grad", op, 1.5 * count)] if adapters.trains(call) else []
    if isinstance(op, Pointwise):
        return [OpCall(f"{name}_grad", op, count * BACKWARD_TRAFFIC.get(str(op.kind), 1.0))]
    if isinstance(op, Collective):  # keys and values come again, and their gradients go back
        return [OpCall(f"{name}_grad", op, count * (2.0 if name in ("cp_p2p", "cp_all_gather") else 1.0))]
    return [OpCall(f"{name}_grad", op, 2.0 * count)]


def fetches(call: OpCall) -> bool:
    """Whether a call needs frozen or sharded weights of its matrix: all GEMMs but those of adapters and gradients."""
    return weights(call) > 0 and not call.name.startswith("lora_") and not call.name.endswith("_grad_weight")
