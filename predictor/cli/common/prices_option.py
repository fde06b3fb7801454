"""--prices FILE: a user's own prices, beside or in place of the shipped ones."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from typer import Option

Prices = Annotated[
    Path | None,
    Option("--prices", metavar="FILE", help="Prices of your own (.toml, .csv), which replace or extend the list."),
]
