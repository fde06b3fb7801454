"""torch.profiler: a Chrome trace, with record_shapes=True.

events   cat "cpu_op": a call with "Input Dims", "Input type", "Input Strides" and "Concrete Inputs"; cat "kernel" and
         "gpu_memcpy": time on the device, tied to the call that launched it by "External id", or by the "correlation"
         of the launch (cat "cuda_runtime")
latency  of a call: the sum of what it launched. It belongs to the innermost call that has a rule, so that aten::linear
         and the aten::addmm inside it count once. Calls of one shape become one row with their median.
CPU      a trace without kernels: the time of the call less that of calls inside it, timing "host"; --gpu names the CPU
GPU      deviceProperties
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import pandas as pd

from predictor.errors import PredictorError
from predictor.measurements.ingest.aten import SILENT, Recorded, has_rule, row_of, short_name
from predictor.measurements.ingest.content import Content
from predictor.measurements.ingest.given import Given
from predictor.measurements.readers import Unread
from predictor.units import US

NAME = "torch-profiler"
ON_DEVICE = ("kernel", "gpu_memcpy", "gpu_memset")
LAUNCHES = ("cuda_runtime", "cuda_driver", "hip_runtime")
BETWEEN_MEMORIES = ("HtoD", "DtoH", "PtoP", "Host", "Pageable", "Pinned")


class _Span(NamedTuple):
    """A recorded call: where it is in the list, and in that of the call around it (-1: none)."""

    event: Mapping[str, Any]
    parent: int


def claims(content: Content) -> bool:
    """Whether a file is a Chrome trace."""
    return content.has("traceEvents")


def read(content: Content, given: Given, unread: Unread) -> pd.DataFrame:
    """Rows of operator calls."""
    rows = [row for document in content.documents for row in _rows(document, unread)]
    frame = pd.DataFrame(rows)
    if frame.empty:
        return frame
    keys = [name for name in frame.columns if name != "latency_s"]
    return frame.groupby(keys, dropna=False, sort=False)["latency_s"].median().reset_index()


def _rows(trace: Mapping[str, Any], unread: Unread) -> Iterator[dict[str, Any]]:
    events = [event for event in trace["traceEvents"] if isinstance(event, dict) and event.get("ph") == "X"]
    spans = list(_nested([event for event in events if event.get("cat") == "cpu_op"]))
    owners = _owners(spans)
    launched = [event for event in events if event.get("cat") in ON_DEVICE]
    devices = {
        device.get("id", n): device.get("name", "") for n, device in enumerate(trace.get("deviceProperties") or [])
    }
    if launched:
        times, where = _device_times(events, launched, spans, owners, unread)
    else:
        times, where = _host_times(spans, owners, unread), {}
    reasons: Counter[str] = Counter()
    for place, latency_s in times.items():
        try:
            shape = row_of(_recorded(spans[place].event))
        except PredictorError as error:
            reasons[str(error)] += 1
            continue
        if shape is None:
            reasons[f"{spans[place].event['name']}: moves no data"] += 1
            continue
        timing = "device" if launched else "host"
        gpu = devices.get(where.get(place), next(iter(devices.values()), ""))
        yield {**shape, "gpu": gpu, "engine": "torch", "timing": timing, "source": NAME, "latency_s": latency_s}
    unread.rows.update(reasons)


def _nested(calls: Iterable[Mapping[str, Any]]) -> Iterator[_Span]:
    """The calls in order of thread and start, each with the place of the call that it runs in."""
    ordered = sorted(calls, key=_order)
    around: list[tuple[int, float, Any]] = []
    for place, event in enumerate(ordered):
        thread, start = (event.get("pid"), event.get("tid")), float(event["ts"])
        while around and (around[-1][2] != thread or around[-1][1] <= start):
            around.pop()
        yield _Span(event, around[-1][0] if around else -1)
        around.append((place, start + float(event.get("dur", 0)), thread))


def _order(event: Mapping[str, Any]) -> tuple[Any, ...]:
    """By thread, then by start, calls before those that they run; ids rise where times are equal."""
    start, length = float(event["ts"]), float(event.get("dur", 0))
    return str(event.get("pid")), str(event.get("tid")), start, -length, float(_arg(event, "External id") or 0)


def _owners(spans: Sequence[_Span]) -> list[int]:
    """For each call the innermost one with a rule that it is or runs in, -1 where there is none."""
    owners: list[int] = []
    for place, span in enumerate(spans):
        inherited = owners[span.parent] if span.parent >= 0 else -1
        owners.append(place if has_rule(span.event["name"]) else inherited)
    return owners


def _device_times(
    events: Sequence[Mapping[str, Any]],
    launched: Sequence[Mapping[str, Any]],
    spans: Sequence[_Span],
    owners: Sequence[int],
    unread: Unread,
) -> tuple[dict[int, float], dict[int, Any]]:
    """Seconds on the device and the device, by place of the call; what no call with a rule launched is counted."""
    by_id = {_arg(span.event, "External id"): place for place, span in enumerate(spans)}
    runtime = [event for event in events if event.get("cat") in LAUNCHES]
    launches = {_arg(event, "correlation"): _arg(event, "External id") for event in runtime}
    times: dict[int, float] = {}
    where: dict[int, Any] = {}
    for event in launched:
        external = _arg(event, "External id")
        external = launches.get(_arg(event, "correlation")) if external is None else external
        call = by_id.get(external, -1) if external is not None else -1
        owner = owners[call] if call >= 0 else -1
        if event["cat"] == "gpu_memcpy" and any(part in event["name"] for part in BETWEEN_MEMORIES):
            unread.rows["a copy between memories, not within the GPU's"] += 1
        elif owner < 0:
            name = spans[call].event["name"] if call >= 0 else ""
            unread.rows[f"{name}: no rule for it" if name else "a kernel that no operator launched (CUDA graphs?)"] += 1
        else:
            times[owner] = times.get(owner, 0.0) + float(event.get("dur", 0)) * US
            where[owner] = _arg(event, "device")
    return times, where


def _host_times(spans: Sequence[_Span], owners: Sequence[int], unread: Unread) -> dict[int, float]:
    """Seconds by place of the call, less those of calls with a rule inside it.

    A call whose time is mostly theirs, or that only hands on to one like itself, is no call of its own.
    """
    inside = [0.0] * len(spans)
    parts: list[set[str]] = [set() for _ in spans]
    for place, span in enumerate(spans):
        outer = owners[span.parent] if span.parent >= 0 else -1
        if owners[place] == place and outer >= 0:
            inside[outer] += float(span.event.get("dur", 0))
            parts[outer].add(_kind(span.event["name"]))
    times = {}
    parents = {span.parent for span in spans}
    for place, span in enumerate(spans):
        total, name = float(span.event.get("dur", 0)), span.event["name"]
        if owners[place] == place:
            if _kind(name) not in parts[place] and inside[place] < total / 2:
                times[place] = (total - inside[place]) * US
        elif owners[place] < 0 and place not in parents and short_name(name) not in SILENT:
            unread.rows[f"{name}: no rule for it"] += 1
    return times


def _kind(name: str) -> str:
    """What calls that hand on to each other have in common: aten::linear and aten::addmm, softmax and _softmax."""
    short = short_name(name)
    for part in ("softmax", "norm", "attention", "convolution"):
        if part in short:
            return part
    return "product" if short in ("linear", "mm", "addmm", "bmm", "baddbmm", "addmm_activation") else short


def _arg(event: Mapping[str, Any], name: str) -> Any:
    return (event.get("args") or {}).get(name)


def _recorded(event: Mapping[str, Any]) -> Recorded:
    names = ("Input Dims", "Input type", "Input Strides", "Concrete Inputs")
    return Recorded(event["name"], *(_arg(event, name) or () for name in names))
