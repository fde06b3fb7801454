"""Steps of published trainings, replayed as rows of a request table.

Those of training_rows.py here, and of lambdal/deeplearning-benchmark, in the truth folder `lambda/train_throughput
.csv`: NVIDIA's ResNet-50, and BERT on SQuAD with 384 tokens and attention as written, on V100 to A100; "fp32" is TF32
in NVIDIA's containers where a GPU has it; a batch is that of all GPUs.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from predictor.estimators.bundle import Bundle
from predictor.learning.validation.replay import Figure, Replay, Table, half, interval, records, replayed
from predictor.learning.validation.training_rows import TABLES, Training, left_out

LAMBDA = "lambda/train_throughput.csv"
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


def replay(root: Path, bundle: Bundle) -> Replay:
    """A figure per published step: tokens_per_s (of a vision model images) or step_s."""
    published = [training for table in (*TABLES, _lambda) for training in table(root)]
    reasons = Counter(training.no_speed for training in published if training.no_speed)
    timed = [training for training in published if training.speed and not training.no_speed]
    return replayed(timed, lambda training: training.request, _figure, bundle, reasons)


def _figure(training: Training, answer: Mapping[str, Any]) -> list[Figure]:
    shown = ("method", "dtype", "micro_batch", "seq_len", "dp", "tp", "checkpointing", "kernels")
    assert training.speed
    metric, measured = training.speed
    return [
        Figure(
            table=training.table,
            gpu=answer["gpu"],
            model=answer["model"],
            engine=training.program,
            metric=metric,
            measured=measured,
            predicted=interval(answer, metric),
            fitted=training.fitted,
            request=dict(training.request),
            settings={**{name: training.request.get(name) for name in shown}, "mfu": answer["mfu"]},
        )
    ]


def _lambda(root: Path) -> Iterator[Training]:
    measured = ["name_gpu", "task", "precision", "throughput"]  # both versions of the suite list most of them
    for row in records(pd.read_csv(root / LAMBDA).drop_duplicates(measured)):
        parts = re.fullmatch(r"(?:LambdaCloud )?(?:(\d)x ?)?(.*)", str(row["name_gpu"]))
        assert parts
        gpus, gpu = int(row["num_gpu"]), LAMBDA_GPUS[parts.group(2)]
        if row["task"] not in LAMBDA_TASKS:
            yield left_out(LAMBDA, "torch", "a model that is not in the catalogue")
            continue
        model, columns = LAMBDA_TASKS[row["task"]]
        dtype = "fp16" if row["precision"] == "fp16" else "fp32" if gpu.startswith("V100") else "tf32"
        request = {"phase": "train", "model": model, "gpu": gpu, "dtype": dtype, "kernels": "eager", **columns}
        request |= {"micro_batch": int(row["batch_size"]) // gpus, "dp": gpus}
        request |= {"precision": "amp"} if dtype == "fp16" else {}
        sequences = float(row["throughput"])
        yield Training(
            LAMBDA,
            "torch",
            f"{row['name_gpu']} {row['precision']}",
            request,
            speed=("tokens_per_s", sequences * columns.get("seq_len", 1)),
            # how much eager attention moves was fitted on one half of these
            fitted=columns.get("attention") == "eager" and dtype == "fp16" and gpus == 1 and half(*request.values()),
        )


TABLE = Table("steps", "training steps of torchtitan, torchao, torchtune, litgpt, Lambda and others", "truth", replay)
