"""The grid: what it draws, what it counts, and that it finds what is wrong."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest

from predictor.cli import main
from predictor.errors import PredictorError
from predictor.estimators.bundle import Bundle, load_bundle
from predictor.hardware.gpu import catalogue
from predictor.ops.dtypes import DTYPES
from predictor.prediction import grid
from predictor.prediction.grid import Place, Tally, ask, places
from predictor.workloads.models import models

SERVED = Place("H100-SXM-80GB", "Qwen2.5-0.5B", "bf16", "serve")
TRAINED = Place("L4", "Qwen2.5-0.5B", "bf16", "train")
EAGER = Place("L4", "bert-base-uncased", "fp16", "serve")


@pytest.fixture(scope="module")
def bundle() -> Bundle:
    return load_bundle()


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(grid, "SIZES", {"batch": (1, 8), "input_len": (16, 40_000), "output_len": (1, 5)})


def test_the_grid_has_every_gpu_model_format_and_phase_once() -> None:
    assert len(set(places(500))) == 500
    assert list(places(20, seed=3)) == list(places(20, seed=3)) != list(places(20, seed=4))
    every = places()
    first = [next(every) for _ in range(2 * len(DTYPES))]
    assert len(set(first)) == len(first) and {place.dtype for place in first} == set(DTYPES)
    assert {place.gpu for place in first} == {next(iter(catalogue()))}
    assert {place.model for place in first} == {next(iter(models()))}


@pytest.mark.parametrize("place", [SERVED, TRAINED, EAGER])
def test_each_question_is_an_answer_or_a_clear_error(place: Place, bundle: Bundle, few: None) -> None:
    tally = Tally()
    ask(place, bundle, tally)
    assert not tally.broken, tally.examples
    assert tally.asked == tally.answered + tally.refused.total()
    assert tally.answered > 0


def test_too_long_prompts_are_one_kind_of_error(bundle: Bundle, few: None) -> None:
    tally = Tally()
    ask(SERVED, bundle, tally)
    assert tally.refused == Counter({"InvalidRequest: input_len + output_len is …": 4})
    assert tally.answered == 4


@pytest.mark.parametrize(("scale", "law"), [(1e-3, "ttft_s is below its bound"), (float("nan"), "is not finite")])
def test_what_breaks_a_law_is_found(
    scale: float, law: str, bundle: Bundle, few: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    from predictor.latency import static_batch

    def wrong(*given: Any) -> Any:
        return static_batch.Interval(*(end * scale for end in right(*given)))

    right = static_batch.staged
    monkeypatch.setattr(static_batch, "staged", wrong)
    monkeypatch.setattr(static_batch, "with_host", lambda workload, engine, ttft, tpot: (ttft, tpot))
    tally = Tally()
    ask(SERVED, bundle, tally)
    assert any(law in name for name in tally.broken)
    assert all("Qwen2.5-0.5B" in example for example in tally.examples.values())


def test_an_error_that_is_no_clear_one_is_a_finding(bundle: Bundle, few: None, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any) -> Any:
        raise ZeroDivisionError("division by zero")

    monkeypatch.setattr(grid, "serving_report", broken)
    tally = Tally()
    ask(SERVED, bundle, tally)
    assert tally.broken == Counter({"ZeroDivisionError: division by zero": 4})
    assert "Traceback" in next(iter(tally.examples.values()))
    assert not issubclass(ZeroDivisionError, PredictorError)


def test_the_command_says_how_many_answers_there_are(
    few: None, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(grid, "places", lambda sample, seed: [SERVED])
    assert main(["grid", "--places", "1"]) == 0
    said = capsys.readouterr().out
    assert "1 place, 8 questions: 4 answers, 4 clear errors." in said.replace("\n", " ")
    assert "Every answer is finite and no faster than its bound." in said
