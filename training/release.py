"""From the measured sources to a released bundle: read every source, train, evaluate, write the model card.

    python training/release.py --from FOLDER [--out models]
    python training/release.py --from FOLDER --only ESTIMATOR ... | --ledger | --classes | --fewshot | --rehearsal
    python training/release.py --from FOLDER --out SCRATCH --without H100 H200

FOLDER holds clones of the upstream repositories (SOURCES; datasets/README.md has their addresses), each under the name
here with - for _; the default is the environment variable PREDICTOR_DATA. About 50 minutes on 2 cores. --only trains
some estimators of a released bundle again; --ledger keeps all and measures its ledger again, --classes the part where
classes of cards are held out, --fewshot what a few rows of a new GPU are worth, --rehearsal what its calls were like.
--without trains as if nobody had measured those GPUs; replay whole models with such a bundle by
`predictor validate --bundle SCRATCH/<id>`.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import pandas as pd
from card import update_front, update_page, write_card

from predictor.errors import PredictorError
from predictor.learning.recipe import read_recipe
from predictor.learning.train import reclass, relearn, relist, remember, renew, train

REPO = Path(__file__).resolve().parents[1]
# Without miopen, whose reader is there: which solvers were tuned sets a call's time there, so that even rows held out
# of a card in training are 40 % off, and NVIDIA's convolutions suffer beside them (EXPERIMENTS.md).
SOURCES = (
    "aiconfigurator",
    "neusight",
    "vidur",
    "llmservingsim",
    "aiter",
    "deepbench",
    "rocblas",
    "hipblaslt",
    "xla",
    "pipeweave",
    "mlx_benchmark",
    "nccl_tests_cluster",
    "gpu_benches",
)
READERS = {"rocblas": "tensile", "hipblaslt": "tensile"}  # of sources whose reader is called otherwise


def main() -> None:
    """Read, train, write the card; any stage that fails stops the release."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--from", dest="root", type=Path, default=os.environ.get("PREDICTOR_DATA"))
    parser.add_argument("--out", type=Path, default=REPO / "models")
    parser.add_argument("--recipe", type=Path, default=REPO / "training" / "recipe.toml")
    parser.add_argument("--ledger", action="store_true", help="only measure the ledger of the released bundle again")
    parser.add_argument("--fewshot", action="store_true", help="only learn the priors of corrections again")
    parser.add_argument("--rehearsal", action="store_true", help="only keep again what the calls were like")
    parser.add_argument("--classes", action="store_true", help="only hold classes of cards out again")
    parser.add_argument(
        "--only", nargs="+", default=[], metavar="ESTIMATOR", help="train these of the released bundle again"
    )
    parser.add_argument(
        "--without", nargs="+", default=[], metavar="GPU", help="leave GPUs out whose names begin so; needs --out"
    )
    options = parser.parse_args()
    if options.without and options.out == REPO / "models":
        parser.error("a bundle without some GPUs is not for release; give --out FOLDER.")
    if options.root is None or not Path(options.root).is_dir():
        parser.error(f"no folder of sources at {options.root}; give --from FOLDER or set PREDICTOR_DATA")
    recipe = read_recipe(options.recipe)
    with tempfile.TemporaryDirectory() as scratch:
        tables = [read_source(name, Path(options.root), Path(scratch)) for name in SOURCES]
        tables = [table for table in tables if keep(table, options.without)]
        try:
            folder = options.out / recipe.id
            again = {
                relist: options.ledger,
                relearn: options.fewshot,
                remember: options.rehearsal,
                reclass: options.classes,
            }
            if options.only:
                bundle = renew(tables, recipe, folder, options.only)
            elif any(again.values()):
                bundle = next(measure for measure, asked in again.items() if asked)(tables, folder)
            else:
                bundle = train(tables, recipe, folder)
        except PredictorError as error:
            sys.exit(f"error: {error}")
    if options.without:
        print(f"trained {bundle.id} without {', '.join(options.without)} in {bundle.path}")
        return
    write_card(bundle.path)
    if options.out == REPO / "models":
        update_page(REPO / "docs" / "accuracy.md", bundle.path)
        update_front(REPO / "README.md", bundle.path)
    print(f"released {bundle.id} in {bundle.path}")


def read_source(name: str, root: Path, scratch: Path) -> Path:
    """Run one reader as a user would; returns the table it wrote."""
    table, clone = scratch / f"{name}.parquet", root / name.replace("_", "-")
    reader = REPO / "datasets" / f"{READERS.get(name, name)}.py"
    subprocess.run([sys.executable, reader, clone, "--out", table], check=True)
    return table


def keep(table: Path, left_out: Sequence[str]) -> bool:
    """Drop the rows of GPUs whose names begin so, such as H100; False where none is left."""
    if not left_out:
        return True
    rows = pd.read_parquet(table)
    rows = rows[~rows["gpu"].astype(str).str.startswith(tuple(left_out))]
    rows.to_parquet(table)
    return len(rows) > 0


if __name__ == "__main__":
    main()
