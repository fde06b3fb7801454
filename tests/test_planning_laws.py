"""Plans and comparisons: what cannot be asked is said at once, and easier promises never cost more."""

import math
import re

import pytest

from predictor.boosters import load_xgboost
from predictor.cli import main
from predictor.errors import InvalidRequest, InvalidSpec, PredictorError
from predictor.estimators.bundle import load_bundle
from predictor.hardware.prices import price_list
from predictor.planning import compare, plan
from predictor.planning.answers import predicted_by
from predictor.planning.candidates import Choices, candidates, most_of
from predictor.planning.columns import listed_tps
from predictor.planning.fleet import fleet
from predictor.planning.search import Expected, deployed, deployments, expected, met, too_few, worth
from predictor.planning.service import ServiceLevel
from predictor.workloads.models import get_model
from predictor.workloads.request import Request

LENGTHS = {"input_len": 500, "output_len": 100}
LOAD = {"request_rate": 1.0, **LENGTHS}
WRONG = [
    ({"request_rate": math.nan, **LENGTHS}, "there is no load"),
    ({"usd_per_hour": 0.0, **LOAD}, "the budget is 0 USD/h; it must be above 0"),
    ({"usd_per_hour": math.nan, **LOAD}, "the budget is nan USD/h"),
    ({"dtypes": ("nonsense",), **LOAD}, 'dtype is "nonsense"; it must be one of fp32'),
    ({"engines": ("nonsense",), **LOAD}, 'engine is "nonsense"; serving knows vllm'),
    ({"engines": ("torch",), **LOAD}, 'engine is "torch"; continuous scheduling needs vllm'),
    ({"tps": (0,), **LOAD}, "tp is 0; it must be at least 1"),
    ({"tps": (10**20,), **LOAD}, "tp is 100000000000000000000; it must be a whole number"),
    ({"dtype": "fp8", **LOAD}, 'dtype is "fp8"; a plan decides it. Name those to try in dtypes.'),
    ({"engine": "sglang", **LOAD}, 'engine is "sglang"; a plan decides it'),
    ({"n_gpus": 8, **LOAD}, "n_gpus is 8; a plan decides it. Limit them by max_gpus"),
    ({"concurrency": 10_000_000, **LENGTHS}, "it must have at most 10000000"),
    ({"shown": 0, **LOAD}, "shown is 0; it must be at least 1"),
]


def cheapest(gpus, model="Qwen3-8B", **asked):
    """USD for an hour of the best plan that holds; infinite where none does."""
    hours = [one.usd_per_hour for one in plan(model, gpus, vary=False, **asked).plans if one.holds]
    return min((hour for hour in hours if hour is not None), default=math.inf)


@pytest.mark.parametrize(("asked", "told"), WRONG)
def test_what_no_gpu_can_be_asked_fails_once(asked, told):
    with pytest.raises(PredictorError, match=told):
        plan("Qwen3-8B", "all", **asked)


@pytest.mark.parametrize("model", ["bert-base-uncased", "resnet50", "vit-base-patch16-224"])
def test_a_plan_is_of_decoders(model):
    with pytest.raises(InvalidRequest, match="makes no tokens"):
        plan(model, "L4", request_rate=1.0)


def test_lengths_without_arrivals_are_no_load(tmp_path):
    path = tmp_path / "lengths.csv"
    path.write_text("input_len,output_len\n100,10\n200,20\n")
    with pytest.raises(InvalidRequest, match="the trace says no arrivals; give concurrency or request_rate"):
        plan("Qwen3-8B", "all", trace=str(path))


def test_too_many_gpus_are_refused():
    with pytest.raises(InvalidRequest, match=r"asks for 99999999999 GPUs; it must be from 1 to 2\*\*31"):
        fleet("99999999999xL4")


def test_the_least_limit_of_gpus_counts():
    assert most_of(8, 2) == most_of(2, 8) == most_of(0, 2) == most_of(2, 0) == 2
    assert most_of(0, 0) == 0
    few = plan("Qwen3-8B", "8xL4", max_gpus=2, request_rate=20.0, tpot_s=0.05, vary=False, **LENGTHS)
    assert few.plans and all(one.deployment.n_gpus <= 2 for one in few.plans)


def test_what_has_no_price_keeps_no_budget(tmp_path):
    path = tmp_path / "none.toml"
    path.write_text("replace = true\n")
    planned = plan("Qwen3-8B", "L40S", usd_per_hour=5.0, prices=path, vary=False, **LOAD)
    assert not planned.holds and "no price of this GPU is listed" in planned.plans[0].why
    assert plan("Qwen3-8B", "L40S", prices=path, vary=False, **LOAD).holds


def test_the_command_of_a_plan_has_all_digits():
    request = Request.of({"model": "Qwen3-8B", "gpu": "L4", "request_rate": 3.123456789, **LENGTHS})
    assert "--request-rate 3.123456789" in predicted_by(request)


def test_replicas_that_are_passed_over_do_not_keep_up():
    bundle, level, sure = load_bundle(), ServiceLevel(tpot_s=0.1), 0.8
    columns = {"model": "Qwen3-8B", "request_rate": 20.0, **LENGTHS}
    for one in candidates(Choices(get_model("Qwen3-8B"), columns, fleet("L40S, L4, H100"), price_list()), bundle)[0]:
        passed_over = too_few(deployed(one, 32, level, bundle), sure, bundle.level)
        assert 0 <= passed_over < 32
        if passed_over:
            assert deployed(one, passed_over, level, bundle).p_slo < sure


def test_what_is_nearest_is_kept_where_it_is_promised():
    bundle, impossible = load_bundle(), ServiceLevel(0.001, 0.001)
    choices = Choices(get_model("Qwen3-8B"), {"model": "Qwen3-8B", **LOAD}, fleet("L40S, L4"), price_list())
    some = deployments(candidates(choices, bundle)[0], impossible, 0.8, bundle)
    assert len(some) > 3
    for one in some:
        kept = met(one, impossible, 0.8, bundle.level)
        assert kept is not None and set(kept) == {"ttft_p99_s", "tpot_s"}
        again = deployed(one.candidate, one.replicas, ServiceLevel(**kept), bundle)
        assert again.p_slo == pytest.approx(0.8, abs=0.02)


def test_what_no_roofline_keeps_names_the_nearest(capsys):
    asked = ["--gpus", "T4,L40S", "--ttft-p99", "0.001", "--tpot", "0.001", "--request-rate", "1"]
    assert main(["plan", "Qwen3-8B", *asked]) == 1
    told = " ".join(capsys.readouterr().out.split())
    assert re.search(r"the nearest that is met with 80 %: TTFT p99 [\d.]+ m?s, TPOT [\d.]+ ms, by", told)
    assert "at the roofline; 1 ms are promised" in told
    assert main(["plan", "Qwen3-8B", "--gpus", "L40S", "--budget", "0.01", "--request-rate", "1"]) == 1
    assert re.search(r"Nothing holds; the cheapest that does costs [\d.]+ USD/h", capsys.readouterr().out)


def test_a_gpu_whose_cheapest_replica_is_too_slow_is_tried_in_larger_ones():
    planned = plan("Qwen3-32B", "H100", ttft_p99_s=0.5, request_rate=1.0, input_len=8000, output_len=100, vary=False)
    assert planned.holds and planned.plans[0].deployment.candidate.n_gpus > 1


def test_what_only_a_budget_forbids_comes_first_by_cost():
    planned = plan("Qwen3-8B", "L4", usd_per_hour=0.3, tpot_s=0.05, vary=False, **LOAD | {"request_rate": 10.0})
    sure = [one for one in planned.plans if one.deployment.p_slo >= 0.8]
    assert not planned.holds and planned.plans[: len(sure)] == tuple(sure)
    hours = [one.usd_per_hour for one in sure]
    assert hours == sorted(hours)


def test_pools_answer_no_load_that_they_do_not_know():
    for column in ({"turns": 3}, {"shared_prefix_len": 500}, {"draft_tokens": 3, "acceptance": 0.7}):
        assert not plan("Qwen3-8B", "L40S", tpot_s=0.05, **LOAD, **column).pools, column


def test_easier_promises_never_cost_more():
    asked = {"ttft_p99_s": 1.0, "tpot_s": 0.04, "request_rate": 8.0, **LENGTHS}
    gpus = "L4, L40S, A100, H100"
    cost = cheapest(gpus, **asked)
    assert cost < math.inf
    for easier in ({"tpot_s": 0.08}, {"ttft_p99_s": 5.0}, {"p_slo": 0.6}, {"request_rate": 4.0}):
        assert cheapest(gpus, **{**asked, **easier}) <= cost, easier
    assert cheapest(gpus + ", H200, RTX-4090, B200", **asked) <= cost


def test_a_cheaper_price_makes_no_plan_dearer(tmp_path):
    asked = {"tpot_s": 0.04, "request_rate": 8.0, **LENGTHS}
    path = tmp_path / "cheap.toml"
    path.write_text('[[price]]\nprovider = "me"\ngpu = "H100"\nn_gpus = 1\nusd_per_hour = 0.01\n')
    assert cheapest("L4, H100", prices=path, **asked) == pytest.approx(0.01)


EXHAUSTED = [
    (
        "Llama-3.1-70B",
        "H100,H200,B200,A100,MI300X,MI325X,GH200,L40S,B300",
        {"concurrency": 100, "input_len": 1000, "output_len": 500},
        ServiceLevel(2.0, 0.05),
    ),
    (
        "Qwen3-32B",
        "H100,H100-NVL-94GB,H200,B200,MI300X,MI325X,GH200,B300,A100,L40S,L4,RTX-5090",
        {"request_rate": 10.0, "input_len": 2000, "output_len": 400},
        ServiceLevel(1.0, 0.04),
    ),
]


@pytest.mark.parametrize(("model", "gpus", "load", "level"), EXHAUSTED)
def test_those_that_are_shown_are_the_best_of_all_that_could_be_simulated(model, gpus, load, level):
    load_xgboost()
    bundle, shown = load_bundle(), 10
    choices = Choices(get_model(model), {**load, "model": model}, fleet(gpus), price_list(), level=level)
    many = candidates(choices, bundle)[0]
    hours = [
        (offer.usd_per_hour, one.candidate.gpu.name)
        for one in deployments(many, level, 0.8, bundle)
        if getattr(one, "p_slo", 0.0) >= 0.8
        and (offer := choices.offer(one.candidate.gpu, one.n_gpus, one.candidate.n_gpus))
    ]
    best: list[tuple[float, str]] = []
    for hour, gpu in sorted(hours):
        if sum(gpu == other for _, other in best) < 2:
            best.append((hour, gpu))
    planned = plan(model, gpus, vary=False, shown=shown, **load, **level.promised)
    holding = [one.usd_per_hour for one in planned.plans if one.holds]
    assert holding == pytest.approx([hour for hour, _ in best[:shown]])
    assert planned.simulated < len(many)


def test_no_simulation_asks_for_fewer_replicas_than_is_expected():
    load_xgboost()
    bundle, level = load_bundle(), ServiceLevel(2.0, 0.05)
    load = {"request_rate": 6.0, "input_len": 1000, "output_len": 300}
    choices = Choices(get_model("Qwen3-8B"), {**load, "model": "Qwen3-8B"}, fleet("L4,T4,RTX-4090,A100"), price_list())
    many = candidates(choices._replace(level=level), bundle)[0]
    found = deployments(many, level, 0.8, bundle)
    told = expected(many, level, 0.8, bundle)
    kept = [(one, other) for one, other in zip(found, told, strict=True) if getattr(one, "p_slo", 0.0) >= 0.8]
    assert len(kept) > 5
    for one, other in kept:
        assert isinstance(other, Expected) and not other.hopeless, one.text
        assert one.replicas >= other.replicas, one.text


def test_what_all_gpus_refuse_is_said_once():
    with pytest.raises(InvalidRequest, match=r"^batch is -1; it must be at least 1.$"):
        compare("Qwen3-8B", "L4, H100", batch=-1)
    with pytest.raises(InvalidRequest, match=r"^L4: .* Tesla-T4: "):
        compare("Qwen3-8B", "L4, T4", dtype="nvfp4")


def test_commands_say_what_is_missing(capsys, monkeypatch, tmp_path):
    monkeypatch.setenv("COLUMNS", "80")
    assert main(["compare", "Llama-3.1-405B", "--gpus", "L4", "--fit-only"]) == 0
    assert capsys.readouterr().out.startswith("No GPU has room")
    assert main(["compare", "Qwen3-8B", "--gpus", "L4", "--usd-per-hour", "2"]) == 0
    assert "as stated" not in capsys.readouterr().out
    assert main(["prices", "L4", "--n-gpus", "0"]) == 2
    assert "n_gpus is 0; it must be at least 1" in capsys.readouterr().err
    assert main(["prices", "L4"]) == 0
    told = capsys.readouterr().out
    assert "$/h each" in told and "date" in told and "source" in told
    asked = ["--max-gpus", "4", "--tp", "8", "--request-rate", "1"]
    assert main(["plan", "Qwen3-8B", "--gpus", "L4,A10,L40S,H200", *asked]) == 1
    assert "L4, A10, L40S and 1 more: a replica takes 8 GPUs; at most 4 are asked for." in capsys.readouterr().out


def test_prices_of_wrong_tables_are_refused(tmp_path):
    path = tmp_path / "wrong.toml"
    path.write_text("ownership = 3\n")
    with pytest.raises(InvalidSpec, match="ownership is no table in"):
        price_list(path)


def test_clients_by_the_hundred_thousand_are_split_among_replicas():
    best = plan("Llama-3.1-8B", "H100", concurrency=100_000, tpot_s=0.05, vary=False, **LENGTHS).plans[0]
    assert best.holds
    assert best.deployment.replicas > 100


def test_a_little_surer_is_not_worth_many_times_the_cost():
    assert worth(0.78, 5) > worth(0.79, 245)
    assert worth(0.78, 2) > worth(0.5, 1)


def test_what_does_not_hold_says_how_surely_each_promise_is_kept():
    planned = plan("Qwen3-8B", "L4", request_rate=5, ttft_p99_s=0.4, tpot_s=0.03, p_slo=0.9, vary=False, **LENGTHS)
    assert not planned.holds
    assert "Of what was asked" in planned.nearest
    assert "TTFT p99 ≤ 400 ms with" in planned.nearest
    assert "all of it with" in planned.nearest


def test_a_superchip_shares_no_layer_unless_that_is_asked_for():
    asked = {"request_rate": 2.0, "ttft_p99_s": 0.5, "vary": False, **LENGTHS}
    assert {one.deployment.candidate.n_gpus for one in plan("Qwen3-14B", "GH200", **asked).plans} == {1}
    assert {one.deployment.candidate.n_gpus for one in plan("Qwen3-14B", "GH200", tps=(2,), **asked).plans} == {2}


def test_gpus_that_are_listed_one_by_one_are_said_to_have_to_share_a_server():
    told = plan("Qwen3-14B", "MI300X", tps=(1, 2), vary=False, **LOAD).plans
    notes = {one.deployment.candidate.n_gpus: " ".join(one.row()["notes"]) for one in told}
    assert "MI300X is listed by at most 1 an instance; ask for servers of 2." in notes[2]
    assert "an instance" not in notes[1]


def test_clients_that_find_no_room_are_said_to_wait():
    asked = {"concurrency": 64, "input_len": 12_000, "output_len": 2000, "max_gpus": 1, "vary": False}
    planned = plan("Qwen3-14B", "L40S", dtypes=("bf16",), **asked)
    assert not planned.holds
    assert re.fullmatch(r"has room for \d+ of 64 clients at once; the others wait\.", planned.plans[0].why)
    assert not planned.plans[0].deployment.text.startswith("1 × (")


def test_what_is_not_simulated_says_what_it_takes_by_prediction_or_at_the_roofline():
    planned = plan(
        "Qwen3-8B", "RTX-4090, L4, T4, H100, H200, B200, A100, L40S", shown=2, tpot_s=0.05, vary=False, **LOAD
    )
    told = [lost.why for lost in planned.lost if lost.why.startswith("not simulated")]
    assert told and all(re.search(r"it takes \d+ GPUs? (by prediction|even at the roofline), ", why) for why in told)


def test_reasons_of_gpus_that_start_come_before_those_of_gpus_that_do_not(capsys):
    asked = ["--gpus", "T600,RTX-4090,L4,H200", "--top", "1", "--tpot", "0.05", "--request-rate", "1"]
    assert main(["plan", "Qwen3-8B", *asked]) == 0
    told = capsys.readouterr().out
    assert told.index("\nL4: ") < told.index("\nT600: ")


def test_without_prices_fewer_gpus_are_on_the_front(tmp_path):
    path = tmp_path / "none.toml"
    path.write_text("replace = true\n")
    plans = plan("Qwen3-8B", "L40S, H100", prices=path, vary=False, **LOAD).plans
    assert plans[0].front and not all(one.front for one in plans)


def test_a_list_of_tp_of_thousands_of_digits_is_refused():
    with pytest.raises(InvalidRequest, match="it must be whole numbers such as 1,2,4"):
        listed_tps("1," + "9" * 5000)
