"""Readers of published descriptions of models: config.json of Hugging Face, metadata of GGUF.

decoder_from_config  dense decoders
classic_from_config  decoders of 2019 to 2024 with names of their own
layered_from_config  decoders with experts, latent or linear attention
encoder_from_config  encoders
decoder_from_gguf    the header of a .gguf
published_dtypes     the number formats that a config names
Fields               typed access whose failures name the field
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from lazy_loader import attach

if TYPE_CHECKING:
    from predictor.workloads.configs.classic import classic_from_config as classic_from_config
    from predictor.workloads.configs.dense import decoder_from_config as decoder_from_config
    from predictor.workloads.configs.encoder import encoder_from_config as encoder_from_config
    from predictor.workloads.configs.fields import Fields as Fields
    from predictor.workloads.configs.gguf import decoder_from_gguf as decoder_from_gguf
    from predictor.workloads.configs.layered import layered_from_config as layered_from_config
    from predictor.workloads.configs.quantization import published_dtypes as published_dtypes

__getattr__, __dir__, __all__ = attach(
    __name__,
    submod_attrs={
        "dense": ["decoder_from_config"],
        "classic": ["classic_from_config"],
        "layered": ["layered_from_config"],
        "encoder": ["encoder_from_config"],
        "gguf": ["decoder_from_gguf"],
        "quantization": ["published_dtypes"],
        "fields": ["Fields"],
    },
)
