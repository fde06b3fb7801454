"""Which measured GPUs speak for another one: itself, server parts of its architecture, or its kind of memory.

Only what a GPU is (its name, architecture and memory technology) decides, never how fast it is: a GPU that gets
slower keeps its kin, so that its predictions cannot jump.
"""

from __future__ import annotations

from collections.abc import Iterable

from predictor.hardware.architectures import capability, generation
from predictor.hardware.gpu import Gpu, get_gpu

SHARED = "shared"
MOST_OTHERS = 6  # GPUs that speak for a stranger; judged, each costs a look into the reference trees


def tiers(gpu: Gpu, measured: Iterable[str]) -> tuple[tuple[str, ...], tuple[str, ...], tuple[str, ...]]:
    """Names of `measured` that are `gpu` itself, its siblings (same architecture), and the rest that speaks for it.

    The rest: at most MOST_OTHERS GPUs of the same vendor and memory technology that came out nearest in time; where
    there are none, of the same memory technology, or any.
    """
    known = sorted(set(measured))
    rest = [get_gpu(name) for name in known if name != gpu.name]
    siblings = tuple(other.name for other in rest if _are_siblings(other, gpu))
    strangers = [other for other in rest if other.name not in siblings]
    alike = [other for other in strangers if has_stacked_memory(other) == has_stacked_memory(gpu)]
    own_vendor = [other for other in alike if other.vendor == gpu.vendor]
    others = tuple(other.name for other in _of_the_time(gpu, own_vendor or alike or strangers))
    return (gpu.name,) if gpu.name in known else (), siblings, others


def outsiders(gpu: Gpu, measured: Iterable[str]) -> tuple[str, ...]:
    """Names of `measured` that `tiers` leaves out: asked where none of those knows the kernel of a call."""
    known = set(measured)
    return tuple(sorted(known.difference(*tiers(gpu, known), (gpu.name,))))


def _of_the_time(gpu: Gpu, others: list[Gpu]) -> list[Gpu]:
    nearest = sorted(others, key=lambda other: (abs(other.release_year - gpu.release_year), other.name))
    return nearest[:MOST_OTHERS]


def is_measured(gpu: Gpu, measured: Iterable[str]) -> bool:
    """Whether `gpu` is one of `measured` as the catalogue has it; with a changed spec it is only near to it."""
    return gpu.name in measured and get_gpu(gpu.name) == gpu


def _are_siblings(one: Gpu, two: Gpu) -> bool:
    """Parts with stacked memory run at their clocks. Cards with GDDR are cut to power budgets from 70 to 600 W: one
    architecture makes no siblings there (an RTX 4090 after an L40S: 20 % error in GEMM, after all others: 11 %)."""
    return has_stacked_memory(one) and architecture(one) == architecture(two)


def is_far(gpu: Gpu, measured: Iterable[str]) -> bool:
    """Whether no GPU of the class of `gpu` is among `measured`."""
    return card_class(gpu) not in {card_class(get_gpu(name)) for name in measured}


def architecture(gpu: Gpu) -> str:
    """The compute capability whose kernels a GPU runs; "" where the vendor has none."""
    return capability(gpu.compute_capability).same_kernels_as or gpu.compute_capability


def memory_kind(gpu: Gpu) -> str:
    """ "stacked" for HBM, SHARED for the host's, else "discrete"."""
    if gpu.unified_memory:
        return SHARED
    return "stacked" if has_stacked_memory(gpu) else "discrete"


def has_stacked_memory(gpu: Gpu) -> bool:
    """Whether the memory is HBM; then siblings run at their clocks, while cards with GDDR are cut to a power budget."""
    return capability(gpu.compute_capability).stacked_memory


# A class of cards is held out whole to see what predictions on cards unlike all measured ones are worth.
CARD_CLASSES = (
    *("NVIDIA data-centre", "NVIDIA consumer and workstation", "NVIDIA old"),
    *("AMD CDNA", "AMD RDNA", "Apple", "Intel"),
)


def card_class(gpu: Gpu) -> str:
    """One of CARD_CLASSES, or the vendor's name for one that makes none of them.

    Old: Maxwell to Volta, before the tensor cores that engines are written for. AMD's data-centre parts are CDNA, those
    before that name too; consumer Vega counts as RDNA.

    >>> card_class(get_gpu("T4")), card_class(get_gpu("GTX 1080 Ti")), card_class(get_gpu("MI50"))
    ('NVIDIA data-centre', 'NVIDIA old', 'AMD CDNA')
    """
    if known := generation(gpu.generation).card_class:
        return known
    served = gpu.segment == "data-centre" or (not gpu.segment and has_stacked_memory(gpu))
    if gpu.vendor == "NVIDIA":
        return "NVIDIA data-centre" if served else "NVIDIA consumer and workstation"
    if gpu.vendor == "AMD":
        return "AMD CDNA" if served else "AMD RDNA"
    return gpu.vendor
