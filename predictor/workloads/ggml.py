"""The operators of an engine on ggml: matrices apart, each in the blocks that its GGUF has, and prompts in chunks.

A forward pass of llama.cpp takes at most `ubatch` tokens. Query, key and value are products of their own, as are gate
and up; the output head runs once, on the last token. Within a chunk attention sees what is cached, the chunk included.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace

import numpy as np

from predictor.elementwise import greater
from predictor.ops import Attention, Gemm, Moe, Op, Pointwise
from predictor.workloads.architectures.decoder import Decoder
from predictor.workloads.passes.calls import OpCall, Step
from predictor.workloads.passes.eager import merged
from predictor.workloads.weights.mixtures import EMBEDDING, HEAD, Blocks, Types

LM_HEAD = "lm_head"
ROWS = {"gemm": "m", "moe": "tokens", "pointwise": "rows"}  # field of an op that the tokens of a pass fill
# A fused product of serving engines → the matrices of a GGUF.
APART = {
    "qkv_proj": ("attn_q", "attn_k", "attn_v"),
    "o_proj": ("attn_output",),
    "gate_up_proj": ("ffn_gate", "ffn_up"),
    "up_proj": ("ffn_up",),
    "down_proj": ("ffn_down",),
    LM_HEAD: (HEAD,),
}


def ggml_ops(calls: Iterable[OpCall], model: object, step: Step, types: Types, ubatch: int) -> tuple[OpCall, ...]:
    """The calls of a serving engine as llama.cpp runs them.

    types: of the matrices' blocks, () where the weights are in no GGUF format. ubatch: most tokens of a pass.
    """
    apart = [part for call in calls for part in _apart(call, model, step, dict(types))]
    if step.phase == "decode":
        return tuple(apart)
    calls = tuple(part for call in apart for part in _chunked(call, step, ubatch))
    return calls if isinstance(step.tokens, np.ndarray) else merged(calls)  # a short last pass may equal the others


def _apart(call: OpCall, model: object, step: Step, types: Mapping[str, Blocks]) -> list[OpCall]:
    """A product as those of its matrices, by type of blocks; other calls as they are."""
    if not isinstance(call.op, Gemm) or call.name not in APART:
        return [call]
    if not isinstance(model, Decoder):
        head = types.get(HEAD, ()) if call.name == LM_HEAD else ()
        return [call._replace(op=replace(call.op, dtype=head[0][0]))] if head else [call]
    part = model.shard(step.tp)
    widths = dict.fromkeys(("attn_k", "attn_v"), part.kv_heads * model.head_dim)
    widths |= {"attn_q": part.heads * model.head_dim, "ffn_gate": part.inter, "ffn_up": part.inter}
    split = []
    for name in APART[call.name]:
        stored = types.get(name) or (types.get(EMBEDDING, ()) if name == HEAD else ())
        layers = sum(count for _, count in stored)
        for dtype, count in stored or ((str(call.op.dtype), call.count),):
            op = replace(call.op, n=widths.get(name, call.op.n), dtype=dtype)
            split.append(OpCall(LM_HEAD if name == HEAD else name, op, call.count * count / (layers or call.count)))
    return split


def _chunked(call: OpCall, step: Step, ubatch: int) -> list[OpCall]:
    """A call of the whole prompt as those of full passes and of the last one, which takes what is left; attention of
    full passes at their mean length."""
    op: Op = call.op
    if call.name == LM_HEAD or not isinstance(op, Attention | Gemm | Moe | Pointwise):
        return [call]
    if isinstance(op, Attention):
        full, left = step.q_len // ubatch, step.q_len % ubatch
        seen = step.kv_len - step.q_len + -(-ubatch * (full + 1) // 2)
        whole: Op = replace(op, q_len=ubatch, kv_len=greater(seen, ubatch))
        last: Op = replace(op, q_len=greater(left, 1), kv_len=step.kv_len)
    else:
        full, left = step.tokens // ubatch, step.tokens % ubatch
        rows = getattr(op, ROWS[op.family])
        of_full = greater(rows * ubatch // step.tokens, 1)
        whole = replace(op, **{ROWS[op.family]: of_full})
        last = replace(op, **{ROWS[op.family]: greater(rows - full * of_full, 1)})
    parts = [OpCall(call.name, whole, call.count * full), OpCall(call.name, last, call.count * (left > 0))]
    return [part for part in parts if np.any(part.count)]
