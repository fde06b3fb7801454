"""Memory that training takes of the host: while weights are loaded, and for what lives there instead of on the GPUs.

Bytes of a parameter: DeepSpeed, deepspeed.readthedocs.io/en/latest/memory.html (16 with the optimizer offloaded, 18
with the parameters). Loading: Transformers' "Instantiate a big model" (files of 5 GB, one at a time), its
modeling_utils.py for FSDP (local rank 0 alone reads them), and pytorch/pytorch issue 105840 (a copy for each process).
Left out are what Python and its libraries take of each process, and data.
"""

from __future__ import annotations

from typing import NamedTuple

from predictor.memory.sizes import FP32_BYTES
from predictor.memory.states import (
    file_element_bytes,
    gradient_bytes,
    is_mastered,
    is_sharded,
    kept_share,
    learned_bytes,
    learned_share,
    optimizer_bytes,
    whole_weights_bytes,
)
from predictor.workloads.passes.calls import OpCall
from predictor.workloads.passes.training import Parameters, TrainingSetting

SHARD_BYTES = 5e9  # of a file of weights at most, read and then dropped (save_pretrained: max_shard_size)
# Moments in pages that bitsandbytes lets CUDA move to the host, by their elements of fp32 or in bytes.
PAGED_BYTES = {"paged_adamw": 2 * FP32_BYTES, "paged_adamw_8bit": 2.0}
BUFFERS_NOTE = (
    "memory of the host leaves out buffers: DeepSpeed's own estimate adds half, and PyTorch rounds each pinned block "
    "up to a power of two."
)


class HostBytes(NamedTuple):
    """Bytes of the host of one node, for all its GPUs: at most while weights are loaded, and held in training."""

    host_load_bytes: float
    host_held_bytes: float


def host_bytes(owned: Parameters, served: tuple[OpCall, ...], setting: TrainingSetting, inputs: float) -> HostBytes:
    """Bytes of the host of a full node. owned: parameters of a stage; inputs: bytes of its layers' inputs on each GPU,
    which `checkpointing` "offloaded" keeps there."""
    gpus = min(setting.n_gpus, setting.gpus_per_node)
    held = _states(owned, served, setting) + (inputs if setting.checkpointing == "offloaded" else 0.0)
    return HostBytes(_loading(owned, setting, gpus), gpus * held)


def _loading(owned: Parameters, setting: TrainingSetting, gpus: int) -> float:
    """Of all processes of a node: each reads its own part file by file, one holds the whole for the others, or each
    holds it before anything is on a GPU."""
    whole = (owned.layer + owned.table) * file_element_bytes(setting)
    if setting.load == "sharded":
        own = whole * (kept_share(owned, setting, 3) if is_sharded(setting) else 1.0)
        return gpus * min(own, SHARD_BYTES)
    return (1 if setting.load == "rank0" else gpus) * (whole + min(whole, SHARD_BYTES))


def _states(owned: Parameters, served: tuple[OpCall, ...], setting: TrainingSetting) -> float:
    """Of one GPU: moments, master weights and gradients of what learns, a copy of those weights, all parameters."""
    learned = (owned.learned_layer + owned.learned_table) * learned_share(owned, setting, 1)
    paged = PAGED_BYTES.get(setting.optimizer, 0.0) * learned
    if setting.offload == "none":
        return paged
    mastered, streamed = is_mastered(setting), setting.offload == "parameters"
    gradient = FP32_BYTES if mastered else gradient_bytes(setting)
    copy = 0.0 if mastered or streamed else learned_bytes(setting)  # the step runs where its weights are
    weights = whole_weights_bytes(owned, setting) * kept_share(owned, setting, 3) if streamed else 0.0
    return optimizer_bytes(owned, served, setting) + (gradient + copy) * learned + weights + paged


def host_note(host_held_bytes: float) -> str:
    """What to say of the host's memory; "" where nothing lives there."""
    return BUFFERS_NOTE if host_held_bytes else ""
