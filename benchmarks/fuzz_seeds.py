"""Small inputs that are right, in the shape that tools write, with numbers that nobody measured."""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]

GPUS = (
    'base = "H100-SXM-80GB"\nname = "H100-LC"\nmem_gib = 96\ntdp_w = 500\npeak_tflops = {bf16 = 800, fp8 = 1600}\n',
    """name = "New"
vendor = "NVIDIA"
generation = "Hopper"
segment = "data-centre"
compute_capability = "9.0"
release_year = 2025
sms = 132
tensor_clock_mhz = 1755
boost_clock_mhz = 1980
mem_gib = 80
mem_bandwidth_gb_per_s = 3350
l2_mib = 50
smem_kib_per_sm = 228
link_gb_per_s = 450
pcie_gb_per_s = 64
tdp_w = 700
unified_memory = false
power_range_w = [200, 700]
peak_tflops = { fp32 = 67, tf32 = 494, fp16 = 989, bf16 = 989, fp8 = 1979, int8 = 1979 }
aliases = ["N1"]
source = "a data sheet"
""",
)
SWEEPS = (
    """skip_unfit = true
[request]
model = ["Llama-3.1-8B", "Qwen3-8B"]
gpu = "H100"
batch = {from = 1, to = 64, times = 2}
input_len = {from = 128, to = 1024, step = 128}
dtype = ["bf16", "fp8"]
[[together]]
tp = [1, 2]
pp = [2, 1]
[[skip]]
batch = {above = 16}
dtype = "bf16"
[[skip]]
n_gpus = {not = [1, 2]}
""",
    '[request]\nmodel = "Llama-3.1-8B"\ngpu = ["H100", "A100"]\nphase = "train"\nbatch = [1, 2]\n',
)
MIXES = (
    """[[work]]
model = "Llama-3.1-8B"
share = 3
name = "chat"
concurrency = 8
input_len = 2000
output_len = 200
dtype = ["bf16", "fp8"]
[[work]]
model = "Qwen3-8B"
phase = "train"
batch = 4
""",
)
PRICES = """replace = false
[electricity]
usd_per_kwh = 0.15
[ownership]
years = 3
in_use = 0.5
[[price]]
provider = "us"
gpu = "H100-SXM-80GB"
n_gpus = 8
usd_per_hour = 12.5
kind = "on-demand"
date = 2026-01-02
[[price]]
provider = "shop"
gpu = "RTX-4090"
kind = "purchase"
purchase_usd = 1599
power_w = 450
"""
PRICES_CSV = """provider,gpu,n_gpus,kind,usd_per_hour,purchase_usd,date
us,H100-SXM-80GB,8,on-demand,12.5,,2026-01-02
"shop, a",RTX-4090,1,purchase,,1599,
"""
RECIPE = 'id = "mine"\nseed = 1\nrows_per_cell = 100\ntransfer_rate = 0.1\nsubsample = 1\nlevel = 0.8\n'
MAP = """[columns]
m = "M"
latency_s = { column = "time", unit = "us" }
[values.dtype]
"torch.bfloat16" = "bf16"
[set]
family = "gemm"
n = "4096"
k = "4096"
dtype = "bf16"
"""
NAMES = (
    *("H100", "8xA100", "4xH200,8xB200", "H100:3g.40gb", "H100, mem_gib=96, peak_tflops.bf16=800", "RTX 4090"),
    *("NVIDIA A100-SXM4-80GB", "p4d.24xlarge", "a2-highgpu-8g", "AMD Radeon RX 7900 XTX", "all", "data-centre"),
    *("Llama-3.1-8B", "qwen3:8b-q4_K_M", "TheBloke/Llama-2-7B-AWQ", "unsloth/Qwen3-8B-GGUF", "deepseek-r1:32b"),
)
ROWS = tuple(
    json.dumps(row)
    for row in (
        {
            "model": "Llama-3.1-8B",
            "gpu": "H100",
            "batch": 8,
            "input_len": 512,
            "output_len": 128,
            "dtype": "bf16",
            "tp": 2,
        },
        {
            "model": "Qwen3-8B",
            "gpu": "8xA100",
            "concurrency": 16,
            "input_len": 1000,
            "output_len": 200,
            "engine": "vllm",
        },
        {
            "model": "Qwen3-8B",
            "gpu": "A100",
            "request_rate": 2.5,
            "prefix_cache_hit_rate": 0.5,
            "kv_dtype": "fp8",
            "ep": 1,
        },
        {
            "model": "Llama-3.1-8B",
            "gpu": "A100",
            "phase": "train",
            "batch": 4,
            "method": "lora",
            "zero": 3,
            "n_gpus": 8,
        },
        {
            "model": "Llama-3.1-70B",
            "gpu": "H100",
            "tp": 8,
            "draft_model": "Llama-3.1-8B",
            "draft_tokens": 4,
            "acceptance": 0.7,
        },
        {"model": "resnet50", "gpu": "V100", "batch": 32, "image_size": 224, "dtype": "fp16"},
    )
)
REQUESTS_CSV = (
    "id,model,gpu,batch,input_len,output_len,dtype\n1,Llama-3.1-8B,H100,8,512,64,bf16\n2,Qwen3-8B,A100,,100,10,\n",
    "model,gpu,n_gpus,phase,seq_len\nLlama-3.1-8B,H100,8,train,1024\n",
)
REQUESTS_COLUMNS = (
    json.dumps({"id": [1, 2], "model": ["Llama-3.1-8B", "Qwen3-8B"], "gpu": ["H100", "A100"], "batch": [8, None]}),
    json.dumps({"model": ["Qwen3-8B"], "gpu": ["H100"], "input_len": [512.0], "dtype": ["fp8"], "tp": ["2"]}),
)
TRACES_CSV = (
    "arrival_s,input_len,output_len\n0.0,100,20\n0.5,2000,100\n1.25,50,1\n",
    "TIMESTAMP,ContextTokens,GeneratedTokens\n2023-11-16 18:17:03.97,374,44\n2023-11-16 18:17:04.03,396,109\n",
    "Timestamp,Model,Request tokens,Response tokens,Total tokens,Log Type\n5,ChatGPT,472,18,490,Conversation log\n",
    "arrived_at,num_prefill_tokens,num_decode_tokens\n0.1,10,20\n0.2,30,40\n",
)
TRACES_JSONL = (
    '{"timestamp": 0, "input_length": 6755, "output_length": 500, "hash_ids": [0, 1, 2]}\n'
    '{"timestamp": 3000, "input_length": 7000, "output_length": 400, "hash_ids": [0, 1, 3]}\n',
    '{"timestamp": 27482, "input_length": 1024, "output_length": 5, "hash_ids": [46, 47]}',
)
TRACES_JSON = (
    '[{"input_len": 100, "output_len": 5}, {"input_len": 200, "output_len": 10}]',
    '[{"id": "a", "conversations": [{"from": "human", "value": "Hello, what is a GPU?"}, '
    '{"from": "gpt", "value": "A processor of many cores."}]}]',
)
TRACES_COLUMNS = (
    json.dumps({"arrival_s": [0.0, 1.0], "input_len": [100, 200], "output_len": [10, 20]}),
    json.dumps({"timestamp": [0, 100], "input_length": [1, 2], "output_length": [3, 4], "hash_ids": [[1], [1, 2]]}),
)
_TENSORS = {
    "__metadata__": {"format": "pt"},
    "model.embed_tokens.weight": {"dtype": "BF16", "shape": [8, 4], "data_offsets": [0, 64]},
    "lm_head.weight": {"dtype": "F8_E4M3", "shape": [8, 4], "data_offsets": [64, 96]},
    "a": {"dtype": "F4", "shape": [], "data_offsets": [96, 96]},
}
SAFETENSORS = (
    json.dumps(_TENSORS),
    json.dumps({"w": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}),
)
INDEX = (
    json.dumps({"metadata": {"total_size": 1000}, "weight_map": {"a.weight": "model-00001-of-00002.safetensors"}}),
    json.dumps({"metadata": {"total_size": 16.5e9}, "weight_map": {"lm_head.weight": "x.safetensors", "wte.w": "y"}}),
)
GGUF = json.dumps(
    [
        {
            "general.architecture": "llama",
            "general.name": "tiny",
            "general.file_type": 15,
            "llama.block_count": 1,
            "llama.context_length": 2048,
            "llama.embedding_length": 256,
            "llama.feed_forward_length": 512,
            "llama.attention.head_count": 4,
            "llama.attention.head_count_kv": 2,
            "llama.attention.layer_norm_rms_epsilon": 1e-5,
            "llama.rope.dimension_count": 64,
            "llama.vocab_size": 32,
            "tokenizer.ggml.tokens": ["a"] * 32,
        },
        {
            "token_embd.weight": [12, [256, 32], 144 * 32],
            "blk.0.attn_q.weight": [12, [256, 256], 144 * 256],
            "blk.0.attn_k.weight": [12, [256, 128], 144 * 128],
            "blk.0.attn_v.weight": [12, [256, 128], 144 * 128],
            "blk.0.attn_output.weight": [12, [256, 256], 144 * 256],
            "blk.0.ffn_up.weight": [12, [256, 512], 144 * 512],
            "blk.0.ffn_gate.weight": [12, [256, 512], 144 * 512],
            "blk.0.ffn_down.weight": [12, [512, 256], 144 * 512],
            "output_norm.weight": [0, [256], 1024],
        },
    ]
)
SETUP = {
    **{"gpu": "H100-SXM-80GB", "engine": "vllm", "scheduling": "static", "version": "", "model": "Qwen3-8B"},
    **{"formats": "bf16/bf16/bf16", "layout": "tp=1"},
}
OWN_RUNS = json.dumps(
    {
        "predictor": "0.2.0",
        "runs": [
            {
                **{"setup": SETUP, "load": "batch 1", "prompt": {"log": 0.1, "spread": 0.2}, "pace": None},
                **{"source": "a", "date": "2026-01-01"},
            }
        ],
    }
)
DECISIONS = json.dumps(
    {
        **{
            "time": "2026-01-01T00:00:00",
            "action": "promote",
            "package": "0.2.0",
            "path": "x",
            "margin": 0.01,
            "cells": 3,
        },
        **{name: {"id": "base-5", "sha256": "ab" * 32} for name in ("candidate", "before", "after")},
        **{"coverage": [0.7, 0.9], "reasons": [], "forced": "", "note": "", "registry": None, "data": None},
    }
)
PLAN = json.dumps(
    {
        "request": {"model": "Qwen3-8B", "gpu": "H100", "concurrency": 8, "input_len": 1000, "output_len": 100},
        "promised": {"ttft_s": 1.0},
        **{"gpu": "H100-SXM-80GB", "bundle": "base-5", "n_gpus": 1, "replicas": 1},
        **{f"{name}{end}": 0.1 for name in ("ttft_s", "tpot_s", "e2e_s") for end in ("", "_low", "_high")},
    }
)
QUALITY = (
    json.dumps(
        {
            "results": {
                "mmlu": {"acc,none": 0.6, "acc_stderr,none": 0.004, "alias": "mmlu"},
                "gsm8k": {"exact_match,strict-match": 0.5, "exact_match_stderr,strict-match": 0.01},
                "crows_pairs_english": {"pct_stereotype,none": 0.62},
            },
            "group_subtasks": {"mmlu": ["mmlu_stem"]},
            "configs": {"gsm8k": {"metadata": {"version": 3.0}}},
            "versions": {"mmlu": 1.0},
            "n-shot": {"gsm8k": 5, "mmlu_stem": 5},
            "higher_is_better": {"mmlu": {"acc": True}},
            "config": {"model": "hf", "model_args": "pretrained=meta-llama/Llama-3.1-8B,dtype=bfloat16", "limit": None},
        }
    ),
    json.dumps(
        {
            "results": {"mmlu": {"acc": 0.6, "acc_stderr": 0.004}},
            "config": {
                "model_args": {"pretrained": "Qwen/Qwen3-8B", "load_in_4bit": True},
                "num_fewshot": 5,
                "limit": 10,
            },
        }
    ),
)
QUERIES = (
    "predict?model=Llama-3.1-8B&gpu=H100&gpu=A100&batch=8&input_len=512&output_len=32&dtype=fp8&explain=true",
    "train?model=Qwen3-8B&gpu=H100&n_gpus=8&method=lora&batch=4&train_tokens=1000000",
    "memory?model=Llama-3.1-8B&gpu=H100:3g.40gb&mode=qlora&batch=2",
    "compare?model=Qwen3-8B&gpus=H100,8xH200&sort=usd_per_mtok&fit_only=true&concurrency=4",
    "plan?model=Qwen3-8B&gpus=L4&concurrency=4&ttft_p99=1&tp=1,2&vary=false&top=3&files=true",
    "sweep?model=Qwen3-8B&gpu=L4&batch=1&batch=2&dtype=bf16&dtype=fp8&output_len=8",
    "quality?scores=dropped-0123456789ab&as=dropped-0123456789ab=Qwen3-8B:fp8&gpu=2xL4&task=mmlu:acc,none&concurrency=4",
    'upgrade?have=8xA100&consider=4xH200&work={"model": "Qwen3-8B", "batch": 8, "share": 2}',
    "local?gpu=2xRTX-3090&model=Qwen3-8B&dtype=q8_0,q4_k_m",
    "op?family=gemm&m=64&n=4096&k=4096&dtype=fp8&gpu=H100&gpu=MI300X",
    "disaggregated?model=Qwen3-8B&gpu=L4&decode_gpu=L40S&prefill_tp=2&n_gpus=8&link_gb_per_s=25&max_tpot_s=0.1",
    "gpus?gpu=H100, mem_gib=96",
    "prices?gpu=H100&provider=Lambda&n_gpus=8",
    "ledger?gpu=H100&family=gemm",
    "validated?engine=vllm&gpu=H100",
)
TABLES_CSV = (
    "family,gpu,engine,dtype,m,n,k,latency_s\ngemm,H100,torch,bf16,16,4096,4096,1e-5\ngemm,A100,torch,fp16,1,64,64,2e-6\n",
    "model,gpu,engine,dtype,batch,input_len,output_len,measured_ttft_s,measured_tpot_s\nQwen3-8B,H100,vllm,bf16,1,512,64,0.02,0.008\n",
)
TABLES_COLUMNS = tuple(
    json.dumps(dict(zip(rows[0].split(","), ([_number(cell)] for cell in rows[1].split(",")), strict=True)))
    for rows in (text.splitlines() for text in TABLES_CSV)
    for _number in (lambda cell: float(cell) if cell[:1].isdigit() else cell,)
)
LLAMA = {
    **{"build_number": 5163, "gpu_info": "NVIDIA GeForce RTX 4090", "model_type": "llama 8B Q4_K - Medium"},
    **{"model_filename": "models/Meta-Llama-3.1-8B-Instruct-Q4_K_M.gguf", "n_gpu_layers": 99, "split_mode": "layer"},
    **{"no_kv_offload": False, "n_prompt": 512, "n_gen": 0, "n_depth": 0, "avg_ns": 60_000_000},
}
MARKDOWN = """ggml_cuda_init: found 1 CUDA devices:
  Device 0: NVIDIA GeForce RTX 4090, compute capability 8.9, VMM: yes
| model                  |     size | params | backend | ngl |          test |             t/s |
| ---------------------- | -------: | -----: | ------- | --: | ------------: | --------------: |
| llama 8B Q4_K - Medium | 4.58 GiB | 8.03 B | CUDA    |  99 | pp512 | 8533.33 ± 12.00 |
| llama 8B Q4_K - Medium | 4.58 GiB | 8.03 B | CUDA    |  99 | tg128 @ d4096 | 128.00 ± 0.10 |

build: abc1234 (5163)
"""
SERVE = {
    **{"backend": "vllm", "model_id": "meta-llama/Llama-3.1-8B-Instruct", "request_rate": "inf", "max_concurrency": 16},
    **{"completed": 160, "total_input_tokens": 163_840, "total_output_tokens": 40_960, "request_throughput": 6.6},
    **{"output_throughput": 1690.0, "mean_ttft_ms": 90.0, "median_ttft_ms": 80.0, "mean_tpot_ms": 9.2},
    **{"input_lens": [1024, 900], "output_lens": [256, 250], "median_tpot_ms": 9.1},
}
SGLANG = SERVE | {
    **{"backend": "sglang", "dataset_name": "random", "mean_e2e_latency_ms": 2436.0, "accept_length": None},
    "server_info": {
        "model_path": "Qwen/Qwen3-8B",
        "tp_size": 2,
        "dp_size": 1,
        "version": "0.5.3",
        "quantization": None,
    },
}
ONE_BATCH = {
    **{"run_name": "default", "batch_size": 8, "input_len": 1024, "output_len": 16, "prefill_latency": 0.17},
    **{"median_decode_latency": 0.0068, "total_latency": 0.272},
}
AIPERF = {
    "request_throughput": {"unit": "requests/sec", "avg": 6.6},
    "request_latency": {"unit": "ms", "avg": 2436.0},
    "time_to_first_token": {"unit": "ms", "avg": 90.0},
    "inter_token_latency": {"unit": "ms", "avg": 9.2},
    "output_token_throughput": {"unit": "tokens/sec", "avg": 1690.0},
    "input_sequence_length": {"unit": "tokens", "avg": 1024.0},
    "output_sequence_length": {"unit": "tokens", "avg": "256.0"},
    "input_config": {"endpoint": {"model_names": ["Qwen/Qwen3-8B"]}, "loadgen": {"concurrency": 16}},
    "telemetry_data": {"endpoints": {"a": {"gpus": {"gpu_0": {"gpu_name": "NVIDIA H100 80GB HBM3"}}}}},
}
AIPERF_CSV = """Metric,avg,min,max,p99
Time To First Token (ms),90.00,40.00,300.00,250.00
Request Latency (ms),"2,436.00","2,000.00","2,900.00","2,800.00"
Inter Token Latency (ms),9.20,9.00,9.90,9.80
Output Sequence Length (tokens),256.00,256.00,256.00,256.00
Input Sequence Length (tokens),"1,024.00","1,024.00","1,024.00",1024

Metric,Value
Output Token Throughput (per sec),"1,690.00"
Request Throughput (per sec),6.60
"""
AGG = {
    **{"hw": "h200-nv", "tp": 4, "ep": 1, "dp_attention": "false", "conc": 16, "model": "Qwen/Qwen3-32B"},
    **{"framework": "vllm", "precision": "fp8", "isl": 1024, "osl": 1024, "tput_per_gpu": 500.0},
    **{"output_tput_per_gpu": 250.0, "mean_ttft": 0.1, "mean_tpot": 0.014, "p99_ttft": 0.3, "p99_tpot": 0.016},
}
MLPERF = """================================================
MLPerf Results Summary
================================================
SUT name : PySUT
Scenario : Server
Mode     : PerformanceOnly
Completed samples per second    : 10.00
Completed tokens per second: 2560.00
Result is : VALID
Scheduled samples per second : 10.20
Mean latency (ns)               : 4000000000
Mean First Token latency (ns)   : 150000000
Mean Time to Output Token (ns)  : 15000000
"""
BF16 = ["c10::BFloat16"] * 2


def _call(name: str, number: int, start: float, dims: list[Any]) -> dict[str, Any]:
    args = {"External id": number, "Input Dims": dims, "Input type": BF16}
    return {"ph": "X", "cat": "cpu_op", "name": name, "pid": 1, "tid": 1, "ts": start, "dur": 90, "args": args}


TRACE = {
    "deviceProperties": [{"id": 0, "name": "NVIDIA H100 80GB HBM3"}],
    "traceEvents": [
        _call("aten::mm", 3, 2, [[16, 4096], [4096, 4096]]),
        {
            **{"ph": "X", "cat": "cuda_runtime", "name": "cudaLaunchKernel", "pid": 1, "tid": 1, "ts": 10, "dur": 5},
            "args": {"External id": 3, "correlation": 7},
        },
        {
            **{"ph": "X", "cat": "kernel", "name": "nvjet", "pid": 0, "tid": 7, "ts": 30, "dur": 14.0},
            "args": {"External id": 3, "correlation": 7, "device": 0, "stream": 7},
        },
        {"ph": "s", "id": 7, "pid": 1, "tid": 1, "ts": 10, "cat": "ac2g", "name": "ac2g"},
        {"ph": "f", "id": 7, "pid": 0, "tid": 7, "ts": 30, "cat": "ac2g", "name": "ac2g", "bp": "e"},
    ],
}
HOST = {
    "traceEvents": [_call("aten::add_", 5, 400, [[4096, 4096], [4096]]), _call("aten::softmax", 6, 600, [[64, 64]])]
}
RANGES = (
    "Name,Projected Start (ns),Projected Duration (ns),Style,PID,TID,NumGPUOps,Lvl,NumChild,RangeId,ParentId,"
    'RangeStack\n":aten::linear, op_id = 1, sizes = [[16, 4096], [4096, 4096], []]",1,20000,PushPop,1,1,1,1,1,2,1,:1\n'
    '":aten::mm, op_id = 2, sizes = [[16, 4096], [4096, 4096]]",1,16000,PushPop,1,1,1,2,0,3,2,:1:2:3\n'
)


def _guidellm() -> dict[str, Any]:
    names = ("requests_per_second", "request_concurrency", "request_latency", "time_to_first_token_ms")
    names += ("inter_token_latency_ms", "output_tokens_per_second", "prompt_token_count", "output_token_count")
    one = {"successful": {"mean": 16.0, "max": 17.0, "percentiles": {"p99": 17.0}}, "total": {}}
    worker, strategy = {"backend_model": "Qwen/Qwen3-8B"}, {"type_": "concurrent", "max_concurrency": 16}
    return {"benchmarks": [{"args": {"strategy": strategy}, "worker": worker, "metrics": dict.fromkeys(names, one)}]}


def results() -> Mapping[str, tuple[str, ...]]:
    """Benchmark files and profiles of every format, by a name with the ending that they have."""
    import yaml

    names, values = ", ".join(LLAMA), ", ".join(f"'{value}'" for value in LLAMA.values())
    quoted = ",".join(f'"{name}"' for name in LLAMA), ",".join(f'"{value}"' for value in LLAMA.values())
    documents = (SERVE, SGLANG, ONE_BATCH, AIPERF, AGG, [AGG, AGG], _guidellm(), TRACE, HOST, [LLAMA, LLAMA])
    return {
        "a.json": tuple(map(json.dumps, documents)),
        "a.jsonl": (f"{json.dumps(LLAMA)}\n{json.dumps(LLAMA)}\n", f"log\n{json.dumps([LLAMA], indent=1)}\n"),
        "a.yaml": (yaml.safe_dump(_guidellm()), yaml.safe_dump(SERVE)),
        "a.md": (MARKDOWN,),
        "a.sql": (f"CREATE TABLE test (x TEXT);\n\nINSERT INTO test ({names}) VALUES ({values});\n",),
        "a.csv": (AIPERF_CSV, RANGES, "\n".join(quoted), *TABLES_CSV),
        "a.txt": (MLPERF,),
    }


@cache
def configs() -> tuple[str, ...]:
    """config.json of many families, the small ones of those that the tests have."""
    lines = (ROOT / "tests" / "config_sizes.jsonl").read_text(encoding="utf-8").splitlines()
    texts = (json.dumps(json.loads(line)["config"]) for line in lines)
    return tuple(text for text in texts if len(text) < 3000)


@cache
def few_trees() -> Mapping[str, bytes]:
    """The files of the boosters of the released bundle's GEMMs, cut to their first trees, which load fast."""
    import xgboost

    names, folder = ("gemm.transfer.ubj", "gemm.reference.ubj"), ROOT / "models" / "base-5"
    whole = {name: xgboost.Booster(model_file=str(folder / name)) for name in names}
    return {name: bytes(booster[:2].save_raw("ubj")) for name, booster in whole.items()}


@cache
def manifest() -> str:
    """bundle.json of the released bundle with one estimator of few trees, and what a calibration adds."""
    whole = json.loads((ROOT / "models" / "base-5" / "bundle.json").read_text(encoding="utf-8"))
    own = {"file": "own.json", "sha256": "00" * 32, "gpus": {"H100-SXM-80GB": 3}}
    kept = {name: value for name, value in whole.items() if name not in ("tables", "gpus")}
    gemm = {name: value for name, value in whole["estimators"]["gemm"].items() if name != "metrics"}
    gemm = {name: dict(list(value.items())[:4]) if isinstance(value, dict) else value for name, value in gemm.items()}
    gemm |= {
        name: whole["estimators"]["gemm"][name]
        for name in ("log_offsets", "prior", "transfer", "reference", "references")
    }
    for file, content in few_trees().items():
        gemm[file.split(".")[1]] = {"file": file, "sha256": hashlib.sha256(content).hexdigest()}
    return json.dumps(kept | {"gpus": [], "estimators": {"gemm": gemm}, "own_runs": own, "specs": {}})


@cache
def csv_file() -> str:
    """A CSV of measurements that a mapping reads."""
    with tempfile.NamedTemporaryFile("w", suffix=".csv", delete=False) as file:
        file.write("M,time,kind\n16,12.5,torch.bfloat16\n32,14.5,torch.bfloat16\n")
    return file.name
