"""llama-bench in all its outputs: one run is one row, and what a request cannot say is counted by reason."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from tool_files import LLAMA, read_one, write

from predictor.errors import InvalidTable
from predictor.hardware.gpu import get_gpu
from predictor.measurements.ingest.llama_bench import dtype_name, model_name
from predictor.memory.sizes import weights_bytes
from predictor.workloads.models import get_model
from predictor.workloads.request import Request
from predictor.workloads.requested import served_workload

STEPS = LLAMA | {"n_prompt": 0, "n_gen": 128, "avg_ns": 1_000_000_000}
GPT_OSS = STEPS | {
    "model_filename": "gpt-oss-20b-F16.gguf",
    "model_type": "gpt-oss 20B F16",
    "model_size": 13_780_000_000,
    "model_n_params": 20_914_757_184,
}
MARKDOWN = """ggml_cuda_init: found 1 CUDA devices:
  Device 0: NVIDIA GeForce RTX 4090, compute capability 8.9, VMM: yes
| model                          |     size | params | backend | ngl | fa |          test |             t/s |
| ------------------------------ | -------: | -----: | ------- | --: | -: | ------------: | --------------: |
| llama 8B Q4_K - Medium         | 4.58 GiB | 8.03 B | CUDA    |  99 |  1 | pp512 | 8533.33 ± 12.00 |
| llama 8B Q4_K - Medium         | 4.58 GiB | 8.03 B | CUDA    |  99 |  1 | tg128 @ d4096 | 128.00 ± 0.10 |
| llama 8B Q4_K - Medium         | 4.58 GiB | 8.03 B | CUDA    |  99 |  1 | pp512+tg128 | 600.00 ± 0.10 |
| llama 8B Q4_K - Medium         | 4.58 GiB | 8.03 B | CUDA    |  99 |  1 | pp512 @ d4096 | 7000.00 ± 0.10 |
| llama 8B Q4_K - Medium         | 4.58 GiB | 8.03 B | CUDA    |  99 |  1 | oddly | 7000.00 ± 0.10 |

build: abc1234 (5163)
"""


def printed(form: str) -> str:
    if form == "csv":
        return pd.DataFrame([LLAMA]).to_csv(index=False, quoting=1)
    if form == "sql":
        names, values = ", ".join(LLAMA), ", ".join(f"'{value}'" for value in LLAMA.values())
        return f"CREATE TABLE IF NOT EXISTS test (\n  x TEXT\n);\n\nINSERT INTO test ({names}) VALUES ({values});\n"
    if form == "jsonl":
        return json.dumps(LLAMA) + "\n"
    return json.dumps([LLAMA], indent=2) if form == "json" else MARKDOWN


@pytest.mark.parametrize("form", ["json", "jsonl", "csv", "sql", "md"])
@pytest.mark.parametrize("coding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize("around", ["{}", "\x1b[32mload_backend: loaded CUDA backend\x1b[0m\r\nmore of it\r\n{}"])
def test_every_output_is_the_same_run(form: str, coding: str, around: str, tmp_path: Path) -> None:
    path = tmp_path / "out"
    path.write_bytes(around.replace("{}", printed(form)).replace("\n", "\r\n").encode(coding))
    runs, _ = read_one(path, columns={"model": "Llama-3.1-8B"})
    first = runs.iloc[0]
    assert first[["model", "gpu", "dtype", "status"]].tolist() == [
        *("Llama-3.1-8B", "NVIDIA GeForce RTX 4090", "q4_k_m", "accepted")
    ]
    assert [first["input_len"], first["measured_ttft_s"]] == pytest.approx([512, 0.06], rel=1e-3)


def test_markdown_tells_tests_and_counts_what_it_cannot(tmp_path: Path) -> None:
    path = tmp_path / "out.md"
    path.write_text(MARKDOWN)
    runs, unread = read_one(path, columns={"model": "Llama-3.1-8B"})
    assert runs[["input_len", "output_len"]].to_numpy().tolist() == [[512, 1], [4096, 129], [512, 129]]
    assert runs["measured_tpot_s"][1] == pytest.approx(1 / 128)
    assert runs["measured_e2e_s"][2] == pytest.approx(640 / 600)
    assert dict(unread.rows) == {
        "a prompt behind n_depth cached tokens, which a request cannot say": 1,
        "test or speed cannot be read": 1,
    }
    with pytest.raises(InvalidTable, match="does not tell model; add --set model="):
        read_one(path)


@pytest.mark.parametrize(
    ("told", "dtype"),
    [
        ("llama 8B Q4_K - Medium", "q4_k_m"),
        ("llama 8B Q4_K - Small (guessed)", "q4_k_s"),
        ("llama 7B mostly Q4_0", "q4_0"),
        ("llama 8B all F32", "fp32"),
        ("llama 8B BF16", "bf16"),
        ("gpt-oss 20B MXFP4 MoE", "q8_0"),
        ("llama 8B TQ1_0 - 1.69 bpw ternary", "tq1_0"),
        ("llama 8B IQ2_XXS - 2.0625 bpw", "iq2_xxs"),
        ("llama 8B", ""),
    ],
)
def test_types_are_dtypes(told: str, dtype: str) -> None:
    assert dtype_name(told) == dtype


@pytest.mark.parametrize(
    ("file", "model"),
    [
        ("Qwen_Qwen3-8B-Q4_K_M.gguf", "Qwen3-8B"),
        ("Qwen3-8B-UD-Q4_K_XL.gguf", "Qwen3-8B"),
        ("/m/Meta-Llama-3.1-8B-Instruct.i1-IQ4_XS.gguf", "Llama-3.1-8B"),
        ("llama-3.1-8b-instruct.Q4_K_M.gguf", "Llama-3.1-8B"),
        ("gpt-oss-120b-mxfp4-00001-of-00003.gguf", "gpt-oss-120b"),
        ("ggml-model-f16.gguf", "ggml-model"),
    ],
)
def test_files_are_named_as_quantisers_do(file: str, model: str) -> None:
    assert model_name(file) == model


@pytest.mark.parametrize(
    ("change", "dtype"),
    [
        ({}, ""),
        ({"model_type": "gpt-oss 20B BF16"}, ""),
        ({"model_type": "gpt-oss 20B MXFP4 MoE", "model_size": 12_100_000_000}, "q8_0"),
        ({"model_type": "gpt-oss 20B Q8_0", "model_size": 12_100_000_000}, "q8_0"),
    ],
)
def test_the_size_says_that_experts_have_four_bits(change: dict[str, Any], dtype: str, tmp_path: Path) -> None:
    runs, unread = read_one(write(tmp_path, "a.json", [GPT_OSS | change]))
    assert not unread.rows and runs[["dtype", "status"]].iloc[0].tolist() == [dtype, "accepted"]


def test_experts_published_in_four_bits_keep_them_in_a_gguf() -> None:
    request = Request(model="gpt-oss-20b", gpu="RTX 4090", engine="llama.cpp", dtype="q8_0")
    workload, _ = served_workload(request, get_model("gpt-oss-20b"), get_gpu("RTX 4090"))
    assert workload.expert_dtype == "mxfp4_wo"
    assert weights_bytes(workload) == pytest.approx(12.1e9, rel=0.01)  # gpt-oss-20b-mxfp4.gguf of ggml-org


@pytest.mark.parametrize(("kind", "kv_dtype"), [("f16", ""), ("bf16", "bf16"), ("q8_0", "q8_0"), ("q4_0", "q4_0")])
def test_the_cache_has_its_type(kind: str, kv_dtype: str, tmp_path: Path) -> None:
    runs, _ = read_one(write(tmp_path, "a.json", [STEPS | {"type_k": kind, "type_v": kind, "n_depth": 4096}]))
    assert runs[["kv_dtype", "status"]].iloc[0].tolist() == [kv_dtype, "accepted"]


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"n_gpu_layers": 20}, "n_gpu_layers is 20: the CPU ran a part of the model"),
        ({"n_cpu_moe": 8}, "n_cpu_moe is set: the CPU ran a part of the model"),
        ({"no_kv_offload": True}, "no_kv_offload is set: the CPU ran a part of the model"),
        ({"tensor_buft_overrides": "exps=CPU"}, "tensor_buft_overrides is exps=CPU: tensors are elsewhere than on the"),
        ({"type_k": "q8_0", "type_v": "q4_0"}, "a cache of type_k q8_0 and type_v q4_0, which a request cannot say"),
        ({"type_k": "iq4_nl", "type_v": "iq4_nl"}, "a cache of type_k iq4_nl and type_v iq4_nl"),
        ({"gpu_info": "NVIDIA GeForce RTX 4090, Tesla T4"}, "GPUs of several kinds"),
        ({"backends": "CPU"}, "backends is CPU: not GPUs of one machine, which alone are read"),
        ({"backends": "CUDA,RPC"}, "backends is CUDA, RPC"),
        ({"embeddings": True}, "embeddings is set: no tokens were made"),
        ({"split_mode": "graph"}, "split_mode is graph"),
        ({"model_type": "llama 8B IQ2_XXS - 2.0625 bpw"}, 'model_type "llama 8B IQ2_XXS - 2.0625 bpw" names no type'),
        (
            {"model_type": "llama 8B MXFP4 MoE"},
            'model_type "llama 8B MXFP4 MoE": which matrices of Llama-3.1-8B have MXFP4 is',
        ),
        ({"model_size": 2_000_000_000}, "model_size is 1.86 GiB, Llama-3.1-8B in q4_k_m has 4.5"),
        ({"model_n_params": 3_000_000_000}, "3.0 B parameters, Llama-3.1-8B has 8.0 B; set model"),
        ({"avg_ns": "soon"}, "test or speed cannot be read"),
        ({"n_gen": 0}, "test or speed cannot be read"),
    ],
)
def test_what_is_no_run_is_counted_by_reason(change: dict[str, Any], why: str, tmp_path: Path) -> None:
    runs, unread = read_one(write(tmp_path, "a.json", [STEPS, STEPS | change]))
    assert len(runs) == 1 and sum(unread.rows.values()) == 1
    assert next(iter(unread.rows)).startswith(why)


@pytest.mark.parametrize(
    ("change", "layout"),
    [
        ({"split_mode": "layer"}, (2, None)),
        ({"split_mode": "row"}, (None, 2)),
        ({"split_mode": "none"}, (None, None)),
        ({"devices": "CUDA1"}, (None, None)),
        ({"devices": "CUDA0/CUDA1"}, (2, None)),
        ({"devices": "auto"}, (2, None)),
    ],
)
def test_gpus_share_as_they_were_split(change: dict[str, Any], layout: tuple[Any, Any], tmp_path: Path) -> None:
    two = STEPS | {"gpu_info": "NVIDIA GeForce RTX 3090, NVIDIA GeForce RTX 3090"} | change
    row = read_one(write(tmp_path, "a.json", [two]))[0].iloc[0]
    assert tuple(None if pd.isna(row[name]) else row[name] for name in ("pp", "tp")) == layout


def test_an_unknown_gpu_and_a_speed_beyond_its_bound_are_set_aside(tmp_path: Path) -> None:
    tests = [STEPS | {"gpu_info": "Voodoo 5 6000"}, STEPS | {"avg_ns": 100_000_000}]
    runs, _ = read_one(write(tmp_path, "a.json", tests))
    assert runs["status"].tolist() == ["rejected", "rejected"]
    assert "Voodoo 5 6000" in runs["reason"][0] and "faster than the roofline bound" in runs["reason"][1]


@pytest.mark.parametrize(
    "text",
    ["", json.dumps([LLAMA])[:-20], ",".join(LLAMA) + '\n"' + "x" * 200_000, "a log\nand no more"],
    ids=["empty", "cut", "huge cell", "log"],
)
def test_broken_files_are_refused(text: str, tmp_path: Path) -> None:
    path = tmp_path / "broken"
    path.write_text(text)
    with pytest.raises(InvalidTable):
        read_one(path)


def test_thousands_of_columns_are_no_hindrance(tmp_path: Path) -> None:
    path = tmp_path / "wide.csv"
    pd.DataFrame([LLAMA | {f"x{n}": n for n in range(5000)}]).to_csv(path, index=False)
    assert read_one(path)[0]["status"].tolist() == ["accepted"]
