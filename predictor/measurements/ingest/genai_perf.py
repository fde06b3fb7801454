"""GenAI-Perf and AIPerf: profile_export_genai_perf.json and profile_export_aiperf.json, and the .csv of both.

figures  avg of time_to_first_token, inter_token_latency (TPOT), request_latency (E2E), output_token_throughput, p99 of
         the first two, each with its unit; lengths are avg of input_sequence_length and output_sequence_length
load     concurrency or request_rate of input_config; a .csv tells none: --set concurrency=N, and model=
model    of input_config; GPU: of the telemetry, where it was on; engine: GenAI-Perf's backend, else --set engine=
not read profile_export.jsonl, the single requests: give the summary that lies beside it
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator, Mapping
from typing import Any

import pandas as pd

from predictor.measurements.ingest.content import Content
from predictor.measurements.ingest.figures import Asked, Ran, engine_name, found_in, load_of, number, seconds, spread_of
from predictor.measurements.ingest.given import Given
from predictor.measurements.readers import Unread

NAME = "genai-perf"
SUMMARY, RECORD = ("request_throughput", "request_latency"), ("metadata", "metrics")
LENGTHS = {"input_len": "input_sequence_length", "output_len": "output_sequence_length"}
LOADS_GIVEN = {"batch", "concurrency", "request_rate"}
METRIC = re.compile(r"(.+?) \(([^()]*)\)")  # "Time To First Token (ms)"
TIMES = {
    "measured_ttft_s": ("time_to_first_token", "avg"),
    "measured_ttft_p99_s": ("time_to_first_token", "p99"),
    "measured_tpot_s": ("inter_token_latency", "avg"),
    "measured_tpot_p99_s": ("inter_token_latency", "p99"),
    "measured_e2e_s": ("request_latency", "avg"),
}


def claims(content: Content) -> bool:
    """Whether a file is a summary, or the single requests of one."""
    return content.has(*SUMMARY) or content.has(*RECORD) or content.header("Metric", "avg") >= 0


def read(content: Content, given: Given, unread: Unread) -> pd.DataFrame:
    """Rows of runs."""
    if content.has(*RECORD):
        unread.rows["single requests; give the summary beside them, such as profile_export_aiperf.json"] += len(
            content.documents
        )
        return pd.DataFrame()
    results = (_of_csv(content.text),) if content.kind == "csv" else content.documents
    return pd.DataFrame([row for result in results for row in _row(result, given, unread)])


def _row(result: Mapping[str, Any], given: Given, unread: Unread) -> Iterator[dict[str, Any]]:
    config = result.get("input_config") or {}
    means = {name: _average(result, metric) or 0.0 for name, metric in LENGTHS.items()}
    longest = {name: _statistic(result, metric, "max") or 0.0 for name, metric in LENGTHS.items()}
    rate, limit = next(found_in(config, "request_rate"), None), next(found_in(config, "concurrency"), None)
    ran = Ran(_average(result, "request_throughput"), _time(result, "request_latency", "avg"))
    if not config and not LOADS_GIVEN & set(given.columns):
        unread.rows["a .csv, which does not tell the load; add --set concurrency=N, or give the .json beside it"] += 1
        return
    load = load_of(given, Asked(rate, limit, _average(result, "request_count")), ran, unread)
    if isinstance(load, str):
        unread.rows[load] += 1
        return
    if not means["output_len"]:
        unread.rows["no output_sequence_length: no tokens were counted"] += 1
        return
    yield {
        "model": _model(config),
        "gpu": next(found_in(result.get("telemetry_data"), "gpu_name"), ""),
        "engine": engine_name(next(found_in(config, "backend"), "")),
        "source": NAME,
        **load,
        **spread_of({name: mean for name, mean in means.items() if mean}, longest, unread),
        **{name: _time(result, *metric) for name, metric in TIMES.items()},
        "measured_tokens_per_s": _average(result, "output_token_throughput"),
    }


def _of_csv(text: str) -> dict[str, Any]:
    """The metrics of a .csv, as in the .json: blocks whose first line is "Metric,avg,…" or "Metric,Value"."""
    result: dict[str, Any] = {}
    names: list[str] = []
    for cells in csv.reader(text.splitlines()):
        if cells[:1] == ["Metric"]:
            names = ["avg" if name == "Value" else name for name in cells[1:]]
        elif names and len(cells) > 1 and (told := METRIC.fullmatch(cells[0].strip())):
            figures = [cell.replace(",", "") for cell in cells[1:]]
            metric = "_".join(told[1].casefold().split())
            result[metric] = dict(zip(names, figures, strict=False)) | {"unit": told[2]}
    return result


def _average(result: Mapping[str, Any], metric: str) -> float | None:
    return _statistic(result, metric, "avg")


def _statistic(result: Mapping[str, Any], metric: str, statistic: str) -> float | None:
    told = result.get(metric)
    return number(told.get(statistic)) if isinstance(told, Mapping) else None


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
