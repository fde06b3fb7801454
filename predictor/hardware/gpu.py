"""What a GPU can do: its fields, the catalogue of GPUs, and specs of one's own.

Everything inside is SI (bytes, seconds, FLOP/s, hertz); data-sheet units exist only in `catalog/gpus.toml` and in spec
files, with the unit in the key, and are converted once, here.

>>> get_gpu("h100_sxm").name
'H100-SXM-80GB'
>>> get_gpu("H100:3g.40gb").sms
60
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

from predictor.errors import InvalidSpec, UnknownGpu, UnknownRate, UnsupportedDtype
from predictor.files import read_toml
from predictor.hardware.architectures import Capability, capability
from predictor.hardware.names import Spelt, counted, key, spelt
from predictor.hardware.spec import COMPUTE_DTYPES, VECTOR, checked
from predictor.shipped import read_catalogue
from predictor.units import GB, GIB, KIB, MHZ, MIB, TFLOP
from predictor.values import nearest_names, show

# What to compute in instead, best first, when a GPU lacks a dtype.
INSTEAD: Mapping[str, tuple[str, ...]] = {
    "fp4": ("fp8", "bf16", "fp16", "fp32"),
    "fp8": ("bf16", "fp16", "fp32"),
    "int8": ("fp8", "bf16", "fp16", "fp32"),
    "fp16": ("bf16", "fp32"),
    "bf16": ("fp16", "fp32"),
    "tf32": ("fp32", "bf16", "fp16"),
    "fp32": ("tf32", "bf16", "fp16"),
}


# From which published rate a rate that nobody publishes follows, best first: tensor units before vector units.
FOLLOWS = ("bf16", "fp16", "fp8", "fp4", "int8", "tf32", "fp32")

OWN_GPUS = "PREDICTOR_GPUS"  # spec files, separated as in PATH


@dataclass(frozen=True, slots=True)
class Gpu:
    """One device as a process sees it: half a board for MI250 and Max 1550, whose two dies are two devices.

    name: canonical, such as "H100-SXM-80GB"; a MIG slice appends ":3g.40gb".
    generation: microarchitecture group that is held out together ("Ampere", "CDNA3"). B200, B300 and the GB200, GB300
        and RTX Blackwell parts are all "Blackwell".
    compute_capability: "9.0", "gfx942", or "" where the vendor has none.
    sms: SMs, CUs, Xe-cores, TPCs or GPU cores.
    clock_hz: clock at which peak_flop_per_s holds, often below boost_clock_hz, the advertised boost: an H100-SXM states
        989 TFLOP/s for 1830 MHz and boosts to 1980.
    max_clock_hz: highest clock that the driver lets it reach, which bounds use: an RTX 3060 Ti is advertised with 1665
        MHz and runs GEMMs above that. boost_clock_hz where nobody looked.
    peak_flop_per_s: dense, by compute dtype (COMPUTE_DTYPES), with fp32 accumulate. Absent: not supported, or unknown
        where the architecture is.
    derived_dtypes: those of peak_flop_per_s that nobody publishes for this GPU: they follow from its other rates by the
        proportions of its architecture (16-bit and fp8 of DGX-Spark).
    fp16_accumulate_flop_per_s: fp16 with fp16 accumulate, where that is faster (twice, on GeForce); 0.0 unknown or not.
    vector_flop_per_s: of norms, activations and other element-wise work in fp32 where that is not the
        fp32 of peak_flop_per_s (the TPCs of a Gaudi, beside its matrix engines); 0.0: it is.
    emulates: dtypes that have no units here and that libraries convert and run in fp32, with the share of the fp32 rate
        that they reach (bf16 on a T4; fp16 on a P40, whose fp16 units run at 1/64).
    mem_bytes: what nvidia-smi or torch reports where known, otherwise the capacity; of unified memory what the GPU may
        use by default.
    unified_memory, unified_share: memory shared with the CPU, and how much of mem_gib the system lends the GPU by
        default: 2/3 of Apple's up to 36 GB and 3/4 above (recommendedMaxWorkingSetSize), half on Strix Halo (GTT of
        amdgpu). To lend more (iogpu.wired_limit_mb, amdgpu.gttsize) change it: "Apple-M4-Max, unified_share=0.9".
    host_share: host times of its servers over those of others of its generation.
    l2_bytes, llc_bytes: L2 and the last cache on chip, which is L2 unless there is another (256 MiB on an MI300X).
    link_bytes_per_s: between GPUs of one node, per direction, all links together; the PCIe rate where there is no link.
    pcie_bytes_per_s: per direction. pcie_generation, pcie_lanes: 0 unknown or none.
    peer_to_peer: GPUs of one host copy to each other over PCIe with the stock driver, not through host memory.
    tdp_w: board or module limit as shipped. power_range_w: least and most that the driver (`nvidia-smi -pl`), or of a
        laptop part the maker, may set; () unknown.
    segment: one of SEGMENTS; "" where a spec of one's own does not say.

    0.0 means unknown or none, in l2_bytes, llc_bytes, smem_bytes_per_sm, link_bytes_per_s, pcie_bytes_per_s, tdp_w,
    vector_flop_per_s and fp16_accumulate_flop_per_s only: Apple publishes no TDP, an integrated GPU has no PCIe, a
    Gaudi no shared memory.
    """

    name: str
    vendor: str
    generation: str
    compute_capability: str
    release_year: int
    sms: int
    clock_hz: float
    boost_clock_hz: float
    max_clock_hz: float
    peak_flop_per_s: Mapping[str, float] = field(hash=False)
    mem_bytes: float
    mem_bytes_per_s: float
    l2_bytes: float
    llc_bytes: float
    smem_bytes_per_sm: float
    link_bytes_per_s: float
    pcie_bytes_per_s: float
    tdp_w: float
    source: str
    aliases: tuple[str, ...] = ()
    partition: str = ""
    segment: str = ""
    derived_dtypes: frozenset[str] = frozenset()
    emulates: Mapping[str, float] = field(default_factory=dict, hash=False)
    fp16_accumulate_flop_per_s: float = 0.0
    vector_flop_per_s: float = 0.0
    unified_memory: bool = False
    unified_share: float = 1.0
    host_share: float = 1.0
    pcie_generation: int = 0
    pcie_lanes: int = 0
    peer_to_peer: bool = False
    power_range_w: tuple[float, ...] = ()

    def peak(self, dtype: str) -> float:
        """Dense FLOP/s in a compute dtype; raises UnsupportedDtype, naming the nearest dtype that the GPU has.

        UnknownRate, a kind of it, where nobody described the architecture and the spec has no such rate.

        >>> get_gpu("V100").peak("bf16")
        Traceback (most recent call last):
        predictor.errors.UnsupportedDtype: no bf16 peak for V100-SXM2-32GB (compute capability 7.0); use dtype="fp16".
        """
        if dtype in self.peak_flop_per_s:
            return self.peak_flop_per_s[dtype]
        if dtype == VECTOR:
            return self.vector_flop_per_s or self.peak("fp32")
        if dtype not in INSTEAD:
            raise UnsupportedDtype(f'"{dtype}" is no compute dtype; use one of {", ".join(COMPUTE_DTYPES)}.')
        able = {*self.peak_flop_per_s, *(self.emulated_dtypes & {"fp16"})}  # engines take converted fp16 but no bf16
        nearest = next(d for d in (*INSTEAD[dtype], *self.peak_flop_per_s) if d in able)
        known = f" (compute capability {self.compute_capability})" if self.compute_capability else ""
        lacks = UnsupportedDtype if capability(self.compute_capability).rates else UnknownRate
        raise lacks(f'no {dtype} peak for {self.name}{known}; use dtype="{nearest}".')

    def peak_at_max_clock(self, dtype: str) -> float:
        """Dense FLOP/s that no call can exceed, at the highest clock; what is emulated runs at most as fast as fp32.

        >>> round(get_gpu("RTX 4090").peak_at_max_clock("bf16") / get_gpu("RTX 4090").peak("bf16"), 2)
        1.23
        """
        own = "fp32" if dtype in self.emulated_dtypes else dtype
        peak = self.peak(own)
        if own == "fp16" and peak == self.peak_flop_per_s.get("fp32"):
            peak = max(peak, self.fp16_accumulate_flop_per_s)  # no matrix units: kernels may add in pairs of fp16
        return peak * self.max_clock_hz / self.clock_hz

    @property
    def emulated_dtypes(self) -> frozenset[str]:
        """Dtypes that run here without units of their own; `peak` has none for them.

        >>> sorted(get_gpu("P40").emulated_dtypes)
        ['bf16', 'fp16']
        """
        return frozenset(self.emulates)

    def runs(self, dtype: str) -> bool:
        """Whether it multiplies in a compute dtype, by units of its own or by converting."""
        return dtype in self.peak_flop_per_s or dtype in self.emulates


class Slice(NamedTuple):
    """A MIG profile: SMs, eighths of memory, bandwidth and L2, and bytes where the driver's listing is known."""

    sms: int
    eighths: int
    mem_bytes: float | None


class _Catalogue(NamedTuple):
    specs: Mapping[str, Mapping[str, Any]]
    gpus: Mapping[str, Gpu]
    names: Mapping[str, str]  # normalised name or alias -> canonical name
    shared: Mapping[str, tuple[str, ...]]  # normalised short name -> the GPUs it does not take
    slices: Mapping[str, Mapping[str, Slice]]
    files: Mapping[str, Path]  # of GPUs that a user added


def normalise(name: str) -> str:
    """A name without case, blanks, dashes and underscores: "Tesla_T4" and "tesla t4" are one."""
    return key(name)


def add_gpus(*files: str | Path) -> None:
    """Add GPUs of one's own to the catalogue, a spec file each, for this process and those that it starts.

    The environment variable PREDICTOR_GPUS lists the files; a wrong file raises InvalidSpec and adds nothing.
    """
    paths = [str(Path(file).absolute()) for file in files]
    known = [path for path in os.environ.get(OWN_GPUS, "").split(os.pathsep) if path]
    listed = os.pathsep.join(dict.fromkeys([*known, *paths]))
    _catalogue_with(listed)
    os.environ[OWN_GPUS] = listed


def own_spec(name: str) -> Path | None:
    """The file that describes a GPU which a user added; None where the catalogue has it."""
    return _catalogue().files.get(name)


def catalogue() -> Mapping[str, Gpu]:
    """Every GPU of the catalogue by canonical name, in file order."""
    return _catalogue().gpus


def get_gpu(name: str) -> Gpu:
    """The GPU of that name, alias, MIG slice ("H100:3g.40gb"), spec file ("mine.toml") or change of a catalogue GPU
    ("H100, mem_gib=96, peak_tflops.bf16=1200"); raises UnknownGpu.
    """
    exact = _catalogue().gpus.get(name) if isinstance(name, str) else None  # as code asks, over and over
    return exact or resolve_gpu(name)[0]


def resolve_gpu(name: str) -> tuple[Gpu, str]:
    """The GPU, and a note where a name that several GPUs share took its documented default.

    >>> resolve_gpu("H100")[1]
    '"H100" taken as H100-SXM-80GB; others: H100-PCIe-80GB, H100-NVL-94GB'
    >>> resolve_gpu("H100-PCIe-80GB")[1]
    ''
    """
    if not isinstance(name, str):
        raise UnknownGpu(f'gpu is {show(name)}; it must be a name, written as text such as "RTX-4090".')
    if name.strip().endswith(".toml"):
        return gpu_from_toml(name.strip()), ""
    if "=" in name and spelt(name) is None:
        return _changed(name), ""
    known = _catalogue()
    if exact := known.gpus.get(name):
        return exact, ""
    whole, profile = name, ""
    if meant := spelling(name):
        gpu, note = resolve_gpu(meant.gpu)
        return gpu, " ".join(text for text in (meant.note, note) if text)
    if normalise(name) not in known.names and (sliced := re.fullmatch(r"(.*?)(?:\s+MIG\s+|:)\s*(.*?)\s*", name)):
        whole, profile = sliced.groups()
    canonical = known.names.get(normalise(whole))
    if canonical is None:
        raise UnknownGpu(_did_you_mean(whole))
    note = ""
    if normalise(whole) in known.shared:
        others = ", ".join(known.shared[normalise(whole)])
        note = f'"{whole}" taken as {canonical}' + (f"; others: {others}" if others else ", one device of a dual board")
    gpu = known.gpus[canonical]
    return (_slice(gpu, profile) if whole is not name else gpu), note


def spelling(name: str) -> Spelt | None:
    """What a name that is not the catalogue's own means, with the count that it says; None of all others.

    >>> spelling("2xL4").n_gpus, spelling("RX 5500 XT")
    (2, None)
    """
    return None if normalise(name) in _catalogue().names else spelt(name) or counted(name)


def _changed(text: str) -> Gpu:
    """A catalogue GPU with some data-sheet values replaced: "H100, mem_gib=96, peak_tflops.bf16=1200"."""
    base, *changes = (part.strip() for part in text.split(","))
    if "=" in base:
        raise UnknownGpu(_did_you_mean(base))
    spec: dict[str, Any] = {"name": text}
    for change in changes:
        key, _, value = (part.strip() for part in change.partition("="))
        try:
            number = float(value)
        except ValueError:
            raise InvalidSpec(f'"{change}" in "{text}" is no key=number; give for example mem_gib=96.') from None
        table, _, dtype = key.partition(".")
        if dtype:
            spec.setdefault(table, {})[dtype] = number
        else:
            spec[key] = int(number) if number.is_integer() else number
    return gpu_from_spec(spec, base=resolve_gpu(base)[0].name)


def mig_profiles(gpu: Gpu) -> Mapping[str, Slice]:
    """MIG profiles of a catalogue GPU by name ("3g.40gb"); empty where it cannot be sliced."""
    return _catalogue().slices.get(gpu.name, {})


def gpu_from_toml(path: str | Path) -> Gpu:
    """A GPU from a user's spec file: the keys of one catalogue table, plus `name`, or `base` and what differs."""
    spec = read_toml(path, "give an existing .toml file", InvalidSpec, absent=UnknownGpu)
    return gpu_from_spec({"name": Path(path).stem, **spec})


def gpu_from_spec(spec: Mapping[str, Any], base: str | None = None) -> Gpu:
    """A GPU from data-sheet values under the catalogue's keys, each checked; raises InvalidSpec.

    base: a catalogue GPU that supplies every key the spec leaves out (also allowed as a key of the spec); dtypes in
    `peak_tflops` are replaced one by one.

    >>> gpu_from_spec({"name": "H100-LC", "mem_gib": 96}, base="H100-SXM-80GB").mem_bytes / GIB
    96.0
    """
    known = _shipped()
    base = spec.get("base", base)
    if base is None:
        return _gpu(checked(spec, {}))
    if not isinstance(base, str):
        raise InvalidSpec(f"base is {base!r}; it must be the name of a catalogue GPU. Quote it.")
    parent = known.gpus.get(known.names.get(normalise(base), ""))
    if parent is None:
        raise UnknownGpu(_did_you_mean(base))
    return _gpu(checked(spec, {**known.specs[parent.name], "name": parent.name}))


def _catalogue() -> _Catalogue:
    return _catalogue_with(os.environ.get(OWN_GPUS, ""))


@lru_cache(maxsize=4)
def _catalogue_with(listed: str) -> _Catalogue:
    """The shipped catalogue and the GPUs of the listed spec files."""
    shipped = _shipped()
    gpus, names, files = dict(shipped.gpus), dict(shipped.names), {}
    for file in (Path(path) for path in listed.split(os.pathsep) if path):
        gpu = gpu_from_toml(file)
        for name in (gpu.name, *gpu.aliases):
            if gpus.get(names.setdefault(normalise(name), gpu.name), gpu) != gpu:
                raise InvalidSpec(f'"{file}" describes another {name} than the catalogue; give it another name.')
        gpus[gpu.name] = gpu
        files[gpu.name] = file
    return shipped._replace(gpus=gpus, names=names, files=files) if files else shipped


@lru_cache(maxsize=1)
def _shipped() -> _Catalogue:
    specs = read_catalogue("gpus.toml")
    gpus = {name: _gpu({"name": name, **spec}) for name, spec in specs.items()}
    names: dict[str, str] = {}
    shared: dict[str, tuple[str, ...]] = {}
    for name, spec in specs.items():
        names |= {normalise(alias): name for alias in (name, *gpus[name].aliases)}
        for short in spec.get("default_for", ()):
            others = [other for other, rest in specs.items() if short in rest.get("also_called", ())]
            shared[normalise(short)] = tuple(others)
    slices = {
        name: {
            profile: Slice(sms, eighths, gib[0] * GIB if gib else None) for profile, (sms, eighths, *gib) in m.items()
        }
        for name, spec in specs.items()
        if (m := spec.get("mig"))
    }
    return _Catalogue(specs, gpus, names, shared, slices, {})


def _gpu(spec: Mapping[str, Any]) -> Gpu:
    boost_mhz = spec.get("boost_clock_mhz", spec.get("tensor_clock_mhz"))
    pcie_gb_per_s = spec["pcie_gb_per_s"]
    known = capability(spec.get("compute_capability", ""))
    stated = {dtype: float(tflops * TFLOP) for dtype, tflops in spec["peak_tflops"].items()}
    derived = _derived(stated, known)
    peaks = stated | derived
    return Gpu(
        name=spec["name"],
        vendor=spec["vendor"],
        generation=spec["generation"],
        compute_capability=spec.get("compute_capability", ""),
        release_year=spec["release_year"],
        sms=spec["sms"],
        clock_hz=float(spec.get("tensor_clock_mhz", boost_mhz) * MHZ),
        boost_clock_hz=float(boost_mhz * MHZ),
        max_clock_hz=float(max(spec.get("max_clock_mhz", boost_mhz), boost_mhz) * MHZ),
        peak_flop_per_s={dtype: peaks[dtype] for dtype in COMPUTE_DTYPES if dtype in peaks},
        mem_bytes=_mem_bytes(spec),
        mem_bytes_per_s=float(spec["mem_bandwidth_gb_per_s"] * GB),
        l2_bytes=float(spec["l2_mib"] * MIB),
        llc_bytes=float(spec.get("llc_mib", spec["l2_mib"]) * MIB),
        smem_bytes_per_sm=float(spec["smem_kib_per_sm"] * KIB),
        link_bytes_per_s=float(spec.get("link_gb_per_s", pcie_gb_per_s) * GB),
        pcie_bytes_per_s=float(pcie_gb_per_s * GB),
        tdp_w=float(spec["tdp_w"]),
        source=spec["source"],
        aliases=(*spec.get("default_for", ()), *spec.get("aliases", ())),
        segment=spec.get("segment", ""),
        derived_dtypes=frozenset(derived),
        emulates={dtype: share for dtype, share in known.emulates.items() if dtype not in peaks and "fp32" in peaks},
        fp16_accumulate_flop_per_s=float(spec.get("fp16_accumulate_tflops", 0) * TFLOP),
        vector_flop_per_s=float(spec.get("vector_tflops", 0) * TFLOP),
        unified_memory=spec.get("unified_memory", False),
        unified_share=float(spec.get("unified_share", 1.0)),
        host_share=float(spec.get("host_share", 1.0)),
        pcie_generation=spec.get("pcie_generation", 0),
        pcie_lanes=spec.get("pcie_lanes", 0),
        peer_to_peer=spec.get("peer_to_peer", False),
        power_range_w=tuple(map(float, spec.get("power_range_w", ()))),
    )


def _derived(stated: Mapping[str, float], known: Capability) -> dict[str, float]:
    """Rates that the hardware has and nobody states, in proportion to the first of FOLLOWS that is stated."""
    base = next((dtype for dtype in FOLLOWS if dtype in stated and dtype in known.rates), "")
    if not base:
        return {}
    return {
        dtype: stated[base] * rate / known.rates[base] for dtype, rate in known.rates.items() if dtype not in stated
    }


def _mem_bytes(spec: Mapping[str, Any]) -> float:
    if "mem_usable_mib" in spec:
        return float(spec["mem_usable_mib"] * MIB)
    capacity = float(spec["mem_gib"] * GIB) if "mem_gib" in spec else float(spec["mem_gb"] * GB)
    return capacity * float(spec.get("unified_share", 1.0))


def _slice(gpu: Gpu, profile: str) -> Gpu:
    """One MIG instance of a whole GPU: its own SMs, share of memory, bandwidth and L2, and no NVLink.

    Bandwidth and L2 follow the memory slices, peak and TDP the SMs. NVIDIA MIG user guide, "Supported MIG Profiles".
    """
    profiles = mig_profiles(gpu)
    if not profiles:
        able = ", ".join(name for name, slices in _catalogue().slices.items() if slices)
        raise UnknownGpu(f"{gpu.name} has no MIG profiles here; drop the part after the name or use one of {able}.")
    if profile.casefold() not in profiles:
        raise UnknownGpu(f'{gpu.name} has no MIG profile "{profile}"; use one of {", ".join(profiles)}.')
    sms, eighths, mem_bytes = profiles[profile.casefold()]
    compute, memory = sms / gpu.sms, eighths / 8
    return replace(
        gpu,
        name=f"{gpu.name}:{profile.casefold()}",
        sms=sms,
        peak_flop_per_s={dtype: peak * compute for dtype, peak in gpu.peak_flop_per_s.items()},
        mem_bytes=gpu.mem_bytes * memory if mem_bytes is None else mem_bytes,
        mem_bytes_per_s=gpu.mem_bytes_per_s * memory,
        l2_bytes=gpu.l2_bytes * memory,
        llc_bytes=gpu.llc_bytes * memory,
        fp16_accumulate_flop_per_s=gpu.fp16_accumulate_flop_per_s * compute,
        vector_flop_per_s=gpu.vector_flop_per_s * compute,
        link_bytes_per_s=gpu.pcie_bytes_per_s,
        peer_to_peer=False,
        tdp_w=gpu.tdp_w * compute,
        power_range_w=(),
        source=f"{gpu.source}; MIG {profile.casefold()} of the NVIDIA MIG user guide",
        aliases=(),
        partition=profile.casefold(),
    )


def names_like(name: str) -> list[str]:
    """The nearest names of the catalogue, at most three.

    >>> names_like("4090")[0]
    'RTX-4090'
    """
    names = _catalogue().names
    close = nearest_names(normalise(name), names, most=8)
    return list(dict.fromkeys(names[near] for near in close))[:3]


def _did_you_mean(name: str) -> str:
    close = names_like(name)
    guess = f"did you mean {' or '.join(close)}? Or describe" if close else "`predictor gpus` lists all; describe"
    return f"no GPU called {show(name)}; {guess} your own in a .toml file."
