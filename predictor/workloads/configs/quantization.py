"""Number formats that a published config.json says its weights are in."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

from predictor.errors import InvalidSpec
from predictor.ops.dtypes import GROUP_SIZES, MLX, group_dtype
from predictor.workloads.configs.fields import Fields, show


class Published(NamedTuple):
    """linear, experts: formats of linear layers and of experts; "" where they are not quantised. notes: what of the
    file is not counted."""

    linear: str
    experts: str
    notes: tuple[str, ...] = ()


# Lists of modules that keep their format, as each tool calls them.
KEPT = ("modules_to_not_convert", "ignore", "exclude_modules", "ignored_layers", "llm_int8_skip_modules", "exclude")
# Of them, what is counted in 16 bits anyway: heads, embeddings, routers, norms, vision and audio towers.
NEVER_QUANTISED = re.compile(
    r"lm_head|embed|norm|gate$|gate\W*$|router|vision|visual|audio|multi_modal|mm_proj|connector|merger|patch|conv1d|"
    r"shared_expert_gate|score|A_log|dt_bias|rotary|mtp|nextn|eh_proj|shared_head|indexer|weights_proj",
)


def published_dtypes(fields: Fields, layers: int) -> Published:
    """Formats of linear layers and experts by quantization_config.

    Attention that the config leaves out of the quantisation keeps all linear layers but the experts unquantised; other
    modules that it leaves out are counted as quantised, which a note says.
    """
    stated = [
        where.get(name)
        for name in ("quantization_config", "quantization", "compression_config")
        for where in (fields.config, fields.outer)
    ]
    config = next((config for config in stated if config is not None), None)
    if config is None:
        return Published("", "")
    if not isinstance(config, Mapping):
        raise InvalidSpec(f"quantization_config in config.json is {show(config)}; it must be an object.")
    if str(config.get("quant_algo", "")).upper() == "MIXED_PRECISION":
        return Published(*_mixed(config))
    dtype = _dtype(config)
    if fields.config.get("expert_dtype") == "fp4":  # DeepSeek V4: FP4 in blocks of 32 with scales of powers of two
        return Published(dtype, "mxfp4_wo")
    kept = list(_kept(config))
    whole = [name for name in kept if name.rstrip("*.$").endswith(("self_attn", "self_attn.o_proj"))]
    plain_attention = any("*" in name for name in whole) or len(whole) >= layers
    others = [
        name for name in kept if not ("self_attn" in name and plain_attention) and not NEVER_QUANTISED.search(name)
    ]
    return Published("" if plain_attention else dtype, dtype, _kept_note(others))


def _kept(config: Mapping[str, Any]) -> Iterator[str]:
    for key in KEPT:
        listed = config.get(key) or []
        if not isinstance(listed, list | tuple) or not all(isinstance(name, str) for name in listed):
            raise InvalidSpec(f"{key} of quantization_config in config.json is {show(listed)}; it must list names.")
        yield from listed


def _kept_note(names: list[str]) -> tuple[str, ...]:
    if not names:
        return ()
    shown = ", ".join(name[:60] for name in names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
    return (f"quantization_config keeps {shown} in 16 bits; they are counted as quantised, weights are larger.",)


def _mixed(config: Mapping[str, Any]) -> tuple[str, str]:
    """modelopt's MIXED_PRECISION: one format for attention, another for experts or, where there are none, for
    feed-forwards."""
    if str(config.get("moe_quant_algo", "")).upper() == "NVFP4" and config.get("fmt") == "e4m3":
        return "fp8_block", "nvfp4"  # the published FP8 of DeepSeek V4 with its experts quantised again
    listed = config.get("quantized_layers")
    formats: dict[bool, set[str]] = {True: set(), False: set()}
    for name, how in listed.items() if isinstance(listed, Mapping) else ():
        if name != "lm_head":
            formats["attn" in str(name)].add(_algorithm(how.get("quant_algo") if isinstance(how, Mapping) else how))
    if len(formats[True]) != 1 or len(formats[False]) != 1:
        raise InvalidSpec(
            "not yet supported: quant_algo MIXED_PRECISION in quantization_config, unless quantized_layers has one "
            "format of attention and one of experts or feed-forwards."
        )
    return formats[True].pop(), formats[False].pop()


MODELOPT: Mapping[str, str] = {
    "FP8": "fp8",
    "FP8_PER_CHANNEL_PER_TOKEN": "fp8",
    "NVFP4": "nvfp4",
    "NVFP4_AWQ": "nvfp4",
    "W4A16_NVFP4": "nvfp4_wo",
    "W4A16_AWQ": "int4_wo",
    "FP8_PB_WO": "fp8_block",
    "INT8_SQ": "int8",
    "MXFP4": "mxfp4",
}


def _algorithm(value: object) -> str:
    """The format that modelopt calls so."""
    if (dtype := MODELOPT.get(str(value).upper())) is None:
        listed = ", ".join(MODELOPT)
        raise InvalidSpec(f"not yet supported: quant_algo {show(value)} in quantization_config; known: {listed}.")
    return dtype


def _whole(config: Mapping[str, Any], key: str, default: int) -> int:
    """A whole number of a quantization_config."""
    value = config.get(key, default)
    if isinstance(value, bool) or not isinstance(value, int):
        raise InvalidSpec(f"{key} in quantization_config is {show(value)}; it must be a whole number.")
    return value


def _integers(bits: int, group: int, zero_bits: int = 0) -> str:
    """The weight-only integers of those groups; -1 and 0: a scale per column."""
    if bits == 8 and group > 0 and not zero_bits and group not in GROUP_SIZES:
        group = 0
    if dtype := group_dtype(bits, max(group, 0), zero_bits):
        return dtype
    sizes = ", ".join(str(size) for size in GROUP_SIZES if size)
    raise InvalidSpec(
        f"quantization_config has {show(bits)} bits in groups of {show(group)}; known are 2 to 6 and 8 bits in groups "
        f"of {sizes} or -1, the whole column."
    )


def _awq(config: Mapping[str, Any]) -> str:
    """AWQ stores zero points as wide as its weights unless told otherwise (AwqConfig)."""
    bits = _whole(config, "w_bit" if "w_bit" in config else "bits", 4)
    group = _whole(config, "q_group_size" if "q_group_size" in config else "group_size", 128)
    return _integers(bits, group, bits if config.get("zero_point", True) else 0)


def _gptq(config: Mapping[str, Any]) -> str:
    """GPTQ; Marlin drops the zero points of symmetric ones when it loads them."""
    bits = _whole(config, "bits", 4)
    return _integers(bits, _whole(config, "group_size", 128), 0 if config.get("sym", True) else bits)


def _auto_round(config: Mapping[str, Any]) -> str:
    """auto-round, which packs weights as GPTQ or AWQ do (AutoRoundConfig)."""
    if str(config.get("data_type", "int")).startswith(("fp", "mx", "nv")):
        raise InvalidSpec(f"not yet supported: data_type {show(config['data_type'])} in quantization_config.")
    return _gptq(config)


def _bitsandbytes(config: Mapping[str, Any]) -> str:
    """NF4 or FP4, whose scales are quantised again only where the file says so (BitsAndBytesConfig)."""
    if config.get("load_in_4bit") or config.get("_load_in_4bit") or config.get("bits") == 4:
        return "nf4" if config.get("bnb_4bit_use_double_quant") else "nf4_once"
    if config.get("bits", 8) != 8:
        raise InvalidSpec(f"bits in quantization_config is {show(config['bits'])}; 4 and 8 are known.")
    return "int8"


def _hqq(config: Mapping[str, Any]) -> str:
    """HQQ: scale and zero point of 16 bits each (HqqConfig: quant_config.weight_quant_params)."""
    inner: Any = config.get("quant_config", config)
    inner = inner.get("weight_quant_params", inner) if isinstance(inner, Mapping) else inner
    if not isinstance(inner, Mapping):
        raise InvalidSpec(f"quant_config in quantization_config is {show(inner)}; it must be an object.")
    return _integers(_whole(inner, "nbits", 4), _whole(inner, "group_size", 64), 16)


def _quanto(config: Mapping[str, Any]) -> str:
    """quanto: int4 and int2 in groups of 128 with scale and shift, int8 and float8 per column (QuantoConfig)."""
    known = {"int2": _integers(2, 128, 16), "int4": _integers(4, 128, 16), "int8": "int8_wo", "float8": "fp8"}
    return _one_of(config, "weights", known, "int8")


def _torchao(config: Mapping[str, Any]) -> str:
    """torchao: named kinds, or objects whose _type names them; int4 has scale and zero point of 16 bits."""
    kind: Any = config.get("quant_type")
    options: Any = config.get("quant_type_kwargs") or {}
    while isinstance(kind, Mapping):
        if "_type" in kind:
            kind, options = kind["_type"], kind.get("_data") or {}
        else:
            kind = next(iter(kind.values()), None)
    name = re.sub(r"config$", "", re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", str(kind)).casefold()).strip("_")
    name = name.replace("8_weight", "8weight").replace("weightonly", "weight_only")
    flat = name.replace("_", "")
    if flat.startswith("int4weightonly"):
        group = _whole(options, "group_size", 128) if isinstance(options, Mapping) else 128
        return _integers(4, group, 16)
    for start, dtype in (
        ("int8weightonly", "int8_wo"),
        ("int8dynamic", "int8"),
        ("float8dynamic", "fp8"),
        ("float8weightonly", "fp8"),
    ):
        if flat.startswith(start) and "int4" not in flat:
            return dtype
    raise InvalidSpec(f"not yet supported: quant_type {show(kind)} of torchao in quantization_config.")


def _one_of(config: Mapping[str, Any], key: str, known: Mapping[str, str], default: str) -> str:
    value = config.get(key, default)
    if not isinstance(value, str) or value not in known:
        raise InvalidSpec(f"{key} in quantization_config is {show(value)}; known: {', '.join(known)}.")
    return known[value]


def _affine(config: Mapping[str, Any]) -> str:
    """MLX's, which states groups and bits and no method."""
    dtype = f"mlx_{config.get('bits')}bit"
    if config["group_size"] != 64 or config.get("mode", "affine") != "affine" or dtype not in MLX:
        raise InvalidSpec(
            f"quantization in config.json is {show(dict(config))}; of MLX, affine groups of 64 with 2 to 6 or 8 bits "
            "are known."
        )
    return dtype


def _fp8(config: Mapping[str, Any]) -> str:
    """fp8 in blocks of 128 where weight_block_size says so."""
    block = config.get("weight_block_size")
    if not block:
        return "fp8"
    if block != [128, 128] and block != (128, 128):
        raise InvalidSpec(f"weight_block_size in quantization_config is {block!r:.60}; [128, 128] is known.")
    return "fp8_block"


def _compressed(config: Mapping[str, Any]) -> str:
    """The format of the first group of a compressed-tensors config."""
    groups = config.get("config_groups")
    group = next(iter(groups.values()), None) if isinstance(groups, Mapping) else None
    weights = group.get("weights") if isinstance(group, Mapping) else None
    if not isinstance(weights, Mapping) or not isinstance(group, Mapping):
        raise InvalidSpec("quantization_config has no config_groups with weights; copy it from the published file.")
    bits, kind = _whole(weights, "num_bits", 0), str(weights.get("type"))
    alone, size = group.get("input_activations") is None, weights.get("group_size")
    if kind == "int" and alone and bits:
        in_groups = weights.get("strategy") in ("group", "tensor_group") or size is not None
        group_size = _whole(weights, "group_size", 128) if in_groups and size is not None else -1
        return _integers(bits, group_size, 0 if weights.get("symmetric", True) else bits)
    dtype = {
        ("float", 8, False): "fp8_block" if weights.get("strategy") == "block" else "fp8",
        ("float", 8, True): "fp8",
        ("float", 4, False): "nvfp4" if size != 32 else "mxfp4",
        ("int", 8, False): "int8",
        ("float", 4, True): "nvfp4_wo" if size == 16 else "mxfp4_wo",
    }.get((kind, bits, alone))
    if dtype is None:
        inputs = "" if alone else " beside quantised inputs"
        raise InvalidSpec(f"weights in quantization_config are {show(kind)} of {bits} bits{inputs}; not known.")
    return dtype


def _quark(config: Mapping[str, Any]) -> str:
    """AMD Quark: global_quant_config names one format of all layers."""
    whole = config.get("global_quant_config")
    weight: Any = whole.get("weight") if isinstance(whole, Mapping) else None
    weight = weight[0] if isinstance(weight, list) and weight else weight
    named = weight.get("dtype") if isinstance(weight, Mapping) else None
    known = {"fp8_e4m3": "fp8", "fp4": "mxfp4", "int8": "int8"}
    if not isinstance(named, str) or named not in known:
        raise InvalidSpec(f"weight dtype of global_quant_config is {show(named)}; known: {', '.join(known)}.")
    return known[named]


METHODS: Mapping[str, Callable[[Mapping[str, Any]], str]] = {
    "fp8": _fp8,
    "fbgemm_fp8": lambda config: "fp8",
    "mxfp4": lambda config: "mxfp4_wo",
    "awq": _awq,
    "gptq": _gptq,
    "auto-round": _auto_round,
    "bitsandbytes": _bitsandbytes,
    "modelopt": lambda config: _algorithm(config.get("quant_algo")),
    "modelopt_fp4": lambda config: _algorithm(config.get("quant_algo")),
    "compressed-tensors": _compressed,
    "hqq": _hqq,
    "quanto": _quanto,
    "torchao": _torchao,
    "eetq": lambda config: "int8_wo",
    "quark": _quark,
}
SAME = {"intel/auto-round": "auto-round", "auto_round": "auto-round", "gptq_marlin": "gptq", "awq_marlin": "awq"}


def _dtype(config: Mapping[str, Any]) -> str:
    method: Any = config.get("quant_method")
    if method is None and "quant_algo" in config:
        return _algorithm(config.get("quant_algo"))
    if method is None and "group_size" in config:
        return _affine(config)
    if method is None and (config.get("load_in_4bit") or config.get("load_in_8bit")):
        method = "bitsandbytes"
    if isinstance(method, str) and SAME.get(method, method) in METHODS:
        return METHODS[SAME.get(method, method)](config)
    raise InvalidSpec(f"quant_method in quantization_config is {show(method)}; known: {', '.join(METHODS)}.")
