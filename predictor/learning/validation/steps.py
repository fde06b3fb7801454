"""Training steps that were published in passing, replayed through rows of a request table.

Sources, in the truth folder: pytorch/torchtitan benchmarks (`torchtitan/train_throughput_memory.csv`: Llama 3 on 8 to
256 H100 of 96 GB HBM2e and 500 W, and on H200; tokens per second of a GPU); pytorch/ao (`torchao/memory_speed_tables
.csv`: torchtitan on eight H100 (the same), MI300X or B200, one sequence of 8,192 tokens each, FSDP, compiled;
fine-tuning of vision transformers on an RTX 4070 Ti SUPER); the README of pytorch/torchtune of May and September 2024
(`torchtune/readme_history.csv`); Lightning-AI/litgpt's tutorials (`litgpt/resource_tables.csv`: LoRA of query and value
of rank 8, on Alpaca, whose sequences with their template have about 128 tokens; minutes of a thousand passes, which
wait for the host); lambdal/deeplearning-benchmark (`lambda/train_throughput.csv`: NVIDIA's ResNet-50, and BERT on
SQuAD with 384 tokens and attention as written, on V100 to A100; "fp32" is TF32 in NVIDIA's containers where a GPU has
it; a batch is that of all GPUs); and a comparison of Hugging Face fine-tuning on H100, A100 and RTX PRO 6000
(`gpu_test_h100_a100_pro6000/finetune_memory_speed.csv`), which does not say what a step is: it is taken as a pass of
two sequences of 8,192 tokens, and the rows of one model twice as once.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from predictor.estimators.bundle import Bundle
from predictor.hardware.gpu import get_gpu
from predictor.learning.validation.finetune import impossible
from predictor.learning.validation.replay import Figure, Replay, Table, half, interval, records, replayed
from predictor.workloads.models import get_model
from predictor.workloads.request import Request
from predictor.workloads.requested import training_setting

TITAN, AO = "torchtitan/train_throughput_memory.csv", "torchao/memory_speed_tables.csv"
TUNE, LITGPT = "torchtune/readme_history.csv", "litgpt/resource_tables.csv"
LAMBDA, TUNED = "lambda/train_throughput.csv", "gpu_test_h100_a100_pro6000/finetune_memory_speed.csv"

GRAND_TETON = "H100, mem_gib=96, mem_bandwidth_gb_per_s=2400, tdp_w=500"
SHARDED = {"phase": "train", "zero_stage": 3, "seq_len": 8192, "attention": "sdpa", "node_link": "roce-400"}
AO_GPUS = {"H100": GRAND_TETON, "MI300x": "MI300X", "B200": "B200"}
SCALINGS = {
    "none (bfloat16)": "bf16",
    "None (bfloat16)": "bf16",
    "tensorwise with float8 all-gather": "fp8",
    "float8 tensorwise (f8 all-gather)": "fp8",
    "float8 tensorwise": "fp8",
}
BY_ROWS = "a scale for each row or block of a product"
TUNE_GPUS = {"RTX 4090": "RTX-4090", "4090": "RTX-4090", "A6000": "RTX-A6000", "A100": "A100-SXM-80GB"}
TUNE_METHODS = {"LoRA": "lora", "QLoRA": "qlora", "QLoRA **": "qlora"}
LITGPT_MODELS = {
    ("phi-1.5", "1.3 B"): "phi-1_5",
    ("Llama 2", "7 B"): "Llama-2-7b-hf",
    ("Llama 2", "13 B"): "Llama-2-13b-hf",
}
LAMBDA_GPUS = {
    "V100 16GB": "V100-SXM2-16GB",
    "RTX 3090": "RTX-3090",
    "RTX A6000": "RTX-A6000",
    "A100 40GB PCIe": "A100-PCIe-40GB",
    "A100 80GB PCIe": "A100-PCIe-80GB",
    "A100 80GB SXM4": "A100-SXM-80GB",
}
SQUAD = {"seq_len": 384, "attention": "eager", "kernels": "library"}
LAMBDA_TASKS: Mapping[str, tuple[str, dict[str, Any]]] = {
    "resnet50": ("ResNet-50", {"optimizer": "sgd_momentum"}),
    "bert_base_squad": ("google-bert/bert-base-uncased", SQUAD),
    "bert_large_squad": ("google-bert/bert-large-uncased", SQUAD),
}
TUNED_GPUS = {"H100": "H100-SXM-80GB", "A100": "A100-SXM-80GB", "Pro 6000": "RTX-PRO-6000-Server"}
TUNED_MODELS = {
    "Llama 3.1 8B": "Llama-3.1-8B",
    "Llama 2 13B": "Llama-2-13b-hf",
    "Gemma 2 9B": "gemma-2-9b",
    "Gemma 7B": "gemma-7b",
    "Phi3-mini (3.8B)": "Phi-3-mini-128k-instruct",
}
VIT_TOKENS = 257  # of an image: 16 × 16 patches and one for the class
SQUARE = {"phase": "train", "optimizer": "adamw", "dtype": "bf16"}  # of torchao's vision transformers


class Step(NamedTuple):
    """A published step: what was measured, in the unit of `metric`, and the row of a request that asks for it.

    skipped: why it is no request; "" where it is one.
    """

    table: str
    engine: str
    metric: str
    measured: float
    request: dict[str, Any]
    skipped: str = ""


def replay(root: Path, bundle: Bundle) -> Replay:
    """A figure per published step: tokens_per_s (of a vision model images) or step_s."""
    steps = [step for read in (_titan, _ao, _tune, _litgpt, _lambda, _tuned) for step in read(root)]
    left_out = Counter(step.skipped for step in steps if step.skipped)
    taken = [step for step in steps if not step.skipped]
    return replayed(taken, lambda step: step.request, _figure, bundle, left_out)


def _figure(step: Step, answer: Mapping[str, Any]) -> list[Figure]:
    shown = ("method", "dtype", "micro_batch", "seq_len", "dp", "tp", "checkpointing", "kernels")
    return [
        Figure(
            table=step.table,
            gpu=answer["gpu"],
            model=answer["model"],
            engine=step.engine,
            metric=step.metric,
            measured=step.measured,
            predicted=interval(answer, step.metric),
            fitted=_may_be_fitted(step.request) and half(*step.request.values()),
            request=step.request,
            settings={**{name: step.request.get(name) for name in shown}, "mfu": answer["mfu"]},
        )
    ]


def _may_be_fitted(request: Mapping[str, Any]) -> bool:
    """Whether a constant was fitted on one half of such rows."""
    in_fp8 = "H100" in request["gpu"] and request.get("dtype") == "fp8"
    eager = request.get("attention") == "eager" and request["dtype"] == "fp16" and request["dp"] == 1
    return in_fp8 or eager or (request.get("method") == "qlora" and request["kernels"] == "eager")


def _titan(root: Path) -> Iterator[Step]:
    for row in records(pd.read_csv(root / TITAN)):
        context, scaling, techniques = str(row["context"]), row["Quantization"], str(row["Techniques"])
        speed, gpu, skipped = row["TPS/GPU"], GRAND_TETON, ""
        columns: dict[str, Any] = {
            "model": "Llama-3.1-8B",
            "dtype": "fp8" if "loat8" in techniques + context else "bf16",
        }
        if isinstance(scaling, str):
            columns |= {"dtype": SCALINGS.get(scaling, "fp8")}
            speed, skipped = row["Vanilla TP tokens/sec"], "" if scaling in SCALINGS else BY_ROWS
        if row["gpu"] == "H200":
            gpu, columns = "H200", {**columns, "dp": 8 * int(row["NUM_NODES"]), "micro_batch": 2, "dtype": "fp8"}
        elif sizes := re.findall(r"FSDP[ =](\d+), TP[ =](\d+)", context):
            columns |= {"dp": int(sizes[0][0]), "tp": int(sizes[0][1]), "sequence_parallel": 1}
        else:
            columns |= {"dp": int(re.findall(r"(\d+) GPUs", context)[0])}
        if "70" in context.partition(" on ")[0].partition("GPUs")[0]:
            columns["model"] = "Llama-3.1-70B"
        if batch := re.findall(r"batch size (\d+)", context):
            columns["micro_batch"] = int(batch[0])
        if "Table 1" in context or "Table 3" in context:
            columns["dtype"] = "fp8" if "Float8" in techniques else "bf16"
            columns["kernels"] = "fused" if "compile" in techniques else "eager"
        if "Table 2" in context:
            columns["seq_len"] = int(row["Sequence Length"])
            skipped = "" if str(row["Parallelism"]).endswith("CP 1") else "context parallelism"
        if "Async" in techniques:
            skipped = "asynchronous tensor parallelism"
        columns["checkpointing"] = "full" if re.search("full a", context, re.IGNORECASE) else "selective_ops"
        request = {**SHARDED, "gpu": gpu, "kernels": "fused", **columns}
        gpus = columns["dp"] * columns.get("tp", 1)
        yield Step(TITAN, "torchtitan", "tokens_per_s", float(speed) * gpus, request, skipped)


def _ao(root: Path) -> Iterator[Step]:
    for row in records(pd.read_csv(root / AO)):
        section = str(row["section"])
        if "e2e" in section and isinstance(row["Scaling"], str):
            gpu = AO_GPUS[section.split()[-1]]
            scaled = row["Scaling"] in SCALINGS
            request = {**SHARDED, "model": "Llama-3.1-8B", "gpu": gpu, "dp": 8, "checkpointing": "selective_ops"}
            request |= {"dtype": SCALINGS.get(row["Scaling"], "bf16")}
            skipped = "" if scaled else BY_ROWS
            yield Step(AO, "torchtitan", "tokens_per_s", 8 * float(row["Median tokens/second"]), request, skipped)
        elif pd.notna(row["imgs/s"]) and row["AdamW impl"] in ("PyTorch (fused)", "bnb 8-bit"):
            eight = {"optimizer": "adamw_8bit"} if "8-bit" in row["AdamW impl"] else {}
            request = {**SQUARE, **eight, "model": "torchvision/vit_h_14", "gpu": "RTX-4070-Ti-SUPER"}
            request |= {"micro_batch": 8, "precision": "amp", "attention": "sdpa"}
            yield Step(AO, "torch", "tokens_per_s", VIT_TOKENS * float(row["imgs/s"]), request)


def _tune(root: Path) -> Iterator[Step]:
    """Batches of 2 or 4 packed sequences of 2,048 tokens, recomputed; the README of May 2024 did not compile."""
    for row in records(pd.read_csv(root / TUNE)):
        of_may = isinstance(row["Training Speed (tokens/sec"], str | float) and row["first_commit"] == "0217d44c2"
        if not of_may and pd.isna(row["Tokens/sec"]):
            continue
        count, _, card = str(row["Example HW Resources"] if of_may else row["Runnable On"]).partition("x")
        method = TUNE_METHODS.get(str(row["Finetuning Method"]), "full")
        lengths = [int(number) for number in re.findall(r"\d+", str(row["Setting"]))] if of_may else [2, 2048]
        model = str(row["Model"]).replace("Llama ", "Llama-").replace(" ", "-")
        request: dict[str, Any] = {
            **{"phase": "train", "model": model.replace("Llama2-7B", "Llama-2-7b-hf").replace("2-70B", "-2-70b-hf")},
            **{"gpu": TUNE_GPUS[card.strip()], "method": method, "micro_batch": lengths[0], "seq_len": lengths[1]},
            **{"checkpointing": "full", "lora_rank": 8, "kernels": "eager" if of_may else "fused", "attention": "sdpa"},
        }
        request |= {"dp": int(count), "zero_stage": 3} if int(count) > 1 else {}
        speed = float(row["Training Speed (tokens/sec"] if of_may else row["Tokens/sec"])
        in_host = method == "full" and "A6000" not in request["gpu"]
        setting = training_setting(Request.of(request), get_model(request["model"]))
        skipped = impossible(request["model"], get_gpu(request["gpu"]), setting, speed)
        if in_host:
            skipped = "optimizer state or weights in host memory"
        yield Step(TUNE, "torchtune", "tokens_per_s", speed, request, skipped)


def _litgpt(root: Path) -> Iterator[Step]:
    for row in records(pd.read_csv(root / LITGPT)):
        minutes = row["time_1k_iters_min"]
        if row["method"] != "LoRA" or pd.isna(minutes):
            continue
        gpus, model = int(str(row["gpu_raw"])[0]), LITGPT_MODELS.get((row["model"], row["size"]), "")
        quantised = isinstance(row["quant"], str)
        request: dict[str, Any] = {
            **{"phase": "train", "model": model, "gpu": "A100-SXM-40GB", "method": "qlora" if quantised else "lora"},
            **{"lora_rank": 8, "lora_targets": "qv", "micro_batch": int(row["micro_batch"]), "seq_len": 128},
            **{"kernels": "eager", "attention": "sdpa", "dtype": "bf16", "precision": "pure"},
        }
        request |= {"dp": gpus, "zero_stage": 3, "checkpointing": "full"} if gpus > 1 else {}
        skipped = "" if model else "a model that is not in the catalogue"
        yield Step(LITGPT, "litgpt", "step_s", float(minutes) * 60 / 1000, request, skipped)


def _lambda(root: Path) -> Iterator[Step]:
    measured = ["name_gpu", "task", "precision", "throughput"]  # both versions of the suite list most of them
    for row in records(pd.read_csv(root / LAMBDA).drop_duplicates(measured)):
        parts = re.fullmatch(r"(?:LambdaCloud )?(?:(\d)x ?)?(.*)", str(row["name_gpu"]))
        assert parts
        gpus, gpu = int(row["num_gpu"]), LAMBDA_GPUS[parts.group(2)]
        if row["task"] not in LAMBDA_TASKS:
            yield Step(LAMBDA, "torch", "", 0.0, {}, "a model that is not in the catalogue")
            continue
        model, columns = LAMBDA_TASKS[row["task"]]
        dtype = "fp16" if row["precision"] == "fp16" else "fp32" if gpu.startswith("V100") else "tf32"
        request = {"phase": "train", "model": model, "gpu": gpu, "dtype": dtype, "kernels": "eager", **columns}
        request |= {"micro_batch": int(row["batch_size"]) // gpus, "dp": gpus}
        request |= {"precision": "amp"} if dtype == "fp16" else {}
        sequences = float(row["throughput"])
        yield Step(LAMBDA, "torch", "tokens_per_s", sequences * columns.get("seq_len", 1), request)


def _tuned(root: Path) -> Iterator[Step]:
    for row in records(pd.read_csv(root / TUNED)):
        model, seconds = TUNED_MODELS.get(row["model"], ""), float(row["s_per_step"])
        if not model or pd.isna(seconds):
            continue
        skipped = "weights in host memory, shared by two GPUs" if "offload" in row["strategy"] else ""
        request = {
            **{"phase": "train", "model": model, "gpu": TUNED_GPUS[row["gpu"]], "method": row["method"].lower()},
            **{"micro_batch": int(row["batch"]), "seq_len": int(row["seq_len"]), "checkpointing": "full"},
            **{"kernels": "eager", "attention": "sdpa"},
        }
        yield Step(TUNED, "transformers", "step_s", seconds, request, skipped)


TABLE = Table("steps", "training steps of torchtitan, torchao, torchtune, litgpt, Lambda and others", "truth", replay)
