"""Serving engines: how they schedule and what their host costs, read from catalog/engines.toml."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple

from predictor.elementwise import chosen, greater
from predictor.errors import InvalidRequest
from predictor.hardware.architectures import generation as facts_of_generation
from predictor.ops.dtypes import OWN_FORMATS
from predictor.shipped import facts
from predictor.units import GIB
from predictor.values import show
from predictor.workloads.engine_tables import ABOUT, OTHERS, having, named, tables

if TYPE_CHECKING:
    from predictor.hardware.gpu import Gpu
    from predictor.workloads.passes.calls import OpCall


class Settings(NamedTuple):
    """What a user sets of an engine, as in predictor.workloads.request.Request; 0, "" and None leave it its own."""

    engine_version: str = ""
    max_num_seqs: int = 0
    max_num_batched_tokens: int = 0
    gpu_memory_utilization: float = 0.0
    max_model_len: int = 0
    max_seq_len_to_capture: int = 0
    enforce_eager: bool | None = None
    enable_chunked_prefill: bool | None = None
    async_scheduling: bool | None = None
    offline: bool = False
    batch_wait_timeout_iters: int = 0
    api_server_count: int = 0
    tokenizer_worker_num: int = 0
    enable_two_batch_overlap: bool = False

    def stated(self) -> dict[str, Any]:
        """Those that are set, but for the version."""
        own = self._asdict().items()
        return {name: value for name, value in own if name != "engine_version" and value != getattr(UNSET, name)}


UNSET = Settings()
# Setting → field of an Engine that takes its value.
FIELDS = {
    "max_num_seqs": "max_sequences",
    "max_num_batched_tokens": "max_batched_tokens",
    "gpu_memory_utilization": "memory_share",
    "max_seq_len_to_capture": "graph_len",
    "enable_chunked_prefill": "chunked",
    "async_scheduling": "overlapped",
    "batch_wait_timeout_iters": "batch_wait_steps",
}
PROCESSES = ("api_server_count", "tokenizer_worker_num")  # settings that say how many a front end has


@dataclass(frozen=True, slots=True, kw_only=True)
class Engine:
    """How an engine schedules and what its host costs: a table of catalog/engines.toml, whose operators are apart.

    Steps. max_batched_tokens, max_sequences: of one at most. chunked: a prompt may be split over steps so that they
        fill up; else only where it is longer than a step. prefill_first: prompts interrupt decoding and run alone.
        reserved: share of a request's output that must find room in the cache before it starts. joins: requests join a
        running batch. batch_wait_steps: a step with room left postpones prompts up to so many times while others
        decode, until batch_wait_share of max_batched_tokens are asked for (batch_wait_timeout_iters of TensorRT-LLM;
        off). graphs: decode steps are one launch, a CUDA graph, of sequences up to graph_len tokens (0: of any).
        graph_prompts: steps with prompts of up to so many tokens are CUDA graphs between their calls of attention.
        eager: runs the operators of Transformers one by one, and takes prompts whole. padded: decode steps are as large
        as the next power of two, prompts as the next whole block of the cache. ubatch: most tokens of a forward pass of
        an engine on ggml or MLX, whose stages of layers (pp) one batch walks through one after another, the passes of a
        prompt side by side; 0: no such engine. beams: how it searches. "requests": its front end asks anew for each
        beam in each step; "sequences": each counts as one against max_num_seqs; "within": those of a request count as
        one.
    Host, in seconds. overlapped: prepares the next step while the GPU runs this one. step_s: of a step; ranks_s: more
        where several GPUs share the model, to which a driver sends it. sequence_s: of each sequence in a step
        (sampling, detokenisation, streaming), of which the front end takes streamed_s. launch_s: of each operator that
        is launched alone, as in steps with prompts; issued: operator family → so many launches for one of the list.
        linear_s: number format → of each linear layer beside its launch. request_s: of the front end for a request
        (HTTP, tokenisation); processes: of the front end for each engine core. batch_s: of a program's call of a whole
        batch beside its request and steps. offline: what is otherwise where no server streams tokens to clients.
        doubt: of an engine that nobody timed, what it adds to the 80 % interval of steps and host times, as a share.
    Memory. memory_share: of the GPU's memory for weights, activations and cache (share_of "all"), for weights and cache
        ("static"; 0: what follows from GPU and layout), or of what the others leave for the cache ("free").
        block_tokens: of a block of the cache, of which each sequence fills whole ones. graph_batches: batch sizes that
        it captures CUDA graphs of. start_gib: GiB that the process holds beside PyTorch's when it has started;
        ranks_gib: more where several GPUs share the model (NCCL, all-reduce buffers). sampled_bytes: of each sequence
        and entry of the vocabulary while the pass that is profiled at start samples. profiles_context: that pass has a
        whole context where it is at most so many tokens. profiles_graphs: the share of the memory holds the CUDA
        graphs, too. whole_context: it does not start where the cache cannot hold a sequence of max_model_len tokens.
        whole_blocks: GPUs that share a matrix get whole blocks of weights, those that have one scale.
    Names and versions. tables: the engine whose operator tables show what it runs, "": its own. called: names by which
        clients of benchmarks call it, without case, dashes and underscores. formats: name of the number formats that it
        alone has, beside those of 16 and 32 bits (OWN_FORMATS of predictor.ops.dtypes); "": it has all others.
        since, newest: the versions that this is of, newer ones being taken as the newest; both "": only one is known.
        versions: which ones, in words, of an engine that has a successor. until: the version from which its successor,
        the engine of the same tables, replaces it. before: version → what is otherwise in those before it. below_gib:
        GiB of a GPU's memory → what is otherwise on smaller ones. on_generation: generation → what is otherwise there.
        settings: columns of a request that it has, by whatever name of its own; lacks: those not in this version.
        runs_on: generation or vendor of a GPU, which goes after it, or `others` → the engine that runs there under this
        name, "" none; where nothing is said, this one.
    """

    name: str
    max_batched_tokens: int
    max_sequences: int
    chunked: bool
    prefill_first: bool
    reserved: float
    overlapped: bool
    step_s: float
    sequence_s: float
    launch_s: float
    request_s: float
    ranks_s: float = 0.0
    batch_s: float = 0.0
    source: str = ""
    versions: str = ""
    called: tuple[str, ...] = ()
    eager: bool = False
    graphs: bool = True
    graph_len: int = 0
    graph_prompts: int = 0
    tables: str = ""
    linear_s: Mapping[str, float] = field(default_factory=dict)
    issued: Mapping[str, float] = field(default_factory=dict)
    joins: bool = True
    batch_wait_steps: int = 0
    batch_wait_share: float = 0.9
    memory_share: float = 1.0
    share_of: str = "all"
    offline: Mapping[str, float] = field(default_factory=dict)
    block_tokens: int = 1
    graph_batches: int = 0
    ubatch: int = 0
    settings: tuple[str, ...] = ()
    lacks: tuple[str, ...] = ()
    whole_context: bool = False
    since: str = ""
    newest: str = ""
    streamed_s: float = 0.0
    processes: float = 1.0
    beams: str = ""
    until: str = ""
    runs_on: Mapping[str, str] = field(default_factory=dict)
    doubt: float = 0.0
    padded: bool = False
    formats: str = ""
    before: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    below_gib: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    on_generation: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    start_gib: float = 0.0
    ranks_gib: float = 0.0
    sampled_bytes: float = 0.0
    profiles_context: int = 0
    profiles_graphs: bool = False
    whole_blocks: bool = False

    def step_s_of(self, gpu_s: Any, sequences: Any) -> Any:
        """Seconds of a step: the host prepares the next one meanwhile, or before it."""
        host_s = self.step_s + self.sequence_s * sequences
        return greater(gpu_s, host_s) if self.overlapped else gpu_s + host_s

    def prompt_s(self, gpu_s: Any, launches: Any, sequences: Any) -> Any:
        """Seconds of a step with prompts, whose operators the host launches one by one."""
        return self.step_s_of(greater(gpu_s, self.launch_s * launches), sequences)

    def decode_s(self, gpu_s: Any, launches: Any, sequences: Any, length: Any = 0.0) -> Any:
        """Seconds of a decode step, which is one launch where the engine has captured its operators in a CUDA graph.

        length: tokens of the longest sequence.
        """
        return self.prompt_s(gpu_s, chosen(self.captures(length), 0.0, launches), sequences)

    def captures(self, length: Any) -> Any:
        """Whether a decode step of sequences of so many tokens is one launch."""
        return self.graphs and (not self.graph_len or length <= self.graph_len)

    def of_version(self, version: str) -> Engine:
        """The engine as it was in a version; "": the newest."""
        engine = self
        for later in sorted(self.before, key=version_of, reverse=True):
            if version and version_of(version) < version_of(later):
                engine = replace(engine, **self.before[later])
        return engine

    def on(self, gpu: Gpu, settings: Settings = UNSET) -> Engine:
        """The engine as it starts on a GPU: its defaults there, on the host that such GPUs came with, and what a user
        sets."""
        engine = self.of_version(settings.engine_version)
        if smaller := [gib for gib in self.below_gib if gpu.mem_bytes < float(gib) * GIB]:
            engine = replace(engine, **self.below_gib[min(smaller, key=float)])
        engine = replace(engine, **self.on_generation.get(gpu.generation, {}))
        own = {FIELDS[name]: value for name, value in settings._asdict().items() if name in FIELDS}
        changes: dict[str, Any] = {
            name: value for name, value in own.items() if value not in (0, None) or value is False
        }
        if settings.enforce_eager:
            changes["graphs"] = False
        if settings.offline:
            changes |= {"request_s": 0.0, **engine.offline}
        return replace(engine, **changes).beside(gpu.generation).times(gpu.host_share)

    def beside(self, generation: str) -> Engine:
        """The engine on the hosts that GPUs of a generation came with."""
        return self.times(host_share(generation))

    def times(self, share: float) -> Engine:
        """The same scheduler where the host takes `share` times as long."""
        names = ("step_s", "sequence_s", "streamed_s", "launch_s", "request_s", "ranks_s", "batch_s")
        linear_s = {dtype: share * seconds for dtype, seconds in self.linear_s.items()}
        return replace(self, linear_s=linear_s, **{name: share * getattr(self, name) for name in names})

    def fronted(self, processes: float) -> Engine:
        """The same engine core, whose front end shares its work among so many processes."""
        spared_s = self.streamed_s * (1 - 1 / processes)
        return replace(self, processes=processes, sequence_s=self.sequence_s - spared_s)

    def searching(self) -> Engine:
        """The engine where requests are searched with beams. A front end that asks anew for each beam (vLLM's
        BeamSearchOnlineMixin) can only do so when the step is done, and each time takes what a request takes."""
        if self.beams != "requests":
            return self
        asked_s = self.request_s / self.processes
        return replace(self, overlapped=False, sequence_s=self.sequence_s + asked_s)

    def most_requests(self, beams: int) -> int:
        """Requests of so many beams each in a step at most."""
        return self.max_sequences if self.beams == "within" else self.max_sequences // beams

    def issuing(self, calls: Sequence[OpCall]) -> Engine:
        """The same scheduler whose launch_s is the mean over the operators of a step, some of which are many calls."""
        listed = sum(call.count for call in calls)
        issued = sum(call.count * self.issued.get(call.op.family, 1.0) for call in calls)
        return replace(self, launch_s=self.launch_s * issued / listed)

    def without_host(self) -> Engine:
        """The same scheduler where the host costs nothing, such as a C++ loop."""
        return self.times(0.0)


def host_share(generation: str) -> float:
    """Host times beside GPUs of a generation over those beside Hopper."""
    return facts_of_generation(generation).host_share


@lru_cache(maxsize=1)
def engines() -> Mapping[str, Engine]:
    """The known engines by name."""
    serving = {name: table for name, table in tables().items() if set(table) - ABOUT}
    return MappingProxyType({name: _engine(name, table) for name, table in serving.items()})


def _engine(name: str, table: Mapping[str, Any]) -> Engine:
    own = {key: value for key, value in table.items() if key != "operators"}
    return facts(Engine, {"name": name, **own}, f"[{name}] of engines.toml")


def get_engine(name: str) -> Engine:
    """The engine of that name; raises InvalidRequest where none is known."""
    if name not in engines():
        raise InvalidRequest(f'engine is "{name}"; serving knows {", ".join(engines())}. Choose one of them.')
    return engines()[name]


@lru_cache(maxsize=1024)
def engine_on(name: str, gpu: Gpu, settings: Settings = UNSET) -> Engine:
    """The engine of that name as it starts on a GPU, with what a user sets."""
    return get_engine(name).on(gpu, settings)


def check_has(setting: str, value: object, engine: str, version: str) -> None:
    """Raises InvalidRequest where an engine lacks a setting, or does in that version."""
    known = get_engine(engine)
    if setting not in known.settings:
        raise InvalidRequest(
            f"{setting} is {show(value)}; {named(engine)} has none. Set engine to {having(setting)}, or leave it out."
        )
    if setting in known.of_version(version).lacks:
        others = (name for name, other in engines().items() if setting in other.settings and setting not in other.lacks)
        cure = "a newer version" if setting not in known.lacks else " or ".join(others)
        raise InvalidRequest(
            f"{setting} is {value}; {f'{engine} {version}'.strip()} has none. Leave it out, or choose {cure}."
        )


def version_of(text: str) -> tuple[int, ...]:
    """The numbers of a version that order it; raises InvalidRequest for a text that is none.

    >>> version_of("v0.5.1.post1"), version_of("1.2.0rc6"), version_of("0.12") < version_of("0.6.3")
    ((0, 5, 1), (1, 2, 0), False)
    """
    numbers = re.fullmatch(r"v?(\d{1,6}(?:\.\d{1,6})*)(?:[.+_-].*|(?:a|b|rc|alpha|beta|post|dev)\d.*)?", text.strip())
    if not numbers:
        raise InvalidRequest(f"engine_version is {show(text)}; it must be numbers such as 0.12.1.")
    return tuple(int(number) for number in numbers[1].split("."))


def engine_of_version(name: str, version: str) -> str:
    """The engine that ran as `name` in a version; raises InvalidRequest for one that is not known of it.

    >>> engine_of_version("vllm", "0.6.3"), engine_of_version("vllm", "0.12"), engine_of_version("vllm", "")
    ('vllm-v0', 'vllm', 'vllm')
    """
    if not version:
        return name
    engine = get_engine(name)
    if not (engine.newest or engine.until):
        raise InvalidRequest(
            f"engine_version is {show(version)}; {named(name)} is known in one version only. Leave it out."
        )
    kin = sorted((old for old in engines().values() if old.tables == name and old.until), key=_until)
    first, number = [*kin, engine][0].since, version_of(version)
    if number < version_of(first) or not _plausible(number, engine):
        known = f"{first} to {engine.newest}" if engine.newest else f"{first} to before {engine.until}"
        cure = " or leave it out for the newest" if engine.newest else ""
        raise InvalidRequest(f"engine_version is {version}; of {name} {known} are known. Choose one of them{cure}.")
    return next((old.name for old in kin if number < _until(old)), name)


def _until(engine: Engine) -> tuple[int, ...]:
    return version_of(engine.until)


def _plausible(number: tuple[int, ...], engine: Engine) -> bool:
    """Whether there may be such a version: of one that was replaced before that, else up to the next major one."""
    if engine.until:
        return number < _until(engine)
    major = version_of(engine.newest)[0]
    return number[0] <= major or (number[0] == major + 1 and not any(number[1:]))


def version_note(name: str, version: str) -> str:
    """What to say of a version that is newer than the newest that is known of an engine; "" of all others.

    >>> version_note("vllm", "0.24.1"), version_note("sglang", "0.6")
    ('', 'sglang 0.6 is newer than 0.5.14, the newest that is known, which is taken.')
    """
    newest = get_engine(name).newest
    known = version_of(newest) if newest else ()
    if not version or not newest or version_of(version)[: len(known)] <= known:
        return ""
    return f"{name} {version} is newer than {newest}, the newest that is known, which is taken."


def engine_with(dtype: str) -> str:
    """The engine that alone has a number format, "" where others have it.

    >>> engine_with("q8_0"), engine_with("mlx_4bit"), engine_with("fp8")
    ('llama.cpp', 'mlx', '')
    """
    return next((name for name, engine in engines().items() if dtype in OWN_FORMATS.get(engine.formats, ())), "")


def engine_of(name: str, version: str, gpu: Gpu) -> str:
    """The engine that runs as `name` in a version on a GPU; raises InvalidRequest where it does not run there."""
    if name not in engines():
        return name
    if not (run := runs_there(get_engine(name), gpu)):
        there = [other for other, engine in engines().items() if runs_there(engine, gpu) == other and not engine.until]
        raise InvalidRequest(
            f'engine is "{name}"; on {gpu.name} the catalogue has {", ".join(there)}. Choose one of them.'
        )
    return engine_of_version(run, version)


def runs_there(engine: Engine, gpu: Gpu) -> str:
    """The engine that runs under the name of `engine` on a GPU, "" none."""
    keys = [key for key in (gpu.generation, gpu.vendor, OTHERS) if key in engine.runs_on]
    return engine.runs_on[keys[0]] if keys else engine.name


def get_server(name: str) -> Engine:
    """The engine of that name, which takes requests as they come; raises InvalidRequest where it does not."""
    if not (server := get_engine(name)).joins:
        known = [known_name for known_name, engine in engines().items() if engine.joins]
        raise InvalidRequest(
            f'engine is "{name}"; continuous scheduling needs {", ".join(known)}. Choose one, or scheduling=static.'
        )
    return server
