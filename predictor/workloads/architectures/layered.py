"""Decoders whose layers differ, or hold experts, latent attention or a recurrence: a list of kinds of layers.

The ops are those of vLLM's model files (mixtral.py, qwen3_moe.py, gpt_oss.py, deepseek_v2.py, qwen3_next.py): fused
projections, the residual addition inside the RMS norm, one fused call for the routed experts.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from predictor.elementwise import added
from predictor.errors import InvalidRequest, InvalidSpec
from predictor.ops import Collective, Gemm
from predictor.ops.base import merged_key
from predictor.ops.dtypes import act_bytes, out_bytes
from predictor.workloads.architectures.feed_forward import DenseFeedForward, Experts, FeedForward
from predictor.workloads.architectures.mixers import GroupedAttention, LatentAttention, LinearAttention, point
from predictor.workloads.architectures.recurrences import Recurrence, Together
from predictor.workloads.architectures.sparse_mixers import BlockSparseAttention, CompressedAttention, Mixer
from predictor.workloads.passes.calls import Layout, OpCall, Step

if TYPE_CHECKING:
    from predictor.workloads.architectures.tower import VisionTower


@dataclass(frozen=True, slots=True, kw_only=True)
class Layer:
    """`count` equal layers: what mixes tokens, then the feed-forward; one of them may be missing (Nemotron-H)."""

    count: int
    mixer: Mixer | None
    feed_forward: FeedForward | None

    @property
    def parts(self) -> tuple[Mixer | FeedForward, ...]:
        """The sublayers that the layer has."""
        return tuple(part for part in (self.mixer, self.feed_forward) if part is not None)


@dataclass(frozen=True, slots=True, kw_only=True)
class LayeredDecoder:
    """A decoder as kinds of layers; widths as in Decoder.

    norms: RMS norms over the model width per layer of two sublayers: 2 or, before and after each, 4.
    linear_dtype, expert_dtype: number formats of the published weights of linear layers and of experts; what a
        workload runs in unless told otherwise. "" is the format of the activations. In a model without experts
        expert_dtype is that of the feed-forwards, where it is another than that of attention.
    beside: parameters of what is no layer (vision and audio towers, projectors, per-layer embeddings). tower: as there.
    """

    name: str
    hidden: int
    vocab: int
    max_len: int
    layers_of: tuple[Layer, ...]
    source: str
    tied_embeddings: bool = False
    norms: int = 2
    dtype: str = "bf16"
    linear_dtype: str = ""
    expert_dtype: str = ""
    beside: int = 0
    tower: VisionTower | None = None
    notes: tuple[str, ...] = field(default=())

    def __post_init__(self) -> None:
        """Checks that there are layers and that the sizes are positive."""
        for name in ("hidden", "vocab", "max_len", "layers"):
            if getattr(self, name) < 1:
                raise InvalidSpec(f"{name} of {self.name} is {getattr(self, name)}; it must be at least 1.")

    @property
    def layers(self) -> int:
        """Layers of all kinds."""
        return sum(layer.count for layer in self.layers_of)

    @property
    def attention(self) -> str:
        """Kinds of attention, the most frequent first: "64/8 heads", "64/8 heads, window 128"."""
        counts: dict[str, int] = {}
        for layer in self.layers_of:
            if layer.mixer:
                counts[layer.mixer.label] = counts.get(layer.mixer.label, 0) + layer.count
        return "; ".join(sorted(counts, key=lambda label: -counts[label]))

    @property
    def experts(self) -> str:
        """ "8 of 128" where tokens visit experts."""
        routed = [layer.feed_forward for layer in self.layers_of if isinstance(layer.feed_forward, Experts)]
        return f"{routed[0].topk} of {routed[0].experts}" if routed else ""

    @property
    def in_columns(self) -> bool:
        """Whether forward_ops takes a step with columns: equal ops of two kinds of sparse layers are not told there."""
        return not any(isinstance(layer.mixer, BlockSparseAttention | CompressedAttention) for layer in self.layers_of)

    @property
    def has_experts(self) -> bool:
        """Whether any layer routes tokens to experts."""
        return any(isinstance(layer.feed_forward, Experts) for layer in self.layers_of)

    def check(self, layout: Layout) -> None:
        """Raises InvalidRequest where the model cannot be split so."""
        if layout.ep > 1 and not self.has_experts:
            raise InvalidRequest(f"ep is {layout.ep}; {self.name} has no experts. Set ep to 1.")
        if layout.pp > self.layers:
            raise InvalidRequest(f"pp is {layout.pp}; {self.name} has {self.layers} layers. Lower pp.")
        self._sums(layout)

    def columns_of(self, layout: Layout) -> dict[str, tuple[int, ...]]:
        """Columns of feed-forwards on one GPU: those of "linear" layers, shared ones too, and of "experts"; and of
        "attention" before its output."""
        routed = [layer.feed_forward for layer in self.layers_of if isinstance(layer.feed_forward, Experts)]
        dense = [layer.feed_forward for layer in self.layers_of if isinstance(layer.feed_forward, DenseFeedForward)]
        plain = tuple(part.local(layout.tp) for part in dense)
        grouped = {layer.mixer for layer in self.layers_of if isinstance(layer.mixer, GroupedAttention)}
        attention = tuple(mixer.local(layout.tp)[0] * mixer.value_dim for mixer in grouped)
        if not routed:
            return {"experts": plain, "attention": attention}
        shared = tuple(part.shared_inter // layout.tp for part in routed if part.shared_inter)
        own = tuple(part.inter // layout.expert_tp for part in routed)
        return {"linear": plain + shared, "experts": own, "attention": attention}

    def _sums(self, layout: Layout) -> tuple[float, float, float]:
        """Elements of linear layers, of experts and of norms and biases in all layers, on one GPU of a stage."""
        matrices = experts = plain = 0.0
        for layer in self.layers_of:
            elements = [part.elements(self.hidden, layout.tp) for part in layer.parts]
            norms = self.norms // 2 * len(elements) * self.hidden
            matrices += layer.count * sum(part.linear for part in elements)
            plain += layer.count * (sum(part.plain for part in elements) + norms)
            if isinstance(layer.feed_forward, Experts):
                experts += layer.count * layer.feed_forward.expert_elements(self.hidden, layout.expert_tp, layout.ep)
            elif layer.feed_forward and not self.has_experts:
                experts += layer.count * elements[-1].linear
                matrices -= layer.count * elements[-1].linear
        return matrices / layout.pp, experts / layout.pp, plain / layout.pp

    def parameters(self) -> int:
        """Parameters of the whole model, all experts counted, tied embeddings once."""
        return int(sum(self.elements(Layout())))

    def elements(self, layout: Layout) -> tuple[float, float, float]:
        """Elements on one GPU: linear layers, experts, and what stays in the format of the activations."""
        matrices, experts, plain = self._sums(layout)
        embeddings = (1 if self.tied_embeddings else 2) * -(-self.vocab // layout.tp) * self.hidden
        return matrices, experts, plain + embeddings + self.hidden + self.beside / layout.tp

    def cached(self, length: int, layout: Layout) -> Any:
        """Cache elements of one sequence on one GPU of a stage."""
        return added(n * mixer.cached(length, layout.tp) for n, mixer in self._mixers()) / layout.pp

    def state_bytes(self, layout: Layout) -> float:
        """Bytes per sequence that do not grow with its length, on one GPU of a stage."""
        return sum(n * mixer.state_bytes(layout.tp) for n, mixer in self._mixers()) / layout.pp

    def _mixers(self) -> list[tuple[int, Mixer]]:
        return [(layer.count, layer.mixer) for layer in self.layers_of if layer.mixer]

    def widest(self, layout: Layout) -> int:
        """Elements per token of the widest sublayer."""
        mixers = [mixer.widest(layout.tp) for _, mixer in self._mixers()]
        after = [layer.feed_forward.widest(layout.expert_tp) for layer in self.layers_of if layer.feed_forward]
        return max(mixers + after)

    def forward_ops(self, step: Step) -> tuple[OpCall, ...]:
        """The ops of one forward pass through all stages, on one GPU of each; equal ones once with their count."""
        merged: dict[tuple[str, object], OpCall] = {}
        calls = [OpCall("embedding", point("", "embedding", step.tokens, self.hidden, step).op, 1.0)]
        for layer in self.layers_of:
            sublayers = len(layer.parts)
            norm = point("add_rms_norm", "add_rms_norm", step.tokens, self.hidden, step)
            of_layer = [] if self._sums_are_normed(step) else [norm._replace(count=float(sublayers))]
            for part in layer.parts:
                apart = part is layer.feed_forward and not self.has_experts
                of_layer += part.calls(
                    self.hidden, step._replace(dtype=step.expert_dtype or step.dtype) if apart else step
                )
            of_layer += self._collectives(layer, step)
            if after := (self.norms // 2 - 1) * sublayers:
                alone = point("rms_norm", "rms_norm", step.tokens, self.hidden, step)
                of_layer.append(alone._replace(count=float(after)))
            calls += [call._replace(count=call.count * layer.count) for call in of_layer]
        calls.append(point("rms_norm", "rms_norm", step.tokens, self.hidden, step))
        head = Gemm(m=step.batch, n=-(-self.vocab // step.tp), k=self.hidden, dtype=step.act_dtype)
        calls.append(OpCall("lm_head", head, 1.0))
        if step.tp > 1:
            logits = step.batch * self.vocab * float(out_bytes(step.act_dtype))
            gather = Collective(kind="all_gather", message_bytes=logits, n_gpus=step.tp)
            calls.append(OpCall("logits_all_gather", gather, 1.0))
        for call in calls:
            key = (call.name, merged_key(call.op))
            merged[key] = call._replace(count=merged[key].count + call.count) if key in merged else call
        return tuple(merged.values())

    def _sums_are_normed(self, step: Step) -> bool:
        """Whether the all-reduce behind each sublayer also adds the residual and normalises for the next one."""
        return self.norms == 2 and self.has_experts and step.sums_are_normed("experts")

    def _collectives(self, layer: Layer, step: Step) -> list[OpCall]:
        """All-reduce after mixer and feed-forward; with attention-dp tokens are gathered for the experts, or sent to
        their own where those are fewer than the GPUs."""
        message = step.tokens * self.hidden * float(out_bytes(step.act_dtype))
        calls, experts = list[OpCall](), layer.feed_forward
        spread = isinstance(experts, Experts) and step.attention_dp > 1
        if step.tp > 1:
            reduce = Collective(kind="all_reduce", message_bytes=message, n_gpus=step.tp)
            calls.append(OpCall("all_reduce", reduce, float(len(layer.parts) - spread)))
        if isinstance(experts, Experts) and spread:
            gpus = step.tp * step.attention_dp
            if step.expert_tp == 1 and experts.topk < gpus:  # each token goes to its experts (DeepEP)
                copies = step.tokens * self.hidden * experts.topk / step.tp
                narrow = float(act_bytes(step.expert_dtype or step.dtype))  # dispatched as the experts multiply it
                sent = ("all_to_all", copies * narrow), ("all_to_all", copies * float(out_bytes(step.act_dtype)))
            else:
                sent = ("all_gather", message * step.attention_dp), ("reduce_scatter", message * step.attention_dp)
            for name, (kind, moved) in zip(("dispatch", "combine"), sent, strict=True):
                calls.append(OpCall(name, Collective(kind=kind, message_bytes=np.ceil(moved), n_gpus=gpus), 1.0))
        return calls


def unmeasured_notes(layers: tuple[Layer, ...]) -> tuple[str, ...]:
    """What to say of layers whose kernels nobody measured."""
    mixers, notes = [layer.mixer for layer in layers], list[str]()
    if any(isinstance(mixer, LinearAttention | Recurrence | Together) for mixer in mixers):
        notes.append("linear-attention layers are counted as projections and products with the state; not measured.")
    indexed = any(isinstance(mixer, LatentAttention) and mixer.index_topk for mixer in mixers)
    if indexed or any(isinstance(mixer, BlockSparseAttention | CompressedAttention) for mixer in mixers):
        notes.append("sparse attention is counted as dense attention over the keys that are read; not measured.")
    return tuple(notes)
