"""What readers of serving benchmarks share: figures in their units, and the load that a client made."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

from predictor.measurements.ingest.given import UNITS, Given
from predictor.workloads.engines import engines

AGREE = 0.05  # of mean lengths that were asked for and counted
HELD_RATE = 0.9  # of a request rate that a server keeps up with; below it the limit on concurrency set the load


def number(value: Any) -> float | None:
    """value as a finite number, None where it is none; tools write some as text."""
    try:
        figure = float(value)
    except (TypeError, ValueError):
        return None
    return figure if math.isfinite(figure) else None


def seconds(value: Any, unit: str) -> float | None:
    """A time in seconds, None where it is not told or 0, which tools write for it."""
    figure = number(value)
    factor = UNITS["seconds"].get({"sec": "s", "seconds": "s", "milliseconds": "ms"}.get(unit, unit))
    return figure * factor if figure and factor else None


def mean_of(result: Mapping[str, Any], *names: str) -> float | None:
    """Seconds of the first figure that is told: its mean, else its median, both in ms."""
    keys = (f"{kind}_{name}_ms" for name in names for kind in ("mean", "median"))
    return next((figure for key in keys if (figure := seconds(result.get(key), "ms"))), None)


def load_of(given: Given, rate: Any, concurrency: Any, served_rate: Any) -> dict[str, Any] | str:
    """The columns that state a load, or why none can; served_rate: requests that were answered per second.

    Where both a rate and a limit on concurrency were asked for, that is stated which set the load.
    """
    if not {"batch", "concurrency", "request_rate"}.isdisjoint(given.columns):
        return {"scheduling": "continuous"}
    if rate == "trace":
        return "requests as a trace times them, which a request cannot say"
    rate_per_s, limit, served = number(rate) or 0.0, number(concurrency) or 0.0, number(served_rate) or 0.0
    if rate_per_s and (not limit or served >= HELD_RATE * rate_per_s):
        return {"scheduling": "continuous", "request_rate": rate_per_s}
    if limit:
        return {"scheduling": "continuous", "concurrency": int(limit)}
    return "all requests at once: neither a rate nor a limit on concurrency; add --set concurrency=N if N ran together"


def lengths_of(result: Mapping[str, Any], asked: Mapping[str, Any]) -> dict[str, Any]:
    """Lengths of the answered requests: those asked for, evenly in a share `length_spread` below the longest, where the
    mean of the tokens counted agrees; else that mean."""
    done = number(result.get("completed")) or 0.0
    if not done:
        return {}
    totals = {"input_len": result.get("total_input_tokens"), "output_len": result.get("total_output_tokens")}
    means = {name: max((number(total) or 0.0) / done, 1.0) for name, total in totals.items()}
    spread = number(asked.get("length_spread"))
    if spread is not None and 0 <= spread <= 1:
        longest = {name: number(asked.get(name)) or 0.0 for name in means}
        if all(abs(longest[name] * (1 - spread / 2) / mean - 1) < AGREE for name, mean in means.items()):
            return {name: round(value) for name, value in longest.items()} | {"length_spread": spread}
    return {name: round(mean) for name, mean in means.items()}


def engine_name(backend: Any) -> str:
    """The engine that a client's backend names, "" where it names a protocol.

    >>> engine_name("sglang-oai"), engine_name("tensorrt-llm"), engine_name("openai")
    ('sglang', 'trtllm', '')
    """
    name = str(backend or "").casefold().replace("-", "").replace("_", "")
    return next((engine.name for engine in engines().values() if name.startswith(engine.called)), "")


def found_in(config: Any, name: str) -> Iterator[Any]:
    """The values under a key anywhere in nested objects, outermost first."""
    if isinstance(config, dict):
        if config.get(name) is not None:
            yield config[name]
        for value in config.values():
            yield from found_in(value, name)
    elif isinstance(config, list):
        for value in config:
            yield from found_in(value, name)
