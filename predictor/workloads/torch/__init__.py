"""Any torch.nn.Module as a list of ops.

Network     the ops of one forward pass
from_torch  trace a module: no GPU, no weights
ops_of      the ops of one call of ATen
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from lazy_loader import attach

if TYPE_CHECKING:
    from predictor.workloads.torch.network import Network as Network, from_torch as from_torch
    from predictor.workloads.torch.operators import ops_of as ops_of

__getattr__, __dir__, __all__ = attach(
    __name__,
    submod_attrs={
        "network": ["Network", "from_torch"],
        "operators": ["ops_of"],
    },
)
