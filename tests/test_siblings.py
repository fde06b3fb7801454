"""Who speaks for a GPU, how far a call is from what was measured, and what that does to its interval."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, strategies as st

from predictor.estimators.extrapolation import FAR, drawn, gpu_outside, kernel_outside, nearest, outside, widened
from predictor.estimators.features import Setting
from predictor.estimators.operators import predict_op
from predictor.hardware.gpu import get_gpu
from predictor.hardware.siblings import is_measured, outsiders, tiers
from predictor.ops import Attention, Collective, Gemm, Moe

MEASURED = ("A100-SXM-80GB", "B200-SXM-180GB", "H100-SXM-80GB", "L40S", "RTX-4090")


@pytest.mark.parametrize(
    ("name", "own", "siblings", "others"),
    [
        ("H100", {"H100-SXM-80GB"}, set(), {"A100-SXM-80GB", "B200-SXM-180GB"}),
        ("H200", set(), {"H100-SXM-80GB"}, {"A100-SXM-80GB", "B200-SXM-180GB"}),
        ("B300", set(), {"B200-SXM-180GB"}, {"A100-SXM-80GB", "H100-SXM-80GB"}),
        ("V100", set(), set(), {"A100-SXM-80GB", "B200-SXM-180GB", "H100-SXM-80GB"}),
        ("RTX 5090", set(), set(), {"L40S", "RTX-4090"}),
        ("L4", set(), set(), {"L40S", "RTX-4090"}),
    ],
)
def test_kin_by_architecture_and_memory(name: str, own: set[str], siblings: set[str], others: set[str]) -> None:
    assert tuple(map(set, tiers(get_gpu(name), MEASURED))) == (own, siblings, others)


@pytest.mark.parametrize("name", ["H100", "H200", "V100", "RTX 5090", "MI300X"])
def test_every_measured_gpu_is_kin_or_asked_after_them(name: str) -> None:
    gpu = get_gpu(name)
    of_kin = {other for tier in tiers(gpu, MEASURED) for other in tier}
    assert of_kin | set(outsiders(gpu, MEASURED)) == set(MEASURED) and not of_kin & set(outsiders(gpu, MEASURED))


def test_a_kernel_that_an_architecture_was_not_measured_with_is_further_outside() -> None:
    op = Moe(tokens=64.0, hidden=4096.0, inter=1536.0, experts=128.0, topk=8.0, dtype="nvfp4")
    setting = Setting("sglang", "sglang_flashinfer_cutlass_moe")
    none = {"H100-SXM-80GB": ["device|triton|sglang|bf16"]}
    elsewhere = {**none, "B200-SXM-180GB": ["device|native|trtllm|nvfp4"]}
    other = {**elsewhere, "RTX-PRO-6000-Server": ["device|triton|vllm|fp8"]}
    own = {**other, "RTX-PRO-6000-Server": ["device|native|vllm|nvfp4"]}
    nats = [
        float(kernel_outside(op, get_gpu("RTX 5090"), setting, known)[0]) for known in (own, elsewhere, other, none)
    ]
    assert nats == sorted(nats) and nats[:2] == [0.0, 0.0] and nats[2] < nats[3]


def test_a_slower_copy_of_a_measured_gpu_is_nearest_to_it_but_not_measured() -> None:
    slower = replace(get_gpu("H100"), mem_bytes_per_s=1e12)
    assert tiers(slower, MEASURED) == tiers(get_gpu("H100"), MEASURED)
    assert is_measured(get_gpu("H100"), MEASURED)
    assert not is_measured(slower, MEASURED)


def test_the_nearest_gpu_is_near_in_bandwidth_and_arithmetic() -> None:
    assert nearest(get_gpu("H200"), MEASURED) == "H100-SXM-80GB"
    assert nearest(get_gpu("RTX 5090"), MEASURED) == "RTX-4090"
    assert nearest(get_gpu("L4"), ("V100-PCIe-32GB", "L40S")) == "L40S"
    assert gpu_outside(get_gpu("H200"), MEASURED) == 0
    assert gpu_outside(replace(get_gpu("H200"), mem_bytes_per_s=1e14), MEASURED) > FAR


def test_only_calls_beyond_what_was_measured_are_outside() -> None:
    op = Gemm(m=np.array([16.0, 1e7]), n=4096, k=4096)
    ranges = {"m": (1.0, 65536.0), "n": (64.0, 65536.0)}
    found = outside(op, ranges, np.full(2, 1e-6))
    assert set(found) == {"m"}
    assert found["m"][0] == 0 < found["m"][1]


def test_more_tokens_than_were_measured_are_no_news_on_a_full_gpu() -> None:
    op = Gemm(m=1e7, n=np.array([4096.0, 1e7]), k=4096)
    assert set(outside(op, {"m": (1.0, 65536.0), "n": (64.0, 65536.0)}, np.ones(2))) == {"n"}


def test_far_outside_the_interval_is_everything_ever_seen() -> None:
    far = np.array([0.0, FAR / 2, FAR])
    low, high = widened(np.full(3, 2.0), np.full(3, 3.0), np.ones(3), np.full(3, 10.0), far)
    assert (low[0], high[0]) == (2.0, 3.0)
    assert 1 < low[1] < 2
    assert (low[2], high[2]) == pytest.approx((1.0, 10.0))
    assert (np.diff(low) < 0).all()
    assert (np.diff(high) > 0).all()


@given(
    ends=st.lists(st.floats(1e-7, 10.0), min_size=4, max_size=4),
    nats=st.lists(st.floats(0.0, 10.0), min_size=2, max_size=2),
)
def test_farther_out_an_interval_only_grows_and_never_beyond_the_ends_it_is_drawn_to(
    ends: list[float], nats: list[float]
) -> None:
    (low, high), (far_low, far_high) = sorted(ends[:2]), sorted(ends[2:])
    own, far = (np.array([low]), np.array([high])), (np.array([far_low]), np.array([far_high]))
    near, beyond = (drawn(*own, *far, at) for at in sorted(nats))
    lows, highs = (np.array([float(end[0]) for end in pair]) for pair in zip(near, beyond, strict=True))
    assert lows[1] <= lows[0] * (1 + 1e-9) and lows[0] <= low * (1 + 1e-9)
    assert highs[1] >= highs[0] * (1 - 1e-9) and highs[0] >= high * (1 - 1e-9)
    assert lows[1] >= min(low, far_low) * (1 - 1e-9) and highs[1] <= max(high, far_high) * (1 + 1e-9)


SLOW_CARDS = ("T4", "L4", "A10G", "RTX 3090", "RTX 4060", "DGX Spark", "V100-PCIe-32GB", "MI300X")
CALLS = {
    "decode": Attention(
        phase="decode", batch=np.array([1.0, 1, 16, 64]), q_len=1, kv_len=np.array([512.0, 8192, 2048, 4096]),
        heads=32, kv_heads=8, head_dim=128, dtype="fp16", kv_dtype="fp16",
    ),
    "prefill": Attention(
        phase="prefill", batch=np.array([1.0, 8]), q_len=2048, kv_len=np.array([2048.0, 4096]),
        heads=32, kv_heads=8, head_dim=128, dtype="fp16", kv_dtype="fp16",
    ),
    "product": Gemm(m=np.array([1.0, 16, 4096]), n=5120, k=5120, dtype="fp16"),
    "experts": Moe(tokens=np.array([1.0, 128, 4096]), hidden=2048, inter=768, experts=128, topk=8, dtype="fp16"),
}  # fmt: skip


@pytest.mark.parametrize("name", SLOW_CARDS)
@pytest.mark.parametrize("call", CALLS)
def test_calls_of_models_on_cards_unlike_the_measured_ones_have_ends_that_held_out_classes_support(
    call: str, name: str
) -> None:
    """Classes of cards that were held out, as far from the others as these, are covered by such ends (class-out)."""
    asked = predict_op(CALLS[call], get_gpu(name), Setting("vllm"))
    assert (asked.bound_s <= asked.low_s).all()
    assert (asked.low_s <= asked.latency_s).all()
    assert (asked.latency_s <= asked.high_s).all()
    assert (asked.high_s < 4 * asked.latency_s).all()


@pytest.mark.parametrize("name", ["H100", "L40S", "T4"])
def test_fp16_caches_run_the_kernels_of_bf16_ones(name: str) -> None:
    decode = CALLS["decode"]
    references = {"H100-SXM-80GB": ["device|fa3|vllm|bf16"], "L40S": ["device|fa2|vllm|bf16"]}
    assert (kernel_outside(decode, get_gpu(name), Setting("vllm"), references) == 0).all()


def test_a_gpu_beyond_all_held_out_classes_may_be_as_slow_as_its_slowest_calls() -> None:
    """Classes that were held out lay up to 4.3 nats outside the others; of any GPU farther out nothing is shown."""
    slower = replace(get_gpu("T4"), mem_bytes_per_s=1e9)
    factor = [
        (asked.high_s / asked.latency_s).min()
        for asked in (predict_op(CALLS["decode"], gpu, Setting("vllm")) for gpu in (get_gpu("T4"), slower))
    ]
    assert factor[0] < factor[1]


def test_what_a_sibling_ran_speaks_before_the_kernels_of_another_engine() -> None:
    """Of fp8 products on H20 only torch's were measured, whose few thread blocks take a fifth of the memory's rate."""
    op = Gemm(m=np.array([1.0, 16.0]), n=4096, k=4096, dtype="fp8")
    own, sibling = (predict_op(op, get_gpu(name), Setting("vllm")).latency_s for name in ("H20", "H100"))
    assert (own < 1.5 * sibling).all()


def test_messages_need_no_rate_of_arithmetic() -> None:
    messages = Collective(kind="all_reduce", message_bytes=np.array([1e6]), n_gpus=8)
    assert (predict_op(messages, get_gpu("Gaudi2")).latency_s > 0).all()
