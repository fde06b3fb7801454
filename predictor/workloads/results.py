"""The columns that every answer to a request has."""

from __future__ import annotations

ENDS = ("", "_low", "_high")  # of a value and of the interval around it
RUN_COLUMNS = tuple(f"train_{name}{end}" for name in ("hours", "usd", "kwh") for end in ENDS)
# What every answer has, in this order; cells that do not apply are empty: those of the other phase, percentiles and
# requests per second of what is no continuous serving. Names are those of `predictor predict --json`.
RESULTS = (
    *(f"{name}{end}" for name in ("ttft_s", "tpot_s", "e2e_s", "step_s") for end in ENDS),
    *(f"{name}_{share}_s{end}" for name in ("ttft", "tpot") for share in ("p50", "p99") for end in ENDS),
    *(f"tokens_per_s{end}" for end in ENDS),
    *(f"tokens_per_s_per_gpu{end}" for end in ENDS),
    *(f"requests_per_s{end}" for end in ENDS),
    *(f"sustainable_rate{end}" for end in ENDS),
    "saturated",
    *(f"host_s{end}" for end in ENDS),
    "mfu",
    "memory_bytes",
    "memory_bytes_low",
    "memory_bytes_high",
    "p_oom",
    "fits",
    "host_memory_bytes",
    *(f"max_kv_tokens{end}" for end in ENDS),
    *(f"max_concurrent_requests{end}" for end in ENDS),
    "usd_per_mtok",
    "price_source",
    *RUN_COLUMNS,
    "n_gpus",
    "limiter",
    "basis",
    "nearest_gpu",
    "bundle",
    "notes",
    "error",
)
TEXTS = frozenset({"price_source", "limiter", "basis", "nearest_gpu", "bundle", "notes", "error"})
FLAGS = frozenset({"fits", "saturated"})
BETWEEN_NOTES = " | "  # notes are sentences, and commas and semicolons occur in them
BOTH = "n_gpus"  # a column of a request and a result: a table's own keeps its place, and its empty cells are filled
