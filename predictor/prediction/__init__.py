"""From requests to answers: one, many, frames, jobs over tables.

predict           what serving a model on a GPU takes
predict_training  what training it there takes
answer            the answer to a Request
resolve           a Request with its model and GPU looked up
Resolved          that
answer_row        a row with the columns of the answer
answer_columns    of many rows at once
predict_frame     a frame of requests with its answers
answer_ops        a table of operator calls with theirs
answer_pools      a table of disaggregated servers with theirs
Fix               a change that would make a run fit
fixes             those that help
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from lazy_loader import attach

from predictor.moved import with_old_names

if TYPE_CHECKING:
    from predictor.prediction.advice import Fix as Fix, fixes as fixes
    from predictor.prediction.frames import predict_frame as predict_frame
    from predictor.prediction.op_tables import answer_ops as answer_ops
    from predictor.prediction.pool_tables import answer_pools as answer_pools
    from predictor.prediction.rows import answer_columns as answer_columns, answer_row as answer_row
    from predictor.prediction.single import (
        Resolved as Resolved,
        answer as answer,
        predict as predict,
        predict_training as predict_training,
        resolve as resolve,
    )

_names, __dir__, __all__ = attach(
    __name__,
    submod_attrs={
        "single": ["predict", "predict_training", "answer", "resolve", "Resolved"],
        "rows": ["answer_row", "answer_columns"],
        "frames": ["predict_frame"],
        "op_tables": ["answer_ops"],
        "pool_tables": ["answer_pools"],
        "advice": ["Fix", "fixes"],
    },
)
__getattr__ = with_old_names(__name__, "predictor.estimators.operators", _names)
