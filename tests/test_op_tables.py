"""Tables of operators: a row equals the single prediction to the bit, and what is wrong with one is said beside it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from predictor.cli import main
from predictor.errors import InvalidRequest, PredictorError
from predictor.estimators.bundle import load_bundle
from predictor.estimators.features import Setting
from predictor.estimators.operators import predict_op
from predictor.hardware.gpu import get_gpu
from predictor.measurements.schema import NUMBER_COLUMNS
from predictor.ops import Attention, Collective, Conv, Gemm, Mla, Moe, Op, Pointwise
from predictor.ops.base import names_of
from predictor.prediction.jobs.batch import OPERATORS, run
from predictor.prediction.op_tables import OP_RESULTS, answer_ops

GPUS = ("H100-SXM-80GB", "A100-SXM-80GB", "B300-SXM-270GB", "RTX-4090", "T4")
ENGINES = ("vllm", "sglang", "trtllm", "torch")


def call(rng: np.random.Generator) -> Op:
    """Any operator call."""

    def among(*values: Any) -> Any:
        return values[rng.integers(len(values))]

    tokens, width = int(rng.integers(1, 9000)), among(2048, 4096, 5120)
    dtype = among("bf16", "fp8", "fp16", "int4_wo")
    phase, past = among("prefill", "decode"), among(0, 300)
    sequence: dict[str, Any] = {"phase": phase, "batch": int(rng.integers(1, 40))}
    sequence |= {"q_len": tokens if phase == "prefill" else 1, "kv_len": tokens + past}
    return among(
        Gemm(m=tokens, n=among(4096, 6144), k=width, dtype=dtype),
        Attention(**sequence, heads=32, kv_heads=8, head_dim=128, window=among(0, 512), kv_dtype=among("bf16", "fp8")),
        Mla(**sequence, heads=16),
        Moe(tokens=tokens, hidden=width, inter=1536, experts=128, topk=8, ep=among(1, 8), skew=among(0, 1.2)),
        Pointwise(kind=among("silu_mul", "rms_norm", "add"), rows=tokens, cols=width),
        Conv(batch=among(1, 8), in_channels=64, out_channels=64, size=56, kernel=3, stride=1, padding=1),
        Collective(kind=among("all_reduce", "all_gather"), message_bytes=tokens * 8192, n_gpus=among(2, 8)),
    )


def cells(op: Op) -> dict[str, Any]:
    return {"family": op.family, **{name: getattr(op, name) for name in names_of(type(op))}}


def calls(count: int, seed: int = 0) -> tuple[pd.DataFrame, list[Op]]:
    rng = np.random.default_rng(seed)
    ops = [call(rng) for _ in range(count)]
    frame = pd.DataFrame([cells(op) for op in ops])
    frame["gpu"] = [GPUS[i] for i in rng.integers(len(GPUS), size=count)]
    frame["engine"] = [ENGINES[i] for i in rng.integers(len(ENGINES), size=count)]
    return frame.assign(kernel_name="", timing="device", latency_s=1.0), ops


def alone(op: Op, gpu: str, engine: str) -> dict[str, Any]:
    """The results of one call by predict_op, as a table names them."""
    try:
        said = predict_op(op, get_gpu(gpu), Setting(engine=engine))
    except PredictorError as error:
        return {"error": str(error)}
    times = [float(np.ravel(x)[0]) for x in (said.latency_s, said.low_s, said.high_s, said.bound_s)]
    told = dict(zip(OP_RESULTS, (*times, str(said.limiter[0]), said.basis), strict=False))
    return told | {"bundle": load_bundle().id}


def answered(frame: pd.DataFrame) -> pd.DataFrame:
    return answer_ops(pa.Table.from_pandas(frame, preserve_index=False), load_bundle()).to_pandas()


def test_every_row_is_the_single_prediction_to_the_bit() -> None:
    frame, ops = calls(150)
    frame = pd.concat([frame, frame[:40]], ignore_index=True)
    found = answered(frame)
    pd.testing.assert_frame_equal(found[frame.columns], frame)
    assert found["error"].notna().sum() > 3, "the sample has rows that a GPU cannot run"
    for at, op in enumerate([*ops, *ops[:40]]):
        single = alone(op, frame["gpu"][at], frame["engine"][at])
        for name in OP_RESULTS:
            cell = found[name][at]
            assert (pd.isna(cell) and single.get(name) is None) or cell == single[name], (at, name, op)


def test_csv_and_categories_say_the_same_as_numbers_and_texts(tmp_path: Path) -> None:
    frame, _ = calls(60, seed=1)
    frame.to_csv(tmp_path / "in.csv", index=False)
    frame.astype({"family": "category", "gpu": "category"}).to_parquet(tmp_path / "in.parquet")
    for name in ("csv", "parquet"):
        run(str(tmp_path / f"in.{name}"), tmp_path / f"{name}.parquet", n_jobs=1, kind=OPERATORS, rows_per_part=25)
    text, binary = (pd.read_parquet(tmp_path / f"{name}.parquet")[list(OP_RESULTS)] for name in ("csv", "parquet"))
    pd.testing.assert_frame_equal(text, binary)


GEMM = {"family": "gemm", "gpu": "H100", "m": 8, "n": 64, "k": 64}
ATTENTION = {"family": "attention", "gpu": "H100", "phase": "decode", "batch": 1, "q_len": 1, "kv_len": 9}
ATTENTION |= {"heads": 8, "kv_heads": 8, "head_dim": 64}
MOE = {"family": "moe", "gpu": "H100", "tokens": 9, "hidden": 64, "inter": 64, "experts": 8, "topk": 2}


@pytest.mark.parametrize(
    ("row", "said"),
    [
        (GEMM | {"family": "gem"}, 'family is "gem"; it must be one of gemm'),
        (GEMM | {"family": None}, "family is empty; every operator has one."),
        (GEMM | {"gpu": ""}, "gpu is empty; every operator has one."),
        (GEMM | {"gpu": "H1000"}, 'no GPU called "H1000"'),
        (GEMM | {"m": None}, "m is empty; a gemm row needs it."),
        (GEMM | {"m": 0}, "m is 0; it must be a whole number of at least 1"),
        (GEMM | {"n": 2.5}, "n is 2.5; it must be a whole number"),
        (GEMM | {"k": "many"}, "k is 'many'; it must be a number."),
        (GEMM | {"batch": "two"}, "batch is 'two'; it must be a number."),
        (GEMM | {"dtype": "bf17"}, 'unknown dtype "bf17"'),
        (GEMM | {"dtype": "fp8", "gpu": "A100"}, "no fp8 peak for A100"),
        (GEMM | {"timing": "clock"}, 'timing is "clock"; it must be device, host or warm.'),
        (ATTENTION | {"phase": ""}, "phase is empty; a attention row needs it."),
        (ATTENTION | {"phase": "both"}, 'phase is "both"; it must be "prefill" or "decode".'),
        (ATTENTION | {"q_len": 10}, "q_len is above kv_len"),
        (MOE | {"experts": 2**40, "skew": 1}, "experts is above 65,536; give the experts of one layer."),
        ({"family": "pointwise", "gpu": "L4", "rows": 1, "cols": 1}, "kind is empty; a pointwise row needs it."),
    ],
)
def test_a_bad_row_says_why_and_the_others_are_answered(row: dict[str, Any], said: str) -> None:
    # Objects of several types stand for the texts of a CSV.
    frame = pd.DataFrame([GEMM, row, ATTENTION, GEMM | {"m": 9}]).map(lambda x: None if pd.isna(x) else str(x))
    found = answered(frame)
    assert found["error"][1].startswith(said)
    assert list(found["error"].isna()) == [True, False, True, True]
    assert list(found["predicted_s"].notna()) == [True, False, True, True]


def test_a_bad_row_says_what_the_operator_says() -> None:
    frame = pd.DataFrame([ATTENTION | {"kv_heads": 9}, ATTENTION | {"kv_len": -4}, GEMM | {"k": 0.5}])
    found = answered(frame)
    for at, op in enumerate((Attention, Attention, Gemm)):
        row = {name: value for name, value in frame.iloc[at].dropna().items() if name not in ("family", "gpu")}
        with pytest.raises(PredictorError) as caught:
            op(**row)  # type: ignore[arg-type]
        assert found["error"][at] == str(caught.value)


def test_what_only_the_estimator_finds_missing_is_said_of_its_rows() -> None:
    """A T4 multiplies int8, so that the bound is known, but not the tf32 in which the kernel would."""
    frame = pd.DataFrame([ATTENTION | {"kv_dtype": name, "dtype": "fp16"} for name in ("fp16", "int8", "fp16")])
    frame.loc[1, "dtype"] = "tf32"
    found = answered(frame.assign(gpu="T4"))
    assert list(found["error"].isna()) == [True, False, True] and found["error"][1].startswith(
        "no tf32 peak for Tesla-T4"
    )


def test_empty_cells_mean_what_the_command_means() -> None:
    plain = answered(pd.DataFrame([GEMM]))
    said = answered(pd.DataFrame([GEMM | {"engine": "vllm", "timing": "device", "dtype": "bf16", "batch": 1}]))
    assert plain["predicted_s"][0] == said["predicted_s"][0]


def test_a_table_that_already_has_a_result_is_refused() -> None:
    with pytest.raises(InvalidRequest, match="already has a column basis"):
        answered(pd.DataFrame([GEMM | {"basis": "mine"}]))


@pytest.mark.parametrize("cell", [[1, 2], True, b"8", {"m": 8}])
def test_a_column_that_cannot_be_numbers_is_an_error_of_its_rows(cell: Any) -> None:
    (error,) = answered(pd.DataFrame([GEMM | {"m": cell}]))["error"]
    assert error.startswith("m is ") and error.endswith("; it must be a number.")


def test_an_empty_table_stays_empty() -> None:
    assert answered(pd.DataFrame([GEMM])[:0]).empty


def test_a_job_of_operators_goes_on_as_such_only(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    calls(40)[0].to_parquet(tmp_path / "in.parquet")
    arguments = ["batch", str(tmp_path / "in.parquet"), "--out", str(tmp_path / "out"), "--jobs", "1"]
    assert main([*arguments, "--ops", "--rows-per-part", "20"]) == 1, "some rows have an error"
    assert main([*arguments, "--ops", "--rows-per-part", "20"]) == 1
    assert "2 of 2 parts kept from before" in capsys.readouterr().out
    assert main([*arguments, "--rows-per-part", "20"]) == 2
    assert "was begun with another kind (operators, now requests)" in capsys.readouterr().err
    assert main([*arguments[:3], str(tmp_path / "strict"), "--jobs", "1", "--ops", "--strict"]) == 2
    assert " of part 0: " in capsys.readouterr().err


def test_no_cell_whatever_ends_a_job() -> None:
    rng = np.random.default_rng(0)
    numbers = ["1", "8", "64", "128", "4096", "0", "-1", "0.5", "", "x", "inf", "1e300", "9007199254740992", "9e15"]
    texts = {"family": ["gemm", "attention", "moe", "mla", "pointwise", "conv", "collective", "x", ""]}
    texts |= {"phase": ["prefill", "decode", ""], "kind": ["silu_mul", "all_gather", ""], "gpu": ["H100", "T4", "x"]}
    texts |= {"dtype": ["", "bf16", "fp8", "x"], "timing": ["", "host", "x"], "link": ["gpu", "pcie", "x"]}
    cells: dict[str, Any] = {name: rng.choice(some, 1500) for name, some in texts.items()}
    likely = np.where(np.arange(len(numbers)) < 5, 0.18, 0.1 / 9)
    cells |= {name: rng.choice(numbers, 1500, p=likely) for name in NUMBER_COLUMNS if name != "latency_s"}
    found = answered(pd.DataFrame(cells))
    assert 30 < found["error"].isna().sum() < 750
    assert (found["error"].isna() == found["predicted_s"].notna()).all()


def test_a_call_that_only_an_estimator_finds_too_large_leaves_the_others_alone() -> None:
    huge = ATTENTION | {"phase": "prefill", "q_len": 5e15, "kv_len": 2.0**53}
    found = answered(pd.DataFrame([ATTENTION | {"phase": "prefill"}, huge, ATTENTION | {"phase": "prefill"}]))
    assert list(found["error"].isna()) == [True, False, True]


def test_the_largest_count_is_predicted() -> None:
    assert answered(pd.DataFrame([GEMM | {"m": 2.0**53}]))["predicted_s"].notna().all()
