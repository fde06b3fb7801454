"""What whole answers reached on runs that others measured, by engine, GPU and figure → models/<id>/validated.csv.

    predictor validate --out rows.csv
    python training/validated.py rows.csv models/<id>/validated.csv

Of configurations that chose no constant and that a request table says; a group of fewer than FEWEST figures tells
nothing and is left out. Errors are shares: median and mean of the absolute error, and how many lie in their interval.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import pandas as pd

from predictor.estimators.bundle import load_bundle
from predictor.hardware.gpu import get_gpu
from predictor.learning.validation.replay import ratio_errors

FEWEST = 5
METRICS = ("ttft_s", "tpot_s", "e2e_s", "tokens_per_s", "step_s")
BY = ["phase", "engine", "gpu", "metric"]


def main() -> None:
    """Read the rows, and write a line of each group."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("rows", type=Path, help="what `predictor validate --out` wrote")
    parser.add_argument("out", type=Path, help="a .csv")
    options = parser.parse_args()
    groups = validated(pd.read_csv(options.rows, low_memory=False))
    level = load_bundle(str(options.out.parent) if (options.out.parent / "bundle.json").is_file() else "").level
    groups.assign(level=level).to_csv(options.out, index=False, float_format="%.4g", lineterminator="\n")
    print(f"{len(groups)} groups of {groups['runs'].sum()} figures: {options.out}")


def validated(rows: pd.DataFrame) -> pd.DataFrame:
    """One row of each phase, engine, GPU of the catalogue and figure."""
    asked = rows["request"].fillna("")
    kept = rows[~rows["fitted"].astype(bool) & rows["metric"].isin(METRICS) & (asked != "")]
    kept = kept[~kept["gpu"].str.contains("=")]  # a GPU that was changed is none of the catalogue
    phases = [json.loads(request).get("phase", "serve") for request in kept["request"]]
    kept = kept.assign(phase=phases, gpu=[get_gpu(name).name for name in kept["gpu"]])
    kept = kept[kept["phase"].isin(("serve", "train"))]
    errors = ratio_errors(kept, BY).reset_index()
    errors = errors[errors["rows"] >= FEWEST].rename(columns={"rows": "runs", "coverage": "covered"})
    return errors[[*BY, "runs", "median", "mean", "covered"]]


if __name__ == "__main__":
    main()
