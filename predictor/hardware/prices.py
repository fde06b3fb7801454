"""What a GPU costs: dated list prices, rented by the hour or bought, of the catalogue and of a file of one's own.

>>> from predictor.hardware.gpu import get_gpu
>>> offer = price_list().cheapest(get_gpu("A100-SXM-80GB"), n_gpus=2, provider="Lambda")
>>> print(offer)
1 × 8 A100-SXM-80GB of Lambda, on-demand, 22.32 USD/h (2026-09-20)
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, replace
from functools import lru_cache
from math import ceil
from pathlib import Path

from predictor.errors import InvalidRequest
from predictor.hardware.gpu import Gpu
from predictor.hardware.price import KINDS, Ownership, Price
from predictor.hardware.price_files import read_prices
from predictor.shipped import read_catalogue
from predictor.values import did_you_mean, whole_number

OWN_PRICES = "PREDICTOR_PRICES"  # a file of prices that every command reads
_own = ContextVar("own prices", default="")
# What stands for a GPU's price where nobody says which: the first of these that is listed. The others have conditions.
USUAL = ("on-demand", "community", "purchase")


@dataclass(frozen=True, slots=True)
class Offer:
    """A price taken often enough for a number of GPUs.

    n_gpus: asked for. instances: bought or rented. usd_per_hour: of all of them.
    """

    price: Price
    n_gpus: int
    instances: int
    usd_per_hour: float

    @property
    def usd_per_gpu_hour(self) -> float:
        """USD for an hour of one GPU of those that were asked for; idle ones of an instance are paid for by these."""
        return self.usd_per_hour / self.n_gpus

    @property
    def told(self) -> str:
        """What is paid to whom, when that was listed, and where."""
        return f"{self}; {self.price.source}" if self.price.source else str(self)

    def __str__(self) -> str:
        price = self.price
        sold = f"{self.instances} × {f'{price.n_gpus} ' if price.n_gpus > 1 else ''}{price.gpu}"
        place = f" in {price.region}" if price.region else ""
        terms = f"of {price.provider}{place}, {price.kind}"
        if price.kind == "purchase":
            terms = f"bought for {price.purchase_usd:,.0f} USD each ({price.provider}){place}"
        return f"{sold} {terms}, {self.usd_per_hour:.2f} USD/h ({price.dated})"


@dataclass(frozen=True, eq=False)
class PriceList:
    """Prices, and what makes an hour of those of things that are bought. electricity: where its price is from."""

    prices: tuple[Price, ...]
    ownership: Ownership
    electricity: str = ""

    def of(
        self, gpu: Gpu | str, provider: str = "", region: str = "", kind: str | Sequence[str] = ""
    ) -> tuple[Price, ...]:
        """Prices of a GPU, cheapest per GPU and hour first; () where none is listed, as for MIG slices.

        provider, region: in any case, and only theirs. kind: one of KINDS or several; else InvalidRequest.
        """
        name = gpu if isinstance(gpu, str) else gpu.name
        wanted = (kind,) if isinstance(kind, str) and kind else tuple(kind) or KINDS
        for each in wanted:
            if each not in KINDS:
                cure = did_you_mean(each, KINDS, f"it must be one of {', '.join(KINDS)}.", '"')
                raise InvalidRequest(f'kind of price is "{each}"; {cure}')
        found = [
            price
            for price in self.prices
            if price.gpu == name
            and price.kind in wanted
            and (not provider or price.provider.casefold() == provider.casefold())
            and (not region or price.region.casefold() == region.casefold())
        ]
        return tuple(sorted(found, key=lambda price: price.hourly(self.ownership) / price.n_gpus))

    def cheapest(
        self,
        gpu: Gpu | str,
        n_gpus: int = 1,
        provider: str = "",
        region: str = "",
        kind: str | Sequence[str] = "",
        together: int = 1,
    ) -> Offer | None:
        """The least that so many GPUs cost in whole instances of one price; None where no price is listed.

        kind: by default the first of USUAL that is listed. together: GPUs that work on one layer, and so share an
        instance where one of so many is listed; cards that are bought share a machine in any case.
        """
        number = whole_number("n_gpus", n_gpus)
        for kinds in [kind] if kind else USUAL:
            listed = self.of(gpu, provider, region, kinds)
            whole = [
                price for price in listed if max(price.n_gpus, price.up_to) >= together or price.kind == "purchase"
            ]
            offers = [self.offer(price, number) for price in whole or listed]
            if offers:
                return min(offers, key=lambda offer: offer.usd_per_hour)
        return None

    def owned_for(
        self, years: float | None = None, usd_per_kwh: float | None = None, in_use: float | None = None
    ) -> PriceList:
        """The same prices with another use of what is bought; what is None stays."""
        given = {"years": years, "usd_per_kwh": usd_per_kwh, "in_use": in_use}
        ownership = replace(self.ownership, **{name: value for name, value in given.items() if value is not None})
        return replace(
            self,
            ownership=ownership,
            electricity=self.electricity if usd_per_kwh is None else f"{usd_per_kwh:g} USD/kWh",
        )

    def offer(self, price: Price, n_gpus: int) -> Offer:
        """That price for so many GPUs, in whole instances."""
        instances = ceil(n_gpus / price.n_gpus)
        return Offer(price, n_gpus, instances, instances * price.hourly(self.ownership))


@contextmanager
def own_prices(file: str | Path) -> Iterator[None]:
    """Inside, all answers take prices from this file, as from that of PREDICTOR_PRICES; "": nothing changes.

    Raises InvalidSpec, as price_list does, at once.
    """
    token = _own.set(str(Path(file).absolute()) if file else _own.get())
    try:
        price_list()
        yield
    finally:
        _own.reset(token)


def price_list(file: str | Path = "") -> PriceList:
    """The shipped prices, with those of a file (.toml or .csv), by default that of `own_prices`, else the one that
    PREDICTOR_PRICES names.

    A row of the file replaces the shipped one of its provider, region, GPU, n_gpus and kind, and the shipped one that
    names no region, as that held for all; other rows are added.
    `replace = true` at the top of a TOML file drops all shipped prices. Its `[electricity]` and `[ownership]` replace.
    Raises InvalidSpec, which names the row, the rule and the cure.
    """
    path = Path(file or _own.get() or os.environ.get(OWN_PRICES, ""))
    if path == Path():
        return shipped_prices()
    return _with_file(path.absolute(), path.stat().st_mtime_ns if path.is_file() else 0)


@lru_cache(maxsize=1)
def shipped_prices() -> PriceList:
    """The prices of predictor/catalog/prices.toml, each with its date, source and quote."""
    tables = read_catalogue("prices.toml")
    power = tables["electricity"]
    prices = tuple(Price(**row) for row in tables["price"])
    told = f"{power['usd_per_kwh']:g} USD/kWh, {power['date']}, {power['source']}"
    return PriceList(prices, Ownership(tables["ownership"]["years"], power["usd_per_kwh"]), told)


@lru_cache(maxsize=4)
def _with_file(path: Path, changed_ns: int) -> PriceList:
    """Shipped prices with those of a file. changed_ns: of the file, whose old content nobody wants."""
    own, shipped = read_prices(path), shipped_prices()
    taken = {_place(replace(price, region=region)) for price in own.prices for region in ("", price.region)}
    kept = [] if own.replace else [price for price in shipped.prices if _place(price) not in taken]
    ownership = replace(shipped.ownership, **own.ownership)
    told = f"{ownership.usd_per_kwh:g} USD/kWh, {path.name}" if "usd_per_kwh" in own.ownership else shipped.electricity
    return PriceList((*own.prices, *kept), ownership, told)


def _place(price: Price) -> tuple[str, str, str, int, str]:
    return price.provider.casefold(), price.region.casefold(), price.gpu, price.n_gpus, price.kind


def usd_per_hour(gpu: Gpu, n_gpus: int = 1) -> float | None:
    """Cheapest usual list price of one GPU for an hour, among n_gpus in whole instances; None where none is known.

    >>> from predictor.hardware.gpu import get_gpu
    >>> usd_per_hour(get_gpu("H100-SXM-80GB:3g.40gb")) is None
    True
    """
    offer = usual_offer(gpu, n_gpus)
    return None if offer is None else offer.usd_per_gpu_hour


def usual_offer(gpu: Gpu, n_gpus: int = 1, together: int = 1, listed: PriceList | None = None) -> Offer | None:
    """What `usd_per_hour` is of: its `told` says whose price that is, when it was listed and where.

    together: as in PriceList.cheapest. listed: by default the shipped prices and a user's own.
    """
    return _usual_offer(listed or price_list(), gpu.name, n_gpus, together)


@lru_cache(maxsize=4096)  # a job asks for the same few in every row
def _usual_offer(listed: PriceList, gpu: str, n_gpus: int, together: int) -> Offer | None:
    return listed.cheapest(gpu, n_gpus, together=together)


def known_providers(prices: Iterable[Price]) -> list[str]:
    """Names of the providers, in order of the alphabet."""
    return sorted({price.provider for price in prices}, key=str.casefold)
