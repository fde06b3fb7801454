"""Loads XGBoost quickly, and says what to do where it cannot be loaded."""

from __future__ import annotations

import os
import sys
from typing import Any

from predictor.errors import PredictorError

CURE = "pip uninstall xgboost xgboost-cpu && pip install xgboost-cpu"


def is_light() -> bool:
    """Whether this process has xgboost without its scikit-learn interface."""
    return "xgboost" in sys.modules and "sklearn" not in sys.modules


def load_xgboost() -> None:
    """Import xgboost for a few predictions: one thread, and no scikit-learn interface, which takes a second.

    Only for the command line's own processes: code that trains or wants xgboost.XGBRegressor imports xgboost itself.
    """
    modules: dict[str, Any] = sys.modules
    if "xgboost" in modules:
        return
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # a few hundred calls: threads cost more than they save
    hidden = "sklearn" not in modules
    if hidden:
        modules["sklearn"] = None  # an import of it now raises ImportError, which xgboost takes as "not installed"
    try:
        import xgboost  # noqa: F401
    except Exception as error:  # its own error class cannot be named when its import fails
        reason = str(error).strip().split("\n")[0]
        raise PredictorError(f"xgboost cannot be loaded ({reason}); run `{CURE}`, or `predictor doctor`.") from error
    finally:
        if hidden:
            del modules["sklearn"]
