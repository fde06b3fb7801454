"""Which GPU, how many, at what price: many answers put side by side, and the settings that keep a promise.

compare        one question put to many GPUs, ranked
Compared       a GPU's place among them
plan           the cheapest deployments that keep a promise under a load
Plan           one of them
Planned        all of them, and why the others lost
ServiceLevel   what is promised
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from lazy_loader import attach

if TYPE_CHECKING:
    from predictor.planning.answers import Plan as Plan, Planned as Planned
    from predictor.planning.deployment import plan as plan
    from predictor.planning.ranking import Compared as Compared, compare as compare
    from predictor.planning.service import ServiceLevel as ServiceLevel

__getattr__, __dir__, __all__ = attach(
    __name__,
    submod_attrs={
        "ranking": ["compare", "Compared"],
        "deployment": ["plan"],
        "answers": ["Plan", "Planned"],
        "service": ["ServiceLevel"],
    },
)
