"""What large matrix products reach on every measured GPU, beside what predictor.hardware.power says that they hold.

    .venv/bin/python training/plateaus.py TABLE.parquet ...

The tables are those that the readers of datasets/ write. The constants of power.py and the energies and
`fp32_issue` of predictor/catalog/architectures.toml were judged by what this prints: the best quarter of the largest
calls, the median over engines, as a share of the peak; and how much higher or lower the law has it.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import pandas as pd

from predictor.hardware.gpu import get_gpu
from predictor.hardware.power import rates
from predictor.measurements.checks import check, usable
from predictor.measurements.schema import read_table
from predictor.ops.dtypes import dtype_facts

SMALLEST_SIDE, LEAST_FLOP, LARGE_FLOP = 1024, 6e10, 1e12
LARGEST = 0.3  # of the calls of a cell, where few are of LARGE_FLOP


def main() -> None:
    """Print a line for each GPU and compute dtype."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tables", nargs="+", type=Path)
    calls = pd.concat([_products(path) for path in parser.parse_args().tables], ignore_index=True)
    cells = calls.groupby(["gpu", "unit", "engine"]).apply(_reached, include_groups=False).rename("reached")
    found = cells.groupby(["gpu", "unit"]).median().reset_index()
    held = [_held(*pair) for pair in zip(found["gpu"], found["unit"], strict=True)]
    found["capability"] = [get_gpu(name).compute_capability for name in found["gpu"]]
    found["held"], found["limited"] = zip(*held, strict=True)
    peaks = [get_gpu(name).peak_flop_per_s[unit] for name, unit in zip(found["gpu"], found["unit"], strict=True)]
    found["nats"] = np.log(found["held"] / found["reached"])
    found[["reached", "held"]] = found[["reached", "held"]].div(peaks, axis=0)
    print(found.sort_values(["capability", "unit", "gpu"]).round(2).to_string(index=False))
    print(f"mean absolute {found['nats'].abs().mean():.3f} nats over {len(found)}")


def _products(path: Path) -> pd.DataFrame:
    """The large products of a table, with their FLOP and the dtype of the unit that multiplies."""
    rows = read_table(path)
    rows = usable(check(rows[rows["family"] == "gemm"].reset_index(drop=True)))
    rows = rows[rows[["m", "n", "k"]].min(axis=1) >= SMALLEST_SIDE].copy()
    rows["flop"] = 2.0 * rows["m"] * rows["n"] * rows["k"] * rows["batch"].fillna(1)
    rows["unit"] = [dtype_facts(dtype).compute[0] for dtype in rows["dtype"]]
    rows = rows[rows["flop"] >= LEAST_FLOP]
    return rows[[unit in get_gpu(gpu).peak_flop_per_s for gpu, unit in zip(rows["gpu"], rows["unit"], strict=True)]]


def _reached(cell: pd.DataFrame) -> float:
    """FLOP/s of the best quarter of the largest calls."""
    large = cell[cell["flop"] >= min(LARGE_FLOP, cell["flop"].quantile(1 - LARGEST))]
    return float((large["flop"] / large["latency_s"]).quantile(0.75))


def _held(name: str, unit: str) -> tuple[float, bool]:
    rate = rates(get_gpu(name), unit)
    return rate.sustained, rate.limited


if __name__ == "__main__":
    main()
