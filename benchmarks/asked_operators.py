"""The operator calls that same_answers.py asks, of every family, GPU, engine and number format, and measurements."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from predictor import catalogue

ENGINES = ("vllm", "sglang", "trtllm", "vllm-v0", "torch")

# Number format → the arithmetic peaks of which a GPU needs one.
NARROW = {"fp8": ("fp8",), "fp8_block": ("fp8",), "nvfp4": ("fp4",), "mxfp4": ("fp4",), "mxfp4_mxfp8": ("fp8",)}
WIDE = {"fp32": ("fp32",), "tf32": ("tf32",), "fp16": ("fp16",), "bf16": ("bf16",), "int8": ("int8",)}
WIDENED = ("int8_wo", "int4_wo", "nvfp4_wo", "mxfp4_wo", "nf4", "q2_k", "q4_k_m", "iq4_xs", "q6_k", "q8_0")
FORMATS = WIDE | NARROW | dict.fromkeys(WIDENED, ("bf16", "fp16"))
KERNELS = ("vllm_flash_fa3", "flash_attn_2", "trtllm_gen", "flashinfer", "triton", "sglang_flashinfer_cutlass")
MOE_KERNELS = ("marlin", "deepgemm", "cutlass", "torch_flow", "oaitriton", "cublas", "nccl", "custom_all_reduce")
POINTWISE = ("layer_norm", "rms_norm", "add_rms_norm", "softmax", "relu", "gelu", "tanh", "silu", "silu_mul", "add")
POINTWISE_TOO = ("mul", "pow", "rope", "copy", "embedding", "compute_scale", "quantise_fp8")
COLLECTIVES = ("all_reduce", "all_gather", "reduce_scatter", "all_to_all", "send_recv")
CALLS = {"gemm": 30_000, "attention": 24_000, "moe": 18_000, "mla": 12_000, "pointwise": 15_000, "conv": 8_000}
CALLS |= {"collective": 8_000}
TOKENS = 20  # numbers of tokens for each layer
OWN_GPU = "L4"  # whose measurements calibrate a bundle
SEVERAL = ("A100-SXM-80GB", "H100-SXM-80GB", "L40S", "MI300X")  # those that a bundle is trained on
MEASURED = 40  # rows of each operator on each of them

Row = dict[str, Any]


def formats_of(gpu: str) -> list[str]:
    """Number formats that a GPU runs."""
    peaks = catalogue()[gpu].peak_flop_per_s
    return [name for name, needed in FORMATS.items() if any(peak in peaks for peak in needed)]


def operators(calls: dict[str, int], gpus: tuple[str, ...], seed: int) -> pd.DataFrame:
    """So many calls of each family, of which some are wrong. Columns as `predictor batch --ops` reads them.

    Each layer is called with TOKENS numbers of tokens. Rows of a GPU follow each other, families mixed, for a
    part of a job takes long where it asks of many GPUs.
    """
    draw = np.random.default_rng(seed)
    every = pd.concat([_calls(draw, family, count // TOKENS, gpus) for family, count in calls.items()])
    every = every.sample(frac=1, random_state=seed).sort_values("gpu", kind="stable", ignore_index=True)
    return _some_wrong(every, draw).rename_axis("id").reset_index()


def _calls(draw: np.random.Generator, family: str, layers: int, gpus: tuple[str, ...]) -> pd.DataFrame:
    each = np.arange(layers).repeat(TOKENS)
    drawn = pd.DataFrame(_layers(draw, family, layers, gpus)).iloc[each].reset_index(drop=True)
    return drawn.assign(**_tokens(_Sizes(draw, len(each)), drawn))


class _Sizes(NamedTuple):
    """Draws columns of so many calls."""

    draw: np.random.Generator
    count: int

    def of(self, *choices: Any) -> Any:
        """Any of some, each as probable as it is often named."""
        kind = object if isinstance(choices[0], str) else float
        return np.array(choices, dtype=kind)[self.draw.integers(len(choices), size=self.count)]

    def within(self, least: float, most: float) -> Any:
        """Log-uniform whole numbers, half of them powers of two."""
        logs = self.draw.uniform(np.log2(least), np.log2(most), self.count)
        return np.floor(2 ** np.where(self.draw.random(self.count) < 0.5, np.ceil(logs), logs))

    def mostly(self, share: float, usual: Any, other: Any) -> Any:
        """The usual in a share of all."""
        return np.where(self.draw.random(self.count) < share, usual, other)


def _layers(draw: np.random.Generator, family: str, count: int, gpus: tuple[str, ...]) -> Row:
    """What calls have besides their tokens."""
    some = _Sizes(draw, count)
    of, sizes = some.of, some.within
    gpu = np.array(gpus, dtype=object)[draw.integers(len(gpus), size=count)]
    columns: Row = {"family": family, "gpu": gpu, "dtype": _runnable(draw, gpu)}
    columns |= {"engine": of(*ENGINES, "vllm", "sglang", "trtllm", "", "aiter", "nccl", "mine")}
    columns |= {"kernel_name": some.mostly(0.6, "", of(*KERNELS, *MOE_KERNELS))}
    columns |= {"timing": of("device", "device", "", "host")}
    if family == "gemm":
        columns |= {"n": sizes(16, 65_536), "k": sizes(16, 65_536), "batch": of(1, 1, 1, np.nan, 8, 33)}
    if family in ("attention", "mla"):
        kv_dtype = some.mostly(0.6, columns["dtype"], _runnable(draw, gpu))
        columns |= {"phase": of("prefill", "decode"), "kv_dtype": kv_dtype}
    if family == "attention":
        kv_heads = of(1, 2, 4, 8, 16)
        columns |= {"kv_heads": kv_heads, "heads": kv_heads * of(1, 2, 4, 7, 8), "head_dim": of(64, 80, 128, 256)}
        columns |= {"window": of(0, 0, 0, np.nan, 128, 4096), "causal": of(1, 1, 1, np.nan, 0)}
    if family == "mla":
        columns |= {"heads": of(1, 8, 16, 32, 128), "kv_lora_rank": of(512, np.nan, 256), "rope_dim": of(64, np.nan)}
        columns |= {"nope_dim": of(128, np.nan, 192), "v_dim": of(128, np.nan, 256)}
    if family == "moe":
        experts = of(8, 16, 60, 64, 128, 256, 384)
        columns |= {"hidden": sizes(512, 8192), "inter": sizes(128, 16_384), "experts": experts}
        columns |= {
            "topk": np.minimum(of(1, 2, 4, 6, 8, 10), experts),
            "tp": of(1, 1, 2, 4, 8),
            "ep": of(1, 1, 2, 4, 8),
        }
        columns |= {"skew": of(0, 0, 0, np.nan, 1.01, 1.2), "matrices": of(3, 3, np.nan, 2)}
    if family == "pointwise":
        columns |= {"kind": of(*POINTWISE, *POINTWISE_TOO), "cols": sizes(16, 131_072)}
    if family == "conv":
        groups, kernel = of(1, 1, 1, np.nan, 32), of(1, 3, 3, 5, 7)
        columns |= {"groups": groups, "in_channels": 32 * sizes(1, 64), "out_channels": 32 * sizes(1, 64)}
        columns |= {"kernel": kernel, "padding": np.floor(kernel / 2) * of(0, 1, 1), "stride": of(1, 1, np.nan, 2)}
        columns |= {"size": sizes(7, 256)}
    if family == "collective":
        columns |= {"kind": of(*COLLECTIVES), "n_gpus": of(2, 3, 4, 8, 16, 72), "dtype": ""}
        columns |= {"link": of("gpu", "gpu", "", "pcie")}
    return columns


def _tokens(some: _Sizes, layers: pd.DataFrame) -> Row:
    """What grows with the tokens of a call, or its batch or message."""
    family = layers["family"].iloc[0]
    if family not in ("attention", "mla"):
        name = {"gemm": "m", "moe": "tokens", "pointwise": "rows", "conv": "batch", "collective": "message_bytes"}[
            family
        ]
        return {name: some.within(1, {"batch": 256, "message_bytes": 2**32}.get(name, 32_768))}
    decode, past = (layers["phase"] == "decode").to_numpy(), some.within(1, 32_768)
    new = np.where(decode, some.of(1, 1, 1, 2, 4), some.within(1, 16_384))
    return {
        "batch": some.within(1, 256),
        "q_len": new,
        "kv_len": new + np.where(decode, past, some.mostly(0.6, 0, past)),
    }


def _runnable(draw: np.random.Generator, gpus: Any) -> Any:
    """A number format that each GPU runs, but for a few."""
    names, places = np.unique(gpus.astype(str), return_inverse=True)
    known = [formats_of(name) for name in names]
    any_of, share = list(FORMATS), draw.random(len(gpus))
    chosen = [known[place][int(at * len(known[place]))] for place, at in zip(places, share, strict=True)]
    other = [any_of[int(at * len(any_of))] for at in draw.random(len(gpus))]
    return np.where(draw.random(len(gpus)) < 0.02, other, np.array(chosen, dtype=object))


def _some_wrong(calls: pd.DataFrame, draw: np.random.Generator) -> pd.DataFrame:
    """The calls with some cells that no call may have, of every kind of error."""
    texts: Row = {
        "gpu": "H1000",
        "family": "gem",
        "timing": "hosts",
        "dtype": "fp7",
        "phase": "both",
        "kind": "sigmoid",
    }
    texts |= {"link": "nvlink", "kv_dtype": "int3"}
    wrong = texts | {"m": 0.0, "n": 1.5, "k": np.nan, "q_len": 1e9, "kv_heads": 999.0, "tokens": -1.0, "topk": 1000.0}
    wrong |= {"ep": 5000.0, "experts": 1e6, "rows": np.inf, "kernel": 5000.0, "n_gpus": 1.0, "message_bytes": 2.0**60}
    for name, cell in wrong.items():
        having = np.flatnonzero(calls[name].notna())
        calls.loc[draw.choice(having, min(len(having), 30), replace=False), name] = cell
    return calls


def measured(names: tuple[str, ...]) -> pd.DataFrame:
    """Measurements of GPUs under a law of our own: a launch floor, a share of the bound, noise."""
    return pd.concat([_measured(name, seed) for seed, name in enumerate(names)], ignore_index=True)


def _measured(name: str, seed: int) -> pd.DataFrame:
    draw, gpu, count = np.random.default_rng(seed), catalogue()[name], MEASURED

    def sizes(most: int) -> Any:
        return np.floor(np.exp(draw.uniform(0, np.log(most), count)))

    def row(family: str, flops: Any, moved: Any, **shape: Any) -> pd.DataFrame:
        bound = np.maximum(flops / gpu.peak_flop_per_s["bf16"], moved / gpu.mem_bytes_per_s)
        latency = (8e-6 + bound / 0.55) * np.exp(draw.normal(0, 0.02, count))
        engine = np.where(np.arange(count) % 3, "vllm", "sglang")
        told = {"family": family, "gpu": name, "dtype": "bf16", "timing": "device", "latency_s": latency}
        return pd.DataFrame(told | {"engine": engine} | shape)

    m, n, k = sizes(8192), *draw.choice([1024.0, 2048, 4096, 14336], (2, count))
    gemm = row("gemm", 2 * m * n * k, 2 * (m * k + n * k + m * n), m=m, n=n, k=k)
    batch, kv_len = sizes(128), sizes(16_384)
    heads = {"q_len": 1.0, "heads": 32.0, "kv_heads": 8.0, "head_dim": 128.0, "kv_dtype": "bf16"}
    flops, moved = 4 * batch * kv_len * 32 * 128, batch * (4 * kv_len * 8 + 4 * 32) * 128
    attention = row("attention", flops, moved, phase="decode", batch=batch, kv_len=kv_len, **heads)
    rows, cols = sizes(16_384), draw.choice([1024.0, 4096, 8192], count)
    norm = row("pointwise", rows * cols, 4 * rows * cols, kind="rms_norm", rows=rows, cols=cols)
    return pd.concat([gemm, attention, norm], ignore_index=True)
