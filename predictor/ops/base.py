"""What every operator is: named fields, one number per call or an array for a column of calls."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import cache
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from predictor.errors import InvalidOp
from predictor.ops.dtypes import Array, Number, Text, dtype_facts

# Fields that hold a name, in the order of the columns of a measurement table, and what they say where families agree.
TEXTS: Mapping[str, str] = {
    "phase": "prefill or decode",
    "kind": "which one",
    "dtype": "number format of the op, see predictor.ops.dtypes",
    "kv_dtype": "number format of the KV cache",
    "link": "gpu (its own fabric), pcie, host (through its memory) or network",
}
TEXT_FIELDS = frozenset(TEXTS)
TOLD_APART = TEXT_FIELDS - {"kind"}
LARGEST = 2.0**53  # beyond it float64 no longer counts in ones


def meaning(unit: str, text: str = "") -> Mapping[str, str]:
    """Metadata of a number field: its unit and what it counts, as tables of measurements tell them."""
    return {"unit": unit, "text": text}


@dataclass(frozen=True, slots=True, kw_only=True)
class Op(ABC):
    """One operator call (or a column of them) as hardware sees it.

    Number fields are floats or (n_calls,) arrays; text fields are one name or (n_calls,) names.

    What a family says of itself: floor_cycles, of the GPU's clock, from launch to last store of an empty kernel
    sequence (judged, of the fastest kernels: bf16 GEMM takes 7,000 to 8,100 on A100 to B200; they stand in where no
    estimator is, and tell seconds from milliseconds, while training learns floors of its own); floor_exponent, x in
    floor ~ clock^-x, below 1 where part of the floor is the host's, the driver's or a link's; one_plateau, whether
    large calls of all programs approach one rate, as kernels of one product do and messages do not; growing, the
    field that can grow while the rest of the shape stays; uneven, whether a call may be much faster than one with
    less of it; at_least_zero, fractional, fields that may be 0, or no whole numbers.
    """

    family: ClassVar[str]
    floor_cycles: ClassVar[float]
    floor_exponent: ClassVar[float] = 1.0
    one_plateau: ClassVar[bool] = True
    growing: ClassVar[str]
    uneven: ClassVar[bool] = False
    at_least_zero: ClassVar[frozenset[str]] = frozenset()
    fractional: ClassVar[frozenset[str]] = frozenset()

    def __post_init__(self) -> None:
        for name in names_of(type(self)):
            value = getattr(self, name)
            if name in TEXT_FIELDS:
                if name in ("dtype", "kv_dtype"):
                    for dtype in names_in(value):
                        dtype_facts(dtype)
                continue
            object.__setattr__(self, name, self._checked(name, value))

    def _checked(self, name: str, value: Any) -> Number:
        if type(value) in (float, int) and (name not in self.at_least_zero) <= value <= LARGEST:
            whole = value == int(value) or name in self.fractional  # nearly every call: as below, for one number
            if whole:
                return float(value)
        try:
            numbers = np.asarray(value, dtype=np.float64)
        except (TypeError, ValueError, OverflowError):
            raise InvalidOp(f"{name} is {value!r}; it must be a number.") from None
        wrong = ~self.allowed(name, numbers)
        if wrong.any():
            raise InvalidOp(self.rule(name, numbers[wrong].flat[0]))
        return numbers if numbers.ndim else float(numbers)

    @classmethod
    def allowed(cls, name: str, numbers: Array) -> NDArray[np.bool_]:
        """Whether each number may stand in a field, whatever the other fields hold."""
        sound = np.isfinite(numbers) & (numbers >= (name not in cls.at_least_zero)) & (numbers <= LARGEST)
        return sound if name in cls.fractional else sound & (numbers == np.floor(numbers))

    @classmethod
    def rule(cls, name: str, number: float) -> str:
        """What a field that holds a number that is not allowed must hold."""
        least = int(name not in cls.at_least_zero)
        return f"{name} is {number:g}; it must be a whole number of at least {least} (at most 2**53)."

    @property
    def estimator(self) -> str:
        """Name of the estimator set that predicts this op: the family, or family_phase."""
        return self.family

    def token_counts(self) -> dict[str, Number]:
        """What counts tokens, rows or bytes: with more of any of them a call never gets faster."""
        return {self.growing: getattr(self, self.growing)}

    @property
    def compute_dtype(self) -> Text:
        """dtype whose arithmetic peak bounds the op; one name or (n_calls,)."""
        return self.dtype  # type: ignore[attr-defined,no-any-return]

    @abstractmethod
    def flops(self) -> Number:
        """Floating-point operations per call (a multiply-add counts 2)."""

    def least_flops(self) -> Number:
        """FLOPs that a fast algorithm may get away with."""
        return self.flops()

    @abstractmethod
    def bytes_moved(self) -> Number:
        """Least bytes per call: every input read once, every output written once."""

    def stored_bytes(self) -> Number:
        """Bytes of weights or cache that a call reads, which no op before it has written; 0 where that is not known."""
        return 0.0

    def link_bytes(self) -> Number:
        """Least bytes that one GPU must send or receive, whichever is more; 0 for local ops."""
        return 0.0

    def __len__(self) -> int:
        most = 0
        for name in names_of(type(self)):
            value = getattr(self, name)
            if type(value) is not str:
                length = 1 if type(value) is float else np.size(value)
                if length > 1:  # as all other columns have
                    return length
                most = max(most, length)
        return most

    def is_column(self) -> bool:
        """Whether any field is a column of calls."""
        return any(isinstance(getattr(self, name), np.ndarray) for name in names_of(type(self)))

    def texts(self) -> tuple[str, ...]:
        """The text fields of a scalar op but `kind`, of which a column may hold several."""
        return tuple([str(getattr(self, name)) for name in names_of(type(self)) if name in TOLD_APART])

    def take(self, rows: Any) -> Self:
        """The calls at `rows` (an index array, mask or slice); scalar fields stay."""
        taken = object.__new__(type(self))  # of calls that were checked
        for name in names_of(type(self)):
            value = getattr(self, name)
            object.__setattr__(taken, name, value if isinstance(value, str | float) else np.asarray(value)[rows])
        return taken

    def smallest(self) -> Self:
        """The least call of the same kind, which is all launch; text fields as they are."""
        least = {name: name not in self.at_least_zero for name in names_of(type(self)) if name not in TEXT_FIELDS}
        return replace(self, **{name: float(value) for name, value in least.items()})

    def with_token_counts(self, counts: Mapping[str, Array]) -> Self:
        """The same calls with other counts, each (n_calls,), of what token_counts names."""
        return replace(self, **counts)


def merged_key(op: Op) -> object:
    """What is equal of two equal ops: the op itself, of a column its bytes."""
    if not op.is_column():
        return op
    values = [getattr(op, name) for name in names_of(type(op))]
    return (type(op), *(value.tobytes() if isinstance(value, np.ndarray) else value for value in values))


@cache
def names_of(kind: type[Op]) -> tuple[str, ...]:
    """Names of the fields of a kind of op, in order."""
    return tuple(field.name for field in fields(kind))


def names_in(value: Text) -> set[str]:
    """The different names of a text field."""
    return {value} if isinstance(value, str) else set(np.asarray(value).tolist())


def column(value: Number | int, length: int) -> Array:
    """value as an array of `length` calls."""
    return np.broadcast_to(np.asarray(value, dtype=np.float64), (length,))


def text_column(value: Text, length: int) -> np.ndarray[Any, Any]:
    """A text field as an array of `length` names."""
    return np.broadcast_to(np.asarray(value, dtype=object), (length,))


def one_name(names: Text) -> str | None:
    """The name that all calls have, where a text field tells that without looking at each; None where it does not."""
    if isinstance(names, str):
        return names
    return str(names[0]) if names.size and names.strides == (0,) else None


def stack(calls: Sequence[Op]) -> Op:
    """Scalar ops of one kind as one column of calls, in the order given.

    Number fields become (n_calls,) arrays, and so do text fields that differ.
    """
    first = calls[0]
    columns = {}
    for name in names_of(type(first)):
        values = [getattr(call, name) for call in calls]
        texts = name in TEXT_FIELDS
        alike = texts and values.count(values[0]) == len(values)
        columns[name] = values[0] if alike else np.array(values, dtype=object if texts else np.float64)
    return type(first)(**columns)


def concatenated(columns: Sequence[Op]) -> Op:
    """Columns of one kind as one, in the order given; text fields that are equal stay one name."""
    first, lengths = columns[0], [len(part) for part in columns]
    joined = {}
    for name in names_of(type(first)):
        values = [getattr(part, name) for part in columns]
        if name in TEXT_FIELDS and values.count(values[0]) == len(values):
            joined[name] = values[0]
        else:
            widen = text_column if name in TEXT_FIELDS else column
            joined[name] = np.concatenate([widen(value, n) for value, n in zip(values, lengths, strict=True)])
    return type(first)(**joined)
