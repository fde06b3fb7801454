"""AITER: the best of AMD's tuned GEMM and fused mixture-of-experts kernels.

url       https://github.com/ROCm/aiter, commit e4048607
licence   MIT
read      aiter/configs/**/*.csv that have the columns of a tuned GEMM (M, N, K, us) or fused MoE (token, us)
not read  untuned lists (no "us"), fused-attention and other tables; GPUs that (gfx, cu_num) does not settle
units     us: microseconds of one call, all kernels of it
timing    warm: the fastest of all candidate kernels, operands in the cache: a floor of what users see
GPU       by (gfx, cu_num): gfx942 with 304 CUs is MI300X or MI325X (taken as MI300X), with 80 MI308X; gfx950 with
          256 is MI350X or MI355X (taken as MI355X). Older files have no gfx; there the CUs settle it.
dtype     GEMM: by the file's name; where a8w8 has q_dtype_w and bf16 has dtype, by those. a8w8 without q_dtype_w is
          int8, as its tuner draws int8. MoE: by q_type, q_dtype_a and q_dtype_w.
quirks    inter_dim is what one GPU holds, so tp = ep = 1 and expert counts local experts; routing is uniformly random.
          One shape in two files (a model's own and the general) gives two rows. us <= 0 marks a failed search.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from predictor.measurements.readers import Unread, folder, read_columns, run_reader, stack
from predictor.units import US

URL = "https://github.com/ROCm/aiter"
GPUS = {("gfx942", 304): "MI300X", ("gfx942", 80): "MI308X", ("gfx950", 256): "MI355X"}
GFX_OF = {cus: gfx for gfx, cus in GPUS}
FILE_DTYPES = (  # first match in the file's name
    ("blockscale", "fp8_block"),
    ("a4w4", "mxfp4"),
    ("a8w8", "int8"),
    ("bf16", "bf16"),
    ("fp16", "fp16"),
)
GEMM_DTYPES = {
    "torch.int8": "int8",
    "torch.float8_e4m3fnuz": "fp8",
    "torch.float8_e4m3fn": "fp8",
    "torch.bfloat16": "bf16",
    "torch.float16": "fp16",
}
FP8, FP4 = ("torch.float8_e4m3fnuz", "torch.float8_e4m3fn"), "torch.float4_e2m1fn_x2"
MOE_DTYPES = {  # (q_type, q_dtype_a, q_dtype_w)
    ("No", "torch.bfloat16", "torch.bfloat16"): "bf16",
    ("No", "torch.float16", "torch.float16"): "fp16",
    ("per_1x32", FP4, FP4): "mxfp4",
    ("per_1x32", "torch.bfloat16", FP4): "mxfp4_wo",
    **{("per_1x32", fp8, FP4): "mxfp4_mxfp8" for fp8 in FP8},
    **{(block, fp8, fp8): "fp8_block" for block in ("per_1x128", "per_128x128") for fp8 in FP8},
    **{(way, fp8, fp8): "fp8" for way in ("per_Token", "per_Tensor") for fp8 in FP8},
    **{(way, "torch.int8", "torch.int8"): "int8" for way in ("per_Token", "per_Tensor")},
}


def read(root: Path, unread: Unread) -> pd.DataFrame:
    """Every tuned GEMM and MoE table below root."""
    configs = folder(root, "aiter/configs", url=URL)
    return stack(read_file(path, unread) for path in sorted(configs.rglob("*.csv")))


def read_file(path: Path, unread: Unread) -> pd.DataFrame:
    """One table, of either family."""
    if "untuned" in path.name:
        unread.file("an untuned list: shapes without timings")
        return pd.DataFrame()
    if "fmoe" in path.name:
        return read_moe(path, unread)
    if "gemm" in path.name:
        return read_gemm(path, unread)
    unread.file(f"{path.name} is neither a GEMM nor a fused MoE table")
    return pd.DataFrame()


def read_gemm(path: Path, unread: Unread) -> pd.DataFrame:
    """Dense and batched matrix products."""
    rows = read_columns(path, ["cu_num", "M", "N", "K", "us"], unread, ["gfx", "B", "q_dtype_w", "dtype", "kernelName"])
    if rows.empty:
        return rows
    dtype = next((name for part, name in FILE_DTYPES if part in path.name), None)
    stated = {"int8": "q_dtype_w", "bf16": "dtype"}.get(dtype or "")
    if dtype is None:
        unread.file(f"{path.name} does not tell its dtype")
        return pd.DataFrame()
    rows = unread.known(rows, str(stated), GEMM_DTYPES, "dtype") if stated in rows else rows.assign(dtype=dtype)
    names = {"M": "m", "N": "n", "K": "k", "B": "batch", "kernelName": "kernel_name"}
    return finished(rows.rename(columns=names), "gemm", unread)


def read_moe(path: Path, unread: Unread) -> pd.DataFrame:
    """Fused mixture-of-experts layers, one or two kernels each."""
    kinds = ["q_type", "q_dtype_a", "q_dtype_w"]
    shape = {"token": "tokens", "model_dim": "hidden", "inter_dim": "inter", "expert": "experts", "topk": "topk"}
    rows = read_columns(path, ["cu_num", *shape, "us", "use_g1u1", *kinds], unread, ["gfx", "kernelName1"])
    if rows.empty:
        return rows
    rows = rows.assign(q=[str(kind).removeprefix("QuantType.") for kind in rows["q_type"]])
    dtypes = {" ".join(kind): dtype for kind, dtype in MOE_DTYPES.items()}
    rows = rows.assign(
        quantisation=[" ".join(map(str, k)) for k in zip(rows.q, *(rows[c] for c in kinds[1:]), strict=True)]
    )
    rows = unread.known(rows, "quantisation", dtypes, "dtype")
    rows = rows.rename(columns={**shape, "kernelName1": "kernel_name"})
    rows = rows.assign(tp=1, ep=1, skew=0, matrices=np.where(rows["use_g1u1"].astype(int) == 1, 3, 2))
    return finished(rows, "moe", unread)


def finished(rows: pd.DataFrame, family: str, unread: Unread) -> pd.DataFrame:
    """Rows with GPU, latency and provenance; those of an unknown GPU or without a time are counted."""
    cus = pd.to_numeric(rows["cu_num"], errors="coerce").fillna(0).astype(int)
    gfx = rows["gfx"].astype(str) if "gfx" in rows else cus.map(GFX_OF).fillna("gfx unknown")
    chip = gfx + " with " + cus.astype(str) + " CUs"
    names = {}
    for pair in set(chip):
        arch, count = pair.removesuffix(" CUs").split(" with ")
        alias = GPUS.get((arch, int(count)))
        if alias and (name := unread.gpu(alias)):
            names[pair] = name
    rows = unread.known(rows.assign(gpu_chip=chip), "gpu_chip", names, "gpu")
    rows = rows.assign(latency_s=pd.to_numeric(rows["us"], errors="coerce") * US)
    return unread.positive(rows).assign(family=family, engine="aiter", timing="warm", source="aiter")


if __name__ == "__main__":
    run_reader(read, __doc__ or "")
