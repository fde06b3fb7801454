"""guidellm: benchmarks.json and benchmarks.yaml, of one load each.

figures  of the successful requests: mean of time_to_first_token_ms, inter_token_latency_ms (TPOT) and request_latency
         (seconds), p99 of the first two, output_tokens_per_second
load     the strategy: synchronous and concurrent are clients, poisson and constant a rate, where it was kept up with;
         else, and of throughput, the requests in flight in the mean
lengths  mean and longest of prompt_token_count and output_token_count
engine   --set engine=, as the client knows a protocol alone; GPU: --set gpu=
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import pandas as pd

from predictor.measurements.ingest.content import Content
from predictor.measurements.ingest.figures import HELD_RATE, found_in, number, seconds, spread_of
from predictor.measurements.ingest.given import Given
from predictor.measurements.readers import Unread

NAME = "guidellm"
LENGTHS = {"input_len": "prompt_token_count", "output_len": "output_token_count"}
TIMES = {
    "measured_ttft_s": ("time_to_first_token_ms", "mean", "ms"),
    "measured_ttft_p99_s": ("time_to_first_token_ms", "p99", "ms"),
    "measured_tpot_s": ("inter_token_latency_ms", "mean", "ms"),
    "measured_tpot_p99_s": ("inter_token_latency_ms", "p99", "ms"),
    "measured_e2e_s": ("request_latency", "mean", "s"),
}


def claims(content: Content) -> bool:
    """Whether a file is a report of benchmarks with metrics."""
    return content.has("benchmarks") and isinstance(content.documents[0]["benchmarks"], list)


def read(content: Content, given: Given, unread: Unread) -> pd.DataFrame:
    """Rows of runs."""
    rows = [
        row for report in content.documents for one in report["benchmarks"] for row in _row(one, report, given, unread)
    ]
    return pd.DataFrame(rows)


def _row(one: Any, report: Mapping[str, Any], given: Given, unread: Unread) -> Iterator[dict[str, Any]]:
    metrics = one.get("metrics") if isinstance(one, Mapping) else None
    means = {name: _figure(metrics, metric, "mean") or 0.0 for name, metric in LENGTHS.items()}
    if not metrics or not all(means.values()):
        unread.rows["a benchmark without tokens of successful requests"] += 1
        return
    load = _load(one, metrics, given, unread)
    if not load:
        unread.rows["a strategy that a request cannot say"] += 1
        return
    longest = {name: _figure(metrics, metric, "max") or 0.0 for name, metric in LENGTHS.items()}
    named = (*found_in(one, "backend_model"), *found_in(report.get("args"), "model"), *found_in(one, "model"))
    yield {
        "model": next((name for name in named if isinstance(name, str)), ""),
        "source": NAME,
        **load,
        **spread_of(means, longest, unread),
        **{name: seconds(_figure(metrics, metric, part), unit) for name, (metric, part, unit) in TIMES.items()},
        "measured_tokens_per_s": _figure(metrics, "output_tokens_per_second", "mean"),
    }


def _load(one: Mapping[str, Any], metrics: Mapping[str, Any], given: Given, unread: Unread) -> dict[str, Any]:
    """The columns that state the load that ran, {} where none can."""
    if not {"batch", "concurrency", "request_rate"}.isdisjoint(given.columns):
        return {"scheduling": "continuous"}
    strategies = found_in(one, "strategy")
    strategy: Mapping[str, Any] = next((found for found in strategies if isinstance(found, Mapping)), {})
    kind, rate = str(strategy.get("type_", "")), number(strategy.get("rate"))
    in_flight = _figure(metrics, "request_concurrency", "mean") or 0.0
    clients = number(strategy.get("streams") or strategy.get("max_concurrency")) or in_flight
    if kind == "synchronous":
        return {"scheduling": "continuous", "concurrency": 1}
    if kind in ("poisson", "constant") and rate:
        if (_figure(metrics, "requests_per_second", "mean") or 0.0) >= HELD_RATE * rate:
            if kind == "constant":
                unread.remarks["requests at a constant pace are taken as arrivals at random"] += 1
            return {"scheduling": "continuous", "request_rate": rate}
        unread.remarks["a rate that was not kept up with; concurrency is the requests in flight in the mean"] += 1
        clients = in_flight
    elif kind == "throughput":
        clients = in_flight
    elif kind != "concurrent":
        return {}
    return {"scheduling": "continuous", "concurrency": round(clients)} if clients >= 1 else {}


def _figure(metrics: Any, metric: str, part: str) -> float | None:
    """A statistic of the successful requests."""
    told = (metrics or {}).get(metric)
    told = told.get("successful", told) if isinstance(told, Mapping) else None
    if not isinstance(told, Mapping):
        return None
    return number((told.get("percentiles") or {}).get(part)) if part.startswith("p") else number(told.get(part))
