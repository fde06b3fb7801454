"""What catalog/engines.toml says of engines: their names, and the kernels that they run.

How they schedule is in predictor.workloads.engines; this is light, since the command line lists names.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cache, lru_cache
from typing import TYPE_CHECKING, Any

from predictor.errors import InvalidSpec
from predictor.shipped import facts, read_catalogue

if TYPE_CHECKING:
    from predictor.hardware.gpu import Gpu

# What runs a request that names no engine; LOCAL where the GPU is Apple's or the weights are a GGUF.
SERVES, TRAINS, LOCAL = "vllm", "torch", "llama.cpp"
COLLECTIVES = "nccl"  # the library whose tables show what engines call that have no all-reduce of their own
OTHERS = "others"
ABOUT = {"source", "operators"}  # keys of a library, which serves nothing


@dataclass(frozen=True, slots=True, kw_only=True)
class Operators:
    """What the kernels of an engine are, as far as its estimators must know.

    measured: families that have tables of the engine, whose estimators tell it apart: a change asks for new bundles.
    kernels: estimator or family → generation or compute capability, which goes before it → kernel that the engine
        picks by itself; `others` for all others. A family that is not there takes the kernels of SERVES.
    fuses_quantising: number formats whose inputs the kernels before a product write already quantised, while the tables
        show a kernel of its own.
    graph_share: of the bound that a whole graph of fused kernels reaches, whose elementwise operators are no kernels
        of their own; 0: operators run one by one, as the estimators have them.
    latent_fp8: compute capabilities on which it has a kernel of latent decode for an fp8 cache and 128 heads only.
    stood_in: family → number formats for which the tables of SERVES show better what it runs; () all.
    library: family → vendors on whose GPUs it calls the library's kernels (NCCL, RCCL) and has none of its own.
    stood_in_on: generation or compute capability → family → number format → engine whose tables show better what it
        runs there.
    bytes_per_sm_cycle: kind of a pointwise op → what its kernel takes where memory is no limit.
    widens_latent: generations on which every decode step widens a whole fp8 latent cache.
    packs_scales: packs the scales of fp8_block in every call, where a generation wants that.
    packs_heads: its FA2 prefill puts the queries of all heads of a KV head into one thread block.
    walks_windows: its Triton prefill masks a sliding window, but walks over every key.
    widens_mxfp4: its Triton experts in MXFP4 are widened to 16 bits when a model is loaded.
    fused_experts: compute capabilities on which its native experts are one kernel after the routing.
    casts_queries: a kernel of its own casts the queries of decode where the cache is fp8.
    sixteen_splits: its Triton decode shares a sequence among 16 thread blocks, others among 8.
    flashinfer_passes_on: compute capabilities on which its FlashInfer backend runs the kernels of TensorRT-LLM.
    groups_decode: native decode with a thread block per KV head, or per query head where no grouped kernel fits.
    headwise_elements: elements of keys and values that an SM takes per cycle in decode, where each query head reads the
        cache by itself; 0: it has no such kernel. grouped_decode: query heads to a KV head for which it has another.
    whole_experts: generation → number formats of experts that a step reads whole, whichever its tokens visit.
    ogs_experts: generations on which OpenAI's Triton kernels multiply its experts in MXFP4.
    rotates: its attention turns queries and keys, and its tables of attention hold that.
    routes: its experts are picked in the call that its tables of experts hold.
    normed_sums: models of which the kernel of an all-reduce also adds the residual and normalises: with "experts", and
        "plain" ones, which are dense and have no biases or norms of queries and keys (Llama).
    shared_beside: captured steps run shared experts beside the routed ones, on a stream of their own.
    norms_beside: captured steps normalise the latent beside the queries.
    backends: vendor of the GPU → one of `rates`, `others` for all others. rates: backend → Rates, of an engine whose
        kernels nobody timed one by one.
    """

    measured: tuple[str, ...] = ()
    kernels: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    stood_in: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    library: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    stood_in_on: Mapping[str, Mapping[str, Mapping[str, str]]] = field(default_factory=dict)
    bytes_per_sm_cycle: Mapping[str, float] = field(default_factory=dict)
    fuses_quantising: tuple[str, ...] = ()
    graph_share: float = 0.0
    latent_fp8: tuple[str, ...] = ()
    widens_latent: tuple[str, ...] = ()
    packs_scales: bool = False
    packs_heads: bool = False
    walks_windows: bool = False
    widens_mxfp4: bool = False
    fused_experts: tuple[str, ...] = ()
    casts_queries: bool = False
    sixteen_splits: bool = False
    flashinfer_passes_on: tuple[str, ...] = ()
    groups_decode: bool = False
    headwise_elements: float = 0.0
    whole_experts: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    grouped_decode: tuple[int, ...] = ()
    ogs_experts: tuple[str, ...] = ()
    rotates: bool = False
    routes: bool = False
    normed_sums: tuple[str, ...] = ()
    shared_beside: bool = False
    norms_beside: bool = False
    backends: Mapping[str, str] = field(default_factory=dict)
    rates: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Rates:
    """What the kernels of an engine reach with one backend, where whole runs were timed and no kernels alone.

    call_s: seconds of each operator beside its work: launches, and what runs between them. hop_s: of handing a batch to
        the next GPU.
    bandwidth: share of the memory bandwidth that streams reach. bytes_per_sm_cycle: number format → weights that an SM
        takes in a product of few tokens, `others` for all others. cache_bytes_per_sm_cycle: of the KV cache.
    product, quantised_product: share of the fp16 rate, accumulated in fp16, that products of many tokens reach where
        all SMs have a tile. tile: rows and columns of such a tile.
    widens: quantised weights are written in 16 bits first. score_passes: over the scores of prompts, in fp32.
    overlap: share of the prompt's passes that stages of layers run side by side.
    timed: the GPUs of those runs. engine: what ran there, "": this one. doubts: the 80 % interval on one of them, as a
        share: of products of few tokens whose weights memory limits ("streamed") or the SMs ("unpacked"), and of
        operators of many ("prompt").
        doubts_elsewhere: on another GPU.
    """

    call_s: float
    hop_s: float
    bandwidth: float
    bytes_per_sm_cycle: Mapping[str, float]
    cache_bytes_per_sm_cycle: float
    product: float
    quantised_product: float
    tile: float
    widens: bool
    score_passes: float
    overlap: float
    doubts: Mapping[str, float]
    doubts_elsewhere: Mapping[str, float]
    timed: tuple[str, ...] = ()
    engine: str = ""

    def doubts_on(self, gpu: str) -> Mapping[str, float]:
        """The doubts on a GPU by its name."""
        return self.doubts if gpu in self.timed else self.doubts_elsewhere


@lru_cache(maxsize=1)
def tables() -> Mapping[str, Mapping[str, Any]]:
    """The tables of all engines and libraries by name, in file order."""
    return read_catalogue("engines.toml")


@cache
def engine_names() -> tuple[str, ...]:
    """Names of the engines that serve, an older version behind its engine."""
    serving = [name for name, table in tables().items() if set(table) - ABOUT]
    return tuple(sorted(serving, key=lambda name: serving.index(tables()[name].get("tables", name))))


@cache
def measured_engines(family: str = "") -> tuple[str, ...]:
    """Engines and libraries whose tables of a family, or of any, estimators tell apart; in file order."""
    return tuple(name for name in tables() if _shows(operators_of(name), family))


def _shows(operators: Operators, family: str) -> bool:
    return family in operators.measured if family else bool(operators.measured)


@cache
def operators_of(engine: str) -> Operators:
    """What the kernels of an engine are; of one that the catalogue lacks nothing is known."""
    made = facts(Operators, tables().get(engine, {}).get("operators", {}), f"[{engine}.operators]")
    for estimator, kernels in made.kernels.items():
        if OTHERS not in kernels:
            raise InvalidSpec(f"kernels.{estimator} in [{engine}.operators] lacks {OTHERS}; add it.")
    return made


@cache
def rates_of(engine: str, vendor: str) -> Rates | None:
    """The rates of an engine on GPUs of a vendor; None of one whose kernels were timed."""
    operators = operators_of(engine)
    if not operators.rates:
        return None
    backend = operators.backends.get(vendor, operators.backends[OTHERS])
    return facts(Rates, operators.rates[backend], f"[{engine}.operators.rates.{backend}]")


def untimed_note(engine: str, gpu: Gpu) -> str:
    """What to say of an engine on a GPU on which nobody timed it; "" where somebody did, or kernels were timed."""
    rates = rates_of(engine, gpu.vendor)
    if rates is None:
        untimed = tables()[engine].get("doubt", 0.0) > 0
        return f"{engine} was timed on no GPU: intervals are wider." if untimed else ""
    if rates.engine:
        return f"{engine} was timed on no GPU; its rates are those of {rates.engine}, with wider intervals."
    if gpu.name in rates.timed:
        return ""
    others = f"as those of {', '.join(rates.timed)}" if rates.timed else "judged, as no GPU of its kind was timed"
    return f"{engine} was not timed on {gpu.name}; its rates are {others}."


@cache
def picked_kernel(estimator: str, engine: str, gpu_generation: str, capability: str = "") -> str:
    """The kernel that an engine picks by itself on GPUs of a generation and compute capability.

    >>> picked_kernel("attention", "vllm", "Hopper"), picked_kernel("attention", "vllm", "Ada")
    ('fa3', 'fa2')
    >>> [picked_kernel("mla_decode", "trtllm", "Blackwell", capability) for capability in ("10.0", "12.0")]
    ['native', 'legacy']
    """
    from predictor.hardware.architectures import generation  # lists of names need none

    kernels = operators_of(engine).kernels.get(estimator) or operators_of(SERVES).kernels[estimator]
    of_generation = kernels.get(generation(gpu_generation).kernels_as or gpu_generation, kernels[OTHERS])
    return kernels.get(capability, of_generation)


def listed_names(joining: bool = False) -> str:
    """The engines that serve, in words; of one that has a successor which versions.

    joining: only those whose requests join a running batch.

    >>> listed_names(joining=True).endswith("or llama.cpp (May 2024)")
    True
    """
    return alternatives(name for name in engine_names() if not joining or tables()[name].get("joins", True))


def alternatives(engines: Iterable[str]) -> str:
    """Engines in words, one or another.

    >>> alternatives(["sglang", "vllm-v0"])
    'sglang or vllm-v0 (before 0.8)'
    """
    *names, last = map(named, engines)
    return f"{', '.join(names)} or {last}" if names else last


def having(setting: str) -> str:
    """The engines that have a setting, in words; without those that run elsewhere under the name of another.

    >>> having("max_seq_len_to_capture")
    'vllm-v0 (before 0.8)'
    """
    elsewhere = {run for name, table in tables().items() for run in table.get("runs_on", {}).values() if run != name}
    own = [name for name in engine_names() if name not in elsewhere]
    return alternatives(name for name in own if setting in tables()[name].get("settings", ()))


def named(name: str) -> str:
    """An engine; of one that has a successor with its versions."""
    versions = tables()[name].get("versions", "")
    return f"{name} ({versions})" if versions else name
