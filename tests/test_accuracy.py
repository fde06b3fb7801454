"""What the released ledger must show: errors on GPUs held out whole, beside both baselines."""

from pathlib import Path

import pandas as pd
import pytest

from predictor.bundle import load_bundle
from predictor.train import LEDGER


@pytest.fixture(scope="module")
def ledger() -> pd.DataFrame:
    bundle = load_bundle()
    return pd.read_csv(Path(bundle.path) / LEDGER, keep_default_na=False, na_values=[""])


def test_every_estimator_has_both_protocols(ledger: pd.DataFrame) -> None:
    for protocol in ("generation-out", "gpu-out"):
        named = set(ledger.loc[ledger["protocol"] == protocol, "estimator"])
        assert named == set(load_bundle().manifest["estimators"])


MISSED = pytest.mark.xfail(strict=True, reason="47.6 % against 42.8 % of the 2-parameter roofline: see EXPERIMENTS.md")


@pytest.mark.parametrize("protocol", ["generation-out", "gpu-out"])
def test_every_estimator_but_one_beats_both_baselines_on_held_out_gpus(ledger: pd.DataFrame, protocol: str) -> None:
    mean = mean_over_gpus(ledger, protocol).drop("mla_decode")
    assert (mean["mape"] < mean["bound_mape"]).all(), mean
    assert (mean["mape"] < mean["roofline2_mape"]).all(), mean


@pytest.mark.parametrize("protocol", [pytest.param("generation-out", marks=MISSED), "gpu-out"])
def test_mla_decode_beats_both_baselines_on_held_out_gpus(ledger: pd.DataFrame, protocol: str) -> None:
    error = mean_over_gpus(ledger, protocol).loc["mla_decode"]
    assert error["mape"] < min(error["bound_mape"], error["roofline2_mape"]), error


def mean_over_gpus(ledger: pd.DataFrame, protocol: str) -> pd.DataFrame:
    found = ledger[ledger["protocol"] == protocol]
    columns = ["mape", "bound_mape", "roofline2_mape"]
    by_gpu = found.groupby(["estimator", "gpu"])[columns].mean()
    return by_gpu.groupby("estimator").mean()


def test_errors_are_fractions_and_intervals_cover(ledger: pd.DataFrame) -> None:
    assert ledger["mape"].between(0, 10).all()
    assert ledger["coverage"].between(0, 1).all()
    weighted = ledger[ledger["protocol"] == "generation-out"].groupby("estimator")["coverage"].mean()
    assert (weighted.between(0.6, 0.95)).all(), weighted
