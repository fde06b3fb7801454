"""From a network to what a GPU runs: a forward pass, its backward pass, and a training step.

OpCall            an op and how often it runs
Layout            how GPUs share a model
Step              one forward pass of one GPU
TrainingSetting   how a model is trained
training_calls    the ops and messages of an optimizer step
training_forward  the forward pass as training runs it
transformers_ops  ops as plain PyTorch launches them
saved_bytes       what autograd keeps of an op
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from lazy_loader import attach

if TYPE_CHECKING:
    from predictor.workloads.passes.backward import training_forward as training_forward
    from predictor.workloads.passes.calls import Layout as Layout, OpCall as OpCall, Step as Step
    from predictor.workloads.passes.eager import transformers_ops as transformers_ops
    from predictor.workloads.passes.saved import saved_bytes as saved_bytes
    from predictor.workloads.passes.training import TrainingSetting as TrainingSetting, training_calls as training_calls

__getattr__, __dir__, __all__ = attach(
    __name__,
    submod_attrs={
        "calls": ["OpCall", "Layout", "Step"],
        "training": ["TrainingSetting", "training_calls"],
        "backward": ["training_forward"],
        "eager": ["transformers_ops"],
        "saved": ["saved_bytes"],
    },
)
