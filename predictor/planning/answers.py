"""What a plan says: deployments with their price, how surely they hold, and what each is started and asked by."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from typing import Any

from predictor.hardware.price import usd_per_mtok
from predictor.hardware.prices import Offer
from predictor.latency.report import Report
from predictor.planning.candidates import Lost
from predictor.planning.launch.command import launched
from predictor.planning.pools import Pooled
from predictor.planning.published import published
from predictor.planning.search import Deployment
from predictor.planning.service import ServiceLevel
from predictor.workloads.request import SPREAD, Request, columns as columns_of
from predictor.workloads.results import ENDS


@dataclass(frozen=True, slots=True)
class Plan:
    """A deployment that was simulated, and how `predictor predict` answers it.

    offer: its price, None where none is listed. report: None where it is not among the best. holds: it keeps what is
    promised as surely as asked. front: no other is cheaper (of fewer GPUs, where none has a price) and faster in first
    tokens and between tokens. why: what sets it apart from the best, or why it does not hold.
    """

    deployment: Deployment
    offer: Offer | None
    report: Report
    holds: bool
    front: bool
    why: str

    @property
    def usd_per_hour(self) -> float | None:
        """Of all GPUs, in whole instances."""
        return self.offer.usd_per_hour if self.offer else None

    @property
    def text(self) -> str:
        """ "5 × (2 × H100-SXM-80GB, fp8, vllm)", so that ten GPUs read as five replicas of two."""
        one = self.deployment.candidate
        own = f"{one.text}{''.join(f', {name} {value}' for name, value in one.settings)}"
        return f"{self.deployment.replicas} × ({own})" if self.deployment.replicas > 1 else own

    @property
    def request(self) -> Request:
        """What `predictor predict` is asked."""
        assert self.report.request
        return self.report.request

    @property
    def users(self) -> float:
        """Requests under way in one replica (Little's law)."""
        served = self.deployment.served
        return served.requests_per_s.value * served.e2e_s.value / self.deployment.replicas

    def _apart(self) -> list[str]:
        """What to say where no instance is listed with as many GPUs as share a model."""
        needed, price = self.deployment.candidate.n_gpus, self.offer.price if self.offer else None
        if price is None or not price.provider or price.kind == "purchase" or max(price.n_gpus, price.up_to) >= needed:
            return []
        name = self.deployment.candidate.gpu.name
        most = max(price.n_gpus, price.up_to)
        return [f"{name} is listed by at most {most} an instance; ask for servers of {needed}."]

    def _prices(self) -> dict[str, Any]:
        """What a request costs, in parts: prompts and answers pay for the time that each take of the GPUs.

        kwh_per_mtok: of tokens that come out, where all boards draw as much as they may.
        """
        deployment, served = self.deployment, self.deployment.served
        names = ("usd_per_mtok_input", "usd_per_mtok_output")
        watts = deployment.n_gpus * deployment.candidate.gpu.tdp_w
        energy = watts / 3.6e6 / served.tokens_per_s.value * 1e6 if watts else None
        if self.usd_per_hour is None:
            return {**dict.fromkeys((*names, "usd_per_1k_requests")), "kwh_per_mtok": energy}
        request_usd, (prompt, _, output) = self.usd_per_hour / 3600 / served.requests_per_s.value, served.mean_len
        shares = deployment.prompt_share, 1 - deployment.prompt_share
        each = [request_usd * share / tokens * 1e6 for share, tokens in zip(shares, (prompt, output), strict=True)]
        return {**dict(zip(names, each, strict=True)), "usd_per_1k_requests": 1e3 * request_usd, "kwh_per_mtok": energy}

    def row(self) -> dict[str, Any]:
        """One flat row, its names those of `predictor plan --json`; an interval x is x, x_low and x_high."""
        deployment, served = self.deployment, self.deployment.served
        one, workload = deployment.candidate, deployment.workload
        launch = launched(self.request, workload, one.gpu)
        row: dict[str, Any] = {
            "gpu": one.gpu.name,
            "n_gpus": deployment.n_gpus,
            "replicas": deployment.replicas,
            **{name: getattr(workload, name) for name in ("tp", "pp", "ep", "attention_dp", "dtype")},
            "kv_dtype": workload.cache_dtype,
            "engine": workload.engine,
            **dict(one.settings),
        }
        names = ("ttft_s", "ttft_p99_s", "tpot_s", "tpot_p99_s", "e2e_s", "tokens_per_s", "requests_per_s")
        for name in (*names, "sustainable_rate"):
            row |= {f"{name}{end}": value for end, value in zip(ENDS, getattr(served, name), strict=True)}
        hour = self.usd_per_hour
        per_s = (served.tokens_per_s.value, served.tokens_per_s.high, served.tokens_per_s.low)
        for end, rate in zip(ENDS, per_s, strict=True):
            row[f"usd_per_mtok{end}"] = None if hour is None else usd_per_mtok(hour, rate)
        row |= self._prices()
        row |= {
            "usd_per_hour": hour,
            "price_date": self.offer.price.date if self.offer else None,
            "price_source": self.offer.told if self.offer else None,
            "users_per_replica": self.users,
            "p_slo": deployment.p_slo,
            "holds": self.holds,
            "front": self.front,
            "memory_bytes": float(deployment.memory.total_bytes),
            "p_oom": float(deployment.memory.p_oom),
            "limiter": self.report.limiter,
            "basis": self.report.basis,
            "nearest_gpu": self.report.nearest_gpu,
            "why": self.why,
            "command": launch.command,
            "predict": predicted_by(self.request),
            "published": [str(said) for said in published(workload.model.name, one.gpu)],
            "notes": [*self.report.notes, *launch.notes, *self._apart()],
        }
        return row


@dataclass(frozen=True, slots=True)
class Planned:
    """The answer.

    load: what is served, in words. plans: the best, those that hold first, the cheapest of them first. pools: prefill
    and decode apart, on the GPUs of the cheapest. lost: all else, and why. nearest: where nothing holds, what is met
    nearest to what was promised. screened: replicas that were looked at; simulated: those of them that were.
    """

    load: str
    plans: tuple[Plan, ...]
    pools: tuple[Pooled, ...]
    lost: tuple[Lost, ...]
    level: ServiceLevel
    sure: float
    screened: int
    simulated: int
    nearest: str
    notes: tuple[str, ...]
    bundle: str

    @property
    def holds(self) -> bool:
        """Whether anything keeps what is promised as surely as asked."""
        return any(plan.holds for plan in self.plans)

    def to_dict(self) -> dict[str, Any]:
        """What `predictor plan --json` prints."""
        return {
            "plans": [plan.row() for plan in self.plans],
            "disaggregated": [pools.row() for pools in self.pools],
            "lost": [lost._asdict() for lost in self.lost],
            "promised": self.level.promised,
            "p_slo": self.sure,
            "nearest": self.nearest or None,
            "screened": self.screened,
            "simulated": self.simulated,
            "notes": list(self.notes),
            "bundle": self.bundle,
        }


def predicted_by(request: Request) -> str:
    """The command that answers a request."""
    words = ["predictor", "predict", request.model, "--gpu", request.gpu]
    follows = {"tp": 1, "dp": 1, "length_spread": SPREAD}  # where nobody says
    for column in columns_of():
        value = getattr(request, column.name)
        if column.name in ("model", "gpu", "n_gpus", "scheduling") or value in ("", None, column.default):
            continue
        if value == follows.get(column.name):
            continue
        option = column.name.replace("_", "-")
        if isinstance(value, bool):
            words.append(f"--{option}" if value else f"--no-{option}")
        else:
            words += [f"--{option}", f"{value:.15g}" if isinstance(value, float) else str(value)]
    return shlex.join(words)
