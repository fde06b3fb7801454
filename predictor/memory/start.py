"""What a serving engine sets aside when it starts: weights, its largest pass, CUDA graphs, and a cache of the rest.

In the order of the engines' own start-up: vLLM profiles a pass of max_num_batched_tokens and samples max_num_seqs
sequences (vllm/v1/worker/gpu_worker.py, determine_available_memory); SGLang keeps a share for weights and cache
(sglang/srt/model_executor/model_runner.py, profile_max_num_token); TensorRT-LLM takes a share of what is left free.
"""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import replace
from math import inf
from statistics import NormalDist
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from predictor.elementwise import greater, hypot, lesser, whole
from predictor.memory.sizes import (
    FP32_BYTES,
    GGML_CONTEXT_BYTES,
    activations_bytes,
    beside_images,
    cuda_graphs_bytes,
    kv_cache_bytes,
    kv_cache_bytes_per_token,
    pass_bytes,
    request_bytes,
    sequence_bytes,
    weights_bytes,
)
from predictor.memory.uncertainty import LEVEL, SUREST, Spread
from predictor.ops.dtypes import out_bytes
from predictor.units import GB, GIB, MIB
from predictor.workloads import Workload
from predictor.workloads.engines import Engine, get_engine

if TYPE_CHECKING:
    from predictor.hardware.gpu import Gpu

# What the driver keeps of the memory that nvidia-smi shows: vLLM logs 79.18 GiB of an H100 that has 79.65.
DRIVER_BYTES = 0.46 * GIB
# A CUDA context, outside the share that vLLM's V1 takes.
OUTSIDE_BYTES = 0.5 * GIB
# How far each part is off, one standard deviation: of weights (formats of tables and heads, padding), of the pass that
# is profiled, of what does not follow from sizes, and that again where GPUs share a model. Judged by the start-ups of
# predictor/learning/validation/startup.py.
WEIGHTS_SHARE, PASS_SHARE, FIXED_BYTES, RANKS_BYTES = 0.008, 0.12, 0.25 * GIB, 0.4 * GIB
# cuda_graph_max_bs of SGLang on GPUs of less memory than so many GiB: below tp 4, and from there on.
CAPTURED = ((20, (8, 8)), (35, (24, 80)), (60, (32, 160)), (160, (256, 512)), (inf, (512, 512)))
NORMAL = Spread(0.0, 1.0, tuple(NormalDist().inv_cdf(number / 20) for number in range(1, 20)))


class Start(NamedTuple):
    """Bytes on one GPU: what the engine sets aside, by kind, and the room that is left for the cache.

    runtime_bytes: of its share what is not PyTorch's. room: below 0 where the others alone take more than the share.
    beside: left outside the share for the CUDA context and for graphs that are captured afterwards. ranks: whether
    several GPUs share the model.
    """

    weights_bytes: Any
    activations_bytes: Any
    cuda_graphs_bytes: Any
    runtime_bytes: float
    room: Any
    beside: Any
    ranks: bool = False

    @property
    def doubt(self) -> Any:
        """One standard deviation of what is set aside, and so of the room."""
        fixed = hypot(FIXED_BYTES, RANKS_BYTES if self.ranks else 0.0)
        return hypot(hypot(WEIGHTS_SHARE * self.weights_bytes, PASS_SHARE * self.activations_bytes), fixed)

    def room_at(self, share: float) -> Any:
        """The room of which a share of the starts has less, at least 0."""
        return greater(self.room + self.doubt * NORMAL.quantile(share), 0.0)

    def fits(self, cache_bytes: Any) -> Any:
        """Whether so much cache is expected to fit."""
        return (self.room >= cache_bytes) & (self.beside >= 0)

    def p_short(self, cache_bytes: Any) -> Any:
        """Probability that the engine has no room for so much cache."""
        short = NORMAL.above(lesser(self.room - cache_bytes, self.beside) / self.doubt)
        return lesser(greater(short, SUREST), 1 - SUREST)

    def need(self, cache_bytes: Any, least_bytes: Any) -> dict[str, Any]:
        """The fields of Need where the cache takes so much, and starting needs room for least_bytes of it.

        capacity_bytes: what the engine takes for all of it.
        """
        aside = self.weights_bytes + self.activations_bytes + self.cuda_graphs_bytes + self.runtime_bytes
        total, spread = aside + cache_bytes, self.doubt * NORMAL.quantile((1 + LEVEL) / 2)
        return {
            "correction_bytes": 0.0,
            "fragmentation_bytes": 0.0,
            "runtime_bytes": self.runtime_bytes,
            "total_bytes": total,
            "low_bytes": greater(total - spread, 0.0),
            "high_bytes": total + spread,
            "capacity_bytes": aside + self.room,
            "p_oom": self.p_short(least_bytes),
        }


def start(workload: Workload, gpu: Gpu, engine: Engine | None = None) -> Start:
    """The start of an engine whose requests join a running batch, by default of the workload's as it is set."""
    engine = engine or workload.engine_on(gpu)
    weights = weights_bytes(workload)
    if workload.pass_tokens:  # llama.cpp and MLX take what they need, and capture no graphs
        most = engine.max_sequences * workload.dp * workload.attention_dp
        passing = activations_bytes(replace(workload, batch=lesser(workload.batch, most)))
        room = gpu.mem_bytes - weights - passing - GGML_CONTEXT_BYTES
        return Start(weights, passing, 0.0, GGML_CONTEXT_BYTES, room, inf)
    usable, passing, graphs = usable_bytes(gpu), _profiled_bytes(workload, engine), cuda_graphs_bytes(workload)
    ranks = workload.layout.n_gpus > workload.dp
    runtime = GIB * (engine.start_gib + (engine.ranks_gib if ranks else 0.0))
    inside = graphs if engine.profiles_graphs else 0.0
    if engine.share_of == "static":
        pool = (engine.memory_share or _static_share(workload, gpu, engine)) * (usable - runtime)
        room, beside = pool - weights, usable - runtime - pool
    elif engine.share_of == "free":
        inside = graphs
        free = usable - weights - passing - graphs - runtime
        room, beside = lesser(engine.memory_share * free, free), (1 - engine.memory_share) * free
    else:
        taken = engine.memory_share * usable
        room, beside = taken - weights - passing - inside - runtime, usable - taken - OUTSIDE_BYTES - graphs + inside
    return Start(weights, passing, inside, runtime, room, beside, ranks)


def _static_share(workload: Workload, gpu: Gpu, engine: Engine) -> float:
    """mem_fraction_static of SGLang where nobody sets it: all but what it reserves for activations and CUDA graphs
    (server_args.py, since 0.5.3)."""
    tp, groups = workload.tp, workload.attention_dp
    captured = next(most for gib, most in CAPTURED if gpu.mem_bytes < gib * GIB)[tp * groups >= 4]
    mib = 512 + 1.5 * max(engine.max_batched_tokens, 2048) + 2 * captured + tp * groups * workload.pp / 8 * 1024
    if groups > 1:
        mib += (3 if captured <= 300 else 4.5) * captured * groups
    if gpu.mem_bytes > 60 * GIB:
        mib = max(mib, 10 * 1024)
    return max(1 - mib * MIB / gpu.mem_bytes, 0.0)


def usable_bytes(gpu: Gpu) -> float:
    """What a process can allocate of a GPU's memory."""
    return float(gpu.mem_bytes) - (DRIVER_BYTES if gpu.vendor == "NVIDIA" else 0.0)


def cache_room(workload: Workload, gpu: Gpu, engine: Engine | None = None) -> Any:
    """Bytes of one GPU that the engine gives to the KV cache."""
    return greater(start(workload, gpu, engine).room, 0.0)


class CacheRoom(NamedTuple):
    """What the cache has room for at once, with 80 % intervals; of a whole deployment, None where there is no cache.

    max_kv_tokens: of one group of GPUs, in sequences of the workload's length. max_concurrent_requests: of that length,
    over all replicas.
    """

    max_kv_tokens: Any = None
    max_kv_tokens_low: Any = None
    max_kv_tokens_high: Any = None
    max_concurrent_requests: Any = None
    max_concurrent_requests_low: Any = None
    max_concurrent_requests_high: Any = None


def room_for_cache(workload: Workload, started: Start) -> CacheRoom:
    """Tokens and requests of the workload's length, with their beams, in the room of an engine that has started."""
    length = workload.input_len + workload.output_len
    sequence, request = sequence_bytes(workload, length), request_bytes(workload)
    groups = workload.dp * workload.attention_dp
    if not np.any(kv_cache_bytes_per_token(workload, length)):
        return CacheRoom()
    rooms = (greater(started.room, 0.0), *(started.room_at((1 + sign * LEVEL) / 2) for sign in (-1, 1)))
    tokens = [whole(length * room / sequence) for room in rooms]
    requests = [whole(room / request) * groups for room in rooms]
    return CacheRoom(*tokens, *requests)


def one_request_bytes(workload: Workload, tokens: float | None = None) -> Any:
    """Cache of one request of each group of GPUs, or of a whole context that is set where the engine wants room for it.

    tokens: of that request, by default the workload's.
    """
    own = workload.settings.max_model_len
    if own and get_engine(workload.engine).whole_context:
        return sequence_bytes(workload, own)
    return kv_cache_bytes(replace(workload, batch=workload.dp * workload.attention_dp), tokens)


def refusal(workload: Workload, gpu: Gpu, engine: Engine | None = None) -> str:
    """What to say of an engine that does not start for want of memory: what has no room, and what of its settings
    makes some."""
    engine = engine or workload.engine_on(gpu)
    started, own = start(workload, gpu, engine), engine.settings
    refused = f"{workload.engine} does not start on {workload.layout.n_gpus // workload.dp} × {gpu.name}"
    if np.all(started.room > 0) and np.any(started.beside < 0):
        return (
            f"{refused}: what it leaves of each outside its share of {engine.memory_share:.3g} has no room for the "
            "CUDA context and graphs. Lower gpu_memory_utilization."
        )
    taken = max(started.need(0.0, 0.0)["capacity_bytes"], 0.0) / GB
    cures = [
        "raise tp" if gpu.link_bytes_per_s else "",
        "choose a narrower dtype",
        "lower max_num_seqs" if engine.sampled_bytes else "",
        "raise gpu_memory_utilization" if engine.share_of != "free" and "gpu_memory_utilization" in own else "",
    ]
    listed = [cure for cure in cures if cure]
    either = f"{', '.join(listed[:-1])} or {listed[-1]}" if len(listed) > 1 else listed[0]
    return (
        f"{refused}: weights and its first pass leave no room for a sequence in the {taken:.3g} GB that it takes of "
        f"each. {either[0].upper()}{either[1:]}."
    )


def largest_share(workload: Workload, gpu: Gpu, risk: float) -> float:
    """The largest gpu_memory_utilization that leaves room for what is outside of it but in a share `risk` of the
    starts."""
    engine = workload.engine_on(gpu)
    started = start(workload, gpu, engine)
    spare = started.beside - started.doubt * NORMAL.quantile(1 - risk)
    return float(engine.memory_share + spare / usable_bytes(gpu))


def context_note(workload: Workload, gpu: Gpu, engine: Engine | None = None) -> str:
    """What to say of a max_model_len that the cache cannot hold, with which vLLM does not start; "" otherwise."""
    own = workload.settings.max_model_len
    if not own or not get_engine(workload.engine).whole_context:
        return ""
    longest = longest_context(workload, gpu, engine or workload.engine_on(gpu))
    if longest >= own or not longest:  # without any room that is what is said
        return ""
    return (
        f"{workload.engine} does not start: max_model_len is {own} and its KV cache holds {longest} tokens. Lower "
        f"max_model_len to {longest} or less, raise tp, or choose a narrower kv_dtype."
    )


def longest_context(workload: Workload, gpu: Gpu, engine: Engine | None = None) -> int:
    """Tokens of the longest sequence up to the max_model_len that is set which the engine's cache holds."""

    def lacking(length: int) -> float:
        return float(sequence_bytes(workload, length) - cache_room(_alone(workload, length), gpu, engine))

    lengths = range(2, workload.settings.max_model_len + 1)
    held = bisect_right(lengths, 0.0, key=lacking)
    return lengths[held - 1] if held else 0


def _alone(workload: Workload, length: int) -> Workload:
    """One sequence of so many tokens on each GPU."""
    return replace(workload, batch=workload.dp * workload.attention_dp, input_len=length - 1, output_len=1)


def _profiled_bytes(workload: Workload, engine: Engine) -> Any:
    """Peak of the pass that the engine runs at start: its layers, or sampling of all sequences beside hidden states.

    Layers that are not compiled (the engine before V1) hold what attention took and gave, too.
    """
    model, element = workload.model, float(out_bytes(workload.act_dtype))
    tokens, eager = engine.max_batched_tokens, 0.0
    if engine.profiles_context:
        tokens = workload.longest if workload.longest <= engine.profiles_context else tokens
        eager = 2 * tokens * model.hidden * element
    vocab = float(getattr(model, "vocab", 0))
    sampled = engine.max_sequences * vocab * (engine.sampled_bytes or element + FP32_BYTES)
    passing = greater(pass_bytes(workload, tokens, 0) + eager, tokens * model.hidden * element + sampled)
    return beside_images(workload, passing, tokens)
