"""How the GPUs of a training run share a model: rules of a layout, its groups, stages of the pipeline, split ops.

Names are those of Megatron-Core (parallel_state.py). Neighbouring ranks share a layer (tp), then a sequence (cp), then
are replicas (dp), then stages (pp); for experts: expert_tp, ep, replicas of the experts, pp.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from math import ceil
from typing import NamedTuple, Protocol

from predictor.errors import InvalidRequest
from predictor.ops import Attention, Collective, Gemm, Mla, Moe, Pointwise
from predictor.ops.dtypes import dtype_facts
from predictor.workloads.passes.backward import OUTSIDE_LAYERS, TABLES
from predictor.workloads.passes.calls import Layout, OpCall

# Of the residual stream, and so alike on all tp GPUs unless they split the tokens.
ALIKE = ("rms_norm", "add_rms_norm", "layer_norm", "add", "shared_add", "router", "routing")
# Copies of tokens pass through memory by rank and by expert on the way there, and so on the way back (Megatron-Core,
# token_dispatcher.py), where it is not the kernel that sends them which sorts them.
SORTED = 3.0
ROUTED_BYTES = 2.0  # of an element on its way to an expert and back


@dataclass(frozen=True, slots=True, kw_only=True)
class Parallel:
    """How the GPUs of a training run share a model and its tokens; `check_layout` says what no engine runs.

    tp, pp, dp: GPUs per layer, stages, replicas. vp: chunks of layers on each stage, interleaved. cp: GPUs that share a
    sequence, joined by cp_comm_type. ep: GPUs among which experts are dealt, out of those of tp, cp and dp; expert_tp:
    GPUs that split the columns of an expert, 0: tp.
    zero_stage: what dp * cp GPUs share out: 0 nothing, 1 optimizer state, 2 gradients too, 3 weights too (FSDP
    FULL_SHARD); dp_replicate: copies of that (HSDP).
    sequence_parallel: what tensor parallelism leaves whole, such as norms, is split over the tokens.
    moe_token_dispatcher_type: "alltoall" of a library, or "flex", kernels that send each node one copy of a token.
    moe_expert_capacity_factor: tokens for which each of several experts has room, over an even share; 0: for all.
    overlap_tp, overlap_ep: messages of layers run beside matrix products, those to experts beside another micro-batch.
    """

    tp: int = 1
    pp: int = 1
    vp: int = 1
    cp: int = 1
    cp_comm_type: str = "p2p"
    ep: int = 1
    expert_tp: int = 0
    moe_token_dispatcher_type: str = "alltoall"
    moe_expert_capacity_factor: float = 0.0
    dp: int = 1
    dp_replicate: int = 1
    zero_stage: int = 0
    sequence_parallel: bool = False
    overlap_tp: bool = False
    overlap_ep: bool = False
    gpus_per_node: int = 8

    @property
    def n_gpus(self) -> int:
        """GPUs that train together."""
        return self.tp * self.pp * self.cp * self.dp

    @property
    def expert_columns(self) -> int:
        """GPUs that split the columns of an expert."""
        return self.expert_tp or self.tp

    @property
    def shards(self) -> int:
        """GPUs over which ZeRO shares out what all tokens use: replicas and parts of a sequence."""
        return self.dp // self.dp_replicate * self.cp

    @property
    def expert_shards(self) -> int:
        """GPUs over which ZeRO shares out an expert."""
        return self.shards * self.tp // (self.ep * self.expert_columns)


class Splittable(Protocol):
    """What a layout needs of a model."""

    @property
    def name(self) -> str:
        """Name of the model."""

    @property
    def layers(self) -> int:
        """Repeated layers."""

    def check(self, layout: Layout) -> None:
        """Raises InvalidRequest where the model cannot be split so."""


class Group(NamedTuple):
    """GPUs that exchange messages; local: those of one node."""

    gpus: int
    local: int

    @property
    def nodes(self) -> float:
        """Nodes that a group spans."""
        return self.gpus / self.local


class Stage(NamedTuple):
    """A stage of the pipeline: its layers, whether embedding and head are on it, and the micro-batches whose
    activations it keeps at once."""

    layers: int
    embeds: bool
    heads: bool
    flying: float


def group_of(message: str, setting: Parallel) -> Group | None:
    """The GPUs that exchange a message of that name; None where one node holds them, as those that share a layer."""
    columns, shared = setting.expert_columns, setting.tp * setting.shards
    sizes = {  # GPUs, and how far apart they are
        "cp_": (setting.cp, setting.tp),
        "dispatch": (setting.ep, columns),
        "combine": (setting.ep, columns),
        "replicate_": (setting.dp_replicate, shared),
        "expert_replicate_": (setting.dp_replicate, shared),
        "expert_": (setting.expert_shards, columns * setting.ep),
        **dict.fromkeys(("grad_", "weight_", "forward_", "backward_"), (setting.shards, setting.tp)),
    }
    if message.startswith("stage_"):
        return Group(2, 2 if setting.tp * setting.cp * setting.dp * setting.pp <= setting.gpus_per_node else 1)
    known = next((name for name in sizes if message.startswith(name)), "")
    if not known:
        return None
    gpus, apart = sizes[known]
    return Group(gpus, min(gpus, max(setting.gpus_per_node // apart, 1)))


def check_layout(setting: Parallel, seq_len: int) -> None:
    """Raises InvalidRequest for what no engine runs, whatever the model."""
    if setting.tp > setting.gpus_per_node:
        raise InvalidRequest(
            f"tp is {setting.tp}; it must be at most the {setting.gpus_per_node} GPUs of a node. Lower tp or raise pp."
        )
    if setting.ep > 1 and setting.tp > 1 and not setting.sequence_parallel:
        raise InvalidRequest(
            f"ep is {setting.ep} with tp {setting.tp}; the GPUs of a layer must send tokens of their own to experts. "
            "Set sequence_parallel to 1."
        )
    if setting.vp > 1 and setting.pp == 1:
        raise InvalidRequest(f"vp is {setting.vp}; a pipeline of 1 stage has nothing to interleave. Raise pp.")
    if setting.cp > 1 and seq_len % (2 * setting.cp):
        raise InvalidRequest(
            f"cp is {setting.cp}; 2 * cp must divide seq_len, {seq_len}, as each GPU takes a part of the start "
            "and one of the end. Lower cp or pad the sequences."
        )
    if not 0 <= (factor := setting.moe_expert_capacity_factor) < float("inf"):
        raise InvalidRequest(f"moe_expert_capacity_factor is {factor}; it must be at least 0: 0 drops no token.")
    if setting.dp % setting.dp_replicate:
        raise InvalidRequest(f"dp_replicate is {setting.dp_replicate}; it must divide dp, {setting.dp}.")
    if setting.dp_replicate > 1 and not setting.zero_stage:
        raise InvalidRequest(
            f"dp_replicate is {setting.dp_replicate}; zero_stage 0 shards nothing, so that all replicas are such. Set "
            "zero_stage to 1, 2 or 3."
        )
    ranks = setting.tp * setting.shards
    if ranks % setting.expert_columns:
        raise InvalidRequest(
            f"expert_tp is {setting.expert_tp}; it must divide the {ranks} GPUs of tp * cp * dp / dp_replicate."
        )
    if ranks // setting.expert_columns % setting.ep:
        raise InvalidRequest(
            f"ep is {setting.ep}; it must divide tp * cp * dp / (dp_replicate * expert_tp), "
            f"{ranks // setting.expert_columns}. Lower ep or add GPUs."
        )


def check_split(model: Splittable, setting: Parallel) -> None:
    """Raises InvalidRequest where the model cannot be split so."""
    if setting.pp * setting.vp > model.layers:
        chunks = "pp" if setting.vp == 1 else "pp * vp"
        raise InvalidRequest(
            f"{chunks} is {setting.pp * setting.vp}; {model.name} has {model.layers} layers. Lower {chunks}."
        )
    columns = setting.expert_columns
    if setting.ep == 1 and columns == setting.tp:
        model.check(Layout(setting.tp, setting.pp, setting.dp))
        return
    if not getattr(model, "experts", ""):
        name = "ep" if setting.ep > 1 else "expert_tp"
        raise InvalidRequest(f"{name} is {getattr(setting, name)}; {model.name} has no experts. Leave it out.")
    model.check(as_served(setting))


def as_served(setting: Parallel) -> Layout:
    """The layout of serving whose GPUs hold as many columns and experts."""
    spread = max(setting.ep * setting.expert_columns // setting.tp, 1)
    return Layout(setting.tp, setting.pp, setting.dp, setting.tp * spread // setting.expert_columns, spread)


def split(served: Iterable[OpCall], setting: Parallel) -> tuple[OpCall, ...]:
    """The ops of one GPU of a layout, of those of tp GPUs that hold 1 / cp of the tokens and all experts."""
    calls = [part for call in served for part in _in_context(_in_sequence(call, setting), setting)]
    return tuple(_over_experts(calls, setting))


def _in_sequence(call: OpCall, setting: Parallel) -> OpCall:
    """What tp GPUs do alike, each for a part of the tokens."""
    op, tp = call.op, setting.tp
    if tp == 1 or not setting.sequence_parallel or call.name not in ALIKE:
        return call
    if isinstance(op, Gemm):
        return call._replace(op=replace(op, m=ceil(float(op.m) / tp)))
    return call._replace(op=replace(op, rows=ceil(float(op.rows) / tp))) if isinstance(op, Pointwise) else call


def _in_context(call: OpCall, setting: Parallel) -> list[OpCall]:
    """Attention of the whole sequence, of which each of cp GPUs does its share, with the keys and values of others."""
    op, cp = call.op, setting.cp
    if cp == 1 or not isinstance(op, Attention | Mla):
        return [call]
    tokens = float(op.batch) * float(op.q_len)
    if isinstance(op, Attention):
        if setting.cp_comm_type == "a2a" and float(op.heads) % cp:
            raise InvalidRequest(
                f"cp is {cp} with cp_comm_type a2a; it must divide the {op.heads:g} attention heads of a GPU. Use p2p."
            )
        queries, keys = float(op.heads * op.head_dim), 2.0 * float(op.kv_heads * op.head_dim)
    else:
        queries = float(op.heads * (op.nope_dim + op.rope_dim))
        keys = queries + float(op.heads * op.v_dim)
    whole = replace(op, q_len=op.q_len * cp, kv_len=op.kv_len * cp)
    if setting.cp_comm_type == "a2a":
        sent = Collective(kind="all_to_all", message_bytes=2.0 * tokens * (2.0 * queries + keys), n_gpus=cp)
    else:
        sent = Collective(kind="all_gather", message_bytes=2.0 * tokens * keys * cp, n_gpus=cp)
    return [call._replace(op=whole, count=call.count / cp), OpCall(f"cp_{setting.cp_comm_type}", sent, call.count)]


def _over_experts(calls: Iterable[OpCall], setting: Parallel) -> list[OpCall]:
    """Experts dealt to ep GPUs, to which tokens are sent and from which they come back.

    The tp GPUs of an attention send a part of the tokens each, and get it back summed up: no all-reduce follows.
    Routers are trained to be balanced.
    """
    columns, routed, result = setting.expert_columns, 0.0, list[OpCall]()
    spread = setting.ep > 1 or columns != setting.tp
    for call in calls:
        op = call.op
        if not isinstance(op, Moe):
            result.append(call)
            continue
        if not spread:
            result.append(call._replace(op=replace(op, skew=0.0)))
            continue
        own = float(op.tokens) / setting.tp * (setting.moe_expert_capacity_factor or 1.0)
        routed += call.count
        held, visits = float(op.experts) / setting.ep, min(float(op.topk), float(op.experts) / setting.ep)
        tokens = float(ceil(own * columns * float(op.topk) / visits))  # so many copies arrive
        result.append(
            call._replace(op=replace(op, tokens=tokens, topk=visits, experts=held, tp=columns, ep=1.0, skew=0.0))
        )
        width = float(op.hidden) * ROUTED_BYTES
        if setting.ep > 1:
            message = float(ceil(own * _sent_copies(float(op.topk), setting) * width))
            sent = Collective(kind="all_to_all", message_bytes=message, n_gpus=setting.ep)
            result += [OpCall(name, sent, call.count) for name in ("dispatch", "combine")]
            if setting.moe_token_dispatcher_type == "alltoall":
                sorted_ = Pointwise(kind="copy", rows=ceil(own * float(op.topk)), cols=op.hidden, dtype="bf16")
                result.append(OpCall("permute", sorted_, call.count * (SORTED + 1.0 / float(op.topk))))
        if columns > 1:
            summed = Collective(
                kind="all_reduce", message_bytes=float(ceil(own * float(op.topk) * width * columns)), n_gpus=columns
            )
            result.append(OpCall("routed_all_reduce", summed, call.count))
    if not routed or setting.tp == 1:
        return result
    return [call._replace(count=call.count - routed) if call.name == "all_reduce" else call for call in result]


def _sent_copies(topk: float, setting: Parallel) -> float:
    """Copies of a token on its way to topk experts: one each or, by kernels that sort tokens, one for all experts of a
    node or, within a node, of a GPU."""
    group = group_of("dispatch", setting)
    if setting.moe_token_dispatcher_type == "alltoall" or group is None:
        return topk
    targets = group.nodes if group.nodes > 1 else group.gpus
    return targets * (1.0 - float((1 - 1 / targets) ** topk))


def stages(layers: int, setting: Parallel, passes: int) -> tuple[Stage, ...]:
    """The first stage, the first of those with most layers, and the last one. passes: of an optimizer step.

    Layers that do not divide are missing at the ends, where embedding and head are (Megatron-Core:
    account_for_embedding_in_pipeline_split). 1F1B keeps pp micro-batches on the first stage; interleaved with vp chunks
    of layers a stage (pp - 1) / vp more (Narayanan et al., arXiv:2104.04473, 2.2; Korthikanti et al., arXiv:2205.05198,
    4.2.3).
    """
    pp, vp, most = setting.pp, setting.vp, ceil(layers / setting.pp)
    if pp == 1:
        return (Stage(layers, True, True, 1.0),)
    order = [pp - 1, 0, *range(pp - 2, 0, -1)]
    fewer = set(order[: most * pp - layers])
    fullest = next(stage for stage in range(pp) if stage not in fewer)

    def stage(at: int) -> Stage:
        chunks = pp - at if vp == 1 else 2.0 * (pp - at - 1) + (vp - 1) * pp + 1
        flying = min(chunks / vp, float(passes))
        return Stage(most - (at in fewer), at == 0, at == pp - 1, flying)

    return tuple(stage(at) for at in sorted({0, fullest, pp - 1}))


def slowest(forward: Sequence[OpCall], of: Sequence[Stage], layers: int) -> Stage:
    """The one of the stages with most arithmetic, weighed by the bits of its format."""
    inside = outside = 0.0
    for call in forward:
        if isinstance(call.op, Collective):
            continue
        work = float(call.op.flops()) * call.count * dtype_facts(str(getattr(call.op, "dtype", "bf16"))).act_bits
        if call.name in OUTSIDE_LAYERS:
            outside += work
        else:
            inside += work / layers
    return max(of, key=lambda stage: stage.layers * inside + stage.heads * outside)


def staged(forward: Iterable[OpCall], layers: int, stage: Stage) -> list[OpCall]:
    """The calls of one stage."""
    calls = list[OpCall]()
    for call in forward:
        if call.name not in OUTSIDE_LAYERS:
            calls.append(call._replace(count=call.count * stage.layers / layers))
        elif stage.embeds if call.name in TABLES else stage.heads:
            calls.append(call)
    return calls
