"""A bundle learns on from new rows alone.

WarmStart      a bundle to start from
Learned        what came of it
changes        what the new bundle no longer says as before
joined_ledger  how its held-out errors join the old ones
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from lazy_loader import attach

if TYPE_CHECKING:
    from predictor.learning.continual.forgetting import changes as changes, joined_ledger as joined_ledger
    from predictor.learning.continual.warm_start import Learned as Learned, WarmStart as WarmStart

__getattr__, __dir__, __all__ = attach(
    __name__,
    submod_attrs={
        "warm_start": ["WarmStart", "Learned"],
        "forgetting": ["changes", "joined_ledger"],
    },
)
