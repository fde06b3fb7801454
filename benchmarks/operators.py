"""Tables of operator calls for benchmarks: the shapes of nine published decoders on eight GPUs and three engines.

kind "workload": batches and lengths as requests ask for them, so that most rows occur many times. "unique": any number
of tokens, so that hardly a row occurs twice. "shapeless": widths too are any multiple of 64, which no model has.
"""

from __future__ import annotations

import numpy as np
import pandas as pd

GPUS = ("H100-SXM-80GB", "A100-SXM-80GB", "L40S", "B200-SXM-180GB", "H200-SXM-141GB", "RTX-4090", "L4", "MI300X")
ENGINES = ("vllm", "sglang", "trtllm")
# hidden, inter, heads, kv_heads, head_dim; then experts, topk and their inter, 0 where dense
MODELS = (
    *((4096, 14336, 32, 8, 128, 0, 0, 0), (8192, 28672, 64, 8, 128, 0, 0, 0), (2048, 8192, 32, 8, 64, 0, 0, 0)),
    *((3584, 18944, 28, 4, 128, 0, 0, 0), (5120, 27648, 40, 8, 128, 0, 0, 0), (4096, 12288, 32, 8, 128, 0, 0, 0)),
    *((4096, 14336, 32, 8, 128, 8, 2, 14336), (2048, 6144, 32, 4, 128, 128, 8, 768)),
    (4096, 12288, 64, 4, 128, 128, 8, 1536),
)
FAMILIES = ("gemm", "gemm", "gemm", "gemm", "attention", "moe", "pointwise", "pointwise")
POINTWISE = ("add_rms_norm", "silu_mul", "rope")


def operators(count: int, kind: str, seed: int = 0) -> pd.DataFrame:
    """So many operator calls."""
    rng = np.random.default_rng(seed)
    model = np.array(MODELS)[rng.integers(len(MODELS), size=count)]
    hidden, inter, heads, kv_heads, head_dim, experts, topk, expert_inter = model.T.astype(float)
    if kind == "shapeless":
        hidden, inter = (64.0 * rng.integers(8, 256, count) for _ in range(2))
    tp = 2.0 ** rng.integers(0, 4, count)
    heads, kv_heads = heads / np.minimum(tp, 4), np.maximum(kv_heads / tp, 1)
    family = np.array(FAMILIES)[rng.integers(len(FAMILIES), size=count)]
    family = np.where((family == "moe") & (experts == 0), "gemm", family)
    decode = rng.random(count) < 0.5
    if kind == "workload":
        batch, length = 2.0 ** rng.integers(0, 9, count), 512.0 * 2 ** rng.integers(0, 5, count)
    else:
        batch, length = rng.integers(1, 257, count).astype(float), rng.integers(16, 8193, count).astype(float)
    tokens = np.where(decode, batch, length)
    which = rng.integers(4, size=count)  # qkv, output, gate and up, down
    n = np.choose(which, [(heads + 2 * kv_heads) * head_dim, hidden, 2 * inter / tp, hidden])
    k = np.choose(which, [hidden, heads * head_dim, hidden, inter / tp])
    gpu = np.array(GPUS)[rng.integers(len(GPUS), size=count)]
    fp8 = (rng.random(count) < 0.3) & ~np.isin(gpu, ("A100-SXM-80GB",)) & np.isin(family, ("gemm", "moe"))

    def of(name: str, values: np.ndarray) -> np.ndarray:
        return np.where(family == name, values, np.nan)

    return pd.DataFrame(
        {
            "id": np.arange(count),
            "family": family,
            "phase": np.where(family == "attention", np.where(decode, "decode", "prefill"), ""),
            "kind": np.where(family == "pointwise", np.array(POINTWISE)[rng.integers(3, size=count)], ""),
            "dtype": np.where(fp8, "fp8", "bf16"),
            "m": of("gemm", tokens),
            "n": of("gemm", np.ceil(n)),
            "k": of("gemm", np.ceil(k)),
            "batch": of("attention", np.where(decode, batch, 1.0)),
            "q_len": of("attention", np.where(decode, 1.0, length)),
            "kv_len": of("attention", length),
            "heads": of("attention", heads),
            "kv_heads": of("attention", kv_heads),
            "head_dim": of("attention", head_dim),
            "tokens": of("moe", tokens),
            "hidden": of("moe", hidden),
            "inter": of("moe", np.where(experts > 0, expert_inter, np.nan)),
            "experts": of("moe", experts),
            "topk": of("moe", topk),
            "tp": of("moe", tp),
            "rows": of("pointwise", tokens),
            "cols": of("pointwise", hidden),
            "gpu": gpu,
            "engine": np.array(ENGINES)[rng.integers(3, size=count)],
        }
    )
