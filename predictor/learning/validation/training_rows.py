"""Published trainings as rows of a request table: one row each, which asks for its memory and its time at once.

Sources, in the truth folder, and how their programs ran:
`torchtitan/train_throughput_memory.csv`: pytorch/torchtitan benchmarks; Llama 3 on 8 to 256 H100 of 96 GB HBM2e and
500 W, and on H200; FSDP2 of fp32 parameters in bf16, 400 Gbps of RoCE for each GPU; reserved GiB, tokens per second of
a GPU.
`torchao/memory_speed_tables.csv`: pytorch/ao documentation: torchtitan's Llama 3 8B on eight GPUs, batch 1 of 8,192
tokens; its optimizers in torchtune (on A100, sequences of Alpaca) and timm (RTX 4070 Ti SUPER); GB as PyTorch counts
them by 2**30.
`torchtune/readme_history.csv`: pytorch/torchtune README of 2024-05 (GB that PyTorch allocated) and 2024-09, whose
memory is that of its README of 2024-11; older rows do not say how long sequences were.
`litgpt/resource_tables.csv`: Lightning-AI/litgpt tutorials/resource-tables.md; finetune/lora.py on Alpaca: rank 8 at
queries and values, whose indices every layer copies to the GPU, so that the host waits (lit_gpt/lora.py: zero_pad);
dropout 0.05, micro-batches of 128 in all, the longest sequence first, logits in chunks of 128, no checkpointing on
one GPU, of every layer under FSDP, which leaves frozen weights gathered (its hooks hang on gradients); bitsandbytes
of 2023; 10**9 bytes allocated, on A100s with 40 GB, which the rows out of memory tell; minutes of a thousand micro-
batches.
`gpu_test_h100_a100_pro6000/finetune_memory_speed.csv`: Universal LLM Trainer, Transformers 4.49, two full sequences of
8,192 tokens, loss of logits as they are, QLoRA in fp32; FSDP that offloads and adds up gradients whole; GiB in use.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from predictor.hardware.gpu import get_gpu
from predictor.learning.validation.finetune import A100, impossible
from predictor.learning.validation.replay import records, stated_length
from predictor.units import GB, GIB
from predictor.workloads.models import get_model
from predictor.workloads.request import Request
from predictor.workloads.requested import training_setting

TORCHTITAN, TORCHAO = "torchtitan/train_throughput_memory.csv", "torchao/memory_speed_tables.csv"
TORCHTUNE_HISTORY, LITGPT = "torchtune/readme_history.csv", "litgpt/resource_tables.csv"
UNIVERSAL = "gpu_test_h100_a100_pro6000/finetune_memory_speed.csv"
TRAIN: Mapping[str, Any] = {"phase": "train"}


class Training(NamedTuple):
    """A published training: the row of a request table that asks for it, and what was measured of it.

    peak: bytes on each GPU, None where none is told; counted: "allocated" or "reserved" by PyTorch, or "used" as the
    driver says; failed: it ran out of memory. speed: "step_s" or "tokens_per_s" of all GPUs, with its number. no_peak,
    no_speed: why memory and time are left out; "" where they are not. fitted: its speed chose a constant.
    """

    table: str
    program: str
    case: str
    request: Mapping[str, Any] = {}
    peak: float | None = None
    counted: str = "allocated"
    failed: bool = False
    speed: tuple[str, float] | None = None
    no_peak: str = ""
    no_speed: str = ""
    fitted: bool = False


def left_out(table: str, program: str, reason: str, case: str = "") -> Training:
    """A row that no request asks for."""
    return Training(table, program, case, no_peak=reason, no_speed=reason)


GRAND_TETON = "H100, mem_gib=96, mem_bandwidth_gb_per_s=2400, tdp_w=500"
TITAN: Mapping[str, Any] = {
    **{"model": "Llama-3.1-8B", "gpu": GRAND_TETON, **TRAIN, "zero_stage": 3, "dp": 8, "micro_batch": 2},
    **{"seq_len": 8192, "precision": "fsdp", "checkpointing": "selective_ops", "kernels": "eager", "loss": "eager"},
    **{"attention": "sdpa", "node_link": "roce-400"},
}
COMPILED = {"kernels": "fused", "loss": "eager"}
ALL_COMPILED = {"kernels": "fused", "loss": "fused"}  # since 2025-05
SCALINGS = {
    "none (bfloat16)": "bf16",
    "None (bfloat16)": "bf16",
    "tensorwise with float8 all-gather": "fp8",
    "float8 tensorwise (f8 all-gather)": "fp8",
    "float8 tensorwise": "fp8",
    "mxfp8_cublas": "mxfp8",
    "mxfp8_cublas_rceil": "mxfp8",
}
BY_ROWS = "a scale for each row or block of a product"


def torchtitan(root: Path) -> Iterator[Training]:
    """Of the five tables of its benchmarks."""
    for row in records(pd.read_csv(root / TORCHTITAN)):
        context, techniques, scaling = row["context"], str(row["Techniques"]), row["Quantization"]
        request = {**TITAN, **(COMPILED if "compile" in techniques + context else {})}
        speed, no_speed = row["TPS/GPU"], "asynchronous tensor parallelism" if "Async" in techniques else ""
        if "loat8" in techniques + context + str(row["note"]):
            request["dtype"] = "fp8"
        if "Table 2" in context:
            dp, cp = map(int, re.findall(r"\d+", row["Parallelism"]))
            length = int(row["Sequence Length"])
            request |= {"dp": dp, "cp": cp, "seq_len": length, "micro_batch": 1, "checkpointing": "full"}
            request |= {"cp_comm_type": "all_gather"} if cp > 1 else {}
            request |= stated_length(request["model"], length)
        elif "Table 3" in context:
            request["dp"] = 128
        elif "Table 4" in context:
            request |= {"model": "Llama-3.1-70B", "dp": 32, "tp": 8, "micro_batch": 16, "checkpointing": "full"}
            request["sequence_parallel"] = 1
        elif row["gpu"] == "H200":
            request |= {**ALL_COMPILED, "gpu": "H200", "dp": int(row["NUM_NODES"]) * 8}
        elif isinstance(scaling, str):
            ((dp, tp, batch),) = re.findall(r"FSDP=(\d+), TP=(\d+),.* batch size (\d+)", context)
            request |= {**ALL_COMPILED, "dtype": SCALINGS.get(scaling, "fp8"), "sequence_parallel": 1}
            request |= {"dp": int(dp), "tp": int(tp), "micro_batch": int(batch)}
            if "Llama3 70b" in context:
                request |= {"model": "Llama-3.1-70B", "checkpointing": "full"}
            speed, no_speed = row["Vanilla TP tokens/sec"], "" if scaling in SCALINGS else BY_ROWS
        gpus = request["dp"] * request.get("tp", 1) * request.get("cp", 1)
        yield Training(
            TORCHTITAN,
            "torchtitan",
            f"{context[:40]} {techniques} {row['Parallelism']} {row['NUM_NODES']}",
            request,
            peak=row["Memory(GiB)"] * GIB if row["Memory(GiB)"] > 0 else None,
            counted="reserved",
            speed=("tokens_per_s", float(speed) * gpus),
            no_speed=no_speed,
            fitted="FSDP 8 CP 1" in str(row["Parallelism"]),
        )


# "Power limited B200" (torchao/prototype/mx_formats/README.md), to what is not told; first it said B100, whose board
# takes 700 W.
LIMITED_B200 = "B200-SXM-180GB, tdp_w=700"
TORCHAO_GPUS = {"NVIDIA H100": GRAND_TETON, "AMD MI300x": "MI300X", "NVIDIA B200": LIMITED_B200}
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
VIT_TOKENS = 257  # of an image: 16 x 16 patches and one for the class


def torchao(root: Path) -> Iterator[Training]:
    """Of number formats in torchtitan, and of optimizers in timm and torchtune."""
    for row in records(pd.read_csv(root / TORCHAO, low_memory=False)):
        section = str(row["section"])
        if "e2e" in section and row["Model"] == "Llama3-8b":
            yield _formats(row, next(gpu for name, gpu in TORCHAO_GPUS.items() if name in section))
        elif row["AdamW impl"] in AO_OPTIMIZERS:
            yield _vision(row) if pd.notna(row["imgs/s"]) else _alpaca(row)
        elif isinstance(row["Time per step"], str):
            yield _offloaded(row)
        elif isinstance(row["Configuration"], str) and "8 H100s" in section:
            yield _without_compiler(row, section)
        elif "rain" in section and not row["time_us"] > 0:
            yield left_out(TORCHAO, "torchao", "a model of torchao that is not described")


def _formats(row: Mapping[str, Any], gpu: str) -> Training:
    scaling = str(row["Scaling"])
    compiled = COMPILED if gpu == GRAND_TETON else ALL_COMPILED
    return Training(
        TORCHAO,
        "torchao",
        scaling,
        {**TITAN, **compiled, "gpu": gpu, "micro_batch": 1, "dtype": SCALINGS.get(scaling, "fp8")},
        peak=row["Peak Memory (GB)"] * GIB,
        counted="reserved",
        speed=("tokens_per_s", 8 * float(row["Median tokens/second"])),
        no_speed="" if scaling in SCALINGS else BY_ROWS,
    )


def _vision(row: Mapping[str, Any]) -> Training:
    own = row["AdamW impl"] not in ("PyTorch (fused)", "bnb 8-bit")
    request = {"model": "vit_h_14", "gpu": "RTX-4070-Ti-SUPER", **TRAIN, "optimizer": AO_OPTIMIZERS[row["AdamW impl"]]}
    request |= {
        "micro_batch": 8,
        "dtype": "bf16",
        "precision": "amp",
        "kernels": "fused",
        "loss": "fused",
        "attention": "sdpa",
    }
    left = "optimizers in 8 and 4 bits that a compiler makes" if own else ""
    return _optimizer(row, request, VIT_TOKENS * float(row["imgs/s"]), left)


def _alpaca(row: Mapping[str, Any]) -> Training:
    request = {"model": "Llama-2-7b-hf", "gpu": A100, **TRAIN, "optimizer": AO_OPTIMIZERS[row["AdamW impl"]]}
    request |= {"micro_batch": 2, "seq_len": 512, "checkpointing": "full"}
    request |= {"precision": "pure", "kernels": "fused", "loss": "fused", "attention": "sdpa"}
    left = "tokens per second of sequences whose lengths are not told"
    return _optimizer(row, request, float(row["toks/s"]), left)


def _optimizer(row: Mapping[str, Any], request: Mapping[str, Any], tokens_per_s: float, no_speed: str) -> Training:
    """A row of a table of optimizers."""
    peak = float(row["Peak memory allocated (GB)"]) * GIB
    case, speed = row["AdamW impl"], ("tokens_per_s", tokens_per_s)
    return Training(TORCHAO, "torchao", case, request, peak=peak, speed=speed, no_speed=no_speed)


def _offloaded(row: Mapping[str, Any]) -> Training:
    amp, compiled = ("AMP" in str(row["Training config"]), "compiled" in str(row["Training config"]))
    failed = row["Max memory"] == "OOM"
    request = {
        **{"model": "facebook/dinov2-giant", "image_size": 224, "gpu": "RTX-4070-Ti-SUPER", **TRAIN},
        **{"micro_batch": 32, "checkpointing": "full", "precision": "amp" if amp else "pure"},
        **{"kernels": "fused" if compiled else "eager", "attention": "sdpa", "dtype": "bf16", "loss": "eager"},
        "offload": AO_OFFLOADS.get(row["Adam offload"], "none"),
    }
    return Training(
        TORCHAO,
        "torchao",
        f"offload {row['Adam offload']} {row['Training config']}",
        request,
        peak=None if failed else float(row["Max memory"].split()[0]) * GIB,
        failed=failed,
        speed=None if failed else ("step_s", float(row["Time per step"].removesuffix("s/it"))),
    )


def _without_compiler(row: Mapping[str, Any], section: str) -> Training:
    configuration = row["Configuration"]
    checkpointing = next(way for name, way in AO_CHECKPOINTING.items() if f"> {name}" in section or name in section)
    request = {**TITAN, **checkpointing, "micro_batch": 1, "seq_len": 4096}
    if configuration.endswith("torch.compile"):
        request |= COMPILED
    if "float8" in configuration:
        request["dtype"] = "fp8"
    return Training(
        TORCHAO,
        "torchao",
        f"{section[-40:]} {configuration}",
        request,
        peak=row["Peak memory (GB)"] * GIB,
        counted="reserved",
        speed=("tokens_per_s", 8 * float(row["Throughput (Median Tokens/s)"]))
        if row["Throughput (Median Tokens/s)"] > 0
        else None,
    )


HISTORY_GPUS = {"RTX 4090": "RTX-4090", "4090": "RTX-4090", "A6000": "RTX-A6000", "A100": A100}
IN_HOST = "optimizer state or weights in host memory"


def torchtune_history(root: Path) -> Iterator[Training]:
    """The README of 2024-05, compiled by nobody, the loss whole, and of 2024-09, compiled."""
    for row in records(pd.read_csv(root / TORCHTUNE_HISTORY)):
        of_may = isinstance(row["Setting"], str)
        if not of_may and pd.isna(row["Tokens/sec"]):
            reason = "torchtune's older tables: lengths are not told, or as in its README"
            yield Training(TORCHTUNE_HISTORY, "torchtune", "", no_peak=reason)
            continue
        count, card = re.split(r" ?x ", str(row["Example HW Resources"] if of_may else row["Runnable On"]))
        batch, length = map(int, re.findall(r"\d+", row["Setting"])) if of_may else (2, 2048)
        method = row["Finetuning Method"].rstrip(" *")
        request: dict[str, Any] = {
            **{"model": _of_hub(row["Model"]), "gpu": HISTORY_GPUS[card], **TRAIN, "micro_batch": batch},
            **{"seq_len": length, "checkpointing": "full", "precision": "pure", "attention": "sdpa"},
            **{"kernels": "eager" if of_may else "fused", "loss": "eager_kept" if of_may else "chunked_kept"},
            "method": "full" if "ull" in method else method.lower(),
        }
        if request["method"] != "full":
            request |= {"lora_rank": 8, "lora_targets": "qv" if of_may else "all"}
        if not of_may:
            request["loss_chunks"] = 8
        if count != "1":
            request |= {"dp": int(count), "zero_stage": 3}
        elif request["method"] == "full":
            paged = "" if card == "A6000" else "paged_"
            request |= {"optimizer": f"{paged}adamw_8bit", "optimizer_in_backward": True}
        speed = float(row["Training Speed (tokens/sec"] if of_may else row["Tokens/sec"])
        setting = training_setting(Request.of(request), get_model(request["model"]))
        too_fast = impossible(request["model"], get_gpu(request["gpu"]), setting, speed)
        peak = str(row["Peak Memory per GPU (GB"]).split()[0] if of_may else "nan"
        yield Training(
            TORCHTUNE_HISTORY,
            "torchtune",
            f"{count} x {card} {method} {batch} {length}",
            request,
            peak=float(peak) * GB,
            speed=("tokens_per_s", speed),
            no_peak="" if of_may else "torchtune's older tables: lengths are not told, or as in its README",
            no_speed=IN_HOST if request["method"] == "full" and card != "A6000" else too_fast,
            fitted=of_may and request["method"] == "qlora",
        )


def _of_hub(name: str) -> str:
    """
    >>> _of_hub("Llama2-7B"), _of_hub("Llama 3.1 8B")
    ('Llama-2-7b-hf', 'Llama-3.1-8B')
    """
    if name.startswith("Llama2-"):
        return name.replace("Llama2-", "Llama-2-").replace("B", "b") + "-hf"
    return name.replace(" ", "-")


LITGPT_MODELS = {
    ("1.3 B", "phi-1.5"): "phi-1.5",
    ("3 B", "StableLM Alpha"): "stablelm-base-alpha-3b",
    ("7 B", "Llama 2"): "Llama-2-7b-hf",
    ("13 B", "Llama 2"): "Llama-2-13b-hf",
    ("40 B", "Falcon"): "falcon-40b",
}
# Tokens of the longest sequence of Alpaca by the tokenizer of Llama 2 and by the others: what the rise from a
# micro-batch of one to two comes to (Llama 2 7B, phi-1.5); with their template sequences have about 128 in the mean.
LONGEST_LLAMA, LONGEST, MEAN = 1540, 1304, 128
LITGPT_CHUNK = 128
LITGPT_BATCH = 128
ONE_KERNEL = (
    "phi-1.5",
    "falcon-40b",
    "stablelm-base-alpha-3b",
)  # for LayerNorm and for GELU; RMSNorm and SwiGLU are written out


def litgpt(root: Path) -> Iterator[Training]:
    """LoRA and QLoRA on Alpaca, on one to four A100."""
    for row in records(pd.read_csv(root / LITGPT)):
        model = LITGPT_MODELS.get((row["size"], row["model"]))
        if row["method"] != "LoRA":
            if isinstance(row["model"], str):
                yield left_out(LITGPT, "LitGPT", "inference, and adapters that are not of low rank")
            continue
        if model is None or not (row["max_gpu_ram_gb"] > 0 or row["oom"]):
            continue
        gpus, quantised = int(row["gpu_raw"].split()[0]), isinstance(row["quant"], str)
        length = LONGEST_LLAMA if "Llama" in model else LONGEST
        passes = LITGPT_BATCH // int(row["micro_batch"]) // gpus
        request = {
            **{"model": model, "gpu": "A100-SXM-40GB", "method": "qlora" if quantised else "lora", **TRAIN},
            **{"lora_rank": 8, "lora_targets": "qv", "lora_dropout": 0.05, "micro_batch": int(row["micro_batch"])},
            **{"seq_len": length, "mean_seq_len": MEAN, "padding": "longest", "grad_accum": passes},
            "kernels": "library" if model in ONE_KERNEL else "eager",
            **{"precision": "pure", "attention": "sdpa", "optimizer": "adamw_foreach", "dtype": "bf16"},
            **{"loss": "chunked_kept", "loss_chunks": -(-length // LITGPT_CHUNK), "host_waits": True},
        }
        if quantised:
            request |= {"double_quant": row["quant"].endswith("dq"), "bitsandbytes_version": "0.41"}
        if gpus > 1:
            request |= {"dp": gpus, "zero_stage": 3, "checkpointing": "full", "reshard_after_forward": False}
        minutes = row["time_1k_iters_min"]
        yield Training(
            LITGPT,
            "LitGPT",
            f"{row['quant']} {row['micro_batch']:g} {gpus}",
            request,
            peak=None if row["oom"] else row["max_gpu_ram_gb"] * GB,
            failed=bool(row["oom"]),
            speed=("step_s", float(minutes) * 60 / 1000 * passes) if minutes > 0 else None,
            fitted=quantised,
        )


UNIVERSAL_MODELS = {
    **{"Llama 3.1 8B": "Llama-3.1-8B", "Llama 3 8B": "Meta-Llama-3-8B", "Llama 3.1 70B": "Llama-3.1-70B"},
    **{"Llama 2 13B": "Llama-2-13b-hf", "Gemma 2 9B": "gemma-2-9b", "Gemma 7B": "gemma-7b"},
    **{"Phi3-mini (3.8B)": "Phi-3-mini-128k-instruct"},
}
UNIVERSAL_GPUS = {"H100": "H100-SXM-80GB", "A100": "A100-SXM-80GB", "Pro 6000": "RTX-PRO-6000-Workstation"}


def universal(root: Path) -> Iterator[Training]:
    """Full, LoRA and QLoRA of six models. What a step of it is, and what attention masks, is not described."""
    for row in records(pd.read_csv(root / UNIVERSAL)):
        method, model = row["method"].lower(), UNIVERSAL_MODELS[row["model"]]
        request = {
            **{"model": model, "gpu": UNIVERSAL_GPUS[row["gpu"]], "method": method, **TRAIN},
            **{"micro_batch": int(row["batch"]), "seq_len": int(row["seq_len"]), "grad_accum": int(row["grad_accum"])},
            **{"checkpointing": "full", "precision": "pure", "kernels": "eager", "loss": "plain"},
            # keys and values are repeated for every head, so that PyTorch's attention keeps no scores in fp32 either
            **{"attention": "flash2", "optimizer": "adamw_foreach", "dtype": "fp32" if method == "qlora" else "bf16"},
            **stated_length(model, int(row["seq_len"])),
        }
        if method == "qlora":
            request |= {"double_quant": False}
        if method == "lora":  # PEFT: autocast_adapter_dtype
            request |= {"adapter_dtype": "fp32"}
        if "FSDP" in row["strategy"]:
            request |= {"dp": int(row["n_gpus"]), "zero_stage": 3, "offload": "parameters", "no_sync": True}
        yield Training(
            UNIVERSAL,
            "Universal LLM Trainer",
            f"{row['method']} {row['gpu']}",
            request,
            peak=None if row["oom"] else row["peak_mem_gib"] * GIB,
            counted="used",
            failed=bool(row["oom"]),
            no_speed="a step, and attention under its mask, that are not described" if row["s_per_step"] > 0 else "",
        )


TABLES: tuple[Callable[[Path], Iterator[Training]], ...] = (torchtune_history, litgpt, torchtitan, torchao, universal)
