"""Predicts how fast a model runs, and how much memory it takes, on GPUs you do not own.

>>> from predictor import predict
>>> report = predict("Llama-3.1-8B", "A30", batch=8)
>>> report.basis
'unseen-gpu'
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from lazy_loader import attach

from predictor.moved import OldNames

if TYPE_CHECKING:
    from predictor.errors import PredictorError as PredictorError
    from predictor.estimators.bundle import Bundle as Bundle, load_bundle as load_bundle
    from predictor.estimators.features import Setting as Setting
    from predictor.estimators.operators import OpPrediction as OpPrediction, predict_op as predict_op
    from predictor.hardware.gpu import Gpu as Gpu, catalogue as catalogue, get_gpu as get_gpu
    from predictor.latency.network import NetworkPrediction as NetworkPrediction, predict_network as predict_network
    from predictor.latency.report import Interval as Interval, Report as Report
    from predictor.latency.training import TrainingReport as TrainingReport
    from predictor.learning.regressor import RooflineRegressor as RooflineRegressor, samples as samples
    from predictor.ops import (
        Attention as Attention,
        Collective as Collective,
        Conv as Conv,
        Gemm as Gemm,
        Mla as Mla,
        Moe as Moe,
        Pointwise as Pointwise,
    )
    from predictor.planning.answers import Plan as Plan, Planned as Planned
    from predictor.planning.deployment import plan as plan
    from predictor.planning.local import Local as Local, local as local
    from predictor.planning.ranking import Compared as Compared, compare as compare
    from predictor.planning.upgrade import Upgrade as Upgrade, upgrade as upgrade
    from predictor.prediction.frames import predict_frame as predict_frame
    from predictor.prediction.single import answer as answer, predict as predict, predict_training as predict_training
    from predictor.workloads.models import get_model as get_model, models as models
    from predictor.workloads.request import Request as Request
    from predictor.workloads.torch.network import Network as Network, from_torch as from_torch

__version__ = "0.2.0"

# Each public name and where it lives; it is imported when first asked for, so that `import predictor` stays light.
__getattr__, __dir__, __all__ = attach(
    __name__,
    submod_attrs={
        "errors": ["PredictorError"],
        "estimators.bundle": ["Bundle", "load_bundle"],
        "estimators.features": ["Setting"],
        "estimators.operators": ["OpPrediction", "predict_op"],
        "hardware.gpu": ["Gpu", "catalogue", "get_gpu"],
        "latency.network": ["NetworkPrediction", "predict_network"],
        "latency.report": ["Interval", "Report"],
        "latency.training": ["TrainingReport"],
        "learning.regressor": ["RooflineRegressor", "samples"],
        "ops": ["Attention", "Collective", "Conv", "Gemm", "Mla", "Moe", "Pointwise"],
        "planning.answers": ["Plan", "Planned"],
        "planning.deployment": ["plan"],
        "planning.local": ["Local", "local"],
        "planning.ranking": ["Compared", "compare"],
        "planning.upgrade": ["Upgrade", "upgrade"],
        "prediction.frames": ["predict_frame"],
        "prediction.single": ["answer", "predict", "predict_training"],
        "workloads.models": ["get_model", "models"],
        "workloads.request": ["Request"],
        "workloads.torch.network": ["Network", "from_torch"],
    },
)
sys.meta_path.append(OldNames())
