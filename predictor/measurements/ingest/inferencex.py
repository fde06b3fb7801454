"""InferenceX (InferenceMAX): the agg_*.json that its process_result.py writes of a run, or a list of them.

figures  mean and p99 of ttft and tpot, mean of e2el, in seconds; output_tput_per_gpu times the GPUs
load     conc clients
lengths  isl and osl are the longest; lengths lie evenly in the 20 % below (random-range-ratio 0.8 of its clients).
         Files of before these were written: --set input_len=, output_len=
GPU      hw, without what names the runner ("h200-nv"); model, tp, ep, framework and precision as they are told
not read several nodes, disaggregated workers, speculative decoding
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import pandas as pd

from predictor.errors import PredictorError, UnknownGpu
from predictor.hardware.gpu import get_gpu
from predictor.measurements.ingest.content import Content
from predictor.measurements.ingest.figures import engine_name, number
from predictor.measurements.ingest.given import Given
from predictor.measurements.readers import Unread
from predictor.workloads.models import get_model
from predictor.workloads.request import SPREAD

NAME = "inferencex"
KEYS = ("hw", "conc", "framework", "tput_per_gpu")
LONGEST = {"input_len": "isl", "output_len": "osl"}
FP4 = {"AMD": "mxfp4", "NVIDIA": "nvfp4"}
NONE = ("", "none", "false", "off", "null")


def claims(content: Content) -> bool:
    """Whether a file is a processed result."""
    return content.has(*KEYS)


def read(content: Content, given: Given, unread: Unread) -> pd.DataFrame:
    """Rows of runs."""
    return pd.DataFrame([row for result in content.documents for row in _row(result, given, unread)])


def _row(result: Any, given: Given, unread: Unread) -> Iterator[dict[str, Any]]:
    if not isinstance(result, Mapping) or not set(KEYS) <= set(result):
        unread.rows["no result of InferenceX"] += 1
    elif any(_said(result.get(name)) for name in ("is_multinode", "disagg")):
        unread.rows["several nodes or disaggregated workers, which a run cannot say"] += 1
    elif _said(result.get("spec_decoding", result.get("mtp"))) and "draft_tokens" not in given.columns:
        unread.rows["speculative decoding; add --set draft_tokens=N --set acceptance=SHARE"] += 1
    else:
        n_gpus = int(number(result.get("tp")) or 1)
        groups = n_gpus if _said(result.get("dp_attention")) else 1
        gpu = _gpu(str(result["hw"]))
        spread = {"length_spread": SPREAD} if all(number(result.get(told)) for told in LONGEST.values()) else {}
        yield {
            "model": result.get("model") or "",
            "gpu": gpu,
            "engine": engine_name(str(result["framework"]).replace("trt", "trtllm").replace("trtllmllm", "trtllm")),
            "dtype": _dtype(str(result.get("precision") or ""), str(result.get("model") or ""), gpu),
            "scheduling": "continuous",
            "concurrency": number(result["conc"]),
            "tp": n_gpus // groups,
            "attention_dp": groups,
            "ep": int(number(result.get("ep")) or 1),
            "source": NAME,
            **{name: number(result.get(told)) for name, told in LONGEST.items() if result.get(told)},
            **spread,
            "measured_ttft_s": number(result.get("mean_ttft")),
            "measured_ttft_p99_s": number(result.get("p99_ttft")),
            "measured_tpot_s": number(result.get("mean_tpot")),
            "measured_tpot_p99_s": number(result.get("p99_tpot")),
            "measured_e2e_s": number(result.get("mean_e2el")),
            "measured_tokens_per_s": (number(result.get("output_tput_per_gpu")) or 0.0) * n_gpus or None,
        }


def _said(flag: Any) -> bool:
    return str("" if flag is None else flag).casefold() not in NONE


def _gpu(runner: str) -> str:
    """The GPU of a runner such as "h200-nv_1"."""
    for name in (runner, runner.partition("-")[0], runner.partition("_")[0]):
        try:
            return get_gpu(name).name
        except UnknownGpu:
            continue
    return runner


def _dtype(precision: str, model: str, gpu: str) -> str:
    """Our name of a precision; "" where the published model has it."""
    try:
        known = get_model(model)
        published = getattr(known, "linear_dtype", "") or getattr(known, "expert_dtype", "")
        maker = get_gpu(gpu).vendor
    except PredictorError:
        return precision
    if published and precision[-1:] in published:
        return ""
    return FP4.get(maker, precision) if precision == "fp4" else precision
