"""How a plan is started, on one machine, in containers and on a cluster, and how its prediction is checked there.

launched     the engine's command of one replica
Launch       it, and what its containers need
written      a folder for each plan: commands, manifests, the benchmark that checks it
verified     a benchmark's result beside what the plan said
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from lazy_loader import attach

if TYPE_CHECKING:
    from predictor.planning.launch.command import Launch as Launch, launched as launched
    from predictor.planning.launch.folder import written as written
    from predictor.planning.launch.verify import verified as verified

__getattr__, __dir__, __all__ = attach(
    __name__,
    submod_attrs={"command": ["launched", "Launch"], "folder": ["written"], "verify": ["verified"]},
)
