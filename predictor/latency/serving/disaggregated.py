"""Disaggregated serving: a pool of prefill workers, a pool of decode workers, and how many of each match.

A request waits for a prefill worker, which computes its prompt; its KV cache then goes to a decode worker over the
links of the GPUs that hold it, and the first token is shown. So TTFT = wait + prefill + transfer; of clients the mean
of a run of ten requests each, which begin together. What one worker takes and how long it does is
predictor.latency.serving.workers; how many workers go together predictor.latency.serving.rate_matching.

Not modelled: a transfer that overlaps with prefill, prefix caches and routers that know queues (all would shorten
TTFT), the hop through a proxy, and links between the nodes of one worker. Experts of attention groups are reached by
all-gather and reduce-scatter and are loaded unevenly, so wide expert parallelism over DeepEP with balanced experts is
predicted far too slow: of LMSYS's 96 H100 (lmsys.org/blog/2025-05-05-large-scale-ep) a prefill node of EP32 read
52.3k tokens/s of 2000-token prompts; predicted are 7.4k, and 29k for workers of one node (EP8 on H200).

Nothing here was fitted but the width of first tokens; step times and host constants are those of servers with one pool,
which predictor/learning/validation/serving.py replays.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from predictor.errors import InvalidRequest
from predictor.estimators.bundle import Bundle, load_bundle
from predictor.hardware.gpu import Gpu, resolve_gpu
from predictor.hardware.interconnect import NODE_LINK_BYTES_PER_S, check_link
from predictor.hardware.price import usd_per_mtok
from predictor.hardware.prices import Offer, usual_offer
from predictor.latency.report import Interval, OpLine
from predictor.latency.serving.clients import Load
from predictor.latency.serving.load import kv_capacity, log_errors
from predictor.latency.serving.rate_matching import Goal, Matched, match
from predictor.latency.serving.step_times import step_times
from predictor.latency.serving.workers import DecodeWorker, PrefillWorker
from predictor.latency.static_batch import prompt_and_middle
from predictor.latency.steps import basis_of, bound_lines, doubts_of, op_lines, weakest
from predictor.ops.dtypes import weight_bytes
from predictor.workloads.architectures.decoder import Decoder
from predictor.workloads.architectures.layered import LayeredDecoder
from predictor.workloads.engines import Engine, get_server
from predictor.workloads.models import Model, get_model
from predictor.workloads.passes.calls import Layout
from predictor.workloads.requested import as_run_on, in_16_bits_of
from predictor.workloads.workload import Workload, of_all_groups, phases

ONE_GPU = Layout()
# Log error of first tokens, at least: what hands a request from pool to pool takes 0.3 to 1 s more in most places. Half
# of the rows of predictor/learning/validation/disaggregated.py ask for 0.9, as the mean over groups; a third more, as
# these are one network on two GPUs.
FIRST_TOKENS = 1.2
ASKED = ("input_len", "output_len", "dtype", "kv_dtype", "engine", "link", "node_link")  # of a workload


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan(Matched):
    """Two pools and what they do together: the fields of Matched, and what was asked.

    prefill, decode: what one worker of each pool runs. basis: the weaker one of both pools. level: of the intervals.
    """

    prefill: Workload
    decode: Workload
    prefill_gpu: Gpu
    decode_gpu: Gpu
    basis: str
    bundle: str
    level: float
    notes: tuple[str, ...]

    @property
    def prefill_gpus(self) -> int:
        """GPUs of the prefill pool."""
        return self.prefill_workers * self.prefill.layout.n_gpus

    @property
    def decode_gpus(self) -> int:
        """GPUs of the decode pool."""
        return self.decode_workers * self.decode.layout.n_gpus

    @property
    def n_gpus(self) -> int:
        """GPUs of both pools."""
        return self.prefill_gpus + self.decode_gpus

    @property
    def tokens_per_s_per_gpu(self) -> Interval:
        """Tokens put out per second, over all GPUs that are used."""
        return Interval(*(end / self.n_gpus for end in self.tokens_per_s))

    @property
    def usd_per_mtok(self) -> float | None:
        """List price of a million tokens put out; None where that of a GPU is not known."""
        offers = self._offers
        if None in offers:
            return None
        hour = sum(offer.usd_per_hour for offer in offers if offer)
        return usd_per_mtok(hour, self.tokens_per_s.value)

    @property
    def price_source(self) -> str:
        """Whose prices those are, when they were listed and where."""
        return " + ".join(dict.fromkeys(offer.told for offer in self._offers if offer))

    @property
    def _offers(self) -> tuple[Offer | None, ...]:
        """Of the GPUs of both pools, together where they are the same."""
        workers = [layout.n_gpus // layout.dp for layout in (self.prefill.layout, self.decode.layout)]
        if self.prefill_gpu == self.decode_gpu:
            return (usual_offer(self.prefill_gpu, self.n_gpus, max(workers)),)
        pools = (self.prefill_gpu, self.decode_gpu), (self.prefill_gpus, self.decode_gpus), workers
        return tuple(usual_offer(gpu, number, worker) for gpu, number, worker in zip(*pools, strict=True))

    def to_dict(self) -> dict[str, Any]:
        """One flat row; an interval x becomes x, x_low and x_high."""
        names = ("engine", "dtype", "input_len", "output_len")
        row = {"model": self.prefill.model.name, **{name: getattr(self.prefill, name) for name in names}}
        row |= {"kv_dtype": self.prefill.cache_dtype, "n_gpus": self.n_gpus}
        for pool in ("prefill", "decode"):
            degrees = getattr(self, pool).layout._asdict()
            row |= {f"{pool}_gpu": getattr(self, f"{pool}_gpu").name}
            row |= {f"{pool}_{name}": degree for name, degree in degrees.items() if name != "dp"}
        matched = {column.name: getattr(self, column.name) for column in fields(Matched)}
        for name, value in (matched | {"tokens_per_s_per_gpu": self.tokens_per_s_per_gpu}).items():
            ends = value._asdict() if isinstance(value, Interval) else {"value": value}
            row |= {name if end == "value" else f"{name}_{end}": number for end, number in ends.items()}
        row |= {name: getattr(self, name) for name in ("usd_per_mtok", "price_source", "basis", "bundle")}
        return row | {"interval_level": self.level, "notes": list(self.notes)}


def plan(
    model: str | Path | Model,
    gpu: str | Gpu,
    *,
    decode_gpu: str | Gpu = "",
    prefill: Layout = ONE_GPU,
    decode: Layout = ONE_GPU,
    link_bytes_per_s: float = 0.0,
    bundle: str | Path | Bundle = "",
    **settings: Any,
) -> Plan:
    """What two pools do that serve `model`: prefill workers on `gpu`, decode workers on `decode_gpu` or the same.

    prefill, decode: degrees of one worker. link_bytes_per_s: between the pools, per GPU; 0 takes NODE_LINK_BYTES_PER_S.
    settings: fields of predictor.latency.serving.rate_matching.Goal, such as n_gpus=16 or request_rate=5, and
    input_len, output_len, dtype, kv_dtype, engine, link and node_link, as in Workload: what joins GPUs of a worker.
    """
    goal, shared = _sorted(settings)
    network = get_model(model) if isinstance(model, str | Path) else model
    if not isinstance(network, Decoder | LayeredDecoder):
        raise InvalidRequest(f"{network.name} is no decoder; it has no decode pool. Use `predictor predict`.")
    gpus = [(name, "") if isinstance(name, Gpu) else resolve_gpu(name) for name in (gpu, decode_gpu or gpu)]
    sides_and_notes = [
        in_16_bits_of(
            as_run_on(Workload(model=network, **_degrees(*layout), **shared), device),
            device,
            chosen=bool(shared.get("dtype")),
        )
        for layout, (device, _) in zip((("prefill", prefill), ("decode", decode)), gpus, strict=True)
    ]
    sides = [side for side, _ in sides_and_notes]
    if sides[0].output_len < 2:
        raise InvalidRequest("output_len is 1; decode workers compute the tokens after the first. Give at least 2.")
    if not 0 <= link_bytes_per_s < float("inf"):
        raise InvalidRequest(f"link_bytes_per_s is {link_bytes_per_s:g}; it must be at least 0: 50e9 is 400 Gb/s.")
    least = min(device.pcie_bytes_per_s or NODE_LINK_BYTES_PER_S for device, _ in gpus)
    link = link_bytes_per_s or min(NODE_LINK_BYTES_PER_S, least)
    transfers = [_cache_bytes(side) / link for side in sides]
    for device, _ in gpus:
        check_link(sides[0].link, device)
    opened = bundle if isinstance(bundle, Bundle) else load_bundle(bundle)
    workers = (
        _prefill_worker(sides[0], gpus[0][0], opened, transfers[0]),
        _decode_worker(sides[1], gpus[1][0], opened, transfers[1]),
    )
    errors = log_errors(network, sides[0].engine)
    matched = match(*workers, max(transfers), goal, errors._replace(ttft=max(errors.ttft, FIRST_TOKENS)))
    shown = [_shown(side, device, opened) for side, (device, _) in zip(sides, gpus, strict=True)]
    doubts = [
        doubt for lines, (device, _) in zip(shown, gpus, strict=True) for doubt in doubts_of(lines, device, opened)[1]
    ]
    notes = [*(note for _, note in gpus), *network.notes, *(note for _, note in sides_and_notes), *doubts]
    return Plan(
        **{column.name: getattr(matched, column.name) for column in fields(Matched)},
        prefill=sides[0],
        decode=sides[1],
        prefill_gpu=gpus[0][0],
        decode_gpu=gpus[1][0],
        basis=weakest([basis_of([line.basis for line in lines]) for lines in shown]),
        bundle=opened.id,
        level=opened.level,
        notes=tuple(dict.fromkeys(note for note in notes if note)),
    )


def _shown(side: Workload, gpu: Gpu, bundle: Bundle) -> list[OpLine]:
    """The operators that tell what is known of a pool."""
    prefill, middle = prompt_and_middle(bound_lines(phases(side), gpu, side.engine, bundle, side.links))
    return prefill + middle


def _sorted(settings: dict[str, Any]) -> tuple[Goal, dict[str, Any]]:
    """The settings of the pools, and those of the workload."""
    goals = [column.name for column in fields(Goal)]
    for name in settings:
        if name not in (*goals, *ASKED):
            raise InvalidRequest(f"there is no setting {name}; there are {', '.join((*goals, *ASKED))}.")
    goal = Goal(**{name: settings[name] for name in goals if name in settings})
    return goal, {name: settings[name] for name in ASKED if name in settings}


def _degrees(pool: str, layout: Layout) -> dict[str, Any]:
    if layout.dp != 1:
        raise InvalidRequest(f"dp of {pool} is {layout.dp}; replicas are workers. Set {pool}_workers instead.")
    return layout._asdict()


def _cache_bytes(side: Workload) -> float:
    """What each GPU that holds a prompt's cache sends or receives."""
    elements = side.model.cached(side.input_len, side.layout)
    return elements * float(weight_bytes(side.cache_dtype)) + side.model.state_bytes(side.layout)


def _prefill_worker(side: Workload, gpu: Gpu, bundle: Bundle, transfer_s: float) -> PrefillWorker:
    engine = _engine(side, gpu)
    together = min(engine.max_sequences, engine.max_batched_tokens // side.input_len + 2)
    return PrefillWorker(
        times=step_times(side, gpu, bundle, engine.max_batched_tokens, together),
        engine=engine,
        input_len=side.input_len,
        groups=side.attention_dp * side.pp,
        kv_tokens=_room("prefill", side, gpu, side.input_len + 1),
        link_s=transfer_s / side.attention_dp,
        n_gpus=side.layout.n_gpus,
        alone=_alone(side, gpu, bundle),
    )


def _alone(side: Workload, gpu: Gpu, bundle: Bundle) -> float:
    """Share of its time that the step of a prompt takes where other attention groups have none."""
    if side.attention_dp == 1:
        return 1.0
    (lines,) = op_lines([("prefill", side.prefill_ops())], gpu, side.engine, bundle, side.links)
    of_all_s = sum(line.latency_s.value for line in lines if of_all_groups(line.name, line.op))
    share = of_all_s / sum(line.latency_s.value for line in lines)
    return 1 - share * (1 - 1 / side.attention_dp)


def _decode_worker(side: Workload, gpu: Gpu, bundle: Bundle, transfer_s: float) -> DecodeWorker:
    """The cache has room for what engines hold back: of each answer the half that is there on average, or more."""
    engine = _engine(side, gpu)
    room = _room("decode", side, gpu, side.input_len + side.output_len)
    held = side.input_len + side.output_len * (1 + engine.reserved) / 2
    slots = int(min(engine.max_sequences, room / held))
    return DecodeWorker(
        times=step_times(side, gpu, bundle, slots, slots),
        engine=engine,
        input_len=side.input_len,
        output_len=side.output_len,
        slots=slots,
        groups=side.attention_dp * side.pp,
        link_s=transfer_s / side.attention_dp,
        n_gpus=side.layout.n_gpus,
    )


def _engine(side: Workload, gpu: Gpu) -> Engine:
    return get_server(side.engine).on(gpu)


def _room(pool: str, side: Workload, gpu: Gpu, needed: int) -> float:
    """Tokens that the cache of a group holds; raises InvalidRequest where one request does not fit."""
    room = kv_capacity(side, gpu, Load(input_len=side.input_len, output_len=side.output_len, concurrency=1))
    if room < needed:
        raise InvalidRequest(
            f"a {pool} worker of {side.layout.n_gpus} × {gpu.name} has room for {int(room)} tokens of KV cache beside "
            f"{side.model.name} in {side.dtype}; a request needs {needed}. Raise {pool} tp, or choose a narrower dtype."
        )
    return room
