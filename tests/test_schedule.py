"""Schedules of clients, timed by other steps: laws on made-up step times, and of steps as columns on predicted ones."""

import itertools
import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from straight import Straight

from predictor.estimators.bundle import load_bundle
from predictor.hardware.gpu import get_gpu
from predictor.latency.serving import schedule as schedule_module
from predictor.latency.serving.clients import Load
from predictor.latency.serving.drafting import Drafted
from predictor.latency.serving.load import LogErrors, continuous
from predictor.latency.serving.schedule import scheduled
from predictor.latency.serving.scheduler import simulate
from predictor.latency.serving.step_table import Chunk, Computed, StepTable, StepTimes
from predictor.latency.serving.step_times import step_times
from predictor.workloads import Workload, get_model
from predictor.workloads.engines import engines, get_engine

STEP = Straight()
FREE = get_engine("vllm").without_host()
names = st.sampled_from(sorted(engines()))
lengths = st.integers(1, 3000)
clients = st.integers(1, 24)


@pytest.fixture(scope="module")
def predicted() -> StepTimes:
    workload = Workload(model=get_model("Qwen3-8B"), engine="vllm")
    return step_times(workload, get_gpu("H100"), load_bundle(), max_tokens=2048, max_sequences=64)


@given(name=names, prompt=lengths, output=st.integers(1, 300), count=clients, spread=st.sampled_from([0.0, 0.5]))
@settings(max_examples=40, deadline=None)
def test_a_schedule_timed_by_its_own_steps_is_the_simulation(
    name: str, prompt: int, output: int, count: int, spread: float
) -> None:
    load, engine = Load(input_len=prompt, output_len=output, concurrency=count, spread=spread), get_engine(name)
    simulated, (_, timed) = simulate(load, STEP, engine), scheduled(load, STEP, engine, math.inf)
    for own, other in zip(simulated[:8], timed, strict=False):
        np.testing.assert_allclose(other, own, rtol=1e-9, atol=1e-12)


@given(name=names, prompt=lengths, output=st.integers(2, 300), count=clients, slower=st.floats(0.2, 5.0))
@settings(max_examples=60, deadline=None)
def test_a_schedule_is_shared_only_where_a_simulation_would_be_the_same(
    name: str, prompt: int, output: int, count: int, slower: float
) -> None:
    load, engine = Load(input_len=prompt, output_len=output, concurrency=count, spread=0.2), get_engine(name)
    others = engine.times(1.3)
    steps = replace(STEP, step=slower * STEP.step, token=slower * STEP.token)
    for kv_tokens in (math.inf, 2.5 * (prompt + output)):
        schedule_module._kept.clear()
        _, alone = scheduled(load, steps, others, kv_tokens)
        schedule_module._kept.clear()
        scheduled(load, STEP, engine, math.inf)
        _, after = scheduled(load, steps, others, kv_tokens)
        for own, other in zip(alone, after, strict=True):
            np.testing.assert_array_equal(own, other)


def test_most_schedules_of_clients_are_those_of_other_steps() -> None:
    """Else a plan of many GPUs would take three times as long."""
    load, engine = Load(input_len=1000, output_len=200, concurrency=8, spread=0.2), get_engine("vllm")
    schedule_module._kept.clear()
    for slower in (1.0, 1.2, 2.0, 3.0):
        scheduled(load, replace(STEP, step=slower * STEP.step), engine, math.inf)
    assert sum(map(len, schedule_module._kept.values())) == 1


def test_ends_of_intervals_are_those_of_simulations_with_their_steps() -> None:
    low, high = replace(STEP, step=0.7 * STEP.step, token=0.7 * STEP.token), replace(STEP, step=1.4 * STEP.step)
    for concurrency, prompt, output in ((4, 800, 100), (32, 2000, 300), (64, 300, 50)):
        load = Load(input_len=prompt, output_len=output, concurrency=concurrency, spread=0.2)
        found = continuous(StepTimes(STEP, low, high), load, FREE, errors=LogErrors(0.0, 0.0))
        for steps, end in ((low, "low"), (high, "high")):
            own = simulate(load, steps, FREE)
            ttft_s, tokens = float((own.first_s - own.submitted_s).mean()), own.output_len - 1
            tpot_s = float(((own.finished_s - own.first_s) / tokens).mean())
            assert getattr(found.tpot_s, end) == pytest.approx(tpot_s, rel=0.03)
            assert getattr(found.ttft_s, end) == pytest.approx(ttft_s, rel=0.1)


CHUNKS = st.lists(st.builds(Chunk, st.integers(1, 3000), st.sampled_from([0, 1, 7, 300, 40_000])), max_size=3)


@given(steps=st.lists(st.tuples(CHUNKS, st.integers(0, 100), st.floats(0.0, 1e5)), min_size=1, max_size=5))
@settings(max_examples=60, deadline=None)
def test_steps_as_columns_are_those_of_each_alone(
    predicted: StepTimes, steps: list[tuple[list[Chunk], int, float]]
) -> None:
    steps = [(chunks, sequences if chunks else max(sequences, 1), cached) for chunks, sequences, cached in steps]
    table = predicted.value
    assert isinstance(table, StepTable)
    halved = replace(table, sent=table.plain[0])
    places = [step for step, (chunks, *_) in enumerate(steps) for _ in chunks]
    new, past = np.array([chunk for chunks, *_ in steps for chunk in chunks], dtype=int).reshape(-1, 2).T
    decoding, cached_each = (np.array(column) for column in list(zip(*steps, strict=True))[1:])
    computed = Computed(decoding, cached_each, np.array(places, dtype=int), new, past)
    for kind, tokens in itertools.product((table, halved, Drafted(table, predicted.high, 3)), (1, 4)):
        alone = [
            kind.mixed_s(chunks, sequences, cached, tokens) if chunks else kind.decode_s(sequences, cached, tokens)
            for chunks, sequences, cached in steps
        ]
        np.testing.assert_allclose(kind.steps_s(computed, tokens), alone, rtol=1e-12)
