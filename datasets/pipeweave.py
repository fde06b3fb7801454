"""PipeWeave: all-reduces and sends of whole machines, and fp8 matrix products of H20.

url       https://github.com/zksainx/pipeweave, commit 55e0317
licence   Apache-2.0
read      dataset/collective/<gpu>/{all_reduce,send_recv}.csv -> collective
          dataset/gemm_fp8_train.csv -> gemm
not read  all-reduces of H100 pairs: its machine has four GPUs and no switch (a pair reaches 116 GB/s, all four 322 of
          450 over the bus), so a pair has a third of the links, which no column says; sizes beyond the first in each
          32nd of a doubling (most are above 64 MiB, 0.5 MiB apart); all-reduces over NVLink below 1 MiB, see timing
units     time_stats in milliseconds; size: bytes of the buffer (pairs of A100 and H20 then reach 231 of 300 and 335 of
          450 GB/s). avg_duration in microseconds
timing    device. Of a collective the least of its repeats: its kernel waits until the other ranks have launched, which
          makes the median of messages below 1 MiB up to 5 times the least; above 16 MiB both agree to 1 %. Over
          NVLink the least of those below 1 MiB waits too: four H100 take 36 to 41 us from 8 to 128 KiB, 12 at 256.
          The files hold rank 0 alone.
engine    collectives nccl; GEMM torch: the kernel is not stated, nor whether its scales are per tensor (taken so)
GPU       by the folder; A100 and H100 are SXM (8 GPUs on a switch, 4 on a board). RTX 6000 Ada: two on PCIe, 11 GB/s
          of 31, so through the host.
quirks    Between 4 and 16 MiB H100 is flat at 167 us where NCCL changes its protocol. fp8 reaches 0.91 of H20's peak.
"""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from predictor.measurements.readers import Unread, folder, read_columns, run_reader, stack, thinned_sizes
from predictor.units import MS, US

URL = "https://github.com/zksainx/pipeweave"
GPUS = {"A100": "A100-SXM-80GB", "H100": "H100-SXM-80GB", "H800": "H800-SXM-80GB"}  # others are called as here
THROUGH_HOST = ("RTX",)  # begin of the name of cards without a link of their own
SWITCHLESS = ("H100",)
WAITS_BELOW = 2**20  # bytes up to which an all-reduce over NVLink times the launches


def read(root: Path, unread: Unread) -> pd.DataFrame:
    """Every collective and every table of fp8 products below root."""
    data = folder(root, "dataset", url=URL)
    frames = [read_collective(path, unread) for path in sorted(data.glob("collective/*/*.csv"))]
    return stack([*frames, *(read_gemm(path, unread) for path in sorted(data.glob("gemm_fp8_*.csv")))])


def read_collective(path: Path, unread: Unread) -> pd.DataFrame:
    """One collective on one kind of machine."""
    kind, name = path.stem, path.parent.name
    gpu = unread.gpu(GPUS.get(name, name))
    time = f"time_stats.{kind}.min"
    rows = read_columns(path, ["num_workers", "devices_per_node", "size", time], unread)
    if rows.empty or gpu is None:
        return pd.DataFrame()
    rows = unread.keep(rows, rows["num_workers"] <= rows["devices_per_node"], "a collective across nodes")
    if name in SWITCHLESS:
        rows = unread.keep(rows, rows["num_workers"] > 2, "a pair of a board without a switch")
    if kind == "all_reduce" and not name.startswith(THROUGH_HOST):
        rows = unread.keep(rows, rows["size"] >= WAITS_BELOW, "an all-reduce that waits for launches")
    rows = thinned_sizes(rows, unread)
    rows = rows.rename(columns={"num_workers": "n_gpus", "size": "message_bytes"})
    return unread.positive(rows.assign(latency_s=rows[time] * MS)).assign(
        family="collective",
        kind=kind,
        link="host" if name.startswith(THROUGH_HOST) else "gpu",
        gpu=gpu,
        engine="nccl",
        timing="device",
        source="pipeweave",
    )


def read_gemm(path: Path, unread: Unread) -> pd.DataFrame:
    """fp8 products of the GPUs that the table names."""
    rows = read_columns(path, ["M", "N", "K", "avg_duration", "hardware"], unread)
    if rows.empty:
        return rows
    names = {str(alias): gpu for alias in rows["hardware"].unique() if (gpu := unread.gpu(str(alias)))}
    rows = unread.known(rows, "hardware", names, "gpu").rename(columns={"M": "m", "N": "n", "K": "k"})
    rows = unread.positive(rows.assign(latency_s=rows["avg_duration"] * US))
    return rows.assign(family="gemm", dtype="fp8", engine="torch", timing="device", source="pipeweave")


if __name__ == "__main__":
    run_reader(read, __doc__ or "")
