"""Requests per second of batch jobs on this machine, how the cost of a row depends on their number, and memory.

    .venv/bin/python benchmarks/batch.py [--rows 10000 100000]
    .venv/bin/python benchmarks/batch.py --ops [--rows 2000000 10000000]
    .venv/bin/python benchmarks/batch.py --slow [--rows 120]
    .venv/bin/python benchmarks/batch.py --loads [--rows 480]

Llama-3.1-8B on 20 GPUs, no two requests equal. The share of the estimators is that of the time in XGBoost's trees and
the features they see, measured in one process. Each job is one run of `predictor batch`. --ops: tables of operators.py.
--slow: rows that are answered one by one, as one part and in the parts that a job cuts them into. --loads: simulated
loads on two processes; of "alike" all on two GPUs, and of "planner" five on each of GPU, tp and dtype; those that
no GPU can run do not count.
Memory is the most that all processes of a job held at one moment, shared pages once (PSS).
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import itertools
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import psutil
import pyarrow as pa
from operators import operators

from predictor.estimators.bundle import load_bundle
from predictor.estimators.estimator import Estimator
from predictor.prediction.jobs.parts import cut
from predictor.prediction.op_tables import OP_ROWS, answer_ops
from predictor.prediction.rows import answer_columns

GPUS = (
    *("H100", "A100", "L4", "MI300X", "RTX 4090", "B200", "L40S", "H200", "A30", "T4"),
    *("A10", "H20", "MI250X", "L40", "A40", "B300", "MI325X", "RTX 5090", "V100", "P100"),
)

MILLION = 1_000_000
SHAPELESS = 100_000
SMALL_PARTS = ("--rows-per-part", "25000")
TWO = ("--jobs", "2")
FIRST = 84  # loads that are a part for each of two processes
SECONDS_BETWEEN_LOOKS = 0.25


class Cost(NamedTuple):
    """What a job took, start-up included. busiest_s, spent_s: processor time of the process that had most to do, and
    of all, which others on the machine change less than seconds."""

    seconds: float
    peak_gib: float
    busiest_s: float
    spent_s: float


def requests(numbers: range) -> pd.DataFrame:
    """The requests of these numbers, no two equal."""
    return pd.DataFrame(
        {
            "model": "Llama-3.1-8B",
            "gpu": [GPUS[i % len(GPUS)] for i in numbers],
            "batch": [1 + i // len(GPUS) * 7 % 64 for i in numbers],
            "input_len": [100 + i * 13 % 4001 for i in numbers],
            "output_len": [50 + i // 4001 + i % 500 for i in numbers],
        }
    )


def job(tables: Iterable[pd.DataFrame], folder: Path, *options: str) -> Cost:
    """What a job costs; a table is given in pieces."""
    source, out = folder / "in", folder / "out"
    shutil.rmtree(source, ignore_errors=True)
    source.mkdir()
    for number, table in enumerate(tables):
        table.to_parquet(source / f"{number:03}.parquet")
    shutil.rmtree(out, ignore_errors=True)
    command = [sys.executable, "-c", "from predictor.cli import main; import sys; sys.exit(main(sys.argv[1:]))"]
    began = time.perf_counter()
    running = subprocess.Popen([*command, "batch", str(source), "--out", str(out), "--quiet", *options])
    peak, spent = 0, dict[int, float]()
    while running.poll() is None:
        peak = max(peak, _held(running.pid))
        spent |= _spent(running.pid)
        time.sleep(SECONDS_BETWEEN_LOOKS)
    if running.returncode not in (0, 1):
        raise SystemExit(f"the job ended with status {running.returncode}")
    seconds, each = time.perf_counter() - began, spent.values()
    return Cost(seconds, peak / 2**30, max(each, default=0.0), sum(each))


def _spent(pid: int) -> dict[int, float]:
    """Processor seconds of a process and its children so far."""
    spent = {}
    with contextlib.suppress(psutil.Error):
        for process in (psutil.Process(pid), *psutil.Process(pid).children(recursive=True)):
            with contextlib.suppress(psutil.Error):
                spent[process.pid] = sum(process.cpu_times()[:2])
    return spent


def _held(pid: int) -> int:
    """Bytes that a process and its children hold."""
    held = 0
    try:
        processes = [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]
    except psutil.Error:
        return held
    for process in processes:
        with contextlib.suppress(psutil.Error):
            held += process.memory_full_info().pss
    return held


def estimator_share(work: Callable[[], object]) -> tuple[float, float]:
    """Seconds of some work, and the share of them in estimators."""
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
    work()
    seconds = time.perf_counter() - began
    Estimator.latency_s = whole  # type: ignore[method-assign]
    return seconds, inside / seconds


def request_share(count: int) -> tuple[float, float]:
    """Of one warm process and so many requests."""
    bundle, rows = load_bundle(), requests(range(count)).to_dict("records")
    answer_columns(rows, bundle)
    return estimator_share(lambda: answer_columns(rows, bundle))


def of_requests(counts: list[int], folder: Path) -> None:
    """Prints the rates of requests."""
    for count in counts:
        numbers = (range(start, min(start + MILLION, count)) for start in range(0, count, MILLION))
        cost = job(map(requests, numbers), folder)
        each = f"{count / cost.seconds:,.0f} a second, {1e3 * cost.seconds / count:.2f} ms each"
        print(f"{count:>10,} requests: {each}, {cost.peak_gib:.2f} GiB", flush=True)
    seconds, share = request_share(5000)
    print(f"one warm process: {5000 / seconds:,.0f} a second, {share:.0%} of the time in estimators")


def of_operators(counts: list[int], folder: Path) -> None:
    """Prints the rates of operators, for each kind of table."""
    start_up = job([operators(1, "workload")], folder, "--ops").seconds
    print(f"start-up: {start_up:.1f} s")
    bundle = load_bundle()
    for kind in ("workload", "unique"):
        for count in counts:
            _tell(count, kind, job(pieces(count, kind), folder, "--ops"), start_up)
        for seed, warmth in enumerate(("first", "next")):
            table = pa.Table.from_pandas(operators(OP_ROWS, kind, seed))
            seconds, share = estimator_share(lambda table=table: answer_ops(table, bundle))  # type: ignore[misc]
            print(f"  one process, {warmth} part: {OP_ROWS / seconds:,.0f} a second, {share:.0%} of it in estimators")

    _tell(SHAPELESS, "shapeless", job(pieces(SHAPELESS, "shapeless"), folder, "--ops", *SMALL_PARTS), start_up)


def pieces(count: int, kind: str) -> Iterator[pd.DataFrame]:
    """So many operators, a million in each piece."""
    for seed, start in enumerate(range(0, count, MILLION)):
        yield operators(min(MILLION, count - start), kind, seed)


SLOW: Mapping[str, Mapping[str, Any]] = {
    "continuous": {"scheduling": "continuous"},
    "training": {"phase": "train"},
    "torch": {"engine": "torch"},
}


def of_slow_rows(counts: list[int], folder: Path) -> None:
    """Prints how long rows of each kind take as one part, and in the parts of a job."""
    for kind, columns in SLOW.items():
        for count in counts:
            table = requests(range(count)).assign(gpu="H200", **columns)
            parts = len(list(cut(pa.Table.from_pandas(table))))
            whole = job([table], folder, "--rows-per-part", str(count))
            parted = job([table], folder)
            print(
                f"{count:>10,} {kind}: one part {whole.seconds:.1f} s, its process busy for {whole.busiest_s:.1f} s; "
                f"{parts} parts {parted.seconds:.1f} s, the busiest process {parted.busiest_s:.1f} s",
                flush=True,
            )


LOADS: Sequence[Mapping[str, Any]] = (
    {"batch": 4, "input_len": 1024, "output_len": 256},
    {"batch": 16, "input_len": 1024, "output_len": 256},
    {"batch": 64, "input_len": 1024, "output_len": 256},
    {"batch": 128, "input_len": 4000, "output_len": 500},
    {"request_rate": 2.0, "input_len": 2000, "output_len": 200},
)


def loads(kind: str, count: int) -> pd.DataFrame:
    """So many loads, of a planner at most 1200."""
    shared = {"model": "Llama-3.1-8B", "scheduling": "continuous"}
    if kind == "planner":
        settings = itertools.product(GPUS, (1, 2, 4), ("bf16", "fp8", "int8", "int4_wo"), LOADS)
        rows = [{**shared, "gpu": gpu, "tp": tp, "dtype": dtype, **load} for gpu, tp, dtype, load in settings]
        return pd.DataFrame(rows[:count])
    draw = np.random.default_rng(0)
    lengths = {"input_len": 2 ** draw.uniform(5, 13, count), "output_len": 2 ** draw.uniform(4, 10, count)}
    table = pd.DataFrame(lengths).astype(int).assign(**shared, gpu=np.resize(["H100", "MI300X"], count))
    table["batch"] = (2 ** draw.uniform(0, 8, count)).astype(int)
    table["request_rate"] = np.where(np.arange(count) % 4, np.nan, np.exp(draw.uniform(-2, 2, count)))
    return table.assign(batch=table["batch"].where(table["request_rate"].isna()))


def of_loads(counts: list[int], folder: Path) -> None:
    """Prints how many loads are simulated in a second."""
    start_up = job([loads("alike", FIRST)], folder, *TWO)
    print(f"{FIRST} loads: {start_up.seconds:.1f} s, {start_up.spent_s:.1f} s of processors")
    for kind, count in itertools.product(("alike", "planner"), counts):
        cost = job([loads(kind, count)], folder, *TWO)
        parts = (pd.read_parquet(part, columns=["error"]) for part in (folder / "out").glob("*.parquet"))
        answered = sum(int(part["error"].isna().sum()) for part in parts)
        spent_ms = 1e3 * (cost.spent_s - start_up.spent_s) / (answered - FIRST)
        rates = (
            f"{answered / cost.seconds:.0f} a second; {spent_ms:.1f} ms of a processor each beyond the first {FIRST}"
        )
        print(f"{answered:>10,} loads, {kind}: {rates}, {cost.peak_gib:.2f} GiB", flush=True)


def _tell(count: int, kind: str, cost: Cost, start_up: float) -> None:
    rates = f"{count / cost.seconds:,.0f} a second, without start-up {count / (cost.seconds - start_up):,.0f}"
    print(f"{count:>10,} operators, {kind}: {rates}, {cost.peak_gib:.2f} GiB", flush=True)


def main() -> None:
    """Prints them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="+")
    parser.add_argument("--ops", action="store_true")
    parser.add_argument("--slow", action="store_true")
    parser.add_argument("--loads", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        if options.loads:
            of_loads(options.rows or [480], Path(scratch))
        elif options.slow:
            of_slow_rows(options.rows or [120], Path(scratch))
        elif options.ops:
            of_operators(options.rows or [2_000_000, 10_000_000], Path(scratch))
        else:
            of_requests(options.rows or [10_000, 100_000], Path(scratch))


if __name__ == "__main__":
    main()
