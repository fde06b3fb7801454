"""Dense decoder-only transformers: the architecture facts, parameter counts and what one GPU of several holds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from predictor.elementwise import lesser
from predictor.errors import InvalidRequest, InvalidSpec
from predictor.ops import Attention, Collective, Gemm, Pointwise
from predictor.ops.dtypes import Number, out_bytes
from predictor.workloads.passes.calls import Layout, OpCall, Step, WithoutExperts

if TYPE_CHECKING:
    from predictor.workloads.architectures.tower import VisionTower

NORMS = ("rms_norm", "layer_norm")
NORM_ORDERS = ("pre", "post", "sandwich", "residual")
QK_NORMS = ("", "head", "heads", "full")
POSITIONS = ("rotary", "rotary_in_windows", "learned", "alibi", "none")
ACTIVATIONS = ("silu", "gelu", "gelu_tanh", "relu", "relu2")
WEIGHT_DTYPES = ("bf16", "fp16", "fp32")

LARGEST_FIELD = {"layers": 2**12, "heads": 2**12, "kv_heads": 2**12, "head_dim": 2**12, "max_len": 2**31}
OR_ZERO = frozenset({"window", "window_layers", "rotary_dim", "reserved_positions", "embedding_dim", "parallel_norms"})
FLAGS = (
    "tied_embeddings",
    "gated",
    "qkv_bias",
    "o_bias",
    "mlp_bias",
    "head_bias",
    "norm_bias",
    "embedding_norm",
    "joint_all_reduce",
    "capped_logits",
)
SIZES = ("hidden", "layers", "heads", "kv_heads", "head_dim", "inter", "vocab", "max_len", *sorted(OR_ZERO))


class Shard(NamedTuple):
    """What one of tp GPUs holds; key/value heads are copied where tp exceeds them."""

    heads: int
    kv_heads: int
    inter: int
    vocab: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Decoder(WithoutExperts):
    """A dense decoder; field values are those of the published config.json (Hugging Face names in brackets).

    hidden: model width [hidden_size]. inter: feed-forward width [intermediate_size]. vocab: rows of the embedding.
    max_len: positions [max_position_embeddings]. head_dim: width of one head, not always hidden / heads.
    tied_embeddings: the output head shares the embedding's weights. gated: three feed-forward matrices, else two.
    qkv_bias, o_bias, mlp_bias, head_bias: biases of those projections and of the output head.
    qk_norm: "head" normalises query and key per head (Qwen3, Gemma 3), "heads" with weights of each head's own (Cohere,
    StableLM 2), "full" over all heads at once (OLMo 2). norm_bias: layer norms add a vector.
    norm_order: norms before attention and feed-forward ("pre"), after ("post"), both ("sandwich"), or after the
    residual addition and not at the end ("residual", OPT-350m).
    parallel_norms: attention and feed-forward run side by side on the output of 1 norm (GPT-J, Phi, Falcon 7B, Cohere)
    or of 2 (GPT-NeoX, Falcon 40B); 0: one after the other. joint_all_reduce: their outputs are summed, then reduced.
    positions: rotary embedding in every layer or in those with a window, a table of max_len + reserved_positions rows
    ("learned"), a bias of the scores ("alibi"), or "none". embedding_norm: the embedding is normalised (BLOOM).
    embedding_dim: width of the embedding where it is projected to hidden [word_embed_proj_dim]; 0: hidden.
    window: keys each query sees in the window_layers layers that have a sliding window, itself included; 0: none.
    rotary_dim: elements of a head that the rotary embedding turns; 0: all.
    dtype: of the published weights; linear_dtype: of its linear layers where they are quantised.
    beside: parameters of what is no layer of the decoder (vision and audio towers, their projectors). tower: what makes
    tokens of images, where it is known.
    capped_logits: a tanh bounds the logits (Gemma 2) [final_logit_softcapping].

    >>> gpt = dict(hidden=64, layers=2, heads=4, kv_heads=4, head_dim=16, inter=256, vocab=1000, max_len=512)
    >>> Decoder(name="tiny", **gpt, source="made up").parameters()
    259392
    """

    name: str
    hidden: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    inter: int
    vocab: int
    max_len: int
    source: str
    tied_embeddings: bool = False
    gated: bool = True
    qkv_bias: bool = False
    o_bias: bool = False
    mlp_bias: bool = False
    head_bias: bool = False
    qk_norm: str = ""
    norm: str = "rms_norm"
    norm_bias: bool = True
    norm_order: str = "pre"
    parallel_norms: int = 0
    joint_all_reduce: bool = False
    positions: str = "rotary"
    reserved_positions: int = 0
    embedding_norm: bool = False
    embedding_dim: int = 0
    window: int = 0
    window_layers: int = 0
    rotary_dim: int = 0
    activation: str = "silu"
    dtype: str = "bf16"
    linear_dtype: str = ""
    capped_logits: bool = False
    beside: int = 0
    tower: VisionTower | None = None
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Checks every field, then those that hang together."""
        for field in SIZES:
            self._check_size(field, getattr(self, field))
        for field in FLAGS:
            if not isinstance(getattr(self, field), bool):
                raise InvalidSpec(f"{field} of {self.name} is {getattr(self, field)!r}; it must be true or false.")
        choices = {
            "qk_norm": QK_NORMS,
            "norm": NORMS,
            "norm_order": NORM_ORDERS,
            "positions": POSITIONS,
            "activation": ACTIVATIONS,
            "dtype": WEIGHT_DTYPES,
        }
        for field, known in choices.items():
            if getattr(self, field) not in known:
                listed = ", ".join(f'"{value}"' for value in known)
                raise InvalidSpec(f'{field} of {self.name} is "{getattr(self, field)}"; it must be one of {listed}.')
        self._check_heads()
        self._check_layers()

    def _check_heads(self) -> None:
        if self.heads % self.kv_heads:
            raise InvalidSpec(
                f"kv_heads of {self.name} is {self.kv_heads}; it must divide the {self.heads} attention heads."
            )
        if self.heads * self.head_dim > 2**20:
            raise InvalidSpec(f"heads * head_dim of {self.name} is {self.heads * self.head_dim}; at most 2**20.")
        if self.rotary_dim > self.head_dim:
            raise InvalidSpec(f"rotary_dim of {self.name} is {self.rotary_dim}; at most head_dim, {self.head_dim}.")

    def _check_layers(self) -> None:
        if self.window_layers > self.layers or (self.window > 0) != (self.window_layers > 0):
            raise InvalidSpec(
                f"window of {self.name} is {self.window} in {self.window_layers} of {self.layers} layers; "
                "give both or neither, in at most all layers."
            )
        if self.parallel_norms > 2 or (self.parallel_norms and self.norm_order != "pre"):
            raise InvalidSpec(
                f'parallel_norms of {self.name} is {self.parallel_norms} with norm_order "{self.norm_order}"; '
                'it must be 0, or 1 or 2 with "pre".'
            )
        if self.joint_all_reduce and not self.parallel_norms:
            raise InvalidSpec(f"joint_all_reduce of {self.name} is true; it needs parallel_norms of 1 or 2.")
        if self.reserved_positions and self.positions != "learned":
            raise InvalidSpec(
                f'reserved_positions of {self.name} is {self.reserved_positions} with positions "{self.positions}"; '
                'it must be 0 unless they are "learned".'
            )

    def _check_size(self, field: str, value: object) -> None:
        least, most = 0 if field in OR_ZERO else 1, LARGEST_FIELD.get(field, 2**20)
        if type(value) is not int or not least <= value <= most:
            shown = repr(value)[:40] if not isinstance(value, int) or abs(value) < 2**128 else "a huge number"
            raise InvalidSpec(
                f"{field} of {self.name} is {shown}; it must be a whole number from {least} to {most}. "
                "Take it from the model's config.json."
            )

    def shard(self, tp: int) -> Shard:
        """What one of tp GPUs holds; raises InvalidRequest where the model cannot be split so.

        Query heads and feed-forward are split, key/value heads split or copied, the vocabulary is padded up.
        """
        for size, what in ((self.heads, "attention heads"), (self.inter, "feed-forward columns")):
            if size % tp:
                raise InvalidRequest(
                    f"tp is {tp}; it must divide the {size} {what} of {self.name}; use {self._degrees()}."
                )
        if self.kv_heads % tp and tp % self.kv_heads:
            raise InvalidRequest(
                f"tp is {tp}; it must divide the {self.kv_heads} key/value heads of {self.name} or be a multiple of "
                f"them; use {self._degrees()}."
            )
        kv_heads = max(1, self.kv_heads // tp)
        return Shard(self.heads // tp, kv_heads, self.inter // tp, -(-self.vocab // tp))

    def _degrees(self) -> str:
        fit = [
            str(tp)
            for tp in range(1, self.heads + 1)
            if not (self.heads % tp or self.inter % tp or (self.kv_heads % tp and tp % self.kv_heads))
        ][:8]
        return fit[0] if len(fit) == 1 else f"{', '.join(fit[:-1])} or {fit[-1]}"

    def parameters(self) -> int:
        """Parameters of the whole model, tied embeddings once."""
        return self.linear_parameters() + self.embedding_parameters() + self.vector_parameters()

    def linear_parameters(self, tp: int = 1) -> int:
        """Matrix elements of all layers on one of tp GPUs: what a weight dtype applies to."""
        part = self.shard(tp)
        qkv = self.hidden * (part.heads + 2 * part.kv_heads) * self.head_dim
        out = part.heads * self.head_dim * self.hidden
        feed_forward = (3 if self.gated else 2) * self.hidden * part.inter
        return self.layers * (qkv + out + feed_forward)

    def embedding_parameters(self, tp: int = 1) -> int:
        """Tables on one of tp GPUs: embedding, output head unless tied, positions, which every GPU holds whole."""
        part = self.shard(tp)
        tables = (1 if self.tied_embeddings else 2) * part.vocab * self.embedding_width
        projections = 2 * self.embedding_dim * self.hidden
        biases = self.head_bias * part.vocab
        return tables + projections + self.position_parameters + biases + -(-self.beside // tp)

    @property
    def position_parameters(self) -> int:
        """Elements of the table of learned positions."""
        return (self.max_len + self.reserved_positions) * self.hidden if self.positions == "learned" else 0

    @property
    def embedding_width(self) -> int:
        """Elements of one row of the embedding."""
        return self.embedding_dim or self.hidden

    @property
    def norms_per_layer(self) -> int:
        """Norms over the model width in each layer."""
        return self.parallel_norms or (4 if self.norm_order == "sandwich" else 2)

    @property
    def has_final_norm(self) -> bool:
        """Whether a norm follows the last layer."""
        return self.norm_order != "residual"

    def vector_parameters(self, tp: int = 1) -> int:
        """Norms and biases of layers on one of tp GPUs, with the norms before and after the layers."""
        part = self.shard(tp)
        vectors = 2 if self.norm == "layer_norm" and self.norm_bias else 1
        qk_norm = {
            "": 0,
            "head": vectors * 2 * self.head_dim,
            "heads": (part.heads + part.kv_heads) * self.head_dim,
            "full": vectors * (self.heads + self.kv_heads) * self.head_dim,
        }[self.qk_norm]
        biases = self.qkv_bias * (part.heads + 2 * part.kv_heads) * self.head_dim + self.o_bias * self.hidden
        biases += self.mlp_bias * ((2 if self.gated else 1) * part.inter + self.hidden)
        norms = self.layers * self.norms_per_layer + self.has_final_norm + self.embedding_norm
        return norms * vectors * self.hidden + self.layers * (qk_norm + biases)

    @property
    def in_columns(self) -> bool:
        """Whether forward_ops takes a step with columns: yes."""
        return True

    @property
    def attention(self) -> str:
        """Heads and windows, as a list of models shows them."""
        sliding = f"; window {self.window} in {self.window_layers} layers" if self.window_layers else ""
        return f"{self.heads}/{self.kv_heads} heads{sliding}"

    def check(self, layout: Layout) -> None:
        """Raises InvalidRequest where the model cannot be split so."""
        for name in ("ep", "attention_dp"):
            if (value := getattr(layout, name)) > 1:
                raise InvalidRequest(f"{name} is {value}; {self.name} has no experts. Set it to 1 and use tp or dp.")
        if layout.pp > self.layers:
            raise InvalidRequest(f"pp is {layout.pp}; {self.name} has {self.layers} layers. Lower pp.")
        self.shard(layout.tp)

    def columns_of(self, layout: Layout) -> dict[str, tuple[int, ...]]:
        """Columns of feed-forwards on one GPU, those of "linear" layers, and of "attention" before its output."""
        part = self.shard(layout.tp)
        return {"linear": (part.inter,), "attention": (part.heads * self.head_dim,)}

    def elements(self, layout: Layout) -> tuple[float, float, float]:
        """Elements on one GPU: linear layers, experts (none), and what stays in the format of the activations."""
        plain = self.embedding_parameters(layout.tp) + self.vector_parameters(layout.tp) / layout.pp
        return self.linear_parameters(layout.tp) / layout.pp, 0.0, plain

    def cached(self, length: int, layout: Layout) -> Any:
        """Cache elements of one sequence on one GPU of a stage; a sliding-window layer keeps its window only."""
        kept = (self.layers - self.window_layers) * length + self.window_layers * lesser(length, self.window)
        return 2.0 * self.shard(layout.tp).kv_heads * self.head_dim * kept / layout.pp

    def widest(self, layout: Layout) -> int:
        """Elements per token of the wider sublayer: query, key, value and output, or gate, up and their product.

        Side by side, the output of attention waits for the feed-forward.
        """
        part = self.shard(layout.tp)
        attention = (2 * part.heads + 2 * part.kv_heads) * self.head_dim
        waiting = self.hidden if self.parallel_norms else 0
        return max(attention, (3 if self.gated else 2) * part.inter + waiting)

    def forward_ops(self, step: Step) -> tuple[OpCall, ...]:
        """The ops of one forward pass on one of step.tp GPUs, equal ones once with their count."""
        return decoder_ops(self, step)


def decoder_ops(model: Decoder, step: Step) -> tuple[OpCall, ...]:
    """All ops, equal ones once with their count."""
    part = model.shard(step.tp)
    qkv_width, heads_width = (part.heads + 2 * part.kv_heads) * model.head_dim, part.heads * model.head_dim
    return (
        *embedding_calls(model, step),
        *norm_calls(model, step),
        *projection_calls("qkv_proj", model, step, qkv_width, model.hidden),
        *qk_norm_calls(model, step, part),
        *attention_calls(model, step, part),
        *projection_calls("o_proj", model, step, model.hidden, heads_width),
        *feed_forward_calls(model, step, part),
        *head_calls(model, step, part),
        *(collective_calls(model, step) if step.tp > 1 else ()),
    )


def pointwise(kind: str, rows: Number, cols: float, dtype: str) -> Pointwise:
    """Pointwise with positional fields."""
    return Pointwise(kind=kind, rows=rows, cols=cols, dtype=dtype)


def gemm(m: Number, n: float, k: float, dtype: str) -> Gemm:
    """Gemm with positional fields."""
    return Gemm(m=m, n=n, k=k, dtype=dtype)


def embedding_calls(model: Decoder, step: Step) -> list[OpCall]:
    """Rows of the embedding, made as wide as the model; learned positions are looked up and added."""
    tokens, dtype = step.tokens, step.act_dtype
    calls = [OpCall("embedding", pointwise("embedding", tokens, model.embedding_width, dtype), 1.0)]
    if model.embedding_dim:
        widen = Gemm(m=tokens, n=model.hidden, k=model.embedding_dim, dtype=dtype)
        calls.append(OpCall("embedding_in_proj", widen, 1.0))
    if model.positions == "learned":
        calls.append(OpCall("position_embedding", pointwise("embedding", tokens, model.hidden, dtype), 1.0))
        calls.append(OpCall("add_positions", pointwise("add", tokens, model.hidden, dtype), 1.0))
    if model.embedding_norm:
        calls.append(OpCall("embedding_norm", pointwise(model.norm, tokens, model.hidden, dtype), 1.0))
    return calls


def norm_calls(model: Decoder, step: Step) -> list[OpCall]:
    """Norms over the model width; an RMS norm that follows a residual addition takes it in, others leave it apart.

    A norm before the addition cannot take it in, nor does one that waits for two side by side. Behind an all-reduce
    both may be part of it.
    """
    adds, norms = 2 * model.layers, model.layers * model.norms_per_layer + model.has_final_norm
    fused = model.norm == "rms_norm" and model.norm_order != "post" and not model.parallel_norms
    counts = {"add_rms_norm": adds, "rms_norm": norms - adds} if fused else {"add": adds, model.norm: norms}
    plain = model.norm_order == "pre" and not (model.qk_norm or model.qkv_bias)
    if fused and plain and step.sums_are_normed("plain"):
        counts["add_rms_norm"] = 0
    rows, cols, dtype = step.tokens, model.hidden, step.act_dtype
    return [OpCall(kind, pointwise(kind, rows, cols, dtype), float(count)) for kind, count in counts.items() if count]


def projection_calls(name: str, model: Decoder, step: Step, n: int, k: int) -> list[OpCall]:
    """One linear layer k → n in every layer.

    The quantisation of narrow inputs is part of the measured GEMMs (aiconfigurator's collect_gemm.py times a whole
    linear layer), and engines fuse it into the op before.
    """
    return [OpCall(name, gemm(step.tokens, n, k, step.dtype), float(model.layers))]


def feed_forward_calls(model: Decoder, step: Step, part: Shard) -> list[OpCall]:
    """Up (and gate), activation, down.

    A gated activation other than SiLU moves the same bytes and is counted as silu_mul; squared ReLU as relu.
    """
    name, width = ("gate_up_proj", 2 * part.inter) if model.gated else ("up_proj", part.inter)
    kind = "silu_mul" if model.gated else model.activation.removesuffix("2").removesuffix("_tanh")
    activation = pointwise(kind, step.tokens, part.inter, step.act_dtype)
    return [
        *projection_calls(name, model, step, width, model.hidden),
        OpCall("gelu_tanh" if model.activation == "gelu_tanh" else kind, activation, float(model.layers)),
        *projection_calls("down_proj", model, step, model.hidden, part.inter),
    ]


def qk_norm_calls(model: Decoder, step: Step, part: Shard) -> list[OpCall]:
    """Norms of query and key; "full" norms need the heads of all GPUs, so those are gathered first."""
    layers, tokens, dim, dtype = float(model.layers), step.tokens, model.head_dim, step.act_dtype
    if not model.qk_norm:
        return []
    if model.qk_norm != "full":
        query, key = (pointwise(model.norm, tokens * heads, dim, dtype) for heads in (part.heads, part.kv_heads))
        return [OpCall("q_norm", query, layers), OpCall("k_norm", key, layers)]
    calls = []
    for name, heads in (("q_norm", model.heads), ("k_norm", model.kv_heads)):
        calls.append(OpCall(name, pointwise(model.norm, tokens, heads * dim, dtype), layers))
        if step.tp > 1:
            message_bytes = tokens * heads * dim * float(out_bytes(dtype))
            gather = Collective(kind="all_gather", message_bytes=message_bytes, n_gpus=step.tp)
            calls.append(OpCall(f"{name}_all_gather", gather, layers))
    return calls


def attention_calls(model: Decoder, step: Step, part: Shard) -> list[OpCall]:
    """Rotary embedding of the layers that have one, then attention: full and sliding-window layers apart."""
    turned = (part.heads + part.kv_heads) * (model.rotary_dim or model.head_dim)
    rotary_layers = {"rotary": model.layers, "rotary_in_windows": model.window_layers}.get(model.positions, 0)
    calls = []
    if rotary_layers and not step.fused.rotates:
        calls.append(OpCall("rope", pointwise("rope", step.tokens, turned, step.act_dtype), float(rotary_layers)))
    kinds = (
        ("attention", model.layers - model.window_layers, 0),
        ("window_attention", model.window_layers, model.window),
    )
    for name, layers, window in kinds:
        if layers:
            op = Attention(
                phase=step.phase,
                batch=step.batch,
                q_len=step.q_len,
                kv_len=step.kv_len,
                heads=part.heads,
                kv_heads=part.kv_heads,
                head_dim=model.head_dim,
                window=window,
                dtype=step.act_dtype,
                kv_dtype=step.kv_dtype,
            )
            calls.append(OpCall(name, op, float(layers)))
    return calls


def head_calls(model: Decoder, step: Step, part: Shard) -> list[OpCall]:
    """Logits of the last token of each sequence; all tokens are narrowed first where the embedding is narrow."""
    calls, dtype = [], step.act_dtype
    if model.embedding_dim:
        narrow = Gemm(m=step.tokens, n=model.embedding_dim, k=model.hidden, dtype=dtype)
        calls.append(OpCall("embedding_out_proj", narrow, 1.0))
    head = gemm(step.batch, part.vocab, model.embedding_width, dtype)
    return [*calls, OpCall("lm_head", head, 1.0)]


def collective_calls(model: Decoder, step: Step) -> list[OpCall]:
    """All-reduces after the embedding and after o_proj and down_proj of every layer; one all-gather of the logits.

    Of the parallel blocks, vLLM adds up Falcon's two outputs and reduces once; those of GPT-J, GPT-NeoX, Phi and
    Cohere are reduced one by one as anywhere else.
    """
    element = float(out_bytes(step.act_dtype))
    hidden, embedding = (
        Collective(kind="all_reduce", message_bytes=step.tokens * width * element, n_gpus=step.tp)
        for width in (model.hidden, model.embedding_width)
    )
    reduces = (1.0 if model.joint_all_reduce else 2.0) * model.layers
    logits_bytes = step.batch * model.shard(step.tp).vocab * step.tp * element
    gather = OpCall("logits_all_gather", Collective(kind="all_gather", message_bytes=logits_bytes, n_gpus=step.tp), 1.0)
    if not model.embedding_dim:
        return [OpCall("all_reduce", hidden, reduces + 1), gather]
    return [OpCall("all_reduce", hidden, reduces), OpCall("embedding_all_reduce", embedding, 1.0), gather]
