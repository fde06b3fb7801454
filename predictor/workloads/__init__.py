"""What people run. A new architecture is one file and a few entries in predictor.workloads.models."""

from __future__ import annotations

from predictor.workloads.base import OpCall
from predictor.workloads.config import decoder_from_config
from predictor.workloads.decoder import Decoder
from predictor.workloads.layered import LayeredDecoder
from predictor.workloads.models import Model, get_model, model_from_config, models
from predictor.workloads.workload import ENGINES, KV_DTYPES, Workload

__all__ = [
    "ENGINES",
    "KV_DTYPES",
    "Decoder",
    "LayeredDecoder",
    "Model",
    "OpCall",
    "Workload",
    "decoder_from_config",
    "get_model",
    "model_from_config",
    "models",
]
