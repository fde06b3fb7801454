"""What no worse means: cells and means of two ledgers, their intervals, and rows that both bundles predict."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings, strategies as st
from rewritten import L40S, base_bundle, rewritten, with_cell
from toy import toy_table

from predictor.errors import InvalidBundle, InvalidRequest
from predictor.estimators.bundle import LEDGER, Bundle, load_bundle
from predictor.files import sha256_of
from predictor.learning.calibrate import calibrate
from predictor.measurements.schema import write_table
from predictor.registry.comparison import Comparison, compare, rules_for


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return base_bundle(tmp_path_factory.mktemp("base"))


def compared(champion: Bundle, candidate: Bundle, margin: float = 0.02) -> Comparison:
    return compare(champion, candidate, rules_for(champion, margin))


def said(champion: Bundle, candidate: Bundle) -> list[str]:
    return [str(reason) for reason in compared(champion, candidate).reasons]


def test_a_bundle_passes_against_itself(base: Bundle) -> None:
    for bundle in (base, load_bundle("base-5")):
        found = compared(bundle, bundle, margin=0)
        assert not found.reasons and len(found.common) >= 14 and not len(found.new) and not found.common["change"].any()


def test_a_worse_cell_is_named(base: Bundle, tmp_path: Path) -> None:
    worse = rewritten(base, tmp_path / "worse", with_cell(L40S, mape=0.2, p90_ape=0.4))
    assert said(base, worse) == ["gemm, L40S bf16 vllm, rows-out: error from 10.0 to 20.0 %, limit 15.5 %"]
    assert not said(worse, base)


def test_a_little_worse_everywhere_shows_in_the_mean(base: Bundle, tmp_path: Path) -> None:
    worse = rewritten(base, tmp_path / "worse", lambda ledger: ledger.assign(mape=0.14, p90_ape=0.28))
    assert {line.split(", ")[1] for line in said(base, worse)} == {"mean over cells"}
    assert "gemm, mean over cells, rows-out: error from 10.0 to 14.0 %, limit 13.8 %" in said(base, worse)


def test_few_rows_say_little(base: Bundle, tmp_path: Path) -> None:
    few = rewritten(base, tmp_path / "few", with_cell(L40S, mape=0.2, p90_ape=0.4, rows=12))
    broken = rewritten(base, tmp_path / "broken", with_cell(L40S, mape=0.9, p90_ape=1.2, rows=12))
    assert not said(base, few) and any("L40S bf16 vllm" in line for line in said(base, broken))


@pytest.fixture(scope="module")
def scaled(base: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """The base with errors from half to three times those, in no order."""

    def change(ledger: pd.DataFrame) -> pd.DataFrame:
        scale = 0.5 + 2.5 * np.random.default_rng(4).random(len(ledger))
        return ledger.assign(mape=ledger["mape"] * scale, p90_ape=ledger["p90_ape"] * scale)

    return rewritten(base, tmp_path_factory.mktemp("scaled") / "scaled", change)


@settings(max_examples=10, deadline=None)
@given(margins=st.tuples(st.floats(0, 0.4), st.floats(0, 0.4)))
def test_a_larger_margin_never_refuses_what_a_smaller_one_lets_pass(
    base: Bundle, scaled: Bundle, margins: tuple[float, float]
) -> None:
    small, large = (
        {(reason.rule, reason.cell) for reason in compared(base, scaled, margin).reasons} for margin in sorted(margins)
    )
    assert large <= small


def test_what_is_no_longer_measured_is_named(base: Bundle, tmp_path: Path) -> None:
    without = rewritten(base, tmp_path / "l4", lambda ledger: ledger[(ledger["gpu"] != "L40S")])
    protocols = "class-out, generation-out, gpu-out, rows-out"
    assert said(base, without) == [
        f"{name}, L40S bf16 vllm, {protocols}: no longer measured" for name in ("gemm", "pointwise")
    ]
    without = rewritten(base, tmp_path / "gemm", lambda ledger: ledger[ledger["estimator"] != "gemm"])
    assert len(said(base, without)) == 4 and all(line.startswith("gemm, ") for line in said(base, without))


def test_intervals_of_a_measured_gpu_must_cover(base: Bundle, tmp_path: Path) -> None:
    narrow = rewritten(base, tmp_path / "narrow", with_cell(L40S, coverage=0.5))
    assert said(base, narrow) == ["gemm, L40S bf16 vllm, rows-out: coverage from 80.0 to 50.0 %, limit 60.8 %"]
    assert not said(narrow, narrow) and not said(narrow, base)
    few = rewritten(base, tmp_path / "few", with_cell(L40S, coverage=0.5, rows=12))
    assert not said(base, few)


def test_intervals_of_other_gpus_must_cover_on_the_whole(base: Bundle, tmp_path: Path) -> None:
    one = rewritten(base, tmp_path / "one", with_cell(("gpu-out", "gemm", "H100-SXM-80GB"), coverage=0.5))
    assert not said(base, one)
    for name, coverage in (("narrow", 0.6), ("wide", 1.0)):
        whole = rewritten(base, tmp_path / name, lambda ledger, share=coverage: ledger.assign(coverage=share))
        assert any(
            f"gemm, mean over cells, generation-out: coverage from 80.0 to {100 * coverage:.1f} %" in line
            for line in said(base, whole)
        )


@pytest.mark.parametrize(
    ("protocol", "coverage", "refused"),
    [("generation-out", 0.62, False), ("generation-out", 0.5, True), ("rows-out", 0.62, True)],
)
def test_another_seed_moves_the_coverage_of_whole_generations(
    base: Bundle, tmp_path: Path, protocol: str, coverage: float, refused: bool
) -> None:
    def covering(share: float) -> Bundle:
        def change(ledger: pd.DataFrame) -> pd.DataFrame:
            own = (ledger[["protocol", "estimator"]] == [protocol, "gemm"]).all(axis=1)
            return ledger.assign(coverage=ledger["coverage"].mask(own, share))

        return rewritten(base, tmp_path / f"covering-{share}", change)

    lines = said(covering(0.7), covering(coverage))
    assert any(line.startswith(f"gemm, mean over cells, {protocol}: coverage from 70.0") for line in lines) == refused


def test_new_cells_are_gains(base: Bundle, tmp_path: Path) -> None:
    fewer = rewritten(base, tmp_path / "fewer", lambda ledger: ledger[ledger["gpu"] != "L40S"])
    found = compared(fewer, base)
    assert not found.reasons and set(found.new["gpu"]) == {"L40S"}
    narrow = rewritten(base, tmp_path / "narrow", with_cell(L40S, coverage=0.5))
    assert said(fewer, narrow) == ["gemm, L40S bf16 vllm, rows-out: coverage to 50.0 %, limit 60.8 %"]


def test_a_changed_ledger_and_another_level_are_errors(base: Bundle, tmp_path: Path) -> None:
    other = rewritten(base, tmp_path / "other", level=0.9)
    with pytest.raises(InvalidRequest) as raised:
        compared(base, other)
    assert str(raised.value) == (
        "other has intervals at the 90% level, base at 80%; train the candidate with the level of the champion."
    )
    changed = rewritten(base, tmp_path / "changed")
    (changed.path / LEDGER).write_text((changed.path / LEDGER).read_text().replace("0.1", "0.0"))
    with pytest.raises(InvalidBundle, match=r"ledger.csv is corrupt \(sha256 differs from the manifest\)"):
        compared(base, changed)


def test_what_a_bundle_forgot_counts_as_error(base: Bundle, tmp_path: Path) -> None:
    def learned_on(name: str, moved: float) -> Bundle:
        text = "estimator,gpu,engine,dtype,calls,mean,p90,error\n"
        text += f"gemm,L40S,vllm,bf16,200,{moved},{2 * moved},\n" if moved else ""
        (tmp_path / "forgotten.csv").write_text(text)
        keys = {"start": {"bundle": "base"}, "forgotten_sha256": sha256_of(tmp_path / "forgotten.csv")}
        made = rewritten(base, tmp_path / name, **keys)
        shutil.move(tmp_path / "forgotten.csv", made.path)
        return made

    assert not said(base, learned_on("little", 0.02))
    assert said(base, learned_on("much", 0.1)) == [
        "gemm, L40S bf16 vllm, rows-out: error from 10.0 to 20.0 %, limit 15.5 %"
    ]
    with pytest.raises(InvalidRequest) as raised:
        compared(base, learned_on("blind", 0))
    assert str(raised.value) == (
        "blind learned on from base, which kept nothing of its calls, so that no ledger knows what was forgotten; "
        "give measured rows with --data."
    )


@pytest.fixture(scope="module")
def calibrated(base: Bundle, tmp_path_factory: pytest.TempPathFactory) -> tuple[Bundle, Path, Path]:
    """The base calibrated on an L4 that obeys the toy's law, the rows that did it, and others."""
    folder = tmp_path_factory.mktemp("calibrated")
    for name, seed in (("mine", 5), ("others", 6)):
        write_table(toy_table(("L4",), seed=seed), folder / f"{name}.parquet")
    bundle, _ = calibrate(folder / "mine.parquet", base, folder / "calibrated")
    return bundle, folder / "mine.parquet", folder / "others.parquet"


def test_a_calibration_is_judged_on_rows_that_did_not_make_it(
    base: Bundle, calibrated: tuple[Bundle, Path, Path]
) -> None:
    bundle, mine, others = calibrated
    with pytest.raises(InvalidRequest) as raised:
        compared(base, bundle)
    assert str(raised.value) == (
        f"{bundle.id} is calibrated on L4, of which its ledger knows nothing; "
        "give rows measured there, others than those that calibrated it, with --data."
    )
    with pytest.raises(InvalidRequest, match="rows that calibrated base"):
        compare(base, bundle, rules_for(base), mine)
    found = compare(base, bundle, rules_for(base), others)
    own = found.cells[found.cells["protocol"] == "data"]
    assert not found.reasons and len(own) == 2 and (own["change"] < -0.02).all()
    back = compare(bundle, base, rules_for(base), others).reasons
    assert {reason.cell.protocol for reason in back} == {"data"} and {reason.rule for reason in back} >= {"error"}
