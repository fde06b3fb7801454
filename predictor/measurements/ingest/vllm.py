"""vLLM's benchmarks: JSON of `vllm bench serve --save-result` (also --append-result) and `vllm bench latency`.

serve    means and 99th percentiles over requests; lengths are those of the single requests (--save-detailed), else
         total tokens over completed requests, all alike, which is said. The load is what ran, not the limit. engine by
         "backend"; its default "openai" names a protocol, so that --set engine= is needed. Columns of runs that are
         given as --metadata tp=4 gpu=H100 are read; lengths among them where they agree with the tokens counted.
latency  E2E of a static batch; the file tells neither model nor sizes: --set model=, batch=, input_len=, output_len=
throughput  of `vllm bench throughput`: with --set model=, input_len=, output_len= and concurrency=
not read throughput without these, runs with speculative decoding unless --set draft_tokens= and acceptance=
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import pandas as pd

from predictor.errors import InvalidTable
from predictor.measurements.ingest.content import Content
from predictor.measurements.ingest.figures import Asked, Ran, engine_name, lengths_of, load_of, mean_of, number, seconds
from predictor.measurements.ingest.given import Given
from predictor.measurements.readers import Unread
from predictor.measurements.runs import ASKED
from predictor.workloads.request import LOADS

NAME = "vllm"
SERVE, LATENCY, THROUGHPUT = ("model_id", "completed"), ("avg_latency", "latencies"), ("elapsed_time", "num_requests")
OFFLINE = {"model", "input_len", "output_len", "concurrency"}
LENGTHS = ("input_len", "output_len", "length_spread")
METADATA = tuple(name for name in (*ASKED, "engine_version") if name not in (*LENGTHS, *LOADS, "batch", "scheduling"))
RENAMED = {  # of the scripts before vLLM 0.4
    "total_input": "total_input_tokens",
    "total_output": "total_output_tokens",
    "request_inthroughput": "request_throughput",
}
TOLD_BY_USER = ("model", "batch", "input_len", "output_len")


def claims(content: Content) -> bool:
    """Whether a file is one of the three results."""
    return any(content.has(*keys) for keys in (SERVE, LATENCY, THROUGHPUT))


def read(content: Content, given: Given, unread: Unread) -> pd.DataFrame:
    """Rows of runs."""
    return pd.DataFrame([row for result in content.documents for row in _row(result, content, given, unread)])


def _row(result: Any, content: Content, given: Given, unread: Unread) -> Iterator[dict[str, Any]]:
    if isinstance(result, dict) and set(THROUGHPUT) <= set(result) and set(given.columns) >= OFFLINE:
        per_s = (number(result["num_requests"]) or 0.0) / (number(result["elapsed_time"]) or 1.0)
        tokens_per_s = per_s * (number(given.columns["output_len"]) or 0.0)
        yield {"engine": "vllm", "scheduling": "continuous", "source": NAME, "measured_tokens_per_s": tokens_per_s}
    elif not isinstance(result, dict) or not any(set(keys) <= set(result) for keys in (SERVE, LATENCY)):
        unread.rows[
            "offline throughput; add --set model=…, input_len=…, output_len=… and concurrency=N, or no result"
        ] += 1
    elif set(SERVE) <= set(result):
        told = {name: result[name] for name in METADATA if name in result}
        about = {"model": result["model_id"], "tp": _tp(result), "source": NAME, **told}
        yield from served(result, given, unread, about, {name: result.get(name) for name in LENGTHS})
    else:
        if absent := [name for name in TOLD_BY_USER if name not in given.columns]:
            options = " ".join(f"--set {name}=…" for name in absent)
            raise InvalidTable(f"{content.path} tells the latency only; add {options}.")
        yield {
            "engine": "vllm",
            "scheduling": "static",
            "source": NAME,
            "measured_e2e_s": number(result["avg_latency"]),
        }


def served(
    result: Mapping[str, Any], given: Given, unread: Unread, about: Mapping[str, Any], asked: Mapping[str, Any]
) -> Iterator[dict[str, Any]]:
    """The run of a serving benchmark, whose fields SGLang's has too. asked: the lengths that were asked for."""
    result = {RENAMED.get(name, name): value for name, value in result.items()}
    lengths = lengths_of(result, asked, Unread())
    asked_load = Asked(*(result.get(name) for name in ("request_rate", "max_concurrency", "num_prompts")))
    ran = Ran(result.get("request_throughput"), _mean_e2e_s(result, lengths))
    load = load_of(given, asked_load, ran, unread)
    accepted = number(result.get("accept_length") or result.get("spec_decode_acceptance_length"))
    if isinstance(load, str):
        unread.rows[load] += 1
    elif result.get("ramp_up_strategy"):
        unread.rows["a request rate that ramps up, which a request cannot say"] += 1
    elif not lengths or not number(result.get("total_output_tokens")):
        unread.rows["no request was answered with tokens"] += 1
    elif accepted and accepted > 1 and "draft_tokens" not in given.columns:
        unread.rows["speculative decoding; add --set draft_tokens=N --set acceptance=SHARE"] += 1
    else:
        yield {
            "engine": engine_name(result.get("backend") or result.get("endpoint_type")),
            **about,
            **load,
            **lengths_of(result, asked, unread),
            "measured_ttft_s": mean_of(result, "ttft"),
            "measured_ttft_p99_s": seconds(result.get("p99_ttft_ms"), "ms"),
            "measured_tpot_s": mean_of(result, "tpot"),
            "measured_tpot_p99_s": seconds(result.get("p99_tpot_ms"), "ms"),
            "measured_e2e_s": mean_of(result, "e2el", "e2e_latency"),
            "measured_tokens_per_s": number(result.get("output_throughput")),
        }


def _mean_e2e_s(result: Mapping[str, Any], lengths: Mapping[str, Any]) -> float | None:
    """Seconds of a request in the mean: as told, else from its parts."""
    if told := mean_of(result, "e2el", "e2e_latency"):
        return told
    ttft_s, tpot_s = mean_of(result, "ttft"), mean_of(result, "tpot")
    output_len = lengths.get("output_len", 1) * (1 - lengths.get("length_spread", 0.0) / 2)
    return ttft_s + (output_len - 1) * tpot_s if ttft_s and tpot_s else None


def _tp(result: Mapping[str, Any]) -> float | None:
    return number(result.get("tp") or result.get("tensor_parallel_size"))
