"""How much memory a training step takes on each GPU: weights, gradients, optimizer state, saved activations, logits.

Bytes per parameter: Rajbhandari et al., ZeRO, arXiv:1910.02054, 3.1. Activations: predictor/workloads/passes/saved.py.
The peak is that of the fullest phase: where the loss is taken, where the backward pass ends, or in the optimizer step.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from predictor.hardware.gpu import Gpu
from predictor.memory.host import host_bytes
from predictor.memory.sizes import FP32_BYTES, runtime_bytes
from predictor.memory.states import (
    element_bytes,
    file_element_bytes,
    gradient_bytes,
    is_autocast,
    is_mastered,
    is_sharded,
    kept_share,
    learned_bytes,
    learned_share,
    optimizer_bytes,
    quantised_bytes,
    whole_weights_bytes,
)
from predictor.memory.uncertainty import ClosedForm, Need, doubted, shape_features, share, tokens_features
from predictor.ops import Attention, Gemm
from predictor.workloads.passes.backward import OUTSIDE_LAYERS, training_forward
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

# Elements that the step of all parameters needs for a while: the square roots of PyTorch's unfused AdamW.
STEP_ELEMENTS: Mapping[str, float] = {"adamw_foreach": 1.0}
# Bytes of temporaries for each element of a matrix: Adafactor's squared gradient, its root and the update, in fp32
# (transformers/optimization.py).
MATRIX_BYTES: Mapping[str, float] = {"adafactor": 14.0}
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
    peaks of the phases leave out runtime_bytes, fragmentation_bytes and correction_bytes. host_load_bytes,
    host_held_bytes: of the host of a node, for all its GPUs; predictor.memory.host.HostBytes.
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
    host_load_bytes: float
    host_held_bytes: float

    @property
    def host_memory_bytes(self) -> float:
        """Of the host of a node, at most: while weights are loaded or in training."""
        return max(self.host_load_bytes, self.host_held_bytes)

    def row(self) -> dict[str, Any]:
        """One flat row, with what the host of a node needs for all its GPUs."""
        return Need.row(self) | {"host_memory_bytes": self.host_memory_bytes}

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
    """Bytes by kind on the fullest stage, peaks of the phases and of the host, and what the learned correction starts
    from."""
    setting = setting.held
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
        "optimizer_bytes": optimizer_bytes(owned, served, setting) if setting.offload == "none" else 0.0,
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
        "load_peak_bytes": kinds["weights_bytes"] + _loading(owned, served, setting),
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
    form = form._replace(segments=_segments(setting), offloaded=setting.offload != "none")
    inputs = _layer_input(model, setting, how) * stage.layers * stage.flying * setting.recomputed_share
    host = host_bytes(owned, served, setting, inputs)
    return kinds, peaks | host._asdict(), form


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


def _weights(owned: Parameters, setting: TrainingSetting) -> float:
    if setting.offload == "parameters":
        return 0.0
    return whole_weights_bytes(owned, setting) * kept_share(owned, setting, 3)


def _loading(owned: Parameters, served: tuple[OpCall, ...], setting: TrainingSetting) -> float:
    """The whole model beside the shards that are cut of it, in its own format; a matrix that is being quantised."""
    if setting.load == "whole" and is_sharded(setting):
        return (owned.layer + owned.table) * file_element_bytes(setting)
    frozen = [call.op for call in served if isinstance(call.op, Gemm) and call.name not in OUTSIDE_LAYERS]
    largest = max((float(op.n * op.k) for op in frozen), default=0.0)
    return largest * file_element_bytes(setting) if setting.method == "qlora" else 0.0


def _segments(setting: TrainingSetting) -> str:
    """How the allocator's blocks grow: "expandable", in "fixed" sizes, or of "varied" sizes, as lengths vary."""
    return "expandable" if setting.expandable_segments else "fixed" if setting.packing else "varied"


def _copies(owned: Parameters, setting: TrainingSetting) -> float:
    """16-bit copies of the weights, which autocast keeps until the loss and the backward pass have used them; those in
    4 bits are widened anew in each pass, as are frozen ones of layers that are computed again."""
    again = setting.method == "lora" and setting.checkpointing == "full"
    copied = owned.table + (0.0 if again or setting.method == "qlora" else owned.layer)
    return 2.0 * copied if is_autocast(setting) else 0.0


def _table_gradient(model: Trainable, owned: Parameters, stage: Stage, setting: TrainingSetting) -> float:
    """A table that is embedding and head at once has two gradients before they are added. FSDP has the whole gradient
    of its last unit, the tables, or of a layer, before it is shared out."""
    if setting.precision == "fsdp" and is_sharded(setting):
        return REDUCED_BYTES * max(owned.learned_layer / stage.layers, owned.learned_table)
    tied = getattr(model, "tied_embeddings", False)
    return owned.learned_table * element_bytes(setting) if tied and setting.method == "full" else 0.0


def _gradients(owned: Parameters, stage: Stage, setting: TrainingSetting) -> float:
    """As computed; ZeRO 3 also keeps a shard of their sum in the format of the master weights. Those that are used or
    sent to the host at once: of two layers, or of a table. Those that replicas add up by themselves: all, in 16 bits
    where FSDP gathers weights so."""
    summed = FP32_BYTES if setting.zero_stage > 2 and is_mastered(setting) and setting.offload == "none" else 0.0
    element = gradient_bytes(setting)
    alone = setting.no_sync and setting.grad_accum > 1 and setting.zero_stage > 1
    if setting.optimizer_in_backward or (setting.offload in ("gradients", "parameters") and not alone):
        passing = max(2 * owned.learned_layer / stage.layers, owned.learned_table / 2)
        return passing * element * learned_share(owned, setting, 2)
    whole = owned.learned_layer + owned.learned_table
    if alone:
        return whole * (2.0 if setting.precision == "fsdp" else element)
    return whole * (element + summed) * learned_share(owned, setting, 2)


def _largest(served: tuple[OpCall, ...], setting: TrainingSetting) -> float:
    """Elements of the largest matrix that learns."""
    learning = [call for call in served if setting.adapters.trains(call)]
    sizes = [float(call.op.n * call.op.k) for call in learning if isinstance(call.op, Gemm)]
    return max(sizes, default=0.0) / (setting.shards if setting.zero_stage else 1)


def _step_bytes(owned: Parameters, setting: TrainingSetting, largest: float) -> float:
    """What the optimizer needs for a while. largest: elements of the largest matrix, which is stepped alone."""
    if setting.offload != "none":
        return 0.0
    state = FP32_BYTES if is_mastered(setting) else learned_bytes(setting)
    elements, matrix = STEP_ELEMENTS.get(setting.optimizer, 0.0), MATRIX_BYTES.get(setting.optimizer, 0.0)
    if setting.optimizer_in_backward:  # the matrices are stepped one by one
        return max(elements * state, matrix) * largest
    whole = (owned.learned_layer + owned.learned_table) * elements * state
    return whole * learned_share(owned, setting, 1) + matrix * largest


def _gathered(owned: Parameters, stage: Stage, setting: TrainingSetting) -> float:
    """Weights of two layers, one in use and one on its way, that ZeRO 3 has gathered whole or the host has sent."""
    streamed = setting.offload == "parameters"
    if (setting.zero_stage < 3 or setting.shards == 1) and not streamed:
        return 0.0
    if not setting.reshard_after_forward and not streamed:
        narrow = setting.precision == "fsdp" and setting.dtype not in ("fp32", "tf32")
        return whole_weights_bytes(owned, setting) * (0.5 if narrow else 1.0)
    if setting.precision == "fsdp":
        # 16-bit copies; the tables belong to the root, which stays gathered; what was gathered last is copied out of
        # one buffer (torch/distributed/fsdp/_fully_shard/_fsdp_collectives.py: foreach_all_gather_copy_out)
        layer = owned.layer / stage.layers
        return 2.0 * (2 * layer + owned.table + max(layer, owned.table))
    held = quantised_bytes(setting) if setting.method == "qlora" else element_bytes(setting)
    gathered = max(2 * owned.layer / stage.layers * held, owned.table / 2 * element_bytes(setting))
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
    table = 2 * element_bytes(setting) * float(head.n * head.k) if chunks > 1 and setting.method == "full" else 0.0
    return tokens * float(head.n) * (kept + passing / chunks) + table + whole


def autograd(served: tuple[OpCall, ...], setting: TrainingSetting) -> Autograd:
    """How the forward pass runs. PyTorch's fused attention in fp32 does not share heads: with grouped ones it keeps
    the scores (aten, sdp_utils.cpp: enable_gqa needs FlashAttention or the math path)."""
    gathered = setting.precision == "fsdp" and setting.dtype not in ("fp32", "tf32")
    width = 2 if is_autocast(setting) else 1 if element_bytes(setting) > 2 and not gathered else 0
    grouped = any(isinstance(call.op, Attention) and call.op.heads != call.op.kv_heads for call in served)
    scores = setting.attention == "eager" or (setting.attention == "sdpa" and width == 1 and grouped)
    return Autograd(setting.adapters, width, scores, setting.tp if setting.sequence_parallel else 1)


def _layer_input(model: Trainable, setting: TrainingSetting, how: Autograd) -> float:
    """What a layer reads of one micro-batch."""
    return how.stream_bytes * setting.micro_tokens * model.hidden / how.sequence_tp


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
    inputs = _layer_input(model, setting, how)
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
