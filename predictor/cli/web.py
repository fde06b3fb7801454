"""predictor web: the page, and the commands over HTTP."""

from __future__ import annotations

import os
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

from typer import Option, Typer

from predictor.errors import InvalidRequest


def add(app: Typer) -> None:
    """Add the command."""
    app.command()(web)


def web(
    host: Annotated[str, Option(help="Address to listen at; by default this machine alone reaches it.")] = "127.0.0.1",
    port: Annotated[int, Option(help="Port; 0: any that is free.")] = 8000,
    workers: Annotated[int, Option(help="Processes that answer; one in four, at least one, takes slow questions.")] = 2,
    bundle: Annotated[str, Option(help="Released bundle or folder of one; by default the newest.")] = "",
    prices: Annotated[
        Path | None, Option(metavar="FILE", help="Prices of your own (.toml, .csv), which replace or extend the list.")
    ] = None,
) -> None:
    """The page: which GPU, how many, at what price; and the commands over HTTP (extra: web)."""
    for needed in ("starlette", "uvicorn"):
        if find_spec(needed) is None:
            raise InvalidRequest(f"{needed} is not installed; pip install 'gpu-predictor[web]'.")
    from predictor.estimators.bundle import load_bundle
    from predictor.hardware.prices import OWN_PRICES, price_list
    from predictor.web.server import serve

    load_bundle(bundle)  # a wrong one fails here, and so do wrong prices
    price_list(prices or "")
    if own := prices or os.environ.get(OWN_PRICES):
        os.environ[OWN_PRICES] = str(Path(own).absolute())  # processes that answer work in folders of their own
    serve(host, port, bundle, workers)
