"""How a command tells of GPUs that have no answer."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from typer import Exit

from predictor.cli.common.display import say
from predictor.prediction.refusals import Refusal


def show_refusals(answers: Iterable[Any]) -> None:
    """Print why GPUs have no answer, a line each."""
    for answer in answers:
        if isinstance(answer, Refusal):
            say(f"{answer.gpu}: {' '.join(answer.error.split())}")


def end(answers: Iterable[Any]) -> None:
    """End with status 1 where a GPU has no answer."""
    if any(isinstance(answer, Refusal) for answer in answers):
        raise Exit(1)
