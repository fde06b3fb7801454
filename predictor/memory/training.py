"""How much memory a training step takes on each GPU: weights, gradients, optimizer state, saved activations, logits.

Bytes per parameter: Rajbhandari et al., ZeRO, arXiv:1910.02054, 3.1. Activations: predictor/workloads/passes/saved.py.
The peak is that of the fullest phase: where the loss is taken, where the backward pass ends, or in the optimizer step.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

from predictor.hardware.gpu import Gpu
from predictor.memory.sizes import FP32_BYTES, runtime_bytes
from predictor.memory.uncertainty import ClosedForm, Need, doubted, shape_features, share, tokens_features
from predictor.ops import Attention, Gemm
from predictor.workloads.passes.backward import training_forward
from predictor.workloads.passes.calls import OpCall
from predictor.workloads.passes.parallel import Stage, as_served, stages
from predictor.workloads.passes.saved import Autograd, saved_bytes, score_gradient_bytes, scores_bytes
from predictor.workloads.passes.training import (
    CHOICES,
    Parameters,
    Trainable,
    TrainingSetting,
    of_stage,
    parameters,
    training_step_ops,
)

# Of a learned parameter: moments, by optimizer, in elements of fp32 or of the weights' format.
MOMENTS: Mapping[str, float] = {
    "adamw": 2.0,
    "adamw_foreach": 2.0,
    "adamw_8bit": 0.5,
    "sgd": 0.0,
    "sgd_momentum": 1.0,
    "adafactor": 0.0,
}
# Elements that the step of all parameters needs for a while: the square roots of PyTorch's unfused AdamW.
STEP_ELEMENTS: Mapping[str, float] = {"adamw_foreach": 1.0}
# Bytes of temporaries for each element of a matrix: Adafactor's squared gradient, its root and the update, in fp32
# (transformers/optimization.py).
MATRIX_BYTES: Mapping[str, float] = {"adafactor": 14.0}
# A 4-bit weight with its scales: NF4 in blocks of 64 whose scales are quantised again (arXiv:2305.14314), GPTQ in
# groups of 128 with a scale in 16 bits and a zero point in 4.
FOUR_BIT_BYTES: Mapping[str, float] = {"nf4": 0.5 + 0.127 / 8, "gptq": 0.5 + 2.5 / 128}
# Of a logit: 16 bits as computed, 32 as the loss widens them, and the gradient; eager PyTorch takes a log-softmax, its
# gradient and that of the loss, all in fp32; models with a loss of their own keep it in 16 bits: as computed, shifted,
# the log-softmax and its gradient (modeling_qwen.py of Qwen 1).
LOGIT_BYTES: Mapping[str, float] = {"fused": 8.0, "library": 8.0, "eager": 12.0}
# DeepSpeed reduces and gathers in buckets of 5e8 elements each (reduce_bucket_size, allgather_bucket_size).
BUCKET_BYTES = 2 * 5e8 * 2.0


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingMemory(Need):
    """Bytes on each GPU. activations_bytes: kept for the backward pass, and those of the layer that is computed again.

    gathered_bytes: weights that ZeRO 3 has gathered whole, and buckets of messages. autocast_bytes: 16-bit copies of
    weights. temporary_bytes: of the optimizer step, or of a table that is embedding and head, if that is the peak.
    Kinds are counted in full, though not all are alive at once: reused_bytes is what they come to beyond the peak. The
    peaks of the phases leave out runtime_bytes, fragmentation_bytes and correction_bytes.
    """

    weights_bytes: float
    gradients_bytes: float
    optimizer_bytes: float
    activations_bytes: float
    logits_bytes: float
    autocast_bytes: float
    gathered_bytes: float
    temporary_bytes: float
    reused_bytes: float
    forward_peak_bytes: float
    backward_peak_bytes: float
    step_peak_bytes: float

    @property
    def peak_phase(self) -> str:
        """Where most is alive: "forward" (the loss is taken), "backward" (its end) or "step"."""
        peaks = {name: getattr(self, f"{name}_peak_bytes") for name in ("forward", "backward", "step")}
        return max(peaks, key=lambda name: peaks[name])


def training_memory(model: Trainable, gpu: Gpu, setting: TrainingSetting) -> TrainingMemory:
    """Memory of an optimizer step of `model` on one of setting.n_gpus × `gpu`."""
    kinds, peaks, form = closed_form(model, setting)
    return TrainingMemory(**kinds, **peaks, **doubted(form, gpu))


def closed_form(model: Trainable, setting: TrainingSetting) -> tuple[dict[str, float], dict[str, float], ClosedForm]:
    """Bytes by kind on the fullest stage, the peaks of the phases, and what the learned correction starts from."""
    served = training_step_ops(model, setting)
    owned = _owned(model, served, setting)
    how = autograd(served, setting)
    forms = [
        _of_stage(model, served, owned, how, stage, setting)
        for stage in stages(model.layers, setting, setting.grad_accum)
    ]
    return max(forms, key=lambda form: form[2].peak)


def _of_stage(
    model: Trainable,
    served: tuple[OpCall, ...],
    whole: Parameters,
    how: Autograd,
    stage: Stage,
    setting: TrainingSetting,
) -> tuple[dict[str, float], dict[str, float], ClosedForm]:
    """The same of one stage. whole: the parameters of all."""
    owned = of_stage(whole, model, stage)
    saved = saved_bytes(served, how)
    kept = _activations(model, served, setting, how, saved, stage)
    passing = kept.again + score_gradient_bytes(served, how)
    kinds = {
        "weights_bytes": _weights(owned, setting),
        "gradients_bytes": _gradients(owned, setting),
        "optimizer_bytes": _optimizer(owned, setting),
        "activations_bytes": kept.until_backward + passing,
        "logits_bytes": _logits(served, setting) * stage.heads,
        "autocast_bytes": _copies(owned, setting),
        "gathered_bytes": _gathered(owned, stage, setting),
    }
    resident = kinds["weights_bytes"] + kinds["optimizer_bytes"] + kinds["gathered_bytes"]
    gradients = kinds["gradients_bytes"]
    loss = kept.until_backward + max(passing, kinds["logits_bytes"]) + kinds["autocast_bytes"]
    twice, stepping = _table_gradient(model, owned, setting), _step_bytes(owned, setting, _largest(served, setting))
    peaks = {
        "forward_peak_bytes": resident + loss + (gradients if setting.grad_accum > 1 else 0.0),
        "backward_peak_bytes": resident + gradients + (kept.again or kept.until_backward / model.layers) + twice,
        "step_peak_bytes": resident + gradients + stepping,
    }
    peak = max(peaks.values())
    at_peak = {peaks["backward_peak_bytes"]: twice, peaks["step_peak_bytes"]: stepping}
    kinds["temporary_bytes"] = at_peak.get(peak, 0.0)
    kinds["reused_bytes"] = sum(kinds.values()) - peak
    seen = shape_features(served, model.hidden, model.layers) | _features(setting, how, kinds)
    seen["scores_share"] = share(scores_bytes(served, how), saved) if how.scores else 0.0
    seen |= tokens_features(setting.micro_tokens, peak - resident, resident)
    return kinds, peaks, ClosedForm("training", peak, peak - resident, runtime_bytes(setting.n_gpus), seen)


class Kept(NamedTuple):
    """Bytes kept until the backward pass, and those of one layer while it is computed again."""

    until_backward: float
    again: float


def kinds() -> tuple[str, ...]:
    """Names of the fields that, less reused_bytes, add up to total_bytes."""
    states = ("weights_bytes", "gradients_bytes", "optimizer_bytes", "gathered_bytes", "autocast_bytes")
    passing = ("activations_bytes", "logits_bytes", "temporary_bytes")
    return (*states, *passing, "runtime_bytes", "fragmentation_bytes", "correction_bytes")


def _owned(model: Trainable, served: tuple[OpCall, ...], setting: TrainingSetting) -> Parameters:
    """Parameters on one GPU of each stage before sharing among replicas; norms and biases with the layers or, without a
    pipeline, with the tables."""
    forward = training_forward(served, setting.micro_tokens, setting.adapters, setting.attention)
    owned = parameters(model, forward, setting.adapters)
    whole = sum(model.elements(as_served(setting)._replace(pp=1)))
    rest = max(whole - owned.layer - owned.table, 0.0)
    learned = rest if setting.method == "full" else 0.0
    if setting.pp > 1:
        return owned._replace(layer=owned.layer + rest, learned_layer=owned.learned_layer + learned)
    return owned._replace(table=owned.table + rest, learned_table=owned.learned_table + learned)


def _element(setting: TrainingSetting) -> float:
    """Bytes of a weight that learns, and of its gradient."""
    return FP32_BYTES if setting.dtype in ("fp32", "tf32") or _autocast(setting) else 2.0


def _mastered(setting: TrainingSetting) -> bool:
    return setting.precision == "mixed" and _element(setting) < FP32_BYTES


def _weights(owned: Parameters, setting: TrainingSetting) -> float:
    element, whole = _element(setting), owned.layer + owned.table
    if setting.method == "qlora":
        # PEFT's prepare_model_for_kbit_training widens what is not quantised
        table = element if setting.kernels == "fused" or setting.precision == "pure" else FP32_BYTES
        weights = owned.layer * FOUR_BIT_BYTES[setting.quantization]
        weights += owned.table * table + owned.learned_layer * element
    else:
        # PEFT keeps the frozen tables beside those that learn (modules_to_save)
        weights = (whole + (owned.learned_layer + owned.learned_table if setting.method == "lora" else 0.0)) * element
    if setting.offload == "parameters":
        return 0.0
    return weights * _kept_share(owned, setting, 3)


def _kept_share(owned: Parameters, setting: TrainingSetting, stage: int) -> float:
    """Share of its weights that each GPU keeps from that stage of ZeRO on."""
    whole = owned.layer + owned.table
    return owned.kept(setting) / whole if setting.zero_stage >= stage and whole else 1.0


def _learned(owned: Parameters, setting: TrainingSetting, stage: int) -> float:
    """Elements with a gradient that each GPU keeps, shared out from that stage of ZeRO on."""
    whole = owned.learned_layer + owned.learned_table
    return owned.learned(setting) if setting.zero_stage >= stage else whole


def _copies(owned: Parameters, setting: TrainingSetting) -> float:
    """16-bit copies of the weights, which autocast keeps until the loss and the backward pass have used them; those in
    4 bits are widened anew in each pass, as are frozen ones of layers that are computed again."""
    again = setting.method == "lora" and setting.checkpointing == "full"
    copied = owned.table + (0.0 if again or setting.method == "qlora" else owned.layer)
    return 2.0 * copied if _autocast(setting) else 0.0


def _autocast(setting: TrainingSetting) -> bool:
    """Whether the stream between layers is fp32 and products are taken in 16 bits; so also where PEFT has widened what
    bitsandbytes left unquantised."""
    widened = setting.method == "qlora" and setting.quantization == "nf4" and setting.kernels == "eager"
    autocast = setting.precision == "amp" or (setting.precision == "mixed" and widened)
    return autocast and setting.dtype in ("bf16", "fp16")


def _table_gradient(model: Trainable, owned: Parameters, setting: TrainingSetting) -> float:
    """A table that is embedding and head at once has two gradients before they are added."""
    tied = getattr(model, "tied_embeddings", False)
    return owned.learned_table * _element(setting) if tied and setting.method == "full" else 0.0


def _gradients(owned: Parameters, setting: TrainingSetting) -> float:
    """As computed; ZeRO 3 and FSDP also keep a shard of their sum in the format of the master weights."""
    summed = FP32_BYTES if setting.zero_stage > 2 and _mastered(setting) and setting.offload == "none" else 0.0
    return _learned(owned, setting, 2) * (_element(setting) + summed)


def _optimizer(owned: Parameters, setting: TrainingSetting) -> float:
    if setting.offload != "none":
        return 0.0
    element = _element(setting)
    master = FP32_BYTES if _mastered(setting) else 0.0
    state = FP32_BYTES if master or setting.optimizer == "adamw_8bit" else element
    return _learned(owned, setting, 1) * (MOMENTS[setting.optimizer] * state + master)


def _largest(served: tuple[OpCall, ...], setting: TrainingSetting) -> float:
    """Elements of the largest matrix that learns."""
    learning = [call for call in served if setting.adapters.trains(call)]
    sizes = [float(call.op.n * call.op.k) for call in learning if isinstance(call.op, Gemm)]
    return max(sizes, default=0.0) / (setting.shards if setting.zero_stage else 1)


def _step_bytes(owned: Parameters, setting: TrainingSetting, largest: float) -> float:
    """What the optimizer needs for a while. largest: elements of the largest matrix, which is stepped alone."""
    if setting.offload != "none":
        return 0.0
    state = FP32_BYTES if _mastered(setting) else _element(setting)
    whole = _learned(owned, setting, 1) * STEP_ELEMENTS.get(setting.optimizer, 0.0) * state
    return whole + MATRIX_BYTES.get(setting.optimizer, 0.0) * largest


def _gathered(owned: Parameters, stage: Stage, setting: TrainingSetting) -> float:
    """Weights of two layers, one in use and one on its way, that ZeRO 3 has gathered whole or the host has sent."""
    streamed = setting.offload == "parameters"
    if (setting.zero_stage < 3 or setting.shards == 1) and not streamed:
        return 0.0
    gathered = max(2 * owned.layer / stage.layers, owned.table / 2) * _element(setting)
    return gathered + (0.0 if setting.prefetch else min(BUCKET_BYTES, gathered))


def _logits(served: tuple[OpCall, ...], setting: TrainingSetting) -> float:
    head = next((call.op for call in served if call.name == "lm_head" and isinstance(call.op, Gemm)), None)
    per_logit = LOGIT_BYTES[setting.kernels] / setting.loss_chunks
    return setting.micro_tokens * float(head.n) * per_logit if head else 0.0


def autograd(served: tuple[OpCall, ...], setting: TrainingSetting) -> Autograd:
    """How the forward pass runs. PyTorch's fused attention in fp32 does not share heads: with grouped ones it keeps
    the scores (aten, sdp_utils.cpp: enable_gqa needs FlashAttention or the math path)."""
    width = 2 if _autocast(setting) else 1 if _element(setting) > 2 else 0
    grouped = any(isinstance(call.op, Attention) and call.op.heads != call.op.kv_heads for call in served)
    scores = setting.attention == "eager" or (setting.attention == "sdpa" and width == 1 and grouped)
    return Autograd(setting.adapters, width, scores, setting.tp if setting.sequence_parallel else 1)


def _activations(
    model: Trainable,
    served: tuple[OpCall, ...],
    setting: TrainingSetting,
    how: Autograd,
    whole: float,
    stage: Stage,
) -> Kept:
    """What is kept of the `whole` of all layers without checkpointing, of the micro-batches that the stage holds."""
    flying = stage.layers / model.layers * stage.flying
    inputs = how.stream_bytes * setting.micro_tokens * model.hidden / how.sequence_tp
    if setting.checkpointing == "full":
        return Kept(inputs * model.layers * flying, whole / model.layers)
    if setting.checkpointing == "selective":
        whole -= scores_bytes(served, how)
    return Kept(whole * flying + inputs, 0.0)


def _features(setting: TrainingSetting, how: Autograd, kinds: Mapping[str, float]) -> dict[str, float]:
    """What the learned correction sees of how a model is trained."""
    return {
        "training": 1.0,
        "lora": float(setting.method == "lora"),
        "qlora": float(setting.method == "qlora"),
        "width": float(how.width),
        "eager": float(setting.kernels == "eager"),
        "scores": float(how.scores),
        "checkpointing": float(CHOICES["checkpointing"].index(setting.checkpointing)),
        "logits_share": share(kinds["logits_bytes"], kinds["activations_bytes"] + kinds["logits_bytes"]),
        "accumulates": float(setting.grad_accum > 1),
        "step_share": STEP_ELEMENTS.get(setting.optimizer, 0.0),
    }
