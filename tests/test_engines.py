"""Engines as they start: defaults by version and GPU, settings by the engines' own names, drafts and beams."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings, strategies as st

from predictor.cli import main
from predictor.errors import InvalidRequest
from predictor.estimators.bundle import load_bundle
from predictor.hardware.gpu import get_gpu
from predictor.latency.as_run import measured_as, predict_as_run
from predictor.memory.sizes import kv_cache_bytes, weights_bytes
from predictor.ops import Attention, Collective, Gemm
from predictor.ops.base import stack
from predictor.prediction.rows import answer_rows
from predictor.prediction.single import predict, resolve
from predictor.workloads.engines import Settings, engine_of_version, engines, get_engine, version_of
from predictor.workloads.models import get_model
from predictor.workloads.request import Request
from predictor.workloads.requested import served_workload
from predictor.workloads.workload import Workload

ASKED: dict[str, Any] = {"model": "Llama-3.1-8B", "gpu": "H100-SXM-80GB"}


def workload_of(**settings: Any) -> Any:
    resolved = resolve(Request(**ASKED | settings))
    return served_workload(resolved.request, resolved.model, resolved.gpu)[0]


@pytest.mark.parametrize(
    ("engine", "gpu", "tokens", "sequences"),
    [
        ("vllm", "H100-SXM-80GB", 8192, 1024),
        ("vllm", "RTX 4090", 2048, 256),
        ("vllm", "A100-SXM4-40GB", 2048, 256),
        ("sglang", "L40S", 4096, 1024),
        ("sglang", "RTX 4090", 2048, 1024),
        ("trtllm", "RTX 4090", 8192, 2048),
    ],
)
def test_defaults_follow_the_memory_of_the_gpu(engine: str, gpu: str, tokens: int, sequences: int) -> None:
    on = get_engine(engine).on(get_gpu(gpu))
    assert (on.max_batched_tokens, on.max_sequences) == (tokens, sequences)


def test_defaults_follow_the_version() -> None:
    gpu = get_gpu("H100-SXM-80GB")
    old, new, unsaid = (get_engine("vllm").on(gpu, Settings(version)) for version in ("0.12.0", "0.21.1", ""))
    assert not old.overlapped and new.overlapped and unsaid == new
    assert get_engine("vllm").on(gpu, Settings("0.12.0", async_scheduling=True)).overlapped
    assert workload_of(engine="vllm", engine_version="0.6.3").engine == "vllm-v0"
    assert workload_of(engine="trtllm", engine_version="0.11").engine == "trtllm-cpp"
    assert workload_of(engine="trtllm", engine_version="0.10.0").engine == "trtllm-early"
    assert version_of("0.5.1.post1") < version_of("0.5.9") < version_of("0.12")
    with pytest.raises(InvalidRequest, match='engine_version is "newest"'):
        engine_of_version("vllm", "newest")


def test_without_a_server_nothing_is_streamed() -> None:
    served, alone = (get_engine("trtllm").on(get_gpu("H100-SXM-80GB"), Settings(offline=way)) for way in (False, True))
    assert alone.request_s == 0.0 < served.request_s and alone.sequence_s < served.sequence_s
    assert alone.step_s == served.step_s


def test_hosts_of_grace_take_twice_as_long() -> None:
    grace, other = (get_engine("vllm-v0").on(get_gpu(gpu)) for gpu in ("GH200-96GB", "H100-SXM-80GB"))
    assert (grace.step_s, grace.sequence_s) == (2 * other.step_s, 2 * other.sequence_s)


@pytest.mark.parametrize(
    ("engine", "gpu", "tables"),
    [
        ("vllm", "H100", "vllm"),
        ("vllm", "MI300X", "nccl"),
        ("vllm-v0", "MI300X", "nccl"),
        ("trtllm-cpp", "H100", "nccl"),
        ("trtllm", "H100", "trtllm"),
    ],
)
def test_engines_without_an_all_reduce_call_the_library(engine: str, gpu: str, tables: str) -> None:
    asked = Collective(kind="all_reduce", message_bytes=8192, n_gpus=8), Gemm(m=8, n=64, k=64, dtype="bf16")
    told = [measured_as(engine, op, get_gpu(gpu)) for op in asked]
    assert told[0] == tables and told[1] != "nccl"


@pytest.mark.parametrize("name", [name for name, engine in engines().items() if engine.joins])
def test_what_is_set_is_what_runs(name: str) -> None:
    own = Settings(
        max_num_seqs=7,
        max_num_batched_tokens=512,
        gpu_memory_utilization=0.5,
        enforce_eager=True,
        enable_chunked_prefill=False,
        async_scheduling=False,
        batch_wait_timeout_iters=3,
    )
    on = get_engine(name).on(get_gpu("H100-SXM-80GB"), own)
    assert (on.max_sequences, on.max_batched_tokens, on.memory_share, on.batch_wait_steps) == (7, 512, 0.5, 3)
    assert not on.graphs and not on.chunked and not on.overlapped
    offline = get_engine(name).on(get_gpu("H100-SXM-80GB"), Settings(offline=True))
    assert offline.request_s == 0.0 and offline.sequence_s <= get_engine(name).sequence_s


def test_settings_change_the_answer_as_they_must() -> None:
    load = {"concurrency": 64, "output_len": 256}
    base = predict(**ASKED, **load)
    few = predict(**ASKED, **load, max_num_seqs=8)
    assert few.served and few.served.saturated and few.ttft_s.value > 5 * base.ttft_s.value
    assert few.tpot_s.value < base.tpot_s.value and few.served.batch <= 8
    small = predict(**ASKED, **load, gpu_memory_utilization=0.28)
    assert small.served and base.served and small.served.peak_tokens < base.served.peak_tokens
    eager = predict(**ASKED, enforce_eager=True)
    assert eager.tpot_s.value >= predict(**ASKED).tpot_s.value and eager.memory.cuda_graphs_bytes == 0.0
    slow = predict(**ASKED, **load, enforce_eager=True)
    assert slow.tpot_s.value > base.tpot_s.value and slow.host_s.value > base.host_s.value


def test_flags_are_read_as_tables_write_them() -> None:
    for cell, means in ((True, True), ("false", False), (1, True), (0.0, False), ("Yes", True)):
        assert Request.of({**ASKED, "enforce_eager": cell}).enforce_eager is means
    assert Request.of({**ASKED, "enforce_eager": None}).enforce_eager is None
    with pytest.raises(InvalidRequest, match='enforce_eager is "maybe"; it must be true or false'):
        Request(**ASKED, enforce_eager="maybe")  # type: ignore[arg-type]


def test_clients_are_stated_by_either_column_and_one_of_them_with_a_note() -> None:
    rows = [{**ASKED, "concurrency": 16}, {**ASKED, "scheduling": "continuous", "batch": 16}]
    one, two = answer_rows(rows, load_bundle())
    assert one["ttft_s"] == two["ttft_s"] and one["tokens_per_s"] == two["tokens_per_s"]
    assert "taken as concurrency 16" in two["notes"] and "taken as" not in (one["notes"] or "")


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"concurrency": 4, "scheduling": "static"}, "concurrency is 4; a static batch has none"),
        ({"length_spread": 0.5}, "length_spread is 0.5; a static batch has none"),
        ({"concurrency": 4, "length_spread": 1.5}, "length_spread is 1.5; it must lie between 0 and 1"),
        ({"concurrency": 4, "beam_width": 2, "draft_tokens": 3}, "beam_width is 2 and draft_tokens 3"),
        ({"enable_two_batch_overlap": True}, "enable_two_batch_overlap is True; a static batch has none"),
        ({"phase": "train", "api_server_count": 2}, "api_server_count is 2; training has none"),
        ({"turns": 3}, "turns is 3; a static batch has none"),
        ({"batch": 8, "concurrency": 4}, "batch is 8 beside concurrency 4; .* Leave batch out"),
        ({"batch": 8, "request_rate": 4}, "batch is 8 beside request_rate 4.0; .* Leave batch out"),
        ({"batch": 8, "trace": "a.csv"}, 'batch is 8 beside trace "a.csv"; .* Leave batch out'),
        ({"batch": 8, "max_num_seqs": 4}, "batch is 8 and max_num_seqs 4; .* Lower batch to 4"),
        ({"concurrency": 4, "acceptance": 0.7}, "acceptance is 0.7 and draft_tokens 0; .* Set draft_tokens"),
        ({"concurrency": 4, "draft_tokens": 3}, "draft_tokens is 3 and acceptance is not stated; .* Set acceptance"),
        ({"acceptance": 0.7}, "acceptance is 0.7; a static batch has none"),
        ({"enable_chunked_prefill": True}, "enable_chunked_prefill is True; a static batch has none"),
    ],
)
def test_what_does_not_go_together_is_refused(wrong: dict[str, Any], says: str) -> None:
    with pytest.raises(InvalidRequest, match=says):
        Request(**ASKED, **wrong)


def test_three_ways_of_not_fitting_have_three_names() -> None:
    with pytest.raises(InvalidRequest, match="vllm does not start on 1 × H100"):
        predict("Llama-3.1-70B", "H100-SXM-80GB", concurrency=4)
    with pytest.raises(InvalidRequest, match="the longest request has"):
        predict("Llama-3.1-70B", "H100-SXM-80GB", dtype="fp8", concurrency=1, input_len=60_000, max_num_seqs=8)
    waiting = predict("Llama-3.1-8B", "L4", dtype="fp8", concurrency=200, input_len=4000)
    assert waiting.served and waiting.served.saturated and waiting.memory.p_oom < 0.01


@pytest.mark.parametrize("engine", ["vllm", "llama.cpp"])
def test_a_context_that_the_cache_cannot_hold_keeps_the_engine_from_starting(engine: str) -> None:
    """As vLLM's "max seq len is larger than the maximum number of tokens that can be stored in KV cache"."""
    asked: dict[str, Any] = {"model": "Llama-3.1-8B", "gpu": "RTX-4090", "engine": engine, "dtype": "fp16"}
    static = predict(**asked, max_model_len=131_072)
    assert not static.memory.fits and static.memory.p_oom > 0.9
    (note,) = [note for note in static.notes if "does not start" in note]
    with pytest.raises(InvalidRequest) as raised:
        predict(**asked, concurrency=2, max_model_len=131_072)
    assert str(raised.value) == note and f"{engine} does not start: max_model_len is 131072" in note
    longest = int(note.split(" tokens")[0].split()[-1])
    assert predict(**asked, concurrency=2, max_model_len=longest).served
    assert predict(**asked, max_model_len=longest // 2).memory.fits
    with pytest.raises(InvalidRequest, match=f"holds {longest} tokens"):
        predict(**asked, concurrency=2, max_model_len=longest + 16)


def test_a_server_that_lets_long_requests_wait_starts_with_any_context() -> None:
    assert predict("Llama-3.1-8B", "RTX-4090", engine="sglang", max_model_len=131_072, concurrency=2).memory.fits


def test_a_draft_takes_time_and_memory_of_its_own() -> None:
    load: dict[str, Any] = {"concurrency": 8, "draft_tokens": 3, "acceptance": 0.7, "tp": 4, "dtype": "fp8"}
    free, layer, model = (
        predict("Llama-3.1-70B", "H100-SXM-80GB", **load, draft_model=draft) for draft in ("", "mtp", "Llama-3.2-1B")
    )
    assert free.tpot_s.value < layer.tpot_s.value and free.tpot_s.value < model.tpot_s.value
    assert (
        free.memory.weights_bytes < layer.memory.weights_bytes
        and free.memory.weights_bytes < model.memory.weights_bytes
    )
    with pytest.raises(InvalidRequest, match="say how many it proposes"):
        predict("Llama-3.1-70B", "H100-SXM-80GB", tp=4, concurrency=8, draft_model="mtp")


@given(beams=st.integers(2, 8), batch=st.integers(1, 16))
@settings(max_examples=10, deadline=None)
def test_beams_share_a_prompt_and_decode_apart(beams: int, batch: int) -> None:
    one, many = (workload_of(batch=batch, beam_width=width) for width in (1, beams))
    assert many.step("decode", 1, 100).batch == beams * one.step("decode", 1, 100).batch
    assert many.step("prefill", 100, 100).batch == one.step("prefill", 100, 100).batch
    assert kv_cache_bytes(one) < kv_cache_bytes(many) < beams * kv_cache_bytes(one)
    assert weights_bytes(one) == weights_bytes(many)


def test_a_prompt_through_stages_takes_about_one_pass() -> None:
    alone, staged = (predict(**ASKED, pp=pp, input_len=4096) for pp in (1, 2))
    assert staged.ttft_s.value < 1.2 * alone.ttft_s.value
    filled = predict(**ASKED, pp=2, input_len=4096, batch=8)
    assert filled.ttft_s.value > 0.7 * predict(**ASKED, input_len=4096, batch=4).ttft_s.value * 1.5


def test_scaled_rotations_reach_further_and_beyond_is_said() -> None:
    base = predict(**ASKED)
    longest = base.workload.model.max_len
    with pytest.raises(InvalidRequest, match="or set max_model_len"):
        predict(**ASKED, input_len=longest)
    told = predict(**ASKED, input_len=longest, max_model_len=2 * longest)
    assert any(f"was made for {longest} tokens" in note for note in told.notes)


def test_a_whole_graph_has_no_elementwise_kernels_and_narrow_formats_pay() -> None:
    graph, wide, eager = (
        predict("ResNet-50", "L40S", engine=engine, dtype=dtype, batch=128)
        for engine, dtype in (("tensorrt", "int8"), ("tensorrt", "fp16"), ("torch", "fp16"))
    )
    assert graph.e2e_s.value < 0.6 * wide.e2e_s.value and wide.e2e_s.value < eager.e2e_s.value
    assert {line.op.family for line in graph.ops} == {"conv", "gemm"} and graph.host_s.value == 0.0
    assert graph.e2e_s.low < 0.95 * graph.e2e_s.value and graph.basis == "bound-only"
    more = predict("ResNet-50", "L40S", engine="tensorrt", dtype="int8", batch=256)
    assert more.e2e_s.value > graph.e2e_s.value
    with pytest.raises(InvalidRequest, match="continuous scheduling needs"):
        predict("Llama-3.1-8B", "L40S", engine="tensorrt", concurrency=4)


def test_what_was_asked_before_changes_no_answer() -> None:
    """Step times are remembered: a setting that changes steps tells them apart, such as the tokens of a pass."""
    first, small, large = (
        predict("Llama-3.1-8B", "RTX-4090", engine="llama.cpp", dtype="q4_k_m", concurrency=2, ubatch=ubatch).ttft_s
        for ubatch in (0, 64, 2048)
    )
    assert small.value > first.value > large.value


def test_the_header_says_what_is_set(capsys: pytest.CaptureFixture[str]) -> None:
    asked = "predict Llama-3.1-8B --gpu H100 --concurrency 4 --max-num-seqs 2 --enforce-eager --turns 2"
    assert main(asked.split()) == 0
    head = " ".join(capsys.readouterr().out.split("GPU ")[0].split())
    assert head.endswith("vllm · max_num_seqs 2 · enforce_eager true · turns 2")


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"max_num_seqs": 8}, "max_num_seqs is 8; training has none. Leave it out."),
        ({"engine_version": "0.12"}, 'engine_version is "0.12"; training has none. Leave it out.'),
        ({"offline": True}, "offline is True; training has none. Leave it out."),
        ({"batch": 8}, "batch is 8; training has none. Set micro_batch."),
        ({"input_len": 512}, "input_len is 512; training has none. Set seq_len."),
        ({"concurrency": 4}, "concurrency is 4; training has none. Leave it out."),
        ({"attention_dp": 2}, "attention_dp is 2; training has none. Leave it out."),
        ({"engine": "vllm"}, 'engine is "vllm"; training runs in torch. Leave it out.'),
        (
            {"phase": "serve", "method": "lora"},
            'method is "lora"; serving has none. Set phase to train, or leave it out.',
        ),
    ],
)
def test_a_phase_has_no_settings_of_the_other(wrong: dict[str, Any], says: str) -> None:
    with pytest.raises(InvalidRequest) as raised:
        Request(**ASKED | {"phase": "train"} | wrong)
    assert str(raised.value) == says


def test_a_request_of_either_phase_is_its_own_copy() -> None:
    """What follows from other columns is filled in, and is no setting when the request is changed."""
    for phase in ("serve", "train"):
        asked = Request(**ASKED, phase=phase)
        assert replace(asked, tp=1) == asked


@pytest.mark.parametrize("name", engines())
def test_an_engine_takes_its_own_settings_and_refuses_those_of_others(name: str) -> None:
    """Each column of `settings` in catalog/engines.toml is one that a request and an engine know."""
    values: dict[str, Any] = {"ubatch": 64, "kv_block": 16, "gpu_memory_utilization": 0.8}
    flags = dict.fromkeys(("enforce_eager", "enable_chunked_prefill", "async_scheduling", "offline"), True)
    of_some = {"api_server_count", "tokenizer_worker_num", "enable_two_batch_overlap"}  # see test_server_processes.py
    for setting in {*Settings._fields[1:], "ubatch", "kv_block"} - of_some:
        value = (values | flags).get(setting, 2048)
        own = {setting: value} if setting in ("ubatch", "kv_block") else {}
        sets = {} if own else {"settings": Settings(**{setting: value})}
        dtype = "fp16" if name == "llama.cpp" else "bf16"
        try:
            Workload(model=get_model(ASKED["model"]), engine=name, dtype=dtype, **own, **sets)
            assert setting in get_engine(name).settings
        except InvalidRequest as error:
            assert setting not in get_engine(name).settings
            assert f"{setting} is {value}; {name}" in str(error) and "has none. Set engine to" in str(error)


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"ubatch": 64}, "ubatch is 64; vllm has none. Set engine to llama.cpp (May 2024) or mlx, or leave it out."),
        (
            {"engine_version": "0.12", "max_seq_len_to_capture": 4096},
            "max_seq_len_to_capture is 4096; vllm has none. Set engine to vllm-v0 (before 0.8), or leave it out.",
        ),
        (
            {"engine_version": "0.6", "async_scheduling": True},
            "async_scheduling is True; vllm-v0 (before 0.8) has none. Set engine to vllm, sglang or trtllm, or "
            "leave it out.",
        ),
        (
            {"engine": "sglang", "beam_width": 2},
            "beam_width is 2; sglang has none. Set engine to vllm, vllm-v0 (before 0.8), trtllm, trtllm-cpp (its C++ "
            "runtime, 0.11 to 0.21), trtllm-early (its C++ runtime, before 0.11) or torch, or leave it out.",
        ),
        (
            {"engine_version": "99.9"},
            "engine_version is 99.9; of vllm 0.2 to 0.24 are known. Choose one of them or leave it out for the newest.",
        ),
        (
            {"engine_version": "1.3.0rc1"},
            "engine_version is 1.3.0rc1; of vllm 0.2 to 0.24 are known. Choose one of them or leave it out for "
            "the newest.",
        ),
        (
            {"engine": "vllm-v0", "engine_version": "0.12"},
            "engine_version is 0.12; of vllm-v0 0.2 to before 0.8 are known. Choose one of them.",
        ),
        (
            {"engine": "sglang", "engine_version": "0.3"},
            "engine_version is 0.3; of sglang 0.5 to 0.5.14 are known. Choose one of them or leave it out for "
            "the newest.",
        ),
        ({"engine": "sglang", "engine_version": "abc"}, 'engine_version is "abc"; it must be numbers such as 0.12.1.'),
        (
            {"engine": "sglang", "engine_version": "12abc"},
            'engine_version is "12abc"; it must be numbers such as 0.12.1.',
        ),
        (
            {"engine": "llama.cpp", "dtype": "q8_0", "engine_version": "b3000"},
            'engine_version is "b3000"; llama.cpp (May 2024) is known in one version only. Leave it out.',
        ),
        (
            {"concurrency": 4, "max_num_seqs": 64, "max_num_batched_tokens": 8},
            "max_num_seqs is 64 and max_num_batched_tokens 8; a step holds a token of each sequence. Raise "
            "max_num_batched_tokens, or lower max_num_seqs.",
        ),
        (
            {"concurrency": 4, "draft_tokens": 10_000, "acceptance": 0.9},
            "draft_tokens is 10000; a step of vllm checks them all and takes at most 8192 tokens. Lower draft_tokens.",
        ),
        (
            {"engine": "torch", "engine_version": "2.5"},
            'engine_version is "2.5"; torch is known in one version only. Leave it out.',
        ),
    ],
)
def test_what_an_engine_does_not_have_is_refused(wrong: dict[str, Any], says: str) -> None:
    with pytest.raises(InvalidRequest) as raised:
        predict(**ASKED, **wrong)
    assert str(raised.value) == says


def test_a_version_that_may_come_is_taken_as_the_newest_with_a_note() -> None:
    newer, newest = (predict(**ASKED, engine_version=version) for version in ("0.31.2", "0.24"))
    assert newer.tpot_s == newest.tpot_s
    assert "vllm 0.31.2 is newer than 0.24, the newest that is known, which is taken." in newer.notes
    assert not any("newer than" in note for note in newest.notes)


def test_a_static_batch_says_which_limit_it_does_not_keep_to() -> None:
    note = "a static batch takes its prompts in one pass; max_num_batched_tokens is of the memory at start alone."
    assert note in predict(**ASKED, batch=8, max_num_batched_tokens=512).notes
    assert note not in predict(**ASKED, max_num_batched_tokens=2048).notes


@pytest.mark.parametrize("name", engines())
def test_versions_of_an_engine_are_in_order(name: str) -> None:
    engine = get_engine(name)
    if engine.newest or engine.until:
        assert version_of(engine.since) < version_of(engine.newest or engine.until)
    assert all(version_of(engine.since) < version_of(version) for version in engine.before)


def test_decode_per_query_head_where_no_grouped_kernel_fits() -> None:
    gpu, bundle = get_gpu("H200-SXM-141GB"), load_bundle()

    def seconds(engine: str, kv_heads: int) -> float:
        sizes = {"batch": 120, "q_len": 1, "kv_len": 1024, "heads": 32, "kv_heads": kv_heads, "head_dim": 128}
        op = Attention(phase="decode", **sizes, kv_dtype="fp8")
        return float(predict_as_run(stack([op]), gpu, engine, bundle).latency_s[0])

    assert seconds("trtllm-early", 8) > 2 * seconds("trtllm-cpp", 8)
    assert seconds("trtllm-early", 4) == pytest.approx(seconds("trtllm-cpp", 4))


def test_a_window_that_holds_every_key_masks_nothing() -> None:
    gpu, bundle = get_gpu("A100-SXM-40GB"), load_bundle()

    def seconds(engine: str, window: float) -> float:
        sizes = {"batch": 1, "q_len": 1, "kv_len": 2048, "heads": 32, "kv_heads": 8, "head_dim": 128}
        op = Attention(phase="decode", **sizes, window=window)
        return float(predict_as_run(stack([op]), gpu, engine, bundle).latency_s[0])

    assert seconds("vllm", 4096.0) == seconds("vllm", 0.0) < seconds("vllm", 2047.0)
    assert seconds("vllm-v0", 4096.0) > seconds("vllm-v0", 0.0)  # its graphs are captured for 8,192 tokens
    assert seconds("vllm-v0", 8192.0) == seconds("vllm-v0", 0.0)


def test_kernels_of_cdna2_start_late_and_a_pipeline_of_deepspeed_takes_its_time() -> None:
    op, bundle = stack([Gemm(m=1, n=64, k=64, dtype="bf16")]), load_bundle()
    older, newer = (predict_as_run(op, get_gpu(gpu), "vllm", bundle) for gpu in ("MI250-GCD", "MI300X"))
    assert older.low_s[0] < older.latency_s[0] < older.high_s[0] and older.latency_s[0] > newer.latency_s[0] + 1e-5
    eager, captured = (predict("Llama-3.1-8B", "A100", engine=name) for name in ("deepspeed", "vllm"))
    assert eager.ttft_s.value > captured.ttft_s.value + 0.3 and eager.tpot_s.value > captured.tpot_s.value


@pytest.mark.parametrize(
    ("asked", "at_once"),
    [
        ({"engine": "vllm-v0"}, 256),
        ({"engine": "vllm-v0", "dp": 2}, 512),
        ({"engine": "vllm"}, 1024),
        ({"engine": "sglang", "tp": 2}, 1024),
    ],
)
def test_a_static_batch_beyond_the_seats_of_an_engine_is_said(asked: dict[str, Any], at_once: int) -> None:
    lengths = {"input_len": 16, "output_len": 16}
    beyond, full = (predict("Llama-3.1-8B", "H100", **asked, **lengths, batch=at_once + more) for more in (1, 0))
    told = (
        f"{asked['engine']} runs {at_once} sequences at once (max_num_seqs); others of the {at_once + 1} wait, and the "
        f"times are of all at once. For those of waves set concurrency and num_prompts to {at_once + 1} instead."
    )
    assert told in beyond.notes and not any("sequences at once (max" in note for note in full.notes)
    wide = predict("Llama-3.1-8B", "H100", **asked, **lengths, batch=at_once + 1, max_num_seqs=2 * at_once)
    assert not any("sequences at once (max" in note for note in wide.notes)


def test_waves_take_longer_than_all_at_once() -> None:
    """As the note of a batch beyond max_num_seqs says how to ask."""
    asked: dict[str, Any] = {"engine": "vllm-v0", "input_len": 128, "output_len": 64}
    at_once = predict("Llama-3.1-8B", "H100", **asked, batch=1024)
    waves = predict("Llama-3.1-8B", "H100", **asked, concurrency=1024, num_prompts=1024, length_spread=0)
    assert waves.ttft_s.value > at_once.ttft_s.value and waves.tokens_per_s.value < at_once.tokens_per_s.value
