"""Replays measured end-to-end figures and prints the error by table × GPU × model × metric, absolute and signed.

    predictor validate [--truth FOLDER] [--sources FOLDER] [--bundle NAME] [--only MODULE] [--out FILE.csv]

Each module of training/validation replays one table: `NAME`, `ROOT` ("truth" or "sources") and `replay(root, bundle)`,
which gives a frame of table, gpu, model, engine, metric, measured, predicted, low, high, fitted; of memory also closed,
the closed form alone, whose errors stand beside. A table that is not there is skipped with a word. `fitted` rows chose
a constant; errors are those of the others, where there are any.
"""

from __future__ import annotations

import argparse
import importlib
import os
import sys
from pathlib import Path
from types import ModuleType

import pandas as pd

from predictor.estimators.bundle import Bundle, load_bundle

HERE = Path(__file__).resolve().parent
SHARED = HERE.parents[1] / "shared"
KEYS = ["table", "gpu", "model", "metric"]


def main() -> None:
    """Replay every table that is present."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--truth", type=Path, default=os.environ.get("PREDICTOR_TRUTH", SHARED / "truth"))
    parser.add_argument("--sources", type=Path, default=os.environ.get("PREDICTOR_DATA", SHARED / "sources"))
    parser.add_argument("--bundle", default="")
    parser.add_argument("--only", default="", help="one module of training/validation, such as memory")
    parser.add_argument("--out", type=Path, help="write every replayed row as CSV")
    options = parser.parse_args()
    bundle = load_bundle(options.bundle)
    chosen = [module for module in modules() if options.only in ("", module.__name__)]
    if not chosen:
        sys.exit(f"error: there is no training/validation/{options.only}.py with a replay.")
    found = [replayed(module, options, bundle) for module in chosen]
    frames = [frame for frame in found if frame is not None and len(frame)]
    if not frames:
        sys.exit("error: no table found; give --truth and --sources.")
    rows = pd.concat(frames, ignore_index=True)
    if options.out:
        rows.to_csv(options.out, index=False)
    scored = rows[~rows["fitted"].astype(bool)]
    pd.set_option("display.width", 160, "display.max_rows", 500)
    print(errors(scored, KEYS).to_string())
    print(errors(scored, ["table", "metric"]).to_string())


def modules() -> list[ModuleType]:
    """The modules of training/validation that replay a table, by name."""
    sys.path.insert(0, str(HERE / "validation"))
    found = [importlib.import_module(path.stem) for path in sorted((HERE / "validation").glob("*.py"))]
    return [module for module in found if hasattr(module, "replay")]


def replayed(module: ModuleType, options: argparse.Namespace, bundle: Bundle) -> pd.DataFrame | None:
    """What a module replays; None, and a word on stderr, where its data is absent."""
    root = options.sources if getattr(module, "ROOT", "truth") == "sources" else options.truth
    try:
        return module.replay(Path(root), bundle)
    except FileNotFoundError as error:
        print(f"{module.NAME}: skipped, {error.filename or error} is not there", file=sys.stderr)
        return None


def errors(rows: pd.DataFrame, keys: list[str]) -> pd.DataFrame:
    """Count, median and mean absolute percentage error, signed median, and coverage of the interval, by cell."""
    ratio = rows["predicted"] / rows["measured"] - 1
    inside = ((rows["low"] <= rows["measured"]) & (rows["measured"] <= rows["high"])).where(rows["low"].notna())
    table = rows.assign(error=ratio.abs(), signed=ratio, inside=inside)
    cells = table.groupby(keys, observed=True)
    found = cells.agg(
        rows=("error", "size"),
        median=("error", "median"),
        mean=("error", "mean"),
        signed=("signed", "median"),
        coverage=("inside", "mean"),
    )
    if "closed" in rows and rows["closed"].notna().any():
        closed = (rows["closed"] / rows["measured"] - 1).abs().groupby([rows[key] for key in keys], observed=True)
        found = found.assign(closed_median=closed.median(), closed_mean=closed.mean())
    return found.round(3)


if __name__ == "__main__":
    main()
