"""What `predictor bench` runs: shapes of each family, and the torch call that is the op."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np

Shape = Mapping[str, Any]  # columns of the measurement table

WIDTHS = (512, 1024, 2048, 3072, 4096, 5120, 8192, 11008, 14336, 28672)
BATCHED = 0.2  # of the GEMMs
HEADS = ((8, 8, 64), (16, 16, 64), (32, 8, 128), (32, 32, 128), (64, 8, 128))  # heads, kv_heads, head_dim


class Call(NamedTuple):
    """run: the op on one set of tensors. tensors: makes a set of inputs."""

    run: Callable[..., Any]
    tensors: Callable[[], tuple[Any, ...]]


class Maker(NamedTuple):
    """draw: a random shape. call: shape, torch, and `new`, which makes a random tensor of a size → the call.

    able: whether torch runs a shape as the op is meant, fused where the op is. dtypes: that it is made for. devices:
    where; a CPU, for one, has no fused kernel for values that are not as wide as keys.
    """

    draw: Callable[[np.random.Generator], Shape]
    call: Callable[[Shape, Any, Callable[..., Any]], Call]
    able: Callable[[Shape], bool] = lambda shape: True
    dtypes: tuple[str, ...] = ("fp32", "fp16", "bf16")
    devices: tuple[str, ...] = ("cuda", "mps", "cpu")


def shapes(family: str, seed: int) -> Iterator[Shape]:
    """Shapes without end, the same for the same seed."""
    draw = np.random.default_rng([seed, *family.encode()])
    while True:
        yield {"family": family, **FAMILIES[family].draw(draw)}


def _size(draw: np.random.Generator, most: int, least: int = 1) -> int:
    """A log-uniform whole number."""
    return round(math.exp(draw.uniform(math.log(least), math.log(most))))


def _gemm(draw: np.random.Generator) -> Shape:
    if draw.random() < BATCHED:
        few, narrow = WIDTHS[0], [64, 128, 256, *WIDTHS[:4]]
        sizes = {"batch": _size(draw, 128, 2), "m": _size(draw, few), "n": int(draw.choice(narrow))}
        return {**sizes, "k": int(draw.choice(narrow))}
    return {"m": _size(draw, 8192), "n": int(draw.choice(WIDTHS)), "k": int(draw.choice(WIDTHS))}


def _gemm_call(shape: Shape, torch: Any, new: Callable[..., Any]) -> Call:
    m, n, k = shape["m"], shape["n"], shape["k"]
    if shape.get("dtype") == "fp8":
        return _fp8_call(m, n, k, torch, new)
    if (batch := shape.get("batch", 1)) > 1:
        return Call(torch.bmm, lambda: (new(batch, m, k), new(batch, k, n)))
    return Call(torch.matmul, lambda: (new(m, k), new(k, n)))


def _fp8_call(m: int, n: int, k: int, torch: Any, new: Callable[..., Any]) -> Call:
    """One scale for each tensor; the weights lie column by column, as the kernel wants them."""
    scale = torch.ones((), dtype=torch.float32, device=new(1).device)

    def run(x: Any, w: Any) -> Any:
        return torch._scaled_mm(x, w, scale_a=scale, scale_b=scale, out_dtype=torch.bfloat16)

    return Call(run, lambda: (new(m, k).to(torch.float8_e4m3fn), new(n, k).to(torch.float8_e4m3fn).t()))


def _gemm_able(shape: Shape) -> bool:
    fp8 = shape.get("dtype") == "fp8"
    return not fp8 or bool(shape.get("batch", 1) == 1 and shape["n"] % 16 == 0 and shape["k"] % 16 == 0)


def _decode(draw: np.random.Generator) -> Shape:
    return _heads(draw) | {"phase": "decode", "batch": _size(draw, 128), "q_len": 1, "kv_len": _size(draw, 16384, 16)}


def _prefill(draw: np.random.Generator) -> Shape:
    length = _size(draw, 8192, 16)
    return _heads(draw) | {"phase": "prefill", "batch": _size(draw, 16), "q_len": length, "kv_len": length}


def _heads(draw: np.random.Generator) -> dict[str, Any]:
    heads, kv_heads, head_dim = HEADS[draw.integers(len(HEADS))]
    return {"heads": heads, "kv_heads": kv_heads, "head_dim": head_dim}


def _attention(draw: np.random.Generator) -> Shape:
    return _decode(draw) if draw.random() < 0.5 else _prefill(draw)


def _attention_call(shape: Shape, torch: Any, new: Callable[..., Any]) -> Call:
    grouped = shape["heads"] != shape["kv_heads"]
    causal = shape["phase"] == "prefill" and shape.get("causal", 1) > 0
    cache = (shape["batch"], shape["kv_heads"], shape["kv_len"], shape["head_dim"])
    query = (shape["batch"], shape["heads"], shape["q_len"], shape["head_dim"])

    def run(q: Any, k: Any, v: Any) -> Any:
        return torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=causal, enable_gqa=grouped)

    return Call(run, lambda: (new(*query), new(*cache), new(*cache)))


def _attention_able(shape: Shape) -> bool:
    """No windows, no narrower cache; the causal mask of torch's fused kernels is that of a whole prompt."""
    plain = not shape.get("window", 0) and shape.get("kv_dtype", shape.get("dtype")) == shape.get("dtype")
    if shape["phase"] == "decode":
        return plain and shape["q_len"] == 1 and shape["heads"] % shape["kv_heads"] == 0
    whole = shape["q_len"] == shape["kv_len"] or shape.get("causal", 1) == 0
    return plain and whole and shape["heads"] % shape["kv_heads"] == 0


def _mla(draw: np.random.Generator) -> Shape:
    length, heads = _size(draw, 8192, 16), int(draw.choice([16, 32, 64, 128]))
    widths = {"kv_lora_rank": 512, "rope_dim": 64, "nope_dim": 128, "v_dim": 128}  # DeepSeek-V2 and V3
    return {"phase": "prefill", "batch": _size(draw, 8), "q_len": length, "kv_len": length, "heads": heads, **widths}


def _mla_call(shape: Shape, torch: Any, new: Callable[..., Any]) -> Call:
    place = (shape["batch"], shape["heads"], shape["q_len"])
    key = (*place, shape.get("nope_dim", 128) + shape.get("rope_dim", 64))

    def run(q: Any, k: Any, v: Any) -> Any:
        return torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)

    return Call(run, lambda: (new(*key), new(*key), new(*place, shape.get("v_dim", 128))))


def _mla_able(shape: Shape) -> bool:
    """Prefill: torch has no fused kernel for decode, whose keys are 576 wide."""
    whole = shape["phase"] == "prefill" and shape["q_len"] == shape["kv_len"]
    return bool(whole and shape.get("kv_dtype", shape.get("dtype")) == shape.get("dtype"))


def _pointwise(draw: np.random.Generator) -> Shape:
    kind = str(draw.choice(KINDS))
    return {"kind": kind, "rows": _size(draw, 16384), "cols": int(draw.choice(WIDTHS))}


def _pointwise_call(shape: Shape, torch: Any, new: Callable[..., Any]) -> Call:
    rows, cols = shape["rows"], shape["cols"]
    if shape["kind"] == "embedding":  # every row of the table is looked up once
        look_up = torch.nn.functional.embedding
        return Call(look_up, lambda: (torch.randperm(rows, device=new(1).device), new(rows, cols)))
    inputs, make = POINTWISE[shape["kind"]]
    return Call(make(torch, cols), lambda: tuple(new(rows, cols) for _ in range(inputs)))


# kind → input tensors, and what makes the function of (torch, cols): those that are one kernel
POINTWISE: Mapping[str, tuple[int, Callable[[Any, int], Callable[..., Any]]]] = {
    "add": (2, lambda torch, cols: torch.add),
    "mul": (2, lambda torch, cols: torch.mul),
    "pow": (2, lambda torch, cols: torch.pow),
    "copy": (1, lambda torch, cols: torch.clone),
    "relu": (1, lambda torch, cols: torch.relu),
    "tanh": (1, lambda torch, cols: torch.tanh),
    "gelu": (1, lambda torch, cols: torch.nn.functional.gelu),
    "silu": (1, lambda torch, cols: torch.nn.functional.silu),
    "softmax": (1, lambda torch, cols: lambda x: torch.softmax(x, -1)),
    "rms_norm": (1, lambda torch, cols: lambda x: torch.nn.functional.rms_norm(x, (cols,))),
    "layer_norm": (1, lambda torch, cols: lambda x: torch.nn.functional.layer_norm(x, (cols,))),
}
KINDS = (*sorted(POINTWISE), "embedding")


def _conv(draw: np.random.Generator) -> Shape:
    kernel = int(draw.choice([1, 3, 5, 7]))
    return {
        "batch": _size(draw, 64),
        "in_channels": int(draw.choice([3, 16, 64, 128, 256, 512])),
        "out_channels": int(draw.choice([16, 64, 128, 256, 512])),
        "size": int(draw.choice([7, 14, 28, 56, 112, 224])),
        "kernel": kernel,
        "stride": int(draw.choice([1, 2])),
        "padding": kernel // 2,
        "groups": 1,
    }


def _conv_call(shape: Shape, torch: Any, new: Callable[..., Any]) -> Call:
    groups, stride, padding = shape.get("groups", 1), shape.get("stride", 1), shape.get("padding", 0)
    image = (shape["batch"], shape["in_channels"], shape["size"], shape["size"])
    weight = (shape["out_channels"], shape["in_channels"] // groups, shape["kernel"], shape["kernel"])

    def run(x: Any, w: Any) -> Any:
        return torch.nn.functional.conv2d(x, w, stride=stride, padding=padding, groups=groups)

    return Call(run, lambda: (new(*image), new(*weight)))


FAMILIES: Mapping[str, Maker] = {
    "gemm": Maker(_gemm, _gemm_call, _gemm_able, dtypes=("fp32", "fp16", "bf16", "fp8")),
    "attention": Maker(_attention, _attention_call, _attention_able),
    "pointwise": Maker(_pointwise, _pointwise_call, lambda shape: shape["kind"] in KINDS),
    "conv": Maker(_conv, _conv_call),
    "mla": Maker(_mla, _mla_call, _mla_able, devices=("cuda",)),
}
