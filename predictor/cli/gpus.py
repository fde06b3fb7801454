"""predictor gpus: the catalogue, one GPU's sheet, or what is suspicious about a spec file."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from typer import Argument, Exit, Option, Typer

from predictor.cli.common.display import (
    digits,
    gigabytes,
    say,
    show,
    show_json,
    show_notes,
    show_sheet,
)
from predictor.errors import InvalidRequest

if TYPE_CHECKING:
    from predictor.hardware.gpu import Gpu
    from predictor.hardware.power import Rates


def add(app: Typer) -> None:
    """Add the command."""
    app.command()(gpus)


def gpus(
    name: Annotated[str, Argument(help="A GPU, or a .toml file with a spec; by default the whole catalogue.")] = "",
    vendor: Annotated[str, Option(help="Only GPUs of this vendor.")] = "",
    segment: Annotated[str, Option(help="Only of this segment: data-centre, workstation, consumer, laptop …")] = "",
    lint: Annotated[
        str, Option(metavar="FILE.toml", help="Say what is probably wrong in a spec; status 1 if so.")
    ] = "",
    json: Annotated[bool, Option("--json", help="Print JSON, in bytes, seconds, hertz and FLOP/s.")] = False,
) -> None:
    """List GPUs, show one, or check a spec file."""
    from predictor.hardware.gpu import catalogue, resolve_gpu
    from predictor.hardware.sheet import sheet

    if lint:
        _lint(lint)
        return
    if name:
        gpu, note = resolve_gpu(name)
        if json:
            show_json(sheet(gpu))
        else:
            _show_sheet(gpu, note)
        return
    known = list(catalogue().values())
    chosen = [gpu for gpu in known if not vendor or gpu.vendor.casefold() == vendor.casefold()]
    if not chosen:
        vendors = ", ".join(dict.fromkeys(gpu.vendor for gpu in known))
        raise InvalidRequest(f'vendor is "{vendor}"; it must be one of {vendors}.')
    chosen = [gpu for gpu in chosen if not segment or gpu.segment == segment.casefold()]
    if not chosen:
        segments = ", ".join(dict.fromkeys(gpu.segment for gpu in known if gpu.segment))
        raise InvalidRequest(f'no such GPU has segment "{segment}"; the segments are {segments}.')
    if json:
        show_json([sheet(gpu) for gpu in chosen])
    else:
        _show_catalogue(chosen)


def _lint(path: str) -> None:
    from predictor.hardware.gpu import gpu_from_toml
    from predictor.hardware.lint import lint

    findings = lint(gpu_from_toml(Path(path)))
    for finding in findings:
        print(finding)
    if findings:
        raise Exit(1)
    print(f"{path}: nothing suspicious.")


def _rates(gpu: Gpu, dtype: str) -> Rates:
    from predictor.hardware.power import rates

    return rates(gpu, dtype)


def _show_catalogue(chosen: list[Gpu]) -> None:
    show(
        ["GPU", "vendor", "generation", ">year", ">SMs", ">GB", ">GB/s", ">bf16", ">fp8", ">fp4", ">link GB/s", ">W"],
        [
            [
                gpu.name,
                gpu.vendor,
                gpu.generation,
                str(gpu.release_year),
                str(gpu.sms),
                gigabytes(gpu.mem_bytes),
                digits(gpu.mem_bytes_per_s / 1e9),
                *(_or_unknown(gpu.peak_flop_per_s.get(dtype, 0.0) / 1e12) for dtype in ("bf16", "fp8", "fp4")),
                _or_unknown(gpu.link_bytes_per_s / 1e9),
                _or_unknown(gpu.tdp_w),
            ]
            for gpu in chosen
        ],
        instead="--json",
    )
    say("bf16, fp8, fp4: dense TFLOP/s. link: between GPUs, per direction. `predictor gpus NAME` shows the source.")


def _show_sheet(gpu: Gpu, note: str) -> None:
    from predictor.hardware.siblings import card_class

    marks = dict.fromkeys(gpu.derived_dtypes, " (derived)")
    peaks = ", ".join(
        f"{dtype} {digits(rate / 1e12)}{marks.get(dtype, '')}" for dtype, rate in gpu.peak_flop_per_s.items()
    )
    clocks = [f"{gpu.clock_hz / 1e6:.0f} MHz at the peaks", f"{gpu.boost_clock_hz / 1e6:.0f} MHz boost"]
    if gpu.max_clock_hz > gpu.boost_clock_hz:
        clocks.append(f"{gpu.max_clock_hz / 1e6:.0f} MHz at most")
    emulated = ", ".join(f"{dtype} at {share:.0%} of fp32" for dtype, share in gpu.emulates.items())
    accumulate = f"{digits(gpu.fp16_accumulate_flop_per_s / 1e12)} TFLOP/s" if gpu.fp16_accumulate_flop_per_s else ""
    vectors = f"{digits(gpu.vector_flop_per_s / 1e12)} TFLOP/s in fp32" if gpu.vector_flop_per_s else ""
    shared = f", {gpu.unified_share:.0%} of what it shares with the CPU" if gpu.unified_memory else ""
    bus = f" (PCIe {gpu.pcie_generation} x{gpu.pcie_lanes})" if gpu.pcie_lanes else ""
    peers = (
        "" if not gpu.pcie_bytes_per_s else ", GPU to GPU" if gpu.peer_to_peer else ", through the host between GPUs"
    )
    limits = f", set to {gpu.power_range_w[0]:g} to {gpu.power_range_w[1]:g} W" if gpu.power_range_w else ""
    of_class = card_class(gpu)
    facts = {
        "vendor": gpu.vendor,
        "class": of_class if of_class.endswith("data-centre") or not gpu.segment else f"{of_class}, {gpu.segment}",
        "generation": f"{gpu.generation} {gpu.compute_capability}".strip(),
        "year": str(gpu.release_year),
        "SMs": str(gpu.sms),
        "clock": ", ".join(clocks),
        "dense TFLOP/s": peaks,
        "held for long": ", ".join(
            f"{dtype} {digits(rate.sustained / 1e12)}{' (power)' if rate.limited else ''}"
            for dtype, rate in ((dtype, _rates(gpu, dtype)) for dtype in gpu.peak_flop_per_s)
        ),
        **({"fp16 accumulate": accumulate} if accumulate else {}),
        **({"element-wise": vectors} if vectors else {}),
        **({"converted": f"{emulated}; no units of their own"} if emulated else {}),
        "memory": f"{gigabytes(gpu.mem_bytes)} GB at {digits(gpu.mem_bytes_per_s / 1e9)} GB/s{shared}",
        "L2": f"{_or_unknown(gpu.l2_bytes / 2**20)} MiB",
        "last cache": f"{_or_unknown(gpu.llc_bytes / 2**20)} MiB",
        "link": f"{_or_unknown(gpu.link_bytes_per_s / 1e9)} GB/s per direction",
        "PCIe": f"{_or_unknown(gpu.pcie_bytes_per_s / 1e9)} GB/s per direction{bus}{peers}",
        "TDP": f"{_or_unknown(gpu.tdp_w)} W{limits}",
        "also called": ", ".join(gpu.aliases) or "–",
        "source": gpu.source,
    }
    show_sheet(facts, gpu.name)
    if note:
        show_notes([note])


def _or_unknown(number: float) -> str:
    return digits(number) if number else "–"
