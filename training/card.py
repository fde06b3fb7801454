"""The model card of a bundle: its accuracy on GPUs it never saw, as tables read from the ledger."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd

from predictor.bundle import MANIFEST
from predictor.train import LEDGER

MARKS = ("<!-- accuracy -->", "<!-- /accuracy -->")
PROTOCOLS = {
    "generation-out": "Generation held out: no GPU of the same microarchitecture was in training",
    "gpu-out": "GPU held out: siblings of the same microarchitecture may have been in training",
}


def write_card(folder: Path) -> None:
    """Write README.md of a bundle folder from its manifest and ledger."""
    manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    ledger = pd.read_csv(folder / LEDGER, keep_default_na=False, na_values=[""])
    parts = [
        f"# Bundle {manifest['id']}",
        "Gradient-boosted estimators of operator latency, one per family and phase. Made by `make release-model`; "
        "every number below is from `ledger.csv`, measured on GPUs that were held out whole.",
        "**Training GPUs:** " + ", ".join(manifest["gpus"]) + ".",
        f"Intervals are at the {manifest['level']:.0%} level. Errors are mean absolute percentage errors over the "
        "cells (engine x dtype) of a GPU, each cell counting the same; beside them the bare roofline bound and a "
        "2-parameter roofline `c0 + c1 * bound` fitted per dtype on the same training GPUs. The ends of the intervals "
        "were set on these same held-out rows, so that coverage is right over all GPUs by construction and only its "
        "differences between GPUs tell something.",
    ]
    for protocol, title in PROTOCOLS.items():
        parts += [f"## {title}", accuracy_table(ledger[ledger["protocol"] == protocol])]
    parts += [
        "## Training rows",
        _markdown([["source", "rows used", "flagged", "rejected"], *[_source(table) for table in manifest["tables"]]]),
        "Sources, licences and quirks: `datasets/README.md`. Recipe: `bundle.json`.",
    ]
    (folder / "README.md").write_text("\n\n".join(parts) + "\n", encoding="utf-8")


def update_readme(readme: Path, folder: Path) -> None:
    """Put the summary of a bundle's ledger between the accuracy marks of the project's README."""
    ledger = pd.read_csv(folder / LEDGER, keep_default_na=False, na_values=[""])
    head, _, rest = readme.read_text(encoding="utf-8").partition(MARKS[0])
    tail = rest.partition(MARKS[1])[2]
    text = (
        f"Bundle `{folder.name}`, mean absolute percentage error of operator latency, mean over GPUs of the mean over "
        f"engines and dtypes; every cell is in [models/{folder.name}](models/{folder.name}/README.md).\n\n"
        + summary_table(ledger)
    )
    readme.write_text(f"{head}{MARKS[0]}\n\n{text}\n\n{MARKS[1]}{tail}", encoding="utf-8")


def summary_table(ledger: pd.DataFrame) -> str:
    """One line per estimator: mean and worst GPU with the generation held out, beside the baselines."""
    by_gpu = ledger.groupby(["protocol", "estimator", "gpu"])[["mape", "bound_mape", "roofline2_mape"]].mean()
    unseen, siblings = by_gpu.loc["generation-out"], by_gpu.loc["gpu-out"]
    lines = [["operator", "GPUs", "generation held out", "worst GPU", "2-parameter roofline", "bound", "GPU held out"]]
    for name, rows in unseen.groupby("estimator"):
        worst = rows["mape"].idxmax()
        lines.append(
            [
                str(name).replace("_", " "),
                str(len(rows)),
                f"{100 * rows['mape'].mean():.1f} %",
                f"{100 * rows['mape'].max():.1f} % ({worst[1]})",
                f"{100 * rows['roofline2_mape'].mean():.1f} %",
                f"{100 * rows['bound_mape'].mean():.1f} %",
                f"{100 * siblings.loc[name, 'mape'].mean():.1f} %",
            ]
        )
    return _markdown(lines)


def accuracy_table(ledger: pd.DataFrame) -> str:
    """One line per estimator and GPU: mean over its cells."""
    columns = ["mape", "median_ape", "signed_median", "latency_weighted", "coverage", "bound_mape", "roofline2_mape"]
    found = ledger.groupby(["estimator", "gpu"])[columns].mean()
    found.insert(0, "rows", ledger.groupby(["estimator", "gpu"])["rows"].sum())
    head = ["op", "GPU", "rows", "error", "median", "signed", "latency-weighted", "coverage", "bound", "2-parameter"]
    lines = [
        [*map(str, key), f"{int(row['rows'])}", *(f"{100 * row[c]:.1f} %" for c in columns)]
        for key, row in found.iterrows()
    ]
    return _markdown([head, *lines])


def _source(table: dict[str, object]) -> list[str]:
    return [str(table["name"]), *(str(table.get(name, 0)) for name in ("accepted", "flagged", "rejected"))]


def _markdown(rows: list[list[str]]) -> str:
    lines = ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join([lines[0], "|" + " --- |" * len(rows[0]), *lines[1:]])
