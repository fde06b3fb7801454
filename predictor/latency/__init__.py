"""From operators to steps: a static batch, serving under load, a training step.

Report             the answer to a request to serve
Interval           value, low, high
OpLine             one operator of a step
composed           a report from the ops of its phases
op_lines           the ops of steps, predicted
total              their sum with its interval
TrainingReport     the answer to a request to train
TrainingStep       one optimizer step
training_step      predict it
NetworkPrediction  the answer for a torch module
predict_network    predict it
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from lazy_loader import attach

if TYPE_CHECKING:
    from predictor.latency.network import NetworkPrediction as NetworkPrediction, predict_network as predict_network
    from predictor.latency.report import Interval as Interval, OpLine as OpLine, Report as Report
    from predictor.latency.static_batch import composed as composed
    from predictor.latency.steps import op_lines as op_lines, total as total
    from predictor.latency.training import (
        TrainingReport as TrainingReport,
        TrainingStep as TrainingStep,
        training_step as training_step,
    )

__getattr__, __dir__, __all__ = attach(
    __name__,
    submod_attrs={
        "report": ["Report", "Interval", "OpLine"],
        "static_batch": ["composed"],
        "steps": ["op_lines", "total"],
        "training": ["TrainingReport", "TrainingStep", "training_step"],
        "network": ["NetworkPrediction", "predict_network"],
    },
)
