"""How fast the command line answers, and how many operator calls one process predicts per second.

    .venv/bin/python benchmarks/speed.py [--bundle ID|DIR] [--commands]

Targets of commands are for two cores that do nothing else; on a machine with other work compare the time of user and
system, which waiting is no part of.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np

from predictor.estimators.bundle import load_bundle
from predictor.estimators.operators import predict_op
from predictor.hardware.gpu import get_gpu
from predictor.ops import Attention, Gemm

COMMAND = Path(sys.executable).parent / "predictor"
RUNS = 10
CALLS = 200_000
LAYERS = 1_000  # knots of calls that differ in tokens only are shared
HELP_S, MEMORY_S, PREDICT_S, PLAN_S, CALLS_PER_S = 0.2, 0.35, 1.0, 10.0, 100_000
LOAD = ["--request-rate", "10", "--input-len", "2000", "--output-len", "400"]


class Cost(NamedTuple):
    """The fastest of RUNS runs of a command, start of Python included, which others on the machine slow least.

    wall_s: from start to end. cpu_s: of user and system, the least of all runs.
    """

    wall_s: float
    cpu_s: float


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundle", default="")
    parser.add_argument("--commands", action="store_true", help="only those, no operator calls")
    given = parser.parse_args()
    chosen = ["--bundle", given.bundle] if given.bundle else []
    commands = [
        ("predictor --help", ["--help"], HELP_S),
        ("predictor memory, one GPU", ["memory", "Llama-3.1-8B", "--gpu", "A100", *chosen], MEMORY_S),
        (
            "predictor predict, three GPUs",
            ["predict", "Llama-3.1-8B", "--gpu", "A100", "--gpu", "H100", "--gpu", "B200", *chosen],
            PREDICT_S,
        ),
        (
            "predictor plan, all GPUs",
            ["plan", "Qwen3-32B", *LOAD, "--ttft-p99", "1", "--tpot", "0.04", *chosen],
            PLAN_S,
        ),
        ("predictor compare, all GPUs", ["compare", "Qwen3-32B", "--fit-only", *chosen], PLAN_S),
    ]
    print(f"{'what':32}{'measured':>14}{'target':>14}{'user + system':>16}")
    for what, arguments, target in commands:
        cost = cost_of(arguments)
        missed = "" if cost.wall_s <= target else "  missed"
        print(f"{what:32}{cost.wall_s:>12.2f} s{target:>12.2f} s{cost.cpu_s:>14.2f} s{missed}", flush=True)
    for what, rate in {} if given.commands else calls_per_s(given.bundle).items():
        missed = "" if rate >= CALLS_PER_S else "  missed"
        print(f"{what + ' calls':32}{rate:>11,.0f} /s{CALLS_PER_S:>11,.0f} /s{missed:>16}")


def cost_of(arguments: list[str]) -> Cost:
    """What a command costs as it is installed, its byte code written."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    costs = []
    for _ in range(RUNS):
        before, start = os.times(), time.perf_counter()
        subprocess.run([COMMAND, *arguments], check=True, stdout=subprocess.DEVNULL, env=environment)
        wall_s, after = time.perf_counter() - start, os.times()
        spent = (after.children_user - before.children_user, after.children_system - before.children_system)
        costs.append(Cost(wall_s, sum(spent)))
    return Cost(*map(min, zip(*costs, strict=True)))


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
