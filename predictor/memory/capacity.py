"""What a GPU has room for: tokens of cache, requests, the longest context, the largest batch, the fewest GPUs.

A run is said to have room where it runs out of memory in at most RISK of the cases.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, NamedTuple

from predictor.errors import PredictorError
from predictor.hardware.gpu import Gpu
from predictor.hardware.interconnect import stands_alone
from predictor.memory.closed_form import memory
from predictor.memory.start import CacheRoom, room_for_cache, start
from predictor.memory.training import training_memory
from predictor.memory.uncertainty import Need
from predictor.workloads.engines import get_engine
from predictor.workloads.passes.training import Trainable, TrainingSetting
from predictor.workloads.workload import Workload

RISK = 0.1
MOST_BATCH, MOST_GPUS = 2**16, 1024


class Room(NamedTuple):
    """Of serving. None where the model has no cache, or nothing that was tried has room.

    max_kv_tokens, max_concurrent_requests: predictor.memory.start.CacheRoom. max_context_len: tokens of each of `batch`
    sequences. max_batch: of sequences as long as asked. min_n_gpus, min_tp: the fewest GPUs with room, sharing every
    layer.
    """

    max_kv_tokens: int | None
    max_kv_tokens_low: int | None
    max_kv_tokens_high: int | None
    max_concurrent_requests: int | None
    max_concurrent_requests_low: int | None
    max_concurrent_requests_high: int | None
    max_context_len: int | None
    max_batch: int | None
    min_n_gpus: int | None
    min_tp: int | None


class TrainingRoom(NamedTuple):
    """Of training. max_micro_batch, max_seq_len: as asked otherwise. min_n_gpus: the fewest GPUs with room, of which
    min_tp share each layer and the others are replicas under ZeRO 3."""

    max_micro_batch: int | None
    max_seq_len: int | None
    min_n_gpus: int | None
    min_tp: int | None


def has_room(need: Need) -> bool:
    """Whether a run seldom enough runs out of memory, or has sequences wait for it."""
    return max(need.p_oom, getattr(need, "p_wait", 0.0)) <= RISK


def alone_note(need: Need, gpu: Gpu, n_gpus: int) -> str:
    """What to say of a run without room on a GPU that has no others beside it; "" of all others."""
    if n_gpus > 1 or has_room(need) or not stands_alone(gpu):
        return ""
    return (
        f"this does not fit, and nothing joins {gpu.name} to another. Choose a narrower dtype or shorter sequences; "
        "where several computers are joined, give link_gb_per_s in its spec."
    )


def room(workload: Workload, gpu: Gpu) -> Room:
    """What `gpu` has room for, the workload as asked otherwise."""

    def fits(**changes: Any) -> bool:
        return _fits(lambda: memory(replace(workload, **changes), gpu))

    length = workload.input_len + workload.output_len
    cache, context = CacheRoom(), None
    if workload.generates:
        if get_engine(workload.engine).joins:
            cache = room_for_cache(workload, start(workload, gpu))
        most = workload.longest - workload.output_len
        prompt = largest(lambda size: fits(input_len=size), most)
        context = prompt + workload.output_len if prompt else None
    tp = fewest(lambda gpus: fits(tp=gpus), most_gpus(gpu))
    rest = workload.layout.n_gpus // workload.tp
    batch = largest(lambda size: fits(batch=size), min(MOST_BATCH, 2**31 // length))
    return Room(*cache, context, batch, tp * rest if tp else None, tp)


def training_room(model: Trainable, gpu: Gpu, setting: TrainingSetting) -> TrainingRoom:
    """What `gpu` has room for, the setting as asked otherwise."""

    def fits(**changes: Any) -> bool:
        return _fits(lambda: training_memory(model, gpu, replace(setting, **changes)))

    longest = max(model.max_len, setting.max_model_len) if not getattr(model, "fixed_len", 0) else 0
    parts = 2 * setting.cp if setting.cp > 1 else 1  # that a sequence must have

    def shorter(length: int) -> dict[str, Any]:
        """Sequences of so many tokens at most, whose mean is no more."""
        spread = None if setting.mean_seq_len else setting.length_spread
        return {"seq_len": length, "mean_seq_len": min(setting.mean_seq_len, length), "length_spread": spread}

    length = largest(lambda size: fits(**shorter(size * parts)), longest // parts)

    def sharing(gpus: int) -> int:
        """How many of setting.tp * gpus GPUs share each layer, the fewest with room; the others are replicas under ZeRO
        3. 0: there is no room."""
        for tp in (setting.tp << step for step in range(gpus.bit_length())):
            dp = setting.tp * gpus // tp
            more: dict[str, Any] = {"tp": tp, "sequence_parallel": True} if tp > setting.tp else {}
            if fits(dp=dp, zero_stage=3 if dp > 1 else setting.zero_stage, **more):
                return tp
        return 0

    groups = fewest(lambda gpus: sharing(gpus) > 0, most_gpus(gpu))
    return TrainingRoom(
        largest(lambda size: fits(micro_batch=size), MOST_BATCH),
        length and length * parts,
        groups * setting.tp * setting.cp * setting.pp if groups else None,
        sharing(groups) if groups else None,
    )


def largest(fits: Callable[[int], bool], most: int) -> int | None:
    """The largest number up to `most` that fits; None where 1 does not. Less is taken to fit where more does."""
    if most < 1 or not fits(1):
        return None
    low, high = 1, 2
    while high <= most and fits(high):
        low, high = high, 2 * high
    high = min(high, most + 1)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low


def most_gpus(gpu: Gpu) -> int:
    """GPUs that may share a model: one where nothing joins it to others."""
    return 1 if stands_alone(gpu) else MOST_GPUS


def fewest(fits: Callable[[int], bool], most: int = MOST_GPUS) -> int | None:
    """The smallest power of two of GPUs that fits; None where none up to `most` does, or can be split so."""
    gpus = 1
    while gpus <= most:
        if fits(gpus):
            return gpus
        gpus *= 2
    return None


def _fits(need: Callable[[], Need]) -> bool:
    """Whether there is room for what a run needs, and it can be run at all."""
    try:
        return has_room(need())
    except PredictorError:  # the model cannot be split so, or takes no such length
        return False
