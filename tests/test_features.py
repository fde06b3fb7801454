"""The physics that features state, kernel by kernel."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from predictor.features import Setting, features
from predictor.features.terms import repeated_memory_time
from predictor.gpu import get_gpu
from predictor.ops import Attention, Pointwise

H100, L40S, A40 = get_gpu("H100-SXM-80GB"), get_gpu("L40S"), get_gpu("A40")


def seconds(op, gpu, setting, name):
    table = features(op, gpu, setting)
    return float(np.exp(table.values[0, table.names.index(name)]))


def prefill(window, kv_dtype="bf16"):
    return Attention(
        phase="prefill", batch=1, q_len=16384, kv_len=16384, heads=32, kv_heads=8, head_dim=128, window=window,
        kv_dtype=kv_dtype,
    )  # fmt: skip


def decode(heads, kv_heads):
    return Attention(phase="decode", batch=512, q_len=1, kv_len=16, heads=heads, kv_heads=kv_heads, head_dim=128)


def test_only_sglang_triton_pays_for_keys_outside_the_window():
    for setting, saves in ((Setting("sglang", "triton"), False), (Setting("vllm"), True)):
        whole, windowed = (seconds(prefill(window), H100, setting, "mma_s") for window in (0, 128))
        assert (windowed < 0.1 * whole) == saves


def test_an_fp8_cache_speeds_up_only_kernels_with_fp8_arithmetic():
    for engine, gpu, gain in (("vllm", H100, 2.0), ("vllm", L40S, 1.0), ("trtllm", L40S, 1.0)):
        plain, narrow = (seconds(prefill(0, kv), gpu, Setting(engine), "mma_s") for kv in ("bf16", "fp8"))
        np.testing.assert_allclose(plain / narrow, gain, rtol=1e-4)


def test_tensorrt_llm_reads_head_by_head_where_no_grouped_kernel_fits():
    """Groups of 8 take a block per KV head; groups of 1 and 64 one, smaller, per query head."""
    grouped, alone, wide = (
        seconds(decode(64, kv_heads), H100, Setting("trtllm"), "blocks_s") for kv_heads in (8, 64, 1)
    )
    np.testing.assert_allclose(alone, wide, rtol=1e-4)
    assert 2 < alone / grouped < 3


@given(st.floats(1e3, 1e11), st.floats(1.0, 4.0), st.sampled_from([H100, L40S, A40]))
def test_time_of_repeated_bytes_rises_from_cache_to_memory_speed(moved, factor, gpu):
    few, more = (float(repeated_memory_time(np.array([x]), gpu)[0]) for x in (moved, moved * factor))
    assert few <= more
    assert few <= moved / gpu.mem_bytes_per_s * (1 + 1e-9)
    if moved > 1.25 * gpu.llc_bytes:
        np.testing.assert_allclose(few, moved / gpu.mem_bytes_per_s)


def test_reductions_are_bound_by_instructions_before_memory():
    op, setting = Pointwise(kind="rms_norm", rows=65536, cols=4096), Setting("torch")
    for gpu, bound_by_memory in ((H100, False), (A40, True)):
        ratio = seconds(op, gpu, setting, "memory_s") / seconds(op, gpu, setting, "issue_s")
        assert (ratio > 0.8) == bound_by_memory
