"""How much memory a training step takes on each GPU: weights, gradients, optimizer state, saved activations, logits.

Bytes per parameter: Rajbhandari et al., ZeRO, arXiv:1910.02054, 3.1. Activations: what autograd keeps of each op of the
forward pass, as in Korthikanti et al., Reducing Activation Recomputation, arXiv:2205.05198, 4, without dropout and with
attention that keeps no scores. The peak is where the forward pass ends, all gradients included: the cautious end, as
they may be freed or not yet there.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields

from predictor.gpu import Gpu
from predictor.memory import ALL_REDUCE_BYTES, CONTEXT_BYTES, NCCL_BYTES
from predictor.ops import Attention, Conv, Gemm, Mla, Moe, Pointwise
from predictor.ops.dtypes import out_bytes
from predictor.workloads.backward import OUTSIDE_LAYERS, training_forward
from predictor.workloads.base import OpCall
from predictor.workloads.training import Parameters, Trainable, TrainingSetting, parameters, training_step_ops

# Of a learned parameter: moments, by optimizer, where they are kept in fp32 or in the format of the weights.
MOMENTS: Mapping[str, float] = {"adamw": 2.0, "adamw_8bit": 0.5, "sgd": 0.0, "adafactor": 0.0}
MASTER_BYTES = 4.0
# A 4-bit weight with its scales: NF4 in blocks of 64 whose scales are quantised again (arXiv:2305.14314), GPTQ in
# groups of 128 with a scale in 16 bits and a zero point in 4.
FOUR_BIT_BYTES: Mapping[str, float] = {"nf4": 0.5 + 0.127 / 8, "gptq": 0.5 + 2.5 / 128}
# Of a logit: 16 bits as computed, 32 as the loss widens them, and the gradient; eager PyTorch copies them once more.
LOGIT_BYTES: Mapping[str, float] = {"fused": 8.0, "library": 12.0, "eager": 12.0}
# Tensors that an op keeps for its backward pass, over its elements. Norms keep their input; eager ones two copies of it
# in fp32 beside it (modeling_llama.py). A gate keeps both factors, eager the activated one too.
KEPT: Mapping[str, Mapping[str, float]] = {
    "fused": {"rms_norm": 1, "add_rms_norm": 1, "layer_norm": 1, "silu_mul": 2, "gelu": 1, "relu": 1, "silu": 1},
    "eager": {"rms_norm": 5, "add_rms_norm": 5, "layer_norm": 1, "silu_mul": 3, "gelu": 1, "relu": 1, "silu": 1},
}


@dataclass(frozen=True, slots=True)
class TrainingMemory:
    """Bytes on each GPU at the peak of a step.

    activations_bytes: kept for the backward pass, and those of the layer that is computed again. `fits` where
    total_bytes is no more than capacity_bytes.
    """

    weights_bytes: float
    gradients_bytes: float
    optimizer_bytes: float
    activations_bytes: float
    logits_bytes: float
    runtime_bytes: float
    total_bytes: float
    capacity_bytes: float
    fits: bool


def training_memory(model: Trainable, gpu: Gpu, setting: TrainingSetting) -> TrainingMemory:
    """Memory of an optimizer step of `model` on one of setting.n_gpus × `gpu`."""
    served = training_step_ops(model, setting)
    forward = training_forward(served, setting.micro_tokens, setting.adapters, setting.attention)
    owned = parameters(model, forward, setting.adapters)
    sharded = Parameters(*(part / setting.pp if "layer" in name else part for name, part in owned._asdict().items()))
    kept, layer = _activations(model, served, setting)
    logits = _logits(served, setting)
    states = {
        "weights_bytes": _weights(sharded, setting) / (setting.dp if setting.zero_stage > 2 else 1),
        "gradients_bytes": _gradients(sharded, setting) / (setting.dp if setting.zero_stage > 1 else 1),
        "optimizer_bytes": _optimizer(sharded, setting) / (setting.dp if setting.zero_stage else 1),
    }
    states["activations_bytes"] = kept + max(layer - logits, 0.0)
    states["logits_bytes"] = logits
    shared = NCCL_BYTES + ALL_REDUCE_BYTES if setting.n_gpus > 1 else 0.0
    states["runtime_bytes"] = CONTEXT_BYTES + shared + _gathered(sharded, model, setting)
    total = sum(states.values())
    capacity = float(gpu.mem_bytes)
    return TrainingMemory(**states, total_bytes=total, capacity_bytes=capacity, fits=total <= capacity)


def kinds() -> tuple[str, ...]:
    """Names of the fields that add up to total_bytes."""
    return tuple(field.name for field in fields(TrainingMemory))[:6]


def _element(setting: TrainingSetting) -> float:
    """Bytes of a weight that learns, and of its gradient."""
    return 4.0 if setting.dtype in ("fp32", "tf32") else 2.0


def _weights(owned: Parameters, setting: TrainingSetting) -> float:
    element = _element(setting)
    if setting.method != "qlora":
        adapters = owned.learned_layer if setting.method == "lora" else 0.0
        return (owned.layer + owned.table + adapters) * element
    return owned.layer * FOUR_BIT_BYTES[setting.quantization] + (owned.table + owned.learned_layer) * element


def _gradients(owned: Parameters, setting: TrainingSetting) -> float:
    """As computed; ZeRO 3 and FSDP also keep a shard of their sum in the format of the master weights."""
    summed = MASTER_BYTES if setting.zero_stage > 2 and _mastered(setting) else 0.0
    return (owned.learned_layer + owned.learned_table) * (_element(setting) + summed)


def _mastered(setting: TrainingSetting) -> bool:
    return setting.master_weights and _element(setting) < MASTER_BYTES


def _optimizer(owned: Parameters, setting: TrainingSetting) -> float:
    element = _element(setting)
    master = MASTER_BYTES if _mastered(setting) else 0.0
    state = MASTER_BYTES if master else element
    moments = MOMENTS[setting.optimizer] * (MASTER_BYTES if setting.optimizer == "adamw_8bit" else state)
    return (owned.learned_layer + owned.learned_table) * (moments + master)


def _gathered(owned: Parameters, model: Trainable, setting: TrainingSetting) -> float:
    """Weights of two layers, one in use and one on its way, which ZeRO 3 has gathered whole."""
    if setting.zero_stage < 3 or setting.dp == 1:
        return 0.0
    layers = model.layers / setting.pp
    return max(2 * owned.layer / layers, owned.table / 2) * _element(setting)


def _logits(served: tuple[OpCall, ...], setting: TrainingSetting) -> float:
    head = next((call.op for call in served if call.name == "lm_head" and isinstance(call.op, Gemm)), None)
    each = LOGIT_BYTES[setting.kernels] / setting.loss_chunks
    return setting.micro_tokens * float(head.n) * each if head else 0.0


def _activations(model: Trainable, served: tuple[OpCall, ...], setting: TrainingSetting) -> tuple[float, float]:
    """Bytes kept until the backward pass, and those of one layer while it is computed again."""
    element = float(out_bytes("fp32" if _element(setting) > 2 else "bf16"))
    within = [call for call in served if call.name not in OUTSIDE_LAYERS]
    whole = element * sum(_kept(call, setting) * call.count for call in within)
    if setting.checkpointing == "selective":
        whole -= element * sum(_output(call) * call.count for call in within)
    flying = min(setting.pp, setting.grad_accum) / setting.pp  # 1F1B holds so many micro-batches of a stage's share
    inputs = element * setting.micro_tokens * model.hidden
    if setting.checkpointing != "full":
        return whole * flying + inputs, 0.0
    return inputs * model.layers * flying, whole / model.layers


def _kept(call: OpCall, setting: TrainingSetting) -> float:
    """Elements that autograd keeps of one call. What a product reads, the op before it may keep as well: then once."""
    op, adapters = call.op, setting.adapters
    if isinstance(op, Attention):
        heads = float(op.heads) * 2 + float(op.kv_heads) * 2  # query, output; key, value
        return float(op.batch) * float(op.q_len) * heads * float(op.head_dim)
    if isinstance(op, Mla):
        widths = float(op.nope_dim + op.rope_dim) * 2 + float(op.v_dim) * 2
        return float(op.batch) * float(op.q_len) * float(op.heads) * widths
    if isinstance(op, Gemm):
        wanted = adapters.trains(call) or adapters.adapts(call)
        return float(op.m) * float(op.k) if wanted and call.name != "o_proj" else 0.0
    if isinstance(op, Moe):
        rows = float(op.tokens) * float(op.topk)
        return rows * (float(op.hidden) + float(op.matrices) * float(op.inter) / float(op.tp))
    if isinstance(op, Conv):
        return float(op.batch * op.in_channels * op.size**2)
    if isinstance(op, Pointwise):
        table = KEPT["eager" if setting.kernels == "eager" else "fused"]
        return table.get(str(op.kind), 0.0) * float(op.rows) * float(op.cols)
    return 0.0


def _output(call: OpCall) -> float:
    """Elements of an attention's output, which selective checkpointing computes again."""
    op = call.op
    if isinstance(op, Attention):
        return float(op.batch) * float(op.q_len) * float(op.heads) * float(op.head_dim)
    return 0.0
