"""Other GPUs in place of those one has: ratios of speed, room and cost over a mix of work.

Each fleet does each kind of work in the layout in which it does most of it. Speeds of a mix add up as times: who does
half of the tokens twice as fast and the others as before is 4/3 as fast. Errors of the two fleets are taken to be
independent, as in ServiceLevel.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from predictor.errors import InvalidRequest
from predictor.estimators.bundle import Bundle, load_bundle
from predictor.files import read_toml
from predictor.hardware.prices import Offer, PriceList, price_list
from predictor.latency.report import Interval
from predictor.planning.candidates import offer_of
from predictor.planning.fleet import Some, fleet
from predictor.planning.service import log_error
from predictor.prediction.rows import answer_rows
from predictor.values import show
from predictor.workloads.request import check_names
from predictor.workloads.results import ENDS

DRAWS, SEED = 4000, 0
MOST_SHARE = 1e9
SHARED = (1, 2, 4, 8, 16)  # GPUs that share each layer, of which the fastest way is taken


class Work(NamedTuple):
    """A part of the mix. share: of all tokens. columns: of a Request, without the GPU and its layout."""

    name: str
    share: float
    columns: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Fleet:
    """GPUs of one kind. answers: to each work, in the fastest layout; a row with `error` where it does not run."""

    some: Some
    offer: Offer | None
    answers: tuple[Mapping[str, Any], ...]


@dataclass(frozen=True, slots=True)
class Upgrade:
    """A fleet over the one that there is; intervals at the bundle's level.

    speed: over the mix, of tokens per second, or of the arrivals that are held. of_each: of each work, by name. room:
    memory of all GPUs. cost: USD for an hour; cost_per_token: of a token of the mix. None: not known, or some work does
    not run, which `why` says.
    """

    fleet: Fleet
    speed: Interval | None
    of_each: Mapping[str, Interval]
    room: float
    cost: float | None
    cost_per_token: Interval | None
    why: str

    def row(self) -> dict[str, Any]:
        """One flat row; an interval x is x, x_low and x_high."""
        row: dict[str, Any] = {"gpu": self.fleet.some.gpu.name, "n_gpus": self.fleet.some.n_gpus or 1}
        for name, interval in {"speed": self.speed, "cost_per_token": self.cost_per_token}.items():
            row |= {f"{name}{end}": interval and interval[place] for place, end in enumerate(ENDS)}
        offer = self.fleet.offer
        row |= {"room": self.room, "cost": self.cost, "usd_per_hour": offer.usd_per_hour if offer else None}
        row["price_source"] = offer.told if offer else None
        row["of_each"] = {name: dict(zip(Interval._fields, ratio, strict=True)) for name, ratio in self.of_each.items()}
        return row | {"why": self.why}


def read_mix(path: str | Path) -> list[Work]:
    """The mix of a TOML file: [[work]] tables of a share, maybe a name, and columns of a Request.

    dtype may list several, of which each fleet takes its fastest.

    Raises InvalidRequest for what is none.
    """
    cure = "write [[work]] tables of model, share and columns of a request"
    tables = read_toml(Path(path), cure, InvalidRequest).get("work")
    if not isinstance(tables, list) or not tables or not all(isinstance(table, dict) for table in tables):
        raise InvalidRequest(f"{path} has no work; {cure}.")
    return mix_of(tables, f" of {path}")


def mix_of(tables: Sequence[Mapping[str, Any]], where: str = "") -> list[Work]:
    """The mix of tables as in a TOML file. where: they are from, for errors."""
    mix: list[Work] = []
    for number, table in enumerate(tables, 1):
        columns = dict(table)
        share, name = columns.pop("share", 1.0), str(columns.pop("name", table.get("model", "")))
        if isinstance(share, bool) or not isinstance(share, int | float) or not 0 < share <= MOST_SHARE:
            shown = show(share)
            raise InvalidRequest(f"share is {shown} in work {number}{where}; it must be above 0, and at most 1e9.")
        check_names(columns)
        if taken := [column for column in ("gpu", "n_gpus", "tp", "dp") if column in columns]:
            raise InvalidRequest(f"{taken[0]} is stated in work {number}{where}; the fleets decide it. Drop it.")
        mix.append(Work(f"{name} ({number})" if any(name == other.name for other in mix) else name, share, columns))
    whole = sum(work.share for work in mix)
    return [work._replace(share=work.share / whole) for work in mix]


def upgrade(
    have: str | Some,
    consider: str | Sequence[Some],
    mix: str | Path | Sequence[Work],
    *,
    prices: str | Path | PriceList = "",
    bundle: str | Path | Bundle = "",
) -> list[Upgrade]:
    """Each fleet over the one that there is, the fastest first.

    have, consider: fleets, or their names ("8xA100", "4xH200,8xB200"). mix: kinds of work, or a TOML file of them.
    prices: a list, or a file that is added to the shipped one. Raises PredictorError where the fleet that there is does
    not do the work itself.
    """
    now_some, others = _one_kind(have), fleet(consider) if isinstance(consider, str) else consider
    works = read_mix(mix) if isinstance(mix, str | Path) else mix
    opened = bundle if isinstance(bundle, Bundle) else load_bundle(bundle)
    listed = prices if isinstance(prices, PriceList) else price_list(prices)
    now = _fleet(now_some, works, listed, opened)
    for work, row in zip(works, now.answers, strict=True):
        if row["error"]:
            raise InvalidRequest(f"{now_some.text} does not run {work.name}: {row['error']}")
    found = [_over(now, _fleet(some, works, listed, opened), works, opened.level) for some in others]
    return sorted(found, key=lambda one: -(one.speed.value if one.speed else 0.0))


def _one_kind(have: str | Some) -> Some:
    if isinstance(have, Some):
        return have
    if len(some := fleet(have)) > 1:
        raise InvalidRequest(f'have is "{have}"; it must be GPUs of one kind, such as 8xA100.')
    return some[0]


def _fleet(some: Some, mix: Sequence[Work], listed: PriceList, bundle: Bundle) -> Fleet:
    gpus = some.n_gpus or 1
    answers = []
    for work in mix:
        rows = list(answer_rows([{**work.columns, "gpu": some.gpu.name, **way} for way in _ways(work, gpus)], bundle))
        fitting = [row for row in rows if not row["error"] and row["fits"]]
        speed = speed_of(work)
        answers.append(max(fitting, key=lambda row: row[speed]) if fitting else _refused(rows))
    return Fleet(some, offer_of(listed, some.gpu, gpus, gpus), tuple(answers))


def speed_of(work: Work) -> str:
    """The figure that is compared: of arrivals the rate that is held, for no fleet answers more than come."""
    arriving = work.columns.get("request_rate") or (work.columns.get("trace") and not work.columns.get("concurrency"))
    return "sustainable_rate" if arriving else "tokens_per_s"


def _refused(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The last row, with why it is no answer."""
    last = rows[-1]
    return last if last["error"] else last | {"error": f"needs {last['memory_bytes'] / 1e9:.3g} GB of each GPU."}


def _ways(work: Work, gpus: int) -> Iterator[dict[str, Any]]:
    """Formats, and layouts of all GPUs: replicas of groups that share each layer; in training also shards of one
    replica."""
    training, stated = work.columns.get("phase") == "train", work.columns.get("dtype", "")
    for dtype in stated if isinstance(stated, list) else [stated]:
        for tp in SHARED:
            if gpus % tp:
                continue
            yield {"dtype": dtype, "tp": tp, "dp": gpus // tp}
            if training and gpus // tp > 1 and not work.columns.get("zero_stage"):
                yield {"dtype": dtype, "tp": tp, "dp": gpus // tp, "zero_stage": 3}


def _over(now: Fleet, then: Fleet, mix: Sequence[Work], level: float) -> Upgrade:
    refused = [f"{work.name}: {row['error']}" for work, row in zip(mix, then.answers, strict=True) if row["error"]]
    room = (then.some.n_gpus or 1) * then.some.gpu.mem_bytes / ((now.some.n_gpus or 1) * now.some.gpu.mem_bytes)
    cost = then.offer.usd_per_hour / now.offer.usd_per_hour if then.offer and now.offer else None
    if refused:
        return Upgrade(then, None, {}, room, cost, None, " ".join(refused))
    draws = {
        work.name: _drawn(new, speed_of(work), level, 2 * place) / _drawn(old, speed_of(work), level, 2 * place + 1)
        for place, (work, old, new) in enumerate(zip(mix, now.answers, then.answers, strict=True))
    }
    ratios = {
        work.name: new[speed_of(work)] / old[speed_of(work)]
        for work, old, new in zip(mix, now.answers, then.answers, strict=True)
    }
    speed = 1 / sum(work.share / ratios[work.name] for work in mix)
    speeds = 1 / sum(work.share / draws[work.name] for work in mix)
    of_each = {name: _interval(ratio, draws[name], level) for name, ratio in ratios.items()}
    per_token = None if cost is None else _interval(cost / speed, cost / speeds, level)
    return Upgrade(then, _interval(speed, speeds, level), of_each, room, cost, per_token, "")


def _drawn(row: Mapping[str, Any], speed: str, level: float, place: int) -> Any:
    """A speed as it may turn out, (DRAWS,)."""
    rate = Interval(*(row[f"{speed}{end}"] for end in ENDS))
    errors = np.random.default_rng((SEED, place)).standard_normal(DRAWS)
    wide = np.where(errors > 0, log_error(rate, True, level), log_error(rate, False, level))
    return rate.value * np.exp(errors * wide)


def _interval(value: float, draws: Any, level: float) -> Interval:
    low, high = np.quantile(draws, [(1 - level) / 2, (1 + level) / 2])
    return Interval(value, min(value, float(low)), max(value, float(high)))
