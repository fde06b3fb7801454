"""The learned correction of memory: laws of its distribution, and broken files."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings, strategies as st

from predictor.boosters import released_roots
from predictor.errors import InvalidBundle
from predictor.hardware.gpu import get_gpu
from predictor.memory import uncertainty as memory_doubt
from predictor.memory.uncertainty import BUNDLE, FEATURES, MANIFEST, ClosedForm, Spread, doubted, memory_model

FOLDER = next(root / BUNDLE for root in released_roots() if (root / BUNDLE).is_dir())
SPREAD = Spread(0.1, 0.02, tuple(x / 10 for x in range(-20, 21)))
SCORES = st.floats(-50, 50)


@pytest.fixture
def copied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    shutil.copytree(FOLDER, tmp_path / BUNDLE)
    monkeypatch.setattr(memory_doubt, "released_roots", lambda: (tmp_path,))
    memory_model.cache_clear()
    yield tmp_path / BUNDLE
    memory_model.cache_clear()


@settings(deadline=None)
@given(SCORES, SCORES)
def test_a_larger_card_never_runs_out_more_often(one: float, other: float) -> None:
    assert SPREAD.above(max(one, other)) <= SPREAD.above(min(one, other))
    assert 0 <= SPREAD.above(one) <= 1


@settings(deadline=None)
@given(st.floats(0.03, 0.97))
def test_quantiles_and_chances_are_inverse(p: float) -> None:
    assert SPREAD.above(SPREAD.quantile(p)) == pytest.approx(1 - p, abs=1e-6)


def test_more_that_is_not_parameters_is_more_doubtful() -> None:
    assert SPREAD.scale(0.0) == 0.02 < SPREAD.scale(0.5) < SPREAD.scale(1.0)


@settings(deadline=None)
@given(st.floats(1e9, 1e11), st.floats(0, 1))
def test_what_was_not_learned_is_the_closed_form(peak: float, share: float) -> None:
    found = doubted(ClosedForm("serving", peak, share * peak, 1e9, None), get_gpu("H100"))
    assert found["total_bytes"] == pytest.approx(peak + 1e9)
    assert found["correction_bytes"] == found["fragmentation_bytes"] == 0
    assert found["low_bytes"] <= found["total_bytes"] <= found["high_bytes"]


@settings(deadline=None)
@given(st.integers(0, 20), st.floats(0.1, 1.0))
def test_the_correction_rises_with_the_number_of_tokens(tokens: int, more: float) -> None:
    row = dict.fromkeys(FEATURES, 1.0)
    rows = [
        row | {"tokens": float(tokens), "dynamic_share": 0.3},
        row | {"tokens": tokens + more, "dynamic_share": 0.4},
    ]
    (few, many), _ = memory_model().factors(rows)
    assert many >= few


def test_a_changed_booster_is_refused(copied: Path) -> None:
    file = copied / "correction.ubj"
    file.write_bytes(file.read_bytes()[:-1] + b"x")
    with pytest.raises(InvalidBundle, match=r"correction\.ubj is corrupt"):
        memory_model()


@pytest.mark.parametrize("content", ["{", "[]", "{}", '{"format": 1, "features": []}'])
def test_a_broken_manifest_is_refused(content: str, copied: Path) -> None:
    (copied / MANIFEST).write_text(content)
    with pytest.raises(InvalidBundle, match="cannot be used"):
        memory_model()


def test_a_missing_file_is_said(copied: Path) -> None:
    (copied / "fragmentation.ubj").unlink()
    with pytest.raises(InvalidBundle, match="cannot be used"):
        memory_model()
    shutil.rmtree(copied)
    with pytest.raises(InvalidBundle, match="is missing"):
        memory_model()


def test_the_ledger_says_how_often_chances_come_true() -> None:
    """Of families that were held out: 10, 50 and 90 %, within 3."""
    ledger = json.loads((FOLDER / MANIFEST).read_text())["ledger"]
    for line in ledger[ledger.index("share of runs above what is exceeded with a chance of 10 / 50 / 90 %") + 1 :]:
        shares = [int(word) for word in line.split()[1:] if word != "/"]
        assert shares == pytest.approx([10, 50, 90], abs=3)
