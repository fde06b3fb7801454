"""Speeds of llama.cpp: Llama 3 on eight cards and Macs, and offline runs on A100, GH200 and MI250.

Sources: XiongjieDai/GPU-Benchmarks-on-LLM-Inference (May 2024), `xiongjiedai/llama_cpp.csv` of the truth folder, and
argonne-lcf/LLM-Inference-Bench (2024), `alcf/all_results.csv`. Of the first, prompts of 512 to 8,192 tokens and the
generation of as many from an empty cache, in tokens per second; several cards share layers. Of the second, the time of
one sequence; its `batch` is llama-bench's -b, the tokens of a pass, and an MI250 is two GPUs.

Every row is a row of a request table. Llama 3 stands as Llama-3.1, of the same shapes, whose context has room for an
output after 8,192 tokens.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from operator import attrgetter
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from predictor.estimators.bundle import Bundle
from predictor.hardware.gpu import get_gpu
from predictor.latency.report import Interval
from predictor.learning.validation.replay import Figure, Replay, Table, half, interval, rate, records, replayed

SPEEDS, OFFLINE = "xiongjiedai/llama_cpp.csv", "alcf/all_results.csv"
ENGINE = "llama.cpp"
# Beginning of a name → ours, and how many of ours it is.
GPUS = {
    "3070": ("RTX-3070", 1),
    "3090": ("RTX-3090", 1),
    "4090": ("RTX-4090", 1),
    "RTX 4000 Ada": ("RTX-4000-Ada", 1),
    "RTX A6000": ("RTX-A6000", 1),
    "A100 PCIe": ("A100-PCIe-80GB", 1),
    "M1 Max": ("Apple-M1-Max", 1),
    "M3 Max": ("Apple-M3-Max", 1),
    "Nvidia A100": ("A100-SXM-40GB", 1),
    "Nvidia GH200": ("GH200-96GB", 1),
    "AMD MI250": ("MI250-GCD", 2),
}
MODELS = {"LLaMA 3 8B": "Llama-3.1-8B", "LLaMA 3 70B": "Llama-3.1-70B"}
DTYPES = {"Q4_K_M": "q4_k_m", "F16": "fp16"}


class Speed(NamedTuple):
    """A published speed. phase: prefill, decode or whole. counted: tokens that the speed counts."""

    table: str
    phase: str
    request: dict[str, Any]
    measured: float
    counted: float

    @property
    def fitted(self) -> bool:
        """Whether it chose a rate of the engine: one half of the configurations, spelled so that of both Macs and of
        both formats some are in each half."""
        return half(*(self.request[name] for name in ("model", "dtype", "gpu", "pp")))


def replay(root: Path, bundle: Bundle) -> Replay:
    """A figure per published speed: tokens_per_s."""
    return replay_of(speeds(root), bundle)


def replay_of(rows: Sequence[Speed], bundle: Bundle) -> Replay:
    """Those of some speeds."""
    return replayed(rows, attrgetter("request"), _figures, bundle)


def speeds(root: Path) -> list[Speed]:
    """The published speeds of both tables, repeats once."""
    cards = pd.read_csv(root / SPEEDS).drop_duplicates(["gpu", "model", "phase", "tokens", "tokens_per_s"])
    rows = [_of_cards(row) for row in records(cards[cards["tokens_per_s"].notna()])]
    offline = pd.read_csv(root / OFFLINE)
    mine = (offline["engine"] == ENGINE) & ~offline["dup"] & offline["e2e_latency_s"].notna()
    return rows + [_offline(row) for row in records(offline[mine])]


def _of_cards(row: Mapping[str, Any]) -> Speed:
    """A prompt, or a generation from an empty cache: llama-bench's pp and tg."""
    model, _, dtype = str(row["model"]).rpartition(" ")
    tokens, prompt = int(row["tokens"]), row["phase"] == "prefill"
    lengths = {"input_len": tokens, "output_len": 1} if prompt else {"input_len": 1, "output_len": tokens + 1}
    request = {**_gpus(row["gpu_model"], row["n_gpus"]), "model": MODELS[model], "dtype": DTYPES[dtype], **lengths}
    return Speed(SPEEDS, row["phase"], request, row["tokens_per_s"], float(tokens))


def _offline(row: Mapping[str, Any]) -> Speed:
    lengths = {"input_len": int(row["input_len"]), "output_len": int(row["output_len"])}
    model = str(row["model"]).replace("Meta-Llama-3-", "Llama-3.1-")
    request = {**_gpus(row["gpu_raw"], row["n_gpus"]), "model": model, "dtype": "fp16", **lengths}
    counted = float(sum(lengths.values()))
    return Speed(OFFLINE, "whole", request | {"ubatch": int(row["batch"])}, counted / row["e2e_latency_s"], counted)


def _gpus(published: str, count: float) -> dict[str, Any]:
    name, parts = next(ours for start, ours in GPUS.items() if published.startswith(start))
    return {"engine": ENGINE, "gpu": name, "pp": int(count) * parts}


def _figures(row: Speed, answer: Mapping[str, Any]) -> Iterator[Figure]:
    asked = row.request
    yield Figure(
        table=row.table,
        gpu=get_gpu(asked["gpu"]).name,
        model=asked["model"],
        engine=ENGINE,
        metric="tokens_per_s",
        measured=row.measured,
        predicted=predicted(row, answer),
        fitted=row.fitted,
        request=asked,
        settings={name: asked[name] for name in ("dtype", "pp", "input_len", "output_len")} | {"phase": row.phase},
    )


def predicted(row: Speed, answer: Mapping[str, Any]) -> Interval:
    """Tokens per second of a row that was answered so."""
    if row.phase == "decode":
        return rate(1.0, interval(answer, "tpot_s"))
    return rate(row.counted, interval(answer, "ttft_s" if row.phase == "prefill" else "e2e_s"))


TABLE = Table("llamacpp", "speeds of llama.cpp, May 2024, RTX 3070 to GH200 and Macs", "truth", replay)
