"""The keys of a GPU spec, as data sheets state them, and what each must be."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from predictor.errors import InvalidSpec
from predictor.values import did_you_mean

COMPUTE_DTYPES = ("fp32", "tf32", "fp16", "bf16", "fp8", "int8", "fp4")
VECTOR = "vector"  # no dtype: the units of element-wise work, where their rate is not the fp32 peak

TEXTS = ("name", "vendor", "generation", "compute_capability", "source")
COUNTS = ("release_year", "sms")
# 0: unknown or none
COUNTS_OR_ZERO = ("pcie_generation", "pcie_lanes")
POSITIVE = (
    *("tensor_clock_mhz", "boost_clock_mhz", "max_clock_mhz", "mem_gib", "mem_gb", "mem_usable_mib"),
    *("mem_bandwidth_gb_per_s", "unified_share", "host_share"),
)
OR_ZERO = (
    *("l2_mib", "llc_mib", "smem_kib_per_sm", "link_gb_per_s", "pcie_gb_per_s", "tdp_w", "fp16_accumulate_tflops"),
    "vector_tflops",
    *COUNTS_OR_ZERO,
)
CLAIMS = ("unified_memory", "peer_to_peer")
SEGMENTS = ("data-centre", "workstation", "consumer", "laptop", "embedded", "integrated")
OPTIONAL = {
    *("compute_capability", "llc_mib", "link_gb_per_s", "max_clock_mhz", "unified_share", "host_share"),
    *("fp16_accumulate_tflops", "vector_tflops"),
    *COUNTS_OR_ZERO,
}
# One key of each group is required; a spec that gives one hides those of its base.
CLOCKS = ("tensor_clock_mhz", "boost_clock_mhz")
MEMORIES = ("mem_usable_mib", "mem_gib", "mem_gb")
SPEC_KEYS = (
    *(*TEXTS, "segment", *COUNTS, *POSITIVE, *OR_ZERO, *CLAIMS),
    *("power_range_w", "peak_tflops", "aliases", "base"),
)


def checked(spec: Mapping[str, Any], base: Mapping[str, Any]) -> dict[str, Any]:
    """spec over base with every key checked; what is wrong raises InvalidSpec."""
    where = f'GPU spec "{spec.get("name", "without a name")}"'
    for key in spec:
        if key not in SPEC_KEYS:
            cure = did_you_mean(key, SPEC_KEYS, f"the keys are {', '.join(SPEC_KEYS)}.", quote='"')
            raise InvalidSpec(f'unknown key "{key}" in {where}; {cure}')
    hidden = {*MEMORIES} if any(key in spec for key in MEMORIES) else set()
    hidden |= {"max_clock_mhz"} if any(key in spec for key in CLOCKS) else set()
    hidden |= {"power_range_w"} if "tdp_w" in spec else set()
    merged = {key: base[key] for key in SPEC_KEYS if key in base and key not in hidden | {"aliases"}} | dict(spec)
    if "source" not in spec and base:
        merged["source"] = f"user spec based on {base['name']}"
    merged.pop("base", None)
    for group in (MEMORIES, CLOCKS, *((key,) for key in (*TEXTS, *COUNTS, *POSITIVE, *OR_ZERO, "peak_tflops"))):
        needed = group[0] not in OPTIONAL and (len(group) > 1 or group[0] not in (*MEMORIES, *CLOCKS))
        if needed and not any(key in merged for key in group):
            zero = ", 0 where unknown" if group[0] in OR_ZERO else ""
            lacks = " or ".join(group)
            raise InvalidSpec(
                f'{where} lacks {lacks}; add it{zero}, or give base = "H100-SXM-80GB" for what is left out.'
            )
    for key in TEXTS:
        if not isinstance(merged.get(key, ""), str) or (merged.get(key) == "" and key not in OPTIONAL):
            raise InvalidSpec(f"{key} is {merged[key]!r} in {where}; it must be text. Quote it.")
    for key in (*COUNTS, *POSITIVE, *OR_ZERO):
        if key in merged:
            _check_number(key, merged[key], where)
    _check_board(merged, where)
    peaks = spec.get("peak_tflops", merged["peak_tflops"])
    if not isinstance(peaks, Mapping) or not peaks:
        raise InvalidSpec(
            f"peak_tflops is {peaks!r} in {where}; it must be a table such as {{ fp32 = 60, bf16 = 989 }}."
        )
    for dtype, tflops in peaks.items():
        if dtype not in COMPUTE_DTYPES:
            raise InvalidSpec(f'unknown dtype "{dtype}" in {where}; peak_tflops takes {", ".join(COMPUTE_DTYPES)}.')
        _check_number(f"peak_tflops.{dtype}", tflops, where)
    merged["peak_tflops"] = {**base.get("peak_tflops", {}), **peaks}
    aliases = merged.get("aliases", ())
    if not isinstance(aliases, list | tuple) or not all(isinstance(alias, str) for alias in aliases):
        raise InvalidSpec(f"aliases is {aliases!r} in {where}; it must be a list of texts. Put them in brackets.")
    return merged


def _check_board(merged: Mapping[str, Any], where: str) -> None:
    """What is neither a text nor a number."""
    for key in CLAIMS:
        if not isinstance(merged.get(key, False), bool):
            raise InvalidSpec(f"{key} is {merged[key]!r} in {where}; it must be true or false.")
    if (segment := merged.get("segment", "")) not in ("", *SEGMENTS):
        raise InvalidSpec(f"segment is {segment!r} in {where}; it must be one of {', '.join(SEGMENTS)}.")
    if (share := merged.get("unified_share", 1.0)) > 1:
        raise InvalidSpec(f"unified_share is {share!r} in {where}; it must be at most 1, all of the memory.")
    limits = merged.get("power_range_w", ())
    numbers = isinstance(limits, list | tuple) and all(type(watts) in (int, float) for watts in limits)
    if not numbers or (limits and not (len(limits) == 2 and 0 < limits[0] <= limits[1] < 1e12)):
        raise InvalidSpec(f"power_range_w is {limits!r} in {where}; it must be [least, most] in watts.")


def _check_number(key: str, value: object, where: str) -> None:
    number = isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < 1e12  # no NaN passes
    if not number or (value == 0 and key not in OR_ZERO):
        rule = "zero (unknown) or a positive number" if key in OR_ZERO else "a positive number"
        raise InvalidSpec(f"{key} is {value!r} in {where}; it must be {rule} below 1e12. Take it from the data sheet.")
    if key in (*COUNTS, *COUNTS_OR_ZERO) and not isinstance(value, int):
        raise InvalidSpec(f"{key} is {value!r} in {where}; it must be a whole number. Drop the fraction.")
