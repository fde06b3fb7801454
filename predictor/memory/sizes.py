"""Bytes of a run on one GPU, kind by kind: weights, KV cache, activations, CUDA graphs, and what the runtime keeps."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from predictor.elementwise import added, greater, lesser
from predictor.ops import Attention
from predictor.ops.dtypes import act_bytes, out_bytes, weight_bytes
from predictor.units import MIB
from predictor.workloads import Workload
from predictor.workloads.architectures.decoder import Decoder
from predictor.workloads.architectures.layered import LayeredDecoder
from predictor.workloads.engines import get_engine
from predictor.workloads.images import images_bytes
from predictor.workloads.passes.calls import Layout
from predictor.workloads.weights.mixtures import EMBEDDING, HEAD, Blocks, matrices

# Tokens that one forward pass takes; longer prefills run in chunks (max_num_batched_tokens of vLLM on an 80 GB GPU).
MAX_BATCHED_TOKENS = 8192
# CUDA context, cuBLAS and kernel images of one process: memory in use less memory reserved by PyTorch is 1.47 GB in the
# median of 83 runs of optimum-benchmark on A100-SXM4-80GB; vLLM pull request 10511 logs 1.79 GiB on an 80 GB H100.
CONTEXT_BYTES = 1.47e9
# Of a process of ggml or MLX, without PyTorch: at most so much, since Llama 3 70B in 16 bits ran on six RTX 3090
# (XiongjieDai/GPU-Benchmarks-on-LLM-Inference).
GGML_CONTEXT_BYTES = 0.6e9
# NCCL_BUFFSIZE is 4 MiB (NCCL user guide); up to 32 channels, ring and tree. That vLLM log shows 1.8 GiB more at tp=2.
NCCL_BYTES = 32 * 2 * 4 * MIB
# vLLM's own all-reduce: 8 MiB of data and 8 MiB of rank addresses (custom_all_reduce.py).
ALL_REDUCE_BYTES = 16 * MIB
# Of each operator of each captured CUDA graph: vLLM logs 0.13 GiB for 35 graphs of Qwen3-0.6B's 340 launches on an
# 80 GB GPU (generative-computing/mellea pull request 416).
GRAPH_NODE_BYTES = 12e3
FP32_BYTES = 4.0


def weights_bytes(workload: Workload) -> float:
    """Weights on one GPU: matrices of layers and experts in their formats, all else in that of the activations.

    Files of known size are dealt out as the counted weights are. In Transformers FP8 models whose head is the embedding
    hold it twice (Qwen3's published peaks).
    """
    counted, draft = _counted_bytes(workload), workload.drafting
    beside = _counted_bytes(draft) if draft else 0.0
    if not workload.stored_bytes:
        return counted + beside
    alone = dict.fromkeys(Layout._fields, 1)
    shares = counted / _counted_bytes(replace(workload, **alone))  # type: ignore[arg-type]
    return workload.stored_bytes * shares + beside


def _counted_bytes(workload: Workload) -> float:
    model = workload.model
    types = dict(workload.block_types)
    if isinstance(model, Decoder) and (types or workload.pass_tokens):
        return _gguf_bytes(workload, model, types)
    linear, experts, plain = model.elements(workload.layout)
    if workload.eager and getattr(model, "tied_embeddings", False) and workload.dtype.startswith("fp8"):
        plain += model.vocab * model.hidden
    expert_bytes = float(weight_bytes(workload.expert_dtype or workload.dtype))
    matrices = linear * float(weight_bytes(workload.dtype)) + experts * expert_bytes
    tables = 0.0
    if types and isinstance(model, LayeredDecoder):
        tables = (1 if model.tied_embeddings else 2) * -(-model.vocab // workload.tp) * model.hidden
        matrices += tables * _bytes_of(types.get(HEAD, ()), workload)
    return matrices + (plain - tables) * float(out_bytes(workload.act_dtype))


def _gguf_bytes(workload: Workload, model: Decoder, types: Mapping[str, Blocks]) -> float:
    """Matrices in the blocks that they have in a GGUF, norms and biases in fp32 (llama-quantize leaves them so).

    llama.cpp keeps the embedding in the host's memory and the head on the last GPU of its stages; a tied one on both.
    """
    part, stages = model.shard(workload.tp), workload.pp
    table, here = part.vocab * model.embedding_width, get_engine(workload.engine).formats == "GGUF"
    layers = added(
        elements * count * float(weight_bytes(dtype))
        for name, elements in matrices(model, workload.tp).items()
        for dtype, count in types.get(name) or ((workload.dtype, float(model.layers)),)
    )
    head, embedding = (types.get(name) or types.get(EMBEDDING, ()) for name in (HEAD, EMBEDDING))
    tables = table * _bytes_of(head, workload) / (stages if here else 1)
    if not (here or model.tied_embeddings):
        tables += table * _bytes_of(embedding, workload)
    others = model.embedding_parameters(workload.tp) - table * (1 if model.tied_embeddings else 2)
    vectors = model.vector_parameters(workload.tp) / stages * FP32_BYTES
    return float(layers / stages + tables + others * 2.0 + vectors)


def _bytes_of(blocks: Blocks, workload: Workload) -> float:
    """Bytes of an element of a matrix that has one type of blocks."""
    return float(weight_bytes(blocks[0][0] if blocks else workload.dtype))


def quantised(workload: Workload) -> bool:
    """Whether weights are narrower than activations."""
    return float(weight_bytes(workload.dtype)) < float(out_bytes(workload.act_dtype))


def kv_cache_bytes_per_token(workload: Workload, length: int = 1) -> float:
    """What a token of one sequence adds in all layers, on one GPU, and in those of a draft; the mean over so many."""
    cached = workload.model.cached(length, workload.layout)
    if draft := workload.drafting:
        cached += draft.model.cached(length, workload.layout)
    return cached * float(weight_bytes(workload.cache_dtype)) / length


def kv_cache_bytes(workload: Workload, cached_tokens: float | None = None) -> float:
    """Cache of all sequences at their full length on one GPU, in whole blocks; a sliding-window layer keeps its window
    only. An engine that gives every layer the same cache keeps all of it and needs more. Transformers keeps a whole
    prompt until the first token follows (DynamicSlidingWindowLayer holds a view).
    """
    length = workload.input_len + workload.output_len
    if cached_tokens is not None:
        return cached_tokens * sequence_bytes(workload, length) / length
    per_request = request_bytes(workload)
    if workload.eager:
        per_request = greater(per_request, kv_cache_bytes_per_token(workload) * workload.input_len)
    return workload.local_batch * per_request


def request_bytes(workload: Workload) -> float:
    """Cache of one request at its full length on one GPU, whose beams share the prompt."""
    whole = sequence_bytes(workload, workload.input_len + workload.output_len)
    if workload.beam_width == 1:
        return whole
    return whole + (workload.beam_width - 1) * (whole - sequence_bytes(workload, workload.input_len))


def sequence_bytes(workload: Workload, length: int) -> float:
    """Cache of one sequence of `length` tokens on one GPU, its state of fixed size included."""
    block = workload.kv_block or get_engine(workload.engine).block_tokens
    whole = -(-length // block) * block
    cached = workload.model.cached(whole, workload.layout) * float(weight_bytes(workload.cache_dtype))
    if draft := workload.drafting:
        cached += sequence_bytes(draft, length)
    return cached + workload.model.state_bytes(workload.layout)


def activations_bytes(workload: Workload) -> float:
    """Peak of one forward pass: hidden state and residual, the widest sublayer, and the logits.

    Serving engines take a long input in chunks, Transformers does not. Narrow formats add a quantised input. Logits of
    every sequence: 16 bits as computed, 32 as sampled. PyTorch's attention in fp32 does not share key/value heads: with
    grouped ones it holds the scores twice (aten, sdp_utils.cpp).
    """
    if get_engine(workload.engine).formats == "GGUF":
        return _graph_bytes(workload)
    passing = pass_bytes(workload, largest_pass(workload), workload.local_batch) + score_bytes(workload)
    at_once = workload.local_batch * workload.input_len if workload.eager else MAX_BATCHED_TOKENS
    peak: float = beside_images(workload, passing, at_once)
    return peak


def beside_images(workload: Workload, passing: Any, most_tokens: Any) -> Any:
    """Peak of the decoder's pass or of its vision tower's, and the tokens of images that lie between them.

    most_tokens: of images that are taken at once (the encoder cache of vLLM has room for a step's tokens).
    """
    tower, kept = images_bytes(workload, most_tokens)
    return greater(passing, tower) + kept if workload.images else passing


def _graph_bytes(workload: Workload) -> float:
    """The largest graph of llama.cpp: fp32 scores of one layer over the whole context, or logits of all tokens of a
    pass, beside hidden state, residual and norm (560 MiB for Llama 3 8B at 8192 tokens, of which 512 are scores).
    """
    model, tokens = workload.model, workload.pass_tokens
    context = workload.local_batch * (workload.input_len + workload.output_len)
    heads = getattr(model, "heads", 0) / workload.tp
    widest = greater(heads * context, float(model.vocab))
    bytes_: float = tokens * (widest + 3 * model.hidden) * FP32_BYTES
    return bytes_


def pass_bytes(workload: Workload, tokens: int, sequences: int) -> float:
    """A forward pass over so many tokens of so many sequences."""
    model, widest = workload.model, workload.model.widest(workload.layout)
    if workload.eager and isinstance(model, Decoder) and model.activation == "gelu_tanh":
        widest += 2 * model.shard(workload.tp).inter  # eight kernels, of which four tensors are alive at once
    element = float(out_bytes(workload.act_dtype))
    layer = tokens * (2 * model.hidden + widest) * element
    narrow = float(act_bytes(workload.dtype))
    quantised = tokens * max(model.hidden, widest // 3) * narrow if narrow < element else 0.0
    logits = sequences * model.vocab * (element + FP32_BYTES)
    return layer + quantised + logits


def score_bytes(workload: Workload) -> float:
    """Scores of all sequences in one layer, where PyTorch holds them."""
    if not workload.eager or workload.act_dtype != "fp32":
        return 0.0
    attentions = [call.op for call in workload.prefill_ops() if isinstance(call.op, Attention)]
    heads = max((float(op.heads) for op in attentions if op.heads != op.kv_heads), default=0.0)
    return 2 * FP32_BYTES * workload.local_batch * heads * float(workload.input_len) ** 2


def largest_pass(workload: Workload) -> int:
    """Tokens of the largest forward pass."""
    tokens = workload.local_batch * workload.input_len
    chunked = workload.generates and not workload.eager
    return lesser(tokens, workload.pass_tokens or MAX_BATCHED_TOKENS) if chunked else tokens


def cuda_graphs_bytes(workload: Workload) -> float:
    """Captured decode steps of all batch sizes."""
    if not (workload.generates and workload.captures):
        return 0.0
    return (
        get_engine(workload.engine).graph_batches
        * GRAPH_NODE_BYTES
        * sum(call.count for call in workload.launched())
        / workload.pp
    )


def runtime_bytes(gpus: int) -> float:
    """What the process holds before the model is loaded, with communication buffers where GPUs share the model."""
    return CONTEXT_BYTES + (NCCL_BYTES + ALL_REDUCE_BYTES if gpus > 1 else 0.0)


def runtime_bytes_of(workload: Workload) -> float:
    """Of a workload's engine; GPUs that ggml deals layers out to have no buffers of a library."""
    return GGML_CONTEXT_BYTES if workload.pass_tokens else runtime_bytes(workload.layout.n_gpus // workload.dp)
