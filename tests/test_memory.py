"""Memory: published sizes, and laws."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from predictor.errors import InvalidRequest
from predictor.memory import memory
from predictor.ops import DTYPES
from predictor.workloads import Workload, get_model, models
from predictor.workloads.models import Model

H100: Any = SimpleNamespace(mem_bytes=85.5e9)
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


def test_activations_match_the_log_of_vllm_within_half() -> None:
    """The same log: 1.26 GiB peak for 8192 tokens in 256 sequences, top-k and top-p sampling included, ours greedy."""
    workload = Workload(model=get_model("Meta-Llama-3-8B"), batch=256, input_len=32)
    assert memory(workload, H100).activations_bytes / 2**30 == pytest.approx(1.26, rel=0.5)


def test_embeddings_stay_in_16_bits() -> None:
    fp8 = memory(Workload(model=LLAMA_8B, dtype="fp8"), H100).weights_bytes
    assert fp8 == LLAMA_8B.linear_parameters() + 2 * (LLAMA_8B.parameters() - LLAMA_8B.linear_parameters())


def test_70b_fits_two_h100_in_bf16_and_not_one() -> None:
    model = get_model("Llama-3.1-70B")
    assert not memory(Workload(model=model), H100).fits
    assert memory(Workload(model=model, tp=2), H100).fits
    assert memory(Workload(model=model, dtype="fp8"), H100).fits


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
    dtype=st.sampled_from(sorted(DTYPES)),
    kv_dtype=st.sampled_from(["", "fp8"]),
)
@SMALL
def test_more_tokens_never_need_less(batch: int, input_len: int, more: int, dtype: str, kv_dtype: str) -> None:
    def needs(b: int, n: int) -> float:
        return memory(Workload(model=LLAMA_8B, batch=b, input_len=n, dtype=dtype, kv_dtype=kv_dtype), H100).total_bytes

    assert needs(batch, input_len + more) >= needs(batch, input_len)
    assert needs(batch + 1, input_len) > needs(batch, input_len)


def test_the_total_is_the_sum_and_fits_up_to_the_last_byte() -> None:
    workload = Workload(model=LLAMA_8B, tp=2)
    found = memory(workload, H100)
    parts = found.weights_bytes + found.kv_cache_bytes + found.activations_bytes + found.runtime_bytes
    assert found.total_bytes == parts
    assert memory(workload, SimpleNamespace(mem_bytes=found.total_bytes)).fits  # type: ignore[arg-type]
    assert not memory(workload, SimpleNamespace(mem_bytes=found.total_bytes - 1)).fits  # type: ignore[arg-type]


def test_transformers_takes_a_long_prompt_whole() -> None:
    model = get_model("Qwen2.5-7B")
    whole, chunked = (
        memory(Workload(model=model, input_len=30_720, output_len=2048, engine=engine), H100)
        for engine in ("torch", "vllm")
    )
    assert whole.activations_bytes > 3 * chunked.activations_bytes
