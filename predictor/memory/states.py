"""Bytes of model states in training: weights, gradients, master weights and moments, and the shares that GPUs keep."""

from __future__ import annotations

from collections.abc import Mapping

from predictor.memory.sizes import FP32_BYTES
from predictor.ops import Gemm
from predictor.workloads.passes.calls import OpCall
from predictor.workloads.passes.training import Parameters, TrainingSetting

# Of a learned parameter: moments, by optimizer, in elements of fp32 or of the weights' format. Paged ones live where
# there is room, at the latest in the host's memory (bitsandbytes, cudaMallocManaged).
MOMENTS: Mapping[str, float] = {
    "adamw": 2.0,
    "adamw_foreach": 2.0,
    "paged_adamw": 0.0,
    "paged_adamw_8bit": 0.0,
    "lion": 1.0,
    "sgd": 0.0,
    "sgd_momentum": 1.0,
    "adafactor": 0.0,
}
# Bytes of both moments in formats of their own, whatever the weights: 8 bits, fp8 with an fp32 scale in blocks of 256,
# 4 bits in blocks of 128 (bitsandbytes; torchao/optim/subclass_*.py).
NARROW_MOMENTS: Mapping[str, float] = {
    "adamw_8bit": 2.0,
    "adamw_fp8": 2 * (1 + 4 / 256),
    "adamw_4bit": 2 * (0.5 + 4 / 128),
}
GALORE_RANK = 128  # galore_torch; moments of what is projected to so many rows or columns, and the projection
# A quantised weight with its scales: NF4 in blocks of 64 whose scales are quantised again (arXiv:2305.14314), GPTQ in
# groups of 128 with a scale in 16 bits and a zero point in 4, LLM.int8 with one scale a row (bitsandbytes).
QUANTISED_BYTES: Mapping[str, float] = {"nf4": 0.5 + 0.127 / 8, "gptq": 0.5 + 2.5 / 128, "int8": 1.0}
SINGLE_QUANT_BYTES = 0.5 + 4 / 64


def element_bytes(setting: TrainingSetting) -> float:
    """Bytes of a weight that learns, and of its gradient."""
    wide = setting.dtype in ("fp32", "tf32") or setting.precision == "fsdp" or is_autocast(setting)
    return FP32_BYTES if wide else 2.0


def learned_bytes(setting: TrainingSetting) -> float:
    """Bytes of a weight of what learns: adapters may have a format of their own."""
    own = setting.adapter_dtype if setting.method != "full" else ""
    return (FP32_BYTES if own == "fp32" else 2.0) if own else element_bytes(setting)


def file_element_bytes(setting: TrainingSetting) -> float:
    """Bytes of a weight in the files that it is loaded from."""
    return FP32_BYTES if setting.dtype in ("fp32", "tf32") else 2.0


def is_mastered(setting: TrainingSetting) -> bool:
    """Whether there are fp32 master weights beside those in 16 bits."""
    return setting.precision == "mixed" and learned_bytes(setting) < FP32_BYTES


def is_sharded(setting: TrainingSetting) -> bool:
    """Whether GPUs share the weights out."""
    return setting.zero_stage > 2 and setting.shards > 1


def is_autocast(setting: TrainingSetting) -> bool:
    """Whether the stream between layers is fp32 and products are taken in 16 bits; so also where PEFT has widened what
    bitsandbytes left unquantised."""
    widened = setting.method == "qlora" and setting.quantization == "nf4" and setting.kernels == "eager"
    autocast = setting.precision == "amp" or (setting.precision == "mixed" and widened)
    return autocast and setting.dtype in ("bf16", "fp16")


def whole_weights_bytes(owned: Parameters, setting: TrainingSetting) -> float:
    """Weights of a GPU before they are sharded."""
    element, whole = element_bytes(setting), owned.layer + owned.table
    if setting.method == "qlora":
        # PEFT's prepare_model_for_kbit_training widens what is not quantised
        narrow = setting.kernels == "fused" or (setting.precision == "pure" and element < FP32_BYTES)
        weights = owned.layer * quantised_bytes(setting) + owned.table * (element if narrow else FP32_BYTES)
        return weights + owned.learned_layer * learned_bytes(setting)
    # PEFT keeps the frozen tables beside those that learn (modules_to_save)
    beside = owned.learned_layer + owned.learned_table if setting.method == "lora" else 0.0
    return whole * element + beside * learned_bytes(setting)


def quantised_bytes(setting: TrainingSetting) -> float:
    """Of a frozen weight under QLoRA, with its scales."""
    if setting.quantization == "nf4" and not setting.double_quant:
        return SINGLE_QUANT_BYTES
    return QUANTISED_BYTES[setting.quantization]


def kept_share(owned: Parameters, setting: TrainingSetting, stage: int) -> float:
    """Share of its weights that each GPU keeps from that stage of ZeRO on."""
    whole = owned.layer + owned.table
    return owned.kept(setting) / whole if setting.zero_stage >= stage and whole else 1.0


def learned_share(owned: Parameters, setting: TrainingSetting, stage: int) -> float:
    """Share of the elements with a gradient that each GPU keeps, shared out from that stage of ZeRO on."""
    whole = owned.learned_layer + owned.learned_table
    return owned.learned(setting) / whole if setting.zero_stage >= stage and whole else 1.0


def gradient_bytes(setting: TrainingSetting) -> float:
    """Of an element of the gradients that are kept, as computed."""
    return (FP32_BYTES if setting.grad_dtype == "fp32" else 2.0) if setting.grad_dtype else learned_bytes(setting)


def optimizer_bytes(owned: Parameters, served: tuple[OpCall, ...], setting: TrainingSetting) -> float:
    """Moments and master weights of a GPU's share, wherever they are but in pages of the host."""
    master = FP32_BYTES if is_mastered(setting) else 0.0
    state = FP32_BYTES if master else learned_bytes(setting)
    if setting.optimizer == "galore_adamw":
        moments = 2 * state * (owned.learned_layer * _projected_share(served, setting) + owned.learned_table)
    else:
        each = NARROW_MOMENTS.get(setting.optimizer) or MOMENTS[setting.optimizer] * state
        moments = each * (owned.learned_layer + owned.learned_table)
    whole = moments + master * (owned.learned_layer + owned.learned_table)
    return whole * learned_share(owned, setting, 1)


def _projected_share(served: tuple[OpCall, ...], setting: TrainingSetting) -> float:
    """Of the elements of all matrices, those of the projected gradients and half of the projections, which are kept
    once beside two moments (Zhao et al., GaLore, arXiv:2403.03507, table 1)."""
    whole = kept = 0.0
    for call in served:
        if isinstance(call.op, Gemm) and setting.adapters.trains(call):
            n, k = float(call.op.n), float(call.op.k)
            whole += n * k * call.count
            kept += min(GALORE_RANK * (max(n, k) + min(n, k) / 2), n * k) * call.count
    return kept / whole if whole else 1.0
