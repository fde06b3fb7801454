"""How many GPUs the name of a GPU counts: "8xH100", "p5.48xlarge"."""

from __future__ import annotations

from typing import TYPE_CHECKING

from predictor.errors import InvalidRequest
from predictor.hardware.gpu import spelling
from predictor.values import show

if TYPE_CHECKING:
    from predictor.workloads.request import Request

LAYOUT = ("n_gpus", "tp", "pp", "dp", "attention_dp", "cp")


def n_gpus_of(request: Request) -> int:
    """The n_gpus of a request: as stated, else, where nothing of the layout is, what the name of its GPU counts.

    Raises InvalidRequest where a counted name ("8xH100") and the layout contradict each other; of a cloud's machine a
    part may be used.
    """
    said = spelling(request.gpu)
    if said is None or said.n_gpus < 1:
        return request.n_gpus
    if not request.stated(LAYOUT):
        return said.n_gpus
    stated = request.n_gpus or max(request.tp, 1) * request.pp * max(request.dp, 1) * request.attention_dp * request.cp
    if stated != said.n_gpus and not said.instance:
        raise InvalidRequest(f"gpu is {show(request.gpu)} and n_gpus {stated}; make them equal, or name the GPU alone.")
    return request.n_gpus
