"""Listed prices, chosen and as objects of JSON."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict

from predictor.errors import InvalidRequest
from predictor.hardware.gpu import get_gpu
from predictor.hardware.price import Price
from predictor.hardware.prices import PriceList, known_providers
from predictor.values import did_you_mean


def chosen_prices(
    listed: PriceList, names: Sequence[str] = (), provider: str = "", region: str = "", kind: str = ""
) -> list[Price]:
    """The prices of these GPUs, by default of all; raises PredictorError where there are none such."""
    providers = known_providers(listed.prices)
    if provider and provider.casefold() not in map(str.casefold, providers):
        cure = did_you_mean(provider, providers, f"it must be one of {', '.join(providers)}.", '"')
        raise InvalidRequest(f'provider is "{provider}"; {cure}')
    wanted = [get_gpu(name).name for name in names] or sorted({price.gpu for price in listed.prices})
    found = [price for name in wanted for price in listed.of(name, provider, region, kind)]
    if not found:
        which = " ".join(filter(None, (*wanted[:3], kind, provider, region)))
        raise InvalidRequest(f"no price is listed{which and f' for {which}'}; drop an option, or give --prices FILE.")
    return found


def price_row(price: Price, listed: PriceList, n_gpus: int = 1) -> dict[str, object]:
    """A price as an object of JSON, with what so many GPUs cost in whole instances."""
    offer = listed.offer(price, n_gpus)
    return asdict(price) | {
        "usd_per_gpu_hour": price.hourly(listed.ownership) / price.n_gpus,
        "asked_gpus": n_gpus,
        "instances": offer.instances,
        "usd_per_hour_of_all": offer.usd_per_hour,
    }
