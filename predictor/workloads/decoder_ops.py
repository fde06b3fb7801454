"""The ops of one forward pass of a dense decoder on one of tp GPUs.

They are those of a fused serving engine as in vLLM's model files (vllm/model_executor/models/llama.py, qwen3.py,
gemma3.py, olmo2.py, starcoder2.py, gpt2.py, opt.py, gpt_neox.py, falcon.py): one GEMM for query, key and value, one for
gate and up, the residual addition inside the RMS norm, attention without a score matrix, Megatron-style tensor
parallelism (Shoeybi et al., arXiv:1909.08053, 3). Left out: sampling, the cache write, biases (added inside the GEMM or
the attention kernel, ALiBi's too), soft-capping and scalar multipliers.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from predictor.ops import Attention, Collective, Gemm, Pointwise
from predictor.ops.dtypes import Number, out_bytes
from predictor.workloads.base import OpCall, Step

if TYPE_CHECKING:
    from predictor.workloads.decoder import Decoder, Shard


def decoder_ops(model: Decoder, step: Step) -> tuple[OpCall, ...]:
    """All ops, equal ones once with their count."""
    part = model.shard(step.tp)
    qkv_width, heads_width = (part.heads + 2 * part.kv_heads) * model.head_dim, part.heads * model.head_dim
    return (
        *embedding_calls(model, step),
        *norm_calls(model, step),
        *projection_calls("qkv_proj", model, step, qkv_width, model.hidden),
        *qk_norm_calls(model, step, part),
        *attention_calls(model, step, part),
        *projection_calls("o_proj", model, step, model.hidden, heads_width),
        *feed_forward_calls(model, step, part),
        *head_calls(model, step, part),
        *(collective_calls(model, step) if step.tp > 1 else ()),
    )


def pointwise(kind: str, rows: Number, cols: float, dtype: str) -> Pointwise:
    """Pointwise with positional fields."""
    return Pointwise(kind=kind, rows=rows, cols=cols, dtype=dtype)


def gemm(m: Number, n: float, k: float, dtype: str) -> Gemm:
    """Gemm with positional fields."""
    return Gemm(m=m, n=n, k=k, dtype=dtype)


def embedding_calls(model: Decoder, step: Step) -> list[OpCall]:
    """Rows of the embedding, made as wide as the model; learned positions are looked up and added."""
    tokens, dtype = step.tokens, step.act_dtype
    calls = [OpCall("embedding", pointwise("embedding", tokens, model.embedding_width, dtype), 1.0)]
    if model.embedding_dim:
        widen = Gemm(m=tokens, n=model.hidden, k=model.embedding_dim, dtype=dtype)
        calls.append(OpCall("embedding_in_proj", widen, 1.0))
    if model.positions == "learned":
        calls.append(OpCall("position_embedding", pointwise("embedding", tokens, model.hidden, dtype), 1.0))
        calls.append(OpCall("add_positions", pointwise("add", tokens, model.hidden, dtype), 1.0))
    if model.embedding_norm:
        calls.append(OpCall("embedding_norm", pointwise(model.norm, tokens, model.hidden, dtype), 1.0))
    return calls


def norm_calls(model: Decoder, step: Step) -> list[OpCall]:
    """Norms over the model width; an RMS norm that follows a residual addition takes it in, others leave it apart.

    A norm before the addition cannot take it in, nor does one that waits for two side by side.
    """
    adds, norms = 2 * model.layers, model.layers * model.norms_per_layer + model.has_final_norm
    fused = model.norm == "rms_norm" and model.norm_order != "post" and not model.parallel_norms
    counts = {"add_rms_norm": adds, "rms_norm": norms - adds} if fused else {"add": adds, model.norm: norms}
    rows, cols, dtype = step.tokens, model.hidden, step.act_dtype
    return [OpCall(kind, pointwise(kind, rows, cols, dtype), float(count)) for kind, count in counts.items() if count]


def projection_calls(name: str, model: Decoder, step: Step, n: int, k: int) -> list[OpCall]:
    """One linear layer k → n in every layer.

    The quantisation of narrow inputs is part of the measured GEMMs (aiconfigurator's collect_gemm.py times a whole
    linear layer), and engines fuse it into the op before.
    """
    return [OpCall(name, gemm(step.tokens, n, k, step.dtype), float(model.layers))]


def feed_forward_calls(model: Decoder, step: Step, part: Shard) -> list[OpCall]:
    """Up (and gate), activation, down.

    A gated activation other than SiLU moves the same bytes and is counted as silu_mul; squared ReLU as relu.
    """
    name, width = ("gate_up_proj", 2 * part.inter) if model.gated else ("up_proj", part.inter)
    kind = "silu_mul" if model.gated else model.activation.removesuffix("2").removesuffix("_tanh")
    activation = pointwise(kind, step.tokens, part.inter, step.act_dtype)
    return [
        *projection_calls(name, model, step, width, model.hidden),
        OpCall("gelu_tanh" if model.activation == "gelu_tanh" else kind, activation, float(model.layers)),
        *projection_calls("down_proj", model, step, model.hidden, part.inter),
    ]


def qk_norm_calls(model: Decoder, step: Step, part: Shard) -> list[OpCall]:
    """Norms of query and key; "full" norms need the heads of all GPUs, so those are gathered first."""
    layers, tokens, dim, dtype = float(model.layers), step.tokens, model.head_dim, step.act_dtype
    if not model.qk_norm:
        return []
    if model.qk_norm != "full":
        query, key = (pointwise(model.norm, tokens * heads, dim, dtype) for heads in (part.heads, part.kv_heads))
        return [OpCall("q_norm", query, layers), OpCall("k_norm", key, layers)]
    calls = []
    for name, heads in (("q_norm", model.heads), ("k_norm", model.kv_heads)):
        calls.append(OpCall(name, pointwise(model.norm, tokens, heads * dim, dtype), layers))
        if step.tp > 1:
            message_bytes = tokens * heads * dim * float(out_bytes(dtype))
            gather = Collective(kind="all_gather", message_bytes=message_bytes, n_gpus=step.tp)
            calls.append(OpCall(f"{name}_all_gather", gather, layers))
    return calls


def attention_calls(model: Decoder, step: Step, part: Shard) -> list[OpCall]:
    """Rotary embedding of the layers that have one, then attention: full and sliding-window layers apart."""
    turned = (part.heads + part.kv_heads) * (model.rotary_dim or model.head_dim)
    rotary_layers = {"rotary": model.layers, "rotary_in_windows": model.window_layers}.get(model.positions, 0)
    calls = []
    if rotary_layers:
        calls.append(OpCall("rope", pointwise("rope", step.tokens, turned, step.act_dtype), float(rotary_layers)))
    kinds = (
        ("attention", model.layers - model.window_layers, 0),
        ("window_attention", model.window_layers, model.window),
    )
    for name, layers, window in kinds:
        if layers:
            op = Attention(
                phase=step.phase,
                batch=step.batch,
                q_len=step.q_len,
                kv_len=step.kv_len,
                heads=part.heads,
                kv_heads=part.kv_heads,
                head_dim=model.head_dim,
                window=window,
                dtype=step.act_dtype,
                kv_dtype=step.kv_dtype,
            )
            calls.append(OpCall(name, op, float(layers)))
    return calls


def head_calls(model: Decoder, step: Step, part: Shard) -> list[OpCall]:
    """Logits of the last token of each sequence; all tokens are narrowed first where the embedding is narrow."""
    calls, dtype = [], step.act_dtype
    if model.embedding_dim:
        narrow = Gemm(m=step.tokens, n=model.embedding_dim, k=model.hidden, dtype=dtype)
        calls.append(OpCall("embedding_out_proj", narrow, 1.0))
    head = gemm(step.batch, part.vocab, model.embedding_width, dtype)
    return [*calls, OpCall("lm_head", head, 1.0)]


def collective_calls(model: Decoder, step: Step) -> list[OpCall]:
    """All-reduces after the embedding and after o_proj and down_proj of every layer; one all-gather of the logits.

    Of the parallel blocks, vLLM adds up Falcon's two outputs and reduces once; those of GPT-J, GPT-NeoX, Phi and
    Cohere are reduced one by one as anywhere else.
    """
    element = float(out_bytes(step.act_dtype))
    each, embedding = (
        Collective(kind="all_reduce", message_bytes=step.tokens * width * element, n_gpus=step.tp)
        for width in (model.hidden, model.embedding_width)
    )
    reduces = (1.0 if model.joint_all_reduce else 2.0) * model.layers
    logits_bytes = step.batch * model.shard(step.tp).vocab * step.tp * element
    gather = OpCall("logits_all_gather", Collective(kind="all_gather", message_bytes=logits_bytes, n_gpus=step.tp), 1.0)
    if not model.embedding_dim:
        return [OpCall("all_reduce", each, reduces + 1), gather]
    return [OpCall("all_reduce", each, reduces), OpCall("embedding_all_reduce", embedding, 1.0), gather]
