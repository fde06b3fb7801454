"""Memory: published sizes, and laws."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings, strategies as st

from predictor.cli.memory import NAMES
from predictor.errors import InvalidRequest
from predictor.hardware.gpu import get_gpu
from predictor.memory.closed_form import memory, start_note
from predictor.memory.sizes import sequence_bytes
from predictor.memory.start import cache_room, start
from predictor.ops import DTYPES
from predictor.ops.dtypes import MLX
from predictor.units import GIB
from predictor.workloads import Workload, get_model, models
from predictor.workloads.engines import UNSET, Settings
from predictor.workloads.models import Model

H100 = get_gpu("H100-SXM-80GB")
LLAMA_8B = get_model("Llama-3.1-8B")
SMALL = settings(max_examples=60, deadline=None)


@pytest.mark.parametrize(
    ("name", "bytes_per_token"),
    [
        ("Llama-3.1-8B", 131_072),  # 2 · 32 layers · 8 heads · 128 · 2 bytes
        ("Mistral-Small-24B", 163_840),
        ("Llama-3.1-70B", 327_680),
        ("Llama-2-7b", 524_288),  # 2 · 32 layers · 32 heads · 128 · 2 bytes
    ],
)
def test_cache_per_token_is_the_known_one(name: str, bytes_per_token: float) -> None:
    assert memory(Workload(model=get_model(name)), H100).kv_cache_bytes_per_token == bytes_per_token


def test_weights_of_llama_70b_take_141_gb() -> None:
    """arXiv:2407.21783: 70.6 billion parameters in 16 bits."""
    assert memory(Workload(model=get_model("Llama-3.1-70B")), H100).weights_bytes == pytest.approx(141.1e9, rel=1e-3)


def test_weights_match_the_log_of_vllm() -> None:
    """vLLM pull request 10511: Llama-3-8B loads 14.96 GiB with tp=1 and 7.48 GiB with tp=2."""
    for tp, gib in ((1, 14.96), (2, 7.48)):
        found = memory(Workload(model=get_model("Meta-Llama-3-8B"), tp=tp), H100)
        assert found.weights_bytes / 2**30 == pytest.approx(gib, abs=0.01)


def test_the_profiled_pass_matches_the_log_of_vllm() -> None:
    """The same log: a peak of 1.26 GiB for 8192 tokens in 256 sequences, whatever is asked later."""
    workload = Workload(model=get_model("Meta-Llama-3-8B"), engine="vllm-v0", batch=2, input_len=32)
    assert memory(workload, H100).activations_bytes / 2**30 == pytest.approx(1.26, rel=0.03)


def test_embeddings_stay_in_16_bits() -> None:
    fp8 = memory(Workload(model=LLAMA_8B, dtype="fp8"), H100).weights_bytes
    assert fp8 == LLAMA_8B.linear_parameters() + 2 * (LLAMA_8B.parameters() - LLAMA_8B.linear_parameters())


def test_70b_fits_two_h100_in_bf16_and_not_one() -> None:
    model = get_model("Llama-3.1-70B")
    assert not memory(Workload(model=model), H100).fits
    assert memory(Workload(model=model, tp=2), H100).fits
    assert memory(Workload(model=model, dtype="fp8"), get_gpu("H200")).fits


def test_an_engine_that_leaves_no_room_for_its_cache_does_not_start() -> None:
    """vLLM leaves -1.4 GiB for the cache of 70B in FP8 on one H100; PyTorch takes what it needs and no share."""
    model = get_model("Llama-3.1-70B")
    served = memory(Workload(model=model, dtype="fp8"), H100)
    assert served.total_bytes < H100.mem_bytes and not served.fits and served.p_oom > 0.5
    assert memory(Workload(model=model, dtype="fp8", engine="torch"), H100).fits


def test_sliding_windows_cap_the_cache() -> None:
    model = get_model("gemma-3-27b")
    found = memory(Workload(model=model, batch=3, input_len=4000, output_len=96), H100)
    per_layer = found.kv_cache_bytes_per_token / model.layers
    assert found.kv_cache_bytes == 3 * per_layer * (10 * 4096 + 52 * 1024)


@given(
    model=st.sampled_from(list(models().values())),
    tp=st.sampled_from([1, 2, 4, 8]),
    dtype=st.sampled_from(["bf16", "fp8"]),
)
@SMALL
def test_shards_hold_at_least_their_share(model: Model, tp: int, dtype: str) -> None:
    whole = memory(Workload(model=model, input_len=64, dtype=dtype), H100)
    try:
        shard = memory(Workload(model=model, input_len=64, dtype=dtype, tp=tp), H100)
    except InvalidRequest:
        return
    assert shard.weights_bytes <= whole.weights_bytes <= shard.weights_bytes * tp * (1 + 1e-12)
    assert shard.kv_cache_bytes <= whole.kv_cache_bytes <= shard.kv_cache_bytes * tp * (1 + 1e-12)


@given(
    batch=st.integers(1, 512),
    input_len=st.integers(1, 60_000),
    more=st.integers(1, 60_000),
    dtype=st.sampled_from(sorted(set(DTYPES) - MLX)),
    kv_dtype=st.sampled_from(["", "fp8"]),
)
@SMALL
def test_more_tokens_never_need_less(batch: int, input_len: int, more: int, dtype: str, kv_dtype: str) -> None:
    def needs(b: int, n: int) -> float:
        return memory(Workload(model=LLAMA_8B, batch=b, input_len=n, dtype=dtype, kv_dtype=kv_dtype), H100).total_bytes

    assert needs(batch, input_len + more) >= needs(batch, input_len)
    assert needs(batch + 1, input_len) >= needs(batch, input_len)


def test_the_total_is_the_sum_and_fits_up_to_the_last_byte() -> None:
    workload = Workload(model=LLAMA_8B, tp=2, engine="torch")
    found = memory(workload, H100)
    assert found.total_bytes == pytest.approx(sum(getattr(found, kind, 0.0) for kind in NAMES))
    assert memory(workload, replace(H100, mem_bytes=found.total_bytes)).fits
    assert not memory(workload, replace(H100, mem_bytes=found.total_bytes - 1)).fits


def test_transformers_takes_a_long_prompt_whole() -> None:
    model = get_model("Qwen2.5-7B")
    whole, chunked = (
        memory(Workload(model=model, input_len=tokens, output_len=2048, engine="torch"), H100)
        for tokens in (30_720, 2_048)
    )
    assert whole.activations_bytes > 10 * chunked.activations_bytes


def test_a_sequence_takes_whole_blocks_of_the_cache() -> None:
    vllm, sglang = (Workload(model=LLAMA_8B, engine=engine) for engine in ("vllm", "sglang"))
    assert sequence_bytes(vllm, 17) == 32 * 131_072
    assert sequence_bytes(sglang, 17) == 17 * 131_072


def test_all_experts_count_and_not_only_the_active_ones() -> None:
    """30.5 billion parameters in 16 bits, of which 3.3 are active (Qwen3-30B-A3B's card)."""
    assert memory(Workload(model=get_model("Qwen3-30B-A3B")), H100).weights_bytes == pytest.approx(61.1e9, rel=2e-3)


def test_latent_attention_caches_its_latent() -> None:
    """DeepSeek-V3, arXiv:2412.19437: 512 + 64 elements a token in each of 61 layers."""
    assert memory(Workload(model=get_model("DeepSeek-V3")), H100).kv_cache_bytes_per_token == 61 * 576 * 2


def test_key_value_heads_are_copied_where_tp_exceeds_them() -> None:
    eight, sixteen = (memory(Workload(model=get_model("Llama-3.1-70B"), tp=tp), H100) for tp in (8, 16))
    assert sixteen.kv_cache_bytes_per_token == eight.kv_cache_bytes_per_token == 327_680 / 8


def test_files_of_known_size_are_dealt_out_like_the_counted_weights() -> None:
    counted, halved = (memory(Workload(model=LLAMA_8B, tp=2, stored_bytes=size), H100) for size in (0.0, 8.03e9))
    assert halved.weights_bytes == pytest.approx(counted.weights_bytes / 2, rel=1e-3)


def test_the_chance_to_run_out_rises_with_the_batch_and_falls_with_the_card() -> None:
    def chance(batch: int, gpu: str, engine: str) -> float:
        need = memory(Workload(model=LLAMA_8B, batch=batch, input_len=8192, engine=engine), get_gpu(gpu))
        return max(need.p_oom, need.p_wait)

    for engine in ("vllm", "torch"):
        chances = [chance(batch, "H100", engine) for batch in (1, 48, 64, 128)]
        assert chances == sorted(chances) and chances[0] < 0.01 and chances[-1] > 0.99
        assert chance(50, "H200", engine) <= chance(50, "H100", engine)


def test_an_engine_that_starts_does_not_run_out_of_memory_but_lets_sequences_wait() -> None:
    need = memory(Workload(model=LLAMA_8B, batch=512, input_len=8192), H100)
    assert need.starts and need.p_oom < 0.01 and need.total_bytes <= need.capacity_bytes
    assert need.p_wait > 0.99 and not need.fits


@given(batch=st.integers(1, 256), length=st.integers(1, 16_000), engine=st.sampled_from(["vllm", "torch", "trtllm"]))
@SMALL
def test_the_interval_holds_the_value_and_the_chance_agrees_with_it(batch: int, length: int, engine: str) -> None:
    found = memory(Workload(model=LLAMA_8B, batch=batch, input_len=length, engine=engine), H100)
    assert found.low_bytes <= found.total_bytes <= found.high_bytes
    assert 0 < found.p_oom < 1
    if found.high_bytes < found.capacity_bytes:
        assert found.p_oom <= 0.101
    if found.low_bytes > found.capacity_bytes:
        assert found.p_oom >= 0.899


@given(batch=st.integers(1, 64), length=st.integers(1, 8_000), more=st.integers(1, 8_000))
@SMALL
def test_transformers_never_needs_less_for_more_tokens(batch: int, length: int, more: int) -> None:
    def needs(b: int, n: int) -> float:
        return memory(Workload(model=LLAMA_8B, batch=b, input_len=n, engine="torch"), H100).total_bytes

    assert needs(batch, length + more) >= needs(batch, length) * (1 - 1e-9)
    assert needs(batch + 1, length) >= needs(batch, length) * (1 - 1e-9)


def test_engines_leave_room_for_the_cache_as_they_say() -> None:
    """0.92 of the memory for all (vLLM), 0.93 for weights and cache (SGLang), 0.9 of what is free (TensorRT-LLM)."""
    share = {"sglang": Settings(gpu_memory_utilization=0.93)}
    rooms = {
        engine: cache_room(Workload(model=LLAMA_8B, engine=engine, settings=share.get(engine, UNSET)), H100)
        for engine in ("vllm", "sglang", "trtllm")
    }
    weights = memory(Workload(model=LLAMA_8B), H100).weights_bytes
    assert rooms["sglang"] == pytest.approx(0.93 * H100.mem_bytes - weights, rel=0.02)
    assert rooms["vllm"] < 0.92 * H100.mem_bytes - weights
    assert 0.8 * (H100.mem_bytes - weights) < rooms["trtllm"] < 0.9 * (H100.mem_bytes - weights)


def test_vllm_v1_leaves_what_it_logged_on_an_h100() -> None:
    """llm-d-benchmark, empirical-vllm-memory-results.md: GiB for the cache, of four models at 0.9 of 79.18 GiB."""
    for name, tp, dtype, gib in (
        ("Llama-3.3-70B-Instruct", 2, "fp8", 32.0),
        ("Qwen3-0.6B", 1, "bf16", 64.45),
        ("Qwen3-32B", 1, "bf16", 4.45),
        ("Qwen3-32B", 2, "bf16", 34.49),
        ("Llama-3.3-70B-Instruct", 1, "fp8", -1.44),
    ):
        workload = Workload(model=get_model(name), tp=tp, dtype=dtype, settings=Settings(engine_version="0.11"))
        assert start(workload, H100).room / GIB == pytest.approx(gib, abs=0.1)


@given(
    engine=st.sampled_from(["vllm", "vllm-v0", "sglang", "trtllm"]),
    gpu=st.sampled_from(["H100-SXM-80GB", "RTX-4090", "L4", "MI300X", "A100-SXM-80GB"]),
    share=st.floats(0.3, 0.99),
    more=st.floats(1.0, 1.3),
    sequences=st.integers(1, 1024),
)
@SMALL
def test_the_cache_follows_the_share_the_card_and_the_sequences(
    engine: str, gpu: str, share: float, more: float, sequences: int
) -> None:
    def room(part: float, size: float, count: int) -> float:
        device, own = get_gpu(gpu), Settings(gpu_memory_utilization=part, max_num_seqs=count)
        larger = replace(device, mem_bytes=device.mem_bytes * size)
        return start(Workload(model=LLAMA_8B, engine=engine, settings=own), larger).room

    here = room(share, 1.0, sequences)
    assert room(min(share * more, 1.0), 1.0, sequences) >= here
    assert room(share, 1.0, 2 * sequences) <= here
    if room(share, more, sequences) < here:  # a larger card has larger defaults
        assert get_gpu(gpu).mem_bytes * more >= 20 * GIB


@given(tokens=st.integers(1, 4096), batch=st.integers(1, 300), share=st.floats(0.3, 0.95))
@SMALL
def test_tokens_requests_and_the_chance_to_run_out_agree(tokens: int, batch: int, share: float) -> None:
    workload = Workload(
        model=LLAMA_8B, batch=batch, input_len=tokens, output_len=16, settings=Settings(gpu_memory_utilization=share)
    )
    need = memory(workload, H100)
    assert need.max_concurrent_requests_low <= need.max_concurrent_requests <= need.max_concurrent_requests_high
    assert need.max_kv_tokens_low <= need.max_kv_tokens <= need.max_kv_tokens_high
    assert (need.p_wait <= 0.5) == (batch <= need.max_concurrent_requests) and need.fits == (need.p_wait <= 0.5)
    if batch <= need.max_concurrent_requests_low:
        assert need.p_oom <= need.p_wait <= 0.101
    if batch > need.max_concurrent_requests_high:
        assert need.p_wait >= 0.899


def test_a_block_of_the_cache_can_be_chosen() -> None:
    whole = memory(Workload(model=LLAMA_8B, input_len=100, output_len=1, kv_block=256), H100)
    assert whole.kv_cache_bytes == 256 * 131_072


@pytest.mark.parametrize(
    ("engine", "gpu"), [("vllm", "H100"), ("sglang", "H100"), ("trtllm", "H100"), ("vllm-gaudi", "Gaudi2")]
)
def test_no_engine_takes_more_than_the_gpu_has(engine: str, gpu: str) -> None:
    workload = Workload(model=get_model("DeepSeek-V3"), dtype="bf16", engine=engine)
    need = memory(workload, get_gpu(gpu))
    assert not need.fits and need.capacity_bytes <= get_gpu(gpu).mem_bytes


@pytest.mark.parametrize(
    ("engine", "gpu", "own", "cure"),
    [
        ("vllm", "H100", {}, "Raise tp, choose a narrower dtype, lower max_num_seqs or raise gpu_memory_utilization."),
        ("vllm", "H100", {"gpu_memory_utilization": 1.0}, "Lower gpu_memory_utilization."),
        ("trtllm", "H100", {}, "Raise tp or choose a narrower dtype."),
        ("mlx", "Apple-M3-Max", {}, "Choose a narrower dtype."),
    ],
)
def test_an_engine_that_does_not_start_is_told_what_it_has(
    engine: str, gpu: str, own: dict[str, float], cure: str
) -> None:
    model = LLAMA_8B if own else get_model("Llama-3.1-70B")
    workload = Workload(model=model, engine=engine, settings=Settings(**own))  # type: ignore[arg-type]
    device = get_gpu(gpu)
    note = start_note(workload, device, memory(workload, device))
    assert note.startswith(f"{engine} does not start on 1 × {device.name}: ") and note.endswith(cure)
