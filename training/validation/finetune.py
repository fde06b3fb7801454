"""Fine-tuning speeds replayed: Qwen-1 (LoRA, Q-LoRA, full; seconds per step) and torchtune (tokens per second).

Sources, in the truth folder: QwenLM/Qwen README, "Profiling of Memory and Speed" (`qwen/qwen1_finetune_memory_speed
.csv`): A100-SXM4-80GB, batch 1, accumulation 8, FlashAttention-2; with finetune.py of the same repository: LoRA rank 64
with dropout on all layers, checkpointing by Hugging Face transformers (reentrant), GPTQ weights under Q-LoRA, DeepSpeed
ZeRO 3 for all parameters. pytorch/torchtune README of 2024-11 (`torchtune/readme_memory_speed.csv`): batch 2, packed to
2,048 tokens, torch.compile; and its optimisations of Llama 3.2 3B, batch 2, packed to 4,096 tokens, each row on top of
those before. No tokens per second are given there for eight GPUs each: they are taken as those of all eight.

    .venv/bin/python training/validation/finetune.py --root ../shared/truth
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
from llm_foundry import half, summary

from predictor.estimators.bundle import Bundle, load_bundle
from predictor.hardware.gpu import get_gpu
from predictor.latency.training import training_step
from predictor.workloads.models import get_model
from predictor.workloads.passes.training import TrainingSetting, model_flops_per_token

NAME = "fine-tuning steps, Qwen-1 and torchtune"
QWEN, TORCHTUNE = "qwen/qwen1_finetune_memory_speed.csv", "torchtune/readme_memory_speed.csv"
CONFIGURATION = ("seq_len", "n_gpus", "micro_batch", "grad_accum", "checkpointing")
BY = ["table", "gpu", "model", "method"]

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
TUNE = TrainingSetting(micro_batch=2, seq_len=2048, checkpointing="full", lora_rank=8)
TUNE_METHODS = {
    "LoRA": replace(TUNE, method="lora"),
    "QLoRA": replace(TUNE, method="qlora"),
    "Full finetune": replace(TUNE, optimizer="adamw_8bit"),
}
STEPS = replace(TUNE, seq_len=4096, checkpointing="none")
TECHNIQUES = {
    "Packed Dataset": replace(STEPS, kernels="eager"),
    "Compile": STEPS,
    "Chunked Cross Entropy": STEPS,
    "Activation Checkpointing": replace(STEPS, checkpointing="full"),
    "Fuse optimizer step into backward": replace(STEPS, checkpointing="full"),
    "8-bit AdamW": replace(STEPS, checkpointing="full", optimizer="adamw_8bit"),
    "LoRA": replace(STEPS, checkpointing="full", method="lora"),
    "QLoRA": replace(STEPS, checkpointing="full", method="qlora"),
}


def replay(root: Path, bundle: Bundle) -> pd.DataFrame:
    """One row per measured configuration, step_s or tokens_per_s; the others are skipped with a reason."""
    rows, skipped = [], dict[str, int]()
    for case in [*_qwen(root), *_torchtune(root)]:
        reason = case["skip"] or _impossible(case)
        if reason:
            skipped[reason] = skipped.get(reason, 0) + 1
        else:
            rows.append(_row(case, bundle))
    for reason, count in skipped.items():
        print(f"{NAME}: {count} rows skipped: {reason}")
    return pd.DataFrame(rows)


def _qwen(root: Path) -> Iterator[dict[str, Any]]:
    gpu = get_gpu("A100-SXM-80GB")
    for row in pd.read_csv(root / QWEN).to_dict("records"):
        setting, method = QWEN_METHODS.get(row["method"]), row["method"]
        gpus = int(str(row["row"]).split("|")[-1])  # the last column of the README's table counts them
        case = {"table": QWEN, "gpu": gpu, "model": row["model"], "method": method, "metric": "step_s"}
        if setting is None:
            yield case | {"skip": "the network between the servers is not stated"}
            continue
        chosen = replace(setting, seq_len=row["seq_len"], dp=gpus)
        yield case | {"setting": chosen, "measured": row["s_per_iter"], "skip": ""}


def _torchtune(root: Path) -> Iterator[dict[str, Any]]:
    for row in pd.read_csv(root / TORCHTUNE).to_dict("records"):
        case: dict[str, Any] = {"table": TORCHTUNE, "metric": "tokens_per_s", "skip": ""}
        if isinstance(row["Model"], str):
            gpus, gpu = row["Runnable On"].split("x ")
            method, name = row["Finetuning Method"], row["Model"].replace("Llama ", "Llama-").replace(" ", "-")
            shared = {"dp": int(gpus), "zero_stage": 3} if int(gpus) > 1 else {}
            case |= {"gpu": get_gpu({"4090": "RTX-4090", "A6000": "RTX-A6000", "A100": "A100-SXM-80GB"}[gpu])}
            case |= {"model": name, "method": method, "measured": float(row["Tokens/sec"])}
            case |= {"setting": replace(TUNE_METHODS[method], **shared)}
            if method == "Full finetune" and gpu != "A6000":
                case["skip"] = "optimizer state or weights in host memory"
        else:
            technique = row["Technique"].removeprefix("+ ").lstrip("[").split("]")[0].removeprefix("+ ")
            case |= {"gpu": get_gpu("A100-SXM-80GB"), "model": "Llama-3.2-3B", "method": technique}
            case |= {"measured": float(row["Tokens Per Second"]), "setting": TECHNIQUES.get(technique)}
            case["skip"] = "" if technique in TECHNIQUES else "padding or offloading that is not modelled"
        yield case


def _impossible(case: dict[str, Any]) -> str:
    """Why a measurement cannot be what it says: forward, input gradients and recomputation alone above the peak."""
    setting, gpu = case["setting"], case["gpu"]
    passes = 3 - (setting.method != "full") + (setting.checkpointing == "full") * 2 / 3
    tokens_per_s = case["measured"] if case["metric"] == "tokens_per_s" else setting.step_tokens / case["measured"]
    least = passes / 3 * (model_flops_per_token(get_model(case["model"]), 1)) * tokens_per_s / setting.n_gpus
    return "above 90 % of the arithmetic peak of the stated GPU" if least > 0.9 * gpu.peak("bf16") else ""


def _row(case: dict[str, Any], bundle: Bundle) -> dict[str, Any]:
    setting, gpu = case["setting"], case["gpu"]
    step = training_step(get_model(case["model"]), gpu, setting, bundle)
    told = getattr(step, case["metric"])
    kept = {name: case[name] for name in ("table", "model", "method", "metric", "measured")}
    keys = {name: getattr(setting, name) for name in CONFIGURATION}
    return {
        **kept,
        "gpu": gpu.name,
        "engine": "transformers" if case["table"] == QWEN else "torchtune",
        "predicted": told.value,
        "low": told.low,
        "high": told.high,
        "fitted": case["table"] == QWEN and half(case["model"], case["method"], setting.seq_len),
        **keys,
        "mfu": step.mfu,
        "communication_share": step.communication_s / step.step_s.value,
    }


def main() -> None:
    """Prints the errors of the default bundle."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--root", type=Path, default=Path("../shared/truth"))
    frame = replay(parser.parse_args().root, load_bundle())
    print(summary(frame, BY))


if __name__ == "__main__":
    main()
