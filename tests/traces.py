"""Writes Chrome traces as profilers do, of programs whose kernels are known to belong to which call."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

BF16 = "c10::BFloat16"
PRODUCT = ([[64, 128], [128, 256]], [BF16, BF16])
GPU = {"id": 0, "name": "NVIDIA A100-SXM4-80GB"}


class Program:
    """Runs calls and launches one after another on threads; `events` is what a profiler would have seen.

    ids: what "External id" of a launch and of its kernels is: "call" (that of the call), "correlation" (as Kineto wrote
    until 2023) or "none". External ids of calls and correlations are counted from the same number.
    """

    def __init__(self, ids: str = "correlation", runtime: str = "cuda_runtime", first: int = 1) -> None:
        self.events: list[dict[str, Any]] = []
        self.ids, self.runtime = ids, runtime
        self.calls, self.launches = first - 1, first - 1
        self.clock: dict[Any, float] = {}
        self.device_clock = 1_000.0
        self.thread: tuple[Any, Any] = (11, 11)
        self.around: list[int] = []
        self.belongs: list[tuple[str, float, int]] = []  # of each kernel: name, microseconds, External id of its call

    def _event(self, **event: Any) -> dict[str, Any]:
        self.events.append({"ph": "X", **event})
        return self.events[-1]

    def _tick(self, us: float = 1.0) -> float:
        self.clock[self.thread] = self.clock.get(self.thread, 100.0) + us
        return self.clock[self.thread]

    @contextmanager
    def call(self, name: str, dims: Sequence[Any] = (), types: Sequence[str] = (), **more: Any) -> Iterator[int]:
        """A call; what is run inside belongs to it."""
        self.calls += 1
        number = self.calls
        shapes = {"Input Dims": dims, "Input type": types} if dims else {}
        place = {"pid": self.thread[0], "tid": self.thread[1], "ts": self._tick()}
        event = self._event(cat="cpu_op", name=name, **place, args={"External id": number, **shapes, **more})
        self.around.append(number)
        yield number
        self.around.pop()
        event["dur"] = self._tick() - event["ts"]

    @contextmanager
    def annotation(self, name: str = "step") -> Iterator[None]:
        event = self._event(cat="user_annotation", name=name, pid=self.thread[0], tid=self.thread[1], ts=self._tick())
        yield
        event["dur"] = self._tick(0.5) - event["ts"]

    def launch(
        self,
        *times_us: float,
        name: str = "cudaLaunchKernel",
        cat: str = "kernel",
        kernel: str = "kernel",
        stream: int = 7,
        cut: bool = False,
        **more: Any,
    ) -> int:
        """A launch of one or, by a graph, of several kernels; cut: they are not in the trace. Returns its number."""
        self.launches += 1
        number, call = self.launches, self.around[-1] if self.around else 0
        external = {"call": call, "correlation": number}.get(self.ids)
        args = {"correlation": number} | ({"External id": external} if external is not None else {})
        start = self._tick()
        host = {"pid": self.thread[0], "tid": self.thread[1], "ts": start}
        self._event(cat=self.runtime, name=name, **host, dur=self._tick() - start, args=dict(args))
        self._event(cat="ac2g", name="ac2g", id=number, **host, ph="s")
        for us in times_us if not cut else ():
            self.device_clock = max(self.device_clock, start) + us
            where = {"pid": 0, "tid": stream, "ts": self.device_clock - us}
            of_device = {"device": 0, "stream": stream, **more}
            self._event(cat=cat, name=kernel, **where, dur=us, args={**args, **of_device})
            self._event(cat="ac2g", name="ac2g", id=number, **where, ph="f", bp="e")
            self.belongs.append((kernel, us, call))
        return number

    @contextmanager
    def on(self, pid: Any, tid: Any) -> Iterator[None]:
        """What is run inside runs on another thread, outside the calls of this one."""
        before = self.thread, self.around
        self.thread, self.around = (pid, tid), []
        yield
        self.thread, self.around = before

    def trace(self, **more: Any) -> dict[str, Any]:
        return {"schemaVersion": 1, "deviceProperties": [GPU], "record_shapes": 1, "traceEvents": self.events, **more}


def in_two(events: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Calls and launches as two events each, "B" and "E", in the order of time of each thread."""
    ends: list[tuple[float, int, dict[str, Any]]] = []
    for place, event in enumerate(events):
        if event["ph"] == "X" and event["cat"] not in ("kernel", "gpu_memcpy"):
            end = event["ts"] + event["dur"]
            start = {name: value for name, value in event.items() if name != "dur"}
            ends.append((event["ts"], place, {**start, "ph": "B"}))
            ends.append((end, place, {"ph": "E", "pid": event["pid"], "tid": event["tid"], "ts": end}))
        else:
            ends.append((event["ts"], place, event))
    return [event for _, _, event in sorted(ends, key=lambda each: each[:2])]


def kept(events: Sequence[dict[str, Any]]) -> list[Any]:
    """The events as the reader holds them."""
    from predictor.measurements.ingest.trace_events import Events

    found: list[Any] = json.loads(json.dumps(list(events)), object_hook=Events().kept)
    return found
