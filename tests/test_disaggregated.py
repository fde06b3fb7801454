"""Disaggregated serving: laws of two matched pools on made-up step times, and of plans on predicted ones."""

import itertools
import json
from dataclasses import fields, replace
from pathlib import Path

import pandas as pd
import pytest
from hypothesis import given, settings, strategies as st
from straight import Straight

from predictor.cli import main
from predictor.errors import InvalidRequest
from predictor.estimators.bundle import load_bundle
from predictor.hardware.gpu import get_gpu
from predictor.hardware.interconnect import NODE_LINK_BYTES_PER_S
from predictor.latency.serving.clients import Load
from predictor.latency.serving.disaggregated import Plan, plan
from predictor.latency.serving.load import serve
from predictor.latency.serving.rate_matching import Goal, Matched, match
from predictor.latency.serving.step_table import Chunk, StepTimes
from predictor.latency.serving.workers import DecodeWorker, PrefillWorker
from predictor.workloads import Workload, get_model
from predictor.workloads.engines import get_engine
from predictor.workloads.passes.calls import Layout

FREE = get_engine("vllm").without_host()
TRANSFER_S = 0.004

TIMES = StepTimes(*(Straight(0.01 * scale, 5e-5 * scale, 1e-8 * scale) for scale in (1.0, 0.8, 1.3)))


def pools(input_len: int = 3000, output_len: int = 200, slots: int = 64) -> tuple[PrefillWorker, DecodeWorker]:
    return (
        PrefillWorker(times=TIMES, engine=FREE, input_len=input_len, n_gpus=2),
        DecodeWorker(times=TIMES, engine=FREE, input_len=input_len, output_len=output_len, slots=slots, n_gpus=4),
    )


def matched(goal: Goal, **lengths: int) -> Matched:
    return match(*pools(**lengths), TRANSFER_S, goal)


def goal_of(prefills: int, decodes: int) -> Goal:
    return Goal(prefill_workers=prefills, decode_workers=decodes)


counts = st.integers(1, 12)
prompts = st.integers(64, 12_000)
outputs = st.integers(2, 600)
quick = settings(max_examples=12, deadline=None)


@given(prefills=counts, decodes=counts, more=st.tuples(st.integers(0, 3), st.integers(0, 3)), prompt=prompts)
@quick
def test_more_workers_never_lower_the_rate(prefills: int, decodes: int, more: tuple[int, int], prompt: int) -> None:
    few = matched(goal_of(prefills, decodes), input_len=prompt)
    many = matched(goal_of(prefills + more[0], decodes + more[1]), input_len=prompt)
    assert many.requests_per_s.value >= few.requests_per_s.value * (1 - 1e-9)


@given(prefills=counts, decodes=counts, prompt=prompts, output=outputs, slots=st.integers(1, 400))
@quick
def test_the_rate_beats_neither_pool_nor_physics(
    prefills: int, decodes: int, prompt: int, output: int, slots: int
) -> None:
    found = matched(goal_of(prefills, decodes), input_len=prompt, output_len=output, slots=slots)
    rate = found.requests_per_s.value
    assert rate == pytest.approx(min(found.prefill_requests_per_s, found.decode_requests_per_s))
    assert found.prefill_load <= 0.9 + 1e-9
    assert found.decode_batch <= slots
    assert rate * prompt * 5e-5 <= prefills  # no prompt token takes less
    assert rate * (output - 1) * 5e-5 <= decodes
    assert found.tokens_per_s.value == pytest.approx(rate * output)
    assert found.ttft_s.value >= TIMES.value.mixed_s([Chunk(prompt, 0)], 0, 0.0) * (prompt <= 8192) + TRANSFER_S
    assert found.tpot_s.value >= TIMES.value.decode_s(1, prompt)
    assert found.e2e_s.value == pytest.approx(found.ttft_s.value + (output - 1) * found.tpot_s.value)
    assert found.decode_batch == pytest.approx(rate / decodes * (output - 1) * found.tpot_s.value)  # Little's law
    for name in ("ttft_s", "tpot_s", "e2e_s", "requests_per_s", "tokens_per_s"):
        interval = getattr(found, name)
        assert 0 < interval.low <= interval.value <= interval.high, name


@given(lengths=st.lists(prompts, min_size=2, max_size=4, unique=True), rate=st.floats(0.1, 1.2))
@quick
def test_longer_prompts_never_shorten_ttft_at_a_rate(lengths: list[int], rate: float) -> None:
    goal = Goal(prefill_workers=1, decode_workers=4, request_rate=rate)
    ttfts = [matched(goal, input_len=n).ttft_s.value for n in sorted(lengths)]
    assert all(later >= earlier * (1 - 1e-9) for earlier, later in itertools.pairwise(ttfts))


@given(rates=st.lists(st.floats(0.05, 0.9), min_size=2, max_size=4, unique=True), prompt=prompts)
@quick
def test_a_busier_pool_answers_later(rates: list[float], prompt: int) -> None:
    prefill, _ = pools(input_len=prompt)
    ttfts = [prefill.ttft_s(rate * prefill.requests_per_s()) for rate in sorted(rates)]
    assert all(later >= earlier * (1 - 1e-9) for earlier, later in itertools.pairwise(ttfts))


@pytest.mark.parametrize("load", [0.3, 0.6, 0.9])
def test_one_prompt_a_step_waits_as_pollaczek_and_khinchine_say(load: float) -> None:
    prefill = PrefillWorker(times=TIMES, engine=FREE, input_len=8192)
    step_s = TIMES.value.mixed_s([Chunk(8192, 0)], 0, 0.0)
    assert prefill.requests_per_s() == pytest.approx(1 / step_s)
    wait_s = prefill.ttft_s(load / step_s) - step_s
    assert wait_s == pytest.approx(load / (2 * (1 - load)) * step_s, rel=0.03)


@given(budget=st.integers(6, 60), prompt=prompts, output=outputs)
@quick
def test_no_split_of_a_budget_is_better(budget: int, prompt: int, output: int) -> None:
    found = matched(Goal(n_gpus=budget), input_len=prompt, output_len=output)
    used = found.prefill_workers * 2 + found.decode_workers * 4
    assert used <= budget
    prefill, decode = pools(input_len=prompt, output_len=output)
    each = 0.9 * prefill.requests_per_s(), decode.loads().most
    splits = [(x, y) for x in range(1, budget // 2) for y in range(1, (budget - 2 * x) // 4 + 1)]
    best = max(min(x * each[0], y * each[1]) for x, y in splits)
    assert found.requests_per_s.value == pytest.approx(best)
    fewest = min(2 * x + 4 * y for x, y in splits if min(x * each[0], y * each[1]) >= best * (1 - 1e-7))
    assert used == fewest


@given(rate=st.floats(0.5, 80), prompt=prompts)
@quick
def test_a_rate_alone_takes_the_fewest_workers(rate: float, prompt: int) -> None:
    found = matched(Goal(request_rate=rate), input_len=prompt)
    assert found.requests_per_s.value == pytest.approx(rate)
    sustained = found.prefill_requests_per_s, found.decode_requests_per_s
    workers = found.prefill_workers, found.decode_workers
    for pool, count in zip(sustained, workers, strict=True):
        assert pool >= rate * (1 - 1e-9)
        assert pool * (count - 1) / count < rate
    assert found.requests_per_s.high <= rate


@given(ttft=st.floats(0.2, 3.0), tpot=st.floats(0.0105, 0.02))
@quick
def test_limits_are_kept_and_cost_throughput(ttft: float, tpot: float) -> None:
    free = matched(Goal(n_gpus=40))
    tight = matched(Goal(n_gpus=40, max_ttft_s=ttft, max_tpot_s=tpot))
    assert tight.ttft_s.value <= ttft
    assert tight.tpot_s.value <= tpot
    assert tight.requests_per_s.value <= free.requests_per_s.value * (1 + 1e-9)


@given(budget=st.integers(6, 40), clients=st.integers(1, 400), prompt=prompts)
@quick
def test_no_split_answers_clients_much_faster(budget: int, clients: int, prompt: int) -> None:
    """The split is found as if first tokens took no time, which costs little where answers are long."""
    found = matched(Goal(n_gpus=budget, concurrency=clients), input_len=prompt, output_len=600)
    assert found.prefill_workers * 2 + found.decode_workers * 4 <= budget
    splits = [(x, (budget - 2 * x) // 4) for x in range(1, (budget - 4) // 2 + 1)]
    rates = [
        matched(Goal(prefill_workers=x, decode_workers=y, concurrency=clients), input_len=prompt, output_len=600)
        for x, y in splits
    ]
    assert found.requests_per_s.value >= 0.9 * max(other.requests_per_s.value for other in rates)


@given(alone=st.floats(0.2, 0.9), prompt=prompts)
@quick
def test_a_group_alone_is_faster_and_a_full_worker_the_same(alone: float, prompt: int) -> None:
    full = replace(pools(input_len=prompt)[0], groups=4)
    shared = replace(full, alone=alone)
    most = full.requests_per_s()
    assert shared.requests_per_s() == most
    few, many = ([worker.ttft_s(share * most) for worker in (full, shared)] for share in (1e-6, 0.9))
    assert few[1] == pytest.approx(alone * few[0], rel=0.01)
    assert few[1] <= many[1] <= many[0]


def test_clients_that_begin_together_wait_for_each_others_prompts() -> None:
    """Half of the first prompts of all, in one request of ten."""
    prefill, _ = pools(output_len=600)
    few, many = (matched(Goal(prefill_workers=2, decode_workers=8, concurrency=c), output_len=600) for c in (1, 65))
    wave_s = 64 / 2 / (2 * prefill.requests_per_s())
    assert many.ttft_s.value >= few.ttft_s.value + 0.1 * wave_s


def test_slow_links_limit_and_say_so() -> None:
    prefill, decode = pools()
    found = match(replace(prefill, link_s=2.0), decode, 2.0, goal_of(4, 4))
    assert found.limiter == "transfer"
    assert found.requests_per_s.value == pytest.approx(0.9 * 4 / 2.0)
    assert found.ttft_s.value >= 2.0


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({}, "the size of the pools is not given; give prefill_workers and decode_workers, n_gpus, or request_rate."),
        (
            {"n_gpus": 1},
            "n_gpus is 1; 1 prefill and 1 decode workers of 2 and 4 GPUs need 6. Raise n_gpus, or predict one pool: "
            "`predictor predict`.",
        ),
        ({"n_gpus": -1}, "n_gpus is -1; it must be at least 1."),
        ({"n_gpus": 8, "max_ttft_s": -1.0}, "max_ttft_s is -1; it must be at least 0."),
        ({"n_gpus": 8, "max_prefill_load": 1.0}, "max_prefill_load is 1; it must lie between 0 and 1."),
        (
            {"n_gpus": 8, "prefill_workers": 3, "decode_workers": 2},
            "n_gpus is 8; 3 prefill and 2 decode workers are 14 GPUs. Raise n_gpus or drop it.",
        ),
        (
            {"n_gpus": 8, "max_tpot_s": 0.001},
            "max_tpot_s is 0.001; a decode step takes 0.0101 s at least. Raise max_tpot_s or the tp of decode workers.",
        ),
        (
            {"n_gpus": 8, "max_ttft_s": 0.01},
            "max_ttft_s is 0.01; a prompt takes 0.165 s even where none waits. Raise max_ttft_s or the tp of prefill "
            "workers.",
        ),
    ],
)
def test_impossible_goals_name_the_value_the_rule_and_the_cure(wrong: dict[str, float], says: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        matched(Goal(**wrong))  # type: ignore[arg-type]
    assert str(caught.value) == says


def test_a_rate_that_is_too_high_names_the_pool_to_enlarge() -> None:
    with pytest.raises(InvalidRequest, match=r"sustain [\d.]+ requests/s\. Add prefill workers, lower request_rate"):
        matched(Goal(prefill_workers=1, decode_workers=9, request_rate=50))


@pytest.fixture(scope="module")
def planned() -> Plan:
    return plan("Qwen3-8B", "H100", input_len=2048, output_len=256, prefill_workers=1, decode_workers=1)


def test_a_plan_is_in_the_order_of_one_pool(planned: Plan) -> None:
    """Two H100 that do both phases each, with as many sequences as the plan decodes: within 2x, at longer TPOT."""
    load = Load(input_len=2048, output_len=256, concurrency=round(planned.decode_batch))
    both = serve(Workload(model=get_model("Qwen3-8B")), get_gpu("H100"), load_bundle(), load)
    assert 0.5 < planned.tokens_per_s.value / 2 / both.tokens_per_s.value < 2
    assert planned.tpot_s.value < both.tpot_s.value


def test_the_cache_of_a_prompt_crosses_the_slower_link(planned: Plan) -> None:
    """2,048 tokens × 36 layers × 2 × 8 heads × 128 × 2 bytes."""
    assert planned.transfer_s == pytest.approx(2048 * 36 * 2 * 8 * 128 * 2 / NODE_LINK_BYTES_PER_S)
    wide = plan("Qwen3-8B", "H100", decode=Layout(tp=2), n_gpus=3, input_len=2048, link_bytes_per_s=1e9)
    assert wide.transfer_s == pytest.approx(planned.transfer_s * NODE_LINK_BYTES_PER_S / 1e9)
    assert wide.ttft_s.value > wide.transfer_s


def test_a_plan_is_one_flat_row(planned: Plan) -> None:
    row = planned.to_dict()
    assert row == json.loads(json.dumps(row, allow_nan=False))
    assert {field.name for field in fields(Matched)} <= set(row)
    assert row["n_gpus"] == 2
    assert row["tokens_per_s_per_gpu"] == row["tokens_per_s"] / 2
    assert row["ttft_s_low"] < row["ttft_s"] < row["ttft_s_high"]


@pytest.mark.parametrize(
    ("asked", "says"),
    [
        ({"model": "ResNet-50"}, "ResNet-50 is no decoder; it has no decode pool."),
        ({"output_len": 1}, "output_len is 1; decode workers compute the tokens after the first. Give at least 2."),
        ({"prefill": Layout(dp=2)}, "dp of prefill is 2; replicas are workers. Set prefill_workers instead."),
        ({"model": "Llama-3.1-70B"}, "a prefill worker of 1 × H100-SXM-80GB has room for 0 tokens of KV cache beside"),
        ({"output": 3}, "there is no setting output; there are prefill_workers,"),
        ({"link_bytes_per_s": -1.0}, "link_bytes_per_s is -1; it must be at least 0: 50e9 is 400 Gb/s."),
    ],
)
def test_impossible_plans_name_the_value_the_rule_and_the_cure(asked: dict[str, object], says: str) -> None:
    settings_: dict[str, object] = {"model": "Qwen3-8B", "gpu": "H100", "n_gpus": 8, **asked}
    with pytest.raises(InvalidRequest) as caught:
        plan(**settings_)  # type: ignore[arg-type]
    assert str(caught.value).startswith(says)


def test_the_command_shows_both_pools(capsys: pytest.CaptureFixture[str]) -> None:
    asked = [
        "disaggregated",
        "Qwen3-8B",
        "--gpu",
        "L40S",
        "--decode-gpu",
        "H100",
        "--n-gpus",
        "8",
        "--max-tpot",
        "0.05",
    ]
    assert main(asked) == 0
    shown = capsys.readouterr().out
    assert "1 × L40S" in shown
    assert "limited by" in shown
    assert main([*asked, "--json"]) == 0
    row = json.loads(capsys.readouterr().out)
    assert row["tpot_s"] <= 0.05
    assert row["decode_gpu"] == "H100-SXM-80GB"
    assert main(["disaggregated", "Qwen3-8B", "--gpu", "H100", "--n-gpus", "1"]) == 2
    assert capsys.readouterr().err.startswith("error: n_gpus is 1;")


def test_workers_joined_through_the_host_are_slower():
    asked = {"prefill": Layout(tp=4), "decode": Layout(tp=4), "prefill_workers": 1, "decode_workers": 1}
    peer, host = (plan("Llama-3.1-8B", "L40S", link=link, **asked) for link in ("pcie", "host"))
    assert host.ttft_s.value > peer.ttft_s.value
    with pytest.raises(InvalidRequest, match="link"):
        plan("Llama-3.1-8B", "L40S", link="rope", **asked)
    with pytest.raises(InvalidRequest, match="no link of its own"):
        plan("Llama-3.1-8B", "H100", decode_gpu="L40S", link="nvlink", **asked)


@given(clients=st.integers(1, 400))
@settings(max_examples=15, deadline=None)
def test_clients_that_wait_are_all_under_way(clients: int) -> None:
    """Little: clients are the rate times the time of a request."""
    found = matched(Goal(prefill_workers=2, decode_workers=2, concurrency=clients))
    under_way = found.requests_per_s.value * found.e2e_s.value
    assert under_way == pytest.approx(clients, rel=0.1) or found.requests_per_s.value == pytest.approx(
        min(found.prefill_requests_per_s / 0.9, found.decode_requests_per_s), rel=0.15
    )


def test_more_clients_take_longer_and_workers_for_them_are_found() -> None:
    few, many = (matched(Goal(prefill_workers=1, decode_workers=1, concurrency=n)) for n in (4, 64))
    assert few.e2e_s.value <= many.e2e_s.value and few.requests_per_s.value <= many.requests_per_s.value
    found = matched(Goal(concurrency=64))
    assert found.prefill_workers >= 1 and found.decode_workers >= 1
    with pytest.raises(InvalidRequest, match="clients that wait set the rate"):
        Goal(concurrency=4, request_rate=1.0)


def test_a_table_of_pools_is_answered_row_by_row(tmp_path: Path) -> None:
    rows = [
        {"id": 1, "model": "Llama-3.1-8B", "gpu": "H100-SXM-80GB", "concurrency": 32, "decode_workers": 1},
        {"id": 2, "model": "Llama-3.1-8B", "gpu": "H100-SXM-80GB", "n_gpus": 4, "prefill_tp": 2, "output_len": 256},
        {"id": 3, "model": "Llama-3.1-8B", "gpu": "H1000", "n_gpus": 4},
        {"id": 4, "model": "Llama-3.1-8B", "gpu": "H100-SXM-80GB", "n_gpus": "four"},
        {"id": 5, "model": "Llama-3.1-8B", "gpu": "H100-SXM-80GB"},
    ]
    asked, answered = tmp_path / "pools.csv", tmp_path / "answers.csv"
    pd.DataFrame(rows).to_csv(asked, index=False)
    assert main(["batch", str(asked), "--pools", "--out", str(answered), "--quiet", "--jobs", "1"]) == 1
    told = pd.read_csv(answered)
    assert told["id"].tolist() == [1, 2, 3, 4, 5] and told["error"].notna().tolist() == [False, False, True, True, True]
    alone = plan("Llama-3.1-8B", "H100-SXM-80GB", concurrency=32, decode_workers=1)
    assert told["ttft_s"][0] == pytest.approx(alone.ttft_s.value) and told["prefill_workers"][0] >= 1
    assert int(told["n_gpus"][1]) == 4 and told["tokens_per_s"][1] > 0
    assert "H1000" in told["error"][2] and "n_gpus" in told["error"][3] and "size of the pools" in told["error"][4]
