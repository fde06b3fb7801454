"""Which GPUs, how many, and how they are set, to serve a load within what is promised, at the least cost.

Every replica that starts on a GPU is screened at the roofline, which nothing beats (candidates.py). The cheapest there
are predicted, and the cheapest of these simulated under the load with as many replicas as keep the promises
(search.py), until no other can be among the best. Those are answered by the door that all requests come through, so
that `predictor predict` says the same of them.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from predictor.errors import InvalidRequest
from predictor.estimators.bundle import Bundle, load_bundle
from predictor.hardware.prices import Offer, PriceList, price_list
from predictor.latency.report import Report
from predictor.latency.serving.traces import read_trace
from predictor.planning.answers import Plan, Planned
from predictor.planning.candidates import Candidate, Choices, Lost, candidates, check_choices, variant
from predictor.planning.fleet import fleet
from predictor.planning.helpers import Helpers
from predictor.planning.pareto import pareto_front
from predictor.planning.pools import pooled
from predictor.planning.search import Deployment, deployments, expected, lessened, met, worth
from predictor.planning.service import LABELS, ServiceLevel, p_below
from predictor.prediction.single import Resolved, answer, load_of
from predictor.values import share_text, time_text
from predictor.workloads.cells import is_empty
from predictor.workloads.models import Model, get_model
from predictor.workloads.request import LOADS, Request, check_names

SURE = 0.8  # probability with which a plan keeps what is promised, unless another is asked for
SHOWN = 10
MOST_PREDICTED, MOST_SIMULATED = 384, 96  # replicas
MOST_HOPELESS = 24  # replicas that are simulated, of those that cannot be sure enough
PREDICTED_AT_ONCE, AT_ONCE = 64, 8  # replicas that are predicted and simulated before others are looked at
OF_A_GPU = 2  # plans of one GPU, where there are others
NEAREST = 4  # replicas that are simulated where nothing keeps what is promised at the roofline
VARIED = 2  # of the cheapest plans, on other engines and settings
POOLED = 1  # of the cheapest, with prefill and decode apart
ENGINES = ("vllm", "sglang", "trtllm")


def plan(
    model: str | Path | Model,
    gpus: str = "all",
    *,
    ttft_p99_s: float = math.inf,
    tpot_s: float = math.inf,
    e2e_s: float = math.inf,
    p_slo: float = SURE,
    max_gpus: int = 0,
    usd_per_hour: float = math.inf,
    dtypes: Sequence[str] = (),
    engines: Sequence[str] = (),
    tps: Sequence[int] = (),
    prices: str | Path | PriceList = "",
    bundle: str | Path | Bundle = "",
    shown: int = SHOWN,
    vary: bool = True,
    jobs: int = 1,
    **columns: Any,
) -> Planned:
    """The cheapest deployments that keep a promise under a load.

    gpus: as in predictor.planning.fleet. ttft_p99_s, tpot_s, e2e_s: seconds promised, as in ServiceLevel. p_slo: how
    surely. max_gpus: in all. usd_per_hour: budget. dtypes, engines, tps: those tried, by default what suits each GPU.
    prices: a list, or a file that is added to the shipped one. shown: plans in the answer. vary: try the best on other
    engines and settings, too. jobs: processes. columns: others of a Request, one of which states the load. Raises
    PredictorError for what cannot be asked.

    >>> best = plan("Qwen3-8B", "L4, L40S", concurrency=8, input_len=500, output_len=100, tpot_s=0.05).plans[0]
    >>> best.holds, best.deployment.replicas
    (True, 1)
    """
    check_names(columns)
    level = ServiceLevel(ttft_p99_s, tpot_s, e2e_s).checked()
    if not 0.5 <= p_slo < 1:
        raise InvalidRequest(f"p_slo is {p_slo:g}; it must be from 0.5 to below 1.")
    if all(is_empty(value := columns.get(name)) or not value for name in LOADS):
        raise InvalidRequest("there is no load; give request_rate, concurrency or a trace.")
    if p_slo > (surest := level.surest(arrivals=not columns.get("concurrency"))):
        raise InvalidRequest(f"p_slo is {p_slo:g}; these promises are kept with {surest:.2f} at most. Ask for no more.")
    if shown < 1:
        raise InvalidRequest(f"shown is {shown}; it must be at least 1.")
    network = get_model(model) if isinstance(model, str | Path) else model
    opened = bundle if isinstance(bundle, Bundle) else load_bundle(bundle)
    listed = prices if isinstance(prices, PriceList) else price_list(prices)
    name = str(model) if isinstance(model, str | Path) else model.name
    choices = Choices(
        network, {**columns, "model": name}, fleet(gpus), listed, dtypes, engines, tps, level, max_gpus, usd_per_hour
    )
    check_choices(choices)
    _check_load(choices)
    with Helpers(jobs, opened) as helpers:
        return _Search(choices, opened, p_slo, shown, vary, helpers).answer()


def _check_load(choices: Choices) -> None:
    """What no GPU can be sent fails once, not on every GPU; raises PredictorError."""
    asked = Request.of({**choices.columns, "gpu": "any"})
    trace = read_trace(asked.trace) if asked.trace else None
    load_of(Resolved(asked, choices.model, choices.gpus[0].gpu, (), None, trace))


class _Search:
    """One search, from candidates to plans."""

    def __init__(self, choices: Choices, bundle: Bundle, sure: float, shown: int, vary: bool, helpers: Helpers) -> None:
        self.choices, self.bundle, self.sure, self.shown, self.vary = choices, bundle, sure, shown, vary
        self.helpers = helpers
        self.found: list[Deployment] = []
        self.lost: list[Lost] = []
        self.predicted: dict[int, _Place] = {}  # by the identity of a candidate
        self.out = set[str]()  # GPUs with a replica that is lost before it is simulated

    def answer(self) -> Planned:
        """The plans, and all else."""
        all_of, refused = candidates(self.choices, self.bundle, self.helpers)
        self.lost += refused
        tried = self._cheapest(sorted(all_of, key=lambda one: (_least(one), one.n_gpus)))
        if self.vary:
            tried += self._variants()
        if not self._sure_enough():
            self._lessen()
        plans = self._plans()
        self.lost += self._not_tried(all_of, tried, plans)
        return Planned(
            load=_load(self.choices.columns),
            plans=tuple(plans),
            pools=tuple(pooled(self._for_pools(), self.choices, self.sure, self.bundle) if self.vary else ()),
            lost=tuple(self.lost),
            level=self.choices.level,
            sure=self.sure,
            screened=len(all_of) + len(refused),
            simulated=len(tried),
            nearest="" if any(plan.holds for plan in plans) else self._nearest(),
            notes=tuple(dict.fromkeys(some.note for some in self.choices.gpus if some.note)),
            bundle=self.bundle.id,
        )

    def _cheapest(self, left: Sequence[Candidate]) -> list[Candidate]:
        """Simulate the cheapest, best first: nothing costs less than at the roofline, nor than its steps are predicted
        to need (`expected`), so that what costs more by either than all that is shown is not among the best.

        left: by what they cost at the roofline.
        """
        waiting, known, tried = deque(left[:MOST_PREDICTED]), list[_Predicted](), list[Candidate]()
        while len(tried) < MOST_SIMULATED:
            worst = self._worst()
            known = [each for each in known if not worst.beats(each.one, each.place)]
            batch = known[:AT_ONCE]
            if waiting and (len(batch) < AT_ONCE or _least(waiting[0]) <= batch[-1].place):
                some = [waiting.popleft() for _ in range(min(PREDICTED_AT_ONCE, len(waiting)))]
                known += self._expected([one for one in some if not worst.beats(one, _least(one))])
                known.sort(key=lambda each: each.place)
                continue
            if not batch or (batch[0].place.hopeless and (len(tried) >= MOST_HOPELESS or self._sure_enough())):
                break
            self._simulate([each.one for each in batch])
            tried += [each.one for each in batch]
            known = known[AT_ONCE:]
        return tried

    def _worst(self) -> _Worst:
        """The places that others have to better."""
        places: dict[str, list[_Place]] = {}
        best = [one for one in self._chosen() if one.p_slo >= self.sure]
        for one in best:
            places.setdefault(one.candidate.gpu.name, []).append(_place(self._hour(one), one.n_gpus))
        return _Worst(
            of_all=_place(self._hour(best[-1]), best[-1].n_gpus) if len(best) == self.shown else None,
            of_gpu={name: some[-1] for name, some in places.items() if len(some) == self._most_of_a_gpu()},
        )

    def _expected(self, many: Sequence[Candidate]) -> list[_Predicted]:
        """Candidates with what the replicas cost that they are expected to need; others are lost."""
        priced: list[_Predicted] = []
        each = self.helpers.each(expected, many, self.choices.level, self.sure, alike=lambda one: one.gpu.name)
        for one, told in zip(many, each, strict=True):
            if isinstance(told, Lost):
                self.lost.append(told)
                self.out.add(one.gpu.name)
                continue
            n_gpus = told.replicas * one.n_gpus
            offer = self.choices.offer(one.gpu, n_gpus, one.n_gpus)
            place = _place(offer.usd_per_hour if offer else None, n_gpus, told.hopeless)
            self.predicted[id(one)] = place
            priced.append(_Predicted(one, place))
        return priced

    def _simulate(self, batch: Sequence[Candidate]) -> None:
        told = self.helpers.each(deployments, batch, self.choices.level, self.sure)
        for one, candidate in zip(told, batch, strict=True):
            if isinstance(one, Lost):
                self.lost.append(one)
            else:
                self.found.append(one._replace(candidate=candidate))  # by its identity, which others lose

    def _variants(self) -> list[Candidate]:
        """The best on other engines, with other steps and other ways to share attention."""
        varied = [
            other
            for deployment in (self._holding() or self._ranked())[:VARIED]
            for changes in _changes(deployment.candidate, bool(self.choices.engines))
            if isinstance(other := variant(deployment.candidate, self.choices, changes, self.bundle), Candidate)
        ]
        self._simulate(varied)
        return varied

    def _lessen(self) -> None:
        """Where nothing holds, take away replicas of the best that hardly make them surer."""
        best = self._ranked()[: self.shown]
        less = self.helpers.each(lessened, best, self.choices.level)
        known = {id(one) for one in best}
        self.found = [one for one in self.found if id(one) not in known] + [
            one._replace(candidate=before.candidate) for one, before in zip(less, best, strict=True)
        ]

    def _for_pools(self) -> list[Deployment]:
        """The cheapest that hold of a few GPUs, whose workers may be prefill and decode workers instead."""
        cheapest = dict[str, Deployment]()
        for one in self._holding():
            cheapest.setdefault(one.candidate.gpu.name, one)
        return list(cheapest.values())[:POOLED]

    def _holding(self) -> list[Deployment]:
        """Those that hold within the budget, the cheapest first."""
        return [one for one in self._ranked() if self._holds(one)]

    def _sure_enough(self) -> bool:
        """Whether any keeps what is promised, at any price."""
        return any(one.p_slo >= self.sure for one in self.found)

    def _holds(self, one: Deployment) -> bool:
        return one.p_slo >= self.sure and self.choices.affords(self._offer(one))

    def _offer(self, one: Deployment) -> Offer | None:
        return self.choices.offer(one.candidate.gpu, one.n_gpus, one.candidate.n_gpus)

    def _hour(self, one: Deployment) -> float | None:
        offer = self._offer(one)
        return offer.usd_per_hour if offer else None

    def _ranked(self) -> list[Deployment]:
        """All that were simulated: those that hold, by cost; then what would, but for the budget; then the others, by
        what they are worth, where a GPU without a price counts as one USD/h."""

        def place(one: Deployment) -> tuple[Any, ...]:
            hour = self._hour(one)
            served = -one.served.sustainable_rate.value if one.served.saturated else 0.0
            cost = (hour is None, hour or 0.0, one.n_gpus, served, -round(one.p_slo, 2), one.served.ttft_p99_s.value)
            if one.p_slo >= self.sure:
                return (0 if self._holds(one) else 1, *cost)
            return (2, -worth(one.p_slo, hour or one.n_gpus), *cost)

        return sorted(self.found, key=place)

    def _chosen(self) -> list[Deployment]:
        """Those that are shown, the best first: few of one GPU, each replica in its best setting."""
        chosen: list[Deployment] = []
        replicas = set[tuple[Any, ...]]()
        for one in self._ranked():
            replica = (one.candidate.gpu.name, one.workload.dtype, one.workload.engine, one.candidate.workload.layout)
            if replica in replicas or sum(other[0] == replica[0] for other in replicas) >= self._most_of_a_gpu():
                continue
            replicas.add(replica)
            chosen.append(one)
            if len(chosen) == self.shown:
                break
        return chosen

    def _most_of_a_gpu(self) -> int:
        return max(OF_A_GPU, self.shown // len(self.choices.gpus))

    def _plans(self) -> list[Plan]:
        """Those that are shown, with their reports."""
        chosen = self._chosen()
        priced = any(self._hour(one) is not None for one in chosen)
        fronts = pareto_front(
            [
                (self._hour(one) if priced else one.n_gpus, one.served.ttft_p99_s.value, one.served.tpot_s.value)
                for one in chosen
            ]
        )
        return [
            Plan(
                deployment=one,
                offer=self._offer(one),
                report=_report(one, self.bundle),
                holds=self._holds(one),
                front=front,
                why=self._why(one, chosen[0]),
            )
            for one, front in zip(chosen, fronts, strict=True)
        ]

    def _why(self, one: Deployment, best: Deployment) -> str:
        """What sets a deployment apart from the best, or why it does not hold."""
        hour, least = self._hour(one), self._hour(best)
        if one.p_slo < self.sure:
            return _weakest(one, self.choices.level)
        if hour is not None and hour > self.choices.usd_per_hour:
            return f"costs {hour:.2f} USD/h; the budget is {self.choices.usd_per_hour:.2f}."
        if hour is None and self.choices.usd_per_hour < math.inf:
            return "no price of this GPU is listed, so that no budget is known to suffice."
        if one is best:
            return "the cheapest that holds." if hour is not None else "holds; no price of this GPU is listed."
        if hour is None or least is None:
            return "holds; no price of this GPU is listed."
        more = hour / least - 1
        size = f"{one.n_gpus} GPU{'s' * (one.n_gpus > 1)} in {one.replicas} replica{'s' * (one.replicas > 1)}"
        return f"holds with {size}, {100 * more:.0f} % dearer." if more > 0.005 else f"holds with {size}, as cheap."

    def _not_tried(
        self, all_of: Sequence[Candidate], tried: Sequence[Candidate], plans: Sequence[Plan]
    ) -> Iterator[Lost]:
        """Of what was not simulated, and of what was but is not shown, one reason for each GPU without a plan."""
        told = {plan.deployment.candidate.gpu.name for plan in plans}
        shown, ranked = {id(plan.deployment) for plan in plans}, self._ranked()
        for one in ranked:
            name = one.candidate.gpu.name
            if id(one) not in shown and name not in told:
                told.add(name)
                candidate = one.candidate
                yield Lost(name, one.n_gpus, one.workload.dtype, candidate.workload.engine, self._why(one, ranked[0]))
        simulated = {id(one) for one in tried}
        places = [(self.predicted.get(id(one)) or _least(one), one) for one in all_of if id(one) not in simulated]
        for place, candidate in sorted(places, key=lambda pair: pair[0]):
            name, workload = candidate.gpu.name, candidate.workload
            if name not in told | self.out:
                told.add(name)
                yield Lost(name, place.n_gpus, workload.dtype, workload.engine, self._unsimulated(candidate, place))

    def _unsimulated(self, one: Candidate, place: _Place) -> str:
        """Why a candidate was not simulated that has that place at best."""
        if place.hopeless:
            promised = time_text(self.choices.level.tpot_s)
            return f"not simulated: {promised} between tokens are not kept so surely, even by one request alone."
        by = "by prediction" if id(one) in self.predicted else "even at the roofline"
        price = "no price is listed" if place.unpriced else f"{place.hour:.2f} USD/h at least"
        return f"not simulated: it takes {place.n_gpus} GPU{'s' * (place.n_gpus > 1)} {by}, {price}."

    def _nearest(self) -> str:
        """What is met, as surely as asked, by what comes nearest to what was promised; "" where nothing starts."""
        level, found = self.choices.level, self.found or self._least_missing()
        within_budget = [one for one in found if self.choices.affords(self._offer(one))]
        if not within_budget:
            hours = [hour for one in found if one.p_slo >= self.sure and (hour := self._hour(one)) is not None]
            return f"the cheapest that does costs {min(hours):.2f} USD/h." if hours else ""
        told = [
            (one, kept) for one in within_budget if (kept := met(one, level, self.sure, self.bundle.level)) is not None
        ]
        if not told:
            most = max(within_budget, key=lambda one: one.served.sustainable_rate.value)
            rate = most.served.sustainable_rate.value
            return f"the most that is held are {rate:.3g} requests/s, by {most.text}."
        one, kept = min(
            told, key=lambda pair: max((pair[1][name] / s for name, s in level.promised.items()), default=0.0)
        )
        figures = ", ".join(f"{LABELS[name]} {time_text(seconds)}" for name, seconds in kept.items())
        return f"the nearest that is met with {share_text(self.sure)}: {figures}, by {one.text}.{self._each_kept()}"

    def _each_kept(self) -> str:
        """How surely the first plan keeps each promise by itself; "" where none was simulated."""
        if not self.found or not self.choices.level.promised:
            return ""
        best = self._ranked()[0]
        told = ", ".join(
            f"{LABELS[name]} ≤ {time_text(seconds)} with "
            f"{share_text(p_below(getattr(best.served, name), seconds, self.bundle.level))}"
            for name, seconds in self.choices.level.promised.items()
        )
        return f" Of what was asked, {best.text} keeps {told}; all of it with {share_text(best.p_slo)}."

    def _least_missing(self) -> list[Deployment]:
        """Where nothing keeps what is promised even at the roofline: what misses it by least there."""
        level = self.choices.level

        def missed(one: Candidate) -> float:
            return max(one.least.ttft_s / level.ttft_p99_s, one.least.tpot_s / level.tpot_s)

        anything = self.choices._replace(level=ServiceLevel())
        nearest = sorted(candidates(anything, self.bundle, self.helpers)[0], key=missed)[:NEAREST]
        told = deployments(nearest, level, self.sure, self.bundle)
        return [one for one in told if isinstance(one, Deployment)]


def _load(columns: Mapping[str, Any]) -> str:
    """ "10 requests/s · 2000 tokens in, 400 out"."""
    request = Request.of({**columns, "gpu": "any"})
    if request.trace:
        return f"the requests of {request.trace}"
    rate = f"{request.request_rate:.15g}" if request.request_rate < 1e4 else f"{request.request_rate:,.0f}"
    come = f"{request.clients:,} client{'s' * (request.clients > 1)}" if request.clients else f"{rate} requests/s"
    return f"{come} · {request.input_len} tokens in, {request.output_len} out"


class _Place(NamedTuple):
    """By what candidates are put in order: USD for an hour of all GPUs, then their number; last what is hopeless."""

    hopeless: bool
    unpriced: bool
    hour: float
    n_gpus: int


def _place(hour: float | None, n_gpus: int, hopeless: bool = False) -> _Place:
    return _Place(hopeless, hour is None, hour or 0.0, n_gpus)


def _least(one: Candidate) -> _Place:
    """At the roofline."""
    return _place(one.least_usd_per_hour, one.least_gpus)


class _Predicted(NamedTuple):
    """A candidate, and its place by Expected, which no simulation betters."""

    one: Candidate
    place: _Place


class _Worst(NamedTuple):
    """The last place that is shown of all plans, None where there is room for more; and of a GPU that is shown as often
    as it may be."""

    of_all: _Place | None
    of_gpu: Mapping[str, _Place]

    def beats(self, one: Candidate, place: _Place) -> bool:
        """Whether a candidate that comes to no better place is not shown."""
        return any(worst and place > worst for worst in (self.of_all, self.of_gpu.get(one.gpu.name)))


def _changes(one: Candidate, engines_asked: bool) -> Iterator[dict[str, Any]]:
    """Columns of a request that make another of a candidate."""
    request = one.resolved.request
    if not engines_asked and request.engine in ENGINES:
        yield from ({"engine": engine} for engine in ENGINES if engine != request.engine)
    if not request.max_num_batched_tokens:
        most = one.workload.engine_on(one.gpu).max_batched_tokens
        yield from ({"max_num_batched_tokens": tokens} for tokens in (most // 4, most * 2))
    experts = getattr(one.workload.model, "experts", 0)
    if experts and request.tp > 1 and request.attention_dp == 1:
        yield {"attention_dp": request.tp, "tp": 1, "ep": request.tp}
        if request.ep == 1:
            yield {"ep": request.tp}


def _report(one: Deployment, bundle: Bundle) -> Report:
    """The answer to the request of a deployment."""
    request = replace(one.candidate.resolved.request, dp=one.replicas, n_gpus=0)
    report = answer(one.candidate.resolved._replace(request=request), bundle)
    assert isinstance(report, Report)
    return report


def _weakest(one: Deployment, level: ServiceLevel) -> str:
    """Which promise is least surely kept."""
    served = one.served
    if served.saturated and (clients := one.candidate.load.concurrency):
        return f"has room for {max(round(served.batch), 1)} of {clients} clients at once; the others wait."
    if served.saturated:
        return f"holds {served.sustainable_rate.value:.3g} requests/s; more arrive."
    if not level.promised:
        return f"starts and keeps up with {share_text(one.p_slo)} only."
    name = max(level.promised, key=lambda name: getattr(served, name).high / level.promised[name])
    value, low, high, promised = map(time_text, (*getattr(served, name), level.promised[name]))
    kept = share_text(one.p_slo)
    return f"{LABELS[name]} is {value} ({low} to {high}), {promised} are promised: all is kept with {kept}."
