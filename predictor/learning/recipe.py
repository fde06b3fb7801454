"""Everything that decides what a training run makes, apart from the data."""

from __future__ import annotations

import json
from dataclasses import dataclass, fields
from pathlib import Path

from predictor.errors import InvalidRequest
from predictor.files import read_toml

LARGEST = 1e18  # of a whole number in place of another


@dataclass(frozen=True, slots=True)
class Recipe:
    """The settings of a training run.

    rows_per_cell: rows kept per family x GPU x engine x dtype. rows_per_estimator: rows drawn for one fit, with
    equal weight per generation, then GPU, then engine and dtype; rows_per_fold: where a generation, class or
    GPU is held out. rows_scored: rows of every GPU x engine x dtype that
    held-out errors are measured on. level: coverage asked of the intervals.
    transfer_*: the monotone trees that speak for any GPU. reference_*: the free trees that know each measured GPU.
    """

    id: str = "base-5"
    seed: int = 0
    rows_per_cell: int = 12_000
    rows_per_estimator: int = 250_000
    rows_per_fold: int = 100_000
    rows_scored: int = 1_000
    transfer_rounds: int = 300
    transfer_depth: int = 5
    transfer_rate: float = 0.08
    reference_rounds: int = 300
    reference_depth: int = 10
    reference_rate: float = 0.12
    subsample: float = 0.7
    colsample: float = 0.6
    min_child_weight: float = 10.0
    level: float = 0.8


def read_recipe(path: Path | str) -> Recipe:
    """A recipe from a TOML file; unknown keys and wrong types raise."""
    path = Path(path)
    values = read_toml(path, "give a TOML file of recipe keys", InvalidRequest)
    known = {f.name: f.default for f in fields(Recipe)}
    for key, value in values.items():
        if key not in known:
            raise InvalidRequest(f"recipe {path} has unknown key {key}; known ones: {', '.join(known)}.")
        if isinstance(known[key], float) and type(value) is int and abs(value) < LARGEST:
            values[key] = float(value)
        elif type(value) is not type(known[key]):
            wanted = type(known[key]).__name__
            raise InvalidRequest(f"recipe {path}: {key} is {value!r}; it must be of type {wanted}.")
    return Recipe(**values)


def recipe_text(recipe: Recipe) -> str:
    """A recipe as read_recipe reads it."""
    values = ((field.name, getattr(recipe, field.name)) for field in fields(Recipe))
    return "".join(f"{name} = {json.dumps(value)}\n" for name, value in values)
