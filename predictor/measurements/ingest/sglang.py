"""SGLang's benchmarks: JSON lines of bench_serving, bench_one_batch and bench_one_batch_server.

bench_serving            means and 99th percentiles over requests; lengths as asked for where they agree with the tokens
                         counted; model, tp, dp, ep, version and formats from "server_info", where it is
bench_one_batch          a static batch: prefill_latency is TTFT, median_decode_latency TPOT, total_latency E2E
bench_one_batch_server   a static batch: latency is E2E, last_ttft TTFT; both with the server in between
model, GPU               --set model=, gpu= where the file does not tell them
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import pandas as pd

from predictor.measurements.ingest.content import Content
from predictor.measurements.ingest.figures import number, seconds
from predictor.measurements.ingest.given import Given
from predictor.measurements.ingest.vllm import served
from predictor.measurements.readers import Unread

NAME = "sglang"
SERVE, BATCH = (
    ("dataset_name", "completed", "total_output_tokens"),
    ("run_name", "batch_size", "input_len", "output_len"),
)


def claims(content: Content) -> bool:
    """Whether a file is one of the three results."""
    return content.has(*SERVE) or content.has(*BATCH)


def read(content: Content, given: Given, unread: Unread) -> pd.DataFrame:
    """Rows of runs."""
    return pd.DataFrame([row for result in content.documents for row in _row(result, given, unread)])


def _row(result: Any, given: Given, unread: Unread) -> Iterator[dict[str, Any]]:
    if isinstance(result, dict) and set(SERVE) <= set(result):
        yield from served(result, given, unread, {"source": NAME} | _server(result.get("server_info")), _asked(result))
    elif isinstance(result, dict) and set(BATCH) <= set(result):
        yield {
            "engine": "sglang",
            "scheduling": "static",
            "source": NAME,
            "batch": result["batch_size"],
            "input_len": result["input_len"],
            "output_len": result["output_len"],
            "measured_ttft_s": seconds(result.get("prefill_latency", result.get("last_ttft")), "s"),
            "measured_tpot_s": seconds(result.get("median_decode_latency"), "s"),
            "measured_e2e_s": seconds(result.get("total_latency", result.get("latency")), "s"),
        }
    else:
        unread.rows["a line that is no result of SGLang's benchmarks"] += 1


def _asked(result: Mapping[str, Any]) -> dict[str, Any]:
    """Lengths of random prompts, evenly between a share of the longest and it."""
    if not str(result.get("dataset_name")).startswith("random"):
        return {}
    ratio = number(result.get("random_range_ratio"))
    return {
        "input_len": result.get("random_input_len"),
        "output_len": result.get("random_output_len"),
        "length_spread": None if ratio is None else 1 - ratio,
    }


def _server(info: Any) -> dict[str, Any]:
    """What the server tells of itself; attention is data-parallel within its tp GPUs under enable_dp_attention."""
    if not isinstance(info, Mapping):
        return {}
    tp, dp = (int(number(info.get(name)) or 1) for name in ("tp_size", "dp_size"))
    groups = dp if info.get("enable_dp_attention") else 1
    return {
        "model": info.get("model_path") or "",
        "tp": tp // groups or 1,
        "attention_dp": groups,
        "dp": 1 if groups > 1 else dp,
        "pp": int(number(info.get("pp_size")) or 1),
        "ep": int(number(info.get("ep_size")) or 1),
        "dtype": info.get("quantization") or "",
        "engine_version": str(info.get("version") or ""),
    }
