"""Requests per second of batch jobs on this machine, how the cost of a row depends on their number, and memory.

    .venv/bin/python benchmarks/batch.py [--rows 1000 10000 40000]

Llama-3.1-8B on 20 GPUs, no two requests equal. The share of the estimators is that of the time in XGBoost's trees and
the features they see, measured in one process. Each job is one run of `predictor batch`.
"""

from __future__ import annotations

import argparse
import gc
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pandas as pd

from predictor.bundle import load_bundle
from predictor.estimator import Estimator
from predictor.rows import answer_columns

GPUS = (
    *("H100", "A100", "L4", "MI300X", "RTX 4090", "B200", "L40S", "H200", "A30", "T4"),
    *("A10", "H20", "MI250X", "L40", "A40", "B300", "MI325X", "RTX 5090", "V100", "P100"),
)


def requests(count: int) -> pd.DataFrame:
    """So many requests, no two equal."""
    numbers = range(count)
    return pd.DataFrame(
        {
            "model": "Llama-3.1-8B",
            "gpu": [GPUS[i % len(GPUS)] for i in numbers],
            "batch": [1 + i // len(GPUS) * 7 % 64 for i in numbers],
            "input_len": [100 + i * 13 % 4001 for i in numbers],
            "output_len": [50 + i // 4001 + i % 500 for i in numbers],
        }
    )


def job(count: int, folder: Path) -> float:
    """Seconds of a job, start-up included."""
    source, out = folder / f"{count}.parquet", folder / f"{count}-out.parquet"
    requests(count).to_parquet(source)
    command = [sys.executable, "-c", "from predictor.cli import main; import sys; sys.exit(main(sys.argv[1:]))"]
    began = time.perf_counter()
    subprocess.run([*command, "batch", str(source), "--out", str(out), "--quiet"], check=True)
    return time.perf_counter() - began


def estimator_share(count: int) -> tuple[float, float]:
    """Rows per second of one warm process, and the share of its time in estimators."""
    bundle, rows = load_bundle(), requests(count).to_dict("records")
    answer_columns(rows, bundle)
    inside, whole = 0.0, Estimator.latency_s

    def timed(*arguments: object) -> object:
        nonlocal inside
        began = time.perf_counter()
        try:
            return whole(*arguments)  # type: ignore[arg-type]
        finally:
            inside += time.perf_counter() - began

    Estimator.latency_s = timed  # type: ignore[method-assign, assignment]
    gc.disable()  # as a job does
    began = time.perf_counter()
    answer_columns(rows, bundle)
    seconds = time.perf_counter() - began
    Estimator.latency_s = whole  # type: ignore[method-assign]
    return count / seconds, inside / seconds


def main() -> None:
    """Prints them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="+", default=[1000, 10_000, 100_000])
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        for count in options.rows:
            seconds = job(count, Path(scratch))
            print(f"{count:>9,} requests: {count / seconds:7,.0f} a second, {1e3 * seconds / count:.2f} ms each")
    largest = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 2**20
    print(f"largest process: {largest:.2f} GiB")
    rate, share = estimator_share(5000)
    print(f"one warm process: {rate:,.0f} a second, {share:.0%} of the time in estimators")


if __name__ == "__main__":
    main()
