"""Which GPUs, how many, and how they are set, to serve a load within what is promised, at the least cost.

Every replica that starts on a GPU is screened at the roofline, which nothing beats (candidates.py). The cheapest there
are simulated under the load with as many replicas as keep the promises (search.py), until no other can be cheaper. The
best are answered by the door that all requests come through, so that `predictor predict` says the same of them.
"""

from __future__ import annotations

import math
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
MOST_GPUS, FEWEST_OTHERS = 64, 24  # GPUs of which a replica is predicted, and those of them outside of data centres
GPUS_MORE_OF = 12  # GPUs of which other replicas are predicted, too
MOST_SIMULATED = 24
AT_ONCE = 8  # replicas that are simulated before it is asked whether others can be cheaper
OF_A_GPU = 2  # plans of one GPU, where there are others
SLACK = 1.5  # times dearer by the closed form than what holds, beyond which nothing is simulated
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
        self.out = set[str]()  # GPUs with a replica that is lost before it is simulated

    def answer(self) -> Planned:
        """The plans, and all else."""
        all_of, refused = candidates(self.choices, self.bundle)
        self.lost += refused
        left = sorted(all_of, key=_least)
        tried = self._cheapest(left)
        if self.vary:
            tried += self._variants()
        if not any(one.p_slo >= self.sure for one in self.found):
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
        """Simulate those that are expected to be cheapest: of the GPUs that are cheapest at the roofline, and of all of
        data centres, their cheapest replica; then others of those that did best by then or may have, and of those whose
        cheapest is too slow."""
        first, others = _one_of_each(left)
        known = self._expected(_looked_at(first))
        likely = sorted(known, key=lambda each: _cost(each.one, each.likely))
        sure, maybe = ({each.one.gpu.name for each in some[:GPUS_MORE_OF]} for some in (known, likely))
        for names in (sure, (maybe | self.out) - sure):
            known += self._expected([one for one in others if one.gpu.name in names][: 2 * GPUS_MORE_OF])
        ordered, tried = _varied(known), list[Candidate]()
        for start in range(0, MOST_SIMULATED, AT_ONCE):
            most = self._dearest()
            batch = [one for one, hour, _ in ordered[start : start + AT_ONCE] if hour is None or hour <= most]
            if not batch:
                break
            self._simulate(batch)
            tried += batch
        return tried + self._cheaper(known, tried)

    def _cheaper(self, known: Sequence[_Priced], tried: Sequence[Candidate]) -> list[Candidate]:
        """Simulate what may be cheaper than the best if its steps take as long as predicted, though not if they take as
        long as they may."""
        simulated = {id(one) for one in tried}
        best = min((cost for one in self._holding() if (cost := self._hour(one)) is not None), default=math.inf)
        left = [each for each in known if id(each.one) not in simulated and (each.likely or 0.0) < best]
        batch = [each.one for each in sorted(left, key=lambda each: _cost(each.one, each.likely))[:AT_ONCE]]
        self._simulate(batch)
        return batch

    def _expected(self, many: Sequence[Candidate]) -> list[_Priced]:
        """Candidates with the price of the replicas that they are expected to need, cheapest first; others are lost."""
        priced: list[_Priced] = []
        for one, told in zip(many, self.helpers.each(expected, many, self.choices.level), strict=True):
            if isinstance(told, Lost):
                self.lost.append(told)
                self.out.add(one.gpu.name)
                continue
            offers = (self.choices.offer(one.gpu, replicas * one.n_gpus, one.n_gpus) for replicas in told)
            priced.append(_Priced(one, *(offer.usd_per_hour if offer else None for offer in offers)))
        return sorted(priced, key=lambda each: _cost(each.one, each.hour))

    def _dearest(self) -> float:
        """USD for an hour beyond which a candidate can hardly be among the best."""
        known = sorted(cost for one in self._holding() if (cost := self._hour(one)) is not None)
        return SLACK * known[self.shown - 1] if len(known) >= self.shown else math.inf

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

    def _plans(self) -> list[Plan]:
        """The best, few of one GPU, each replica in its best setting, with their reports."""
        chosen: list[Deployment] = []
        most, replicas = max(OF_A_GPU, self.shown // len(self.choices.gpus)), set[tuple[Any, ...]]()
        for one in self._ranked():
            replica = (one.candidate.gpu.name, one.workload.dtype, one.workload.engine, one.candidate.workload.layout)
            if replica in replicas or sum(other[0] == replica[0] for other in replicas) >= most:
                continue
            replicas.add(replica)
            chosen.append(one)
            if len(chosen) == self.shown:
                break
        fronts = pareto_front(
            [(self._hour(one), one.served.ttft_p99_s.value, one.served.tpot_s.value) for one in chosen]
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
        for candidate in sorted(all_of, key=_least):
            if id(candidate) in simulated or candidate.gpu.name in told | self.out:
                continue
            told.add(candidate.gpu.name)
            cost, count = candidate.least_usd_per_hour, candidate.least_gpus
            why = (
                f"not simulated: no price is listed, and {count} are needed even at the roofline."
                if cost is None
                else f"not simulated: even at the roofline {count} are needed, {cost:.2f} USD/h."
            )
            yield Lost(candidate.gpu.name, count, candidate.workload.dtype, candidate.workload.engine, why)

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

        nearest = sorted(candidates(self.choices._replace(level=ServiceLevel()), self.bundle)[0], key=missed)[:NEAREST]
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


def _least(one: Candidate) -> tuple[Any, ...]:
    cost = one.least_usd_per_hour
    return (cost is None, cost or 0.0, one.least_gpus, one.n_gpus)


class _Priced(NamedTuple):
    """A candidate, and USD for an hour of the replicas that it needs by Expected; None where no price is listed."""

    one: Candidate
    hour: float | None
    likely: float | None


def _cost(one: Candidate, hour: float | None) -> tuple[Any, ...]:
    return hour is None, hour or 0.0, one.least_gpus


def _varied(known: Sequence[_Priced]) -> list[_Priced]:
    """Cheapest first, but that no GPU comes a third time before all others did twice."""
    seen: dict[str, int] = {}
    early, late = list[_Priced](), list[_Priced]()
    for each in sorted(known, key=lambda each: _cost(each.one, each.hour)):
        name = each.one.gpu.name
        seen[name] = seen.get(name, 0) + 1
        (early if seen[name] <= OF_A_GPU else late).append(each)
    return early + late


def _looked_at(first: Sequence[Candidate]) -> list[Candidate]:
    """Of the cheapest replica of each GPU, in order, those that are predicted: of data centres all that have a price,
    which are further from cheap at the roofline than under a load."""
    sold = [one for one in first if one.gpu.segment == "data-centre" and one.least_usd_per_hour is not None]
    return sold + [one for one in first if one not in sold][: max(MOST_GPUS - len(sold), FEWEST_OTHERS)]


def _one_of_each(ordered: Sequence[Candidate]) -> tuple[list[Candidate], list[Candidate]]:
    """The first of each GPU, and the rest."""
    first: dict[str, Candidate] = {}
    for one in ordered:
        first.setdefault(one.gpu.name, one)
    chosen = {id(one) for one in first.values()}
    return list(first.values()), [one for one in ordered if id(one) not in chosen]


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
    if served.saturated:
        return f"holds {served.sustainable_rate.value:.3g} requests/s; more arrive."
    if not level.promised:
        return f"starts and keeps up with {share_text(one.p_slo)} only."
    name = max(level.promised, key=lambda name: getattr(served, name).high / level.promised[name])
    value, low, high, promised = map(time_text, (*getattr(served, name), level.promised[name]))
    kept = share_text(one.p_slo)
    return f"{LABELS[name]} is {value} ({low} to {high}), {promised} are promised: all is kept with {kept}."
