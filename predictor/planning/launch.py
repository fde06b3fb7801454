"""How a plan is started: the engine's command."""

from __future__ import annotations

import shlex
from typing import NamedTuple

from predictor.hardware.gpu import Gpu
from predictor.workloads.request import Request
from predictor.workloads.workload import Workload


class Launch(NamedTuple):
    """What starts one replica. command: one line for a shell. notes: what to say of it."""

    command: str
    notes: tuple[str, ...] = ()


def launched(request: Request, workload: Workload, gpu: Gpu) -> Launch:
    """The command that starts one replica of a plan."""
    words = ["vllm", "serve", request.model, "--tensor-parallel-size", str(workload.tp)]
    return Launch(shlex.join(words))
