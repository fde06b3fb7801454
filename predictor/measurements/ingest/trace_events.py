"""The events of a Chrome trace, kept in the parts that say which call launched which kernel.

A trace of some hundred megabytes is mostly stack frames, counters and names. `Events.kept` is an object_hook of json:
it makes an Event of what is used, None of any other event, and holds each list of shapes once, so that what is in
memory is small beside the file.

cat    "cpu_op" a call · "cuda_runtime", "xpu_runtime", "hip_runtime", "cuda_driver" and all others that end so: a call
       of the runtime, which launches · "kernel", "gpu_memcpy", "gpu_memset", "mtia_ccp_events": time on the device ·
       "ac2g": an arrow from a launch to what it launched. Names of 2021 ("Operator", "Runtime", "Memcpy", and
       "Input dims") are known.
ph     "X" an event with a duration; "B" and "E" its two ends; "s" and "f" the two ends of an arrow
ts     microseconds, as is "dur": whole, with digits, or as text
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from math import inf, isfinite, nan
from sys import intern
from typing import Any, NamedTuple

OP, LAUNCH, DEVICE, ARROW = "op", "launch", "device", "arrow"
_CATEGORIES: Mapping[str, str] = {
    "cpu_op": OP,
    "operator": OP,
    "kernel": DEVICE,
    "gpu_memcpy": DEVICE,
    "memcpy": DEVICE,
    "gpu_memset": DEVICE,
    "memset": DEVICE,
    "mtia_ccp_events": DEVICE,
    "ac2g": ARROW,
    "async_cpu_to_gpu": ARROW,
}
_LAUNCHING = ("runtime", "driver")
_PHASES: Mapping[str, tuple[str, ...]] = {
    "X": (OP, LAUNCH, DEVICE),
    "B": (OP, LAUNCH, DEVICE, ""),  # an "E" ends the last "B" of its thread, whatever that is
    "E": (OP, LAUNCH, DEVICE, ""),
    "s": (ARROW,),
    "f": (ARROW,),
}
_RECORDED = ("Input Dims", "Input type", "Input Strides", "Concrete Inputs")

Thread = tuple[str, str]


class Event(NamedTuple):
    """One event.

    kind: OP, LAUNCH, DEVICE, ARROW or "". phase: "X", "B", "E", "s" or "f". start_us, length_us: nan where not told.
    number: the "correlation" of a launch and of what it launched, or the id of an arrow. call: the "External id".
    shapes: the four lists of a call's inputs. copies: of an event on the device whether it copies. graph: whether the
    device says that a graph launched it.
    """

    kind: str
    phase: str
    name: str
    thread: Thread
    start_us: float
    length_us: float
    number: str | None = None
    call: str | None = None
    device: Any = None
    shapes: tuple[Any, ...] = ()
    copies: bool = False
    graph: bool = False

    @property
    def end_us(self) -> float:
        """When it ends."""
        return self.start_us + self.length_us

    @property
    def middle_us(self) -> float:
        """Half-way. What is rounded at both ends still has its middle within what it lies in."""
        return self.start_us + self.length_us / 2


class Events:
    """Makes events of the objects of one file."""

    def __init__(self) -> None:
        self._shapes: dict[str, tuple[Any, ...]] = {}

    def kept(self, item: dict[str, Any]) -> Any:
        """An Event, None for an event that is not used, or the object as it is where it is no event."""
        if "ph" not in item or "ts" not in item:
            return item
        phase, category = item["ph"], str(item.get("cat", "")).lower()
        kind = _CATEGORIES.get(category) or (LAUNCH if category.endswith(_LAUNCHING) else "")
        if kind not in _PHASES.get(str(phase), ()):
            return None
        args = item.get("args")
        args = args if isinstance(args, dict) else {}
        return Event(
            kind,
            phase,
            intern(str(item.get("name", ""))),
            (intern(str(item.get("pid"))), intern(str(item.get("tid")))),
            _number(item["ts"]),
            _number(item.get("dur")),
            _id(item.get("id") if kind == ARROW else args.get("correlation")),
            _id(args.get("External id", args.get("external id"))),
            args.get("device"),
            self._once(args) if kind == OP or phase == "E" else (),
            "memcpy" in category,
            _id(args.get("graph id")) not in (None, "0") or _id(args.get("graph node id")) not in (None, "0"),
        )

    def _once(self, args: Mapping[str, Any]) -> tuple[Any, ...]:
        lists = tuple(args.get(name) or args.get(name.replace("D", "d")) or () for name in _RECORDED)
        return self._shapes.setdefault(repr(lists), lists) if any(lists) else ()


def _number(value: Any) -> float:
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        return nan
    return number if isfinite(number) else nan


def _id(value: Any) -> str | None:
    return intern(str(value)) if isinstance(value, int | str) and not isinstance(value, bool) else None


def joined(events: Iterable[Any]) -> Iterator[Event]:
    """The events in order of the file, one for each two of phases "B" and "E".

    What is no Event is left out, as is an "E" without a "B"; a "B" without an "E" has no length.
    """
    begun: dict[Thread, list[tuple[int, Event]]] = {}
    whole: list[Event] = []
    for event in events:
        if not isinstance(event, Event):
            continue
        if event.phase == "B":
            begun.setdefault(event.thread, []).append((len(whole), event))
        if event.phase != "E":
            whole.append(event)
        elif open_ := begun.get(event.thread):
            place, start = open_.pop()
            length_us = event.start_us - start.start_us
            whole[place] = start._replace(
                length_us=length_us if length_us >= 0 else nan,
                number=start.number or event.number,
                shapes=start.shapes or event.shapes,
            )
    return (event for event in whole if event.kind)


def timed(event: Event) -> bool:
    """Whether it is known when an event began and ended."""
    return -inf < event.start_us < inf and event.length_us >= 0
