"""Number formats: bits that travel through memory, and the arithmetic unit that runs them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from predictor.errors import UnsupportedDtype
from predictor.shipped import spellings
from predictor.values import nearest_names

Array = NDArray[np.float64]
Number = Array | float
Text = NDArray[Any] | str


class Dtype(NamedTuple):
    """weight_bits, act_bits: per element, scales included. compute: peaks that can run it, best first.

    block: columns that share a scale and that GPUs cannot share between them; 1: any can be cut.
    """

    weight_bits: float
    act_bits: float
    compute: tuple[str, ...]
    block: int = 1


DTYPES: Mapping[str, Dtype] = {
    "fp32": Dtype(32, 32, ("fp32",)),
    "tf32": Dtype(32, 32, ("tf32",)),
    "fp16": Dtype(16, 16, ("fp16",)),
    "bf16": Dtype(16, 16, ("bf16",)),
    "fp8": Dtype(8, 8, ("fp8",)),
    # DeepSeek-V3 (arXiv:2412.19437, 3.3.2): one fp32 scale per 128x128 weight block and per 1x128 activation group.
    "fp8_block": Dtype(8 + 32 / 128**2, 8 + 32 / 128, ("fp8",), 128),
    # NVIDIA NVFP4: one fp8 scale per 16 elements. OCP MX v1.0: one 8-bit scale per 32 elements.
    "nvfp4": Dtype(4 + 8 / 16, 4 + 8 / 16, ("fp4",)),
    "mxfp4": Dtype(4 + 8 / 32, 4 + 8 / 32, ("fp4",)),
    "int8": Dtype(8, 8, ("int8",)),
    # Weight-only formats: weights are widened on the fly and multiplied in 16 bits.
    "int8_wo": Dtype(8, 16, ("bf16", "fp16")),
    "int4_wo": Dtype(4 + 16 / 128, 16, ("bf16", "fp16"), 128),
    "nvfp4_wo": Dtype(4 + 8 / 16, 16, ("bf16", "fp16")),
    "mxfp4_wo": Dtype(4 + 8 / 32, 16, ("bf16", "fp16")),
    # bitsandbytes NF4, double quantisation: an 8-bit scale per 64, an fp32 one per 256 of those (arXiv:2305.14314, 3).
    "nf4": Dtype(4 + 8 / 64 + 32 / (64 * 256), 16, ("bf16", "fp16")),
    "nf4_once": Dtype(4 + 32 / 64, 16, ("bf16", "fp16")),  # without the second: an fp32 scale per 64
    "mxfp4_mxfp8": Dtype(4 + 8 / 32, 8 + 8 / 32, ("fp8",)),
}
# GGUF: bits of an element of each type of blocks, scales included (ggml/src/ggml-common.h of llama.cpp), as listed in
# predictor.workloads.weights.gguf; q4_0 and q8_0 are those of a KV cache too.
BLOCKS = {
    "iq4_xs": 4.25,
    "q2_k_s": 2.625,
    "q3_k": 3.4375,
    "q4_0": 4.5,
    "q4_1": 5.0,
    "q4_k": 4.5,
    "q5_0": 5.5,
    "q5_1": 6.0,
    "q5_k": 5.5,
    "q6_k": 6.5625,
    "q8_0": 8.5,
}
# Mixtures of them, which predictor.workloads.weights.mixtures deals out to the matrices: bits of an element of the
# layers of Llama-3.1-8B, where nothing else is known.
MIXED = {
    "q2_k": 2.9423,
    "q3_k_s": 3.4375,
    "q3_k_m": 3.8438,
    "q3_k_l": 4.1911,
    "q4_k_s": 4.5361,
    "q4_k_m": 4.7975,
    "q5_k_s": 5.5,
    "q5_k_m": 5.6532,
}
GGUF = frozenset({*BLOCKS, *MIXED})
# MLX's affine quantisation: a scale and a bias of 16 bits for each group of 64 (mlx.core.quantize), of a KV cache too.
AFFINE = {f"mlx_{bits}bit": bits + 2 * 16 / 64 for bits in (2, 3, 4, 5, 6, 8)}
MLX = frozenset(AFFINE)
OWN_FORMATS = {"GGUF": GGUF, "MLX": MLX}
GROUPED = BLOCKS | MIXED | AFFINE
DTYPES = {**DTYPES, **{name: Dtype(bits, 16, ("fp16", "bf16")) for name, bits in GROUPED.items()}}
# Weight-only integers in other groups than int4_wo and int8_wo have (AWQ, GPTQ, HQQ, compressed-tensors): a scale of 16
# bits per group, and a zero point as wide as a weight ("_zero") or of 16 bits ("_zero16"). Group 0: a scale per column.
GROUP_SIZES = (0, 8, 16, 32, 64, 128, 256, 512, 1024)


def group_dtype(bits: int, group: int, zero_bits: int = 0) -> str:
    """Name of a weight-only integer format; "" where none has those bits and groups.

    >>> group_dtype(4, 128), group_dtype(4, 32), group_dtype(4, 64, 16), group_dtype(4, 100)
    ('int4_wo', 'int4_wo_g32', 'int4_wo_g64_zero16', '')
    """
    usual = {(4, 128, 0): "int4_wo", (8, 0, 0): "int8_wo"}
    zero = {0: "", bits: "_zero", 16: "_zero16"}.get(zero_bits)
    name = usual.get((bits, group, zero_bits), f"int{bits}_wo_g{group}{zero}")
    return name if name in DTYPES else ""


def _groups() -> dict[str, Dtype]:
    formats = {}
    for bits in (2, 3, 4, 5, 6, 8):
        for group in GROUP_SIZES:
            for zero, zero_bits in (("", 0), ("_zero", bits), ("_zero16", 16)):
                beside = (16 + zero_bits) / group if group else 0.0
                name = f"int{bits}_wo_g{group}{zero}"
                formats[name] = Dtype(bits + beside, 16, ("bf16", "fp16"), group or 1)
    return formats


GROUPS = _groups()
LISTED = tuple(DTYPES)  # what errors name: groups aside
DTYPES = {**DTYPES, **GROUPS}
_USUAL = {name: f"{name.partition('_g')[0]}" for name in GROUPS}
_USUAL = {name: usual if usual in DTYPES else "int4_wo" for name, usual in _USUAL.items()} | {"nf4_once": "nf4"}


def kernel_dtype(dtype: Text) -> Text:
    """The format whose kernels multiply it: that of the usual groups for others. dtype: one or (n_calls,) names.

    >>> kernel_dtype("int4_wo_g32")
    'int4_wo'
    """
    if isinstance(dtype, str):
        return _USUAL.get(dtype, dtype)
    names = np.asarray(dtype)
    if names.ndim == 0:
        return _USUAL.get(str(names), str(names))
    return np.array([_USUAL.get(name, name) for name in names.tolist()], dtype=names.dtype)


def dtype_named(text: str) -> str:
    """Our name of a number format that engines and hubs spell otherwise ([dtypes] of catalog/names.toml); an unknown
    one stays as it is.

    >>> dtype_named("AWQ"), dtype_named("bfloat16"), dtype_named("Q4_K - Medium"), dtype_named("fp9")
    ('int4_wo', 'bf16', 'q4_k_m', 'fp9')
    """
    if text in DTYPES or not text:
        return text
    name = text.strip().casefold()
    under = name.replace("-", "_")
    return next((known for known in (name, under) if known in DTYPES), "") or (
        spellings()["dtypes"].get(name) or spellings()["dtypes"].get(under) or text
    )


def near_dtypes(text: str) -> str:
    """What an unknown number format may mean, as a sentence to add; "" where nothing is near.

    >>> near_dtypes("q4km")
    ' Did you mean q4_k_m or q4_k?'
    """
    meant = {**{name: name for name in LISTED}, **spellings()["dtypes"]}
    near = list(dict.fromkeys(meant[name] for name in nearest_names(text.casefold(), meant, most=2)))
    return f" Did you mean {' or '.join(near)}?" if near else ""


def dtype_facts(name: str) -> Dtype:
    """The facts of one dtype; an unknown name raises.

    >>> dtype_facts("int4_wo").weight_bits
    4.125
    """
    try:
        return DTYPES[name]
    except (KeyError, TypeError):
        raise UnsupportedDtype(f'unknown dtype "{name}"; it must be one of {", ".join(LISTED)}.') from None


def weight_bytes(dtype: Text) -> Number:
    """Bytes per weight element, scales included. dtype: one name or (n_calls,) names."""
    return per_dtype(dtype, lambda facts: facts.weight_bits / 8)


def act_bytes(dtype: Text) -> Number:
    """Bytes per activation element read by the op, scales included."""
    return per_dtype(dtype, lambda facts: facts.act_bits / 8)


def out_bytes(dtype: Text) -> Number:
    """Bytes per output element: 4 for fp32 and tf32, else 2 (narrow inputs still write 16-bit results)."""
    return per_dtype(dtype, lambda facts: 4.0 if facts.act_bits == 32 else 2.0)


def per_dtype(dtype: Text, value: Any) -> Number:
    """value(facts) for one dtype, or for each of a column of dtypes."""
    if isinstance(dtype, str):
        return float(value(dtype_facts(dtype)))
    names = np.asarray(dtype).tolist()
    table = {name: float(value(dtype_facts(name))) for name in set(names)}
    return np.array([table[name] for name in names])
