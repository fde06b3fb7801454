"""Sequences of unlike lengths: what training computes of them padded, packed into rows, or neither.

Lengths are taken to lie evenly between two ends. A varlen kernel (flash_attn_varlen_func, Transformer Engine's THD)
attends to each sequence of a row alone: its work is the sum of the squares of their lengths.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from math import ceil, log, sqrt
from typing import Any, NamedTuple, Self

from predictor.errors import InvalidRequest
from predictor.ops import Attention, Mla
from predictor.workloads.passes.calls import OpCall
from predictor.workloads.passes.parallel import Parallel

VARLEN = ("flash2", "cudnn")  # attention that takes sequences of unlike lengths; others mask the rows that they fill
WHOLE_ROWS: Mapping[str, Any] = {"mean_seq_len": 0, "length_spread": None, "padding": ""}
EULER = 0.5772  # the harmonic number of n is log(n) + this
SELDOM = 4.0  # standard deviations that micro-batches of a whole training seldom exceed: one in 30,000


class Lengths(NamedTuple):
    """Tokens of sequences that lie evenly between the ends.

    >>> Lengths(0.0, 1024.0).mean, round(Lengths(0.0, 1024.0).attended), Lengths(0.0, 1024.0).longest_of(3)
    (512.0, 683, 768.0)
    """

    shortest: float
    longest: float

    @property
    def mean(self) -> float:
        """Tokens of a sequence in the mean."""
        return (self.shortest + self.longest) / 2

    @property
    def deviation(self) -> float:
        """Standard deviation of the tokens of a sequence."""
        return (self.longest - self.shortest) / sqrt(12)

    @property
    def attended(self) -> float:
        """Tokens of the sequence that a token is in, in the mean over tokens: the squares of lengths over lengths."""
        return self.mean + self.deviation**2 / self.mean

    @property
    def alike(self) -> bool:
        """Whether all are equally long."""
        return self.longest == self.shortest

    def longest_of(self, count: float) -> float:
        """Tokens of the longest of so many sequences, in the mean."""
        return self.shortest + (self.longest - self.shortest) * count / (count + 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Sequences(Parallel):
    """What the replicas of a training run read in a step, its rows shared as Parallel says.

    micro_batch: sequences of seq_len tokens per GPU and pass, or rows where they are packed; grad_accum: passes per
    optimizer step.
    mean_seq_len: what sequences have in the mean; 0: all have seq_len, or what length_spread says: lengths lie evenly
    between this share below the longest and it; None: up to seq_len or, of a mean below half of it, twice the mean.
    packing: sequences are packed into rows of seq_len tokens. Else they have at most so many, and blocks of many sizes
    fragment memory; padding: "longest" of a micro-batch, "max_length" to seq_len, "none" of them; "": the mean includes
    it. Time is of the mean step, and memory of the longest rows.
    attended_len: of a row, tokens that attend to each other; 0: all. It follows from the lengths.
    attention: which FlashAttention, PyTorch's own ("sdpa", the same kernel), that of the GPU's generation ("cudnn":
    cuDNN's, FlashAttention-3), "triton", or "eager" with the scores in memory.
    """

    micro_batch: int = 1
    grad_accum: int = 1
    seq_len: int = 2048
    mean_seq_len: int = 0
    length_spread: float | None = None
    packing: bool = True
    padding: str = ""
    attended_len: int = 0
    attention: str = "flash2"

    @property
    def lengths(self) -> Lengths | None:
        """Those of sequences that differ; None where all have seq_len, or a mean that padding is part of."""
        mean, spread = self.mean_seq_len, self.length_spread
        if not (self.packing or self.padding) or not (mean or spread):
            return None
        if not mean:
            return Lengths(self.seq_len * (1 - (spread or 0.0)), float(self.seq_len))
        longest = min(2.0 * mean, float(self.seq_len)) if spread is None else 2.0 * mean / (2.0 - spread)
        return Lengths(2.0 * mean - longest, longest)

    @property
    def micro_tokens(self) -> int:
        """Tokens of one pass on one GPU."""
        return self.micro_batch * (self.seq_len // self.cp)

    @property
    def sequence_tokens(self) -> float:
        """Tokens of a sequence of the data in the mean."""
        return self.lengths.mean if self.lengths else float(self.mean_seq_len or self.seq_len)

    @property
    def step_tokens(self) -> int:
        """Tokens that one optimizer step over all replicas trains on, without padding that is known."""
        sequences = self.micro_batch * self.grad_accum * self.dp
        return round(self.seq_len * sequences if self.packing else self.sequence_tokens * sequences)

    @property
    def known_len(self) -> int:
        """Tokens of the sequence that a token is in, as MFU counts attention."""
        return round(self.lengths.attended) if self.lengths else self.mean_seq_len or self.seq_len

    @property
    def timed(self) -> Self:
        """The setting whose time is told: with rows as they are in the mean step."""
        if not (lengths := self.lengths):
            return replace(self, seq_len=self.mean_seq_len, **WHOLE_ROWS) if self.mean_seq_len else self
        apart = self.attention in VARLEN and (self.packing or self.padding == "none")
        attended = round(lengths.attended) if apart else 0
        return replace(self, seq_len=self._row_len(lengths), attended_len=attended, **WHOLE_ROWS)

    @property
    def held(self) -> Self:
        """The setting whose memory is told: with rows as long as they get, packed where all are as long."""
        if not (lengths := self.lengths):
            return self
        fixed = self.packing or self.padding == "max_length" or lengths.alike
        return replace(self, seq_len=self._held_len(lengths), packing=fixed, **WHOLE_ROWS)

    @property
    def tail_doubt(self) -> float:
        """How much longer rows are, as a share, where the spread of lengths is not said and they fall off
        exponentially."""
        lengths = self.lengths
        if lengths is None or self.padding != "longest" or self.length_spread is not None:
            return 0.0
        tailed = min(lengths.mean * (log(self.micro_batch * self.dp) + EULER), float(self.seq_len))
        return max(tailed / self._row_len(lengths) - 1, 0.0)

    def check_lengths(self) -> None:
        """Raises InvalidRequest where what is said of lengths cannot be."""
        mean, spread = self.mean_seq_len, self.length_spread or 0.0
        if not 0 <= spread <= 1:
            raise InvalidRequest(f"length_spread is {spread:g}; it must lie between 0 and 1.")
        if mean > self.seq_len:
            raise InvalidRequest(
                f"mean_seq_len is {mean} and seq_len {self.seq_len}; no sequence has more than seq_len tokens. Raise "
                "seq_len."
            )
        if self.padding and self.packing:
            raise InvalidRequest(
                f'padding is "{self.padding}" with packing; packed rows are full. Set packing to false.'
            )
        if self.padding and not mean and self.length_spread is None:
            raise InvalidRequest(
                f'padding is "{self.padding}" and mean_seq_len 0; what is padded depends on it. Say how many tokens a '
                "sequence has in the mean."
            )
        if spread and not self.packing and not self.padding:
            raise InvalidRequest(
                f"length_spread is {spread:g} without packing; say what becomes of sequences that differ. Set padding "
                "to longest, max_length or none."
            )
        lengths = self.lengths
        if lengths and lengths.longest > self.seq_len + 0.5:
            most = 2 * (1 - mean / self.seq_len)
            raise InvalidRequest(
                f"length_spread is {spread:g} and mean_seq_len {mean}; sequences of up to {lengths.longest:.0f} tokens "
                f"are above seq_len, {self.seq_len}. Lower length_spread to {most:.2g}, or raise seq_len."
            )
        if self.padding == "none" and self.attention not in VARLEN:
            raise InvalidRequest(
                f'padding is "none" and attention {self.attention}, which knows no sequences in a row. Set attention '
                f"to {' or '.join(VARLEN)}."
            )

    def _row_len(self, lengths: Lengths) -> int:
        """Tokens of a row of a pass on the replica that the others wait for: of a sequence padded to it, or in the mean
        where nothing is padded; their sums over more passes that nobody waits for are more alike."""
        apart = 1 if self.zero_stage > 1 else self.grad_accum
        if self.packing or self.padding == "max_length":
            tokens = float(self.seq_len)
        elif self.padding == "longest":
            own, of_all = (lengths.longest_of(self.micro_batch * replicas) for replicas in (1, self.dp))
            tokens = own + (of_all - own) / sqrt(apart)
        else:
            tokens = lengths.mean + (lengths.longest_of(self.dp) - lengths.mean) / sqrt(self.micro_batch * apart)
        return self._shared(min(tokens, float(self.seq_len)))

    def _held_len(self, lengths: Lengths) -> int:
        """Tokens of a row that memory is needed for: the longest sequence or, without padding, those of a micro-batch
        as it seldom is. What is not said of the spread may reach seq_len."""
        if self.packing or self.padding == "max_length":
            return self.seq_len
        longest = float(self.seq_len) if self.length_spread is None else lengths.longest
        if self.padding == "none":
            batch = self.micro_batch
            seldom = max((longest - lengths.mean) / batch, SELDOM * lengths.deviation / sqrt(batch))
            longest = min(lengths.mean + seldom, longest)
        return self._shared(min(longest, float(self.seq_len)))

    def _shared(self, tokens: float) -> int:
        """Whole tokens, of which each of cp GPUs takes two parts."""
        parts = 2 * self.cp if self.cp > 1 else 1
        return max(ceil(round(tokens / parts, 6)), 1) * parts


def by_sequence(calls: Iterable[OpCall], attended: int) -> tuple[OpCall, ...]:
    """The calls with attention among `attended` tokens in place of whole rows: as many tokens, and the pairs of all
    sequences; 0: whole rows."""
    return tuple(_pieces(call, attended) if attended else call for call in calls)


def _pieces(call: OpCall, attended: int) -> OpCall:
    op = call.op
    if not isinstance(op, Attention | Mla) or op.q_len == attended:
        return call
    pieces = float(op.batch) * float(op.q_len) / attended
    batch = max(round(pieces), 1)
    return call._replace(
        op=replace(op, batch=batch, q_len=attended, kv_len=attended), count=call.count * pieces / batch
    )


def lengths_note(setting: Sequences) -> str:
    """What to say of tokens that are computed and not trained on, and of rows that hold several sequences."""
    lengths = setting.lengths
    if lengths is None:
        return ""
    mean = f"{lengths.mean:.0f} tokens in the mean"
    if setting.packing:
        alone = setting.attention in VARLEN
        how = "attend to themselves alone" if alone else f"share attention of whole rows ({setting.attention} masks it)"
        return f"sequences of {mean} are packed into rows of {setting.seq_len} and {how}."
    if setting.padding == "none":
        waits = "; the step is that of the replica with most of them" if setting.dp > 1 else ""
        return f"sequences of {mean} are not padded{waits}."
    row = setting.timed.seq_len
    return (
        f"tokens/s counts the sequences' own tokens, {lengths.mean:.0f} in the mean; rows are padded to {row}: "
        f"{1 - lengths.mean / row:.0%} of what is computed is padding."
    )
