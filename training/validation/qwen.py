"""Generation speeds that Qwen published: Transformers, vLLM and SGLang at batch 1, on A100 and on the unmeasured H20.

Source: the speed benchmarks of the Qwen 1.5 to Qwen 3 documentation (Apache-2.0), `qwen/speed_memory.csv` of the truth
folder: 2,048 generated tokens after 1 to 129,024 tokens of prompt. Speed is generated tokens over time; Qwen 3 counts
the prompt too. Transformers spreads a model over several GPUs layer by layer (device_map), vLLM and SGLang by tp.

    .venv/bin/python training/validation/qwen.py [--root ../shared/truth]
"""

from __future__ import annotations

import argparse
import hashlib
from pathlib import Path
from typing import Any

import pandas as pd
from llm_foundry import summary

from predictor.answering import answer
from predictor.bundle import Bundle, load_bundle
from predictor.errors import InvalidRequest, PredictorError
from predictor.request import Request
from predictor.workloads import get_model

NAME = "Qwen's published generation speeds"
TABLE = "qwen/speed_memory.csv"
ENGINES = {"Transformers": "torch", "vLLM": "vllm", "SGLang": "sglang"}
GPUS = {"A100-80GB": "A100-SXM-80GB", "H20-96GB": "H20-96GB"}
DTYPES = {
    "BF16": "bf16",
    "AWQ": "int4_wo",
    "AWQ-INT4": "int4_wo",
    "GPTQ-Int4": "int4_wo",
    "GPTQ-INT4": "int4_wo",
    "GPTQ-Int8": "int8_wo",
    "FP8": "fp8_block",
}


def half(row: dict[str, Any]) -> bool:
    """Whether the host time of Transformers may be fitted on a row: one half of the models and formats, by hash."""
    key = f"{row['model']}|{row['quant']}|{row['engine']}"
    return hashlib.sha256(key.encode()).digest()[0] % 2 == 0


def replay(root: Path, bundle: Bundle) -> pd.DataFrame:
    """One row per published speed, tokens_per_s; models unknown are skipped with a count."""
    table = pd.read_csv(root / TABLE)
    table = table[table["speed_tokens_per_s"].notna() & table["engine"].isin(ENGINES) & table["gpu"].isin(GPUS)]
    rows, skipped = [], dict[str, int]()
    for row in table.to_dict("records"):
        try:
            rows.append(_row(row, bundle))
        except PredictorError as error:
            skipped[str(error)[:90]] = skipped.get(str(error)[:90], 0) + 1
    for reason, count in skipped.items():
        print(f"{NAME}: {count} rows skipped: {reason}")
    return pd.DataFrame(rows)


def _row(row: dict[str, Any], bundle: Bundle) -> dict[str, Any]:
    engine, gpus = ENGINES[row["engine"]], int(row["n_gpus"])
    if engine == "torch" and get_model(_name(row)).experts:
        raise InvalidRequest("Transformers runs experts one after the other, which is not modelled.")
    request = Request(
        model=_name(row),
        gpu=GPUS[row["gpu"]],
        engine=engine,
        input_len=int(row["input_len"]),
        output_len=int(row["output_len"]),
        dtype=DTYPES[row["quant"]],
        tp=1 if engine == "torch" else gpus,
        pp=gpus if engine == "torch" else 1,
    )
    found = answer(request, bundle)
    counted = request.output_len + (request.input_len if row["family"] == "Qwen3" else 0)
    return {
        "table": TABLE,
        "gpu": request.gpu,
        "model": row["model"],
        "engine": engine,
        "family": row["family"],
        "dtype": request.dtype,
        "input_len": request.input_len,
        "metric": "tokens_per_s",
        "measured": row["speed_tokens_per_s"],
        "predicted": counted / found.e2e_s.value,
        "low": counted / found.e2e_s.high,
        "high": counted / found.e2e_s.low,
        "fitted": engine == "torch" and half(row),
    }


def _name(row: dict[str, Any]) -> str:
    return f"Qwen/{row['model'].removesuffix('-Instruct').removesuffix('-Chat')}"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, default=Path(__file__).resolve().parents[3] / "shared" / "truth")
    print(summary(replay(parser.parse_args().root, load_bundle()), ["gpu", "engine", "family", "dtype"]))
