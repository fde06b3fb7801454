"""T5 and its kin: an encoder, and a decoder that also attends to the encoder's output; parameters and ops.

The ops are those of a fused engine (TensorRT-LLM tensorrt_llm/models/enc_dec/model.py: query, key and value in one
GEMM, the residual addition inside the RMS norm, attention without a score matrix, the position bias inside it), or with
eager=True those of transformers (models/t5/modeling_t5.py). Keys and values of the encoder's output are made once a
sequence (cross_ops). Positions are biases by distance, so there is no longest length.
"""

from __future__ import annotations

from dataclasses import dataclass

from predictor.errors import InvalidRequest
from predictor.ops import Attention
from predictor.values import LARGEST, whole_number
from predictor.workloads.architectures.encoder import (
    ACTIVATIONS,
    WEIGHT_DTYPES,
    activation_ops,
    check_choices,
    check_sizes,
    formats,
)
from predictor.workloads.architectures.single_pass import Whole, linear_elements
from predictor.workloads.passes.calls import Layout, OpCall, Step
from predictor.workloads.passes.eager import Scores, attention, linear, merged, passes, residual

# RMS norm of transformers in the format of its input, in passes: square, mean, times the root, times the weight.
RMS_NORM_PASSES = 3.5


@dataclass(frozen=True, slots=True, kw_only=True)
class Seq2Seq(Whole):
    """An encoder-decoder; field values are those of the published config.json (Hugging Face names in brackets).

    hidden [d_model]. head_dim [d_kv]: heads * head_dim may differ from hidden. inter [d_ff]. layers [num_layers],
    decoder_layers [num_decoder_layers]. buckets: of distances, a learned bias for each and head, one table for the
    encoder and one for the decoder [relative_attention_num_buckets]. gated: three feed-forward matrices, else two.

    >>> sizes = {"hidden": 512, "layers": 6, "decoder_layers": 6, "heads": 8, "head_dim": 64, "inter": 2048}
    >>> Seq2Seq(name="T5", vocab=32128, gated=False, tied_embeddings=True, source="", **sizes).parameters()
    60506624
    """

    name: str
    hidden: int
    layers: int
    decoder_layers: int
    heads: int
    head_dim: int
    inter: int
    vocab: int
    source: str
    buckets: int = 32
    gated: bool = True
    tied_embeddings: bool = False
    activation: str = "gelu_tanh"
    dtype: str = "bf16"

    def __post_init__(self) -> None:
        """Checks every field."""
        check_sizes(self, ("hidden", "layers", "decoder_layers", "heads", "head_dim", "inter", "vocab", "buckets"))
        check_choices(self, {"activation": ACTIVATIONS, "dtype": WEIGHT_DTYPES}, ("gated", "tied_embeddings"))

    @property
    def width(self) -> int:
        """All heads side by side."""
        return self.heads * self.head_dim

    def parameters(self) -> int:
        """Parameters of the whole model, a shared embedding once."""
        attention_part, feed = 4 * self.hidden * self.width, (3 if self.gated else 2) * self.hidden * self.inter
        tables = (1 if self.tied_embeddings else 2) * self.vocab * self.hidden + 2 * self.buckets * self.heads
        encoder = self.layers * (attention_part + feed + 2 * self.hidden) + self.hidden
        decoder = self.decoder_layers * (2 * attention_part + feed + 3 * self.hidden) + self.hidden
        return tables + encoder + decoder

    @property
    def max_len(self) -> int:
        """Positions are biases by distance: no longest length."""
        return LARGEST

    @property
    def attention(self) -> str:
        """Heads, as a list of models shows them."""
        return f"{self.heads} heads, {self.decoder_layers} layers also across"

    def elements(self, layout: Layout) -> tuple[float, float, float]:
        """Elements on one GPU: linear layers, experts (none), and what stays in the format of the activations."""
        head = self.vocab * self.hidden
        linear = linear_elements(self.pass_ops(1, 1)) - head
        return linear, 0.0, self.parameters() - linear

    def cached(self, length: int, layout: Layout) -> float:
        """Cache elements of one sequence: its own tokens and those of the encoder's output, `length` in all."""
        return 2.0 * self.width * self.decoder_layers * length

    def widest(self, layout: Layout) -> int:
        """Elements per token of the wider sublayer: query, key, value and output, or gate, up and their product."""
        return max(4 * self.width, (3 if self.gated else 2) * self.inter)

    def forward_ops(self, step: Step) -> tuple[OpCall, ...]:
        """Prefill: the encoder and the first token. Decode: one token, kv_len less prompt_len of them cached.

        Without prompt_len both parts see q_len tokens, as in training.
        """
        if step.phase == "decode" and step.prompt_len:
            return self.decoder_ops(step.batch, step.kv_len - step.prompt_len, step.prompt_len, step.dtype)
        target_len = 1 if step.prompt_len else step.q_len
        return self.pass_ops(step.batch, step.q_len, step.dtype, target_len=target_len)

    def encoder_ops(self, batch: int, length: int, dtype: str = "", *, eager: bool = False) -> tuple[OpCall, ...]:
        """The encoder over `batch` sequences of `length` tokens on one GPU."""
        batch, length = whole_number("batch", batch), whole_number("length", length)
        dtypes, n = formats(dtype or self.dtype), float(self.layers)
        shape = Scores(batch, self.heads, length, length, self.head_dim)
        return merged(
            [
                passes("embedding", "embedding", batch * length, self.hidden, dtypes[1], 1.0),
                *self._norms(batch * length, dtypes[1], 2 * self.layers, eager=eager),
                *self._self_attention(shape, dtypes, n, causal=False, eager=eager),
                *self._feed_forward(batch * length, dtypes, n, eager=eager),
            ]
        )

    def cross_ops(self, batch: int, source_len: int, dtype: str = "") -> tuple[OpCall, ...]:
        """Keys and values of the encoder's output for every layer of the decoder, once a sequence."""
        rows = whole_number("batch", batch) * whole_number("source_len", source_len)
        (dtype, _), n = formats(dtype or self.dtype), float(self.decoder_layers)
        return (linear("cross_kv_proj", rows, 2 * self.width, self.hidden, dtype, n),)

    def decoder_ops(
        self, batch: int, kv_len: int, source_len: int, dtype: str = "", *, q_len: int = 1, eager: bool = False
    ) -> tuple[OpCall, ...]:
        """One pass of the decoder: q_len new tokens a sequence over kv_len cached ones, the new included.

        source_len: tokens of the encoder's output, whose keys and values are there (cross_ops). Logits of every token.
        """
        batch, kv_len, source_len = (
            whole_number(name, value)
            for name, value in (("batch", batch), ("kv_len", kv_len), ("source_len", source_len))
        )
        q_len, dtypes, n = whole_number("q_len", q_len), formats(dtype or self.dtype), float(self.decoder_layers)
        if q_len > kv_len:
            raise InvalidRequest(f"q_len is {q_len}; it must be at most kv_len, {kv_len}, which counts the new tokens.")
        rows, own = batch * q_len, Scores(batch, self.heads, q_len, kv_len, self.head_dim)
        across = own._replace(kv_len=source_len)
        return merged(
            [
                passes("embedding", "embedding", rows, self.hidden, dtypes[1], 1.0),
                *self._norms(rows, dtypes[1], 3 * self.decoder_layers, eager=eager),
                *self._self_attention(own, dtypes, n, causal=True, eager=eager),
                linear("cross_q_proj", rows, self.width, self.hidden, dtypes[0], n),
                *self._attention("cross_attention", across, dtypes[1], n, causal=False, eager=eager),
                linear("cross_o_proj", rows, self.hidden, self.width, dtypes[0], n),
                *self._feed_forward(rows, dtypes, n, eager=eager),
                linear("lm_head", rows, self.vocab, self.hidden, dtypes[1], 1.0),
            ]
        )

    def pass_ops(
        self, batch: int, length: int, dtype: str = "", *, target_len: int = 1, eager: bool = False
    ) -> tuple[OpCall, ...]:
        """The encoder over `length` tokens and the decoder over the first target_len tokens of its answer."""
        return merged(
            [
                *self.encoder_ops(batch, length, dtype, eager=eager),
                *self.cross_ops(batch, length, dtype),
                *self.decoder_ops(batch, target_len, length, dtype, q_len=target_len, eager=eager),
            ]
        )

    def _norms(self, rows: int, act: str, within: int, *, eager: bool) -> list[OpCall]:
        """`within` norms before sublayers, each with the addition of the one before, and one at the end."""
        h = self.hidden
        if not eager:
            return [
                passes("add_rms_norm", "add_rms_norm", rows, h, act, float(within)),
                passes("rms_norm", "rms_norm", rows, h, act, 1.0),
            ]
        norm = passes("rms_norm", "relu", rows, h, act, RMS_NORM_PASSES * (within + 1))
        return [norm, *residual(rows, h, act, float(within))]

    def _self_attention(
        self, shape: Scores, dtypes: tuple[str, str], n: float, *, causal: bool, eager: bool
    ) -> list[OpCall]:
        rows, h = shape.batch * shape.q_len, self.hidden
        if eager:
            calls = [linear(f"{part}_proj", rows, self.width, h, dtypes[0], n) for part in ("query", "key", "value")]
        else:
            calls = [linear("qkv_proj", rows, 3 * self.width, h, dtypes[0], n)]
        return [
            *calls,
            *self._attention("attention", shape, dtypes[1], n, causal=causal, eager=eager),
            linear("o_proj", rows, h, self.width, dtypes[0], n),
        ]

    def _attention(self, name: str, shape: Scores, act: str, n: float, *, causal: bool, eager: bool) -> list[OpCall]:
        if eager:  # a bias for each pair of positions, and no division by the root of head_dim
            return attention(shape, act, n, scaled=False, mask="pair")
        op = (
            Attention(
                phase="decode" if shape.q_len == 1 else "prefill",
                batch=shape.batch,
                q_len=shape.q_len,
                kv_len=shape.kv_len,
                heads=shape.heads,
                kv_heads=shape.heads,
                head_dim=shape.head_dim,
                causal=float(causal),
                dtype=act,
                kv_dtype=act,
            )
            if shape.q_len <= shape.kv_len
            else _split(shape, act)
        )
        return [OpCall(name, op, n)]

    def _feed_forward(self, rows: int, dtypes: tuple[str, str], n: float, *, eager: bool) -> list[OpCall]:
        h, inter, (dtype, act) = self.hidden, self.inter, dtypes
        fused = self.gated and not eager
        calls = [linear("gate_up_proj" if fused else "up_proj", rows, (2 if fused else 1) * inter, h, dtype, n)]
        if self.gated and eager:
            calls.append(linear("gate_proj", rows, inter, h, dtype, n))
            calls.append(passes("gate_mul", "mul", rows, inter, act, n))
        kind = "silu_mul" if fused else self.activation
        calls += activation_ops(kind, rows, inter, act, n, eager=eager)
        return [*calls, linear("down_proj", rows, h, inter, dtype, n)]


def _split(shape: Scores, act: str) -> Attention:
    """More queries than keys, all of which each query sees: as many more sequences of at most kv_len queries each."""
    parts = -(-shape.q_len // shape.kv_len)
    return Attention(
        phase="prefill",
        batch=shape.batch * parts,
        q_len=-(-shape.q_len // parts),
        kv_len=shape.kv_len,
        heads=shape.heads,
        kv_heads=shape.heads,
        head_dim=shape.head_dim,
        causal=0,
        dtype=act,
        kv_dtype=act,
    )
