"""nccl-tests-cluster: NCCL between and within nodes of a cluster of H100, as logs of nccl-tests.

url       https://github.com/xxrjun/nccl-tests-cluster, commit 455de4f8
licence   Apache-2.0
read      benchmarks/**/*.log: collectives of 4 and 8 GPUs of one node (link gpu), and of 2 and 10 GPUs, each alone on
          its node (link network)
not read  several GPUs on each of several nodes: two links in one time. What predictor.hardware.interconnect makes of
          them was held against these logs: its docstring has the numbers
          summary.csv: one bandwidth for all sizes. example-cluster00 has nothing else (13.5 GB/s between two GPUs)
units     size in bytes, the whole buffer (a busbw of (n-1)/n of algbw says so), time in microseconds
timing    device: the mean of 20 calls in a row, launched ahead (5 in the smoke test), out of place and in place. Rows
          that differ in nothing but the node become one with their median: nodes agree within 2 %
network   one 400 Gb/s card per GPU: 48.9 of 50 GB/s in rings of 10. Messages from 32 MiB on; a message to one neighbour
          (send_recv) gets 25 GB/s among 10 nodes and 43 between 2
quirks    NVLink SHARP lets an all-reduce within a node exceed a ring's bound (482 GB/s of bus bandwidth on 450)
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pandas as pd

from predictor.measurements.readers import Unread, folder, median_of_repeats, run_reader, stack
from predictor.units import US

URL = "https://github.com/xxrjun/nccl-tests-cluster"
DATA = "benchmarks"
KINDS = {
    "all_reduce_perf": "all_reduce",
    "all_gather_perf": "all_gather",
    "reduce_scatter_perf": "reduce_scatter",
    "alltoall_perf": "all_to_all",
    "sendrecv_perf": "send_recv",
}
START = re.compile(r"# Collective test starting: (\w+)")
RANK = re.compile(r"#\s+Rank\s+\d+ .* on (\S+) device\s+\d+ \[[^\]]*\] (.+)")
LIBRARY = re.compile(r"nccl-library=(\d+?)(\d\d)(\d\d)\b")
# size, elements, type, operation, root, then time, two bandwidths and errors out of place and in place
ROW = re.compile(r"\s*(\d+)\s+\d+\s+\w+\s+\w+\s+-?\d+\s+([\d.]+)\s+[\d.]+\s+[\d.]+\s+\S+\s+([\d.]+)\s")


def read(root: Path, unread: Unread) -> pd.DataFrame:
    """Every log below root; one row per call."""
    data = folder(root, DATA, url=URL)
    for path in data.rglob("summary.csv"):
        unread.file(f"{path.name}: one bandwidth for all sizes")
    rows = stack(read_test(test, unread) for path in sorted(data.rglob("*.log")) for test in tests(path))
    return median_of_repeats(rows) if len(rows) else rows


def tests(path: Path) -> Iterator[list[str]]:
    """The lines of each test of a log."""
    lines: list[str] = []
    for line in path.read_text().splitlines():
        if line.startswith("# nccl-tests version") and lines:
            yield lines
            lines = []
        lines.append(line)
    yield lines


def read_test(lines: list[str], unread: Unread) -> pd.DataFrame:
    """One collective over one group of GPUs."""
    text = "\n".join(lines)
    start, ranks, library = START.search(text), RANK.findall(text), LIBRARY.search(text)
    if start is None or not ranks:
        unread.file("no test of nccl-tests in it")
        return pd.DataFrame()
    gpu = unread.gpu(ranks[0][1].strip())
    if gpu is None:
        return pd.DataFrame()
    matches = [row for row in map(ROW.match, lines) if row]
    times = [(float(row[1]), float(us)) for row in matches for us in (row[2], row[3])]
    rows = pd.DataFrame(times, columns=["message_bytes", "us"]).assign(test=start[1])
    rows = unread.known(rows, "test", KINDS, "kind")
    nodes = len({node for node, _ in ranks})
    several = 1 < nodes < len(ranks)
    rows = rows[:0] if several else rows
    if several:
        unread.rows["several GPUs on each of several nodes"] += len(times)
    rows = unread.positive(rows.assign(latency_s=rows["us"] * US))
    return rows.assign(
        family="collective",
        n_gpus=len(ranks),
        link="network" if nodes > 1 else "gpu",
        gpu=gpu,
        engine="nccl",
        engine_version=".".join(str(int(part)) for part in library.groups()) if library else "",
        timing="device",
        source="nccl_tests_cluster",
    )


if __name__ == "__main__":
    run_reader(read, __doc__ or "")
