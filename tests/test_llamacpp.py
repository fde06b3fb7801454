"""llama.cpp: blocks of a GGUF, prompts in passes, layers that a batch walks through, and which requests it runs.

Bits of mixtures are those that llama.cpp publishes for Llama-3.1-8B (tools/quantize/README.md).
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from headers import gguf

from predictor.errors import InvalidRequest
from predictor.estimators.bundle import load_bundle
from predictor.hardware.gpu import get_gpu
from predictor.latency.report import Interval
from predictor.latency.static_batch import walked
from predictor.learning.validation import llamacpp, ratio_errors
from predictor.memory.sizes import kv_cache_bytes_per_token, weights_bytes
from predictor.ops import Attention
from predictor.ops.dtypes import GGUF, MIXED, weight_bytes
from predictor.prediction.rows import answer_row, answer_rows
from predictor.prediction.single import predict, resolve
from predictor.workloads.engine_tables import OTHERS, operators_of, rates_of, untimed_note
from predictor.workloads.models import get_model
from predictor.workloads.request import Request
from predictor.workloads.weights.gguf import read_gguf
from predictor.workloads.weights.mixtures import dealt_out, matrices, stored_types
from predictor.workloads.workload import Workload

TRUTH = Path(os.environ.get("PREDICTOR_TRUTH", Path(__file__).resolve().parents[2] / "shared" / "truth"))
LLAMA, LARGE = get_model("Llama-3.1-8B"), get_model("Llama-3.1-70B")
PUBLISHED_BITS = {
    **{"q2_k": 3.1593, "q3_k_s": 3.6429, "q3_k_m": 4.0047, "q3_k_l": 4.2979, "iq4_xs": 4.4597, "q4_0": 4.6621},
    **{"q4_k_s": 4.6672, "q4_k_m": 4.8944, "q5_0": 5.5704, "q5_k_s": 5.5704, "q5_k_m": 5.7036, "q6_k": 6.5633},
    "q8_0": 8.5008,
}


def served(**settings: Any) -> Workload:
    return Workload(model=LLAMA, engine="llama.cpp", half="fp16", **{"dtype": "q4_k_m", **settings})


@pytest.mark.parametrize("mixture", PUBLISHED_BITS)
def test_mixtures_have_the_published_bits(mixture: str) -> None:
    whole = weights_bytes(Workload(model=LLAMA, dtype=mixture))
    assert 8 * whole / LLAMA.parameters() == pytest.approx(PUBLISHED_BITS[mixture], rel=0.006)


@pytest.mark.parametrize("mixture", MIXED)
def test_the_bits_of_layers_are_those_that_are_dealt_out(mixture: str) -> None:
    types, elements = dict(dealt_out(mixture, 32, 4)), matrices(LLAMA, 1)
    bits = sum(elements[name] * count * float(weight_bytes(d)) * 8 for name in elements for d, count in types[name])
    assert bits / (32 * sum(elements.values())) == pytest.approx(float(weight_bytes(mixture)) * 8, rel=1e-4)


def test_a_step_reads_every_matrix_in_its_blocks_and_the_head_in_q6_k() -> None:
    calls = served().decode_ops(1024)
    products = {(call.name, call.op.dtype): call.count for call in calls if call.op.family == "gemm"}
    assert products["lm_head", "q6_k"] == 1
    assert products["ffn_down", "q4_k"] == products["ffn_down", "q6_k"] == products["attn_v", "q6_k"] == 16
    assert products["attn_q", "q4_k"] == products["ffn_gate", "q4_k"] == 32
    read = sum(call.op.stored_bytes() * call.count for call in calls if call.op.family == "gemm")
    assert read == pytest.approx(weights_bytes(served()), rel=1e-3)  # but for norms; the embedding is the host's


def test_a_file_says_the_blocks_itself(tmp_path: Path) -> None:
    tensors = {f"blk.{layer}.ffn_down.weight": ("Q6_K" if layer else "Q5_K", [256, 1]) for layer in range(3)}
    path = gguf(tmp_path / "mine.gguf", {**tensors, "output.weight": ("Q8_0", [256, 1])})
    assert dict(stored_types(read_gguf(path).tensors)) == {
        "ffn_down": (("q5_k", 1.0), ("q6_k", 2.0)),
        "output": (("q8_0", 1.0),),
    }


def test_caches_have_the_bits_of_their_blocks() -> None:
    bits = [8 * kv_cache_bytes_per_token(served(kv_dtype=dtype)) for dtype in ("", "q8_0", "q4_0")]
    assert [value / bits[0] * 16 for value in bits] == [16, 8.5, 4.5]


def test_a_prompt_comes_in_passes() -> None:
    whole, parts = served(input_len=2048, ubatch=2048).prefill_ops(), served(input_len=2048).prefill_ops()
    attention = next(call for call in parts if isinstance(call.op, Attention))
    assert (attention.op.q_len, attention.op.kv_len, attention.count) == (512, 1280, 32 * 4)
    for one, four in zip(whole, parts, strict=True):
        if one.op.family == "gemm" and one.name != "lm_head":
            assert (four.op.m, four.count) == (one.op.m / 4, one.count * 4)


def test_more_gpus_of_layers_generate_no_faster_but_take_prompts_side_by_side() -> None:
    one, four = (predict("Llama-3.1-8B", "RTX 4090", dtype="q4_k_m", pp=pp, input_len=4096) for pp in (1, 4))
    assert four.tpot_s.value > one.tpot_s.value
    assert one.ttft_s.value / 4 < four.ttft_s.value < one.ttft_s.value
    assert four.memory.weights_bytes == pytest.approx(one.memory.weights_bytes / 4)
    short = [predict("Llama-3.1-8B", "RTX 4090", dtype="q4_k_m", pp=pp, input_len=512) for pp in (1, 4)]
    assert short[1].ttft_s.value > short[0].ttft_s.value  # one pass
    assert walked(Interval(1.0, 1.0, 1.0), 1, 7, 1.0).value == 1.0


def test_rows_are_shared_at_the_price_of_messages() -> None:
    layers, rows = (predict("Llama-3.1-70B", "RTX 3090", dtype="q4_k_m", **{split: 2}) for split in ("pp", "tp"))
    assert layers.tpot_s.value / 2 < rows.tpot_s.value < layers.tpot_s.value
    assert rows.basis == "engine-rates" and rows.memory.fits


@pytest.mark.parametrize(
    ("asked", "engine"),
    [
        ({"gpu": "M3 Max"}, "llama.cpp"),
        ({"gpu": "RTX 4090", "dtype": "q4_k_m"}, "llama.cpp"),
        ({"gpu": "RTX 4090", "kv_dtype": "q8_0"}, "llama.cpp"),
        ({"gpu": "RTX 4090"}, "vllm"),
        ({"gpu": "RTX 4090", "dtype": "q4_k_m", "engine": "vllm"}, "vllm"),
        ({"gpu": "M3 Max", "phase": "train"}, "torch"),
        ({"gpu": "M3 Max", "model": "bert-large-uncased", "input_len": 128}, "torch"),
    ],
)
def test_llama_cpp_runs_what_names_no_engine_on_apple_and_of_gguf(asked: dict[str, str], engine: str) -> None:
    resolved = resolve(Request(**{"model": "Llama-3.1-8B", **asked}))
    assert resolved.request.engine == engine
    assert any("engine llama.cpp is taken." in note for note in resolved.notes) == (engine == "llama.cpp")


def test_a_gpu_without_runs_has_wider_intervals_and_says_so() -> None:
    known, other = (predict("Llama-3.1-8B", gpu, dtype="q4_k_m") for gpu in ("RTX 3090", "RTX 3080"))
    note = untimed_note("llama.cpp", other.gpu)
    assert note.startswith("llama.cpp was not timed on RTX-3080-10GB; its rates are as those of RTX-3070, ")
    assert note in other.notes and not untimed_note("llama.cpp", known.gpu)
    assert known.basis == other.basis == "engine-rates"
    assert other.tpot_s.high / other.tpot_s.value > known.tpot_s.high / known.tpot_s.value


def test_rates_know_the_gpus_that_were_timed() -> None:
    operators = operators_of("llama.cpp")
    assert set(operators.backends.values()) == set(operators.rates) and OTHERS in operators.backends
    for vendor in ("NVIDIA", "AMD", "Apple", "Intel"):
        rates = rates_of("llama.cpp", vendor)
        assert rates is not None and all(get_gpu(name).vendor == vendor for name in rates.timed)
        assert OTHERS in rates.bytes_per_sm_cycle and set(rates.bytes_per_sm_cycle) <= {OTHERS, "fp16", *GGUF}
    assert rates_of("vllm", "NVIDIA") is None


def test_a_step_takes_no_less_than_its_bytes() -> None:
    for gpu in ("RTX 3090", "A100-PCIe-80GB", "M1 Max", "MI250-GCD", "Arc-B580", "T4", "P40"):
        report = predict("Llama-3.1-8B", gpu, dtype="q4_k_m")
        assert report.tpot_s.low >= report.memory.weights_bytes * 0.9 / report.gpu.mem_bytes_per_s


def test_static_tables_and_load_answer_too() -> None:
    rows = [{"model": "Llama-3.1-8B", "gpu": "RTX 4090", "dtype": "q4_k_m", "input_len": 300 * n} for n in range(1, 6)]
    bundle = load_bundle()
    assert list(answer_rows(rows, bundle)) == [answer_row(row, bundle) for row in rows]  # columns, and one by one
    assert all(answer_row(row, bundle)["error"] is None for row in rows)
    loaded = predict("Llama-3.1-8B", "RTX 4090", dtype="q4_k_m", scheduling="continuous", batch=4)
    assert loaded.tpot_s.value > predict("Llama-3.1-8B", "RTX 4090", dtype="q4_k_m").tpot_s.value


def test_a_cache_of_gguf_needs_its_engine() -> None:
    with pytest.raises(InvalidRequest, match=r"^kv_dtype is q4_0; sglang has none such\. Set engine to llama\.cpp\.$"):
        predict("Llama-3.1-8B", "RTX 4090", kv_dtype="q4_0", engine="sglang")


@pytest.mark.skipif(not (TRUTH / llamacpp.SPEEDS).is_file(), reason=f"no {llamacpp.SPEEDS} in {TRUTH}")
def test_published_speeds_are_met_on_the_half_that_no_rate_saw() -> None:
    replay = llamacpp.replay(TRUTH, load_bundle())
    told = replay.frame().query("not fitted")
    errors = ratio_errors(told, ["table", "phase"])["median"]
    assert errors[llamacpp.SPEEDS, "decode"] < 0.05 and errors[llamacpp.SPEEDS, "prefill"] < 0.20
    assert errors[llamacpp.OFFLINE, "whole"] < 0.10
    assert (told["request"] != "").all() and not replay.skipped
