"""What would make a run fit: changes of the request, each with its new peak and what it costs in speed."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from math import floor
from typing import Any, NamedTuple

from predictor.errors import PredictorError
from predictor.estimators.bundle import Bundle
from predictor.hardware.gpu import Gpu
from predictor.latency.report import Report
from predictor.latency.training import TrainingReport
from predictor.memory.capacity import RISK, Room, TrainingRoom, has_room, largest
from predictor.memory.closed_form import memory
from predictor.memory.start import largest_share
from predictor.memory.uncertainty import Need
from predictor.ops.dtypes import weight_bytes
from predictor.prediction.single import Resolved, answer, room_of
from predictor.workloads.engine_tables import SERVES
from predictor.workloads.engines import get_engine
from predictor.workloads.images import image_tokens
from predictor.workloads.passes.lengths import VARLEN
from predictor.workloads.requested import served_workload
from predictor.workloads.workload import Workload

GPUS = frozenset({"tp", "dp"})  # columns that ask for more of them
SIX_BITS = 6 / 8  # bytes of a weight, from which 4 bits are fewer
SHORTEST = 128  # tokens to which a prompt or a training sequence is cut at most


class Fix(NamedTuple):
    """A change. settings: the columns of the request that differ. speed: tokens per second and GPU over those as asked.

    memory: that of the changed run, per GPU; has_room: it seldom enough runs out.
    """

    change: str
    settings: dict[str, Any]
    memory: Need
    speed: float

    @property
    def has_room(self) -> bool:
        """Whether the changed run seldom enough runs out of memory."""
        return has_room(self.memory)

    def row(self) -> dict[str, Any]:
        """As a flat row."""
        told = {"memory_bytes": self.memory.total_bytes, "p_oom": self.memory.p_oom, "fits": self.memory.fits}
        return {"change": self.change, "settings": self.settings, **told, "speed": self.speed}


class _Run(NamedTuple):
    """The run as asked."""

    resolved: Resolved
    bundle: Bundle
    tokens_per_s_per_gpu: float


def fixes(report: Report | TrainingReport, resolved: Resolved, bundle: Bundle) -> list[Fix]:
    """Changes that need less memory, those with room first, the fastest of them first; where none alone has room, the
    first is of several together."""
    run = _Run(resolved, bundle, report.tokens_per_s.value / report.n_gpus)
    changes = list(_serving(resolved) if isinstance(report, Report) else _training(resolved))
    made = [_made(change, settings, run) for change, settings in changes]
    helping = [
        fix for fix in made if fix and (fix.has_room or fix.memory.total_bytes < 0.99 * report.memory.total_bytes)
    ]
    helping.sort(key=_rank)
    if not helping or helping[0].has_room:
        return helping
    same = [fix for fix in helping if "method" not in fix.settings]
    together = (_together(same, run) if same else []) or _together(helping, run)
    return together + helping


def _rank(fix: Fix) -> tuple[bool, float]:
    return (not fix.has_room, -fix.speed if fix.has_room else fix.memory.total_bytes)


def _together(alone: list[Fix], run: _Run) -> list[Fix]:
    """Changes added up, each time the one that leaves most room, until there is enough; nothing where there never is.

    More GPUs are only ever the last of them.
    """
    so_far, left = Fix("", {}, alone[0].memory, 1.0), list(alone)
    while left:
        tried = [
            made
            for fix in left
            if (made := _made(f"{so_far.change} + {fix.change}".strip(" +"), so_far.settings | fix.settings, run))
        ]
        if enough := [fix for fix in tried if fix.has_room]:
            return [min(enough, key=lambda fix: (bool(GPUS & set(fix.settings)), -fix.speed))]
        here = [fix for fix in tried if not GPUS & set(fix.settings)]
        if not here:
            return []
        so_far = min(here, key=lambda fix: fix.memory.total_bytes)
        left = [fix for fix in left if not set(fix.settings) & set(so_far.settings)]
    return []


def _made(change: str, settings: dict[str, Any], run: _Run) -> Fix | None:
    """The change, answered; None where the model or the GPU does not allow it."""
    if GPUS & set(settings):
        settings = {**settings, "n_gpus": 0}
    if run.resolved.request.global_batch and {"dp", "micro_batch"} & set(settings):
        settings = {**settings, "grad_accum": 0}
    try:
        changed = run.resolved._replace(request=replace(run.resolved.request, **settings))
        report = answer(changed, run.bundle)
    except PredictorError:
        return None
    kept = {name: value for name, value in settings.items() if value or name != "grad_accum"}
    if "n_gpus" in kept:
        kept["n_gpus"] = report.n_gpus
    return Fix(change, kept, report.memory, report.tokens_per_s.value / report.n_gpus / run.tokens_per_s_per_gpu)


NARROWER = {"GGUF": ("q8_0", "q4_k_m"), "MLX": ("mlx_8bit", "mlx_4bit")}


def _serving(resolved: Resolved) -> Iterator[tuple[str, dict[str, Any]]]:
    request, gpu, room = resolved.request, resolved.gpu, room_of(resolved)
    if not isinstance(room, Room):
        return
    workload = served_workload(request, resolved.model, gpu)[0]
    own = get_engine(workload.engine).formats
    yield from _of_formats(workload, NARROWER[own]) if own else _of_servers(workload, gpu)
    yield from _of_start(workload, gpu)
    if room.max_batch and room.max_batch < request.batch:
        yield f"batch {room.max_batch}", {"batch": room.max_batch}
    prompt = (room.max_context_len or 0) - request.output_len - image_tokens(request, workload.model)
    if SHORTEST <= prompt < request.input_len:
        yield f"{prompt} tokens of prompt", {"input_len": prompt}
    if get_engine(request.engine).eager:
        yield "vLLM, which takes prompts in chunks", {"engine": SERVES}
    if room.min_tp and room.min_tp > request.tp:
        yield f"{room.min_tp} GPUs share each layer", {"tp": room.min_tp}


def _of_servers(workload: Workload, gpu: Gpu) -> Iterator[tuple[str, dict[str, Any]]]:
    """What serving engines have for weights and caches of fewer bits."""
    if "fp8" in gpu.peak_flop_per_s and workload.dtype in ("bf16", "fp16", "fp32"):
        yield "weights in fp8", {"dtype": "fp8"}
    if weight_bytes(workload.expert_dtype or workload.dtype) > SIX_BITS:
        yield "weights in 4 bits", {"dtype": "int4_wo"}
    if workload.generates and workload.cache_dtype != "fp8":
        yield "KV cache in fp8", {"kv_dtype": "fp8"}


def _of_start(workload: Workload, gpu: Gpu) -> Iterator[tuple[str, dict[str, Any]]]:
    """Another share of the memory, or a shorter context, with which an engine starts."""
    engine, own = workload.engine_on(gpu), workload.settings.max_model_len
    if engine.share_of == "all" and "gpu_memory_utilization" in engine.settings:
        most = floor(100 * largest_share(workload, gpu, RISK)) / 100
        if 0 < most != engine.memory_share:
            yield f"gpu_memory_utilization {most:g}", {"gpu_memory_utilization": most}
    if engine.whole_context and own:
        settings, length = workload.settings, workload.input_len + workload.output_len

        def starts(more: int) -> bool:
            held = settings._replace(max_model_len=length - 1 + more)
            return has_room(memory(replace(workload, settings=held), gpu))

        if (more := largest(starts, own - length)) and (held := length - 1 + more):
            yield f"max_model_len {held}", {"max_model_len": held}


def _of_formats(workload: Workload, narrower: tuple[str, str]) -> Iterator[tuple[str, dict[str, Any]]]:
    """What an engine with formats of its own has for weights and caches of fewer bits."""
    for dtype in narrower:
        if weight_bytes(dtype) < weight_bytes(workload.dtype):
            yield f"weights in {dtype}", {"dtype": dtype}
    if weight_bytes(narrower[0]) < weight_bytes(workload.cache_dtype):
        yield f"KV cache in {narrower[0]}", {"kv_dtype": narrower[0]}


def _training(resolved: Resolved) -> Iterator[tuple[str, dict[str, Any]]]:
    request, room = resolved.request, room_of(resolved)
    if not isinstance(room, TrainingRoom):
        return
    fitting = room.max_micro_batch or 1
    if fitting < request.micro_batch and not request.optimizer_in_backward:
        passes = -(-request.micro_batch // fitting) * request.grad_accum
        yield f"{passes} passes of micro-batch {fitting}", {"micro_batch": fitting, "grad_accum": passes}
    if request.checkpointing not in ("full", "offloaded"):
        yield "full checkpointing", {"checkpointing": "full"}
    if request.padding in ("longest", "max_length") and request.attention in VARLEN:
        yield "no padding", {"padding": "none"}
    if request.attention == "eager":
        yield "FlashAttention", {"attention": "flash2"}
    if request.loss_chunks == 1:
        yield "loss in 8 chunks", {"loss": "chunked", "loss_chunks": 8}
    if (longest := room.max_seq_len) and SHORTEST <= longest < request.seq_len:
        mean = {"mean_seq_len": longest} if request.mean_seq_len > longest else {}
        yield f"sequences of {longest} tokens", {"seq_len": longest, **mean}
    if request.method == "full":
        if request.optimizer == "adamw":
            yield "8-bit AdamW", {"optimizer": "adamw_8bit"}
        if request.grad_accum == 1 and not request.optimizer_in_backward:
            yield "optimizer in the backward pass", {"optimizer_in_backward": True}
        if request.precision != "pure":
            yield "all in 16 bits", {"precision": "pure"}
        if request.offload == "none" and not resolved.gpu.unified_memory:
            yield "optimizer on the host", {"offload": "optimizer"}
        yield "LoRA", {"method": "lora"}
    if request.method != "qlora":
        yield "QLoRA", {"method": "qlora"}
    for stage in range(request.zero_stage + 1, 4) if request.dp > 1 else ():
        yield f"ZeRO {stage}", {"zero_stage": stage}
    groups = (room.min_n_gpus or 8 * request.n_gpus) // (request.cp * request.pp)
    if room.min_tp and room.min_tp > request.tp:
        dp = groups // room.min_tp
        change = f"{room.min_tp} GPUs share each layer" + (f", ZeRO 3 over {dp} replicas" if dp > 1 else "")
        sharded = {"zero_stage": 3} if dp > 1 else {}
        yield change, {"tp": room.min_tp, "dp": dp, "sequence_parallel": 1, **sharded}
    elif (replicas := groups // request.tp) > request.dp:
        yield f"ZeRO 3 over {replicas} replicas", {"dp": replicas, "zero_stage": 3}
