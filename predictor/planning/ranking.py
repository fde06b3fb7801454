"""One question put to many GPUs, in order: which is best by a figure, how surely it beats the next, and at what price
another would be as good.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from predictor.errors import InvalidRequest
from predictor.estimators.bundle import Bundle, load_bundle
from predictor.hardware.gpu import Gpu
from predictor.hardware.price import usd_per_mtok
from predictor.hardware.prices import Offer, PriceList, price_list
from predictor.latency.report import Interval
from predictor.planning.candidates import offer_of
from predictor.planning.fleet import Some, fleet
from predictor.planning.published import published
from predictor.planning.service import p_less
from predictor.prediction.rows import answer_rows
from predictor.workloads.architectures.single_pass import IMAGES, inputs_of
from predictor.workloads.models import get_model
from predictor.workloads.request import check_names
from predictor.workloads.results import ENDS


class Order(NamedTuple):
    """A figure by which GPUs are ranked. text: of a heading. rises: more of it is better."""

    text: str
    rises: bool = False


ORDERS: Mapping[str, Order] = {
    "usd_per_mtok": Order("price of a million tokens"),
    "usd_per_hour": Order("price of an hour"),
    "ttft_s": Order("time to the first token"),
    "tpot_s": Order("time of a token"),
    "e2e_s": Order("time to the last token"),
    "step_s": Order("time of a step"),
    "usd_per_million_inputs": Order("price of a million images or sequences"),
    "inputs_per_s": Order("images or sequences per second", rises=True),
    "tokens_per_s": Order("tokens per second", rises=True),
    "tokens_per_s_per_gpu": Order("tokens per second of a GPU", rises=True),
    "tokens_per_s_per_w": Order("tokens per second of a watt", rises=True),
    "sustainable_rate": Order("requests per second that are held", rises=True),
    "max_concurrent_requests": Order("requests that have room at once", rises=True),
}


@dataclass(frozen=True, slots=True)
class Compared:
    """A GPU's place. row: the answer to its request, with what is said here beside; an interval x is x, x_low, x_high.

    offer: its price; None where none is listed. p_beats_next: probability that it is better than the next by the figure
    they are ranked by; None of the last. break_even_usd_per_hour: of one GPU, at which a million tokens cost what they
    cost on the first; None where its own price is not known.
    """

    gpu: Gpu
    row: Mapping[str, Any]
    offer: Offer | None
    p_beats_next: float | None = None
    break_even_usd_per_hour: float | None = None

    def interval(self, name: str) -> Interval | None:
        """A figure of the row; None where there is none."""
        ends = [self.row.get(f"{name}{end}") for end in ENDS]
        return None if ends[0] is None else Interval(*(ends[0] if end is None else end for end in ends))

    def to_dict(self) -> dict[str, Any]:
        """One flat row."""
        told = {"p_beats_next": self.p_beats_next, "break_even_usd_per_hour": self.break_even_usd_per_hour}
        return {**self.row, **told, "published": self.published}

    @property
    def published(self) -> list[str]:
        """What is public of the model on this GPU."""
        return [str(one) for one in published(get_model(str(self.row["model"])).name, self.gpu)]


def compare(
    model: str,
    gpus: str = "all",
    *,
    sort: str = "",
    fit_only: bool = False,
    prices: str | Path | PriceList = "",
    bundle: str | Path | Bundle = "",
    **columns: Any,
) -> list[Compared]:
    """The GPUs, best first; those that have no answer come last, with its reason in `error`.

    gpus: as in predictor.planning.fleet; "8xH100" asks for eight. sort: one of ORDERS, by default usd_per_mtok where
    any price is listed. fit_only: leave out what does not fit in memory, or has no answer. prices: as in `plan`.
    columns: others of a Request. Raises PredictorError for what cannot be asked, and where no GPU has an answer.

    >>> [one.gpu.name for one in compare("Llama-3.1-8B", "L4, H100", sort="tpot_s")]
    ['H100-SXM-80GB', 'L4']
    """
    check_names(columns)
    if sort and sort not in ORDERS:
        raise InvalidRequest(f'sort is "{sort}"; it must be one of {", ".join(ORDERS)}.')
    get_model(model)  # a wrong name fails here
    opened = bundle if isinstance(bundle, Bundle) else load_bundle(bundle)
    listed = prices if isinstance(prices, PriceList) else price_list(prices)
    asked = fleet(gpus)
    rows = answer_rows([_request(model, some, columns) for some in asked], opened)
    found = [_priced(some, row, listed, columns) for some, row in zip(asked, rows, strict=True)]
    if all(one.row["error"] for one in found):
        raise InvalidRequest(_refusal(found))
    if fit_only:
        found = [one for one in found if one.row["fits"] and not one.row["error"]]
    return _ranked(found, sort or usual_order(found), opened.level)


def _refusal(found: Sequence[Compared]) -> str:
    """Why no GPU has an answer: what they have in common, or what some of them say."""
    if len(reasons := {one.row["error"] for one in found}) == 1:
        return str(reasons.pop())
    return " ".join(dict.fromkeys(f"{one.gpu.name}: {one.row['error']}" for one in found[:3]))


def _request(model: str, some: Some, columns: Mapping[str, Any]) -> dict[str, Any]:
    counted = {"n_gpus": some.n_gpus} if some.n_gpus else {}
    return {"model": model, "gpu": some.gpu.name, **columns, **counted}


def _priced(some: Some, row: dict[str, Any], listed: PriceList, columns: Mapping[str, Any]) -> Compared:
    """An answer with its price, and what it gives for a watt."""
    gpus = int(row.get("n_gpus") or some.n_gpus or 1)
    together = gpus // int(columns.get("dp") or 1)
    offer = offer_of(listed, some.gpu, gpus, together, float(columns.get("usd_per_hour") or 0.0))
    hour, watts = offer.usd_per_hour if offer else None, gpus * some.gpu.tdp_w
    for end, other in zip(ENDS, ("", "_high", "_low"), strict=True):
        rate, dearest = row.get(f"tokens_per_s{end}"), row.get(f"tokens_per_s{other}")
        row[f"usd_per_mtok{end}"] = usd_per_mtok(hour, dearest) if hour is not None and dearest else None
        row[f"tokens_per_s_per_w{end}"] = rate / watts if rate and watts else None
    _add_inputs(row, hour, watts, columns)
    row |= {"usd_per_hour": hour, "price_date": offer.price.date if offer else None}
    row["price_source"] = offer.told if offer else None
    return Compared(some.gpu, row, offer)


def _add_inputs(row: dict[str, Any], hour: float | None, watts: float, columns: Mapping[str, Any]) -> None:
    """Of a model that answers in one pass, images or sequences per second, for a watt, and the price of a million."""
    inputs = inputs_of(get_model(str(row["model"]))) if columns.get("phase") != "train" else ""
    row["inputs"] = inputs or None
    for end, other in zip(ENDS, ("", "_high", "_low"), strict=True):
        seconds = row.get(f"e2e_s{other}") if inputs else None
        rate = int(columns.get("batch") or 1) / seconds if seconds else None
        row[f"inputs_per_s{end}"] = rate
        row[f"inputs_per_s_per_w{end}"] = rate / watts if rate and watts else None
        cheapest = int(columns.get("batch") or 1) / row[f"e2e_s{end}"] if seconds else None
        row[f"usd_per_million_inputs{end}"] = usd_per_mtok(hour, cheapest) if hour is not None and cheapest else None


def usual_order(found: Sequence[Compared]) -> str:
    """The figure by which they are ranked where nobody says."""
    of_images = any(one.row.get("inputs") == IMAGES for one in found)
    price, rate = ("usd_per_million_inputs", "inputs_per_s") if of_images else ("usd_per_mtok", "tokens_per_s")
    return price if any(one.row[price] is not None for one in found) else rate


def _ranked(found: Sequence[Compared], sort: str, level: float) -> list[Compared]:
    """Those with the figure, best first, then those that do not fit, then those without an answer."""
    sign = -1 if ORDERS[sort].rises else 1

    def place(one: Compared) -> tuple[Any, ...]:
        figure = one.row.get(sort)
        fits = bool(one.row["fits"]) and not one.row["error"]
        return bool(one.row["error"]), not fits, figure is None, sign * (figure or 0.0)

    ordered = sorted(found, key=place)
    best = ordered[0].row["usd_per_mtok"] if ordered else None
    return [
        Compared(one.gpu, one.row, one.offer, _beats(one, after, sort, level), _break_even(one, best))
        for one, after in zip(ordered, [*ordered[1:], None], strict=False)
    ]


def _beats(one: Compared, after: Compared | None, sort: str, level: float) -> float | None:
    """Probability that a GPU is better than the next; None where the next has no room, and so is no rival."""
    if after and one.row["fits"] and not after.row["fits"]:
        return None
    first, second = one.interval(sort), after.interval(sort) if after else None
    if first is None or second is None:
        return None
    return p_less(second, first, level) if ORDERS[sort].rises else p_less(first, second, level)


def _break_even(one: Compared, best: float | None) -> float | None:
    """USD for an hour of one GPU at which its tokens cost as much as on the first."""
    rate, gpus = one.row.get("tokens_per_s"), one.row.get("n_gpus")
    if best is None or not rate or not gpus:
        return None
    return float(best * rate * 3600 / 1e6 / gpus)
