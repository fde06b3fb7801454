"""Prefill and decode on GPUs of their own, beside a plan's best: how many workers of each keep the same promise.

Workers of both pools are laid out as the replica of the plan. Of first tokens predictor.latency.serving.disaggregated
tells the mean; the wait before prefill is taken to be exponential (its 99th percentile ln(100 ρ) / ρ means), which a
queue of like prompts stays below.
"""

from __future__ import annotations

import math
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from predictor.errors import PredictorError
from predictor.estimators.bundle import Bundle
from predictor.hardware.price import usd_per_mtok
from predictor.hardware.prices import Offer
from predictor.latency.report import Interval
from predictor.latency.serving.disaggregated import Plan as Pools, plan as pools_of
from predictor.planning.candidates import Candidate, Choices
from predictor.planning.search import Deployment
from predictor.planning.service import ServiceLevel, p_below
from predictor.workloads.results import ENDS

# Shares of what is promised that pools are sized for, in the mean, until they keep it surely enough.
SHARES = (0.8, 0.65, 0.5)
PERCENTILE = 100.0
# Columns of a load that predictor.latency.serving.disaggregated does not know.
NOT_POOLED = ("turns", "shared_prefix_len", "prefix_cache_hit_rate", "draft_tokens", "beam_width")


@dataclass(frozen=True, slots=True)
class Pooled:
    """Two pools that keep a promise with p_slo. ttft_p99_s: as above."""

    candidate: Candidate
    pools: Pools
    ttft_p99_s: Interval
    p_slo: float
    holds: bool
    offer: Offer | None

    def row(self) -> dict[str, Any]:
        """One flat row, of names as in Plan.row where they mean the same."""
        pools, one = self.pools, self.candidate
        row: dict[str, Any] = {"gpu": one.gpu.name, "n_gpus": pools.n_gpus}
        row |= {name: getattr(pools, name) for name in ("prefill_workers", "decode_workers")}
        row |= {name: getattr(one.workload, name) for name in ("tp", "pp", "ep", "attention_dp", "dtype")}
        row |= {"kv_dtype": pools.decode.cache_dtype, "engine": pools.prefill.engine}
        figures = {"ttft_s": pools.ttft_s, "ttft_p99_s": self.ttft_p99_s, "tpot_s": pools.tpot_s, "e2e_s": pools.e2e_s}
        figures |= {"requests_per_s": pools.requests_per_s, "tokens_per_s": pools.tokens_per_s}
        for name, figure in figures.items():
            row |= {f"{name}{end}": value for end, value in zip(ENDS, figure, strict=True)}
        hour = self.offer.usd_per_hour if self.offer else None
        row["usd_per_mtok"] = None if hour is None else usd_per_mtok(hour, pools.tokens_per_s.value)
        row |= {"usd_per_hour": hour, "price_source": self.offer.told if self.offer else None}
        row |= {"p_slo": self.p_slo, "holds": self.holds, "basis": pools.basis, "limiter": pools.limiter}
        return row | {"predict": self.predict, "notes": list(pools.notes)}

    @property
    def predict(self) -> str:
        """The command that answers the same."""
        pools, request = self.pools, self.candidate.resolved.request
        words = ["predictor", "disaggregated", request.model, "--gpu", request.gpu, "--dtype", pools.prefill.dtype]
        for pool in ("prefill", "decode"):
            layout = getattr(pools, pool).layout._asdict()
            degrees = {name: value for name, value in layout.items() if name != "dp" and value > 1}
            stated = {f"{pool}_workers": getattr(pools, f"{pool}_workers")}
            stated |= {f"{pool}_{name}": value for name, value in degrees.items()}
            words += [word for name, value in stated.items() for word in (f"--{name.replace('_', '-')}", str(value))]
        words += ["--request-rate", f"{request.request_rate:.15g}", "--input-len", str(request.input_len)]
        return shlex.join([*words, "--output-len", str(request.output_len), "--engine", pools.prefill.engine])


def pooled(best: Sequence[Deployment], choices: Choices, sure: float, bundle: Bundle) -> list[Pooled]:
    """Pools of the workers of each deployment, the fewest that are sure enough; of arrivals at a rate only, each
    alone, and where pools can be at all."""
    found = []
    for one in best:
        request = one.candidate.resolved.request
        if not request.request_rate or request.trace or request.output_len < 2 or request.stated(NOT_POOLED):
            continue
        try:
            tried = [_sized(one.candidate, share, choices, sure, bundle) for share in SHARES[:1]]
            for share in SHARES[1:]:
                if not tried[-1].holds:
                    tried.append(_sized(one.candidate, share, choices, sure, bundle))
        except PredictorError:
            continue
        found.append(
            max(tried, key=lambda pools: (pools.holds, -(pools.pools.n_gpus if pools.holds else 0), pools.p_slo))
        )
    return found


def _sized(one: Candidate, share: float, choices: Choices, sure: float, bundle: Bundle) -> Pooled:
    """Pools sized for a share of what is promised."""
    request, level = one.resolved.request, choices.level
    goal: dict[str, Any] = {name: share * seconds for name, seconds in _means(level).items()}
    names = ("request_rate", "input_len", "output_len", "link", "node_link")
    pools = pools_of(
        one.resolved.model,
        one.gpu,
        prefill=one.workload.layout,
        decode=one.workload.layout,
        bundle=bundle,
        dtype=one.workload.dtype,
        kv_dtype=request.kv_dtype,
        engine=one.workload.engine,
        **{name: getattr(request, name) for name in names},
        **goal,
    )
    p99 = _p99(pools)
    kept = {"ttft_p99_s": p99, "tpot_s": pools.tpot_s, "e2e_s": pools.e2e_s}
    p_slo = math.prod(p_below(kept[name], seconds, bundle.level) for name, seconds in level.promised.items())
    offer = choices.offer(one.gpu, pools.n_gpus, one.n_gpus)
    within = choices.affords(offer) and (not one.most_gpus or pools.n_gpus <= one.most_gpus)
    return Pooled(one, pools, p99, p_slo, p_slo >= sure and within, offer)


def _means(level: ServiceLevel) -> dict[str, float]:
    """What the pools are asked for in the mean."""
    asked = {"max_ttft_s": level.ttft_p99_s, "max_tpot_s": level.tpot_s}
    return {name: seconds for name, seconds in asked.items() if seconds < math.inf}


def _p99(pools: Pools) -> Interval:
    """First tokens of 99 in 100 requests: the mean without its wait, and a wait that is seldom longer."""
    load = min(max(pools.prefill_load, 1e-6), 0.99)
    # Of like prompts the mean wait is ρ / (2 (1 - ρ)) passes (M/D/1).
    waits = load / (2 * (1 - load))
    longer = 1 + waits / (1 + waits) * (max(math.log(PERCENTILE * load), 0.0) / load - 1)
    return Interval(*(max(longer, 1.0) * end for end in pools.ttft_s))
