"""Which of several choices no other is better than in everything."""

from __future__ import annotations

from collections.abc import Sequence


def pareto_front(points: Sequence[Sequence[float | None]]) -> list[bool]:
    """Of each point whether no other is as low in all and lower in one; where a figure is missing, it is on no front.

    >>> pareto_front([(1.0, 3.0), (2.0, 2.0), (2.0, 3.0), (None, 1.0)])
    [True, True, False, False]
    """
    known = [tuple(point) for point in points if None not in point]

    def beaten(point: Sequence[float | None]) -> bool:
        own = tuple(point)
        return any(other != own and all(a <= b for a, b in zip(other, own, strict=True)) for other in known)  # type: ignore[operator]

    return [None not in point and not beaten(point) for point in points]
