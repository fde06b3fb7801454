"""Fine-tuning speeds replayed: Qwen-1 (LoRA, Q-LoRA, full; seconds per step) and torchtune (tokens per second).

Sources, in the truth folder: QwenLM/Qwen README, "Profiling of Memory and Speed" (`qwen/qwen1_finetune_memory_speed
.csv`): A100-SXM4-80GB, batch 1, accumulation 8, FlashAttention-2; with finetune.py of the same repository: LoRA rank 64
with dropout on all layers, checkpointing by Hugging Face transformers (reentrant), GPTQ weights under Q-LoRA, DeepSpeed
ZeRO 3 for all parameters. pytorch/torchtune README of 2024-11 (`torchtune/readme_memory_speed.csv`): batch 2, packed to
2,048 tokens, torch.compile; and its optimisations of Llama 3.2 3B, batch 2, packed to 4,096 tokens, each row on top of
those before. No tokens per second are given there for eight GPUs each: they are taken as those of all eight.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from predictor.estimators.bundle import Bundle
from predictor.hardware.gpu import Gpu, get_gpu
from predictor.latency.training import training_step
from predictor.learning.validation.replay import (
    Figure,
    Replay,
    Table,
    answers,
    half,
    interval,
    private_setting,
    records,
)
from predictor.workloads.models import get_model
from predictor.workloads.passes.training import TrainingSetting, model_flops_per_token
from predictor.workloads.request import Request
from predictor.workloads.requested import training_setting

QWEN, TORCHTUNE = "qwen/qwen1_finetune_memory_speed.csv", "torchtune/readme_memory_speed.csv"
A100 = "A100-SXM-80GB"
CONFIGURATION = ("seq_len", "n_gpus", "micro_batch", "grad_accum", "checkpointing")

# Qwen: finetune.py
PEFT = TrainingSetting(
    method="lora", lora_rank=64, grad_accum=8, checkpointing="full", kernels="library", zero_stage=2, early_stop=False
)
FULL = replace(PEFT, method="full", zero_stage=3, prefetch=False)
QWEN_METHODS = {
    "LoRA": PEFT,
    "LoRA (emb)": replace(PEFT, train_embeddings=True),
    "Q-LoRA": replace(PEFT, method="qlora", quantization="gptq", dtype="fp16"),
    "Full-parameter": FULL,
    "LoRA + Deepspeed Zero3": replace(PEFT, zero_stage=3, prefetch=False),
}
# torchtune: columns of a request
TUNE = {"phase": "train", "micro_batch": 2, "seq_len": 2048, "checkpointing": "full", "lora_rank": 8}
TUNE_METHODS: Mapping[str, dict[str, Any]] = {
    "LoRA": {**TUNE, "method": "lora"},
    "QLoRA": {**TUNE, "method": "qlora"},
    "Full finetune": {**TUNE, "optimizer": "adamw_8bit"},
}
TUNE_GPUS = {"4090": "RTX-4090", "A6000": "RTX-A6000", "A100": A100}
STEPS = {**TUNE, "seq_len": 4096, "checkpointing": "none"}
RECOMPUTED = {**STEPS, "checkpointing": "full"}
TECHNIQUES: Mapping[str, dict[str, Any]] = {
    "Packed Dataset": {**STEPS, "kernels": "eager"},
    "Compile": STEPS,
    "Chunked Cross Entropy": STEPS,
    "Activation Checkpointing": RECOMPUTED,
    "Fuse optimizer step into backward": RECOMPUTED,
    "8-bit AdamW": {**RECOMPUTED, "optimizer": "adamw_8bit"},
    "LoRA": {**RECOMPUTED, "method": "lora"},
    "QLoRA": {**RECOMPUTED, "method": "qlora"},
}


class TuneRow(NamedTuple):
    """A row of torchtune's README. request: its columns; empty where the technique is not modelled."""

    model: str
    gpu: str
    method: str
    runnable_on: str
    technique: str
    tokens_per_s: float
    peak_gib: float
    request: dict[str, Any]


def replay(root: Path, bundle: Bundle) -> Replay:
    """A figure per measured configuration: step_s of Qwen, tokens_per_s of torchtune."""
    figures, skipped = _qwen(root, bundle)
    more, reasons = _torchtune(root, bundle)
    return Replay(figures + more, Counter(skipped) + Counter(reasons))


def qwen_setting(row: Mapping[str, Any]) -> TrainingSetting | None:
    """How a row of Qwen's README was trained; None where the network between the servers is not stated."""
    setting = QWEN_METHODS.get(row["method"])
    return setting and replace(setting, seq_len=int(row["seq_len"]), dp=qwen_gpus(row))


def qwen_gpus(row: Mapping[str, Any]) -> int:
    """GPUs of a row of Qwen's README, which the last column of its table counts."""
    return int(str(row["row"]).split("|")[-1])


def _qwen(root: Path, bundle: Bundle) -> Replay:
    figures, skipped, gpu = [], Counter[str](), get_gpu(A100)
    for row in records(pd.read_csv(root / QWEN)):
        setting = qwen_setting(row)
        if setting is None:
            reason = "the network between the servers is not stated"
        else:
            reason = impossible(row["model"], gpu, setting, setting.step_tokens / row["s_per_iter"])
        if setting is None or reason:
            skipped[reason] += 1
            continue
        step = training_step(get_model(row["model"]), gpu, setting, bundle)
        figures.append(
            Figure(
                table=QWEN,
                gpu=gpu.name,
                model=row["model"],
                engine="transformers",
                metric="step_s",
                measured=row["s_per_iter"],
                predicted=step.step_s,
                fitted=half(row["model"], row["method"], setting.seq_len),
                private_setting=private_setting(
                    "reentrant checkpointing (recomputes whole layers)",
                    "embeddings trained" if setting.train_embeddings else "",
                    "GPTQ weights" if setting.method == "qlora" else "",
                    "" if setting.prefetch else "ZeRO 3 without prefetch",
                ),
                settings={
                    "method": row["method"],
                    **{name: getattr(setting, name) for name in CONFIGURATION},
                    "mfu": step.mfu,
                    "communication_share": step.communication_s / step.step_s.value,
                },
            )
        )
    return Replay(figures, skipped)


def _torchtune(root: Path, bundle: Bundle) -> Replay:
    """Every row as a row of a request table."""
    taken, skipped = list[tuple[TuneRow, TrainingSetting]](), Counter[str]()
    for row in torchtune_rows(root):
        reason = _not_modelled(row)
        if not reason:
            setting = training_setting(Request.of(row.request), get_model(row.model))
            reason = impossible(row.model, get_gpu(row.gpu), setting, row.tokens_per_s)
        if reason:
            skipped[reason] += 1
        else:
            taken.append((row, setting))
    told = answers([row.request for row, _ in taken], bundle)
    figures = [
        Figure(
            table=TORCHTUNE,
            gpu=row.gpu,
            model=row.model,
            engine="torchtune",
            metric="tokens_per_s",
            measured=row.tokens_per_s,
            predicted=interval(answer, "tokens_per_s"),
            fitted=False,
            request=row.request,
            settings={
                "method": row.method,
                **{name: getattr(setting, name) for name in CONFIGURATION},
                "mfu": answer["mfu"],
            },
        )
        for (row, setting), answer in zip(taken, told, strict=True)
    ]
    return Replay(figures, skipped)


def torchtune_rows(root: Path) -> Iterator[TuneRow]:
    """The rows of torchtune's README: models and methods, then techniques one on top of the other."""
    for row in records(pd.read_csv(root / TORCHTUNE)):
        if isinstance(row["Model"], str):
            gpus, card = row["Runnable On"].split("x ")
            method, model = row["Finetuning Method"], row["Model"].replace("Llama ", "Llama-").replace(" ", "-")
            gpu, columns = TUNE_GPUS[card], TUNE_METHODS.get(method, {})
            shared = {"dp": int(gpus), "zero_stage": 3} if int(gpus) > 1 else {}
            speed, peak = row["Tokens/sec"], row["Peak Memory per GPU"]
        else:
            method = row["Technique"].removeprefix("+ ").lstrip("[").split("]")[0].removeprefix("+ ")
            model, gpu, columns, shared = "Llama-3.2-3B", A100, TECHNIQUES.get(method, {}), {}
            speed, peak = row["Tokens Per Second"], str(row["Peak Memory Active (GiB)"])
        yield TuneRow(
            model=model,
            gpu=gpu,
            method=method,
            runnable_on=row["Runnable On"],
            technique=row["Technique"],
            tokens_per_s=float(speed),
            peak_gib=float(peak.split()[0]),
            request={"model": model, "gpu": gpu, **columns, **shared} if columns else {},
        )


def _not_modelled(row: TuneRow) -> str:
    if not row.request:
        return "padding or offloading that is not modelled"
    if row.method == "Full finetune" and row.gpu != TUNE_GPUS["A6000"]:
        return "optimizer state or weights in host memory"
    return ""


def impossible(model: str, gpu: Gpu, setting: TrainingSetting, tokens_per_s: float) -> str:
    """Why a measurement cannot be what it says: forward, input gradients and recomputation alone above the peak."""
    passes = 3 - (setting.method != "full") + (setting.checkpointing == "full") * 2 / 3
    least = passes / 3 * (model_flops_per_token(get_model(model), 1)) * tokens_per_s / setting.n_gpus
    return "above 90 % of the arithmetic peak of the stated GPU" if least > 0.9 * gpu.peak("bf16") else ""


TABLE = Table("finetune", "fine-tuning steps, Qwen-1 and torchtune", "truth", replay)
