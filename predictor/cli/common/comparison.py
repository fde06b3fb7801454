"""Answers for several GPUs, of which some may not be able to run what is asked."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple, TypeVar

from typer import Exit

from predictor.cli.common.display import say
from predictor.errors import InvalidRequest, PredictorError

T = TypeVar("T")


class Refusal(NamedTuple):
    """A GPU that has no answer, and why."""

    gpu: str
    error: str

    def row(self, **asked: Any) -> dict[str, Any]:
        """As an object of --json among the answers."""
        return {**asked, "gpu": self.gpu, "error": self.error}


def answers_of(gpus: Sequence[str], ask: Callable[[int], T]) -> list[T | Refusal]:
    """What `ask` says of each GPU by its place, or why it cannot; raises where no GPU has an answer.

    gpus: their names.
    """
    answers: list[T | Refusal] = []
    errors: list[PredictorError] = []
    for place, gpu in enumerate(gpus):
        try:
            answers.append(ask(place))
        except PredictorError as error:
            errors.append(error)
            answers.append(Refusal(gpu, str(error)))
    if errors and len(errors) == len(gpus):
        if len({str(error) for error in errors}) == 1:
            raise errors[0]
        refusals = [answer for answer in answers if isinstance(answer, Refusal)]
        raise InvalidRequest(" ".join(f"{refusal.gpu}: {refusal.error}" for refusal in refusals))
    return answers


def show_refusals(answers: Iterable[Any]) -> None:
    """Print why GPUs have no answer, a line each."""
    for answer in answers:
        if isinstance(answer, Refusal):
            say(f"{answer.gpu}: {' '.join(answer.error.split())}")


def end(answers: Iterable[Any]) -> None:
    """End with status 1 where a GPU has no answer."""
    if any(isinstance(answer, Refusal) for answer in answers):
        raise Exit(1)
