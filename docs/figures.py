"""Replays what docs/accuracy.md tells of whole models, and writes its numbers as they are now into claims.toml.

python docs/figures.py [NAME ...]     --truth and --sources as `predictor validate`; then run docs/generate.py
"""

from __future__ import annotations

import argparse
import os
import re
from pathlib import Path

from predictor.estimators.bundle import load_bundle
from predictor.learning.validation.claims import Errors, claims

REPO = Path(__file__).resolve().parents[1]
FILE = REPO / "predictor" / "catalog" / "claims.toml"
SHARED = REPO.parent / "shared"


def main() -> None:
    """Write them, and say what moved."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("names", nargs="*", metavar="NAME")
    parser.add_argument("--truth", type=Path, default=Path(os.environ.get("PREDICTOR_TRUTH", SHARED / "truth")))
    parser.add_argument("--sources", type=Path, default=Path(os.environ.get("PREDICTOR_DATA", SHARED / "sources")))
    given = parser.parse_args()
    text, bundle = FILE.read_text(encoding="utf-8"), load_bundle()
    for name, claim in claims().items():
        if not claim.lines or (given.names and name not in given.names):
            continue
        rows = claim.replayed(given.truth, given.sources, bundle)
        before, *parts = re.split(rf"^(?=\[\[{name}\.lines\]\]$)", text, flags=re.MULTILINE)
        for at, line in enumerate(claim.lines):
            now = line.now(rows)
            if now.rows != line.errors.rows or not line.errors.same_as(now):
                print(f"{name}: {line.label}: {tuple(line.errors)} -> {tuple(round(number, 1) for number in now)}")
            parts[at] = _written(parts[at], now)
        text = before + "".join(parts)
    FILE.write_text(text, encoding="utf-8")


def _written(part: str, errors: Errors) -> str:
    """A part of the file, the first numbers of each name in it replaced."""
    values = {
        "rows": f"{errors.rows}",
        "median": f"{errors.median:.1f}",
        "mean": f"{errors.mean:.1f}",
        "within": f"{errors.within:.0f}",
    }
    for name, value in values.items():
        part = re.sub(rf"^{name} = .*$", f"{name} = {value}", part, count=1, flags=re.MULTILINE)
    return part


if __name__ == "__main__":
    main()
