"""Tensile: the best tuned matrix product of rocBLAS or hipBLASLt for each size, on AMD GPUs.

url       https://github.com/ROCm/rocBLAS, commit b520bc83 (release 5.3 for navi21), and
          https://github.com/ROCm/hipBLASLt, commit 7d9fb683: ROOT is a clone of either
licence   MIT
read      **/Logic/asm_full/**/*.yaml, the sizes with the solution and the speed of each ("exactLogic")
not read  speeds of 0 (most of MI300X: only the solution is recorded) and whole numbers below 20, which are rounded by
          over 2.5 % or stand for nothing; hipBLASLt's GridBased tables, which hold seeds and first trials (20 to
          440 us for products of 128), but those of MI210 from 512 a side on; fp32 products of vega10 with two sides of
          SLOWED (a Transformer's): 0.45 of the peak where all others reach 0.78, as on another board or clock; tables
          of MI300X from its bring-up board (device 0049 alone: 0.08 of the peak); products that are over 3 times
          slower than in another layout (int8 on vega20: 1.7 ms whatever the size);
          types that no dtype here is: fp64, complex, mixed inputs, sums in fp16 (HB), 16-bit inputs with fp32 results
          (HSS); products of pointer arrays (GB, mostly copies), grouped ones (GG) and those with gradients or a second
          result (Aux, Grad, BiasSrc)
units     GFLOP/s of 2·M·N·batch·K; a file whose highest speed is at most 100 holds efficiencies in percent: not read
timing    warm: the fastest of all candidate kernels in a loop of equal calls with pauses in between, so that operands
          are in the cache and the chip is cool: a floor of what users see
engine    torch, which calls both libraries; kernel_name is library, transposes and types, as "rocblas_nt_hhs"
dtype     by the types in the file's name: SB fp32, HHS fp16 and BBS bf16 (sums in fp32), I8 and 4xi8 int8, F8 fp8
GPU       by the file's name and the folder's CUs: vega10 is MI25 (also Vega 64 and Frontier), vega20 MI60 (its highest
          speeds exceed MI50), navi21 a board of 80 CUs (device 73a2), taken as RX 6900 XT, aldebaran with 104 MI210
quirks    Column-major: M is the width of the weights and N the tokens, so m=N, n=M. Sizes repeat within a file; the
          first is kept. MI25 multiplies HHS in fp32, half its packed rate. vega20 was mostly tuned below its boost
          clock: 0.66 of the peak in fp32, int8 alike, HHS 0.38, while a few later sizes reach 0.73. Sizes without a
          kernel that splits K are slow (K of 500,000: 0.003).
"""

from __future__ import annotations

import re
from pathlib import Path

import pandas as pd

from predictor.errors import InvalidTable
from predictor.measurements.readers import Unread, run_reader, stack

URLS = {"rocblas": "https://github.com/ROCm/rocBLAS", "hipblaslt": "https://github.com/ROCm/hipBLASLt"}
GPUS = {  # chip in the file's name, compute units where a folder states them
    ("vega10", ""): "MI25",
    ("vega20", ""): "MI60",
    ("navi21", ""): "RX 6900 XT",
    ("arcturus", ""): "MI100",
    ("aldebaran", "104"): "MI210",
    ("aldebaran", "110"): "MI250X-GCD",
    ("aquavanjaram", ""): "MI300X",
    ("aquavanjaram", "80"): "MI308X",
}
NAME = re.compile(r"(?P<chip>[a-z0-9]+)_Cijk_A(?P<a>il|li)k_B(?P<b>lj|jl)k_(?P<types>[0-9A-Za-z]+)(?P<rest>.*)")
CUS = re.compile(r"[/_](\d+)cu/", re.IGNORECASE)
TRANSPOSES = {"il": "n", "li": "t", "lj": "n", "jl": "t"}
DTYPES = {"SB": "fp32", "HHS": "fp16", "BBS": "bf16", "I8II": "int8", "I8BH": "int8", "4xi8II": "int8"}
DTYPES |= {"F8BS": "fp8", "F8HS": "fp8"}
OTHER_WORK = ("_GB", "_GG", "Aux", "Grad", "BiasSrc")
# Sizes in brackets with leading dimensions or without, then the number of the solution and its speed. The whole of
# these files is YAML, but 57 MB of it describe kernels, which a YAML parser would take minutes to read.
ENTRY = re.compile(r"- \[([\d,\s]+)\]\s+- \[-?\d+, ([-+.\deE]+)\]")
SIZES = ["n", "m", "batch", "k"]
COARSE = 20.0  # GFLOP/s, in whole numbers
PERCENT = 100.0
GRIDS, LEAST_OF_GRID = ("aldebaran",), 512
SLOWED = (512, 2048, 33708)
DISTURBED = 3.0  # layouts differ by 1.09 times in the median and 1.7 at the 99th percentile
BRING_UP = "- [Device 0049]\n"


def read(root: Path, unread: Unread) -> pd.DataFrame:
    """Every table of sizes below root."""
    paths = sorted(root.rglob("Logic/asm_full/**/*.yaml"))
    if not paths:
        raise InvalidTable(
            f'{root} has no folder "Logic/asm_full"; give the root of a clone of {" or ".join(URLS.values())}.'
        )
    rows = stack(read_file(path, unread) for path in paths)
    best = rows.groupby(["gpu", "dtype", *SIZES], observed=True)["latency_s"].transform("min")
    disturbed = rows["latency_s"] > DISTURBED * best
    return unread.keep(rows, ~disturbed, f"over {DISTURBED:g} times slower than the same product in another layout")


def read_file(path: Path, unread: Unread) -> pd.DataFrame:
    """The sizes of one chip, layout and type."""
    name = NAME.fullmatch(path.stem)
    if name is None or name["types"] not in DTYPES:
        unread.file(f'types "{name["types"]}" are no dtype here' if name else "complex or conjugate types")
        return pd.DataFrame()
    if other := next((part for part in OTHER_WORK if part in name["rest"]), ""):
        unread.file(f'"{other.strip("_")}" is more than one product, or a copy')
        return pd.DataFrame()
    text = path.read_text()
    cus = CUS.search(path.as_posix())
    chip = (name["chip"], cus[1] if cus else "")
    gpu = unread.gpu(GPUS.get(chip, " ".join(chip)))
    if gpu is None:
        return pd.DataFrame()
    if BRING_UP in text[:2000]:
        unread.file("tuned on a bring-up board")
        return pd.DataFrame()
    entries = [(*map(int, sizes.split(",")[:4]), float(speed)) for sizes, speed in ENTRY.findall(text)]
    rows = pd.DataFrame(entries, columns=[*SIZES, "gflop_per_s"], dtype=float)
    if rows.empty or rows["gflop_per_s"].max() <= 0:
        unread.file("no speeds")
        return pd.DataFrame()
    if rows["gflop_per_s"].max() <= PERCENT:
        unread.file("efficiencies in percent")
        return pd.DataFrame()
    rows = unread.keep(rows, ~rows.duplicated(SIZES), "a repeat in the same file")
    speed = rows["gflop_per_s"]
    rows = unread.keep(rows, (speed > 0) & ~((speed < COARSE) & (speed % 1 == 0)), "no speed, or rounded by over 2.5 %")
    sides = rows[["m", "n", "k"]]
    if path.parent.name == "GridBased":
        trial = (sides.min(axis=1) < LEAST_OF_GRID) | (name["chip"] not in GRIDS)
        rows = unread.keep(rows, ~trial, "a seed or first trial of a grid")
    elif (name["chip"], name["types"]) == ("vega10", "SB"):
        rows = unread.keep(rows, sides.isin(SLOWED).sum(axis=1) < 2, "tuned at a lower clock than others of its kind")
    library = "hipblaslt" if "hipblaslt" in path.as_posix().lower() or "rocblaslt" in path.as_posix() else "rocblas"
    kernel = f"{library}_{TRANSPOSES[name['a']]}{TRANSPOSES[name['b']]}_{name['types'].lower()}"
    flops = 2.0 * rows["m"] * rows["n"] * rows["k"] * rows["batch"]
    return unread.positive(rows.assign(latency_s=flops / rows["gflop_per_s"] / 1e9)).assign(
        family="gemm",
        dtype=DTYPES[name["types"]],
        gpu=gpu,
        engine="torch",
        kernel_name=kernel,
        timing="warm",
        source="tensile",
    )


if __name__ == "__main__":
    run_reader(read, __doc__ or "")
