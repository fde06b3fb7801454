"""The table of whole runs: what was asked of an engine, in the columns of a request, and what was measured.

COLUMNS documents each column. `check` says which runs obey physics, with the verdicts of predictor.measurements.checks.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.dataset as ds

from predictor.errors import InvalidTable, PredictorError
from predictor.files import is_regular
from predictor.hardware.gpu import Gpu, get_gpu
from predictor.hardware.roofline import roofline
from predictor.measurements.checks import ACCEPTED, BOUND_SLACK, FLAGGED, REJECTED, UNIT_RATIO, judged, repeats
from predictor.measurements.schema import TEXT, numbers, read_frame
from predictor.memory.sizes import weights_bytes
from predictor.table_files import check_csv, csv_head
from predictor.workloads.engine_tables import LOCAL
from predictor.workloads.models import get_model
from predictor.workloads.passes.calls import OpCall
from predictor.workloads.request import Request, columns
from predictor.workloads.requested import served_workload, with_engine
from predictor.workloads.workload import phases

ASKED = (
    *("model", "gpu", "n_gpus", "engine", "scheduling", "batch", "concurrency", "request_rate"),
    *("input_len", "output_len", "length_spread"),
    *("dtype", "kv_dtype", "tp", "pp", "dp", "ep", "attention_dp"),
    *("prefix_cache_hit_rate", "draft_tokens", "acceptance"),
    *("num_prompts", "warmup", "offline", "turns", "shared_prefix_len"),
    *("max_num_seqs", "max_num_batched_tokens", "gpu_memory_utilization", "max_model_len", "enforce_eager"),
    *("enable_chunked_prefill", "async_scheduling", "batch_wait_timeout_iters", "api_server_count"),
    *("tokenizer_worker_num", "enable_two_batch_overlap", "ubatch", "link", "node_link"),
)
MEASURED: Mapping[str, tuple[str, str]] = {
    "measured_ttft_s": ("seconds", "time to first token, mean over requests"),
    "measured_ttft_p99_s": ("seconds", "time to first token that 99 in 100 requests keep"),
    "measured_tpot_s": ("seconds", "time per output token after the first, mean over requests"),
    "measured_tpot_p99_s": ("seconds", "time per output token that 99 in 100 requests keep, each its own mean"),
    "measured_e2e_s": ("seconds", "time of a whole request, mean over requests"),
    "measured_tokens_per_s": ("tokens/s", "generated tokens per second, all requests and GPUs together"),
}
ABOUT: Mapping[str, tuple[str, str]] = {
    "engine_version": (TEXT, "as the source states it; asked where an engine is known by it"),
    "source": (TEXT, "which reader made the row"),
}
_REQUEST = {column.name: column for column in columns()}
COLUMNS: Mapping[str, tuple[str, str]] = {
    **{
        name: (
            TEXT if _REQUEST[name].metadata["kind"] in (str, bool) else "number",
            _REQUEST[name].metadata["help"],
        )
        for name in ASKED
    },
    **MEASURED,
    **ABOUT,
}
NUMBER_COLUMNS = tuple(name for name, (unit, _) in COLUMNS.items() if unit != TEXT)
CONTRADICTION = 1.5  # between figures of one run, which are means and medians of different sets of requests
THROUGHPUT_CONTRADICTION = 2.0  # ramps up and down are in a throughput


class Bounds(NamedTuple):
    """The least a run can take, in seconds; weight_bytes and mem_bytes: of one GPU."""

    ttft_s: float
    tpot_s: float
    weight_bytes: float
    mem_bytes: float


def is_runs(names: Iterable[str]) -> bool:
    """Whether columns of these names are those of a table of runs."""
    return any(name in MEASURED for name in names)


def holds_runs(path: Path | str) -> bool:
    """Whether a Parquet or CSV file is a table of runs; False for a file that cannot be read."""
    path = Path(path)
    if not is_regular(path) and not path.is_dir():
        return False
    try:
        if path.suffix.lower() == ".csv":
            check_csv(csv_head(path), path, InvalidTable)
            return is_runs(pd.read_csv(path, nrows=0).columns)
        return is_runs(ds.dataset(path, format="parquet").schema.names)
    except (pa.ArrowException, OSError, ValueError):
        return False


def conform(frame: pd.DataFrame) -> pd.DataFrame:
    """frame with exactly COLUMNS: absent ones empty, text as text, numbers as float64."""
    out: dict[str, Any] = {}
    for name, (unit, _) in COLUMNS.items():
        if unit == TEXT:
            cells = frame[name] if name in frame else pd.Series("", index=frame.index)
            out[name] = cells.astype(object).where(cells.notna(), "").astype(str)
            continue
        out[name] = numbers(frame[name], name, unit) if name in frame else np.nan
    return pd.DataFrame(out, index=frame.index)


def read_runs(path: Path | str) -> pd.DataFrame:
    """Read a table of runs, Parquet or CSV."""
    return conform(read_frame(path, {"dtype": str, "keep_default_na": False}))


def asked_of(row: Mapping[str, Any]) -> dict[str, Any]:
    """The request that a run answers, as a row of a request table, with the engine's version where it is known by that.

    A build of one's own, or a version that is not told apart, is asked as the engine's newest.
    """
    asked = {
        name: row[name] for name in ASKED if name in row and row[name] not in ("", None) and row[name] == row[name]
    }
    if version := row.get("engine_version"):
        stated = asked | {"engine_version": version}
        try:
            request = Request.of(stated)
            model, gpu = get_model(request.model), get_gpu(request.gpu)
            served_workload(with_engine(request, model, gpu)[0], model, gpu)
        except PredictorError:
            return asked
        return stated
    return asked


def request_of(row: Mapping[str, Any]) -> Request:
    """The request that a run answers; raises InvalidRequest."""
    return Request.of(asked_of(row))


def check(frame: pd.DataFrame) -> pd.DataFrame:
    """frame (conformed) with two more columns: status and reason, the reason naming value, rule and cure."""
    rows: list[dict[str, Any]] = frame.to_dict("records")  # type: ignore[assignment]  # names are texts
    verdicts = [_verdict(row) for row in rows]
    status = np.array([verdict for verdict, _ in verdicts], dtype=object)
    reason = np.array([why for _, why in verdicts], dtype=object)
    figures = list(MEASURED)
    kinds = pd.Series([tuple(row) for row in frame[figures].notna().to_numpy()], index=frame.index)
    told = frame.assign(told=kinds)
    for positions, why in repeats("run", told, [*ASKED, "engine_version", "told"], figures, status == ACCEPTED):
        status[positions], reason[positions] = FLAGGED, why
    return judged(frame, status, reason)


def _verdict(row: Mapping[str, Any]) -> tuple[str, str]:
    told = {name: row[name] for name in MEASURED if not np.isnan(row[name])}
    if not told:
        return REJECTED, f"no {', '.join(MEASURED)}; a run needs one of them"
    for name, value in told.items():
        if not 0 < value < np.inf:
            return REJECTED, f"{name} is {value:g}; it must be above 0"
    try:
        request = request_of(row)
        least = bounds(request)
    except PredictorError as error:
        return REJECTED, str(error)
    why = _impossible(told, request, least)
    return (REJECTED, why) if why else _doubtful(told, request, least)


@lru_cache(maxsize=4096)
def bounds(request: Request) -> Bounds:
    """The least time of a run: of a static batch that of its steps; under load, where the scheduler sets the batch,
    that of one sequence alone, whose decode steps read the weights once each. Engines that take prompts in passes are
    taken with one pass, llama.cpp with arithmetic in int8, which it does with quantised weights
    (ggml/src/ggml-cuda/mmq.cuh).
    Raises PredictorError where the request cannot be run at all.
    """
    model, gpu = get_model(request.model), get_gpu(request.gpu)
    engine = with_engine(request, model, gpu)[0].engine
    bounded = replace(request.together(), engine=engine)
    if engine == LOCAL:
        int8 = gpu.peak_flop_per_s.get("int8", 0.0)
        gpu = replace(gpu, peak_flop_per_s={name: max(rate, int8) for name, rate in gpu.peak_flop_per_s.items()})
    if request.scheduling == "continuous":
        fresh = max(round(request.input_len * (1 - request.prefix_cache_hit_rate)), 1)
        bounded = replace(bounded, batch=request.dp * request.attention_dp, input_len=fresh)
    workload, _ = served_workload(bounded, model, gpu)
    if workload.pass_tokens:
        workload = replace(workload, ubatch=workload.batch * workload.input_len)
    prefill, *decodes = (least_step_s(ops, gpu) for _, ops in phases(workload))
    tokens_per_step = 1 + request.draft_tokens
    tpot_s = sum(decodes) / len(decodes) / tokens_per_step if decodes else 0.0
    return Bounds(prefill, tpot_s, weights_bytes(workload), gpu.mem_bytes)


def least_step_s(ops: Sequence[OpCall], gpu: Gpu) -> float:
    """Least time of a step: the sum of its ops' bounds, or that of reading weights and KV cache, of which the
    last-level cache holds its size from the step before.
    """
    alone_s = sum(float(np.sum(roofline(call.op, gpu).latency_s)) * call.count for call in ops)
    read_bytes = sum(float(call.op.stored_bytes()) * call.count for call in ops)
    return max(alone_s, (read_bytes - gpu.llc_bytes) / gpu.mem_bytes_per_s)


def _impossible(told: Mapping[str, float], request: Request, least: Bounds) -> str:
    """What of a run cannot be true, "" if nothing."""
    if least.weight_bytes > least.mem_bytes:
        return (
            f"the weights take {least.weight_bytes / 1e9:.0f} GB a GPU, which has {least.mem_bytes / 1e9:.0f} GB; "
            "check model, dtype and tp"
        )
    whole_s = least.ttft_s + (request.output_len - 1) * least.tpot_s
    bound_s = {"measured_ttft_s": least.ttft_s, "measured_tpot_s": least.tpot_s, "measured_e2e_s": whole_s}
    for name, bound in bound_s.items():
        if told.get(name, np.inf) < BOUND_SLACK * bound:
            cure = "; were prompts cached, set prefix_cache_hit_rate" if name != "measured_tpot_s" else ""
            return f"{name} is faster than the roofline bound of the step; check model, dtype, tp and unit{cure}"
    most = request.sequences * request.output_len / whole_s if whole_s and not request.request_rate else np.inf
    if told.get("measured_tokens_per_s", 0.0) * BOUND_SLACK > most:
        return "measured_tokens_per_s is above what batch and the roofline bound allow; check batch and lengths"
    return ""


def _doubtful(told: Mapping[str, float], request: Request, least: Bounds) -> tuple[str, str]:
    """Whether figures of a run are in another unit or contradict each other."""
    for name, bound in _slow_s(request, least).items():
        if bound and (ratio := told.get(name, 0.0) / bound) > UNIT_RATIO:
            return FLAGGED, f"{name} is {ratio:.0f} times the bound: it looks like milliseconds; give seconds"
    whole_s = told.get("measured_e2e_s")
    if {"measured_ttft_s", "measured_tpot_s"} <= set(told):
        parts_s = told["measured_ttft_s"] + (request.output_len - 1) * told["measured_tpot_s"]
        if whole_s and not 1 / CONTRADICTION < whole_s / parts_s < CONTRADICTION:
            return FLAGGED, "measured_e2e_s contradicts TTFT + (output_len - 1) · TPOT; check output_len and units"
        whole_s = whole_s or parts_s
    rate = told.get("measured_tokens_per_s")
    if rate and request.request_rate and rate > CONTRADICTION * request.request_rate * request.output_len:
        return FLAGGED, "measured_tokens_per_s is above request_rate · output_len; check both"
    if rate and whole_s and not request.request_rate:
        ratio = rate * whole_s / (request.sequences * request.output_len)
        if not 1 / THROUGHPUT_CONTRADICTION < ratio < CONTRADICTION:
            return FLAGGED, "measured_tokens_per_s contradicts batch · output_len / E2E; check batch and lengths"
    return ACCEPTED, ""


def _slow_s(request: Request, least: Bounds) -> dict[str, float]:
    """Bounds of which no run takes UNIT_RATIO times: those of a whole batch. Under load TTFT is mostly waiting."""
    if request.scheduling == "static":
        return {"measured_tpot_s": least.tpot_s, "measured_ttft_s": least.ttft_s}
    if request.request_rate:  # which batch it leads to is not known
        return {}
    return {"measured_tpot_s": bounds(request.together()).tpot_s}
