"""MIOpen: convolutions of AMD GPUs, the time of every solver that AMD tried, by problem (its "find" database).

url       https://github.com/ROCm/MIOpen, commit 2d1fd997
licence   MIT
read      src/kernels/<GPU>.HIP.fdb.txt.bz2, forward problems -> conv; each line is
          inC-inH-inW-KHxKW-outC-outH-outW-N-pad-stride-dilation-bias-LAYOUT-DTYPE-DIR[_gGROUPS]=solvers, a solver being
          algorithm:solver,ms,workspace,… in older files and solver:ms,workspace,algorithm in newer ones
not read  backward problems (B: data, W: weights), which the op cannot say; in them "in" is the gradient of the output.
          Of 115,894 problems with all three the gradients take 1.03 and 1.29 times the forward's time in the median,
          both together 2.5 (2.3 of 1x1, 2.4 of 3x3, 2.7 at stride 2, 6.4 of 7x7 at stride 2)
          what no square image, kernel, stride or padding is; dilation; three dimensions (NCDHW, NDHWC)
          *.OpenCL.*: the same problems by an older back end with fewer solvers
          problems that only ConvDirectNaive* solves (a check of the others, not made to be fast)
          times over 100 times the bound and launch floor: solvers that stood in where no good one was built
          RX 6800 XT below 3 ms of work at its peak, timed before its clock had risen: of problems that MI60 solves in
          0.1 ms it takes four times MI60's time, of 10 ms and more 0.6 times, as its peak says
units     milliseconds of kernel time
timing    warm: the fastest of all solvers, tuned, on operands that the call before it left in the cache
gpus      the architecture and its compute units, hexadecimal in newer names: gfx90878 has 0x78 = 120 (MI100), gfx90a68
          104 (MI210, or a die of an MI250), gfx942130 304 (MI300X). gfx1030_36: 36 work-group processors (RX 6800 XT).
          gfx900_64 is read as MI25, gfx906_60 and _64 as MI50 and MI60; Vega 64 and Radeon VII have the same names
kernels   kernel_name is algorithm:solver, ending in :nhwc where channels come last
quirks    the files were measured over years, by many versions of the library. MI25 is slow in fp16 (direct kernels that
          do not pack two), MI300X lacks most solvers: below 0.1 ms it is no faster than MI210
"""

from __future__ import annotations

import bz2
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd

from predictor.errors import UnsupportedDtype
from predictor.hardware.gpu import get_gpu
from predictor.hardware.roofline import peak_flop_per_s, roofline
from predictor.measurements.readers import Unread, folder, run_reader, stack
from predictor.measurements.schema import conform, op_of
from predictor.units import MS

URL = "https://github.com/ROCm/MIOpen"
DATA = "src/kernels"
GPUS = {
    "gfx900_64": "MI25",
    "gfx906_60": "MI50",
    "gfx906_64": "MI60",
    "gfx90878": "MI100",
    "gfx90a68": "MI210",
    "gfx90a6e": "MI250X-GCD",
    "gfx942130": "MI300X",
    "gfx1030_36": "RX-6800-XT",
}
DTYPES = {"FP32": "fp32", "FP16": "fp16", "BF16": "bf16", "INT8": "int8"}
PROBLEM = re.compile(
    r"(?P<in_channels>\d+)-(?P<size>\d+)-(?P<width>\d+)-(?P<kernel>\d+)x(?P<kernel_width>\d+)-(?P<out_channels>\d+)-"
    r"(?P<out_size>\d+)-(?P<out_width>\d+)-(?P<batch>\d+)-(?P<padding>\d+)x(?P<padding_width>\d+)-"
    r"(?P<stride>\d+)x(?P<stride_width>\d+)-(?P<dilation>\d+)x(?P<dilation_width>\d+)-\d+-"
    r"(?P<layout>NCHW|NHWC)-(?P<named>\w+)-F(?:_g(?P<groups>\d+))?"
)
SOLVER = re.compile(
    r"(?:miopenConvolution\w*Algo(?P<before>\w+):(?P<old>[^,;]+),(?P<old_ms>[^,;]+)|"
    r"(?P<new>[^,:;]+):(?P<new_ms>[^,;]+),[^,;]*,miopenConvolution\w*Algo(?P<after>\w+))[^;]*"
)
NAIVE = "Naive"
PAIRS = (("size", "width"), ("kernel", "kernel_width"), ("padding", "padding_width"), ("stride", "stride_width"))
NUMBERS = ("batch", "in_channels", "out_channels", "size", "kernel", "stride", "padding", "groups")
LEAST_SHARE = 0.01  # of the bound and launch floor
WARM_UP_S = {"RX-6800-XT": 3e-3}  # least work at peak, of GPUs whose clock rises slowly


def read(root: Path, unread: Unread) -> pd.DataFrame:
    """Every forward problem below root."""
    data = folder(root, DATA, url=URL)
    return stack(read_file(path, unread) for path in sorted(data.glob("*.fdb.txt.bz2")))


def read_file(path: Path, unread: Unread) -> pd.DataFrame:
    """The problems of one GPU."""
    name, back_end = path.name.split(".")[:2]
    if back_end != "HIP":
        unread.file(f"the older {back_end} back end")
        return pd.DataFrame()
    gpu = unread.gpu(GPUS.get(name, name))
    if gpu is None:
        return pd.DataFrame()
    rows = pd.DataFrame(problems(path, unread))
    if rows.empty:
        unread.file("no two-dimensional forward problem")
        return rows
    rows = unread.known(rows, "named", DTYPES, "dtype")
    rows[[*NUMBERS, "latency_s"]] = rows[[*NUMBERS, "latency_s"]].apply(pd.to_numeric, errors="coerce")
    rows = unread.positive(rows.assign(latency_s=rows["latency_s"] * MS, family="conv", gpu=gpu, timing="warm"))
    return plausible(rows.assign(engine="miopen", source="miopen"), unread)


def problems(path: Path, unread: Unread) -> Iterator[dict[str, object]]:
    """Forward problems that the op can say, each with its fastest solver."""
    with bz2.open(path, "rt") as lines:
        for line in lines:
            key, _, solvers = line.strip().partition("=")
            direction = key.rpartition("-")[2]
            if not direction.startswith("F"):
                unread.rows["a backward problem"] += 1
            elif (problem := PROBLEM.fullmatch(key)) is None:
                unread.rows["a problem of three dimensions"] += 1
            elif any(problem[a] != problem[b] for a, b in PAIRS) or problem["out_size"] != problem["out_width"]:
                unread.rows["not square"] += 1
            elif (problem["dilation"], problem["dilation_width"]) != ("1", "1"):
                unread.rows["dilated"] += 1
            elif (fastest := min(timed(solvers), default=None)) is None:
                unread.rows["only the naive solver"] += 1
            else:
                last = ":nhwc" if problem["layout"] == "NHWC" else ""
                shape = problem.groupdict() | {"groups": problem["groups"] or "1"}
                yield shape | {"latency_s": fastest[0], "kernel_name": fastest[1] + last}


def timed(solvers: str) -> Iterator[tuple[float, str]]:
    """(milliseconds, "algorithm:solver") of every solver but the naive ones."""
    for entry in SOLVER.finditer(solvers):
        solver, ms = entry["old"] or entry["new"], float(entry["old_ms"] or entry["new_ms"])
        if NAIVE not in solver and ms > 0:
            yield ms, f"{(entry['before'] or entry['after']).lower()}:{solver}"


def plausible(rows: pd.DataFrame, unread: Unread) -> pd.DataFrame:
    """The rows whose sizes agree, and which a solver that was made for them took."""
    out = (rows["size"] + 2 * rows["padding"] - rows["kernel"]) // rows["stride"] + 1
    rows = unread.keep(rows, out == pd.to_numeric(rows["out_size"]), "the output has another size than it must")
    parts = []
    for dtype, part in rows.groupby("dtype", observed=True):
        gpu = get_gpu(str(part["gpu"].iloc[0]))
        try:
            op = op_of(conform(part), "conv")
            bound = roofline(op, gpu)
        except UnsupportedDtype as error:
            unread.rows[str(error)] += len(part)
            continue
        share = (bound.latency_s + np.asarray(bound.floor_s)) / part["latency_s"].to_numpy()
        direct_s = np.maximum(op.flops() / peak_flop_per_s(op, gpu), bound.latency_s)
        risen = pd.Series(direct_s >= WARM_UP_S.get(gpu.name, 0.0), index=part.index)
        part = unread.keep(part, share >= LEAST_SHARE, f"over 100 times the bound and launch floor ({dtype})")
        parts.append(unread.keep(part, risen[part.index], f"timed before the clock had risen ({gpu.name} {dtype})"))
    return pd.concat(parts)


if __name__ == "__main__":
    run_reader(read, __doc__ or "")
