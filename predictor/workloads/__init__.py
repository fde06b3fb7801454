"""What people run: a request becomes a workload of a model, and that a list of ops.

A new architecture is one file in architectures/ and a few entries in models.py.

Request              the columns of a question: names, defaults, checks
Workload             a model with batch, lengths, number formats and parallelism
ENGINES              names of engines
KV_DTYPES            formats of the KV cache
Model                any of the architectures
get_model            a model by name, hub id, config.json or .gguf
models               all models of the catalogue
model_from_config    a model from a parsed config.json
Decoder              a dense decoder
LayeredDecoder       a decoder whose layers differ, or hold experts
decoder_from_config  a dense decoder from a parsed config.json
Engine               how an engine schedules, and what its host costs
get_engine           an engine by name
OpCall               an op of a forward pass and how often it runs
Layout               how GPUs share a model
TrainingSetting      how a model is trained
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from lazy_loader import attach

if TYPE_CHECKING:
    from predictor.workloads.architectures.decoder import Decoder as Decoder
    from predictor.workloads.architectures.layered import LayeredDecoder as LayeredDecoder
    from predictor.workloads.configs.dense import decoder_from_config as decoder_from_config
    from predictor.workloads.engines import Engine as Engine, get_engine as get_engine
    from predictor.workloads.models import (
        Model as Model,
        get_model as get_model,
        model_from_config as model_from_config,
        models as models,
    )
    from predictor.workloads.passes.calls import Layout as Layout, OpCall as OpCall
    from predictor.workloads.passes.training import TrainingSetting as TrainingSetting
    from predictor.workloads.request import Request as Request
    from predictor.workloads.workload import ENGINES as ENGINES, KV_DTYPES as KV_DTYPES, Workload as Workload

__getattr__, __dir__, __all__ = attach(
    __name__,
    submod_attrs={
        "request": ["Request"],
        "workload": ["Workload", "ENGINES", "KV_DTYPES"],
        "models": ["Model", "get_model", "models", "model_from_config"],
        "architectures.decoder": ["Decoder"],
        "architectures.layered": ["LayeredDecoder"],
        "configs.dense": ["decoder_from_config"],
        "engines": ["Engine", "get_engine"],
        "passes.calls": ["OpCall", "Layout"],
        "passes.training": ["TrainingSetting"],
    },
)
