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
from predictor.workloads.passes.saved import (
    Autograd,
    passes_bytes,
    products_bytes,
    saved_bytes,
    score_gradient_bytes,
    scores_bytes,
)
from predictor.workloads.passes.training import (
    Parameters,
    Trainable,
    TrainingSetting,
    of_stage,
    parameters,
    training_step_ops,
)

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
# Elements that the step of all parameters needs for a while: the square roots of PyTorch's unfused AdamW.
STEP_ELEMENTS: Mapping[str, float] = {"adamw_foreach": 1.0}
# Bytes of temporaries for each element of a matrix: Adafactor's squared gradient, its root and the update, in fp32
# (transformers/optimization.py).
MATRIX_BYTES: Mapping[str, float] = {"adafactor": 14.0}
# A quantised weight with its scales: NF4 in blocks of 64 whose scales are quantised again (arXiv:2305.14314), GPTQ in
# groups of 128 with a scale in 16 bits and a zero point in 4, LLM.int8 with one scale a row (bitsandbytes).
QUANTISED_BYTES: Mapping[str, float] = {"nf4": 0.5 + 0.127 / 8, "gptq": 0.5 + 2.5 / 128, "int8": 1.0}
SINGLE_QUANT_BYTES = 0.5 + 4 / 64
# Of a logit, by how the loss is taken. "eager" PyTorch takes a log-softmax, its gradient and that of the loss, all in
# fp32, beside the logits in 16 bits, which the caller holds; "eager_kept" holds them in fp32, and shifted, until the
# backward pass is through (torchtune before 2024-10, recipes/lora_finetune_single_device.py). "plain": as computed, the
# log-softmax and both gradients, all as wide as the logits (modeling_qwen.py of Qwen 1). "fused" or compiled: as
# computed, shifted, and the gradient, in 16 bits. Chunks that are freed need as much as "eager" of one of them.
LOGIT_BYTES: Mapping[str, float] = {"fused": 6.0, "plain": 8.0, "eager": 14.0, "eager_kept": 20.0, "chunked": 14.0}
# Of all logits and of those of one chunk, where all chunks stay until their gradients are taken: compiled, the logits
# alone; else their log-softmax too (torchtune/modules/loss/ce_chunked_output_loss.py, litgpt/utils.py).
KEPT_CHUNK_BYTES: Mapping[str, tuple[float, float]] = {"fused": (2.0, 4.0), "library": (4.0, 8.0), "eager": (4.0, 8.0)}
USUAL_CHUNKS = 8  # of torchtune, where a chunked loss does not say how many
REDUCED_BYTES = 6.0  # FSDP: of a layer's gradient, as computed in 16 bits and as it is reduced in fp32
OFFLOADED_INPUTS = 2  # of layers, one in use and one on its way
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
    load_peak_bytes: float
    forward_peak_bytes: float
    backward_peak_bytes: float
    step_peak_bytes: float

    @property
    def peak_phase(self) -> str:
        """Where most is alive: "load", "forward" (the loss is taken), "backward" (its end) or "step"."""
        peaks = {name: getattr(self, f"{name}_peak_bytes") for name in ("load", "forward", "backward", "step")}
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
        "gradients_bytes": _gradients(owned, stage, setting),
        "optimizer_bytes": _optimizer(owned, served, setting),
        "activations_bytes": kept.until_backward + passing,
        "logits_bytes": _logits(model, served, how, setting) * stage.heads,
        "autocast_bytes": _copies(owned, setting),
        "gathered_bytes": _gathered(owned, stage, setting),
    }
    resident = kinds["weights_bytes"] + kinds["optimizer_bytes"] + kinds["gathered_bytes"]
    gradients = kinds["gradients_bytes"]
    loss = kept.until_backward + max(passing, kinds["logits_bytes"]) + kinds["autocast_bytes"]
    twice = _table_gradient(model, owned, stage, setting)
    stepping = _step_bytes(owned, setting, _largest(served, setting))
    peaks = {
        "load_peak_bytes": kinds["weights_bytes"] + _loading(owned, setting),
        "forward_peak_bytes": resident + loss + (gradients if setting.grad_accum > 1 else 0.0),
        "backward_peak_bytes": resident + gradients + (kept.again or kept.until_backward / model.layers) + twice,
        "step_peak_bytes": resident + gradients + stepping,
    }
    peak = max(peaks.values())
    loading = peaks["load_peak_bytes"] - kinds["weights_bytes"]
    at_peak = {
        peaks["load_peak_bytes"]: loading,
        peaks["backward_peak_bytes"]: twice,
        peaks["step_peak_bytes"]: stepping,
    }
    kinds["temporary_bytes"] = at_peak.get(peak, 0.0)
    kinds["reused_bytes"] = sum(kinds.values()) - peak
    seen = shape_features(served, model.hidden, model.layers) | _features(setting, how, kinds)
    seen["scores_share"] = share(scores_bytes(served, how), saved) if how.scores else 0.0
    seen |= tokens_features(setting.micro_tokens, peak - resident, resident)
    form = ClosedForm(spread_of(setting), peak, peak - resident, runtime_bytes(setting.n_gpus), seen)
    return kinds, peaks, form._replace(segments=_segments(setting), offloaded=setting.offload != "none")


def spread_of(setting: TrainingSetting) -> str:
    """Whose spread: of settings that describe their program, or of those that say what most programs do."""
    return "training_stated" if setting.described else "training"


class Kept(NamedTuple):
    """Bytes kept until the backward pass, and those of one layer while it is computed again."""

    until_backward: float
    again: float


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
    wide = setting.dtype in ("fp32", "tf32") or setting.precision == "fsdp" or _autocast(setting)
    return FP32_BYTES if wide else 2.0


def _learned(setting: TrainingSetting) -> float:
    """Bytes of a weight of what learns: adapters may have a format of their own."""
    own = setting.adapter_dtype if setting.method != "full" else ""
    return (FP32_BYTES if own == "fp32" else 2.0) if own else _element(setting)


def _mastered(setting: TrainingSetting) -> bool:
    return setting.precision == "mixed" and _learned(setting) < FP32_BYTES


def _sharded(setting: TrainingSetting) -> bool:
    return setting.zero_stage > 2 and setting.shards > 1


def _weights(owned: Parameters, setting: TrainingSetting) -> float:
    if setting.offload == "parameters":
        return 0.0
    return _whole_weights(owned, setting) * _kept_share(owned, setting, 3)


def _whole_weights(owned: Parameters, setting: TrainingSetting) -> float:
    """Before they are sharded."""
    element, whole = _element(setting), owned.layer + owned.table
    if setting.method == "qlora":
        # PEFT's prepare_model_for_kbit_training widens what is not quantised
        narrow = setting.kernels == "fused" or (setting.precision == "pure" and element < FP32_BYTES)
        weights = owned.layer * quantised_bytes(setting) + owned.table * (element if narrow else FP32_BYTES)
        return weights + owned.learned_layer * _learned(setting)
    # PEFT keeps the frozen tables beside those that learn (modules_to_save)
    beside = owned.learned_layer + owned.learned_table if setting.method == "lora" else 0.0
    return whole * element + beside * _learned(setting)


def quantised_bytes(setting: TrainingSetting) -> float:
    """Of a frozen weight under QLoRA, with its scales."""
    if setting.quantization == "nf4" and not setting.double_quant:
        return SINGLE_QUANT_BYTES
    return QUANTISED_BYTES[setting.quantization]


def _loading(owned: Parameters, setting: TrainingSetting) -> float:
    """The whole model beside the shards that are cut of it, in its own format."""
    if setting.load == "sharded" or not _sharded(setting):
        return 0.0
    element = FP32_BYTES if setting.dtype in ("fp32", "tf32") else 2.0
    return (owned.layer + owned.table) * element


def _segments(setting: TrainingSetting) -> str:
    """How the allocator's blocks grow: "expandable", in "fixed" sizes, or of "varied" sizes, as lengths vary."""
    return "expandable" if setting.expandable_segments else "fixed" if setting.packing else "varied"


def _kept_share(owned: Parameters, setting: TrainingSetting, stage: int) -> float:
    """Share of its weights that each GPU keeps from that stage of ZeRO on."""
    whole = owned.layer + owned.table
    return owned.kept(setting) / whole if setting.zero_stage >= stage and whole else 1.0


def _learned_share(owned: Parameters, setting: TrainingSetting, stage: int) -> float:
    """Share of the elements with a gradient that each GPU keeps, shared out from that stage of ZeRO on."""
    whole = owned.learned_layer + owned.learned_table
    return owned.learned(setting) / whole if setting.zero_stage >= stage and whole else 1.0


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


def _table_gradient(model: Trainable, owned: Parameters, stage: Stage, setting: TrainingSetting) -> float:
    """A table that is embedding and head at once has two gradients before they are added. FSDP has the whole gradient
    of its last unit, the tables, or of a layer, before it is shared out."""
    if setting.precision == "fsdp" and _sharded(setting):
        return REDUCED_BYTES * max(owned.learned_layer / stage.layers, owned.learned_table)
    tied = getattr(model, "tied_embeddings", False)
    return owned.learned_table * _element(setting) if tied and setting.method == "full" else 0.0


def _gradients(owned: Parameters, stage: Stage, setting: TrainingSetting) -> float:
    """As computed; ZeRO 3 also keeps a shard of their sum in the format of the master weights. Those that are used or
    sent to the host at once: of two layers, or of a table. Those that replicas add up by themselves: all, in 16 bits
    where FSDP gathers weights so."""
    summed = FP32_BYTES if setting.zero_stage > 2 and _mastered(setting) and setting.offload == "none" else 0.0
    element = (FP32_BYTES if setting.grad_dtype == "fp32" else 2.0) if setting.grad_dtype else _learned(setting)
    alone = setting.no_sync and setting.grad_accum > 1 and setting.zero_stage > 1
    if setting.optimizer_in_backward or (setting.offload in ("gradients", "parameters") and not alone):
        passing = max(2 * owned.learned_layer / stage.layers, owned.learned_table / 2)
        return passing * element * _learned_share(owned, setting, 2)
    whole = owned.learned_layer + owned.learned_table
    if alone:
        return whole * (2.0 if setting.precision == "fsdp" else element)
    return whole * (element + summed) * _learned_share(owned, setting, 2)


def _optimizer(owned: Parameters, served: tuple[OpCall, ...], setting: TrainingSetting) -> float:
    if setting.offload != "none":
        return 0.0
    master = FP32_BYTES if _mastered(setting) else 0.0
    state = FP32_BYTES if master else _learned(setting)
    if setting.optimizer == "galore_adamw":
        moments = 2 * state * (owned.learned_layer * _projected_share(served, setting) + owned.learned_table)
    else:
        each = NARROW_MOMENTS.get(setting.optimizer) or MOMENTS[setting.optimizer] * state
        moments = each * (owned.learned_layer + owned.learned_table)
    whole = moments + master * (owned.learned_layer + owned.learned_table)
    return whole * _learned_share(owned, setting, 1)


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


def _largest(served: tuple[OpCall, ...], setting: TrainingSetting) -> float:
    """Elements of the largest matrix that learns."""
    learning = [call for call in served if setting.adapters.trains(call)]
    sizes = [float(call.op.n * call.op.k) for call in learning if isinstance(call.op, Gemm)]
    return max(sizes, default=0.0) / (setting.shards if setting.zero_stage else 1)


def _step_bytes(owned: Parameters, setting: TrainingSetting, largest: float) -> float:
    """What the optimizer needs for a while. largest: elements of the largest matrix, which is stepped alone."""
    if setting.offload != "none":
        return 0.0
    state = FP32_BYTES if _mastered(setting) else _learned(setting)
    elements, matrix = STEP_ELEMENTS.get(setting.optimizer, 0.0), MATRIX_BYTES.get(setting.optimizer, 0.0)
    if setting.optimizer_in_backward:  # the matrices are stepped one by one
        return max(elements * state, matrix) * largest
    whole = (owned.learned_layer + owned.learned_table) * elements * state
    return whole * _learned_share(owned, setting, 1) + matrix * largest


def _gathered(owned: Parameters, stage: Stage, setting: TrainingSetting) -> float:
    """Weights of two layers, one in use and one on its way, that ZeRO 3 has gathered whole or the host has sent."""
    streamed = setting.offload == "parameters"
    if (setting.zero_stage < 3 or setting.shards == 1) and not streamed:
        return 0.0
    if not setting.reshard_after_forward and not streamed:
        narrow = setting.precision == "fsdp" and setting.dtype not in ("fp32", "tf32")
        return _whole_weights(owned, setting) * (0.5 if narrow else 1.0)
    if setting.precision == "fsdp":
        # 16-bit copies; the tables belong to the root, which stays gathered; what was gathered last is copied out of
        # one buffer (torch/distributed/fsdp/_fully_shard/_fsdp_collectives.py: foreach_all_gather_copy_out)
        layer = owned.layer / stage.layers
        return 2.0 * (2 * layer + owned.table + max(layer, owned.table))
    held = quantised_bytes(setting) if setting.method == "qlora" else _element(setting)
    gathered = max(2 * owned.layer / stage.layers * held, owned.table / 2 * _element(setting))
    return gathered + (0.0 if setting.prefetch else min(BUCKET_BYTES, gathered))


def _logits(model: Trainable, served: tuple[OpCall, ...], how: Autograd, setting: TrainingSetting) -> float:
    head = next((call.op for call in served if call.name == "lm_head" and isinstance(call.op, Gemm)), None)
    if head is None:
        return 0.0
    kind, tokens = setting.loss_kind, float(setting.micro_tokens)
    # what tensor parallelism split over the tokens is gathered before the head; its gradient is whole either way
    whole = how.element_bytes * tokens * float(head.k) * (1 - 1 / how.sequence_tp)
    chunks = USUAL_CHUNKS if kind.startswith("chunked") and setting.loss_chunks == 1 else setting.loss_chunks
    # autograd keeps the tanh that caps them (modeling_gemma2.py), where no kernel takes it anew
    anew = "fused" in (kind, setting.kernels if kind == "chunked_kept" else "")
    capped = how.element_bytes if getattr(model, "capped_logits", False) and not anew else 0.0
    if kind == "chunked_kept":
        kept, passing = KEPT_CHUNK_BYTES[setting.kernels]
        kept += capped
    else:
        kept, passing = 0.0, LOGIT_BYTES[kind] * (2.0 if setting.loss == "plain" and how.width == 1 else 1.0)
        passing += capped
    # the gradient of the head of one chunk is added to that of those before
    table = 2 * _element(setting) * float(head.n * head.k) if chunks > 1 and setting.method == "full" else 0.0
    return tokens * float(head.n) * (kept + passing / chunks) + table + whole


def autograd(served: tuple[OpCall, ...], setting: TrainingSetting) -> Autograd:
    """How the forward pass runs. PyTorch's fused attention in fp32 does not share heads: with grouped ones it keeps
    the scores (aten, sdp_utils.cpp: enable_gqa needs FlashAttention or the math path)."""
    gathered = setting.precision == "fsdp" and setting.dtype not in ("fp32", "tf32")
    width = 2 if _autocast(setting) else 1 if _element(setting) > 2 and not gathered else 0
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
    layers, way = model.layers, setting.checkpointing
    if way == "none":
        return Kept(whole * flying + inputs, 0.0)
    if way in ("selective", "modules"):
        left = scores_bytes(served, how) + (passes_bytes(served, how) if way == "modules" else 0.0)
        recomputed, again = whole - left + inputs / flying, 0.0 if way == "selective" else left / layers
    else:
        recomputed, again = inputs * layers, whole / layers
        if way == "selective_ops":
            recomputed = min(recomputed + products_bytes(served, how), whole + inputs / flying)
    if way == "offloaded":
        recomputed = inputs * min(OFFLOADED_INPUTS, layers)
    left_alone = (whole + inputs / flying) * (1 - setting.recomputed_share)
    return Kept((recomputed * setting.recomputed_share + left_alone) * flying, again)


def _features(setting: TrainingSetting, how: Autograd, kinds: Mapping[str, float]) -> dict[str, float]:
    """What the learned correction sees of how a model is trained."""
    return {
        "training": 1.0,
        "lora": float(setting.method == "lora"),
        "qlora": float(setting.method == "qlora"),
        "width": float(how.width),
        "eager": float(setting.kernels == "eager"),
        "scores": float(how.scores),
        "checkpointing": _recomputed(setting),
        "logits_share": share(kinds["logits_bytes"], kinds["activations_bytes"] + kinds["logits_bytes"]),
        "accumulates": float(setting.grad_accum > 1),
        "step_share": STEP_ELEMENTS.get(setting.optimizer, 0.0),
    }


def _recomputed(setting: TrainingSetting) -> float:
    """How much is computed again, as the correction was taught: nothing, parts of the layers, or all of them."""
    whole = setting.checkpointing in ("full", "offloaded") and setting.checkpoint_every == 1
    return 2.0 if whole else float(setting.checkpointing != "none")
