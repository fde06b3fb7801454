"""Operators as plain PyTorch launches them, one kernel after the other, and those of their backward pass.

What an engine fuses is apart here: attention is two batched products and a softmax with the scores in memory, a scalar
factor, a mask, a dropout and a residual addition are passes of their own (transformers 4.36 to 4.50,
models/{bert,gpt2,opt}/modeling_*.py with attn_implementation="eager", torch 2.1). A pass that reads one tensor and
writes one counts as `relu`, whatever its arithmetic; one that reads two as `add` or `mul`. Views take no time.
"""

from __future__ import annotations

from collections.abc import Iterable, Set
from typing import NamedTuple

from predictor.ops import Attention, Conv, Gemm, Pointwise
from predictor.ops.dtypes import act_bytes
from predictor.workloads.passes.backward import BACKWARD_TRAFFIC, SEPARATE_TRAFFIC
from predictor.workloads.passes.calls import OpCall

# Passes of a dropout over those of a copy of 4-byte elements: the mask takes a byte beside input and output.
DROPOUT_PASSES = 9 / 8
# "gelu_new" of transformers: 0.5 x (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3))); the power, four passes with a scalar,
# the tanh, and two passes of two tensors.
GELU_TANH = (("relu", 5.0), ("tanh", 1.0), ("add", 1.0), ("mul", 1.0))
# Its backward: the power's gradient takes three passes more; the product gives two gradients; x has three users, whose
# gradients are added twice.
GELU_TANH_BACKWARD = (("relu", 7.0), ("tanh", 1.5), ("add", 2.0), ("mul", 3.0))

# Gradient passes by the name of a call, over the passes of its forward; the rest goes by kind.
SAME_GRADIENT = frozenset({"mask", "add_positions"})  # the gradient is handed on


class Scores(NamedTuple):
    """The shape of attention: `heads` heads of `batch` sequences, q_len queries on kv_len keys each."""

    batch: int
    heads: int
    q_len: int
    kv_len: int
    head_dim: int


def linear(name: str, rows: float, n: int, k: int, dtype: str, count: float) -> OpCall:
    """A linear layer k → n; its bias is added inside the product."""
    return OpCall(name, Gemm(m=rows, n=n, k=k, dtype=dtype), count)


def convolution(name: str, op: Conv, count: float) -> OpCall:
    """A convolution; one whose windows do not overlap is the product of its windows and the kernels.

    Not in 8 bits: a convolution hands on 8 bits, a product writes 16.
    """
    apart = (op.kernel <= op.stride or op.kernel == 1) and act_bytes(op.dtype) > 1
    if not apart or op.padding or op.groups != 1:
        return OpCall(name, op, count)
    rows, window = float(op.batch) * float(op.out_size()) ** 2, float(op.kernel) ** 2 * float(op.in_channels)
    return OpCall(name, Gemm(m=rows, n=op.out_channels, k=window, dtype=op.dtype), count)


def passes(name: str, kind: str, rows: float, cols: float, dtype: str, count: float) -> OpCall:
    """`count` passes of `kind` over a (rows, cols) tensor."""
    return OpCall(name, Pointwise(kind=kind, rows=rows, cols=cols, dtype=dtype), count)


def attention(shape: Scores, dtype: str, count: float, *, scaled: bool = True, mask: str = "") -> list[OpCall]:
    """softmax(Q·Kᵀ)·V with the scores in memory, and the copies that bring heads together.

    scaled: the scores are divided by a number. mask: "row" adds one value per key, "pair" one per query and key,
    "clamp" that and a lower limit after it (OPT), "causal" selects with a mask of booleans (GPT-2), "" none.
    """
    rows, cols = float(shape.batch * shape.heads * shape.q_len), float(shape.kv_len)
    groups = shape.batch * shape.heads
    product = Gemm(m=shape.q_len, n=shape.kv_len, k=shape.head_dim, batch=groups, dtype=dtype)
    back = Gemm(m=shape.q_len, n=shape.head_dim, k=shape.kv_len, batch=groups, dtype=dtype)
    width = shape.heads * shape.head_dim
    calls = [
        passes("query_copy", "copy", shape.batch * shape.q_len, width, dtype, 2 * count),  # and that of the context
        passes("key_value_copy", "copy", shape.batch * shape.kv_len, width, dtype, 2 * count),
        OpCall("scores", product, count),
    ]
    if scaled:
        calls.append(passes("scores_scale", "relu", rows, cols, dtype, count))
    if mask:  # a mask for each pair is as large as the scores of a head and does not stay in the cache
        kind = "add" if mask in ("pair", "clamp") else "relu"
        calls.append(passes("mask_select" if mask == "causal" else "mask", kind, rows, cols, dtype, count))
    if mask == "clamp":
        calls.append(passes("mask_limit", "relu", rows, cols, dtype, count))
    calls.append(passes("softmax", "softmax", rows, cols, dtype, count))
    return [*calls, OpCall("context", back, count)]


def gelu_tanh(rows: float, cols: float, dtype: str, count: float) -> list[OpCall]:
    """The tanh approximation of GELU as eight kernels."""
    return [passes("gelu_tanh", kind, rows, cols, dtype, times * count) for kind, times in GELU_TANH]


def residual(rows: float, cols: float, dtype: str, count: float) -> list[OpCall]:
    """The addition of a sublayer's output to its input."""
    return [passes("residual_add", "add", rows, cols, dtype, count)]


def dropouts(shape: Scores, hidden: int, dtype: str, layers: int) -> list[OpCall]:
    """What training drops in a GPT or BERT: of the embedding, the softmax of each layer and its two sublayers."""
    tokens, pairs = shape.batch * shape.q_len, float(shape.batch * shape.heads * shape.q_len)
    return [
        passes("dropout", "relu", tokens, hidden, dtype, DROPOUT_PASSES * (1 + 2 * layers)),
        passes("dropout", "relu", pairs, shape.kv_len, dtype, DROPOUT_PASSES * layers),
    ]


class Gpt(NamedTuple):
    """A decoder with layer norms, learned positions, and biases everywhere; style: "gpt2" or "opt" of transformers."""

    style: str
    hidden: int
    layers: int
    heads: int
    inter: int
    vocab: int


def gpt_ops(model: Gpt, batch: int, length: int, dtype: str) -> tuple[OpCall, ...]:
    """One forward pass over whole sequences with logits of every token, as transformers runs it.

    GPT-2 selects with a mask of booleans and has the tanh approximation of GELU as eight kernels; OPT scales the query,
    adds a mask for each pair of positions and clamps the sum.
    """
    h, n, rows = model.hidden, float(model.layers), batch * length
    shape, opt = Scores(batch, model.heads, length, length, h // model.heads), model.style == "opt"
    if opt:
        calls = [linear(f"{part}_proj", rows, h, h, dtype, n) for part in ("query", "key", "value")]
        calls.append(passes("query_scale", "relu", rows, h, dtype, n))
        calls += attention(shape, dtype, n, scaled=False, mask="clamp")
        feed = [passes("activation", "relu", rows, model.inter, dtype, n)]
    else:
        calls = [linear("qkv_proj", rows, 3 * h, h, dtype, n), *attention(shape, dtype, n, mask="causal")]
        feed = gelu_tanh(rows, model.inter, dtype, n)
    return merged(
        [
            passes("embedding", "embedding", rows, h, dtype, 2.0),
            passes("add_positions", "add", rows, h, dtype, 1.0),
            passes("layer_norm", "layer_norm", rows, h, dtype, 2 * n + 1),
            *calls,
            linear("o_proj", rows, h, h, dtype, n),
            *residual(rows, h, dtype, 2 * n),
            linear("up_proj", rows, model.inter, h, dtype, n),
            *feed,
            linear("down_proj", rows, h, model.inter, dtype, n),
            linear("lm_head", rows, model.vocab, h, dtype, 1.0),
        ]
    )


# What TorchInductor runs inside the softmax, the norm or the activation that follows.
INDUCTOR_FUSED = frozenset({"scores_scale", "mask", "mask_select", "mask_limit", "residual_add", "add_positions"})


def compiled(calls: Iterable[OpCall]) -> tuple[OpCall, ...]:
    """What torch.compile leaves of an eager forward pass: products, and one kernel for each chain of passes.

    A norm takes in the residual addition and writes the sum too. Attention stays two products and a softmax.
    """
    fused = list[OpCall]()
    for call in calls:
        name, op, count = call
        if name in INDUCTOR_FUSED or (name == "gelu_tanh" and getattr(op, "kind", "") != "tanh"):
            continue
        fused.append(OpCall(name, op, 2 * count if name == "layer_norm" else count))
    return tuple(fused)


def transformers_ops(served: Iterable[OpCall]) -> tuple[OpCall, ...]:
    """The ops of a serving engine as transformers runs them today: SDPA, which is fused for prompts.

    A decode step repeats keys and values for the heads that share them and runs without splitting, which costs what
    eager attention does (models/llama/modeling_llama.py, integrations/sdpa_attention.py, transformers 4.46).
    """
    return _apart(served, {"decode"})


def unfused(served: Iterable[OpCall]) -> tuple[OpCall, ...]:
    """The ops of a decoder in a serving engine as transformers runs them, with eager attention.

    Keys and values are appended to the cache by writing it anew (DynamicCache), repeated for the query heads that share
    them (repeat_kv), and the softmax is taken in fp32 (models/llama/modeling_llama.py).
    """
    return _apart(served, {"prefill", "decode"})


def _apart(served: Iterable[OpCall], phases: Set[str]) -> tuple[OpCall, ...]:
    """The ops with each pass as its kernels, and attention of these phases as products and passes."""
    calls = list[OpCall]()
    for call in served:
        op, count = call.op, call.count
        if isinstance(op, Attention) and op.phase in phases:
            calls += _unfused_attention(op, count)
        elif isinstance(op, Pointwise):
            calls.append(OpCall(call.name, op, count * SEPARATE_TRAFFIC["eager"].get(str(op.kind), 1.0)))
        else:
            calls.append(call)
    return merged(calls)


def _unfused_attention(op: Attention, count: float) -> list[OpCall]:
    batch, heads, q_len, kv_len = (int(float(x)) for x in (op.batch, op.heads, op.q_len, op.kv_len))
    dtype, width = str(op.dtype), float(op.head_dim)
    calls = attention(Scores(batch, heads, q_len, kv_len, int(width)), dtype, count, mask="pair")
    if q_len < kv_len:  # the cache that was just written lies as the product wants it
        calls = [call for call in calls if call.name != "key_value_copy"]
        calls.append(passes("cache_append", "copy", batch * float(op.kv_heads) * kv_len, width, dtype, 2 * count))
    if op.kv_heads < op.heads:
        calls.append(passes("repeat_kv", "copy", float(batch * heads * kv_len), width, dtype, 2 * count))
    calls.append(passes("softmax_widen", "copy", float(batch * heads * q_len), kv_len, "fp32", count))
    return calls


def launches(calls: Iterable[OpCall]) -> float:
    """Kernels that the host launches for the calls."""
    return sum(call.count for call in calls)


def merged(calls: Iterable[OpCall]) -> tuple[OpCall, ...]:
    """Equal calls once, with the sum of their counts, in the order of the first."""
    sums: dict[tuple[str, object], OpCall] = {}
    for call in calls:
        key = (call.name, call.op)
        count = sums[key].count if key in sums else 0.0
        sums[key] = OpCall(call.name, call.op, count + call.count)
    return tuple(sums.values())


def backward(calls: Iterable[OpCall], *, shared_input: float = 0.0) -> list[OpCall]:
    """Gradients of the calls of a forward pass; weights' gradients are added to those of the step before.

    A product has two, and a bias a sum over rows. A residual's input has two users, whose gradients are added.
    shared_input: further additions for each call of "key_proj", where query, key and value read one tensor.
    Not here: the embedding and the loss (embedding_backward, loss_backward).
    """
    gradient_calls: list[OpCall] = []
    for call in calls:
        name, op, count = call
        if isinstance(op, Gemm):
            gradient_calls += _product_backward(call)
            if name == "key_proj" and shared_input:
                gradient_calls.append(
                    passes("input_add", "add", float(op.m), float(op.k), str(op.dtype), shared_input * count)
                )
        elif isinstance(op, Pointwise) and name not in SAME_GRADIENT and op.kind != "embedding":
            gradient_calls.append(_passes_backward(call, op))
    return gradient_calls


def _product_backward(call: OpCall) -> list[OpCall]:
    name, op, count = call
    if not isinstance(op, Gemm):
        return []
    m, n, k, batch, dtype = float(op.m), float(op.n), float(op.k), float(op.batch), str(op.dtype)
    gradients = [
        OpCall(f"{name}_grad_input", Gemm(m=m, n=k, k=n, batch=batch, dtype=dtype), count),
        OpCall(f"{name}_grad_weight", Gemm(m=n, n=k, k=m, batch=batch, dtype=dtype), count),
    ]
    if batch > 1:  # the second operand is no weight
        return gradients
    return [
        *gradients,
        passes(f"{name}_grad_bias", "copy", m, n, dtype, count / 2),
        passes(f"{name}_grad_add", "add", n, k, dtype, count),
    ]


def _passes_backward(call: OpCall, op: Pointwise) -> OpCall:
    kind = str(op.kind)
    share = 1.0 if kind in ("relu", "add", "copy") and call.name != "activation" else BACKWARD_TRAFFIC.get(kind, 1.0)
    if call.name == "gelu_tanh":
        share = dict(GELU_TANH_BACKWARD)[kind] / dict(GELU_TANH)[kind]
    return OpCall(f"{call.name}_grad", op, call.count * share)


def embedding_backward(name: str, tokens: float, vocab: int, hidden: int, dtype: str) -> list[OpCall]:
    """A dense gradient of the table: zeros, the tokens' rows added to them, and the sum with the gradient before."""
    return [
        passes(f"{name}_grad_zero", "copy", vocab, hidden, dtype, 0.5),
        passes(f"{name}_grad", "embedding", tokens, hidden, dtype, 1.5),
        passes(f"{name}_grad_add", "add", vocab, hidden, dtype, 1.0),
    ]


def loss_backward(tokens: float, vocab: int, dtype: str) -> list[OpCall]:
    """Gradient of cross-entropy on logits: one written by the loss, and that of the log-softmax."""
    return [
        passes("loss_grad", "copy", tokens, vocab, dtype, 0.5),
        passes("log_softmax_grad", "softmax", tokens, vocab, dtype, BACKWARD_TRAFFIC["softmax"]),
    ]
