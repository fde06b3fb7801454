"""An engine under load: step times, its scheduler, and pools of workers.

StepTimes      step times by tokens and lengths
Load           what clients send
simulate       the engine as an event simulation
serve          TTFT, TPOT and throughput under load
Serving        what it says
PrefillWorker  one worker of a prefill pool
DecodeWorker   one of a decode pool
Goal           what a pair of pools is for
match          how many workers of each
Plan           a disaggregated server
plan           the best for a goal
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from lazy_loader import attach

if TYPE_CHECKING:
    from predictor.latency.serving.clients import Load as Load
    from predictor.latency.serving.disaggregated import Plan as Plan, plan as plan
    from predictor.latency.serving.load import Serving as Serving, serve as serve
    from predictor.latency.serving.rate_matching import Goal as Goal, match as match
    from predictor.latency.serving.scheduler import simulate as simulate
    from predictor.latency.serving.step_table import StepTimes as StepTimes
    from predictor.latency.serving.workers import DecodeWorker as DecodeWorker, PrefillWorker as PrefillWorker

__getattr__, __dir__, __all__ = attach(
    __name__,
    submod_attrs={
        "step_table": ["StepTimes"],
        "clients": ["Load"],
        "scheduler": ["simulate"],
        "load": ["serve", "Serving"],
        "workers": ["PrefillWorker", "DecodeWorker"],
        "rate_matching": ["Goal", "match"],
        "disaggregated": ["Plan", "plan"],
    },
)
