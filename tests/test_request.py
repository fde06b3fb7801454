"""A request says the same from Python, the command line and a row of a table; a bad cell is an error of its own."""

from __future__ import annotations

import math
from inspect import Parameter, signature
from typing import Any

import pytest
from hypothesis import given, settings, strategies as st

from predictor import answer, get_model, load_bundle, predict, predict_training
from predictor.errors import InvalidRequest, PredictorError
from predictor.estimators.bundle import Bundle
from predictor.hardware.gpu import get_gpu
from predictor.hardware.prices import usual_offer
from predictor.prediction.rows import answer_row
from predictor.workloads.request import Request, columns
from predictor.workloads.results import RESULTS

COLUMNS = [column.name for column in columns()]
ASKED = """model gpu n_gpus engine phase scheduling batch request_rate input_len output_len dtype kv_dtype tp pp dp ep
    attention_dp method optimizer micro_batch grad_accum seq_len checkpointing zero_stage lora_rank"""
ANSWERED = """ttft_s tpot_s e2e_s step_s tokens_per_s tokens_per_s_per_gpu mfu memory_bytes fits usd_per_mtok limiter
    basis bundle error"""


@pytest.fixture(scope="module")
def bundle() -> Bundle:
    return load_bundle()


def ask(**settings: Any) -> Request:
    return Request.of({"model": "Llama-3.1-8B", "gpu": "H100", **settings})


def test_the_table_has_the_columns_that_others_rely_on() -> None:
    assert set(ASKED.split()) <= set(COLUMNS)
    assert set(ANSWERED.split()) <= set(RESULTS)
    assert {f"{name}{end}" for name in ("ttft_s", "tpot_s", "e2e_s", "step_s") for end in ("_low", "_high")} <= set(
        RESULTS
    )


@pytest.mark.parametrize("empty", [None, "", "  ", math.nan])
def test_an_empty_cell_takes_the_default(empty: object) -> None:
    assert ask(batch=empty, dtype=empty, request_rate=empty) == ask()


@pytest.mark.parametrize(("cell", "found"), [("8", 8), (8.0, 8), ("8.0", 8), (8, 8)])
def test_numbers_come_as_text_or_float_too(cell: object, found: int) -> None:
    assert ask(batch=cell).batch == found


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"batch": 0}, "batch is 0; it must be at least 1"),
        ({"batch": "many"}, 'batch is "many"; it must be a number'),
        ({"batch": 1.5}, "batch is 1.5; it must be a whole number"),
        ({"batch": True}, "batch is True; it must be a whole number"),
        ({"tp": -1}, "tp is -1; it must be at least 1"),
        ({"phase": "sleep"}, 'phase is "sleep"; it must be one of serve, train'),
        ({"zero_stage": 4}, "zero_stage is 4; it must be from 0 to 3"),
        ({"request_rate": -1}, "request_rate is -1; it must be a number of at least 0"),
        ({"request_rate": 1e-15}, "request_rate is 1e-15; it must be at least 1e-09, a request in 32 years"),
        ({"request_rate": 1, "scheduling": "static"}, "a static batch has none"),
        ({"draft_tokens": 3}, "draft_tokens is 3; a static batch has none"),
        ({"acceptance": 2}, "acceptance is 2; it must lie between 0 and 1"),
        ({"n_gpus": 3, "tp": 2}, r"n_gpus is 3; tp \* attention_dp \* pp \* dp is 2"),
        ({"gpu": ""}, "gpu is empty"),
    ],
)
def test_what_is_wrong_with_a_cell_is_named(wrong: dict[str, Any], says: str) -> None:
    with pytest.raises(InvalidRequest, match=says):
        ask(**wrong)


def test_gpus_alone_share_every_layer() -> None:
    assert (ask(n_gpus=4).tp, ask(tp=4).n_gpus, ask(tp=2, dp=2).n_gpus) == (4, 4, 4)
    assert ask(n_gpus=2, dp=2).tp == 1


def test_a_setting_that_is_no_column_names_the_nearest() -> None:
    with pytest.raises(InvalidRequest, match="no setting bach; did you mean batch"):
        predict("Llama-3.1-8B", "H100", bach=4)


def test_a_row_comes_back_with_its_columns_first_and_unchanged(bundle: Bundle) -> None:
    row = {"id": "a7", "gpu": "h100", "batch": "4", "model": "llama-3.1-8b", "note": None}
    found = answer_row(row, bundle)
    assert list(found) == [*row, *RESULTS]
    assert {name: found[name] for name in row} == row
    assert found["error"] is None
    same = answer(Request.of(row), bundle)
    assert (found["ttft_s"], found["tpot_s_high"]) == (same.ttft_s.value, same.tpot_s.high)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"model": "Llama-9"}, "Llama-9"),
        ({"gpu": "H999"}, "H999"),
        ({"tp": 3}, "tp is 3"),
        ({"ep": 2}, "ep is 2"),
        ({"input_len": 10**6}, "max_position_embeddings"),
        ({"model": None}, "model is empty"),
    ],
)
def test_a_bad_row_becomes_an_error_in_that_row(bundle: Bundle, change: dict[str, Any], says: str) -> None:
    found = answer_row({"model": "Llama-3.1-8B", "gpu": "H100", **change}, bundle)
    assert says in found["error"]
    assert found["ttft_s"] is None


def test_a_column_named_like_a_result_is_refused(bundle: Bundle) -> None:
    with pytest.raises(InvalidRequest, match="already has a column error"):
        answer_row({"model": "Llama-3.1-8B", "gpu": "H100", "error": ""}, bundle)


@given(
    name=st.sampled_from(COLUMNS),
    cell=st.one_of(st.none(), st.text(max_size=8), st.integers(), st.floats(), st.booleans()),
)
@settings(max_examples=300, deadline=None)
def test_any_cell_is_understood_or_one_clear_error(name: str, cell: object) -> None:
    try:
        Request.of({"model": "m", "gpu": "g", name: cell})
    except PredictorError as error:
        assert 0 < len(str(error)) < 300
        assert "\n" not in str(error)


def test_price_of_tokens_follows_the_price_of_the_gpu() -> None:
    cheap, dear = (predict("Qwen2.5-0.5B", "H100", usd_per_hour=usd).usd_per_mtok for usd in (1.0, 3.0))
    assert cheap is not None and dear == pytest.approx(3 * cheap)
    assert predict("Qwen2.5-0.5B", "MI100").usd_per_mtok is None


def test_a_price_says_whose_it_is_and_when_it_was_listed() -> None:
    row = predict("Qwen2.5-0.5B", "A10", tp=2).to_dict()
    offer = usual_offer(get_gpu("A10"), 2)
    assert offer is not None and row["price_source"] == offer.told
    assert offer.price.date in offer.told and offer.price.source in offer.told
    assert predict("Qwen2.5-0.5B", "A10", usd_per_hour=1.0).to_dict()["price_source"] == "given"
    assert predict("Qwen2.5-0.5B", "MI100").to_dict()["price_source"] == ""


def test_cached_prompts_and_right_drafts_shorten_an_answer() -> None:
    plain, cached, drafted = (
        predict("Qwen2.5-0.5B", "A100", scheduling="continuous", batch=8, **more)
        for more in ({}, {"prefix_cache_hit_rate": 0.9}, {"draft_tokens": 3, "acceptance": 0.8})
    )
    assert cached.ttft_s.value < plain.ttft_s.value
    assert drafted.tpot_s.value < plain.tpot_s.value


def test_training_answers_in_the_same_columns() -> None:
    row = {"model": "Qwen2.5-0.5B", "gpu": "A100", "phase": "train", "train_tokens": 1e9, "micro_batch": "4"}
    found = answer_row(row, load_bundle())
    assert found["error"] is None
    assert found["ttft_s"] is None
    assert 0 < found["step_s_low"] <= found["step_s"] <= found["step_s_high"]
    assert 0 < found["mfu"] < 1
    whole = answer(Request.of(row)).to_dict()
    assert whole["train_s"] == pytest.approx(1e9 / found["tokens_per_s"])


@pytest.mark.parametrize("function", [predict, predict_training])
def test_keywords_are_the_columns_of_a_request(function: Any) -> None:
    """With their types and defaults, so that an editor completes them."""
    columns_of = {column.name: column for column in columns()}
    own = ("model", "gpu", "bundle", "others")
    keywords = {name: p for name, p in signature(function).parameters.items() if name not in own}
    assert all(p.kind is Parameter.KEYWORD_ONLY for p in keywords.values())
    assert {name: (p.annotation, p.default) for name, p in keywords.items()} == {
        name: (columns_of[name].type, columns_of[name].default) for name in keywords
    }


def test_every_column_is_a_keyword_of_one_of_them() -> None:
    keywords = {name for function in (predict, predict_training) for name in signature(function).parameters}
    assert {column.name for column in columns()} - keywords == {"phase"}


def test_training_by_the_spelling_of_before() -> None:
    with pytest.warns(DeprecationWarning, match="predict_training"):
        old = predict("Qwen2.5-0.5B", "A100", phase="train", method="lora", micro_batch=2)
    now = predict_training("Qwen2.5-0.5B", "A100", method="lora", micro_batch=2)
    assert old.to_dict() == now.to_dict()
    with pytest.warns(DeprecationWarning, match="resolve"):
        assert answer(now.request, "", get_model("Qwen2.5-0.5B"), now.gpu).step_s == now.step_s


def test_a_setting_of_training_is_none_of_serving() -> None:
    with pytest.raises(InvalidRequest, match=r"method is a setting of training\. Use predict_training\(\)\."):
        predict("Qwen2.5-0.5B", "A100", method="lora")
