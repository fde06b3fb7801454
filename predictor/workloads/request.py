"""One request: the columns that the command line, Python and batch jobs share, each defined here once.

A row of a table becomes a Request; an empty cell is the default. What a column may hold, and what is wrong with a
cell, is said here and in cells.py; what a model or a GPU cannot do is said where it is known.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import MISSING, Field, dataclass, field, fields, replace
from functools import cache
from typing import Any

from predictor.errors import InvalidRequest
from predictor.hardware.interconnect import stated_network
from predictor.values import did_you_mean, show
from predictor.workloads.cells import checked, is_empty
from predictor.workloads.counts import n_gpus_of
from predictor.workloads.engine_tables import LOCAL, SERVES, TRAINS, listed_names
from predictor.workloads.passes.choices import CHOICES
from predictor.workloads.trainers import TRAINERS

PHASES = ("serve", "train")
SCHEDULINGS = ("static", "continuous")
JOINED_BY = ("nvlink", "pcie", "host")
# How requests come, of which a request has one; with a trace of lengths alone the other says when.
LOADS = ("concurrency", "request_rate", "trace")
UNDER_LOAD = (
    *("draft_tokens", "acceptance", "draft_model", "prefix_cache_hit_rate", *LOADS, "length_spread", "num_prompts"),
    *("warmup", "turns", "shared_prefix_len", "batch_wait_timeout_iters", "enable_chunked_prefill"),
    "enable_two_batch_overlap",
)
# Columns that only training has, and those that both phases have; all others are of serving.
OF_TRAINING = (
    *("trainer", "method", "optimizer", "micro_batch", "grad_accum", "seq_len", "mean_seq_len", "checkpointing"),
    *("zero_stage", "lora_rank", "lora_targets", "lora_dropout", "adapter_dtype", "use_dora", "train_embeddings"),
    *("quantization", "double_quant", "bitsandbytes_version", "precision", "grad_dtype", "attention", "kernels"),
    *("loss", "loss_chunks", "sequence_parallel", "offload", "optimizer_in_backward", "no_sync", "prefetch", "load"),
    *("reshard_after_forward", "packing", "padding", "expandable_segments", "global_batch", "vp", "cp", "cp_comm_type"),
    *("expert_tp", "moe_token_dispatcher_type", "moe_expert_capacity_factor", "dp_replicate", "overlap_tp"),
    *("overlap_ep", "gradient_accumulation_fusion", "host_waits", "cuda_graphs", "gpus_per_node", "train_tokens"),
    *("dataset_rows", "epochs", "pue", "checkpoint_every"),
)
OF_BOTH = (
    *("model", "gpu", "n_gpus", "phase", "dtype", "tp", "pp", "dp", "ep", "link", "node_link", "image_size"),
    *("usd_per_hour", "max_model_len", "length_spread"),
)
IN_TRAINING = {"batch": "micro_batch", "input_len": "seq_len"}  # what others are called there
OF_NO_TRACE = ("turns", "shared_prefix_len")
LEAST_RATE = 1e-9  # requests per second
SPREAD = 0.2  # of lengths under load: random-range-ratio 0.8 of vLLM's and SGLang's benchmarks as InferenceX runs them


def _column(default: Any, text: str, choices: tuple[str, ...] = (), least: float = 1, kind: type | None = None) -> Any:
    """kind: of a column whose default is None, which stands for what follows from other columns or the engine."""
    return field(
        default=default,
        metadata={"help": text, "choices": choices, "least": least, "kind": kind or type(default)},
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """A question: fields are the columns of a request table, checked on creation (InvalidRequest)."""

    model: str = _column(MISSING, "Model name, hub id, or path of a config.json.", kind=str)
    gpu: str = _column(MISSING, "GPU name, MIG slice (H100:3g.40gb) or a .toml file.", kind=str)
    n_gpus: int = _column(
        0,
        "GPUs in all; by default tp * attention_dp * pp * dp, in training tp * cp * pp * dp. Alone it sets tp, in "
        "training dp.",
        least=0,
    )
    engine: str = _column(
        "", f"{listed_names()}; {SERVES} to serve ({LOCAL}: Apple, GGUF), {TRAINS} for images and to train."
    )
    phase: str = _column("serve", "serve or train.", PHASES)
    scheduling: str = _column("", "static: all start together. continuous: as requests come.", SCHEDULINGS)
    batch: int = _column(1, "Sequences of a static batch, over all replicas.")
    concurrency: int = _column(0, "Clients that each send the next request when the last is answered.", least=0)
    request_rate: float = _column(0.0, "Requests per second that arrive at random.", least=0)
    trace: str = _column("", "File of arrivals and lengths, or of lengths alone (.csv, .parquet, .jsonl).")
    input_len: int = _column(1024, "Prompt tokens per sequence.")
    output_len: int = _column(128, "Generated tokens per sequence.")
    length_spread: float | None = _column(
        None,
        "Lengths lie evenly between this share below the stated ones and them; by default 0.2 under load, 0 in a "
        "static batch. In training below the longest; by default up to seq_len, at most twice mean_seq_len.",
        least=0,
        kind=float,
    )
    num_prompts: int = _column(
        0, "Requests of the run under load; by default 10 per client, or until settled.", least=0
    )
    warmup: int | None = _column(
        None,
        "Requests at the start of the run that do not count; by default none of clients, and of arrivals those before "
        "the run has settled.",
        least=0,
        kind=int,
    )
    turns: int = _column(1, "Requests of a chat session, each after all that came before in it, which is cached.")
    shared_prefix_len: int = _column(0, "Tokens that all prompts begin with, besides input_len; cached.", least=0)
    images: int = _column(0, "Images of each prompt, whose tokens come beside input_len.", least=0)
    image_size: int = _column(0, "Pixels of each side of an image; by default those trained on.", least=0)
    weights: str = _column("", "File or folder of the weights (.safetensors, its index, .gguf), for their exact size.")
    dtype: str = _column("", "Number format of the linear layers; by default that of the weights.")
    kv_dtype: str = _column("", "Number format of the KV cache; by default that of activations.")
    kv_block: int = _column(0, "Tokens of a block of the KV cache; by default the engine's.", least=0)
    ubatch: int = _column(0, f"Tokens of a prompt that {LOCAL} takes at once; by default 512.", least=0)
    tp: int = _column(0, "GPUs that share each layer; by default 1.", least=0)
    pp: int = _column(1, "Stages of layers.")
    dp: int = _column(0, "Replicas of the whole model; by default 1, in training what n_gpus leave.", least=0)
    ep: int = _column(1, "Shares of the experts among the tp * attention_dp GPUs, in training tp * cp * dp.")
    attention_dp: int = _column(1, "Groups of tp GPUs that attend to sequences of their own.")
    link: str = _column(
        "",
        "What joins the GPUs of a node: nvlink (or another link of their own), pcie (peer to peer) or host (through "
        "its memory); by default their own link, without one what lies between pcie and host.",
        JOINED_BY,
    )
    node_link: str = _column("", "Network of each GPU between nodes: GB/s, or ib-400, roce-200, eth-100 (Gb/s).")
    prefix_cache_hit_rate: float = _column(0.0, "Share of each prompt that is cached already; continuous.", least=0)
    draft_tokens: int = _column(0, "Tokens that a draft model proposes per step; continuous.", least=0)
    acceptance: float | None = _column(
        None, "Probability that a proposed token is right; needed with draft_tokens.", least=0, kind=float
    )
    draft_model: str = _column("", 'Model that proposes them, or "mtp": a layer of the model itself; "": free.')
    beam_width: int = _column(1, "Beams of each request in decoding.")
    engine_version: str = _column("", "Version of the engine, such as 0.12; by default the newest that is known.")
    max_num_seqs: int = _column(0, "Sequences of a step at most; by default the engine's.", least=0)
    max_num_batched_tokens: int = _column(0, "Tokens of a step at most; by default the engine's.", least=0)
    gpu_memory_utilization: float = _column(0.0, "Share of the GPU's memory for the engine; 0: its own.", least=0)
    max_model_len: int = _column(0, "Tokens of a sequence at most; by default the model's.", least=0)
    max_seq_len_to_capture: int = _column(0, "Tokens up to which CUDA graphs run; by default the engine's.", least=0)
    enforce_eager: bool | None = _column(None, "No CUDA graphs.", kind=bool)
    enable_chunked_prefill: bool | None = _column(None, "Prompts may be split over steps.", kind=bool)
    async_scheduling: bool | None = _column(None, "The host prepares a step while the GPU runs another.", kind=bool)
    offline: bool = _column(False, "No server: the program that asks runs the engine itself.", kind=bool)
    batch_wait_timeout_iters: int = _column(0, "Steps for which prompts wait for others (TensorRT-LLM).", least=0)
    api_server_count: int = _column(
        0, "Processes of vLLM's front end; by default one for each of the attention_dp groups.", least=0
    )
    tokenizer_worker_num: int = _column(
        0, "Processes of SGLang's front end; by default one for each of the attention_dp groups.", least=0
    )
    enable_two_batch_overlap: bool = _column(
        False, "Half of a batch computes while the other half is sent to experts (SGLang).", kind=bool
    )
    usd_per_hour: float = _column(0.0, "Price of one GPU for an hour; 0 takes the catalogue's.", least=0)
    trainer: str = _column(
        "",
        f"Program that trains, which says kernels, loss, precision and the like where they are not said: "
        f"{', '.join(TRAINERS)}.",
        tuple(TRAINERS),
    )
    method: str = _column("full", "full, lora or qlora.", CHOICES["method"])
    optimizer: str = _column("adamw", ", ".join(CHOICES["optimizer"]) + ".", CHOICES["optimizer"])
    micro_batch: int = _column(1, "Sequences of one forward and backward pass, per replica.")
    grad_accum: int = _column(0, "Passes between optimizer steps; by default 1, or what global_batch asks.", least=0)
    global_batch: int = _column(0, "Sequences of an optimizer step over all replicas; sets grad_accum.", least=0)
    seq_len: int = _column(2048, "Tokens per training sequence.")
    mean_seq_len: int = _column(
        0,
        "Tokens of a sequence in the mean, where not all have seq_len; without padding or packing said, padding is "
        "part of it.",
        least=0,
    )
    checkpointing: str = _column(
        "none",
        "Activations computed again: none, selective (attention), selective_ops (torchtitan), modules (norms, "
        "activations), full, or offloaded (full, inputs in the host's memory).",
        CHOICES["checkpointing"],
    )
    checkpoint_every: int = _column(1, "One layer of so many is computed again.")
    zero_stage: int = _column(0, "What replicas shard: 0 nothing to 3 all (FSDP).", least=0)
    lora_rank: int = _column(16, "Rank of LoRA adapters.")
    lora_targets: str = _column(
        "all", f"Linear layers with adapters: {', '.join(CHOICES['lora_targets'])}.", CHOICES["lora_targets"]
    )
    lora_dropout: float | None = _column(
        None,
        "Dropout of the adapters, which keep inputs of their own then; by default unless fused.",
        least=0,
        kind=float,
    )
    adapter_dtype: str = _column(
        "", "Number format of the adapters; by default that of the rest.", CHOICES["adapter_dtype"]
    )
    use_dora: bool = _column(False, "Adapters learn magnitudes apart (DoRA).")
    train_embeddings: bool = _column(False, "Embedding and head learn beside the adapters (modules_to_save).")
    quantization: str = _column("nf4", "Frozen weights of qlora: nf4, gptq or int8.", CHOICES["quantization"])
    double_quant: bool = _column(True, "The scales of nf4 are quantised again.")
    bitsandbytes_version: str = _column("", "Version, which before 0.43.2 kept the inputs of 4-bit layers.")
    precision: str = _column(
        "",
        "16-bit training: mixed (fp32 master weights; by default), amp (autocast), pure, or fsdp (fp32 shards).",
        CHOICES["precision"],
    )
    grad_dtype: str = _column(
        "", "Number format of the gradients that are kept; by default that of weights.", CHOICES["grad_dtype"]
    )
    attention: str = _column(
        "flash2",
        "Attention in training: flash2, sdpa, cudnn (that of the GPU's generation), triton or eager.",
        CHOICES["attention"],
    )
    kernels: str = _column(
        "", "fused, library or eager; by default memory is that of eager, time of fused.", CHOICES["kernels"]
    )
    loss: str = _column(
        "",
        "How the loss is taken: eager (widened to fp32), eager_kept (and held), plain (as wide as the logits), fused, "
        "chunked (freed) or chunked_kept; by default as kernels.",
        CHOICES["loss"],
    )
    loss_chunks: int = _column(1, "Parts in which training takes logits and loss.")
    sequence_parallel: int = _column(0, "1: tp GPUs split the tokens outside attention and feed-forward.", least=0)
    offload: str = _column(
        "none", f"What the host's memory holds: {', '.join(CHOICES['offload'])}.", CHOICES["offload"]
    )
    optimizer_in_backward: bool = _column(False, "Each gradient is used and freed at once.")
    no_sync: bool = _column(False, "Replicas add up whole gradients over grad_accum passes.")
    prefetch: bool = _column(True, "ZeRO 3 fetches weights a layer ahead (FSDP).")
    reshard_after_forward: bool = _column(True, "FSDP frees gathered weights after each layer's forward pass.")
    load: str = _column(
        "sharded",
        "How weights come to the GPUs: sharded (each process reads its part), rank0 (one of a node holds the whole for "
        "all, cpu_ram_efficient_loading) or whole (each holds it).",
        CHOICES["load"],
    )
    packing: bool = _column(True, "Sequences fill rows of seq_len tokens, each attends to itself; false: at most that.")
    padding: str = _column(
        "",
        "In place of packing: sequences padded to the longest of a micro-batch, to max_length (seq_len), or none "
        "(padding-free, unpadded); tokens/s counts none of it.",
        CHOICES["padding"],
    )
    expandable_segments: bool = _column(False, "PyTorch's allocator grows its blocks, and fragments little.")
    vp: int = _column(1, "Chunks of layers on each stage of a training pipeline, interleaved.")
    cp: int = _column(1, "GPUs that share a training sequence.")
    cp_comm_type: str = _column(
        "p2p", "How these attend: p2p (ring), all_gather or a2a (heads for tokens, Ulysses).", CHOICES["cp_comm_type"]
    )
    expert_tp: int = _column(0, "GPUs that split the columns of an expert in training; by default tp.", least=0)
    moe_token_dispatcher_type: str = _column(
        "alltoall",
        "How tokens reach experts: alltoall of a library or flex (DeepEP, HybridEP).",
        CHOICES["moe_token_dispatcher_type"],
    )
    moe_expert_capacity_factor: float = _column(
        0.0, "Tokens for which an expert has room in training, over an even share; 0: all that come.", least=0
    )
    dp_replicate: int = _column(1, "Copies of what ZeRO shares out among the other dp / dp_replicate GPUs (HSDP).")
    overlap_tp: bool = _column(False, "Messages of tp run beside matrix products of training (async TP).", kind=bool)
    overlap_ep: bool = _column(False, "Messages to experts run beside another micro-batch of training.", kind=bool)
    gradient_accumulation_fusion: bool = _column(False, "The products that make gradients add them up.", kind=bool)
    host_waits: bool = _column(
        False, "Every layer of training makes the host wait for the GPU (.item(), copies made anew).", kind=bool
    )
    cuda_graphs: bool = _column(False, "Layers of training are captured as CUDA graphs, routing included.", kind=bool)
    gpus_per_node: int = _column(8, "GPUs of a node in training.")
    train_tokens: float = _column(
        0.0, "Tokens to train on in all; adds hours, price and energy to the answer.", least=0
    )
    dataset_rows: int = _column(0, "Sequences (or images) of an epoch, in place of that.", least=0)
    epochs: float = _column(1.0, "Times that all of them are trained on.", least=0)
    pue: float = _column(1.0, "Power of the data centre over that of its GPUs, for the energy of a training.")

    def __post_init__(self) -> None:
        """Checks every column by itself, then fills in those that follow from others."""
        for column in columns():
            if (value := getattr(self, column.name)) is not column.default:
                object.__setattr__(self, column.name, checked(column, value))
        for name, most in (("zero_stage", 3), ("sequence_parallel", 1)):
            if (given := getattr(self, name)) > most:
                raise InvalidRequest(f"{name} is {given}; it must be from 0 to {most}.")
        for name in ("prefix_cache_hit_rate", "acceptance", "length_spread", "gpu_memory_utilization"):
            if (share := getattr(self, name) or 0.0) > 1:
                raise InvalidRequest(f"{name} is {share:g}; it must lie between 0 and 1.")
        if 0 < self.request_rate < LEAST_RATE:
            raise InvalidRequest(
                f"request_rate is {self.request_rate:g}; it must be at least {LEAST_RATE:g}, a request in 32 years. "
                "Raise it, or set a static batch of 1."
            )
        if self.node_link:
            stated_network(self.node_link)
        if not self.engine and self.phase == "train":
            object.__setattr__(self, "engine", TRAINS)
        self._check_phase()
        self._fill_load()
        self._fill_layout()

    def _check_phase(self) -> None:
        """No setting of the other phase; what is filled in below may come back in a copy."""
        if self.phase == "serve":
            for name, value in self.stated(OF_TRAINING).items():
                raise InvalidRequest(f"{name} is {show(value)}; serving has none. Set phase to train, or leave it out.")
            return
        if self.engine != TRAINS:
            raise InvalidRequest(f"engine is {show(self.engine)}; training runs in {TRAINS}. Leave it out.")
        filled = {"engine": TRAINS, "scheduling": "static"}
        of_serving = [column.name for column in columns() if column.name not in (*OF_TRAINING, *OF_BOTH)]
        for name, value in self.stated(of_serving).items():
            if value != filled.get(name):
                cure = f"Set {IN_TRAINING[name]}" if name in IN_TRAINING else "Leave it out"
                raise InvalidRequest(f"{name} is {show(value)}; training has none. {cure}.")

    def _fill_load(self) -> None:
        """How requests come, and the defaults that follow; what only a scheduler knows is no part of a static batch."""
        loads = [name for name in LOADS if getattr(self, name)]
        if loads and self.batch > 1:
            raise InvalidRequest(
                f"batch is {self.batch} beside {loads[0]} {show(getattr(self, loads[0]))}; the scheduler makes the "
                "batches of a load. Leave batch out."
            )
        if not self.scheduling:
            object.__setattr__(self, "scheduling", "continuous" if loads else "static")
        if self.scheduling == "static":
            for name, value in self.stated(UNDER_LOAD).items():
                if value and not (self.phase == "train" and name in OF_BOTH):
                    raise InvalidRequest(
                        f"{name} is {show(value)}; a static batch has none. Set scheduling to continuous."
                    )
            at_once = self.max_num_seqs * max(self.dp, 1) * self.attention_dp
            if 0 < at_once < self.batch:
                raise InvalidRequest(
                    f"batch is {self.batch} and max_num_seqs {self.max_num_seqs}; a static batch runs all its "
                    f"sequences at once. Lower batch to {at_once}, or set concurrency in its place."
                )
        elif self.trace and (own := [name for name in OF_NO_TRACE if getattr(self, name) not in (1, 0, None)]):
            raise InvalidRequest(f"{own[0]} is {show(getattr(self, own[0]))}; a trace says its lengths. Leave it out.")
        elif self.beam_width > 1 and self.draft_tokens:
            raise InvalidRequest(
                f"beam_width is {self.beam_width} and draft_tokens {self.draft_tokens}; engines search with beams or "
                "let a draft propose. Leave one of them out."
            )
        elif len(loads) > 1 and "trace" not in loads:
            raise InvalidRequest(
                f"concurrency is {self.concurrency} and request_rate {self.request_rate:g}; clients that wait and "
                "arrivals that do not are two loads. Give one of them."
            )
        self._check_drafts()
        if self.length_spread is None and self.phase == "serve":
            object.__setattr__(self, "length_spread", SPREAD if self.scheduling == "continuous" else 0.0)

    def _check_drafts(self) -> None:
        """Proposed tokens and how often they are right belong together."""
        if self.draft_tokens and self.acceptance is None:
            raise InvalidRequest(
                f"draft_tokens is {self.draft_tokens} and acceptance is not stated; it decides what drafts save. Set "
                "acceptance, such as 0.7."
            )
        if self.acceptance is not None and not self.draft_tokens:
            raise InvalidRequest(
                f"acceptance is {self.acceptance:g} and draft_tokens 0; nothing is proposed. Set draft_tokens, or "
                "leave acceptance out."
            )

    def stated(self, names: Iterable[str]) -> dict[str, Any]:
        """Those of the columns that are not at their defaults, with what they say."""
        defaults = {column.name: column.default for column in columns()}
        return {name: value for name in names if (value := getattr(self, name)) != defaults[name]}

    def together(self) -> Request:
        """The same requests as one static batch of as many as there are clients."""
        none: dict[str, Any] = {column.name: column.default for column in columns() if column.name in UNDER_LOAD}
        return replace(self, **{**none, "max_num_seqs": 0, "scheduling": "static", "batch": self.sequences})

    @property
    def sequences(self) -> int:
        """Sequences that are asked for at once: clients, or the batch."""
        return self.clients or self.batch

    @property
    def clients(self) -> int:
        """Clients that send requests one after the other; `batch` states them where nothing else states a load."""
        if self.scheduling == "static" or self.request_rate:
            return 0
        return self.concurrency or (0 if self.trace else self.batch)

    def _fill_layout(self) -> None:
        object.__setattr__(self, "n_gpus", n_gpus_of(self))
        if self.phase == "train":
            self._fill_training()
        others = self.pp * max(self.dp, 1) * self.attention_dp
        if not self.tp:
            alone = self.n_gpus and others == 1
            object.__setattr__(self, "tp", self.n_gpus if alone else 1)
        if not self.dp:
            object.__setattr__(self, "dp", 1)
        product = self.tp * others * (self.cp if self.phase == "train" else 1)
        if self.n_gpus and self.n_gpus != product:
            named = "tp * cp * pp * dp" if self.phase == "train" else "tp * attention_dp * pp * dp"
            raise InvalidRequest(f"n_gpus is {self.n_gpus}; {named} is {product}. Make them equal or drop one.")
        object.__setattr__(self, "n_gpus", product)

    def _fill_training(self) -> None:
        """Replicas that follow from the GPUs, and passes from the sequences of a step; what is padded is not packed."""
        if self.padding:
            object.__setattr__(self, "packing", False)
        if not self.tp:
            object.__setattr__(self, "tp", 1)
        shared = self.tp * self.cp * self.pp
        if not self.dp and self.n_gpus:
            if self.n_gpus % shared:
                raise InvalidRequest(f"n_gpus is {self.n_gpus}; tp * cp * pp, {shared}, must divide it.")
            object.__setattr__(self, "dp", self.n_gpus // shared)
        together = self.micro_batch * max(self.dp, 1)
        if self.global_batch and (
            self.global_batch % together or self.grad_accum not in (0, self.global_batch // together)
        ):
            rule = f"it must be grad_accum, {self.grad_accum}, times" if self.grad_accum else "it must be a multiple of"
            raise InvalidRequest(f"global_batch is {self.global_batch}; {rule} micro_batch * dp, {together}.")
        if not self.grad_accum:
            object.__setattr__(self, "grad_accum", max(self.global_batch // together, 1))

    def run_by(self, engine: str) -> Request:
        """The same request with its engine; all else was checked."""
        settled = object.__new__(Request)
        for column in columns():
            object.__setattr__(settled, column.name, getattr(self, column.name))
        object.__setattr__(settled, "engine", engine)
        return settled

    @classmethod
    def of(cls, row: Mapping[str, Any]) -> Request:
        """The request of a row; columns that are not a request's are left alone, empty cells take the default.

        >>> Request.of({"id": 7, "model": "Llama-3.1-8B", "gpu": "H100", "batch": "8", "tp": None}).batch
        8
        """
        cells = {c.name: row[c.name] for c in columns() if c.name in row and not is_empty(row[c.name])}
        for column in columns():
            if column.default is MISSING and column.name not in cells:
                raise InvalidRequest(f"{column.name} is empty; {column.metadata['help']}")
        return cls(**cells)


@cache
def columns() -> tuple[Field[Any], ...]:
    """The columns of a request table, in order, as dataclass fields with help, choices and least in their metadata."""
    return fields(Request)


def check_names(names: Mapping[str, Any]) -> None:
    """Raises InvalidRequest for a setting that is no column."""
    known = [column.name for column in columns()]
    for name in names:
        if name not in known:
            raise InvalidRequest(f"there is no setting {name}; {did_you_mean(name, known, 'see Request.')}")


def clients_note(request: Request) -> str:
    """What to say of a request under load whose clients `batch` states, as before 0.3.0; "" of all others."""
    if request.scheduling == "static" or request.clients != request.batch or request.concurrency:
        return ""
    return f"batch {request.batch} under load is taken as concurrency {request.batch}, clients that wait for answers."


def check_cell(name: str, value: Any) -> None:
    """Raises InvalidRequest for what a column may not hold, whatever the others do."""
    checked(next(column for column in columns() if column.name == name), value)


def misspelt_note(names: Iterable[Any], known: Collection[str] = ()) -> str:
    """What to say of columns that are nearly known ones, by default those of a request; "" where there is none."""
    near = misspelt([str(name) for name in names], known or [column.name for column in columns()])
    listed = ", ".join(f"{show(name)} (did you mean {other}?)" for name, other in near.items())
    return f"nothing reads the column{'s' * (len(near) > 1)} {listed}." if near else ""


def misspelt(names: Iterable[str], known: Collection[str]) -> dict[str, str]:
    """Names of columns that are none of the known ones but nearly one that is not given → that one.

    Nearly: but for case, blanks and signs, or, of four letters and more, for one letter that is missing, added, another
    one or swapped with the next.

    >>> misspelt(["model", "GPU", "btach", "mode", "id"], ["model", "gpu", "batch", "tp"])
    {'GPU': 'gpu', 'btach': 'batch'}
    """
    given = list(names)
    free = [name for name in known if name not in given]
    meant = {
        name: next((column for column in free if _nearly(name, column)), "") for name in given if name not in known
    }
    return {name: other for name, other in meant.items() if other}


def _nearly(one: str, two: str) -> bool:
    one, two = (re.sub(r"[\W_]+", "", name).casefold() for name in (one, two))
    if one == two or min(len(one), len(two)) < 4:
        return one == two
    same = next(
        (at for at, pair in enumerate(zip(one, two, strict=False)) if pair[0] != pair[1]), min(len(one), len(two))
    )
    one, two = one[same:], two[same:]
    swapped = one[:2] == two[1::-1] and one[2:] == two[2:]
    return swapped or one[1:] == two[1:] or one[1:] == two or one == two[1:]
