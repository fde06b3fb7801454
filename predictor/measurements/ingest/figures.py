"""What readers of serving benchmarks share: figures in their units, and the load that a client made."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from predictor.measurements.ingest.given import UNITS, Given
from predictor.measurements.readers import Unread
from predictor.workloads.engines import engines

AGREE = 0.05  # of mean lengths that were asked for and counted
ALIKE = 0.1  # of the spreads of prompts and answers, which are one column
REACHED = 0.6  # of a limit on concurrency: ramps up and down take their share of a short run
HELD_RATE = 0.9  # of a request rate that a server keeps up with; below it the limit on concurrency set the load


def number(value: Any) -> float | None:
    """value as a finite number, None where it is none; tools write some as text."""
    try:
        figure = float(value)
    except (TypeError, ValueError, OverflowError):
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


class Asked(NamedTuple):
    """The load that a client was told to make: requests per second, limit on concurrency, and requests in all."""

    rate: Any = None
    limit: Any = None
    prompts: Any = None


class Ran(NamedTuple):
    """What came of it: requests that were answered per second, and seconds of one in the mean. Requests in flight in
    the mean are their product (Little, "A Proof for the Queuing Formula: L = λW", 1961)."""

    rate: Any = None
    e2e_s: Any = None

    @property
    def in_flight(self) -> float:
        """Requests in flight in the mean, 0.0 where it is not known.

        >>> Ran(4.0, 2.5).in_flight
        10.0
        """
        return (number(self.rate) or 0.0) * (number(self.e2e_s) or 0.0)


def load_of(given: Given, asked: Asked, ran: Ran, unread: Unread) -> dict[str, Any] | str:
    """The columns that state the load that ran, or why none can.

    Where a rate and a limit on concurrency were asked for, that is stated which set the load. A limit that was never
    reached, for want of requests or because the client sent fewer, is no load: what was in flight is.
    """
    if not {"batch", "concurrency", "request_rate"}.isdisjoint(given.columns):
        return {"scheduling": "continuous"}
    if asked.rate == "trace":
        return "requests as a trace times them, which a request cannot say"
    rate, limit, prompts = (number(value) or 0.0 for value in asked)
    at_once = min(limit, prompts or limit)
    if rate and (not limit or (number(ran.rate) or 0.0) >= HELD_RATE * rate or 0 < ran.in_flight < REACHED * at_once):
        return {"scheduling": "continuous", "request_rate": rate}
    if not limit:
        return (
            "all requests at once: neither a rate nor a limit on concurrency; add --set concurrency=N if N ran together"
        )
    if prompts and prompts < limit:
        unread.remarks[
            f"max_concurrency {limit:.0f} of {prompts:.0f} requests; concurrency {prompts:.0f} is taken"
        ] += 1
    if 0 < ran.in_flight < REACHED * at_once:
        in_flight = max(round(ran.in_flight), 1)
        unread.remarks[
            f"max_concurrency {limit:.0f} was not reached: {in_flight} requests were in flight in the mean (answered "
            f"per second times latency); concurrency {in_flight} is taken"
        ] += 1
        at_once = in_flight
    return {"scheduling": "continuous", "concurrency": int(at_once)}


def lengths_of(result: Mapping[str, Any], asked: Mapping[str, Any], unread: Unread) -> dict[str, Any]:
    """Lengths of the answered requests: those asked for, evenly in a share `length_spread` below the longest, where the
    mean of the tokens counted agrees; else as the single requests are listed; else the mean of all, which is said."""
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
    listed = {"input_len": result.get("input_lens"), "output_len": result.get("output_lens")}
    longest = {
        name: max((number(one) or 0.0 for one in lens), default=0.0)
        for name, lens in listed.items()
        if isinstance(lens, list)
    }
    return spread_of(means, longest, unread)


def spread_of(means: Mapping[str, float], longest: Mapping[str, float], unread: Unread) -> dict[str, Any]:
    """Columns of lengths of a mean and, where it is told, a longest: even from a share below the longest up to it has
    the mean longest · (1 - share / 2). Where that fits not both lengths, all requests have the mean."""
    shares = [2 * (1 - mean / longest[name]) for name, mean in means.items() if longest.get(name, 0.0) >= mean > 0]
    if len(shares) == len(means) and max(shares) <= 1 and max(shares) - min(shares) <= ALIKE:
        return {name: round(longest[name]) for name in means} | {"length_spread": round(sum(shares) / len(shares), 3)}
    why = "do not lie evenly below the longest" if len(longest) == len(means) else "are told by their mean alone"
    unread.remarks[f"lengths {why}; all are taken with the mean (--set length_spread=… where it is known)"] += 1
    return {name: max(round(mean), 1) for name, mean in means.items()} | {"length_spread": 0.0}


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
