"""Serving: laws of the simulated scheduler on a made-up step time, and of the step table on predicted ones."""

import itertools
import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from straight import Straight

from predictor.errors import InvalidRequest, UnsupportedDtype
from predictor.estimators.bundle import load_bundle
from predictor.hardware.gpu import get_gpu
from predictor.latency.serving import load as load_module, step_times as step_times_module
from predictor.latency.serving.clients import Load
from predictor.latency.serving.load import (
    Serving,
    _percentiles,
    continuous,
    kv_capacity,
    serve,
    settled_from,
)
from predictor.latency.serving.scheduler import Served, simulate
from predictor.latency.serving.step_table import ENDS, Chunk, StepTimes
from predictor.latency.serving.step_times import Asked, step_times, step_times_of_many
from predictor.latency.serving.sustained import sustained
from predictor.latency.steps import op_lines, total
from predictor.workloads import Workload, get_model
from predictor.workloads.engines import Engine, engines, get_engine, get_server

ENGINES = sorted(engines())


STEP = Straight()
TIMES = StepTimes(STEP, STEP, STEP)  # type: ignore[arg-type]  # of another kind of table
FREE = get_engine("vllm").without_host()
names = st.sampled_from(ENGINES)
lengths = st.integers(1, 3000)
clients = st.integers(1, 24)


def run(load: Load, engine: Engine | str = FREE, kv_tokens: float = math.inf) -> Served:
    return simulate(load, STEP, get_engine(engine) if isinstance(engine, str) else engine, kv_tokens)


def e2e(served: Served) -> float:
    return float((served.finished_s - served.submitted_s).mean())


def static(batch: int, prompt: int, output: int, engine: Engine) -> Serving:
    """A batch that starts together, prompts before outputs, and nobody comes after."""
    alone = replace(engine, prefill_first=True, reserved=0.0, max_sequences=batch)
    return continuous(TIMES, Load(input_len=prompt, output_len=output, concurrency=batch, requests=batch), alone)


@given(name=names, prompt=lengths, output=st.integers(1, 300), count=clients, spread=st.sampled_from([0.0, 0.5]))
@settings(max_examples=60, deadline=None)
def test_every_request_is_answered_once_and_in_order(
    name: str, prompt: int, output: int, count: int, spread: float
) -> None:
    load = Load(input_len=prompt, output_len=output, concurrency=count, requests=3 * count, spread=spread)
    served = run(load, name)
    assert served.output_len.tolist() == load.lengths()[2]
    assert (served.first_s > served.submitted_s).all()
    assert (served.finished_s >= served.first_s).all()
    assert served.batch <= count


@given(name=names, prompt=lengths, output=st.integers(2, 300), count=clients)
@settings(max_examples=40, deadline=None)
def test_the_same_load_gives_the_same_answer(name: str, prompt: int, output: int, count: int) -> None:
    load = Load(input_len=prompt, output_len=output, concurrency=count, spread=0.2)
    one, two = run(load, name), run(load, name)
    np.testing.assert_array_equal(one.finished_s, two.finished_s)


@given(name=names, prompt=lengths, output=st.integers(1, 300), counts=st.lists(clients, min_size=2, max_size=3))
@settings(max_examples=40, deadline=None)
def test_an_answer_never_comes_sooner_with_more_clients_at_once(
    name: str, prompt: int, output: int, counts: list[int]
) -> None:
    """One wave: in the waves after it, more clients may happen to be better spread out."""
    loads = [Load(input_len=prompt, output_len=output, concurrency=n, requests=n) for n in sorted(counts)]
    last = [float(run(load, name).finished_s.max()) for load in loads]
    assert last == sorted(last)


@given(name=names, prompt=lengths, outputs=st.lists(st.integers(1, 400), min_size=2, max_size=3), count=clients)
@settings(max_examples=40, deadline=None)
def test_longer_outputs_never_shorten_a_wave(name: str, prompt: int, outputs: list[int], count: int) -> None:
    waves = [
        run(Load(input_len=prompt, output_len=n, concurrency=count, requests=count), name) for n in sorted(outputs)
    ]
    times = [e2e(wave) for wave in waves]
    assert all(later >= earlier * (1 - 1e-9) for earlier, later in itertools.pairwise(times))


@given(prompts=st.lists(st.integers(1, 20_000), min_size=2, max_size=4), batch=clients)
@settings(max_examples=40, deadline=None)
def test_longer_prompts_never_shorten_a_static_batch(prompts: list[int], batch: int) -> None:
    firsts = [static(batch, n, 8, FREE).ttft_s.value for n in sorted(prompts)]
    assert all(later >= earlier * (1 - 1e-9) for earlier, later in itertools.pairwise(firsts))


@given(name=names, prompt=lengths, output=st.integers(2, 300), batch=clients)
@settings(max_examples=40, deadline=None)
def test_static_equals_its_closed_form(name: str, prompt: int, output: int, batch: int) -> None:
    engine = replace(get_engine(name).without_host(), max_batched_tokens=prompt * batch)
    found = static(batch, prompt, output, engine)
    prefill = STEP.mixed_s([Chunk(prompt, 0)] * batch, 0, 0.0)
    decode = sum(STEP.decode_s(batch, prompt + i) for i in range(output - 1))
    assert found.ttft_s.value == pytest.approx(prefill)
    assert found.tpot_s.value == pytest.approx(decode / (output - 1))
    assert found.e2e_s.value == pytest.approx(prefill + decode)
    assert found.tokens_per_s.value == pytest.approx(batch * output / (prefill + decode))


@given(name=names, rate=st.floats(0.01, 50.0), prompt=lengths, output=st.integers(1, 200))
@settings(max_examples=30, deadline=None)
def test_tokens_out_are_requests_times_output_length(name: str, rate: float, prompt: int, output: int) -> None:
    served = run(Load(input_len=prompt, output_len=output, rate=rate, requests=40), name)
    assert int(served.output_len.sum()) == 40 * output
    assert (np.diff(served.submitted_s) >= 0).all()


def test_an_empty_queue_serves_a_request_at_once() -> None:
    load = Load(input_len=1000, output_len=11, rate=1e-3, requests=5)
    served = run(load)
    alone = STEP.mixed_s([Chunk(1000, 0)], 0, 0.0)
    np.testing.assert_allclose(served.first_s - served.submitted_s, alone)
    assert served.batch == 1.0


@pytest.mark.parametrize("name", ENGINES)
def test_a_cache_for_one_request_serves_one_after_the_other(name: str) -> None:
    load = Load(input_len=500, output_len=100, concurrency=8, requests=16)
    engine = replace(get_engine(name).without_host(), reserved=1.0)
    served = run(load, engine, kv_tokens=600)
    assert served.batch == 1.0
    order = np.argsort(served.first_s)
    assert (served.first_s[order][1:] >= served.finished_s[order][:-1] - 1e-12).all()


@given(name=names, room=st.integers(700, 6000), count=clients)
@settings(max_examples=40, deadline=None)
def test_a_full_cache_delays_but_loses_nothing(name: str, room: int, count: int) -> None:
    load = Load(input_len=500, output_len=200, concurrency=count, requests=2 * count)
    tight, wide = run(load, name, kv_tokens=room), run(load, name)
    assert tight.finished_s.max() >= wide.finished_s.max() * (1 - 1e-9)
    assert int(tight.output_len.sum()) == 400 * count


@given(prompt=lengths, output=st.integers(1, 50))
@settings(max_examples=30, deadline=None)
def test_a_fully_cached_prompt_leaves_one_token_to_compute(prompt: int, output: int) -> None:
    load = Load(input_len=prompt, output_len=output, concurrency=1, requests=1, prefix_cache_hit_rate=1.0)
    assert run(load).first_s[0] == pytest.approx(STEP.mixed_s([Chunk(1, prompt - 1)], 0, 0.0))


@given(name=names, prompt=lengths, output=st.integers(1, 200), count=clients)
@settings(max_examples=30, deadline=None)
def test_drafts_that_are_never_right_save_no_step(name: str, prompt: int, output: int, count: int) -> None:
    load = Load(input_len=prompt, output_len=output, concurrency=count, requests=2 * count)
    plain, checked = run(load, name), run(replace(load, draft_tokens=0, acceptance=0.9), name)
    np.testing.assert_array_equal(plain.finished_s, checked.finished_s)
    wrong = run(replace(load, draft_tokens=4, acceptance=0.0), name)
    assert wrong.finished_s.max() >= plain.finished_s.max()


def test_drafts_that_are_always_right_divide_the_steps() -> None:
    load = Load(input_len=10, output_len=101, concurrency=1, requests=1)
    free_tokens = Straight(token=0.0, cached=0.0)
    plain = simulate(load, free_tokens, FREE)
    quick = simulate(replace(load, draft_tokens=3, acceptance=1.0), free_tokens, FREE)
    tpots = [float((served.finished_s - served.first_s)[0]) / 100 for served in (plain, quick)]
    assert tpots[0] == pytest.approx(4 * tpots[1])


def test_prompts_that_go_first_stop_the_decoding() -> None:
    """SGLang's running requests wait while prompts are computed; vLLM's go on in the same steps."""
    load = Load(input_len=2000, output_len=50, concurrency=8, spread=0.5)
    engines_ = [replace(FREE, prefill_first=first) for first in (False, True)]
    first = [float((s.first_s - s.submitted_s).mean()) for s in (run(load, engine) for engine in engines_)]
    assert first[1] != first[0]


def test_replicas_share_the_load_and_add_up() -> None:
    one = continuous(TIMES, Load(input_len=500, output_len=50, concurrency=4), FREE)
    four = continuous(TIMES, Load(input_len=500, output_len=50, concurrency=16), FREE, groups=4)
    assert four.ttft_s == one.ttft_s
    assert four.tokens_per_s.value == pytest.approx(4 * one.tokens_per_s.value)
    assert four.batch == pytest.approx(4 * one.batch)


@pytest.mark.parametrize("name", ["vllm", "sglang", "trtllm"])
@given(
    prompt=st.integers(50, 4000),
    output=st.integers(16, 1500),
    room=st.integers(40_000, 400_000),
    turns=st.sampled_from([1, 1, 5]),
    shared=st.sampled_from([0, 0, 2000]),
)
@settings(max_examples=20, deadline=None)
def test_what_is_sustained_is_what_an_endless_queue_is_served(
    name: str, prompt: int, output: int, room: int, turns: int, shared: int
) -> None:
    """Within a fifth; a third where the cache is full and requests lose their places. Of sessions it is their turns."""
    engine = get_engine(name)
    load = Load(input_len=prompt, output_len=output, rate=1e6, spread=0.2, turns=turns, shared=shared)
    held = sustained(load, STEP, engine, room)
    served = run(replace(load, requests=int(max(6 * held.sequences, 300))), engine, room)
    ends = np.sort(served.finished_s)
    early, late = int(0.4 * len(ends)), int(0.8 * len(ends))
    rate = (late - early) / (ends[late] - ends[early])
    assert held.requests_per_s == pytest.approx(rate, rel=0.35 if served.preempted else 0.2)


@given(name=st.sampled_from(["vllm", "sglang", "trtllm"]), share=st.floats(0.2, 0.7), output=st.integers(2, 400))
@settings(max_examples=15, deadline=None)
def test_a_rate_below_what_is_sustained_settles_and_one_above_says_so(name: str, share: float, output: int) -> None:
    engine = get_engine(name)
    load = Load(input_len=500, output_len=output, rate=1.0)
    most = sustained(load, STEP, engine, 100_000).requests_per_s
    calm = continuous(TIMES, replace(load, rate=share * most), engine, 100_000)
    flooded = continuous(TIMES, replace(load, rate=3 * most), engine, 100_000)
    assert not calm.saturated and calm.requests_per_s.value == pytest.approx(share * most)
    assert flooded.saturated and flooded.requests_per_s.value == pytest.approx(most)
    assert any("queues grow without end" in note for note in flooded.notes) and not calm.notes
    assert calm.ttft_s.value <= flooded.ttft_s.value and calm.ttft_p50_s.value <= calm.ttft_p99_s.value


def test_what_a_run_shows_to_be_too_much_is_not_said_to_be_held(monkeypatch: pytest.MonkeyPatch) -> None:
    """A cache that thrashes answers less than the closed form says: 6 requests/s arrived and "6.22 can be served"."""
    engine, load = get_engine("vllm"), Load(input_len=500, output_len=400, rate=1.0)
    rate = 0.97 * sustained(load, STEP, engine, 60_000).requests_per_s
    monkeypatch.setattr(load_module, "_kept_up", lambda run: 0.9)
    found = continuous(TIMES, replace(load, rate=rate), engine, 60_000)
    held = found.sustainable_rate
    assert found.saturated and held.value == pytest.approx(0.9 * rate) and held.low < held.value < held.high
    assert f"{rate:.3g} requests/s arrive and {held.value:.3g} can be served" in found.notes[0]


def test_requests_that_never_meet_are_served_alone_at_any_rate() -> None:
    alone = simulate(Load(input_len=500, output_len=50, concurrency=1, requests=1), STEP, FREE)
    for rate in (1e-9, 1e-6):
        found = continuous(TIMES, Load(input_len=500, output_len=50, rate=rate), FREE)
        assert found.ttft_s.value == pytest.approx(float(alone.first_s[0]), rel=1e-4)
        assert found.ttft_p99_s.value == pytest.approx(found.ttft_s.value, rel=1e-4)
        assert found.requests_per_s.value == pytest.approx(rate) and not found.saturated


def test_clients_beyond_the_room_wait_and_that_is_said() -> None:
    engine = replace(FREE, max_sequences=4)
    few, many = (continuous(TIMES, Load(input_len=100, output_len=50, concurrency=n), engine) for n in (4, 16))
    assert not few.saturated and many.saturated and "of 16 clients 4 find room" in many.notes[0]
    assert many.ttft_s.value > 2 * few.ttft_s.value


@given(prompt=st.integers(1, 6000), output=st.integers(2, 400), count=st.integers(1, 64))
@settings(max_examples=20, deadline=None)
def test_means_and_percentiles_of_clients_are_of_the_same_requests(prompt: int, output: int, count: int) -> None:
    """Of the whole run, or of all but its warm-up, so that no mean lies above a 99th percentile."""
    load = Load(input_len=prompt, output_len=output, concurrency=count, spread=0.2)
    unsaid, whole, late = (continuous(TIMES, load, FREE, warmup=warmup) for warmup in (None, 0, count))
    for found in (unsaid, whole, late):
        assert found.ttft_s.value <= found.ttft_p99_s.value * (1 + 1e-9)
        assert found.tpot_s.value <= found.tpot_p99_s.value * (1 + 1e-9)
    for name in ("ttft_s", "ttft_p50_s", "ttft_p99_s", "tpot_p99_s"):
        assert getattr(unsaid, name).value == getattr(whole, name).value


@given(times=st.lists(st.floats(0, 100), min_size=1, max_size=50))
def test_percentiles_are_those_of_numpy(times: list[float]) -> None:
    own = _percentiles(np.array(times))
    assert own == pytest.approx(np.percentile(times, [50, 99]))


def test_the_settled_part_of_a_series_begins_after_its_start() -> None:
    noise = np.random.default_rng(1).normal(0, 0.1, 1000)
    start = np.concatenate([np.linspace(-5, 0, 200), np.zeros(800)])
    assert 150 <= settled_from(noise + start) <= 300
    assert settled_from(noise) <= 250 and settled_from(noise[:50]) == 0


def test_a_session_computes_only_what_is_new_in_it() -> None:
    load = Load(input_len=100, output_len=50, concurrency=4, turns=3, shared=1000, requests=12)
    prompts, cached, outputs = load.lengths()
    assert [prompt - known for prompt, known in zip(prompts, cached, strict=True)] == [100] * 12
    assert sorted(set(cached)) == [1000, 1150, 1300] and set(outputs) == {50}
    assert load.longest == 1000 + 3 * 150


def test_the_host_is_counted_where_the_gpu_waits_for_it() -> None:
    slow = replace(FREE, step_s=0.005, sequence_s=0.0, overlapped=False)
    load = Load(input_len=100, output_len=11, concurrency=1, requests=1)
    served = run(load, slow)
    assert served.host_s == pytest.approx(11 * 0.005)
    assert run(load, FREE).host_s == 0.0 and run(load, replace(slow, overlapped=True)).host_s == 0.0


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"concurrency": 0}, "concurrency is 0 and rate 0; give exactly one of them, above 0."),
        ({"rate": 2.0}, "concurrency is 4 and rate 2; give exactly one of them, above 0."),
        ({"acceptance": 1.5}, "acceptance is 1.5; it must lie between 0 and 1."),
        ({"prefix_cache_hit_rate": -0.1}, "prefix_cache_hit_rate is -0.1; it must lie between 0 and 1."),
        ({"input_len": 0}, "input_len is 0; it must be at least 1."),
        ({"draft_tokens": -1}, "draft_tokens is -1; it must be at least 1."),
    ],
)
def test_impossible_loads_name_the_value_and_the_rule(wrong: dict[str, float], says: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        Load(**{"input_len": 10, "output_len": 10, "concurrency": 4, **wrong})  # type: ignore[arg-type]
    assert str(caught.value) == says


def test_a_request_beyond_the_cache_names_the_cure() -> None:
    with pytest.raises(InvalidRequest, match=r"the KV cache holds 99 tokens\. Raise tp") as caught:
        run(Load(input_len=90, output_len=10, concurrency=1), kv_tokens=99)
    assert str(caught.value).startswith("the longest request has 100 tokens;")


@pytest.mark.parametrize(
    ("name", "says"),
    [
        (
            "tgi",
            "serving knows vllm, sglang, trtllm, trtllm-cpp, trtllm-early, vllm-v0",
        ),
        ("torch", "continuous scheduling needs vllm, sglang, trtllm"),
    ],
)
def test_an_engine_that_takes_no_requests_as_they_come_names_those_that_do(name: str, says: str) -> None:
    with pytest.raises(InvalidRequest, match=f'engine is "{name}"; {says}'):
        get_server(name)


def test_hosts_beside_old_gpus_take_longer() -> None:
    vllm = get_engine("vllm")
    assert vllm.beside("Hopper") == vllm
    assert vllm.beside("Ampere").step_s == pytest.approx(1.8 * vllm.step_s)


def test_a_decode_step_beyond_its_graphs_is_launched_op_by_op() -> None:
    old = get_engine("vllm-v0")
    short, long = (old.decode_s(1e-3, 300.0, 1, length) for length in (old.graph_len, old.graph_len + 1))
    assert short == pytest.approx(1e-3 + old.step_s + old.sequence_s)
    assert long == pytest.approx(300 * old.launch_s + old.step_s + old.sequence_s)


@pytest.fixture(scope="module")
def predicted() -> StepTimes:
    workload = Workload(model=get_model("Qwen3-8B"), engine="vllm")
    return step_times(workload, get_gpu("H100"), load_bundle(), max_tokens=2048, max_sequences=64)


@pytest.mark.parametrize(
    ("phase", "batch", "q_len", "past"),
    [
        ("decode", 1, 1, 500),
        ("decode", 24, 1, 3000),
        ("prefill", 1, 1024, 0),
        ("prefill", 3, 500, 0),
        ("prefill", 1, 700, 4000),
    ],
)
def test_the_table_agrees_with_a_predicted_step(
    predicted: StepTimes, phase: str, batch: int, q_len: int, past: int
) -> None:
    workload, gpu, bundle = Workload(model=get_model("Qwen3-8B"), engine="vllm"), get_gpu("H100"), load_bundle()
    step = workload.step(phase, q_len, past + q_len)._replace(batch=batch)
    lines = op_lines([(phase, workload.model.forward_ops(step))], gpu, "vllm", bundle)[0]
    seconds = total(lines, gpu, bundle).value
    chunks = [Chunk(q_len, past)] * batch
    found = predicted.value.decode_s(batch, past + 1) if phase == "decode" else predicted.value.mixed_s(chunks, 0, 0.0)
    assert found == pytest.approx(seconds, rel=0.04)


@given(
    sequences=st.lists(st.integers(1, 200), min_size=2, max_size=4),
    cached=st.lists(st.floats(1.0, 1e5), min_size=2, max_size=4),
    new=st.lists(st.integers(1, 6000), min_size=2, max_size=4),
)
@settings(max_examples=60, deadline=None)
def test_a_step_never_gets_shorter_with_more_work(
    predicted: StepTimes, sequences: list[int], cached: list[float], new: list[int]
) -> None:
    table = predicted.value
    ladders = [
        [table.decode_s(n, cached[0]) for n in sorted(sequences)],
        [table.decode_s(sequences[0], c) for c in sorted(cached)],
        [table.mixed_s([Chunk(n, 0)], sequences[0], cached[0]) for n in sorted(new)],
        [table.mixed_s([Chunk(new[0], n)], 0, 0.0) for n in sorted(new)],
    ]
    for times in ladders:
        assert (np.diff(times) >= -1e-9).all()
    assert predicted.low.decode_s(8, 1000) <= table.decode_s(8, 1000) <= predicted.high.decode_s(8, 1000)


def test_step_times_of_many_are_those_of_each_alone_and_are_remembered() -> None:
    bundle, most = load_bundle(), {"max_tokens": 2048, "max_sequences": 64}
    many = [
        Asked(Workload(model=get_model(model), tp=tp), get_gpu(gpu), **most)
        for model, gpu, tp in itertools.product(("Qwen3-8B", "gpt-oss-20b"), ("L4", "MI300X"), (1, 2))
    ]
    unable = Asked(Workload(model=get_model("Qwen3-8B"), dtype="fp8"), get_gpu("A100"), **most)
    *together, error = step_times_of_many([*many, unable], bundle)
    assert isinstance(error, UnsupportedDtype)
    others = [replace(asked.workload, batch=7, input_len=99, output_len=3) for asked in many]
    for asked, other, times in zip(many, others, together, strict=True):
        assert step_times(other, asked.gpu, bundle, **most) is times
    for asked, other, times in zip(many, others, together, strict=True):
        step_times_module._kept.clear()
        alone = step_times(other, asked.gpu, bundle, **most)
        assert alone is not times
        for end in ENDS:
            one, two = getattr(times, end), getattr(alone, end)
            assert one.decode_s(5, 700.0, 2) == two.decode_s(5, 700.0, 2)
            assert one.mixed_s([Chunk(90, 300), Chunk(8, 0)], 3, 50.0) == two.mixed_s(
                [Chunk(90, 300), Chunk(8, 0)], 3, 50.0
            )


def test_only_the_last_step_times_are_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(step_times_module, "MOST_KEPT", 2)
    workload, bundle = Workload(model=get_model("Qwen2.5-0.5B")), load_bundle()
    for sequences in (8, 16, 32):
        step_times(workload, get_gpu("H100"), bundle, 256, sequences)
    assert [key[4] for key in step_times_module._kept] == [16, 32]


def test_the_output_head_of_drafts_is_that_of_as_many_sequences() -> None:
    """With a grid up to the clients only, 14 clients with five drafts each took 47 % too long there."""
    workload, gpu, bundle = Workload(model=get_model("Llama-3.1-8B"), tp=2), get_gpu("L40S"), load_bundle()
    engine = get_engine("vllm")
    table = step_times(workload, gpu, bundle, engine.max_batched_tokens, engine.max_sequences).value
    step = workload.step("decode", 1, 1)._replace(batch=84)
    calls = [
        call for call in workload.model.forward_ops(step) if call.name == "lm_head" or call.name.startswith("logits")
    ]
    seconds = total(op_lines([("decode", calls)], gpu, "vllm", bundle)[0], gpu, bundle).value
    assert table.head[84] == pytest.approx(seconds, rel=0.04)


def test_a_model_is_served_from_its_name_to_its_tokens_per_second() -> None:
    """vLLM on one H100 decodes Qwen3-8B, 16 GB in bf16, in 6 to 9 ms per token at this load."""
    workload, load = Workload(model=get_model("Qwen3-8B")), Load(input_len=1024, output_len=256, concurrency=8)
    found = serve(workload, get_gpu("H100"), load_bundle(), load)
    assert 0.006 < found.tpot_s.low < found.tpot_s.value < found.tpot_s.high < 0.02
    assert found.ttft_p50_s.value <= found.ttft_p99_s.value
    assert 7 < found.batch <= 8
    assert found.tokens_per_s.value == pytest.approx(256 * found.requests_per_s.value)
    assert kv_capacity(workload, get_gpu("H100"), load) > 8 * 1280
