"""predictor prices: what GPUs cost, when that was listed, and where."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from typer import Argument, Option, Typer

from predictor.cli.common.display import digits, say, show, show_json
from predictor.errors import InvalidRequest
from predictor.values import share_text, whole_number

if TYPE_CHECKING:
    from predictor.hardware.price import Price
    from predictor.hardware.prices import PriceList

MOST_IN_FULL = 20  # prices of which all columns are shown, below each other where they do not fit


def add(app: Typer) -> None:
    """Add the command."""
    app.command()(prices)


def prices(
    gpus: Annotated[list[str] | None, Argument(metavar="[GPU]...", help="By default every GPU with a price.")] = None,
    provider: Annotated[str, Option(help="Only of this provider.")] = "",
    region: Annotated[str, Option(help="Only in this region, by the provider's name for it.")] = "",
    kind: Annotated[str, Option(help="Only on-demand, community, purchase, reserved or spot.")] = "",
    n_gpus: Annotated[int, Option(help="Price of so many GPUs, in whole instances; one line for each price.")] = 1,
    prices: Annotated[
        Path | None, Option(metavar="FILE", help="Prices of your own (.toml, .csv), which replace or extend these.")
    ] = None,
    years: Annotated[float | None, Option(help="Of use of what is bought; by default 3.")] = None,
    in_use: Annotated[float | None, Option(help="Share of those years in which it works; by default 1.")] = None,
    usd_per_kwh: Annotated[float | None, Option(help="Price of electricity for what is bought.")] = None,
    refresh: Annotated[bool, Option("--refresh", help="Write newer prices to --out (extra: prices).")] = False,
    out: Annotated[Path | None, Option(metavar="FILE.csv", help="Where --refresh writes, for --prices.")] = None,
    json: Annotated[bool, Option("--json", help="Print JSON, with the source and its words for each price.")] = False,
) -> None:
    """What GPUs cost: dated list prices, rented by the hour or bought, and where each is from."""
    from predictor.hardware.price_rows import chosen_prices, price_row
    from predictor.hardware.prices import price_list

    n_gpus = whole_number("n_gpus", n_gpus)
    if refresh or out:
        _refresh(out if refresh else None)
        return
    listed = price_list(prices or "").owned_for(years, usd_per_kwh, in_use)
    chosen = chosen_prices(listed, gpus or [], provider, region, kind)
    if json:
        show_json([price_row(price, listed, n_gpus) for price in chosen])
    else:
        _show(chosen, listed, n_gpus)


def _show(chosen: list[Price], listed: PriceList, n_gpus: int) -> None:
    of_all = [f">$/h of {n_gpus:,}"] if n_gpus > 1 else []
    show(
        ["GPU", "provider", "kind", ">GPUs", ">$/h each", *of_all, "date", "region", ">bought for", "source"],
        [
            [
                price.gpu,
                price.provider,
                price.kind,
                str(price.n_gpus),
                f"{price.hourly(listed.ownership) / price.n_gpus:.3f}",
                *([f"{listed.offer(price, n_gpus).usd_per_hour:.2f}"] if of_all else []),
                price.dated,
                price.region or "–",
                f"{price.purchase_usd:,.0f} USD" if price.purchase_usd else "–",
                price.source,
            ]
            for price in chosen
        ],
        keys=2,
        instead="--json" if len(chosen) > MOST_IN_FULL else "",
    )
    say("GPUs: sold together; fewer cannot be had at that price. `--json` has the words of each source.")
    if any(price.kind == "purchase" for price in chosen):
        own = listed.ownership
        use = f"{digits(own.years)} years of use, {share_text(own.in_use)} of the hours"
        say(f"Bought: price over {use}, and the TDP in electricity ({listed.electricity}).")


def _refresh(out: Path | None) -> None:
    from predictor.files import needs_folder
    from predictor.hardware.price_files import write_prices
    from predictor.hardware.price_refresh import fetch_prices

    if out is None:
        raise InvalidRequest("--refresh and --out go together; give both.")
    if out.suffix != ".csv":
        raise InvalidRequest(f"out is {out}; give it the ending .csv.")
    needs_folder(out)
    found, left_out = fetch_prices()
    write_prices(found, out)
    say(f"{len(found)} prices in {out}; {left_out} rows name no GPU of the catalogue. `--prices {out}` takes them.")
