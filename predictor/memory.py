"""How much memory a run takes on each GPU: weights, KV cache, activations and what the runtime keeps.

Sources of the constants stand beside them; the terms are those of vLLM's start-up profile (vllm/worker/worker.py).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from predictor.ops.dtypes import act_bytes, out_bytes, weight_bytes
from predictor.units import MIB
from predictor.workloads import Workload

if TYPE_CHECKING:
    from predictor.gpu import Gpu

# Tokens that one forward pass takes; longer prefills run in chunks (max_num_batched_tokens of vLLM on an 80 GB GPU).
MAX_BATCHED_TOKENS = 8192
# CUDA context, cuBLAS and kernel images of one process: memory in use less memory reserved by PyTorch is 1.47 GB in the
# median of 83 runs of optimum-benchmark on A100-SXM4-80GB; vLLM pull request 10511 logs 1.79 GiB on an 80 GB H100.
CONTEXT_BYTES = 1.47e9
# NCCL_BUFFSIZE is 4 MiB (NCCL user guide); up to 32 channels, ring and tree. That vLLM log shows 1.8 GiB more at tp=2.
NCCL_BYTES = 32 * 2 * 4 * MIB
# vLLM's own all-reduce: 8 MiB of data and 8 MiB of rank addresses (custom_all_reduce.py).
ALL_REDUCE_BYTES = 16 * MIB
FP32_BYTES = 4.0


@dataclass(frozen=True, slots=True)
class Memory:
    """Bytes on each GPU at the end of the run, when the cache is fullest.

    kv_cache_bytes_per_token: one more token of one sequence, in all layers, before any sliding window is full.
    activations_bytes: peak in one forward pass, logits included. runtime_bytes: CUDA context and communication buffers.
    capacity_bytes: what the GPU has; `fits` where total_bytes is no more.
    """

    weights_bytes: float
    kv_cache_bytes: float
    kv_cache_bytes_per_token: float
    activations_bytes: float
    runtime_bytes: float
    total_bytes: float
    capacity_bytes: float
    fits: bool


def memory(workload: Workload, gpu: Gpu) -> Memory:
    """Memory of a run on one of its tp GPUs.

    >>> from predictor.gpu import get_gpu
    >>> from predictor.workloads import get_model
    >>> memory(Workload(model=get_model("Llama-3.1-8B")), get_gpu("H100-SXM-80GB")).kv_cache_bytes_per_token
    131072.0
    """
    weights = weights_bytes(workload)
    cache = kv_cache_bytes(workload)
    activations = activations_bytes(workload)
    runtime = runtime_bytes(workload.layout.n_gpus // workload.dp)
    total = weights + cache + activations + runtime
    return Memory(
        weights_bytes=weights,
        kv_cache_bytes=cache,
        kv_cache_bytes_per_token=kv_cache_bytes_per_token(workload),
        activations_bytes=activations,
        runtime_bytes=runtime,
        total_bytes=total,
        capacity_bytes=float(gpu.mem_bytes),
        fits=total <= gpu.mem_bytes,
    )


def weights_bytes(workload: Workload) -> float:
    """Weights on one GPU: matrices of layers and experts in their formats, all else in that of the activations."""
    linear, experts, plain = workload.model.elements(workload.layout)
    expert_bytes = float(weight_bytes(workload.expert_dtype or workload.dtype))
    matrices = linear * float(weight_bytes(workload.dtype)) + experts * expert_bytes
    return matrices + plain * float(out_bytes(workload.act_dtype))


def kv_cache_bytes_per_token(workload: Workload) -> float:
    """What one token of one sequence adds in all layers, on one GPU."""
    return workload.model.cached(1, workload.layout) * float(weight_bytes(workload.cache_dtype))


def kv_cache_bytes(workload: Workload) -> float:
    """Cache of all sequences at their full length on one GPU; a sliding-window layer keeps its window only.

    An engine that gives every layer the same cache keeps all of it and needs more.
    """
    model, length = workload.model, workload.input_len + workload.output_len
    each = model.cached(length, workload.layout) * float(weight_bytes(workload.cache_dtype))
    return workload.local_batch * (each + model.state_bytes(workload.layout))


def activations_bytes(workload: Workload) -> float:
    """Peak of one forward pass: hidden state and residual, the widest sublayer, and the logits.

    Serving engines take a long input in chunks, Transformers does not. Narrow formats add a quantised input. Logits of
    every sequence: 16 bits as computed, 32 as sampled.
    """
    model, batch = workload.model, workload.local_batch
    tokens, widest = batch * workload.input_len, model.widest(workload.layout)
    if workload.generates and workload.engine != "torch":
        tokens = min(tokens, MAX_BATCHED_TOKENS)
    element = float(out_bytes(workload.act_dtype))
    layer = tokens * (2 * model.hidden + widest) * element
    narrow = float(act_bytes(workload.dtype))
    quantised = tokens * max(model.hidden, widest // 3) * narrow if narrow < element else 0.0
    logits = batch * model.vocab * (element + FP32_BYTES)
    return layer + quantised + logits


def runtime_bytes(gpus: int) -> float:
    """What the process holds before the model is loaded, with communication buffers where GPUs share the model."""
    return CONTEXT_BYTES + (NCCL_BYTES + ALL_REDUCE_BYTES if gpus > 1 else 0.0)
