"""Columns of a request that no plan, or no quality, is asked by, and the lists that stand in their place."""

from __future__ import annotations

from predictor.errors import InvalidRequest
from predictor.workloads.request import OF_TRAINING

MOST_DIGITS = 30  # of a whole number in a list: Python reads none of thousands

# It decides them, or its load has none.
DECIDED = (
    *("dtype", "engine", "tp", "n_gpus", "dp", "phase", "scheduling", "batch", "images", "image_size", "usd_per_hour"),
    *OF_TRAINING,
)
# Of scores: result files or the GPUs say them, or serving has none.
SCORED = ("dtype", "weights", "n_gpus", "phase", "image_size", *OF_TRAINING)
# What to state of a plan in Python instead.
INSTEAD = {
    "gpu": "Name those to try in gpus.",
    "dtype": "Name those to try in dtypes.",
    "engine": "Name those to try in engines.",
    "tp": "Name those to try in tps.",
    "dp": "Replicas are found; limit them by max_gpus.",
    "n_gpus": "Limit them by max_gpus.",
    "images": "Add their tokens to input_len.",
}


def listed(text: str) -> tuple[str, ...]:
    """The parts of a list with commas.

    >>> listed("bf16, fp8")
    ('bf16', 'fp8')
    """
    return tuple(part.strip() for part in text.split(",") if part.strip())


def listed_tps(text: str) -> tuple[int, ...]:
    """Those of a list of tp; raises InvalidRequest for what is no whole number."""
    parts = listed(text)
    if wrong := [part for part in parts if not part.isdecimal() or len(part) > MOST_DIGITS]:
        raise InvalidRequest(f'tp is "{wrong[0][:30]}"; it must be whole numbers such as 1,2,4.')
    return tuple(int(part) for part in parts)
