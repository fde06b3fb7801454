"""An estimator learns on from new rows: both sets of trees grow from where they are.

Every new tree is fitted to the new rows and to rehearsed calls, of which it is told what the old trees said, so that
what was known stays. Floors of known groups stay too, since the old trees correct them; new groups get their own.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from predictor.errors import InvalidBundle
from predictor.estimators.envelope import Knots
from predictor.estimators.estimator import Estimator
from predictor.estimators.linear import fit_floors, fit_line
from predictor.estimators.samples import TrainingSet
from predictor.learning.diagnostics import seen_by_trees
from predictor.learning.fit import boost, reference_settings, transfer_settings
from predictor.learning.recipe import Recipe
from predictor.learning.sampling import balanced_rows

if TYPE_CHECKING:
    import xgboost

SHARE = {"transfer": 1 / 3, "reference": 2 / 3}  # of the rounds of a recipe
FEWEST_REFERENCE_ROWS = 20  # rows of a group of calls that make a GPU a reference for it


def learn_on(known: Estimator, rows: TrainingSet, rehearsed: TrainingSet | None, recipe: Recipe) -> Estimator:
    """`known` after more rounds on new rows and rehearsed calls, whose latency is not looked at.

    GPUs that it did not know become references for the groups of calls that have enough rows.
    """
    if rows.table.names != known.names:
        raise InvalidBundle(
            f"the estimator of {known.name} was made with other features; train from all tables instead."
        )
    rows = rows.take(balanced_rows(rows.who, recipe.rows_per_estimator, recipe.seed))
    references = _references(known, rows)
    started = replace(
        known,
        reference=_with_columns(known.reference, len(references) - len(known.references)),
        floors={**fit_floors(rows.table, rows.latency_s, rows.one_plateau), **known.floors},
        line={**fit_line(rows.who["dtype"].to_numpy(), rows.bound_s, rows.latency_s), **known.line},
        references=references,
        knots=Knots(),
    )
    new, target = seen_by_trees(started, rows)
    old = seen_by_trees(started, rehearsed)[0] if rehearsed else {}
    settings = {"transfer": transfer_settings(rows.table, recipe), "reference": reference_settings(recipe)}

    def grown(trees: str) -> xgboost.Booster:
        booster, values, targets = getattr(started, trees), new[trees], target
        if trees in old:
            rehearsed_targets = booster.inplace_predict(old[trees], validate_features=False)
            values, targets = np.concatenate([values, old[trees]]), np.concatenate([targets, rehearsed_targets])
        rounds = max(round(SHARE[trees] * settings[trees]["rounds"]), 1)
        return boost(values, targets, recipe, **{**settings[trees], "rounds": rounds, "started": booster})

    return replace(started, transfer=grown("transfer"), reference=grown("reference"))


def _references(known: Estimator, rows: TrainingSet) -> Mapping[str, frozenset[str]]:
    """GPUs known before in their order, which is that of the columns of the reference trees, then new ones."""
    counts = Counter(zip(rows.gpus.tolist(), rows.table.group.astype(str).tolist(), strict=True))
    measured: dict[str, set[str]] = {name: set(groups) for name, groups in known.references.items()}
    for gpu, group in sorted(pair for pair, count in counts.items() if count >= FEWEST_REFERENCE_ROWS):
        measured.setdefault(gpu, set()).add(group)
    return {name: frozenset(groups) for name, groups in measured.items()}


def _with_columns(booster: xgboost.Booster, more: int) -> xgboost.Booster:
    """The same trees with more columns at the end, for which they do not ask: XGBoost has no call for that, but its
    JSON holds the number of columns."""
    if not more:
        return booster
    import xgboost

    model: Any = json.loads(bytes(booster.save_raw("json")))
    columns = str(booster.num_features() + more)
    model["learner"]["learner_model_param"]["num_feature"] = columns
    for tree in model["learner"]["gradient_booster"]["model"]["trees"]:
        tree["tree_param"]["num_feature"] = columns
    made = xgboost.Booster()
    made.load_model(bytearray(json.dumps(model).encode()))
    return made
