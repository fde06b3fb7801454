"""Steps of llm-foundry's MPT training benchmark on A100s, replayed.

Source: mosaicml/llm-foundry scripts/train/benchmarking (Apache-2.0), `llm_foundry/train_throughput_a100.csv` of the
truth folder: MPT-125M to 70B, 512 to 65,536 tokens, 8 to 128 A100-40GB or 80GB, FSDP FULL_SHARD. What the table's
parameter counts say: learned positions (no ALiBi), biases everywhere, tied embeddings, vocabulary 50,368. What the
repository says: attention in Triton (submit_benchmarks.py), one kernel for the loss (composer_mpt). Taken: rows of
mp_mode PURE, the older ones, ran on a PyTorch without early stop of recomputation.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pandas as pd

from predictor.estimators.bundle import Bundle
from predictor.hardware.gpu import get_gpu
from predictor.latency.training import training_step
from predictor.learning.validation.replay import Figure, Replay, Table, half, private_setting, records
from predictor.workloads.architectures.decoder import Decoder
from predictor.workloads.passes.training import TrainingSetting

NODE_LINK_BYTES_PER_S = 200e9  # 1600 Gbps between nodes (scripts/train/benchmarking/README.md)
FILE = "llm_foundry/train_throughput_a100.csv"
GPUS = {"a100_40gb": "A100-SXM-40GB", "a100_80gb": "A100-SXM-80GB"}
PEAK_FLOP_PER_S = 312e12  # of which the table's MFU is a share
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


def replay(root: Path, bundle: Bundle) -> Replay:
    """A figure per measured configuration: step_s."""
    figures, skipped = [], Counter[str]()
    for row in records(pd.read_csv(root / FILE)):
        if row["model"] not in SHAPES or row["gpu"] not in GPUS:
            skipped["unknown model or GPU"] += 1
            continue
        figures.append(_figure(row, bundle))
    return Replay(figures, skipped)


def mpt(name: str, seq_len: int) -> Decoder:
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


def training_setting(row: dict[str, Any]) -> TrainingSetting:
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
        node_link_bytes_per_s=NODE_LINK_BYTES_PER_S,
    )


def _figure(row: dict[str, Any], bundle: Bundle) -> Figure:
    setting, gpu = training_setting(row), get_gpu(GPUS[row["gpu"]])
    step = training_step(mpt(row["model"], row["seq_len"]), gpu, setting, bundle)
    shares = {f"{part}_share": getattr(step, f"{part}_s") / step.step_s.value for part in ("communication", "bubble")}
    keys = {name: row[name] for name in ("seq_len", "n_gpus", "micro_batch", "grad_accum", "act_ckpt", "mp_mode")}
    mfu_measured = row["mfu_pct"] / 100 * PEAK_FLOP_PER_S / gpu.peak("bf16")
    return Figure(
        table=FILE,
        gpu=gpu.name,
        model=row["model"],
        engine=row["engine"],
        metric="step_s",
        measured=setting.step_tokens / row["tokens_per_s"],
        predicted=step.step_s,
        fitted=half(row["model"], gpu.name, *keys.values()),
        private_setting=private_setting(
            "MPT with learned positions",
            "gradients reduced in fp32" if setting.reduce_dtype == "fp32" else "",
            "" if setting.early_stop else "PyTorch before 2.1 (recomputes whole layers)",
        ),
        settings={**keys, "mfu_measured": mfu_measured, "mfu": step.mfu, **shares},
    )


TABLE = Table("llm_foundry", "llm-foundry training steps, A100", "truth", replay)
