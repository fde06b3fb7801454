"""The bound: the slowest of arithmetic, memory and link, and never lower on a worse GPU or for more work."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, strategies as st

from predictor.errors import InvalidSpec, UnsupportedDtype
from predictor.hardware.gpu import Gpu, catalogue, get_gpu, mig_profiles
from predictor.hardware.roofline import (
    CACHE_BYTES_PER_SM_CYCLE,
    LIMITERS,
    is_unstated,
    peak_flop_per_s,
    rate_notes,
    roofline,
    units,
)
from predictor.ops import FAMILIES, Attention, Collective, Conv, Gemm, Mla, Moe, Op, Pointwise

H100 = get_gpu("H100")
HEADS: dict[str, Any] = {"heads": 32, "kv_heads": 8, "head_dim": 128}
SIZES = np.array([1, 3, 16, 100, 512, 4096, 30_000])


def ladder(sizes: Any) -> list[Op]:
    """One column of calls per family whose tokens, sequences or bytes grow."""
    return [
        Gemm(m=sizes, n=4096, k=4096),
        Attention(phase="prefill", batch=1, q_len=sizes, kv_len=sizes, **HEADS),
        Attention(phase="decode", batch=8, q_len=1, kv_len=sizes, **HEADS),
        Mla(phase="prefill", batch=1, q_len=sizes, kv_len=sizes, heads=16),
        Mla(phase="decode", batch=sizes, q_len=1, kv_len=2048, heads=16),
        Moe(tokens=sizes, hidden=4096, inter=1536, experts=128, topk=8, skew=1.2),
        Pointwise(kind="rms_norm", rows=sizes, cols=4096),
        Conv(batch=sizes, in_channels=64, out_channels=64, size=56, kernel=3, padding=1),
        Collective(kind="all_reduce", message_bytes=8192 * sizes, n_gpus=8),
    ]


def test_every_family_has_a_floor() -> None:
    assert all(kind.floor_cycles > 0 and 0 <= kind.floor_exponent <= 1 for kind in FAMILIES)


@pytest.mark.parametrize("op", ladder(SIZES), ids=lambda op: op.estimator)
def test_no_algorithm_does_more_than_the_direct_one(op: Op) -> None:
    assert np.all(np.asarray(op.least_flops()) <= op.flops())
    assert np.all(np.asarray(op.stored_bytes()) <= op.bytes_moved())


@pytest.mark.parametrize("op", ladder(SIZES), ids=lambda op: op.estimator)
def test_the_bound_is_the_slowest_of_three(op: Op) -> None:
    bound = roofline(op, H100)
    times = np.stack([bound.compute_s, bound.memory_s, bound.link_s])
    assert times.shape == (3, len(SIZES))
    np.testing.assert_array_equal(bound.latency_s, times.max(axis=0))
    for call, limiter in enumerate(bound.limiter):
        assert times[LIMITERS.index(limiter), call] == bound.latency_s[call]
    assert (bound.latency_s > 0).all()


@pytest.mark.parametrize("op", ladder(SIZES), ids=lambda op: op.estimator)
def test_the_launch_floor_is_no_part_of_the_bound(op: Op) -> None:
    bound = roofline(op, H100)
    assert bound.floor_s == pytest.approx(op.floor_cycles / H100.boost_clock_hz)
    slow_start = bound._replace(floor_s=bound.floor_s + 1)
    np.testing.assert_array_equal(slow_start.latency_s, bound.latency_s)


@pytest.mark.parametrize(
    ("op", "limiter"),
    [
        (Gemm(m=8192, n=8192, k=8192), "compute"),
        (Gemm(m=1, n=8192, k=8192), "memory"),
        (Attention(phase="prefill", batch=1, q_len=16384, kv_len=16384, **HEADS), "compute"),
        (Attention(phase="decode", batch=32, q_len=1, kv_len=8192, **HEADS), "memory"),
        (Pointwise(kind="add", rows=2**20, cols=4096), "memory"),
        (Collective(kind="all_reduce", message_bytes=2**30, n_gpus=8), "link"),
    ],
    ids=lambda value: getattr(value, "estimator", value),
)
def test_textbook_calls_have_their_textbook_limiter(op: Op, limiter: str) -> None:
    assert roofline(op, H100).limiter.tolist() == [limiter]


def test_a_large_gemm_on_h100_is_bound_by_989_tflops_at_its_highest_clock() -> None:
    """H100 data sheet: 989.4 TFLOP/s dense bf16 at 1830 MHz; at 1980 MHz 2 * 8192^3 FLOPs take at least 1.03 ms."""
    op = Gemm(m=8192, n=8192, k=8192)
    assert roofline(op, H100).latency_s == pytest.approx(2 * 8192**3 / 989.4e12 * 1829.9 / 1980, rel=1e-3)
    assert peak_flop_per_s(op, H100).tolist() == [H100.peak("bf16")]


def test_a_card_that_boosts_above_its_advertised_clock_has_room_below_the_bound() -> None:
    """RTX 3060 Ti: 1665 MHz on the box, up to 2100 by the driver; data-centre parts stay at what is stated."""
    op = Gemm(m=8192, n=8192, k=8192)
    for name, ratio in (("RTX 3060 Ti", 2100 / 1665), ("A100", 1.0), ("L40S", 2520 / 2489.9)):
        card = get_gpu(name)
        assert card.peak("bf16") / (op.flops() / roofline(op, card).latency_s[0]) == pytest.approx(1 / ratio)


@given(sizes=st.lists(st.integers(1, 100_000), min_size=2, max_size=10))
def test_more_work_never_lowers_the_bound(sizes: list[int]) -> None:
    for op in ladder(np.array(sorted(sizes))):
        bound = roofline(op, H100)
        for seconds in (bound.latency_s, bound.compute_s, bound.memory_s, bound.link_s):
            assert (np.diff(seconds) >= 0).all(), op


@given(m=st.integers(1, 8192), n=st.integers(1, 8192), k=st.integers(1, 8192))
def test_the_bound_is_never_below_flops_over_peak(m: int, n: int, k: int) -> None:
    for gpu in (H100, get_gpu("L4"), get_gpu("MI300X")):
        op = Gemm(m=m, n=n, k=k)
        assert roofline(op, gpu).latency_s[0] >= op.flops() / gpu.peak_at_max_clock("bf16")


def test_data_that_fits_the_cache_need_not_come_from_memory() -> None:
    op = Pointwise(kind="copy", rows=1, cols=H100.llc_bytes // 4)  # 2 bytes in, 2 bytes out
    assert op.bytes_moved() == H100.llc_bytes
    cached = op.bytes_moved() / (CACHE_BYTES_PER_SM_CYCLE * H100.sms * H100.boost_clock_hz)
    assert roofline(op, H100).memory_s == pytest.approx(cached)
    assert cached < op.bytes_moved() / H100.mem_bytes_per_s
    slow = replace(H100, mem_bytes_per_s=H100.mem_bytes_per_s / 100)
    assert roofline(op, slow).memory_s == roofline(op, H100).memory_s


def test_data_far_beyond_the_cache_come_from_memory() -> None:
    op = Pointwise(kind="copy", rows=2**20, cols=4096)
    beyond = op.bytes_moved() - H100.llc_bytes
    assert roofline(op, H100).memory_s == pytest.approx(beyond / H100.mem_bytes_per_s)
    assert roofline(op, H100).memory_s == pytest.approx(op.bytes_moved() / H100.mem_bytes_per_s, rel=0.01)


@pytest.mark.parametrize(
    ("op", "gpu", "message"),
    [
        (
            Gemm(m=1, n=1, k=1, dtype="tf32"),
            "V100",
            'no tf32 peak for V100-SXM2-32GB (compute capability 7.0); use dtype="fp32".',
        ),
        (
            Gemm(m=1, n=1, k=1, dtype="fp8"),
            "A100",
            'no fp8 peak for A100-SXM-80GB (compute capability 8.0); use dtype="bf16".',
        ),
        (
            Gemm(m=1, n=1, k=1, dtype="nvfp4"),
            "H100",
            'no fp4 peak for H100-SXM-80GB (compute capability 9.0); use dtype="fp8".',
        ),
        (
            Attention(phase="decode", batch=1, q_len=1, kv_len=1, dtype="fp8", kv_dtype="fp8", **HEADS),
            "V100",
            'no fp8 peak for V100-SXM2-32GB (compute capability 7.0); use dtype="fp16".',
        ),
    ],
    ids=["tf32", "fp8", "fp4", "both"],
)
def test_a_dtype_the_gpu_lacks_names_the_one_to_use(op: Op, gpu: str, message: str) -> None:
    with pytest.raises(UnsupportedDtype) as caught:
        roofline(op, get_gpu(gpu))
    assert str(caught.value) == message


def test_a_column_with_one_dtype_the_gpu_lacks_raises() -> None:
    with pytest.raises(UnsupportedDtype, match=r"^no fp8 peak for A100-SXM-80GB"):
        roofline(Gemm(m=1, n=1, k=1, dtype=np.array(["bf16", "fp8"])), get_gpu("A100"))


@pytest.mark.parametrize("phase", ["prefill", "decode"])
@pytest.mark.parametrize(("gpu", "unit"), [("A100", "bf16"), ("H100", "fp8")])
def test_an_fp8_cache_runs_at_the_widest_rate_the_gpu_must_fall_back_to(phase: str, gpu: str, unit: str) -> None:
    chip = get_gpu(gpu)
    op = Attention(phase=phase, batch=1, q_len=1, kv_len=4096, kv_dtype="fp8", **HEADS)
    assert peak_flop_per_s(op, chip).tolist() == [chip.peak(unit)]
    full = Attention(phase=phase, batch=1, q_len=1, kv_len=4096, **HEADS)
    assert op.bytes_moved() < full.bytes_moved()


def test_weight_only_formats_run_at_the_best_16_bit_rate() -> None:
    op = Gemm(m=1, n=1, k=1, dtype="int4_wo")
    assert peak_flop_per_s(op, get_gpu("V100")).tolist() == [get_gpu("V100").peak("fp16")]
    assert peak_flop_per_s(op, H100).tolist() == [H100.peak("bf16")]


def test_a_column_of_dtypes_runs_each_at_its_own_rate() -> None:
    op = Gemm(m=8192, n=8192, k=8192, dtype=np.array(["bf16", "fp8", "fp32"]))
    single = [roofline(Gemm(m=8192, n=8192, k=8192, dtype=name), H100).latency_s[0] for name in ("bf16", "fp8", "fp32")]
    assert roofline(op, H100).latency_s.tolist() == single


def test_a_collective_over_pcie_is_bound_by_pcie() -> None:
    found = [
        roofline(Collective(kind="send_recv", message_bytes=2**30, n_gpus=2, link=link), H100)
        for link in ("gpu", "pcie", "network")
    ]
    assert found[0].link_s == pytest.approx(2**30 / H100.link_bytes_per_s)
    assert found[1].link_s == pytest.approx(2**30 / H100.pcie_bytes_per_s)


def test_a_gpu_without_a_known_link_raises() -> None:
    alone = replace(H100, link_bytes_per_s=0.0)
    with pytest.raises(InvalidSpec) as caught:
        roofline(Collective(kind="all_reduce", message_bytes=8, n_gpus=2), alone)
    assert str(caught.value) == "H100-SXM-80GB has no known link; give link_gb_per_s and pcie_gb_per_s in its spec."


def test_a_gpu_without_known_pcie_has_no_infinite_bound() -> None:
    integrated = replace(H100, pcie_bytes_per_s=0.0)
    with np.errstate(divide="ignore"), pytest.raises(InvalidSpec, match="pcie"):
        roofline(Collective(kind="all_reduce", message_bytes=8, n_gpus=2, link="pcie"), integrated)


@pytest.mark.parametrize("whole", ["H100", "A100", "A30", "B200"])
def test_a_mig_slice_is_never_faster_than_the_whole(whole: str) -> None:
    gpu = get_gpu(whole)
    assert mig_profiles(gpu)
    for profile in mig_profiles(gpu):
        part = get_gpu(f"{whole}:{profile}")
        for op in ladder(SIZES):
            assert (roofline(op, part).latency_s >= roofline(op, gpu).latency_s * (1 - 1e-12)).all(), (profile, op)


def worse(gpu: Gpu, part: str, share: float) -> Gpu:
    """gpu with a share of one of its rates."""
    if part == "peak":
        return replace(gpu, peak_flop_per_s={name: rate * share for name, rate in gpu.peak_flop_per_s.items()})
    if part == "sms":
        return replace(gpu, sms=max(1, int(gpu.sms * share)))
    return replace(gpu, **{part: getattr(gpu, part) * share})


PARTS = ("mem_bytes_per_s", "peak", "sms", "llc_bytes", "boost_clock_hz", "link_bytes_per_s")
BF16 = [name for name, gpu in catalogue().items() if "bf16" in gpu.peak_flop_per_s and gpu.link_bytes_per_s]


@given(
    name=st.sampled_from(BF16),
    part=st.sampled_from(PARTS),
    share=st.floats(0.01, 1.0),
    sizes=st.lists(st.integers(1, 50_000), min_size=1, max_size=5),
)
def test_a_worse_gpu_never_has_a_lower_bound(name: str, part: str, share: float, sizes: list[int]) -> None:
    gpu = catalogue()[name]
    less = worse(gpu, part, share)
    for op in ladder(np.array(sizes)):
        assert (roofline(op, less).latency_s >= roofline(op, gpu).latency_s).all(), op


def test_a_column_of_calls_equals_single_calls() -> None:
    for op in ladder(SIZES):
        alone = [roofline(op.take([i]), H100).latency_s[0] for i in range(len(op))]
        np.testing.assert_array_equal(roofline(op, H100).latency_s, alone)


EMULATING = [(name, dtype) for name, gpu in catalogue().items() for dtype in sorted(gpu.emulated_dtypes)]


@given(pair=st.sampled_from(EMULATING), size=st.integers(1, 16384))
def test_what_is_converted_runs_no_faster_than_fp32(pair: tuple[str, str], size: int) -> None:
    gpu, op = get_gpu(pair[0]), Gemm(m=size, n=size, k=size, dtype=pair[1])
    wide = replace(op, dtype="fp32")
    assert roofline(op, gpu).compute_s == roofline(wide, gpu).compute_s
    assert peak_flop_per_s(op, gpu) < peak_flop_per_s(wide, gpu)
    (note,) = rate_notes([op], gpu)
    assert note == f"{gpu.name} has no units for {pair[1]}: converted and run in fp32."


def test_weight_only_formats_take_units_before_conversion() -> None:
    op = Gemm(m=1, n=1, k=1, dtype="int8_wo")
    assert units(op, get_gpu("T4")) == {"fp16"}
    assert units(op, get_gpu("P40")) == {"fp16"}  # both are converted, fp16 faster
    assert rate_notes([op], get_gpu("T4")) == []


ONE = Gemm(m=1, n=1, k=1)


def test_a_derived_rate_is_said() -> None:
    spark = get_gpu("DGX Spark")
    assert "no bf16 or fp8 rate of DGX-Spark is published" in rate_notes([ONE, replace(ONE, dtype="fp8")], spark)[0]
    assert rate_notes([replace(ONE, dtype="nvfp4")], spark) == []
    assert rate_notes([ONE], H100) == []


def test_calls_at_rates_that_nobody_states_are_known() -> None:
    op = Gemm(m=8, n=8, k=8, dtype=np.array(["fp32", "fp16", "bf16", "nvfp4"]))
    assert is_unstated(op, get_gpu("DGX Spark")).tolist() == [False, True, True, False]
    assert is_unstated(op.take([0, 1, 2]), get_gpu("T4")).tolist() == [False, False, True]
    assert not is_unstated(op.take([0, 1, 2]), H100).any()
