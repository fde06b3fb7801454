"""Nsight Systems: CSV of `nsys stats --format csv`.

nvtx_gpu_proj_trace  ranges "aten::mm, op_id = 7, sizes = [[…], …]" of a run under
                     torch.autograd.profiler.emit_nvtx(record_shapes=True), with the time from the start of their
                     first kernel to the end of their last: calls, of the innermost range with a rule. Ranges tell no
                     number format (--set dtype=) and no values: convolutions, softmax and, without --set causal=,
                     attention are not read.
cuda_gpu_trace       copies within the GPU have their bytes; kernels have no shapes and cannot become rows
cuda_gpu_kern_sum    neither
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd

from predictor.errors import InvalidTable, PredictorError
from predictor.measurements.ingest.aten import OURS, Recorded, has_rule, row_of
from predictor.measurements.ingest.content import Content
from predictor.measurements.ingest.given import UNITS, Given
from predictor.measurements.readers import Unread

NAME = "nsight"
RANGES, TRACE, SUMS = (
    ("Name", "Projected Duration"),
    ("CorrId", "SrcMemKd", "Name"),
    ("Instances", "Total Time", "Name"),
)
RANGE = re.compile(r"^:?(?P<name>\w+::\w+)\b.*?sizes = (?P<sizes>\[.*?\])(?:, input_op_ids|$)")
COPY, COPY_COLS, SMALLEST_COPY_MB = "Device-to-Device", 4096, 0.1  # bytes are told to 0.001 MB
FAMILIES = (
    ("gemm", r"gemm|cutlass|xmma|nvjet|wgmma|matmul|cublas"),
    ("attention", r"flash|fmha|attention|paged"),
    ("collective", r"nccl|allreduce|all_reduce"),
    ("conv", r"conv|implicit"),
    ("norm, softmax", r"norm|softmax"),
)
CURE = "record NVTX ranges with torch.autograd.profiler.emit_nvtx(record_shapes=True) and export nvtx_gpu_proj_trace"


def claims(content: Content) -> bool:
    """Whether a file is one of the three reports."""
    return any(content.header(*names) >= 0 for names in (RANGES, TRACE, SUMS))


def read(content: Content, given: Given, unread: Unread) -> pd.DataFrame:
    """Rows of operator calls."""
    if (start := content.header(*RANGES)) >= 0:
        return _ranges(content.table(start), given, unread)
    if (start := content.header(*TRACE)) >= 0:
        return _copies(content.table(start), unread)
    _count_kernels(content.table(content.header(*SUMS)), unread)
    return pd.DataFrame()


def _ranges(table: pd.DataFrame, given: Given, unread: Unread) -> pd.DataFrame:
    if "dtype" not in given.columns:
        raise InvalidTable("NVTX ranges tell no number format; add --set dtype=bf16, or that of the run.")
    if (kind := OURS.get(given.columns["dtype"])) is None:
        raise InvalidTable(f'dtype is "{given.columns["dtype"]}"; ranges of PyTorch have one of {", ".join(OURS)}.')
    flags = {"is_causal": given.columns["causal"] not in ("0", "0.0")} if "causal" in given.columns else {}
    times = _seconds(table, "Projected Duration")
    ids = table.get("RangeId", pd.Series(range(len(table)), index=table.index)).astype(str)
    parents = dict(zip(ids, table.get("ParentId", pd.Series("", index=table.index)).astype(str), strict=True))
    matches = [RANGE.match(str(name)) for name in table["Name"]]
    ruled = {own for own, match in zip(ids, matches, strict=True) if match and has_rule(match["name"])}
    outer = {around for own in ruled for around in _around(own, parents)}
    rows = []
    for name, own, match, latency_s in zip(table["Name"], ids, matches, times, strict=True):
        if own in ruled and own in outer:
            continue  # a range inside it stands for it
        if own not in ruled or match is None:
            label = (
                match["name"] if match else re.split(r", (?:op_id|seq|sizes)", str(name).lstrip(":"))[0] or "(no name)"
            )
            inside = bool(ruled & set(_around(own, parents)))
            if not inside and own not in {around for other in ruled for around in _around(other, parents)}:
                unread.rows[f"range {label}: no operator with shapes"] += 1
            continue
        try:
            sizes = ast.literal_eval(match["sizes"])
            shape = row_of(Recorded(match["name"], sizes, [kind if other else "" for other in sizes]), flags)
        except (PredictorError, ValueError, SyntaxError) as error:
            unread.rows[str(error) if isinstance(error, PredictorError) else f"{match['name']}: sizes are cut"] += 1
            continue
        if shape is None or not latency_s > 0:
            unread.rows[f"range {match['name']}: no time on the GPU"] += 1
            continue
        rows.append({**shape, "engine": "torch", "timing": "device", "source": NAME, "latency_s": latency_s})
    frame = pd.DataFrame(rows)
    if frame.empty:
        return frame
    keys = [column for column in frame.columns if column != "latency_s"]
    return frame.groupby(keys, dropna=False, sort=False)["latency_s"].median().reset_index()


def _around(own: str, parents: dict[str, str]) -> Iterator[str]:
    """The ranges that a range lies in, from the inside out."""
    seen = {own}
    while (own := parents.get(own, "")) and own not in seen:
        seen.add(own)
        yield own


def _copies(table: pd.DataFrame, unread: Unread) -> pd.DataFrame:
    """Copies within one GPU, as a pass that reads and writes their bytes; what else there is, is counted."""
    megabytes = pd.to_numeric(_column(table, "Bytes"), errors="coerce")
    copied = table["Name"].str.contains(COPY, regex=False)
    _count_kernels(table[~copied], unread)
    large = unread.keep(table[copied], megabytes[copied] >= SMALLEST_COPY_MB, "a copy too small to tell its bytes")
    cells = np.maximum(np.round(megabytes[large.index] * 1e6 / 2 / COPY_COLS), 1)
    return pd.DataFrame(
        {
            "family": "pointwise",
            "kind": "copy",
            "rows": cells,
            "cols": COPY_COLS,
            "dtype": "bf16",
            "gpu": large["Device"].str.replace(r"\s*\(\d+\)$", "", regex=True),
            "engine": "cuda",
            "timing": "device",
            "source": NAME,
            "latency_s": _seconds(large, "Duration"),
        }
    ).reset_index(drop=True)


def _count_kernels(table: pd.DataFrame, unread: Unread) -> None:
    instances = table["Instances"].astype(int) if "Instances" in table else pd.Series(1, index=table.index)
    for name, count in zip(table["Name"], instances, strict=True):
        if name.startswith("[CUDA mem"):
            unread.rows[f"{name.strip('[]')}: not within one GPU"] += int(count)
            continue
        family = next((known for known, pattern in FAMILIES if re.search(pattern, name, re.IGNORECASE)), "other")
        unread.rows[f"{family} kernels: the report has no shapes; {CURE}"] += int(count)


def _column(table: pd.DataFrame, start: str) -> Any:
    return table[_header(table, start)]


def _header(table: pd.DataFrame, start: str) -> str:
    """The whole name of a column, such as "Duration (ns)"."""
    if name := next((name for name in table.columns if name.startswith(start)), None):
        return str(name)
    raise InvalidTable(f"the report has no column {start}; export it again.")


def _seconds(table: pd.DataFrame, start: str) -> Any:
    """A column such as "Duration (ns)" in seconds."""
    name = _header(table, start)
    unit = name.rpartition("(")[2].rstrip(")").strip()
    factor = UNITS["seconds"].get("s" if unit == "sec" else unit)
    if factor is None:
        raise InvalidTable(f'column "{name}" is in no known unit of time; export with --timeunit nsec.')
    return pd.to_numeric(table[name], errors="coerce") * factor
