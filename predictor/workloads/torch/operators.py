"""What one call of PyTorch's operator library (ATen) is as ops: shapes and dtypes in, ops out; torch is not imported.

Tensors are typed Any: all that is asked of one is shape, dtype and stride.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from math import ceil, isqrt, prod
from typing import Any, NamedTuple

from predictor.errors import InvalidRequest
from predictor.ops import Attention, Conv, Gemm, Op, Pointwise
from predictor.ops.dtypes import act_bytes
from predictor.ops.pointwise import KINDS

DTYPES: Mapping[str, str] = {
    "float32": "fp32",
    "float16": "fp16",
    "bfloat16": "bf16",
    "float8_e4m3fn": "fp8",
    "float8_e5m2": "fp8",
    "float8_e4m3fnuz": "fp8",
    "float8_e5m2fnuz": "fp8",
    "int8": "int8",
}
BY_SIZE: Mapping[int, str] = {1: "int8", 2: "bf16", 4: "fp32", 8: "fp32", 16: "fp32"}  # where only bytes matter
FEWEST_COLUMNS, COLUMNS, MOST_COLUMNS = 64, 4096, 65536  # element-wise ops run over flat memory, whatever the shape

# Element-wise calls: the kind whose kernel is nearest. Rows are set so that the op moves the bytes of the tensors.
ELEMENTWISE: Mapping[str, str] = {
    **dict.fromkeys(("relu", "leaky_relu", "hardtanh", "clamp", "clamp_min", "clamp_max", "threshold"), "relu"),
    **dict.fromkeys(("hardswish", "hardsigmoid", "abs", "neg", "sign", "square", "native_batch_norm"), "relu"),
    **dict.fromkeys(("native_batch_norm_legit_no_training", "cudnn_batch_norm"), "relu"),
    **dict.fromkeys(("gelu", "erf", "elu", "prelu", "celu", "selu"), "gelu"),
    **dict.fromkeys(("silu", "mish", "softplus", "log_sigmoid_forward"), "silu"),
    **dict.fromkeys(("tanh", "sigmoid", "exp", "exp2", "expm1", "log", "log1p", "log2", "log10"), "tanh"),
    **dict.fromkeys(("sqrt", "rsqrt", "reciprocal", "sin", "cos", "tan", "atan", "sinh", "cosh", "logit"), "tanh"),
    **dict.fromkeys(("add", "sub", "rsub", "lerp", "maximum", "minimum", "where", "masked_fill", "addcmul"), "add"),
    **dict.fromkeys(("mul", "div", "remainder", "fmod", "floor_divide", "addcdiv", "atan2"), "mul"),
    "pow": "pow",
    "glu": "silu_mul",
}
# Known calls of which nothing but the bytes matters.
_COPIES = """
copy clone to_copy cat stack constant_pad_nd reflection_pad1d reflection_pad2d replication_pad2d roll flip repeat tril
triu im2col col2im pixel_shuffle pixel_unshuffle channel_shuffle one_hot diff polar view_as_complex
"""
_FILLINGS = """
fill zero zeros zeros_like ones ones_like full full_like new_zeros new_ones new_full arange linspace scalar_tensor eye
rand randn rand_like randn_like randint normal uniform bernoulli native_dropout tril_indices
"""
_REDUCTIONS = """
sum mean amax amin max min argmax argmin var var_mean std prod cumsum any all norm linalg_vector_norm logsumexp
native_batch_norm_legit max_pool2d_with_indices max_pool3d_with_indices avg_pool1d avg_pool2d avg_pool3d
adaptive_avg_pool2d adaptive_avg_pool3d adaptive_max_pool2d
"""
_RESIZINGS = """
upsample_nearest1d upsample_nearest2d upsample_nearest3d upsample_linear1d upsample_bilinear2d upsample_bicubic2d
upsample_nearest_exact2d upsample_bilinear2d_aa upsample_bicubic2d_aa grid_sampler_2d
"""
_TESTS = """
eq ne lt le gt ge isnan isinf logical_and logical_or logical_not logical_xor bitwise_and bitwise_or bitwise_not
bitwise_xor and or xor floor ceil round trunc bucketize
"""
BYTES_ONLY = frozenset((_COPIES + _FILLINGS + _REDUCTIONS + _RESIZINGS + _TESTS).split())
# Calls that overwrite their first argument without reading it.
WRITE_ONLY = frozenset({"copy", "fill", "zero", "uniform", "normal", "bernoulli"})
# Calls that touch no data, beside those whose schema says that they return a view.
_NOTHING = """
unsafe_view unsafe_split unsafe_split_with_sizes reshape_alias empty empty_like empty_strided new_empty
new_empty_strided empty_permuted resize set lift_fresh is_same_size sym_size sym_numel sym_stride sym_storage_offset
assert_async assert_scalar assert_tensor_metadata functional_assert_async functional_assert_scalar
"""
NOTHING = frozenset(_NOTHING.split())


class Call(NamedTuple):
    """One ATen call. name: without underscores at its ends; inputs: by name; outputs: its tensors."""

    name: str
    inputs: Mapping[str, Any]
    outputs: tuple[Any, ...]


def is_known(name: str) -> bool:
    """Whether a call has a rule, if only that it takes no time."""
    return name in NOTHING or name in RULES or name in ELEMENTWISE or name in BYTES_ONLY


def ops_of(call: Call) -> tuple[Op, ...] | None:
    """The ops of a call; none where a tensor is empty or no data moves, None where the call is not known."""
    if not is_known(call.name):
        return None
    if call.name in NOTHING or any(0 in t.shape for t in call.outputs):
        return ()
    rule = RULES.get(call.name)
    return rule(call) if rule else by_bytes(call, ELEMENTWISE.get(call.name, "copy"))


def by_bytes(call: Call, kind: str = "copy") -> tuple[Op, ...]:
    """One pass over what the call reads and writes; nothing where it touches no tensor.

    Broadcast elements count once. 8-byte elements are two of 4.
    """
    skipped = next(iter(call.inputs), "") if call.name in WRITE_ONLY else ""
    read = list(tensors(value for name, value in call.inputs.items() if name not in (skipped, "out")))
    moved = sum(stored(t) * size_of(t) for t in [*read, *call.outputs])
    if not moved or not call.outputs:
        return ()
    return (_flat(kind, max([*read, *call.outputs], key=lambda t: stored(t) * size_of(t)), moved),)


def _flat(kind: str, widest: Any, moved: float) -> Pointwise:
    """A pass of `kind` that moves `moved` bytes in elements of the tensor `widest`."""
    dtype = DTYPES.get(dtype_of(widest), BY_SIZE[size_of(widest)])
    elements = ceil(moved / (KINDS[kind].reads + KINDS[kind].writes) / float(act_bytes(dtype)))
    last = widest.shape[-1] if widest.shape else 1
    cols = last if FEWEST_COLUMNS <= last <= MOST_COLUMNS else min(elements, COLUMNS)
    return Pointwise(kind=kind, rows=max(round(elements / cols), 1), cols=cols, dtype=dtype)


def tensors(values: Iterable[Any]) -> Iterable[Any]:
    """The tensors among values and lists of values."""
    for value in values:
        if isinstance(value, list | tuple):
            yield from tensors(value)
        elif hasattr(value, "shape") and hasattr(value, "stride"):
            yield value


def stored(tensor: Any) -> int:
    """Elements of a tensor that lie apart in memory; broadcast ones (stride 0) once."""
    return prod(size for size, stride in zip(tensor.shape, tensor.stride(), strict=True) if stride or size == 0)


def dtype_of(tensor: Any) -> str:
    """Name of a tensor's dtype, such as "float32"."""
    return str(tensor.dtype).removeprefix("torch.")


def size_of(tensor: Any) -> int:
    """Bytes of one element."""
    return int(tensor.dtype.itemsize)


def arithmetic(tensor: Any, call: Call) -> str:
    """Our name of the number format in which a call computes; a format without known peaks raises."""
    name = dtype_of(tensor)
    if name not in DTYPES:
        raise InvalidRequest(
            f"{call.name} runs in {name}, for which no peak is known; convert the module and its inputs, for instance "
            "with .float() or .bfloat16()."
        )
    return DTYPES[name]


def _product(call: Call, rows: int, cols: int, depth: int, batch: int, operand: Any) -> tuple[Op, ...]:
    if not rows * cols * depth * batch:
        return ()
    return (Gemm(m=rows, n=cols, k=depth, batch=batch, dtype=arithmetic(operand, call)),)


def _linear(call: Call) -> tuple[Op, ...]:
    x, weight = call.inputs["input"], call.inputs["weight"]
    depth, cols = x.shape[-1], weight.shape[0] if len(weight.shape) > 1 else 1
    return _product(call, prod(x.shape[:-1]), cols, depth, 1, x)


def _matrices(left: str, right: str) -> Callable[[Call], tuple[Op, ...]]:
    def rule(call: Call) -> tuple[Op, ...]:
        a, b = call.inputs[left], call.inputs[right]
        return _product(call, a.shape[-2], b.shape[-1], a.shape[-1], prod(a.shape[:-2]), a)

    return rule


def _matrix_vector(left: str) -> Callable[[Call], tuple[Op, ...]]:
    def rule(call: Call) -> tuple[Op, ...]:
        matrix = call.inputs[left]
        return _product(call, 1, matrix.shape[0], matrix.shape[1], 1, matrix)

    return rule


def _grouped(call: Call) -> tuple[Op, ...]:
    """Rows of tokens sorted by expert, each times its expert's matrix: as if experts were equally popular."""
    a, b = call.inputs["self"], call.inputs["mat2"]
    if len(a.shape) != 2 or len(b.shape) != 3:
        return _product(call, a.shape[-2], b.shape[-1], a.shape[-1], prod(a.shape[:-2]) or 1, a)
    experts = min(b.shape[0], a.shape[0])
    return _product(call, ceil(a.shape[0] / max(experts, 1)), b.shape[-1], a.shape[-1], experts, a)


def _attention(call: Call) -> tuple[Op, ...]:
    """(…, heads, length, head_dim) each. Queries that outnumber the keys are counted as more sequences.

    A mask given as a tensor is taken to leave every pair. Where values are wider or narrower than keys, their mean.
    """
    query, key, value = (call.inputs[name] for name in ("query", "key", "value"))
    q_len, kv_len = query.shape[-2], key.shape[-2]
    parts = next((n for n in range(ceil(q_len / kv_len), 2 * q_len // kv_len + 1) if q_len % n == 0), 0)
    parts = parts or ceil(q_len / kv_len)
    heads = query.shape[-3] if len(query.shape) > 2 else 1
    dtype = arithmetic(query, call)
    return (
        Attention(
            phase="decode" if q_len == 1 < kv_len else "prefill",
            batch=prod(query.shape[:-3]) * parts,
            q_len=ceil(q_len / parts),
            kv_len=kv_len,
            heads=heads,
            kv_heads=min(key.shape[-3], heads) if len(key.shape) > 2 else 1,
            head_dim=ceil((query.shape[-1] + value.shape[-1]) / 2),
            causal=1 if call.inputs.get("is_causal") and q_len == kv_len else 0,
            dtype=dtype,
            kv_dtype=dtype,
        ),
    )


def _convolution(call: Call) -> tuple[Op, ...]:
    """Square two-dimensional convolutions as they are; others as ones of as many FLOPs, which set their time.

    Oblong images are cut into square ones of as many pixels. Kernel dimensions that are not square become channels, as
    if unrolled. A transposed convolution is the convolution whose input it computes.
    """
    x, weight, y = call.inputs["input"], call.inputs["weight"], call.outputs[0]
    groups, dtype = call.inputs["groups"], arithmetic(x, call)
    image, maps = (y, x) if call.inputs["transposed"] else (x, y)
    kernel, stride, padding, dilation = (
        _each(value, len(weight.shape) - 2)
        for value in (weight.shape[2:], call.inputs["stride"], call.inputs["padding"], call.inputs["dilation"])
    )
    channels = {"in_channels": weight.shape[1] * groups, "out_channels": weight.shape[0], "groups": groups}
    whole = [tuple(image.shape[2:]), kernel, stride, padding]
    if len(kernel) == 2 and all(len(set(pair)) == 1 for pair in whole) and set(dilation) == {1}:
        size, side, step, pad = (pair[0] for pair in whole)
        conv = Conv(batch=x.shape[0], size=size, kernel=side, stride=step, padding=pad, dtype=dtype, **channels)
        if conv.out_size() == maps.shape[-1]:
            return (conv, *_bias(call))
    square = len(kernel) > 1 and kernel[-1] == kernel[-2] and stride[-1] == stride[-2]
    side, step = (kernel[-1], stride[-1]) if square else (1, 1)
    channels["in_channels"] *= prod(kernel) // side**2
    pixels = maps.shape[0] * prod(maps.shape[2:])
    edge = max(n for n in range(1, isqrt(prod(maps.shape[2:])) + 1) if pixels % n**2 == 0)
    pad = min(max(-(-(side - step) // 2), 0), (side - 1) // 2)
    size = max(edge * step, (edge - 1) * step + side - 2 * pad)
    conv = Conv(batch=pixels // edge**2, size=size, kernel=side, stride=step, padding=pad, dtype=dtype, **channels)
    return (conv, *_bias(call))


def _bias(call: Call) -> tuple[Op, ...]:
    """The addition of a bias, which PyTorch runs after the convolution, in place."""
    y = call.outputs[0]
    return () if call.inputs.get("bias") is None else (_flat("add", y, 2.0 * stored(y) * size_of(y)),)


def _each(value: Any, dims: int) -> tuple[int, ...]:
    """One number for every dimension, given as that many or as one for all."""
    given: Sequence[int] = value if isinstance(value, Sequence) else [value]
    return tuple(int(given[min(i, len(given) - 1)]) for i in range(dims))


def _rows(kind: str, cols: Callable[[Any, Mapping[str, Any]], int]) -> Callable[[Call], tuple[Op, ...]]:
    """An op over rows of `cols(tensor, arguments)` elements that belong together: norms and softmax."""

    def rule(call: Call) -> tuple[Op, ...]:
        x = next(iter(tensors(call.inputs.values())))
        dtype, width = DTYPES.get(dtype_of(x), BY_SIZE[size_of(x)]), cols(x, call.inputs)
        return (Pointwise(kind=kind, rows=max(prod(x.shape) // width, 1), cols=width, dtype=dtype),)

    return rule


def _batch_norm(call: Call) -> tuple[Op, ...]:
    """With stored statistics one multiply-add an element; with those of the batch a reduction first."""
    x = call.inputs["input"]
    if not call.inputs.get("training"):
        return by_bytes(call, "relu")
    cols = max(prod(x.shape[2:]), 1)
    return (Pointwise(kind="layer_norm", rows=prod(x.shape[:2]), cols=cols, dtype=arithmetic(x, call)),)


def _dropout(call: Call) -> tuple[Op, ...]:
    """Inference drops nothing, unless the module insists."""
    return by_bytes(call, "mul") if call.inputs.get("train") else ()


def _lookup(call: Call) -> tuple[Op, ...]:
    """Rows read at indices and written: of the table only what is looked up."""
    y = call.outputs[0]
    return (_flat("embedding", y, 2.0 * prod(y.shape) * size_of(y)),)


def _store(call: Call) -> tuple[Op, ...]:
    """Values written at indices: of the destination only what changes."""
    values = max(list(tensors(v for k, v in call.inputs.items() if k != "self")), key=lambda t: prod(t.shape))
    return (_flat("copy", values, 2.0 * prod(values.shape) * size_of(values)),)


def _group_width(x: Any, inputs: Mapping[str, Any]) -> int:
    return int(prod(x.shape[1:])) // int(inputs.get("num_groups") or inputs.get("group") or 1)


RULES: Mapping[str, Callable[[Call], tuple[Op, ...]]] = {
    "linear": _linear,
    "mm": _matrices("self", "mat2"),
    "int_mm": _matrices("self", "mat2"),
    "scaled_mm": _matrices("self", "mat2"),
    "addmm": _matrices("mat1", "mat2"),
    "addmm_activation": _matrices("mat1", "mat2"),
    "bmm": _matrices("self", "mat2"),
    "baddbmm": _matrices("batch1", "batch2"),
    "addbmm": _matrices("batch1", "batch2"),
    "mv": _matrix_vector("self"),
    "addmv": _matrix_vector("mat"),
    "grouped_mm": _grouped,
    "scaled_grouped_mm": _grouped,
    "scaled_dot_product_attention": _attention,
    "scaled_dot_product_attention_math": _attention,
    "scaled_dot_product_flash_attention": _attention,
    "scaled_dot_product_flash_attention_for_cpu": _attention,
    "scaled_dot_product_efficient_attention": _attention,
    "scaled_dot_product_cudnn_attention": _attention,
    "scaled_dot_product_fused_attention_overrideable": _attention,
    "convolution": _convolution,
    "convolution_overrideable": _convolution,
    **{
        name: _rows("softmax", lambda x, inputs: x.shape[inputs["dim"]] if x.shape else 1)
        for name in ("softmax", "log_softmax", "safe_softmax")
    },
    **{
        name: _rows("layer_norm", lambda x, inputs: prod(inputs["normalized_shape"]))
        for name in ("layer_norm", "native_layer_norm")
    },
    **{
        name: _rows("rms_norm", lambda x, inputs: prod(inputs["normalized_shape"]))
        for name in ("rms_norm", "fused_rms_norm")
    },
    **dict.fromkeys(("group_norm", "native_group_norm"), _rows("layer_norm", _group_width)),
    "batch_norm": _batch_norm,
    **dict.fromkeys(("dropout", "feature_dropout", "alpha_dropout", "feature_alpha_dropout"), _dropout),
    **dict.fromkeys(("embedding", "index_select", "index", "gather", "take", "embedding_bag"), _lookup),
    **dict.fromkeys(("index_put", "index_copy", "index_add", "scatter", "scatter_add", "index_fill"), _store),
}
