"""Processes that share the work of one search, and are ready by the time it needs them.

The process that asks does a part itself. A process that dies is done without: its part is done here.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

from predictor.boosters import load_xgboost
from predictor.estimators.bundle import Bundle, load_bundle

T = TypeVar("T")
R = TypeVar("R")
FEWEST = 4  # that are worth another process


class Helpers:
    """jobs: processes in all, this one included; with 1 all is done here."""

    def __init__(self, jobs: int, bundle: Bundle) -> None:
        self._bundle, self._others = bundle, max(jobs - 1, 0)
        # Not forked: whoever asks may have threads.
        self._pool = ProcessPoolExecutor(self._others, get_context("spawn")) if self._others else None
        for _ in range(self._others):
            self._submit(_ready, [])

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        if self._pool:
            self._pool.shutdown(wait=False, cancel_futures=True)

    def each(
        self,
        function: Callable[..., list[R]],
        many: Sequence[T],
        *rest: Any,
        alike: Callable[[T], str] | None = None,
    ) -> list[R]:
        """function(many, *rest, bundle): what it says of each, in order; of many all processes do a part.

        alike: what those have in common that one process does together.
        """
        n_parts = 1 + self._others if len(many) >= FEWEST else 1
        keys = [alike(one) if alike else str(place) for place, one in enumerate(many)]
        part_of = {key: number % n_parts for number, key in enumerate(dict.fromkeys(keys))}
        parts = [[place for place, key in enumerate(keys) if part_of[key] == part] for part in range(n_parts)]
        mine, *others = [[many[place] for place in part] for part in parts]
        sent = [self._submit(function, part, *rest) for part in others]
        told = [self._here(function, mine, *rest)]
        for part, future in zip(others, sent, strict=True):
            try:
                told.append(future.result() if future else self._here(function, part, *rest))
            except BrokenProcessPool:
                told.append(self._here(function, part, *rest))
        answers = {
            place: one for part, some in zip(parts, told, strict=True) for place, one in zip(part, some, strict=True)
        }
        return [answers[place] for place in range(len(many))]

    def _here(self, function: Callable[..., list[R]], many: Sequence[T], *rest: Any) -> list[R]:
        return function(many, *rest, self._bundle)

    def _submit(self, function: Callable[..., list[R]], many: Sequence[T], *rest: Any) -> Future[list[R]] | None:
        """None where no process takes it."""
        try:
            return self._pool.submit(_there, function, many, rest, self._bundle.path) if self._pool else None
        except BrokenProcessPool:
            return None


def _there(function: Callable[..., list[Any]], many: Sequence[Any], rest: Sequence[Any], bundle: Path) -> list[Any]:
    """The same in another process, which opens the bundle for itself."""
    load_xgboost()
    return function(many, *rest, load_bundle(bundle))


def _ready(many: Sequence[Any], bundle: Bundle) -> list[Any]:
    """Nothing, but that imports and the bundle are there."""
    return list(many)
