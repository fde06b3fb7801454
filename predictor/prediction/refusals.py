"""GPUs that have no answer, among others that have one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeVar

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
