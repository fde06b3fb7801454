"""Predicts how fast a model runs, and how much memory it takes, on GPUs you do not own.

>>> from predictor import predict
>>> report = predict("Llama-3.1-8B", "A30", batch=8)
>>> report.basis
'unseen-gpu'
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from predictor.answering import answer, predict
    from predictor.bundle import Bundle, load_bundle
    from predictor.errors import PredictorError
    from predictor.features import Setting
    from predictor.frames import predict_frame
    from predictor.gpu import Gpu, catalogue, get_gpu
    from predictor.ops import Attention, Collective, Conv, Gemm, Mla, Moe, Pointwise
    from predictor.prediction import predict_op
    from predictor.regressor import RooflineRegressor
    from predictor.report import Interval, Report
    from predictor.request import Request
    from predictor.tracing import Network, NetworkPrediction, from_torch, predict_network
    from predictor.training_report import TrainingReport
    from predictor.workloads.models import get_model, models

__version__ = "0.1.0"

# Where each public name lives; it is imported when first asked for, so that `import predictor` stays light.
_HOME = {
    "answering": ("answer", "predict"),
    "bundle": ("Bundle", "load_bundle"),
    "errors": ("PredictorError",),
    "features": ("Setting",),
    "frames": ("predict_frame",),
    "gpu": ("Gpu", "catalogue", "get_gpu"),
    "ops": ("Attention", "Collective", "Conv", "Gemm", "Mla", "Moe", "Pointwise"),
    "prediction": ("predict_op",),
    "regressor": ("RooflineRegressor",),
    "report": ("Interval", "Report"),
    "request": ("Request",),
    "tracing": ("Network", "NetworkPrediction", "from_torch", "predict_network"),
    "training_report": ("TrainingReport",),
    "workloads.models": ("get_model", "models"),
}

__all__ = [
    "Attention",
    "Bundle",
    "Collective",
    "Conv",
    "Gemm",
    "Gpu",
    "Interval",
    "Mla",
    "Moe",
    "Network",
    "NetworkPrediction",
    "Pointwise",
    "PredictorError",
    "Report",
    "Request",
    "RooflineRegressor",
    "Setting",
    "TrainingReport",
    "answer",
    "catalogue",
    "from_torch",
    "get_gpu",
    "get_model",
    "load_bundle",
    "models",
    "predict",
    "predict_frame",
    "predict_network",
    "predict_op",
]


def __getattr__(name: str) -> Any:
    """Import a public name from its module on first use."""
    for module, names in _HOME.items():
        if name in names:
            return getattr(import_module(f"predictor.{module}"), name)
    raise AttributeError(f"module 'predictor' has no attribute {name!r}")
