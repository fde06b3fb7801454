"""Communication between the GPUs of one group."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np

from predictor.errors import InvalidOp
from predictor.ops.base import Op, meaning, names_in, text_column
from predictor.ops.dtypes import Number, Text

# Share of the message that one GPU must at least send or receive, as (constant, factor of (n-1)/n).
# A switch that reduces in the network lets an all-reduce send the message once (NVIDIA SHARP; a ring sends 2(n-1)/n).
LEAST_TRAFFIC: Mapping[str, tuple[float, float]] = {
    "all_reduce": (1.0, 0.0),
    "all_gather": (0.0, 1.0),
    "reduce_scatter": (0.0, 1.0),
    "all_to_all": (0.0, 1.0),
    "send_recv": (1.0, 0.0),
}
LINKS = ("gpu", "pcie", "host", "network")


@dataclass(frozen=True, slots=True, kw_only=True)
class Collective(Op):
    """`kind` over n_gpus GPUs. message_bytes: the whole buffer (what an all-gather ends with, a
    reduce-scatter starts with). link: "gpu" for the GPU's own fabric, "pcie" from one GPU to another over PCIe, "host"
    over PCIe through the host's memory, "network" between GPUs that are each alone on their node, with a network card
    each.

    Thakur et al., Optimization of Collective Communication Operations in MPICH, IJHPCA 2005.

    >>> Collective(kind="all_gather", message_bytes=800, n_gpus=8).link_bytes()
    700.0
    """

    family: ClassVar[str] = "collective"
    floor_cycles: ClassVar[float] = 15_000
    one_plateau: ClassVar[bool] = False
    growing: ClassVar[str] = "message_bytes"
    uneven: ClassVar[bool] = True  # libraries change their protocol with the size
    kind: Text
    message_bytes: Number = field(metadata=meaning("bytes", "the whole buffer"))
    n_gpus: Number = field(metadata=meaning("count", "GPUs in the group"))
    link: Text = "gpu"

    def __post_init__(self) -> None:
        Op.__post_init__(self)
        if np.any(np.less(self.n_gpus, 2)):
            raise InvalidOp("n_gpus is below 2; a collective needs at least 2 GPUs.")
        for kind in names_in(self.kind):
            if kind not in LEAST_TRAFFIC:
                raise InvalidOp(f'kind is "{kind}"; a collective is one of {", ".join(LEAST_TRAFFIC)}.')
        for link in names_in(self.link):
            if link not in LINKS:
                raise InvalidOp(f'link is "{link}"; it must be one of {", ".join(LINKS)}.')

    @property
    def compute_dtype(self) -> Text:
        return "fp32"

    def flops(self) -> Number:
        return 0.0 * np.asarray(self.message_bytes)

    def bytes_moved(self) -> Number:
        return 2.0 * self.message_bytes

    def link_bytes(self) -> Number:
        share = (self.n_gpus - 1) / self.n_gpus
        terms = [LEAST_TRAFFIC[kind] for kind in text_column(self.kind, len(self)).tolist()]
        constant, factor = np.array([t[0] for t in terms]), np.array([t[1] for t in terms])
        traffic = (constant + factor * share) * self.message_bytes
        return traffic if len(self) > 1 or np.ndim(self.message_bytes) else float(traffic[0])
