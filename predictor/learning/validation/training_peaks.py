"""Peaks of memory that programs published of training, replayed as rows of a request table.

Sources, in the truth folder, and how their programs ran:
`qwen/qwen1_finetune_memory_speed.csv`: QwenLM/Qwen README; finetune.py with PEFT and DeepSpeed; GB in use.
`torchtune/readme_memory_speed.csv`, `readme_history.csv`: pytorch/torchtune README of 2024-11 and 2024-05; GiB, in the
older one GB, that PyTorch allocated. Older rows do not say how long sequences were.
`litgpt/resource_tables.csv`: Lightning-AI/litgpt tutorials/resource-tables.md; finetune/lora.py on Alpaca: rank 8 at
queries and values, dropout 0.05, micro-batches of 128 in all, the longest sequence first, logits in chunks of 128, no
checkpointing on one GPU, of every layer under FSDP, which leaves frozen weights gathered (its hooks hang on gradients);
bitsandbytes of 2023; 10**9 bytes allocated, on A100s with 40 GB, which the rows out of memory tell.
`torchtitan/train_throughput_memory.csv`: pytorch/torchtitan benchmarks; FSDP2 of fp32 parameters in bf16; reserved GiB.
`torchao/memory_speed_tables.csv`: pytorch/ao documentation: torchtitan's Llama 3 8B on eight GPUs, batch 1 of 8,192
tokens, its optimizers in torchtune and timm; GB as PyTorch counts them by 2**30.
`gpu_test_h100_a100_pro6000/finetune_memory_speed.csv`: Universal LLM Trainer, Transformers 4.49, two full sequences of
8,192 tokens, loss of logits as they are, QLoRA in fp32; FSDP that offloads and adds up gradients whole; GiB in use.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from predictor.errors import PredictorError
from predictor.estimators.bundle import Bundle
from predictor.latency.report import Interval
from predictor.learning.validation.finetune import A100, QWEN, TORCHTUNE, qwen_gpus, qwen_setting, torchtune_rows
from predictor.learning.validation.replay import Figure, Replay, Table, half, records
from predictor.memory.training import spread_of
from predictor.prediction.footprint import footprint
from predictor.prediction.single import resolve
from predictor.units import GB, GIB
from predictor.workloads.models import get_model
from predictor.workloads.request import Request
from predictor.workloads.requested import training_setting

TORCHTUNE_HISTORY = "torchtune/readme_history.csv"
LITGPT, TORCHTITAN = "litgpt/resource_tables.csv", "torchtitan/train_throughput_memory.csv"
TORCHAO = "torchao/memory_speed_tables.csv"
UNIVERSAL = "gpu_test_h100_a100_pro6000/finetune_memory_speed.csv"
TRAIN: Mapping[str, Any] = {"phase": "train"}


# Columns that say how a program trains, beyond what its user chooses.
OF_PROGRAMS = frozenset(
    {
        *("kernels", "loss", "loss_chunks", "attention", "lora_dropout", "bitsandbytes_version", "double_quant"),
        *("no_sync", "prefetch", "reshard_after_forward", "adapter_dtype"),
    }
)


class Peak(NamedTuple):
    """A published peak, in bytes on each GPU; None of a run that failed for want of memory.

    counted: "allocated" or "reserved" by PyTorch, or "used" as the driver says. program: what trained.
    """

    table: str
    program: str
    case: str
    measured: float | None
    counted: str
    request: Mapping[str, Any]


def replay(root: Path, bundle: Bundle, stated: bool = True) -> Replay:
    """A figure per published peak: memory_bytes of one GPU; p_oom, which should be 1, of runs that failed.

    stated: whether requests say how the program trains; else they leave out what its user does not choose.
    """
    figures, skipped = list[Figure](), Counter[str]()
    for table in (_qwen, _torchtune, _torchtune_history, _litgpt, _torchtitan, _torchao, _universal):
        for peak in table(root):
            if isinstance(peak, str):
                skipped[peak] += 1
                continue
            if not stated:
                left = {name: value for name, value in peak.request.items() if name not in OF_PROGRAMS}
                peak = peak._replace(request=left)
            try:
                figures.append(_figure(peak, bundle))
            except PredictorError as error:
                skipped[str(error)] += 1
    return Replay(figures, skipped)


def _figure(peak: Peak, bundle: Bundle) -> Figure:
    resolved = resolve(Request.of(peak.request))
    need, setting = footprint(resolved, bundle).row(), training_setting(resolved.request, resolved.model)
    total, risk = need["memory_bytes"], need["p_oom"]
    beside = {"used": 0.0, "reserved": need["runtime_bytes"]}.get(
        peak.counted, need["runtime_bytes"] + need["fragmentation_bytes"]
    )
    value = total - beside
    if peak.measured is None:
        predicted = Interval(risk, float("nan"), float("nan"))
    else:
        low, high = (need[f"memory_bytes_{end}"] * value / total for end in ("low", "high"))
        predicted = Interval(value, low, high)
    resident = need["weights_bytes"] + need["optimizer_bytes"] + need["gathered_bytes"]
    share = (need["closed_form_bytes"] - need["runtime_bytes"] - resident) / total
    return Figure(
        table=peak.table,
        gpu=resolved.gpu.name,
        model=resolved.model.name,
        engine=peak.program,
        metric="p_oom" if peak.measured is None else "memory_bytes",
        measured=1.0 if peak.measured is None else peak.measured,
        predicted=predicted,
        fitted=half(peak.table, resolved.model.name, peak.program, peak.case),
        closed=None
        if peak.measured is None
        else need["closed_form_bytes"] - (need["runtime_bytes"] if beside else 0.0),
        request=dict(peak.request),
        settings={"case": peak.case, "kind": spread_of(setting), "share": share, "p_oom": risk},
    )


def _qwen(root: Path) -> Iterator[Peak | str]:
    for row in records(pd.read_csv(root / QWEN)):
        if (setting := qwen_setting(row)) is None:
            yield "the network between the servers is not stated"
            continue
        names = ("method", "lora_rank", "seq_len", "grad_accum", "checkpointing", "zero_stage", "dp", "prefetch")
        request = {name: getattr(setting, name) for name in (*names, "train_embeddings", "quantization", "dtype")}
        request |= {"model": row["model"], "gpu": A100, "kernels": setting.kernels, "loss": "plain", **TRAIN}
        if setting.seq_len > get_model(row["model"]).max_len:
            request["max_model_len"] = setting.seq_len
        if row["method"] in ("LoRA", "LoRA (emb)"):  # without DeepSpeed: 16 bits, the loss in fp32 under autocast
            request |= {"kernels": "eager", "loss": "eager", "precision": "pure", "optimizer": "adamw_foreach"}
        yield Peak(
            QWEN,
            "Qwen finetune.py",
            f"{row['method']} {int(row['seq_len'])}",
            row["peak_mem_gb"] * GB / qwen_gpus(row),
            "used",
            request,
        )


# torchtune's loss comes in eight chunks that are kept, unless its table is older or says otherwise
CHUNKED = {"loss": "chunked_kept", "loss_chunks": 8}
TUNED: Mapping[str, Any] = {"kernels": "fused", "precision": "pure", **CHUNKED}
WHOLE_LOSS: Mapping[str, Mapping[str, Any]] = {
    "Packed Dataset": {"kernels": "eager", "loss": "eager", "loss_chunks": 1},
    "Compile": {"loss": "eager", "loss_chunks": 1},
}
IN_BACKWARD = ("Fuse optimizer step into backward", "Activation Offloading", "8-bit AdamW")


def _torchtune(root: Path) -> Iterator[Peak | str]:
    for row in torchtune_rows(root):
        if not row.request and row.method != "Activation Offloading":
            yield "padding whose lengths are not told"
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
        yield Peak(
            TORCHTUNE,
            "torchtune",
            f"{row.runnable_on} {row.technique}",
            row.peak_gib * (GB if "405B" in row.model else GIB),
            "allocated",
            {**TUNED, **request, **WHOLE_LOSS.get(row.method, {})},
        )


def _full_by_torchtune(gpu: str, runnable_on: str) -> dict[str, Any]:
    """recipes/configs/llama3_1/*_full*.yaml: one GPU has 8-bit moments, paged where there is no room, and steps in the
    backward pass; several offload parameters (70B)."""
    if runnable_on.startswith("1x"):
        return {"optimizer": f"{'paged_' * (gpu == 'RTX-4090')}adamw_8bit", "optimizer_in_backward": True}
    return {"optimizer": "adamw", "offload": "parameters"}


HISTORY_GPUS = {"RTX 4090": "RTX-4090", "A100": A100, "A6000": "RTX-A6000"}


def _torchtune_history(root: Path) -> Iterator[Peak | str]:
    """The table of 2024-05: sequences of 2,048 tokens, compiled by nobody, the loss whole."""
    for row in records(pd.read_csv(root / TORCHTUNE_HISTORY)):
        if not isinstance(row["Setting"], str):
            yield "torchtune's older tables: lengths are not told, or as in its README"
            continue
        count, card = re.fullmatch(r"(\d+) x (.*)", row["Example HW Resources"]).groups()  # type: ignore[union-attr]
        batch, length = map(int, re.findall(r"\d+", row["Setting"]))
        method = row["Finetuning Method"].rstrip(" *")
        request = {
            **{"model": row["Model"].replace("Llama2-", "Llama-2-") + "-hf", "gpu": HISTORY_GPUS[card], **TRAIN},
            **{"micro_batch": batch, "seq_len": length, "checkpointing": "full", "precision": "pure"},
            **{"kernels": "eager", "loss": "eager_kept", "attention": "sdpa", "lora_rank": 8, "lora_targets": "qv"},
            "method": "full" if "ull" in method else method.lower(),
        }
        request["model"] = request["model"].replace("7B", "7b").replace("70B", "70b")
        if count != "1":
            request |= {"dp": int(count), "zero_stage": 3}
        elif request["method"] == "full":
            request |= {"optimizer": "paged_adamw_8bit", "optimizer_in_backward": True}
        yield Peak(
            TORCHTUNE_HISTORY,
            "torchtune",
            f"{row['Example HW Resources']} {method} {batch} {length}",
            float(row["Peak Memory per GPU (GB"].split()[0]) * GB,
            "allocated",
            request,
        )


LITGPT_MODELS = {
    ("1.3 B", "phi-1.5"): "phi-1.5",
    ("3 B", "StableLM Alpha"): "stablelm-base-alpha-3b",
    ("7 B", "Llama 2"): "Llama-2-7b-hf",
    ("13 B", "Llama 2"): "Llama-2-13b-hf",
    ("40 B", "Falcon"): "falcon-40b",
}
# Tokens of the longest sequence of Alpaca by the tokenizer of Llama 2 and by the others: what the rise from a
# micro-batch of one to two comes to (Llama 2 7B, phi-1.5).
LONGEST_LLAMA, LONGEST = 1540, 1304
LITGPT_CHUNK = 128
ONE_KERNEL = ("phi-1.5", "falcon-40b")  # for LayerNorm and for GELU; RMSNorm and SwiGLU are written out


def _litgpt(root: Path) -> Iterator[Peak | str]:
    for row in records(pd.read_csv(root / LITGPT)):
        model = LITGPT_MODELS.get((row["size"], row["model"]))
        if row["method"] != "LoRA":
            if isinstance(row["model"], str):
                yield "inference, and adapters that are not of low rank"
            continue
        if model is None or not (row["max_gpu_ram_gb"] > 0 or row["oom"]):
            continue
        gpus, quantised = int(row["gpu_raw"].split()[0]), isinstance(row["quant"], str)
        length = LONGEST_LLAMA if "Llama" in model else LONGEST
        request = {
            **{"model": model, "gpu": "A100-SXM-40GB", "method": "qlora" if quantised else "lora", **TRAIN},
            **{"lora_rank": 8, "lora_targets": "qv", "lora_dropout": 0.05, "micro_batch": int(row["micro_batch"])},
            **{"seq_len": length, "grad_accum": 128 // int(row["micro_batch"]) // gpus},
            "kernels": "library" if model in ONE_KERNEL else "eager",
            **{"precision": "pure", "attention": "sdpa", "optimizer": "adamw_foreach", "dtype": "bf16"},
            **{"loss": "chunked_kept", "loss_chunks": -(-length // LITGPT_CHUNK)},
        }
        if quantised:
            request |= {"double_quant": row["quant"].endswith("dq"), "bitsandbytes_version": "0.41"}
        if gpus > 1:
            request |= {"dp": gpus, "zero_stage": 3, "checkpointing": "full", "reshard_after_forward": False}
        yield Peak(
            LITGPT,
            "LitGPT",
            f"{row['quant']} {row['micro_batch']:g} {gpus}",
            None if row["oom"] else row["max_gpu_ram_gb"] * GB,
            "allocated",
            request,
        )


TITAN: Mapping[str, Any] = {
    **{"model": "Llama-3.1-8B", "gpu": "H100-SXM-96GB", **TRAIN, "zero_stage": 3, "dp": 8, "micro_batch": 2},
    **{"seq_len": 8192, "precision": "fsdp", "checkpointing": "selective_ops", "kernels": "eager", "loss": "eager"},
    "attention": "sdpa",
}
COMPILED = {"kernels": "fused", "loss": "eager"}
ALL_COMPILED = {"kernels": "fused", "loss": "fused"}  # since 2025-05


def _torchtitan(root: Path) -> Iterator[Peak | str]:
    for row in records(pd.read_csv(root / TORCHTITAN)):
        if not row["Memory(GiB)"] > 0:
            continue
        context, techniques = row["context"], str(row["Techniques"])
        request = {**TITAN, **(COMPILED if "compile" in techniques + context else {})}
        if "Float8" in techniques + context or "float8" in str(row["note"]):
            request["dtype"] = "fp8"
        if "Table 2" in context:
            dp, cp = map(int, re.findall(r"\d+", row["Parallelism"]))
            length = int(row["Sequence Length"])
            request |= {"dp": dp, "cp": cp, "seq_len": length, "micro_batch": 1, "checkpointing": "full"}
            request["max_model_len"] = length
        elif "Table 3" in context:
            request["dp"] = 128
        elif "Table 4" in context:
            request |= {"model": "Llama-3.1-70B", "dp": 32, "tp": 8, "micro_batch": 16, "checkpointing": "full"}
            request["sequence_parallel"] = 1
        elif row["gpu"] == "H200":
            request |= {**ALL_COMPILED, "gpu": "H200", "dp": int(row["NUM_NODES"]) * 8}
        case = f"{context[:40]} {techniques} {row['Parallelism']} {row['NUM_NODES']}"
        yield Peak(TORCHTITAN, "torchtitan", case, row["Memory(GiB)"] * GIB, "reserved", request)


TORCHAO_GPUS = {"NVIDIA H100": "H100-SXM-96GB", "AMD MI300x": "MI300X", "NVIDIA B200": "B200-SXM-180GB"}
AO_OPTIMIZERS = {
    **{"PyTorch (fused)": "adamw", "bnb 8-bit": "adamw_8bit", "ao 8-bit": "adamw_8bit", "ao FP8 E4M3": "adamw_fp8"},
    **{"lpmm 4-bit": "adamw_4bit", "ao 4-bit": "adamw_4bit"},
}
AO_OFFLOADS = {"ao": "optimizer", "DeepSpeed ZeRO-Offload": "optimizer", "ao (offload gradients)": "gradients"}
AO_CHECKPOINTING: Mapping[str, Mapping[str, Any]] = {
    "No AC": {"checkpointing": "none"},
    "AC every 2nd": {"checkpointing": "full", "checkpoint_every": 2},
    "Full AC": {"checkpointing": "full"},
}


def _torchao(root: Path) -> Iterator[Peak | str]:
    for row in records(pd.read_csv(root / TORCHAO, low_memory=False)):
        section, case, request, peak = str(row["section"]), "", dict[str, Any](), float("nan")
        if "training benchmarks" in section and row["Model"] == "Llama3-8b":
            gpu = next(gpu for name, gpu in TORCHAO_GPUS.items() if name in section)
            request = {**TITAN, **(COMPILED if gpu == "H100-SXM-96GB" else ALL_COMPILED), "gpu": gpu, "micro_batch": 1}
            case, peak = str(row["Scaling"]), row["Peak Memory (GB)"]
            if "none" not in case:
                request["dtype"] = "mxfp8" if "mxfp8" in case else "fp8"
        elif isinstance(row["AdamW impl"], str) and row["AdamW impl"] in AO_OPTIMIZERS:
            case, peak = row["AdamW impl"], float(row["Peak memory allocated (GB)"])
            vision = "ViT-H" in row["context"]
            request = {**TRAIN, "gpu": A100, "optimizer": AO_OPTIMIZERS[case], "attention": "sdpa", "loss": "fused"}
            request |= (
                {"model": "vit_h_14", "micro_batch": 8, "precision": "amp", "kernels": "fused"}
                if vision
                else {
                    "model": "Llama-2-7b-hf",
                    "precision": "pure",
                    "micro_batch": 2,
                    "seq_len": 512,
                    "kernels": "fused",
                }
            )
            if not vision:
                request |= {"checkpointing": "full"}
        elif isinstance(row["Time per step"], str):
            amp, compiled = "AMP" in str(row["Training config"]), "compiled" in str(row["Training config"])
            case = f"offload {row['Adam offload']} {row['Training config']}"
            peak = float("nan") if row["Max memory"] == "OOM" else float(row["Max memory"].split()[0])
            request = {
                **{"model": "facebook/dinov2-giant", "image_size": 224, "gpu": "RTX-4070-Ti-SUPER", **TRAIN},
                **{"micro_batch": 32, "checkpointing": "full", "precision": "amp" if amp else "pure"},
                **{"kernels": "fused" if compiled else "eager", "attention": "sdpa", "dtype": "bf16", "loss": "eager"},
                "offload": AO_OFFLOADS.get(row["Adam offload"], "none"),
            }
        elif isinstance(row["Configuration"], str) and "8 H100s" in section:
            checkpointing = next(
                way for name, way in AO_CHECKPOINTING.items() if f"> {name}" in section or name in section
            )
            case, peak = f"{section[-40:]} {row['Configuration']}", row["Peak memory (GB)"]
            request = {**TITAN, **checkpointing, "micro_batch": 1, "seq_len": 4096}
            if "compile" in row["Configuration"] and "nocompile" not in row["Configuration"]:
                request |= COMPILED
            if "float8" in row["Configuration"]:
                request["dtype"] = "fp8"
        if not request:
            if "rain" in section and not row["time_us"] > 0:
                yield "a model of torchao that is not described"
            continue
        counted = "reserved" if request.get("zero_stage") else "allocated"
        yield Peak(TORCHAO, "torchao", case, peak * GIB if peak > 0 else None, counted, request)


UNIVERSAL_MODELS = {
    **{"Llama 3.1 8B": "Llama-3.1-8B", "Llama 3 8B": "Meta-Llama-3-8B", "Llama 3.1 70B": "Llama-3.1-70B"},
    **{"Llama 2 13B": "Llama-2-13b-hf", "Gemma 2 9B": "gemma-2-9b", "Gemma 7B": "gemma-7b"},
    **{"Phi3-mini (3.8B)": "Phi-3-mini-128k-instruct"},
}
UNIVERSAL_GPUS = {"H100": "H100-SXM-80GB", "A100": "A100-SXM-80GB", "Pro 6000": "RTX-PRO-6000-Workstation"}


def _universal(root: Path) -> Iterator[Peak | str]:
    for row in records(pd.read_csv(root / UNIVERSAL)):
        method, model = row["method"].lower(), UNIVERSAL_MODELS[row["model"]]
        request = {
            **{"model": model, "gpu": UNIVERSAL_GPUS[row["gpu"]], "method": method, **TRAIN},
            **{"micro_batch": int(row["batch"]), "seq_len": int(row["seq_len"]), "grad_accum": int(row["grad_accum"])},
            **{"checkpointing": "full", "precision": "pure", "kernels": "eager", "loss": "plain"},
            # keys and values are repeated for every head, so that PyTorch's attention keeps no scores in fp32 either
            **{"attention": "flash2", "optimizer": "adamw_foreach", "dtype": "fp32" if method == "qlora" else "bf16"},
        }
        if get_model(model).max_len < request["seq_len"]:
            request["max_model_len"] = request["seq_len"]
        if method == "qlora":
            request |= {"double_quant": False}
        if method == "lora":  # PEFT: autocast_adapter_dtype
            request |= {"adapter_dtype": "fp32"}
        if "FSDP" in row["strategy"]:
            request |= {"dp": int(row["n_gpus"]), "zero_stage": 3, "offload": "parameters", "no_sync": True}
        measured = None if row["oom"] else row["peak_mem_gib"] * GIB
        yield Peak(UNIVERSAL, "Universal LLM Trainer", f"{row['method']} {row['gpu']}", measured, "used", request)


TABLE = Table("training_peaks", "memory of training, six programs", "truth", replay)
