"""What `predictor bench` runs: shapes of each family, and the torch call that is the op."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np

Shape = Mapping[str, Any]  # columns of the measurement table

WIDTHS = (512, 1024, 2048, 3072, 4096, 5120, 8192, 11008, 14336, 28672)
HEADS = ((8, 8, 64), (16, 16, 64), (32, 8, 128), (32, 32, 128), (64, 8, 128))  # heads, kv_heads, head_dim


class Call(NamedTuple):
    """run: the op on one set of tensors. tensors: makes a set of inputs."""

    run: Callable[..., Any]
    tensors: Callable[[], tuple[Any, ...]]


class Maker(NamedTuple):
    """draw: a random shape. call: shape, torch, and `new`, which makes a random tensor of a size → the call."""

    draw: Callable[[np.random.Generator], Shape]
    call: Callable[[Shape, Any, Callable[..., Any]], Call]


def shapes(family: str, seed: int) -> Iterator[Shape]:
    """Shapes without end, the same for the same seed."""
    draw = np.random.default_rng([seed, *family.encode()])
    while True:
        yield {"family": family, **FAMILIES[family].draw(draw)}


def _size(draw: np.random.Generator, most: int, least: int = 1) -> int:
    """A log-uniform whole number."""
    return round(math.exp(draw.uniform(math.log(least), math.log(most))))


def _gemm(draw: np.random.Generator) -> Shape:
    return {"m": _size(draw, 8192), "n": int(draw.choice(WIDTHS)), "k": int(draw.choice(WIDTHS))}


def _gemm_call(shape: Shape, torch: Any, new: Callable[..., Any]) -> Call:
    return Call(torch.matmul, lambda: (new(shape["m"], shape["k"]), new(shape["k"], shape["n"])))


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
    grouped, causal = shape["heads"] != shape["kv_heads"], shape["phase"] == "prefill"
    cache = (shape["batch"], shape["kv_heads"], shape["kv_len"], shape["head_dim"])
    query = (shape["batch"], shape["heads"], shape["q_len"], shape["head_dim"])

    def run(q: Any, k: Any, v: Any) -> Any:
        return torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=causal, enable_gqa=grouped)

    return Call(run, lambda: (new(*query), new(*cache), new(*cache)))


def _pointwise(draw: np.random.Generator) -> Shape:
    kind = str(draw.choice(sorted(POINTWISE)))
    return {"kind": kind, "rows": _size(draw, 16384), "cols": int(draw.choice(WIDTHS))}


def _pointwise_call(shape: Shape, torch: Any, new: Callable[..., Any]) -> Call:
    inputs, make = POINTWISE[shape["kind"]]
    size = (shape["rows"], shape["cols"])
    return Call(make(torch, shape["cols"]), lambda: tuple(new(*size) for _ in range(inputs)))


# kind → input tensors, and what makes the function of (torch, cols)
POINTWISE: Mapping[str, tuple[int, Callable[[Any, int], Callable[..., Any]]]] = {
    "add": (2, lambda torch, cols: torch.add),
    "mul": (2, lambda torch, cols: torch.mul),
    "relu": (1, lambda torch, cols: torch.relu),
    "tanh": (1, lambda torch, cols: torch.tanh),
    "gelu": (1, lambda torch, cols: torch.nn.functional.gelu),
    "silu": (1, lambda torch, cols: torch.nn.functional.silu),
    "softmax": (1, lambda torch, cols: lambda x: torch.softmax(x, -1)),
    "rms_norm": (1, lambda torch, cols: lambda x: torch.nn.functional.rms_norm(x, (cols,))),
    "layer_norm": (1, lambda torch, cols: lambda x: torch.nn.functional.layer_norm(x, (cols,))),
}


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
    image = (shape["batch"], shape["in_channels"], shape["size"], shape["size"])
    weight = (shape["out_channels"], shape["in_channels"], shape["kernel"], shape["kernel"])

    def run(x: Any, w: Any) -> Any:
        return torch.nn.functional.conv2d(x, w, stride=shape["stride"], padding=shape["padding"])

    return Call(run, lambda: (new(*image), new(*weight)))


FAMILIES: Mapping[str, Maker] = {
    "gemm": Maker(_gemm, _gemm_call),
    "attention": Maker(_attention, _attention_call),
    "pointwise": Maker(_pointwise, _pointwise_call),
    "conv": Maker(_conv, _conv_call),
}
