"""Laws of the clock that a GPU holds: power only ever takes from it, and what is limited by power is the card."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, strategies as st

from predictor.hardware.gpu import catalogue, get_gpu
from predictor.hardware.power import free_flop_per_s, limiter, powered_flop_per_s, rates
from predictor.hardware.roofline import roofline
from predictor.ops import Gemm

UNITS = [(name, unit) for name, gpu in catalogue().items() for unit in gpu.peak_flop_per_s]
SOME = st.sampled_from(UNITS)


@given(SOME)
def test_nothing_is_held_beyond_the_highest_clock(of: tuple[str, str]) -> None:
    name, unit = of
    held = rates(get_gpu(name), unit)
    assert 0 < held.sustained <= get_gpu(name).peak_at_max_clock(unit)
    assert held.sustained <= held.free


@given(SOME, st.floats(0.3, 1.0))
def test_less_power_is_never_faster(of: tuple[str, str], share: float) -> None:
    name, unit = of
    gpu = get_gpu(name)
    assert rates(replace(gpu, tdp_w=gpu.tdp_w * share), unit).powered <= rates(gpu, unit).powered * (1 + 1e-9)


@given(SOME, st.floats(0.3, 1.0))
def test_a_lower_peak_is_never_faster(of: tuple[str, str], share: float) -> None:
    name, unit = of
    gpu = get_gpu(name)
    worse = replace(gpu, peak_flop_per_s={**gpu.peak_flop_per_s, unit: gpu.peak_flop_per_s[unit] * share})
    assert rates(worse, unit).sustained <= rates(gpu, unit).sustained * (1 + 1e-6)
    assert rates(worse, unit).free <= rates(gpu, unit).free


@given(SOME, st.floats(0.5, 1.0))
def test_a_lower_highest_clock_is_never_faster(of: tuple[str, str], share: float) -> None:
    name, unit = of
    gpu = get_gpu(name)
    lower = max(gpu.clock_hz, gpu.max_clock_hz * share)
    assert rates(replace(gpu, max_clock_hz=lower), unit).sustained <= rates(gpu, unit).sustained * (1 + 1e-6)


def test_cards_of_one_silicon_differ_by_their_power() -> None:
    """L40S holds 0.51 to 0.63 of its data sheet by engine (aiconfigurator), an RTX 4090 all of it (llmservingsim)."""
    server, desktop = (rates(get_gpu(name), "bf16") for name in ("L40S", "RTX-4090"))
    assert server.limited and not desktop.limited
    assert server.sustained / get_gpu("L40S").peak("bf16") == pytest.approx(0.6, abs=0.05)
    assert desktop.sustained / get_gpu("RTX-4090").peak("bf16") == pytest.approx(0.97, abs=0.06)


def test_calls_that_power_limits_say_so() -> None:
    op = Gemm(m=np.array([1.0, 8192.0]), n=8192, k=8192, dtype="bf16")
    for name, last in (("L40S", "power"), ("RTX-4090", "compute")):
        gpu = get_gpu(name)
        assert limiter(op, gpu, roofline(op, gpu)).tolist() == ["memory", last]


def test_rates_are_those_of_the_dtype_of_each_call() -> None:
    gpu = get_gpu("H100")
    op = Gemm(m=np.full(2, 4096.0), n=4096, k=4096, dtype=np.array(["bf16", "fp8"], dtype=object))
    assert free_flop_per_s(op, gpu).tolist() == [rates(gpu, unit).free for unit in ("bf16", "fp8")]
    assert powered_flop_per_s(op, gpu).tolist() == [rates(gpu, unit).powered for unit in ("bf16", "fp8")]
