"""Which bundle is the champion, and what MLflow is told.

judge       a candidate against the champion
decide      promote or refuse
rollback    back to the champion before
Rules       by which a candidate is judged
compare     two bundles, cell by cell
track       record a training run
log_model   a bundle as a model of MLflow
save_model  the same as a folder
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from lazy_loader import attach

if TYPE_CHECKING:
    from predictor.registry.comparison import Rules as Rules, compare as compare
    from predictor.registry.mlflow_model import log_model as log_model, save_model as save_model
    from predictor.registry.promotion import decide as decide, judge as judge, rollback as rollback
    from predictor.registry.tracking import track as track

__getattr__, __dir__, __all__ = attach(
    __name__,
    submod_attrs={
        "promotion": ["judge", "decide", "rollback"],
        "comparison": ["Rules", "compare"],
        "tracking": ["track"],
        "mlflow_model": ["log_model", "save_model"],
    },
)
