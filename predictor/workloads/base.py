"""What people run: a model with a batch, lengths, number formats and parallelism, as a list of ops."""

from __future__ import annotations

from dataclasses import dataclass
from numbers import Integral
from typing import TYPE_CHECKING, Any, NamedTuple

from predictor.errors import InvalidRequest
from predictor.ops import DTYPES, Op

if TYPE_CHECKING:
    from predictor.workloads.decoder import Decoder

ENGINES = ("vllm", "sglang", "trtllm", "torch")
KV_DTYPES = ("fp32", "fp16", "bf16", "fp8", "int8", "nvfp4")
LARGEST = 2**31
WIDE_DTYPES = ("fp32", "tf32", "fp16")  # these are also what the layers pass on; all others pass on bf16


class OpCall(NamedTuple):
    """An op of one forward pass on one GPU.

    name: place in the network, such as "qkv_proj". op: scalar fields. count: calls per step.
    """

    name: str
    op: Op
    count: float  # type: ignore[assignment]  # hides tuple.count


class Step(NamedTuple):
    """One forward pass: `batch` sequences of q_len new tokens over kv_len cached ones (the new included).

    dtype: of the linear layers; act_dtype: of what passes between them; kv_dtype: of the cache.
    """

    phase: str
    batch: int
    q_len: int
    kv_len: int
    dtype: str
    act_dtype: str
    kv_dtype: str
    tp: int

    @property
    def tokens(self) -> int:
        """New tokens over all sequences."""
        return self.batch * self.q_len


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """A model and how it is run; sizes are whole numbers, checked on creation (InvalidRequest).

    batch: sequences that run together from start to end. input_len, output_len: tokens per sequence.
    dtype: of the linear layers, any of predictor.ops.DTYPES; embeddings, output head, norms and attention arithmetic
        stay in bf16 (fp16, tf32 or fp32 where dtype is that).
    kv_dtype: of the KV cache; "" keeps the activations' format.
    tp: GPUs that share each layer. engine: what runs it; every engine gets the ops of a fused serving engine, and the
        estimators tell engines apart.
    """

    model: Decoder
    batch: int = 1
    input_len: int = 1024
    output_len: int = 128
    dtype: str = "bf16"
    kv_dtype: str = ""
    tp: int = 1
    engine: str = "vllm"

    def __post_init__(self) -> None:
        """Checks every setting, the model last."""
        if not hasattr(self.model, "forward_ops"):
            raise InvalidRequest(f'model is {_show(self.model)}; it must be a model: get_model("Llama-3.1-8B").')
        for name in ("batch", "input_len", "output_len", "tp"):
            object.__setattr__(self, name, whole_number(name, getattr(self, name)))
        for name, choices in (("dtype", tuple(DTYPES)), ("kv_dtype", ("", *KV_DTYPES)), ("engine", ENGINES)):
            value = getattr(self, name)
            if not isinstance(value, str) or value not in choices:
                known = ", ".join(choice for choice in choices if choice)
                raise InvalidRequest(f"{name} is {_show(value)}; it must be one of {known}.")
        self._check_lengths()
        self.model.shard(self.tp)

    def _check_lengths(self) -> None:
        total, most = self.input_len + self.output_len, self.model.max_len
        if total > most:
            raise InvalidRequest(
                f"input_len + output_len is {total}; {self.model.name} takes at most {most} tokens "
                "(max_position_embeddings). Shorten one of them."
            )
        if self.batch * total > LARGEST:
            raise InvalidRequest(
                f"batch * (input_len + output_len) is {self.batch * total}; it must be at most 2**31. Lower batch."
            )

    @property
    def act_dtype(self) -> str:
        """Number format between the linear layers, of attention arithmetic, embeddings, norms and the output head."""
        return self.dtype if self.dtype in WIDE_DTYPES else "bf16"

    @property
    def cache_dtype(self) -> str:
        """Number format of the KV cache; a tf32 model stores 32 bits."""
        return self.kv_dtype or ("fp32" if self.act_dtype == "tf32" else self.act_dtype)

    def prefill_ops(self) -> tuple[OpCall, ...]:
        """One forward over batch × input_len tokens; the output head runs on the last token of each sequence."""
        return self.model.forward_ops(self._step("prefill", self.input_len, self.input_len))

    def decode_ops(self, kv_len: int) -> tuple[OpCall, ...]:
        """One step: `batch` new tokens over kv_len cached tokens per sequence, the new one included."""
        length = whole_number("kv_len", kv_len)
        if length > self.model.max_len:
            raise InvalidRequest(
                f"kv_len is {length}; {self.model.name} takes at most {self.model.max_len} tokens "
                "(max_position_embeddings). Lower it."
            )
        return self.model.forward_ops(self._step("decode", 1, length))

    def _step(self, phase: str, q_len: int, kv_len: int) -> Step:
        return Step(phase, self.batch, q_len, kv_len, self.dtype, self.act_dtype, self.cache_dtype, self.tp)


def whole_number(name: str, value: Any) -> int:
    """value as an int of 1 to 2**31; anything else raises InvalidRequest.

    >>> whole_number("batch", 8)
    8
    """
    if not isinstance(value, Integral) or isinstance(value, bool) or int(value) > LARGEST:
        raise InvalidRequest(f"{name} is {_show(value)}; it must be a whole number from 1 to 2**31.")
    if int(value) < 1:
        raise InvalidRequest(f"{name} is {_show(value)}; it must be at least 1.")
    return int(value)


def _show(value: object) -> str:
    if isinstance(value, str):
        return f'"{value[:60]}"'
    if isinstance(value, int) and value.bit_length() > 128:  # str() of an int of many digits raises
        return f"a number of {value.bit_length()} bits"
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
