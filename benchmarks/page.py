"""How fast `predictor web` shows its page and answers, and what memory it takes. Needs the extra web.

    python benchmarks/page.py [--whole]     --whole: a plan over all GPUs, too

Each figure is of a server that was just started. Seconds of the clock depend on what else the machine does, so those of
its processors stand beside them: what all processes of the server took.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager

import psutil

SERVE = "import sys; from predictor.cli import main; sys.exit(main(sys.argv[1:]))"
LOAD = "model=Qwen3-32B&request_rate=10&input_len=2000&output_len=400&ttft_p99=1&tpot=0.04"
QUICK = f"api/plan?{LOAD}&gpus=H100&vary=false&top=3&files=true"  # what the page asks first
OTHER = QUICK.replace("request_rate=10", "request_rate=7")
WHOLE = f"api/plan?{LOAD}&top=30"


def main() -> None:
    """Measure, and print a line of each."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--whole", action="store_true", help="a plan over all GPUs, too")
    options = parser.parse_args()
    busy = os.getloadavg()[0]
    print(f"{os.cpu_count()} processors, load {busy:.1f} before", flush=True)
    with server() as (address, started, began):
        ask(address)
        tell("the page, from the start of the command", time.perf_counter() - began, started)
        ask(address + QUICK)
        tell("the first answer, from the start of the command", time.perf_counter() - began, started)
        settle(started)
        memory(started, "memory when all processes are warm")
        three = OTHER.replace("gpus=H100", "gpus=H100,H200,L40S")
        for name, query in [("a first answer, warm", OTHER), ("the same again", OTHER), ("of three GPUs", three)]:
            timed(name, address + query, started)
        timed(
            "a prediction with its operators",
            f"{address}api/predict?model=Qwen3-32B&gpu=H100&concurrency=16&explain=true",
            started,
        )
        timed("all GPUs, their names", f"{address}api/gpus?short=true", started)
        if options.whole:
            timed("a plan over all GPUs", address + WHOLE, started)
        memory(started, "memory after that")


@contextmanager
def server(*options: str) -> Iterator[tuple[str, psutil.Process, float]]:
    """Address of a server that starts now, its process, and when that was. options: of the command."""
    began = time.perf_counter()
    with subprocess.Popen(
        [sys.executable, "-c", SERVE, "web", "--port", "0", *options], stdout=subprocess.PIPE, text=True
    ) as own:
        assert own.stdout
        yield own.stdout.readline().strip() + "/", psutil.Process(own.pid), began
        own.terminate()


def ask(address: str) -> bytes:
    """The answer, once there is a server."""
    while True:
        try:
            with urllib.request.urlopen(address) as response:
                content: bytes = response.read()
                return content
        except ConnectionError:
            time.sleep(0.01)


def timed(name: str, address: str, started: psutil.Process) -> None:
    """Print how long an answer takes."""
    before, began = processor_s(started), time.perf_counter()
    ask(address)
    tell(name, time.perf_counter() - began, started, before)


def tell(name: str, seconds: float, started: psutil.Process, before: float = 0.0) -> None:
    """Print a line."""
    print(f"{name:<48} {seconds:6.2f} s, {processor_s(started) - before:6.2f} s of processors", flush=True)


def settle(started: psutil.Process) -> None:
    """Wait until nothing is computed any more."""
    while True:
        before = processor_s(started)
        time.sleep(0.5)
        if processor_s(started) - before < 0.02:
            return


def memory(started: psutil.Process, name: str) -> None:
    """Print what the processes hold; pages that they share are counted once."""
    sizes = [getattr(one.memory_full_info(), "pss", 0) or one.memory_info().rss for one in family(started)]
    print(f"{name:<48} {sum(sizes) / 1e6:6.0f} MB, {', '.join(f'{size / 1e6:.0f}' for size in sizes)}", flush=True)


def family(started: psutil.Process) -> list[psutil.Process]:
    """The server and its workers."""
    return [started, *started.children(recursive=True)]


def processor_s(started: psutil.Process) -> float:
    """Seconds of processors that they took."""
    return sum(sum(one.cpu_times()[:2]) for one in family(started))


if __name__ == "__main__":
    main()
