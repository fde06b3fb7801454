"""What may be deployed: a GPU, number format, engine and layout of one replica, with bounds on what it can do.

No estimator is asked here: what cannot start, or breaks its promises even at the roofline, is out with its reason, and
the others are put in order by what they would cost at the roofline, which nothing beats.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np

from predictor.errors import InvalidRequest, PredictorError
from predictor.estimators.bundle import Bundle
from predictor.hardware.gpu import Gpu
from predictor.hardware.interconnect import node_gpus
from predictor.hardware.price import Price
from predictor.hardware.prices import Offer, PriceList, usual_offer
from predictor.latency.serving.clients import Load
from predictor.latency.serving.load import room_for, served_by
from predictor.latency.steps import bound_lines, bound_of
from predictor.ops.dtypes import DTYPES, GROUPED, LISTED
from predictor.planning.columns import INSTEAD
from predictor.planning.fleet import Some
from predictor.planning.helpers import Helpers
from predictor.planning.service import ServiceLevel
from predictor.prediction.single import Resolved, load_of, resolve
from predictor.values import one_line, show, time_text, whole_number
from predictor.workloads.architectures.decoder import Decoder
from predictor.workloads.architectures.layered import LayeredDecoder
from predictor.workloads.engines import Settings, get_server
from predictor.workloads.models import Model
from predictor.workloads.request import Request
from predictor.workloads.requested import served_workload
from predictor.workloads.workload import Workload, prompt_and_middle_phases

SHARING = (1, 2, 4, 8)  # tp that is tried where nobody says
STAGES = (2, 4)  # pp that is tried on top where the largest tp has no room
WIDER = 3  # sizes of tp that are tried of a format, from the first with room
STAGED = ("data-centre", "")  # segments whose nodes are joined
ALONE = frozenset({"laptop", "integrated", "embedded"})  # segments of which a server has one
# Others of which servers on offer have one (beginnings of names; NVIDIA GH200 data sheet: a superchip is a node).
ONE_A_SERVER = ("GH200",)
BATCHES = 2 ** np.arange(0, 11)


class Candidate(NamedTuple):
    """One replica.

    resolved: its request, with the whole load. least: bounds of it. least_usd_per_hour: what the GPUs cost that the
    load needs at the roofline; None where no price is listed. most_gpus: of this kind that there are; 0: nobody says.
    settings: of the engine, as in Request, where it is a variant of another candidate.
    """

    resolved: Resolved
    workload: Workload
    note: str
    load: Load
    least: Least
    least_usd_per_hour: float | None
    most_gpus: int
    settings: tuple[tuple[str, Any], ...] = ()

    @property
    def gpu(self) -> Gpu:
        """Its GPU."""
        return self.resolved.gpu

    @property
    def n_gpus(self) -> int:
        """GPUs of one replica."""
        return self.workload.layout.n_gpus

    @property
    def text(self) -> str:
        """ "2 × H200-SXM-141GB, fp8, vllm"."""
        return layout_of(self.n_gpus, self.gpu.name, self.workload)

    @property
    def least_gpus(self) -> int:
        """GPUs that the load needs at the roofline."""
        return self.n_gpus * _replicas(self.load, self.least)


def layout_of(n_gpus: int, gpu: str, workload: Workload) -> str:
    """A replica in words; of how its GPUs share the model, what is not tensor parallelism alone."""
    ways = {"pp": workload.pp, "ep": workload.ep, "attention dp": workload.attention_dp}
    shared = "".join(f", {way} {degree}" for way, degree in ways.items() if degree > 1)
    return f"{n_gpus} × {gpu}{shared}, {workload.dtype}, {workload.engine}"


def _replicas(load: Load, least: Least) -> int:
    """Replicas that a load needs at the roofline."""
    needed = load.concurrency / least.sequences if load.concurrency else load.offered_rate / least.requests_per_s
    return max(math.ceil(needed), 1)


class Least(NamedTuple):
    """At the roofline: seconds of a prompt alone, of a token alone, and the most requests per second of a replica, with
    so many sequences at once."""

    ttft_s: float
    tpot_s: float
    requests_per_s: float
    sequences: float


class Lost(NamedTuple):
    """A GPU or a replica on it that is no answer, and why."""

    gpu: str
    n_gpus: int
    dtype: str
    engine: str
    why: str


class Choices(NamedTuple):
    """What is tried. columns: of a request, all that is the same. dtypes, engines, tps: (): what suits the GPU.

    most_gpus: of one deployment; 0: no limit. usd_per_hour: the budget.
    """

    model: Model
    columns: Mapping[str, Any]
    gpus: Sequence[Some]
    prices: PriceList
    dtypes: Sequence[str] = ()
    engines: Sequence[str] = ()
    tps: Sequence[int] = ()
    level: ServiceLevel = ServiceLevel()
    most_gpus: int = 0
    usd_per_hour: float = math.inf

    def offer(self, gpu: Gpu, n_gpus: int, together: int) -> Offer | None:
        """Its price, as in offer_of."""
        return offer_of(self.prices, gpu, n_gpus, together)

    def affords(self, offer: Offer | None) -> bool:
        """Whether a price lies in the budget; one that is not known lies in none."""
        return self.usd_per_hour == math.inf or (offer is not None and offer.usd_per_hour <= self.usd_per_hour)


def offer_of(prices: PriceList, gpu: Gpu, n_gpus: int, together: int, stated: float = 0.0) -> Offer | None:
    """The usual price of so many GPUs, as in predictor.hardware.prices; stated: USD of one for an hour in its place."""
    if stated:
        return Offer(Price("as stated", gpu.name, usd_per_hour=stated), n_gpus, n_gpus, stated * n_gpus)
    return usual_offer(gpu, n_gpus, together, prices)


def candidates(choices: Choices, bundle: Bundle, helpers: Helpers | None = None) -> tuple[list[Candidate], list[Lost]]:
    """All replicas that start and keep their promises at the roofline, and why the others do not."""
    made = (helpers or Helpers(1, bundle)).each(replicas, choices.gpus, choices)
    each = [one for of_gpu in made for one in of_gpu]
    return [one for one in each if isinstance(one, Candidate)], [one for one in each if isinstance(one, Lost)]


def replicas(many: Sequence[Some], choices: Choices, bundle: Bundle) -> list[list[Candidate | Lost]]:
    """Replicas of each of many GPUs, and why there are no others."""
    return [
        [
            one
            for engine in choices.engines or ("",)
            for dtype in _dtypes(choices, some.gpu)
            for one in _sized(choices, some, engine, dtype, bundle)
        ]
        for some in many
    ]


def _dtypes(choices: Choices, gpu: Gpu) -> Sequence[str]:
    """Formats of the linear layers: those asked for, or the model's own and fp8 where GPUs have it."""
    if choices.dtypes:
        return choices.dtypes
    own = getattr(choices.model, "linear_dtype", "") or "bf16"
    narrower = own in ("bf16", "fp16") and "fp8" in gpu.peak_flop_per_s and gpu.vendor != "Apple"
    return ("", "fp8") if narrower else ("",)


def _sized(choices: Choices, some: Some, engine: str, dtype: str, bundle: Bundle) -> Iterator[Candidate | Lost]:
    """Replicas of rising size, from the first with room; where none has any, why the largest has none."""
    most = most_of(some.n_gpus, choices.most_gpus) or math.inf
    refused, fitting = "", 0
    for layout in _layouts(choices, some.gpu):
        if (gpus := layout["tp"] * layout["pp"] * layout.get("attention_dp", 1)) > most:
            refused = refused or f"a replica takes {gpus} GPUs; at most {int(most)} are asked for."
            break
        if layout["pp"] > int(choices.columns.get("pp") or 1) and fitting:
            break
        made = _made(choices, some, {"engine": engine, "dtype": dtype, **layout}, bundle)
        if isinstance(made, Candidate):
            fitting += 1
            yield made
            if fitting >= WIDER:
                return
        elif fitting:
            return
        else:
            refused = made
    if not fitting:
        yield Lost(some.gpu.name, 0, dtype, engine, refused or "no layout of the model is left.")


def most_of(*limits: int) -> int:
    """The least of the limits of GPUs, of which 0 is none."""
    return min((limit for limit in limits if limit), default=0)


def _layouts(choices: Choices, gpu: Gpu) -> Iterator[dict[str, int]]:
    """Degrees of parallelism, rising."""
    kept = {name: int(value) for name in ("ep", "attention_dp") if (value := choices.columns.get(name))}
    pp = int(choices.columns.get("pp") or 1)
    alone = gpu.segment in ALONE or gpu.unified_memory or gpu.name.startswith(ONE_A_SERVER)
    most = 1 if alone else node_gpus(gpu)
    tps = choices.tps or tuple(tp for tp in SHARING if tp <= most)
    for tp in tps:
        yield {"tp": tp, "pp": pp, **kept}
    if pp == 1 and not choices.tps and gpu.segment in STAGED:
        for stages in STAGES:
            yield {"tp": tps[-1], "pp": stages, **kept}


def _made(choices: Choices, some: Some, changes: Mapping[str, Any], bundle: Bundle) -> Candidate | str:
    """The replica, or why there is none."""
    gpu = some.gpu
    try:
        request = Request.of({**choices.columns, "gpu": gpu.name, **changes})
        resolved = resolve(request, choices.model, gpu)
        if lacking := _unrunnable(resolved.request.dtype or getattr(choices.model, "linear_dtype", ""), gpu):
            return lacking
        workload, note = served_workload(resolved.request, resolved.model, gpu)
        load = load_of(resolved)
        room = room_for(workload, gpu, load, served_by(workload, gpu))
        least = least_of(workload, gpu, load, room, choices.level, bundle)
    except PredictorError as error:
        return one_line(error)
    for name, seconds in (("ttft_p99_s", least.ttft_s), ("tpot_s", least.tpot_s)):
        if seconds > (promised := getattr(choices.level, name)):
            what = "a prompt alone" if name == "ttft_p99_s" else "a token alone"
            return f"{what} takes {time_text(seconds)} at the roofline; {time_text(promised)} are promised."
    gpus = workload.layout.n_gpus
    offer = choices.offer(gpu, gpus * _replicas(load, least), gpus)
    settings = tuple((name, value) for name, value in changes.items() if name in Settings._fields)
    return Candidate(
        resolved,
        workload,
        note,
        load,
        least,
        offer.usd_per_hour if offer else None,
        most_of(some.n_gpus, choices.most_gpus),
        settings,
    )


def variant(one: Candidate, choices: Choices, changes: Mapping[str, Any], bundle: Bundle) -> Candidate | str:
    """A candidate with other columns of its request, or why there is none."""
    request = one.resolved.request
    names = ("engine", "dtype", "tp", "pp", "ep", "attention_dp")
    return _made(
        choices, Some(one.gpu, one.most_gpus), {**{name: getattr(request, name) for name in names}, **changes}, bundle
    )


def _unrunnable(dtype: str, gpu: Gpu) -> str:
    """Why a GPU does not run a format; "" where it does."""
    facts = DTYPES.get(dtype)
    if facts is None or dtype in GROUPED or dtype == "bf16" or any(one in gpu.peak_flop_per_s for one in facts.compute):
        return ""
    return f"no units for {dtype}."


def least_of(workload: Workload, gpu: Gpu, load: Load, room: float, level: ServiceLevel, bundle: Bundle) -> Least:
    """Bounds of a replica under a load. room: tokens that the cache of a group has room for."""
    prompt, cached, output = load.mean_len
    alone = replace(workload, batch=1, input_len=max(round(prompt), 1), output_len=max(round(output), 1), dp=1)
    groups = workload.attention_dp * (1 if workload.pass_tokens else workload.pp)
    held = prompt - load.shared + output / 2
    most = min(float(served_by(workload, gpu).max_sequences), room / max(held, 1.0)) * groups
    counts = np.unique([*BATCHES[max(most, 1.0) > BATCHES], max(int(most), 1)])
    prefill_s, decode_s = _bounds(alone, counts, gpu, bundle)
    new, gain, following = 1 - cached / prompt, load.tokens_per_step, max(output - 1, 0.0)
    tpot_s = decode_s / gain
    kept = tpot_s <= level.tpot_s
    each_s = (prefill_s * new + following * tpot_s) / counts
    best = int(np.argmin(np.where(kept, each_s, np.inf))) if kept.any() else 0
    return Least(float(prefill_s[0] * new), float(tpot_s[0]), 1 / float(each_s[best]), float(counts[best]))


def _bounds(workload: Workload, counts: Any, gpu: Gpu, bundle: Bundle) -> tuple[Any, Any]:
    """Bounds of a pass over the prompts of so many sequences, and of a decode step of them, each (n_counts,)."""

    def of(sized: Workload) -> list[Any]:
        lines = bound_lines(prompt_and_middle_phases(sized), gpu, sized.engine, bundle, sized.links)
        return [bound_of(step, gpu) for step in lines]

    if workload.in_columns:
        ends = of(Workload.column([replace(workload, batch=int(count)) for count in counts]))
        return tuple(np.broadcast_to(end, counts.shape) for end in ends)  # type: ignore[return-value]
    columns = [of(replace(workload, batch=int(count))) for count in counts]
    return tuple(np.array(column) for column in zip(*columns, strict=True))  # type: ignore[return-value]


def check_choices(choices: Choices) -> None:
    """Raises InvalidRequest for what nothing can be tried of."""
    if not isinstance(choices.model, Decoder | LayeredDecoder):
        name = choices.model.name
        raise InvalidRequest(
            f"{name} makes no tokens, and its load is not simulated. Ask `predictor compare` by batch."
        )
    for name, instead in INSTEAD.items():
        if name in choices.columns:
            raise InvalidRequest(f"{name} is {show(choices.columns[name])}; a plan decides it. {instead}")
    for tp in choices.tps:
        whole_number("tp", tp)
    for dtype in choices.dtypes:
        if dtype and dtype not in DTYPES:
            raise InvalidRequest(f"dtype is {show(dtype)}; it must be one of {', '.join(LISTED)}.")
    for engine in choices.engines:
        if engine:
            get_server(engine)
    if not choices.usd_per_hour > 0:
        raise InvalidRequest(
            f"the budget is {choices.usd_per_hour:g} USD/h; it must be above 0. Leave it out for none."
        )
    if choices.most_gpus < 0:
        raise InvalidRequest(f"max_gpus is {choices.most_gpus}; it must be at least 1, or 0 for no limit.")
