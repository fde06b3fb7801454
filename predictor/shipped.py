"""Data files that come with the package."""

from __future__ import annotations

from pathlib import Path
from typing import Any

PACKAGE = Path(__file__).parent


def read_catalogue(file: str) -> dict[str, Any]:
    """The tables of a file in predictor/catalog, by a parser of machine code: tomllib takes a third of a second."""
    import tomli

    return tomli.loads((PACKAGE / "catalog" / file).read_text(encoding="utf-8"))
