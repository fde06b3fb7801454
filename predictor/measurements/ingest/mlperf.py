"""MLPerf Inference: mlperf_log_summary.txt of LoadGen.

figures  mean latency (E2E), first token latency and time to output token with their 99.00 percentiles, all in ns;
         (completed) tokens per second
load     Server: the samples that were scheduled per second. SingleStream: one client. Offline has all samples at once:
         --set concurrency=N if N ran together
lengths  output_len is tokens over samples; --set input_len=, all alike
model, GPU, engine  --set model=, gpu=, engine=
not read MultiStream; results without tokens
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

import pandas as pd

from predictor.errors import InvalidTable
from predictor.measurements.ingest.content import Content
from predictor.measurements.ingest.figures import number, seconds
from predictor.measurements.ingest.given import Given
from predictor.measurements.readers import Unread

NAME = "mlperf"
TITLE = "MLPerf Results Summary"
LINE = re.compile(r"\s*(.+?)\s*:\s*(.*?)\s*$")
TIMES = {
    "measured_ttft_s": "mean first token latency (ns)",
    "measured_ttft_p99_s": "99.00 percentile first token latency (ns)",
    "measured_tpot_s": "mean time to output token (ns)",
    "measured_tpot_p99_s": "99.00 percentile time to output token (ns)",
    "measured_e2e_s": "mean latency (ns)",
}


def claims(content: Content) -> bool:
    """Whether a file is a summary of LoadGen."""
    return content.kind == "csv" and TITLE in content.text[:2000]


def read(content: Content, given: Given, unread: Unread) -> pd.DataFrame:
    """The row of the run."""
    if "input_len" not in given.columns:
        raise InvalidTable(f"{content.path} does not tell the length of prompts; add --set input_len=….")
    lines = [LINE.match(line) for line in content.text.splitlines()]
    told = {" ".join(found[1].casefold().split()): found[2] for found in reversed(lines) if found}
    return pd.DataFrame(list(_row(told, given, unread)))


def _row(told: Mapping[str, str], given: Given, unread: Unread) -> Iterator[dict[str, Any]]:
    samples, tokens = _first(told, "samples per second"), _first(told, "tokens per second")
    scenario = told.get("scenario", "").replace(" ", "").casefold()
    load: dict[str, Any] = {}
    if {"batch", "concurrency", "request_rate"}.isdisjoint(given.columns):
        if scenario == "server":
            load = {"request_rate": number(told.get("scheduled samples per second")) or samples}
        elif scenario == "singlestream":
            load = {"concurrency": 1}
        else:
            unread.rows[f"{told.get('scenario', 'no scenario')}: all samples at once; add --set concurrency=N"] += 1
            return
    if not tokens or not samples:
        unread.rows["no tokens per second: a model that generates none, or a LoadGen of before tokens"] += 1
        return
    if told.get("result is", "VALID").upper() != "VALID":
        unread.remarks["a run that LoadGen calls INVALID"] += 1
    unread.remarks["lengths are told by their mean alone; all are taken with it"] += 1
    offline = scenario == "offline"  # latencies are from the start of the run
    yield {
        "source": NAME,
        "scheduling": "continuous",
        **load,
        "output_len": max(round(tokens / samples), 1),
        "length_spread": 0.0,
        **{name: seconds(told.get(line), "ns") for name, line in TIMES.items() if not offline},
        "measured_tokens_per_s": tokens,
    }


def _first(told: Mapping[str, str], figure: str) -> float | None:
    """A rate as its release of LoadGen calls it."""
    names = (f"completed {figure}", figure, f"{figure} (inferred)")
    return next((number(told[name]) for name in names if name in told), None)
