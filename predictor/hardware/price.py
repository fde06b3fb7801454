"""One price that is listed, and what turns the price of a card into that of an hour."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from predictor.errors import InvalidRequest, InvalidSpec
from predictor.hardware.gpu import get_gpu
from predictor.values import did_you_mean

HOURS_PER_YEAR = 8760

# community: a marketplace's or a peer's GPU, without the provider's promise; spot: may be taken away; reserved: for a
# term; purchase: the card, or the computer, itself.
Kind = Literal["on-demand", "community", "purchase", "reserved", "spot"]
KINDS: tuple[str, ...] = get_args(Kind)


@dataclass(frozen=True, slots=True)
class Ownership:
    """What turns the price of a card into that of an hour.

    years: of use, after which it is worth nothing. usd_per_kwh: of electricity. in_use: share of those years in which
    it works; hours without work are paid for by the others and cost no electricity.
    """

    years: float
    usd_per_kwh: float
    in_use: float = 1.0

    def __post_init__(self) -> None:
        if not 0 < self.years <= 50:
            raise InvalidRequest(f"years is {self.years:g}; it must be more than 0 and at most 50.")
        if not 0 <= self.usd_per_kwh <= 5:
            raise InvalidRequest(f"usd_per_kwh is {self.usd_per_kwh:g}; it must be 0 to 5.")
        if not 0 < self.in_use <= 1:
            raise InvalidRequest(f"in_use is {self.in_use:g}; it must be more than 0 and at most 1.")


@dataclass(frozen=True, slots=True)
class Price:
    """One listed price of what is sold as a whole: an instance with its GPUs, a card, a computer.

    gpu: canonical name. n_gpus: in the instance; fewer cannot be had by this price. instance: its name at the provider.
    up_to: GPUs that share an instance at this price of each; 0 where only n_gpus are known to.
    region: "" where the price holds for all, or none is named. kind: one of KINDS.
    usd_per_hour: of the whole instance. purchase_usd: of the whole, where kind is "purchase"; the other is 0.
    power_w: under load, of what is bought; 0 takes the GPUs' TDP. Apple publishes no TDP and sells computers.
    date: when it was listed, as 2026-09-20. source: where. quote: the source's words for it.
    """

    provider: str
    gpu: str
    n_gpus: int = 1
    kind: str = "on-demand"
    usd_per_hour: float = 0.0
    purchase_usd: float = 0.0
    region: str = ""
    instance: str = ""
    up_to: int = 0
    power_w: float = 0.0
    date: str = ""
    source: str = ""
    quote: str = ""

    def hourly(self, ownership: Ownership) -> float:
        """USD of the whole for an hour; of what is bought: price / hours of use + power × price of electricity.

        >>> card = Price("a shop", "RTX-4090", kind="purchase", purchase_usd=1599.0, power_w=450.0)
        >>> round(card.hourly(Ownership(years=3, usd_per_kwh=0.2)), 3)
        0.151
        """
        if self.kind != "purchase":
            return self.usd_per_hour
        wear = self.purchase_usd / (ownership.years * HOURS_PER_YEAR * ownership.in_use)
        electricity = (self.power_w or self.n_gpus * get_gpu(self.gpu).tdp_w) / 1000 * ownership.usd_per_kwh
        return wear + electricity

    @property
    def dated(self) -> str:
        """The date, or that there is none."""
        return self.date or "undated"


def usd_per_mtok(usd_per_hour: float, tokens_per_s: float) -> float:
    """USD for a million tokens of what costs so much an hour and makes so many a second: numbers, or columns.

    >>> usd_per_mtok(3.6, 1000.0)
    1.0
    """
    return usd_per_hour / 3600 / tokens_per_s * 1e6


def checked(price: Price, where: str) -> Price:
    """The price, if it can be one; else InvalidSpec. where: which row it is."""
    from datetime import date

    def wrong(name: str, rule: str) -> InvalidSpec:
        value = getattr(price, name)
        shown = f'"{value}"' if isinstance(value, str) else f"{value:g}"
        return InvalidSpec(f"{name} is {shown} in {where}; {rule}")

    if price.kind not in KINDS:
        raise wrong("kind", did_you_mean(price.kind, KINDS, f"it must be one of {', '.join(KINDS)}.", '"'))
    if not price.provider:
        raise wrong("provider", "name who sells it.")
    if not 1 <= price.n_gpus <= 1024:
        raise wrong("n_gpus", "it must be a whole number from 1 to 1024.")
    if price.up_to and not price.n_gpus <= price.up_to <= 1024:
        raise wrong("up_to", f"it must be 0, or a whole number from n_gpus, {price.n_gpus}, to 1024.")
    paid, other = ("purchase_usd", "usd_per_hour") if price.kind == "purchase" else ("usd_per_hour", "purchase_usd")
    if not 0 < getattr(price, paid) < float("inf"):
        raise wrong(paid, f"the USD of the whole instance must be more than 0; give {paid} to kind {price.kind}.")
    if getattr(price, other):
        raise wrong(other, f"kind {price.kind} has none; give {paid} only.")
    if not 0 <= price.power_w < float("inf"):
        raise wrong("power_w", "it must be at least 0.")
    try:
        date.fromisoformat(price.date or "2000-01-01")
    except ValueError:
        raise wrong("date", "write it as 2026-09-20.") from None
    return price
