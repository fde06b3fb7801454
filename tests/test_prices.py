"""Prices: what is shipped is dated, quoted and sane; whole instances; cards that are bought; files of one's own."""

import csv
import json
import sys
from datetime import UTC, date, datetime
from math import ceil
from types import ModuleType, SimpleNamespace

import pytest
from hypothesis import given, strategies as st

from predictor.cli import main
from predictor.errors import InvalidRequest, InvalidSpec, UnknownGpu
from predictor.hardware.gpu import catalogue, get_gpu
from predictor.hardware.price import KINDS, Ownership, Price, checked
from predictor.hardware.price_files import read_prices, write_prices
from predictor.hardware.price_refresh import fetch_prices
from predictor.hardware.prices import OWN_PRICES, price_list, shipped_prices, usd_per_hour

FEWEST_ROWS, FEWEST_PROVIDERS, FEWEST_GPUS = 150, 12, 60
LEAST, MOST = 0.02, 60  # USD of a GPU-hour
SHIPPED = shipped_prices()


@pytest.fixture(autouse=True)
def no_file_of_ones_own(monkeypatch):
    monkeypatch.delenv(OWN_PRICES, raising=False)


def file(tmp_path, text, name="mine.toml"):
    path = tmp_path / name
    path.write_text(text, encoding="utf-8")
    return path


def test_many_prices_of_many_providers_over_many_gpus():
    prices = SHIPPED.prices
    assert len(prices) >= FEWEST_ROWS
    assert len({price.provider for price in prices if price.kind != "purchase"}) >= FEWEST_PROVIDERS
    assert len({price.gpu for price in prices}) >= FEWEST_GPUS


@pytest.mark.parametrize("price", SHIPPED.prices, ids=lambda price: f"{price.provider}-{price.gpu}-{price.kind}")
def test_every_shipped_price_is_of_a_known_gpu_dated_quoted_and_sane(price):
    assert price.gpu in catalogue()
    assert checked(price, "the catalogue") == price
    assert date(2015, 1, 1) <= date.fromisoformat(price.date) <= date.today()
    assert len(price.source) > 10
    assert any(digit in price.quote for digit in "0123456789")
    assert len(price.quote) <= 160
    assert "recalled" not in f"{price.source} {price.quote}"
    assert LEAST <= price.hourly(SHIPPED.ownership) / price.n_gpus <= MOST


@pytest.mark.parametrize("price", SHIPPED.prices, ids=lambda price: f"{price.provider}-{price.gpu}-{price.kind}")
def test_the_quote_states_the_price(price):
    """Of the whole, or of one GPU of it."""
    usd = price.purchase_usd or price.usd_per_hour
    numbers = {
        f"{number:{form}}" for number in (usd, usd / price.n_gpus) for form in (".2f", ".3f", ".4f", ".10g", ",.0f")
    }
    assert any(number in price.quote.replace("_", ",") for number in numbers), (price.quote, numbers)


def test_no_price_is_shipped_twice():
    places = [(p.provider, p.region, p.gpu, p.n_gpus, p.kind, p.instance) for p in SHIPPED.prices]
    assert len(places) == len(set(places))


def test_prices_come_cheapest_first_and_by_who_where_and_how():
    gpu = get_gpu("H100-SXM-80GB")
    hourly = [price.hourly(SHIPPED.ownership) / price.n_gpus for price in SHIPPED.of(gpu)]
    assert hourly == sorted(hourly)
    assert {price.provider for price in SHIPPED.of(gpu, provider="lambda")} == {"Lambda"}
    assert {price.kind for price in SHIPPED.of(gpu, kind="spot")} == {"spot"}
    assert SHIPPED.of(gpu, provider="nobody") == ()


def test_an_unknown_kind_is_named():
    with pytest.raises(InvalidRequest, match='kind of price is "spott"; did you mean'):
        SHIPPED.of(get_gpu("H100"), kind="spott")


@given(n_gpus=st.integers(1, 100), sold=st.sampled_from([1, 2, 4, 8, 72]))
def test_whole_instances_are_paid_for(n_gpus, sold):
    price = Price("someone", "H100-SXM-80GB", sold, usd_per_hour=3.0 * sold)
    listed = SHIPPED.__class__((price,), SHIPPED.ownership)
    offer = listed.cheapest(get_gpu("H100-SXM-80GB"), n_gpus)
    assert offer.instances == ceil(n_gpus / sold)
    assert offer.usd_per_hour == pytest.approx(3.0 * sold * offer.instances)
    assert offer.usd_per_gpu_hour >= 3.0 - 1e-9


@given(n_gpus=st.integers(1, 64))
def test_more_gpus_never_cost_less(n_gpus):
    gpu = get_gpu("A100-SXM-80GB")
    assert SHIPPED.cheapest(gpu, n_gpus + 1).usd_per_hour >= SHIPPED.cheapest(gpu, n_gpus).usd_per_hour - 1e-9


@pytest.mark.parametrize("together", [1, 2, 4, 8])
def test_gpus_that_work_together_share_an_instance(together):
    """Where one of so many is listed; it never costs less than GPUs that may be apart."""
    for name in ("H100-SXM-80GB", "A100-PCIe-80GB", "L40S"):
        offer = SHIPPED.cheapest(name, 8, together=together)
        assert max(offer.price.n_gpus, offer.price.up_to) >= together
        assert offer.usd_per_hour >= SHIPPED.cheapest(name, 8).usd_per_hour


def test_what_is_rented_stands_for_the_price_before_what_has_conditions():
    """Spot and reserved prices have conditions that nobody accepted."""
    assert SHIPPED.cheapest(get_gpu("H100-SXM-80GB")).price.kind == "on-demand"
    assert SHIPPED.cheapest(get_gpu("H100-SXM-80GB"), kind="spot").price.kind == "spot"


def test_a_bought_card_costs_its_wear_and_its_electricity():
    card = Price("a shop", "RTX-4090", kind="purchase", purchase_usd=1752.0)
    wear, electricity = 1752 / (2 * 8760), 0.450 * 0.30
    assert card.hourly(Ownership(years=2, usd_per_kwh=0.30)) == pytest.approx(wear + electricity)
    assert card.hourly(Ownership(years=2, usd_per_kwh=0.30, in_use=0.5)) == pytest.approx(2 * wear + electricity)


def test_a_longer_use_and_a_cheaper_kwh_never_cost_more():
    card = Price("a shop", "RTX-4090", kind="purchase", purchase_usd=1600.0)
    assert card.hourly(Ownership(4, 0.2)) < card.hourly(Ownership(3, 0.2))
    assert card.hourly(Ownership(3, 0.1)) < card.hourly(Ownership(3, 0.2))


@pytest.mark.parametrize("wrong", [{"years": 0.0}, {"usd_per_kwh": -0.1}, {"in_use": 0.0}, {"in_use": 1.5}])
def test_impossible_ownership_is_named(wrong):
    with pytest.raises(InvalidRequest, match=next(iter(wrong))):
        SHIPPED.owned_for(**wrong)


def test_electricity_has_a_source():
    assert "USD/kWh" in SHIPPED.electricity
    assert "http" in SHIPPED.electricity


def test_slices_have_no_price():
    assert usd_per_hour(get_gpu("H100-SXM-80GB:3g.40gb")) is None


def test_a_file_extends_and_replaces(tmp_path):
    mine = file(
        tmp_path,
        """
        [[price]]
        provider = "lambda"
        gpu = "A10"
        usd_per_hour = 0.9
        date = 2026-11-01
        [[price]]
        provider = "ours"
        gpu = "a100-sxm4-80gb"
        n_gpus = 8
        usd_per_hour = 4
        """,
    )
    listed = price_list(mine)
    lambdas = listed.of(get_gpu("A10"), provider="Lambda")
    assert [(price.usd_per_hour, price.date, price.source) for price in lambdas] == [(0.9, "2026-11-01", "mine.toml")]
    assert listed.cheapest(get_gpu("A100-SXM-80GB"), 8).usd_per_gpu_hour == 0.5
    assert len(listed.prices) == len(SHIPPED.prices) + 1


def test_a_price_of_a_region_replaces_the_one_for_all_regions(tmp_path):
    mine = file(tmp_path, "provider,gpu,region,usd_per_hour\nLambda,A10,us-east-1,0.9\n", "mine.csv")
    assert [price.region for price in price_list(mine).of("A10", provider="Lambda")] == ["us-east-1"]


def test_a_file_drops_the_shipped_prices(tmp_path):
    mine = file(tmp_path, 'replace = true\n[[price]]\nprovider = "ours"\ngpu = "L4"\nusd_per_hour = 0.3\n')
    assert [price.provider for price in price_list(mine).prices] == ["ours"]


def test_a_file_sets_the_use_of_what_is_bought(tmp_path):
    mine = file(tmp_path, "[ownership]\nyears = 5\nin_use = 0.5\n[electricity]\nusd_per_kwh = 0.4\n")
    assert price_list(mine).ownership == Ownership(5.0, 0.4, 0.5)
    assert "mine.toml" in price_list(mine).electricity


def test_every_command_reads_the_file_that_the_environment_names(tmp_path, monkeypatch):
    mine = file(tmp_path, "provider,gpu,usd_per_hour\nours,L4,0.01\n", "mine.csv")
    monkeypatch.setenv(OWN_PRICES, str(mine))
    assert usd_per_hour(get_gpu("L4")) == 0.01


def test_what_is_written_is_read_back(tmp_path):
    path = tmp_path / "all.csv"
    write_prices(SHIPPED.prices, path)
    assert read_prices(path).prices == SHIPPED.prices


ROW = 'provider = "ours"\ngpu = "L4"\nusd_per_hour = 1.0\n'


@pytest.mark.parametrize(
    ("text", "error", "words"),
    [
        ("[[price]]\n" + ROW.replace("1.0", "-1.0"), InvalidSpec, "usd_per_hour is -1 in price 1 of mine.toml"),
        ("[[price]]\n" + ROW + "[[price]]\n" + ROW.replace("L4", "L5"), UnknownGpu, "price 2 of mine.toml: no GPU"),
        ("[[price]]\n" + ROW + 'kind = "on demand"\n', InvalidSpec, 'did you mean "on-demand"?'),
        ("[[price]]\n" + ROW + "n_gpus = 0\n", InvalidSpec, "n_gpus is 0 in price 1 of mine.toml"),
        ("[[price]]\n" + ROW + "n_gpus = 8\nup_to = 4\n", InvalidSpec, "up_to is 4 in price 1 of mine.toml"),
        ("[[price]]\n" + ROW + 'date = "last week"\n', InvalidSpec, "write it as 2026-09-20"),
        ("[[price]]\n" + ROW + "usd = 3\n", InvalidSpec, "unknown key usd in price 1 of mine.toml"),
        ("[[price]]\n" + ROW + 'kind = "purchase"\n', InvalidSpec, "give purchase_usd to kind purchase"),
        ("[[price]]\n" + ROW + "purchase_usd = 5.0\n", InvalidSpec, "kind on-demand has none"),
        ('[[price]]\ngpu = "L4"\nusd_per_hour = 1.0\n', InvalidSpec, "price 1 of mine.toml lacks provider"),
        ("[[prices]]\n" + ROW, InvalidSpec, "did you mean price?"),
        ("[ownership]\nyears = 0\n", InvalidRequest, "years is 0"),
        ("[electricity]\nprice = 0.2\n", InvalidSpec, "its keys are usd_per_kwh"),
        ('replace = "yes"\n', InvalidSpec, "replace is 'yes'"),
        ("price = 3\n", InvalidSpec, "write each as"),
    ],
)
def test_bad_rows_are_named(tmp_path, text, error, words):
    with pytest.raises(error) as caught:
        price_list(file(tmp_path, text))
    assert words in str(caught.value)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("provider,gpu,usd_per_hour\nours,L4,cheap\n", 'usd_per_hour is "cheap" in price 1 of mine.csv'),
        ("provider,gpu,n_gpus,usd_per_hour\nours,L4,1.5,1\n", "n_gpus is"),
        ("provider,gpu,usd_per_hour\nours,L4,1,2\n", "more cells than the header"),
    ],
)
def test_bad_rows_of_a_csv_are_named(tmp_path, text, words):
    with pytest.raises(InvalidSpec, match=words):
        price_list(file(tmp_path, text, "mine.csv"))


def test_files_that_cannot_be_read_are_named(tmp_path):
    with pytest.raises(InvalidSpec, match="cannot read"):
        price_list(tmp_path / "absent.toml")
    with pytest.raises(InvalidSpec, match="cannot read"):
        price_list(tmp_path / "absent.csv")
    with pytest.raises(InvalidSpec, match="is no file of prices"):
        price_list(file(tmp_path, "", "mine.txt"))


def test_the_command_shows_date_and_source(capsys):
    assert main(["prices", "H100", "--provider", "lambda"]) == 0
    shown = capsys.readouterr().out
    assert "2026-09-20" in shown
    assert "lambda.ai" in shown


def test_the_command_prints_json(capsys):
    assert main(["prices", "H100", "A10", "--n-gpus", "3", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert {row["gpu"] for row in rows} == {"H100-SXM-80GB", "A10"}
    assert all(row["date"] and row["source"] and row["quote"] and row["kind"] in KINDS for row in rows)
    assert all(row["usd_per_hour_of_all"] == pytest.approx(row["instances"] * row["usd_per_hour"]) for row in rows)


def test_the_command_names_what_it_lacks(capsys):
    assert main(["prices", "Apple-M1-7", "--kind", "spot"]) == 2
    assert "no price is listed for Apple-M1-7 spot" in capsys.readouterr().err
    assert main(["prices", "--provider", "lamda"]) == 2
    assert 'did you mean "Lambda"?' in capsys.readouterr().err
    assert main(["prices", "--refresh"]) == 2
    assert "--refresh and --out go together" in capsys.readouterr().err


def row_of_gpuhunt(**changes):
    row = {"provider": "aws", "instance_name": "p5.48xlarge", "location": "us-east-1", "price": 55.04, "gpu_count": 8}
    return SimpleNamespace(**row | {"gpu_name": "H100", "gpu_memory": 80, "spot": False} | changes)


def test_rows_of_gpuhunt_become_prices(tmp_path):
    rows = [
        row_of_gpuhunt(),
        row_of_gpuhunt(price=60.0, instance_name="dearer"),
        row_of_gpuhunt(spot=True, price=20.0),
        row_of_gpuhunt(provider="vastai", gpu_name="RTX4090", gpu_memory=24, gpu_count=1, price=0.4, location="DE"),
        row_of_gpuhunt(provider="gcp", gpu_name="A100", gpu_memory=40, gpu_count=1, price=3.7),
        row_of_gpuhunt(provider="crusoe", instance_name="a100-80gb-pcie.1x", gpu_name="A100", gpu_count=1, price=1.65),
        row_of_gpuhunt(gpu_name="v5litepod", gpu_memory=16),
        row_of_gpuhunt(gpu_count=0, gpu_name=None, gpu_memory=None),
    ]
    prices, left_out = fetch_prices(rows)
    found = [(price.gpu, price.n_gpus, price.kind, price.usd_per_hour) for price in prices]
    assert found == [
        ("H100-SXM-80GB", 8, "on-demand", 55.04),
        ("H100-SXM-80GB", 8, "spot", 20.0),
        ("RTX-4090", 1, "community", 0.4),
        ("A100-SXM-40GB", 1, "on-demand", 3.7),
        ("A100-PCIe-80GB", 1, "on-demand", 1.65),
    ]
    assert left_out == 1
    assert {price.date for price in prices} == {datetime.now(UTC).date().isoformat()}
    write_prices(prices, tmp_path / "new.csv")
    assert price_list(tmp_path / "new.csv").of("RTX-4090", provider="vast.ai")[0].usd_per_hour == 0.4


def test_a_refresh_writes_a_file_that_commands_read(tmp_path, monkeypatch, capsys):
    gpuhunt = ModuleType("gpuhunt")
    gpuhunt.query, gpuhunt.GPUHuntError = lambda: [row_of_gpuhunt()], type("GPUHuntError", (Exception,), {})
    monkeypatch.setitem(sys.modules, "gpuhunt", gpuhunt)
    out = tmp_path / "new.csv"
    assert main(["prices", "--refresh", "--out", str(out)]) == 0
    assert "1 prices in" in capsys.readouterr().out
    assert main(["prices", "H100", "--prices", str(out), "--provider", "AWS", "--kind", "on-demand", "--json"]) == 0
    assert [row["source"] for row in json.loads(capsys.readouterr().out)][-1] == "gpuhunt"


def test_a_refresh_without_a_network_says_so(tmp_path, monkeypatch, capsys):
    def offline():
        raise OSError("no route to host")

    gpuhunt = ModuleType("gpuhunt")
    gpuhunt.query, gpuhunt.GPUHuntError = offline, type("GPUHuntError", (Exception,), {})
    monkeypatch.setitem(sys.modules, "gpuhunt", gpuhunt)
    assert main(["prices", "--refresh", "--out", str(tmp_path / "new.csv")]) == 2
    assert "no route to host" in capsys.readouterr().err
    assert not (tmp_path / "new.csv").exists()


def test_a_refresh_without_gpuhunt_names_the_extra(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "gpuhunt", None)
    assert main(["prices", "--refresh", "--out", str(tmp_path / "new.csv")]) == 2
    assert "pip install 'gpu-predictor[prices]'" in capsys.readouterr().err


MINE = """replace = true
[[price]]
provider = "ours"
gpu = "L4"
n_gpus = 1
usd_per_hour = 7.25
date = 2026-11-02
"""


def test_predictions_and_jobs_take_prices_of_ones_own(tmp_path, capsys):
    mine = ["--prices", str(file(tmp_path, MINE))]
    assert main(["predict", "Qwen3-0.6B", "--gpu", "L4", "--json", *mine]) == 0
    told = json.loads(capsys.readouterr().out)[0]
    assert "ours" in told["price_source"]
    assert told["usd_per_mtok"] == pytest.approx(7.25 / 3600 / told["tokens_per_s"] * 1e6)
    rows = file(tmp_path, "model,gpu\n" + "Qwen3-0.6B,L4\n" * 4, "rows.csv")
    asked = ["batch", str(rows), "--out", str(tmp_path / "out.csv"), "--jobs", "2", "--rows-per-part", "2", "--quiet"]
    assert main([*asked, *mine]) == 0
    answers = list(csv.DictReader((tmp_path / "out.csv").read_text().splitlines()))
    assert len(answers) == 4
    for answer in answers:
        assert "ours" in answer["price_source"]
        assert float(answer["usd_per_mtok"]) == pytest.approx(told["usd_per_mtok"], rel=1e-4)
    assert usd_per_hour(get_gpu("L4")) < 2


def test_a_sweep_takes_prices_of_ones_own(tmp_path):
    spec = file(tmp_path, '[request]\nmodel = "Qwen3-0.6B"\ngpu = ["L4", "T4"]\n', "spec.toml")
    out = tmp_path / "out.csv"
    assert main(["sweep", str(spec), "--out", str(out), "--quiet", "--prices", str(file(tmp_path, MINE))]) == 0
    sources = {row["gpu"]: row["price_source"] for row in csv.DictReader(out.read_text().splitlines())}
    assert "ours" in sources["L4"] and not sources["T4"]


def test_wrong_prices_end_a_job_before_it_begins(tmp_path, capsys):
    rows = file(tmp_path, "model,gpu\nQwen3-0.6B,L4\n", "rows.csv")
    assert main(["batch", str(rows), "--out", str(tmp_path / "out"), "--prices", str(tmp_path / "none.toml")]) == 2
    assert "none.toml" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
