"""How much memory a run takes on each GPU: weights, KV cache, activations and what the runtime keeps.

Sources of the constants stand beside them; the terms are those of vLLM's start-up profile (vllm/worker/worker.py).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from predictor.elementwise import added, chosen, greater, lesser
from predictor.memory.uncertainty import ClosedForm, Need, doubted, shape_features, share, tokens_features
from predictor.ops import Attention
from predictor.ops.dtypes import act_bytes, out_bytes, weight_bytes
from predictor.units import MIB
from predictor.workloads import Workload
from predictor.workloads.architectures.decoder import Decoder
from predictor.workloads.architectures.layered import LayeredDecoder
from predictor.workloads.engines import Engine, get_engine
from predictor.workloads.passes.calls import Layout
from predictor.workloads.weights.mixtures import EMBEDDING, HEAD, Blocks, matrices

if TYPE_CHECKING:
    from predictor.hardware.gpu import Gpu

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


@dataclass(frozen=True, slots=True, kw_only=True)
class Memory(Need):
    """Bytes on each GPU at the end of the run, when the cache is fullest.

    kv_cache_bytes_per_token: one more token of one sequence, in all layers, before any sliding window is full.
    activations_bytes: peak in one forward pass, logits included. cuda_graphs_bytes: of the captured decode steps.
    """

    weights_bytes: float
    kv_cache_bytes: float
    kv_cache_bytes_per_token: float
    activations_bytes: float
    cuda_graphs_bytes: float
    starts: Any = True  # whether what a serving engine sets aside when it starts is expected to fit its share

    @property
    def fits(self) -> Any:
        """Whether the engine starts and the expected need is no more than the GPU has."""
        return (self.total_bytes <= self.capacity_bytes) & self.starts


# The fields that add up to total_bytes.
KINDS = (
    "weights_bytes",
    "kv_cache_bytes",
    "activations_bytes",
    "cuda_graphs_bytes",
    "runtime_bytes",
    "fragmentation_bytes",
    "correction_bytes",
)


def memory(workload: Workload, gpu: Gpu, cached_tokens: float | None = None, longest: float | None = None) -> Memory:
    """Memory of a run on one of its tp GPUs. cached_tokens: in the cache there at its fullest; None: all of the batch.

    longest: tokens of the longest request of a load. The engine fills its cache and no more, so that it runs out of
    memory only where it has no room for that one when it starts.

    >>> from predictor.hardware.gpu import get_gpu
    >>> from predictor.workloads import get_model
    >>> memory(Workload(model=get_model("Llama-3.1-8B")), get_gpu("H100-SXM-80GB")).kv_cache_bytes_per_token
    131072.0
    """
    kinds, form = closed_form(workload, cached_tokens)
    told = doubted(form, gpu)
    if workload.generates and get_engine(workload.engine).joins:
        start = _at_start(workload, gpu, longest)
        told["starts"] = start["total_bytes"] <= start["capacity_bytes"]
        risk = chosen(told["starts"], told["p_oom"], greater(told["p_oom"], start["p_oom"]))
        told["p_oom"] = risk if longest is None else start["p_oom"]
    return Memory(**kinds, kv_cache_bytes_per_token=kv_cache_bytes_per_token(workload), **told)


def _at_start(workload: Workload, gpu: Gpu, cached_tokens: float | None) -> dict[str, Any]:
    """The fields of Need of a serving engine when it starts: its share of the memory holds the weights, its largest
    pass and so many cached tokens (one request's where none are named), whatever runs later."""
    engine = workload.engine_on(gpu)
    one = replace(workload, batch=workload.dp * workload.attention_dp)
    kinds, form = closed_form(one, cached_tokens)
    largest = 0.0 if workload.pass_tokens else _pass_bytes(workload, engine.max_batched_tokens, engine.max_sequences)
    more = greater(largest - kinds["activations_bytes"], 0.0)
    share = engine.memory_share if engine.share_of == "all" else 1.0
    form = form._replace(peak=form.peak + more, dynamic=form.dynamic + more)
    return doubted(form, replace(gpu, mem_bytes=gpu.mem_bytes * share))


def start_note(workload: Workload, gpu: Gpu, found: Memory) -> str:
    """What to say of an engine that does not start where the request itself would fit; "" otherwise and of columns."""
    if found.starts is not False or found.total_bytes > found.capacity_bytes:
        return ""
    share = workload.engine_on(gpu).memory_share
    return (
        f"{workload.engine} does not start: weights and its first pass leave no room for a sequence in the {share:.0%} "
        "of the memory that it takes. Raise tp, choose a narrower dtype, or raise gpu_memory_utilization."
    )


def closed_form(workload: Workload, cached_tokens: float | None = None) -> tuple[dict[str, float], ClosedForm]:
    """Bytes by kind, and what the learned correction of PyTorch's allocations starts from."""
    kinds = {
        "weights_bytes": weights_bytes(workload),
        "kv_cache_bytes": kv_cache_bytes(workload, cached_tokens),
        "activations_bytes": activations_bytes(workload),
        "cuda_graphs_bytes": cuda_graphs_bytes(workload),
    }
    dynamic = added(kinds.values()) - kinds["weights_bytes"]
    runtime = _runtime_bytes(workload)
    peak = added(kinds.values())
    if not workload.eager:
        return kinds, ClosedForm("serving", peak, dynamic, runtime, None)
    seen = _features(workload, kinds) | tokens_features(_tokens(workload), dynamic, kinds["weights_bytes"])
    return kinds, ClosedForm("inference", peak, dynamic, runtime, seen)


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


def _quantised(workload: Workload) -> bool:
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
    per_sequence = sequence_bytes(workload, length)
    if workload.beam_width > 1:  # beams share the prompt
        own = per_sequence - sequence_bytes(workload, workload.input_len)
        per_sequence += (workload.beam_width - 1) * own
    if cached_tokens is not None:
        return cached_tokens * per_sequence / length
    if workload.eager:
        per_sequence = greater(per_sequence, kv_cache_bytes_per_token(workload) * workload.input_len)
    return workload.local_batch * per_sequence


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
    return _pass_bytes(workload, _tokens(workload), workload.local_batch) + _scores(workload)


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


def _pass_bytes(workload: Workload, tokens: int, sequences: int) -> float:
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


def _scores(workload: Workload) -> float:
    """Scores of all sequences in one layer, where PyTorch holds them."""
    if not workload.eager or workload.act_dtype != "fp32":
        return 0.0
    attentions = [call.op for call in workload.prefill_ops() if isinstance(call.op, Attention)]
    heads = max((float(op.heads) for op in attentions if op.heads != op.kv_heads), default=0.0)
    return 2 * FP32_BYTES * workload.local_batch * heads * float(workload.input_len) ** 2


def _tokens(workload: Workload) -> int:
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


def _runtime_bytes(workload: Workload) -> float:
    """Of a workload's engine; GPUs that ggml deals layers out to have no buffers of a library."""
    return GGML_CONTEXT_BYTES if workload.pass_tokens else runtime_bytes(workload.layout.n_gpus // workload.dp)


def cache_room(workload: Workload, gpu: Gpu, engine: Engine | None = None) -> float:
    """Bytes of one GPU that the engine gives to the KV cache: its share of the memory less what all else takes.

    At start it makes room for its largest step, whatever is asked of it later (vLLM: profile_run).
    """
    engine = engine or workload.engine_on(gpu)
    if engine.joins and not workload.pass_tokens:
        activations = _pass_bytes(workload, engine.max_batched_tokens, engine.max_sequences)
    else:
        most = engine.max_sequences * workload.dp * workload.attention_dp
        activations = activations_bytes(replace(workload, batch=lesser(workload.batch, most)))
    activations += cuda_graphs_bytes(workload)
    weights = weights_bytes(workload)
    runtime, whole = _runtime_bytes(workload), float(gpu.mem_bytes)
    free = whole - weights - activations - runtime
    rooms = {
        "all": engine.memory_share * whole - weights - activations - runtime,
        "static": min(engine.memory_share * whole - weights, free),
        "free": engine.memory_share * free,
    }
    return max(rooms[engine.share_of], 0.0)


def _features(workload: Workload, kinds: dict[str, float]) -> dict[str, float]:
    """What the learned correction sees of a run but the number of tokens."""
    model, calls = workload.model, workload.launched()
    cached, passed = kv_cache_bytes_per_token(workload), _pass_bytes(workload, 1, 0)  # of one token
    logits = workload.local_batch * model.vocab * FP32_BYTES * 1.5
    return shape_features(calls, model.hidden, model.layers) | {
        "training": 0.0,
        "lora": 0.0,
        "qlora": float(_quantised(workload)),
        "width": float(workload.act_dtype in ("fp32", "tf32")),
        "eager": 1.0,
        "scores": float(_scores(workload) > 0),
        "checkpointing": 0.0,
        "logits_share": share(logits, kinds["activations_bytes"]),
        "scores_share": share(cached, cached + passed),
        "accumulates": 0.0,
        "step_share": 0.0,
    }
