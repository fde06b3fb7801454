"""Memory that Qwen and torchtune published, replayed: closed forms beside the measured peaks.

Sources, in the truth folder: the speed benchmarks of the Qwen documentation (`qwen/speed_memory.csv`; Transformers, GiB
that PyTorch allocated, all GPUs together); QwenLM/Qwen README, fine-tuning of Qwen 1 (`qwen/qwen1_finetune_memory_speed
.csv`; GB in use, all GPUs together); pytorch/torchtune README (`torchtune/readme_memory_speed.csv`; GiB allocated).
Transformers of Qwen 1.5 and 2 widened the logits of every token; those since keep the last.

    .venv/bin/python training/validation/memory.py [--root ../shared/truth]
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
from finetune import QWEN, QWEN_METHODS, TECHNIQUES, TORCHTUNE, TUNE_METHODS
from llm_foundry import summary
from qwen import DTYPES
from qwen import TABLE as GENERATION

from predictor.bundle import Bundle, load_bundle
from predictor.gpu import get_gpu
from predictor.memory import CONTEXT_BYTES, memory
from predictor.training_memory import training_memory
from predictor.units import GB, GIB
from predictor.workloads import Workload, get_model
from predictor.workloads.training import TrainingSetting

NAME = "memory, Qwen and torchtune"
BY = ["table", "model", "engine"]
GPU = "A100-SXM-80GB"
ALL_LOGITS = ("Qwen1.5", "Qwen2")
WIDE_LOGIT_BYTES = 6.0  # as computed and as widened
CHUNKS = 8  # torchtune's loss; not in the rows before it was added
WHOLE_LOSS = ("Packed Dataset", "Compile")


def replay(root: Path, bundle: Bundle) -> pd.DataFrame:
    """One row per published peak, memory_bytes of one GPU; there is no interval yet."""
    rows = [*_generation(root), *_qwen(root), *_torchtune(root)]
    return pd.DataFrame(rows).assign(metric="memory_bytes", low=float("nan"), high=float("nan"), fitted=False)


def _row(table: str, model: str, engine: str, measured: float, predicted: float) -> dict[str, Any]:
    told = {"measured": measured, "predicted": predicted}
    return {"table": table, "gpu": GPU, "model": model, "engine": engine, **told}


def _generation(root: Path) -> Iterator[dict[str, Any]]:
    table = pd.read_csv(root / GENERATION)
    for row in table[table["gpu_mem_gb"].notna() & (table["engine"] == "Transformers")].to_dict("records"):
        name = row["model"].removesuffix("-Instruct").removesuffix("-Chat")
        model, tokens = get_model(f"Qwen/{name}"), int(row["input_len"] + row["output_len"])
        workload = Workload(
            model=replace(model, max_len=max(model.max_len, tokens)),
            engine="torch",
            input_len=int(row["input_len"]),
            output_len=int(row["output_len"]),
            dtype=DTYPES[row["quant"]],
        )
        found = memory(workload, get_gpu(GPU))
        logits = row["input_len"] * model.vocab * WIDE_LOGIT_BYTES if row["family"] in ALL_LOGITS else 0.0
        told = found.weights_bytes + found.kv_cache_bytes + max(found.activations_bytes, logits)
        yield _row(GENERATION, row["model"], "transformers", row["gpu_mem_gb"] * GIB, told)


def _qwen(root: Path) -> Iterator[dict[str, Any]]:
    for row in pd.read_csv(root / QWEN).to_dict("records"):
        if (setting := QWEN_METHODS.get(row["method"])) is None:
            continue
        gpus = int(str(row["row"]).split("|")[-1])
        told = _trained(row["model"], replace(setting, seq_len=int(row["seq_len"]), dp=gpus))
        yield _row(QWEN, row["model"], row["method"], row["peak_mem_gb"] * GB / gpus, told)


def _torchtune(root: Path) -> Iterator[dict[str, Any]]:
    """Those whose optimizer stays on the GPU and steps after the backward pass, as is modelled."""
    for row in pd.read_csv(root / TORCHTUNE).to_dict("records"):
        if isinstance(row["Model"], str):
            method, gpus = row["Finetuning Method"], int(row["Runnable On"].split("x ")[0])
            name, measured = row["Model"].replace("Llama ", "Llama-").replace(" ", "-"), row["Peak Memory per GPU"]
            found: TrainingSetting | None = TUNE_METHODS[method] if method != "Full finetune" else None
            shared = {"dp": gpus, "zero_stage": 3} if gpus > 1 else {}
        else:
            method = row["Technique"].removeprefix("+ ").lstrip("[").split("]")[0].removeprefix("+ ")
            name, measured, shared = "Llama-3.2-3B", str(row["Peak Memory Active (GiB)"]), {}
            found = TECHNIQUES.get(method)
        if found is not None:
            chunks = 1 if method in WHOLE_LOSS else CHUNKS
            setting = replace(found, master_weights=False, loss_chunks=chunks, **shared)
            told = _trained(name, setting) - CONTEXT_BYTES
            yield _row(TORCHTUNE, name, method, float(measured.split()[0]) * GIB, told)


def _trained(name: str, setting: TrainingSetting) -> float:
    model = get_model(name)
    model = replace(model, max_len=max(model.max_len, setting.seq_len))
    return training_memory(model, get_gpu(GPU), setting).total_bytes


def main() -> None:
    """Prints the errors."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, default=Path(__file__).resolve().parents[3] / "shared" / "truth")
    frame = replay(parser.parse_args().root, load_bundle())
    print(summary(frame, BY))


if __name__ == "__main__":
    main()
