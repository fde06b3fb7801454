"""Whole networks in TensorRT: MLPerf Inference 4.1, ResNet-50 and BERT-large offline, samples per second.

Source: the logs of the submissions (mlcommons/inference_results_v4.1, Apache-2.0),
`mlperf_inference/mlperf_inference_runs.csv` of the truth folder; NVIDIA's GPUs. ResNet-50 runs in int8; BERT-large in
fp8 where there is fp8, else int8, for an accuracy of 99 %, on SQuAD questions of 177 tokens on average that are not
padded. Batches are those of NVIDIA's configurations, 256 to 2048; taken: 512, beyond which nothing changes. Runs of a
system count once.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from predictor.estimators.bundle import Bundle
from predictor.hardware.gpu import get_gpu
from predictor.learning.validation.replay import Figure, Replay, Table, half, interval, rate, records, replayed

FILE = "mlperf_inference/mlperf_inference_runs.csv"
GPUS = {
    "NVIDIA GH200 Grace Hopper Superchip 96GB": "GH200-96GB",
    "NVIDIA H100-NVL-94GB": "H100-NVL-94GB",
    "NVIDIA H100-PCIe-80GB": "H100-PCIe-80GB",
    "NVIDIA H100-SXM-80GB": "H100-SXM-80GB",
    "NVIDIA H200-SXM-141GB": "H200-SXM-141GB",
    "NVIDIA L4": "L4",
    "NVIDIA L40S": "L40S",
}
MODELS = {"resnet50": "ResNet-50", "bert-99": "bert-large-uncased"}
BATCH, TOKENS = 512, 177


def replay(root: Path, bundle: Bundle) -> Replay:
    """A figure per GPU and network: samples_per_s of one GPU."""
    return replayed(configurations(root), request_of, _figures, bundle)


def configurations(root: Path) -> list[dict[str, Any]]:
    """The median of each GPU and network, samples per second and GPU."""
    table = pd.read_csv(root / FILE)
    table = table[(table["scenario"] == "Offline") & table["model"].isin(MODELS) & table["gpu"].isin(GPUS)]
    table = table[(table["division"] == "closed") & (table["result_valid"] == "VALID")]
    own = table.assign(measured=table["samples_per_s"] / (table["gpus_per_node"] * table["nodes"]))
    return records(own.groupby(["gpu", "model"], as_index=False).agg(measured=("measured", "median")))


def request_of(row: Mapping[str, Any]) -> dict[str, Any]:
    """The row of a request table."""
    gpu, model = GPUS[row["gpu"]], MODELS[row["model"]]
    narrow = "fp8" if model.startswith("bert") and "fp8" in get_gpu(gpu).peak_flop_per_s else "int8"
    request = {"model": model, "gpu": gpu, "engine": "tensorrt", "dtype": narrow, "batch": BATCH}
    return request | ({"input_len": TOKENS} if model.startswith("bert") else {})


def _figures(row: Mapping[str, Any], answer: Mapping[str, Any]) -> Iterator[Figure]:
    request = request_of(row)
    yield Figure(
        table=FILE,
        gpu=request["gpu"],
        model=request["model"],
        engine="tensorrt",
        metric="samples_per_s",
        measured=row["measured"],
        predicted=rate(BATCH, interval(answer, "e2e_s")),
        fitted=half(row["gpu"], row["model"]),
        request=request,
        settings={"dtype": request["dtype"]},
    )


TABLE = Table("graphs", "whole networks in TensorRT, Ada and Hopper", "truth", replay)
