"""The physics that features state, kernel by kernel."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, strategies as st

from predictor.estimators.features import Setting, features, groups
from predictor.estimators.features.terms import corrected, repeated_memory_time
from predictor.hardware.gpu import get_gpu
from predictor.ops import Attention, Collective, Conv, Gemm, Mla, Moe, Pointwise
from predictor.ops.base import TEXT_FIELDS

H100, L40S, A40 = get_gpu("H100-SXM-80GB"), get_gpu("L40S"), get_gpu("A40")
A100, B200 = get_gpu("A100-SXM-80GB"), get_gpu("B200-SXM-180GB")


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


def moe(**sizes):
    return Moe(**{"tokens": 8192, "hidden": 4096, "inter": 1536, "experts": 128, "topk": 8} | sizes)


def test_marlin_reaches_no_more_per_sm_and_cycle_on_newer_gpus():
    op, setting = moe(dtype="int4_wo"), Setting("vllm", "marlin")
    per_cycle = [
        op.flops() / seconds(op, gpu, setting, "flop_s") / gpu.sms / gpu.boost_clock_hz for gpu in (A100, H100, B200)
    ]
    np.testing.assert_allclose(per_cycle, per_cycle[0], rtol=0.02)


def test_triton_moves_the_rows_of_all_experts_however_few_a_gpu_holds():
    for kernel, share in (("vllm_fused_moe_triton", 0.7), ("moe_torch_flow_cutlass", 0.3)):
        alone, shared = (seconds(moe(ep=ep), H100, Setting("vllm", kernel), "shuffle_s") for ep in (1, 64))
        assert (shared > share * alone) == (share == 0.7)


def test_a_skewed_router_makes_the_busiest_gpu_wait_for_more_than_its_share():
    even, skewed = (seconds(moe(ep=32, skew=skew), H100, Setting("vllm"), "tiled_s") for skew in (0.0, 1.2))
    assert skewed > 1.3 * even


@given(st.sampled_from([8, 64, 256]), st.sampled_from([0.6, 1.01, 1.2]), st.sampled_from([1, 2, 8]), st.data())
def test_the_busiest_gpu_gets_its_share_or_more_and_more_of_more(experts, skew, ep, data):
    fewer = data.draw(st.integers(1, 10**5))
    more = data.draw(st.integers(fewer, 2 * 10**5))
    few, many = (
        float(moe(tokens=tokens, experts=experts, topk=2, ep=ep, skew=skew).busiest_tokens())
        for tokens in (fewer, more)
    )
    assert few <= many * (1 + 1e-9)
    assert few >= fewer * 2 / ep * (1 - 1e-9)
    assert few <= fewer * 2 * (1 + 1e-9)


def mla(**sizes):
    return Mla(**{"phase": "decode", "batch": 1, "q_len": 1, "kv_len": 32768, "heads": 128} | sizes)


def test_latent_decode_before_hopper_walks_the_keys_one_by_one():
    for gpu, cycles_per_key in ((A100, 170), (L40S, 170), (H100, 60)):
        serial = seconds(mla(), gpu, Setting("trtllm"), "serial_s") * gpu.boost_clock_hz / 32768
        assert serial <= cycles_per_key and (serial > 100) == (cycles_per_key == 170)


def test_an_fp8_latent_cache_is_widened_before_hopper_and_in_its_decode():
    whole = mla(phase="prefill", q_len=32768)
    for op, gpu, gain in ((mla(), H100, 1.0), (mla(), B200, 2.0), (whole, B200, 2.0), (whole, L40S, 1.0)):
        narrow = type(op)(**{f: getattr(op, f) for f in op.__slots__} | {"kv_dtype": "fp8"})
        plain, fp8 = (seconds(x, gpu, Setting("trtllm"), "mma_s") for x in (op, narrow))
        np.testing.assert_allclose(plain / fp8, gain, rtol=1e-4)


def test_packing_scales_on_blackwell_is_a_launch_floor_of_its_own():
    groups = {
        gpu: features(Gemm(m=1, n=1, k=1, dtype="fp8_block"), gpu, Setting("sglang")).group[0] for gpu in (H100, B200)
    }
    assert groups[H100] != groups[B200]


def names(*each):
    return np.array(each, dtype=object)


LATENT = {"batch": 4.0, "q_len": 1.0, "kv_len": 64.0, "heads": np.array([16.0, 16.0])}
OF_EACH_FAMILY = {
    "gemm": Gemm(m=np.array([64.0, 64.0]), n=64, k=64, dtype=names("fp8_block", "fp8_block")),
    "decode": Attention(
        phase="decode",
        batch=4,
        q_len=1,
        kv_len=64,
        heads=np.array([8.0, 8.0]),
        kv_heads=8,
        head_dim=64,
        kv_dtype=names("fp8", "fp8"),
    ),
    "prefill": Attention(
        phase="prefill",
        batch=4,
        q_len=64,
        kv_len=64,
        heads=np.array([8.0, 8.0]),
        kv_heads=2,
        head_dim=128,
        kv_dtype=names("fp8", "fp8"),
    ),
    "moe": Moe(
        tokens=np.array([9.0, 9.0]), hidden=512, inter=256, experts=8, topk=2, dtype=names("mxfp4_wo", "mxfp4_wo")
    ),
    "mla_decode": Mla(phase="decode", **LATENT, kv_dtype=names("fp8", "fp8")),
    "mla_prefill": Mla(phase="prefill", **LATENT, kv_dtype=names("bf16", "bf16")),
    "pointwise": Pointwise(
        kind=names("rope", "rope"), rows=np.array([64.0, 64.0]), cols=4096, dtype=names("bf16", "bf16")
    ),
    "conv": Conv(
        batch=np.array([2.0, 2.0]), in_channels=8, out_channels=8, size=32, kernel=3, dtype=names("fp16", "fp16")
    ),
    "collective": Collective(
        kind=names("all_reduce", "all_reduce"),
        message_bytes=np.array([4096.0, 4096.0]),
        n_gpus=2,
        link=names("gpu", "gpu"),
    ),
}


@pytest.mark.parametrize("family", OF_EACH_FAMILY)
@pytest.mark.parametrize("engine", ["vllm", "sglang", "trtllm", "torch"])
@pytest.mark.parametrize("gpu", [H100, L40S, B200], ids=lambda gpu: gpu.name)
def test_a_text_for_all_calls_says_what_a_column_of_it_says(family, engine, gpu):
    """To the last bit, and the group is known without the rest."""
    op = OF_EACH_FAMILY[family]
    texts = {name: getattr(op, name)[0] for name in TEXT_FIELDS if isinstance(getattr(op, name, ""), np.ndarray)}
    for timing in ("device", "host"):
        columns = features(op, gpu, Setting(names(engine, engine), names("", ""), names(timing, timing)))
        plain = Setting(engine, "", timing)
        table = features(replace(op, **texts), gpu, plain)
        for one, two in zip(columns[2:], table[2:], strict=True):
            assert (one == two).all()
        assert (np.asarray(groups(replace(op, **texts), gpu, plain)) == columns.group).all()


def test_error_correction_takes_bandwidth_of_servers_with_gddr_alone():
    assert corrected(L40S).mem_bytes_per_s < L40S.mem_bytes_per_s
    for gpu in (H100, get_gpu("RTX 4090"), get_gpu("MI300X")):
        assert corrected(gpu) == gpu


def test_fa2_walks_a_whole_sequence_where_it_cannot_group_heads():
    """vLLM's FA2 splits the keys of a sequence for grouped heads without a window; 0.19 cycles per element else."""
    call = replace(decode(64, 8), batch=1, kv_len=16384)
    grouped, alone = (seconds(replace(call, kv_heads=count), L40S, Setting("vllm"), "serial_s") for count in (8, 64))
    assert alone > 5 * grouped


def test_tensorrt_llm_takes_cards_and_servers_of_blackwell_for_two():
    """One block per sequence on RTX PRO 6000, where latent decode takes equally long for 1 and 32 sequences."""
    op = Mla(phase="decode", batch=1.0, q_len=1.0, kv_len=4096.0, heads=16.0)
    names = [str(features(op, get_gpu(name), Setting("trtllm")).group[0]) for name in ("B200", "RTX PRO 6000", "A100")]
    assert names == ["device|native|bf16", "device|legacy|bf16", "device|legacy|bf16"]
    fp8 = Mla(phase="decode", batch=1.0, q_len=1.0, kv_len=4096.0, heads=np.array([16.0, 128.0]), kv_dtype="fp8")
    own = features(fp8, get_gpu("RTX 5090"), Setting("trtllm")).group.tolist()
    assert own == ["device|legacy|fp8", "device|xqa|fp8"]


def test_one_block_of_prefill_takes_as_long_as_its_keys():
    """128 queries on 8,192 keys take an RTX 4090 as long as 16 do: 264 us (LLMServingSim's tables)."""
    few, more = (replace(prefill(0), q_len=queries, kv_len=8208) for queries in (16, 128))
    times = [seconds(op, get_gpu("RTX 4090"), Setting("vllm"), "serial_s") for op in (few, more)]
    assert times[0] == times[1] and 1.5e-4 < times[0] < 3.5e-4
