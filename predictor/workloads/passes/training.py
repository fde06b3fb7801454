"""What training runs: how a model is trained, and the ops and messages of one optimizer step on one GPU."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import ceil
from typing import NamedTuple, Protocol

from predictor.errors import InvalidRequest
from predictor.ops import Attention, Collective, Gemm, Moe, Pointwise
from predictor.ops.dtypes import dtype_facts
from predictor.values import whole_number
from predictor.workloads.passes.backward import (
    OUTSIDE_LAYERS,
    Adapters,
    backward,
    recomputed,
    training_forward,
    weights,
)
from predictor.workloads.passes.calls import WIDE_DTYPES, Layout, OpCall, Step
from predictor.workloads.passes.choices import CHOICES
from predictor.workloads.passes.lengths import Sequences, by_sequence
from predictor.workloads.passes.optimizers import OPTIMIZER_BYTES, sweep
from predictor.workloads.passes.parallel import (
    Splittable,
    Stage,
    check_layout,
    check_split,
    slowest,
    split,
    staged,
    stages,
)
from predictor.workloads.passes.recipes import RECIPES, Recipe, quantised_backward, quantised_forward

FOUR_BIT_BYTES = 0.6  # a frozen 4-bit weight with its scales
NARROW_COPY_BYTES = 2.0  # the 16-bit weights, written
KNOWN: Mapping[str, tuple[str, ...]] = {
    **CHOICES,
    **{name: ("", *CHOICES[name]) for name in ("loss", "adapter_dtype", "grad_dtype", "padding")},
    "dtype": ("bf16", "fp16", "fp32", "tf32", *RECIPES),
    "reduce_dtype": ("bf16", "fp16", "fp32"),
}
COUNTS = (
    *("micro_batch", "grad_accum", "seq_len", "lora_rank", "loss_chunks", "tp", "pp", "vp", "cp", "ep", "dp"),
    *("dp_replicate", "gpus_per_node", "checkpoint_every"),
)
FULL = ("fp32", "tf32")  # weights, gradients and what passes between layers have 32 bits


class Trainable(Splittable, Protocol):
    """What training needs of a model."""

    @property
    def hidden(self) -> int:
        """Model width."""

    @property
    def max_len(self) -> int:
        """Tokens of the longest sequence."""

    def forward_ops(self, step: Step) -> tuple[OpCall, ...]:
        """The ops of one forward pass on one GPU."""

    def elements(self, layout: Layout) -> tuple[float, float, float]:
        """Parameters on one GPU: of linear layers, of experts, of all else."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingSetting(Sequences):
    """How a model is trained on what Sequences says, shared by GPUs as Parallel says; checked on creation
    (InvalidRequest).

    method: "full", "lora" (low-rank adapters beside frozen 16-bit weights) or "qlora" (beside 4-bit ones).
    checkpointing: "full" recomputes every layer in the backward pass, "offloaded" too, with the layers' inputs in the
    host's memory; "selective" recomputes attention (Megatron's core_attn), "modules" norms and activations as well,
    "selective_ops" all but attention and every second product (torchtitan), "none" nothing. checkpoint_every: one layer
    of so many is recomputed.
    lora_targets: which linear layers get adapters; train_embeddings: embedding and head learn beside them.
    lora_dropout: above 0, and None but for fused kernels, each adapter keeps its own input and a mask. adapter_dtype:
    of the adapters, "" as what is computed in. use_dora: their magnitudes are learned apart (DoRA).
    quantization: of frozen weights under "qlora": "nf4" widens by one kernel, "gptq" by separate ones, "int8" is
    multiplied as it is. double_quant: NF4's scales are quantised again. keeps_quantized_inputs: autograd keeps what
    4-bit layers read, as bitsandbytes did before 0.43.2.
    dtype: of the arithmetic of the layers: fp32, tf32, fp16, bf16, or a recipe of predictor.workloads.passes.recipes;
    reduce_dtype: of the gradients on the wire, if they are not kept in fp32.
    gradient_accumulation_fusion: the products that make gradients add them up (Apex, Transformer Engine).
    gpus_per_node; node_link_bytes_per_s: of all links of a node together, per direction; None is not stated. link: what
    joins the GPUs of a node, one of predictor.hardware.interconnect.LINKS; "" is not stated.
    kernels: of norms, rotations, gates, adapters and the loss: "fused" by a compiler, "library" with one kernel for a
    norm and one for a rotation, "eager" as written in PyTorch.
    prefetch: ZeRO 3 fetches weights a layer ahead (FSDP); without, module by module when needed, and everything waits
    (DeepSpeed, whose trace of modules checkpointing and adapters break).
    precision: of 16-bit training. "mixed": weights and gradients in 16 bits, master weights and moments in fp32
    (DeepSpeed, Megatron); "amp": all that in fp32, and 16-bit copies of the weights for the arithmetic (autocast);
    "fsdp": all that in fp32 and sharded, gathered in 16 bits and reduced in fp32 (MixedPrecisionPolicy of FSDP);
    "pure": all in 16 bits.
    grad_dtype: of the gradients that are kept, as Megatron adds them up in fp32; "" as the weights.
    no_sync: replicas add up whole gradients over grad_accum passes before they share them out.
    optimizer_in_backward: each gradient is used and freed at once.
    offload: what lives in the host's memory: nothing, "optimizer" state and step (ZeRO-Offload), "gradients" too,
    "parameters" too.
    loss: "eager" widens logits to fp32 first, "eager_kept" holds them so until the backward pass is through, "plain"
    takes the loss of logits as they are, "fused" by one kernel, "chunked" in loss_chunks parts that are freed,
    "chunked_kept" in parts whose logits stay until the backward pass; "" follows from kernels.
    reshard_after_forward: FSDP frees what it gathered of a layer after its forward pass, to gather it again; else all
    stays until the backward pass ends (SHARD_GRAD_OP).
    load: whether each process loads its shard, or the "whole" model before it is sharded, or "rank0", one of a node,
    does so for all.
    expandable_segments: PYTORCH_CUDA_ALLOC_CONF, which leaves no fragmentation to speak of.
    described: whether kernels and loss are those of the program that trains, and not what most programs have.
    max_model_len: tokens of a sequence at most, where that is more than the model's context.
    host_waits: the host waits for the GPU in every layer, so that neither works ahead of the other. cuda_graphs: what
    layers launch is captured once; the host issues graphs.
    early_stop: recomputation leaves out the projection that ends a layer, as PyTorch does from 2.1 on.
    """

    method: str = "full"
    optimizer: str = "adamw"
    checkpointing: str = "none"
    lora_rank: int = 16
    lora_targets: str = "all"
    train_embeddings: bool = False
    quantization: str = "nf4"
    dtype: str = "bf16"
    reduce_dtype: str = "bf16"
    gradient_accumulation_fusion: bool = False
    node_link_bytes_per_s: float | None = None
    kernels: str = "fused"
    early_stop: bool = True
    prefetch: bool = True
    precision: str = "mixed"
    loss_chunks: int = 1
    offload: str = "none"
    link: str = ""
    loss: str = ""
    checkpoint_every: int = 1
    optimizer_in_backward: bool = False
    lora_dropout: float | None = None
    adapter_dtype: str = ""
    use_dora: bool = False
    double_quant: bool = True
    keeps_quantized_inputs: bool = False
    no_sync: bool = False
    load: str = "sharded"
    reshard_after_forward: bool = True
    expandable_segments: bool = False
    max_model_len: int = 0
    grad_dtype: str = ""
    host_waits: bool = False
    cuda_graphs: bool = False
    described: bool = False

    def __post_init__(self) -> None:
        for name in COUNTS:
            object.__setattr__(self, name, whole_number(name, getattr(self, name)))
        if self.expert_tp:
            object.__setattr__(self, "expert_tp", whole_number("expert_tp", self.expert_tp))
        for name, choices in KNOWN.items():
            if getattr(self, name) not in choices:
                raise InvalidRequest(f'{name} is "{getattr(self, name)}"; it must be one of {", ".join(choices)}.')
        if type(self.zero_stage) is not int or not 0 <= self.zero_stage <= 3:
            raise InvalidRequest(f"zero_stage is {self.zero_stage}; it must be 0, 1, 2 or 3 (3 is FSDP FULL_SHARD).")
        if self.node_link_bytes_per_s is not None and not self.node_link_bytes_per_s > 0:
            raise InvalidRequest(
                f"node_link_bytes_per_s is {self.node_link_bytes_per_s}; it must be above 0: 200e9 is 1600 Gbps."
            )
        if self.lora_dropout is not None and not 0 <= self.lora_dropout < 1:
            raise InvalidRequest(f"lora_dropout is {self.lora_dropout:g}; it must be at least 0 and below 1.")
        if self.optimizer_in_backward and self.grad_accum > 1:
            raise InvalidRequest(
                f"grad_accum is {self.grad_accum}; with optimizer_in_backward gradients are not added up. Set it to 1."
            )
        self.check_lengths()
        if self.host_waits and self.cuda_graphs:
            raise InvalidRequest(
                "host_waits and cuda_graphs are both set; layers that make the host wait cannot be captured. Leave one "
                "out."
            )
        check_layout(self, self.seq_len)

    @property
    def recipe(self) -> Recipe | None:
        """How products in fewer than 16 bits are fed; None of wider ones."""
        return RECIPES.get(self.dtype)

    @property
    def product_dtype(self) -> str:
        """Number format of the products of the layers."""
        return self.recipe.product if self.recipe else self.dtype

    @property
    def peak_dtype(self) -> str:
        """The format whose peak MFU is a share of."""
        return dtype_facts(self.product_dtype).compute[0]

    @property
    def adapters(self) -> Adapters:
        """Which weights learn, and beside what."""
        if self.method == "full":
            return Adapters(kernels=self.kernels)
        frozen = self.quantization if self.method == "qlora" else ""
        return Adapters(
            self.lora_rank,
            self.lora_targets,
            self.train_embeddings,
            frozen,
            self.kernels,
            dropout=self.kernels != "fused" if self.lora_dropout is None else self.lora_dropout > 0,
            wide=self.adapter_dtype == "fp32",
            dora=self.use_dora,
            keeps_inputs=self.keeps_quantized_inputs,
        )

    @property
    def loss_kind(self) -> str:
        """How the loss is taken, where `loss` leaves it to kernels and loss_chunks."""
        if self.loss:
            return self.loss
        return "eager" if self.kernels == "eager" else "plain" if self.kernels == "library" else "fused"

    @property
    def recomputed_share(self) -> float:
        """Share of the layers that the backward pass computes again, at least in part."""
        return 0.0 if self.checkpointing == "none" else 1 / self.checkpoint_every


class TrainingCalls(NamedTuple):
    """The ops of one optimizer step on one GPU of the slowest pipeline stage; counts are per step, fractions too.

    communication: between replicas and stages; what tensor parallelism sends is part of forward and backward. A
    Collective of more GPUs than a node has crosses nodes.
    """

    forward: tuple[OpCall, ...]
    backward: tuple[OpCall, ...]
    optimizer: tuple[OpCall, ...]
    communication: tuple[OpCall, ...]


class Parameters(NamedTuple):
    """Matrix elements on one GPU before sharing among replicas: layer: of all its layers, table: embedding and head.

    learned_layer, learned_table: those with a gradient, adapters included. experts, learned_experts: those of them that
    are of experts.
    """

    layer: float
    table: float
    learned_layer: float
    learned_table: float
    experts: float = 0.0
    learned_experts: float = 0.0

    def kept(self, setting: TrainingSetting) -> float:
        """Elements that each GPU keeps where ZeRO shares all of them out."""
        return _shared_out(self.layer + self.table, self.experts, setting)

    def learned(self, setting: TrainingSetting) -> float:
        """Those of them with a gradient."""
        return _shared_out(self.learned_layer + self.learned_table, self.learned_experts, setting)


def _shared_out(whole: float, experts: float, setting: TrainingSetting) -> float:
    return (whole - experts) / setting.shards + experts / setting.expert_shards


def training_calls(model: Trainable, setting: TrainingSetting) -> TrainingCalls:
    """What one GPU runs and sends in one optimizer step. Raises InvalidRequest where the model cannot be split so."""
    served = training_step_ops(model, setting)
    whole = training_forward(served, setting.micro_tokens, setting.adapters, setting.attention)
    stage = slowest(whole, stages(model.layers, setting, setting.grad_accum), model.layers)
    forward = staged(whole, model.layers, stage)
    again = [
        OpCall(call.name, call.op, call.count * setting.recomputed_share)
        for call in recomputed(forward, setting.checkpointing, setting.early_stop)
    ]
    gradients = backward(forward, setting.adapters)
    owned = of_stage(parameters(model, whole, setting.adapters), model, stage)
    kept = setting.grad_accum if setting.zero_stage < 3 else 1  # of weights that are not gathered anew
    narrowed = quantised_forward(forward, setting.recipe, kept)
    narrowed_again = quantised_forward(again, setting.recipe, kept) + quantised_backward(forward, setting.recipe, kept)
    return TrainingCalls(
        _repeated([*forward, *narrowed], setting.grad_accum),
        _repeated([*again, *gradients, *narrowed_again], setting.grad_accum),
        _optimizer(owned, setting),
        tuple(messages(model, owned, stage, setting)),
    )


def training_step_ops(model: Trainable, setting: TrainingSetting) -> tuple[OpCall, ...]:
    """The ops of one forward pass as a serving engine runs them, all stages, on one GPU of each. Raises InvalidRequest
    where the model cannot be split so."""
    if setting.seq_len > (longest := max(model.max_len, setting.max_model_len)):
        raise InvalidRequest(
            f"seq_len is {setting.seq_len}; {model.name} takes at most {longest}. Shorten it, or raise max_model_len."
        )
    check_split(model, setting)
    return by_sequence(split(model.forward_ops(_step(setting)), setting), setting.attended_len)


def parameters(model: Trainable, forward: Sequence[OpCall], adapters: Adapters) -> Parameters:
    """Matrix elements on one GPU, from the ops of its forward pass; an untied embedding is as large as the head.

    Learned positions are a table that only the model knows the size of.
    """
    tables = 1.0 if getattr(model, "tied_embeddings", False) else 2.0
    sums = dict.fromkeys(Parameters._fields, 0.0)
    for call in forward:
        where, size = "layer", weights(call) * call.count
        if call.name in OUTSIDE_LAYERS:
            where, size = "table", size * (tables if call.name == "lm_head" else 1.0)
        if call.name == "position_embedding":
            size = float(getattr(model, "position_parameters", 0))
        if not call.name.startswith("lora_"):
            sums[where] += size
        learns = call.name.startswith("lora_") or adapters.trains(call)
        if learns:
            sums[f"learned_{where}"] += size
        if isinstance(call.op, Moe):
            sums["experts"] += size
            sums["learned_experts"] += size * learns
    return Parameters(**sums)


def of_stage(owned: Parameters, model: Trainable, stage: Stage) -> Parameters:
    """The part of a stage; one table that is embedding and head is on both ends."""
    tied = getattr(model, "tied_embeddings", False)
    tables = max(stage.embeds, stage.heads) if tied else (stage.embeds + stage.heads) / 2
    parts = {"table": tables, "learned_table": tables}
    return Parameters(*(part * parts.get(name, stage.layers / model.layers) for name, part in owned._asdict().items()))


def model_flops_per_token(model: Trainable, seq_len: int) -> float:
    """FLOPs that MFU counts: 6 for every weight a token is multiplied with, and attention as if every token saw all.

    12 · layers · heads · head_dim · seq_len for attention, as llm-foundry and PaLM (arXiv:2204.02311, appendix B) count
    it: without the causal half, recomputation or adapters. The weights are those of GEMMs and routed experts.
    """
    flops = 0.0
    for call in model.forward_ops(Step("prefill", 1, seq_len, seq_len, "bf16", "bf16", "bf16", 1)):
        if call.name == "lm_head" and isinstance(call.op, Gemm):
            flops += 2.0 * seq_len * float(call.op.n * call.op.k)
        elif isinstance(call.op, Attention):
            flops += float(replace(call.op, causal=0.0).flops()) * call.count
        elif not isinstance(call.op, Pointwise | Collective):
            flops += float(call.op.flops()) * call.count
    return 3.0 * flops / seq_len


def _step(setting: TrainingSetting) -> Step:
    passed = setting.dtype if setting.dtype in WIDE_DTYPES else "bf16"
    length, products = setting.seq_len // setting.cp, setting.product_dtype
    return Step("prefill", setting.micro_batch, length, length, products, passed, passed, setting.tp)


def _repeated(calls: Sequence[OpCall], times: int) -> tuple[OpCall, ...]:
    return tuple(OpCall(call.name, call.op, call.count * times) for call in calls)


def _optimizer(owned: Parameters, setting: TrainingSetting) -> tuple[OpCall, ...]:
    """Gradients added up over micro-batches, then the step, as calls of the element-wise addition by their bytes.

    Fused, the sums hide behind the products that make them, but for those of experts: too few tokens visit each.
    """
    learned = owned.learned_layer + owned.learned_table
    stepped = owned.learned(setting) if setting.zero_stage else learned
    narrow = 0.0 if setting.dtype in FULL else NARROW_COPY_BYTES
    calls = [sweep("optimizer_step", stepped, OPTIMIZER_BYTES[setting.optimizer] + narrow)]
    if setting.grad_accum > 1:
        kept = owned.learned(setting) if setting.zero_stage > 1 else learned
        added, moved = (owned.learned_experts, 8.0) if setting.gradient_accumulation_fusion else (kept, 12.0)
        if added:
            calls.append(sweep("grad_add", added, moved * (setting.grad_accum - 1)))
    return tuple(calls)


def messages(model: Trainable, owned: Parameters, stage: Stage, setting: TrainingSetting) -> list[OpCall]:
    """Messages of one step between replicas and between stages, layer by layer, embedding and head as one more unit.

    ZeRO 0 all-reduces gradients once; 1 and 2 reduce-scatter them (2 in every pass) and all-gather the new weights; 3
    all-gathers weights before the forward and the backward of every pass and reduce-scatters gradients after it
    (Rajbhandari et al., ZeRO, arXiv:1910.02054, 7). Copies of the shards all-reduce theirs (HSDP); experts have fewer
    replicas.
    """
    calls, passes = list[OpCall](), setting.grad_accum
    if setting.pp > 1:
        message = setting.micro_tokens * model.hidden * (4.0 if setting.dtype in FULL else 2.0)
        parts = setting.tp if setting.sequence_parallel else 1
        hop = Collective(kind="send_recv", message_bytes=message / parts, n_gpus=2)
        calls.append(OpCall("stage_send_recv", hop, 2.0 * passes * setting.vp))
    apart = setting.expert_shards != setting.shards
    experts, learned_experts = (owned.experts, owned.learned_experts) if apart else (0.0, 0.0)
    dense = owned._replace(layer=owned.layer - experts, learned_layer=owned.learned_layer - learned_experts)
    calls += _replica_messages("", dense, setting.shards, stage, setting)
    routed = Parameters(experts, 0.0, learned_experts, 0.0)
    return calls + _replica_messages("expert_", routed, setting.expert_shards, stage, setting)


def _replica_messages(
    prefix: str, owned: Parameters, gpus: int, stage: Stage, setting: TrainingSetting
) -> list[OpCall]:
    """Those between `gpus` that share weights and gradients, and between copies of them."""
    held = FOUR_BIT_BYTES if setting.method == "qlora" else 4.0 if setting.dtype in FULL else 2.0
    wide = setting.reduce_dtype == "fp32" or setting.dtype in FULL or setting.precision in ("amp", "fsdp")
    sent, layers, passes = 4.0 if wide else 2.0, stage.layers, setting.grad_accum
    gathers = (
        (owned.layer / layers * held, layers),
        (owned.table * min(held, 2.0) if held < 1 else owned.table * held, 1),
    )
    reduces = ((owned.learned_layer / layers * sent, layers), (owned.learned_table * sent, 1))
    learned = ((owned.learned_layer / layers * max(held, 2.0), layers), (owned.learned_table * max(held, 2.0), 1))
    plan = {
        0: (("grad_all_reduce", "all_reduce", reduces, 1),),
        1: (("grad_reduce_scatter", "reduce_scatter", reduces, 1), ("weight_all_gather", "all_gather", learned, 1)),
        2: (
            ("grad_reduce_scatter", "reduce_scatter", reduces, passes),
            ("weight_all_gather", "all_gather", learned, 1),
        ),
        3: (
            ("forward_all_gather", "all_gather", gathers, passes),
            ("backward_all_gather", "all_gather", gathers, passes),
            ("grad_reduce_scatter", "reduce_scatter", reduces, passes),
        ),
    }
    shard = tuple((message / gpus, count) for message, count in reduces)
    copies = ("replicate_all_reduce", "all_reduce", shard, passes if setting.zero_stage > 1 else 1)
    sending = [(gpus, plan[setting.zero_stage]), (setting.dp_replicate, (copies,))]
    return [
        OpCall(
            prefix + name, Collective(kind=kind, message_bytes=float(ceil(size)), n_gpus=group), float(count * times)
        )
        for group, planned in sending
        for name, kind, units, times in planned
        for size, count in units
        if group > 1 and size >= 1
    ]
