"""Training steps of NVIDIA's Megatron-Bridge on DGX H100 and B200, replayed through rows of a request table.

Source: NVIDIA-NeMo/Megatron-Bridge, docs/performance-summary-archive.md (Apache-2.0),
`megatron_bridge/train_throughput.csv` of the truth folder: Llama 3 8B to 405B, gpt-oss-120b, Qwen3, DeepSeek-V3 and
Nemotron 3 on 8 to 1,024 GPUs in bf16, fp8, mxfp8 and nvfp4, with tp, pp, cp, vp and ep of each.

What the table does not say, the recipes of the same repository do (scripts/performance/configs): the distributed
optimizer (ZeRO 1; ZeRO 3 where the row has FSDP), tokens split wherever tp is above 1 and messages of tp overlapped,
gradients added up by the products that make them, adapters at queries, keys and values, whole experts (expert_tp 1),
routing forced into balance, tokens dropped to an even share where the row says tokendrop, all but Mamba layers
recomputed for Nemotron 3 Nano on H100. Dispatch by kernels that sort (HybridEP, DeepEP) from 26.02 on (Qwen3-30B,
whose layouts of 26.02 are those of the recipe before, from 26.02.01 on) but for Qwen3-235B and gpt-oss, and for
DeepSeek-V3 on H100 from the start; messages to experts overlapped in that recipe, for Qwen3-235B on H100 and for
DeepSeek-V3 with ep 32; routing captured in graphs (cuda_graph_scope moe_router, moe_preprocess) on B200 for
Qwen3-30B, Nemotron 3 Nano, DeepSeek-V3 with ep 32 and what is in NVFP4. They are recipes of a few days, not of each
container's. Nemotron 3 Super and DeepSeek-V3 also train layers that predict further tokens, which are left out. Eight
cards of 400 Gb/s in each node (data sheets of DGX H100 and B200).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from predictor.estimators.bundle import Bundle
from predictor.learning.validation.replay import Figure, Replay, Table, half, interval, records, replayed

FILE = "megatron_bridge/train_throughput.csv"
MODELS: Mapping[str, str] = {
    "LLAMA3_8B": "Meta-Llama-3-8B",
    "LLAMA3_70B": "Meta-Llama-3-70B",
    "LLAMA3.1_405B": "Llama-3.1-405B",
    "DeepSeekV3": "DeepSeek-V3",
    "GPT OSS 120B": "gpt-oss-120b",
    "Qwen3_30B_a3B": "Qwen3-30B-A3B",
    "Qwen3_235B_a22B": "Qwen3-235B-A22B",
    "Nemotron_3_Nano": "nemotron-3-nano-30b-a3b",
    "Nemotron_3_Super": "nemotron-3-super-120b-a12b",
}
DENSE = ("LLAMA3_8B", "LLAMA3_70B", "LLAMA3.1_405B")
DTYPES: Mapping[str, str] = {
    "BF16": "bf16",
    "FP8": "fp8",
    "FP8-CS": "fp8",
    "FP8-MX": "mxfp8",
    "MXFP8": "mxfp8",
    "NVFP4": "nvfp4",
}
LAYOUT = ("tp", "pp", "cp", "vp", "ep")
SIZES = ("n_gpus", "global_batch", "micro_batch", "seq_len")
COMMON: Mapping[str, Any] = {
    "phase": "train",
    "zero_stage": 1,
    "attention": "cudnn",
    "gradient_accumulation_fusion": True,
    "node_link": "ib-400",
}
# Containers whose recipes sort tokens in kernels of dispatch and overlap messages to experts.
NEWER: Mapping[str, str] = {"": "26.02", "Qwen3_30B_a3B": "26.02.01"}
CAPTURED = ("Qwen3_30B_a3B", "Nemotron_3_Nano")


def replay(root: Path, bundle: Bundle) -> Replay:
    """A figure per row: step_s."""
    return replayed(records(pd.read_csv(root / FILE)), request_of, _figures, bundle)


def request_of(row: Mapping[str, Any]) -> dict[str, Any]:
    """The columns that say how a row was trained."""
    name, _, how = row["model"].partition(" (")
    layout = {column: _count(row[column.upper()]) for column in LAYOUT}
    request = {
        "model": MODELS[name],
        "gpu": row["gpu"],
        **COMMON,
        **{column: _count(row[column]) for column in SIZES},
        **layout,
        "dtype": _dtype(row["precision"]),
        "method": "lora" if row["task"].startswith("LoRA") else "full",
    }
    if request["method"] == "lora":
        request["lora_targets"] = "qkv"
    if layout["tp"] > 1:
        request |= {"sequence_parallel": 1, "overlap_tp": True}
    if row["FSDP"] > 0:
        request["zero_stage"] = 3
    if name not in DENSE:
        request |= {"expert_tp": 1, **_routing(name, how, row, layout)}
    if name == "Nemotron_3_Nano" and row["gpu"] == "H100":
        request["checkpointing"] = "full"
    return request


def _routing(name: str, how: str, row: Mapping[str, Any], layout: Mapping[str, int]) -> dict[str, Any]:
    """How the recipe of a row sends tokens to experts."""
    newer = row["container"] >= NEWER.get(name, NEWER[""])
    first = (name, row["gpu"]) == ("DeepSeekV3", "H100")  # whose recipe of 25.09 has both
    sorts = newer and name not in ("Qwen3_235B_a22B", "GPT OSS 120B")
    far = (name, row["gpu"]) == ("Qwen3_235B_a22B", "H100") or (name, layout["ep"]) == ("DeepSeekV3", 32)
    captured = name in CAPTURED and row["gpu"] == "B200" and newer
    return {
        "moe_token_dispatcher_type": "flex" if sorts or first else "alltoall",
        "moe_expert_capacity_factor": 1.0 if how.startswith("tokendrop") else 0.0,
        "overlap_ep": (newer and far) or first,
        "cuda_graphs": captured or (name == "DeepSeekV3" and layout["ep"] == 32) or row["precision"] == "NVFP4",
    }


def _dtype(precision: str) -> str:
    """The recipe's format; the page of 25.09 says in words what others abbreviate."""
    return DTYPES.get(precision) or ("mxfp8" if "sub-channel" in precision else "fp8")


def _count(cell: float) -> int:
    """A cell as a whole number; an empty one is 1."""
    return 1 if pd.isna(cell) else int(cell)


def _figures(row: Mapping[str, Any], answer: Mapping[str, Any]) -> Iterator[Figure]:
    request = request_of(row)
    shown = {name: request[name] for name in (*SIZES, *LAYOUT, "dtype")}
    kind = "dense" if row["model"] in DENSE else "experts"
    yield Figure(
        table=FILE,
        gpu=answer["gpu"],
        model=request["model"],
        engine=row["engine"],
        metric="step_s",
        measured=row["step_time_s_derived"],
        predicted=interval(answer, "step_s"),
        fitted=half(request["model"], row["gpu"], *shown.values()),
        request=request,
        settings={"container": row["container"], "kind": kind, **shown, "mfu": answer["mfu"]},
    )


TABLE = Table("megatron_bridge", "Megatron-Bridge training steps, H100 and B200", "truth", replay)
