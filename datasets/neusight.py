"""NeuSight: single operators of PyTorch in FP32 on NVIDIA and AMD GPUs.

url       https://github.com/sitar-lab/NeuSight, commit 6945927 (artifact of Lee et al., ASPLOS 2025)
licence   MIT
read      scripts/asplos/data/{dataset,dataset_amd}/{train,test}/collect/<op>/<torch version>/<GPU>.csv
          bmm and linear -> gemm; conv -> conv; softmax, ln, add, mul, pow, relu, gelu, tanh -> pointwise
not read  scripts/asplos/label: whole-model steps, not operators; device_configs: specs
units     Latency in milliseconds, mean of repeated calls
timing    host: a floor of 24 to 90 us per call is the launch, and the L2 cache is not flushed in between
dtype     FP32 with TF32 off, on all GPUs
quirks    N is the contraction and K the output width, so m=M, k=N, n=K, batch=B (1 for linear).
          pow takes two tensors, as add and mul do. conv has 3x3 kernels, stride 1, padding 1 only; the column is
          spelled Kernel_Szie. Sizes are drawn at random: 1.6 % are aligned. "AMD Instinct MI250" is one of two dies.
"""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from predictor.measurements.readers import Unread, folder, read_columns, run_reader, stack
from predictor.units import MS

URL = "https://github.com/sitar-lab/NeuSight"
DATA = "scripts/asplos/data"
GEMM = {"B": "batch", "M": "m", "N": "k", "K": "n"}
CONV = {
    "B": "batch",
    "Input_Channel": "in_channels",
    "Output_Channel": "out_channels",
    "Kernel_Szie": "kernel",
    "Input_Size": "size",
    "Stride": "stride",
    "Padding": "padding",
}
POINTWISE = {"B": "rows", "H": "cols"}
OPS = {
    "bmm": ("gemm", "", GEMM),
    "linear": ("gemm", "", GEMM),
    "conv": ("conv", "", CONV),
    "softmax": ("pointwise", "softmax", POINTWISE),
    "ln": ("pointwise", "layer_norm", POINTWISE),
} | {kind: ("pointwise", kind, POINTWISE) for kind in ("add", "mul", "pow", "relu", "gelu", "tanh")}


def read(root: Path, unread: Unread) -> pd.DataFrame:
    """Every operator file below root."""
    data = folder(root, DATA, url=URL)
    return stack(
        read_file(path, unread) for path in sorted(data.glob("dataset*/*/collect/*/*/*.csv")) if path.is_file()
    )


def read_file(path: Path, unread: Unread) -> pd.DataFrame:
    """One GPU's calls of one operator."""
    gpu = unread.gpu(path.stem)
    op, version = path.parts[-3], path.parts[-2]
    if gpu is None:
        return pd.DataFrame()
    if op not in OPS:
        unread.file(f'operator "{op}" has no family here')
        return pd.DataFrame()
    family, kind, names = OPS[op]
    rows = read_columns(path, [*names, "Latency", "Kernel Name"], unread)
    if rows.empty:
        return rows
    latency_s = pd.to_numeric(rows["Latency"], errors="coerce") * MS
    rows = rows.rename(columns={**names, "Kernel Name": "kernel_name"}).assign(latency_s=latency_s)
    return unread.positive(rows).assign(
        family=family,
        kind=kind,
        dtype="fp32",
        gpu=gpu,
        engine="torch",
        engine_version=version.removeprefix("p"),
        timing="host",
        source="neusight",
    )


if __name__ == "__main__":
    run_reader(read, __doc__ or "")
