"""Facts of microarchitectures, read from catalog/architectures.toml: by generation and by compute capability.

>>> capability("10.3").exp_per_sm_cycle, generation("Ampere").host_share
(32.0, 1.8)
>>> capability("of a GPU of one's own") == Capability()
True
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import NamedTuple

from predictor.errors import InvalidSpec
from predictor.shipped import facts, read_catalogue


@dataclass(frozen=True, slots=True, kw_only=True)
class Capability:
    """What the SMs of one compute capability do; 0 and () where nobody checked.

    rates_16_bit: dense 16-bit FLOP per clock and SM (CU), every one that occurs.
    rates: compute dtype → dense FLOP per clock and SM, of the faster parts where two kinds differ: what the
        hardware runs and at what rate beside others. Empty: nobody checked.
    emulates: dtypes without units of their own, as a share of the fp32 rate: libraries convert and run them in fp32.
    bf16_as_fp16: tensor cores run both at one rate. link_gb_per_s, pcie_gb_per_s: most per direction.
    switch_adds: the switch of a server of these GPUs adds what they send (NVLink SHARP).
    sync_share: cycles in which GPUs joined by their own links see each other's stores, over those of one-die GPUs.
    stacked_memory: HBM; others have GDDR or share the host's memory.
    same_kernels_as: the capability whose kernels a revision runs; "" runs its own.
    fp8_head_dims: those for which TensorRT-LLM's prefill calculates in fp8; () all.
    unsplit_fp8_cycles: per element of an fp8 cache, of a thread block of TensorRT-LLM's grouped decode where it does
        not split a sequence; 0 where it does.
    native_decode: number formats of caches for which TensorRT-LLM has decode kernels written for these tensor cores.
    exp_per_sm_cycle: exponentials of the special-function units of an SM, 16 from 5.0 to 12.0.
    picojoule_16_bit, picojoule_fp32: energy of a FLOP of the tensor and the vector units at the highest clock.
    fp32_issue: share of the vector peak that matrix products can issue; below 1 where the peak needs two at a time.
    """

    rates_16_bit: tuple[int, ...] = ()
    rates: Mapping[str, int] = field(default_factory=dict)
    emulates: Mapping[str, float] = field(default_factory=dict)
    bf16_as_fp16: bool = False
    link_gb_per_s: float = 0.0
    pcie_gb_per_s: float = 0.0
    switch_adds: bool = False
    sync_share: float = 1.0
    stacked_memory: bool = False
    same_kernels_as: str = ""
    fp8_head_dims: tuple[int, ...] = ()
    unsplit_fp8_cycles: float = 0.0
    native_decode: tuple[str, ...] = ()
    exp_per_sm_cycle: float = 16.0
    picojoule_16_bit: float = 0.0
    picojoule_fp32: float = 0.0
    fp32_issue: float = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Generation:
    """What parts of one generation share, the kernels that engines have for them included.

    host_share: host times of their servers over those beside Hopper.
    gap_s: seconds between two kernels of a stream or graph beyond those that tables of operators hold.
    card_class: the class of all its cards (see `siblings.card_class`); "" where the vendor and the segment tell.
    kernels_as: the generation for which engines.toml says what engines pick here too; "" is its own name.
    as_run_on: number format of weights → the one in which engines run it here.
    untuned_experts: FlashInfer's expert GEMMs of CUTLASS run with tiles that were never tuned for it.
    packed_scales: DeepGEMM wants block scales packed as powers of two.
    fp8_latent: latent decode calculates in fp8 where the cache is fp8.
    fp8_latent_prefill: native latent prefill calculates in fp8 where the cache is fp8.
    widens_fp8_cache: native attention kernels widen an fp8 cache and calculate in the dtype of the query.
    splits_fp8_cache: TensorRT-LLM has a decode kernel for fp8 caches that is as fast per query head as for others.
    trained_on: training steps of PyTorch that were timed there chose constants of predictor/latency/training.py.
    """

    source: str = ""
    host_share: float = 1.0
    gap_s: float = 0.0
    card_class: str = ""
    kernels_as: str = ""
    as_run_on: Mapping[str, str] = field(default_factory=dict)
    untuned_experts: bool = False
    packed_scales: bool = False
    fp8_latent: bool = False
    fp8_latent_prefill: bool = False
    widens_fp8_cache: bool = False
    splits_fp8_cache: bool = True
    trained_on: bool = False


class Architectures(NamedTuple):
    """All of the catalogue, by name."""

    generations: Mapping[str, Generation]
    capabilities: Mapping[str, Capability]


@lru_cache(maxsize=1)
def architectures() -> Architectures:
    """The generations and capabilities of the catalogue; a key that is not known raises InvalidSpec."""
    generations, capabilities = {}, {}
    for name, table in read_catalogue("architectures.toml").items():
        shared = {key: value for key, value in table.items() if key != "capabilities"}
        generations[name] = facts(Generation, shared, f'generation "{name}"')
        for capability, own in table.get("capabilities", {}).items():
            if capability in capabilities:
                raise InvalidSpec(f'capability "{capability}" stands in two generations; leave it in one.')
            capabilities[capability] = facts(Capability, own, f'capability "{capability}"')
    return Architectures(generations, capabilities)


def generation(name: str) -> Generation:
    """Facts of a generation; defaults where the catalogue has none."""
    return architectures().generations.get(name, NOTHING_SHARED)


def capability(name: str) -> Capability:
    """Facts of a compute capability; defaults where the catalogue has none."""
    return architectures().capabilities.get(name, NOTHING_KNOWN)


NOTHING_SHARED, NOTHING_KNOWN = Generation(), Capability()
