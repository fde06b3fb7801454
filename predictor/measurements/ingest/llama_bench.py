"""llama-bench of llama.cpp: -o json, jsonl, csv, sql or md.

pp       n_prompt tokens, n_gen 0: TTFT of a prompt
tg       n_gen steps from n_depth tokens: TPOT. output_len is n_gen + 1, as the first token comes before them.
pg       n_prompt, then n_gen steps: E2E
batch    1
model    model_filename without its format, where the catalogue has it; else --set model=
dtype    the end of model_type: "Q4_K - Medium" is q4_k_m; where model_size says the model's own format, that
KV cache type_k and type_v, where both are one
GPU      gpu_info, those of `devices`; several alike share layers (pp) or rows (tp), by split_mode
engine   llama.cpp, whose rates are those of May 2024: newer builds are faster
not read prompts behind n_depth tokens, models of which the CPU holds a part, files whose model_size is not that of the
         model in the named type
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import PureWindowsPath
from typing import Any

import pandas as pd

from predictor.errors import PredictorError
from predictor.measurements.ingest.content import Content
from predictor.measurements.ingest.given import Given
from predictor.measurements.ingest.llama_bench_text import claims, tests
from predictor.measurements.readers import Unread
from predictor.memory.sizes import weights_bytes
from predictor.ops.dtypes import DTYPES
from predictor.units import GIB
from predictor.workloads.models import get_model, models, normalise
from predictor.workloads.requested import in_ggml
from predictor.workloads.workload import Workload

__all__ = ["NAME", "claims", "dtype_name", "model_name", "read"]

NAME = "llama-bench"
ENGINE = "llama.cpp"
PLAIN = {"all_f32": "fp32", "f32": "fp32", "f16": "fp16", "bf16": "bf16", "mxfp4_moe": "q8_0"}
# Format of a file's name, as quantisers write it: -Q4_K_M, .Q4_K_M, -UD-Q4_K_XL, .i1-IQ4_XS, -model-f16.
ENDING = re.compile(r"[-._](?:(?:UD|i1|imat)-)?(?:i?q\d\w*|tq\d\w*|bf16|f16|f32|fp16|mxfp4\w*)$", re.IGNORECASE)
PART = re.compile(r"-\d{5}-of-\d{5}$")
TYPE = re.compile(
    r"(all F32|BF16|F16|F32|MXFP4 MoE|[IT]?Q\d\w*(?: - (?:Small|Medium|Large|[\d.]+ bpw(?: ternary)?))?)"
    r"\s*(?:\(guessed\))?\s*$",
    re.IGNORECASE,
)
CACHES = {"": "", "f16": "", "bf16": "bf16", "f32": "fp32", "q8_0": "q8_0", "q4_0": "q4_0"}
ALL_LAYERS = 99  # -ngl 99 means all
SIZE_TOLERANCE = 0.15  # mixtures of one name differ by less: some matrices are stored wider
UNSET = ("0", "false", "none", "")


def read(content: Content, given: Given, unread: Unread) -> pd.DataFrame:
    """Rows of runs."""
    return pd.DataFrame([row for test in tests(content) for row in _row(test, given, unread)])


def _row(test: Mapping[str, Any], given: Given, unread: Unread) -> Iterator[dict[str, Any]]:
    try:
        prompt, generated, depth = (int(test.get(name) or 0) for name in ("n_prompt", "n_gen", "n_depth"))
        seconds = float(test["avg_ns"]) * 1e-9
        if min(prompt, generated, depth) < 0 or not prompt + generated:
            raise ValueError
    except (KeyError, TypeError, ValueError, OverflowError):
        unread.rows["test or speed cannot be read"] += 1
        return
    model = given.columns.get("model") or model_name(str(test.get("model_filename") or ""))
    dtype, wrong = (given.columns["dtype"], "") if "dtype" in given.columns else _stored(test, model)
    if why := _left_out(test, prompt, depth, model) or wrong:
        unread.rows[why] += 1
        return
    row: dict[str, Any] = {
        "model": model,
        "dtype": dtype,
        "kv_dtype": CACHES[_cache(test)[0]],
        "engine": ENGINE,
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


def _left_out(test: Mapping[str, Any], prompt: int, depth: int, model: str) -> str:
    """Why a test cannot be a run, "" where it can."""
    if prompt and depth:
        return "a prompt behind n_depth cached tokens, which a request cannot say"
    layers = _number(test, "n_gpu_layers", -1)
    if 0 <= layers < ALL_LAYERS and layers <= _layers(model):
        return f"n_gpu_layers is {layers:g}: the CPU ran a part of the model"
    for name in ("n_cpu_moe", "no_kv_offload"):
        if str(test.get(name, 0)).casefold() not in UNSET:
            return f"{name} is set: the CPU ran a part of the model"
    if (moved := str(test.get("tensor_buft_overrides") or "")).casefold() not in UNSET:
        return f"tensor_buft_overrides is {moved}: tensors are elsewhere than on the GPU"
    if len(set(_cache(test))) > 1 or _cache(test)[0] not in CACHES:
        return f"a cache of type_k {_cache(test)[0]} and type_v {_cache(test)[1]}, which a request cannot say"
    if str(test.get("embeddings", 0)).casefold() not in UNSET:
        return "embeddings is set: no tokens were made"
    backends = {name.strip() for name in str(test.get("backends") or "").split(",")} - {""}
    if "RPC" in backends or (backends and backends <= {"CPU", "BLAS", "ZenDNN"}):
        return f"backends is {', '.join(sorted(backends))}: not GPUs of one machine, which alone are read"
    if str(test.get("split_mode") or "layer") not in ("none", "layer", "row", "tensor"):
        return f"split_mode is {test['split_mode']}; none, layer, row and tensor are known"
    if len(set(_gpus(test))) > 1:
        return f"GPUs of several kinds ({', '.join(sorted(set(_gpus(test))))})"
    return ""


def _stored(test: Mapping[str, Any], model: str) -> tuple[str, str]:
    """dtype of the weights, "" for the model's own; and why none is known, "" where one is.

    The type named in model_type, if model_size is that of the model in it; else the model's own format, if it is that.
    """
    told = str(test.get("model_type") or "")
    named, size = dtype_name(told), _number(test, "model_size", 0)
    try:
        network = get_model(model)
    except PredictorError:
        return named, ""
    own = bool(getattr(network, "expert_dtype", ""))
    if "mxfp4" in told.casefold() and not own:
        return "", f'model_type "{told}": which matrices of {model} have MXFP4 is not known; set dtype'
    if named not in DTYPES:
        return "", f'model_type "{told}" names no type that is known; set dtype'
    parameters, counted = float(network.parameters()), _number(test, "model_n_params", 0)
    if counted and abs(counted / parameters - 1) > SIZE_TOLERANCE:
        return "", f"{counted / 1e9:.1f} B parameters, {model} has {parameters / 1e9:.1f} B; set model"
    if not size:
        return named, ""
    for dtype in (named, *([""] if own else [])):
        if abs(size / _bytes(network, dtype) - 1) <= SIZE_TOLERANCE:
            return dtype, ""
    stored = f"model_size is {size / GIB:.2f} GiB, {model} in {named} has {_bytes(network, named) / GIB:.2f}"
    return "", f"{stored}; set dtype"


def _bytes(model: Any, dtype: str) -> float:
    """Of the whole file, the embedding too."""
    return float(weights_bytes(in_ggml(Workload(model=model, dtype=dtype))))


def _number(test: Mapping[str, Any], name: str, otherwise: float) -> float:
    try:
        return float(test.get(name) or 0) if name in test else otherwise
    except (TypeError, ValueError, OverflowError):
        return otherwise


def _cache(test: Mapping[str, Any]) -> tuple[str, str]:
    key, value = (str(test.get(name) or "f16").casefold() for name in ("type_k", "type_v"))
    return key, value


def _layers(model: str) -> int:
    known = models().get(model)
    return int(getattr(known, "layers", 0) or ALL_LAYERS) if known else ALL_LAYERS


def _gpus(test: Mapping[str, Any]) -> list[str]:
    """The GPUs that ran: of all in gpu_info those whose number `devices` names (CUDA0/CUDA1)."""
    names = [name.strip() for name in re.split(r"[,/]", str(test.get("gpu_info") or "")) if name.strip()]
    used = [int(number) for number in re.findall(r"[A-Za-z](\d+)(?=/|$)", str(test.get("devices") or ""))]
    names = [names[number] for number in used if number < len(names)] or names
    if str(test.get("split_mode") or "") == "none" and names:
        main = int(_number(test, "main_gpu", 0))
        return [names[main] if 0 <= main < len(names) else names[0]]
    return names


def _devices(test: Mapping[str, Any]) -> dict[str, Any]:
    names = _gpus(test)
    layout = "pp" if str(test.get("split_mode") or "layer") == "layer" else "tp"
    return {"gpu": names[0] if names else "", **({layout: len(names)} if len(names) > 1 else {})}


def model_name(file: str) -> str:
    """The catalogue's name of a GGUF file's model, else the file's own without its format.

    >>> model_name("models/Qwen2.5-7B-Instruct-Q4_K_M.gguf")
    'Qwen2.5-7B'
    >>> model_name("Qwen_Qwen3-8B-UD-Q4_K_XL-00001-of-00002.gguf"), model_name("Meta-Llama-3.1-8B.i1-IQ4_XS.gguf")
    ('Qwen3-8B', 'Llama-3.1-8B')
    """
    stem = PART.sub("", PureWindowsPath(file).name.removesuffix(".gguf"))
    stem = ENDING.sub("", stem)
    known = {normalise(name): name for name in models()}
    called = (stem, re.sub("^meta-", "", stem, flags=re.IGNORECASE), stem.partition("_")[2])
    return next((known[normalise(name)] for name in called if normalise(name) in known), stem)


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
