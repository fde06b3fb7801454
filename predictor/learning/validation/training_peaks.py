"""Peaks of memory that programs published of training, replayed as rows of a request table.

Sources, in the truth folder, and how their programs ran:
`qwen/qwen1_finetune_memory_speed.csv`: QwenLM/Qwen README; finetune.py with PEFT and DeepSpeed; GB in use.
`torchtune/readme_memory_speed.csv`: pytorch/torchtune README of 2024-11; GiB that PyTorch allocated.
All others: predictor/learning/validation/training_rows.py.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from predictor.errors import PredictorError
from predictor.estimators.bundle import Bundle
from predictor.latency.report import Interval
from predictor.learning.validation.finetune import A100, QWEN, TORCHTUNE, qwen_gpus, qwen_setting, torchtune_rows
from predictor.learning.validation.replay import Figure, Replay, Table, half, records
from predictor.learning.validation.training_rows import TABLES, TRAIN, Training, left_out
from predictor.memory.training import spread_of
from predictor.prediction.footprint import footprint
from predictor.prediction.single import resolve
from predictor.units import GB, GIB
from predictor.workloads.models import get_model
from predictor.workloads.request import Request
from predictor.workloads.requested import training_setting

# Columns that say how a program trains, beyond what its user chooses.
OF_PROGRAMS = frozenset(
    {
        *("kernels", "loss", "loss_chunks", "attention", "lora_dropout", "bitsandbytes_version", "double_quant"),
        *("no_sync", "prefetch", "reshard_after_forward", "adapter_dtype"),
    }
)


def replay(root: Path, bundle: Bundle, stated: bool = True) -> Replay:
    """A figure per published peak: memory_bytes of one GPU; p_oom, which should be 1, of runs that failed.

    stated: whether requests say how the program trains; else they leave out what its user does not choose.
    """
    figures, skipped = list[Figure](), Counter[str]()
    for training in (training for table in (_qwen, _torchtune, *TABLES) for training in table(root)):
        if training.no_peak:
            skipped[training.no_peak] += 1
        elif training.peak or training.failed:
            left = () if stated else OF_PROGRAMS
            request = {name: value for name, value in training.request.items() if name not in left}
            try:
                figures.append(_figure(training._replace(request=request), bundle))
            except PredictorError as error:
                skipped[str(error)] += 1
    return Replay(figures, skipped)


def _figure(training: Training, bundle: Bundle) -> Figure:
    resolved = resolve(Request.of(training.request))
    need, setting = footprint(resolved, bundle).row(), training_setting(resolved.request, resolved.model)
    total, risk = need["memory_bytes"], need["p_oom"]
    beside = {"used": 0.0, "reserved": need["runtime_bytes"]}.get(
        training.counted, need["runtime_bytes"] + need["fragmentation_bytes"]
    )
    value = total - beside
    if training.peak is None:
        predicted = Interval(risk, float("nan"), float("nan"))
    else:
        low, high = (need[f"memory_bytes_{end}"] * value / total for end in ("low", "high"))
        predicted = Interval(value, low, high)
    resident = need["weights_bytes"] + need["optimizer_bytes"] + need["gathered_bytes"]
    share = (need["closed_form_bytes"] - need["runtime_bytes"] - resident) / total
    return Figure(
        table=training.table,
        gpu=resolved.gpu.name,
        model=resolved.model.name,
        engine=training.program,
        metric="p_oom" if training.peak is None else "memory_bytes",
        measured=1.0 if training.peak is None else training.peak,
        predicted=predicted,
        fitted=half(training.table, resolved.model.name, training.program, training.case),
        closed=None
        if training.peak is None
        else need["closed_form_bytes"] - (need["runtime_bytes"] if beside else 0.0),
        request=dict(training.request),
        settings={"case": training.case, "kind": spread_of(setting), "share": share, "p_oom": risk},
    )


def _qwen(root: Path) -> Iterator[Training]:
    for row in records(pd.read_csv(root / QWEN)):
        if (setting := qwen_setting(row)) is None:
            yield left_out(QWEN, "Qwen finetune.py", "the network between the servers is not stated")
            continue
        names = ("method", "lora_rank", "seq_len", "grad_accum", "checkpointing", "zero_stage", "dp", "prefetch")
        request = {name: getattr(setting, name) for name in (*names, "train_embeddings", "quantization", "dtype")}
        request |= {"model": row["model"], "gpu": A100, "kernels": setting.kernels, "loss": "plain", **TRAIN}
        if setting.seq_len > get_model(row["model"]).max_len:
            request["max_model_len"] = setting.seq_len
        if row["method"] in ("LoRA", "LoRA (emb)"):  # without DeepSpeed: 16 bits, the loss in fp32 under autocast
            request |= {"kernels": "eager", "loss": "eager", "precision": "pure", "optimizer": "adamw_foreach"}
        yield Training(
            QWEN,
            "Qwen finetune.py",
            f"{row['method']} {int(row['seq_len'])}",
            request,
            peak=row["peak_mem_gb"] * GB / qwen_gpus(row),
            counted="used",
        )


# torchtune's loss comes in eight chunks that are kept, unless its table is older or says otherwise
CHUNKED = {"loss": "chunked_kept", "loss_chunks": 8}
TUNED: Mapping[str, Any] = {"kernels": "fused", "precision": "pure", **CHUNKED}
WHOLE_LOSS: Mapping[str, Mapping[str, Any]] = {
    "Packed Dataset": {"kernels": "eager", "loss": "eager", "loss_chunks": 1},
    "Compile": {"loss": "eager", "loss_chunks": 1},
}
IN_BACKWARD = ("Fuse optimizer step into backward", "Activation Offloading", "8-bit AdamW")


def _torchtune(root: Path) -> Iterator[Training]:
    for row in torchtune_rows(root):
        if not row.request and row.method != "Activation Offloading":
            yield left_out(TORCHTUNE, "torchtune", "padding whose lengths are not told")
            continue
        request = dict(row.request) or {
            **{"model": "Llama-3.2-3B", "gpu": A100, "micro_batch": 2, "seq_len": 4096, "checkpointing": "offloaded"},
            **TRAIN,
        }
        if row.method in IN_BACKWARD:
            request["optimizer_in_backward"] = True
        if row.method == "8-bit AdamW":
            request["checkpointing"] = "offloaded"
        if row.method in ("LoRA", "QLoRA") and row.model == "Llama-3.2-3B":
            request["checkpointing"] = "offloaded"
        if row.method == "LoRA" and row.gpu == "RTX-A6000":  # half again as fast as the RTX 4090: nothing is recomputed
            request["checkpointing"] = "none"
        if row.method == "Full finetune":
            request |= _full_by_torchtune(row.gpu, row.runnable_on)
        yield Training(
            TORCHTUNE,
            "torchtune",
            f"{row.runnable_on} {row.technique}",
            {**TUNED, **request, **WHOLE_LOSS.get(row.method, {})},
            peak=row.peak_gib * (GB if "405B" in row.model else GIB),
        )


def _full_by_torchtune(gpu: str, runnable_on: str) -> dict[str, Any]:
    """recipes/configs/llama3_1/*_full*.yaml: one GPU has 8-bit moments, paged where there is no room, and steps in the
    backward pass; several offload parameters (70B)."""
    if runnable_on.startswith("1x"):
        return {"optimizer": f"{'paged_' * (gpu == 'RTX-4090')}adamw_8bit", "optimizer_in_backward": True}
    return {"optimizer": "adamw", "offload": "parameters"}


TABLE = Table("training_peaks", "memory of training, six programs", "truth", replay)
