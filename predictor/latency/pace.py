"""How the parts of a training step run beside each other: computing, messages, the host, stages of a pipeline.

What a request leaves open of them is taken, and then as large and as small as it may be (`taken_and_ends`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from math import ceil, log
from typing import NamedTuple

from predictor.hardware.gpu import Gpu
from predictor.hardware.interconnect import FASTEST, SLOWEST, node_link_bytes_per_s
from predictor.latency.report import OpLine
from predictor.ops import Attention, Collective, Mla
from predictor.workloads.passes.calls import OpCall, Phase
from predictor.workloads.passes.parallel import group_of
from predictor.workloads.passes.training import TrainingCalls, TrainingSetting

STRAGGLING = 0.01  # of the step for each e-fold of GPUs beyond a node: every step waits for the slowest of them
HOST_DOUBT = 1.5  # of the host's times: what a program's own Python adds, and hosts, differ so many times
# The host's time to read how many tokens go to each expert and to issue what experts run, per layer and pass, of
# Megatron-Bridge; while tokens travel it is hidden, and another micro-batch is not issued meanwhile.
ROUTING_S = 2.5e-3
NEWEST_ATTENTION = "cudnn"  # what Transformer Engine runs
# What computing loses to a message beside it, of the message's time: 20 of 132 SMs send (DeepSeek-V3, arXiv:2412.19437,
# 3.2.2) beside kernels that leave them free (Transformer Engine's margins). Products of PyTorch, whose blocks are dealt
# out to all SMs, wait for those; 0.5 to 1 suit the fitted half of llm-foundry's runs alike, 0.5 torchtitan's in bf16.
SENDING_SMS, SHARED_SMS = 20 / 132, 0.5
# Which pass hides a message: weights are fetched a layer ahead, gradients sent while earlier layers are computed (below
# ZeRO 2 in the last pass only).
HIDDEN_BY = {
    "forward_all_gather": "forward",
    "backward_all_gather": "backward",
    "grad_reduce_scatter": "backward",
    "grad_all_reduce": "backward",
    "replicate_all_reduce": "backward",
}


class Unsaid(NamedTuple):
    """What a request may leave open: bytes per second of all links of a node, the host's times over those taken, and
    whether gradients are sent while earlier layers are computed."""

    between_bytes_per_s: float
    host: float = 1.0
    hidden: bool = True


def taken_and_ends(gpu: Gpu, setting: TrainingSetting) -> list[Unsaid]:
    """What is taken, and then with each in turn as large or small as it may be."""
    stated, of_gpu = setting.node_link_bytes_per_s, setting.gpus_per_node
    taken = Unsaid(stated or of_gpu * node_link_bytes_per_s(gpu))
    hosts = [taken._replace(host=share) for share in (1 + HOST_DOUBT, 1 / (1 + HOST_DOUBT))]
    networks = () if stated else (FASTEST, SLOWEST)
    between = [taken._replace(between_bytes_per_s=of_gpu * end.bytes_per_s) for end in networks]
    # PyTorch's DDP hides them; DeepSpeed's ZeRO 1 and 2 (overlap_comm), Megatron-Core (overlap_grad_reduce) and Apex
    # with messages as large as the model do not unless told to.
    shown = [taken._replace(hidden=False)] if setting.dp > 1 and setting.zero_stage < 3 else []
    return [taken, *hosts, *between, *shown]


class Pace(NamedTuple):
    """Seconds of a step by its parts. sends: whether messages are waited for."""

    times: Mapping[str, float]
    device_s: Mapping[str, float]
    exposed_s: float
    bubble_s: float
    sends: bool

    @property
    def step_s(self) -> float:
        """Seconds of all of them."""
        return sum(self.times.values()) + self.exposed_s + self.bubble_s


def paced(
    calls: TrainingCalls,
    lines: Sequence[Sequence[OpLine]],
    host: Mapping[str, float],
    streamed_s: float,
    setting: TrainingSetting,
    unsaid: Unsaid,
) -> Pace:
    """What a step takes. lines: of its phases, and of messages; host: seconds it takes to issue each phase; streamed_s:
    seconds of weights on their way from there."""
    *computed, messages = lines
    parts = zip(computed_phases(calls), computed, strict=True)
    device = {phase: _device_s(part, made, setting, unsaid) for (phase, made), part in parts}
    times = {phase: _taken_s(device[phase], host[phase] * unsaid.host, setting) for phase in device}
    exposed = _exposed(calls.communication, messages, times, setting, unsaid)
    exposed += max(streamed_s - times["forward"] - times["backward"], 0.0)
    bubble = (times["forward"] + times["backward"]) * (setting.pp - 1) / (setting.grad_accum * setting.vp)
    waited = _straggling(setting) * (sum(times.values()) + exposed + bubble)
    return Pace(times, device, exposed + waited, bubble, exposed > 0)


def computed_phases(calls: TrainingCalls) -> list[Phase]:
    """What a step computes, by phase."""
    return [("forward", calls.forward), ("backward", calls.backward), ("optimizer", calls.optimizer)]


def waits_for_routing(setting: TrainingSetting) -> bool:
    """Whether the host must read how many tokens go to each expert that is elsewhere."""
    return not (setting.moe_expert_capacity_factor or setting.cuda_graphs)


def _taken_s(device_s: float, host_s: float, setting: TrainingSetting) -> float:
    """Seconds of a phase: the GPU computes while the host issues what follows, unless the host waits for it."""
    return device_s + host_s if setting.host_waits else max(device_s, host_s)


def _beside_s(message_s: float, computing_s: float, setting: TrainingSetting) -> float:
    """Seconds that a message adds to the computing beside it, which it leaves fewer SMs."""
    lost = SENDING_SMS if setting.attention == NEWEST_ATTENTION else SHARED_SMS
    return max(message_s - computing_s, 0.0) + lost * min(message_s, computing_s)


def _straggling(setting: TrainingSetting) -> float:
    """Share of a step that is waited for the slowest of the GPUs, which grows as the extreme of so many does."""
    return STRAGGLING * log(max(setting.n_gpus / setting.gpus_per_node, 1.0))


def within_node(call: OpCall, setting: TrainingSetting) -> OpCall:
    """The part of a message that travels between the GPUs of a node (of two where a group has one there)."""
    group = group_of(call.name, setting) if isinstance(call.op, Collective) else None
    if group is None or not isinstance(call.op, Collective):
        return call
    share = group.local / group.gpus if call.op.kind == "all_to_all" else 1.0
    message = float(ceil(float(call.op.message_bytes) * share))
    return call._replace(op=replace(call.op, message_bytes=message, n_gpus=max(group.local, 2)))


def _sent_s(line: OpLine, call: OpCall, setting: TrainingSetting, unsaid: Unsaid) -> float:
    """Seconds of a message: within the node and, beside that, through the links of the node, which all its GPUs share.

    Each node must receive the (nodes - 1) / nodes of the buffer that others hold; twice for an all-reduce. Between
    stages, and to experts, every GPU sends its own.
    """
    group, op = group_of(call.name, setting), call.op
    if group is None or not isinstance(op, Collective):
        return line.latency_s.value
    within = line.latency_s.value if group.local > 1 else 0.0
    if group.nodes <= 1:
        return within
    own = op.kind in ("all_to_all", "send_recv")
    buffers = setting.gpus_per_node // (1 if own else group.local)
    share = 1.0 if op.kind == "send_recv" else (group.nodes - 1) / group.nodes
    received = (2.0 if op.kind == "all_reduce" else 1.0) * buffers * float(op.message_bytes) * share
    return max(within, call.count * received / unsaid.between_bytes_per_s)


def _device_s(lines: Sequence[OpLine], calls: Sequence[OpCall], setting: TrainingSetting, unsaid: Unsaid) -> float:
    """Seconds of a phase on the GPU, with what its messages take beyond the computing beside them.

    Overlapped with the products of a layer, a message is sent in tp parts: what is gathered starts with the part that
    is there, of what is reduced the last part is waited for (Transformer Engine, comm_gemm_overlap.cpp). Keys and
    values go around a ring beside attention; what experts are sent, beside another micro-batch. The host reads how
    many tokens go where and issues what follows; experts of a fixed capacity, and captured graphs, need no such
    count.
    """
    times = dict.fromkeys(("gemm", "attention", "other", "layer", "ring", "experts"), 0.0)
    for line, call in zip(lines, calls, strict=True):
        times[_hidden_kind(line, call, setting)] += _sent_s(line, call, setting, unsaid)
    last = times["layer"] / 2 / setting.tp
    layer = last + _beside_s(times["layer"] - last, times["gemm"], setting)
    ring = _beside_s(times["ring"], times["attention"], setting)
    computed = times["gemm"] + times["attention"] + times["other"] + layer + ring
    experts = _beside_s(times["experts"], computed, setting) if setting.overlap_ep else times["experts"]
    if times["experts"] and waits_for_routing(setting):
        passes = sum(call.count for call in calls if call.name.startswith("dispatch"))
        experts = max(experts, unsaid.host * ROUTING_S * passes)
    return computed + experts


def _hidden_kind(line: OpLine, call: OpCall, setting: TrainingSetting) -> str:
    """What a call is to others of its phase: computing that hides messages, or a message that is hidden."""
    if isinstance(call.op, Collective):
        if call.name.startswith(("dispatch", "combine")):
            return "experts"
        if call.name.startswith("cp_p2p"):
            return "ring"
        return "layer" if setting.overlap_tp and group_of(call.name, setting) is None else "other"
    return "gemm" if line.estimator == "gemm" else "attention" if isinstance(call.op, Attention | Mla) else "other"


def _exposed(
    calls: Sequence[OpCall],
    messages: Sequence[OpLine],
    times: Mapping[str, float],
    setting: TrainingSetting,
    unsaid: Unsaid,
) -> float:
    """Seconds of communication that no computing hides."""
    waits: dict[str, float] = {}
    ahead = setting.prefetch and not setting.host_waits
    for call, line in zip(calls, messages, strict=True):
        name = call.name.removeprefix("expert_")
        phase = HIDDEN_BY.get(name, "") if ahead and (unsaid.hidden or not name.startswith("grad_")) else ""
        if call.name == "stage_send_recv" and setting.vp > 1:  # of another chunk than is computed
            phase = "forward"
        waits[phase] = waits.get(phase, 0.0) + _sent_s(line, call, setting, unsaid)
    passes = 1 if setting.zero_stage > 1 else setting.grad_accum
    room = {"forward": times["forward"], "backward": times["backward"] / passes, "": 0.0}
    return sum(_beside_s(wait, room[phase], setting) for phase, wait in waits.items())
