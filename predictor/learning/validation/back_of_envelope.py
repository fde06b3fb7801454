"""What anybody reckons without this package, to be better than: half the peak, weights over bandwidth, parameters times
bytes times 1.2.
"""

from __future__ import annotations

import json
from functools import cache
from math import nan
from typing import TYPE_CHECKING

from predictor.errors import PredictorError
from predictor.hardware.gpu import Gpu
from predictor.memory.sizes import kv_cache_bytes_per_token, weights_bytes
from predictor.ops.dtypes import dtype_facts
from predictor.prediction.single import Resolved, resolve
from predictor.workloads.passes.training import model_flops_per_token
from predictor.workloads.request import Request
from predictor.workloads.requested import served_workload, training_setting

if TYPE_CHECKING:
    import pandas as pd

UTILIZATION = 0.5  # of the peak
MARGIN = 1.2  # of memory, over parameters times bytes
CACHE_SHARE = 0.9  # of the memory, less weights
MOST_AT_ONCE = 256  # sequences
# Bytes of a parameter: weights and gradients in 16 bits, master weights and moments in 32; frozen; frozen in 4 bits.
TRAINED_BYTES = {"full": 16.0, "lora": 2.0, "qlora": 0.5}


def reckoned(rows: pd.DataFrame) -> list[float]:
    """Of each replayed row what the back of an envelope says of its metric; NaN where it says nothing."""
    return [
        _reckoned(request, metric) if request else nan
        for request, metric in zip(rows["request"].fillna(""), rows["metric"], strict=True)
    ]


@cache
def _reckoned(request_text: str, metric: str) -> float:
    try:
        resolved = resolve(Request.of(json.loads(request_text)))
        figures = (_of_training if resolved.request.phase == "train" else _of_serving)(resolved)
    except (PredictorError, AttributeError):  # pools have other columns; a network without tokens has no such rule
        return nan
    return figures.get(metric.replace("_p50", ""), nan)


def _of_training(resolved: Resolved) -> dict[str, float]:
    setting, model, gpu = training_setting(resolved.request, resolved.model), resolved.model, resolved.gpu
    flops = model_flops_per_token(model, setting.seq_len) * setting.step_tokens
    step_s = flops / (UTILIZATION * gpu.peak(setting.peak_dtype) * setting.n_gpus)
    shards = setting.tp * setting.pp * (setting.dp if setting.zero_stage > 2 else 1)
    memory_bytes = MARGIN * model.parameters() * TRAINED_BYTES[setting.method] / shards
    return {"step_s": step_s, "tokens_per_s": setting.step_tokens / step_s, "memory_bytes": memory_bytes}


def _of_serving(resolved: Resolved) -> dict[str, float]:
    request, gpu = resolved.request, resolved.gpu
    workload, _ = served_workload(request, resolved.model, gpu)
    weights, passed = weights_bytes(workload), request.input_len
    sequences = request.batch / (workload.dp * workload.attention_dp)
    flops = model_flops_per_token(workload.model, passed) / 3 * passed * sequences
    ttft_s = flops / (UTILIZATION * _peak(gpu, workload.dtype) * workload.tp * workload.pp)
    tpot_s = weights * workload.pp / gpu.mem_bytes_per_s
    at_once = min(request.concurrency or request.batch, MOST_AT_ONCE)
    figures = {"ttft_s": ttft_s, "memory_bytes": MARGIN * weights, "weights_bytes": weights}
    if not workload.generates:
        return figures | {"forward_s": ttft_s, "samples_per_s": request.batch / ttft_s}
    e2e_s = ttft_s + (request.output_len - 1) * tpot_s
    figures |= {"tpot_s": tpot_s, "e2e_s": e2e_s, "tokens_per_s": at_once * request.output_len / e2e_s}
    if per_token := kv_cache_bytes_per_token(workload):
        figures["max_kv_tokens"] = (CACHE_SHARE * gpu.mem_bytes - weights) / per_token
    return figures


def _peak(gpu: Gpu, dtype: str) -> float:
    """Of the unit that runs a number format, the best that the GPU has."""
    return next(gpu.peak(unit) for unit in (*dtype_facts(dtype).compute, "fp16", "fp32") if unit in gpu.peak_flop_per_s)
