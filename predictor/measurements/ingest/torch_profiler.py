"""torch.profiler (Kineto): a Chrome trace, with record_shapes=True, of CUDA, ROCm, XPU, MTIA or a CPU.

kernels  belong to the call in which they were launched (trace_calls), and become time of the innermost call around that
         whose shapes make an op, so that aten::linear and the aten::addmm inside it count once
latency  of a call: the sum of what it launched. Calls of one shape become one row with their median.
parts    A call of which another call inside does a part without a rule, or of which a kernel or its time is missing,
         is no measurement: what is known of it would be too short. Copies inside it are calls of their own.
CPU      a trace without kernels: the time of the call less that of calls inside it, timing "host"; --gpu names the CPU
GPU      deviceProperties
said     how many kernels there are, which were placed in a call, which are measurements, with their share of the time;
         of the others the reason
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from statistics import median
from typing import Any, NamedTuple

import pandas as pd

from predictor.errors import PredictorError
from predictor.measurements.ingest.aten import LIKE_FIRST, SILENT, Recorded, has_rule, row_of, short_name
from predictor.measurements.ingest.content import Content
from predictor.measurements.ingest.given import Given
from predictor.measurements.ingest.trace_calls import NOWHERE, Kernel, Span, Trace, beside, traced
from predictor.measurements.ingest.trace_events import Event
from predictor.measurements.readers import Unread
from predictor.units import US

NAME = "torch-profiler"
WITHIN_MEMORY = ("DtoD", "D2D", "DeviceToDevice")
COPY = "a copy between memories, not within the GPU's"
UNTIMED = "its start or duration is not told"
CUT = "of a call that launched a kernel which the trace lacks"
PART = "of a call of which calls inside it do a part"
MIXED = "of a call that also copies between memories"


class _Shape(NamedTuple):
    """What a call's name and shapes are as an op: columns of the schema, or why they are none."""

    row: dict[str, Any] | None
    why: str = ""


def claims(content: Content) -> bool:
    """Whether a file is a Chrome trace: an object with its events, or their list."""
    return content.has("traceEvents") or any(isinstance(document, Event) for document in content.documents)


def read(content: Content, given: Given, unread: Unread) -> pd.DataFrame:
    """Rows of operator calls."""
    traces = content.documents if content.has("traceEvents") else ({"traceEvents": content.documents},)
    times: dict[tuple[Any, ...], list[float]] = {}
    for trace in traces:
        rank = (trace.get("distributedInfo") or {}).get("rank")
        title = content.path.name + (f", rank {rank}" if rank is not None else "")
        for row, latency_s in _measured(trace, title, unread):
            times.setdefault(tuple(row.items()), []).append(latency_s)
    return pd.DataFrame([{**dict(row), "latency_s": median(each)} for row, each in times.items()])


def _measured(trace: Mapping[str, Any], title: str, unread: Unread) -> Iterable[tuple[dict[str, Any], float]]:
    """Rows without their latency, and that latency, of each call that is a measurement."""
    found = traced(trace["traceEvents"])
    shapes = _shapes(found.spans)
    if found.untimed:
        unread.rows[f"a call: {UNTIMED}"] += found.untimed
    devices = {str(device.get("id", n)): device.get("name", "") for n, device in enumerate(_devices(trace))}
    names = set(devices.values())
    only = names.pop() if len(names) == 1 else ""
    if found.kernels:
        times, where = _device_times(found, shapes, title, unread)
    elif found.launches:
        unread.rows["a launch: the trace has no kernels; record ProfilerActivity.CUDA, or XPU"] += found.launches
        return
    else:
        times, where = _host_times(found.spans, shapes, unread), {}
    for place, latency_s in times.items():
        gpu = devices.get(str(where.get(place)), only)
        timing = "device" if found.kernels else "host"
        about = {"gpu": gpu, "engine": "torch", "timing": timing, "source": NAME}
        yield {**(shapes[place].row or {}), **about}, latency_s


def _devices(trace: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    return [device for device in trace.get("deviceProperties") or [] if isinstance(device, dict)]


def _shapes(spans: Sequence[Span]) -> list[_Shape]:
    """What each call is as an op; calls of one name and shape are looked at once."""
    known: dict[tuple[str, int], _Shape] = {}
    shapes = []
    for span in spans:
        key = span.event.name, id(span.event.shapes)  # a list of shapes is held once
        if key not in known:
            known[key] = _shape(span.event)
        shapes.append(known[key])
    return shapes


def _shape(event: Event) -> _Shape:
    if not has_rule(event.name):
        return _Shape(None, f"{event.name}: no rule for it")
    try:
        row = row_of(Recorded(event.name, *event.shapes) if event.shapes else Recorded(event.name, (), ()))
    except PredictorError as error:
        return _Shape(None, str(error))
    return _Shape(row, "" if row else f"{event.name}: moves no data")


def _owners(spans: Sequence[Span], shapes: Sequence[_Shape]) -> list[int]:
    """For each call the innermost one with an op that it is, or of which it is the same work under another name."""
    owners: list[int] = []
    for place, span in enumerate(spans):
        outer = owners[span.parent] if span.parent >= 0 else NOWHERE
        if shapes[place].row is not None:
            owners.append(place)
        elif outer >= 0 and _same_work(span.event.name, spans[outer].event.name):
            owners.append(outer)
        else:
            owners.append(NOWHERE)
    return owners


def _around(spans: Sequence[Span], shapes: Sequence[_Shape]) -> list[int]:
    """For each call the innermost one with an op that it runs in, not itself."""
    around: list[int] = []
    for span in spans:
        known = span.parent >= 0 and shapes[span.parent].row is not None
        around.append(span.parent if known or span.parent < 0 else around[span.parent])
    return around


def _device_times(
    found: Trace, shapes: Sequence[_Shape], title: str, unread: Unread
) -> tuple[dict[int, float], dict[int, Any]]:
    """Seconds on the device and the device, by place of the call that is a measurement; of the rest the reason."""
    spans = found.spans
    owners, around = _owners(spans, shapes), _around(spans, shapes)
    owned = [_owned(kernel, owners, shapes) for kernel in found.kernels]
    of_kernels = list(zip(owned, found.kernels, strict=True))
    own = {owner for owner, _ in owned} | {owners[place] for place in found.cut}
    others = {kernel.place for (owner, why), kernel in of_kernels if owner < 0 and why != COPY}
    others |= {place for place in found.cut if owners[place] < 0}
    broken = dict.fromkeys(_partial(spans, around, own, others), PART)
    broken |= {owners[kernel.place]: MIXED for (_, why), kernel in of_kernels if why == COPY and kernel.place >= 0}
    broken |= dict.fromkeys((owners[place] for place in found.cut), CUT)
    broken |= {owner: UNTIMED for owner, why in owned if why == UNTIMED}
    times: dict[int, float] = {}
    where: dict[int, Any] = {}
    left: dict[str, list[float]] = {}
    for (owner, why), kernel in of_kernels:
        seconds = kernel.event.length_us * US if kernel.event.length_us >= 0 else 0.0
        why = why or broken.get(owner, "")
        if why:
            named = f"{spans[owner].event.name}: {why}" if owner >= 0 else why
            left.setdefault(named, []).append(seconds)
        else:
            times[owner] = times.get(owner, 0.0) + seconds
            where[owner] = kernel.event.device
    _say(title, found.kernels, times, left, unread)
    return times, where


def _owned(kernel: Kernel, owners: Sequence[int], shapes: Sequence[_Shape]) -> tuple[int, str]:
    """The place of the call whose time a kernel is, and why it is no measurement."""
    event = kernel.event
    owner = owners[kernel.place] if kernel.place >= 0 else NOWHERE
    if event.copies and not any(part in event.name for part in WITHIN_MEMORY):
        return NOWHERE, COPY
    if kernel.place < 0:
        return NOWHERE, kernel.why
    if owner < 0:
        return NOWHERE, shapes[kernel.place].why
    return owner, "" if event.length_us >= 0 else UNTIMED


def _partial(spans: Sequence[Span], around: Sequence[int], own: set[int], others: set[int]) -> set[int]:
    """Calls of which calls inside them do a part of the work.

    own: places of calls with kernels of theirs. others: those of calls whose kernels belong to no op. Inside first.
    """
    partial: set[int] = set()
    for place in range(len(spans) - 1, -1, -1):
        outer = around[place]
        if outer < 0 or outer in partial or not (place in own or place in others or place in partial):
            continue
        if place in others or place in partial or not _beside(spans[place].event.name, spans[outer].event.name):
            partial.add(outer)
    return partial


def _beside(inner: str, outer: str) -> bool:
    """Whether a call inside another is none of its work: a copy or filling before it, or the bias of a convolution."""
    short = short_name(inner)
    return short in LIKE_FIRST or (short == "add" and _kind(outer) == "conv")


def _say(
    title: str, kernels: Sequence[Kernel], times: Mapping[int, float], left: Mapping[str, list[float]], unread: Unread
) -> None:
    """Count what became of the kernels, and say their share of the time."""
    lost = sum(map(sum, left.values()))
    total = sum(times.values()) + lost
    placed = [kernel for kernel in kernels if kernel.place >= 0]
    of_placed = sum(kernel.event.length_us for kernel in placed if kernel.event.length_us >= 0) * US
    measured = len(kernels) - sum(map(len, left.values()))
    at_once = beside([kernel.event for kernel in kernels])
    unread.notes.append(
        f"{title}: {len(kernels):,} kernels and copies, {_time(total)} on the device; "
        f"{len(placed):,} placed in the calls that launched them ({_share(of_placed, total)} of the time), "
        f"{measured:,} of them measurements ({_share(total - lost, total)} of the time)"
        + (f"; {at_once:,} ran beside those of another stream, which takes longer than alone" if at_once else "")
    )
    unread.seen_s += total
    for why, seconds in left.items():
        unread.rows[why] += len(seconds)
        unread.seconds[why] = unread.seconds.get(why, 0.0) + sum(seconds)


def _time(seconds: float) -> str:
    return f"{seconds:.4g} s" if seconds >= 1 else f"{seconds * 1e3:.4g} ms"


def _share(part: float, whole: float) -> str:
    return f"{100 * part / whole:.1f} %" if whole else "none"


def _host_times(spans: Sequence[Span], shapes: Sequence[_Shape], unread: Unread) -> dict[int, float]:
    """Seconds by place of the call, less those of calls with a rule inside it.

    A call whose time is mostly theirs, or that only hands on to one like itself, is no call of its own.
    """
    owners: list[int] = []
    inside = [0.0] * len(spans)
    parts: list[set[str]] = [set() for _ in spans]
    for place, span in enumerate(spans):
        outer = owners[span.parent] if span.parent >= 0 else NOWHERE
        owners.append(place if has_rule(span.event.name) else outer)
        if owners[place] == place and outer >= 0:
            inside[outer] += span.event.length_us
            parts[outer].add(_kind(span.event.name))
    times = {}
    parents = {span.parent for span in spans}
    for place, span in enumerate(spans):
        total, name = span.event.length_us, span.event.name
        if owners[place] == place:
            if _kind(name) in parts[place] or inside[place] >= total / 2:
                continue
            if shapes[place].row is None:
                unread.rows[shapes[place].why] += 1
            else:
                times[place] = (total - inside[place]) * US
        elif owners[place] < 0 and place not in parents and short_name(name) not in SILENT:
            unread.rows[f"{name}: no rule for it"] += 1
    return times


def _same_work(inner: str, outer: str) -> bool:
    """Whether a call without an op is the work of one around it, such as cudnn_convolution that of convolution."""
    short = short_name(inner)
    return bool(short) and (_kind(inner) == _kind(outer) or set(short_name(outer).split("_")) <= set(short.split("_")))


def _kind(name: str) -> str:
    """What calls that hand on to each other have in common: aten::linear and aten::addmm, softmax and _softmax."""
    short = short_name(name)
    for part in ("softmax", "norm", "attention", "conv"):
        if part in short:
            return part
    return "product" if short in ("linear", "mm", "addmm", "bmm", "baddbmm", "addmm_activation") else short
