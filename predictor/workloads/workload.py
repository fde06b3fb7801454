"""What people run: a model with a batch, lengths, number formats and parallelism, as a list of ops."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from predictor.elementwise import greater, power_of_two
from predictor.errors import InvalidRequest
from predictor.hardware.interconnect import LINKS, Links, stated_network
from predictor.ops import DTYPES, Collective, Op
from predictor.ops.dtypes import GGUF, GROUPS, MLX, OWN_FORMATS, near_dtypes, out_bytes
from predictor.values import LARGEST, show, whole_number
from predictor.workloads.architectures.single_pass import SinglePass, inputs_of
from predictor.workloads.engine_tables import SERVES, engine_names, operators_of
from predictor.workloads.engines import (
    PROCESSES,
    UNSET,
    Engine,
    Settings,
    check_has,
    engine_on,
    engine_with,
    get_engine,
)
from predictor.workloads.ggml import ggml_ops
from predictor.workloads.images import check_images, image_ops
from predictor.workloads.models import Model
from predictor.workloads.passes.calls import WIDE_DTYPES, Fused, Layout, OpCall, Phase, Step
from predictor.workloads.passes.eager import transformers_ops
from predictor.workloads.weights.mixtures import EMBEDDING, HEAD, Types, dealt_out

if TYPE_CHECKING:
    from predictor.hardware.gpu import Gpu

ENGINES = engine_names()
HALVES = ("bf16", "fp16")
KV_DTYPES = ("fp32", "fp16", "bf16", "fp8", "int8", "nvfp4", "q8_0", "q4_0", "mlx_8bit", "mlx_4bit")
PLAIN_DTYPES = ("fp32", "fp16", "bf16")  # that engines with formats of their own have beside them


SIZES = ("batch", "input_len", "output_len")


def _whole(name: str, value: Any) -> Any:
    """A whole number, checked, or a column of such."""
    return value if isinstance(value, np.ndarray) else whole_number(name, value)


@lru_cache(maxsize=1024)
def _launched(model: Model, step: Step) -> tuple[OpCall, ...]:
    return model.forward_ops(step)


def _in_16_bits(op: Op, half: str) -> Op:
    """The op in another 16-bit format than bf16."""
    changed = {name: half for name in ("dtype", "kv_dtype") if getattr(op, name, "") == "bf16"}
    return replace(op, **changed) if changed else op


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """A model and how it is run; sizes are whole numbers, checked on creation (InvalidRequest).

    batch: sequences that run together, over all replicas. input_len, output_len: tokens per sequence; of images the
        model says how many, and only what `generates` puts tokens out. images: of each sequence, that a vision tower
        turns into tokens, which input_len holds.
    dtype: of the linear layers and experts, any of predictor.ops.DTYPES; embeddings, output head, norms and attention
        arithmetic stay in bf16 (fp16, tf32 or fp32 where dtype is that). "" takes what the weights were published in.
    kv_dtype: of the KV cache; "" keeps the activations' format.
    tp, pp, dp, ep, attention_dp: as in Layout. engine: what runs it; serving engines get the same fused ops, and
        the estimators tell them apart; eager ones ("torch") get those of Transformers.
    half: 16-bit format of activations where the weights have fewer bits: "bf16", or "fp16" on GPUs without it.
    stored_bytes: of the weights' files, all together; 0: counted from the shapes. stored_types: of a GGUF file's
        matrices; (): as llama.cpp's quantize deals out dtype. kv_block: tokens of a block of the cache, ubatch: of a
        pass of llama.cpp; 0: the engine's.
    link, node_link: what joins the GPUs of a node, and nodes, as in predictor.workloads.request.Request.
    settings: what is set of the engine. draft: a model beside it that proposes tokens. beam_width: beams of each
        sequence in decoding.
    """

    model: Model
    batch: int = 1
    input_len: int = 1024
    output_len: int = 128
    images: int = 0
    dtype: str = ""
    kv_dtype: str = ""
    tp: int = 1
    pp: int = 1
    dp: int = 1
    ep: int = 1
    attention_dp: int = 1
    engine: str = SERVES
    expert_dtype: str = ""
    stored_bytes: float = 0.0
    stored_types: Types = ()
    kv_block: int = 0
    ubatch: int = 0
    half: str = "bf16"
    link: str = ""
    node_link: str = ""
    settings: Settings = UNSET
    draft: Model | None = None
    beam_width: int = 1

    def __post_init__(self) -> None:
        """Checks every setting, the model last."""
        if not hasattr(self.model, "forward_ops"):
            raise InvalidRequest(f'model is {show(self.model)}; it must be a model: get_model("Llama-3.1-8B").')
        for name in (*SIZES, *Layout._fields):
            object.__setattr__(self, name, _whole(name, getattr(self, name)))
        if fixed := getattr(self.model, "fixed_len", 0):
            object.__setattr__(self, "input_len", fixed)
        if self.dtype == "":
            object.__setattr__(self, "expert_dtype", self.expert_dtype or self.model.expert_dtype)
            object.__setattr__(self, "dtype", self.model.linear_dtype or "bf16")
        weights = ("", *DTYPES)
        choices = {"dtype": weights, "expert_dtype": weights, "kv_dtype": ("", *KV_DTYPES), "engine": ENGINES}
        choices |= {"half": HALVES, "link": ("", *LINKS)}
        for name, known in choices.items():
            value = getattr(self, name)
            if not isinstance(value, str) or value not in known:
                listed = ", ".join(choice for choice in known if choice and choice not in GROUPS)
                near = near_dtypes(value) if name == "dtype" and isinstance(value, str) else ""
                raise InvalidRequest(f"{name} is {show(value)}; it must be one of {listed}.{near}")
        stated_network(self.node_link)
        self._check_engine()
        check_images(self)
        self._check_lengths()
        self._check_layout()

    def _check_engine(self) -> None:
        """What is set the engine must have. Some have few number formats but their own; others read a GGUF, too."""
        beside = {"ubatch": 0, "kv_block": 0, "beam_width": 1}
        stated = {name: getattr(self, name) for name, unset in beside.items() if getattr(self, name) != unset}
        for name, value in (stated | self.settings.stated()).items():
            check_has(name, value, self.engine, self.settings.engine_version)
            if self.settings.offline and name in PROCESSES:
                raise InvalidRequest(f"{name} is {value}; offline there is no server. Leave it out.")
        most, sequences = self.settings.max_num_batched_tokens, self.settings.max_num_seqs
        if 0 < most < sequences:
            raise InvalidRequest(
                f"max_num_seqs is {sequences} and max_num_batched_tokens {most}; a step holds a token of each "
                "sequence. Raise max_num_batched_tokens, or lower max_num_seqs."
            )
        if formats := get_engine(self.engine).formats:
            cached = [name for name in KV_DTYPES if name in OWN_FORMATS[formats]]
            for name, known in (
                ("dtype", {*PLAIN_DTYPES, *OWN_FORMATS[formats]}),
                ("kv_dtype", {"", *PLAIN_DTYPES, *cached}),
            ):
                if (value := getattr(self, name)) not in known:
                    raise InvalidRequest(f"{name} is {value}; {self.engine} has none such. Use {cached[0]} or fp16.")
            return
        for name in ("dtype", "kv_dtype"):
            value = getattr(self, name)
            if value in MLX or (name == "kv_dtype" and value in GGUF):
                owner = engine_with(value)
                raise InvalidRequest(f"{name} is {value}; {self.engine} has none such. Set engine to {owner}.")

    def _check_lengths(self) -> None:
        lengths = self.input_len + (self.output_len if self.generates else 0)
        own = self.settings.max_model_len
        whose = "max_model_len" if own else "max_position_embeddings"
        most = own or self.model.max_len
        if (total := int(np.max(lengths))) > most:
            what = "input_len + output_len" if self.generates else "input_len"
            what = f"{what}, images among it," if self.images else what
            taker, cure = self.model.name, "Shorten one of them"
            if self.may_stretch and not own:
                cure += ", or set max_model_len, as engines allow"
            raise InvalidRequest(f"{what} is {total}; {taker} takes at most {most} tokens ({whose}). {cure}.")
        if own > self.model.max_len and not self.may_stretch:
            raise InvalidRequest(
                f"max_model_len is {own}; {self.model.name} has a table of {self.model.max_len} positions. Lower it."
            )
        if (largest := int(np.max(self.batch * lengths))) > LARGEST:
            raise InvalidRequest(
                f"batch * (input_len + output_len) is {largest}; it must be at most 2**31. Lower batch."
            )

    @property
    def longest(self) -> int:
        """Tokens of a sequence at most: as set, or the model's."""
        return self.settings.max_model_len or self.model.max_len

    @property
    def may_stretch(self) -> bool:
        """Whether engines run the model beyond its stated context: positions are turned, not looked up in a table."""
        return self.generates and getattr(self.model, "positions", "rotary") != "learned"

    def _check_layout(self) -> None:
        group = self.tp * self.attention_dp
        if group % self.ep:
            raise InvalidRequest(
                f"ep is {self.ep}; it must divide tp * attention_dp, the {group} GPUs that share the experts."
            )
        self.model.check(self.layout)
        if get_engine(self.engine).whole_blocks:
            self._check_blocks()
        if self.two_batches and not any(sent_to_experts(call) for call in self.launched()):
            raise InvalidRequest(
                "enable_two_batch_overlap is true; no tokens are sent to experts on other GPUs. Leave it out, or set "
                "attention_dp and ep to more GPUs than a token has experts."
            )

    def _check_blocks(self) -> None:
        """Engines refuse to cut a block of published weights that has one scale; who quantises may choose others."""
        model, experts = self.model, getattr(self.model, "experts", "")
        own = getattr(model, "linear_dtype", "")
        published = {"linear": own, "experts": getattr(model, "expert_dtype", ""), "attention": own}
        dtypes = {"linear": self.dtype, "experts": self.expert_dtype or self.dtype, "attention": self.dtype}
        shared = {"linear": self.tp, "experts": self.layout.expert_tp if experts else self.tp, "attention": self.tp}
        for kind, dtype in dtypes.items():
            block = DTYPES[dtype].block
            if block == 1 or shared[kind] == 1 or dtype != published[kind]:
                continue
            columns = model.columns_of(self.layout).get(kind, ())  # type: ignore[union-attr]  # published formats are of decoders
            if cut := [count for count in columns if count % block]:
                of, ep = ("each expert", ", or raise ep") if kind == "experts" and experts else ("a feed-forward", "")
                of = "attention's output" if kind == "attention" else of
                raise InvalidRequest(
                    f"tp is {self.tp}, which leaves {cut[0]} columns of {of} of {model.name} on a GPU; "
                    f"{self.engine} takes whole blocks of {block} in {dtype}. Lower tp{ep}."
                )

    @classmethod
    def column(cls, alike: Sequence[Self]) -> Self:
        """Workloads that differ in SIZES only as one, whose SIZES are (n_workloads,) columns.

        Only of models that are `in_columns`, and not in Transformers, whose ops depend on their sizes.
        """
        sizes: dict[str, Any] = {name: np.array([getattr(workload, name) for workload in alike]) for name in SIZES}
        return replace(alike[0], **sizes)

    @property
    def drafting(self) -> Self | None:
        """What proposes tokens beside it, in the formats it was published in."""
        if self.draft is None:
            return None
        settings = self.settings._replace(enable_two_batch_overlap=False)
        return replace(
            self, model=self.draft, draft=None, dtype="", expert_dtype="", stored_bytes=0.0, settings=settings, images=0
        )

    @property
    def in_columns(self) -> bool:
        """Whether it may become part of a column."""
        return not (self.eager or self.images) and getattr(self.model, "in_columns", False)

    @property
    def eager(self) -> bool:
        """Whether the engine runs the operators of Transformers one by one."""
        return get_engine(self.engine).eager

    def engine_on(self, gpu: Gpu) -> Engine:
        """The engine as it is set, on a GPU, with the calls that it issues for an operator of this model."""
        return self._laid_out(engine_on(self.engine, gpu, self.settings))

    def as_set(self, engine: Engine, gpu: Gpu) -> Engine:
        """An engine in place of the workload's, as that is on a GPU."""
        return self._laid_out(engine.on(gpu, self.settings))

    def _laid_out(self, started: Engine) -> Engine:
        """An engine on a GPU, with what follows from the layout, the model and the beams."""
        if self.ubatch > started.max_batched_tokens:
            started = replace(started, max_batched_tokens=self.ubatch)
        if started.ranks_s and self.layout.n_gpus > self.dp:
            started = replace(started, step_s=started.step_s + started.ranks_s)
        if count := self.settings.api_server_count or self.settings.tokenizer_worker_num:
            started = started.fronted(count / self.attention_dp)
        if self.beam_width > 1:
            started = started.searching()
        return started.issuing(self.launched()) if started.issued else started

    @property
    def captures(self) -> bool:
        """Whether the engine captures decode steps in CUDA graphs."""
        return get_engine(self.engine).graphs and not self.settings.enforce_eager

    @property
    def two_batches(self) -> bool:
        """Whether one half of a batch computes while the other is sent to experts."""
        return self.settings.enable_two_batch_overlap

    @property
    def pass_tokens(self) -> int:
        """Most tokens of a forward pass of an engine on ggml or MLX; 0 of another engine."""
        own = get_engine(self.engine).ubatch
        return (self.ubatch or own) if own else 0

    @property
    def block_types(self) -> Types:
        """The types of blocks of the model's matrices; () where the weights are in no format of GGUF or MLX, which
        quantises embedding and head as all else."""
        if self.dtype in MLX:
            return tuple((name, ((self.dtype, 1.0),)) for name in (HEAD, EMBEDDING))
        if self.dtype not in GGUF:
            return ()
        model = self.model
        group = int(getattr(model, "heads", 1)) // int(getattr(model, "kv_heads", 1))
        return self.stored_types or dealt_out(self.dtype, int(getattr(model, "layers", 1)), group)

    @property
    def generates(self) -> bool:
        """Whether tokens come out one by one; else one pass over the input is all."""
        return not isinstance(self.model, SinglePass)

    @property
    def inputs(self) -> str:
        """What one pass takes a batch of: "images" or "sequences"; "" where tokens are generated."""
        return inputs_of(self.model)

    @property
    def layout(self) -> Layout:
        """How GPUs share the model."""
        return Layout(self.tp, self.pp, self.dp, self.ep, self.attention_dp)

    @property
    def links(self) -> Links:
        """What is stated of what joins the GPUs."""
        return Links(self.link, stated_network(self.node_link))

    @property
    def local_batch(self) -> int:
        """Sequences whose cache one GPU holds; the fullest one where they do not divide."""
        return -(-self.batch // (self.dp * self.attention_dp))

    @property
    def act_dtype(self) -> str:
        """Number format between the linear layers, of attention arithmetic, embeddings, norms and the output head."""
        return self.dtype if self.dtype in (*WIDE_DTYPES, "bf16") else self.half

    @property
    def cache_dtype(self) -> str:
        """Number format of the KV cache; a tf32 model stores 32 bits."""
        return self.kv_dtype or ("fp32" if self.act_dtype == "tf32" else self.act_dtype)

    def prefill_ops(self, cached: int = 0) -> tuple[OpCall, ...]:
        """One forward over batch × input_len tokens, of which the first `cached` of each sequence are cached already;
        the output head runs on the last token of each. Before it the vision tower passes over the images."""
        engine, length = get_engine(self.engine), self.input_len
        if engine.padded:
            length = -(-length // engine.block_tokens) * engine.block_tokens
        return self._ops(self.step("prefill", length - cached, length), image_ops(self))

    def decode_ops(self, kv_len: int) -> tuple[OpCall, ...]:
        """One step: a new token per sequence over kv_len cached tokens each, the new one included."""
        length = _whole("kv_len", kv_len)
        if not self.generates:
            raise InvalidRequest(f"{self.model.name} generates no tokens; it has prefill_ops only.")
        if np.any(length > self.longest):
            raise InvalidRequest(
                f"kv_len is {np.max(length)}; {self.model.name} takes at most {self.longest} tokens "
                "(max_position_embeddings). Lower it."
            )
        return self._ops(self.step("decode", 1, length))

    def step(self, phase: str, q_len: int, kv_len: int) -> Step:
        """What one GPU does in a forward pass; with pp, each of pp parts of the batch is in another stage, or all of it
        walks through them."""
        beams = self.beam_width if phase == "decode" else 1
        return Step(
            phase,
            (self.local_batch if self.pass_tokens else -(-self.local_batch // self.pp)) * beams,
            q_len,
            kv_len,
            self.dtype,
            self.act_dtype,
            self.cache_dtype,
            self.tp,
            self.attention_dp,
            self.ep,
            self.expert_dtype,
            prompt_len=self.input_len,
            fused=self._fused(phase),
        )

    def _fused(self, phase: str) -> Fused:
        """What the engine fuses in steps of a phase."""
        own = operators_of(self.engine)
        if phase == "prefill" or not self.captures:
            return Fused(own.rotates, own.routes)
        return Fused(own.rotates, own.routes, own.normed_sums, own.shared_beside, own.norms_beside)

    def launched(self) -> tuple[OpCall, ...]:
        """Operators that the host issues for a forward pass, of any size."""
        return _launched(self.model, self.step("prefill", 1, 1)._replace(batch=1, prompt_len=1))

    def forward_ops(self, step: Step) -> tuple[OpCall, ...]:
        """The ops of a pass as a serving engine fuses them, or as llama.cpp and MLX have them apart."""
        if step.phase == "decode" and get_engine(self.engine).padded:
            step = step._replace(batch=power_of_two(step.batch))
        calls = self.model.forward_ops(step)
        return ggml_ops(calls, self.model, step, self.block_types, self.pass_tokens) if self.pass_tokens else calls

    def _ops(self, step: Step, before: tuple[OpCall, ...] = ()) -> tuple[OpCall, ...]:
        calls = (*before, *self.forward_ops(step))
        if self.half != "bf16":
            calls = tuple(call._replace(op=_in_16_bits(call.op, self.half)) for call in calls)
        if self.eager:
            calls = transformers_ops(calls)
        if operators_of(self.engine).graph_share:
            calls = tuple(call for call in calls if call.op.family != "pointwise")
        if self.pp == 1:
            return calls
        message_bytes = step.tokens * self.model.hidden * float(out_bytes(step.act_dtype))
        send = Collective(kind="send_recv", message_bytes=message_bytes, n_gpus=2)
        return (*calls, OpCall("pipeline_send", send, self.pp - 1.0))


def sent_to_experts(call: OpCall) -> bool:
    """Whether the call sends tokens to the GPUs of their experts, or what those made of them back."""
    return _sent(call.op)


def _sent(op: Op) -> bool:
    return isinstance(op, Collective) and op.kind == "all_to_all"


def of_all_groups(name: str, op: Op) -> bool:
    """Whether an op works on the tokens of all attention groups: experts, and what gathers tokens for them."""
    return op.family == "moe" or (isinstance(op, Collective) and name in ("dispatch", "combine") and not _sent(op))


DECODE_POINTS = 5  # cached lengths at which a decode step is predicted; between them it is near linear


def phases(workload: Workload) -> list[Phase]:
    """The steps that a report is made of: the prompt, and decode steps at a few lengths."""
    decodes = [("decode", workload.decode_ops(length)) for length in decode_lengths(workload)]
    return [("prefill", workload.prefill_ops()), *decodes]


def prompt_and_middle_phases(workload: Workload) -> list[Phase]:
    """Of `phases` the prompt and the decode step half-way, which is all that a report shows of a simulated load."""
    lengths = decode_lengths(workload)
    decodes = [("decode", workload.decode_ops(lengths[len(lengths) // 2]))] if lengths else []
    return [("prefill", workload.prefill_ops()), *decodes]


def decode_lengths(workload: Workload) -> list[Any]:
    """Cached lengths at which a decode step is predicted, rising; some are equal where few tokens come out."""
    if not workload.generates:
        return []
    first, more = workload.input_len + 1, greater(workload.output_len - 2, 0)
    return [first + point * more // (DECODE_POINTS - 1) for point in range(DECODE_POINTS)]
