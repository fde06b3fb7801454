"""mlx-benchmark: single fp32 operators of MLX and PyTorch on Apple GPUs, and of PyTorch on a few of NVIDIA's.

url       https://github.com/TristanBilot/mlx-benchmark, commit 85c53763
licence   MIT
read      benchmarks/detailed_benchmark.md, a table per machine: MatMul, Linear -> gemm; Conv2d -> conv;
          Softmax, LayerNorm, ReLU, Concat (as a copy) -> pointwise; ScaledDotProductAttention -> attention.
          Column mlx_gpu is engine mlx; mps and cuda are engine torch
not read  columns of CPUs; mlx_gpu_compile, which compiles one operator to the same kernel
          calls within twice the least time of their column, which is launch and synchronisation (0.1 to 0.5 ms on Apple
          GPUs, 0.03 to 0.06 on NVIDIA's), or below 0.1 ms, ten times the resolution
          convolutions beside MLX 0.2, of PyTorch too (M1 states no version and is as slow): 2 to 16 times what they
          take on the same M3 beside MLX 0.30
          Conv1d, Sum, Argmax, Sort, BCE, Gather (from a table that stays in the cache), Scatter and other activations
units     milliseconds with two decimals
timing    host: mean of nine runs, each synchronised, after a first one
shapes    MatMul and Linear with one second matrix for a batch of first ones are one product of all rows. Conv2d has
          images and weights with channels last, stride 1, no padding. Attention adds a dense mask: nothing is skipped
dtype     fp32. cuDNN's convolutions take TF32 where the GPU has it, PyTorch's default; its products do not
gpus      a chip with fewer GPU cores than the catalogue's is another GPU: M2 Pro and M4 Pro with 16
versions  of MLX as stated; PyTorch's mostly is not, and is given as the MLX beside which it ran
quirks    few rows per machine, measured once
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from math import prod
from pathlib import Path
from typing import Any

import pandas as pd

from predictor.errors import InvalidTable, UnknownGpu
from predictor.hardware.gpu import get_gpu
from predictor.measurements.readers import Unread, run_reader, stack
from predictor.units import MS

URL = "https://github.com/TristanBilot/mlx-benchmark"
DATA = "benchmarks/detailed_benchmark.md"
BACKENDS = {"mlx_gpu": "mlx", "mps": "torch", "cuda": "torch"}
NVIDIA = {
    "Tesla V100 PCIe (32Go": "V100-PCIe-32GB",
    "Tesla V100 NVLink (32Go": "V100-SXM2-32GB",
    "RTX4090": "RTX-4090",
    "A100 80GB 80GB PCIe": "A100-PCIe-80GB",
}
CHIP = re.compile(r"(?P<chip>M\d(?: \w+)?) \((?:.*?(?P<cores>\d+)GPU)?")
MACHINE = re.compile(r"(?:\*\*)?(?P<name>(?:M\d|Tesla|RTX|A100)[^*|]*)(?:\*\*)?(?P<versions>[^|]*)")
LEAST_MS = 0.1
SLOW_MLX = "0.2."  # beginning of the version of MLX whose machines convolve slowly
FLOORS = 2.0  # least of a column that a call must take
POINTWISE = {"Softmax": "softmax", "LayerNorm": "layer_norm", "ReLU": "relu"}


def read(root: Path, unread: Unread) -> pd.DataFrame:
    """Every table of the page."""
    path = root / DATA
    if not path.is_file():
        raise InvalidTable(f'{root} has no folder "{DATA}"; give the root of a clone of {URL}.')
    return stack(machine(*table, unread) for table in tables(path.read_text()))


def tables(page: str) -> Iterator[tuple[str, str, pd.DataFrame]]:
    """(machine, versions, table) of a page; a table's columns are Operation and backends, in milliseconds."""
    name, versions, lines = "", "", list[list[str]]()
    for line in [*page.splitlines(), ""]:
        if line.startswith("|"):
            lines.append([cell.strip() for cell in line.strip("|").split("|")])
        elif lines:
            yield name, versions, pd.DataFrame(lines[2:], columns=lines[0])
            lines = []
        elif heading := MACHINE.fullmatch(line.strip()):
            name, versions = heading["name"].strip(), heading["versions"]


def gpu_of(name: str) -> str:
    """What to look up in the catalogue; an Apple chip with other cores than its namesake is named with them."""
    for start, gpu in NVIDIA.items():
        if name.startswith(start):
            return gpu
    chip = CHIP.match(name)
    if chip is None:
        return name
    try:
        cores = get_gpu(f"Apple-{chip['chip'].replace(' ', '-')}").sms
    except UnknownGpu:
        return chip["chip"]
    other = chip["cores"] and int(chip["cores"]) != cores
    return f"Apple-{chip['chip'].replace(' ', '-')}" + (f"-{chip['cores']}-core" if other else "")


def machine(name: str, versions: str, table: pd.DataFrame, unread: Unread) -> pd.DataFrame:
    """One machine's calls on its GPU."""
    gpu = unread.gpu(gpu_of(name))
    if gpu is None:
        return pd.DataFrame()
    calls, frames = [call(text) for text in table["Operation"]], []
    stated = dict(re.findall(r"(mlx|torch):? ([\d.]+)", versions))
    old = get_gpu(gpu).vendor == "Apple" and stated.get("mlx", SLOW_MLX).startswith(SLOW_MLX)
    for column in table.columns.intersection([*BACKENDS]):
        ms = pd.to_numeric(table[column], errors="coerce")
        known = pd.DataFrame([shape or {} for shape in calls]).assign(ms=ms)
        known = unread.keep(known, pd.Series([bool(shape) for shape in calls]), "an operation that is no op here")
        known = unread.keep(known, known["ms"].notna(), "no time")
        known = unread.keep(known, ~(old & (known["family"] == "conv")), "a convolution of an old library")
        long = known["ms"] >= max(LEAST_MS, FLOORS * ms.min())
        known = unread.keep(known, long, "within launch and synchronisation")
        library = BACKENDS[column]
        frames.append(
            known.assign(
                engine=library,
                engine_version=stated.get(library) or (f"beside mlx {stated['mlx']}" if "mlx" in stated else ""),
                kernel_name=column,
                latency_s=known["ms"] * MS,
                dtype=dtypes(known, gpu, column),
            )
        )
    return pd.concat(frames).assign(gpu=gpu, timing="host", source="mlx_benchmark")


def dtypes(rows: pd.DataFrame, gpu: str, column: str) -> pd.Series:
    """fp32, and tf32 for convolutions of cuDNN on GPUs that have it."""
    tensor = column == "cuda" and "tf32" in get_gpu(gpu).peak_flop_per_s
    return rows["family"].map(lambda family: "tf32" if tensor and family == "conv" else "fp32")


def call(text: str) -> dict[str, Any] | None:
    """Schema columns of an operation such as "MatMul / dim=1000x64x256 dim=256x32"; None where no op says it."""
    kind, _, arguments = text.partition(" / ")
    sizes = [[int(side) for side in dim.split("x")] for dim in re.findall(r"dim=([\dx]+)", arguments)]
    axis = re.search(r"axi=(-?\d+)", arguments)
    first = sizes[0]
    if kind in ("MatMul", "Linear"):
        second = sizes[1]
        batch = prod(second[:-2])
        return {"family": "gemm", "batch": batch, "m": prod(first[:-1]) // batch, "k": first[-1], "n": second[-1]}
    if kind == "Conv2d":
        images, weights = first, sizes[1]
        return {
            "family": "conv",
            "batch": images[0],
            "size": images[1],
            "in_channels": images[3],
            "out_channels": weights[0],
            "kernel": weights[1],
        }
    if kind in POINTWISE and (axis is None or int(axis[1]) in (-1, len(first) - 1)):
        return {"family": "pointwise", "kind": POINTWISE[kind], "rows": prod(first[:-1]), "cols": first[-1]}
    if kind == "Concat":
        cols = sum(size[-1] for size in sizes) if axis and axis[1] == "1" else first[-1]
        elements = sum(map(prod, sizes))
        return {"family": "pointwise", "kind": "copy", "rows": elements // cols, "cols": cols}
    if kind == "ScaledDotProductAttention":
        (batch, heads, queries, width), keys = first, sizes[1][2]
        shape = {"batch": batch, "heads": heads, "kv_heads": heads, "q_len": queries, "kv_len": keys}
        return {"family": "attention", "phase": "prefill", "head_dim": width, "causal": 0, "kv_dtype": "fp32"} | shape
    return None


if __name__ == "__main__":
    run_reader(read, __doc__ or "")
