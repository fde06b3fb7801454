"""One recorded call of PyTorch's operator library as an op: names, shapes and types in, by the rules of torch_ops.

A recording has the inputs of a call and not its outputs, so that only calls are known here whose outputs follow.
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from math import prod
from typing import Any, NamedTuple

from predictor.errors import InvalidTable
from predictor.ops import Op
from predictor.workloads.torch.operators import ELEMENTWISE, NOTHING, Call, ops_of

# Views and bookkeeping, which run no kernel of their own; composites are told by the calls inside them.
_VIEWS = """
    view view_as reshape t transpose permute expand expand_as as_strided slice select narrow unsqueeze squeeze detach
    unbind split split_with_sizes chunk alias movedim numpy_T flatten unflatten contiguous to to_copy resolve_conj
    resolve_neg result_type item local_scalar_dense is_nonzero conv1d conv2d conv3d matmul type_as broadcast_to
"""
SILENT = NOTHING | frozenset(_VIEWS.split())
_FLASH = "query key value dropout_p is_causal"
_MASKED = "query key value attn_bias compute_log_sumexp dropout_p is_causal"
_CONV = "input weight bias stride padding dilation transposed output_padding groups"
_NORM = "input normalized_shape weight bias eps"
# Inputs by position, as native_functions.yaml of PyTorch names them, of calls whose rule asks for them by name.
ARGUMENTS: Mapping[str, str] = {
    "linear": "input weight bias",
    **dict.fromkeys(("mm", "int_mm", "bmm"), "self mat2"),
    **dict.fromkeys(("addmm", "addmm_activation"), "self mat1 mat2"),
    "scaled_mm": "self mat2 scale_a scale_b",
    **dict.fromkeys(("baddbmm", "addbmm"), "self batch1 batch2"),
    "mv": "self vec",
    "addmv": "self mat vec",
    "scaled_dot_product_attention": "query key value attn_mask dropout_p is_causal",
    "scaled_dot_product_flash_attention": _FLASH,
    "scaled_dot_product_flash_attention_for_cpu": _FLASH,
    "scaled_dot_product_efficient_attention": _MASKED,
    "scaled_dot_product_cudnn_attention": _MASKED,
    "scaled_dot_product_fused_attention_overrideable": "query key value attn_bias dropout_p is_causal",
    "convolution": _CONV,
    "convolution_overrideable": _CONV,
    **dict.fromkeys(("softmax", "log_softmax", "safe_softmax"), "self dim"),
    **dict.fromkeys(("layer_norm", "native_layer_norm"), _NORM),
    **dict.fromkeys(("rms_norm", "fused_rms_norm"), "input normalized_shape weight eps"),
    "group_norm": "input num_groups weight bias",
    "native_group_norm": "input weight bias N C HxW group eps",
    "embedding": "weight indices",
    "index_select": "self dim index",
    "gather": "self dim index",
}
# Values that a rule cannot do without.
NEEDED: Mapping[str, tuple[str, ...]] = {
    name: ("is_causal",)
    if "is_causal" in names
    else tuple(n for n in names.split() if n in ("stride", "padding", "dilation", "transposed", "groups", "dim"))
    for name, names in ARGUMENTS.items()
}
LONGEST_VALUE = 10_000  # characters
MOST_DIMENSIONS = 64  # of a tensor of PyTorch
# Calls whose output is as large as their first input, beside those of ELEMENTWISE.
LIKE_FIRST = frozenset({"copy", "clone", "roll", "flip", "tril", "triu", "fill", "zero", "uniform", "normal"})


class Dtype(NamedTuple):
    """A number format of PyTorch: its name there and bytes of an element."""

    name: str
    itemsize: int

    def __str__(self) -> str:
        """As PyTorch writes it."""
        return f"torch.{self.name}"


TYPES: Mapping[str, Dtype] = {
    "float": Dtype("float32", 4),
    "double": Dtype("float64", 8),
    "c10::Half": Dtype("float16", 2),
    "c10::BFloat16": Dtype("bfloat16", 2),
    "c10::Float8_e4m3fn": Dtype("float8_e4m3fn", 1),
    "c10::Float8_e5m2": Dtype("float8_e5m2", 1),
    "c10::Float8_e4m3fnuz": Dtype("float8_e4m3fnuz", 1),
    "c10::Float8_e5m2fnuz": Dtype("float8_e5m2fnuz", 1),
    "signed char": Dtype("int8", 1),
    "unsigned char": Dtype("uint8", 1),
    "bool": Dtype("bool", 1),
    "short": Dtype("int16", 2),
    "int": Dtype("int32", 4),
    "long int": Dtype("int64", 8),
    "long": Dtype("int64", 8),
}
OURS: Mapping[str, str] = {  # number formats by our names, for recordings that tell none
    "fp32": "float",
    "fp16": "c10::Half",
    "bf16": "c10::BFloat16",
    "fp8": "c10::Float8_e4m3fn",
    "int8": "signed char",
}


@dataclass(frozen=True, slots=True)
class Tensor:
    """What torch_ops asks of a tensor."""

    shape: tuple[int, ...]
    dtype: Dtype
    strides: tuple[int, ...]

    def stride(self) -> tuple[int, ...]:
        """Elements between neighbours, by dimension."""
        return self.strides


class Recorded(NamedTuple):
    """A call as a profiler writes it: name ("aten::add_"), and of each input its sizes, type, strides and value."""

    name: str
    sizes: Sequence[Any]
    types: Sequence[str]
    strides: Sequence[Any] = ()
    values: Sequence[str] = ()


def short_name(name: str) -> str:
    """The name in torch_ops: "aten::add_" is "add"; calls of other libraries have none.

    >>> short_name("aten::_softmax"), short_name("aten::add_"), short_name("myops::add")
    ('softmax', 'add', '')
    """
    library, _, rest = name.partition("::")
    return rest.strip("_") if library == "aten" else ""


def has_rule(name: str) -> bool:
    """Whether a recorded call of this full name can become an op."""
    short = short_name(name)
    return short in ARGUMENTS or short in ELEMENTWISE or short in LIKE_FIRST


def row_of(call: Recorded, told: Mapping[str, Any] | None = None) -> dict[str, Any] | None:
    """The schema's shape columns of a call, None where it moves no data; raises PredictorError with the reason.

    told: values by name of the input that the recording lacks, such as {"is_causal": True}.
    """
    try:
        op = _op(call, told or {})
    except (LookupError, TypeError, ValueError, ArithmeticError):
        raise InvalidTable(f"{call.name}: its recorded inputs do not fit the operator") from None
    return None if op is None else {"family": op.family, **asdict(op)}


def _op(call: Recorded, told: Mapping[str, Any]) -> Op | None:
    short = short_name(call.name)
    if not call.sizes:
        raise InvalidTable(f"{call.name}: no shapes; record with record_shapes=True")
    inputs = _named(call, short)
    for name in NEEDED.get(short, ()):
        if inputs.get(name) is None:
            if name not in told:
                raise InvalidTable(f"{call.name}: {name} is not recorded; use torch.profiler with record_shapes=True")
            inputs[name] = told[name]
    if "normalized_shape" in inputs and inputs["normalized_shape"] is None and inputs.get("weight") is not None:
        inputs["normalized_shape"] = inputs["weight"].shape
    inputs["bias"] = None  # of a convolution: a call of its own, or fused
    ops = ops_of(Call(short, inputs, _outputs(short, inputs)))
    return ops[0] if ops else None


def _named(call: Recorded, short: str) -> dict[str, Any]:
    names = ARGUMENTS.get(short, "").split()
    inputs: dict[str, Any] = {}
    for place, sizes in enumerate(call.sizes):
        name = names[place] if place < len(names) else f"input {place}"
        kind = call.types[place] if place < len(call.types) else ""
        strides = call.strides[place] if place < len(call.strides) else ()
        value = call.values[place] if place < len(call.values) else ""
        inputs[name] = _input(call.name, kind, sizes, strides, value)
    return inputs


def _input(name: str, kind: str, sizes: Any, strides: Any, value: str) -> Any:
    if kind in TYPES:
        if isinstance(sizes, str) or len(sizes) > MOST_DIMENSIONS:
            raise ValueError(f"{name} has no shape of a tensor")
        shape = tuple(int(size) for size in sizes)
        return Tensor(shape, TYPES[kind], tuple(strides) if len(strides) == len(shape) else dense(shape))
    if sizes:
        raise InvalidTable(f"{name} on {kind or 'a type that is not recorded'}, for which there is no number format")
    return _value(value) if value else None


def _value(text: str) -> Any:
    """A recorded value: a number, a list of numbers, or text that is none of them, such as "-inf" or a mode."""
    try:
        return ast.literal_eval(text) if len(text) <= LONGEST_VALUE else text
    except (ValueError, SyntaxError, RecursionError, MemoryError):
        try:
            return float(text)
        except ValueError:
            return text


def dense(shape: Sequence[int]) -> tuple[int, ...]:
    """Strides of a tensor whose elements lie in a row.

    >>> dense((2, 3, 4))
    (12, 4, 1)
    """
    return tuple(prod(shape[place + 1 :]) for place in range(len(shape)))


def _outputs(short: str, inputs: Mapping[str, Any]) -> tuple[Tensor, ...]:
    make = _OUTPUT.get(short)
    if make is None and (short in ELEMENTWISE or short in LIKE_FIRST):
        make = _broadcast if short in ELEMENTWISE and "batch_norm" not in short else _first
    if make is None:
        return ()
    shape, like = make(inputs)
    return (Tensor(shape, like.dtype, dense(shape)),)


def _first(inputs: Mapping[str, Any]) -> tuple[tuple[int, ...], Tensor]:
    first = next(value for value in inputs.values() if isinstance(value, Tensor))
    return first.shape, first


def _broadcast(inputs: Mapping[str, Any]) -> tuple[tuple[int, ...], Tensor]:
    given = [value for value in inputs.values() if isinstance(value, Tensor)]
    rank = max(len(tensor.shape) for tensor in given)
    padded = [(1,) * (rank - len(tensor.shape)) + tensor.shape for tensor in given]
    shape = tuple(0 if 0 in sizes else max(sizes) for sizes in zip(*padded, strict=True))
    return shape, max(given, key=lambda tensor: (len(tensor.shape) > 0, tensor.dtype.itemsize))


def _looked_up(inputs: Mapping[str, Any]) -> tuple[tuple[int, ...], Tensor]:
    table, index = inputs["weight"], inputs["indices"]
    return (*index.shape, *table.shape[1:]), table


def _selected(inputs: Mapping[str, Any]) -> tuple[tuple[int, ...], Tensor]:
    table, axis = inputs["self"], inputs["dim"] % len(inputs["self"].shape)
    return (*table.shape[:axis], *inputs["index"].shape, *table.shape[axis + 1 :]), table


def _convolved(inputs: Mapping[str, Any]) -> tuple[tuple[int, ...], Tensor]:
    x, weight, dims = inputs["input"], inputs["weight"], len(inputs["weight"].shape) - 2
    stride, padding, dilation = (_each(inputs[name], dims) for name in ("stride", "padding", "dilation"))
    more = _each(inputs.get("output_padding") or 0, dims)
    reach = [d * (k - 1) + 1 for d, k in zip(dilation, weight.shape[2:], strict=True)]
    if inputs["transposed"]:
        size = tuple(
            (n - 1) * s - 2 * p + r + m for n, s, p, r, m in zip(x.shape[2:], stride, padding, reach, more, strict=True)
        )
        return (x.shape[0], weight.shape[1] * inputs["groups"], *size), x
    size = tuple((n + 2 * p - r) // s + 1 for n, s, p, r in zip(x.shape[2:], stride, padding, reach, strict=True))
    return (x.shape[0], weight.shape[0], *size), x


def _each(value: Any, dims: int) -> list[int]:
    given = list(value) if isinstance(value, Sequence) else [value]
    return [int(given[min(place, len(given) - 1)]) for place in range(dims)]


_OUTPUT: Mapping[str, Callable[[Mapping[str, Any]], tuple[tuple[int, ...], Tensor]]] = {
    "convolution": _convolved,
    "convolution_overrideable": _convolved,
    "embedding": _looked_up,
    "index_select": _selected,
    "gather": lambda inputs: (inputs["index"].shape, inputs["self"]),
}
