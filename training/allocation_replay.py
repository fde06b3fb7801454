"""Replays what one step allocated and freed through the caching allocator, and says what was alive at the peak."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from caching_allocator import Block, CachingAllocator

CATEGORIES = ("param", "buffer", "grad", "opt", "act", "temp", "input", "workspace")
PHASES = ("forward", "backward", "step", "decode")


class Event(NamedTuple):
    """kind: "allocate" or "free" of the storage `ident`, or "phase", whose name is the category."""

    kind: str
    ident: int
    nbytes: int
    category: str


class _Held(NamedTuple):
    block: Block
    category: str


def replay(events: Sequence[Event], labels: dict[int, str], steps: int) -> dict[str, Any]:
    """Peaks of so many steps of which one was recorded: in the first the optimizer makes its state before it steps.

    What a step leaves behind (workspaces, sums of gradients) the next one finds.
    """
    phases = _by_phase(events)
    recorded = [name for name in PHASES if name in phases]
    first = [name for name in ("setup", "forward", "backward", "state", "step", "decode") if name in phases]
    allocator, held = CachingAllocator(), dict[int, _Held]()
    alive = dict.fromkeys(CATEGORIES, 0)
    for step in range(steps):
        peaks, peak, at_peak = dict.fromkeys(PHASES, 0), 0, dict(alive)
        where = ""
        for phase in recorded if step else first:
            peaks[phase] = allocator.allocated_bytes
            for event in phases.get(phase, ()):
                if event.kind == "free":
                    if event.ident in held:
                        gone = held.pop(event.ident)
                        alive[gone.category] -= gone.block.size
                        allocator.free(gone.block)
                elif event.ident not in held:
                    block = allocator.allocate(event.nbytes)
                    category = labels.get(event.ident, event.category)
                    held[event.ident] = _Held(block, category)
                    alive[category] += block.size
                    peaks[phase] = max(peaks[phase], allocator.allocated_bytes)
                    if allocator.allocated_bytes > peak:
                        peak, at_peak, where = allocator.allocated_bytes, dict(alive), phase
    return {
        "peak_allocated_bytes": peak,
        "peak_reserved_bytes": allocator.peak_reserved_bytes,
        "peak_held_bytes": allocator.peak_held_bytes,
        **{f"at_peak_{category}": at_peak[category] for category in CATEGORIES},
        **{f"peak_{phase}": peaks[phase] for phase in PHASES},
        "phase": where,
    }


def _by_phase(events: Iterable[Event]) -> dict[str, list[Event]]:
    found: dict[str, list[Event]] = {}
    phase: list[Event] = []
    for event in events:
        if event.kind == "phase":
            phase = found.setdefault(event.category, [])
        else:
            phase.append(event)
    return found
