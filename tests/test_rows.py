"""Many requests at once: columns of requests say what each request says alone, to the bit."""

import random
from typing import Any

import numpy as np
import pytest

from predictor.errors import InvalidRequest, PredictorError
from predictor.estimators.bundle import load_bundle
from predictor.latency.serving import step_times
from predictor.ops.base import names_of
from predictor.prediction.rows import FEWEST_ALIKE, answer_columns, answer_row, answer_rows
from predictor.workloads.models import Model, models
from predictor.workloads.results import RESULTS
from predictor.workloads.workload import Workload

GPUS = ("H100-SXM-80GB", "A100-SXM-80GB", "L4", "MI300X", "B200", "Tesla-T4")
LAYOUTS: tuple[dict[str, Any], ...] = ({}, {"tp": 2, "dtype": "fp8"}, {"tp": 2, "ep": 4, "attention_dp": 2}, {"pp": 2})


def alike(model: Model, **settings: Any) -> list[Workload]:
    """Workloads that differ in their sizes, none where the model takes no such settings."""
    rng, most = random.Random(model.name), min(model.max_len, 2**18)
    try:
        return [
            Workload(
                model=model,
                batch=rng.choice([1, 5, 33]),
                input_len=rng.randint(1, max(most // 2, 1)),
                output_len=rng.randint(1, max(most // 3, 1)),
                **settings,
            )
            for _ in range(5)
        ]
    except PredictorError:
        return []


@pytest.mark.parametrize("settings", LAYOUTS)
def test_ops_of_a_column_are_those_of_each_workload(settings: dict[str, Any]) -> None:
    seen = 0
    for model in models().values():
        each = alike(model, **settings)
        if not each or not each[0].in_columns:
            continue
        seen += 1
        whole = Workload.column(each)
        for prompt in (True, False):
            columns = whole.prefill_ops() if prompt else whole.decode_ops(whole.input_len + 1)
            for row, one in enumerate(each):
                calls = one.prefill_ops() if prompt else one.decode_ops(one.input_len + 1)
                assert [(call.name, call.count) for call in calls] == [(call.name, call.count) for call in columns]
                for call, column in zip(calls, columns, strict=True):
                    for name in names_of(type(call.op)):
                        value = getattr(column.op, name)
                        assert getattr(call.op, name) == (value[row] if isinstance(value, np.ndarray) else value)
    assert seen > 20


def mixed(count: int) -> list[dict[str, Any]]:
    rng, some = random.Random(7), [model.name for model in models().values() if model.max_len >= 4096]
    rows = []
    for name in rng.sample(some, count):
        shared = {
            "model": name,
            "gpu": rng.choice(GPUS),
            "tp": rng.choice([1, 1, 2]),
            "engine": rng.choice(["", "sglang", "torch"]),
            "dtype": rng.choice(["", "", "fp8"]),
        }
        for _ in range(FEWEST_ALIKE + 1):
            sizes = {"batch": rng.choice([1, 8, 200]), "input_len": rng.randint(1, 2000)}
            rows.append(shared | sizes | {"output_len": rng.choice([1, 2, 3, 5, 200])})
    return rows


def test_every_row_of_a_mixed_table_is_the_single_answer() -> None:
    rows, bundle = mixed(12), load_bundle()
    together = answer_columns(rows, bundle)
    assert list(together) == list(RESULTS) and together["error"].count(None) > 5
    for number, row in enumerate(rows):
        alone = answer_row(row, bundle)
        for name in RESULTS:
            cell = together[name][number]
            assert cell == alone[name] and type(cell) is type(alone[name]), (row, name)


def test_a_row_that_cannot_be_answered_leaves_its_column_alone() -> None:
    shared = {"model": "Llama-3.1-8B", "gpu": "H100"}
    sizes = [{"input_len": 100}, {"input_len": 10**7}, {"batch": 0}, {"input_len": 200}, {"batch": 3}, {"batch": 4}]
    found = answer_columns([shared | each for each in sizes], load_bundle())
    assert [error is None for error in found["error"]] == [True, False, False, True, True, True]
    assert [cell is None for cell in found["tpot_s"]] == [False, True, True, False, False, False]


def test_a_format_that_a_gpu_lacks_is_an_error_of_its_rows_only() -> None:
    rows = [{"model": "Llama-3.1-8B", "gpu": "A100", "dtype": "fp8", "batch": 1 + number} for number in range(5)]
    *failed, last = answer_rows([*rows, {"model": "Llama-3.1-8B", "gpu": "A100"}], load_bundle())
    assert all("no fp8 peak for A100" in row["error"] for row in failed) and last["tpot_s"] > 0


def test_training_and_continuous_rows_are_answered_between_others() -> None:
    shared = {"model": "Llama-3.1-8B", "gpu": "H100"}
    kinds: list[dict[str, Any]] = [{}, {"phase": "train", "micro_batch": 1}, {"scheduling": "continuous", "batch": 4}]
    found = answer_columns([shared | kind for kind in kinds * 2], load_bundle())
    assert [cell is None for cell in found["step_s"]] == [True, False, True] * 2
    assert found["ttft_s"][2] == found["ttft_s"][5] != found["ttft_s"][0]


def test_loads_are_the_single_answers_to_the_bit() -> None:
    bundle, loads = (
        load_bundle(),
        [{"batch": 3}, {"batch": 40, "input_len": 5000}, {"request_rate": 1.5, "batch": None}],
    )
    shared = {"model": "Qwen3-8B", "scheduling": "continuous", "output_len": 30}
    rows = [shared | {"gpu": gpu, "tp": tp} | load for gpu in ("L4", "H100", "T4") for tp in (1, 2) for load in loads]
    together = list(answer_rows([*rows, {"model": "flan-t5-xl", "gpu": "L4", "scheduling": "continuous"}], bundle))
    assert "is no decoder" in together.pop()["error"]
    for row, answer in zip(rows[::-1], together[::-1], strict=True):
        step_times._kept.clear()
        assert answer_row(row, bundle) == answer


def test_a_table_that_has_a_result_already_is_refused() -> None:
    with pytest.raises(InvalidRequest, match="already has a column tpot_s"):
        answer_columns([{"model": "Llama-3.1-8B", "gpu": "H100", "tpot_s": 1.0}], load_bundle())
