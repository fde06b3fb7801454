"""Number formats that a published config.json says its weights are in."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from predictor.errors import InvalidSpec
from predictor.ops.dtypes import MLX
from predictor.workloads.configs.fields import Fields, show


def published_dtypes(fields: Fields, layers: int) -> tuple[str, str]:
    """(format of linear layers, format of experts) by quantization_config; "" where they are not quantised.

    Attention that the config leaves out of the quantisation keeps all linear layers but the experts unquantised.
    """
    stated = [
        where.get(name) for name in ("quantization_config", "quantization") for where in (fields.config, fields.outer)
    ]
    config = next((config for config in stated if config is not None), None)
    if config is None:
        return "", ""
    if not isinstance(config, Mapping):
        raise InvalidSpec(f"quantization_config in config.json is {show(config)}; it must be an object.")
    if str(config.get("quant_algo", "")).upper() == "MIXED_PRECISION":
        return _mixed(config)
    dtype = _dtype(config)
    if fields.config.get("expert_dtype") == "fp4":  # DeepSeek V4: FP4 in blocks of 32 with scales of powers of two
        return dtype, "mxfp4_wo"
    kept = config.get("modules_to_not_convert") or config.get("ignore") or config.get("exclude_modules") or []
    whole = [str(name) for name in kept if str(name).rstrip("*.$").endswith(("self_attn", "self_attn.o_proj"))]
    plain_attention = any("*" in name for name in whole) or len(whole) >= layers
    return ("" if plain_attention else dtype), dtype


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
    "NVFP4": "nvfp4",
    "W4A16_NVFP4": "nvfp4_wo",
    "W4A16_AWQ": "int4_wo",
    "FP8_PB_WO": "fp8_block",
    "INT8_SQ": "int8",
}


def _algorithm(value: object) -> str:
    """The format that modelopt calls so."""
    if (dtype := MODELOPT.get(str(value).upper())) is None:
        listed = ", ".join(MODELOPT)
        raise InvalidSpec(f"not yet supported: quant_algo {show(value)} in quantization_config; known: {listed}.")
    return dtype


def _dtype(config: Mapping[str, Any]) -> str:
    method = config.get("quant_method")
    if method in ("fp8", "fbgemm_fp8"):
        return "fp8_block" if config.get("weight_block_size") else "fp8"
    if method == "mxfp4":
        return "mxfp4_wo"
    if method in ("awq", "gptq", "bitsandbytes"):
        bits = config.get("bits", config.get("w_bit", 4 if config.get("load_in_4bit") else 8))
        if bits in (4, 8):
            return "int8" if method == "bitsandbytes" and bits == 8 else f"int{bits}_wo"
        raise InvalidSpec(f"bits in quantization_config is {show(bits)}; 4 and 8 are known.")
    if method is None and "group_size" in config:
        return _affine(config)
    if method == "modelopt" or (method is None and "quant_algo" in config):
        return _algorithm(config.get("quant_algo"))
    if method == "compressed-tensors":
        return _compressed(config)
    raise InvalidSpec(
        f"quant_method in quantization_config is {show(method)}; known: fp8, fbgemm_fp8, mxfp4, awq, gptq, "
        "bitsandbytes, modelopt, compressed-tensors."
    )


def _affine(config: Mapping[str, Any]) -> str:
    """MLX's, which states groups and bits and no method."""
    dtype = f"mlx_{config.get('bits')}bit"
    if config["group_size"] != 64 or config.get("mode", "affine") != "affine" or dtype not in MLX:
        raise InvalidSpec(
            f"quantization in config.json is {show(dict(config))}; of MLX, affine groups of 64 with 2 to 6 or 8 bits "
            "are known."
        )
    return dtype


def _compressed(config: Mapping[str, Any]) -> str:
    """The format of the first group of a compressed-tensors config."""
    groups = config.get("config_groups")
    group = next(iter(groups.values()), None) if isinstance(groups, Mapping) else None
    weights = group.get("weights") if isinstance(group, Mapping) else None
    if not isinstance(weights, Mapping) or not isinstance(group, Mapping):
        raise InvalidSpec("quantization_config has no config_groups with weights; copy it from the published file.")
    bits, kind, alone = weights.get("num_bits"), weights.get("type"), group.get("input_activations") is None
    dtype = {
        ("float", 8, False): "fp8_block" if weights.get("strategy") == "block" else "fp8",
        ("float", 4, False): "nvfp4",
        ("int", 8, False): "int8",
        ("int", 8, True): "int8_wo",
        ("int", 4, True): "int4_wo",
        ("float", 4, True): "nvfp4_wo" if weights.get("group_size") == 16 else "mxfp4_wo",
    }.get((str(kind), int(bits or 0), alone))
    if dtype is None:
        raise InvalidSpec(f"weights in quantization_config are {show(kind)} of {show(bits)} bits; not known.")
    return dtype
