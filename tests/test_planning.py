"""Comparing GPUs, and planning deployments."""

import json
import math
import shlex
from itertools import pairwise
from types import SimpleNamespace

import pytest
from hypothesis import given, strategies as st

from predictor.cli import main
from predictor.errors import InvalidRequest, UnknownGpu
from predictor.estimators.bundle import load_bundle
from predictor.hardware.gpu import catalogue, get_gpu
from predictor.hardware.prices import price_list
from predictor.latency.report import Interval
from predictor.planning import ServiceLevel, compare, plan
from predictor.planning.candidates import Candidate, Choices, candidates, layout_of
from predictor.planning.deployment import _weakest
from predictor.planning.fleet import fleet
from predictor.planning.pareto import pareto_front
from predictor.planning.published import _all as all_published
from predictor.planning.search import deployed
from predictor.planning.service import SUREST, p_above, p_below, p_less, within
from predictor.prediction import predict
from predictor.workloads.models import get_model

LOAD = {"request_rate": 4.0, "input_len": 500, "output_len": 100}
KEYS = (
    *("gpu", "n_gpus", "replicas", "tp", "pp", "ep", "attention_dp", "dtype", "kv_dtype", "engine"),
    *("ttft_p99_s", "tpot_s", "usd_per_mtok", "usd_per_hour", "p_slo", "p_oom", "basis", "command"),
    *(f"{name}{end}" for name in ("ttft_p99_s", "tpot_s", "usd_per_mtok") for end in ("_low", "_high")),
)


@st.composite
def figures(draw):
    value = draw(st.floats(1e-6, 1e6))
    return Interval(value, value / draw(st.floats(1.0, 100.0)), value * draw(st.floats(1.0, 100.0)))


@given(figures(), st.floats(1e-9, 1e9), st.floats(1.0, 10.0))
def test_a_wider_promise_is_kept_more_surely(figure, limit, more):
    assert 0 < p_below(figure, limit, 0.8) <= p_below(figure, limit * more, 0.8) <= 1
    assert p_above(figure, limit * more, 0.8) <= p_above(figure, limit, 0.8)


@given(figures(), figures())
def test_one_beats_the_other_or_the_other_way_round(one, two):
    assert p_less(one, two, 0.8) == pytest.approx(1 - p_less(two, one, 0.8))


@given(figures(), st.floats(0.5, 0.95))
def test_what_is_met_is_met_as_surely_as_asked(figure, share):
    if figure.high > figure.value * 1.01:
        assert p_below(figure, within(figure, 0.8, share), 0.8) == pytest.approx(share, abs=1e-6)


def test_nothing_is_surer_than_the_evidence():
    assert p_below(Interval(1.0, 0.9, 1.1), 1e9, 0.8) == SUREST
    assert p_below(Interval(1.0, 0.9, 1.1), math.inf, 0.8) == 1.0


def test_a_promise_of_no_time_is_refused():
    with pytest.raises(InvalidRequest, match="tpot_s is 0; it must be above 0"):
        ServiceLevel(tpot_s=0.0).checked()


def test_fleets():
    assert [some.text for some in fleet("L4, 8xH100,2 × RTX-4090")] == ["L4", "8xH100-SXM-80GB", "2xRTX-4090"]
    assert len(fleet("all")) == len(catalogue())
    assert {some.gpu.segment for some in fleet("workstation")} == {"workstation"}
    assert fleet("H100, mem_gib=96")[0].gpu.mem_bytes == 96 * 2**30
    with pytest.raises(UnknownGpu):
        fleet("H100, nonsense")
    with pytest.raises(InvalidRequest, match="asks for 0 GPUs"):
        fleet("0xH100")


@pytest.mark.parametrize("model", ["Qwen3-8B", "gpt-oss-20b", "DeepSeek-V3"])
def test_no_simulation_beats_the_roofline_of_a_candidate(model):
    bundle = load_bundle()
    choices = Choices(get_model(model), {"model": model, **LOAD}, fleet("8xH200, 8xB200"), price_list())
    found, _ = candidates(choices, bundle)
    assert found
    for one in found[:3]:
        served = deployed(one, 1, choices.level, bundle).served
        assert served.tpot_s.value >= one.least.tpot_s
        assert served.ttft_p99_s.value >= one.least.ttft_s
        assert served.sustainable_rate.value <= one.least.requests_per_s * 1.001


def test_more_replicas_keep_a_promise_more_surely():
    bundle, level = load_bundle(), ServiceLevel(0.5, 0.05)
    choices = Choices(
        get_model("Qwen3-8B"), {"model": "Qwen3-8B", **LOAD, "request_rate": 20.0}, fleet("L40S"), price_list()
    )
    one = candidates(choices, bundle)[0][0]
    sure = [deployed(one, replicas, level, bundle).p_slo for replicas in (1, 2, 4, 8)]
    assert all(fewer <= more + 0.02 for fewer, more in pairwise(sure)) and sure[-1] > sure[0]


def test_a_plan_says_what_predict_says():
    best = plan("Qwen3-8B", "L4, L40S, A100", ttft_p99_s=1.0, tpot_s=0.05, **LOAD).plans[0]
    row, request = best.row(), best.request
    said = predict(
        request.model, request.gpu, **request.stated(["engine", "dtype", "tp", "dp", *LOAD, "max_num_batched_tokens"])
    )
    assert best.holds and row["p_slo"] >= 0.8
    assert said.served.ttft_p99_s.value == pytest.approx(row["ttft_p99_s"], rel=1e-12)
    assert said.tpot_s.value == pytest.approx(row["tpot_s"], rel=1e-12)
    assert said.n_gpus == row["n_gpus"]
    assert not [name for name in KEYS if name not in row]


def test_plans_that_hold_come_first_by_cost_and_what_is_lost_says_why():
    planned = plan("Qwen3-8B", "L4, L40S, H100, Tesla-P4, RTX-4090", ttft_p99_s=0.5, tpot_s=0.03, **LOAD)
    holding = [one for one in planned.plans if one.holds]
    assert planned.plans[: len(holding)] == tuple(holding)
    hours = [one.usd_per_hour for one in holding if one.usd_per_hour is not None]
    assert hours == sorted(hours)
    named = {one.deployment.candidate.gpu.name for one in planned.plans} | {lost.gpu for lost in planned.lost}
    assert named == {"L4", "L40S", "H100-SXM-80GB", "Tesla-P4", "RTX-4090"}
    assert all(lost.why for lost in planned.lost)


def test_what_cannot_be_held_names_the_nearest():
    planned = plan("Llama-3.1-70B", "L40S", tpot_s=0.004, concurrency=4, input_len=500, output_len=100, tps=(8,))
    assert not planned.holds
    easier = plan(
        "Llama-3.1-70B", "8xL40S", ttft_p99_s=0.05, concurrency=4, input_len=500, output_len=100, dtypes=("fp8",)
    )
    assert not easier.holds and (easier.nearest or easier.lost)


def test_what_nothing_is_said_to_keep_is_refused():
    assert ServiceLevel(1.0, 0.05).surest(arrivals=True) == pytest.approx(SUREST**3)
    with pytest.raises(InvalidRequest, match=r"p_slo is 0\.95; these promises are kept with 0\.91 at most"):
        plan("Qwen3-8B", "L4", ttft_p99_s=1.0, tpot_s=0.05, p_slo=0.95, **LOAD)
    with pytest.raises(InvalidRequest, match=r"kept with 0\.94 at most"):
        plan("Qwen3-8B", "L4", ttft_p99_s=1.0, tpot_s=0.05, p_slo=0.95, concurrency=8)


def test_what_makes_no_tokens_is_compared_and_not_planned():
    with pytest.raises(InvalidRequest, match=r"xlm-roberta-large makes no tokens.* Ask `predictor compare` by batch\."):
        plan("xlm-roberta-large", "A100", request_rate=37.5, input_len=512)


def test_a_replica_says_how_its_gpus_share_the_model():
    ways = SimpleNamespace(pp=1, ep=8, attention_dp=8, dtype="fp8_block", engine="vllm")
    assert layout_of(8, "H200", ways) == "8 × H200, ep 8, attention dp 8, fp8_block, vllm"


def test_long_times_are_said_in_seconds():
    served = SimpleNamespace(
        saturated=False, ttft_p99_s=Interval(125.0, 50.2, 341.0), tpot_s=Interval(0.038, 0.02, 0.06)
    )
    one = SimpleNamespace(served=served, p_slo=0.4)
    told = _weakest(one, ServiceLevel(120.0))
    assert told == "TTFT p99 is 125 s (50.2 s to 341 s), 120 s are promised: all is kept with 40 %."
    assert _weakest(one, ServiceLevel(tpot_s=0.05)).startswith("TPOT is 38 ms (20 ms to 60 ms), 50 ms are promised")


def test_a_budget_and_a_limit_of_gpus_hold():
    few = plan("Qwen3-8B", "L4", tpot_s=0.05, max_gpus=2, request_rate=30.0, input_len=500, output_len=100)
    assert all(one.deployment.n_gpus <= 2 for one in few.plans) and not few.holds
    poor = plan("Qwen3-8B", "H100", usd_per_hour=0.01, **LOAD)
    assert not poor.holds


def test_front():
    assert pareto_front([(1.0, 2.0, 2.0), (2.0, 1.0, 2.0), (2.0, 2.0, 2.0), (None, 0.1, 0.1)]) == [
        True,
        True,
        False,
        False,
    ]


def test_a_ranking_is_in_order_and_prices_whole_instances():
    ranked = compare("Llama-3.1-8B", "L4, H100, RTX-4090, Tesla-M60", sort="tpot_s")
    assert [one.gpu.name for one in ranked][:2] == ["H100-SXM-80GB", "RTX-4090"]
    assert ranked[0].p_beats_next > 0.9 and ranked[-1].p_beats_next is None
    by_price = compare("Llama-3.1-8B", "L4, H100, RTX-4090")
    costs = [one.row["usd_per_mtok"] for one in by_price]
    assert costs == sorted(costs)
    assert by_price[0].break_even_usd_per_hour == pytest.approx(by_price[0].row["usd_per_hour"])
    eight = compare("Llama-3.1-8B", "8xH100")[0]
    assert eight.row["n_gpus"] == 8 and eight.offer.price.n_gpus * eight.offer.instances >= 8


def test_fit_only_leaves_out_what_has_no_room():
    names = [one.gpu.name for one in compare("Llama-3.1-70B", "L4, B200", fit_only=True)]
    assert names == ["B200-SXM-180GB"]


def test_a_wrong_order_is_refused():
    with pytest.raises(InvalidRequest, match='sort is "speed"; it must be one of usd_per_mtok'):
        compare("Llama-3.1-8B", "L4", sort="speed")


def test_commands(capsys):
    asked = ["--request-rate", "2", "--input-len", "500", "--output-len", "100", "--tpot", "0.05", "--json"]
    assert main(["plan", "Qwen3-8B", "--gpus", "L4,L40S", *asked]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["plans"][0]["holds"] and not [name for name in KEYS if name not in told["plans"][0]]
    assert main(["compare", "Qwen3-8B", "--gpus", "L4,L40S", "--json"]) == 0
    assert len(json.loads(capsys.readouterr().out)) == 2
    assert main(["plan", "Qwen3-8B", "--gpus", "L4"]) == 2
    assert "there is no load" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("model", "named", "unnamed"),
    [
        ("resnet50", ("$/M images", "images/s", "latency", "of a million images"), ("TTFT", "tokens", "Mtok")),
        ("vit-base-patch16-224", ("$/M images", "images/s", "latency"), ("TTFT", "tokens", "Mtok")),
        ("bge-large-en-v1.5", ("$/Mtok", "sequences/s", "latency", "tokens that go in"), ("TTFT", "TPOT", "come out")),
        ("Qwen3-0.6B", ("$/Mtok", "tokens/s", "TTFT", "TPOT", "come out"), ("images", "sequences", "latency")),
    ],
)
def test_what_makes_no_tokens_is_counted_by_what_it_takes(model, named, unnamed, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    assert main(["compare", model, "--gpus", "L4,T4", "--batch", "8", "--input-len", "512"]) == 0
    told = capsys.readouterr().out
    assert all(text in told for text in named) and not any(text in told for text in unnamed)
    assert main(["predict", model, "--gpu", "L4", "--batch", "8", "--input-len", "512", "--explain"]) == 0
    told = capsys.readouterr().out
    assert ("TTFT" in told) == ("TTFT" in named)
    assert main(["compare", model, "--gpus", "L4,T4", "--batch", "8", "--input-len", "512", "--json"]) == 0
    row = json.loads(capsys.readouterr().out)[0]
    if model == "Qwen3-0.6B":
        assert row["inputs"] is None is row["inputs_per_s"]
        return
    assert row["inputs_per_s"] == pytest.approx(8 / row["e2e_s"])
    assert row["inputs_per_s_low"] < row["inputs_per_s"] < row["inputs_per_s_high"]
    assert row["usd_per_million_inputs"] == pytest.approx(row["usd_per_hour"] / 3600 / row["inputs_per_s"] * 1e6)
    assert row["usd_per_million_inputs_low"] < row["usd_per_million_inputs"] < row["usd_per_million_inputs_high"]


def test_every_candidate_of_a_partition_is_one_gpu():
    gpu = get_gpu("H100:3g.40gb")
    found, _ = candidates(
        Choices(get_model("Qwen3-8B"), {"model": "Qwen3-8B", **LOAD}, fleet(gpu.name), price_list()), load_bundle()
    )
    assert all(isinstance(one, Candidate) for one in found)


def test_pools_beside_a_plan_are_those_of_the_command(capsys):
    planned = plan("Qwen3-8B", "L40S", tpot_s=0.04, **LOAD)
    (pools,) = planned.pools
    row = pools.row()
    assert row["p_slo"] > 0.5 and row["ttft_p99_s"] >= row["ttft_s"]
    assert main([*shlex.split(row["predict"])[1:], "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["tpot_s"] == pytest.approx(row["tpot_s"]) and told["n_gpus"] == row["n_gpus"]


def test_prompts_and_answers_pay_for_a_request_together():
    row = plan("Qwen3-8B", "L40S", tpot_s=0.04, **LOAD).plans[0].row()
    prompt, output = 500 * 0.9, 100 * 0.9  # in the mean, lengths lying between 80 and 100 %
    request = row["usd_per_mtok_input"] * prompt / 1e6 + row["usd_per_mtok_output"] * output / 1e6
    assert request * 1e3 == pytest.approx(row["usd_per_1k_requests"], rel=0.02)
    assert 0 < row["usd_per_mtok_input"] < row["usd_per_mtok_output"]


def test_clients_without_a_promise_of_first_tokens_find_room_all_the_same():
    best = plan("Llama-3.1-8B", "L4", tpot_s=0.2, concurrency=64, input_len=2000, output_len=100, vary=False).plans[0]
    assert best.holds and not best.deployment.served.saturated


def test_two_processes_plan_as_one_does():
    asked = {"gpus": "L4, L40S, A100, H100, RTX-4090", "tpot_s": 0.05, **LOAD}
    one, two = plan("Qwen3-8B", **asked), plan("Qwen3-8B", **asked, jobs=2)
    assert [best.row() for best in one.plans] == [best.row() for best in two.plans]
    assert one.lost == two.lost and one.simulated == two.simulated


def test_what_others_published_stands_beside(capsys):
    assert {one.gpu for one in all_published()} <= set(catalogue())
    assert all(get_model(one.model) and "." in one.source and one.date >= "2024" for one in all_published())
    row = plan("Qwen3-235B-A22B", "8xA800-SXM-80GB", concurrency=4, vary=False).plans[0].row()
    assert any("900 tokens/s" in said for said in row["published"])
    assert main(["compare", "Qwen2.5-32B", "--gpus", "2xA100"]) == 0
    assert "Published: 2 × A100-SXM-80GB: 36.2 tokens/s" in " ".join(capsys.readouterr().out.split())
