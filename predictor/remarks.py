"""What to say of a prediction for a GPU or for operators that nobody measured."""

from __future__ import annotations

from collections.abc import Sequence

from predictor.bundle import Bundle
from predictor.gpu import Gpu
from predictor.guard import nearest
from predictor.prediction import UNSEEN
from predictor.report import OpLine
from predictor.sums import basis_of


def doubts_of(lines: Sequence[OpLine], gpu: Gpu, bundle: Bundle) -> tuple[str, list[str]]:
    """The nearest measured GPU, and what to say of a GPU or of ops that nobody measured."""
    near = nearest(gpu, tuple(bundle.manifest["gpus"]))
    unseen = [_unseen(gpu.name, near)] if basis_of([line.basis for line in lines]) == UNSEEN else []
    return near, [*unseen, *_extrapolations(lines)]


def _unseen(gpu: str, near: str) -> str:
    if near == gpu:
        return f"{gpu} was measured for some of these operators only."
    return f"{gpu} was not measured; of the measured GPUs {near} is the nearest."


def _extrapolations(lines: Sequence[OpLine]) -> list[str]:
    """One sentence for all ops that lie outside what was measured."""
    found: dict[tuple[str, ...], list[str]] = {}
    for line in lines:
        if line.outside and line.name not in (names := found.setdefault(line.outside, [])):
            names.append(line.name)
    if not found:
        return []
    listed = "; ".join(f"{', '.join(beyond)} of {_first(names)}" for beyond, names in found.items())
    return [f"outside what was measured, so with wider intervals: {listed}."]


def _first(names: Sequence[str], most: int = 3) -> str:
    """The first names, and how many more there are."""
    more = [f"{len(names) - most} more"] if len(names) > most else []
    return ", ".join([*names[:most], *more])
