"""Steps of llm-foundry's MPT training benchmark on A100s, replayed.

Source: mosaicml/llm-foundry scripts/train/benchmarking (Apache-2.0), `llm_foundry/train_throughput_a100.csv` of the
truth folder: MPT-125M to 70B, 512 to 65,536 tokens, 8 to 128 A100-40GB or 80GB, FSDP FULL_SHARD. What the table's
parameter counts say: learned positions (no ALiBi), biases everywhere, tied embeddings, vocabulary 50,368. What the
repository says: attention in Triton (submit_benchmarks.py), one kernel for the loss (composer_mpt). Taken: rows of
mp_mode PURE, the older ones, ran on a PyTorch without early stop of recomputation.

    .venv/bin/python training/validation/llm_foundry.py --root ../shared/truth
"""

from __future__ import annotations

import argparse
import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from predictor.estimators.bundle import Bundle, load_bundle
from predictor.hardware.gpu import get_gpu
from predictor.latency.training import training_step
from predictor.workloads.architectures.decoder import Decoder
from predictor.workloads.passes.training import TrainingSetting

NAME = "llm-foundry training steps, A100"
TABLE = "llm_foundry/train_throughput_a100.csv"
GPUS = {"a100_40gb": "A100-SXM-40GB", "a100_80gb": "A100-SXM-80GB"}
# hidden, layers, heads: scripts/train/yamls/mpt of the same repository
SHAPES = {
    "mpt-125m": (768, 12, 12),
    "mpt-350m": (1024, 24, 16),
    "mpt-760m": (1536, 24, 12),
    "mpt-1b": (2048, 24, 16),
    "mpt-3b": (2560, 32, 20),
    "mpt-7b": (4096, 32, 32),
    "mpt-13b": (5120, 40, 40),
    "mpt-30b": (7168, 48, 56),
    "mpt-70b": (8192, 80, 64),
}
BY = ["gpu", "model"]


def model(name: str, seq_len: int) -> Decoder:
    """An MPT model of the table, with learned positions; its parameter count is the table's."""
    hidden, layers, heads = SHAPES[name]
    return Decoder(
        name=name,
        hidden=hidden,
        layers=layers,
        heads=heads,
        kv_heads=heads,
        head_dim=hidden // heads,
        inter=4 * hidden,
        vocab=50368,
        max_len=seq_len,
        tied_embeddings=True,
        gated=False,
        norm="layer_norm",
        positions="learned",
        activation="gelu",
        qkv_bias=True,
        o_bias=True,
        mlp_bias=True,
        source="mosaicml/llm-foundry scripts/train/yamls/mpt",
    )


def half(*key: object) -> bool:
    """Whether constants may be fitted on a configuration: one half of them, by hash."""
    return hashlib.sha256(" ".join(map(str, key)).encode()).digest()[0] % 2 == 0


def replay(root: Path, bundle: Bundle) -> pd.DataFrame:
    """One row per measured configuration: step_s measured and predicted; those that cannot be told are skipped."""
    table = pd.read_csv(root / TABLE)
    rows, skipped = [], dict[str, int]()
    for measured in table.to_dict("records"):
        if measured["model"] not in SHAPES or measured["gpu"] not in GPUS:
            skipped["unknown model or GPU"] = skipped.get("unknown model or GPU", 0) + 1
            continue
        rows.append(_row(measured, bundle))
    for reason, count in skipped.items():
        print(f"{NAME}: {count} rows skipped: {reason}")
    return pd.DataFrame(rows)


def setting(row: dict[str, Any]) -> TrainingSetting:
    """How a row was trained. PURE keeps everything on the wire in bf16, DEFAULT reduces gradients in fp32."""
    return TrainingSetting(
        micro_batch=row["micro_batch"],
        grad_accum=row["grad_accum"],
        seq_len=row["seq_len"],
        dp=row["n_gpus"],
        zero_stage=3,
        checkpointing="full" if row["act_ckpt"] else "none",
        reduce_dtype="bf16" if row["mp_mode"] == "PURE" else "fp32",
        attention="triton",
        early_stop=row["mp_mode"] != "PURE",
    )


def _row(row: dict[str, Any], bundle: Bundle) -> dict[str, Any]:
    chosen = setting(row)
    gpu, mpt = get_gpu(GPUS[row["gpu"]]), model(row["model"], row["seq_len"])
    step = training_step(mpt, gpu, chosen, bundle)
    measured = chosen.step_tokens / row["tokens_per_s"]
    share = {f"{part}_share": getattr(step, f"{part}_s") / step.step_s.value for part in ("communication", "bubble")}
    keys = {name: row[name] for name in ("seq_len", "n_gpus", "micro_batch", "grad_accum", "act_ckpt", "mp_mode")}
    return {
        "table": TABLE,
        "gpu": gpu.name,
        "model": row["model"],
        "engine": row["engine"],
        "metric": "step_s",
        "measured": measured,
        "predicted": step.step_s.value,
        "low": step.step_s.low,
        "high": step.step_s.high,
        "fitted": half(row["model"], gpu.name, *keys.values()),
        **keys,
        "mfu_measured": row["mfu_pct"] / 100 * 312e12 / gpu.peak("bf16"),
        "mfu": step.mfu,
        **share,
    }


def summary(frame: pd.DataFrame, by: list[str]) -> str:
    """Errors of all rows, of those no constant was fitted on, and by group."""
    parts = {"all": frame, "fitted": frame[frame["fitted"]], "not fitted": frame[~frame["fitted"]]}
    table = pd.DataFrame({name: errors(part) for name, part in parts.items()}).T
    grouped = pd.DataFrame({key: errors(part) for key, part in frame.groupby(by)}).T
    return f"{table.to_string()}\n\n{grouped.to_string()}"


def errors(frame: pd.DataFrame) -> dict[str, float]:
    """Percent: median and mean absolute error, signed median, coverage of the interval; and rows."""
    off = (frame["predicted"] / frame["measured"] - 1) * 100
    covered = (frame["low"] <= frame["measured"]) & (frame["measured"] <= frame["high"])
    found = {"median": off.abs().median(), "mean": off.abs().mean(), "p90": off.abs().quantile(0.9)}
    found |= {"signed": off.median(), "coverage": 100 * covered.mean()}
    return {name: float(np.round(value, 1)) for name, value in found.items()} | {"rows": len(frame)}


def main() -> None:
    """Prints the errors of the default bundle."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--root", type=Path, default=Path("../shared/truth"))
    frame = replay(parser.parse_args().root, load_bundle())
    print(summary(frame, BY))


if __name__ == "__main__":
    main()
