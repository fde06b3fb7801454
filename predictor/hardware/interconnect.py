"""Messages that cross nodes: the part within a node is an operator like others, the rest goes through network cards.

Each GPU has a card of its own; a collective runs within the nodes first, then among GPUs of equal rank, as NCCL's
hierarchical rings and trees do. Left out: one copy of a token for all its experts on a node, and what a second batch
hides (DeepEP).

Held against NCCL 2.29 on H100 with a 400 Gb/s card each (nccl-tests-cluster; messages of 32 MiB to 16 GiB): alone on
their nodes, 10 GPUs reach 0.95 to 0.98 of the card, 0.90 in all-to-all. With 4 and 8 on each of 10 nodes both parts
together are 0.8 to 1.06 times what an all-to-all takes; of the others 0.35 to 1.25 times up to 128 MiB, where rings of
80 steps wait about half a millisecond, and 1.3 to 1.5 times from 1 GiB on, where the parts overlap. Shorter messages
were not measured.
"""

from __future__ import annotations

from dataclasses import replace

from predictor.hardware.gpu import Gpu
from predictor.ops import Collective
from predictor.ops.dtypes import Number

NODE_GPUS = 8  # GPUs that NVLink, Infinity Fabric or one host's PCIe join; 72 in the racks of GB200 and GB300
RACK_GPUS = 72
RACKS = ("GB200", "GB300")
# 400 Gb/s for each GPU, as in DGX and HGX servers from H100 on; PCIe where that is slower. A DGX A100 has half.
NODE_LINK_BYTES_PER_S = 50e9
HOP_S = 5e-6  # of a message through two cards and a switch; recalled, InfiniBand NDR
DOUBT = 0.5  # share by which the time between nodes may differ


def node_gpus(gpu: Gpu) -> int:
    """GPUs that reach each other without a network."""
    return RACK_GPUS if gpu.name.startswith(RACKS) else NODE_GPUS


def node_link_bytes_per_s(gpu: Gpu) -> float:
    """What a GPU can send to other nodes, per direction, where nobody says better."""
    return min(NODE_LINK_BYTES_PER_S, gpu.pcie_bytes_per_s or NODE_LINK_BYTES_PER_S)


def within_node(op: Collective, gpu: Gpu) -> Collective:
    """The part of a collective among the GPUs of one node; all of it where they are few enough."""
    return replace(op, n_gpus=min(float(op.n_gpus), float(node_gpus(gpu))))


def between_nodes_s(op: Collective, gpu: Gpu) -> Number:
    """Seconds that the part between nodes takes after that; 0 where one node holds the group."""
    local = float(node_gpus(gpu))
    nodes = float(op.n_gpus) / local
    if nodes <= 1:
        return 0.0
    share, link = 1 - 1 / nodes, node_link_bytes_per_s(gpu)
    sent = {"all_reduce": 2 * share / local, "all_to_all": share}.get(str(op.kind), share / local)
    return sent * op.message_bytes / link + HOP_S * (nodes - 1)
