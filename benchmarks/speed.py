"""How fast the command line answers, and how many operator calls one process predicts per second.

python benchmarks/speed.py [--bundle ID|DIR]
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

from predictor.estimators.bundle import load_bundle
from predictor.estimators.operators import predict_op
from predictor.hardware.gpu import get_gpu
from predictor.ops import Attention, Gemm

COMMAND = Path(sys.executable).parent / "predictor"
RUNS = 5
CALLS = 200_000
LAYERS = 1_000  # knots of calls that differ in tokens only are shared
HELP_S, PREDICT_S, CALLS_PER_S = 0.4, 2.0, 100_000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--bundle", default="")
    bundle = parser.parse_args().bundle
    chosen = ["--bundle", bundle] if bundle else []
    three = ["predict", "Llama-3.1-8B", "--gpu", "A100", "--gpu", "H100", "--gpu", "B200", *chosen]
    rows = [
        ("predictor --help", wall_s(["--help"]), HELP_S, "s"),
        ("predictor predict, three GPUs", wall_s(three), PREDICT_S, "s"),
        *((f"{name} calls", rate, CALLS_PER_S, "/s") for name, rate in calls_per_s(bundle).items()),
    ]
    print(f"{'what':32}{'measured':>14}{'target':>14}")
    for what, measured, target, unit in rows:
        good = measured <= target if unit == "s" else measured >= target
        numbers = (f"{x:,.2f} s" if unit == "s" else f"{x:,.0f} /s" for x in (measured, target))
        print(f"{what:32}" + "".join(f"{number:>14}" for number in numbers) + ("" if good else "  missed"))


def wall_s(arguments: list[str]) -> float:
    """Median seconds of RUNS runs, start of Python included."""
    times = []
    for _ in range(RUNS):
        start = time.perf_counter()
        subprocess.run([COMMAND, *arguments], check=True, stdout=subprocess.DEVNULL)
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def calls_per_s(name: str) -> dict[str, float]:
    """Operator calls predicted per second, a column of CALLS calls at a time."""
    random = np.random.default_rng(0)

    def sizes(low: int, high: int) -> np.ndarray:
        return np.floor(np.exp(random.uniform(np.log(low), np.log(high), CALLS)))

    lengths, kv_heads = sizes(16, 32_768), sizes(1, 16)
    layers = np.stack([sizes(64, 32_768), sizes(64, 16_384)])[:, random.integers(0, LAYERS, CALLS)]
    ops = {
        f"gemm, {LAYERS} layers": Gemm(m=sizes(1, 16_384), n=layers[0], k=layers[1]),
        "gemm, no layer twice": Gemm(m=sizes(1, 16_384), n=sizes(64, 32_768), k=sizes(64, 16_384)).take(
            slice(0, 20_000)
        ),
        "attention prefill": Attention(
            phase="prefill",
            batch=sizes(1, 16),
            q_len=lengths,
            kv_len=lengths,
            heads=4 * kv_heads,
            kv_heads=kv_heads,
            head_dim=128,
        ),
        "attention decode": Attention(
            phase="decode",
            batch=sizes(1, 256),
            q_len=1,
            kv_len=lengths,
            heads=4 * kv_heads,
            kv_heads=kv_heads,
            head_dim=128,
        ),
    }
    bundle, gpu = load_bundle(name), get_gpu("H100")
    rates = {}
    for what, op in ops.items():
        predict_op(op.take(slice(0, 10)), gpu, bundle=bundle)  # loads the estimator
        start = time.perf_counter()
        predict_op(op, gpu, bundle=bundle)
        rates[what] = len(op) / (time.perf_counter() - start)
    return rates


if __name__ == "__main__":
    main()
