"""MLX on Apple's GPUs: its formats, passes, cache and memory, and intervals of an engine that nobody timed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from predictor.errors import InvalidRequest, InvalidSpec
from predictor.memory.sizes import kv_cache_bytes_per_token, sequence_bytes, weights_bytes
from predictor.ops import Attention
from predictor.ops.dtypes import MLX, weight_bytes
from predictor.prediction.advice import NARROWER
from predictor.prediction.single import predict, resolve
from predictor.workloads.models import get_model
from predictor.workloads.request import Request
from predictor.workloads.workload import Workload

MAC = "Apple-M3-Max"
LLAMA, EXPERTS = get_model("Llama-3.1-8B"), get_model("Qwen3-30B-A3B")


def served(**settings: Any) -> Workload:
    return Workload(**{"model": LLAMA, "engine": "mlx", "dtype": "mlx_4bit", **settings})


@pytest.mark.parametrize("dtype", sorted(MLX))
def test_a_group_of_64_has_a_scale_and_a_bias(dtype: str) -> None:
    bits = int(dtype.removeprefix("mlx_").removesuffix("bit"))
    assert float(weight_bytes(dtype)) * 8 * 64 == bits * 64 + 2 * 16


@pytest.mark.parametrize("model", [LLAMA, EXPERTS], ids=["dense", "experts"])
def test_embedding_and_head_are_quantised_alike(model: Any) -> None:
    for dtype in ("mlx_4bit", "mlx_8bit"):
        whole = weights_bytes(served(model=model, dtype=dtype))
        assert whole / model.parameters() == pytest.approx(float(weight_bytes(dtype)), rel=2e-3)  # but norms
        head = next(call for call in served(model=model, dtype=dtype).decode_ops(64) if call.name == "lm_head")
        assert head.op.dtype == dtype


def test_caches_grow_by_256_tokens_in_16_bits_or_in_groups() -> None:
    plain, eight, four = (kv_cache_bytes_per_token(served(kv_dtype=kv)) for kv in ("", "mlx_8bit", "mlx_4bit"))
    assert (eight / plain, four / plain) == (8.5 / 16, 4.5 / 16)
    assert sequence_bytes(served(), 1) == sequence_bytes(served(), 256) < sequence_bytes(served(), 257)


def test_prompts_come_in_passes_of_prefill_step_size() -> None:
    def attention(**settings: Any) -> Any:
        calls = served(input_len=4096, **settings).prefill_ops()
        return next(call for call in calls if isinstance(call.op, Attention))

    assert (attention().op.q_len, attention().count) == (2048, 32 * 2)
    assert (attention(ubatch=512).op.q_len, attention(ubatch=512).count) == (512, 32 * 8)


def test_it_runs_on_apple_alone() -> None:
    told = r'^engine is "mlx"; on H100-SXM-80GB the catalogue has vllm, sglang, .* Choose one of them\.$'
    with pytest.raises(InvalidRequest, match=told):
        predict("Llama-3.1-8B", "H100-SXM-80GB", engine="mlx")
    with pytest.raises(InvalidRequest, match=r"on Apple-M3-Max the catalogue has torch, llama\.cpp, mlx\."):
        predict("Llama-3.1-8B", MAC, engine="vllm")


def test_its_formats_name_it_and_no_other_engine_has_them() -> None:
    asked = {"model": "Llama-3.1-8B", "gpu": MAC}
    assert resolve(Request(**asked, dtype="mlx_4bit")).request.engine == "mlx"
    assert resolve(Request(**asked, kv_dtype="mlx_8bit")).request.engine == "mlx"
    assert resolve(Request(**asked)).request.engine == "llama.cpp"
    for name in ("dtype", "kv_dtype"):
        with pytest.raises(InvalidRequest, match=rf"^{name} is mlx_4bit; vllm has none such\. Set engine to mlx\.$"):
            Workload(model=LLAMA, **{name: "mlx_4bit"})
        with pytest.raises(InvalidRequest, match=rf"^{name} is q8_0; mlx has none such\. Use mlx_8bit or fp16\.$"):
            served(**{name: "q8_0"})


def test_nobody_timed_it_so_its_intervals_are_wider_than_those_of_llama_cpp() -> None:
    other, mlx = predict("Llama-3.1-8B", MAC, dtype="q4_k_m"), predict("Llama-3.1-8B", MAC, dtype="mlx_4bit")
    note = "mlx was timed on no GPU; its rates are those of llama.cpp, with wider intervals."
    assert note in mlx.notes and mlx.basis == other.basis == "engine-rates"
    for theirs, own in ((other.tpot_s, mlx.tpot_s), (other.ttft_s, mlx.ttft_s)):
        assert own.high / own.value > theirs.high / theirs.value
        assert own.value / own.low >= theirs.value / theirs.low


@pytest.mark.parametrize("gpu", ["M1", "M1 Max", "M2 Ultra", "M3 Max", "M4", "M5 Max"])
def test_a_step_takes_no_less_than_its_bytes(gpu: str) -> None:
    for dtype in ("fp16", "mlx_8bit", "mlx_4bit"):
        report = predict("Llama-3.2-1B", gpu, engine="mlx", dtype=dtype)
        assert report.tpot_s.low >= report.memory.weights_bytes * 0.9 / report.gpu.mem_bytes_per_s


def test_memory_ends_at_the_working_set_of_metal() -> None:
    report = predict("Llama-3.1-70B", MAC, dtype="mlx_8bit")
    assert report.gpu.mem_bytes == report.memory.capacity_bytes < report.gpu.mem_bytes / report.gpu.unified_share
    assert set(NARROWER) == {"GGUF", "MLX"}


def test_a_published_config_says_its_bits(tmp_path: Path) -> None:
    config = {
        **{"model_type": "llama", "hidden_size": 2048, "num_hidden_layers": 16, "num_attention_heads": 32},
        **{"num_key_value_heads": 8, "intermediate_size": 8192, "vocab_size": 128256, "torch_dtype": "bfloat16"},
        "max_position_embeddings": 8192,
    }
    path = tmp_path / "config.json"
    path.write_text(json.dumps({**config, "quantization": {"group_size": 64, "bits": 4}}))
    assert getattr(get_model(str(path)), "linear_dtype") == "mlx_4bit"  # noqa: B009
    path.write_text(json.dumps({**config, "quantization": {"group_size": 32, "bits": 4}}))
    with pytest.raises(InvalidSpec, match=r"^quantization in config\.json is .* groups of 64 with 2 to 6 or 8 bits"):
        get_model(str(path))


def test_load_and_batches_answer_too() -> None:
    one, eight = (predict("Llama-3.1-8B", MAC, dtype="mlx_4bit", batch=batch) for batch in (1, 8))
    assert one.tokens_per_s.value < eight.tokens_per_s.value < 8 * one.tokens_per_s.value
    loaded = predict("Llama-3.1-8B", MAC, dtype="mlx_4bit", concurrency=4)
    assert loaded.served and loaded.tpot_s.value > one.tpot_s.value
