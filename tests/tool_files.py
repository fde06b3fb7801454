"""Files in the shape that benchmarks and profilers write, with numbers that are plausible and nobody's measurements."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas as pd

from predictor.measurements.ingest import Unread, ingest

LLAMA = {
    "build_number": 5163,
    "gpu_info": "NVIDIA GeForce RTX 4090",
    "model_filename": "models/Meta-Llama-3.1-8B-Instruct-Q4_K_M.gguf",
    "model_type": "llama 8B Q4_K - Medium",
    "n_gpu_layers": 99,
    "split_mode": "layer",
    "no_kv_offload": False,
    "n_prompt": 512,
    "n_gen": 0,
    "n_depth": 0,
    "avg_ns": 60_000_000,
}
SERVE = {
    "backend": "vllm",
    "model_id": "meta-llama/Llama-3.1-8B-Instruct",
    "request_rate": "inf",
    "max_concurrency": 16,
    "completed": 160,
    "total_input_tokens": 163_840,
    "total_output_tokens": 40_960,
    "request_throughput": 6.6,
    "output_throughput": 1690.0,
    "mean_ttft_ms": 90.0,
    "median_ttft_ms": 80.0,
    "mean_tpot_ms": 9.2,
    "median_tpot_ms": 9.1,
}
SGLANG = SERVE | {
    "backend": "sglang",
    "dataset_name": "random",
    "mean_e2e_latency_ms": 2436.0,
    "accept_length": None,
    "server_info": {
        "model_path": "Qwen/Qwen3-8B",
        "tp_size": 2,
        "dp_size": 1,
        "version": "0.5.3",
        "quantization": None,
    },
}
ONE_BATCH = {
    "run_name": "default",
    "batch_size": 8,
    "input_len": 1024,
    "output_len": 16,
    "prefill_latency": 0.17,
    "median_decode_latency": 0.0068,
    "total_latency": 0.272,
}
AIPERF = {
    "request_throughput": {"unit": "requests/sec", "avg": 6.6},
    "request_latency": {"unit": "ms", "avg": 2436.0},
    "time_to_first_token": {"unit": "ms", "avg": 90.0},
    "inter_token_latency": {"unit": "ms", "avg": 9.2},
    "output_token_throughput": {"unit": "tokens/sec", "avg": 1690.0},
    "input_sequence_length": {"unit": "tokens", "avg": 1024.0},
    "output_sequence_length": {"unit": "tokens", "avg": "256.0"},
    "input_config": {
        "endpoint": {"model_names": ["Qwen/Qwen3-8B"]},
        "loadgen": {"concurrency": 16},
    },
    "telemetry_data": {"endpoints": {"a": {"gpus": {"gpu_0": {"gpu_name": "NVIDIA H100 80GB HBM3"}}}}},
}


def call(name: str, number: int, start: float, length: float, dims: list[Any], types: list[str], **more: Any) -> Any:
    args = {"External id": number, "Input Dims": dims, "Input type": types, **more}
    return {"ph": "X", "cat": "cpu_op", "name": name, "pid": 1, "tid": 1, "ts": start, "dur": length, "args": args}


def kernel(name: str, number: int, length: float, cat: str = "kernel") -> Any:
    return {"ph": "X", "cat": cat, "name": name, "ts": 0, "dur": length, "args": {"External id": number, "device": 0}}


BF16 = "c10::BFloat16"
TRACE = {
    "deviceProperties": [{"id": 0, "name": "NVIDIA H100 80GB HBM3"}],
    "traceEvents": [
        call("aten::linear", 1, 0, 100, [[16, 4096], [4096, 4096], []], [BF16, BF16, ""]),
        call("aten::matmul", 2, 1, 98, [[16, 4096], [4096, 4096]], [BF16, BF16]),
        call("aten::mm", 3, 2, 96, [[16, 4096], [4096, 4096]], [BF16, BF16]),
        kernel("nvjet_gemm", 3, 14.0),
        kernel("splitKreduce", 3, 2.0),
        call("aten::mm", 4, 200, 96, [[16, 4096], [4096, 4096]], [BF16, BF16]),
        kernel("nvjet_gemm", 4, 18.0),
        call("aten::add_", 5, 400, 10, [[4096, 4096], [4096]], [BF16, BF16]),
        kernel("add", 5, 45.0),
        call("aten::sum", 6, 500, 10, [[4096, 4096]], [BF16]),
        kernel("reduce", 6, 15.0),
        kernel("of_a_graph", 99, 15.0),
        call("aten::copy_", 7, 600, 10, [[4096, 4096], [4096, 4096], []], [BF16, BF16, "Scalar"]),
        kernel("Memcpy HtoD (Pageable -> Device)", 7, 900.0, "gpu_memcpy"),
    ],
}
RANGES = """\
Processing [x.sqlite] with [nvtx_gpu_proj_trace.py]...
Name,Projected Start (ns),Projected Duration (ns),Style,PID,TID,NumGPUOps,Lvl,NumChild,RangeId,ParentId,RangeStack
step,1,90000,PushPop,1,1,2,0,2,1,,:1
":aten::linear, op_id = 1, sizes = [[16, 4096], [4096, 4096], []]",1,20000,PushPop,1,1,1,1,1,2,1,:1:2
":aten::mm, op_id = 2, sizes = [[16, 4096], [4096, 4096]], input_op_ids = [(1,0)]",1,16000,PushPop,1,1,1,2,0,3,2,:1:2:3
":aten::_softmax, op_id = 3, sizes = [[16, 4096], [], []]",1,9000,PushPop,1,1,1,1,0,4,1,:1:4
"""
GPU_TRACE = """\
Start (ns),Duration (ns),CorrId,GrdX,BlkX,Bytes (MB),Throughput (MB/s),SrcMemKd,DstMemKd,Device,Ctx,Strm,Name
1,661398,1,,,4.194,6337.593,Pinned,Device,NVIDIA H100 80GB HBM3 (0),1,13,[CUDA memcpy Host-to-Device]
2,60000,2,,,67.109,1118483.0,Device,Device,NVIDIA H100 80GB HBM3 (0),1,13,[CUDA memcpy Device-to-Device]
3,7072,3,4096,256,,,,,NVIDIA H100 80GB HBM3 (0),1,13,"void cutlass::Kernel<a, b>(int)"
"""


def write(folder: Path, name: str, value: Any) -> Path:
    path = folder / name
    path.write_text(value if isinstance(value, str) else json.dumps(value), encoding="utf-8")
    return path


def read_one(path: Path, **more: Any) -> tuple[pd.DataFrame, Unread]:
    unread = Unread()
    return ingest([path], unread=unread, **more), unread
