"""Transformer encoders: BERT and its kin over text, vision transformers over images; parameters and forward passes.

The ops are those of a fused engine (one GEMM for query, key and value, attention without a score matrix, biases inside
the GEMMs; vllm/model_executor/models/bert.py, roberta.py, clip.py, siglip.py), or with eager=True those of plain
PyTorch (predictor.workloads.passes.eager). All positions see each other. Padding is not counted: give the padded
length. Left out: heads of a task other than those named, token dropping, dropout.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from predictor.errors import InvalidRequest, InvalidSpec
from predictor.ops import DTYPES, Attention, Conv
from predictor.ops.dtypes import LISTED
from predictor.values import show, whole_number
from predictor.workloads.architectures.single_pass import SinglePass
from predictor.workloads.passes.calls import WIDE_DTYPES, Layout, OpCall, Step
from predictor.workloads.passes.eager import Scores, attention, convolution, gelu_tanh, linear, merged, passes, residual

ACTIVATIONS = ("gelu", "gelu_tanh", "relu", "silu")
HEADS = ("", "linear", "attention")
WEIGHT_DTYPES = ("bf16", "fp16", "fp32")


@dataclass(frozen=True, slots=True, kw_only=True)
class Encoder(SinglePass):
    """A text encoder; field values are those of the published config.json (Hugging Face names in brackets).

    max_len: tokens it takes; reserved_positions: further rows of the position table (RoBERTa, MPNet: 2).
    types: rows of the token-type table, 0: none [type_vocab_size]. relative_buckets: learned attention biases per head
    by distance, one table for all layers (MPNet). embedding_dim: width of the tables where a projection widens it to
    hidden (ELECTRA small) [embedding_size]. pooler: a tanh layer on the first token. norm: after each sublayer.

    >>> Encoder(name="tiny", hidden=8, layers=1, heads=2, inter=16, vocab=10, max_len=4, source="made up").parameters()
    816
    """

    name: str
    hidden: int
    layers: int
    heads: int
    inter: int
    vocab: int
    max_len: int
    source: str
    reserved_positions: int = 0
    types: int = 2
    relative_buckets: int = 0
    embedding_dim: int = 0
    pooler: bool = True
    activation: str = "gelu"
    dtype: str = "fp32"

    def __post_init__(self) -> None:
        """Checks every field."""
        least_zero = ("reserved_positions", "types", "relative_buckets", "embedding_dim")
        check_sizes(self, ("hidden", "layers", "heads", "inter", "vocab", "max_len"), least_zero)
        check_choices(self, {"activation": ACTIVATIONS, "dtype": WEIGHT_DTYPES}, ("pooler",))
        check_heads(self)

    def parameters(self) -> int:
        """Parameters of the encoder with its pooler, without heads of a task."""
        width = self.embedding_dim or self.hidden
        tables = (self.vocab + self.max_len + self.reserved_positions + self.types) * width + 2 * width
        widening = (width + 1) * self.hidden if self.embedding_dim not in (0, self.hidden) else 0
        biases = self.relative_buckets * self.heads
        pooler = (self.hidden + 1) * self.hidden if self.pooler else 0
        return tables + widening + biases + self.layers * layer_parameters(self.hidden, self.inter) + pooler

    @property
    def attention(self) -> str:
        """Heads, as a list of models shows them."""
        return f"{self.heads} heads, both ways"

    def widest(self, layout: Layout) -> int:
        """Elements per token of the wider sublayer: query, key, value and output, or up and its activation."""
        return max(4 * self.hidden, 2 * self.inter)

    def forward_ops(self, step: Step) -> tuple[OpCall, ...]:
        """The ops of a fused engine over step.batch sequences of step.q_len tokens."""
        return self.pass_ops(step.batch, step.q_len, step.dtype)

    def pass_ops(self, batch: int, length: int, dtype: str = "", *, eager: bool = False) -> tuple[OpCall, ...]:
        """The ops of one forward pass on one GPU over `batch` sequences of `length` tokens.

        dtype: of the linear layers, "" as published; what passes between them has 16 bits unless it is fp32 or tf32.
        """
        batch, length = whole_number("batch", batch), whole_number("length", length)
        if length > self.max_len:
            raise InvalidRequest(f"length is {length}; {self.name} takes at most {self.max_len} tokens. Shorten it.")
        dtype, act = formats(dtype or self.dtype)
        tokens, width = batch * length, self.embedding_dim or self.hidden
        tables = 2 + (self.types > 0)
        calls = [
            passes("embedding", "embedding", tokens, width, act, float(tables)),
            passes("add_positions", "add", tokens, width, act, tables - 1.0),
            passes("layer_norm", "layer_norm", tokens, width, act, 1.0),
        ]
        if width != self.hidden:
            calls.append(linear("widen", tokens, self.hidden, width, dtype, 1.0))
        mask = "pair" if self.relative_buckets else "row"
        calls += layer_ops(self, batch, length, (dtype, act), mask if eager else "", eager=eager)
        if self.pooler:
            calls.append(linear("pooler", batch, self.hidden, self.hidden, act, 1.0))
            calls.append(passes("tanh", "tanh", batch, self.hidden, act, 1.0))
        return merged(calls)


@dataclass(frozen=True, slots=True, kw_only=True)
class VisionEncoder(SinglePass):
    """A vision transformer over square images of image × image pixels cut in patch × patch patches.

    extra_tokens: class and register tokens. patch_bias: of the patch projection. embedding_norm: a norm after the
    embedding (CLIP). layer_scale: a factor per channel after each sublayer (DINOv2). mask_token: a learned patch.
    gated: feed-forward of three matrices, gate and up in one (DINOv2 giant). final_norm: after the last layer.
    pooler: a tanh layer on the class token. head: "linear" to `classes`, "attention" pooling with a feed-forward
    (SigLIP), "" none. norm: before each sublayer.
    """

    name: str
    patch: int
    image: int
    hidden: int
    layers: int
    heads: int
    inter: int
    source: str
    channels: int = 3
    extra_tokens: int = 1
    classes: int = 0
    head: str = ""
    patch_bias: bool = True
    embedding_norm: bool = False
    layer_scale: bool = False
    mask_token: bool = False
    final_norm: bool = True
    pooler: bool = False
    gated: bool = False
    activation: str = "gelu"
    dtype: str = "fp32"

    def __post_init__(self) -> None:
        """Checks every field, then those that hang together."""
        sizes = ("patch", "image", "hidden", "layers", "heads", "inter", "channels")
        check_sizes(self, sizes, ("extra_tokens", "classes"))
        flags = ("patch_bias", "embedding_norm", "layer_scale", "mask_token", "final_norm", "pooler", "gated")
        check_choices(self, {"activation": ACTIVATIONS, "dtype": WEIGHT_DTYPES, "head": HEADS}, flags)
        check_heads(self)
        if self.patch > self.image:
            raise InvalidSpec(f"patch of {self.name} is {self.patch}; it must be at most the image, {self.image}.")
        if (self.classes > 0) != (self.head == "linear"):
            raise InvalidSpec(
                f'classes of {self.name} is {self.classes} with head "{self.head}"; '
                'it must be above 0 with head "linear" and 0 without.'
            )

    def tokens(self, image: int = 0) -> int:
        """Tokens of one image: its whole patches and the extra tokens.

        >>> VisionEncoder(name="v", patch=16, image=224, hidden=8, layers=1, heads=1, inter=8, source="").tokens()
        197
        """
        return ((image or self.image) // self.patch) ** 2 + self.extra_tokens

    def parameters(self) -> int:
        """Parameters of the encoder with what stands on it."""
        h = self.hidden
        positions = (self.image // self.patch) ** 2 + (1 if self.extra_tokens else 0)
        embedding = self.patch**2 * self.channels * h + (h if self.patch_bias else 0)
        embedding += (positions + self.extra_tokens + self.mask_token) * h
        layer = layer_parameters(h, self.inter, gated=self.gated) + (2 * h if self.layer_scale else 0)
        around = 2 * h * (self.embedding_norm + self.final_norm) + (h + 1) * h * self.pooler
        around += (h + 1) * self.classes
        if self.head == "attention":
            around += h + layer_parameters(h, self.inter) - 2 * h  # a probe, and a layer with one norm
        return embedding + self.layers * layer + around

    @property
    def vocab(self) -> int:
        """There are no logits of tokens."""
        return 0

    @property
    def max_len(self) -> int:
        """Tokens of one image."""
        return self.fixed_len

    @property
    def fixed_len(self) -> int:
        """Tokens of one image."""
        return self.tokens()

    @property
    def attention(self) -> str:
        """Heads, as a list of models shows them."""
        return f"{self.heads} heads, both ways"

    def widest(self, layout: Layout) -> int:
        """Elements per token of the wider sublayer: query, key, value and output, or up and its activation."""
        return max(4 * self.hidden, (3 if self.gated else 2) * self.inter)

    def forward_ops(self, step: Step) -> tuple[OpCall, ...]:
        """The ops of a fused engine over step.batch images."""
        return self.pass_ops(step.batch, dtype=step.dtype)

    def pass_ops(self, batch: int, image: int = 0, dtype: str = "", *, eager: bool = False) -> tuple[OpCall, ...]:
        """The ops of one forward pass on one GPU over `batch` images of image × image pixels, 0 for those trained on.

        dtype: as in Encoder.pass_ops. Positions of other image sizes are interpolated, which is not counted.
        """
        batch, image = whole_number("batch", batch), whole_number("image", image or self.image)
        if image < self.patch:
            raise InvalidRequest(f"image is {image}; {self.name} takes at least one patch of {self.patch} pixels.")
        dtype, act = formats(dtype or self.dtype)
        length, h = self.tokens(image), self.hidden
        patches = Conv(
            batch=batch,
            in_channels=self.channels,
            out_channels=h,
            size=image,
            kernel=self.patch,
            stride=self.patch,
            dtype=act,
        )
        rows = batch * length
        calls = [convolution("patch_embedding", patches, 1.0), passes("add_positions", "add", rows, h, act, 1.0)]
        if eager:  # patches become rows, the class token comes before them
            calls.append(passes("patch_copy", "copy", rows, h, act, 2.0 if self.extra_tokens else 1.0))
        if self.embedding_norm:
            calls.append(passes("layer_norm", "layer_norm", rows, h, act, 1.0))
        calls += layer_ops(self, batch, length, (dtype, act), "", eager=eager, gated=self.gated)
        if self.layer_scale:
            calls.append(passes("layer_scale", "relu", rows, h, act, 2.0 * self.layers))
        if self.final_norm:
            calls.append(passes("layer_norm", "layer_norm", rows, h, act, 1.0))
        return merged([*calls, *self._head_ops(batch, length, dtype, act)])

    def _head_ops(self, batch: int, length: int, dtype: str, act: str) -> list[OpCall]:
        h, calls = self.hidden, list[OpCall]()
        if self.pooler:
            calls += [linear("pooler", batch, h, h, act, 1.0), passes("tanh", "tanh", batch, h, act, 1.0)]
        if self.head == "linear":
            calls.append(linear("classifier", batch, self.classes, h, act, 1.0))
        if self.head == "attention":  # one query asks all positions
            calls += [
                linear("head_q_proj", batch, h, h, dtype, 1.0),
                linear("head_kv_proj", batch * length, 2 * h, h, dtype, 1.0),
                *attention(Scores(batch, self.heads, 1, length, h // self.heads), act, 1.0),
                linear("head_o_proj", batch, h, h, dtype, 1.0),
                passes("layer_norm", "layer_norm", batch, h, act, 1.0),
                linear("head_up_proj", batch, self.inter, h, dtype, 1.0),
                passes("activation", "gelu", batch, self.inter, act, 1.0),
                linear("head_down_proj", batch, h, self.inter, dtype, 1.0),
            ]
        return calls


def layer_parameters(hidden: int, inter: int, *, gated: bool = False) -> int:
    """Parameters of one layer: four projections, feed-forward and two layer norms, with all biases."""
    attention_part = 4 * (hidden + 1) * hidden
    up = (2 if gated else 1) * (hidden + 1) * inter
    return attention_part + up + (inter + 1) * hidden + 4 * hidden


def layer_ops(
    model: Encoder | VisionEncoder,
    batch: int,
    length: int,
    dtypes: tuple[str, str],
    mask: str,
    *,
    eager: bool,
    gated: bool = False,
) -> list[OpCall]:
    """The ops of all layers, wherever their norms stand. dtypes: of linear layers, of what passes between them."""
    dtype, act = dtypes
    h, inter, rows, n = model.hidden, model.inter, batch * length, float(model.layers)
    shape = Scores(batch, model.heads, length, length, h // model.heads)
    if eager:
        calls = [linear(f"{part}_proj", rows, h, h, dtype, n) for part in ("query", "key", "value")]
        calls += attention(shape, act, n, mask=mask)
    else:
        fused = Attention(
            phase="prefill",
            batch=batch,
            q_len=length,
            kv_len=length,
            heads=model.heads,
            kv_heads=model.heads,
            head_dim=shape.head_dim,
            causal=0,
            dtype=act,
            kv_dtype=act,
        )
        calls = [linear("qkv_proj", rows, 3 * h, h, dtype, n), OpCall("attention", fused, n)]
    up = linear("gate_up_proj", rows, 2 * inter, h, dtype, n) if gated else linear("up_proj", rows, inter, h, dtype, n)
    return [
        *calls,
        linear("o_proj", rows, h, h, dtype, n),
        *residual(rows, h, act, 2 * n),
        passes("layer_norm", "layer_norm", rows, h, act, 2 * n),
        up,
        *activation_ops("silu_mul" if gated else model.activation, rows, inter, act, n, eager=eager),
        linear("down_proj", rows, h, inter, dtype, n),
    ]


def activation_ops(kind: str, rows: float, cols: float, dtype: str, count: float, *, eager: bool) -> Iterable[OpCall]:
    """The activation of a feed-forward; the tanh approximation of GELU is one kernel where an engine fuses it."""
    if kind == "gelu_tanh" and eager:
        return gelu_tanh(rows, cols, dtype, count)
    return [passes("activation", kind.removesuffix("_tanh"), rows, cols, dtype, count)]


def formats(dtype: str) -> tuple[str, str]:
    """Number formats of the linear layers and of what passes between them."""
    if not isinstance(dtype, str) or dtype not in DTYPES:
        raise InvalidRequest(f"dtype is {show(dtype)}; it must be one of {', '.join(LISTED)}.")
    return dtype, dtype if dtype in WIDE_DTYPES else "bf16"


def check_sizes(model: object, sizes: tuple[str, ...], or_zero: tuple[str, ...] = ()) -> None:
    """Raises InvalidSpec where a field is no whole number in its range."""
    name = getattr(model, "name", "")
    for field in (*sizes, *or_zero):
        value, least = getattr(model, field), 0 if field in or_zero else 1
        if type(value) is not int or not least <= value <= 2**20:
            raise InvalidSpec(
                f"{field} of {name} is {show(value)}; it must be a whole number from {least} to {2**20}. "
                "Take it from the model's config.json."
            )


def check_heads(model: Encoder | VisionEncoder) -> None:
    """Raises InvalidSpec where the heads do not share the model's width evenly."""
    if model.hidden % model.heads:
        raise InvalidSpec(f"heads of {model.name} is {model.heads}; it must divide hidden, {model.hidden}.")


def check_choices(model: object, choices: dict[str, tuple[str, ...]], flags: tuple[str, ...]) -> None:
    """Raises InvalidSpec where a field is none of its choices, or a flag neither true nor false."""
    name = getattr(model, "name", "")
    for field, known in choices.items():
        if getattr(model, field) not in known:
            listed = ", ".join(f'"{value}"' for value in known)
            raise InvalidSpec(f"{field} of {name} is {show(getattr(model, field))}; it must be one of {listed}.")
    for field in flags:
        if not isinstance(getattr(model, field), bool):
            raise InvalidSpec(f"{field} of {name} is {show(getattr(model, field))}; it must be true or false.")
