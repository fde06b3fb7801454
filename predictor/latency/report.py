"""What a prediction says, and how it reads as one flat row."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from types import MappingProxyType
from typing import Any, NamedTuple

from predictor.elementwise import greater, hypot, lesser
from predictor.hardware.gpu import Gpu
from predictor.hardware.price import usd_per_mtok
from predictor.memory.closed_form import Memory
from predictor.ops import Op
from predictor.workloads.request import Request
from predictor.workloads.results import ENDS, RUN_COLUMNS
from predictor.workloads.workload import Workload


class Interval(NamedTuple):
    """value with the ends low and high of the interval at the report's level."""

    value: float
    low: float
    high: float


# What engine, framework and version add to the 80 % interval of a step, as a share: fitted on training steps, on the
# half that predictor/learning/validation/llm_foundry.py names, and as good for whole networks of eager PyTorch
# (neusight.py there).
SOFTWARE_DOUBT = 0.07
# The same of a static batch in a serving engine, whose version and flags nobody states, in one that was replaced by
# another, whose kernels are not those measured, and of models with experts: they make intervals hold 80 % of the tables
# of alcf.py, trtllm.py and qwen.py there, as the mean over groups of GPU, engine and model.
SERVER_DOUBT, OLDER_DOUBT, EXPERTS_DOUBT = 0.15, 0.20, 0.30


def doubted(
    value: Any, ops: Interval, least: Any, doubt: float = SOFTWARE_DOUBT, slower: float = 0.0, faster: float = 0.0
) -> Interval:
    """A step of `value` seconds, as doubtful as the sum of its ops and the software around them, not below least.

    slower, faster: a doubt, as a share, of how much longer and shorter it may take.
    """
    down, up = ops.value / ops.low - 1, (ops.high - ops.value) / value
    low = greater(value / (1 + hypot(hypot(down, doubt), faster)), lesser(least, value))
    return Interval(value, low, value * (1 + hypot(hypot(up, doubt), slower)))


NOT_OF_A_ROW = frozenset({"op", "latency_s", "outside_rows", "links_open"})


class OpLine(NamedTuple):
    """One kind of op of a phase: all its calls together. Times in seconds; decode is the middle step.

    outside: fields of the op beyond what was measured; those of a column are in outside_rows, each with its rows.
    links_open: columns of a request, link and node_link, that nobody stated, so that the interval spans their choices.
    """

    phase: str
    name: str
    estimator: str
    op: Op
    count: float  # type: ignore[assignment]  # hides tuple.count
    latency_s: Interval
    bound_s: float
    bytes_moved: float
    limiter: str
    basis: str
    outside: tuple[str, ...] = ()
    outside_rows: Mapping[str, Any] = MappingProxyType({})
    links_open: tuple[str, ...] = ()

    @property
    def shape(self) -> str:
        """The fields of the op, short."""
        return shape_of(self.op)

    def row(self) -> dict[str, Any]:
        """As a flat row."""
        plain = {name: value for name, value in self._asdict().items() if name not in NOT_OF_A_ROW}
        ends = {f"latency_s{end}": value for end, value in zip(ENDS, self.latency_s, strict=True)}
        return plain | {"shape": self.shape} | ends


class Serving(NamedTuple):
    """Latency over all requests, seconds, and throughput of all replicas.

    sustainable_rate: requests per second that the deployment holds. saturated: more arrive, or more clients ask than
    find room. host_s: of the mean request, in which the GPU waits for the host. batch: mean sequences per decode step.
    peak_tokens: of the KV cache of a group at its fullest. mean_len: tokens of the mean prompt, of those of it that are
    cached already, and of the mean answer.
    """

    ttft_s: Interval
    ttft_p50_s: Interval
    ttft_p99_s: Interval
    tpot_s: Interval
    tpot_p50_s: Interval
    tpot_p99_s: Interval
    e2e_s: Interval
    tokens_per_s: Interval
    requests_per_s: Interval
    host_s: Interval
    sustainable_rate: Interval
    saturated: bool
    batch: float
    peak_tokens: float
    mean_len: tuple[float, float, float]
    notes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Report:
    """The answer for one workload on one kind of GPU.

    served: what was simulated of a load, over whose requests the latencies are then means. host_s: of a request, in
    which the GPU waits for the host. Of a network that answers in one pass, TTFT and E2E are its time, tokens those of
    the input; there is no TPOT.
    """

    workload: Workload
    gpu: Gpu
    ttft_s: Interval
    tpot_s: Interval
    e2e_s: Interval
    tokens_per_s: Interval
    host_s: Interval
    memory: Memory
    limiter: str
    basis: str
    nearest_gpu: str
    bundle: str
    level: float
    notes: tuple[str, ...]
    ops: tuple[OpLine, ...]
    price_usd: float | None = None
    price_source: str = ""
    request: Request | None = None
    served: Serving | None = None

    @property
    def n_gpus(self) -> int:
        """GPUs that run the workload together."""
        return self.workload.layout.n_gpus

    @property
    def usd_per_mtok(self) -> float | None:
        """Price of a million tokens; None where the price of the GPU is not known."""
        if self.price_usd is None:
            return None
        return usd_per_mtok(self.price_usd * self.n_gpus, self.tokens_per_s.value)

    @property
    def inputs_per_s(self) -> float | None:
        """Images or sequences that pass in a second; None where tokens are generated."""
        return None if self.workload.generates else self.workload.batch / self.e2e_s.value

    def to_dict(self) -> dict[str, Any]:
        """One flat row; an interval x becomes x, x_low and x_high. Bytes are per GPU."""
        workload = self.workload
        row: dict[str, Any] = (
            {}
            if self.request is None
            else {each.name: getattr(self.request, each.name) for each in fields(self.request)}
        )
        row |= {
            "model": workload.model.name,
            "gpu": self.gpu.name,
            "n_gpus": self.n_gpus,
            "engine": workload.engine,
            "batch": self.request.batch if self.served and self.request else workload.batch,
            "input_len": workload.input_len,
            "output_len": workload.output_len if workload.generates else None,
            "dtype": workload.dtype,
            "expert_dtype": (workload.expert_dtype or workload.dtype) if workload.model.experts else None,
            "kv_dtype": workload.cache_dtype,
            **workload.layout._asdict(),
        }
        times = {name: getattr(self, name) for name in ("ttft_s", "tpot_s", "e2e_s", "tokens_per_s", "host_s")}
        if not workload.generates:
            times["tpot_s"] = Interval(None, None, None)  # type: ignore[arg-type]  # an empty cell
        if self.served:
            more = {name: getattr(self.served, name) for name in self.served._fields if name not in times}
            times |= {name: value for name, value in more.items() if isinstance(value, Interval)}
        times["tokens_per_s_per_gpu"] = Interval(*(end / self.n_gpus for end in self.tokens_per_s))
        for name, interval in times.items():
            row |= {f"{name}{end}": value for end, value in zip(ENDS, interval, strict=True)}
        row["saturated"] = self.served.saturated if self.served else None
        row |= dict.fromkeys((*(f"step_s{end}" for end in ENDS), "mfu", *RUN_COLUMNS))
        row["inputs_per_s"] = self.inputs_per_s
        row |= self.memory.row()
        row |= {
            "usd_per_mtok": self.usd_per_mtok,
            "usd_per_million_inputs": None
            if self.price_usd is None or self.inputs_per_s is None
            else usd_per_mtok(self.price_usd * self.n_gpus, self.inputs_per_s),
            "price_source": self.price_source,
            "limiter": self.limiter,
            "basis": self.basis,
            "nearest_gpu": self.nearest_gpu,
            "bundle": self.bundle,
            "interval_level": self.level,
        }
        return row | {"notes": list(self.notes), "error": None}


def shape_of(op: Op) -> str:
    """The fields of a scalar op that differ from their defaults, short: "m=1 n=4096 k=4096 bf16"."""
    parts = []
    for part in fields(op):
        value = getattr(op, part.name)
        if value == part.default or part.name == "phase":
            continue
        parts.append(str(value) if isinstance(value, str) else f"{part.name}={value:.0f}")
    return " ".join(parts)
