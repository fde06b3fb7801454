"""LLMServingSim: per-layer kernel times of vLLM, by tokens, and attention by prefill chunk, cache and decode batch.

url       https://github.com/casys-kaist/LLMServingSim, commit 5daddb21
licence   MIT
read      profiler/perf/<GPU>/<org>/<model>/<dtype>/tp<N>/: dense.csv and per_sequence.csv -> gemm, pointwise;
          attention.csv -> attention: pure prefill (n_decode 0), pure decode (prefill_chunk 0)
not read  mixed batches of attention.csv; sampler; experts (their routing is not stated); layers unknown to LAYERS;
          models whose widths are neither in WIDTHS nor in configs/model/**/*.json of the clone
units     time_us: microseconds
timing    device (kernel times): the smallest is 1.9 us. Check: down_proj of Llama-3.1-8B at 2048 tokens on an RTX 4090
          takes 1.459 ms, 165 TFLOP/s, the card's dense bf16 peak
engine    vLLM 0.19
shapes    widths of one GPU: qkv_proj, gate_up_proj and lm_head split their output by tp, o_proj and down_proj their
          input. kv_prefill is the cache before the chunk (the time grows by chunk x kv_prefill), so
          kv_len = kv_prefill + prefill_chunk. kv_decode is the cache of each decoding sequence.
quirks    layernorm and final_layernorm are vLLM's fused residual add and RMSNorm. Weights beyond the GPU's memory do
          not matter, as one layer is loaded. With fp8 weights the rest, lm_head included, is bf16.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from predictor.measurements.readers import Unread, folder, read_columns, run_reader, stack
from predictor.units import US

URL = "https://github.com/casys-kaist/LLMServingSim"
VERSION = "0.19"
DTYPES = {"bf16": "bf16", "bfloat16": "bf16", "fp16": "fp16", "float16": "fp16", "fp8": "fp8"}


class Widths(NamedTuple):
    """What a config.json says of a decoder."""

    hidden: int
    inter: int
    heads: int
    kv_heads: int
    head_dim: int
    vocab: int


WIDTHS = {"meta-llama/Llama-3.1-8B": Widths(4096, 14336, 32, 8, 128, 128256)}


def read(root: Path, unread: Unread) -> pd.DataFrame:
    """Every profile below root."""
    perf = folder(root, "profiler/perf", url=URL)
    frames = []
    for path in sorted(perf.rglob("tp*/*.csv")):
        gpu_alias, *model, dtype, tp = path.relative_to(perf).parts[:-1]
        widths = widths_of("/".join(model), root)
        gpu = unread.gpu(gpu_alias)
        if widths is None:
            unread.file(f"widths of {'/'.join(model)} are not known here")
        elif dtype not in DTYPES:
            unread.file(f'unknown dtype "{dtype}"')
        elif not tp.removeprefix("tp").isdigit():
            unread.file(f'folder "{tp}" names no tensor-parallel degree')
        elif gpu is not None:
            frames.append(read_file(path, widths, int(tp.removeprefix("tp")), DTYPES[dtype], unread).assign(gpu=gpu))
    return stack(frames).assign(engine="vllm", engine_version=VERSION, timing="device", source="llmservingsim")


def widths_of(model: str, root: Path) -> Widths | None:
    """Widths of a model, from the clone's configs first."""
    configs = root / "configs" / "model"
    for path in (configs / f"{model}.json", configs / model / "config.json", configs / f"{Path(model).name}.json"):
        if path.is_file():
            try:
                config = json.loads(path.read_text(encoding="utf-8"))
                heads = config["num_attention_heads"]
                return Widths(
                    config["hidden_size"],
                    config["intermediate_size"],
                    heads,
                    config.get("num_key_value_heads") or heads,
                    config.get("head_dim") or config["hidden_size"] // heads,
                    config["vocab_size"],
                )
            except (KeyError, TypeError, ValueError):
                return None
    return WIDTHS.get(model)


def read_file(path: Path, widths: Widths, tp: int, dtype: str, unread: Unread) -> pd.DataFrame:
    """One CSV of one model."""
    if path.name == "attention.csv":
        return read_attention(path, widths, tp, dtype, unread)
    if path.name in ("dense.csv", "per_sequence.csv"):
        tokens = "tokens" if path.name == "dense.csv" else "sequences"
        return read_layers(path, tokens, widths, tp, dtype, unread)
    unread.file(f"{path.name} is not read")
    return pd.DataFrame()


def read_layers(path: Path, tokens: str, widths: Widths, tp: int, dtype: str, unread: Unread) -> pd.DataFrame:
    """Layers by number of tokens (or of sequences, for the head)."""
    table = read_columns(path, ["layer", tokens, "time_us"], unread)
    if table.empty:
        return table
    hidden, inter, heads, kv_heads, head_dim, vocab = widths
    gemms = {  # (n, k) on one GPU
        "qkv_proj": ((heads + 2 * max(kv_heads, tp)) * head_dim // tp, hidden),
        "o_proj": (hidden, heads * head_dim // tp),
        "gate_up_proj": (2 * inter // tp, hidden),
        "down_proj": (hidden, inter // tp),
        "lm_head": (vocab // tp, hidden),
    }
    pointwise = {
        "layernorm": ("add_rms_norm", hidden),
        "final_layernorm": ("add_rms_norm", hidden),
        "act_fn": ("silu_mul", inter // tp),
        "rotary_emb": ("rope", (heads + max(kv_heads, tp)) * head_dim // tp),
        "embedding": ("embedding", hidden),
    }
    frames = []
    for layer, rows in table.groupby("layer", sort=True):
        name, count, latency_s = str(layer), rows[tokens], rows["time_us"] * US
        if name in gemms:
            n, k = gemms[name]
            wide = "bf16" if name == "lm_head" and dtype == "fp8" else dtype
            calls = pd.DataFrame({"family": "gemm", "m": count, "n": n, "k": k, "dtype": wide, "latency_s": latency_s})
        elif name in pointwise:
            kind, cols = pointwise[name]
            calls = pd.DataFrame({"family": "pointwise", "kind": kind, "rows": count, "cols": cols})
            calls = calls.assign(dtype="bf16" if dtype == "fp8" else dtype, latency_s=latency_s)
        else:
            unread.rows[f'layer "{name}" has no op here'] += len(rows)
            continue
        frames.append(unread.positive(calls).assign(kernel_name=name))
    return pd.concat(frames, ignore_index=True) if frames else pd.DataFrame()


def read_attention(path: Path, widths: Widths, tp: int, dtype: str, unread: Unread) -> pd.DataFrame:
    """Pure prefill and pure decode batches."""
    table = read_columns(path, ["prefill_chunk", "kv_prefill", "n_decode", "kv_decode", "time_us"], unread)
    if table.empty:
        return table
    prefill, decode = table["n_decode"] == 0, table["prefill_chunk"] == 0
    table = unread.keep(table, prefill ^ decode, "attention of a batch that mixes prefill and decode")
    first = table["n_decode"] == 0
    calls = pd.DataFrame(
        {
            "family": "attention",
            "phase": first.map({True: "prefill", False: "decode"}),
            "batch": table["n_decode"].where(~first, 1),
            "q_len": table["prefill_chunk"].where(first, 1),
            "kv_len": (table["kv_prefill"] + table["prefill_chunk"]).where(first, table["kv_decode"].clip(lower=1)),
            "heads": widths.heads // tp,
            "kv_heads": max(widths.kv_heads // tp, 1),
            "head_dim": widths.head_dim,
            "window": 0,
            "causal": 1,
            "dtype": "bf16" if dtype == "fp8" else dtype,
            "kv_dtype": "bf16" if dtype == "fp8" else dtype,
            "latency_s": table["time_us"] * US,
        }
    )
    return unread.positive(calls)


if __name__ == "__main__":
    run_reader(read, __doc__ or "")
