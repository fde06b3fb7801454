"""From requests to answers: one, many, frames, jobs over tables.

predict         what a model does on a GPU
answer          the answer to a Request
answer_row      a row with the columns of the answer
answer_columns  of many rows at once
predict_frame   a frame of requests with its answers
answer_ops      a table of operator calls with theirs
Fix             a change that would make a run fit
fixes           those that help
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from lazy_loader import attach

from predictor.moved import with_old_names

if TYPE_CHECKING:
    from predictor.prediction.advice import Fix as Fix, fixes as fixes
    from predictor.prediction.frames import predict_frame as predict_frame
    from predictor.prediction.op_tables import answer_ops as answer_ops
    from predictor.prediction.rows import answer_columns as answer_columns, answer_row as answer_row
    from predictor.prediction.single import answer as answer, predict as predict

_names, __dir__, __all__ = attach(
    __name__,
    submod_attrs={
        "single": ["predict", "answer"],
        "rows": ["answer_row", "answer_columns"],
        "frames": ["predict_frame"],
        "op_tables": ["answer_ops"],
        "advice": ["Fix", "fixes"],
    },
)
__getattr__ = with_old_names(__name__, "predictor.estimators.operators", _names)
