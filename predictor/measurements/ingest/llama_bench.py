"""llama-bench of llama.cpp: -o json, jsonl or csv.

pp       n_prompt tokens, n_gen 0: TTFT of a prompt
tg       n_gen steps from n_depth tokens: TPOT. output_len is n_gen + 1, as the first token comes before them.
pg       n_prompt, then n_gen steps: E2E
batch    1
model    model_filename without its format, where the catalogue has it; else --set model=
dtype    the end of model_type: "Q4_K - Medium" is q4_k_m
GPU      gpu_info; several alike share layers (pp) or rows (tp), by split_mode
engine   llama.cpp, whose rates are those of May 2024: newer builds are faster
not read prompts behind n_depth tokens, models of which the CPU holds a part
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import PureWindowsPath
from typing import Any

import pandas as pd

from predictor.measurements.ingest.content import Content
from predictor.measurements.ingest.given import Given
from predictor.measurements.readers import Unread
from predictor.ops.dtypes import DTYPES
from predictor.workloads.models import models, normalise

NAME = "llama-bench"
KEYS = ("model_filename", "n_prompt", "n_gen", "avg_ns")
PLAIN = {"all_f32": "fp32", "f32": "fp32", "f16": "fp16", "bf16": "bf16"}
ENDING = re.compile(r"[-._](?:i?q\d\w*|bf16|f16|f32|fp16|mxfp4\w*)$", re.IGNORECASE)
PART = re.compile(r"-\d{5}-of-\d{5}$")
TYPE = re.compile(
    r"(all F32|BF16|F16|F32|MXFP4 MoE|I?Q\d\w*(?: - (?:Small|Medium|Large|[\d.]+ bpw))?)\s*$", re.IGNORECASE
)
ALL_LAYERS = 99  # -ngl 99 means all


def claims(content: Content) -> bool:
    """Whether a file has the fields of llama-bench."""
    return content.has(*KEYS) or content.header(*KEYS) >= 0


def read(content: Content, given: Given, unread: Unread) -> pd.DataFrame:
    """Rows of runs."""
    tests = content.documents
    if content.kind == "csv":
        tests = tuple(content.table(content.header(*KEYS)).to_dict("records"))
    return pd.DataFrame([row for test in tests for row in _row(test, unread)])


def _row(test: Mapping[str, Any], unread: Unread) -> Iterator[dict[str, Any]]:
    prompt, generated, depth = (int(test.get(name) or 0) for name in ("n_prompt", "n_gen", "n_depth"))
    seconds = float(test["avg_ns"]) * 1e-9
    if why := _left_out(test, prompt, depth):
        unread.rows[why] += 1
        return
    row: dict[str, Any] = {
        "model": model_name(str(test["model_filename"])),
        "dtype": dtype_name(str(test.get("model_type", ""))),
        "engine": "llama.cpp",
        "engine_version": str(test.get("build_number") or ""),
        "scheduling": "static",
        "batch": 1,
        "source": NAME,
        **_devices(test),
    }
    if generated and prompt:
        yield row | {"input_len": prompt, "output_len": generated + 1, "measured_e2e_s": seconds}
    elif generated:
        lengths = {"input_len": max(depth, 1), "output_len": generated + 1}
        yield row | lengths | {"measured_tpot_s": seconds / generated}
    else:
        yield row | {"input_len": prompt, "output_len": 1, "measured_ttft_s": seconds}


def _left_out(test: Mapping[str, Any], prompt: int, depth: int) -> str:
    """Why a test cannot be a run, "" where it can."""
    if prompt and depth:
        return "a prompt behind n_depth cached tokens, which a request cannot say"
    layers = int(test.get("n_gpu_layers", -1))
    if 0 <= layers < ALL_LAYERS and layers <= _layers(test):
        return f"n_gpu_layers is {layers}: the CPU ran a part of the model"
    for name in ("n_cpu_moe", "no_kv_offload"):
        if str(test.get(name, 0)).casefold() not in ("0", "false", ""):
            return f"{name} is set: the CPU ran a part of the model"
    if len(set(_gpus(test))) > 1:
        return f"GPUs of several kinds ({', '.join(sorted(set(_gpus(test))))})"
    return ""


def _layers(test: Mapping[str, Any]) -> int:
    model = models().get(model_name(str(test["model_filename"])))
    return int(getattr(model, "layers", 0) or ALL_LAYERS) if model else ALL_LAYERS


def _gpus(test: Mapping[str, Any]) -> list[str]:
    return [name.strip() for name in re.split(r"[,/]", str(test.get("gpu_info") or "")) if name.strip()]


def _devices(test: Mapping[str, Any]) -> dict[str, Any]:
    names = _gpus(test)
    split = str(test.get("split_mode", "layer"))
    shared = len(names) if split != "none" else 1
    layout = {"pp": shared} if split == "layer" else {"tp": shared}
    return {"gpu": names[0] if names else "", **(layout if shared > 1 else {})}


def model_name(file: str) -> str:
    """The catalogue's name of a GGUF file's model, else the file's own without its format.

    >>> model_name("models/Qwen2.5-7B-Instruct-Q4_K_M.gguf")
    'Qwen2.5-7B'
    """
    stem = PART.sub("", PureWindowsPath(file).name.removesuffix(".gguf"))
    stem = ENDING.sub("", stem)
    known = {normalise(name): name for name in models()}
    return known.get(normalise(stem), known.get(normalise(stem).removeprefix("meta-"), stem))


def dtype_name(model_type: str) -> str:
    """Our name of the format that a model type ends with, "" where it tells none.

    >>> dtype_name("qwen2 7B Q4_K - Medium"), dtype_name("llama 8B F16")
    ('q4_k_m', 'fp16')
    """
    match = TYPE.search(model_type)
    if not match:
        return ""
    name, _, size = match[1].casefold().replace(" - ", "|").replace(" ", "_").partition("|")
    named = f"{name}_{size[0]}" if size[:1] in ("s", "m", "l") else name
    return PLAIN.get(named, named if named in DTYPES else name)
