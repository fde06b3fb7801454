"""How long one optimizer step of training takes: its ops, the communication that nothing hides, pipeline bubbles."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from math import hypot
from typing import Any

from predictor.errors import UnsupportedDtype
from predictor.estimators.bundle import Bundle
from predictor.hardware.architectures import generation
from predictor.hardware.gpu import Gpu
from predictor.hardware.interconnect import FASTEST, SLOWEST, Links, node_link_bytes_per_s
from predictor.hardware.power import steady_flop_per_s
from predictor.hardware.price import usd_per_mtok
from predictor.latency.pace import (
    HIDDEN_BY,
    NEWEST_ATTENTION,
    ROUTING_S,
    computed_phases,
    paced,
    taken_and_ends,
    waits_for_routing,
    within_node,
)
from predictor.latency.report import EXPERTS_DOUBT, SOFTWARE_DOUBT, Interval, OpLine, doubted
from predictor.latency.steps import bound_lines, doubts_of, op_lines, total
from predictor.latency.whole_run import WholeRun, mean_power_w, run_note, trained_tokens, whole_run
from predictor.memory.training import TrainingMemory
from predictor.ops import Pointwise
from predictor.units import HOUR
from predictor.workloads.engines import host_share
from predictor.workloads.passes.backward import fetches
from predictor.workloads.passes.calls import OpCall, Phase
from predictor.workloads.passes.lengths import lengths_note
from predictor.workloads.passes.parallel import as_served
from predictor.workloads.passes.recipes import BLOCK_SCALED
from predictor.workloads.passes.training import (
    Trainable,
    TrainingCalls,
    TrainingSetting,
    model_flops_per_token,
    training_calls,
)
from predictor.workloads.request import Request
from predictor.workloads.results import ENDS, RUN_COLUMNS

ENGINE = "vllm"  # whose kernels the estimators answer for: large GEMMs and FlashAttention-2 are the same libraries
LIBRARY = "nccl"
# FlashAttention-2 keeps to the instructions of Ampere: 0.35 of H100's peak (Shah et al., arXiv:2407.08608, 1), which is
# more than older parts reach of theirs.
FLASH2_FLOP_PER_SM_CYCLE = 1300.0
# Host times, transposing and waiting for routing were fitted on one half of the measured configurations
# (predictor/learning/validation); the three below and STRAGGLING were chosen with all of them in view.
STEADY_DOUBT = 0.2  # of what board power or an old kernel slows: boards differ, and what else draws power
RECIPE_DOUBT = 0.12  # of products in 8 or 4 bits: libraries differ in what narrows operands, and what is fused
AMONG_OTHERS = 1.1  # time of a product that power does not hold over its time alone: transposed operands, cold caches
HOST_S_PER_OP = 23e-6  # the host's time to issue an op of the list, Python and autograd included (41 us beside A100)
# And for each message of ZeRO 3, or to fetch the weights of a matrix that it has not fetched ahead (0.75 ms).
HOST_S_PER_FETCH = 0.42e-3
# How much longer, as a share, what PyTorch's own kernels take where none of its steps chose a constant: on GPUs of
# generations on which none was timed, and around a ring of GPUs.
UNTIMED_DOUBT = 0.65
# And what steps of whole replicas take, whose processes share hosts, loaders and links: chosen on Lambda's A100s.
REPLICAS_DOUBT = 0.3
# To the host's memory and back through PCIe 4 x16; and its step of one parameter.
HOST_BYTES_PER_S, HOST_STEP_S = 25e9, 2.6e-10
# Kinds whose times are of serving engines' own kernels; PyTorch's, compilers' and Transformer Engine's move as many
# bytes as fast as an addition does.
STREAMED = frozenset({"rms_norm", "add_rms_norm", "silu", "silu_mul", "rope"})
FROZEN = 2 / 3  # of the FLOPs of a step are those without gradients of weights, which adapters leave as they are


@dataclass(frozen=True, slots=True)
class TrainingStep:
    """One optimizer step. Times in seconds; the parts add up to step_s.value.

    forward_s, backward_s (recomputation included), optimizer_s: on the slowest stage. communication_s: what computing
    does not hide, and what it loses beside messages. bubble_s: what a stage waits for the others. mfu: model FLOPs
    over the time at the dense peak, of adapters without those of frozen weights' gradients. power_w: that a GPU draws
    in the mean, 0.0 where nobody knows its limit. device_s: of each phase, without waiting for the host.
    """

    setting: TrainingSetting
    gpu: Gpu
    step_s: Interval
    tokens_per_s: Interval
    mfu: float
    power_w: float
    forward_s: float
    backward_s: float
    optimizer_s: float
    communication_s: float
    bubble_s: float
    lines: tuple[OpLine, ...]
    device_s: Mapping[str, float]

    def time_for_tokens(self, tokens: float) -> Interval:
        """Seconds to train on that many tokens, whole steps or not."""
        return Interval(*(tokens / self.setting.step_tokens * end for end in self.step_s))


def training_step(model: Trainable, gpu: Gpu, setting: TrainingSetting, bundle: Bundle) -> TrainingStep:
    """Predicts one optimizer step of `model` on setting.n_gpus × `gpu`.

    Of every pass, communication is exposed as far as it takes longer than the computing beside it; pipelines run 1F1B:
    (pp - 1) / vp of grad_accum passes are waited for (Narayanan et al., arXiv:2104.04473, 2.2).
    """
    _check_units(gpu, setting)
    asked, setting = setting, setting.timed
    calls, links = training_calls(model, setting), Links(setting.link)
    phases, sent = _phases(calls, setting)
    alone = op_lines(phases, gpu, ENGINE, bundle, links)
    computed = [[_within_step(line, gpu, setting) for line in lines] for lines in alone]
    (messages,) = op_lines(sent, gpu, LIBRARY, bundle, links)
    host = {phase: host_share(gpu.generation) * _host_s(phase, made, calls, setting) for phase, made in phases}
    host["optimizer"] = max(host["optimizer"], _offloaded_s(model, setting))
    streamed_s = _streamed_bytes(model, setting) / HOST_BYTES_PER_S
    pace, *others = (
        paced(calls, (*computed, messages), host, streamed_s, setting, unsaid)
        for unsaid in taken_and_ends(gpu, setting)
    )
    value, lines = pace.step_s, [line for part in (*computed, messages) for line in part]
    waited_for = lines if pace.sends else lines[: len(lines) - len(messages)]
    software = EXPERTS_DOUBT if _is_routed(calls) else SOFTWARE_DOUBT
    step = doubted(
        value,
        total(waited_for, gpu, bundle),
        sum(line.bound_s for part in computed for line in part),
        hypot(software, STEADY_DOUBT * _held_s(alone, computed) / value, RECIPE_DOUBT if setting.recipe else 0.0),
        slower=hypot(
            UNTIMED_DOUBT * _untimed(gpu, setting),
            REPLICAS_DOUBT * (setting.dp > 1 and setting.zero_stage == 0),
            asked.tail_doubt,
            *(max(other.step_s / value - 1, 0.0) for other in others),
        ),
        faster=hypot(*(max(value / other.step_s - 1, 0.0) for other in others)),
    )
    tokens = asked.step_tokens
    flops = model_flops_per_token(model, asked.known_len) * tokens * (1.0 if setting.method == "full" else FROZEN)
    return TrainingStep(
        setting=asked,
        gpu=gpu,
        step_s=step,
        tokens_per_s=Interval(tokens / step.value, tokens / step.high, tokens / step.low),
        mfu=flops / (step.value * gpu.peak(setting.peak_dtype) * setting.n_gpus),
        power_w=mean_power_w([line for part in computed for line in part], step.value, gpu),
        forward_s=pace.times["forward"],
        backward_s=pace.times["backward"],
        optimizer_s=pace.times["optimizer"],
        communication_s=pace.exposed_s,
        bubble_s=pace.bubble_s,
        lines=tuple(lines),
        device_s=pace.device_s,
    )


def doubts(model: Trainable, gpu: Gpu, setting: TrainingSetting, bundle: Bundle) -> list[str]:
    """What the report of a step notes of its GPU and its ops, without their latencies."""
    phases, sent = _phases(training_calls(model, setting.timed), setting.timed)
    links = Links(setting.link)
    lines = bound_lines(phases, gpu, ENGINE, bundle, links) + bound_lines(sent, gpu, LIBRARY, bundle, links)
    gpu.peak(setting.peak_dtype)  # the step's MFU needs it
    return [*training_notes(gpu, setting), *doubts_of([line for part in lines for line in part], gpu, bundle)[1]]


def training_notes(gpu: Gpu, setting: TrainingSetting) -> list[str]:
    """What to say of padding, of the width of arithmetic where 32 bits may mean two, and of kernels nobody timed."""
    notes, dtype = [note] if (note := lengths_note(setting)) else [], setting.dtype
    if dtype == "fp32" and "tf32" in gpu.peak_flop_per_s:
        notes.append(
            'fp32: products are in fp32, as by default in PyTorch. dtype="tf32" is allow_tf32, which is faster.'
        )
    if dtype == "tf32":
        notes.append("tf32: products read 19 of the 32 bits (allow_tf32 of PyTorch); all else is in fp32.")
    if setting.node_link_bytes_per_s is None and setting.n_gpus > setting.gpus_per_node:
        taken, least, most = (8e-9 * rate for rate in (node_link_bytes_per_s(gpu), SLOWEST[0], FASTEST[0]))
        notes.append(
            f"node_link is not stated: {taken:.0f} Gb/s of each GPU between nodes are taken, and the interval spans "
            f"{least:.0f} to {most:.0f}."
        )
    if setting.ep > 1 and waits_for_routing(setting):
        notes.append(
            f"experts: {1e3 * ROUTING_S:g} ms in each layer and pass at least, in which the host reads how many tokens "
            "go where (Megatron-Core; other programs differ). cuda_graphs and moe_expert_capacity_factor need no such "
            "wait."
        )
    if _untimed(gpu, setting):
        where = f"around {setting.cp} GPUs" if generation(gpu.generation).trained_on else f"on {gpu.generation}"
        notes.append(f"PyTorch's kernels were not timed {where} in training: the interval is wider.")
    return notes


def energy_note(step: TrainingStep, request: Request) -> str:
    """What to say of the energy of a whole training; "" where its length is not asked."""
    return (
        run_note(step.power_w, step.gpu, request.pue) if trained_tokens(request, step.setting.sequence_tokens) else ""
    )


def _is_routed(calls: TrainingCalls) -> bool:
    """Whether tokens travel to experts."""
    return any(call.name == "dispatch" for call in calls.forward)


def _phases(calls: TrainingCalls, setting: TrainingSetting) -> tuple[list[Phase], list[Phase]]:
    """What a step computes, and what it sends, both as far as they stay within a node."""

    def local(made: Sequence[OpCall]) -> list[OpCall]:
        return [_streamed(within_node(call, setting)) for call in made]

    computed: list[Phase] = [(name, local(made)) for name, made in computed_phases(calls)]
    return computed, [("communication", local(calls.communication))]


def _streamed(call: OpCall) -> OpCall:
    """A call as an addition that moves as many bytes, where its own kernel is a serving engine's."""
    op = call.op
    if not isinstance(op, Pointwise) or str(op.kind) not in STREAMED:
        return call
    added = replace(op, kind="add")
    return call._replace(op=added, count=call.count * float(op.bytes_moved()) / float(added.bytes_moved()))


def _check_units(gpu: Gpu, setting: TrainingSetting) -> None:
    """Raises UnsupportedDtype where a GPU has no units that take scales of blocks, which came with those for fp4."""
    if setting.dtype in BLOCK_SCALED and "fp4" not in gpu.peak_flop_per_s:
        instead = next(dtype for dtype in ("fp8", "bf16", "fp16", "fp32") if dtype in gpu.peak_flop_per_s)
        raise UnsupportedDtype(f'{gpu.name} has no units that scale blocks for {setting.dtype}; use dtype="{instead}".')


def _within_step(line: OpLine, gpu: Gpu, setting: TrainingSetting) -> OpLine:
    """A line as it takes among the others of a step: products no faster than board power holds for seconds, attention
    no faster than its kernel."""
    flops = float(line.op.flops()) * line.count
    if not flops or line.op.family in ("pointwise", "collective"):
        return line
    alone_s = line.latency_s.value
    least = max(flops / float(steady_flop_per_s(line.op, gpu)[0]), alone_s)
    if line.op.family in ("gemm", "moe"):
        least = max(least, AMONG_OTHERS * alone_s)
    if line.op.family == "attention" and setting.attention != NEWEST_ATTENTION and gpu.vendor == "NVIDIA":
        least = max(least, flops / (FLASH2_FLOP_PER_SM_CYCLE * gpu.sms * gpu.boost_clock_hz))
    return line._replace(latency_s=Interval(*(end * least / alone_s for end in line.latency_s)))


def _held_s(alone: Sequence[Sequence[OpLine]], computed: Sequence[Sequence[OpLine]]) -> float:
    """Seconds of lines that board power or their kernel slows within a step."""
    pairs = [pair for parts in zip(alone, computed, strict=True) for pair in zip(*parts, strict=True)]
    slowed = AMONG_OTHERS * (1 + 1e-9)
    return sum(one.latency_s.value for free, one in pairs if one.latency_s.value > slowed * free.latency_s.value)


def _untimed(gpu: Gpu, setting: TrainingSetting) -> bool:
    """Whether PyTorch's kernels run where nobody timed them."""
    return setting.attention != NEWEST_ATTENTION and (not generation(gpu.generation).trained_on or setting.cp > 1)


def _host_s(phase: str, made: Sequence[OpCall], calls: TrainingCalls, setting: TrainingSetting) -> float:
    """Seconds the host takes to issue a phase; a fraction of a count stands for a kernel or a part of one."""
    issued = 0.0 if setting.cuda_graphs else HOST_S_PER_OP * sum(call.count for call in made)
    if setting.zero_stage < 3:
        return issued
    if not setting.prefetch:
        return issued + HOST_S_PER_FETCH * sum(call.count for call in made if fetches(call))
    sent = (call.count for call in calls.communication if HIDDEN_BY.get(call.name.removeprefix("expert_")) == phase)
    return issued + HOST_S_PER_FETCH * sum(sent)


def _offloaded_s(model: Trainable, setting: TrainingSetting) -> float:
    """Seconds of an optimizer step on the host: gradients go there and weights come back, all GPUs of a node at once.

    Ren et al., ZeRO-Offload, arXiv:2101.06840, table 4: 2.6 s for ten billion parameters.
    """
    if setting.offload == "none" or setting.method != "full":
        return 0.0
    elements = sum(model.elements(as_served(setting))) / (setting.shards if setting.zero_stage else 1)
    return elements * (min(setting.n_gpus, setting.gpus_per_node) * HOST_STEP_S + 4.0 / HOST_BYTES_PER_S)


def _streamed_bytes(model: Trainable, setting: TrainingSetting) -> float:
    """Weights that come from the host, forward and backward, in 16 bits and a layer ahead."""
    if setting.offload != "parameters":
        return 0.0
    fetched = 2 * 2.0 * sum(model.elements(as_served(setting))) * setting.grad_accum
    return fetched / (setting.shards if setting.zero_stage > 2 else 1)


@dataclass(frozen=True, slots=True)
class TrainingReport:
    """The answer for one training step of `model` on n_gpus × `gpu`."""

    request: Request
    model: str
    gpu: Gpu
    step: TrainingStep
    memory: TrainingMemory
    limiter: str
    basis: str
    nearest_gpu: str
    bundle: str
    level: float
    notes: tuple[str, ...]
    price_usd: float | None = None
    price_source: str = ""

    @property
    def n_gpus(self) -> int:
        """GPUs that train together."""
        return self.step.setting.n_gpus

    @property
    def step_s(self) -> Interval:
        """Seconds of one optimizer step."""
        return self.step.step_s

    @property
    def tokens_per_s(self) -> Interval:
        """Trained tokens per second over all GPUs."""
        return self.step.tokens_per_s

    @property
    def mfu(self) -> float:
        """Model FLOPs over the time at the dense peak."""
        return self.step.mfu

    @property
    def usd_per_mtok(self) -> float | None:
        """Price of training on a million tokens; None where the price of the GPU is not known."""
        if self.price_usd is None:
            return None
        return usd_per_mtok(self.price_usd * self.n_gpus, self.tokens_per_s.value)

    @property
    def whole(self) -> WholeRun | None:
        """Hours, price and energy of the whole training; None where the request does not say how long it is."""
        tokens = trained_tokens(self.request, self.step.setting.sequence_tokens)
        if not tokens:
            return None
        seconds = self.time_for_tokens(tokens)
        return whole_run(seconds, self.n_gpus, self.step.power_w, self.price_usd, self.request.pue)

    @property
    def ops(self) -> tuple[OpLine, ...]:
        """The lines of forward, backward, optimizer and communication."""
        return self.step.lines

    def time_for_tokens(self, tokens: float) -> Interval:
        """Seconds to train on that many tokens."""
        return self.step.time_for_tokens(tokens)

    def to_dict(self) -> dict[str, Any]:
        """One flat row with the columns of an answer; those of serving are None."""
        row: dict[str, Any] = asdict(self.request) | {"model": self.model, "gpu": self.gpu.name, "n_gpus": self.n_gpus}
        row |= {f"{name}{end}": None for name in ("ttft_s", "tpot_s", "e2e_s") for end in ENDS}
        for name in ("step_s", "tokens_per_s"):
            interval: Interval = getattr(self, name)
            row |= {f"{name}{end}": value for end, value in zip(ENDS, interval, strict=True)}
        row |= {"tokens_per_s_per_gpu": self.tokens_per_s.value / self.n_gpus, "mfu": self.mfu}
        row |= self.memory.row() | {"peak_phase": self.memory.peak_phase, "usd_per_mtok": self.usd_per_mtok}
        row |= {"price_source": self.price_source}
        row |= {"power_w": self.step.power_w or None} | (self.whole.row() if self.whole else dict.fromkeys(RUN_COLUMNS))
        if self.whole:
            row |= {f"train_s{end}": hours * HOUR for end, hours in zip(ENDS, self.whole.hours, strict=True)}
        row |= {
            name: getattr(self.step, name)
            for name in ("forward_s", "backward_s", "optimizer_s", "communication_s", "bubble_s")
        }
        row |= {
            "limiter": self.limiter,
            "basis": self.basis,
            "nearest_gpu": self.nearest_gpu,
            "bundle": self.bundle,
            "interval_level": self.level,
        }
        return row | {"notes": list(self.notes), "error": None}
