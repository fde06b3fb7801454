"""Memory of a run on each GPU: closed forms, what they miss, and what there is room for.

Memory           bytes of serving, by kind
memory           the memory of a workload on a GPU
weights_bytes    of the weights
kv_cache_bytes   of the cache
TrainingMemory   bytes of a training step, by kind
training_memory  the memory of a training step on a GPU
Need             peak, interval and P(out of memory)
Room             tokens, requests and lengths that fit
room             of serving
TrainingRoom     batches and lengths that fit
training_room    of training
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from lazy_loader import attach

from predictor.moved import with_old_names

if TYPE_CHECKING:
    from predictor.memory.capacity import (
        Room as Room,
        TrainingRoom as TrainingRoom,
        room as room,
        training_room as training_room,
    )
    from predictor.memory.closed_form import Memory as Memory, memory as memory
    from predictor.memory.sizes import kv_cache_bytes as kv_cache_bytes, weights_bytes as weights_bytes
    from predictor.memory.training import TrainingMemory as TrainingMemory, training_memory as training_memory
    from predictor.memory.uncertainty import Need as Need

_names, __dir__, __all__ = attach(
    __name__,
    submod_attrs={
        "closed_form": ["Memory", "memory"],
        "sizes": ["weights_bytes", "kv_cache_bytes"],
        "training": ["TrainingMemory", "training_memory"],
        "uncertainty": ["Need"],
        "capacity": ["Room", "room", "TrainingRoom", "training_room"],
    },
)
__getattr__ = with_old_names(__name__, "predictor.memory.closed_form", _names)
