"""Findings about a GPU spec that is well formed but probably wrong: the mistakes that GPU tables really contain.

Catalogues of other projects disagree by up to 2x because sparse rates are quoted as dense, both directions of a link as
one, GB as GiB, boards of two dies as one device. Each finding names the value, the rule and the likely cure.

>>> lint(get_gpu("H100"))
[]
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from predictor.hardware.architectures import capability
from predictor.hardware.gpu import Gpu, catalogue, get_gpu, normalise
from predictor.units import GB, GHZ, GIB, MHZ, TFLOP

NOMINAL_MEMORIES = (8, 10, 11, 12, 16, 20, 24, 32, 40, 48, 64, 80, 94, 96, 128, 141, 144, 180, 188, 192, 256, 288)
CLOCKS_GHZ = (0.3, 3.5)
RIDGE_FLOP_PER_BYTE = (12, 1000)  # catalogue: 12.8 (Radeon Pro VII) to 947 (Jetson AGX Thor)
# Names of parts with another 16-bit rate than the fastest of their capability, and that FLOP per clock and SM.
SLOWER_16_BIT = (
    (r"\bgtx[ -]?16|\bt([46]00|1000)\b", 256),  # no tensor cores
    (r"rtx[ -]?[2-5]0[5-9]0", 512),  # GeForce: half rate with fp32 accumulate
)
DTYPE_RATIOS = (("fp8", "16-bit", (2,)), ("fp4", "fp8", (2, 3, 4)), ("tf32", "16-bit", (0.5,)))


def lint(gpu: Gpu) -> list[str]:
    """Findings, each one sentence with value, rule and likely cure; empty for every GPU of the catalogue."""
    checks = (_clocks, _rates, _dtype_ratios, _memory, _bandwidth, _links, _power, _laptop, _ridge)
    return [finding for check in checks for finding in check(gpu)]


def _clocks(gpu: Gpu) -> Iterator[str]:
    low, high = CLOCKS_GHZ
    for field, hz in (("clock_hz", gpu.clock_hz), ("boost_clock_hz", gpu.boost_clock_hz)):
        if not low <= hz / GHZ <= high:
            yield f"{field} is {hz / GHZ:g} GHz; GPUs run at {low} to {high} GHz. Give the clock in MHz."
    if gpu.max_clock_hz > 2.5 * gpu.boost_clock_hz:
        yield (
            f"max_clock_hz is {gpu.max_clock_hz / MHZ:.0f} MHz, {gpu.max_clock_hz / gpu.boost_clock_hz:.2g} x the "
            "boost clock; cards of few watts reach 2.2 x. Give the highest clock of the GPU, not of its memory."
        )
    if gpu.clock_hz > gpu.boost_clock_hz * 1.001:
        yield (
            f"clock_hz is {gpu.clock_hz / MHZ:.0f} MHz, above the boost clock of {gpu.boost_clock_hz / MHZ:.0f}; "
            "peak rates hold at or below boost. Swap the two."
        )


def _rates(gpu: Gpu) -> Iterator[str]:
    """Rates against SMs x clock x FLOP per clock and SM."""
    known = capability(gpu.compute_capability)
    rates = known.rates_16_bit
    for names, rate in SLOWER_16_BIT:
        if rate in rates and re.search(names, gpu.name, re.IGNORECASE):
            rates = (rate,)
    cycles_per_s = gpu.sms * max(gpu.clock_hz, gpu.boost_clock_hz)
    for dtype in ("fp16", "bf16"):
        if rates and dtype in gpu.peak_flop_per_s:
            yield from _rate(gpu, dtype, cycles_per_s * max(rates), cycles_per_s * min(rates))
    if "fp32" in gpu.peak_flop_per_s and "fp32" in known.rates:
        fp32 = cycles_per_s * known.rates["fp32"]
        yield from _rate(gpu, "fp32", fp32, fp32)


def _rate(gpu: Gpu, dtype: str, most: float, least: float) -> Iterator[str]:
    peak = gpu.peak_flop_per_s[dtype]
    stated = f"{dtype} is {peak / TFLOP:.1f} TFLOP/s; {gpu.sms} SMs at {gpu.boost_clock_hz / MHZ:.0f} MHz"
    if 1.7 < peak / most < 2.1 and dtype != "fp32":
        yield f"{stated} reach {most / TFLOP:.1f} dense. It looks like a sparse or fp16-accumulate rate: halve it."
    elif peak > 1.08 * most:
        yield f"{stated} reach at most {most / TFLOP:.1f}. Check SM count, clock and unit."
    elif peak < 0.6 * least:
        yield f"{stated} reach {least / TFLOP:.1f}. It looks like a vector rate, or SMs of a whole board: check both."


def _dtype_ratios(gpu: Gpu) -> Iterator[str]:
    peaks = dict(gpu.peak_flop_per_s)
    if gpu.vendor not in ("NVIDIA", "AMD"):
        return  # a Gaudi runs fp8 at the bf16 rate and fp16 at a quarter of it
    fp16, bf16 = peaks.get("fp16"), peaks.get("bf16")
    if fp16 and bf16 and abs(bf16 / fp16 - 1) > 0.02 and capability(gpu.compute_capability).bf16_as_fp16:
        yield (
            f"bf16 is {bf16 / TFLOP:.1f} and fp16 {fp16 / TFLOP:.1f} TFLOP/s; tensor cores of this generation run "
            "both alike. One is a vector, sparse or fp16-accumulate rate: take the tensor rate with fp32 accumulate."
        )
    half = bf16 or fp16
    if half:
        peaks["16-bit"] = half
    for dtype, reference, allowed in DTYPE_RATIOS:
        if dtype in peaks and reference in peaks:
            ratio = peaks[dtype] / peaks[reference]
            if all(abs(ratio / usual - 1) > 0.04 for usual in allowed):
                rule = " or ".join(f"{usual:g}" for usual in allowed)
                yield (
                    f"{dtype} is {peaks[dtype] / TFLOP:.1f} TFLOP/s, {ratio:.2g} x {reference}; dense rates stand at "
                    f"{rule} x. One of the two is sparse: halve it."
                )


def _memory(gpu: Gpu) -> Iterator[str]:
    if gpu.partition:
        return
    for size in NOMINAL_MEMORIES:
        if abs(gpu.mem_bytes / (size * GB) - 1) < 5e-4:
            yield (
                f"memory is {size} GB = {size * GB / GIB:.1f} GiB; vendors write GB and mean GiB, 7.4 % more. "
                f"Use mem_gib = {size}, or mem_usable_mib from nvidia-smi."
            )
        if abs(gpu.mem_bytes / GIB / (size * GIB / GB) - 1) < 5e-4:
            yield f"memory is {gpu.mem_bytes / GIB:.1f} GiB, which is {size} GiB in GB. Use mem_gib = {size}."


def _bandwidth(gpu: Gpu) -> Iterator[str]:
    """Bytes per SM and cycle against GPUs of the same compute capability, or against all of them."""
    everyone = list(catalogue().values())
    same = [other for other in everyone if other.compute_capability == gpu.compute_capability]
    spread = [_bytes_per_cycle(other) for other in (same if len(same) > 1 and gpu.compute_capability else everyone)]
    low, high = min(spread) / 2.5, max(spread) * 2.5
    own = _bytes_per_cycle(gpu)
    if low <= own <= high:
        return
    cures = ((1 / 8, "gigabits: divide by 8"), (1000, "TB/s: times 1000"), (1e-3, "MB/s: divide by 1000"))
    cure = next((text for scale, text in cures if low <= own * scale <= high), "of another GPU: check the data sheet")
    yield (
        f"memory bandwidth is {gpu.mem_bytes_per_s / GB:g} GB/s, {own:.3g} bytes per SM and cycle; like GPUs have "
        f"{min(spread):.1f} to {max(spread):.1f}. It looks {cure}."
    )


def _bytes_per_cycle(gpu: Gpu) -> float:
    return gpu.mem_bytes_per_s / (gpu.sms * gpu.boost_clock_hz)


def _links(gpu: Gpu) -> Iterator[str]:
    known = capability(gpu.compute_capability)
    if not known.link_gb_per_s:
        return
    pcie_limit = known.pcie_gb_per_s
    pairs = (("link", gpu.link_bytes_per_s, known.link_gb_per_s), ("PCIe", gpu.pcie_bytes_per_s, pcie_limit))
    for name, bytes_per_s, limit in pairs:
        if bytes_per_s > 1.05 * max(limit, pcie_limit) * GB:
            yield (
                f"{name} is {bytes_per_s / GB:g} GB/s per direction; this generation has at most {limit:g}. "
                "It looks like both directions together: halve it."
            )


def _power(gpu: Gpu) -> Iterator[str]:
    if gpu.tdp_w and gpu.power_range_w and not gpu.power_range_w[0] <= gpu.tdp_w <= gpu.power_range_w[1]:
        least, most = gpu.power_range_w
        yield f"tdp_w is {gpu.tdp_w:g}, outside power_range_w of {least:g} to {most:g} W. One is of another board."


def _laptop(gpu: Gpu) -> Iterator[str]:
    plain = re.sub(r"[\s\-_(]*(laptop|mobile|max-?q)([\s\-_]*gpu)?\)?", "", gpu.name, flags=re.IGNORECASE)
    if gpu.partition or not _known(plain):
        return
    desktop = get_gpu(plain)
    smaller = gpu.sms < 0.95 * desktop.sms or 0 < gpu.tdp_w < 0.65 * desktop.tdp_w
    same = all(
        0.95 <= own / other <= 1.05
        for own, other in (
            (gpu.sms, desktop.sms),
            (gpu.clock_hz, desktop.clock_hz),
            (gpu.mem_bytes_per_s, desktop.mem_bytes_per_s),
        )
    )
    have = f"{gpu.name} has {gpu.sms} SMs and {gpu.tdp_w:g} W"
    if plain == gpu.name and smaller:
        yield (
            f"{have}; {desktop.name} has {desktop.sms} and {desktop.tdp_w:g}. It looks like the laptop part: say so in "
            "the name, or take the desktop figures."
        )
    if plain != gpu.name != desktop.name and not smaller and same:
        yield f"{have}, those of the desktop {desktop.name}. Laptop parts differ: take their own data sheet."


def _known(name: str) -> bool:
    return any(normalise(name) in map(normalise, (gpu.name, *gpu.aliases)) for gpu in catalogue().values())


def _ridge(gpu: Gpu) -> Iterator[str]:
    peaks = gpu.peak_flop_per_s
    peak = peaks.get("bf16") or peaks.get("fp16") or peaks.get("fp32")
    low, high = RIDGE_FLOP_PER_BYTE
    if peak and not low <= peak / gpu.mem_bytes_per_s <= high:
        yield (
            f"the ridge point is {peak / gpu.mem_bytes_per_s:.3g} FLOP per byte; known GPUs lie between {low} and "
            f"{high}. Check the units of peak_tflops and mem_bandwidth_gb_per_s."
        )
