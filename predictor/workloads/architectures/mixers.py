"""What mixes tokens in a layer: grouped-query attention, latent attention, or a recurrence over a fixed state.

Each kind knows its parameters, what it caches and the ops of one forward pass. Widths are of the whole model; `tp` GPUs
share the heads. An op list is of one GPU and one layer; the layer's count multiplies it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from predictor.elementwise import greater, lesser
from predictor.errors import InvalidRequest
from predictor.ops import Attention, Gemm, Mla, Op, Pointwise
from predictor.workloads.passes.calls import OpCall, Step

RECURRENT_CHUNK = 64  # tokens that a chunked linear-attention kernel takes at once (Yang et al., arXiv:2406.06484)


class Elements(NamedTuple):
    """Parameters on one GPU. linear: matrices that a weight dtype applies to. plain: norms, biases, embeddings."""

    linear: float
    plain: float


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupedAttention:
    """Softmax attention with kv_heads shared by groups of heads; 0 in `window`: all keys.

    gated: the output is multiplied by a gate as wide as the query (Qwen3-Next); head_gate: by one number per head (Step
    3.5). qk_norm: queries and keys are normalised per head. rotary_dim: elements of a head that are turned; 0: all.
    v_dim: width of a value; 0: head_dim. shared_kv: keys and values come from one projection (Gemma 4). borrowed_kv:
    they are those of an earlier layer (Gemma 3n), and nothing is cached.
    """

    heads: int
    kv_heads: int
    head_dim: int
    v_dim: int = 0
    shared_kv: bool = False
    borrowed_kv: bool = False
    window: int = 0
    qkv_bias: bool = False
    o_bias: bool = False
    qk_norm: bool = False
    gated: bool = False
    head_gate: bool = False
    rotary_dim: int = 0

    @property
    def label(self) -> str:
        """How a list of models shows it."""
        return f"{self.heads}/{self.kv_heads} heads" + (f", window {self.window}" if self.window else "")

    def local(self, tp: int) -> tuple[int, int]:
        """Query and key/value heads on one of tp GPUs; key/value heads are copied where tp exceeds them."""
        if self.heads % tp or (self.kv_heads % tp and tp % self.kv_heads):
            raise InvalidRequest(
                f"tp is {tp}; it must divide the {self.heads} attention heads, and divide or be a multiple of the "
                f"{self.kv_heads} key/value heads."
            )
        return self.heads // tp, max(1, self.kv_heads // tp)

    @property
    def value_dim(self) -> int:
        """Width of a value."""
        return self.v_dim or self.head_dim

    def _projected(self, tp: int) -> int:
        """Columns of the query-key-value projection on one of tp GPUs."""
        heads, kv_heads = self.local(tp)
        if self.borrowed_kv:
            return heads * (2 if self.gated else 1) * self.head_dim
        values = 0 if self.shared_kv else kv_heads * self.value_dim
        return (heads * (2 if self.gated else 1) + kv_heads) * self.head_dim + values

    def elements(self, hidden: int, tp: int) -> Elements:
        """Parameters on one of tp GPUs."""
        heads, wide = self.local(tp)[0], self._projected(tp)
        norms = (1 if self.borrowed_kv else 2) * self.head_dim if self.qk_norm else 0
        biases = (wide if self.qkv_bias else 0) + (hidden if self.o_bias else 0)
        gate = hidden * heads if self.head_gate else 0
        return Elements(hidden * wide + gate + heads * self.value_dim * hidden, norms + biases)

    def cached(self, length: int, tp: int) -> float:
        """Elements that one sequence of `length` tokens keeps on one of tp GPUs."""
        kept = lesser(length, self.window) if self.window else length
        return 0.0 * kept if self.borrowed_kv else 1.0 * self.local(tp)[1] * (self.head_dim + self.value_dim) * kept

    def state_bytes(self, tp: int) -> float:
        """Bytes that one sequence keeps whatever its length."""
        return 0.0

    def widest(self, tp: int) -> int:
        """Elements per token that are alive at once."""
        heads, kv_heads = self.local(tp)
        return (heads + kv_heads) * (self.head_dim + self.value_dim)

    def calls(self, hidden: int, step: Step) -> list[OpCall]:
        """Projection, norms, rotary embedding, attention, output projection."""
        heads, kv_heads = self.local(step.tp)
        calls = linear("qkv_proj", step, self._projected(step.tp), hidden)
        if self.qk_norm:
            calls += [
                point("q_norm", "rms_norm", step.tokens * heads, self.head_dim, step),
                point("k_norm", "rms_norm", step.tokens * kv_heads, self.head_dim, step),
            ]
        turned = (heads + kv_heads) * (self.rotary_dim or self.head_dim)
        attention = Attention(
            phase=step.phase,
            batch=step.batch,
            q_len=step.q_len,
            kv_len=step.kv_len,
            heads=heads,
            kv_heads=kv_heads,
            head_dim=(self.head_dim + self.value_dim) / 2,
            window=self.window,
            dtype=step.act_dtype,
            kv_dtype=step.kv_dtype,
        )
        if not step.fused.rotates:
            calls.append(point("rope", "rope", step.tokens, turned, step))
        calls += [OpCall("window_attention" if self.window else "attention", attention, 1.0)]
        if self.head_gate:
            calls += linear("gate_proj", step, heads, hidden)
        if self.gated or self.head_gate:
            calls.append(point("attention_gate", "silu_mul", step.tokens, heads * self.value_dim, step))
        return calls + linear("o_proj", step, hidden, heads * self.value_dim)


@dataclass(frozen=True, slots=True, kw_only=True)
class LatentAttention:
    """Multi-head latent attention (DeepSeek-V2, arXiv:2405.04434, 2.1). q_rank 0: queries are not compressed.

    index_heads, index_dim, index_topk: the lightning indexer of sparse attention, which picks index_topk keys per
    query (DeepSeek-V3.2); 0: all keys. index_topk alone: the keys that the indexer of a layer before picked (GLM-5.2).
    gated: the output is multiplied by a gate of its own (Kimi K3).
    """

    heads: int
    q_rank: int
    kv_rank: int
    nope_dim: int
    rope_dim: int
    v_dim: int
    index_heads: int = 0
    index_dim: int = 0
    index_topk: int = 0
    gated: bool = False

    @property
    def label(self) -> str:
        """How a list of models shows it."""
        return f"{self.heads} heads, latent {self.kv_rank}"

    def local(self, tp: int) -> int:
        """Heads on one of tp GPUs; the latent is copied."""
        if self.heads % tp:
            raise InvalidRequest(f"tp is {tp}; it must divide the {self.heads} attention heads.")
        return self.heads // tp

    def elements(self, hidden: int, tp: int) -> Elements:
        """Parameters on one of tp GPUs."""
        heads, key = self.local(tp), self.nope_dim + self.rope_dim
        down = hidden * (self.q_rank + self.kv_rank + self.rope_dim)
        query = (self.q_rank or hidden) * heads * key
        key_value = self.kv_rank * heads * (self.nope_dim + self.v_dim)
        index = (self.q_rank * self.index_heads + hidden) * self.index_dim + hidden * self.index_heads
        out = heads * self.v_dim * hidden * (2 if self.gated else 1)
        norms = self.q_rank + self.kv_rank + (2 * self.index_dim if self.index_heads else 0)
        return Elements(down + query + key_value + (index if self.index_heads else 0) + out, norms)

    def cached(self, length: int, tp: int) -> float:
        """Elements of one sequence on each GPU: the latent is not split; the indexer keeps a key of its own."""
        return 1.0 * length * (self.kv_rank + self.rope_dim + self.index_dim)

    def state_bytes(self, tp: int) -> float:
        """Bytes that one sequence keeps whatever its length."""
        return 0.0

    def widest(self, tp: int) -> int:
        """Elements per token that are alive at once."""
        return self.local(tp) * (2 * (self.nope_dim + self.rope_dim) + 2 * self.v_dim) + self.q_rank + self.kv_rank

    def calls(self, hidden: int, step: Step) -> list[OpCall]:
        """Down- and up-projections, norms, attention (absorbed in decode), output projection."""
        heads, tokens = self.local(step.tp), step.tokens
        down = (self.q_rank or heads * (self.nope_dim + self.rope_dim)) + self.kv_rank + self.rope_dim
        calls = linear("qkv_a_proj", step, down, hidden)
        if self.q_rank:
            calls.append(point("q_norm", "rms_norm", tokens, self.q_rank, step))
        if not (self.q_rank and step.fused.norms_beside):
            calls.append(point("kv_norm", "rms_norm", tokens, self.kv_rank, step))
        if self.q_rank:
            calls += linear("q_b_proj", step, heads * (self.nope_dim + self.rope_dim), self.q_rank)
        if not step.fused.rotates:
            calls.append(point("rope", "rope", tokens, (heads + 1) * self.rope_dim, step))
        if self.index_heads:
            calls += self._index_calls(hidden, step)
        kv_len = lesser(step.kv_len, self.index_topk) if self.index_topk and step.phase == "decode" else step.kv_len
        attention = Mla(
            phase=step.phase,
            batch=step.batch,
            q_len=step.q_len,
            kv_len=greater(kv_len, step.q_len),
            heads=heads,
            kv_lora_rank=self.kv_rank,
            rope_dim=self.rope_dim,
            nope_dim=self.nope_dim,
            v_dim=self.v_dim,
            dtype=step.act_dtype,
            kv_dtype=step.kv_dtype,
        )
        if step.phase == "prefill":
            keys = step.batch * step.kv_len
            up = Gemm(m=keys, n=heads * (self.nope_dim + self.v_dim), k=self.kv_rank, dtype=step.dtype)
            calls += [OpCall("kv_b_proj", up, 1.0), OpCall("attention", attention, 1.0)]
        else:
            into = Gemm(m=tokens, n=self.kv_rank, k=self.nope_dim, batch=heads, dtype=step.act_dtype)
            out = Gemm(m=tokens, n=self.v_dim, k=self.kv_rank, batch=heads, dtype=step.act_dtype)
            calls += [OpCall("absorb_query", into, 1.0), OpCall("attention", attention, 1.0)]
            calls.append(OpCall("absorb_value", out, 1.0))
        if self.gated:
            calls += linear("gate_proj", step, heads * self.v_dim, hidden)
            calls.append(point("attention_gate", "silu_mul", tokens, heads * self.v_dim, step))
        return calls + linear("o_proj", step, hidden, heads * self.v_dim)

    def _index_calls(self, hidden: int, step: Step) -> list[OpCall]:
        """Index queries and key, and their scores over every cached token (DeepSeek-V3.2-Exp, 2025, eq. 1)."""
        scores = Gemm(
            m=step.q_len * self.index_heads, n=step.kv_len, k=self.index_dim, batch=step.batch, dtype=step.act_dtype
        )
        return [
            *linear("index_q_proj", step, self.index_heads * self.index_dim, self.q_rank),
            *linear("index_k_proj", step, self.index_dim + self.index_heads, hidden),
            OpCall("index_scores", scores, 1.0),
            point("index_topk", "softmax", step.tokens, step.kv_len, step),
        ]


@dataclass(frozen=True, slots=True, kw_only=True)
class LinearAttention:
    """A recurrence over a state of value_heads (key_dim × value_dim) matrices: the gated delta rule (Yang et al.,
    arXiv:2412.06464), or Mamba-2 with its groups as key heads and its state size as key_dim (arXiv:2405.21060).

    scalars: decay and step numbers per head and token that the input is projected to. normed_dim: weights of the
    gated norm; 0: value_dim, one for all heads. decay_rank: rank of the projection to a decay per element of the key
    (Kimi delta attention, arXiv:2510.26692); 0: per head. gate_rank: of the projection to the gate; 0: full.
    Counted as projections, a short convolution and products with the state: no kernel of its own was measured.
    """

    key_heads: int
    value_heads: int
    key_dim: int
    value_dim: int
    conv_kernel: int
    scalars: int = 2
    normed_dim: int = 0
    decay_rank: int = 0
    gate_rank: int = 0

    @property
    def label(self) -> str:
        """How a list of models shows it."""
        return f"{self.value_heads} linear heads"

    def _split(self, tp: int) -> tuple[int, int]:
        if self.value_heads % tp or (self.key_heads % tp and tp % self.key_heads):
            raise InvalidRequest(f"tp is {tp}; it must divide the {self.value_heads} linear-attention heads.")
        return max(1, self.key_heads // tp), self.value_heads // tp

    def _widths(self, tp: int) -> tuple[int, int]:
        """Convolved width (query, key, value) and projected width (with gate, scalars per head and ranks)."""
        key_heads, value_heads = self._split(tp)
        convolved = 2 * key_heads * self.key_dim + value_heads * self.value_dim
        gate = self.gate_rank or value_heads * self.value_dim
        return convolved, convolved + gate + value_heads * self.scalars + self.decay_rank

    def _raised(self, tp: int) -> list[tuple[str, int, int]]:
        """Name, width and rank of the second halves of low-rank projections."""
        value_heads = self._split(tp)[1]
        projections = [("decay_proj", value_heads * self.key_dim, self.decay_rank)]
        projections.append(("gate_proj", value_heads * self.value_dim, self.gate_rank))
        return [projection for projection in projections if projection[2]]

    def elements(self, hidden: int, tp: int) -> Elements:
        """Parameters on one of tp GPUs."""
        (convolved, projected), value_heads = self._widths(tp), self._split(tp)[1]
        steps = value_heads * (1 + self.key_dim) if self.decay_rank else 2 * value_heads
        small = convolved * self.conv_kernel + steps + (self.normed_dim or self.value_dim)
        raised = sum(width * rank for _, width, rank in self._raised(tp))
        return Elements(hidden * projected + raised + value_heads * self.value_dim * hidden, small)

    def cached(self, length: int, tp: int) -> float:
        """Elements per sequence that grow with its length: none."""
        return 0.0

    def state_bytes(self, tp: int) -> float:
        """The state in fp32 and the last inputs of the convolution in 16 bits, per sequence."""
        state = 4.0 * self._split(tp)[1] * self.key_dim * self.value_dim
        return state + 2.0 * self._widths(tp)[0] * (self.conv_kernel - 1)

    def widest(self, tp: int) -> int:
        """Elements per token that are alive at once."""
        return sum(self._widths(tp))

    def calls(self, hidden: int, step: Step) -> list[OpCall]:
        """Projections, convolution, state products, gated norm."""
        value_heads, (convolved, projected) = self._split(step.tp)[1], self._widths(step.tp)
        calls = linear("in_proj", step, projected, hidden)
        for name, width, rank in self._raised(step.tp):
            calls += linear(name, step, width, rank)
        calls.append(point("short_conv", "silu", step.tokens, convolved, step))
        if step.phase == "decode":
            rows = step.batch * step.q_len * value_heads * self.key_dim
            state = Pointwise(kind="add", rows=rows, cols=self.value_dim, dtype="fp32")
            calls.append(OpCall("state_update", state, 1.0))
        else:
            chunks = step.batch * -(-step.q_len // RECURRENT_CHUNK) * value_heads
            rows = lesser(RECURRENT_CHUNK, step.q_len)
            product = Gemm(m=rows, n=self.value_dim, k=self.key_dim, batch=chunks, dtype=step.act_dtype)
            calls.append(OpCall("state_products", product, 4.0))
        calls.append(point("gated_norm", "rms_norm", step.tokens * value_heads, self.value_dim, step))
        return calls + linear("o_proj", step, hidden, value_heads * self.value_dim)


def linear(name: str, step: Step, n: int, k: int) -> list[OpCall]:
    """One linear layer k → n over the tokens of a step; the quantisation of its input is part of the measured GEMM."""
    return [OpCall(name, Gemm(m=step.tokens, n=n, k=k, dtype=step.dtype), 1.0)]


def point(name: str, kind: str, rows: float, cols: float, step: Step) -> OpCall:
    """A pointwise call in the format of the activations."""
    op: Op = Pointwise(kind=kind, rows=rows, cols=cols, dtype=step.act_dtype)
    return OpCall(name, op, 1.0)
