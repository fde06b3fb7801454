"""Every verdict has a row that earns it, and a table that obeys physics is accepted whole."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings, strategies as st

from predictor.hardware.gpu import get_gpu
from predictor.hardware.roofline import roofline
from predictor.measurements.checks import ACCEPTED, FLAGGED, REJECTED, check, usable
from predictor.measurements.schema import COLUMNS, conform
from predictor.ops import Gemm, Moe

SIZES = [2**i for i in range(15)]
UTILIZATION = 0.6


def gemms(
    gpu: str = "H100", sizes: Any = SIZES, width: int = 4096, floor_s: float = 4e-6, **cells: Any
) -> pd.DataFrame:
    """A plausible sweep: a launch floor, and 60 % of the bound beyond it."""
    m = np.array(sizes, dtype=np.float64)
    dtype = cells.get("dtype", "bf16")
    bound = roofline(Gemm(m=m, n=width, k=width, dtype=dtype), get_gpu(gpu)).latency_s
    made = {"family": "gemm", "gpu": gpu, "dtype": dtype, "m": m, "n": width, "k": width, "engine": "vllm"}
    made |= {"timing": "device", "latency_s": floor_s + bound / UTILIZATION}
    return pd.DataFrame(made | cells)


def verdicts(*frames: pd.DataFrame) -> pd.DataFrame:
    return check(conform(pd.concat(frames, ignore_index=True)))


def with_latency(row: int, latency_s: float) -> pd.DataFrame:
    frame = gemms()
    frame.loc[row, "latency_s"] = latency_s
    return frame


def only(found: pd.DataFrame, row: int) -> tuple[str, str]:
    """Status and reason of `row`; every other row must be accepted."""
    assert (found.drop(index=row)["status"] == ACCEPTED).all(), found[["status", "reason"]]
    return str(found["status"][row]), str(found["reason"][row])


def clean_table() -> pd.DataFrame:
    heads = {"heads": 32, "kv_heads": 8, "head_dim": 128}
    decode = {"family": "attention", "phase": "decode", "gpu": "A100", "dtype": "bf16", "q_len": 1, **heads}
    rms = {"family": "pointwise", "kind": "rms_norm", "gpu": "L4", "dtype": "bf16", "cols": 4096}
    sizes = np.array(SIZES, dtype=np.float64)
    return pd.concat(
        [
            gemms("H100"),
            gemms("H100", dtype="fp8"),
            gemms("V100", dtype="fp16", engine="torch"),
            gemms("A100", width=1024, kernel_name="cublas"),
            gemms("A100", width=1024, timing="host", floor_s=60e-6),
            # 2 * 8 * 128 * 2 bytes a key over 2 TB/s; 16 bytes a pair of elements over 300 GB/s
            pd.DataFrame({**decode, "batch": 8, "kv_len": sizes, "latency_s": 8e-6 + sizes * 8 * 4096 / 1e12}),
            pd.DataFrame({**rms, "rows": sizes, "latency_s": 3e-6 + sizes * 4096 * 4 / 2e11}),
        ],
        ignore_index=True,
    )


# Accepted


def test_a_clean_table_is_accepted_whole() -> None:
    found = verdicts(clean_table())
    assert (found["status"] == ACCEPTED).all(), found[found["status"] != ACCEPTED][["family", "gpu", "reason"]]
    assert (found["reason"] == "").all()


def test_usable_is_the_accepted_rows_with_the_columns_of_the_schema() -> None:
    found = verdicts(with_latency(3, -1.0))
    kept = usable(found)
    assert list(kept) == list(COLUMNS)
    assert kept.index.tolist() == [row for row in range(len(SIZES)) if row != 3]


@given(order=st.permutations(range(105)))
@settings(max_examples=10, deadline=None)
def test_no_row_is_lost_and_the_order_changes_no_verdict(order: list[int]) -> None:
    frame = clean_table()
    assert len(frame) == len(order)
    frame.loc[5, "latency_s"], frame.loc[6, "latency_s"] = 1e-12, np.nan
    frame.loc[25, "latency_s"] *= 10
    frame.loc[40, "gpu"] = "Voodoo2"
    before = check(conform(frame))
    after = check(conform(frame.iloc[order]))
    assert after.index.tolist() == order
    pd.testing.assert_frame_equal(after.sort_index(), before, check_categorical=False)
    assert set(before["status"]) == {ACCEPTED, FLAGGED, REJECTED}


def test_check_changes_no_cell() -> None:
    frame = conform(clean_table())
    pd.testing.assert_frame_equal(check(frame).drop(columns=["status", "reason"]), frame)


def test_an_empty_table_has_no_verdicts() -> None:
    assert check(conform(clean_table().head(0))).empty


# Rejected


@pytest.mark.parametrize("latency_s", [-1e-3, 0.0, float("nan"), float("inf")])
def test_a_latency_that_is_no_positive_number_is_rejected(latency_s: float) -> None:
    assert only(verdicts(with_latency(4, latency_s)), 4) == (
        REJECTED,
        "latency_s is not a positive number; measure again or drop the row",
    )


def test_a_call_of_over_an_hour_is_rejected() -> None:
    assert only(verdicts(with_latency(14, 3601.0)), 14) == (
        REJECTED,
        "latency_s is above an hour; is it in another unit? give seconds",
    )


@pytest.mark.parametrize("share", [0.01, 0.5, 0.9])
def test_faster_than_the_bound_is_rejected(share: float) -> None:
    bound = roofline(Gemm(m=SIZES[0], n=4096, k=4096), get_gpu("H100")).latency_s[0]
    assert only(verdicts(with_latency(0, share * bound)), 0) == (
        REJECTED,
        "faster than the bf16 roofline bound of this GPU; check shape, dtype and unit",
    )


def test_a_call_within_the_slack_of_the_data_sheet_is_accepted() -> None:
    bound = roofline(Gemm(m=SIZES[0], n=4096, k=4096), get_gpu("H100")).latency_s[0]
    assert (verdicts(with_latency(0, 0.96 * bound))["status"] == ACCEPTED).all()


def test_a_latency_of_fp16_labelled_fp32_is_rejected() -> None:
    """H100 data sheet: fp32 runs at 67 TFLOP/s, a fifteenth of 16 bits."""
    found = verdicts(gemms(sizes=[4096, 8192]).assign(dtype="fp32"))
    assert (found["status"] == REJECTED).all()
    assert found["reason"].str.startswith("faster than the fp32 roofline bound").all()


def test_rows_of_an_unknown_gpu_are_rejected_and_others_kept() -> None:
    found = verdicts(gemms(), gemms().assign(gpu="H1000"))
    assert (found["status"][:15] == ACCEPTED).all()
    assert (found["status"][15:] == REJECTED).all()
    assert found["reason"][15:].str.match(r'^no GPU called "H1000"; did you mean H100').all()


def test_rows_of_a_dtype_the_gpu_lacks_are_rejected_and_others_kept() -> None:
    found = verdicts(gemms("V100", dtype="fp16"), gemms("V100", dtype="fp16").assign(dtype="fp8"))
    assert (found["status"][:15] == ACCEPTED).all()
    assert (found["status"][15:] == REJECTED).all()
    assert set(found["reason"][15:]) == {'no fp8 peak for V100-SXM2-32GB (compute capability 7.0); use dtype="fp16".'}


def test_rows_of_a_dtype_that_is_converted_are_judged_by_fp32() -> None:
    """PyTorch runs bf16 on a V100 in fp32: 15.7 TFLOP/s, no 125."""
    converted = gemms("V100", dtype="fp32").assign(dtype="bf16")
    assert (verdicts(converted)["status"] == ACCEPTED).all()
    faster = converted.assign(latency_s=converted["latency_s"] / 8)
    assert (verdicts(faster)["status"] == REJECTED).any()


@pytest.mark.parametrize(
    ("column", "cell", "reason"),
    [
        ("m", 0, "m is 0; it must be a whole number of at least 1 (at most 2**53)."),
        ("m", 1.5, "m is 1.5; it must be a whole number of at least 1 (at most 2**53)."),
        ("k", np.nan, "row 2, column k is empty; a gemm row needs it."),
    ],
)
def test_an_impossible_shape_is_rejected_alone(column: str, cell: float, reason: str) -> None:
    frame = gemms().astype({"m": float, "k": float})
    frame.loc[2, column] = cell
    assert only(verdicts(frame), 2) == (REJECTED, reason)


@pytest.mark.parametrize(("column", "cell"), [("family", "lstm"), ("dtype", "bf17"), ("gpu", "")])
def test_an_unknown_word_is_rejected_alone(column: str, cell: str) -> None:
    frame = gemms()
    frame.loc[2, column] = cell
    status, reason = only(verdicts(frame), 2)
    assert status == REJECTED
    assert f'"{cell}"' in reason


def test_a_bad_row_does_not_shield_its_neighbours() -> None:
    frame = with_latency(5, 1e-12)
    frame.loc[2, "m"] = 0
    assert verdicts(frame)["status"][[2, 5]].tolist() == [REJECTED, REJECTED]


def test_a_bad_row_of_many_is_rejected_alone() -> None:
    frame = gemms(sizes=np.arange(1, 1102))
    frame.loc[0, "m"] = 0
    assert (verdicts(frame)["status"] == REJECTED).sum() == 1


def test_milliseconds_given_as_seconds_are_rejected() -> None:
    """Small calls, nearly all launch floor: 4 us become 4 ms, beside bounds of nanoseconds."""
    frame = gemms(sizes=range(1, 41), width=64)
    assert (verdicts(frame)["status"] == ACCEPTED).all()
    found = verdicts(frame.assign(latency_s=frame["latency_s"] * 1e3))
    assert (found["status"] == REJECTED).all()
    assert (
        found["reason"]
        .str.match(r"^a median \d+ times the bound and launch floor: latency_s looks like milliseconds; give seconds$")
        .all()
    )


def test_milliseconds_of_large_calls_are_rejected() -> None:
    frame = gemms(sizes=range(1000, 1040))
    assert (verdicts(frame.assign(latency_s=frame["latency_s"] * 1e3))["status"] == REJECTED).all()


@pytest.mark.parametrize("factor", [1e6, 1e9])
def test_microseconds_and_nanoseconds_given_as_seconds_are_rejected(factor: float) -> None:
    frame = gemms(sizes=range(1, 41))
    assert (verdicts(frame.assign(latency_s=frame["latency_s"] * factor))["status"] == REJECTED).all()


def test_microseconds_are_called_microseconds() -> None:
    frame = gemms(sizes=range(1, 41))
    found = verdicts(frame.assign(latency_s=frame["latency_s"] * 1e6))
    assert found["reason"].str.contains("microseconds").all()


# Flagged


def plateau(latency_s: float, **cells: Any) -> pd.DataFrame:
    """60 calls of nanoseconds that all take the same time."""
    frame = gemms(sizes=range(1, 61), width=512, **cells)
    jitter = 1 + 0.02 * np.sin(np.arange(60))
    return frame.assign(latency_s=latency_s * jitter)


def test_a_host_bound_plateau_is_flagged() -> None:
    found = verdicts(plateau(80e-6))
    assert (found["status"] == FLAGGED).all()
    assert (
        found["reason"].str.match(r"^host-bound: small calls all take about (79|80|81) us; time on the device$").all()
    )


def test_a_plateau_at_a_device_floor_is_no_host_bound() -> None:
    assert (verdicts(plateau(8e-6))["status"] == ACCEPTED).all()


def test_a_plateau_that_says_it_is_host_time_is_accepted() -> None:
    assert (verdicts(plateau(80e-6, timing="host"))["status"] == ACCEPTED).all()


def test_a_plateau_of_one_engine_flags_no_other() -> None:
    found = verdicts(plateau(80e-6), plateau(8e-6, engine="torch"))
    assert found["status"].tolist() == [FLAGGED] * 60 + [ACCEPTED] * 60


def test_later_repeats_are_flagged_and_the_first_kept() -> None:
    again = gemms().assign(latency_s=lambda frame: frame["latency_s"] * 1.1, source="another reader")
    found = verdicts(gemms(), again)
    assert found["status"].tolist() == [ACCEPTED] * 15 + [FLAGGED] * 15
    assert set(found["reason"][15:]) == {"a repeat of an earlier row"}


def test_repeats_that_disagree_are_all_flagged() -> None:
    found = verdicts(gemms(), gemms().assign(latency_s=lambda frame: frame["latency_s"] * 1.5))
    assert (found["status"] == FLAGGED).all()
    assert set(found["reason"]) == {"repeats of this call differ by over 1.2x"}


def test_the_same_shape_on_another_engine_is_no_repeat() -> None:
    assert (verdicts(gemms(), gemms(engine="torch"))["status"] == ACCEPTED).all()


def test_an_impossible_repeat_does_not_spoil_the_good_one() -> None:
    found = verdicts(gemms(), gemms().assign(latency_s=1e-12))
    assert found["status"].tolist() == [ACCEPTED] * 15 + [REJECTED] * 15


@pytest.mark.parametrize("row", [0, 7, 13])
def test_a_spike_is_flagged_alone(row: int) -> None:
    frame = gemms()
    frame.loc[row, "latency_s"] *= 10
    assert only(verdicts(frame), row) == (
        FLAGGED,
        "slower by 2x than the same call with more m; measure again",
    )


@pytest.mark.parametrize("family", ["attention", "pointwise"])
def test_spikes_are_found_along_the_dimension_that_grows(family: str) -> None:
    frame = clean_table().query("family == @family").reset_index(drop=True)
    frame.loc[6, "latency_s"] *= 10
    grown = {"attention": "kv_len", "pointwise": "rows"}[family]
    assert only(verdicts(frame), 6) == (FLAGGED, f"slower by 2x than the same call with more {grown}; measure again")


def test_a_rejection_outranks_a_flag() -> None:
    frame = pd.concat([gemms(), gemms()], ignore_index=True).assign(latency_s=1e-12)
    assert (verdicts(frame)["status"] == REJECTED).all()


@pytest.mark.parametrize(("share", "verdict"), [(0.2, ACCEPTED), (0.9, FLAGGED)])
def test_gpus_that_share_experts_but_not_their_work_are_flagged(share: float, verdict: str) -> None:
    tokens = np.repeat([4096.0, 8192, 16384, 32768, 65536, 131072], 2)
    ep = np.tile([1.0, 8.0], 6)
    made = {"family": "moe", "gpu": "A100", "dtype": "bf16", "engine": "sglang", "timing": "device", "skew": 0.0}
    made |= {"tokens": tokens, "hidden": 4096, "inter": 1536, "experts": 128, "topk": 8, "tp": 1, "ep": ep}
    alone = roofline(Moe(tokens=tokens, hidden=4096, inter=1536, experts=128, topk=8), get_gpu("A100")).latency_s / 0.4
    found = verdicts(pd.DataFrame(made | {"matrices": 3, "latency_s": alone * np.where(ep > 1, share, 1.0)}))
    assert set(found.loc[found["ep"] == 8, "status"]) == {verdict}
    assert set(found.loc[found["ep"] == 1, "status"]) == {ACCEPTED}
