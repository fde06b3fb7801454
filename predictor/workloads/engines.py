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
from predictor.shipped import facts
from predictor.units import GIB
from predictor.workloads.engine_tables import ABOUT, tables

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


@dataclass(frozen=True, slots=True, kw_only=True)
class Engine:
    """How an engine schedules and what its host costs; fields as in catalog/engines.toml.

    graphs: decode steps are one launch, a CUDA graph, of sequences up to graph_len tokens (0: of any). joins: requests
        join a running batch. tables: the engine whose operator tables show what it runs, "": its own.
    eager: runs the operators of Transformers one by one, and takes prompts whole. versions: which ones, of an engine
        that has a successor. called: names by which clients of benchmarks call it.
    offline: what is otherwise where no server streams tokens to clients.
    issued: operator family → calls that the host issues in a step with prompts for one operator of the list; else one.
    ranks_s: host seconds that a step takes more where several GPUs share the model, to which a driver sends it.
    batch_s: seconds that a program's call of a whole batch takes beside its request and steps.
    linear_s: number format → host seconds that each linear layer takes beside its launch.
    until: the version from which its successor, the engine of the same tables, replaces it. before: version → what is
        otherwise in those before it. below_gib: GiB of a GPU's memory → what is otherwise on smaller ones.
    batch_wait_steps: a step with room left postpones prompts up to so many times while others decode, until
        batch_wait_share of max_batched_tokens are asked for (batch_wait_timeout_iters of TensorRT-LLM; off).
    ubatch: most tokens of a forward pass of an engine on ggml, whose stages of layers (pp) one batch walks through one
        after another, the passes of a prompt side by side; 0: no such engine.
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
    until: str = ""
    before: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    below_gib: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    @property
    def front_s(self) -> float:
        """Seconds of a static batch beside its steps."""
        return self.request_s + self.batch_s

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
        captured = self.graphs and (not self.graph_len or length <= self.graph_len)
        return self.prompt_s(gpu_s, chosen(captured, 0.0, launches), sequences)

    def on(self, gpu: Gpu, settings: Settings = UNSET) -> Engine:
        """The engine as it starts on a GPU: its defaults there, on the host that such GPUs came with, and what a user
        sets."""
        engine = self
        for version in sorted(self.before, key=version_of, reverse=True):
            if settings.engine_version and version_of(settings.engine_version) < version_of(version):
                engine = replace(engine, **self.before[version])
        if smaller := [gib for gib in self.below_gib if gpu.mem_bytes < float(gib) * GIB]:
            engine = replace(engine, **self.below_gib[min(smaller, key=float)])
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
        names = ("step_s", "sequence_s", "launch_s", "request_s", "ranks_s", "batch_s")
        linear_s = {dtype: share * seconds for dtype, seconds in self.linear_s.items()}
        return replace(self, linear_s=linear_s, **{name: share * getattr(self, name) for name in names})

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


def version_of(text: str) -> tuple[int, ...]:
    """The numbers of a version that order it; raises InvalidRequest for a text without any.

    >>> version_of("v0.5.1.post1"), version_of("0.12") < version_of("0.6.3")
    ((0, 5, 1), False)
    """
    numbers = re.match(r"\s*v?(\d+(?:\.\d+)*)", text)
    if not numbers:
        raise InvalidRequest(f'engine_version is "{text}"; it must be numbers such as 0.12.1.')
    return tuple(int(number) for number in numbers[1].split("."))


def engine_of_version(name: str, version: str) -> str:
    """The engine that ran as `name` in a version.

    >>> engine_of_version("vllm", "0.6.3"), engine_of_version("vllm", "0.12"), engine_of_version("vllm", "")
    ('vllm-v0', 'vllm', 'vllm')
    """
    if not version:
        return name
    earlier = [old for old in engines().values() if old.tables == name and old.until]
    named = [old for old in earlier if version_of(version) < version_of(old.until)]
    return min(named, key=lambda old: version_of(old.until)).name if named else name


def get_server(name: str) -> Engine:
    """The engine of that name, which takes requests as they come; raises InvalidRequest where it does not."""
    if not (server := get_engine(name)).joins:
        known = [known_name for known_name, engine in engines().items() if engine.joins]
        raise InvalidRequest(
            f'engine is "{name}"; continuous scheduling needs {", ".join(known)}. Choose one, or scheduling=static.'
        )
    return server
