"""The benchmark that checks a plan: the load that was predicted, as clients of engines make it."""

from __future__ import annotations

import math
import shlex
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from predictor.measurements.runs import ASKED
from predictor.planning.launch.command import Launch
from predictor.planning.launch.yaml_text import comments
from predictor.workloads.models import hub_id
from predictor.workloads.request import Request

LASTS_S = 300  # seconds of arrivals
FEWEST, MOST = 200, 20_000  # requests of a run: the 99th percentile of fewer says little
PER_CLIENT = 10  # requests of each client, as predicted where nobody says
WARMUPS = 8
PERCENTILES = "50,90,99"
RESULTS = {"vllm": "result.json", "sglang": "result.jsonl"}
INSTALL = {"vllm": "pip install vllm (vllm bench needs no GPU)", "sglang": "pip install sglang"}


class Load(NamedTuple):
    """What a client is told. input_len, output_len: the longest; spread: share below them; prefix: tokens that all
    prompts share, besides."""

    request_rate: float
    concurrency: int
    prompts: int
    input_len: int
    output_len: int
    spread: float
    prefix: int


def load_of(request: Request) -> Load:
    """The load of a request."""
    rate, clients = request.request_rate, request.clients
    arrivals = min(max(math.ceil(LASTS_S * rate), FEWEST), MOST)
    prompts = request.num_prompts or (PER_CLIENT * clients if clients else arrivals)
    cached = round(request.prefix_cache_hit_rate * request.input_len)
    return Load(
        rate,
        clients,
        prompts,
        max(request.input_len - cached, 1),
        request.output_len,
        request.length_spread or 0.0,
        request.shared_prefix_len + cached,
    )


def not_replayed(request: Request) -> str:
    """What of a load no client makes; "" where all of it is made."""
    if request.trace:
        return f"the requests of {request.trace}: replay them with a client that reads it"
    if request.turns > 1:
        return f"sessions of {request.turns} turns: run a client that holds them"
    return ""


def script(title: str, request: Request, launch: Launch) -> str:
    """benchmark.sh. title: what is checked, in words."""
    assert launch.server
    client, port = launch.server.client, launch.server.port
    result = RESULTS[client]
    head = [
        f"Checks a prediction: {title}",
        "1. Start the plan: run.sh, compose.yaml or kubernetes.yaml.",
        f"2. ./benchmark.sh http://localhost:{port}    # or where its balancer listens; {INSTALL[client]}",
        f"3. predictor ingest {result} --plan plan.json --out runs.parquet",
        "which says of each figure what was predicted, what was measured, and whether that lies in the interval.",
    ]
    lines = [opening(head)]
    if left_out := not_replayed(request):
        told = f"no client is known here for {left_out}, and write {result} as vllm bench serve does."
        return "\n".join([*lines, f"echo {shlex.quote(told)} >&2", "exit 2", ""])
    lines.append(f"url=${{1:-http://localhost:{port}}}")
    words = (_sglang if client == "sglang" else _vllm)(request, launch, load_of(request), result)
    if client == "sglang":
        lines.append(f"rm -f {result}  # the client adds to it")
    return "\n".join([*lines, broken_up(words), ""])


def _model(request: Request, launch: Launch) -> Iterator[str]:
    """The model as the server calls it, and whose tokens are counted where that is a file."""
    yield from ("--model", launch.model)
    if launch.local and (hub := hub_id(request.model)):
        yield from ("--tokenizer", hub)


def _vllm(request: Request, launch: Launch, load: Load, result: str) -> Iterator[str]:
    """Lengths lie evenly around the middle of what the plan has them between."""
    assert launch.server
    middle = 1 - load.spread / 2
    ratio = min(load.spread / (2 - load.spread), 0.999)  # it must lie below 1
    yield from ("vllm", "bench", "serve", "--backend", "vllm" if launch.server.name.startswith("vllm") else "openai")
    yield from ("--base-url", "$url", *_model(request, launch))
    yield from ("--dataset-name", "random", "--random-input-len", str(max(round(middle * load.input_len), 1)))
    yield from ("--random-output-len", str(max(round(middle * load.output_len), 1)))
    yield from ("--random-range-ratio", f"{ratio:.4g}")
    if load.prefix:
        yield from ("--random-prefix-len", str(load.prefix))
    yield "--ignore-eos"
    yield from _arrivals(load)
    yield from ("--num-prompts", str(load.prompts), "--num-warmups", str(WARMUPS))
    yield from ("--percentile-metrics", "ttft,tpot,itl,e2el", "--metric-percentiles", PERCENTILES)
    yield from ("--save-result", "--result-dir", ".", "--result-filename", result)
    yield from ("--metadata", *_metadata(request))


def _sglang(request: Request, launch: Launch, load: Load, result: str) -> Iterator[str]:
    least = f"{1 - load.spread:.4g}"
    yield from ("python", "-m", "sglang.bench_serving", "--backend", "sglang", "--base-url", "$url")
    yield from _model(request, launch)
    if load.prefix:
        yield from ("--dataset-name", "generated-shared-prefix", "--gsp-num-groups", "1")
        yield from ("--gsp-prompts-per-group", str(load.prompts), "--gsp-system-prompt-len", str(load.prefix))
        yield from ("--gsp-question-len", str(load.input_len), "--gsp-output-len", str(load.output_len))
        yield from ("--gsp-range-ratio", least)
    else:
        yield from ("--dataset-name", "random-ids", "--random-input-len", str(load.input_len))
        yield from ("--random-output-len", str(load.output_len), "--random-range-ratio", least)
    yield from _arrivals(load)
    yield from ("--num-prompts", str(load.prompts), "--warmup-requests", str(WARMUPS), "--output-file", result)


def _arrivals(load: Load) -> Iterator[str]:
    if load.request_rate:
        yield from ("--request-rate", f"{load.request_rate:g}")
    else:
        yield from ("--max-concurrency", str(load.concurrency))


def _metadata(request: Request) -> Iterator[str]:
    """Columns of the run that the client does not know."""
    lengths = {name: getattr(request, name) for name in ("input_len", "output_len", "length_spread")}
    for name, value in (request.stated(ASKED) | lengths).items():
        if name not in ("model", "request_rate", "concurrency", "scheduling", "n_gpus", "batch"):
            yield f"{name}={value:g}" if isinstance(value, float) else f"{name}={value}"


def opening(head: Iterable[str]) -> str:
    """How a script of a plan begins: what it is for, and that it ends at the first error, beside itself."""
    return f'#!/usr/bin/env bash\n{comments(head)}set -euo pipefail\ncd "$(dirname "$0")"'


def broken_up(words: Iterable[str]) -> str:
    """A command with an option a line; $url and the like are the shell's."""
    lines: list[list[str]] = [[]]
    for word in words:
        if word.startswith("--"):
            lines.append([])
        lines[-1].append(f'"{word}"' if word.startswith("$") else shlex.quote(word))
    return " \\\n  ".join(" ".join(line) for line in lines if line)
