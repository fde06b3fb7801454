"""Dense decoder-only transformers: the architecture facts, parameter counts and the ops of one forward pass.

The ops are those of a fused serving engine as in vLLM's model files (vllm/model_executor/models/llama.py, qwen3.py,
gemma3.py, olmo2.py, starcoder2.py): one GEMM for query, key and value, one for gate and up, the residual addition
inside the RMS norm, attention without a score matrix, Megatron-style tensor parallelism (Shoeybi et al.,
arXiv:1909.08053, 3). Left out: sampling, the cache write, soft-capping and scalar multipliers.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from predictor.errors import InvalidRequest, InvalidSpec
from predictor.ops import Attention, Collective, Gemm, Pointwise
from predictor.ops.dtypes import out_bytes
from predictor.workloads.base import Layout, OpCall, Step

NORMS = ("rms_norm", "layer_norm")
NORM_ORDERS = ("pre", "post", "sandwich")
QK_NORMS = ("", "head", "full")
ACTIVATIONS = ("silu", "gelu", "relu", "relu2")
WEIGHT_DTYPES = ("bf16", "fp16", "fp32")

LARGEST_FIELD = {"layers": 2**12, "heads": 2**12, "kv_heads": 2**12, "head_dim": 2**12, "max_len": 2**31}
OR_ZERO = frozenset({"window", "window_layers", "rotary_dim"})
SIZES = ("hidden", "layers", "heads", "kv_heads", "head_dim", "inter", "vocab", "max_len", *sorted(OR_ZERO))


class Shard(NamedTuple):
    """What one of tp GPUs holds; key/value heads are copied where tp exceeds them."""

    heads: int
    kv_heads: int
    inter: int
    vocab: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Decoder:
    """A dense decoder; field values are those of the published config.json (Hugging Face names in brackets).

    hidden: model width [hidden_size]. inter: feed-forward width [intermediate_size]. vocab: rows of the embedding.
    max_len: positions [max_position_embeddings]. head_dim: width of one head, not always hidden / heads.
    tied_embeddings: the output head shares the embedding's weights. gated: three feed-forward matrices, else two.
    qkv_bias, o_bias, mlp_bias: biases of those projections.
    qk_norm: "head" normalises query and key per head (Qwen3, Gemma 3), "full" over all heads at once (OLMo 2).
    norm_order: norms before attention and feed-forward ("pre"), after ("post"), or both ("sandwich").
    window: keys each query sees in the window_layers layers that have a sliding window, itself included; 0: none.
    rotary_dim: elements of a head that the rotary embedding turns; 0: all.
    dtype: of the published weights; linear_dtype: of its linear layers where they are quantised.

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
    qk_norm: str = ""
    norm: str = "rms_norm"
    norm_order: str = "pre"
    window: int = 0
    window_layers: int = 0
    rotary_dim: int = 0
    activation: str = "silu"
    dtype: str = "bf16"
    linear_dtype: str = ""

    def __post_init__(self) -> None:
        """Checks every field, then those that hang together."""
        for field in SIZES:
            self._check_size(field, getattr(self, field))
        for field in ("tied_embeddings", "gated", "qkv_bias", "o_bias", "mlp_bias"):
            if not isinstance(getattr(self, field), bool):
                raise InvalidSpec(f"{field} of {self.name} is {getattr(self, field)!r}; it must be true or false.")
        choices = {
            "qk_norm": QK_NORMS,
            "norm": NORMS,
            "norm_order": NORM_ORDERS,
            "activation": ACTIVATIONS,
            "dtype": WEIGHT_DTYPES,
        }
        for field, known in choices.items():
            if getattr(self, field) not in known:
                listed = ", ".join(f'"{value}"' for value in known)
                raise InvalidSpec(f'{field} of {self.name} is "{getattr(self, field)}"; it must be one of {listed}.')
        if self.heads % self.kv_heads:
            raise InvalidSpec(
                f"kv_heads of {self.name} is {self.kv_heads}; it must divide the {self.heads} attention heads."
            )
        if self.heads * self.head_dim > 2**20:
            raise InvalidSpec(f"heads * head_dim of {self.name} is {self.heads * self.head_dim}; at most 2**20.")
        if self.window_layers > self.layers or (self.window > 0) != (self.window_layers > 0):
            raise InvalidSpec(
                f"window of {self.name} is {self.window} in {self.window_layers} of {self.layers} layers; "
                "give both or neither, in at most all layers."
            )
        if self.rotary_dim > self.head_dim:
            raise InvalidSpec(f"rotary_dim of {self.name} is {self.rotary_dim}; at most head_dim, {self.head_dim}.")

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
        """Embedding and, unless tied, output head on one of tp GPUs."""
        return (1 if self.tied_embeddings else 2) * self.shard(tp).vocab * self.hidden

    def vector_parameters(self, tp: int = 1) -> int:
        """Norms and biases on one of tp GPUs."""
        part = self.shard(tp)
        norm = self.hidden * (2 if self.norm == "layer_norm" else 1)
        norms = norm * (4 if self.norm_order == "sandwich" else 2)
        qk_norm = {"": 0, "head": 2 * self.head_dim, "full": (self.heads + self.kv_heads) * self.head_dim}[self.qk_norm]
        biases = self.qkv_bias * (part.heads + 2 * part.kv_heads) * self.head_dim + self.o_bias * self.hidden
        biases += self.mlp_bias * ((2 if self.gated else 1) * part.inter + self.hidden)
        return self.layers * (norms + qk_norm + biases) + norm

    @property
    def attention(self) -> str:
        """Heads and windows, as a list of models shows them."""
        sliding = f"; window {self.window} in {self.window_layers} layers" if self.window_layers else ""
        return f"{self.heads}/{self.kv_heads} heads{sliding}"

    @property
    def experts(self) -> str:
        """There are no experts."""
        return ""

    @property
    def expert_dtype(self) -> str:
        """There are no experts."""
        return ""

    @property
    def notes(self) -> tuple[str, ...]:
        """What to say with every prediction: nothing."""
        return ()

    def check(self, layout: Layout) -> None:
        """Raises InvalidRequest where the model cannot be split so."""
        for name in ("ep", "attention_dp"):
            if (value := getattr(layout, name)) > 1:
                raise InvalidRequest(f"{name} is {value}; {self.name} has no experts. Set it to 1 and use tp or dp.")
        if layout.pp > self.layers:
            raise InvalidRequest(f"pp is {layout.pp}; {self.name} has {self.layers} layers. Lower pp.")
        self.shard(layout.tp)

    def elements(self, layout: Layout) -> tuple[float, float, float]:
        """Elements on one GPU: linear layers, experts (none), and what stays in the format of the activations."""
        plain = self.embedding_parameters(layout.tp) + self.vector_parameters(layout.tp) / layout.pp
        return self.linear_parameters(layout.tp) / layout.pp, 0.0, plain

    def cached(self, length: int, layout: Layout) -> float:
        """Cache elements of one sequence on one GPU of a stage; a sliding-window layer keeps its window only."""
        kept = (self.layers - self.window_layers) * length + self.window_layers * min(length, self.window)
        return 2.0 * self.shard(layout.tp).kv_heads * self.head_dim * kept / layout.pp

    def state_bytes(self, layout: Layout) -> float:
        """Bytes per sequence that do not grow with its length: none."""
        return 0.0

    def widest(self, layout: Layout) -> int:
        """Elements per token of the wider sublayer: query, key, value and output, or gate, up and their product."""
        part = self.shard(layout.tp)
        attention = (2 * part.heads + 2 * part.kv_heads) * self.head_dim
        return max(attention, (3 if self.gated else 2) * part.inter)

    def forward_ops(self, step: Step) -> tuple[OpCall, ...]:
        """The ops of one forward pass on one of step.tp GPUs, equal ones once with their count."""
        part = self.shard(step.tp)
        qkv_width, heads_width = (part.heads + 2 * part.kv_heads) * self.head_dim, part.heads * self.head_dim
        return (
            OpCall("embedding", pointwise("embedding", step.tokens, self.hidden, step.act_dtype), 1.0),
            *norm_calls(self, step),
            *projection_calls("qkv_proj", self, step, qkv_width, self.hidden),
            *qk_norm_calls(self, step, part),
            *attention_calls(self, step, part),
            *projection_calls("o_proj", self, step, self.hidden, heads_width),
            *feed_forward_calls(self, step, part),
            OpCall("lm_head", Gemm(m=step.batch, n=part.vocab, k=self.hidden, dtype=step.act_dtype), 1.0),
            *(collective_calls(self, step) if step.tp > 1 else ()),
        )


def pointwise(kind: str, rows: float, cols: float, dtype: str) -> Pointwise:
    """Pointwise with positional fields."""
    return Pointwise(kind=kind, rows=rows, cols=cols, dtype=dtype)


def norm_calls(model: Decoder, step: Step) -> list[OpCall]:
    """Norms over the model width; an RMS norm that follows a residual addition takes it in, others leave it apart."""
    before, alone = 2 * model.layers, 1
    if model.norm_order == "sandwich":
        alone += 2 * model.layers
    fused = model.norm == "rms_norm" and model.norm_order != "post"  # a norm before the addition cannot take it in
    counts = {"add_rms_norm": before, "rms_norm": alone} if fused else {"add": before, model.norm: before + alone}
    rows, cols, dtype = step.tokens, model.hidden, step.act_dtype
    return [OpCall(kind, pointwise(kind, rows, cols, dtype), float(count)) for kind, count in counts.items()]


def projection_calls(name: str, model: Decoder, step: Step, n: int, k: int) -> list[OpCall]:
    """One linear layer k → n in every layer.

    The quantisation of narrow inputs is part of the measured GEMMs (aiconfigurator's collect_gemm.py times a whole
    linear layer), and engines fuse it into the op before.
    """
    return [OpCall(name, Gemm(m=step.tokens, n=n, k=k, dtype=step.dtype), float(model.layers))]


def feed_forward_calls(model: Decoder, step: Step, part: Shard) -> list[OpCall]:
    """Up (and gate), activation, down.

    A gated activation other than SiLU moves the same bytes and is counted as silu_mul; squared ReLU as relu.
    """
    name, width = ("gate_up_proj", 2 * part.inter) if model.gated else ("up_proj", part.inter)
    kind = "silu_mul" if model.gated else model.activation.removesuffix("2")
    activation = pointwise(kind, step.tokens, part.inter, step.act_dtype)
    return [
        *projection_calls(name, model, step, width, model.hidden),
        OpCall(kind, activation, float(model.layers)),
        *projection_calls("down_proj", model, step, model.hidden, part.inter),
    ]


def qk_norm_calls(model: Decoder, step: Step, part: Shard) -> list[OpCall]:
    """Norms of query and key; "full" norms need the heads of all GPUs, so those are gathered first."""
    layers, tokens, dim, dtype = float(model.layers), step.tokens, model.head_dim, step.act_dtype
    if not model.qk_norm:
        return []
    if model.qk_norm == "head":
        query, key = (pointwise("rms_norm", tokens * heads, dim, dtype) for heads in (part.heads, part.kv_heads))
        return [OpCall("q_norm", query, layers), OpCall("k_norm", key, layers)]
    calls = []
    for name, heads in (("q_norm", model.heads), ("k_norm", model.kv_heads)):
        calls.append(OpCall(name, pointwise("rms_norm", tokens, heads * dim, dtype), layers))
        if step.tp > 1:
            message_bytes = tokens * heads * dim * float(out_bytes(dtype))
            gather = Collective(kind="all_gather", message_bytes=message_bytes, n_gpus=step.tp)
            calls.append(OpCall(f"{name}_all_gather", gather, layers))
    return calls


def attention_calls(model: Decoder, step: Step, part: Shard) -> list[OpCall]:
    """Rotary embedding, then attention: full layers and sliding-window layers apart."""
    turned = (part.heads + part.kv_heads) * (model.rotary_dim or model.head_dim)
    calls = [OpCall("rope", pointwise("rope", step.tokens, turned, step.act_dtype), float(model.layers))]
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


def collective_calls(model: Decoder, step: Step) -> list[OpCall]:
    """All-reduces after the embedding and after o_proj and down_proj of every layer; one all-gather of the logits."""
    element = float(out_bytes(step.act_dtype))
    reduce = Collective(kind="all_reduce", message_bytes=step.tokens * model.hidden * element, n_gpus=step.tp)
    logits_bytes = step.batch * model.shard(step.tp).vocab * step.tp * element
    gather = Collective(kind="all_gather", message_bytes=logits_bytes, n_gpus=step.tp)
    return [OpCall("all_reduce", reduce, 2.0 * model.layers + 1), OpCall("logits_all_gather", gather, 1.0)]
