"""What people run. A new architecture is one file and one entry in ARCHITECTURES."""

from __future__ import annotations

from predictor.workloads.base import OpCall
from predictor.workloads.config import decoder_from_config
from predictor.workloads.decoder import Decoder
from predictor.workloads.layered import LayeredDecoder
from predictor.workloads.models import get_model, models
from predictor.workloads.workload import ENGINES, KV_DTYPES, Workload

ARCHITECTURES: tuple[type[Decoder] | type[LayeredDecoder], ...] = (Decoder, LayeredDecoder)

__all__ = [
    "ARCHITECTURES",
    "ENGINES",
    "KV_DTYPES",
    "Decoder",
    "LayeredDecoder",
    "OpCall",
    "Workload",
    "decoder_from_config",
    "get_model",
    "models",
]
