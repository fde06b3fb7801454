"""GenAI-Perf and AIPerf: profile_export_genai_perf.json and profile_export_aiperf.json.

figures  avg of time_to_first_token, inter_token_latency (TPOT), request_latency (E2E), output_token_throughput, p99 of
         the first two, each with its unit; lengths are avg of input_sequence_length and output_sequence_length
load     concurrency or request_rate of input_config
model    of input_config; GPU: of the telemetry, where it was on; engine: GenAI-Perf's backend, else --set engine=
not read profile_export.jsonl, the single requests: give the summary that lies beside it
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import pandas as pd

from predictor.measurements.ingest.content import Content
from predictor.measurements.ingest.figures import engine_name, found_in, load_of, number, seconds
from predictor.measurements.ingest.given import Given
from predictor.measurements.readers import Unread

NAME = "genai-perf"
SUMMARY, RECORD = ("request_throughput", "request_latency"), ("metadata", "metrics")
TIMES = {
    "measured_ttft_s": ("time_to_first_token", "avg"),
    "measured_ttft_p99_s": ("time_to_first_token", "p99"),
    "measured_tpot_s": ("inter_token_latency", "avg"),
    "measured_tpot_p99_s": ("inter_token_latency", "p99"),
    "measured_e2e_s": ("request_latency", "avg"),
}


def claims(content: Content) -> bool:
    """Whether a file is a summary, or the single requests of one."""
    return content.has(*SUMMARY) or content.has(*RECORD)


def read(content: Content, given: Given, unread: Unread) -> pd.DataFrame:
    """Rows of runs."""
    if content.has(*RECORD):
        unread.rows["single requests; give the summary beside them, such as profile_export_aiperf.json"] += len(
            content.documents
        )
        return pd.DataFrame()
    return pd.DataFrame([row for result in content.documents for row in _row(result, given, unread)])


def _row(result: Mapping[str, Any], given: Given, unread: Unread) -> Iterator[dict[str, Any]]:
    config = result.get("input_config") or {}
    lengths = {
        "input_len": _average(result, "input_sequence_length"),
        "output_len": _average(result, "output_sequence_length"),
    }
    load = load_of(
        given,
        next(found_in(config, "request_rate"), None),
        next(found_in(config, "concurrency"), None),
        _average(result, "request_throughput"),
    )
    if isinstance(load, str):
        unread.rows[load] += 1
        return
    if not lengths["output_len"]:
        unread.rows["no output_sequence_length: no tokens were counted"] += 1
        return
    yield {
        "model": _model(config),
        "gpu": next(found_in(result.get("telemetry_data"), "gpu_name"), ""),
        "engine": engine_name(next(found_in(config, "backend"), "")),
        "source": NAME,
        **load,
        **{name: max(round(value), 1) for name, value in lengths.items() if value},
        **{name: _time(result, *metric) for name, metric in TIMES.items()},
        "measured_tokens_per_s": _average(result, "output_token_throughput"),
    }


def _average(result: Mapping[str, Any], metric: str) -> float | None:
    told = result.get(metric)
    return number(told.get("avg")) if isinstance(told, Mapping) else None


def _time(result: Mapping[str, Any], metric: str, statistic: str) -> float | None:
    told = result.get(metric)
    return seconds(told.get(statistic), str(told.get("unit", ""))) if isinstance(told, Mapping) else None


def _model(config: Mapping[str, Any]) -> str:
    """The one model of a run; of several none."""
    for name in ("model_names", "model", "models"):
        for told in found_in(config, name):
            named = told.get("items", told) if isinstance(told, Mapping) else told
            listed = named if isinstance(named, list) else [named]
            names = [entry.get("name", "") if isinstance(entry, Mapping) else str(entry) for entry in listed]
            if len(set(names)) == 1:
                return str(names[0])
    return ""
