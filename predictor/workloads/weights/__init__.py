"""Sizes of weights from the headers of their files.

StoredWeights   bytes by number format
stored_weights  of .safetensors, an index, a folder or .gguf
Gguf            the header of a GGUF file
read_gguf       read it
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from lazy_loader import attach

if TYPE_CHECKING:
    from predictor.workloads.weights.files import StoredWeights as StoredWeights, stored_weights as stored_weights
    from predictor.workloads.weights.gguf import Gguf as Gguf, read_gguf as read_gguf

__getattr__, __dir__, __all__ = attach(
    __name__,
    submod_attrs={
        "files": ["StoredWeights", "stored_weights"],
        "gguf": ["Gguf", "read_gguf"],
    },
)
