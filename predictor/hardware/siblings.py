"""Which measured GPUs speak for another one: itself, server parts of its architecture, or its kind of memory.

Only what a GPU is (its name, architecture and memory technology) decides, never how fast it is: a GPU that gets
slower keeps its kin, so that its predictions cannot jump.
"""

from __future__ import annotations

from collections.abc import Iterable

from predictor.hardware.architectures import capability
from predictor.hardware.gpu import Gpu, get_gpu


def tiers(gpu: Gpu, measured: Iterable[str]) -> tuple[tuple[str, ...], tuple[str, ...], tuple[str, ...]]:
    """Names of `measured` that are `gpu` itself, its siblings (same architecture), and the rest that speaks for it.

    The rest: GPUs of the same memory technology, or all where there are none.
    """
    known = sorted(set(measured))
    rest = [get_gpu(name) for name in known if name != gpu.name]
    siblings = tuple(other.name for other in rest if _are_siblings(other, gpu))
    alike = [other for other in rest if has_stacked_memory(other) == has_stacked_memory(gpu)]
    others = tuple(other.name for other in alike or rest if other.name not in siblings)
    return (gpu.name,) if gpu.name in known else (), siblings, others


def is_measured(gpu: Gpu, measured: Iterable[str]) -> bool:
    """Whether `gpu` is one of `measured` as the catalogue has it; with a changed spec it is only near to it."""
    return gpu.name in measured and get_gpu(gpu.name) == gpu


def _are_siblings(one: Gpu, two: Gpu) -> bool:
    """Parts with stacked memory run at their clocks. Cards with GDDR are cut to power budgets from 70 to 600 W: one
    architecture makes no siblings there (an RTX 4090 after an L40S: 20 % error in GEMM, after all others: 11 %)."""
    return has_stacked_memory(one) and architecture(one) == architecture(two)


def architecture(gpu: Gpu) -> str:
    """The compute capability whose kernels a GPU runs; "" where the vendor has none."""
    return capability(gpu.compute_capability).same_kernels_as or gpu.compute_capability


def has_stacked_memory(gpu: Gpu) -> bool:
    """Whether the memory is HBM; then siblings run at their clocks, while cards with GDDR are cut to a power budget."""
    return capability(gpu.compute_capability).stacked_memory
