"""Front ends of several processes, beams under load and two batches that overlap: laws, and engines that lack them."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings, strategies as st
from straight import Straight

from predictor.errors import InvalidRequest
from predictor.estimators.bundle import load_bundle
from predictor.hardware.gpu import get_gpu
from predictor.latency.explain import explained
from predictor.latency.serving.clients import Load
from predictor.latency.serving.scheduler import Served, simulate
from predictor.latency.serving.step_table import Chunk, StepTable
from predictor.latency.serving.step_times import step_times
from predictor.latency.serving.sustained import sustained
from predictor.prediction.single import predict
from predictor.workloads import Workload, get_model
from predictor.workloads.engines import Engine, Settings, engines, get_engine

SEARCHING = sorted(name for name, engine in engines().items() if engine.beams and engine.joins)
SERVED: dict[str, Any] = {"model": "Llama-3.2-1B", "gpu": "H100-SXM-80GB", "concurrency": 256, "input_len": 200}
counts = st.integers(1, 16)
ROUNDING = 1 + 1e-9
# A scheduler that packs steps otherwise may be late by a step where it has more room (Graham's anomalies).
ANOMALY = 1.05


STEP = Straight(step=0.002, token=2e-5, launches=10.0)


def run(load: Load, engine: Engine, kv_tokens: float = math.inf) -> Served:
    return simulate(load, STEP, engine, kv_tokens)


def answered_s(served: Served) -> float:
    return float((served.finished_s - served.submitted_s).mean())


@given(name=st.sampled_from(["vllm", "sglang"]), sequences=st.integers(0, 2000), one=counts, more=counts)
@settings(max_examples=50, deadline=None)
def test_more_processes_never_make_a_step_longer(name: str, sequences: int, one: int, more: int) -> None:
    engine = get_engine(name)
    few, many = (engine.fronted(processes) for processes in (one, one + more))
    assert many.step_s_of(1e-3, sequences) <= few.step_s_of(1e-3, sequences)
    core = engine.step_s + (engine.sequence_s - engine.streamed_s) * sequences
    assert many.step_s_of(0.0, sequences) >= core * (1 - 1e-9)  # which they do not share
    assert engine.fronted(1) == engine


@given(clients=st.integers(1, 64), one=counts, more=counts, output=st.integers(1, 100))
@settings(max_examples=40, deadline=None)
def test_more_processes_never_serve_slower(clients: int, one: int, more: int, output: int) -> None:
    load = Load(input_len=200, output_len=output, concurrency=clients)
    few, many = (get_engine("vllm").fronted(processes / 4) for processes in (one, one + more))
    assert answered_s(run(load, many)) <= answered_s(run(load, few)) * ANOMALY
    assert (
        sustained(load, STEP, many).requests_per_s * ROUNDING >= sustained(load, STEP, few).requests_per_s
    )  # no queue, no anomaly


@given(processes=st.sampled_from([1, 2, 4]), requests=st.integers(1, 60))
@settings(max_examples=20, deadline=None)
def test_a_front_end_takes_as_many_at_once_as_it_has_processes(processes: int, requests: int) -> None:
    engine = replace(get_engine("vllm").without_host(), request_s=1.0, processes=processes)
    served = run(Load(input_len=10, output_len=1, concurrency=requests, requests=requests), engine)
    last = 1.0 + (requests - 1) / processes
    assert last <= served.first_s.max() <= last + 1.0


@pytest.mark.parametrize(("engine", "setting"), [("vllm", "api_server_count"), ("sglang", "tokenizer_worker_num")])
def test_one_process_is_what_a_request_that_says_nothing_has(engine: str, setting: str) -> None:
    unsaid, one, four = (predict(**SERVED, engine=engine, **{setting: count}) for count in (0, 1, 4))
    assert unsaid.served == one.served and unsaid.served
    assert four.served and four.host_s.value < one.host_s.value and four.tpot_s.value < one.tpot_s.value
    hosts = [
        next(part.latency_s.value for part in explained(report, load_bundle()) if part.name == "host")
        for report in (predict("Llama-3.2-1B", "H100", engine=engine, batch=512, **{setting: n}) for n in (1, 4))
    ]
    assert hosts[1] < hosts[0]


def test_by_default_each_group_of_attention_has_a_process() -> None:
    made = Workload(model=get_model("DeepSeek-V3"), attention_dp=8, ep=8)
    gpu = get_gpu("H200-SXM-141GB")
    own = [replace(made, settings=Settings(api_server_count=n)).engine_on(gpu) for n in (0, 8, 1)]
    assert own[0] == own[1] and own[2].processes == 1 / 8 and own[2].sequence_s > own[0].sequence_s
    assert own[2].step_s == own[0].step_s


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"engine": "sglang", "api_server_count": 4}, "api_server_count is 4; sglang has none. Set engine to vllm"),
        ({"engine": "trtllm", "tokenizer_worker_num": 4}, "trtllm has none. Set engine to sglang"),
        ({"engine_version": "0.9.0", "api_server_count": 2}, "vllm 0.9.0 has none. .* a newer version"),
        ({"offline": True, "api_server_count": 2}, "offline there is no server"),
        ({"engine": "sglang", "beam_width": 2}, "beam_width is 2; sglang has none. Set engine to vllm"),
        ({"engine_version": "0.7", "beam_width": 2}, "vllm-v0 0.7 has none"),
        ({"max_num_seqs": 3, "beam_width": 4}, "beam_width is 4; max_num_seqs is 3"),
        ({"enable_two_batch_overlap": True}, "enable_two_batch_overlap is True; vllm has none. .* sglang"),
        ({"engine": "sglang", "enable_two_batch_overlap": True}, "no tokens are sent to experts"),
    ],
)
def test_engines_without_them_refuse(wrong: dict[str, Any], says: str) -> None:
    with pytest.raises(InvalidRequest, match=says):
        predict(**SERVED | {"concurrency": 8}, **wrong)


@given(
    name=st.sampled_from(SEARCHING),
    clients=st.integers(1, 24),
    beams=st.integers(1, 7),
    output=st.integers(2, 60),
    room=st.sampled_from([math.inf, 4000.0]),
)
@settings(max_examples=60, deadline=None)
def test_wider_beams_never_serve_faster(name: str, clients: int, beams: int, output: int, room: float) -> None:
    narrow, wide = (
        Load(input_len=300, output_len=output, concurrency=clients, beams=width) for width in (beams, beams + 1)
    )
    engine = replace(get_engine(name), max_sequences=64).searching()
    few, many = run(narrow, engine, room), run(wide, engine, room)
    assert answered_s(few) <= answered_s(many) * ANOMALY
    assert max(few.peak_tokens, many.peak_tokens) <= room
    assert many.batch <= (beams + 1) * engine.most_requests(beams + 1)
    held = [sustained(load, STEP, engine, room).requests_per_s for load in (narrow, wide)]
    assert held[0] * ROUNDING >= held[1]


@given(beams=st.integers(1, 8), output=st.integers(2, 200))
@settings(max_examples=20, deadline=None)
def test_beams_share_the_prompt_in_the_cache(beams: int, output: int) -> None:
    load = Load(input_len=500, output_len=output, concurrency=1, requests=1, beams=beams)
    served = run(load, get_engine("trtllm"))
    assert served.peak_tokens == 500 + beams * (output - 1) and load.held == 500 + beams * output
    assert served.batch == beams


def test_beams_count_as_engines_count_them() -> None:
    for name, most in (("vllm", 16), ("trtllm", 64)):
        engine = replace(get_engine(name), max_sequences=64)
        assert engine.most_requests(1) == 64 and engine.most_requests(4) == most
        served = run(Load(input_len=10, output_len=400, concurrency=64, requests=64, beams=4), engine)
        assert served.batch <= 4 * most
    old = get_engine("vllm-v0").of_version("0.6.0")
    assert old.beams == "sequences" and old.searching() == old and not get_engine("vllm-v0").beams


def test_a_server_that_asks_anew_for_each_beam_takes_a_request_of_each() -> None:
    engine = get_engine("vllm")
    searching = engine.searching()
    assert searching.sequence_s == engine.sequence_s + engine.request_s and not searching.overlapped
    assert get_engine("trtllm").searching() == get_engine("trtllm")
    shared = engine.fronted(4).searching()
    assert shared.sequence_s < searching.sequence_s


@pytest.mark.parametrize("engine", ["vllm", "trtllm"])
def test_one_beam_is_no_search_and_a_single_round_is_a_static_batch(engine: str) -> None:
    load: dict[str, Any] = SERVED | {"engine": engine, "concurrency": 8, "output_len": 64}
    plain, one, four = (predict(**load, **width) for width in ({}, {"beam_width": 1}, {"beam_width": 4}))
    assert plain.served == one.served and four.tpot_s.value > one.tpot_s.value
    assert four.tpot_s.high / four.tpot_s.value > one.tpot_s.high / one.tpot_s.value  # nobody measured them
    assert any("asks for each beam" in note for note in four.notes) == (engine == "vllm")
    assert four.memory.kv_cache_bytes > one.memory.kv_cache_bytes
    together = predict(
        "Llama-3.2-1B", "H100-SXM-80GB", engine=engine, batch=8, input_len=200, output_len=64, beam_width=4
    )
    round_ = predict(**load | {"beam_width": 4, "num_prompts": 8, "length_spread": 0.0})
    assert round_.tpot_s.value == pytest.approx(together.tpot_s.value, rel=0.1)


GPU = get_gpu("H200-SXM-141GB")


def table(overlaps: bool) -> StepTable:
    own = Settings(enable_two_batch_overlap=overlaps)
    made = Workload(model=get_model("DeepSeek-V3"), engine="sglang", attention_dp=16, ep=16, settings=own)
    found = step_times(made, GPU, load_bundle(), 8192, 1024).value
    assert isinstance(found, StepTable)
    return found


@given(sequences=st.integers(1, 1024), cached=st.integers(1, 8000), prompt=st.integers(2, 8192))
@settings(max_examples=40, deadline=None)
def test_two_batches_hide_what_is_sent_and_no_more(sequences: int, cached: int, prompt: int) -> None:
    plain, both = table(False), table(True)
    assert both.sent is not None and plain.sent is None and both.launches == 2 * plain.launches
    half = -(-sequences // 2)
    if sequences == 1:
        assert both.decode_s(1, cached) == pytest.approx(plain.decode_s(1, cached), rel=0.02)
    else:
        sent = both.sent[half]
        alone = plain.decode_s(half, cached)
        assert max(alone, 2 * sent) <= both.decode_s(sequences, cached) * 1.02 <= 2 * alone * 1.05
    whole = [step.mixed_s([Chunk(prompt, 0)], 0, 0.0) for step in (plain, both)]
    assert whole[1] >= 2 * both.sent[-(-prompt // 2)]
    assert prompt < 4096 or whole[1] < whole[0]


@given(few=st.integers(1, 512), more=st.integers(1, 512), cached=st.integers(1, 8000))
@settings(max_examples=30, deadline=None)
def test_more_sequences_take_no_less_where_two_batches_overlap(few: int, more: int, cached: int) -> None:
    both = table(True)
    assert both.decode_s(few, cached) <= both.decode_s(few + more, cached) * ROUNDING


def test_two_batches_prefill_faster_where_much_is_sent() -> None:
    asked: dict[str, Any] = {
        "engine": "sglang", "attention_dp": 16, "ep": 16, "concurrency": 64, "num_prompts": 64, "input_len": 4096,
        "output_len": 1, "node_link": "ib-400", "gpu_memory_utilization": 0.85,
    }  # fmt: skip
    plain, unsaid, both = (
        predict("DeepSeek-V3", "H100-SXM-80GB", **asked, **on)
        for on in ({"enable_two_batch_overlap": False}, {}, {"enable_two_batch_overlap": True})
    )
    assert plain.served == unsaid.served and plain.served and both.served
    assert both.served.requests_per_s.value > 1.1 * plain.served.requests_per_s.value
