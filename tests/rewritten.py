"""Bundles that differ in what a test says: copies with another ledger."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd

from predictor.estimators.bundle import BOOSTERS, LEDGER, MANIFEST, Bundle, load_bundle
from predictor.files import sha256_of

L40S = ("rows-out", "gemm", "L40S")
GPUS = ["A100-SXM-80GB", "H100-SXM-80GB", "H200-SXM-141GB", "L40S"]
STEADY = {"rows": 400, "mape": 0.1, "median_ape": 0.08, "p90_ape": 0.2, "coverage": 0.8}
Change = Callable[[pd.DataFrame], pd.DataFrame]


def base_bundle(folder: Path) -> Bundle:
    """Two operators of the released bundle with steady figures in a few cells: tests say themselves what differs."""
    released = load_bundle("base-5")
    kept = {name: released.manifest["estimators"][name] for name in ("gemm", "pointwise")}

    def change(ledger: pd.DataFrame) -> pd.DataFrame:
        own = ledger["estimator"].isin(list(kept)) & ledger["gpu"].isin(GPUS)
        return ledger[own & (ledger["dtype"] == "bf16") & (ledger["engine"] == "vllm")].assign(**STEADY)

    return rewritten(released, folder / "base", change, estimators=kept)


def rewritten(bundle: Bundle, out: Path, change: Change = lambda ledger: ledger, **keys: Any) -> Bundle:
    """A copy of a bundle with another ledger and other keys of the manifest."""
    out.mkdir()
    change(pd.read_csv(bundle.path / LEDGER)).to_csv(out / LEDGER, index=False)
    manifest = {**bundle.manifest, "id": out.name, **keys, "ledger_sha256": sha256_of(out / LEDGER)}
    for entry in manifest["estimators"].values():
        for booster in BOOSTERS:
            shutil.copy(bundle.path / entry[booster]["file"], out)
    (out / MANIFEST).write_text(json.dumps(manifest))
    return load_bundle(out)


def with_cell(cell: tuple[str, str, str], **figures: float) -> Change:
    """Other figures in one cell of a ledger."""

    def change(ledger: pd.DataFrame) -> pd.DataFrame:
        own = (ledger[["protocol", "estimator", "gpu"]] == list(cell)).all(axis=1)
        assert own.any()
        return ledger.assign(**{name: ledger[name].mask(own, value) for name, value in figures.items()})

    return change
