"""Attention that reads a part of what is cached: chosen blocks of keys, or keys compressed over several tokens.

Their kernels were not measured: they count as dense attention over the keys that are read, beside the products that
choose them.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from predictor.errors import InvalidRequest
from predictor.ops import Attention, Gemm, Mla, Op
from predictor.workloads.architectures.mixers import (
    Elements,
    GroupedAttention,
    LatentAttention,
    LinearAttention,
    linear,
    point,
)
from predictor.workloads.architectures.recurrences import Recurrence, Together
from predictor.workloads.passes.calls import OpCall, Step


def index_calls(step: Step, heads: int, dim: int, keys: int) -> list[OpCall]:
    """Scores of every index key for each query, and the choice among them."""
    scores = Gemm(m=step.q_len * heads, n=keys, k=dim, batch=step.batch, dtype=step.act_dtype)
    return [OpCall("index_scores", scores, 1.0), point("index_topk", "softmax", step.tokens, keys, step)]


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockSparseAttention:
    """Grouped-query attention over the `keys` cached tokens whose blocks score best (MiniMax M3).

    index_heads, index_dim: of the queries that choose; the index key of a token is cached beside it.
    """

    dense: GroupedAttention
    keys: int
    index_heads: int
    index_dim: int

    @property
    def label(self) -> str:
        """How a list of models shows it."""
        return f"{self.dense.label}, {self.keys} keys chosen"

    def elements(self, hidden: int, tp: int) -> Elements:
        """Parameters on one of tp GPUs; the index is copied."""
        dense = self.dense.elements(hidden, tp)
        return dense._replace(linear=dense.linear + hidden * (self.index_heads + 1) * self.index_dim)

    def cached(self, length: int, tp: int) -> float:
        """Elements that one sequence of `length` tokens keeps on one of tp GPUs: all of them, and the index."""
        return self.dense.cached(length, tp) + length * self.index_dim

    def state_bytes(self, tp: int) -> float:
        """Bytes that one sequence keeps whatever its length."""
        return 0.0

    def widest(self, tp: int) -> int:
        """Elements per token that are alive at once."""
        return self.dense.widest(tp)

    def calls(self, hidden: int, step: Step) -> list[OpCall]:
        """Those of dense attention over the chosen keys, and the index."""
        index = linear("index_proj", step, (self.index_heads + 1) * self.index_dim, hidden)
        chosen = replace(self.dense, window=min(self.keys, step.kv_len))
        return [*index, *index_calls(step, self.index_heads, self.index_dim, step.kv_len), *chosen.calls(hidden, step)]


@dataclass(frozen=True, slots=True, kw_only=True)
class CompressedAttention:
    """Multi-query attention over a window and over keys that each stand for `ratio` tokens (DeepSeek V4).

    One vector of head_dim is key and value. ratio 0: the window is all. index_topk: so many compressed keys are chosen
    by index_heads queries of index_dim; 0: all are read. o_groups, o_rank: heads in groups are projected to o_rank
    each, then together to the model width. rope_dim: elements of a head that are turned. streams: residual streams,
    mixed before and after each sublayer.
    """

    heads: int
    head_dim: int
    rope_dim: int
    q_rank: int
    o_groups: int
    o_rank: int
    window: int
    ratio: int = 0
    index_heads: int = 0
    index_dim: int = 0
    index_topk: int = 0
    streams: int = 1

    @property
    def label(self) -> str:
        """How a list of models shows it."""
        return f"{self.heads}/1 heads, window {self.window}" + (f" and 1 key of {self.ratio}" if self.ratio else "")

    def local(self, tp: int) -> int:
        """Heads on one of tp GPUs, whole groups of them."""
        if self.o_groups % tp:
            raise InvalidRequest(f"tp is {tp}; it must divide the {self.o_groups} groups of attention heads.")
        return self.heads // tp

    def _compressor(self, dim: int) -> int:
        """Columns that make a compressed key of `dim`: its parts and their gates, twice where windows overlap."""
        return 2 * dim * (2 if self.ratio and self.index_topk else 1) if self.ratio else 0

    def elements(self, hidden: int, tp: int) -> Elements:
        """Parameters on one of tp GPUs; keys, compressor and index are copied."""
        heads = self.local(tp)
        query = hidden * self.q_rank + self.q_rank * heads * self.head_dim
        key = hidden * (self.head_dim + self._compressor(self.head_dim))
        out = heads * self.head_dim * self.o_rank + self.o_groups // tp * self.o_rank * hidden
        index = 0
        if self.index_topk:
            index = self.q_rank * self.index_heads * self.index_dim
            index += hidden * (self.index_heads + self._compressor(self.index_dim))
        mixing = 2 * self.streams * hidden * (self.streams + 2) * self.streams if self.streams > 1 else 0
        return Elements(query + key + out + index, self.q_rank + self.head_dim + self.heads + mixing)

    def _read(self, length: int) -> int:
        """Keys that a query reads after `length` tokens."""
        compressed = length // self.ratio if self.ratio else 0
        return min(length, self.window) + (min(compressed, self.index_topk) if self.index_topk else compressed)

    def cached(self, length: int, tp: int) -> float:
        """Elements of one sequence on each GPU: the window, the compressed keys and those of the index."""
        compressed = length / self.ratio if self.ratio else 0.0
        index = compressed * self.index_dim if self.index_topk else 0.0
        return (min(length, self.window) + compressed) * self.head_dim + index

    def state_bytes(self, tp: int) -> float:
        """Bytes that one sequence keeps whatever its length."""
        return 0.0

    def widest(self, tp: int) -> int:
        """Elements per token that are alive at once."""
        return self.local(tp) * 2 * self.head_dim + self.q_rank + self.head_dim

    def _attention(self, step: Step, heads: int) -> Op:
        """Decode reads each key once as key and value, as latent attention does."""
        read = min(self._read(step.kv_len), step.kv_len)
        if step.phase == "decode" and step.q_len == 1:
            return Mla(
                phase="decode",
                batch=step.batch,
                q_len=1,
                kv_len=read,
                heads=heads,
                kv_lora_rank=self.head_dim - self.rope_dim,
                rope_dim=self.rope_dim,
                nope_dim=self.head_dim - self.rope_dim,
                v_dim=self.head_dim,
                dtype=step.act_dtype,
                kv_dtype=step.kv_dtype,
            )
        return Attention(
            phase="prefill",
            batch=step.batch,
            q_len=step.q_len,
            kv_len=step.kv_len,
            heads=heads,
            kv_heads=1,
            head_dim=self.head_dim,
            window=read,
            dtype=step.act_dtype,
            kv_dtype=step.kv_dtype,
        )

    def calls(self, hidden: int, step: Step) -> list[OpCall]:
        """Projections, norms, rotary embedding, compressor, index, attention, output in two steps, residual streams."""
        heads, tokens = self.local(step.tp), step.tokens
        calls = linear("qkv_a_proj", step, self.q_rank + self.head_dim, hidden)
        calls += [point("q_norm", "rms_norm", tokens, self.q_rank, step)]
        calls += [point("kv_norm", "rms_norm", tokens, self.head_dim, step)]
        calls += linear("q_b_proj", step, heads * self.head_dim, self.q_rank)
        calls.append(point("rope", "rope", tokens, (heads + 1) * self.rope_dim, step))
        if self.ratio:
            calls += linear("compress_proj", step, self._compressor(self.head_dim), hidden)
            calls.append(point("compress", "softmax", tokens, self._compressor(self.head_dim), step))
        if self.index_topk:
            calls += linear("index_q_proj", step, self.index_heads * self.index_dim, self.q_rank)
            calls += linear("index_k_proj", step, self.index_heads + self._compressor(self.index_dim), hidden)
            calls += index_calls(step, self.index_heads, self.index_dim, max(1, step.kv_len // self.ratio))
        calls.append(OpCall("attention", self._attention(step, heads), 1.0))
        grouped = Gemm(
            m=tokens,
            n=self.o_rank,
            k=self.heads * self.head_dim // self.o_groups,
            batch=self.o_groups // step.tp,
            dtype=step.act_dtype,
        )
        calls.append(OpCall("o_a_proj", grouped, 1.0))
        calls += linear("o_b_proj", step, hidden, self.o_groups // step.tp * self.o_rank)
        if self.streams > 1:
            mixed = point("mix_streams", "add", tokens, self.streams * hidden, step)
            calls.append(mixed._replace(count=4.0))  # before and after attention and feed-forward
        return calls


Mixer = (
    GroupedAttention
    | LatentAttention
    | LinearAttention
    | BlockSparseAttention
    | CompressedAttention
    | Recurrence
    | Together
)
