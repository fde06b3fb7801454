"""vLLM under load on eight H200: GLM-5, MiniMax-M2.5 and Qwen3.5-397B, 1,024 to 32,768 prompt tokens, 128 answered.

Source: results of InferenceX's experiment on the position of tokens (SemiAnalysisAI/InferenceX,
experimental/token_position_decode_slo, Apache-2.0), `inferencex_token_position/serving.csv` of the truth folder:
medians and 99th percentiles of whole runs, 10 requests per client, of equal lengths (as the total tokens say), the
first wave counted. Its serve_*.sh say: "tp8", "tep8" and "dep8", who attends to what and where the experts are; vLLM
of February 2026 (taken as 0.15) with its defaults; GLM-5 drafts one token. Formats are those published: GLM-5 and
MiniMax in fp8 by blocks, Qwen3.5 in bf16.

Qwen3.5's first tokens at four clients take 4.3 s after 2,048 prompt tokens and after 4,096: something else than the
prompt takes them, maybe kernels compiled anew for every shape. MiniMax's medians at long prompts (first token after
nine tenths of the answer, later ones without a prompt between) are those of prompts that all go before outputs, which
vLLM's scheduler does not do.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from predictor.estimators.bundle import Bundle
from predictor.learning.validation.replay import Figure, Replay, Table, half, interval, records, replayed

FILE = "inferencex_token_position/serving.csv"
GPU = "H200-SXM-141GB"
LAYOUTS = {"tp8": {"tp": 8}, "tep8": {"tp": 8, "ep": 8}, "dep8": {"tp": 1, "attention_dp": 8, "ep": 8}}
# One token of the model's own draft layer; how often random text agrees with it is not told.
DRAFTS = {"zai-org/GLM-5-FP8": {"draft_tokens": 1, "acceptance": 0.6}}
METRICS = {
    "ttft_p50_s": "median_ttft",
    "ttft_p99_s": "p99_ttft",
    "tpot_p50_s": "median_tpot",
    "tpot_p99_s": "p99_tpot",
    "e2e_s": "median_e2el",
}


def replay(root: Path, bundle: Bundle) -> Replay:
    """Per run medians and 99th percentiles of ttft_s and tpot_s, and e2e_s, whose mean stands for the median."""
    return replayed(records(pd.read_csv(root / FILE)), request_of, _figures, bundle)


def request_of(row: Mapping[str, Any]) -> dict[str, Any]:
    """The row of a request table."""
    return {
        "model": row["model_id"],
        "gpu": GPU,
        "engine": "vllm",
        "engine_version": "0.15",
        **LAYOUTS[row["parallel"]],
        "input_len": int(row["isl"]),
        "output_len": int(row["osl"]),
        "length_spread": 0.0,
        "concurrency": int(row["concurrency"]),
        "num_prompts": int(row["num_prompts"]),
        "warmup": 0,
        **DRAFTS.get(row["model_id"], {}),
    }


def _figures(row: Mapping[str, Any], answer: Mapping[str, Any]) -> Iterator[Figure]:
    for metric, column in METRICS.items():
        yield Figure(
            table=FILE,
            gpu=GPU,
            model=row["model_id"],
            engine="vllm",
            metric=metric,
            measured=row[column],
            predicted=interval(answer, metric),
            fitted=half(row["model_id"], row["parallel"], row["isl"]),
            request=request_of(row),
            settings={name: row[name] for name in ("parallel", "isl", "osl", "concurrency")},
        )


TABLE = Table("inferencex", "vLLM under load on eight H200, medians and 99th percentiles", "truth", replay)
