"""How much memory a run takes on each GPU: of an engine that starts and takes its share, and of any other program."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from predictor.elementwise import added, chosen, greater, lesser
from predictor.memory.sizes import (
    FP32_BYTES,
    activations_bytes,
    kv_cache_bytes,
    kv_cache_bytes_per_token,
    largest_pass,
    pass_bytes,
    quantised,
    runtime_bytes_of,
    score_bytes,
    weights_bytes,
)
from predictor.memory.start import context_note, one_request_bytes, refusal, room_for_cache, start
from predictor.memory.uncertainty import ClosedForm, Need, doubted, shape_features, share, tokens_features
from predictor.workloads import Workload
from predictor.workloads.engines import get_engine

if TYPE_CHECKING:
    from predictor.hardware.gpu import Gpu


@dataclass(frozen=True, slots=True, kw_only=True)
class Memory(Need):
    """Bytes on each GPU at the end of the run, when the cache is fullest.

    kv_cache_bytes_per_token: one more token of one sequence, in all layers, before any sliding window is full.
    activations_bytes: peak in one forward pass, logits included. cuda_graphs_bytes: of the captured decode steps.
    max_kv_tokens, max_concurrent_requests: predictor.memory.start.CacheRoom; None of what is no serving engine.
    p_wait: probability that sequences of a static batch wait for room in the cache of an engine that starts.
    """

    weights_bytes: float
    kv_cache_bytes: float
    kv_cache_bytes_per_token: float
    activations_bytes: float
    cuda_graphs_bytes: float
    max_kv_tokens: Any = None
    max_kv_tokens_low: Any = None
    max_kv_tokens_high: Any = None
    max_concurrent_requests: Any = None
    max_concurrent_requests_low: Any = None
    max_concurrent_requests_high: Any = None
    p_wait: Any = 0.0
    starts: Any = True  # whether what a serving engine sets aside when it starts is expected to fit its share

    @property
    def fits(self) -> Any:
        """Whether the expected need is no more than there is: the engine starts, and no sequence has to wait."""
        return (self.total_bytes <= self.capacity_bytes) & self.starts & (self.p_wait <= 0.5)


def memory(workload: Workload, gpu: Gpu, cached_tokens: float | None = None, longest: float | None = None) -> Memory:
    """Memory of a run on one of its tp GPUs. cached_tokens: in the cache there at its fullest; None: all of the batch.

    longest: tokens of the longest request of a load. The engine fills its cache and no more, so that it runs out of
    memory only where it has no room for that one when it starts.

    >>> from predictor.hardware.gpu import get_gpu
    >>> from predictor.workloads import get_model
    >>> memory(Workload(model=get_model("Llama-3.1-8B")), get_gpu("H100-SXM-80GB")).kv_cache_bytes_per_token
    131072.0
    """
    per_token = kv_cache_bytes_per_token(workload)
    if not (workload.generates and get_engine(workload.engine).joins):
        kinds, form = closed_form(workload)
        return Memory(**kinds, kv_cache_bytes_per_token=per_token, **doubted(form, gpu))
    started, asked = start(workload, gpu), kv_cache_bytes(workload, cached_tokens)
    one = one_request_bytes(workload, longest)
    starts = started.fits(one) & (not context_note(workload, gpu))
    cache = chosen(starts, lesser(asked, greater(started.room, one)), asked)  # what has no room waits
    return Memory(
        weights_bytes=started.weights_bytes,
        kv_cache_bytes=cache,
        kv_cache_bytes_per_token=per_token,
        activations_bytes=started.activations_bytes,
        cuda_graphs_bytes=started.cuda_graphs_bytes,
        starts=starts,
        p_wait=started.p_short(asked) if longest is None else 0.0,
        **room_for_cache(workload, started)._asdict(),
        **started.need(cache, one),
    )


def start_note(workload: Workload, gpu: Gpu, need: Memory) -> str:
    """What to say of an engine that does not start, or has no room for all sequences at once; "" of columns."""
    if need.starts is False:
        return context_note(workload, gpu) or refusal(workload, gpu)
    if need.starts is not True or need.p_wait < 0.5:
        return ""
    return (
        f"{workload.engine} has room for {need.max_concurrent_requests} of these sequences at once; others wait, "
        "and the times are of all at once."
    )


def closed_form(workload: Workload) -> tuple[dict[str, float], ClosedForm]:
    """Bytes by kind of what no serving engine runs, and what the learned correction of PyTorch starts from."""
    kinds = {
        "weights_bytes": weights_bytes(workload),
        "kv_cache_bytes": kv_cache_bytes(workload),
        "activations_bytes": activations_bytes(workload),
        "cuda_graphs_bytes": 0.0,
    }
    peak, runtime = added(kinds.values()), runtime_bytes_of(workload)
    dynamic = peak - kinds["weights_bytes"]
    if not workload.eager:
        return kinds, ClosedForm("serving", peak, dynamic, runtime, None)
    seen = _features(workload, kinds) | tokens_features(largest_pass(workload), dynamic, kinds["weights_bytes"])
    return kinds, ClosedForm("inference", peak, dynamic, runtime, seen)


def _features(workload: Workload, kinds: dict[str, float]) -> dict[str, float]:
    """What the learned correction sees of a run but the number of tokens."""
    model, calls = workload.model, workload.launched()
    cached, passed = kv_cache_bytes_per_token(workload), pass_bytes(workload, 1, 0)  # of one token
    logits = workload.local_batch * model.vocab * FP32_BYTES * 1.5
    return shape_features(calls, model.hidden, model.layers) | {
        "training": 0.0,
        "lora": 0.0,
        "qlora": float(quantised(workload)),
        "width": float(workload.act_dtype in ("fp32", "tf32")),
        "eager": 1.0,
        "scores": float(score_bytes(workload) > 0),
        "checkpointing": 0.0,
        "logits_share": share(logits, kinds["activations_bytes"]),
        "scores_share": share(cached, cached + passed),
        "accumulates": 0.0,
        "step_share": 0.0,
    }
