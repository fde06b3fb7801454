"""GPUs: what they can do, what they cost, and the least time that an operator can take on them.

Gpu              what one GPU can do, SI units
catalogue        all GPUs by name
get_gpu          one of them by any of its names
resolve_gpu      a name, a MIG slice, a spec file or a spec as text
gpu_from_toml    a GPU of your own
Bound            least seconds of an op on a GPU, and what limits it (`roofline.roofline`)
usd_per_hour     list price of an hour
price_list       all list prices, and those of a file of one's own
within_node      the part of a collective that stays within a node
between_nodes_s  seconds of the part that crosses nodes
architecture     what makes two GPUs siblings
card_class       the class of cards that is held out together
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from lazy_loader import attach

if TYPE_CHECKING:
    from predictor.hardware.gpu import (
        Gpu as Gpu,
        catalogue as catalogue,
        get_gpu as get_gpu,
        gpu_from_toml as gpu_from_toml,
        resolve_gpu as resolve_gpu,
    )
    from predictor.hardware.interconnect import between_nodes_s as between_nodes_s, within_node as within_node
    from predictor.hardware.prices import price_list as price_list, usd_per_hour as usd_per_hour
    from predictor.hardware.roofline import Bound as Bound
    from predictor.hardware.siblings import architecture as architecture, card_class as card_class

__getattr__, __dir__, __all__ = attach(
    __name__,
    submod_attrs={
        "gpu": ["Gpu", "catalogue", "get_gpu", "resolve_gpu", "gpu_from_toml"],
        "roofline": ["Bound"],
        "prices": ["usd_per_hour", "price_list"],
        "interconnect": ["within_node", "between_nodes_s"],
        "siblings": ["architecture", "card_class"],
    },
)
