"""Which call launched each kernel of a trace: by the launch, and by where that lies in thread and time.

launch   A kernel and the call of the runtime that launched it share a "correlation"; an arrow ("ac2g") leads from the
         one to the other, too. The launch lies inside a call, on its thread.
ids      "External id" is not used: it is the number of a call in one trace and the correlation in another, and the same
         integer may be both. Only where a kernel has no correlation is there nothing to mistake it for.
graphs   All kernels of a CUDA graph have the correlation of cudaGraphLaunch. The calls inside ran when it was captured.
unsure   Where two launches share a correlation, as in traces of several processes that were put together, or two calls
         on a thread overlap without one inside the other, a kernel belongs to none of them.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from predictor.measurements.ingest.trace_events import ARROW, DEVICE, LAUNCH, OP, Event, Thread, joined, timed

NOWHERE = -1
ROUNDING_US = 2.0  # whole microseconds: both ends of both calls are cut
MOST_ALIKE = 8  # launches of one correlation that are looked at
GRAPH = re.compile(r"graph_?launch|commandbuffer", re.IGNORECASE)
KERNEL = re.compile(r"launch.*kernel|kernel.*launch", re.IGNORECASE)

OF_GRAPH = "launched by a graph, which does not tell its calls; record without CUDA graphs"
NO_LAUNCH = "its launch is not in the trace: begun before it, or activities without the CPU"
NO_LINK = "a kernel that no operator launched (CUDA graphs?)"
NO_CALL = "launched outside any recorded call"
UNSURE = "its correlation is that of launches in several calls; give the traces of processes apart"
OVERLAP = "launched where two calls of a thread overlap, neither inside the other"


class Span(NamedTuple):
    """A recorded call, and the place of the call around it in the list (NOWHERE: none)."""

    event: Event
    parent: int


class Kernel(NamedTuple):
    """Time on the device, the place of the innermost call that launched it, or why that is not known."""

    event: Event
    place: int
    why: str = ""


class Trace(NamedTuple):
    """spans: calls by thread and start, each after that which it runs in. cut: places of calls that launched a kernel
    which the trace lacks. untimed: how many calls have no start or end. launches: of kernels."""

    spans: list[Span]
    kernels: list[Kernel]
    cut: set[int]
    untimed: int
    launches: int


class _Spot(NamedTuple):
    """A launch: the innermost call, or why there is none."""

    place: int
    start_us: float
    why: str


def traced(events: Iterable[object]) -> Trace:
    """The calls and kernels of a trace's events."""
    by_kind: dict[str, list[Event]] = {OP: [], LAUNCH: [], DEVICE: [], ARROW: []}
    for event in joined(events):
        by_kind[event.kind].append(event)
    launches = [event for event in by_kind[LAUNCH] if timed(event)]
    arrows = [event._replace(length_us=0.0) for event in by_kind[ARROW]]
    tails = [event for event in arrows if event.phase == "s" and timed(event)]
    calls = [event for event in by_kind[OP] if timed(event)]
    spans, spots, nested = _nested(calls, [*launches, *tails])
    by_number: dict[str, list[_Spot]] = {}
    for event, spot in zip(launches, spots, strict=False):
        if event.number is not None:
            by_number.setdefault(event.number, []).append(spot)
    starts: dict[str, list[_Spot]] = {}
    for event, spot in zip(tails, spots[len(launches) :], strict=True):
        starts.setdefault(event.number or "", []).append(spot)
    heads = {(event.thread, event.start_us): event.number or "" for event in arrows if event.phase == "f"}
    ids = Counter(event.call for event in calls)
    by_id = {span.event.call: place for place, span in enumerate(spans) if ids[span.event.call] == 1}
    kernels = []
    for event in by_kind[DEVICE]:
        found = by_number.get(event.number or "") or starts.get(heads.get((event.thread, event.start_us), ""))
        if found:
            kernels.append(_placed(event, found))
        elif event.graph:
            kernels.append(Kernel(event, NOWHERE, OF_GRAPH))
        else:
            place = by_id.get(event.call, NOWHERE) if event.number is None and event.call is not None else NOWHERE
            why = NO_LAUNCH if event.number is not None else NO_LINK
            kernels.append(Kernel(event, place, why if place == NOWHERE else ""))
    ran = {event.number for event in by_kind[DEVICE]}
    launching = [place for place, event in enumerate(launches) if KERNEL.search(event.name)]
    cut = {spots[n].place for n in launching if launches[n].number not in ran and n not in nested}
    return Trace(spans, kernels, cut - {NOWHERE}, len(by_kind[OP]) - len(calls), len(launching))


def _placed(event: Event, found: Sequence[_Spot]) -> Kernel:
    """A kernel in the call of its launch; of several launches only those count that came before it."""
    if event.graph:
        return Kernel(event, NOWHERE, OF_GRAPH)
    if len(found) > MOST_ALIKE:
        return Kernel(event, NOWHERE, UNSURE)
    if len(found) > 1:
        found = [spot for spot in found if spot.start_us <= event.start_us] or found
    places = {(spot.place, spot.why) for spot in found}
    place, why = places.pop()
    if places:
        return Kernel(event, NOWHERE, UNSURE)
    return Kernel(event, place, why)


def _nested(calls: Sequence[Event], launches: Sequence[Event]) -> tuple[list[Span], list[_Spot], set[int]]:
    """The calls with the call around each, where each launch lies, and which launches lie inside another.

    One pass over each thread in order of time. A call is inside another if its middle is, and if it does not outlast it
    by more than what rounding explains.
    """
    ordered: list[tuple[Thread, float, bool, float, int]] = sorted(
        [(event.thread, event.start_us, False, -event.length_us, place) for place, event in enumerate(calls)]
        + [(event.thread, event.start_us, True, -event.length_us, place) for place, event in enumerate(launches)]
    )
    spans: list[Span] = []
    spots = [_Spot(NOWHERE, 0.0, NO_CALL)] * len(launches)
    inside: set[int] = set()
    around: list[tuple[int, float, float]] = []  # place, end, until when the call overlaps one that it is not inside
    thread, launch_end = None, 0.0
    for own, _, is_launch, _, place in ordered:
        if own != thread:
            thread, launch_end = own, float("-inf")
            around.clear()
        event = launches[place] if is_launch else calls[place]
        overlapped = event.start_us
        while around and (
            around[-1][1] < event.middle_us or (not is_launch and around[-1][1] + ROUNDING_US < event.end_us)
        ):
            overlapped = max(overlapped, around.pop()[1])
        top, _, until = around[-1] if around else (NOWHERE, 0.0, float("-inf"))
        if not is_launch:
            if overlapped - event.start_us > ROUNDING_US:
                until = max(until, overlapped)
            around.append((len(spans), event.end_us, until))
            spans.append(Span(event, top))
            continue
        if event.middle_us < launch_end:
            inside.add(place)
        launch_end = max(launch_end, event.end_us) if event.length_us else launch_end
        if GRAPH.search(event.name):
            spots[place] = _Spot(NOWHERE, event.start_us, OF_GRAPH)
        elif event.middle_us < until:
            spots[place] = _Spot(NOWHERE, event.start_us, OVERLAP)
        else:
            spots[place] = _Spot(top, event.start_us, "" if top >= 0 else NO_CALL)
    return spans, spots, inside


def beside(events: Iterable[Event]) -> int:
    """How many kernels ran while another stream of their device ran one."""
    latest: dict[str, list[tuple[float, str, int]]] = {}  # of a device: end, stream and place of the two that end last
    found: set[int] = set()
    ordered = sorted((event for event in events if timed(event)), key=lambda event: event.start_us)
    for place, event in enumerate(ordered):
        device, stream = event.thread
        ends = latest.get(device, [])
        other = next((whose for end_us, name, whose in ends if name != stream and end_us > event.start_us), None)
        if other is not None:
            found |= {place, other}
        by_stream = {name: (end_us, name, whose) for end_us, name, whose in ends}
        by_stream[stream] = max(by_stream.get(stream, (event.end_us, stream, place)), (event.end_us, stream, place))
        latest[device] = sorted(by_stream.values(), reverse=True)[:2]
    return len(found)
