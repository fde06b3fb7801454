"""What joins GPUs: the link that a message takes within a node, its rate, and the network between nodes.

Within a node a collective is an operator like others, over the GPUs' own link, over PCIe from one GPU to another ("peer
to peer"), or over PCIe through the host's memory. Between nodes each GPU has a network card of its own; a collective
runs within the nodes first, then among GPUs of equal rank, as NCCL's hierarchical rings and trees do. Left out: one
copy of a token for all its experts on a node, and what a second batch hides (DeepEP).

Held against NCCL 2.29 on H100 with a 400 Gb/s card each (nccl-tests-cluster; messages of 32 MiB to 16 GiB): alone on
their nodes, 10 GPUs reach 0.95 to 0.98 of the card, 0.90 in all-to-all. With 4 and 8 on each of 10 nodes both parts
together are 0.8 to 1.06 times what an all-to-all takes; of the others 0.35 to 1.25 times up to 128 MiB, where rings of
80 steps wait about half a millisecond, and 1.3 to 1.5 times from 1 GiB on, where the parts overlap. Shorter messages
were not measured.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from predictor.errors import InvalidRequest
from predictor.hardware.gpu import Gpu
from predictor.ops import Collective
from predictor.ops.base import column, text_column
from predictor.ops.dtypes import Array, Number, Text
from predictor.values import show

# What a user may say of the GPUs of a node → the link of Collective.
LINKS: Mapping[str, str] = {"nvlink": "gpu", "pcie": "pcie", "host": "host"}

# Share of the rate of a link that NCCL's rings reach with 32 MiB and more (bus bandwidth: nccl-tests, PERFORMANCE.md):
# the middle of what was measured, over GPUs, and the range over GPUs, kinds and numbers of GPUs:
# gpu      0.68 (0.37 to 0.85) NVLink of A100 to GB200, Infinity Fabric of MI300X and MI355X (aiconfigurator, XLA,
#          Vidur, PipeWeave, nccl-tests-cluster), of the links that the group has, see MESH
# pcie     0.60 (0.29 to 0.78) L40S in pairs, RTX PRO 6000 in 2 to 8 (aiconfigurator), A100 and H100 PCIe in fours
#          (Vidur), GTX 1080 Ti and TITAN X Pascal (DeepBench)
# host     0.25 (0.04 to 0.40) L40S in 4 and 8, where it falls with their number (aiconfigurator), A40 (Vidur),
#          RTX 6000 Ada (PipeWeave), P100, M40 and TITAN X Maxwell (DeepBench)
# network  0.91 (0.50 to 0.97) H100 with a card each (nccl-tests-cluster)
BUS_SHARE: Mapping[str, float] = {"gpu": 0.68, "pcie": 0.60, "host": 0.25, "network": 0.91}

NODE_GPUS = 8  # GPUs that NVLink, Infinity Fabric or one host's PCIe join; 72 in the racks of GB200 and GB300
RACK_GPUS = 72
RACKS = ("GB200", "GB300")
# Cards whose own link is a bridge between so many; messages of larger groups cross PCIe (beginnings of names; NVIDIA
# NVLink bridge and H200 NVL product briefs, AMD Instinct data sheets).
BRIDGED: Mapping[str, int] = {
    **dict.fromkeys(("A30", "A40", "A100-PCIe", "A100X", "A800-PCIe", "H100-PCIe", "H100-NVL", "H800-PCIe"), 2),
    **dict.fromkeys(("Quadro", "RTX-", "Titan"), 2),
    **dict.fromkeys(("H200-NVL", "MI50", "MI60", "MI100", "MI210", "Radeon-Pro"), 4),
}
# GPUs wired each to each, without a switch: the number of others among which the link is shared out, so that a pair has
# a part of it. MI300X and MI355X: 48 and 65 GB/s between two, 300 and 430 among eight (XLA's tables); AMD CDNA 3 white
# paper; Intel Gaudi 2 and 3 white papers (21 of 24 ports go to the 7 others).
MESH: Mapping[str, int] = {
    **dict.fromkeys(("MI300X", "MI308X", "MI325X", "MI350X", "MI355X", "Gaudi2", "Gaudi3"), 7),
    **dict.fromkeys(("MI100", "MI210", "MI300A"), 3),
}

# 400 Gb/s for each GPU, as in DGX and HGX servers from H100 on; PCIe where that is slower. A DGX A100 has half.
NODE_LINK_BYTES_PER_S = 50e9
# Of a message through two cards and a switch; recalled, InfiniBand NDR. RoCE and TCP judged: a switch of Ethernet, and
# the host's kernel on both ends.
HOP_S = 5e-6
HOPS_S: Mapping[str, float] = {"ib": HOP_S, "roce": 8e-6, "eth": 30e-6}
DOUBT = 0.5  # share by which the time between nodes may differ


class Network(NamedTuple):
    """Between nodes: bytes per second that a GPU sends, and seconds of a hop."""

    bytes_per_s: float
    hop_s: float


# The slowest and the fastest network that a node may have where nobody says which: 100 Gb/s over TCP to 800 over
# InfiniBand XDR.
SLOWEST, FASTEST = Network(12.5e9, HOPS_S["eth"]), Network(100e9, HOPS_S["ib"])


class Links(NamedTuple):
    """What a user says: within a node one of LINKS, and the network; "" and None where it is not stated."""

    within: str = ""
    network: Network | None = None


UNSTATED = Links()


def stated_network(text: str) -> Network | None:
    """What a cell says of the network between nodes: a kind with its Gb/s, or GB/s of a GPU and direction; "" nothing.

    >>> stated_network("roce-200").bytes_per_s
    25000000000.0
    >>> stated_network("25").hop_s == HOP_S
    True
    """
    if not text:
        return None
    kind, _, number = text.rpartition("-")
    sound = re.fullmatch(r"\d+(\.\d+)?", number) and float(number) > 0
    if not sound or text.startswith("-") or kind not in ("", *HOPS_S):
        kinds = ", ".join(f"{name}-400" for name in HOPS_S)
        raise InvalidRequest(f"node_link is {show(text)}; it must be GB/s of a GPU and direction, or one like {kinds}.")
    return Network(float(number) * (1e9 / 8 if kind else 1e9), HOPS_S[kind or "ib"])


def check_link(within: str, gpu: Gpu) -> None:
    """Raises InvalidRequest where a GPU has no such link."""
    if within == "nvlink" and not has_own_link(gpu):
        raise InvalidRequest(f"link is nvlink; {gpu.name} has no link of its own. Use pcie or host.")
    if within in ("pcie", "host") and not gpu.pcie_bytes_per_s:
        raise InvalidRequest(f"link is {within}; the PCIe rate of {gpu.name} is not known. Leave link out.")


def link_note(within: str, gpu: Gpu) -> str:
    """What to say of a link that is stated; "" where there is nothing."""
    if within == "pcie" and not gpu.peer_to_peer:
        return (
            f"{gpu.name} is not known to copy over PCIe from one to another with its stock driver; host may be right."
        )
    return ""


def either_note(gpu: Gpu) -> str:
    """What to say where messages go over PCIe and nobody stated which way."""
    return (
        f"messages between these {gpu.name} go over PCIe, from one to another or through the host's memory; intervals "
        "cover both. Set link to pcie or host."
    )


def has_own_link(gpu: Gpu) -> bool:
    """Whether a link other than PCIe joins such GPUs."""
    return gpu.link_bytes_per_s > gpu.pcie_bytes_per_s


def stands_alone(gpu: Gpu) -> bool:
    """Whether nothing joins it to another: it is part of a computer, and no spec gives it a link (an Apple M4, a
    Jetson)."""
    return not gpu.link_bytes_per_s and gpu.segment in ("integrated", "embedded")


def joined_gpus(gpu: Gpu) -> int:
    """GPUs that their own link joins; 1 where they have none."""
    if not has_own_link(gpu):
        return 1
    return next((count for name, count in BRIDGED.items() if gpu.name.startswith(name)), node_gpus(gpu))


def paths(op: Collective, gpu: Gpu, links: Links = UNSTATED) -> tuple[str, ...]:
    """The links of Collective that a call may take: its own where it names one, else the one that is stated, else that
    of the GPU; both ways over PCIe where the GPU has none or a group is larger than it joins.

    op: of one n_gpus and link.
    """
    if op.link != "gpu":
        return (str(op.link),)
    if links.within:
        return (LINKS[links.within],)
    if not gpu.pcie_bytes_per_s or float(op.n_gpus) <= joined_gpus(gpu):
        return ("gpu",)
    return ("pcie", "host")


def is_open(op: Collective, gpu: Gpu) -> NDArray[np.bool_]:
    """Whether each call, (n_calls,), may go either way over PCIe, as `paths` says of one where nothing is stated."""
    own = np.asarray(text_column(op.link, len(op)) == "gpu", dtype=bool)
    within = joined_gpus(gpu) < node_gpus(gpu) and gpu.pcie_bytes_per_s > 0
    return own & (column(op.n_gpus, len(op)) > joined_gpus(gpu)) & within


def up_to(path: str, gpu: Gpu) -> tuple[str, ...]:
    """The links within a node that are no slower than `path`, slowest last."""
    order = ("gpu", "pcie", "host") if has_own_link(gpu) else ("pcie", "host")
    return order[: order.index(path) + 1] if path in order else (path,)


def link_rate(link: Text, n_gpus: Number, gpu: Gpu) -> Array:
    """Bytes per second and direction that a GPU has for a group over a link, (n_calls,)."""
    peers = next((count for name, count in MESH.items() if gpu.name.startswith(name)), 1)
    own = gpu.link_bytes_per_s * np.minimum((np.asarray(n_gpus, dtype=np.float64) - 1) / peers, 1.0)
    rates = {"pcie": gpu.pcie_bytes_per_s, "host": gpu.pcie_bytes_per_s, "network": node_link_bytes_per_s(gpu)}
    names = np.asarray(link, dtype=object)
    rate = np.select([np.asarray(names == name, dtype=bool) for name in rates], [*rates.values()], own)
    return np.asarray(rate, dtype=np.float64)


def node_gpus(gpu: Gpu) -> int:
    """GPUs that reach each other without a network."""
    return RACK_GPUS if gpu.name.startswith(RACKS) else NODE_GPUS


def node_link_bytes_per_s(gpu: Gpu) -> float:
    """What a GPU can send to other nodes, per direction, where nobody says better."""
    return min(NODE_LINK_BYTES_PER_S, gpu.pcie_bytes_per_s or NODE_LINK_BYTES_PER_S)


def within_node(op: Collective, gpu: Gpu) -> Collective:
    """The part of a collective among the GPUs of one node; all of it where they are few enough."""
    return replace(op, n_gpus=min(float(op.n_gpus), float(node_gpus(gpu))))


def between_nodes_s(op: Collective, gpu: Gpu, network: Network | None = None) -> Number:
    """Seconds that the part between nodes takes after that; 0 where one node holds the group."""
    local = float(node_gpus(gpu))
    nodes = float(op.n_gpus) / local
    if nodes <= 1:
        return 0.0
    share, (link, hop_s) = 1 - 1 / nodes, network or Network(node_link_bytes_per_s(gpu), HOP_S)
    sent = {"all_reduce": 2 * share / local, "all_to_all": share}.get(str(op.kind), share / local)
    return sent * op.message_bytes / link + hop_s * (nodes - 1)


def between_nodes_ends(op: Collective, gpu: Gpu, network: Network | None = None) -> tuple[Number, Number]:
    """Least and most seconds of that; of a network that is not stated, from the fastest to the slowest one."""
    fast, slow = (network, network) if network else (FASTEST, SLOWEST)
    return between_nodes_s(op, gpu, fast) / (1 + DOUBT), between_nodes_s(op, gpu, slow) * (1 + DOUBT)
