"""gpu-benches: streams of one elementwise kernel on data-centre GPUs and an RX 6900 XT, from caches and from memory.

url       https://github.com/te42kyfo/gpu-benches, commit 1c36d509
licence   GPL-3.0 (measured figures, which are facts)
read      gpu-small-kernels/<GPU>_graph.txt: a[i] = c b[i] of growing size in a CUDA or HIP graph -> pointwise copy
          gpu-stream/<GPU>.txt: scale (one tensor in, one out) -> copy, triad (two in) -> add, of 128 Mi doubles
not read  gpu-small-kernels without _graph: the host's rate of launches; _gsync, _pt: steps within one kernel
          gpu-stream's init, read and stencils; gpu-cache, gpu-l2-cache, gpu-latency, gpu-strides: a level of memory,
          no op; gpu-roofline: a chain of FMAs
units     GB/s, whole numbers; of the smallest calls that is 2 to 7 % each. Elements are doubles: each is given as two
          of fp32, which are as many bytes
timing    warm: the best of the block sizes, in a long row of calls that pass two buffers to and fro. Small-kernel
          buffers stay in the caches as far as they fit; those of gpu-stream (2 and 3 GB) do not
engine    unknown: a kernel of its own, as simple as one can be
quirks    in a graph, 64 KiB take 0.9 to 1.3 us on NVIDIA, 2.0 on MI210, 3.1 on RX 6900 XT. H200 streams 64 % (copy) and
          72 % (add) of its bandwidth, the others 79 to 95 %: with two blocks per SM it has too few bytes under way
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pandas as pd

from predictor.errors import InvalidTable
from predictor.measurements.readers import Unread, run_reader, stack

URL = "https://github.com/te42kyfo/gpu-benches"
STREAM, SMALL = "gpu-stream", "gpu-small-kernels"
GPUS = {
    "a100_40": "A100-SXM-40GB",
    "a100_80": "A100-SXM-80GB",
    "v100": "V100-PCIe-16GB",
    "h100_pcie": "H100-PCIe-80GB",
}
STREAMED = 128 * 2**20 + 2  # doubles of a tensor
STREAMS = {"scale": ("copy", 2), "triad": ("add", 3)}  # column → kind, tensors moved
COLUMNS = ("init", "read", "scale", "triad", "3pt", "5pt")
COLS = 256  # of the rows that a vector is cut into; it has none
DOUBLE = 8


def read(root: Path, unread: Unread) -> pd.DataFrame:
    """Streams and small kernels."""
    if not (root / STREAM).is_dir():
        raise InvalidTable(f'{root} has no folder "{STREAM}"; give the root of a clone of {URL}.')
    for path in sorted(root.glob("gpu-*/*.txt")):
        if path.parent.name not in (STREAM, SMALL):
            unread.file(f"{path.parent.name}: a level of memory or a chain of FMAs, no op")
    small = (table(path, small_kernels(path), unread) for path in sorted((root / SMALL).glob("*.txt")))
    return stack([*small, *(table(path, streams(path), unread) for path in sorted((root / STREAM).glob("*.txt")))])


def table(path: Path, rows: Iterator[tuple[str, float, float, float]], unread: Unread) -> pd.DataFrame:
    """(kind, doubles per tensor, bytes moved, GB/s) as rows of the schema."""
    card, _, mode = path.stem.partition("_graph")[0], *path.stem.rpartition("_")[1:]
    if path.parent.name == SMALL and mode != "graph":
        unread.file("small kernels launched by the host, or steps within one")
        return pd.DataFrame()
    gpu = unread.gpu(GPUS.get(card, card))
    if gpu is None:
        return pd.DataFrame()
    frame = pd.DataFrame(rows, columns=["kind", "doubles", "moved", "gb_per_s"])
    frame = unread.keep(frame, frame["gb_per_s"] > 0, "no rate")
    fp32 = 2.0 * frame["doubles"]
    return frame.assign(
        family="pointwise",
        dtype="fp32",
        cols=COLS,
        rows=(fp32 / COLS).round(),
        latency_s=frame["moved"] / (frame["gb_per_s"] * 1e9),
        gpu=gpu,
        kernel_name="stream" if path.parent.name == STREAM else "graph",
        timing="warm",
        source="gpu_benches",
    )


def small_kernels(path: Path) -> Iterator[tuple[str, float, float, float]]:
    """The best block size of each length: "4096  64kB  26 26 …"."""
    for line in path.read_text().splitlines():
        if match := re.fullmatch(r"(\d+)\s+\d+kB\s+([\d\s]+)", line):
            doubles = float(match[1])
            yield "copy", doubles, 2 * DOUBLE * doubles, max(map(float, match[2].split()))


def streams(path: Path) -> Iterator[tuple[str, float, float, float]]:
    """The best block size of each kernel: "… GB/s: init read scale triad 3pt 5pt"."""
    lines = [line.partition("GB/s:")[2].split() for line in path.read_text().splitlines() if "GB/s:" in line]
    best = pd.DataFrame(lines, columns=[*COLUMNS]).apply(pd.to_numeric).max()
    for column, (kind, tensors) in STREAMS.items():
        yield kind, STREAMED, tensors * DOUBLE * STREAMED, float(best[column])


if __name__ == "__main__":
    run_reader(read, __doc__ or "")
