"""Serving engines: how they schedule and what their host costs, read from catalog/engines.toml."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache
from types import MappingProxyType
from typing import Any

from predictor.elementwise import chosen, greater
from predictor.errors import InvalidRequest
from predictor.hardware.architectures import generation as facts_of_generation
from predictor.shipped import facts
from predictor.workloads.engine_tables import ABOUT, tables


@dataclass(frozen=True, slots=True, kw_only=True)
class Engine:
    """How an engine schedules and what its host costs; fields as in catalog/engines.toml.

    graphs: decode steps are one launch, a CUDA graph, of sequences up to graph_len tokens (0: of any). joins: requests
        join a running batch. tables: the engine whose operator tables show what it runs, "": its own.
    eager: runs the operators of Transformers one by one, and takes prompts whole. versions: which ones, of an engine
        that has a successor. called: names by which clients of benchmarks call it.
    linear_s: number format → host seconds that each linear layer takes beside its launch.
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
    source: str = ""
    versions: str = ""
    called: tuple[str, ...] = ()
    eager: bool = False
    graphs: bool = True
    graph_len: int = 0
    tables: str = ""
    linear_s: Mapping[str, float] = field(default_factory=dict)
    joins: bool = True
    batch_wait_steps: int = 0
    batch_wait_share: float = 0.9
    memory_share: float = 1.0
    share_of: str = "all"
    block_tokens: int = 1
    graph_batches: int = 0
    ubatch: int = 0

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

    def beside(self, generation: str) -> Engine:
        """The engine on the hosts that GPUs of a generation came with."""
        return self.times(host_share(generation))

    def times(self, share: float) -> Engine:
        """The same scheduler where the host takes `share` times as long."""
        names = ("step_s", "sequence_s", "launch_s", "request_s")
        linear_s = {dtype: share * seconds for dtype, seconds in self.linear_s.items()}
        return replace(self, linear_s=linear_s, **{name: share * getattr(self, name) for name in names})

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


def get_server(name: str) -> Engine:
    """The engine of that name, which takes requests as they come; raises InvalidRequest where it does not."""
    if not (server := get_engine(name)).joins:
        known = [known_name for known_name, engine in engines().items() if engine.joins]
        raise InvalidRequest(
            f'engine is "{name}"; continuous scheduling needs {", ".join(known)}. Choose one, or scheduling=static.'
        )
    return server
